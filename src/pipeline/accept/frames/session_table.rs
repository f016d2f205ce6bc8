//! Keeps how far each framed session is published, in memory that outlives the process.
//!
//! Input: sessions that open and are forgotten, each publish of their events, and what their clients know. Output: for
//! the next process, how far each session is published, and which of its events may still be lost. Thread: the
//! session's writer, or the thread that holds the lock of the sessions. Failure: there is no memory.
//!
//! ```text
//! 40 words a row   0      user id, and a bit that says that the row is in use
//!                  1, 2   session
//!                  3      closing: by their order the longest closed is forgotten first; 0 while it is open
//!                  4..10  a note of two numbers: the last event, and its generation (`takeover::note`)
//!                  10..34 events whose fate the client does not know (`takeover::spans`)
//! ```

use std::io;
use std::os::fd::OwnedFd;

use crate::pipeline::accept::limits::SESSIONS_MAX;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::takeover::memory::{Layout, PersistentMemory};
use crate::pipeline::takeover::names::Name;
use crate::pipeline::takeover::note::{self, NOTE, PublishNote};
use crate::pipeline::takeover::spans::{self, Known, PendingSpans, Span};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sys::fdstore::FdStore;

const ROW_WORDS: usize = 40;
const IN_USE: u64 = 1 << 32;

const USER: usize = 0;
const SESSION_LOW: usize = 1;
const SESSION_HIGH: usize = 2;
const CLOSING: usize = 3;
const NOTE_AT: usize = 4;
const SPANS_AT: usize = NOTE_AT + note::words(2);

const _: () = assert!(SPANS_AT + spans::WORDS <= ROW_WORDS);

const LAYOUT: Layout = Layout {
    label: "dbufd-sessions",
    magic: *b"dbufsess",
    version: 2,
    extent: SESSIONS_MAX as u64,
    words: ROW_WORDS * SESSIONS_MAX,
    bytes: 0,
};

/// The memory of the table.
#[derive(Debug)]
pub struct SessionTable(PersistentMemory);

/// A row as the next process finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundSession {
    pub(crate) row: u32,
    pub(crate) uid: u32,
    pub(crate) session: u128,
    pub(crate) last: u64,
    /// Events that the client does not know to be durable.
    pub(crate) pending: Vec<Span>,
    /// Up to this event the client knows which events came to a file.
    pub(crate) losses: u64,
    /// The position of its closing among all closings; 0 if it was open.
    pub(crate) closing: u64,
}

impl SessionTable {
    /// Creates an empty table that ends with the process.
    #[cfg(test)]
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(PersistentMemory::create(&LAYOUT)?))
    }

    /// Opens the table that the previous process left. None if it has another version.
    #[must_use]
    pub fn inherit(memory: OwnedFd) -> Option<Self> {
        PersistentMemory::inherit(memory, &LAYOUT).map(Self)
    }

    /// Creates an empty table that `store` keeps.
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn create(store: &FdStore) -> io::Result<Self> {
        Ok(Self(PersistentMemory::take_over(store, &Name::Sessions.to_string(), None, &LAYOUT)?.0))
    }

    /// Resolves the notes that the previous process left.
    pub fn resolve(&self, was_published: &dyn Fn(PublishPosition) -> bool) {
        for row in (0..SESSIONS_MAX as u32).filter(|row| self.is_in_use(*row)) {
            self.note(row).resolve(was_published, |_| ());
        }
    }

    /// The known sessions.
    pub(crate) fn found(&self) -> Vec<FoundSession> {
        (0..SESSIONS_MAX as u32).filter(|row| self.is_in_use(*row)).map(|row| self.find(row)).collect()
    }

    fn is_in_use(&self, row: u32) -> bool {
        // edge `note`, acquiring: if the row is in use, its session is visible.
        self.row(row)[USER].load(NOTE.acquire()) & IN_USE != 0
    }

    fn find(&self, row: u32) -> FoundSession {
        let words = self.row(row);
        // Relaxed: the process that wrote them is dead.
        let [user, low, high, closing] = [USER, SESSION_LOW, SESSION_HIGH, CLOSING].map(|at| words[at].load(Relaxed));
        let [last, generation] = self.note(row).values();
        let spans = self.spans(row);
        let (pending, losses) = (spans.all(last, generation), spans.known().losses_known_to);
        let session = u128::from(high) << 64 | u128::from(low);
        FoundSession { row, uid: user as u32, session, last, pending, losses, closing }
    }

    fn row(&self, row: u32) -> &[AtomicU64] {
        &self.0.words()[ROW_WORDS * row as usize..][..ROW_WORDS]
    }

    fn note(&self, row: u32) -> PublishNote<'_, 2> {
        PublishNote::new(&self.row(row)[NOTE_AT..SPANS_AT])
    }

    fn spans(&self, row: u32) -> PendingSpans<'_> {
        PendingSpans::new(&self.row(row)[SPANS_AT..][..spans::WORDS])
    }

    /// Begins a session in a free row.
    pub(crate) fn begin(&self, row: u32, uid: u32, session: u128) {
        let words = self.row(row);
        self.note(row).commit([0, 0]);
        self.spans(row).clear();
        self.opened(row);
        for (at, value) in [(SESSION_LOW, session as u64), (SESSION_HIGH, (session >> 64) as u64)] {
            // Relaxed: the store of USER, which puts the row in use, releases them.
            words[at].store(value, Relaxed);
        }
        // edge `note`, releasing: a thread that sees the row in use sees its session, and no note of an earlier one.
        words[USER].store(IN_USE | u64::from(uid), NOTE.release());
    }

    /// Marks a session as open, perhaps again.
    pub(crate) fn opened(&self, row: u32) {
        self.closed(row, 0);
    }

    /// Marks a session as closed. `closing` is its position among all closings.
    pub(crate) fn closed(&self, row: u32, closing: u64) {
        // Relaxed: the order only decides which session is forgotten. It publishes no other data.
        self.row(row)[CLOSING].store(closing, Relaxed);
    }

    /// Forgets a session.
    pub(crate) fn forget(&self, row: u32) {
        // edge `note`, releasing: what begins in the row later is visible only after this.
        self.row(row)[USER].store(0, NOTE.release());
    }

    /// Notes that events up to `last` are about to be published at `position`.
    pub(crate) fn prepare(&self, row: u32, position: PublishPosition, last: u64) {
        let note = self.note(row);
        let [published, generation] = note.values();
        self.spans(row).before_publish(position.generation(), published, generation);
        note.prepare(position, [last, position.generation()]);
    }

    /// Notes that events up to `last` are published, the latest in `generation`.
    pub(crate) fn commit(&self, row: u32, last: u64, generation: u64) {
        self.note(row).commit([last, generation]);
    }

    /// Notes that the publish has failed, so that nothing of it counts.
    pub(crate) fn abort(&self, row: u32) {
        self.note(row).abort();
    }

    /// Notes what the client knows of its events.
    pub(crate) fn known(&self, row: u32, known: Known) {
        self.spans(row).note_known(known);
    }

    /// The memory, for a test that acts as the next process.
    #[cfg(test)]
    pub(crate) fn descriptor(&self) -> OwnedFd {
        self.0.descriptor().try_clone_to_owned().expect("a descriptor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(generation: u64) -> PublishPosition {
        PublishPosition::from_words([generation, 3 << 32 | 64]).unwrap()
    }

    /// What the next process finds after `steps` of one session.
    fn found(steps: impl Fn(&SessionTable), was_published: bool) -> Vec<FoundSession> {
        let table = SessionTable::new().unwrap();
        table.begin(5, 1000, 7 << 70 | 1);
        steps(&table);
        let next = SessionTable::inherit(table.descriptor()).unwrap();
        next.resolve(&|_| was_published);
        next.found()
    }

    #[test]
    fn the_next_process_finds_how_far_a_session_is_published_and_in_which_generations() {
        let steps = |table: &SessionTable| {
            table.prepare(5, position(9), 40);
            table.commit(5, 40, 9);
            table.prepare(5, position(10), 50);
        };
        let span = |generation, sequences| Span { generations: (generation, generation), sequences };
        let of_not = &found(steps, false)[0];
        assert_eq!((of_not.last, &of_not.pending[..]), (40, &[span(9, (1, 40))][..]), "the publish never came");
        let of_came = &found(steps, true)[0];
        assert_eq!((of_came.row, of_came.uid, of_came.session, of_came.last), (5, 1000, 7 << 70 | 1, 50));
        assert_eq!(of_came.pending, [span(9, (1, 40)), span(10, (41, 50))], "it came, and its commit did not");
        let known = |table: &SessionTable| {
            steps(table);
            table.known(5, Known { fate_known_to: 40, losses_known_to: 40, lost_count: 0 });
        };
        assert_eq!(found(known, true)[0].pending, [span(10, (41, 50))]);
    }

    #[test]
    fn a_row_that_is_used_again_says_nothing_of_the_session_before() {
        let again = |table: &SessionTable| {
            table.prepare(5, position(9), 50);
            table.commit(5, 50, 9);
            table.prepare(5, position(10), 60);
            table.forget(5);
            table.begin(5, 1, 2);
        };
        let found_again = found(again, true);
        assert_eq!((found_again[0].session, found_again[0].last, found_again[0].pending.len()), (2, 0, 0));
        assert_eq!(found(|table| table.forget(5), true), []);
    }
}
