//! Looks into the rings of a writer, and tells their producers whether it will look again on its own.
//!
//! Input: what the rings hold. Output: events in the buffer, and how long the writer may rest. Thread: the writer.
//! Failure: the reader is gone.
//!
//! Before the writer sleeps without a timeout, the kernel puts a barrier into every producer (see `dbuf_wire::ring`),
//! and the writer looks once more.

use std::time::Duration;

use dbuf_wire::ring::{RingConsumer, state};

use super::ring_schedule::{DOZE, Rest};
use super::thread::WriterThread;
use crate::pipeline::accept::connection::protocol::{LookResult, Polled};
use crate::pipeline::accept::publish::Closed;
use crate::sys::membarrier;

impl WriterThread {
    /// Looks into each ring once.
    pub(super) fn look_into_rings(&mut self) -> Result<(), Closed> {
        if self.rings.are_asleep {
            return Ok(());
        }
        let (mut at, mut brought_bytes) = (0, 0);
        while let Some(&index) = self.rings.indices().get(at) {
            if self.is_throttled(index) {
                continue;
            }
            let Some(connection) = &mut self.connections[index as usize] else {
                self.rings.forget(index);
                continue;
            };
            let (uid, taken) = (connection.sender_uid(), self.context.publisher.taken());
            let LookResult { next, bytes } = connection.look(&mut self.receive_buffers[0], &mut self.context)?;
            self.charge(uid, taken);
            brought_bytes += bytes;
            self.after(index, next);
            // A ring that has ended is no longer there, and the next one is in its place.
            if self.rings.indices().get(at) == Some(&index) {
                at += 1;
            }
        }
        self.rings.looked(brought_bytes);
        Ok(())
    }

    /// How long the writer may rest; None: until something happens.
    pub(super) fn before_sleep(&mut self) -> Option<Duration> {
        match self.rings.rest() {
            Rest::UntilEvent => None,
            Rest::LookAgain => Some(Duration::ZERO),
            Rest::Doze => {
                self.each_ring(|ring| ring.set_state(state::DOZING));
                Some(DOZE)
            }
            Rest::Sleep => {
                self.each_ring(|ring| ring.set_state(state::ASLEEP));
                membarrier::everywhere();
                RingConsumer::after_barrier();
                let mut has_something = false;
                self.each_ring(|ring| has_something |= ring.has_something());
                self.rings.are_asleep = !has_something;
                has_something.then_some(Duration::ZERO)
            }
        }
    }

    /// Tells producers that they need not ring. If the rings are asleep, only a doorbell ends that: another reason for
    /// the wake-up says nothing about rings.
    pub(super) fn after_sleep(&mut self, is_rung: bool) {
        if is_rung || !self.rings.are_asleep {
            self.rings.are_asleep = false;
            self.each_ring(|ring| ring.set_state(state::AWAKE));
        }
    }

    fn each_ring(&mut self, mut act: impl FnMut(&mut dyn Polled)) {
        for index in self.rings.indices() {
            if let Some(ring) = self.connections[*index as usize].as_mut().and_then(|connection| connection.polled()) {
                act(ring);
            }
        }
    }
}
