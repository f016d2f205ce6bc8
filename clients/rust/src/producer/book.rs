//! Counts what became of the events that are not in a producer's memory.
//!
//! Input: what a link says. Output: numbers. The producer's thread. Failures: none.

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
    /// Of refused and lost, and of unconfirmed, what the last sync has told.
    pub(super) told: (u64, u64),
    pub(super) lost_full: (u64, u64),
    pub(super) high_water_bytes: u64,
    pub(super) doorbells: u64,
    pub(super) waits: u64,
    pub(super) links: u64,
    pub(super) last_error: Option<String>,
}

impl Book {
    /// A daemon has everything up to this event, and can no longer be asked about it.
    pub(super) fn doubt(&mut self, up_to: u64, known: u64) {
        let known = known.max(self.durable).max(self.doubted);
        self.unconfirmed += up_to.saturating_sub(known);
        self.doubted = self.doubted.max(up_to);
    }
}
