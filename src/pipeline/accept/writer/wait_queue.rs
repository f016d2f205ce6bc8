//! Lists the connections of a writer that wait for their users.
//!
//! Input: indices of connections, each with the time that it waits. Output: those that are due, in order. Thread: the
//! writer. Nothing can fail.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The connections of a writer that wait for their users.
#[derive(Debug, Default)]
pub(super) struct WaitQueue {
    /// Their indices, by time and then in the order in which they came. An index may have got another connection.
    until: BTreeMap<(Instant, u64), u32>,
    count: u64,
}

impl WaitQueue {
    /// Adds one, which waits for this long.
    pub(super) fn add(&mut self, index: u32, wait: Duration) {
        self.count += 1;
        self.until.insert((Instant::now() + wait, self.count), index);
    }

    /// When the next one may be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.until.first_key_value().map(|((until, _), _)| *until)
    }

    /// Takes one that is due now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<u32> {
        let first = self.until.first_entry().filter(|first| first.key().0 <= now)?;
        Some(first.remove())
    }
}
