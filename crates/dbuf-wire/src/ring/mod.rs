//! Carries events through memory that a producer and the daemon share, one producer's thread to one ring.
//! `docs/PROTOCOL.md` draws it.
//!
//! Input, at the producer's end: events. Output, at the daemon's: copies of them. Thread: one at each end. Failure:
//! there is no room; and on the daemon's side, everything that a hostile program can write.
//!
//! A producer reserves the bytes of a record behind what it has published, fills them, and publishes by one store. The
//! daemon copies what is published and then gives the room back, by one store as well. Neither waits for the other, and
//! neither has to call the kernel while the other is awake.
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `head` | [`RingProducer::push`] | [`RingConsumer::look`] | a record's bytes | the daemon copies bytes that are not there yet |
//! | `room` | [`RingConsumer::take`] | the producer's look at the tail | the daemon's copies are over | a record is written over bytes that are being copied |
//! | `asleep` | [`RingProducer::push`]: head, then state | [`RingConsumer::after_barrier`]: state, then head | one of the two sees the other's store | an event lies there, the daemon sleeps, and no bell rings |
//! | `turn` | [`RingProducer::want`]: wish, then a look | [`RingConsumer::wants`]: the deed, then a look | as above | a producer sleeps, and nothing wakes it |
//!
//! `asleep` and `turn` are races of a store and a load on each side (Dekker's), which no acquire or release closes. For
//! `asleep` the producer's half must cost nothing: it is a barrier for the compiler alone, and the daemon, before it
//! sleeps, has the kernel put one into every thread of every process that has registered for it
//! (MEMBARRIER_CMD_GLOBAL_EXPEDITED). `turn` is the slow path of both sides, and has a fence on each.
//!
//! The daemon is built on one end and `dbuf_client::Producer` on the other. The layout in shared memory is versioned;
//! these Rust functions may change with any version of this crate.

mod consumer;
mod layout;
mod memory;
#[cfg(all(test, dbuf_loom))]
mod models;
mod outbox;
mod producer;
pub mod record;
#[cfg(all(test, not(dbuf_loom)))]
mod tests;

pub use consumer::{Broken, Position, RingConsumer};
pub use layout::{CAPACITY_BYTES, DOORBELL, HEADER_BYTES, Words, flag, state, want};
pub use memory::Memory;
pub use outbox::Found;
pub use producer::{Bell, NoRoom, Reserved, RingProducer};

use dbuf_sync::Edge;

const HEAD: Edge = Edge::new("head");
const ROOM: Edge = Edge::new("room");
const ASLEEP: Edge = Edge::new("asleep");
const TURN: Edge = Edge::new("turn");
