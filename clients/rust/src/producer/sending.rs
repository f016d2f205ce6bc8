//! Sends an event: at once where nothing is in the way, else by the slow way (`waiting`).
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
    /// [`SendError`]. Of [`SendError::Full`] the event is given up and counted.
    #[inline]
    pub fn send(&mut self, pri: u8, payload: &[u8]) -> Result<(), SendError> {
        self.send_event(&Event { pri, payload, ..Event::default() })
    }

    /// Sends an event with all that it may have: a tag, fields, a time of its own. Its sequence is not looked at.
    ///
    /// # Errors
    /// As [`Producer::send`].
    #[inline]
    pub fn send_event(&mut self, event: &Event<'_>) -> Result<(), SendError> {
        if self.send_fast(event) {
            return Ok(());
        }
        let timeout = self.timeout();
        self.send_slowly(event, timeout, true)
    }

    /// Sends an event if there is room, and never waits. Where there is none, nothing is counted: the caller has the
    /// event.
    ///
    /// # Errors
    /// As [`Producer::send`].
    #[inline]
    pub fn try_send(&mut self, event: &Event<'_>) -> Result<(), SendError> {
        if self.send_fast(event) { Ok(()) } else { self.send_slowly(event, Duration::ZERO, false) }
    }

    /// As [`Producer::send_event`], but waits until this deadline for room, whatever the options say.
    ///
    /// # Errors
    /// As [`Producer::send`].
    #[inline]
    pub fn send_with_deadline(&mut self, event: &Event<'_>, deadline: Instant) -> Result<(), SendError> {
        if self.send_fast(event) {
            return Ok(());
        }
        self.send_slowly(event, deadline.saturating_duration_since(Instant::now()), true)
    }

    /// The way of nearly all events. False where something is in the way; then nothing has been done.
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

    /// The stamp of an event with this time of its own, or none; None if it is time for a look at the daemon.
    #[inline]
    pub(super) fn stamp_fast(&self, time_ns: u64) -> Option<Stamp> {
        // However events are stamped: a daemon that is killed while it is awake says nothing of it.
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
