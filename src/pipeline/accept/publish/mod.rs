//! Publishes what was read: events, blocks of lines and losses become records in the front half.
//!
//! Input: events as ranges of the bytes that were read, or an [`EventSource`] that encodes them into a claim. Output:
//! published records, counted in the account. Thread: the writer that owns the [`Publisher`]. Failure: only that the
//! reader is gone.
//!
//! From the bottom up: `sources` numbers the senders, `encoder` encodes into a claim, `pending` and `losses` list the
//! events and losses that wait, and `publisher` has the one sequence of steps that publishes a claim and calls its
//! observers. All sockets of a writer share `context` (limits and counters) and [`receive_buffer`] (the memory that it
//! reads into).

mod context;
mod encoder;
mod losses;
mod observer;
mod pending;
mod processes;
mod publisher;
pub mod receive_buffer;
mod sources;

pub(crate) use self::context::WriterContext;
pub(crate) use self::encoder::{ClaimEncoder, EventSource};
pub use self::observer::Published;
pub(crate) use self::observer::{NoObserver, PublishObserver};
pub(crate) use self::pending::Extra;
pub(crate) use self::processes::{Handle, Known, Names, Processes, open};
pub(crate) use self::publisher::{Closed, Publisher};
pub(crate) use self::sources::Peer;
