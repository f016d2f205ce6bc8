//! Publishes what was read: events, blocks of lines and losses become records in the front half.
//!
//! Input: events as ranges of the bytes that were read, or an [`EventSource`] that encodes them into a claim. Output: published
//! records and their account. Thread: the writer that owns the [`Publisher`]. Failure: only that the reader is gone.

mod encoder;
mod losses;
mod observer;
mod publisher;
mod sources;

pub(crate) use self::encoder::{ClaimEncoder, EventSource};
pub use self::observer::Published;
pub(crate) use self::observer::{NoObserver, PublishObserver};
pub(crate) use self::publisher::{Closed, Extra, Publisher};
pub(crate) use self::sources::{Peer, Sources};
