//! Adds up the figures of producers.
//!
//! Input: figures of cells. Output: sums, rows and statements. Thread: any. Nothing here can fail: a sum that is too
//! large stays at the largest number, because programs with rings count their own losses and may count anything.

use super::identity::Identity;
use crate::pipeline::record::Cause;

/// The sum of these figures, or the largest number if it is larger.
pub fn sum(figures: impl IntoIterator<Item = u64>) -> u64 {
    figures.into_iter().fold(0, u64::saturating_add)
}

/// What one thread has counted for one producer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events: for a writer, published; for the reader, persisted.
    pub events: u64,
    /// Payload bytes of these events.
    pub bytes: u64,
    /// Events lost, in the order of [`Cause::ALL`].
    pub lost: [u64; Cause::COUNT],
    /// Payload bytes of these events, as far as known.
    pub lost_bytes: u64,
    /// Events that the reader found in memory and for which no writer's count is left.
    pub adopted_events: u64,
    /// Payload bytes of these events.
    pub adopted_bytes: u64,
    /// Events that a failed sync has taken back, as far as the data reports them.
    pub withdrawn: u64,
}

impl Tally {
    pub(super) const FIGURES: usize = 6 + Cause::COUNT;

    /// A tally of `events` events lost by `cause`.
    #[must_use]
    pub fn lost(cause: Cause, events: u64, bytes: u64) -> Self {
        let mut tally = Self { lost_bytes: bytes, ..Self::default() };
        tally.lost[cause as usize] = events;
        tally
    }

    /// Lost events of all causes.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        sum(self.lost)
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let (a, b) = (self.to_words(), other.to_words());
        Self::from_words(std::array::from_fn(|at| a[at].saturating_add(b[at])))
    }

    #[inline]
    pub(super) fn to_words(self) -> [u64; Self::FIGURES] {
        let [full, too_big, malformed, disk, abandoned, limited] = self.lost;
        [
            self.events,
            self.bytes,
            full,
            too_big,
            malformed,
            disk,
            abandoned,
            limited,
            self.lost_bytes,
            self.adopted_events,
            self.adopted_bytes,
            self.withdrawn,
        ]
    }

    pub(super) fn from_words(words: [u64; Self::FIGURES]) -> Self {
        let [
            events,
            bytes,
            full,
            too_big,
            malformed,
            disk,
            abandoned,
            limited,
            lost_bytes,
            adopted_events,
            adopted_bytes,
            withdrawn,
        ] = words;
        let lost = [full, too_big, malformed, disk, abandoned, limited];
        Self { events, bytes, lost, lost_bytes, adopted_events, adopted_bytes, withdrawn }
    }
}

/// What retention has deleted since the account began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    /// Segments.
    pub segments: u64,
    /// Their size in bytes.
    pub file_bytes: u64,
    /// Events in them.
    pub events: u64,
    /// Payload bytes of these events.
    pub bytes: u64,
    /// Those of the events whose producers are not known, because their segment does not name them.
    pub unknown_events: u64,
    /// Those of the events that are older than the account. No row of the account has them.
    pub older_events: u64,
}

impl Deletions {
    pub(super) const FIGURES: usize = 6;

    pub(super) fn to_words(self) -> [u64; Self::FIGURES] {
        [self.segments, self.file_bytes, self.events, self.bytes, self.unknown_events, self.older_events]
    }

    pub(super) fn from_words(words: [u64; Self::FIGURES]) -> Self {
        let [segments, file_bytes, events, bytes, unknown_events, older_events] = words;
        Self { segments, file_bytes, events, bytes, unknown_events, older_events }
    }
}

/// The account of one producer at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The producer; None for all that are not told apart.
    pub identity: Option<Identity>,
    /// Events that it sent.
    pub sent: u64,
    /// Payload bytes of these events.
    pub sent_bytes: u64,
    /// Events that are in files, or were.
    pub stored: u64,
    /// Payload bytes of these events.
    pub stored_bytes: u64,
    /// Stored events that retention has deleted.
    pub deleted: u64,
    /// Payload bytes of these events.
    pub deleted_bytes: u64,
    /// Events lost, in the order of [`Cause::ALL`].
    pub lost: [u64; Cause::COUNT],
}

impl Row {
    /// Lost events of all causes.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        sum(self.lost)
    }

    /// Whether nothing was counted in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self { identity: self.identity.clone(), ..Self::default() }
    }

    /// Events that are still in memory.
    #[must_use]
    pub fn in_memory(&self) -> u64 {
        self.sent.saturating_sub(sum([self.stored, self.lost_total()]))
    }

    pub(super) fn add(&mut self, other: &Self) {
        let add = |to: &mut u64, part: u64| *to = to.saturating_add(part);
        add(&mut self.sent, other.sent);
        add(&mut self.sent_bytes, other.sent_bytes);
        add(&mut self.stored, other.stored);
        add(&mut self.stored_bytes, other.stored_bytes);
        add(&mut self.deleted, other.deleted);
        add(&mut self.deleted_bytes, other.deleted_bytes);
        self.lost.iter_mut().zip(other.lost).for_each(|(to, part)| add(to, part));
    }

    /// Subtracts `part`, whose figures are included in this row.
    pub(super) fn subtract(&mut self, part: &Self) {
        let take = |from: &mut u64, part: u64| *from = from.saturating_sub(part);
        take(&mut self.sent, part.sent);
        take(&mut self.sent_bytes, part.sent_bytes);
        take(&mut self.stored, part.stored);
        take(&mut self.stored_bytes, part.stored_bytes);
        take(&mut self.deleted, part.deleted);
        take(&mut self.deleted_bytes, part.deleted_bytes);
        self.lost.iter_mut().zip(part.lost).for_each(|(from, part)| take(from, part));
    }
}

/// Sums over all producers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events received, lost ones included.
    pub received_events: u64,
    /// Payload bytes of these events.
    pub received_bytes: u64,
    /// Events in files.
    pub persisted_events: u64,
    /// Payload bytes of these events.
    pub persisted_bytes: u64,
    /// Bytes written to files, including all heads.
    pub written_bytes: u64,
    /// Lost events by cause, in the order of [`Cause::ALL`].
    pub lost: [u64; Cause::COUNT],
}

impl Totals {
    /// Lost events of all causes.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        sum(self.lost)
    }
}

/// The whole account at one moment.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    /// When it began, in nanoseconds of the wall clock, and the sequence of the first event that it covers.
    pub since: Option<(u64, u64)>,
    /// The stream of segments that it belongs to.
    pub stream_id: u128,
    /// The sequence after the last event that is counted as stored.
    pub next_sequence: u64,
    /// Events that are counted as stored and that a failed sync has taken back.
    pub withdrawn: u64,
    /// What retention has deleted.
    pub deletions: Deletions,
    /// Each producer. Those that are not told apart come last, as one row.
    pub rows: Vec<Row>,
}

impl Row {
    /// Corrects a row for display: what is stored or lost was sent. The count of sent events may be a moment behind,
    /// because a writer counts right after its publish and the reader may have been faster.
    pub(super) fn not_behind(mut self) -> Self {
        self.sent = self.sent.max(sum([self.stored, self.lost_total()]));
        self.sent_bytes = self.sent_bytes.max(self.stored_bytes);
        self
    }
}
