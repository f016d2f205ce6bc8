//! Encodes a chunk's word: its owner, whether a copy is under way, and how many of its bytes count.
//!
//! ```text
//!  63                   32 31        24   23     22      21    20             0
//! [ generation, 32 bits   | owner, 8   | BUSY |SEALED|AWAITED| bytes, 21 bits ]
//! ```
//! The owner is the writer's index plus one; 0 until the first claim. So the words alone tell the runs of a half, also
//! to a process that finds the memory after a crash.
//!
//! A chunk belongs to one writer, so only that writer and the reader touch its word:
//!
//! | step | thread | from → to |
//! |---|---|---|
//! | claim | writer | what it left there → the same and BUSY. Fails if the reader sealed or recycled the chunk |
//! | publish | writer | exactly what it claimed → more bytes, no BUSY. Fails if the reader sealed it meanwhile |
//! | let go | writer | loses BUSY, bytes as before |
//! | seal | reader | gains SEALED. The bytes of the value returned are the ones that count, for ever |
//! | await | reader | gains AWAITED: the writer that clears BUSY wakes the reader |
//! | recycle | reader | new generation, nothing else. Only when BUSY is lost |
//!
//! Publish is a compare-exchange, not an addition. So the byte count of a sealed word is final: with additions, every
//! later reader of the word would have to recognize one that came too late. Both cost the same on x86. The generation
//! prevents ABA: a writer that slept through whole swaps does not find its old chunk open again.
//!
//! A *group*, adjacent chunks taken at once, uses the word of its first chunk. The words of the others stay as
//! recycled.
//!
//! Input and output: plain numbers. Thread: any; nothing here touches memory that threads share. Nothing can fail.

/// Bits of the byte count. They bound a group.
const BYTES_BITS: u32 = 21;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;
const OWNER_SHIFT: u32 = 24;
const GENERATION_SHIFT: u32 = 32;

/// A copy into the chunk is under way.
pub(super) const BUSY: u64 = 1 << 23;
/// The reader has counted the chunk's bytes.
pub(super) const SEALED: u64 = 1 << 22;
/// The reader waits until BUSY is cleared.
pub(super) const AWAITED: u64 = 1 << 21;

/// Bytes that a group may have, at most.
pub(super) const GROUP_BYTES_MAX: usize = BYTES_MASK as usize;

const _: () = assert!((BUSY | SEALED | AWAITED) & BYTES_MASK == 0 && BUSY < 1 << OWNER_SHIFT);

/// A value of a chunk's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    /// The word of a chunk that no writer has claimed in `generation`.
    pub(super) const fn recycled(generation: u64) -> Self {
        Self(generation << GENERATION_SHIFT)
    }

    /// The same word, claimed by the writer with this index.
    pub(super) const fn claimed(self, writer: u8) -> Self {
        Self(self.0 | BUSY | (writer as u64 + 1) << OWNER_SHIFT)
    }

    /// The same word, no longer claimed, with `bytes` more bytes.
    pub(super) const fn published(self, bytes: usize) -> Self {
        Self((self.0 & !BUSY) + bytes as u64)
    }

    /// Whether the word is of this generation, as far as its 32 bits can tell.
    pub(super) const fn is_of(self, generation: u64) -> bool {
        self.0 >> GENERATION_SHIFT == generation & (u32::MAX as u64)
    }

    /// Number of published bytes.
    pub(super) const fn bytes(self) -> usize {
        (self.0 & BYTES_MASK) as usize
    }

    /// The index of the writer that owns the chunk.
    pub(super) const fn owner(self) -> Option<u8> {
        ((self.0 >> OWNER_SHIFT) as u8).checked_sub(1)
    }

    pub(super) const fn is_busy(self) -> bool {
        self.0 & BUSY != 0
    }

    pub(super) const fn is_sealed(self) -> bool {
        self.0 & SEALED != 0
    }

    pub(super) const fn is_awaited(self) -> bool {
        self.0 & AWAITED != 0
    }
}

#[cfg(all(test, not(dbuf_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_owner_and_bytes_through_claim_and_publish() {
        let fresh = Word::recycled(5);
        assert_eq!((fresh.owner(), fresh.bytes()), (None, 0));
        let claimed = fresh.claimed(253);
        assert!(claimed.is_busy() && !claimed.is_sealed() && !claimed.is_awaited());
        let published = claimed.published(GROUP_BYTES_MAX);
        assert_eq!((published.owner(), published.bytes()), (Some(253), GROUP_BYTES_MAX));
        assert!(!published.is_busy() && !published.is_sealed() && !published.is_awaited());
    }

    #[test]
    fn a_second_claim_keeps_the_owner_and_the_bytes() {
        let left = Word::recycled(5).claimed(3).published(64);
        let again = left.claimed(3);
        assert_eq!((again.owner(), again.bytes(), again.0 & !BUSY), (Some(3), 64, left.0));
    }

    #[test]
    fn words_of_different_generations_never_compare_equal() {
        assert_ne!(Word::recycled(1), Word::recycled(3));
        assert_eq!(Word::recycled(1), Word::recycled(1 + (1 << 32)), "until the generation's low 32 bits come round");
    }
}
