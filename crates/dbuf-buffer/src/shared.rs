//! Holds what all threads of a buffer share: the memory, its sizes, and counters.
//!
//! Input: the memory, once. Output: references to it. Thread: any. Failures: none. What each kind of thread does with
//! the memory is in its own file: `writer.rs`, `reader.rs`, `wake.rs`.

use super::chunk::GROUP_BYTES_MAX;
use super::gate::{GROUP_CHUNKS_MAX, Gate};
use super::half::Memory;
use dbuf_sync::Mutex;
use dbuf_sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The state that all threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) memory: Memory,
    pub(super) chunk_bytes: usize,
    /// Chunks of each half.
    pub(super) chunks: usize,
    pub(super) claim_bytes_max: usize,
    /// The number of chunks at which a lingering reader is woken.
    pub(super) half_full: usize,
    /// The generation that was in front when this process began.
    pub(super) generation_first: u64,
    /// The generation that is in front or about to be, of which the gate has the low bits only. The reader writes it.
    pub(super) generation: AtomicU64,
    pub(super) full_waits: AtomicU64,
    pub(super) full_wait_us: AtomicU64,
    pub(super) late_writers: AtomicU64,
    /// Which writer indexes are in use. Not on any event's path.
    pub(super) writers: Mutex<Box<[bool]>>,
}

impl Shared {
    pub(super) fn new(
        memory: Memory,
        (chunk_bytes, chunks): (usize, usize),
        generation_first: u64,
        writers_max: usize,
    ) -> Self {
        let group_chunks_max = chunks.min(GROUP_CHUNKS_MAX).min(GROUP_BYTES_MAX / chunk_bytes);
        Self {
            memory,
            chunk_bytes,
            chunks,
            claim_bytes_max: group_chunks_max * chunk_bytes,
            half_full: chunks / 2 + 1,
            generation_first,
            generation: AtomicU64::new(generation_first),
            full_waits: AtomicU64::new(0),
            full_wait_us: AtomicU64::new(0),
            late_writers: AtomicU64::new(0),
            writers: Mutex::new(vec![false; writers_max].into_boxed_slice()),
        }
    }

    /// The generation of a value of the gate.
    pub(super) fn generation_of(&self, gate: Gate) -> u64 {
        // Relaxed: any value that is less than 2^39 swaps old will do.
        gate.generation(self.generation.load(Relaxed))
    }

    pub(super) fn give_back(&self, index: u8) {
        let mut writers = self.writers.lock().expect("no thread panics while it holds the writer indexes");
        writers[usize::from(index)] = false;
    }
}
