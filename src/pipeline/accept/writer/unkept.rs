//! Lists connections that were not stored when they came, and says when to try which of them again.
//!
//! Input: connections that are served, but would not survive this process, because their user or the store had no room
//! for them, or because systemd was to be spared. Output: the same connections, stored. Thread: the writer. Failure:
//! there is still no room. Then the next try comes later.
//!
//! A try takes at most [`TRIES`] steps, whatever the number of connections, and takes the users in turn, so that no
//! user keeps the others from being tried. While no try stores anything, the tries become rare.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::pipeline::accept::connection::stored::Retry;

/// The first try comes after this time. A connection that is shorter costs systemd nothing.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest time between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Connections of one try.
const TRIES: usize = 64;

/// The connections of one writer that are served and not stored.
#[derive(Debug, Default)]
pub(super) struct Unkept {
    /// Each with its user, and its index.
    connections: BTreeSet<(u32, u32)>,
    /// The user with whom the next try begins.
    first_uid: u32,
    /// When the next try is due, and the time since the one before. None while there are no connections.
    next: Option<(Instant, Duration)>,
}

impl Unkept {
    pub(super) fn add(&mut self, uid: u32, index: u32) {
        self.connections.insert((uid, index));
        self.next.get_or_insert_with(|| (Instant::now() + PAUSE_MIN, PAUSE_MIN));
    }

    /// The connection has ended. Returns whether it was here.
    pub(super) fn forget(&mut self, uid: u32, index: u32) -> bool {
        let was_here = self.connections.remove(&(uid, index));
        if self.connections.is_empty() {
            self.next = None;
        }
        was_here
    }

    /// When the next try is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next.map(|(due, _)| due)
    }

    pub(super) fn count(&self) -> usize {
        self.connections.len()
    }

    /// The first connection at this place or after it, in the order of users.
    fn next_from(&self, place: (u32, u32)) -> Option<(u32, u32)> {
        self.connections.range(place..).next().copied()
    }

    /// Tries to store connections. `store` tries one.
    pub(super) fn try_again(&mut self, now: Instant, mut store: impl FnMut(u32) -> Retry) {
        let Some((due, pause)) = self.next else { return };
        if now < due {
            return;
        }
        let (mut place, mut has_wrapped, mut is_any_done) = ((self.first_uid, 0), false, false);
        for _ in 0..TRIES {
            let Some((uid, index)) = self.next_from(place) else {
                if std::mem::replace(&mut has_wrapped, true) {
                    break;
                }
                place = (0, 0);
                continue;
            };
            if has_wrapped && uid >= self.first_uid {
                break;
            }
            match store(index) {
                Retry::Done => {
                    self.connections.remove(&(uid, index));
                    is_any_done = true;
                    place = (uid, index);
                }
                // What its user has left is not enough for another one either.
                Retry::Later if uid == u32::MAX => place = (0, 0),
                Retry::Later => place = (uid + 1, 0),
            }
        }
        // A user of whom some are left waits until the others have had their turn.
        self.first_uid = if place.1 == 0 { place.0 } else { place.0.wrapping_add(1) };
        let pause = if is_any_done { PAUSE_MIN } else { (2 * pause).min(PAUSE_MAX) };
        self.next = (!self.connections.is_empty()).then(|| (now + pause, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries until `end`, and returns when each connection was tried, in milliseconds.
    fn tries(unkept: &mut Unkept, end: Duration, mut store: impl FnMut(u32) -> Retry) -> Vec<(u64, u32)> {
        // From when the first was added on, however long ago that is by now.
        let (begin, mut tried) = (unkept.due().map_or_else(Instant::now, |due| due - PAUSE_MIN), Vec::new());
        while let Some(due) = unkept.due().filter(|due| *due <= begin + end) {
            let ms = due.saturating_duration_since(begin).as_millis() as u64;
            unkept.try_again(due, |index| {
                tried.push((ms, index));
                store(index)
            });
        }
        tried
    }

    #[test]
    fn users_are_tried_in_turn_and_each_until_it_gets_no_more() {
        let mut unkept = Unkept::default();
        (0..1000).for_each(|index| unkept.add(7, index));
        [(3, 1000), (9, 1001), (u32::MAX, 1002)].iter().for_each(|(uid, index)| unkept.add(*uid, *index));
        let mut left = 3;
        let tried = tries(&mut unkept, PAUSE_MIN, |index| match index {
            0..1000 if left == 0 => Retry::Later,
            0..1000 => {
                left -= 1;
                Retry::Done
            }
            _ => Retry::Done,
        });
        let tried: Vec<u32> = tried.into_iter().map(|(_, index)| index).collect();
        assert_eq!((tried, unkept.count()), (vec![1000, 0, 1, 2, 3, 1001, 1002], 997));
    }

    #[test]
    fn one_try_is_bounded_and_the_next_begins_with_the_next_user() {
        let mut unkept = Unkept::default();
        (0..1000).for_each(|index| unkept.add(7, index));
        unkept.add(9, 1000);
        let tried = tries(&mut unkept, 2 * PAUSE_MIN, |_| Retry::Done);
        assert_eq!((tried[..TRIES].last().unwrap().1, tried[TRIES].1), (TRIES as u32 - 1, 1000));
        assert!(tried.len() <= 2 * TRIES && tried.last().unwrap().1 >= TRIES as u32);
    }

    #[test]
    fn tries_in_vain_become_rare_and_end_with_the_last_connection() {
        let mut unkept = Unkept::default();
        unkept.add(7, 0);
        let vain = tries(&mut unkept, Duration::from_secs(60), |_| Retry::Later);
        assert!((10..=20).contains(&vain.len()), "{vain:?}");
        assert!(unkept.forget(7, 0) && !unkept.forget(7, 0));
        assert_eq!((unkept.due(), unkept.count()), (None, 0));
        unkept.add(7, 1);
        let soon = tries(&mut unkept, PAUSE_MIN + Duration::from_millis(1), |_| Retry::Done);
        assert_eq!((soon.len(), unkept.due()), (1, None));
    }
}
