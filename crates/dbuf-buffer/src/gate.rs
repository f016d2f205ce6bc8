//! Encodes the gate: one word with the half that is in front, the number of its chunks that are handed out, and flags
//! for threads that rest.
//!
//! ```text
//!  63                    24   23     22     21      20    19            0
//! [ generation, 40 bits    |CLOSED| WAIT |LINGER| SLEEP | chunks, 20 bits ]
//! ```
//! The gate has the low 40 bits of the generation. They come round, after 1.7 years of 20,000 swaps a second, so the
//! other bits are kept outside: the reader counts in 64 bits and notes each generation in `Shared` and, for the next
//! process, in the header (`persisted`). Each value of the gate is read with such a number that it is near to.
//!
//! The generation's low bit names the front half. The count is lowest, so that a take is one addition. It may rise
//! above the number of chunks that exist, when several writers find the last chunks gone at once.
//!
//! The flags for the reader's rest and for waiting writers are bits of this same word. So this word's modification
//! order, on which all threads agree, decides every race about a wake-up. Either the reader's `fetch_xor` that sets
//! SLEEP comes after a take and returns its count, or the take comes after it and returns SLEEP. So neither a fence nor
//! SeqCst is needed. The same holds for LINGER and the take that crosses half, and for WAIT and the reader's exchange.
//!
//! Input and output: plain numbers. Thread: any; nothing here touches memory that threads share. Nothing can fail.

use super::limits::WRITERS_MAX;

const COUNT_BITS: u32 = 20;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const GENERATION_SHIFT: u32 = 24;

/// The reader sleeps until something is published.
pub(super) const SLEEP: u64 = 1 << 20;
/// The reader lingers after a publish, until the half is half full.
pub(super) const LINGER: u64 = 1 << 21;
/// A writer waits for room.
pub(super) const WAIT: u64 = 1 << 22;
/// The reader is gone.
pub(super) const CLOSED: u64 = 1 << 23;

/// Chunks that one take may ask for, at most.
pub(super) const GROUP_CHUNKS_MAX: usize = 512;
/// The most chunks that a half may have. A writer looks at the count before it adds to it, so each writer can exceed
/// it once in a generation; this bound leaves room for all of them.
pub(super) const CHUNKS_MAX: usize = COUNT_MASK as usize - WRITERS_MAX * GROUP_CHUNKS_MAX;

const _: () = assert!(CHUNKS_MAX > GROUP_CHUNKS_MAX && CHUNKS_MAX + WRITERS_MAX * GROUP_CHUNKS_MAX < 1 << COUNT_BITS);
const _: () = assert!((SLEEP | LINGER | WAIT | CLOSED) & COUNT_MASK == 0 && CLOSED < 1 << GENERATION_SHIFT);

/// A value of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gate(pub(super) u64);

impl Gate {
    /// The value that opens `generation` with nothing handed out.
    pub(super) const fn opening(generation: u64) -> Self {
        Self(generation << GENERATION_SHIFT)
    }

    /// The low bits of the generation.
    pub(super) const fn generation_low(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }

    /// The generation, which is less than 2^39 away from `near`.
    #[inline]
    pub(super) const fn generation(self, near: u64) -> u64 {
        let distance = (self.generation_low().wrapping_sub(near) << GENERATION_SHIFT) as i64 >> GENERATION_SHIFT;
        near.wrapping_add_signed(distance)
    }

    /// Which half is in front: 0 or 1.
    pub(super) const fn half(self) -> usize {
        half_of(self.generation_low())
    }

    /// Chunks handed out, including those of takes that failed.
    pub(super) const fn count(self) -> usize {
        (self.0 & COUNT_MASK) as usize
    }

    /// Whether `wanted` more chunks fit in a half of `chunks`.
    pub(super) const fn has_room(self, wanted: usize, chunks: usize) -> bool {
        self.count() + wanted <= chunks
    }

    pub(super) const fn is_sleeping(self) -> bool {
        self.0 & SLEEP != 0
    }

    pub(super) const fn is_lingering(self) -> bool {
        self.0 & LINGER != 0
    }

    pub(super) const fn is_waited_for(self) -> bool {
        self.0 & WAIT != 0
    }

    pub(super) const fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }
}

/// Which half is in front in this generation: 0 or 1.
pub(super) const fn half_of(generation: u64) -> usize {
    (generation & 1) as usize
}

#[cfg(all(test, not(dbuf_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_take_changes_the_count_and_nothing_else() {
        let gate = Gate(Gate::opening(7).0 | SLEEP | WAIT);
        let after = Gate(gate.0 + 3);
        assert_eq!((after.generation_low(), after.count(), after.half()), (7, 3, 1));
        assert!(after.is_sleeping() && after.is_waited_for() && !after.is_lingering() && !after.is_closed());
    }

    #[test]
    fn takes_in_vain_by_every_writer_never_reach_the_flags() {
        let gate = Gate(Gate::opening((1 << 40) - 1).0 + CHUNKS_MAX as u64);
        let after = Gate(gate.0 + (WRITERS_MAX * GROUP_CHUNKS_MAX) as u64);
        assert!(!after.is_sleeping() && !after.has_room(1, CHUNKS_MAX));
        assert_eq!(after.generation_low(), (1 << 40) - 1);
    }

    #[test]
    fn a_generation_is_told_by_its_low_bits_and_a_number_near_to_it() {
        for generation in [1, 1 << 39, (1 << 40) - 1, 1 << 40, (7 << 40) + 1, (1 << 62) - 1] {
            let gate = Gate(Gate::opening(generation).0 | SLEEP | 5);
            for near in [generation, generation + 1, generation - 1, generation + (1 << 38)] {
                assert_eq!(gate.generation(near), generation);
            }
        }
    }

    #[test]
    fn the_last_chunk_fits_and_the_next_does_not() {
        let gate = Gate(Gate::opening(1).0 + 3);
        assert!(gate.has_room(1, 4) && !gate.has_room(2, 4));
    }
}
