//! Bounds the sizes of a buffer where neither the gate's word nor a chunk's word does.
//!
//! Input and output: none, these are constants. Thread: any. Failures: none.

/// Writers that one buffer can have at most: their index plus one fits in eight bits of a chunk's word.
pub const WRITERS_MAX: usize = 254;
/// A chunk is a multiple of this many bytes.
pub(super) const CHUNK_ALIGN: usize = 8;
/// The first generation in front. 0 would make a word that was never used look like a recycled one.
pub(super) const GENERATION_FIRST: u64 = 1;
/// The highest generation that memory of a dead process can be in. No process lives that long.
#[cfg_attr(dbuf_loom, allow(dead_code, reason = "a model has no previous process"))]
pub(super) const GENERATION_MAX: u64 = 1 << 62;
