//! Limits how much of systemd's time the connections and rings of users take.
//!
//! Input: who wants to give systemd a descriptor, and what that costs it. Output: yes or no; figures for display.
//! Thread: any, under the caller's lock. Nothing here can fail.
//!
//! systemd compares each new descriptor with all that it stores for the unit, one kcmp(2) for each. With 7,000 stored,
//! one more takes 7 ms of PID 1, so a few hundred connections a second would keep it busy. There is a token bucket for
//! each user, and one for all of them together, because one person may have many users (subuid(5)). The tokens are
//! microseconds, because a fixed number of notifications is either too low for an empty store or too high for a full
//! one.

use std::collections::HashMap;
use std::time::Instant;

/// What a user who was quiet may take at once: enough for some 550 connections when nothing is stored yet. With that,
/// and with what it may take in the long run, it takes less than 5 % of a core in any half minute.
const BURST_US: u64 = 250_000;
/// Of that, what is left to connections that live for a while, and not to those that just came: a user who connects
/// and leaves in a loop must not keep the store from its own services.
pub(crate) const LEFT_BY_NEWCOMERS_US: u64 = BURST_US / 2;
/// What a user may take in the long run, in each second: 4 % of a core.
const USER_US_A_SECOND: u64 = 40_000;
/// What all users together may take at once.
pub(super) const ALL_BURST_US: u64 = 2 * BURST_US;
/// What all users together may take in the long run, in each second: 16 % of a core.
const ALL_US_A_SECOND: u64 = 4 * USER_US_A_SECOND;
/// Users that are remembered before those who have taken nothing lately are forgotten.
const REMEMBERED_MIN: usize = 64;

/// What was taken lately.
#[derive(Debug, Default)]
pub(super) struct SystemdTime {
    all: Bucket,
    by_user: HashMap<u32, Bucket>,
    /// The number of users at which the next look for those who can be forgotten is due.
    forget_at: usize,
}

/// What was taken, as of its last change. It becomes less with time.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(Option<(u64, Instant)>);

impl Bucket {
    fn taken_us(&self, now: Instant, us_a_second: u64) -> u64 {
        let Some((taken_us, since)) = self.0 else { return 0 };
        let us = now.saturating_duration_since(since).as_micros() * u128::from(us_a_second) / 1_000_000;
        taken_us.saturating_sub(u64::try_from(us).unwrap_or(u64::MAX))
    }
}

impl SystemdTime {
    /// Takes `cost_us` for a user, if `left_us` is left after that.
    pub(super) fn take(&mut self, now: Instant, uid: u32, cost_us: u64, left_us: u64) -> bool {
        let of_user = self.by_user.get(&uid).copied().unwrap_or_default().taken_us(now, USER_US_A_SECOND) + cost_us;
        let of_all = self.all.taken_us(now, ALL_US_A_SECOND) + cost_us;
        if of_user + left_us > BURST_US || of_all > ALL_BURST_US {
            return false;
        }
        self.by_user.insert(uid, Bucket(Some((of_user, now))));
        self.all = Bucket(Some((of_all, now)));
        if self.by_user.len() >= self.forget_at.max(REMEMBERED_MIN) {
            self.by_user.retain(|_, bucket| bucket.taken_us(now, USER_US_A_SECOND) > 0);
            self.forget_at = 2 * self.by_user.len();
        }
        true
    }

    /// What all users have taken lately, and the user who has taken the most.
    pub(super) fn status(&self, now: Instant) -> (u64, Option<(u32, u64)>) {
        let taken = |(uid, bucket): (&u32, &Bucket)| (bucket.taken_us(now, USER_US_A_SECOND), *uid);
        let most = self.by_user.iter().map(taken).max().filter(|(taken_us, _)| *taken_us > 0);
        (self.all.taken_us(now, ALL_US_A_SECOND), most.map(|(taken_us, uid)| (uid, taken_us)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Takes as much as a user gets. Returns how many microseconds that is.
    fn take_all(time: &mut SystemdTime, now: Instant, uid: u32, left_us: u64) -> u64 {
        (0..).take_while(|_| time.take(now, uid, 1000, left_us)).count() as u64 * 1000
    }

    #[test]
    fn a_user_gets_a_burst_and_then_four_percent_of_a_core() {
        let (mut time, begin) = (SystemdTime::default(), Instant::now());
        assert_eq!(take_all(&mut time, begin, 1, 0), BURST_US);
        let mut taken = 0;
        for tenth in 1..=100 {
            taken += take_all(&mut time, begin + Duration::from_millis(100 * tenth), 1, 0);
        }
        assert_eq!(taken, 10 * USER_US_A_SECOND);
        assert_eq!(
            take_all(&mut time, begin + Duration::from_secs(1000), 1, 0),
            BURST_US,
            "it saves no more than that"
        );
    }

    #[test]
    fn connections_that_just_came_leave_half_of_the_burst_to_those_that_live_longer() {
        let (mut time, now) = (SystemdTime::default(), Instant::now());
        assert_eq!(take_all(&mut time, now, 1, LEFT_BY_NEWCOMERS_US), BURST_US / 2);
        assert_eq!(take_all(&mut time, now, 1, 0), BURST_US / 2);
    }

    #[test]
    fn a_user_leaves_others_theirs_and_a_thousand_users_do_not_keep_systemd_busy() {
        let (mut time, begin) = (SystemdTime::default(), Instant::now());
        assert_eq!(take_all(&mut time, begin, 1, 0), BURST_US);
        assert_eq!(take_all(&mut time, begin, 2, 0), BURST_US);
        assert_eq!(time.status(begin), (ALL_BURST_US, Some((2, BURST_US))));
        let mut taken = 0;
        for tenth in 1..=100 {
            for uid in 3..1000 {
                taken += take_all(&mut time, begin + Duration::from_millis(100 * tenth), uid, 0);
            }
        }
        assert_eq!(taken, 10 * ALL_US_A_SECOND);
    }

    #[test]
    fn users_who_have_taken_nothing_lately_are_forgotten() {
        let (mut time, begin) = (SystemdTime::default(), Instant::now());
        for uid in 0..100_000 {
            assert!(time.take(begin + Duration::from_millis(u64::from(uid)), uid, 100, 0));
            assert!(time.by_user.len() <= 2 * REMEMBERED_MIN, "{} users", time.by_user.len());
        }
    }
}
