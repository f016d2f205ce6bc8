//! Makes a user wait who sends faster than it may, who would push the events of others out of the segments, or who
//! makes the events of others late.
//!
//! Input: the limits; what was taken of whom; how many bytes the segments and the front half may take. Output: whether
//! the next events of a user are taken now, and if not, when to ask again. Thread: any, under one lock, which is taken
//! for each read while there is a limit, and never otherwise. Nothing can fail.
//!
//! **Rates** (`limits.events_per_second`, `limits.bytes_per_second`) are token buckets that hold the tokens of one
//! second. A read is taken as a whole, so it may leave a bucket in debt, and the user waits until the debt is paid:
//! the rate holds on average. A bucket is one time, at which everything that was taken will be paid (the generic cell
//! rate algorithm, ITU-T I.371).
//!
//! **The window** (`storage.keep_at_least`). Retention deletes the oldest segments when all together are too large. So
//! no event within the window is deleted as long as less is stored in any window than the segments may take. That is
//! one more finite resource that users share, and a byte is given back when it has left the window. A user may hold a
//! quarter of what the others leave, a user of the system a half of it, and neither of them the last quarter; root and
//! the daemon's user may hold everything. Below a 32nd of all, nobody waits for others. So the window can become
//! shorter than promised only by what root stores, and by what more than eight users store in their 32nds.
//!
//! Rejected: a bucket for each user whose rate follows from the size and the window. A bucket that is full at first
//! lets a user store twice its part within one window, so parts would have to be half as large; and a user who sends
//! in bursts could never use its part. Rejected: to delete only what the flooding user has stored. A segment holds the
//! events of all users in order, so it would have to be written again. The window costs 0.5 KiB for each user who
//! stored something in it. It begins empty with each process.
//!
//! **The front half** has a budget while the buffer has a standing queue, and each user a share of it: see
//! [`super::front_half`]. It delays connections only. Nothing is lost for it, so datagrams are counted and not held
//! back.
//!
//! Root and the user that the daemon runs as never wait.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::bound::{PARTS, ROOT, share};
use super::front_half::{Budget, FrontBudget, FrontUse};
use super::refused::{HeldStatus, Refused, ShareStatus};
use super::window::Window;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard, lock};

const SECOND_NS: u64 = 1_000_000_000;
/// What a bucket holds, as a time.
const BURST_NS: u64 = SECOND_NS;
/// A user who waits is looked at again after this time at the latest, because the limits may have changed meanwhile.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// A user who has its share of the front half is looked at again after this time: the halves may have been swapped.
const SWAP_WAIT: Duration = Duration::from_millis(1);
/// Users at or below this number are those of the system (`SYS_UID_MAX` of login.defs(5)).
const SYSTEM_UID_MAX: u32 = 999;
/// A user of the system gets one part in this many of what the others leave.
const SYSTEM_PARTS: u64 = 2;
/// A user never waits for others while it holds less than one part in this many of the window.
const PARTS_FREE: u64 = 32;
/// Buckets that are kept before those of users who are in no debt are forgotten.
const BUCKETS_MIN: usize = 64;

/// The limits of each user. None: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserLimits {
    /// Events in a second.
    pub events_per_second: Option<u64>,
    /// Payload bytes in a second.
    pub bytes_per_second: Option<u64>,
    /// Events that are younger than this are not pushed out of the segments.
    pub keep_at_least: Option<Duration>,
}

/// What was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Events.
    pub events: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Bytes of their records.
    pub record_bytes: u64,
}

impl Taken {
    /// What was taken since an earlier count.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            events: self.events.wrapping_sub(earlier.events),
            payload_bytes: self.payload_bytes.wrapping_sub(earlier.payload_bytes),
            record_bytes: self.record_bytes.wrapping_sub(earlier.record_bytes),
        }
    }
}

/// The limit for which a user waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// A rate.
    Rate,
    /// Its share of the window.
    Window,
    /// Its share of the front half.
    FrontHalf,
}

impl Limit {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Rate, Self::Window, Self::FrontHalf];

    /// The name in `stats` and for Prometheus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Window => "window_bytes",
            Self::FrontHalf => "buffer_bytes",
        }
    }
}

/// A user must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// For what.
    pub limit: Limit,
    /// When to ask again.
    pub time: Duration,
}

/// Holds the limits of users, and what each of them has taken.
#[derive(Debug)]
pub struct Throttle {
    /// Whether a limit is set.
    is_on: AtomicBool,
    /// Whether users have shares of the front half.
    divides_front: AtomicBool,
    front: Arc<FrontBudget>,
    began: Instant,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    /// Users who never wait: root, and the user that the daemon runs as.
    exempt: [u32; 2],
    limits: UserLimits,
    /// Bytes that the segments may take; None while that is unknown.
    room_bytes: Option<Arc<AtomicU64>>,
    /// When everything is paid: events, bytes. In nanoseconds since the start.
    paid_at: HashMap<u32, [u64; 2]>,
    buckets_max: usize,
    window: Option<Window>,
    front: FrontUse,
    refused: [Refused; Limit::ALL.len()],
}

impl Throttle {
    pub(super) fn new(own_uid: u32) -> Self {
        let users = Mutex::new(Users { exempt: [ROOT, own_uid], ..Users::default() });
        Self {
            is_on: AtomicBool::new(false),
            divides_front: AtomicBool::new(true),
            front: Arc::default(),
            began: Instant::now(),
            users,
        }
    }

    /// Sets the limits. What was taken before counts in the window, unless the window has another length now.
    pub fn set(&self, limits: UserLimits) {
        let mut users = self.users();
        if users.limits.keep_at_least != limits.keep_at_least {
            let window_ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            users.window = limits.keep_at_least.map(|time| Window::new(window_ns(time)));
        }
        users.limits = limits;
        users.paid_at.clear();
        // Relaxed: it publishes no other data. The limits are read under the lock.
        self.is_on.store(limits != UserLimits::default(), Relaxed);
    }

    /// Sets where the store says how many bytes may be in the segments before retention deletes one of them.
    pub fn share_room(&self, room_bytes: Arc<AtomicU64>) {
        self.users().room_bytes = Some(room_bytes);
    }

    /// Where the reader says how many bytes may be in the front half.
    #[must_use]
    pub fn front_budget(&self) -> Arc<FrontBudget> {
        Arc::clone(&self.front)
    }

    /// Sets whether users have shares of the front half.
    pub(super) fn divide_front(&self, divides: bool) {
        // Relaxed: it publishes no other data.
        self.divides_front.store(divides, Relaxed);
    }

    /// Whether there is any limit now: one that is set, or a budget of the front half.
    #[inline]
    pub fn may_limit(&self) -> bool {
        // Relaxed: it publishes no other data.
        self.is_on.load(Relaxed) || self.budget().is_some()
    }

    #[inline]
    fn budget(&self) -> Option<Budget> {
        // Relaxed: it publishes no other data.
        self.front.get().filter(|_| self.divides_front.load(Relaxed))
    }

    /// Whether the next events of a user must wait.
    pub fn wait(&self, uid: u32) -> Option<Wait> {
        if !self.may_limit() {
            return None;
        }
        let mut users = self.users();
        // Read under the lock, so that no thread counts for an earlier half than the one before it.
        let (now_ns, budget) = (self.now_ns(), self.budget());
        users.wait(uid, now_ns).or_else(|| users.wait_for_half(budget?, uid, now_ns))
    }

    /// Counts what was taken of a user.
    pub fn charge(&self, uid: u32, taken: Taken) {
        if self.may_limit() && taken != Taken::default() {
            let mut users = self.users();
            users.charge(uid, taken, self.budget(), self.now_ns());
        }
    }

    /// Whether one more event of a user may be taken now. Counts it if so, and counts the refusal if not.
    pub fn admit(&self, uid: u32, taken: Taken) -> bool {
        if !self.may_limit() {
            return true;
        }
        let mut users = self.users();
        let now_ns = self.now_ns();
        let wait = users.wait(uid, now_ns);
        match wait {
            Some(Wait { limit, .. }) => users.refused[limit as usize].add(uid),
            None => users.charge(uid, taken, self.budget(), now_ns),
        }
        wait.is_none()
    }

    /// Counts that a user begins to wait.
    pub fn refuse(&self, uid: u32, limit: Limit) {
        self.users().refused[limit as usize].add(uid);
    }

    /// The limits, for display.
    pub(super) fn status(&self) -> Vec<ShareStatus> {
        let mut users = self.users();
        let now_ns = self.now_ns();
        let capacity = users.room().unwrap_or(0);
        let window = users.window.as_mut().map(|window| {
            let (held, most) = window.status(now_ns);
            HeldStatus { capacity, held, most }
        });
        let front = self.budget().map(|budget| {
            let (held, most) = users.front.status();
            HeldStatus { capacity: budget.bytes, held, most }
        });
        let status = |limit: Limit| {
            let held = match limit {
                Limit::Rate => None,
                Limit::Window => window,
                Limit::FrontHalf => front,
            };
            users.refused[limit as usize].status(limit.name(), held)
        };
        Limit::ALL.into_iter().map(status).collect()
    }

    /// Lets root and the daemon's own user wait as well: a test has no other user.
    #[cfg(test)]
    pub(crate) fn limit_everyone(&self) {
        self.users().exempt = [u32::MAX; 2];
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        lock(&self.users)
    }
}

impl Users {
    fn room(&self) -> Option<u64> {
        // Relaxed: it publishes no other data.
        self.room_bytes.as_ref().map(|room| room.load(Relaxed)).filter(|room| *room != u64::MAX)
    }

    fn wait(&mut self, uid: u32, now_ns: u64) -> Option<Wait> {
        if self.exempt.contains(&uid) {
            return None;
        }
        let paid_at = self.paid_at.get(&uid).copied().unwrap_or_default().into_iter().max().unwrap_or(0);
        let debt_ns = paid_at.saturating_sub(now_ns.saturating_add(BURST_NS));
        if debt_ns > 0 {
            let time = Duration::from_nanos(debt_ns).clamp(Duration::from_millis(1), WAIT_MAX);
            return Some(Wait { limit: Limit::Rate, time });
        }
        let room = self.room()?;
        let (own, total) = self.window.as_mut()?.held(uid, now_ns);
        let most = share(room, total, own, if uid <= SYSTEM_UID_MAX { SYSTEM_PARTS } else { PARTS });
        (own >= most.max(room / PARTS_FREE)).then_some(Wait { limit: Limit::Window, time: WAIT_MAX })
    }

    fn wait_for_half(&mut self, budget: Budget, uid: u32, now_ns: u64) -> Option<Wait> {
        let must_wait = !self.exempt.contains(&uid) && self.front.has_share(budget, uid, now_ns);
        must_wait.then_some(Wait { limit: Limit::FrontHalf, time: SWAP_WAIT })
    }

    fn charge(&mut self, uid: u32, taken: Taken, budget: Option<Budget>, now_ns: u64) {
        if let Some(budget) = budget {
            self.front.add(budget, uid, taken.record_bytes, now_ns);
        }
        if let Some(window) = &mut self.window {
            window.add(uid, taken.record_bytes, now_ns);
        }
        let UserLimits { events_per_second, bytes_per_second, .. } = self.limits;
        if self.exempt.contains(&uid) || (events_per_second, bytes_per_second) == (None, None) {
            return;
        }
        if self.paid_at.len() >= self.buckets_max.max(BUCKETS_MIN) {
            self.paid_at.retain(|_, paid_at| paid_at.iter().any(|paid_at| *paid_at > now_ns));
            self.buckets_max = 2 * self.paid_at.len();
        }
        let paid_at = self.paid_at.entry(uid).or_default();
        let costs = [(taken.events, events_per_second), (taken.payload_bytes, bytes_per_second)];
        for (paid_at, (amount, rate)) in paid_at.iter_mut().zip(costs) {
            let Some(rate) = rate else { continue };
            let cost_ns = u128::from(amount) * u128::from(SECOND_NS) / u128::from(rate.max(1));
            *paid_at = (*paid_at).max(now_ns).saturating_add(u64::try_from(cost_ns).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 990;
    const MS: u64 = 1_000_000;

    fn events(events: u64) -> Taken {
        Taken { events, payload_bytes: 100 * events, record_bytes: 128 * events }
    }

    fn users(limits: UserLimits) -> Users {
        let throttle = Throttle::new(OWN);
        throttle.set(limits);
        throttle.users.into_inner().unwrap()
    }

    fn rate(events_per_second: u64) -> Users {
        users(UserLimits { events_per_second: Some(events_per_second), ..UserLimits::default() })
    }

    fn window(room: u64) -> Users {
        let mut users = users(UserLimits { keep_at_least: Some(Duration::from_secs(64)), ..UserLimits::default() });
        users.room_bytes = Some(Arc::new(AtomicU64::new(room)));
        users
    }

    /// Lets a user take what it may, in steps of one event, until it must wait. Returns the number of events.
    fn take_all(users: &mut Users, uid: u32, now_ns: u64) -> u64 {
        let mut taken = 0;
        while users.wait(uid, now_ns).is_none() {
            users.charge(uid, events(1), None, now_ns);
            taken += 1;
            assert!(taken < 1_000_000, "it would never wait");
        }
        taken
    }

    #[test]
    fn a_user_gets_a_second_at_once_and_then_its_rate() {
        let mut users = rate(1000);
        let first = take_all(&mut users, 5, 0);
        assert!((1000..=1001).contains(&first), "{first}");
        let later: u64 = (1..=100).map(|tenth| take_all(&mut users, 5, tenth * 100 * MS)).sum();
        assert!((9_990..=10_010).contains(&later), "{later} in ten seconds");
        assert_eq!(take_all(&mut users, 6, 10_000 * MS) / 10, 100, "another user has a bucket of its own");
    }

    #[test]
    fn a_read_is_taken_as_a_whole_and_its_debt_is_waited_for() {
        let mut users = rate(1000);
        users.charge(5, events(11_000), None, 0);
        assert_eq!(users.wait(5, 0), Some(Wait { limit: Limit::Rate, time: WAIT_MAX }));
        assert_eq!(users.wait(5, 9_900 * MS), Some(Wait { limit: Limit::Rate, time: Duration::from_millis(100) }));
        assert_eq!(users.wait(5, 10_000 * MS), None);
    }

    #[test]
    fn bytes_have_a_bucket_of_their_own_and_the_emptier_one_counts() {
        let limits = UserLimits { events_per_second: Some(1000), bytes_per_second: Some(1000), keep_at_least: None };
        let mut users = users(limits);
        users.charge(5, Taken { events: 1, payload_bytes: 3000, record_bytes: 0 }, None, 0);
        assert!(users.wait(5, 1_999 * MS).is_some() && users.wait(5, 2_000 * MS).is_none());
        users.charge(6, Taken { events: 3000, payload_bytes: 1, record_bytes: 0 }, None, 0);
        assert!(users.wait(6, 1_999 * MS).is_some() && users.wait(6, 2_000 * MS).is_none());
    }

    #[test]
    fn root_and_the_daemons_own_user_never_wait() {
        let mut users = rate(1);
        for uid in [ROOT, OWN] {
            users.charge(uid, events(u64::MAX / 200), None, 0);
            assert_eq!(users.wait(uid, 0), None);
        }
        let mut users = window(1000);
        users.charge(ROOT, events(1_000_000), None, 0);
        assert_eq!(users.wait(ROOT, 0), None);
    }

    #[test]
    fn buckets_that_are_full_again_are_forgotten() {
        let mut users = rate(1000);
        for second in 0..50 {
            (0..100).for_each(|uid| {
                users.charge(1000 + 100 * second + uid, events(1), None, u64::from(second) * SECOND_NS)
            });
        }
        assert!(users.paid_at.len() <= 200, "{}", users.paid_at.len());
    }

    #[test]
    fn a_flood_of_one_user_takes_a_quarter_of_the_window_and_the_rest_is_for_others() {
        let mut users = window(128_000);
        assert_eq!(take_all(&mut users, 2000, 0), 250);
        assert_eq!(take_all(&mut users, 3000, 0), 188, "a quarter of what is left");
        assert_eq!(take_all(&mut users, 80, 0), 281, "a user of the system gets half of what is left");
        assert_eq!(users.wait(2000, 0), Some(Wait { limit: Limit::Window, time: WAIT_MAX }));
        users.charge(ROOT, events(250), None, 0);
        assert_eq!(take_all(&mut users, 4000, 0), 32, "a 32nd is there for each user, whatever the others do");
    }

    #[test]
    fn no_flood_stores_more_in_a_window_than_the_segments_may_take() {
        let mut users = window(128_000);
        let mut stored: Vec<(u64, u64)> = Vec::new();
        for tick in 0..3000_u64 {
            let now_ns = tick * 100 * MS;
            // A user who stores at a steady rate, and floods that come and go.
            let steady = u64::from(tick % 25 == 0);
            assert!(steady == 0 || users.wait(1500, now_ns).is_none(), "the steady user never waits: {tick}");
            users.charge(1500, events(steady), None, now_ns);
            let floods = [2000, 2001, 80].into_iter().filter(|uid| (tick / 200 + u64::from(*uid)) % 3 > 0);
            let taken: u64 = floods.map(|uid| take_all(&mut users, uid, now_ns)).sum();
            stored.push((now_ns, (taken + steady) * 128));
            let within = stored.iter().filter(|(at, _)| at + 64 * SECOND_NS > now_ns);
            let sum: u64 = within.map(|(_, bytes)| bytes).sum();
            assert!(sum <= 128_000, "{sum} bytes in the window at {tick}");
        }
        let total: u64 = stored.iter().map(|(_, bytes)| bytes).sum();
        assert!(total > 3 * 96_000, "{total}: what leaves the window is there again");
    }

    #[test]
    fn while_the_room_is_unknown_nobody_waits_for_the_window() {
        let mut users = window(1000);
        users.room_bytes = None;
        users.charge(2000, events(1000), None, 0);
        assert_eq!(users.wait(2000, 0), None);
    }

    #[test]
    fn limits_can_change_and_what_was_stored_stays_counted() {
        let throttle = Throttle::new(OWN);
        assert!(!throttle.may_limit());
        let keep = UserLimits { keep_at_least: Some(Duration::from_secs(3600)), ..UserLimits::default() };
        throttle.set(keep);
        throttle.share_room(Arc::new(AtomicU64::new(1000)));
        throttle.charge(2000, events(10));
        throttle.set(UserLimits { events_per_second: Some(1), ..keep });
        assert_eq!(throttle.wait(2000).unwrap().limit, Limit::Window);
        throttle.charge(2001, events(2));
        assert!(!throttle.admit(2001, events(1)));
        let refused: Vec<_> = throttle.status().into_iter().map(|status| (status.name, status.refused)).collect();
        assert_eq!(refused, [("rate", vec![(2001, 1)]), ("window_bytes", Vec::new()), ("buffer_bytes", Vec::new())]);
        throttle.set(UserLimits::default());
        assert_eq!((throttle.wait(2000), throttle.admit(2001, events(1)), throttle.may_limit()), (None, true, false));
    }

    #[test]
    fn who_has_its_share_of_the_front_half_waits_for_the_next_one_and_loses_no_datagram() {
        let throttle = Throttle::new(OWN);
        let front = throttle.front_budget();
        throttle.charge(2000, events(1000));
        assert_eq!(throttle.wait(2000), None, "there is no budget");
        front.set(7, Some(128_000));
        for uid in [2000, ROOT, OWN] {
            throttle.charge(uid, events(250));
        }
        assert_eq!(throttle.wait(2000), Some(Wait { limit: Limit::FrontHalf, time: SWAP_WAIT }));
        assert!([2001, ROOT, OWN].into_iter().all(|uid| throttle.wait(uid).is_none()));
        assert!(throttle.admit(2000, events(1)));
        throttle.divide_front(false);
        assert_eq!(throttle.wait(2000), None, "users have no shares");
        throttle.divide_front(true);
        front.set(8, Some(128_000));
        assert_eq!(throttle.wait(2000), None, "the halves were swapped");
    }
}
