//! Builds a double buffer, and gives out its reader, its writers and its wakers.
//!
//! Input: [`Options`], and a memfd where the memory is to outlive the process. Output: a [`DoubleBuffer`] and its one
//! [`Reader`]; later writers, wakers and figures. Any thread, and not on any event's path. Failures: [`BuildError`]
//! and [`TooManyWriters`].

use super::chunk::{SPAN_BYTES_MAX, Word};
use super::error::{BuildError, TooManyWriters};
use super::gate::{CHUNKS_MAX, Gate, half_of};
use super::half::{Memory, Place};
use super::limits::{CHUNK_ALIGN, GENERATION_FIRST, WRITERS_MAX};
use super::reader::{Left, Reader};
use super::shared::Shared;
use super::wake::Waker;
use super::writer::Writer;
use dbuf_sync::Arc;
use dbuf_sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How large a double buffer is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of each half: a multiple of `chunk_bytes`, at least two chunks.
    pub capacity_bytes: usize,
    /// Bytes of a chunk: a multiple of 8. Large ones make takes rare, small ones let many writers share a small half.
    pub chunk_bytes: usize,
    /// How many writers there can be at a time, at most [`WRITERS_MAX`].
    pub writers_max: usize,
}

impl Default for Options {
    /// Halves of 8 MiB in chunks of 64 KiB, for up to 16 writers.
    fn default() -> Self {
        Self { capacity_bytes: 8 << 20, chunk_bytes: 64 << 10, writers_max: 16 }
    }
}

/// What a buffer has counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferStats {
    /// Bytes of each half.
    pub capacity_bytes: u64,
    /// Bytes published in the front half at this moment.
    pub front_bytes: u64,
    /// Swaps.
    pub swaps: u64,
    /// How often a writer has parked because the front half was full.
    pub full_waits: u64,
    /// How long writers were parked for it in all, in microseconds.
    pub full_wait_us: u64,
    /// How often a swap has parked for a writer in the middle of a copy.
    pub late_writers: u64,
}

/// The double buffer: makes writers and wakers. A clone is the same buffer.
#[derive(Clone, Debug)]
pub struct DoubleBuffer {
    pub(super) shared: Arc<Shared>,
}

impl DoubleBuffer {
    /// A buffer and its one reader. All memory is touched here.
    ///
    /// # Errors
    /// [`BuildError`] if the sizes do not fit together, or if there is no memory.
    pub fn new(options: &Options) -> Result<(Self, Reader), BuildError> {
        Self::build(options, GENERATION_FIRST, None)
    }

    /// The same in `memory`, an empty memfd that allows seals, so that it outlives the process:
    /// `DoubleBuffer::of_previous` continues with it. Generations begin with `generation_first`, at least 1.
    ///
    /// # Errors
    /// As [`DoubleBuffer::new`].
    #[cfg(not(dbuf_loom))]
    pub fn in_memory(
        options: &Options,
        generation_first: u64,
        memory: impl std::os::fd::AsFd,
    ) -> Result<(Self, Reader), BuildError> {
        Self::build(options, generation_first.max(GENERATION_FIRST), Some(memory.as_fd()))
    }

    fn build(options: &Options, generation: u64, place: Place<'_>) -> Result<(Self, Reader), BuildError> {
        let &Options { capacity_bytes, chunk_bytes, writers_max } = options;
        if chunk_bytes == 0 || !chunk_bytes.is_multiple_of(CHUNK_ALIGN) || chunk_bytes > SPAN_BYTES_MAX {
            return Err(BuildError::Chunk(chunk_bytes));
        }
        let chunks = capacity_bytes / chunk_bytes;
        if !capacity_bytes.is_multiple_of(chunk_bytes) || !(2..=CHUNKS_MAX).contains(&chunks) {
            return Err(BuildError::Capacity { capacity_bytes, chunk_bytes });
        }
        if !(1..=WRITERS_MAX).contains(&writers_max) {
            return Err(BuildError::Writers(writers_max));
        }
        let front = half_of(generation);
        // The back half looks like one of the generation before: recycled at the first swap.
        let word = |half| Word::recycled(if half == front { generation } else { generation - 1 }).0;
        let gate = Gate::opening(generation).0;
        let memory = Memory::new((chunk_bytes, chunks), (gate, generation), word, place)?;
        let shared = Arc::new(Shared::new(memory, (chunk_bytes, chunks), generation, writers_max));
        let reader = Reader::new(Arc::clone(&shared), generation, Left::Nothing);
        Ok((Self { shared }, reader))
    }

    /// A writer for one thread. It has the lowest index that is free.
    ///
    /// # Errors
    /// [`TooManyWriters`] if all are in use.
    pub fn writer(&self) -> Result<Writer, TooManyWriters> {
        let mut writers = self.shared.writers.lock().expect("no thread panics while it holds the writer indexes");
        let free = writers.iter().position(|in_use| !in_use).ok_or(TooManyWriters(writers.len()))?;
        writers[free] = true;
        Ok(Writer::new(Arc::clone(&self.shared), free as u8))
    }

    /// What was counted so far. Looks at each chunk that is handed out.
    #[must_use]
    pub fn stats(&self) -> BufferStats {
        let shared = &*self.shared;
        // Relaxed, here and below: numbers for people; each is right by itself, and together they may be of different
        // moments.
        let gate = Gate(shared.memory.gate().load(Relaxed));
        let handed_out = gate.count().min(shared.chunks);
        let bytes = |word: &AtomicU64| Word(word.load(Relaxed)).bytes() as u64;
        BufferStats {
            capacity_bytes: (shared.chunks * shared.chunk_bytes) as u64,
            front_bytes: shared.memory.words(gate.half())[..handed_out].iter().map(|word| bytes(&word.0)).sum(),
            swaps: gate.generation() - shared.generation_first,
            full_waits: shared.full_waits.load(Relaxed),
            full_wait_us: shared.full_wait_us.load(Relaxed),
            late_writers: shared.late_writers.load(Relaxed),
        }
    }

    /// Bytes of each half, and of a chunk.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.shared.chunks * self.shared.chunk_bytes, self.shared.chunk_bytes)
    }

    /// The generation that is in front now.
    #[must_use]
    pub fn generation(&self) -> u64 {
        // Relaxed: a look.
        Gate(self.shared.memory.gate().load(Relaxed)).generation()
    }

    /// A handle that wakes the reader.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker { shared: Arc::clone(&self.shared) }
    }

    /// The most bytes that one claim can ask for: what fits in a half, and in a chunk's count.
    #[must_use]
    pub fn largest_claim(&self) -> usize {
        self.shared.claim_bytes_max
    }
}
