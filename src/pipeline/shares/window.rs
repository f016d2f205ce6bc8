//! Counts the bytes that each user has stored within a window of time.
//!
//! Input: who stored how many bytes, and when. Output: how many bytes of the window are a user's, or everybody's.
//! Thread: any, one at a time. Nothing can fail.
//!
//! The window is divided into slots. A slot counts in full until all of it has left the window, and then for less and
//! less, so that what a user may store comes back evenly and not slot by slot. So no byte that is younger than the
//! window is ever left out, and a byte counts for at most two slots (3 %) longer than the window.

use std::collections::HashMap;

/// Slots that cover the window.
const SLOTS: u64 = 64;
/// The slots of the window, the one that has begun, and the one that leaves.
const SLOTS_KEPT: usize = SLOTS as usize + 2;
/// Users who are counted by themselves; all others are counted together.
const USERS_MAX: usize = 1024;
/// Stands for all users beyond those. No user has this number (chown(2)).
const OTHERS: u32 = u32::MAX;

/// Who has stored what within the window. Times are nanoseconds of one clock that never goes back.
#[derive(Debug)]
pub(super) struct Window {
    slot_ns: u64,
    all: Usage,
    by_user: HashMap<u32, Usage>,
}

#[derive(Clone, Debug)]
struct Usage {
    /// The number of the slot that has begun.
    newest: u64,
    /// Bytes of each slot, at its number modulo the length.
    bytes: [u64; SLOTS_KEPT],
    sum: u64,
}

impl Window {
    pub(super) fn new(window_ns: u64) -> Self {
        Self { slot_ns: (window_ns / SLOTS).max(1), all: Usage::default(), by_user: HashMap::new() }
    }

    /// Counts bytes of a user.
    pub(super) fn add(&mut self, uid: u32, bytes: u64, now_ns: u64) {
        self.all.add(bytes, now_ns, self.slot_ns);
        if self.by_user.len() >= USERS_MAX && !self.by_user.contains_key(&uid) {
            let slot_ns = self.slot_ns;
            self.by_user.retain(|_, usage| usage.held(now_ns, slot_ns) > 0);
        }
        let is_counted = self.by_user.len() < USERS_MAX || self.by_user.contains_key(&uid);
        let user = if is_counted { uid } else { OTHERS };
        self.by_user.entry(user).or_default().add(bytes, now_ns, self.slot_ns);
    }

    /// Bytes of the window that are a user's, and all of its bytes.
    pub(super) fn held(&mut self, uid: u32, now_ns: u64) -> (u64, u64) {
        let user = if self.by_user.contains_key(&uid) { uid } else { OTHERS };
        let own = self.by_user.get_mut(&user).map_or(0, |usage| usage.held(now_ns, self.slot_ns));
        (own, self.all.held(now_ns, self.slot_ns))
    }

    /// All bytes of the window, and the user who has the most of them.
    pub(super) fn status(&mut self, now_ns: u64) -> (u64, Option<(u32, u64)>) {
        let slot_ns = self.slot_ns;
        let users = self.by_user.iter_mut().map(|(uid, usage)| (usage.held(now_ns, slot_ns), *uid));
        let most = users.filter(|(held, uid)| *held > 0 && *uid != OTHERS).max();
        (self.all.held(now_ns, slot_ns), most.map(|(held, uid)| (uid, held)))
    }
}

impl Default for Usage {
    fn default() -> Self {
        Self { newest: 0, bytes: [0; SLOTS_KEPT], sum: 0 }
    }
}

impl Usage {
    fn add(&mut self, bytes: u64, now_ns: u64, slot_ns: u64) {
        self.begin(now_ns / slot_ns);
        let slot = &mut self.bytes[at(self.newest)];
        *slot = slot.saturating_add(bytes);
        self.sum = self.sum.saturating_add(bytes);
    }

    fn held(&mut self, now_ns: u64, slot_ns: u64) -> u64 {
        self.begin(now_ns / slot_ns);
        let leaving = u128::from(self.bytes[at(self.newest + 1)]);
        let gone = leaving * u128::from(now_ns % slot_ns) / u128::from(slot_ns);
        self.sum.saturating_sub(gone as u64)
    }

    /// Begins this slot, and forgets the slots that have left.
    fn begin(&mut self, slot: u64) {
        let begun = slot.saturating_sub(self.newest).min(SLOTS_KEPT as u64);
        for number in (0..begun).map(|back| slot - back) {
            let left = std::mem::take(&mut self.bytes[at(number)]);
            self.sum = self.sum.saturating_sub(left);
        }
        self.newest = self.newest.max(slot);
    }
}

fn at(slot: u64) -> usize {
    (slot % SLOTS_KEPT as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const WINDOW: u64 = 64 * SECOND;

    #[test]
    fn a_byte_counts_in_full_for_the_whole_window_and_not_much_longer() {
        for at in [0, 1, SECOND / 2, SECOND - 1, 7 * SECOND + 3] {
            let mut window = Window::new(WINDOW);
            window.add(1, 1000, at);
            for age in (0..WINDOW).step_by(SECOND as usize / 7).chain([WINDOW - 1]) {
                assert_eq!(window.held(1, at + age), (1000, 1000), "{age} after {at}");
            }
            assert_eq!(window.held(1, at + WINDOW + 2 * SECOND), (0, 0), "after {at}");
        }
    }

    #[test]
    fn what_leaves_the_window_leaves_evenly() {
        let mut window = Window::new(WINDOW);
        window.add(1, 1000, 0);
        let held: Vec<u64> = (0..=4).map(|quarter| window.held(1, WINDOW + SECOND + quarter * SECOND / 4).0).collect();
        assert_eq!(held, [1000, 750, 500, 250, 0]);
    }

    #[test]
    fn users_are_counted_by_themselves_as_far_as_there_is_room_and_the_rest_together() {
        let mut window = Window::new(WINDOW);
        let users = USERS_MAX as u32 + 10;
        (0..users).for_each(|uid| window.add(uid, 3, 0));
        assert_eq!(window.held(5, 1), (3, u64::from(users) * 3));
        assert_eq!(window.held(users - 1, 1).0, 30);
        assert!(window.by_user.len() <= USERS_MAX + 1);
        assert_eq!(window.status(1).1.unwrap().1, 3, "all others together are no user");
        window.add(users, 4, 3 * WINDOW);
        assert_eq!(window.held(users, 3 * WINDOW), (4, 4), "users who have nothing left make room");
    }

    #[test]
    fn a_long_silence_forgets_everything_and_sums_do_not_overflow() {
        let mut window = Window::new(WINDOW);
        window.add(1, u64::MAX, 0);
        window.add(1, u64::MAX, 1);
        assert_eq!(window.held(1, 2), (u64::MAX, u64::MAX));
        assert_eq!(window.held(1, u64::MAX / 2), (0, 0));
    }
}
