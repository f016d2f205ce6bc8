//! Continues with the buffer that a dead process left in a memfd.
//!
//! Input: a memfd that the previous process used and no other process uses. Output: the same buffer, with what was
//! published in it and is not in a file yet; generations continue. Thread: the main thread, before any other knows the
//! buffer. Failure: the memory has another version, or fails a check. Then nothing of it is trusted, and it must be
//! replaced.
//!
//! A process can die between any two of its instructions. What it leaves is one of these states, and no other:
//!
//! | generation in | word of a chunk says | means |
//! |---|---|---|
//! | the front half, G | G, n bytes | published, and no more to come |
//! | the back half | G-1, n bytes | the batch that was being persisted, or had been |
//! | the back half | G+1, no bytes | recycled; the exchange of the gate that would have opened it never came |
//! | either | BUSY | a copy was under way: it is behind the bytes that count, and is never finished |
//!
//! `persisted` is the first generation that is not done. If it is G, the batch of G-1 is done. If it is G-1, the
//! process died before it set that word, perhaps after the write. Then the newest batch in the files tells which.
//! `persisted` has all 64 bits of a generation, the gate has the low 40 bits of G, and the words have 32. So G is the
//! number near to `persisted` that has the gate's bits.
//!
//! The front half stays as it is, closed to writers, until the first swap makes it a batch like any other. So a run
//! never holds records of two processes.

use std::os::fd::AsFd;

use super::buffer::DoubleBuffer;
use super::chunk::{AWAITED, BUSY, GROUP_BYTES_MAX, Word};
use super::error::Unreadable;
use super::gate::{Gate, half_of};
use super::half::Memory;
use super::limits::{CHUNK_ALIGN, GENERATION_MAX};
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
    /// Its reader. Call [`Reader::inherited`] first.
    pub reader: Reader,
    /// The last generation in which the previous process may have published.
    pub last_generation: u64,
    /// Chunks into which a copy was under way. What was not published of these copies is not in the buffer.
    pub cut_copies: usize,
}

impl DoubleBuffer {
    /// Whether the claim that the previous process was about to publish at `position` was published. Only for an
    /// inherited buffer, and only before its reader does anything.
    #[must_use]
    pub fn was_published(&self, position: PublishPosition) -> bool {
        let Shared { memory, chunks, .. } = &*self.shared;
        if position.word_index >= 2 * chunks {
            return false;
        }
        // Relaxed: the process that wrote it is dead.
        let word = Word(memory.word(position.word_index).load(Relaxed));
        // In another generation the chunk was recycled, so its writer had released it. That was not after a failed
        // publish, because the note would be gone then.
        !word.is_of(position.generation) || word.bytes() > position.before_bytes
    }

    /// Continues with the memory of a dead process, for up to `writers_max` writers.
    ///
    /// # Errors
    /// [`Unreadable`]. The memory is then unchanged.
    pub fn of_previous(memory: impl AsFd, writers_max: usize) -> Result<InheritedBuffer, Unreadable> {
        let memory = Memory::of_previous(memory.as_fd())?;
        let (chunk_bytes, chunks) = memory.sizes();
        if !chunk_bytes.is_multiple_of(CHUNK_ALIGN) || chunks < 2 {
            return Err(Unreadable("its sizes are out of bounds"));
        }
        // Relaxed, here and below: the process that wrote these is dead, and no other thread knows the memory.
        let gate = Gate(memory.gate().load(Relaxed));
        let persisted = memory.persisted().load(Relaxed);
        let generation = gate.generation(persisted);
        let is_possible = (1..=GENERATION_MAX).contains(&generation);
        if !is_possible || !(generation - 1..=generation).contains(&persisted) {
            return Err(Unreadable("its generations contradict each other"));
        }
        check(&memory, generation)?;
        let (back_is_left, front_is_left) = (persisted < generation, gate.count() > 0);
        let cut_copies = mend(&memory, gate, back_is_left || front_is_left);
        let shared = Arc::new(Shared::new(memory, (chunk_bytes, chunks), generation, writers_max));
        // If the front half was never used, what new writers publish in it is their own.
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

/// Checks that every word is one that the table above allows.
fn check(memory: &Memory, generation: u64) -> Result<(), Unreadable> {
    let (chunk_bytes, chunks) = memory.sizes();
    for (half, is_front) in [(half_of(generation), true), (half_of(generation + 1), false)] {
        for (chunk, CacheLine(word)) in memory.words(half).iter().enumerate() {
            let word = Word(word.load(Relaxed));
            let bytes_max = ((chunks - chunk) * chunk_bytes).min(GROUP_BYTES_MAX);
            let is_sane = if is_front {
                word.is_of(generation) && word.bytes() <= bytes_max
            } else {
                (word.is_of(generation - 1) && word.bytes() <= bytes_max)
                    || (word.is_of(generation + 1) && word.bytes() == 0)
            };
            if !is_sane {
                return Err(Unreadable("the word of a chunk is not possible"));
            }
        }
    }
    Ok(())
}

/// Releases what threads of the dead process held, and closes the front half if anything is left. Returns the number of
/// copies that were under way.
fn mend(memory: &Memory, gate: Gate, is_left: bool) -> usize {
    let mut cut_copies = 0;
    for half in 0..2 {
        for CacheLine(word) in memory.words(half) {
            cut_copies += usize::from(Word(word.fetch_and(!(BUSY | AWAITED), Relaxed)).is_busy());
        }
    }
    let taken = if is_left { memory.sizes().1 as u64 } else { 0 };
    memory.gate().store(Gate::opening(gate.generation_low()).0 + taken, Relaxed);
    memory.turn().store(gate.generation_low() as u32, Relaxed);
    memory.bell().store(0, Relaxed);
    cut_copies
}

#[cfg(test)]
mod tests;
