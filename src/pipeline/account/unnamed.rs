//! Remembers which producers are counted with others, because there was no row of their own for them.
//!
//! Input: producers without a row. Output: whether a producer may get a row. Thread: any, under the account's lock.
//! Nothing can fail.
//!
//! The writers and the reader must count the same events in the same row. So a producer that is counted with others
//! gets no row of its own while a writer still counts it so, or while something unnamed is in memory. A sender that
//! uses a new tag for each event makes a million such producers in a second. So they are not remembered one by one but
//! in groups, by their user and a part of their hash: a producer may get a row if none of its group is left.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::sync::Arc;

/// Groups of one user.
const GROUPS_OF_USER: u64 = 64;
/// Groups of all users, at most. All further producers are in one group.
const GROUPS_MAX: usize = 4096;
/// That group. No user has this number (chown(2)).
const REST: Group = (u32::MAX, 0);

/// A user, and a number below [`GROUPS_OF_USER`].
pub(super) type Group = (u32, u64);

/// The groups that have, or had, producers without a row.
#[derive(Debug, Default)]
pub(super) struct Unnamed(HashMap<Group, Arc<()>>);

impl Unnamed {
    /// The group of a producer of this user.
    pub(super) fn group(uid: u32, producer: &[u8]) -> Group {
        let mut hasher = DefaultHasher::new();
        producer.hash(&mut hasher);
        (uid, hasher.finish() % GROUPS_OF_USER)
    }

    /// What holds the group, if a producer of it may still be counted with others. `is_none_in_memory` says whether
    /// nothing unnamed is in memory.
    pub(super) fn hold_if_busy(&mut self, group: Group, is_none_in_memory: impl Fn() -> bool) -> Option<Arc<()>> {
        for group in [group, REST] {
            if let Some(held) = self.0.get(&group) {
                if Arc::strong_count(held) > 1 || !is_none_in_memory() {
                    return Some(Arc::clone(held));
                }
                self.0.remove(&group);
            }
        }
        None
    }

    /// Makes every group busy until nothing unnamed is in memory: the previous process may have counted any of them so.
    pub(super) fn begin_busy(&mut self) {
        self.0.entry(REST).or_default();
    }

    /// Holds the group for a producer that is counted with others from here on.
    pub(super) fn hold(&mut self, group: Group, is_none_in_memory: impl Fn() -> bool) -> Arc<()> {
        if self.0.len() >= GROUPS_MAX && is_none_in_memory() {
            self.0.retain(|_, held| Arc::strong_count(held) > 1);
        }
        let has_room = self.0.len() < GROUPS_MAX || self.0.contains_key(&group);
        Arc::clone(self.0.entry(if has_room { group } else { REST }).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_busy_while_it_is_held_or_something_is_in_memory() {
        let mut unnamed = Unnamed::default();
        let group = Unnamed::group(7, b"a");
        assert!(unnamed.hold_if_busy(group, || false).is_none());
        let held = unnamed.hold(group, || false);
        assert!(unnamed.hold_if_busy(group, || true).is_some(), "it is held");
        drop(held);
        assert!(unnamed.hold_if_busy(group, || false).is_some(), "something is in memory");
        assert!(unnamed.hold_if_busy(group, || true).is_none());
        assert!(unnamed.0.is_empty());
    }

    #[test]
    fn after_a_takeover_every_group_is_busy_until_nothing_unnamed_is_in_memory() {
        let mut unnamed = Unnamed::default();
        unnamed.begin_busy();
        let group = Unnamed::group(7, b"a");
        assert!(unnamed.hold_if_busy(group, || false).is_some());
        assert!(unnamed.hold_if_busy(group, || true).is_none());
        assert!(unnamed.hold_if_busy(group, || false).is_none(), "only once");
    }

    #[test]
    fn millions_of_producers_take_a_bounded_number_of_groups_and_those_of_other_users_are_free() {
        let mut unnamed = Unnamed::default();
        for number in 0..100_000_u32 {
            let group = Unnamed::group(7, &number.to_le_bytes());
            drop(unnamed.hold(group, || false));
        }
        assert_eq!(unnamed.0.len() as u64, GROUPS_OF_USER);
        assert!(unnamed.hold_if_busy(Unnamed::group(8, b"a"), || false).is_none());
        for uid in 0..10_000 {
            drop(unnamed.hold(Unnamed::group(uid, b"a"), || false));
        }
        assert_eq!(unnamed.0.len(), GROUPS_MAX + 1);
        let late = Unnamed::group(20_000, b"a");
        assert!(unnamed.hold_if_busy(late, || false).is_some(), "it may be one of the rest");
        drop(unnamed.hold(late, || true));
        assert_eq!(unnamed.0.len(), 1, "those that nobody holds make room");
        assert!(unnamed.hold_if_busy(late, || true).is_none());
    }
}
