//! Continues with the buffer that a dead process left in a memfd.
//!
//! Enters: a memfd that the previous process used, and no other. Leaves: the same buffer, with what was published in it
//! and is not in a file yet; generations go on where they stood. Main thread, before any other knows the buffer. What
//! can fail: the memory may be of another version, or fail a check; then nothing of it is trusted, and it is replaced.
//!
//! A process can die between any two of its instructions. What it leaves is one of these, and no other:
//!
//! | generation in | word of a chunk says | means |
//! |---|---|---|
//! | the front half, G | G, n bytes | published, and no more to come |
//! | the back half | G-1, n bytes | the batch that was being persisted, or had been |
//! | the back half | G+1, no bytes | recycled; the exchange of the gate that would have opened it never came |
//! | either | BUSY | a copy was under way: it is behind the bytes that count, and is never finished |
//!
//! The batch of G-1 is done with if `persisted` says G. If it says G-1 the reader died between its write and that word,
//! or before it: then the files know.
//!
//! The front half stays as it is, closed to writers, until the first swap makes it a batch like any other. So a run
//! never holds records of two processes.

use std::os::fd::AsFd;

use super::buffer::DoubleBuffer;
use super::chunk::{AWAITED, BUSY, SPAN_BYTES_MAX, Word};
use super::error::Unreadable;
use super::gate::{Gate, half_of};
use super::half::Memory;
use super::limits::CHUNK_ALIGN;
use super::reader::{Left, Reader};
use super::shared::Shared;
use super::writer::PublishPosition;
use dbuf_sync::atomic::Ordering::Relaxed;
use dbuf_sync::{Arc, CacheLine};

/// The buffer of the previous process, ready for use.
#[derive(Debug)]
pub struct InheritedBuffer {
    /// The buffer.
    pub buffer: DoubleBuffer,
    /// Its reader; [`Reader::inherited`] first.
    pub reader: Reader,
    /// The last generation in which the previous process may have published.
    pub last_generation: u64,
    /// Chunks into which a copy was under way. What was not published of them is not in the buffer.
    pub cut_copies: usize,
}

impl DoubleBuffer {
    /// Of an inherited buffer: whether the claim that the previous process was about to publish at `position` is in it,
    /// or has been. To be asked before the reader does anything.
    #[must_use]
    pub fn was_published(&self, position: PublishPosition) -> bool {
        let Shared { memory, chunks, .. } = &*self.shared;
        if position.word_index >= 2 * chunks {
            return false;
        }
        // Relaxed: the process that wrote it is dead.
        let word = Word(memory.word(position.word_index).load(Relaxed));
        // Of another generation: the chunk was recycled, so its writer had let it go, and not after a publish that
        // failed, for then the note would be gone.
        !word.is_of(position.generation) || word.bytes() > position.before_bytes
    }

    /// Continues with the memory of a previous process that is dead, for up to `writers_max` writers.
    ///
    /// # Errors
    /// [`Unreadable`]; the memory is then as it was.
    pub fn of_previous(memory: impl AsFd, writers_max: usize) -> Result<InheritedBuffer, Unreadable> {
        let memory = Memory::of_previous(memory.as_fd())?;
        let (chunk_bytes, chunks) = memory.sizes();
        if !chunk_bytes.is_multiple_of(CHUNK_ALIGN) || chunks < 2 {
            return Err(Unreadable("its sizes are out of bounds"));
        }
        // Relaxed, here and below: the process that wrote these is dead, and no other thread knows the memory.
        let gate = Gate(memory.gate().load(Relaxed));
        let (generation, persisted) = (gate.generation(), memory.persisted().load(Relaxed));
        if generation == 0 || !(generation - 1..=generation).contains(&persisted) {
            return Err(Unreadable("its generations make no sense"));
        }
        check(&memory, generation)?;
        let (back_is_left, front_is_left) = (persisted < generation, gate.count() > 0);
        let cut_copies = mend(&memory, gate, back_is_left || front_is_left);
        let shared = Arc::new(Shared::new(memory, (chunk_bytes, chunks), generation, writers_max));
        // What new writers publish in a front half that was never used is their own.
        let left = match (back_is_left, front_is_left) {
            (true, _) => Left::Both,
            (false, true) => Left::Front,
            (false, false) => Left::Nothing,
        };
        let reader = Reader::new(Arc::clone(&shared), generation, left);
        let last_generation = if front_is_left { generation } else { generation - 1 };
        Ok(InheritedBuffer { buffer: DoubleBuffer { shared }, reader, last_generation, cut_copies })
    }
}

/// Whether all words are ones that the table above knows.
fn check(memory: &Memory, generation: u64) -> Result<(), Unreadable> {
    let (chunk_bytes, chunks) = memory.sizes();
    for (half, is_front) in [(half_of(generation), true), (half_of(generation + 1), false)] {
        for (chunk, CacheLine(word)) in memory.words(half).iter().enumerate() {
            let word = Word(word.load(Relaxed));
            let bytes_max = ((chunks - chunk) * chunk_bytes).min(SPAN_BYTES_MAX);
            let is_sane = if is_front {
                word.is_of(generation) && word.bytes() <= bytes_max
            } else {
                (word.is_of(generation - 1) && word.bytes() <= bytes_max)
                    || (word.is_of(generation + 1) && word.bytes() == 0)
            };
            if !is_sane {
                return Err(Unreadable("a word of it makes no sense"));
            }
        }
    }
    Ok(())
}

/// Takes away what threads that are gone held, and closes the front half if anything is left. Gives the number of
/// copies that were under way.
fn mend(memory: &Memory, gate: Gate, is_left: bool) -> usize {
    let mut cut_copies = 0;
    for half in 0..2 {
        for CacheLine(word) in memory.words(half) {
            cut_copies += usize::from(Word(word.fetch_and(!(BUSY | AWAITED), Relaxed)).is_busy());
        }
    }
    let taken = if is_left { memory.sizes().1 as u64 } else { 0 };
    memory.gate().store(Gate::opening(gate.generation()).0 + taken, Relaxed);
    memory.turn().store(gate.generation() as u32, Relaxed);
    memory.bell().store(0, Relaxed);
    cut_copies
}

#[cfg(test)]
mod tests;
