//! Accounts for every event: for each producer, *sent = stored + lost, by cause + in memory*, also over the death of
//! the process.
//!
//! Enters: what a writer is about to publish, what the reader has persisted or given up. Leaves: sums, for people,
//! and for `dbufctl account`, which holds them against the files. Each thread that counts has a [`Recorder`] and a
//! cell of its own in each row; the table of rows has a lock, taken when a sender is first seen and once a batch,
//! never for each event. What can fail: there is no memory at the start.
//!
//! What was sent is counted where it comes in, what is stored where it leaves: two counts that have nothing in common
//! but the events. So their difference says something.
//!
//! A producer keeps its row for as long as a connection holds it or anything of it is in memory. When all rows are
//! taken, the quietest of the others make room; their figures go to one row for all of them, on both sides alike.
//!
//! Where a store keeps the memory, figures outlive the process: see `memory`. Without one they begin with it.

mod cell;
mod figures;
mod gone;
mod groups;
mod identity;
mod memory;
mod producers;
mod recorder;
#[cfg(test)]
mod tests;

pub use figures::{Row, Statement, Tally, Totals};
pub use identity::Identity;
pub use memory::PRODUCERS_MAX;
pub use producers::{Account, InheritedAccount, LOSSES_PENDING_MAX, Producer};
pub use recorder::{ReaderRecorder, Recorder};
