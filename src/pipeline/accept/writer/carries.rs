//! Chooses which incomplete event gives its memory back when all of them take too much.
//!
//! Input: what each connection carries. Output: one of them. Thread: the writer. Nothing can fail.

use std::collections::HashMap;

/// What one connection carries of an event that has not arrived completely.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carry {
    /// The index of the connection.
    pub(super) index: usize,
    pub(super) uid: u32,
    pub(super) bytes: usize,
    /// The round in which it began.
    pub(super) since: u64,
}

/// The carry that goes first. It is of the user whose connections carry most, so that nobody's event goes because of
/// another user; users who are not limited come last. Of that user's carries it is the oldest that is no smaller than
/// their mean: half a line that has been there for hours is not what takes the memory.
pub(super) fn first_to_go(carries: &[Carry], is_limited: impl Fn(u32) -> bool) -> Option<usize> {
    let mut by_user: HashMap<u32, (usize, usize)> = HashMap::new();
    for carry in carries {
        let (bytes, count) = by_user.entry(carry.uid).or_default();
        (*bytes, *count) = (*bytes + carry.bytes, *count + 1);
    }
    let (uid, (bytes, count)) = by_user.into_iter().max_by_key(|(uid, (bytes, _))| (is_limited(*uid), *bytes))?;
    let heavy = carries.iter().filter(|carry| carry.uid == uid && carry.bytes >= bytes / count);
    heavy.min_by_key(|carry| carry.since).map(|carry| carry.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(carries: &[(u32, usize, u64)]) -> Option<usize> {
        let carries: Vec<Carry> =
            (0..).zip(carries).map(|(index, &(uid, bytes, since))| Carry { index, uid, bytes, since }).collect();
        first_to_go(&carries, |uid| uid != 0)
    }

    #[test]
    fn the_user_who_carries_most_gives_memory_back_and_root_last() {
        assert_eq!(first(&[(1000, 50, 1), (1001, 30, 2), (1001, 30, 3)]), Some(1), "60 are more than 50");
        assert_eq!(first(&[(0, 500, 1), (1000, 50, 2)]), Some(1));
        assert_eq!(first(&[(0, 500, 1)]), Some(0));
        assert_eq!(first(&[]), None);
    }

    #[test]
    fn of_one_user_the_oldest_goes_that_is_no_smaller_than_the_mean() {
        assert_eq!(first(&[(1000, 10, 1), (1000, 100, 3), (1000, 100, 2)]), Some(2));
        assert_eq!(first(&[(1000, 10, 3), (1000, 10, 1), (1000, 10, 2)]), Some(1));
    }
}
