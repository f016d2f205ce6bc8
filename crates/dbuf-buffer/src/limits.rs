//! Bounds what a buffer may be asked for, where neither the gate's word nor a chunk's word does.
//!
//! Input and output: none, they are constants. Any thread. Failures: none.

/// The most writers that one buffer can have: their index and one more fit in eight bits of a chunk's word.
pub const WRITERS_MAX: usize = 254;
/// Chunks are a multiple of this many bytes.
pub(super) const CHUNK_ALIGN: usize = 8;
/// The generation that is in front at first. 0 would make a word that was never used look like a recycled one.
pub(super) const GENERATION_FIRST: u64 = 1;
