//! How far each ring has been taken, for the next process: memory that systemd's store keeps.
//!
//! Enters: rings that begin and end, and each publish of what was taken from them. Leaves: for the next process, whose each ring is
//! and how far it was published. The ring's writer, or whoever holds the table of rings. What can fail: there is no memory; or
//! what the previous process left is of another version, and says nothing then.
//!
//! ```text
//! word 0..128      magic, version, rows, and nothing
//! 128 words a row  in-use, capacity, position (4), spot (2), position if that was published (4), bytes of the source record,
//!                  nothing; from 16 on the source record
//! ```
//!
//! The ring itself cannot say it, for its other end can write there. The steps are those of the sessions (see
//! `frames/book`): position-if and spot, the publish, position, no spot.
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `ring_book` | [`RingTable::begin`], [`RingTable::about_to`], [`RingTable::settle`] | the next process, after this process is dead | each step is in memory before the next | the next process believes in a step whose predecessor never came: an event twice, or never |

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use dbuf_wire::ring::Position;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::pipeline::accept::limits::RINGS_MAX;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::SOURCE_BYTES_MAX;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sys::mapping::fix_size;
use crate::sys::words::Words;

const MAGIC: u64 = u64::from_le_bytes(*b"dbufring");
const VERSION: u64 = 1;
const ROW_WORDS: usize = 128;
const WORDS: usize = ROW_WORDS * (1 + RINGS_MAX);

const IN_USE: usize = 0;
const POSITION: usize = 1;
const SPOT: usize = 5;
const SPOT_PLACE: usize = 6;
const POSITION_IF: usize = 7;
const SOURCE_BYTES: usize = 11;
const SOURCE: usize = 16;

const _: () = assert!(SOURCE_BYTES_MAX <= (ROW_WORDS - SOURCE) * 8);

/// The memory.
#[derive(Debug)]
pub(crate) struct RingTable(Words);

/// A ring as the next process finds it.
#[derive(Debug)]
pub(crate) struct FoundRing {
    /// Whose it is; the tag is its name.
    pub(crate) identity: Identity,
    /// How far it was published.
    pub(crate) position: Position,
}

fn to_words(position: &Position) -> [u64; 4] {
    [position.tail, position.events, position.lost.0, position.lost.1]
}

fn of_words([tail, events, lost_events, lost_bytes]: [u64; 4]) -> Position {
    Position { tail, events, lost: (lost_events, lost_bytes) }
}

impl RingTable {
    /// An empty one, and its memfd.
    pub(crate) fn new() -> io::Result<(Self, OwnedFd)> {
        let memory = memfd_create("dbufd-rings", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        fix_size(memory.as_fd(), WORDS * size_of::<u64>())?;
        let words = Words::of_sparse_memory(memory.as_fd(), WORDS)?;
        for (word, value) in words.all().iter().zip([MAGIC, VERSION, RINGS_MAX as u64]) {
            // Relaxed: the memory is kept only when this is done.
            word.store(value, Ordering::Relaxed);
        }
        Ok((Self(words), memory))
    }

    /// What the previous process left; None if it is of another version.
    pub(crate) fn from_previous(memory: &OwnedFd) -> Option<Self> {
        let words = Words::of_sparse_memory(memory.as_fd(), WORDS).ok()?;
        let mut is_ours = words.all().iter().zip([MAGIC, VERSION, RINGS_MAX as u64]);
        // edge `ring_book`, acquiring: the process that wrote it is dead, so all that it wrote is there; Relaxed would do.
        is_ours.all(|(word, value)| word.load(Ordering::Acquire) == value).then_some(Self(words))
    }

    /// The ring of a row; None if there is none. `was_published` says what became of a note.
    pub(crate) fn find(&self, row: u32, was_published: &dyn Fn(PublishPosition) -> bool) -> Option<FoundRing> {
        let words = self.row(row);
        // edge `ring_book`, acquiring: as above.
        let get = |at: usize| words[at].load(Ordering::Acquire);
        if get(IN_USE) == 0 {
            return None;
        }
        let four = |at: usize| of_words([get(at), get(at + 1), get(at + 2), get(at + 3)]);
        let published = PublishPosition::from_words([get(SPOT), get(SPOT_PLACE)]).is_some_and(was_published);
        let position = four(if published { POSITION_IF } else { POSITION });
        // Decided once: when the buffer goes on, the spot means something else.
        self.settle(row, &position);
        let bytes = usize::try_from(get(SOURCE_BYTES)).ok().filter(|bytes| *bytes <= SOURCE_BYTES_MAX)?;
        let record: Vec<u8> = (SOURCE..ROW_WORDS).flat_map(|at| get(at).to_le_bytes()).take(bytes).collect();
        Some(FoundRing { identity: Identity::from_record(&record)?, position })
    }

    fn row(&self, row: u32) -> &[AtomicU64] {
        let at = ROW_WORDS * (1 + row as usize);
        &self.0.all()[at..at + ROW_WORDS]
    }

    /// A ring begins in a row that nobody uses.
    pub(crate) fn begin(&self, row: u32, identity: &Identity) {
        let words = self.row(row);
        self.settle(row, &Position::default());
        let record = identity.to_record();
        for (word, bytes) in words[SOURCE..].iter().zip(record.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            // Relaxed, here and below: the store that makes the row one in use releases them.
            word.store(u64::from_le_bytes(whole), Ordering::Relaxed);
        }
        words[SOURCE_BYTES].store(record.len() as u64, Ordering::Relaxed);
        // edge `ring_book`, releasing: a row in use has its ring's beginning, and nothing of an earlier one.
        words[IN_USE].store(1, Ordering::Release);
    }

    /// A ring has ended.
    pub(crate) fn forget(&self, row: u32) {
        // edge `ring_book`, releasing: what begins in the row later comes after this.
        self.row(row)[IN_USE].store(0, Ordering::Release);
    }

    /// What was taken up to `position` is about to be published at `spot`.
    pub(crate) fn about_to(&self, row: u32, spot: PublishPosition, position: &Position) {
        let words = self.row(row);
        let [generation, place] = spot.to_words();
        for (word, value) in words[POSITION_IF..].iter().zip(to_words(position)) {
            // Relaxed: the store of the spot releases them. They said nothing until then.
            word.store(value, Ordering::Relaxed);
        }
        words[SPOT_PLACE].store(place, Ordering::Relaxed);
        // edge `ring_book`, releasing: whoever finds the spot finds what goes with it.
        words[SPOT].store(generation, Ordering::Release);
    }

    /// Everything up to `position` is published, or will never be.
    pub(crate) fn settle(&self, row: u32, position: &Position) {
        let words = self.row(row);
        for (word, value) in words[POSITION..].iter().zip(to_words(position)) {
            // edge `ring_book`, releasing: after the publish. Until the spot is gone its own position counts.
            word.store(value, Ordering::Release);
        }
        // edge `ring_book`, releasing: the note goes when it is true without it.
        words[SPOT].store(0, Ordering::Release);
    }

    /// The publish that was noted has failed: nothing of it counts.
    pub(crate) fn take_back(&self, row: u32) {
        // edge `ring_book`, releasing: before the chunk is let go, which is a read-modify-write that releases.
        self.row(row)[SPOT].store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOT_WORDS: [u64; 2] = [9, 3 << 32 | 64];

    fn position(tail: u64) -> Position {
        Position { tail, events: tail / 16, lost: (tail / 32, tail) }
    }

    fn found(steps: impl Fn(&RingTable), was_published: bool) -> Option<Position> {
        let (ring_table, memory) = RingTable::new().unwrap();
        let identity =
            Identity { pid: 7, tag: b"shop"[..].into(), unit: b"shop.service"[..].into(), ..Identity::default() };
        ring_table.begin(5, &identity);
        steps(&ring_table);
        let next_process = RingTable::from_previous(&memory).unwrap();
        let found = next_process.find(5, &|spot| {
            assert_eq!(spot.to_words(), SPOT_WORDS);
            was_published
        })?;
        assert_eq!(found.identity, identity);
        // It dies at once: the next must not ask again, for the buffer has gone on.
        let again = RingTable::from_previous(&memory).unwrap().find(5, &|_| panic!("asked again")).unwrap();
        assert_eq!(again.position, found.position);
        assert!(next_process.find(4, &|_| true).is_none(), "nobody's row");
        Some(found.position)
    }

    #[test]
    fn a_process_that_dies_at_any_step_leaves_how_far_the_ring_was_published() {
        let spot = PublishPosition::from_words(SPOT_WORDS).unwrap();
        assert_eq!(found(|_| (), false), Some(position(0)));
        let noted = |ring_table: &RingTable| {
            ring_table.settle(5, &position(64));
            ring_table.about_to(5, spot, &position(128));
        };
        assert_eq!(found(noted, false), Some(position(64)), "the publish never came");
        assert_eq!(found(noted, true), Some(position(128)), "it came, and the note of it did not");
        let taken_back = |ring_table: &RingTable| {
            noted(ring_table);
            ring_table.take_back(5);
        };
        assert_eq!(found(taken_back, true), Some(position(64)), "it failed");
        let settled = |ring_table: &RingTable| {
            noted(ring_table);
            ring_table.settle(5, &position(128));
        };
        assert_eq!(found(settled, false), Some(position(128)));
        assert_eq!(found(|ring_table| ring_table.forget(5), true), None);
    }

    #[test]
    fn memory_of_another_version_is_refused() {
        let (ring_table, memory) = RingTable::new().unwrap();
        // Relaxed: nobody else has it.
        ring_table.0.all()[1].store(2, Ordering::Relaxed);
        assert!(RingTable::from_previous(&memory).is_none());
    }
}
