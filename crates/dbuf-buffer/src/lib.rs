//! Collects bytes from many writers in the **front** half of a double buffer, while one reader takes away the **back**
//! half.
//!
//! Input: bytes that a writer copies into a claim. Output: one batch for each swap, with one run for each writer.
//! Threads: the caller's; one for each [`Writer`] and one for the [`Reader`]. Failures: a buffer cannot be built
//! ([`BuildError`]); a claim is refused ([`Refused`]); the reader swaps before the publish ([`Sealed`]). The memory is
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
//! chunks are handed out. One word for each chunk (`chunk.rs`) says which writer owns it and how many of its bytes
//! count.
//!
//! - A writer **takes** a chunk by one addition to the gate. Then it **claims** the rest of the chunk, copies, and
//!   **publishes**. Claim and publish are each one compare-exchange of the chunk's word, which no other writer ever
//!   touches.
//! - The reader **swaps** by one exchange of the gate, and **seals** each chunk handed out by one read-modify-write of
//!   its word. It waits for no writer: a claim that is open at that moment fails to publish, and its writer repeats it
//!   in the other half. An event is in a batch entirely or not at all.
//! - Before a half becomes the front again, the reader **recycles** it: it gives the words the new generation. If a
//!   writer still sleeps in the middle of a copy, which almost never happens, the reader parks until that copy is over.
//! - While the half is full, writers park until the swap. A writer that does not want to wait is refused.
//! - The reader sleeps while nothing is published. Writers wake it only when it sleeps. See `gate.rs` and `wake.rs`.
//!
//! No thread waits for another inside an append or a swap, with two exceptions: a writer waits for room, and a swap
//! waits for a copy into the half that it opens, which was already under way at the previous swap.
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
//! The edges between the threads are named in `edges.rs`: where each is released and acquired, what crosses it, and
//! what breaks if it is weakened.

#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("dbuf-buffer needs 64-bit Linux, because it is built on futexes and sealed memfds");

mod buffer;
mod chunk;
mod edges;
mod error;
mod gate;
mod half;
mod limits;
#[cfg(not(dbuf_loom))]
pub mod mapping;
mod reader;
mod shared;
#[cfg(not(dbuf_loom))]
mod takeover;
mod wake;
mod writer;

pub use buffer::{BufferStats, DoubleBuffer, Options};
pub use error::{BuildError, Refused, Sealed, TooManyWriters, Unreadable};
pub use limits::WRITERS_MAX;
pub use reader::{Batch, Reader, Reason, Run};
#[cfg(not(dbuf_loom))]
pub use takeover::InheritedBuffer;
pub use wake::Waker;
pub use writer::{Claim, PublishPosition, Writer};

#[cfg(all(test, dbuf_loom))]
mod models;
#[cfg(all(test, not(dbuf_loom)))]
mod stress;
#[cfg(all(test, not(dbuf_loom)))]
mod tests;
