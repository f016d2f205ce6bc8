//! The data plane: plain threads, no tokio, no lock between a claim and its publish.
//!
//! The folders sort in the order of travel: [`accept`], [`buffer`], [`drain`], [`store`].
//! [`record`] is the layout of the bytes that travel, from a writer's claim to the file and back to a person's eyes;
//! [`account`] says what became of each, and [`counters`] what else the threads have seen. [`assembly`] puts them together.

#[cfg(not(dbuf_loom))]
pub mod accept;
#[cfg(not(dbuf_loom))]
pub mod account;
#[cfg(not(dbuf_loom))]
pub mod assembly;
#[cfg(not(dbuf_loom))]
pub mod counters;
#[cfg(not(dbuf_loom))]
pub mod drain;
#[cfg(all(not(dbuf_loom), any(test, fuzzing, feature = "harness")))]
pub mod harness;
#[cfg(not(dbuf_loom))]
pub mod histogram;
#[cfg(not(dbuf_loom))]
pub mod progress;
#[cfg(not(dbuf_loom))]
pub mod pulse;
#[cfg(not(dbuf_loom))]
pub mod record;
#[cfg(not(dbuf_loom))]
pub mod store;
#[cfg(not(dbuf_loom))]
pub mod takeover;

/// The double buffer, which is a crate of its own.
#[cfg(not(dbuf_loom))]
pub mod buffer {
    pub use dbuf_buffer::*;
}
