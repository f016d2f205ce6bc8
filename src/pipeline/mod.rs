//! The data plane: plain threads, no tokio, no lock between a claim and its publish.
//!
//! The folders sort in the order of travel: [`accept`], [`buffer`], [`drain`], [`store`].
//! [`record`] is the layout of the bytes that travel, from a writer's claim to the file and back to a person's eyes;
//! [`account`] says what became of each, and [`counters`] what else the threads have seen. [`assembly`] puts them
//! together.

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
pub mod store;
pub mod takeover;

/// The layout of the bytes that travel, which is part of the crate that reads segments.
pub use dbuf_segment::record;

/// The double buffer, which is a crate of its own.
pub mod buffer {
    pub use dbuf_buffer::*;
}
