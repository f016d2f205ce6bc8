//! Delays a sync until as many producers ask for it as will probably come back soon.
//!
//! Input: how many ask, and when a sync begins and ends. Output: until when the next one is put off. Thread: any, under
//! the queue's lock. Nothing can fail.
//!
//! Producers that wait for a sync before they continue come back soon after it. If a sync began at once with the first
//! of them, the others would wait for all of it and for all of the next: the producers would split into two groups, and
//! each would also wait for the other's sync. So the next sync waits until as many ask as did around the last one, but
//! not for long. Producers that do not come back cost the others that delay once, because fewer are expected
//! afterwards. A producer that is alone never waits. The kernel's journal does the same for the same reason (jbd2,
//! `max_batch_time`).

use std::time::{Duration, Instant};

/// How long a sync is put off at most, however long the last one took.
const PUT_OFF_MAX: Duration = Duration::from_millis(1);

/// Number of syncs without a delay after one whose askers came back too late: waiting for them costs more than it
/// saves.
const TOO_SLOW_SYNCS: u32 = 16;

/// The producers that wait for a sync.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    waiting: usize,
    /// How many the current sync covers.
    covered: usize,
    expected: usize,
    until: Option<Instant>,
    /// Syncs until a delay is tried again.
    hurried: u32,
}

impl GroupCommit {
    /// Adds this many askers.
    pub(super) fn ask(&mut self, askers: usize) {
        self.waiting += askers;
    }

    /// Begins a sync, which covers all that have asked.
    pub(super) fn begin(&mut self, now: Instant) {
        let was_late = self.until.is_some_and(|until| now >= until);
        if was_late && self.waiting > 1 && self.waiting * 2 < self.expected {
            self.hurried = TOO_SLOW_SYNCS;
        }
        self.covered += std::mem::take(&mut self.waiting);
    }

    /// Ends the sync.
    pub(super) fn done(&mut self, now: Instant, took: Duration) {
        self.expected = std::mem::take(&mut self.covered) + self.waiting;
        self.until = (self.hurried == 0).then(|| now + (took / 2).min(PUT_OFF_MAX));
        self.hurried = self.hurried.saturating_sub(1);
    }

    /// Until when the next sync is put off.
    pub(super) fn put_off(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| self.waiting < self.expected && now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_micros(400);

    #[test]
    fn a_producer_that_asks_alone_never_waits_for_others() {
        let (mut group_commit, now) = (GroupCommit::default(), Instant::now());
        for _ in 0..3 {
            group_commit.ask(1);
            assert_eq!(group_commit.put_off(now), None);
            group_commit.begin(now);
            group_commit.done(now, TOOK);
        }
    }

    #[test]
    fn two_groups_become_one_and_a_missing_producer_delays_the_others_once() {
        let (mut group_commit, now) = (GroupCommit::default(), Instant::now());
        group_commit.ask(4);
        group_commit.begin(now);
        group_commit.ask(4);
        group_commit.done(now, TOOK);
        assert_eq!(group_commit.put_off(now), Some(now + TOOK / 2), "for the first four, which will be back");
        group_commit.ask(4);
        assert_eq!(group_commit.put_off(now), None, "all are there");
        group_commit.begin(now);
        group_commit.done(now, TOOK);
        group_commit.ask(3);
        assert!(group_commit.put_off(now).is_some());
        assert_eq!(group_commit.put_off(now + TOOK / 2), None, "not for long");
        group_commit.begin(now);
        group_commit.done(now, TOOK);
        group_commit.ask(3);
        assert_eq!(group_commit.put_off(now), None, "five have stayed away");
        group_commit.begin(now);
        group_commit.done(now, TOOK * 100);
        group_commit.ask(1);
        assert_eq!(group_commit.put_off(now), Some(now + PUT_OFF_MAX));
    }

    #[test]
    fn producers_that_are_too_slow_are_not_waited_for_each_time() {
        let (mut group_commit, now) = (GroupCommit::default(), Instant::now());
        group_commit.ask(32);
        group_commit.begin(now);
        group_commit.done(now, TOOK);
        let mut put_off = 0;
        for _ in 0..TOO_SLOW_SYNCS * 2 {
            group_commit.ask(10);
            put_off += u32::from(group_commit.put_off(now).is_some());
            group_commit.begin(now + TOOK);
            group_commit.ask(22);
            group_commit.done(now, TOOK);
            group_commit.waiting = 0;
        }
        assert!((1..=3).contains(&put_off), "{put_off}");
    }
}
