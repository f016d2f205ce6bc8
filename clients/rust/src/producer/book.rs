//! Counts what became of the events that are not in a producer's memory.
//!
//! Input: what a link says. Output: numbers. The producer's thread. Failures: none.

use std::time::Instant;

/// What is known of events that are not in the memory, and counts.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Events before the first that this memory has had.
    pub(super) base: u64,
    /// Invariant 2.
    pub(super) taken: u64,
    pub(super) persisted: u64,
    pub(super) durable: u64,
    pub(super) refused: u64,
    pub(super) lost: u64,
    pub(super) unconfirmed: u64,
    /// Up to this event it is decided which are unconfirmed.
    pub(super) doubted: u64,
    /// Refused and lost events, and unconfirmed ones, as of the last sync's report.
    pub(super) told: (u64, u64),
    pub(super) lost_full: (u64, u64),
    /// Events of the producer itself that report losses, and are not acknowledged: the number of each, and how many
    /// lost events it reports.
    pub(super) reports: Vec<(u64, u64)>,
    /// No report before this moment.
    pub(super) report_at: Option<Instant>,
    pub(super) high_water_bytes: u64,
    pub(super) doorbells: u64,
    pub(super) waits: u64,
    pub(super) links: u64,
    pub(super) last_error: Option<String>,
}

impl Book {
    /// A daemon took everything up to this event, and can no longer be asked about it.
    pub(super) fn doubt(&mut self, up_to: u64, known: u64) {
        let known = known.max(self.durable).max(self.doubted);
        self.unconfirmed += up_to.saturating_sub(known);
        self.doubted = self.doubted.max(up_to);
    }

    /// Of the last `left` events, which no daemon has, how many are the application's, and how many lost events the
    /// others report.
    pub(super) fn undelivered(&self, number: u64, left: u64) -> (u64, u64) {
        let in_vain = self.reports.iter().filter(|(report, _)| *report > number.saturating_sub(left));
        in_vain.fold((left, 0), |(left, lost), (_, events)| (left.saturating_sub(1), lost + events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_left_behind_counts_as_what_it_reports() {
        let book = Book { reports: vec![(3, 10), (8, 20), (10, 5)], ..Book::default() };
        assert_eq!(book.undelivered(10, 0), (0, 0));
        assert_eq!(book.undelivered(10, 1), (0, 5));
        assert_eq!(book.undelivered(10, 4), (2, 25));
        assert_eq!(book.undelivered(10, 10), (7, 35));
    }
}
