//! Implements a producer of events: what a program that logs a lot holds, one for each thread.
//!
//! Input: events of one thread. Output: records in memory, and from there a link to the daemon. Everything happens on
//! the caller's thread: there is no other, and no signal. Failures: there is no room, with a policy for that; a single
//! event, before it is written; the daemon, and then events are kept until there is one.
//!
//! Memory comes first, the link second. An event is always written into ring memory; what changes is the side that
//! empties it:
//!
//! | link | memory | takes events out of it |
//! |---|---|---|
//! | ring | shared with the daemon | the daemon |
//! | frames | private, or the rest of a ring | the producer, when they are persisted; it looks after each send |
//! | none | the same | nothing, until there is a link |
//!
//! Invariants, cited by number:
//! 1. An event's number is its place among all of this producer's events, from 1: `book.base` and its place in the
//!    memory. It is also its sequence in frames, so that the daemon recognizes it on another connection.
//! 2. Where the link is not a ring, `book.taken` is the number of the last event before the memory's tail.
//! 3. The fast path is open (`fast_for`) only while the link is a ring, in the process that made it. A forked child
//!    never writes to a memory of its parent, and has none of its parent's connections.
//!
//! The files in the order in which to read them: `state` holds everything, `sending` and `claim` write events,
//! `linking` connects and notices the end, [`crate::connection`] reads and writes, `frames` sends what is in the memory
//! where there is no ring, `moving` changes over to a ring, `waiting` has everything that takes time.

mod book;
mod claim;
mod clock;
mod frames;
mod link;
mod linking;
mod moving;
mod options;
mod order;
mod paths;
mod sending;
mod state;
#[cfg(test)]
mod tests;
mod waiting;

pub use claim::Claim;
pub use options::{LinkKind, OpenError, ProducerOptions, SendError, Statistics, SyncError, WhenFull, WithoutDaemon};
pub use state::Producer;
