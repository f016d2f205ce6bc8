//! Carries events from sockets and rings to files: the data plane.
//!
//! Input: bytes from clients. Output: segments on disk, and figures about them. Threads: plain threads, without tokio,
//! and without a lock between a claim and its publish. Failure: each folder says what can fail in it.
//!
//! The folders are in the order of an event's journey: [`accept`] reads and publishes, [`buffer`] is the double buffer,
//! [`drain`] empties it, and [`store`] writes segments. [`record`] is the byte layout of an event, the same in a claim
//! and in a file. [`account`] counts what became of each producer's events. [`counters`] holds the other figures of the
//! threads. [`takeover`] and [`progress`] are what the stages share: memory that outlives the process, and how far each
//! generation has come. [`assembly`] builds the whole.

pub mod accept;
pub mod account;
pub mod assembly;
pub mod counters;
pub mod drain;
#[cfg(any(test, fuzzing, feature = "harness"))]
pub mod harness;
pub mod histogram;
pub mod progress;
pub mod pulse;
pub mod shares;
pub mod store;
pub mod takeover;

/// The byte layout of records. It belongs to the crate that reads segments.
pub use dbuf_segment::record;

/// The double buffer, a crate of its own.
pub mod buffer {
    pub use dbuf_buffer::*;
}
