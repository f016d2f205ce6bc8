//! Says which events are not in the file, and why.
//!
//! Input: a cause and what was lost. Output: plain data. Thread: any. Failures: none.

/// Why an event was lost. The numbers are stored; `stats` and loss records show the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// There was no room: in the producer's ring, or on the disk while `storage.when_full` is `"drop"` or the daemon
    /// ends.
    Full = 0,
    /// Larger than `ingest.max_event`.
    TooBig = 1,
    /// Its envelope broke the protocol.
    Malformed = 2,
    /// The disk failed.
    Disk = 3,
    /// Its sender left in the middle of it, or the daemon had to end before it was persisted.
    Abandoned = 4,
    /// Its user sent more than a limit allows.
    Limited = 5,
}

impl Cause {
    /// The number of causes.
    pub const COUNT: usize = 6;
    /// Every cause, in the order of its number.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Full, Self::TooBig, Self::Malformed, Self::Disk, Self::Abandoned, Self::Limited];

    /// The name in `stats` and in the output of dbufctl.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TooBig => "too_big",
            Self::Malformed => "malformed",
            Self::Disk => "disk",
            Self::Abandoned => "abandoned",
            Self::Limited => "limited",
        }
    }
}

/// Events that are not in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The cause.
    pub cause: Cause,
    /// Number of events.
    pub events: u64,
    /// Payload bytes, as far as known.
    pub bytes: u64,
    /// When the first was lost, in nanoseconds of the wall clock.
    pub first_ns: u64,
    /// When the last was lost, in nanoseconds of the wall clock.
    pub last_ns: u64,
}

impl Loss {
    /// Adds another loss of the same cause and sender. Figures that would be too large stay at the largest number.
    pub fn merge(&mut self, other: &Self) {
        self.events = self.events.saturating_add(other.events);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
    }
}
