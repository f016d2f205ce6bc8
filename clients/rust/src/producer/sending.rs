//! Sends an event: at once where nothing prevents it, else by the slow way (`waiting`).
//!
//! Input: events. Output: records in the memory. The producer's thread. Failures: [`SendError`].

use std::time::{Duration, Instant};

use super::clock::Stamping;
use super::options::{SendError, WhenFull};
use super::state::{LOOK_TICKS, Producer};
use crate::sys;
use crate::wire::{self, Event};
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{Bell, NoRoom};

impl Producer {
    /// Sends an event: its priority, 0 to 7, plus 8 times a syslog facility if there is one; and what happened.
    ///
    /// # Errors
    /// [`SendError`]. With [`SendError::Full`] the event is dropped and counted.
    ///
    /// ```no_run
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// producer.send(6, b"order 17 accepted")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn send(&mut self, pri: u8, payload: &[u8]) -> Result<(), SendError> {
        self.send_event(&Event { pri, payload, ..Event::default() })
    }

    /// Sends an event with everything that it may have: a tag, fields, a time of its own. Its sequence is ignored.
    ///
    /// # Errors
    /// As [`Producer::send`].
    ///
    /// ```no_run
    /// use dbuf_client::wire::{Event, put_field};
    ///
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// let mut fields = Vec::new();
    /// assert!(put_field(&mut fields, b"ORDER", b"17"));
    /// let event = Event { pri: 4, tag: b"billing", fields: &fields, payload: b"card refused", ..Event::default() };
    /// producer.send_event(&event)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn send_event(&mut self, event: &Event<'_>) -> Result<(), SendError> {
        if self.send_fast(event) {
            return Ok(());
        }
        let timeout = self.timeout();
        self.send_slowly(event, timeout, true)
    }

    /// Sends an event if there is room, and never waits. Without room nothing is counted: the caller still has the
    /// event.
    ///
    /// # Errors
    /// As [`Producer::send`].
    ///
    /// ```no_run
    /// use dbuf_client::{SendError, wire::Event};
    ///
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// match producer.try_send(&Event { pri: 7, payload: b"cache hit", ..Event::default() }) {
    ///     Err(SendError::Full) => {} // not worth a wait
    ///     sent => sent?,
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_send(&mut self, event: &Event<'_>) -> Result<(), SendError> {
        if self.send_fast(event) { Ok(()) } else { self.send_slowly(event, Duration::ZERO, false) }
    }

    /// As [`Producer::send_event`], but waits until this deadline for room, whatever the options say.
    ///
    /// # Errors
    /// As [`Producer::send`].
    ///
    /// ```no_run
    /// use dbuf_client::wire::Event;
    /// use std::time::{Duration, Instant};
    ///
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// let event = Event { pri: 2, payload: b"out of paper", ..Event::default() };
    /// producer.send_with_deadline(&event, Instant::now() + Duration::from_secs(1))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn send_with_deadline(&mut self, event: &Event<'_>, deadline: Instant) -> Result<(), SendError> {
        if self.send_fast(event) {
            return Ok(());
        }
        self.send_slowly(event, deadline.saturating_duration_since(Instant::now()), true)
    }

    /// The fast path of nearly all events. False if something prevents it; then nothing has been done.
    #[inline]
    fn send_fast(&mut self, event: &Event<'_>) -> bool {
        if self.fast_for != sys::forks() || !self.is_fine(event, event.payload.len()) {
            return false;
        }
        let Some(stamp) = self.stamp_fast(event.time_ns) else { return false };
        match self.ring.push(event, stamp) {
            Ok(bell) => {
                self.bytes += event.payload.len() as u64;
                if bell == Bell::Ring {
                    self.ring_bell();
                }
                true
            }
            Err(NoRoom) => false,
        }
    }

    /// Whether such an event breaks no rule.
    #[inline]
    pub(super) fn is_fine(&self, event: &Event<'_>, payload_bytes: usize) -> bool {
        payload_bytes.wrapping_sub(1) < self.payload_bytes_max
            && event.tag.len() <= wire::TAG_BYTES_MAX
            && event.pri <= wire::PRI_MAX
            && event.fields.len() <= wire::FIELDS_BYTES_MAX
    }

    /// The stamp of an event whose own time is `time_ns`, 0 for none. None if it is time to look whether the daemon is
    /// there.
    #[inline]
    pub(super) fn stamp_fast(&self, time_ns: u64) -> Option<Stamp> {
        // However events are stamped: a daemon that is killed while it is awake leaves no other sign.
        let ticks = sys::ticks();
        if ticks.wrapping_sub(self.looked_ticks) >= LOOK_TICKS {
            return None;
        }
        Some(match self.stamping {
            _ if time_ns != 0 => Stamp::Nanoseconds(time_ns),
            Stamping::Ticks => Stamp::Ticks(ticks),
            Stamping::Nanoseconds | Stamping::None => self.stamp_slow(),
        })
    }

    /// How long a send without a deadline of its own waits for room.
    pub(super) fn timeout(&self) -> Duration {
        match self.options.when_full {
            WhenFull::Drop => Duration::ZERO,
            WhenFull::Wait(timeout) => timeout,
        }
    }
}
