//! Keeps how far each ring is published, in memory that outlives the process and that its program cannot reach.
//!
//! Input: rings that begin and end, each publish of their events, and what their programs know. Output: for the next
//! process, the owner of each ring, how far it is published, and which of its events may still be lost. Thread: the
//! ring's writer, or the thread that holds the lock of the rings. Failure: there is no memory.
//!
//! ```text
//! 128 words a row  0       1 while the row is in use
//!                  1       bytes of the source record
//!                  2..16   a note of six numbers (`takeover::note`): tail, events, lost events, lost bytes, the
//!                          generation of the latest event, and 1 if the ring has ended
//!                  16..40  events whose fate the program does not know, and what it knows (`takeover::spans`)
//!                  40..    the source record
//! ```

use std::io;
use std::os::fd::OwnedFd;

use dbuf_wire::ring::Position;

use crate::pipeline::accept::limits::RINGS_MAX;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::SOURCE_BYTES_MAX;
use crate::pipeline::takeover::memory::{Layout, PersistentMemory};
use crate::pipeline::takeover::names::Name;
use crate::pipeline::takeover::note::{self, NOTE, PublishNote};
use crate::pipeline::takeover::spans::{self, Known, PendingSpans, Span};
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::{Relaxed, SeqCst};
use crate::sync::compiler_fence;
use crate::sys::fdstore::FdStore;

const ROW_WORDS: usize = 128;
const NUMBERS: usize = 6;

const IN_USE: usize = 0;
const SOURCE_BYTES: usize = 1;
const NOTE_AT: usize = 2;
const SPANS_AT: usize = NOTE_AT + note::words(NUMBERS);
const SOURCE: usize = SPANS_AT + spans::WORDS;

const _: () = assert!(SOURCE_BYTES_MAX <= (ROW_WORDS - SOURCE) * 8);

const LAYOUT: Layout = Layout {
    label: "dbufd-rings",
    magic: *b"dbufring",
    version: 2,
    extent: RINGS_MAX as u64,
    words: ROW_WORDS * RINGS_MAX,
    bytes: 0,
};

/// The memory of the table.
#[derive(Debug)]
pub struct RingTable(PersistentMemory);

/// How far a ring is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingState {
    pub(crate) position: Position,
    /// The generation of its latest event.
    pub(crate) generation: u64,
    /// Its end is recorded: nothing more must be reported for it.
    pub(crate) has_ended: bool,
}

impl RingState {
    fn to_words(self) -> [u64; NUMBERS] {
        let Position { tail, events, lost } = self.position;
        [tail, events, lost.0, lost.1, self.generation, u64::from(self.has_ended)]
    }

    fn of_words([tail, events, lost_events, lost_bytes, generation, ended]: [u64; NUMBERS]) -> Self {
        let position = Position { tail, events, lost: (lost_events, lost_bytes) };
        Self { position, generation, has_ended: ended != 0 }
    }
}

/// A ring as the next process finds it.
#[derive(Debug, Default)]
pub(crate) struct FoundRing {
    /// Its owner. The tag is the ring's name.
    pub(crate) identity: Identity,
    pub(crate) state: RingState,
    /// Events that its program does not know to be durable.
    pub(crate) pending: Vec<Span>,
    /// What its program knows.
    pub(crate) known: Known,
}

impl RingTable {
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
        Ok(Self(PersistentMemory::take_over(store, &Name::Rings.to_string(), None, &LAYOUT)?.0))
    }

    /// Resolves the notes that the previous process left.
    pub fn resolve(&self, was_published: &dyn Fn(PublishPosition) -> bool) {
        for row in (0..RINGS_MAX as u32).filter(|row| self.is_in_use(*row)) {
            self.note(row).resolve(was_published, |_| ());
        }
    }

    fn is_in_use(&self, row: u32) -> bool {
        // edge `note`, acquiring: if the row is in use, its ring is visible.
        self.row(row)[IN_USE].load(NOTE.acquire()) != 0
    }

    /// The ring of a row; None if there is none.
    pub(crate) fn find(&self, row: u32) -> Option<FoundRing> {
        if !self.is_in_use(row) {
            return None;
        }
        let words = self.row(row);
        // Relaxed: the process that wrote them is dead.
        let get = |at: usize| words[at].load(Relaxed);
        let bytes = usize::try_from(get(SOURCE_BYTES)).ok().filter(|bytes| *bytes <= SOURCE_BYTES_MAX)?;
        let record: Vec<u8> = (SOURCE..ROW_WORDS).flat_map(|at| get(at).to_le_bytes()).take(bytes).collect();
        let state = RingState::of_words(self.note(row).values());
        let spans = self.spans(row);
        let pending = spans.all(state.position.events, state.generation);
        Some(FoundRing { identity: Identity::from_record(&record)?, state, pending, known: spans.known() })
    }

    fn row(&self, row: u32) -> &[AtomicU64] {
        &self.0.words()[ROW_WORDS * row as usize..][..ROW_WORDS]
    }

    fn note(&self, row: u32) -> PublishNote<'_, NUMBERS> {
        PublishNote::new(&self.row(row)[NOTE_AT..SPANS_AT])
    }

    fn spans(&self, row: u32) -> PendingSpans<'_> {
        PendingSpans::new(&self.row(row)[SPANS_AT..SOURCE])
    }

    /// Begins a ring in a free row.
    pub(crate) fn begin(&self, row: u32, identity: &Identity) {
        let words = self.row(row);
        self.commit(row, &RingState::default());
        self.spans(row).clear();
        let record = identity.to_record();
        for (word, bytes) in words[SOURCE..].iter().zip(record.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            // Relaxed, here and below: the store that puts the row in use releases them.
            word.store(u64::from_le_bytes(whole), Relaxed);
        }
        words[SOURCE_BYTES].store(record.len() as u64, Relaxed);
        // edge `note`, releasing: a thread that sees the row in use sees its ring's beginning, and nothing of an
        // earlier ring.
        words[IN_USE].store(1, NOTE.release());
    }

    /// Ends a ring.
    pub(crate) fn forget(&self, row: u32) {
        // edge `note`, releasing: what begins in the row later is visible only after this.
        self.row(row)[IN_USE].store(0, NOTE.release());
    }

    /// Notes that the ring will be in `state` once the publish at `position` has come.
    pub(crate) fn prepare(&self, row: u32, position: PublishPosition, state: &RingState) {
        let note = self.note(row);
        let published = RingState::of_words(note.values());
        let spans = self.spans(row);
        spans.before_publish(position.generation(), published.position.events, published.generation);
        note.prepare(position, state.to_words());
    }

    /// Notes that the ring is in `state`.
    pub(crate) fn commit(&self, row: u32, state: &RingState) {
        self.note(row).commit(state.to_words());
    }

    /// Notes that the publish has failed, so that nothing of it counts.
    pub(crate) fn abort(&self, row: u32) {
        self.note(row).abort();
    }

    /// Notes what the program is about to learn about its events.
    pub(crate) fn known(&self, row: u32, known: Known) {
        self.spans(row).note_known(known);
        // Only for the compiler: the program is told in another memory, after the steps of edge `note`. x86-64 keeps
        // the order of stores.
        compiler_fence(SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(tail: u64, generation: u64) -> RingState {
        let position = Position { tail, events: tail / 16, lost: (tail / 32, tail) };
        RingState { position, generation, has_ended: false }
    }

    fn found(steps: impl Fn(&RingTable), was_published: bool) -> Option<FoundRing> {
        let table = RingTable::new().unwrap();
        let identity =
            Identity { pid: 7, tag: b"shop"[..].into(), unit: b"shop.service"[..].into(), ..Identity::default() };
        table.begin(5, &identity);
        steps(&table);
        let next = RingTable::inherit(table.0.descriptor().try_clone_to_owned().unwrap()).unwrap();
        next.resolve(&|_| was_published);
        assert!(next.find(4).is_none(), "a free row");
        let found = next.find(5)?;
        assert_eq!(found.identity, identity);
        Some(found)
    }

    #[test]
    fn the_next_process_finds_how_far_a_ring_is_published_and_in_which_generations() {
        let position = |generation| PublishPosition::from_words([generation, 3 << 32 | 64]).unwrap();
        let noted = |table: &RingTable| {
            table.prepare(5, position(9), &state(64, 9));
            table.commit(5, &state(64, 9));
            table.prepare(5, position(10), &state(128, 10));
        };
        let span = |generation, sequences| Span { generations: (generation, generation), sequences };
        let of_not = found(noted, false).unwrap();
        assert_eq!((of_not.state, &of_not.pending[..]), (state(64, 9), &[span(9, (1, 4))][..]));
        let of_came = found(noted, true).unwrap();
        assert_eq!((of_came.state, of_came.pending), (state(128, 10), vec![span(9, (1, 4)), span(10, (5, 8))]));
        assert!(found(|table| table.forget(5), true).is_none());
        let ended = |table: &RingTable| table.prepare(5, position(9), &RingState { has_ended: true, ..state(0, 9) });
        assert!(found(ended, true).unwrap().state.has_ended && !found(ended, false).unwrap().state.has_ended);
    }
}
