//! Collects bytes from many writers in the **front** half of a double buffer; one reader takes the **back** half away.
//!
//! Input: bytes that a writer copies into a claim. Output: one batch for each swap, with one run for each writer.
//! Threads: the caller's; one for each [`Writer`] and one for the [`Reader`]. Failures: a buffer cannot be built
//! ([`BuildError`]); a claim is refused ([`Refused`]); the swap comes before the publish ([`Sealed`]). The memory is
//! fixed when the buffer is built. The crate does not know what the bytes mean.
//!
//! ```
//! use dbuf_buffer::{DoubleBuffer, Options};
//!
//! let (buffer, mut reader) = DoubleBuffer::new(&Options::default())?;
//! let mut writer = buffer.writer()?;
//! let thread = std::thread::spawn(move || writer.append(b"hello"));
//! thread.join().expect("the writer does not panic")?;
//!
//! let batch = reader.swap();
//! let run = batch.runs().next().expect("one writer has published");
//! assert_eq!(run.chunks().next(), Some(&b"hello"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it works
//! Each half is divided into chunks. One word, the gate (`gate.rs`), says which half is in front and how many of its
//! chunks are handed out; one word a chunk (`chunk.rs`) says whose it is and how many of its bytes count.
//!
//! - A writer **takes** a chunk by one addition to the gate, then **claims** the chunk's rest, copies, and
//!   **publishes**, each by one compare-exchange of the chunk's word, which no other writer ever touches.
//! - The reader **swaps** by one exchange of the gate, and **seals** each chunk handed out by one RMW of its word. It
//!   waits for no writer: a claim that is open at that moment fails to publish, and its writer repeats it in the other
//!   half. An event is in a batch entirely or not at all.
//! - Before a half becomes the front again, the reader **recycles** it: it waits, parked, for a writer that sleeps in
//!   the middle of a copy (which is practically never), and gives the words the new generation.
//! - While the half is full, writers park until the swap; or are refused, if they would rather not wait.
//! - The reader sleeps while nothing is published; writers ring only when it does. See `gate.rs` and `wake.rs`.
//!
//! No thread waits for another's progress inside an append or a swap, except: a writer for room, a swap for a copy that
//! was under way two swaps ago.
//!
//! # Invariants
//! 1. In one generation the gate hands each chunk to one writer at most: an addition returns each count once.
//! 2. Only the owner of a chunk writes its bytes, only behind what it published, and only while it has set BUSY.
//! 3. Bytes that are published do not change until their chunk is recycled.
//! 4. Only the reader recycles, only in a swap, and only chunks of the back half that have lost BUSY: sealed ones, and
//!    ones that no writer took. A batch borrows the reader, so none lives then.
//! 5. The reader reads only bytes that the value returned by its seal has counted; of a half that a dead process left,
//!    the bytes that its words count, for which there is no writer any more.
//! 6. A writer's chunks of one half, in ascending order, are in its order. An index that is given back and taken again
//!    keeps this: the later writer takes later chunks.
//!
//! # Edges
//! Each end of each edge is weakened in turn by `.ci/weaken`, which must see a model of `models.rs` fail.
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `swap` | [`Reader::swap`]: exchange of the gate | `Writer::take`: addition to the gate | recycled words; that reader and late writers are done with the bytes | a copy runs into bytes that are still read |
//! | `publish` | [`Claim::publish`]: compare-exchange of the word | `Reader::seal`: RMW of the word | the bytes that count | the reader sees older bytes |
//! | `seal` | `Reader::seal`: RMW of the word | a claim or publish that fails, `Writer::let_go` | the gate's new generation (or CLOSED) | a claim is redone in the same generation |
//! | `recycle` | `Writer::let_go`: BUSY is cleared | `Reader::recycle`: exchange of the word | that a late copy is over | it runs into the next owner's copy |
//! | `bell` | [`Waker::ring`], `Shared::ring` | `Shared::listen`, `Shared::take_ring` | what the ringing thread did before | the reader wakes, sees an old state, and sleeps on |
//!
//! Everything else on the gate, the words and `turn` is Relaxed: the order of one word's modifications decides which
//! step comes first, and each site says so.

#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("dbuf-buffer needs 64-bit Linux, because it is built on futexes and sealed memfds");

mod chunk;
mod error;
mod gate;
mod half;
#[cfg(not(dbuf_loom))]
pub mod mapping;
mod reader;
#[cfg(not(dbuf_loom))]
mod takeover;
mod wake;
mod writer;

pub use error::{BuildError, Refused, Sealed, TooManyWriters, Unreadable};
pub use reader::{Batch, Reader, Reason, Run};
#[cfg(not(dbuf_loom))]
pub use takeover::InheritedBuffer;
pub use wake::Waker;
pub use writer::{Claim, PublishPosition, Writer};

use chunk::{SPAN_BYTES_MAX, Word};
use dbuf_sync::atomic::{AtomicU64, Ordering::Relaxed};
use dbuf_sync::{Arc, Edge, Mutex};
use gate::{CHUNKS_MAX, Gate, SPAN_CHUNKS_MAX, half_of};
use half::{Memory, Place};
use reader::Left;

/// The most writers that one buffer can have: their index and one more fit in eight bits of a chunk's word.
pub const WRITERS_MAX: usize = 254;
/// Chunks are a multiple of this many bytes.
const CHUNK_ALIGN: usize = 8;
/// The generation that is in front at first. 0 would make a word that was never used look like a recycled one.
const GENERATION_FIRST: u64 = 1;

// The edges of the table above.
const SWAP: Edge = Edge::new("swap");
const PUBLISH: Edge = Edge::new("publish");
const SEAL: Edge = Edge::new("seal");
const RECYCLE: Edge = Edge::new("recycle");
const BELL: Edge = Edge::new("bell");

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
    shared: Arc<Shared>,
}

/// What all threads share.
#[derive(Debug)]
struct Shared {
    memory: Memory,
    chunk_bytes: usize,
    /// Of each half.
    chunks: usize,
    claim_bytes_max: usize,
    /// As many chunks as wake a reader that lingers.
    half_full: usize,
    /// The generation that was in front when this process began.
    generation_first: u64,
    full_waits: AtomicU64,
    full_wait_us: AtomicU64,
    late_writers: AtomicU64,
    /// Which writer indexes are in use. Not on any event's path.
    writers: Mutex<Box<[bool]>>,
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

impl Shared {
    fn new(memory: Memory, (chunk_bytes, chunks): (usize, usize), generation_first: u64, writers_max: usize) -> Self {
        let span_chunks_max = chunks.min(SPAN_CHUNKS_MAX).min(SPAN_BYTES_MAX / chunk_bytes);
        Self {
            memory,
            chunk_bytes,
            chunks,
            claim_bytes_max: span_chunks_max * chunk_bytes,
            half_full: chunks / 2 + 1,
            generation_first,
            full_waits: AtomicU64::new(0),
            full_wait_us: AtomicU64::new(0),
            late_writers: AtomicU64::new(0),
            writers: Mutex::new(vec![false; writers_max].into_boxed_slice()),
        }
    }

    fn give_back(&self, index: u8) {
        let mut writers = self.writers.lock().expect("no thread panics while it holds the writer indexes");
        writers[usize::from(index)] = false;
    }
}

#[cfg(all(test, dbuf_loom))]
mod models;
#[cfg(all(test, not(dbuf_loom)))]
mod stress;
#[cfg(all(test, not(dbuf_loom)))]
mod tests;
