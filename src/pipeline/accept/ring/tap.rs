//! A ring without thread or socket, for fuzzing and for tests: what a program writes into it, and what the reader would find.
//!
//! Enters: the client's end, to do with as it likes. Leaves: the events, and why it was cut off. One thread. What can fail: its
//! assertions.

use std::os::fd::OwnedFd;

use dbuf_wire::ring::{Memory, RingProducer};

use super::rings::{Limits, Rings};
use super::{Ring, Taken};
use crate::pipeline::accept::source::Peer;
use crate::pipeline::accept::tap::{Tap, Tapped};
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::Batch;
use crate::pipeline::record::Cause;

/// Bytes of data of the ring.
pub const CAPACITY: u64 = 64 << 10;

/// Less than a writer's own, so that events with fields come that are larger.
const DESK_BYTES: usize = 8 << 10;

/// A ring with its writer and its reader, and the client's memory.
#[derive(Debug)]
pub struct RingTap {
    tap: Tap,
    ring: Ring,
    peer: Peer,
    memory: OwnedFd,
    desk: Vec<u8>,
}

impl RingTap {
    /// A new ring, for events of at most `max_event_bytes`.
    ///
    /// # Panics
    /// When the kernel gives no memory.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self::over(Tap::new(max_event_bytes))
    }

    /// The same with this writer and reader.
    ///
    /// # Panics
    /// As [`RingTap::new`].
    #[must_use]
    pub fn over(mut tap: Tap) -> Self {
        let rings = Rings::new(Limits { rings: 1, bytes: CAPACITY });
        let identity = Identity { tag: b"tap"[..].into(), ..Identity::default() };
        let (ring, memory) = rings.grant(identity, CAPACITY).expect("one ring is allowed");
        let peer = tap.another_peer();
        Self { tap, ring, peer, memory, desk: vec![0; DESK_BYTES] }
    }

    /// Another ring in the place of this one, which has ended; the writer and its reader stay.
    ///
    /// # Panics
    /// When the kernel gives no memory.
    pub fn renew(&mut self) {
        let rings = Rings::new(Limits { rings: 1, bytes: CAPACITY });
        let identity = Identity { tag: b"tap"[..].into(), ..Identity::default() };
        let (ring, memory) = rings.grant(identity, CAPACITY).expect("one ring is allowed");
        std::mem::replace(&mut self.ring, ring).close();
        self.memory = memory;
        self.peer = self.tap.another_peer();
        // What the last look has left in the half belongs to the ring before.
        self.tap.tapped();
    }

    /// The client's end of an honest client.
    ///
    /// # Panics
    /// When the kernel gives no memory.
    #[must_use]
    pub fn producer(&self) -> RingProducer {
        RingProducer::new(self.client_memory(), true)
    }

    /// The memory as the client has it.
    ///
    /// # Panics
    /// When the kernel gives no memory.
    #[must_use]
    pub fn client_memory(&self) -> Memory {
        Memory::of_file(&self.memory).expect("a ring")
    }

    /// One look of the writer, which leaves what it has laid down in the half. Returns the bytes taken.
    ///
    /// # Errors
    /// The reason why the client is cut off.
    ///
    /// # Panics
    /// When the reader is not there.
    pub fn lay_down(&mut self) -> Result<u64, &'static str> {
        match self.ring.take(&mut self.desk, &self.peer, self.tap.intake()).expect("the reader is there") {
            Taken::Bytes(bytes) => Ok(bytes),
            Taken::Broken(why) => Err(why),
        }
    }

    /// Swaps the halves: what was laid down since the last time.
    pub fn swap(&mut self) -> Batch<'_> {
        self.tap.swap()
    }

    /// What one look of the writer brings; or why the client is cut off.
    ///
    /// # Errors
    /// The reason.
    ///
    /// # Panics
    /// When a promise of the ring does not hold.
    pub fn take(&mut self) -> Result<Vec<Tapped>, &'static str> {
        let taken = self.lay_down();
        self.ring.answer(true, self.tap.intake());
        let events = self.tap.tapped();
        taken.map(|bytes| {
            assert!(bytes <= CAPACITY);
            events
        })
    }

    /// The reader has persisted every generation below this one.
    #[cfg(test)]
    pub(super) fn persisted_before(&mut self, generation: u64) {
        self.tap.intake().progress.set_persisted(generation);
    }

    /// Every generation below this one is durable.
    #[cfg(test)]
    pub(super) fn durable_before(&mut self, generation: u64) {
        self.tap.intake().progress.set_durable(generation);
    }

    /// The client has gone.
    ///
    /// # Panics
    /// When the reader is not there.
    pub fn end(&mut self) {
        self.ring.end(&self.peer, self.tap.intake()).expect("the reader is there");
        self.tap.tapped();
    }

    /// Events lost so far for this cause.
    #[must_use]
    pub fn lost(&mut self, cause: Cause) -> u64 {
        self.tap.lost(cause)
    }
}
