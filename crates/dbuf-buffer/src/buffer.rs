//! Builds a double buffer, and gives out its reader, its writers and its wakers.
//!
//! Input: [`Options`], and a memfd if the memory must outlive the process. Output: a [`DoubleBuffer`] and its one
//! [`Reader`]; later writers, wakers and figures. Thread: any; nothing here is on an event's path. Failures:
//! [`BuildError`] and [`TooManyWriters`].

use super::chunk::{GROUP_BYTES_MAX, Word};
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

/// The sizes of a double buffer.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of each half: a multiple of `chunk_bytes`, at least two chunks.
    pub capacity_bytes: usize,
    /// Bytes of a chunk: a multiple of 8. With large chunks, takes are rare. With small ones, many writers can share a
    /// small half.
    pub chunk_bytes: usize,
    /// Number of writers at a time, at most: 1 to [`WRITERS_MAX`].
    pub writers_max: usize,
}

impl Default for Options {
    /// Halves of 8 MiB in chunks of 64 KiB, for up to 16 writers.
    fn default() -> Self {
        Self { capacity_bytes: 8 << 20, chunk_bytes: 64 << 10, writers_max: 16 }
    }
}

/// The counters of a buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferStats {
    /// Bytes of each half.
    pub capacity_bytes: u64,
    /// Bytes published in the front half at this moment.
    pub front_bytes: u64,
    /// Number of swaps.
    pub swaps: u64,
    /// How often a writer has parked because the front half was full.
    pub full_waits: u64,
    /// How long writers were parked for that in all, in microseconds.
    pub full_wait_us: u64,
    /// How often a swap has parked to wait for a writer in the middle of a copy.
    pub late_writers: u64,
}

/// The double buffer: creates writers and wakers. A clone is the same buffer.
#[derive(Clone, Debug)]
pub struct DoubleBuffer {
    pub(super) shared: Arc<Shared>,
}

impl DoubleBuffer {
    /// Creates a buffer and its one reader. All memory is touched here.
    ///
    /// # Errors
    /// [`BuildError`] if the sizes do not fit together, or if there is no memory.
    pub fn new(options: &Options) -> Result<(Self, Reader), BuildError> {
        Self::build(options, GENERATION_FIRST, None)
    }

    /// Creates a buffer in `memory`, an empty memfd that allows seals, so that the buffer outlives the process:
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
        if chunk_bytes == 0 || !chunk_bytes.is_multiple_of(CHUNK_ALIGN) || chunk_bytes > GROUP_BYTES_MAX {
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
        // The back half looks like one of the generation before. It is recycled at the first swap.
        let word = |half| Word::recycled(if half == front { generation } else { generation - 1 }).0;
        let gate = Gate::opening(generation).0;
        let memory = Memory::new((chunk_bytes, chunks), (gate, generation), word, place)?;
        let shared = Arc::new(Shared::new(memory, (chunk_bytes, chunks), generation, writers_max));
        let reader = Reader::new(Arc::clone(&shared), generation, Left::Nothing);
        Ok((Self { shared }, reader))
    }

    /// Creates a writer for one thread, with the lowest free index.
    ///
    /// # Errors
    /// [`TooManyWriters`] if all indexes are in use.
    pub fn writer(&self) -> Result<Writer, TooManyWriters> {
        let mut writers = self.shared.writers.lock().expect("no thread panics while it holds the writer indexes");
        let free = writers.iter().position(|in_use| !in_use).ok_or(TooManyWriters(writers.len()))?;
        writers[free] = true;
        Ok(Writer::new(Arc::clone(&self.shared), free as u8))
    }

    /// The counters so far. Looks at each chunk that is handed out.
    #[must_use]
    pub fn stats(&self) -> BufferStats {
        let shared = &*self.shared;
        // Relaxed, here and below: numbers for display. Each is right by itself, and they may be of different moments.
        let gate = Gate(shared.memory.gate().load(Relaxed));
        let handed_out = gate.count().min(shared.chunks);
        let bytes = |word: &AtomicU64| Word(word.load(Relaxed)).bytes() as u64;
        BufferStats {
            capacity_bytes: (shared.chunks * shared.chunk_bytes) as u64,
            front_bytes: shared.memory.words(gate.half())[..handed_out].iter().map(|word| bytes(&word.0)).sum(),
            swaps: shared.generation_of(gate) - shared.generation_first,
            full_waits: shared.full_waits.load(Relaxed),
            full_wait_us: shared.full_wait_us.load(Relaxed),
            late_writers: shared.late_writers.load(Relaxed),
        }
    }

    /// Bytes of each half, and bytes of a chunk.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.shared.chunks * self.shared.chunk_bytes, self.shared.chunk_bytes)
    }

    /// The generation that is in front now.
    #[must_use]
    pub fn generation(&self) -> u64 {
        // Relaxed: nothing is decided by it.
        self.shared.generation_of(Gate(self.shared.memory.gate().load(Relaxed)))
    }

    /// A handle that wakes the reader.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker { shared: Arc::clone(&self.shared) }
    }

    /// Bytes that one claim can ask for at most: what fits into a half, and into a chunk's byte count.
    #[must_use]
    pub fn largest_claim(&self) -> usize {
        self.shared.claim_bytes_max
    }
}
