//! What the next process knows of sessions: memory that systemd's store keeps.
//!
//! Enters: sessions that are opened and forgotten, and each publish of events that are theirs. Leaves: for the next process,
//! how far each was published. The session's writer, or whoever holds the table of sessions. What can fail: there is no
//! memory; or what the previous process left is of another version, and says nothing then.
//!
//! ```text
//! word 0..8        magic, version, rows, and nothing
//! 8 words a row    uid and in-use bit, session (2 words), last, spot (2 words), last if that was published,
//!                  closing: by their order the longest closed is forgotten first; 0 while it is open
//! ```
//!
//! `last` alone would be behind, if the process dies between a publish and the note of it, and the same events would be
//! taken once more. So the spot where they are going to be is noted first (see `buffer::PublishPosition`): the next process looks whether
//! they are there.
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 | last-if, spot | the next process looks at the spot: not published |
//! | 2 | the publish | the next process looks at the spot: published, so last-if holds |
//! | 3 | last | the same |
//! | 4 | no spot | last holds |
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `book` | [`SessionTable::about_to`], [`SessionTable::settle`] | the next process, after this process is dead | each step is in memory before the next | the next process believes in a step whose predecessor never came: an event twice, or never |

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::pipeline::accept::limits::SESSIONS_MAX;
use crate::pipeline::buffer::PublishPosition;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sys::mapping::fix_size;
use crate::sys::words::Words;

const MAGIC: u64 = u64::from_le_bytes(*b"dbufsess");
const VERSION: u64 = 1;
const ROW_WORDS: usize = 8;
const WORDS: usize = ROW_WORDS * (1 + SESSIONS_MAX);
const IN_USE: u64 = 1 << 32;

const USER: usize = 0;
const SESSION_LOW: usize = 1;
const SESSION_HIGH: usize = 2;
const LAST: usize = 3;
const SPOT: usize = 4;
const SPOT_PLACE: usize = 5;
const LAST_IF: usize = 6;
const CLOSING: usize = 7;

/// The memory.
#[derive(Debug)]
pub(crate) struct SessionTable(Words);

/// A row as the next process finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundSession {
    pub(crate) row: u32,
    pub(crate) uid: u32,
    pub(crate) session: u128,
    pub(crate) last: u64,
    /// When it was closed, among all; 0 if it was open.
    pub(crate) closing: u64,
}

impl SessionTable {
    /// An empty one, and its memfd.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let memory = memfd_create("dbufd-sessions", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        fix_size(memory.as_fd(), WORDS * size_of::<u64>())?;
        let words = Words::of_memory(memory.as_fd(), 0, WORDS)?;
        for (word, value) in words.all().iter().zip([MAGIC, VERSION, SESSIONS_MAX as u64]) {
            // Relaxed: the memory is kept only when this is done.
            word.store(value, Ordering::Relaxed);
        }
        Ok((Self(words), memory))
    }

    /// What the previous process left; None if it is of another version. `was_published` says what became of a note.
    pub(crate) fn from_previous(
        memory: &OwnedFd,
        was_published: &dyn Fn(PublishPosition) -> bool,
    ) -> Option<(Self, Vec<FoundSession>)> {
        let words = Words::of_memory(memory.as_fd(), 0, WORDS).ok()?;
        // edge `book`, acquiring: the process that wrote it is dead, so all that it wrote is there; Relaxed would do.
        let is_ours = words.all().iter().zip([MAGIC, VERSION, SESSIONS_MAX as u64]);
        if !is_ours.into_iter().all(|(word, value)| word.load(Ordering::Acquire) == value) {
            return None;
        }
        let session_table = Self(words);
        let found = (0..SESSIONS_MAX as u32).filter_map(|row| session_table.find(row, was_published)).collect();
        Some((session_table, found))
    }

    fn find(&self, row: u32, was_published: &dyn Fn(PublishPosition) -> bool) -> Option<FoundSession> {
        let words = self.row(row);
        // edge `book`, acquiring: as above.
        let [user, low, high, last, spot, place, last_if, closing] =
            [USER, SESSION_LOW, SESSION_HIGH, LAST, SPOT, SPOT_PLACE, LAST_IF, CLOSING]
                .map(|at| words[at].load(Ordering::Acquire));
        if user & IN_USE == 0 {
            return None;
        }
        let published = PublishPosition::from_words([spot, place]).is_some_and(was_published);
        let last = if published { last.max(last_if) } else { last };
        // Decided once: when the buffer goes on, the spot means something else.
        self.settle(row, last);
        Some(FoundSession { row, uid: user as u32, session: u128::from(high) << 64 | u128::from(low), last, closing })
    }

    fn row(&self, row: u32) -> &[AtomicU64] {
        let at = ROW_WORDS * (1 + row as usize);
        &self.0.all()[at..at + ROW_WORDS]
    }

    /// A session begins in a row that nobody uses.
    pub(crate) fn begin(&self, row: u32, uid: u32, session: u128) {
        let words = self.row(row);
        self.settle(row, 0);
        self.opened(row);
        for (at, value) in [(SESSION_LOW, session as u64), (SESSION_HIGH, (session >> 64) as u64)] {
            // Relaxed: the store of USER, which makes the row one in use, releases them.
            words[at].store(value, Ordering::Relaxed);
        }
        // edge `book`, releasing: a row in use has its session, and no note of an earlier one.
        words[USER].store(IN_USE | u64::from(uid), Ordering::Release);
    }

    /// A session is open, perhaps again.
    pub(crate) fn opened(&self, row: u32) {
        self.closed(row, 0);
    }

    /// A session is closed, as this one among all.
    pub(crate) fn closed(&self, row: u32, closing: u64) {
        // Relaxed: an order in which to forget, which hands nothing over.
        self.row(row)[CLOSING].store(closing, Ordering::Relaxed);
    }

    /// A session is forgotten.
    pub(crate) fn forget(&self, row: u32) {
        // edge `book`, releasing: what begins in the row later comes after this.
        self.row(row)[USER].store(0, Ordering::Release);
    }

    /// Events up to `last` are about to be published at `spot`.
    pub(crate) fn about_to(&self, row: u32, spot: PublishPosition, last: u64) {
        let words = self.row(row);
        let [generation, place] = spot.to_words();
        // Relaxed: the store of the spot releases them. It said nothing until then.
        words[LAST_IF].store(last, Ordering::Relaxed);
        words[SPOT_PLACE].store(place, Ordering::Relaxed);
        // edge `book`, releasing: whoever finds the spot finds what goes with it. The publish itself comes later, by a
        // compare-exchange that releases.
        words[SPOT].store(generation, Ordering::Release);
    }

    /// Everything up to `last` is published, or will never be.
    pub(crate) fn settle(&self, row: u32, last: u64) {
        let words = self.row(row);
        // edge `book`, releasing: after the publish.
        words[LAST].store(last, Ordering::Release);
        // edge `book`, releasing: the note goes when it is true without it.
        words[SPOT].store(0, Ordering::Release);
    }

    /// The publish that was noted has failed: nothing of it counts.
    pub(crate) fn take_back(&self, row: u32) {
        // edge `book`, releasing: before the chunk is let go, which is a read-modify-write that releases.
        self.row(row)[SPOT].store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOT: [u64; 2] = [9, 3 << 32 | 64];

    /// What the next process finds of one session, after `steps`.
    fn found(steps: impl Fn(&SessionTable), was_published: bool) -> Vec<(u32, u128, u64)> {
        let (session_table, memory) = SessionTable::new().unwrap();
        session_table.begin(5, 1000, 7 << 70 | 1);
        steps(&session_table);
        let asked = |spot: PublishPosition| {
            assert_eq!(spot.to_words(), SPOT);
            was_published
        };
        let (next_process, found) = SessionTable::from_previous(&memory, &asked).unwrap();
        let found: Vec<_> = found.iter().map(|found| (found.row, found.session, found.last)).collect();
        // It dies at once: the next must not ask again, for the buffer has gone on.
        drop(next_process);
        let again = SessionTable::from_previous(&memory, &|_| panic!("asked again")).unwrap().1;
        assert_eq!(again.iter().map(|found| (found.row, found.session, found.last)).collect::<Vec<_>>(), found);
        found
    }

    #[test]
    fn a_process_that_dies_at_any_step_leaves_how_far_the_session_was_published() {
        let spot = PublishPosition::from_words(SPOT).unwrap();
        let is = |last| vec![(5, 7 << 70 | 1, last)];
        assert_eq!(found(|_| (), false), is(0));
        let noted = |session_table: &SessionTable| {
            session_table.settle(5, 40);
            session_table.about_to(5, spot, 50);
        };
        assert_eq!(found(noted, false), is(40), "the publish never came");
        assert_eq!(found(noted, true), is(50), "it came, and the note of it did not");
        let taken_back = |session_table: &SessionTable| {
            noted(session_table);
            session_table.take_back(5);
        };
        assert_eq!(found(taken_back, true), is(40), "it failed");
        let settled = |session_table: &SessionTable| {
            noted(session_table);
            session_table.settle(5, 50);
        };
        assert_eq!(found(settled, false), is(50));
    }

    #[test]
    fn a_row_that_is_used_again_says_nothing_of_the_session_before() {
        let again = |session_table: &SessionTable| {
            session_table.about_to(5, PublishPosition::from_words(SPOT).unwrap(), 50);
            session_table.forget(5);
            session_table.begin(5, 1, 2);
        };
        assert_eq!(found(again, true), [(5, 2, 0)]);
        assert_eq!(found(|session_table| session_table.forget(5), true), []);
    }

    #[test]
    fn memory_of_another_version_is_refused() {
        let (session_table, memory) = SessionTable::new().unwrap();
        // Relaxed: nobody else has it.
        session_table.0.all()[1].store(2, Ordering::Relaxed);
        assert!(SessionTable::from_previous(&memory, &|_| true).is_none());
    }
}
