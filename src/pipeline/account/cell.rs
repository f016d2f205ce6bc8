//! Adds figures so that a thread that looks, and the next process, see a publish or a batch as a whole or not at all.
//!
//! Input: figures of one thread, for one producer, under a number. Output: the figures that count. Thread: one thread
//! writes a cell, any thread may look. Nothing here can fail.
//!
//! ```text
//! word 0    which slot counts, in its lowest bit
//!      4..  two slots, each of a number and the figures
//! ```
//!
//! The figures of a publish (or a batch) are prepared in the slot that does not count, under the publish's number. When
//! the publish has come, one store commits them: that slot becomes the one that counts. So a process that dies leaves
//! either sum whole.
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `account` | [`set`], [`SeqLock::change`] | [`get`], [`SeqLock::consistent`]; the next process | each step is in memory before the next | a look sees half a publish or half a batch; the next process counts a publish twice or never |

use dbuf_sync::Edge;
use dbuf_sync::atomic::AtomicU64;

const ACCOUNT: Edge = Edge::new("account");

const SLOTS_AT: usize = 4;

/// Words of a cell of `figures` figures.
pub(super) const fn words(figures: usize) -> usize {
    SLOTS_AT + 2 * (1 + figures)
}

pub(super) fn set(word: &AtomicU64, value: u64) {
    // edge `account`, releasing: a thread that sees this step sees the ones before it. Nothing weaker keeps the steps
    // in order.
    word.store(value, ACCOUNT.release());
}

pub(super) fn get(word: &AtomicU64) -> u64 {
    // edge `account`, acquiring: what belongs to this step is visible. For a thread's own cell Relaxed would do.
    word.load(ACCOUNT.acquire())
}

/// A cell of `F` figures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell<'a, const F: usize>(pub(super) &'a [AtomicU64]);

impl<'a, const F: usize> Cell<'a, F> {
    /// The slot that counts, and the other one.
    #[inline]
    fn slots(&self) -> (&'a [AtomicU64], &'a [AtomicU64]) {
        let first = &self.0[SLOTS_AT..][..1 + F];
        let second = &self.0[SLOTS_AT + 1 + F..][..1 + F];
        if get(&self.0[0]).is_multiple_of(2) { (first, second) } else { (second, first) }
    }

    /// Adds to the figures that will count once `number` is committed. If this is the first addition under the number,
    /// discards what was prepared before. Changes nothing if that number is committed already.
    #[inline]
    pub(super) fn prepare(&self, number: u64, is_first: bool, add: [u64; F]) {
        let (holds, other) = self.slots();
        if get(&holds[0]) == number {
            return;
        }
        let base = if is_first { holds } else { other };
        for ((word, base), add) in other[1..].iter().zip(&base[1..]).zip(add) {
            // It stays at the largest number, because a program with a ring may claim any number of losses.
            set(word, get(base).saturating_add(add));
        }
        set(&other[0], number);
    }

    /// Makes what was prepared under `number` count: the publish or batch has come.
    #[inline]
    pub(super) fn commit(&self, number: u64) {
        let (_, other) = self.slots();
        if get(&other[0]) == number {
            set(&self.0[0], 1 - get(&self.0[0]) % 2);
        }
    }

    /// The figures that count.
    pub(super) fn look(&self) -> [u64; F] {
        let (holds, _) = self.slots();
        std::array::from_fn(|at| get(&holds[1 + at]))
    }

    /// The highest number that is committed or prepared.
    pub(super) fn newest_number(&self) -> u64 {
        let (holds, other) = self.slots();
        get(&holds[0]).max(get(&other[0]))
    }

    /// Forgets all numbers: none is committed, and none is prepared.
    pub(super) fn forget_numbers(&self) {
        let (holds, other) = self.slots();
        set(&other[0], 0);
        set(&holds[0], 0);
    }
}

/// A word that is odd while one thread changes what other threads look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeqLock<'a>(pub(super) &'a AtomicU64);

impl SeqLock<'_> {
    /// Runs `change`. A [`SeqLock::consistent`] look sees all of it or nothing.
    pub(super) fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        // edge `account`, acquiring and releasing: nothing of the change is visible before the turn is odd.
        self.0.fetch_add(1, ACCOUNT.acquire_and_release(ACCOUNT));
        let done = change();
        // edge `account`, releasing: all of it is visible once the turn is even again.
        self.0.fetch_add(1, ACCOUNT.acquire_and_release(ACCOUNT));
        done
    }

    /// Looks until nothing has changed meanwhile, at most `tries` times. Then it returns what it saw last.
    pub(super) fn consistent<T>(&self, tries: usize, look: impl Fn() -> T) -> T {
        for _ in 0..tries {
            let before = get(self.0);
            let seen = look();
            if before.is_multiple_of(2) && get(self.0) == before {
                return seen;
            }
        }
        look()
    }
}

#[cfg(all(test, dbuf_loom))]
mod models {
    use dbuf_sync::{Arc, thread};

    use super::*;

    fn zeros(count: usize) -> Arc<Vec<AtomicU64>> {
        Arc::new((0..count).map(|_| AtomicU64::new(0)).collect())
    }

    #[test]
    fn a_look_sees_a_publish_as_a_whole_or_not_at_all() {
        dbuf_sync::model(|| {
            let memory = zeros(words(2));
            let its = Arc::clone(&memory);
            let writer = thread::spawn(move || {
                let cell = Cell::<2>(&its);
                cell.prepare(1, true, [5, 7]);
                cell.commit(1);
            });
            let seen = Cell::<2>(&memory).look();
            assert!([[0, 0], [5, 7]].contains(&seen), "{seen:?}");
            writer.join().unwrap();
        });
    }

    #[test]
    fn a_consistent_look_sees_a_change_of_two_cells_as_a_whole() {
        dbuf_sync::model(|| {
            let memory = zeros(3);
            let its = Arc::clone(&memory);
            let reader = thread::spawn(move || {
                SeqLock(&its[0]).change(|| {
                    set(&its[1], 1);
                    set(&its[2], 1);
                });
            });
            let turn = SeqLock(&memory[0]);
            let before = get(turn.0);
            let seen = (get(&memory[1]), get(&memory[2]));
            if before.is_multiple_of(2) && get(turn.0) == before {
                assert_eq!(seen.0, seen.1, "half a change");
            }
            reader.join().unwrap();
        });
    }
}
