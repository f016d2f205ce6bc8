//! Chooses which incomplete events give their memory back when all of them take too much.
//!
//! Input: what each connection carries, and how much is to be given back. Output: some of them. Thread: the writer.
//! Nothing can fail.
//!
//! One look at all connections is enough for many that go: a user with a hundred thousand connections could otherwise
//! have the writer look at all of them for each few bytes that it sends.

use std::collections::{BinaryHeap, HashMap};

/// A user gives back at least one part in this many of what is to be given back, before another one is looked at.
const PARTS: usize = 8;

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

/// The carries that go, so that at least `excess_bytes` are given back. They are of the user whose connections carry
/// most, so that nobody's event goes because of another user; users who are not limited come last. Of that user's
/// carries they are the oldest that are no smaller than their mean: half a line that has been there for hours is not
/// what takes the memory.
pub(super) fn to_go(carries: &[Carry], mut excess_bytes: usize, is_limited: impl Fn(u32) -> bool) -> Vec<usize> {
    let mut by_user: HashMap<u32, Vec<Carry>> = HashMap::new();
    for carry in carries {
        by_user.entry(carry.uid).or_default().push(*carry);
    }
    let mut heaviest: BinaryHeap<(bool, usize, u32)> =
        by_user.iter().map(|(uid, carries)| (is_limited(*uid), sum(carries), *uid)).collect();
    let part = excess_bytes.div_ceil(PARTS);
    let mut going = Vec::new();
    while excess_bytes > 0
        && let Some((is_limited, bytes, uid)) = heaviest.pop()
    {
        // Until another user is the heaviest.
        let more = match heaviest.peek() {
            Some((limited, next, _)) if *limited == is_limited => (bytes - next).max(part),
            _ => bytes,
        };
        let Some(carries) = by_user.get_mut(&uid) else { continue };
        let given = give_back(carries, more.min(excess_bytes), &mut going);
        excess_bytes = excess_bytes.saturating_sub(given);
        if bytes > given {
            heaviest.push((is_limited, bytes - given, uid));
        }
    }
    going
}

/// Moves the oldest carries that are no smaller than the mean to `going`, until `bytes` are given back, or none of them
/// is left. Returns how many bytes they have.
fn give_back(carries: &mut Vec<Carry>, bytes: usize, going: &mut Vec<usize>) -> usize {
    let mean = sum(carries) / carries.len().max(1);
    let (mut heavy, light): (Vec<Carry>, Vec<Carry>) = carries.iter().partition(|carry| carry.bytes >= mean);
    heavy.sort_by_key(|carry| carry.since);
    let (mut given, mut count) = (0, 0);
    while given < bytes && count < heavy.len() {
        given += heavy[count].bytes;
        going.push(heavy[count].index);
        count += 1;
    }
    *carries = light;
    carries.extend_from_slice(&heavy[count..]);
    given
}

fn sum(carries: &[Carry]) -> usize {
    carries.iter().map(|carry| carry.bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn going(carries: &[(u32, usize, u64)], excess_bytes: usize) -> Vec<usize> {
        let carries: Vec<Carry> =
            (0..).zip(carries).map(|(index, &(uid, bytes, since))| Carry { index, uid, bytes, since }).collect();
        to_go(&carries, excess_bytes, |uid| uid != 0)
    }

    #[test]
    fn the_user_who_carries_most_gives_memory_back_and_root_last() {
        assert_eq!(going(&[(1000, 50, 1), (1001, 30, 2), (1001, 30, 3)], 1), [1], "60 are more than 50");
        assert_eq!(going(&[(0, 500, 1), (1000, 50, 2)], 1), [1]);
        assert_eq!(going(&[(0, 500, 1), (1000, 50, 2)], 51), [1, 0]);
        assert_eq!(going(&[(0, 500, 1)], 1), [0]);
        assert!(going(&[], 1).is_empty() && going(&[(1000, 50, 1)], 0).is_empty());
    }

    #[test]
    fn of_one_user_the_oldest_goes_that_is_no_smaller_than_the_mean() {
        assert_eq!(going(&[(1000, 10, 1), (1000, 100, 3), (1000, 100, 2)], 1), [2]);
        assert_eq!(going(&[(1000, 10, 3), (1000, 10, 1), (1000, 10, 2)], 1), [1]);
        assert_eq!(going(&[(1000, 10, 3), (1000, 10, 1), (1000, 10, 2)], 20), [1, 2]);
    }

    #[test]
    fn as_many_go_as_are_asked_for_and_first_those_of_the_user_who_carries_most() {
        // Of user 1, 64 of a thousand bytes; of user 2, 32.
        let carries: Vec<_> = (0..96).map(|number| (if number < 64 { 1 } else { 2 }, 1000, number)).collect();
        assert_eq!(going(&carries, 32_000), (0..32).collect::<Vec<_>>(), "then both have the same");
        let more = going(&carries, 40_000);
        // Of two that have the same, one gives back an eighth of it all before the other one's turn.
        assert_eq!((more.len(), more.iter().filter(|index| **index >= 64).count()), (40, 5));
        assert_eq!(going(&carries, usize::MAX).len(), 96);
    }

    #[test]
    fn a_hundred_thousand_small_carries_are_looked_at_once_for_all_that_go() {
        let carries: Vec<Carry> =
            (0..100_000).map(|index| Carry { index, uid: index as u32 % 3, bytes: 300, since: index as u64 }).collect();
        let looks = std::cell::Cell::new(0);
        let going = to_go(&carries, 300 * 10_000, |_| {
            looks.set(looks.get() + 1);
            true
        });
        assert_eq!((going.len(), looks.get()), (10_000, 3), "each user is looked up once");
    }
}
