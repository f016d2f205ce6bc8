//! Notices that the halves are always full, and then says how much of the next one the users may fill.
//!
//! Input: each batch: its bytes, and when its half was swapped and stored. Output: a [`FrontBudget`]. Thread: the
//! reader. Nothing can fail.
//!
//! A buffer is there for bursts. A queue that never ends absorbs no burst any more, and makes every event late: each
//! waits until both halves are written. That is a standing queue (RFC 8289). It is one when for [`BEGINS_AFTER`], and
//! for [`BATCHES`], every batch filled most of its half, took [`LATE`] to store, and was ready soon after the one
//! before was stored. Then the users together may fill as much of a half as is stored in [`WORTH`], and each of them
//! has its share of that, see `shares::front_half`. So the flood of one user waits in its own sockets, and its part of
//! a batch is stored in a quarter of that time. The limit ends when for [`ENDS_AFTER`] no batch shows a queue.
//!
//! Rejected: a limit for each user at all times. It would take three quarters of the buffer from a burst of the one
//! user who sends. Rejected: smaller halves. They absorb less as well, and a flood fills them just the same.

use std::time::{Duration, Instant};

use crate::pipeline::shares::front_half::FrontBudget;
use crate::sync::Arc;

/// For how long there must be a queue before the limit begins, and none before it ends.
const BEGINS_AFTER: Duration = Duration::from_millis(50);
const ENDS_AFTER: Duration = Duration::from_millis(200);
/// The batches that show a queue, at least. The disk may stall once.
const BATCHES: u32 = 3;
/// A batch that is stored sooner makes no event late.
const LATE: Duration = Duration::from_millis(5);
/// The budget is what is stored in this time.
const WORTH: Duration = Duration::from_millis(40);
/// The budget is at least one part in this many of a half: a time that does not depend on the size, like that of a
/// sync, must not make it ever smaller.
const PARTS: u64 = 4;

/// Watches the batches for a standing queue.
#[derive(Debug)]
pub(super) struct StandingQueue {
    half_bytes: u64,
    budget: Arc<FrontBudget>,
    /// The budget in bytes, while there is one.
    bytes: Option<u64>,
    /// Since when the batches say the opposite of that, and how many they are.
    changes_since: Option<(Instant, u32)>,
    swapped: Instant,
    /// How long the reader had nothing to store before that.
    idle: Duration,
    stored: Instant,
}

impl StandingQueue {
    pub(super) fn new(half_bytes: usize, budget: Arc<FrontBudget>, now: Instant) -> Self {
        let half_bytes = half_bytes as u64;
        Self { half_bytes, budget, bytes: None, changes_since: None, swapped: now, idle: Duration::ZERO, stored: now }
    }

    /// Whether there is a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.bytes.is_some()
    }

    /// Notes that a half was swapped, so that the half of this generation is in front.
    pub(super) fn swapped(&mut self, front: u64, now: Instant) {
        self.idle = now.saturating_duration_since(self.stored);
        self.swapped = now;
        if self.is_limited() {
            self.budget.set(front, self.bytes);
        }
    }

    /// Notes that the batch of that swap is stored.
    pub(super) fn stored(&mut self, front: u64, bytes: usize, now: Instant) {
        let (bytes, busy) = (bytes as u64, now.saturating_duration_since(self.swapped));
        self.stored = now;
        let is_at_once = self.idle <= busy / 2;
        let is_queue = match self.bytes {
            None => is_at_once && bytes >= self.half_bytes / 4 * 3 && busy >= LATE,
            // A flood of one user fills a quarter of the budget.
            Some(budget) => is_at_once && bytes >= budget / 8,
        };
        if is_queue && let Some(budget) = self.bytes {
            self.bytes = Some((3 * budget + self.worth(bytes, busy)) / 4);
        }
        // Without a queue, there was none since the batch before.
        let since = if is_queue { self.swapped } else { self.swapped.checked_sub(self.idle).unwrap_or(self.swapped) };
        if is_queue == self.is_limited() {
            self.changes_since = None;
            return;
        }
        let (since, batches) = self.changes_since.map_or((since, 1), |(since, batches)| (since, batches + 1));
        self.changes_since = Some((since, batches));
        let is_long = now.saturating_duration_since(since) >= if is_queue { BEGINS_AFTER } else { ENDS_AFTER };
        if is_long && (batches >= BATCHES || !is_queue) {
            self.changes_since = None;
            self.bytes = is_queue.then(|| self.worth(bytes, busy));
            self.budget.set(front, self.bytes);
        }
    }

    fn worth(&self, bytes: u64, busy: Duration) -> u64 {
        let worth = u128::from(bytes) * WORTH.as_nanos() / busy.as_nanos().max(1);
        u64::try_from(worth).unwrap_or(u64::MAX).clamp(self.half_bytes / PARTS, self.half_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: usize = 16 << 20;
    const MS: Duration = Duration::from_millis(1);

    struct Rig {
        queue: StandingQueue,
        now: Instant,
        generation: u64,
    }

    impl Rig {
        fn new() -> Self {
            let now = Instant::now();
            Self { queue: StandingQueue::new(HALF, Arc::default(), now), now, generation: 0 }
        }

        /// The reader has nothing to store for `idle`, then swaps and stores a batch in `busy`.
        fn batch(&mut self, bytes: usize, idle: Duration, busy: Duration) {
            self.now += idle;
            self.generation += 1;
            self.queue.swapped(self.generation, self.now);
            self.now += busy;
            self.queue.stored(self.generation, bytes, self.now);
        }

        /// The same again and again, for a time. Returns the budget then.
        fn batches(&mut self, time: Duration, bytes: usize, idle: Duration, busy: Duration) -> Option<u64> {
            let until = self.now + time;
            while self.now < until {
                self.batch(bytes, idle, busy);
            }
            self.queue.bytes
        }
    }

    #[test]
    fn halves_that_are_always_full_and_slow_to_store_get_a_budget() {
        let mut rig = Rig::new();
        assert_eq!(rig.batches(120 * MS, HALF, Duration::ZERO, 60 * MS), None, "it may be a burst");
        let budget = rig.batches(60 * MS, HALF, Duration::ZERO, 60 * MS).expect("a budget");
        assert_eq!(budget, HALF as u64 * 40 / 60);
        let quarter = budget as usize / 4;
        let later = rig.batches(1000 * MS, quarter, MS, 10 * MS).expect("the flood goes on, and its share is a queue");
        assert!(later.abs_diff(budget) < budget / 50, "{later} after {budget}");
    }

    #[test]
    fn no_budget_without_a_queue() {
        let second = 1000 * MS;
        for (bytes, idle, busy, why) in [
            (HALF / 4, Duration::ZERO, 20 * MS, "there is room"),
            (HALF, 15 * MS, 20 * MS, "the reader waits for events"),
            (HALF, Duration::ZERO, 4 * MS, "it is stored in no time"),
        ] {
            assert_eq!(Rig::new().batches(second, bytes, idle, busy), None, "{why}");
        }
        let mut rig = Rig::new();
        for _ in 0..20 {
            assert_eq!(rig.batches(100 * MS, HALF, Duration::ZERO, 50 * MS), None, "a burst");
            assert_eq!(rig.batches(20 * MS, 1000, 20 * MS, MS), None, "and its end");
        }
    }

    #[test]
    fn the_budget_ends_with_the_queue_and_is_never_too_small() {
        let mut rig = Rig::new();
        let slow = 400 * MS;
        assert_eq!(rig.batches(2 * slow, HALF, Duration::ZERO, slow), None, "a disk that stalls");
        assert_eq!(rig.batches(slow, HALF, Duration::ZERO, slow), Some(HALF as u64 / 4), "a slow disk");
        assert!(rig.batches(100 * MS, 1000, 2 * MS, MS).is_some(), "it may begin again");
        assert_eq!(rig.batches(150 * MS, 1000, 2 * MS, MS), None);
        assert_eq!(rig.batches(1000 * MS, HALF, Duration::ZERO, 100 * MS), Some(HALF as u64 * 40 / 100));
        assert_eq!(rig.batches(MS, HALF, 200 * MS, 100 * MS), None, "nobody sent anything for a while");
    }
}
