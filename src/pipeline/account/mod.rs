//! Accounts for every event: for each producer, *sent = stored + lost, by cause + in memory*, also across the death of
//! the process.
//!
//! Input: what a writer is about to publish, and what the reader has persisted or given up. Output: sums, for display
//! and for `dbufctl account`, which compares them with the files. Thread: each thread that counts has a [`Recorder`]
//! and its own cell in each row. The table of rows has a lock, taken when a sender is first seen and once for each
//! batch, never for each event. Failure: there is no memory at the start.
//!
//! Sent events are counted where they come in, stored events where they leave. The two counts share nothing except the
//! events, so their difference is a real check.
//!
//! A producer keeps its row while a connection holds it or anything of it is in memory. When all rows are taken, the
//! quietest of the others make room. Their figures are moved to one common row, the sent and the stored ones alike.
//!
//! Retention deletes stored events. A producer's deleted events are counted next to its stored ones, and stay counted
//! as stored.
//!
//! If a store keeps the memory, the figures outlive the process: see `memory`. Without a store they begin with the
//! process.

mod cell;
mod deletions;
mod figures;
mod gone;
mod groups;
mod identity;
mod memory;
mod producers;
mod recorder;
#[cfg(test)]
mod tests;
mod unnamed;

pub use figures::{Deletions, Row, Statement, Tally, Totals, sum};
pub use identity::Identity;
pub use memory::PRODUCERS_MAX;
pub use producers::{Account, InheritedAccount, LOSSES_PENDING_MAX, Producer};
pub use recorder::{ReaderRecorder, Recorder};
