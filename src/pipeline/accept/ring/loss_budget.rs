//! Bounds what the losses that programs claim can add to the figures of the machine.
//!
//! Input: a user, and the losses that one of its programs has written into its ring. Output: how many of them count
//! now. Thread: any, under one lock that is taken for losses, never for an event. Nothing here can fail.
//!
//! A program counts by itself what found no room, and the daemon cannot check that number. But an event that is given
//! up costs its program some nanoseconds. So each user has a budget that grows with time, faster than its programs can
//! lose events. What is claimed beyond the budget stays in the ring and counts later, so an honest count is exact. A
//! hostile one adds no more than the budget.
//!
//! The budget is one of a user and not of a ring, because a new ring may begin with the losses of an old one: a program
//! that found no daemon for hours brings all of them at once. Most of them count at once, because unused budget is
//! saved. Rejected: to disconnect a program that claims too much. That would need a bound that no honest program can
//! ever reach, also one with many threads that come back after a day. A hostile program could add that much at once.

use std::collections::HashMap;
use std::time::Instant;

use crate::sync::{Mutex, lock};

/// Events that the programs of one user may lose in a nanosecond: 40 threads that do nothing else, with 10 ns for each
/// event.
const EVENTS_PER_NS: u64 = 4;
/// Payload bytes of these events, in a nanosecond: 4 KiB for each.
const BYTES_PER_NS: u64 = EVENTS_PER_NS * 4096;
/// The time whose budget is saved, 4.6 minutes: 2^40 events, which one thread loses in three hours.
const SAVED_NS: u64 = 1 << 38;
/// Users whose budgets are remembered. Beyond this number the user with the most budget is forgotten, whose next loss
/// finds a full one.
const USERS_MAX: usize = 1024;

/// The budgets of all users.
#[derive(Debug, Default)]
pub(super) struct LossBudgets(Mutex<HashMap<u32, Budget>>);

/// What the programs of one user may still claim.
#[derive(Clone, Copy, Debug)]
struct Budget {
    events: u64,
    bytes: u64,
    at: Instant,
}

impl LossBudgets {
    /// Takes losses that a program of this user claims: events, and their bytes. Returns what counts of them now.
    pub(super) fn take(&self, uid: u32, now: Instant, (events, bytes): (u64, u64)) -> (u64, u64) {
        let mut users = lock(&self.0);
        if users.len() >= USERS_MAX && !users.contains_key(&uid) {
            let fullest = users.iter().max_by_key(|(_, budget)| budget.grown(now).events).map(|(uid, _)| *uid);
            users.retain(|uid, _| Some(*uid) != fullest);
        }
        let budget = users.entry(uid).or_insert_with(|| Budget::full(now));
        *budget = budget.grown(now);
        let (events, bytes) = (events.min(budget.events), bytes.min(budget.bytes));
        budget.events -= events;
        budget.bytes -= bytes;
        (events, bytes)
    }
}

impl Budget {
    fn full(at: Instant) -> Self {
        Self { events: EVENTS_PER_NS * SAVED_NS, bytes: BYTES_PER_NS * SAVED_NS, at }
    }

    fn grown(self, now: Instant) -> Self {
        let full = Self::full(now.max(self.at));
        let ns = u64::try_from(full.at.saturating_duration_since(self.at).as_nanos()).unwrap_or(u64::MAX);
        let grow = |budget: u64, per_ns: u64| budget.saturating_add(ns.saturating_mul(per_ns));
        Self {
            events: grow(self.events, EVENTS_PER_NS).min(full.events),
            bytes: grow(self.bytes, BYTES_PER_NS).min(full.bytes),
            at: full.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A hostile program: 2^32 events and 2^44 bytes at each look, 100,000 looks a second.
    const CLAIM: (u64, u64) = (1 << 32, 1 << 44);
    const BETWEEN_LOOKS: Duration = Duration::from_micros(10);

    #[test]
    fn a_hostile_count_adds_no_more_than_the_budget_of_its_user() {
        let budgets = LossBudgets::default();
        let begin = Instant::now();
        let (mut now, mut sum) = (begin, (0_u64, 0_u64));
        for _ in 0..10_000 {
            let taken = budgets.take(1000, now, CLAIM);
            sum = (sum.0 + taken.0, sum.1 + taken.1);
            now += BETWEEN_LOOKS;
        }
        let ns = now.duration_since(begin).as_nanos() as u64 + SAVED_NS;
        assert!(sum.0 <= EVENTS_PER_NS * ns && sum.1 <= BYTES_PER_NS * ns, "{sum:?}");
        assert_eq!(budgets.take(1001, now, CLAIM), CLAIM, "another user");
    }

    #[test]
    fn what_programs_can_really_lose_counts_at_once_and_what_they_lost_in_a_day_counts_soon() {
        let budgets = LossBudgets::default();
        // 40 threads at 10 ns for each event, with payloads of 4 KiB.
        let lost_in = |time: Duration| (4 * time.as_nanos() as u64, 16384 * time.as_nanos() as u64);
        let mut now = Instant::now();
        for step in (0..100).map(Duration::from_millis) {
            now += step;
            assert_eq!(budgets.take(1000, now, lost_in(step)), lost_in(step));
        }
        // One thread, while there was no daemon.
        let day = Duration::from_secs(24 * 3600);
        let mut left = (day.as_nanos() as u64 / 10, day.as_nanos() as u64 * 400);
        let begin = now;
        while left != (0, 0) {
            now += BETWEEN_LOOKS * 1000;
            let taken = budgets.take(1000, now, left);
            left = (left.0 - taken.0, left.1 - taken.1);
        }
        assert!(now - begin < day / 40);
    }

    #[test]
    fn what_is_claimed_beyond_the_budget_counts_later() {
        let budgets = LossBudgets::default();
        let now = Instant::now();
        let all = (u64::MAX, u64::MAX);
        assert_eq!(budgets.take(1000, now, all), (EVENTS_PER_NS * SAVED_NS, BYTES_PER_NS * SAVED_NS));
        assert_eq!(budgets.take(1000, now, all), (0, 0));
        let later = now + Duration::from_nanos(7);
        assert_eq!(budgets.take(1000, later, (20, 0)), (20, 0));
        assert_eq!(budgets.take(1000, later, all), (8, 7 * BYTES_PER_NS));
    }

    #[test]
    fn many_users_do_not_make_it_grow_and_the_one_that_has_used_most_stays_known() {
        let budgets = LossBudgets::default();
        let now = Instant::now();
        budgets.take(0, now, (u64::MAX, 0));
        for uid in 1..3 * USERS_MAX as u32 {
            assert_eq!(budgets.take(uid, now, CLAIM), CLAIM);
        }
        assert_eq!(lock(&budgets.0).len(), USERS_MAX);
        assert_eq!(budgets.take(0, now, CLAIM), (0, CLAIM.1));
    }
}
