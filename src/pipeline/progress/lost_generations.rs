//! Remembers which generations lost something, across the death of the process and for any number of generations.
//!
//! Input: the generations of batches that could not be stored. Output: whether a generation in a range lost something,
//! and whether that was lost after it had been in a file. Thread: the reader and the syncer write and writers ask,
//! under one lock. Failure: there is no memory at the start.
//!
//! ```text
//! word 0   every generation below this one is durable, or lost
//!      1   the highest generation that has been in front
//!      2   the highest lost generation
//!      3   the highest lost generation that is no longer in the window
//!      4   the first generation in a file whose sync has failed, until it is in another file or lost; 0: there is none
//!      5.. the window: one bit for each of the 2^20 generations up to the highest lost one, by generation % 2^20
//!      ..  one such bit more, where a generation was in a file, or may have been, before it was lost
//! ```
//!
//! Why two bits: a sender that was told which of its events reached a file can lose only those, so from then on only
//! losses *in a file* are news to it. Without the second bit, a loss that it knows would be reported again with each
//! neighbouring event that waits for a sync. A generation keeps the kind of loss that was noted first.
//!
//! The window covers 17 minutes at one swap each millisecond, and 35 minutes at one each 2 ms, the default of
//! `buffer.linger`. For older generations it is known that a loss happened, but not in which generation. If a sender
//! does not know what became of events that old, they are reported as lost together with their neighbours. So no
//! acknowledgement ever passes a loss without a report.
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 | what leaves the window: word 3, then its bits | what left counts as an older loss; the new one is not noted |
//! | 2 | the bit of a file | the same; it says nothing without the other |
//! | 3 | the bit, then word 2 | the same; a bit outside of the window counts as an older loss |
//!
//! A batch whose loss was not noted is not done: the next process stores it, or gives it up and notes it again.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use crate::pipeline::takeover::memory::{Layout, PersistentMemory};
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{Relaxed, SeqCst};
use crate::sync::compiler_fence;
use crate::sys::fdstore::FdStore;

/// Generations in the window.
const WINDOW: u64 = 1 << 20;
const DURABLE_BEFORE: usize = 0;
const HIGHEST: usize = 1;
const LAST_LOST: usize = 2;
const FORGOTTEN: usize = 3;
const BROKEN: usize = 4;
const BITS_AT: usize = 5;
/// Distance in words from the bit of a generation to the bit of its loss in a file.
const IN_FILE: usize = (WINDOW / 64) as usize;

const LAYOUT: Layout = Layout {
    label: "dbufd-progress",
    magic: *b"dbufprog",
    version: 2,
    extent: WINDOW,
    words: BITS_AT + 2 * IN_FILE,
    bytes: 0,
};

/// The memory. `Progress::lost_lock` guards words 2, 3 and the window. Words 0 and 1 are single values that need no
/// lock, and word 4 is written under the lock of the sync queue.
#[derive(Debug)]
pub(super) struct LostGenerations(PersistentMemory);

impl LostGenerations {
    /// Creates memory without losses, which ends with the process.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(PersistentMemory::create(&LAYOUT)?))
    }

    /// Opens the memory that the previous process left, or creates memory that `store` keeps under `name`.
    pub(super) fn take_over(store: &FdStore, name: &str, inherited: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self::inherit(PersistentMemory::take_over(store, name, inherited, &LAYOUT)?.0))
    }

    /// What was in a broken file when the previous process died is lost, or may be: the next sync of that file succeeds
    /// and proves nothing.
    fn inherit(memory: PersistentMemory) -> Self {
        let this = Self(memory);
        if let Some(broken) = this.broken() {
            this.note(&(broken..=this.highest().max(this.durable_before())), true);
            this.set_broken(None);
        }
        this
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.0.words()[at]
    }

    fn get(&self, at: usize) -> u64 {
        // Relaxed, here and in `set`: a lock orders them, or only one thread writes. All stores of a dead process are
        // visible.
        self.word(at).load(Relaxed)
    }

    fn set(&self, at: usize, value: u64) {
        self.word(at).store(value, Relaxed);
    }

    pub(super) fn durable_before(&self) -> u64 {
        self.get(DURABLE_BEFORE)
    }

    pub(super) fn set_durable_before(&self, generation: u64) {
        // Relaxed: a maximum that both the reader and the syncer raise.
        self.word(DURABLE_BEFORE).fetch_max(generation, Relaxed);
    }

    pub(super) fn highest(&self) -> u64 {
        self.get(HIGHEST)
    }

    pub(super) fn set_highest(&self, generation: u64) {
        self.set(HIGHEST, generation.max(self.highest()));
    }

    /// Notes that events from this generation on may be in no file although they were written; None: there are no such
    /// events.
    pub(super) fn set_broken(&self, from: Option<u64>) {
        self.set(BROKEN, from.map_or(0, |from| from.max(1)));
    }

    pub(super) fn broken(&self) -> Option<u64> {
        Some(self.get(BROKEN)).filter(|from| *from > 0)
    }

    /// The highest lost generation; 0 if there is none.
    pub(super) fn last(&self) -> u64 {
        self.get(LAST_LOST)
    }

    /// Notes that something of each of these generations is lost, and whether it was, or may have been, in a file.
    /// Looks at each word of the window at most once.
    pub(super) fn note(&self, generations: &RangeInclusive<u64>, in_file: bool) {
        let (from, to) = (*generations.start(), *generations.end());
        if from > to {
            return;
        }
        let last = self.get(LAST_LOST);
        if to > last {
            self.slide(last, to);
        }
        let last = last.max(to);
        let begin = (last + 1).saturating_sub(WINDOW);
        if from < begin {
            self.set(FORGOTTEN, self.get(FORGOTTEN).max(to.min(begin - 1)));
        }
        if to >= begin {
            for (word, mask) in masks(from.max(begin), to) {
                let known = self.get(word);
                if in_file {
                    self.set(word + IN_FILE, self.get(word + IN_FILE) | (mask & !known));
                    // Only for the compiler: step 3 comes after step 2, and x86-64 keeps the order of stores. The
                    // edge `progress` makes both visible to writers.
                    compiler_fence(SeqCst);
                }
                self.set(word, known | mask);
            }
        }
        self.set(LAST_LOST, last);
    }

    /// Moves the window from one that ends with `last` to one that ends with `generation`.
    fn slide(&self, last: u64, generation: u64) {
        let from = (last + 1).max(generation.saturating_sub(WINDOW - 1));
        let leaves = |word: usize, mask: u64| self.get(word) & mask != 0;
        if last + WINDOW <= generation || masks(from, generation).any(|(word, mask)| leaves(word, mask)) {
            // An upper bound: what leaves the window is below its new start.
            let bound = generation.saturating_sub(WINDOW).min(last);
            self.set(FORGOTTEN, self.get(FORGOTTEN).max(bound));
        }
        for (word, mask) in masks(from, generation) {
            self.set(word, self.get(word) & !mask);
            self.set(word + IN_FILE, self.get(word + IN_FILE) & !mask);
        }
    }

    /// Whether something of one of these generations is lost, or may be. With `in_file`, only losses of what was in a
    /// file count. Costs one load if nothing in the range or after it is lost.
    pub(super) fn are_among(&self, generations: &RangeInclusive<u64>, in_file: bool) -> bool {
        let (last, forgotten) = (self.get(LAST_LOST), self.get(FORGOTTEN));
        let (from, to) = (*generations.start(), (*generations.end()).min(last));
        if from > to || last == 0 {
            return false;
        }
        // Even within the window: the process may have died before the window had moved.
        if forgotten > 0 && from <= forgotten {
            return true;
        }
        let from = from.max((last + 1).saturating_sub(WINDOW));
        let kind = if in_file { IN_FILE } else { 0 };
        from <= to && masks(from, to).any(|(word, mask)| self.get(word + kind) & mask != 0)
    }
}

/// The words of the generations from `from` to `to`, and the bits in them. All of them must be in one window.
fn masks(from: u64, to: u64) -> impl Iterator<Item = (usize, u64)> {
    debug_assert!(to - from < WINDOW, "one window");
    (from / 64..=to / 64).map(move |group| {
        let (first, last) = (from.max(group * 64) % 64, to.min(group * 64 + 63) % 64);
        let mask = (u64::MAX << first) & (u64::MAX >> (63 - last));
        (BITS_AT + group as usize % IN_FILE, mask)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(generations: impl IntoIterator<Item = u64>) -> LostGenerations {
        let memory = LostGenerations::new().unwrap();
        generations.into_iter().for_each(|generation| memory.note(&(generation..=generation), false));
        memory
    }

    #[test]
    fn each_lost_generation_is_known_and_its_neighbours_are_not() {
        let memory = lost((1..20_000).map(|number| 2 * number));
        for generation in 1..20_000 {
            assert_eq!(memory.are_among(&(generation..=generation), false), generation > 1 && generation % 2 == 0);
        }
        assert!(memory.are_among(&(39_997..=39_999), false) && !memory.are_among(&(39_999..=u64::MAX), false));
        assert!(!lost([]).are_among(&(0..=u64::MAX), false));
    }

    #[test]
    fn a_loss_that_leaves_the_window_is_never_denied() {
        let memory = lost([7, 9]);
        memory.note(&(WINDOW + 8..=WINDOW + 8), false);
        assert!(memory.are_among(&(5..=5), false), "it may be lost: 7 has left the window");
        assert!(memory.are_among(&(9..=9), false) && !memory.are_among(&(10..=WINDOW), false));
        memory.note(&(5 * WINDOW..=5 * WINDOW), false);
        assert!(
            memory.are_among(&(WINDOW..=WINDOW), false) && !memory.are_among(&(3 * WINDOW..=5 * WINDOW - 1), false)
        );
        memory.note(&(3..=3), false);
        assert!(memory.are_among(&(3..=3), false) && memory.are_among(&(5 * WINDOW..=5 * WINDOW), false));
        assert!(!memory.are_among(&(4 * WINDOW + 1..=5 * WINDOW - 1), false));
    }

    #[test]
    fn a_loss_is_of_one_kind_and_leaves_the_window_whole() {
        let memory = lost([5, 7]);
        memory.note(&(6..=7), true);
        let kinds = |generation| [false, true].map(|in_file| memory.are_among(&(generation..=generation), in_file));
        assert_eq!([5, 6, 7, 8].map(kinds), [[true, false], [true, true], [true, false], [false, false]]);
        memory.note(&(6 + WINDOW..=6 + WINDOW), false);
        assert_eq!(kinds(6 + WINDOW), [true, false], "its bits were those of 6");
        assert_eq!(kinds(5), [true, true], "what has left the window may be of either kind");
    }

    #[test]
    fn a_death_while_the_window_moves_denies_no_loss() {
        let memory = lost([7]);
        memory.slide(7, WINDOW + 8);
        assert!(memory.are_among(&(7..=7), false) && memory.are_among(&(0..=9), false));
        assert!(!memory.are_among(&(8..=u64::MAX), false));
    }

    #[test]
    fn a_range_is_noted_at_once_however_long_it_is() {
        let memory = lost([5]);
        memory.note(&(100..=5_099), false);
        assert!(
            [5, 100, 3_000, 5_099].into_iter().all(|generation| memory.are_among(&(generation..=generation), false))
        );
        assert!(!memory.are_among(&(6..=99), false) && !memory.are_among(&(5_100..=u64::MAX), false));
        // More than the window holds, some of it noted already.
        memory.note(&(0..=1 << 50), false);
        let known = [1, 99, 1 << 40, 1 << 50];
        assert!(known.into_iter().all(|generation| memory.are_among(&(generation..=generation), false)));
        assert!(!memory.are_among(&((1 << 50) + 1..=u64::MAX), false));
        #[expect(clippy::reversed_empty_ranges, reason = "it is what is tried")]
        memory.note(&(u64::MAX..=0), false);
        assert!(!memory.are_among(&((1 << 50) + 1..=u64::MAX), false));
    }

    #[test]
    fn the_next_process_knows_what_the_previous_one_lost() {
        let memory = lost([100, 102]);
        memory.set_durable_before(90);
        memory.set_highest(103);
        let descriptor = memory.0.descriptor().try_clone_to_owned().unwrap();
        drop(memory);
        let memory = LostGenerations::inherit(PersistentMemory::inherit(descriptor, &LAYOUT).unwrap());
        assert!(memory.are_among(&(101..=102), false) && !memory.are_among(&(101..=101), false));
        assert_eq!((memory.durable_before(), memory.highest()), (90, 103));
    }

    #[test]
    fn what_was_in_a_broken_file_when_the_process_died_may_be_lost() {
        for (broken, lost) in [(Some(5), 5..10), (Some(0), 1..10), (None, 0..0)] {
            let memory = LostGenerations::new().unwrap();
            memory.set_highest(9);
            memory.set_broken(Some(3));
            memory.set_broken(broken);
            let mut descriptor = memory.0.descriptor().try_clone_to_owned().unwrap();
            drop(memory);
            // The same for the process after the next one, to which it is not said again.
            for highest in [9, 20] {
                let memory = LostGenerations::inherit(PersistentMemory::inherit(descriptor, &LAYOUT).unwrap());
                let known = |generation: u64| memory.are_among(&(generation..=generation), false);
                assert!((1..=20).all(|generation| known(generation) == lost.contains(&generation)), "{highest}");
                memory.set_highest(20);
                descriptor = memory.0.descriptor().try_clone_to_owned().unwrap();
            }
        }
    }
}
