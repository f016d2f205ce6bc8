//! Waits: for room, for a sync, for the end; and sends the events that cannot be sent at once.
//!
//! Input: a goal and a timeout. Output: whether the goal was reached. The producer's thread, which sleeps on the ring's
//! turn, or on the connection, and tends the link whenever it wakes. Failures: the timeout, and the connection.

use std::time::{Duration, Instant};

use super::link::Link;
use super::options::{LinkKind, SendError, SyncError};
use super::state::{ANSWER_WAIT_MAX, ANSWER_WAIT_MIN, Producer};
use crate::wire::{Event, FIELDS_LENGTH_BYTES, Frame};
use crate::{reason, rules, sys};
use dbuf_wire::ring::want;

/// The longest sleep, so that the end of a daemon is seen.
const SLICE: Duration = Duration::from_millis(100);

/// The time `timeout` after `begun`; a year later, where that is beyond what an [`Instant`] can be.
fn after(begun: Instant, timeout: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    begun.checked_add(timeout).unwrap_or_else(|| begun + YEAR)
}

/// Bytes of an event's record after its head.
pub(super) fn record_length(event: &Event<'_>, payload_bytes: usize) -> usize {
    let fields_bytes = if event.fields.is_empty() { 0 } else { FIELDS_LENGTH_BYTES + event.fields.len() };
    event.tag.len() + fields_bytes + payload_bytes
}

impl Producer {
    /// Sends an event that the fast path did not take.
    #[cold]
    #[inline(never)]
    pub(super) fn send_slowly(&mut self, event: &Event<'_>, timeout: Duration, counts: bool) -> Result<(), SendError> {
        self.make_room(event, event.payload.len(), timeout, counts)?;
        let stamp = if event.time_ns == 0 {
            self.stamp_slow()
        } else {
            dbuf_wire::ring::record::Stamp::Nanoseconds(event.time_ns)
        };
        let bell = self.ring.push(event, stamp).map_err(|_| SendError::Full)?;
        self.bytes += event.payload.len() as u64;
        self.after_publish(bell);
        Ok(())
    }

    /// Makes sure that there is room for such an event with a payload of this size. If there is none in time, the event
    /// is dropped, and counted if it `counts`.
    pub(super) fn make_room(
        &mut self,
        event: &Event<'_>,
        payload_bytes: usize,
        timeout: Duration,
        counts: bool,
    ) -> Result<(), SendError> {
        self.renew_after_fork()?;
        let begun = Instant::now();
        let answer_wait = if counts { timeout.clamp(ANSWER_WAIT_MIN, ANSWER_WAIT_MAX) } else { Duration::ZERO };
        if counts && std::mem::take(&mut self.is_new) {
            // A child may leave by _exit(2) right after its first event: that must not be in its memory alone.
            self.tend_for(ANSWER_WAIT_MAX);
            self.shake_hands(ANSWER_WAIT_MAX);
        } else {
            self.tend_for(answer_wait);
        }
        self.check(event, payload_bytes)?;
        if self.must_fail() {
            return Err(SendError::NoDaemon);
        }
        let length = record_length(event, payload_bytes);
        if self.ring.has_room(length) {
            return Ok(());
        }
        if !timeout.is_zero() {
            self.book.waits += 1;
            if self.wait_until(after(begun, timeout), want::ROOM, |this| this.ring.has_room(length)) {
                return Ok(());
            }
            if self.must_fail() {
                return Err(SendError::NoDaemon);
            }
        }
        if counts {
            self.ring.lose(payload_bytes);
            self.book.lost_full.0 += 1;
            self.book.lost_full.1 += payload_bytes as u64;
        }
        Err(SendError::Full)
    }

    /// Says what is wrong with an event, if anything is.
    fn check(&mut self, event: &Event<'_>, payload_bytes: usize) -> Result<(), SendError> {
        if let Some(rule) = rules::broken(event, payload_bytes) {
            return Err(SendError::Invalid(rule));
        }
        self.learn_limits();
        if payload_bytes > self.payload_bytes_max {
            return Err(SendError::TooBig { bytes: payload_bytes, bytes_max: self.payload_bytes_max });
        }
        let (bytes, bytes_max) = (record_length(event, payload_bytes), self.ring.event_bytes_max());
        if bytes > bytes_max { Err(SendError::TooBig { bytes, bytes_max }) } else { Ok(()) }
    }

    /// Waits until every event so far is durable: a loss of power does not take it. An event that is refused or lost
    /// does not delay it, but makes it an error, once. Without a daemon it waits for one.
    ///
    /// # Errors
    /// [`SyncError`].
    ///
    /// ```no_run
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// producer.send(6, b"order 17 accepted")?;
    /// producer.sync(std::time::Duration::from_secs(5))?; // it is on the disk now
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sync(&mut self, timeout: Duration) -> Result<(), SyncError> {
        let deadline = after(Instant::now(), timeout);
        self.renew_after_fork().map_err(|_| SyncError::NoDaemon)?;
        let goal = self.number();
        self.sync_goal = goal;
        if !self.wait_until(deadline, want::DURABLE, |this| this.durable() >= goal) {
            let is_linked = self.link.kind() != LinkKind::None;
            return Err(if is_linked { SyncError::Timeout(timeout) } else { SyncError::NoDaemon });
        }
        let (refused, lost) = self.failures();
        let now = (refused + lost, self.book.unconfirmed);
        let told = std::mem::replace(&mut self.book.told, now);
        match (now.0.saturating_sub(told.0), now.1 - told.1) {
            (0, 0) => Ok(()),
            (lost, unconfirmed) => Err(SyncError::NotStored { lost, unconfirmed }),
        }
    }

    /// Waits until `is_done`, or until the deadline, or until the options make a lost link an error. The link may end
    /// and be made again meanwhile.
    fn wait_until(&mut self, deadline: Instant, wants: u32, is_done: impl Fn(&mut Self) -> bool) -> bool {
        // The link for which the bell was rung.
        let mut rung_for = None;
        let has_come = loop {
            self.tend();
            let turn = matches!(self.link, Link::Ring(_)).then(|| {
                if wants & want::DURABLE != 0 {
                    self.ring.ask_sync();
                }
                self.ring.want(wants)
            });
            if is_done(self) {
                break true;
            }
            let now = Instant::now();
            if now >= deadline || self.must_fail() {
                break false;
            }
            let slice = SLICE.min(deadline - now);
            match (&self.link, turn) {
                (Link::Ring(_), Some(turn)) => {
                    let link = Some(self.book.links);
                    if rung_for != link {
                        rung_for = link;
                        self.ring_bell();
                    }
                    self.ring.sleep(turn, slice);
                }
                (Link::Framed(framed), _) => framed.connection.wait(Some(slice)),
                _ => std::thread::sleep(self.retry_at.saturating_duration_since(now).min(slice)),
            }
        };
        self.ring.want_no_more(wants);
        has_come
    }

    /// Writes what only this side can write, if that is done within `close_wait`, and ends the link. How many events
    /// are left behind; that is said on standard error as well, with those that were lost and that no event reports.
    pub(super) fn say_goodbye(&mut self) -> u64 {
        if self.forks != sys::forks() {
            self.link = Link::None;
            return 0;
        }
        // A daemon that has ended takes nothing out of its ring any more.
        self.hear();
        self.book.report_at = None;
        let left = self.deliver_rest();
        let (left, in_vain) = self.book.undelivered(self.number(), left);
        // A daemon that has the ring counts what found no room there.
        let is_ring = matches!(self.link, Link::Ring(_));
        let lost = in_vain + if is_ring { 0 } else { self.ring.losses_untold().0 };
        if let Link::Framed(framed) = &mut self.link
            && framed.connection.is_written()
        {
            framed.connection.queue(&Frame::Bye);
            // If that fails, no one is left to tell.
            let _ = framed.connection.flush();
        }
        self.link = Link::None;
        // Nothing is done a second time.
        self.book.taken = self.number();
        if !self.options.quiet {
            let why = self.book.last_error.take().unwrap_or_else(|| "dbufd did not take them in time".into());
            reason::complain_of_loss(left + lost, &why);
        }
        left
    }

    /// Writes what waits, for at most `close_wait`. How many events are left.
    fn deliver_rest(&mut self) -> u64 {
        let deadline = after(Instant::now(), self.options.close_wait);
        self.retry_at = self.retry_at.min(Instant::now());
        loop {
            if self.left() > 0 || self.ring.losses_untold().0 > 0 {
                self.tend();
            }
            let (left, now) = (self.left(), Instant::now());
            // Where nothing listens, there is nothing to wait for.
            let Link::Framed(framed) = &self.link else { return left };
            if left == 0 || now >= deadline {
                return left;
            }
            framed.connection.wait(Some(deadline - now));
        }
    }

    /// Events that no daemon has been given.
    fn left(&self) -> u64 {
        match &self.link {
            Link::Ring(_) => 0,
            Link::None => self.number().saturating_sub(self.book.taken),
            Link::Framed(framed) => framed.left(self.number(), self.book.taken),
        }
    }
}
