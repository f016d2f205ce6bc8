//! Divides what is finite among the users of the machine, so that none of them can take it from the others.
//!
//! Input: who takes how much of what. Output: [`Held`], which gives it back when it is dropped; or [`Refusal`]; and
//! figures for display. Thread: any, under one lock for each resource. The lock is taken when something begins or ends,
//! never for an event. Failure: only the refusal.
//!
//! A user may hold at most a quarter of what the other users leave, and all users together at most three quarters. Root
//! and the user that the daemon runs as may hold everything. So a user who is alone gets a quarter, two get a fifth
//! each, nine get a twelfth each; a user who comes late still finds room; and the last quarter is always there for
//! root. The more others hold, the lower the bound: that is the dynamic threshold of Choudhury and Hahne (Dynamic Queue
//! Length Thresholds for Shared-Memory Packet Switches, IEEE/ACM Transactions on Networking 6(2), 1998). Rejected: a
//! fixed part for each user. Either it is small, and most of the resource is idle, or a few users together exhaust it.
//!
//! One resource is used up and not held: the time of systemd, see [`systemd_time`].

mod bound;
pub mod front_half;
pub(crate) mod look_ups;
mod refused;
mod systemd_time;
pub mod throttle;
mod window;

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use self::bound::{PARTS, ROOT, share};
use self::refused::Refused;
pub use self::refused::{HeldStatus, ShareStatus};
use self::systemd_time::{ALL_BURST_US, LEFT_BY_NEWCOMERS_US, SystemdTime};
use self::throttle::Throttle;
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard, lock};

/// What is finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections of the stream socket. Each takes a descriptor.
    Connections,
    /// Connections in systemd's store.
    StoredConnections,
    /// Sessions of the framed protocol, open and remembered ones.
    Sessions,
    /// Rings.
    Rings,
    /// Bytes of all rings.
    RingBytes,
    /// Rows of the account: producers that are told apart.
    Producers,
    /// Processes whose datagrams are attributed without asking the kernel again.
    Senders,
    /// Connections of the control socket.
    ControlConnections,
    /// Microseconds of systemd's time, for descriptors that it stores. They are not held, but come again with time.
    SystemdTime,
}

/// What systemd is to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFor {
    /// A connection that just came. It may leave at once.
    Newcomer,
    /// A connection that has lived for a while, or a ring.
    Resident,
}

impl Resource {
    /// All that can be held, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Connections,
        Self::StoredConnections,
        Self::Sessions,
        Self::Rings,
        Self::RingBytes,
        Self::Producers,
        Self::Senders,
        Self::ControlConnections,
    ];

    /// The name in `stats` and for Prometheus.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::StoredConnections => "stored_connections",
            Self::Sessions => "sessions",
            Self::Rings => "rings",
            Self::RingBytes => "ring_bytes",
            Self::Producers => "producers",
            Self::Senders => "senders",
            Self::ControlConnections => "control_connections",
            Self::SystemdTime => "systemd_time",
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::StoredConnections => "connections in systemd's store",
            Self::Sessions => "sessions",
            Self::Rings => "rings (ingest.rings)",
            Self::RingBytes => "bytes of rings (ingest.ring_bytes)",
            Self::Producers => "rows of the account",
            Self::Senders => "known senders of datagrams",
            Self::ControlConnections => "connections of dbufctl",
            Self::SystemdTime => "time of systemd",
        }
    }
}

/// How much there is of each resource.
pub type Capacities = [u64; Resource::ALL.len()];

/// Everything that users share.
#[derive(Debug)]
pub struct Shares {
    /// The user that the daemon runs as.
    own_uid: u32,
    /// Whether users have shares at all (`limits.shares`).
    is_enabled: AtomicBool,
    capacities: Capacities,
    holders: [Mutex<Holders>; Resource::ALL.len()],
    throttle: Throttle,
    systemd_time: Mutex<(SystemdTime, Refused)>,
}

/// Who holds how much of one resource.
#[derive(Debug, Default)]
struct Holders {
    total: u64,
    /// Users who hold nothing are not listed.
    by_user: HashMap<u32, u64>,
    refused: Refused,
}

/// A part of a resource that a user holds. Dropping it gives it back.
#[derive(Debug)]
#[must_use]
pub struct Held {
    shares: Arc<Shares>,
    amount: u64,
    uid: u32,
    resource: Resource,
}

/// Why a user gets no more, as a text for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The user has its share.
    Share {
        /// Of what.
        resource: Resource,
        /// The most that the user may hold now.
        share: u64,
    },
    /// Nobody can have more.
    NoneLeft(Resource),
    /// The user has used it up for the moment.
    UsedUp(Resource),
}

impl Held {
    /// The user.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl Shares {
    /// Divides these capacities. Root and `own_uid` are not limited.
    #[must_use]
    pub fn new(capacities: Capacities, own_uid: u32) -> Arc<Self> {
        Arc::new(Self {
            own_uid,
            is_enabled: AtomicBool::new(true),
            capacities,
            holders: Default::default(),
            throttle: Throttle::new(own_uid),
            systemd_time: Mutex::default(),
        })
    }

    /// Divides the same capacity of each resource, for tests.
    #[cfg(any(test, fuzzing, feature = "harness"))]
    #[must_use]
    pub fn even(capacity: u64) -> Arc<Self> {
        Self::new([capacity; Resource::ALL.len()], ROOT)
    }

    /// Turns the shares on or off. What is held stays.
    pub fn set_enabled(&self, is_enabled: bool) {
        // Relaxed: it publishes no other data.
        self.is_enabled.store(is_enabled, Relaxed);
        self.throttle.divide_front(is_enabled);
    }

    /// Whether users have shares.
    #[must_use]
    pub fn are_enabled(&self) -> bool {
        // Relaxed: it publishes no other data.
        self.is_enabled.load(Relaxed)
    }

    /// The limits for which users wait.
    #[must_use]
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// Takes `amount` of a resource for a user. A refusal is counted.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn take(self: &Arc<Self>, resource: Resource, uid: u32, amount: u64) -> Result<Held, Refusal> {
        self.take_or(resource, uid, amount, || false)
    }

    /// The same, but before it refuses, it has `make_room` give something back, as often as that says it has.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn take_or(
        self: &Arc<Self>,
        resource: Resource,
        uid: u32,
        amount: u64,
        mut make_room: impl FnMut() -> bool,
    ) -> Result<Held, Refusal> {
        let mut may_try = true;
        loop {
            let mut holders = self.holders(resource);
            match self.check(resource, &holders, uid, amount) {
                Ok(()) => return Ok(self.hold(&mut holders, resource, uid, amount)),
                Err(refusal) if !may_try => {
                    holders.refused.add(uid);
                    return Err(refusal);
                }
                Err(_) => {}
            }
            // What is given back takes the lock as well.
            drop(holders);
            may_try = make_room();
        }
    }

    /// Takes as [`Shares::take`], but does not count a refusal. See [`Shares::count_refusal`].
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn try_take(self: &Arc<Self>, resource: Resource, uid: u32, amount: u64) -> Result<Held, Refusal> {
        let mut holders = self.holders(resource);
        self.check(resource, &holders, uid, amount)?;
        Ok(self.hold(&mut holders, resource, uid, amount))
    }

    /// Takes `cost_us` of systemd's time for a user. Does not count a refusal.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn try_take_systemd_time(&self, uid: u32, cost_us: u64, store_for: StoreFor) -> Result<(), Refusal> {
        if !self.limits(uid) {
            return Ok(());
        }
        let left_us = if store_for == StoreFor::Newcomer { LEFT_BY_NEWCOMERS_US } else { 0 };
        let is_taken = lock(&self.systemd_time).0.take(Instant::now(), uid, cost_us, left_us);
        if is_taken { Ok(()) } else { Err(Refusal::UsedUp(Resource::SystemdTime)) }
    }

    /// Counts a refusal of something that is tried more than once.
    pub fn count_refusal(&self, refusal: Refusal, uid: u32) {
        let (Refusal::Share { resource, .. } | Refusal::NoneLeft(resource) | Refusal::UsedUp(resource)) = refusal;
        match resource {
            Resource::SystemdTime => lock(&self.systemd_time).1.add(uid),
            held => self.holders(held).refused.add(uid),
        }
    }

    /// Whether a user's share limits it: not root, and not the daemon's own user.
    pub fn limits(&self, uid: u32) -> bool {
        uid != ROOT && uid != self.own_uid && self.are_enabled()
    }

    /// Takes what a user has already: what the previous process left. It may be more than the user's share.
    pub fn take_over(self: &Arc<Self>, resource: Resource, uid: u32, amount: u64) -> Held {
        self.hold(&mut self.holders(resource), resource, uid, amount)
    }

    /// Whether nothing is left, not even for root.
    pub fn is_used_up(&self, resource: Resource) -> bool {
        self.holders(resource).total >= self.capacities[resource as usize]
    }

    fn check(&self, resource: Resource, holders: &Holders, uid: u32, amount: u64) -> Result<(), Refusal> {
        let capacity = self.capacities[resource as usize];
        let left = capacity.saturating_sub(holders.total);
        if amount > left {
            return Err(Refusal::NoneLeft(resource));
        }
        if !self.limits(uid) {
            return Ok(());
        }
        let own = holders.by_user.get(&uid).copied().unwrap_or(0);
        let share = share(capacity, holders.total, own, PARTS);
        if own + amount > share { Err(Refusal::Share { resource, share }) } else { Ok(()) }
    }

    fn hold(self: &Arc<Self>, holders: &mut Holders, resource: Resource, uid: u32, amount: u64) -> Held {
        holders.total += amount;
        *holders.by_user.entry(uid).or_default() += amount;
        Held { shares: Arc::clone(self), amount, uid, resource }
    }

    fn holders(&self, resource: Resource) -> MutexGuard<'_, Holders> {
        lock(&self.holders[resource as usize])
    }

    /// Each resource and each limit in force, for display.
    #[must_use]
    pub fn status(&self) -> Vec<ShareStatus> {
        let status = |resource: Resource| {
            let holders = self.holders(resource);
            let most = holders.by_user.iter().map(|(uid, held)| (*held, *uid)).max().map(|(held, uid)| (uid, held));
            let held = HeldStatus { capacity: self.capacities[resource as usize], held: holders.total, most };
            holders.refused.status(resource.name(), Some(held))
        };
        let held = Resource::ALL.into_iter().map(status);
        held.chain([self.systemd_time_status()]).chain(self.throttle.status()).collect()
    }

    fn systemd_time_status(&self) -> ShareStatus {
        let (time, refused) = &*lock(&self.systemd_time);
        let (held, most) = time.status(Instant::now());
        refused.status(Resource::SystemdTime.name(), Some(HeldStatus { capacity: ALL_BURST_US, held, most }))
    }
}

impl Holders {
    fn give_back(&mut self, uid: u32, amount: u64) {
        self.total -= amount;
        if let Some(held) = self.by_user.get_mut(&uid) {
            *held -= amount;
            if *held == 0 {
                self.by_user.remove(&uid);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shares.holders(self.resource).give_back(self.uid, self.amount);
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share { resource, share } => {
                write!(f, "this user may have {share} {} while others need theirs (limits.shares)", resource.noun())
            }
            Self::NoneLeft(resource) => write!(f, "the daemon has no {} left", resource.noun()),
            Self::UsedUp(resource) => {
                write!(f, "this user has used up its {} for the moment (limits.shares)", resource.noun())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::refused::USERS_MAX;
    use super::*;

    const OWN: u32 = 990;

    fn shares(capacity: u64) -> Arc<Shares> {
        Shares::new([capacity; Resource::ALL.len()], OWN)
    }

    /// Takes for a user, one by one, until it is refused. Returns what it got.
    fn take_all(shares: &Arc<Shares>, uid: u32) -> Vec<Held> {
        std::iter::from_fn(|| shares.take(Resource::Sessions, uid, 1).ok()).collect()
    }

    #[test]
    fn one_user_gets_a_quarter_and_each_later_one_a_quarter_of_what_is_left() {
        let shares = shares(1000);
        let held: Vec<Vec<Held>> = (1..=4).map(|uid| take_all(&shares, uid)).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [250, 187, 140, 105]);
    }

    #[test]
    fn users_who_take_in_turn_get_equal_parts_and_never_the_last_quarter() {
        for (users, each) in [(2, 200), (5, 125), (9, 83), (30, 25)] {
            let shares = shares(1000);
            let mut held: Vec<Held> = Vec::new();
            loop {
                let before = held.len();
                held.extend((1..=users).filter_map(|uid| shares.take(Resource::Rings, uid, 1).ok()));
                if held.len() == before {
                    break;
                }
            }
            let of_user = |uid| held.iter().filter(|held| held.uid == uid).count();
            assert!((1..=users).all(|uid| (each..=each + 1).contains(&of_user(uid))), "{users} users");
            assert!(held.len() <= 750);
            assert_eq!(take_all(&shares, 0).len(), 1000, "sessions are counted for themselves");
        }
    }

    #[test]
    fn root_and_the_daemons_own_user_get_everything_and_nobody_gets_more_than_there_is() {
        let shares = shares(8);
        let _roots = take_all(&shares, ROOT);
        assert_eq!(shares.take(Resource::Sessions, OWN, 1).unwrap_err(), Refusal::NoneLeft(Resource::Sessions));
        let owns: Vec<Held> = (0..8).map(|_| shares.take(Resource::Rings, OWN, 1).unwrap()).collect();
        let why = shares.take(Resource::Rings, 1, 1).unwrap_err();
        assert_eq!(why.to_string(), "the daemon has no rings (ingest.rings) left");
        drop(owns);
        assert_eq!(
            shares.take(Resource::Rings, 1, 3).unwrap_err(),
            Refusal::Share { resource: Resource::Rings, share: 2 }
        );
    }

    #[test]
    fn what_is_given_back_is_there_for_all_again() {
        let shares = shares(1000);
        let mut held = take_all(&shares, 1);
        drop(held.split_off(100));
        assert_eq!((held.len(), take_all(&shares, 2).len()), (100, 225));
        assert_eq!(take_all(&shares, 1).len(), 150, "the others have given theirs back");
        drop(held);
        assert!(
            shares
                .status()
                .iter()
                .take(Resource::ALL.len())
                .all(|status| status.held.is_some_and(|held| held.held == 0 && held.most.is_none()))
        );
    }

    #[test]
    fn what_was_held_over_a_restart_counts_although_it_is_more_than_the_share() {
        let shares = shares(100);
        let _held = shares.take_over(Resource::Rings, 1, 90);
        assert!(shares.take(Resource::Rings, 1, 1).is_err() && shares.take(Resource::Rings, 2, 1).is_err());
        assert!(shares.take(Resource::Rings, ROOT, 10).is_ok());
    }

    #[test]
    fn without_shares_every_user_may_have_everything() {
        let shares = shares(100);
        shares.set_enabled(false);
        let all = shares.take(Resource::Rings, 1, 100).unwrap();
        assert!(shares.is_used_up(Resource::Rings));
        drop(all);
        shares.set_enabled(true);
        assert!(shares.take(Resource::Rings, 1, 26).is_err());
    }

    #[test]
    fn systemds_time_is_limited_for_users_but_not_for_root_and_its_refusals_are_counted_when_asked() {
        let shares = shares(0);
        let take = |uid| shares.try_take_systemd_time(uid, 1 << 20, StoreFor::Resident);
        assert_eq!((take(ROOT), take(OWN), take(1)), (Ok(()), Ok(()), Err(Refusal::UsedUp(Resource::SystemdTime))));
        shares.count_refusal(take(1).unwrap_err(), 1);
        let status = shares.status().into_iter().find(|status| status.name == "systemd_time").unwrap();
        assert_eq!((status.held.unwrap().held, status.refused), (0, vec![(1, 1)]));
        shares.set_enabled(false);
        assert_eq!(take(1), Ok(()));
    }

    #[test]
    fn refusals_are_counted_by_user_for_a_bounded_number_of_users() {
        let shares = shares(0);
        for uid in 0..=USERS_MAX as u32 {
            let _ = shares.take(Resource::Rings, uid, 1);
        }
        let _ = shares.take(Resource::Rings, 7, 1);
        let status = &shares.status()[Resource::Rings as usize];
        assert_eq!((status.refused.len(), status.refused_others, status.refused[7]), (USERS_MAX, 1, (7, 2)));
    }
}
