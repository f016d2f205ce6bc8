//! Carries events through memory that a producer and the daemon share; one thread of a producer has one ring.
//! `docs/PROTOCOL.md` defines its bytes.
//!
//! Input at the producer's end: events. Output at the daemon's: copies of them. One thread at each end. Failures: there
//! is no room; at the daemon's end, everything that a hostile program can write.
//!
//! A producer reserves the bytes of a record behind what it has published, fills them, and publishes with one store.
//! The daemon copies what is published and then frees the room, with one store as well. Neither waits for the other,
//! and neither has to call the kernel while the other is awake.
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `head` | [`RingProducer::push`] | [`RingConsumer::look`] | a record's bytes | the daemon copies bytes that are not there yet |
//! | `room` | [`RingConsumer::take`] | the producer's look at the tail | the daemon's copies are over | a record is written over bytes that are being copied |
//! | `asleep` | [`RingProducer::push`]: head, then state | [`RingConsumer::after_barrier`]: state, then head | one of the two sees the other's store | an event waits in the ring, the daemon sleeps, and the producer does not ring |
//! | `turn` | [`RingProducer::want`]: `wants`, then turn | [`RingConsumer::wants`]: what happened, then `wants` | one of the two sees the other's store | a producer sleeps, and nothing wakes it |
//! | `told` | [`RingConsumer::tell`] | [`RingProducer::durable`] and [`RingProducer::persisted`] | how many of those events were lost or refused | a producer calls an event durable and misses that it was lost |
//! | `losses` | [`RingProducer::lose`] | [`RingConsumer::losses`] | the bytes of the lost events | the daemon counts lost events without their bytes |
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
#[cfg(not(dbuf_loom))]
mod pair;
mod producer;
pub mod record;
#[cfg(all(test, not(dbuf_loom)))]
mod tests;
mod waiting;

pub use consumer::{Broken, Position, RingConsumer};
pub use layout::{CAPACITY_BYTES, DOORBELL, HEADER_BYTES, Words, flag, state, want};
pub use memory::Memory;
pub use outbox::Found;
#[cfg(not(dbuf_loom))]
pub use pair::pair;
pub use producer::{Bell, NoRoom, Reserved, RingProducer};

use dbuf_sync::Edge;

const HEAD: Edge = Edge::new("head");
const ROOM: Edge = Edge::new("room");
const ASLEEP: Edge = Edge::new("asleep");
const TURN: Edge = Edge::new("turn");
const TOLD: Edge = Edge::new("told");
const LOSSES: Edge = Edge::new("losses");
