//! Makes the blocks that a benchmark sends. They follow from a seed, so the seed determines what must have arrived.
//!
//! Input: seed, writer, index. Output: a block's bytes, or whether bytes are that block. Any thread. Nothing can fail.
//!
//! A block identifies itself: one byte for its writer, five for its index, in base 64. All its other bytes and its
//! length follow from seed, writer and index. Comparing them is a stronger check than a checksum, and as cheap: they
//! are a slice of one pool of random bytes. All bytes are letters, digits, `-` or `_`, so a block can travel as a text
//! line.

use std::ops::RangeInclusive;

/// The smallest block: its identity, and four bytes that cannot be guessed.
pub(super) const BLOCK_BYTES_MIN: usize = ID_BYTES + 4;
/// The most writers that a block can name.
pub(super) const WRITERS_MAX: usize = 64;
/// The most blocks of one writer.
pub(super) const INDEX_MAX: u64 = 1 << (6 * (ID_BYTES - 1));

const ID_BYTES: usize = 6;
/// Slices begin within this many bytes from the start of the pool.
const POOL_STARTS: usize = 1 << 20;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// All blocks of a run.
#[derive(Debug)]
pub(super) struct Blocks {
    seed: u64,
    sizes: RangeInclusive<usize>,
    pool: Vec<u8>,
}

/// One step of splitmix64: every bit of the result depends on every bit of `state`.
const fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Blocks {
    /// Blocks of these sizes, which are [`BLOCK_BYTES_MIN`] or more.
    pub(super) fn new(seed: u64, sizes: RangeInclusive<usize>) -> Self {
        let bytes = POOL_STARTS + sizes.end();
        let pool = (0..bytes as u64).map(|i| ALPHABET[(mixed(seed ^ mixed(i)) & 63) as usize]).collect();
        Self { seed, sizes, pool }
    }

    /// The sizes of blocks, in bytes.
    pub(super) fn sizes(&self) -> &RangeInclusive<usize> {
        &self.sizes
    }

    fn hash(&self, writer: usize, index: u64) -> u64 {
        mixed(self.seed ^ mixed(index << 6 | writer as u64))
    }

    fn size(&self, hash: u64) -> usize {
        let span = (self.sizes.end() - self.sizes.start() + 1) as u64;
        self.sizes.start() + ((hash >> 20) % span) as usize
    }

    /// All bytes of a block except its identity.
    fn rest(&self, hash: u64) -> &[u8] {
        let start = hash as usize % POOL_STARTS;
        &self.pool[start..start + self.size(hash) - ID_BYTES]
    }

    /// Writes the block into `block`, which is cleared first.
    pub(super) fn fill(&self, writer: usize, index: u64, block: &mut Vec<u8>) {
        block.clear();
        block.push(ALPHABET[writer]);
        block.extend((0..ID_BYTES - 1).map(|digit| ALPHABET[(index >> (6 * digit) & 63) as usize]));
        block.extend_from_slice(self.rest(self.hash(writer, index)));
    }

    /// The writer and index that a block names; None if it is not a block.
    pub(super) fn identity(block: &[u8]) -> Option<(usize, u64)> {
        let (id, _) = block.split_first_chunk::<ID_BYTES>()?;
        let digit = |byte: u8| ALPHABET.iter().position(|&known| known == byte);
        let index = id[1..].iter().rev().try_fold(0, |index, &byte| Some(index << 6 | digit(byte)? as u64))?;
        Some((digit(id[0])?, index))
    }

    /// Whether `block` is, to the last byte, the block that it names.
    pub(super) fn is_right(&self, block: &[u8]) -> bool {
        Self::identity(block).is_some_and(|(writer, index)| block[ID_BYTES..] == *self.rest(self.hash(writer, index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_who_it_is_and_any_changed_byte_is_seen() {
        let blocks = Blocks::new(7, 10..=300);
        let mut block = Vec::new();
        for (writer, index) in [(0, 0), (3, 1), (63, INDEX_MAX - 1), (5, 123_456_789)] {
            blocks.fill(writer, index, &mut block);
            assert!((10..=300).contains(&block.len()));
            assert_eq!(Blocks::identity(&block), Some((writer, index)));
            assert!(blocks.is_right(&block));
            for at in 0..block.len() {
                let right = block[at];
                block[at] = if right == b'A' { b'B' } else { b'A' };
                assert!(!blocks.is_right(&block), "byte {at} of writer {writer}, index {index}");
                block[at] = right;
            }
            assert!(!blocks.is_right(&block[..block.len() - 1]), "cut");
            block.push(b'A');
            assert!(!blocks.is_right(&block), "grown");
        }
        assert_eq!(Blocks::identity(b"hello"), None);
    }

    #[test]
    fn the_seed_decides_everything_and_sizes_cover_their_range() {
        let (one, same, other) = (Blocks::new(1, 10..=20), Blocks::new(1, 10..=20), Blocks::new(2, 10..=20));
        let mut sizes = [0; 21];
        let mut block = Vec::new();
        for index in 0..1000 {
            one.fill(1, index, &mut block);
            assert!(same.is_right(&block));
            assert!(!other.is_right(&block));
            sizes[block.len()] += 1;
        }
        assert!(sizes[10..=20].iter().all(|&n| n > 40), "{sizes:?}");
    }
}
