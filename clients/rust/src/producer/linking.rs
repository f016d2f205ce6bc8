//! Makes the link to the daemon, by steps none of which waits, and notices its end.
//!
//! Input: a path, and what the daemon says. Output: a link, or the reason why there is none. The producer's thread.
//! Failures: everything; then the memory stays as it is, and a later call tries again.
//!
//! | link, phase | what has come | then |
//! |---|---|---|
//! | none | it is time to try | connect, HELLO; framed, greeting |
//! | framed, greeting | WELCOME with rings | RING; framed, asking |
//! | framed, greeting | WELCOME without | framed, open |
//! | framed, asking | GRANT | what waits is moved; ring |
//! | framed, asking | ERROR no_ring | framed, open |
//! | any | the end, an ERROR that ends it, nonsense | none |

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::frames::{Framed, Phase};
use super::link::{Link, RETRY_MIN};
use super::options::{LinkKind, WithoutDaemon};
use super::paths;
use super::state::{CLOSED, Producer, new_session};
use crate::connection::{Connection, End, Said};
use crate::wire::{self, Code, Event, Frame, Hello, Level, Welcome, feature};
use crate::{reason, sys};
use dbuf_sync::atomic::Ordering::Relaxed;
use dbuf_wire::ring::Bell;

/// The most time between two attempts to connect.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// The longest that the daemon may take to answer. Under systemd it can be about to start.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The least time between two reports of losses.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The priority of a report of losses.
const WARNING: u8 = 4;
/// The longest that the daemon may need to take the rest of a ring whose connection this side has ended.
const LAST_TAKE_MAX: Duration = Duration::from_millis(250);
/// The least time between two looks at a ring's connection.
const LOOK_MIN: Duration = Duration::from_millis(10);

impl Producer {
    /// Does what the link needs: connects if it is time to, reads what the daemon has said, writes frames. Every send
    /// does this when it needs to. A program that sends rarely calls it in between, so that events which wait for a
    /// daemon, or for room in its socket, leave before the next send.
    ///
    /// It does not wait, with one exception: if the program has closed the descriptor of a ring's connection, it waits
    /// at most 250 ms until the daemon has taken the rest of the ring.
    ///
    /// ```no_run
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// producer.send(6, b"order 17 accepted").ok();
    /// while producer.statistics().waiting_bytes > 0 {
    ///     producer.tend(); // as from an event loop
    ///     std::thread::sleep(std::time::Duration::from_millis(100));
    /// }
    /// # Ok::<(), dbuf_client::OpenError>(())
    /// ```
    pub fn tend(&mut self) {
        self.tend_for(Duration::ZERO);
    }

    /// The same, but waits at most `timeout` for the answer to a connection that is made now.
    pub(super) fn tend_for(&mut self, timeout: Duration) {
        if self.renew_after_fork().is_err() {
            return;
        }
        match &self.link {
            Link::None => {
                let now = Instant::now();
                if now >= self.retry_at {
                    self.connect(now);
                    self.shake_hands(timeout);
                }
            }
            Link::Framed(framed) if framed.phase != Phase::Open => self.shake_hands(Duration::ZERO),
            Link::Framed(_) => self.pump(),
            Link::Ring(_) => self.look(),
        }
    }

    /// Whether the options say that nothing can be done now.
    pub(super) fn must_fail(&self) -> bool {
        self.options.without_daemon == WithoutDaemon::Fail && self.link.kind() == LinkKind::None
    }

    /// Looks whether the daemon is still there, if that is not known from just now.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        self.looked_ticks = sys::ticks();
        if now.saturating_duration_since(self.looked_at) >= LOOK_MIN {
            self.looked_at = now;
            self.hear();
        }
    }

    /// Rings the doorbell of a ring.
    #[cold]
    pub(super) fn ring_bell(&mut self) {
        if let Link::Ring(connection) = &self.link {
            self.book.doorbells += 1;
            connection.ring_doorbell();
            self.look();
        }
    }

    /// Does what a publish asks for.
    pub(super) fn after_publish(&mut self, bell: Bell) {
        if bell == Bell::Ring {
            self.ring_bell();
        }
        if matches!(self.link, Link::Framed(_)) {
            self.pump();
        }
    }

    /// Takes in what has come, and writes what can be written, if the link is frames.
    pub(super) fn pump(&mut self) {
        self.hear();
        self.report_losses();
        let Link::Framed(framed) = &mut self.link else { return };
        if let Err(error) = framed.write(&mut self.ring, &mut self.book, &self.opened, self.sync_goal) {
            self.end_after_hearing(End::Failed(error).to_string());
        }
    }

    /// Where no daemon counts what found no room, an event of the producer itself says how many events were lost, as
    /// soon as there is room for it; at most one a second, so that reports do not take the room of events.
    fn report_losses(&mut self) {
        let (events, bytes) = self.ring.losses_untold();
        let is_open = matches!(&self.link, Link::Framed(framed) if framed.phase == Phase::Open);
        if events == 0 || !is_open || self.book.report_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let (noun, verb, pronoun) = if events == 1 { ("event", "was", "it") } else { ("events", "were", "they") };
        let text = format!("{events} {noun} ({bytes} bytes) {verb} lost before {pronoun} reached dbufd");
        let mut fields = Vec::new();
        wire::put_field(&mut fields, b"LOST_EVENTS", events.to_string().as_bytes());
        wire::put_field(&mut fields, b"LOST_BYTES", bytes.to_string().as_bytes());
        let report = Event { pri: WARNING, fields: &fields, payload: text.as_bytes(), ..Event::default() };
        let stamp = self.stamp_slow();
        // Where there is no room, a later call finds some. No bell: this memory has none.
        if self.ring.push(&report, stamp).is_ok() {
            self.ring.note_reported((events, bytes));
            self.book.reports.push((self.number(), events));
            self.book.report_at = Some(Instant::now() + REPORT_INTERVAL);
        }
    }

    fn connect(&mut self, now: Instant) {
        self.retry_at = now + self.retry;
        self.retry = (self.retry * 2).min(RETRY_MAX);
        let (path, is_trusted) = match &self.options.path {
            Some(path) => (path.clone(), true),
            None => paths::default_path(),
        };
        match self.greet(&path, is_trusted) {
            Ok(connection) => {
                self.path = path;
                self.link = Link::Framed(Box::new(Framed::new(connection, now)));
            }
            Err(error) => {
                self.book.last_error = Some(cannot_connect(&path, &reason::connect(&error)));
                if is_the_daemons_failure(&error) {
                    self.complain_of_connection();
                }
            }
        }
    }

    fn greet(&self, path: &Path, is_trusted: bool) -> io::Result<Connection> {
        let mut connection = Connection::open(path, Duration::ZERO)?;
        // Before anything is sent, and nothing is read before: the folder may have been another one when it was
        // looked at.
        if !is_trusted && !paths::is_own_or_root(connection.peer_uid()?) {
            return Err(io::Error::other("another user's process listens there"));
        }
        let compatible = feature::FIELDS | if self.options.ring { feature::RING } else { 0 };
        let (session, ack) = (self.session, Level::Persisted);
        connection.queue_hello(Hello { session, ack, compatible, ..Hello::new(self.options.name.as_bytes()) });
        // A new connection has room for that.
        if connection.flush()? { Ok(connection) } else { Err(Errno::AGAIN.into()) }
    }

    /// Says once on standard error that there is no link, until there has been one.
    fn complain_of_connection(&mut self) {
        // Relaxed: one line, whichever thread writes it.
        if !self.options.quiet
            && let Some(why) = &self.book.last_error
            && !self.has_complained.swap(true, Relaxed)
        {
            let keeps = self.options.without_daemon == WithoutDaemon::Keep;
            reason::complain_of_connection(why, if keeps { "wait in memory" } else { "are dropped" });
        }
    }

    /// Continues until the link is made, or fails; waits for the daemon at most `timeout`.
    pub(super) fn shake_hands(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        loop {
            self.hear();
            let Link::Framed(framed) = &self.link else { return };
            if framed.phase == Phase::Open {
                return self.pump();
            }
            let now = Instant::now();
            if now >= framed.since + ANSWER_MAX {
                return self.end_link(Some(format!("no answer within {ANSWER_MAX:?}")));
            }
            if now >= deadline {
                return;
            }
            framed.connection.wait(Some(deadline - now));
        }
    }

    /// Takes in what the daemon has said.
    pub(super) fn hear(&mut self) {
        loop {
            let said = match &mut self.link {
                Link::None => return,
                Link::Framed(framed) => framed.connection.hear(),
                Link::Ring(connection) => connection.hear(),
            };
            match said {
                None => return,
                Some(said) => self.take(said),
            }
        }
    }

    pub(super) fn take(&mut self, said: Said) {
        let phase = match &self.link {
            Link::Framed(framed) => Some(framed.phase),
            Link::None | Link::Ring(_) => None,
        };
        match (said, phase) {
            (Said::End(End::Closed), _) => self.end_link(None),
            (Said::End(end @ End::Refused { .. }), _) => self.end_link(Some(end.to_string())),
            (Said::End(end), _) => self.leave_link(end.to_string()),
            (Said::Welcome(welcome), Some(Phase::Greeting)) => self.welcomed(welcome),
            (Said::Grant { capacity }, Some(Phase::Asking)) => self.granted(capacity),
            (Said::Refusal(refusal), Some(Phase::Asking)) if refusal.code == Code::NoRing as u8 => {
                self.book.last_error = Some(refusal.in_words());
                self.open_frames();
            }
            (Said::Ack { level, sequence }, Some(Phase::Asking | Phase::Open)) => {
                if let Link::Framed(framed) = &mut self.link {
                    framed.acknowledged(&mut self.ring, &mut self.book, level, sequence);
                }
            }
            (Said::Refusal(refusal), Some(Phase::Asking | Phase::Open)) => {
                let is_lost = refusal.code == Code::Lost as u8;
                let count = if is_lost { &mut self.book.lost } else { &mut self.book.refused };
                *count = count.saturating_add(refusal.events());
                self.book.last_error = Some(refusal.in_words());
            }
            // On the connection of a ring the daemon says only why it ends; a later version may say more.
            (Said::Refusal(refusal), None) => self.book.last_error = Some(refusal.in_words()),
            _ => self.leave_link("dbufd is not understood: a frame that has no place here".into()),
        }
    }

    fn welcomed(&mut self, welcome: Welcome) {
        let number = self.number();
        self.book.last_error = None;
        if !(wire::VERSION_MIN..=wire::VERSION).contains(&welcome.version) {
            return self.end_link(Some(format!("dbufd speaks version {} of the protocol", welcome.version)));
        }
        if welcome.last > number {
            self.session = new_session();
            return self.end_link(Some("dbufd knows events of this session that were never sent".into()));
        }
        self.book.doubt(self.book.taken, welcome.last);
        let Link::Framed(framed) = &mut self.link else { return };
        framed.begin(&self.ring, &self.book, welcome);
        if !self.options.ring || welcome.compatible & feature::RING == 0 {
            return self.open_frames();
        }
        framed.phase = Phase::Asking;
        framed.connection.queue(&Frame::Ring { capacity: self.options.capacity_bytes });
        if !framed.connection.flush().is_ok_and(|is_written| is_written) {
            // What the daemon says at its end is worth more, if it says anything.
            self.end_after_hearing("dbufd closed the connection".into());
        }
    }

    /// The link is frames.
    fn open_frames(&mut self) {
        let Link::Framed(framed) = &mut self.link else { return };
        framed.phase = Phase::Open;
        self.linked();
    }

    /// Notes that there is a link, of either kind.
    pub(super) fn linked(&mut self) {
        self.book.links += 1;
        // Relaxed: as in `complain_of_connection`.
        self.has_complained.store(true, Relaxed);
        self.retry = RETRY_MIN;
        self.learn_limits();
    }

    /// Learns how large a payload may be.
    pub(super) fn learn_limits(&mut self) {
        let said = match &self.link {
            Link::None => return,
            Link::Framed(framed) => framed.max_event(),
            // Relaxed: a limit hands nothing over.
            Link::Ring(_) => self.ring.memory().words().max_event_bytes.load(Relaxed),
        };
        // 0: no daemon has written it yet.
        if let Ok(said @ 1..) = usize::try_from(said) {
            self.payload_bytes_max = said.min(self.ring.event_bytes_max());
        }
    }

    /// Ends the link after a failure, and reads first what the daemon has said before its end.
    pub(super) fn end_after_hearing(&mut self, why: String) {
        self.hear();
        if !matches!(self.link, Link::None) {
            self.end_link(Some(why));
        }
    }

    /// Ends the link while the daemon may live: the program has closed the descriptor, or this side ends the
    /// connection. The daemon sees that end and takes the rest of the ring, and counts its losses. What it takes must
    /// not be sent again, so this waits for the daemon, at most `LAST_TAKE_MAX`. A daemon that needs longer may get
    /// events twice.
    fn leave_link(&mut self, why: String) {
        let Link::Ring(connection) = &mut self.link else { return self.end_link(Some(why)) };
        connection.close();
        let deadline = Instant::now() + LAST_TAKE_MAX;
        while !self.is_ring_done() && Instant::now() < deadline {
            // Not the ring's futex: the daemon wakes nothing when it ends a ring.
            std::thread::sleep(Duration::from_millis(1));
        }
        let rest = self.take_back_ring();
        self.move_rest(rest);
        self.link = Link::None;
        self.end_link(Some(why));
    }

    /// Whether the daemon has taken every event of the ring, and has counted every loss.
    fn is_ring_done(&self) -> bool {
        let (head, tail) = self.ring.positions();
        head == tail && self.ring.losses_untold().0 == 0
    }

    /// Ends the link. The memory stays as it is.
    pub(super) fn end_link(&mut self, why: Option<String>) {
        if matches!(self.link, Link::Ring(_)) {
            self.take_back_ring();
        }
        self.link = Link::None;
        self.fast_for = CLOSED;
        self.stamp_by_clock();
        if self.book.links == 0 {
            // There was no link yet: what has failed is the attempt to connect.
            let why = why.or_else(|| self.book.last_error.take()).unwrap_or_else(|| End::Closed.to_string());
            self.book.last_error = Some(cannot_connect(&self.path, &why));
            return self.complain_of_connection();
        }
        match why {
            Some(why) => self.book.last_error = Some(why),
            // What the daemon has said before its end is worth more.
            None => {
                self.book.last_error.get_or_insert_with(|| End::Closed.to_string());
            }
        }
    }

    /// What the daemon has reported last counts, and what is behind the tail was not taken. Returns the tail.
    fn take_back_ring(&mut self) -> u64 {
        let (tail, words) = (self.ring.positions().1, self.ring.memory().words());
        let (persisted, durable) = (self.persisted(), self.durable());
        let (refused, lost) = self.failures();
        // Relaxed: its writer is gone.
        let high_water_bytes = words.high_water_bytes.load(Relaxed);
        // What the daemon has left there was not taken. A tail that moved later would not fit this count.
        self.ring.take_to(tail);
        let taken = self.number().saturating_sub(self.ring.events_from(tail));
        let book = &mut self.book;
        (book.refused, book.lost, book.persisted, book.durable) = (refused, lost, persisted, durable);
        book.high_water_bytes = book.high_water_bytes.max(high_water_bytes);
        book.taken = taken;
        book.doubt(taken, 0);
        tail
    }
}

fn cannot_connect(path: &Path, why: &str) -> String {
    format!("cannot connect to {}: {why}", path.display())
}

/// Whether an error of a connect is worth a line on standard error. A daemon whose queue of connections is full is
/// there, and will have room; a socket that the program has closed or replaced says nothing about the daemon.
fn is_the_daemons_failure(error: &io::Error) -> bool {
    !matches!(Errno::from_io_error(error), Some(Errno::AGAIN | Errno::BADF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_and_a_socket_that_the_program_has_closed_are_no_failures_of_the_daemon() {
        for (errno, is_failure) in [(Errno::NOENT, true), (Errno::AGAIN, false), (Errno::BADF, false)] {
            assert_eq!(is_the_daemons_failure(&errno.into()), is_failure, "{errno}");
        }
    }
}
