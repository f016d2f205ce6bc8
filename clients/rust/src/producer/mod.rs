//! A producer of events: what a program that logs a lot holds, one a thread.
//!
//! Enters: events of one thread. Leaves: records in memory, and by a link to the daemon from there. All of it happens
//! on the caller's thread: there is no other, and no signal. What can fail: there is no room, with a policy for that; a
//! single event, before it is written; the daemon, and then events are kept until there is one.
//!
//! Memory comes first, the link second. An event is written into ring memory, always; what changes is who empties it:
//!
//! | link | memory | who takes events out of it |
//! |---|---|---|
//! | ring | shared with the daemon | the daemon |
//! | frames | this process's, or the rest of a ring's | the producer, when persisted; it looks after each send |
//! | none | the same | nobody, until there is a link |
//!
//! Invariants, cited by number:
//! 1. An event's number is its place among all of this producer's, from 1: `book.base` and its place in the memory. It
//!    is also its sequence in frames, so that the daemon knows it again on another connection.
//! 2. Where the link is no ring, `book.taken` is the number of the last event before the memory's tail.
//! 3. The fast path is open (`fast_for`) only while the link is a ring, in the process that made it. A forked child
//!    never touches a memory or a connection of its parent, except to let go of them.
//!
//! The way through the files: `state` holds it all, `sending` and `claim` write events, `linking` connects and notices
//! the end, [`crate::connection`] reads and writes, `frames` sends what is in the memory where no ring is, `moving`
//! changes over to a ring, `waiting` has everything that takes time.

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
