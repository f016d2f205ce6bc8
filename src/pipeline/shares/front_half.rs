//! Says how much of the front half the users may fill, and counts how much each of them has filled.
//!
//! Input: the budget, from the reader; bytes that were published, by user. Output: whether a user has its share.
//! Thread: any; the counts are under the lock of the throttle. Nothing can fail.
//!
//! There is a budget only while the buffer has a standing queue, see `drain::standing_queue`. A user who has its share
//! of the front half waits for the next one, or for [`EXPIRES_NS`]: while the disk stalls there is no next half, and
//! then a user gets one share after the other, until the half is full. So storing that takes longer than [`EXPIRES_NS`]
//! makes the shares larger. A user who is alone makes nobody late and has it all.

use std::collections::HashMap;

use super::bound::{PARTS, share};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts that are older are forgotten.
const EXPIRES_NS: u64 = 50_000_000;
/// A user is alone when nobody else has published anything for this time.
const ALONE_NS: u64 = 1_000_000_000;
/// Below one part in this many of the budget, nobody waits for others.
const PARTS_FREE: u64 = 32;

/// How many bytes the users together may publish into the front half, if that is limited.
#[derive(Debug, Default)]
pub struct FrontBudget {
    /// The low half of the front half's generation, and the bytes; 0 bytes: no limit. One word, so that they belong
    /// together.
    word: AtomicU64,
}

impl FrontBudget {
    /// Sets the bytes for the half of this generation; None: no limit.
    pub fn set(&self, generation: u64, bytes: Option<u64>) {
        let bytes = bytes.map_or(0, |bytes| bytes.clamp(1, u64::from(u32::MAX)));
        // Relaxed: it publishes no other data.
        self.word.store(generation << 32 | bytes, Relaxed);
    }

    /// Whether there is a limit.
    #[cfg(test)]
    pub(crate) fn is_set(&self) -> bool {
        self.get().is_some()
    }

    /// The budget of the front half, if there is one.
    #[inline]
    pub(super) fn get(&self) -> Option<Budget> {
        // Relaxed: it publishes no other data.
        let word = self.word.load(Relaxed);
        let bytes = word & u64::from(u32::MAX);
        (bytes > 0).then_some(Budget { generation: (word >> 32) as u32, bytes })
    }
}

/// What the users may publish into one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// The low half of the half's generation.
    generation: u32,
    pub(super) bytes: u64,
}

/// Who has published how many bytes into the front half. Times are nanoseconds of one clock that never goes back.
#[derive(Debug, Default)]
pub(super) struct FrontUse {
    generation: u32,
    began_ns: u64,
    total: u64,
    by_user: HashMap<u32, u64>,
    /// Who published last.
    last: Option<u32>,
    /// When somebody else than before published last.
    changed_ns: Option<u64>,
}

impl FrontUse {
    /// Counts bytes of a user.
    pub(super) fn add(&mut self, budget: Budget, uid: u32, bytes: u64, now_ns: u64) {
        self.begin(budget, now_ns);
        if self.last.replace(uid).is_some_and(|last| last != uid) {
            self.changed_ns = Some(now_ns);
        }
        self.total = self.total.saturating_add(bytes);
        let own = self.by_user.entry(uid).or_default();
        *own = own.saturating_add(bytes);
    }

    /// Whether a user has its share, while others publish as well.
    pub(super) fn has_share(&mut self, budget: Budget, uid: u32, now_ns: u64) -> bool {
        self.begin(budget, now_ns);
        if self.changed_ns.is_none_or(|changed_ns| now_ns.saturating_sub(changed_ns) >= ALONE_NS) {
            return false;
        }
        let own = self.by_user.get(&uid).copied().unwrap_or(0);
        own >= share(budget.bytes, self.total, own, PARTS).max(budget.bytes / PARTS_FREE).max(1)
    }

    /// All bytes, and the user who has the most of them.
    pub(super) fn status(&self) -> (u64, Option<(u32, u64)>) {
        let most = self.by_user.iter().map(|(uid, bytes)| (*bytes, *uid)).max();
        (self.total, most.map(|(bytes, uid)| (uid, bytes)))
    }

    /// Forgets what was counted for another half, or too long ago.
    fn begin(&mut self, budget: Budget, now_ns: u64) {
        if self.generation != budget.generation || now_ns.saturating_sub(self.began_ns) >= EXPIRES_NS {
            self.by_user.clear();
            (self.generation, self.began_ns, self.total) = (budget.generation, now_ns, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bound::ROOT;
    use super::*;

    fn budget(generation: u64, bytes: u64) -> Budget {
        let budget = FrontBudget::default();
        budget.set(generation, Some(bytes));
        budget.get().unwrap()
    }

    /// Two users publish next to nothing.
    fn not_alone() -> FrontUse {
        let mut front = FrontUse::default();
        for uid in [1, 2] {
            front.add(budget(0, 1), uid, 1, 0);
        }
        front
    }

    /// Publishes for a user, a hundredth of the budget at a time, until it has its share. Returns how much it was.
    fn fill(front: &mut FrontUse, budget: Budget, uid: u32, now_ns: u64) -> u64 {
        let mut filled = 0;
        while !front.has_share(budget, uid, now_ns) {
            front.add(budget, uid, budget.bytes / 100, now_ns);
            filled += budget.bytes / 100;
            assert!(filled <= budget.bytes, "it would never end");
        }
        filled
    }

    #[test]
    fn a_flood_gets_a_quarter_of_the_budget_in_each_half_and_others_a_quarter_of_the_rest() {
        let mut front = not_alone();
        for generation in [7, 8, 9, 1 << 32 | 10, 1 << 33] {
            let budget = budget(generation, 100_000);
            assert_eq!(fill(&mut front, budget, 2000, 1), 25_000);
            assert_eq!(fill(&mut front, budget, 2000, 1), 0);
            assert_eq!(fill(&mut front, budget, 3000, 1), 19_000);
            let more: u64 = (0..60).map(|uid| fill(&mut front, budget, 4000 + uid, 1)).sum();
            assert!(more >= 60 * 3_000, "{more}: a 32nd is there for each, whatever the others do");
            assert_eq!(front.status().1, Some((2000, 25_000)));
        }
    }

    #[test]
    fn while_no_half_ends_a_user_gets_one_share_after_the_other() {
        let mut front = not_alone();
        let budget = budget(1, 100_000);
        for turn in 0..5 {
            let now_ns = turn * EXPIRES_NS;
            assert_eq!(fill(&mut front, budget, 2000, now_ns), 25_000);
            assert!(front.has_share(budget, 2000, now_ns + EXPIRES_NS - 1));
        }
    }

    #[test]
    fn a_user_who_is_alone_has_the_whole_half_until_another_publishes() {
        let (mut front, budget) = (FrontUse::default(), budget(1, 100));
        let published = |front: &mut FrontUse, uid: u32, now_ns: u64| {
            front.add(budget, uid, 100, now_ns);
            front.has_share(budget, 2000, now_ns)
        };
        assert!(!published(&mut front, 2000, 0) && !published(&mut front, 2000, 1));
        assert!(published(&mut front, ROOT, 2), "root's events would be late");
        let until_ns = 3 + ALONE_NS;
        assert!(published(&mut front, 2000, 3), "root may send the next one soon");
        assert!(published(&mut front, 2000, until_ns - 1) && !published(&mut front, 2000, until_ns));
    }

    #[test]
    fn a_budget_of_a_byte_stops_nobody_for_ever_and_none_means_no_limit() {
        let mut front = not_alone();
        let tiny = budget(1, 0);
        assert_eq!(tiny.bytes, 1);
        assert!(!front.has_share(tiny, 2000, 0));
        front.add(tiny, 2000, u64::MAX, 0);
        front.add(tiny, 2000, u64::MAX, 0);
        assert!(front.has_share(tiny, 2000, 0) && !front.has_share(tiny, 2001, 0));
        let budget = FrontBudget::default();
        assert_eq!(budget.get(), None);
        budget.set(3, Some(u64::MAX));
        assert_eq!(budget.get().unwrap().bytes, u64::from(u32::MAX));
        budget.set(u64::MAX, None);
        assert_eq!(budget.get(), None);
    }
}
