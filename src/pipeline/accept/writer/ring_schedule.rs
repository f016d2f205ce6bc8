//! Decides how long a writer may rest between two looks into its rings.
//!
//! Input: the bytes that a look brought, and time. Output: [`Rest`]. Thread: the writer. Nothing can fail.
//!
//! A wake-up costs 40 us of a core and a system call of the producer, so both must be rare:
//! - While looks bring many bytes, the writer does not rest, and producers see it awake.
//! - While they bring few, it dozes, [`DOZE`] at a time. A ring that becomes half full meanwhile rings. At a steady
//!   rate no producer ever calls the kernel.
//! - After [`IDLE_MAX`] without bytes it sleeps, and the next event rings. Idle rings cost nothing. That is a time and
//!   not a number of looks: the writer also looks after each read of a socket.

use std::time::{Duration, Instant};

/// How long a writer rests at a time while few bytes come: half of the default `buffer.linger`.
pub(super) const DOZE: Duration = Duration::from_millis(1);
/// How long no ring has anything before the writer sleeps.
const IDLE_MAX: Duration = Duration::from_millis(20);
/// A round that brought this many bytes is followed by another one at once.
const MUCH_BYTES: u64 = 64 << 10;

/// What a writer may do before its next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Sleep until something happens: there are no rings, or their producers know that they must ring.
    UntilEvent,
    /// Look again at once.
    LookAgain,
    /// Doze, after producers are told.
    Doze,
    /// Sleep, after producers are told and nothing has come meanwhile.
    Sleep,
}

/// The rings of one writer.
#[derive(Debug, Default)]
pub(super) struct RingSchedule {
    /// Indices of the connections that have rings.
    indices: Vec<u32>,
    /// Bytes that the last look brought.
    brought_bytes: u64,
    /// The first look in vain since the last bytes, and the time from that look to the latest one.
    idle: Option<(Instant, Duration)>,
    /// Producers know that the writer does not look. Until one rings, it need not.
    pub(super) are_asleep: bool,
}

impl RingSchedule {
    pub(super) fn add(&mut self, index: u32) {
        self.indices.push(index);
        self.idle = None;
        self.are_asleep = false;
    }

    pub(super) fn forget(&mut self, index: u32) {
        self.indices.retain(|known| *known != index);
    }

    pub(super) fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Notes that one look into each ring brought this many bytes.
    pub(super) fn looked(&mut self, brought_bytes: u64) {
        self.brought_bytes = brought_bytes;
        self.idle = (brought_bytes == 0).then(|| {
            let now = Instant::now();
            let since = self.idle.map_or(now, |(since, _)| since);
            (since, now - since)
        });
    }

    /// Notes that the read of a doorbell has brought bytes, which the look after it does not find any more.
    pub(super) fn read_some(&mut self) {
        self.idle = None;
    }

    pub(super) fn rest(&self) -> Rest {
        if self.indices.is_empty() || self.are_asleep {
            Rest::UntilEvent
        } else if self.brought_bytes >= MUCH_BYTES {
            Rest::LookAgain
        } else if self.idle.is_none_or(|(_, time)| time < IDLE_MAX) {
            Rest::Doze
        } else {
            Rest::Sleep
        }
    }
}
