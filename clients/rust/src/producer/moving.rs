//! Changes the memory: moves what waits into a ring, in order, and then the ring is the memory; or moves the rest of a
//! ring that the daemon may still read into memory of this process alone.
//!
//! Input: what a GRANT has brought; the tail of a ring that is left. Output: the new memory. The producer's thread.
//! Failures: a ring that cannot be used; then the link ends, and the memory stays as it is.

use super::clock::{Moment, Stamping};
use super::link::Link;
use super::order::is_ordered;
use super::state::{CLOSED, Producer};
use crate::{reason, sys};
use dbuf_wire::ring::{Bell, Memory, RingProducer};

impl Producer {
    /// The daemon gives a ring.
    pub(super) fn granted(&mut self, capacity: u64) {
        let Link::Framed(framed) = &mut self.link else { return };
        let Some(memory) = framed.connection.take_memory() else {
            return self.end_link(Some("dbufd is not understood: a ring without its memory".into()));
        };
        // The descriptor is closed as soon as the memory is mapped: what is closed cannot be taken for another.
        let mapped = memory.get().map_err(Into::into).and_then(|memory| Memory::of_file(&memory));
        drop(memory);
        let memory = match mapped {
            Ok(memory) => memory,
            Err(error) => {
                return self.end_link(Some(format!("a ring that cannot be used: {}", reason::kernel(&error))));
            }
        };
        if !memory.is_known() || memory.capacity() != self.options.capacity_bytes || capacity != memory.capacity() {
            return self.end_link(Some("dbufd is not understood: another ring than was asked for".into()));
        }
        if self.options.populate {
            // Where there is no memory now, there may be when it is needed.
            let _ = memory.populate();
        }
        // Before the link is one to a ring, whose words say other limits.
        self.learn_limits();
        let must_ring = self.move_to(RingProducer::new(memory, is_ordered()));
        let Link::Framed(framed) = std::mem::replace(&mut self.link, Link::None) else { return };
        self.link = Link::Ring(framed.connection);
        self.fast_for = self.forks;
        debug_assert!(self.forks != CLOSED, "2^64 forks");
        if self.options.stamp && sys::HAS_TICKS && self.ring.takes_ticks() {
            self.stamping = Stamping::Ticks;
        }
        self.looked_at = std::time::Instant::now();
        self.looked_ticks = sys::ticks();
        self.linked();
        if must_ring {
            self.ring_bell();
        }
    }

    /// Moves what no daemon has into `ring`, which is empty and as large as the memory that it replaces. Whether its
    /// bell is to be rung.
    fn move_to(&mut self, mut ring: RingProducer) -> bool {
        let Link::Framed(framed) = &self.link else { return false };
        let (at, first) = (framed.at, framed.number);
        let must_ring = self.copy_to(&mut ring, at);
        let number = self.number();
        let book = &mut self.book;
        // Where a daemon has damaged the memory, there may be fewer events, or more, than there were.
        let damaged = number.saturating_sub(first + ring.events());
        book.lost += damaged;
        ring.carry_losses((damaged, 0));
        book.reports.clear();
        book.base = number.saturating_sub(ring.events());
        // This connection says nothing of what another connection was given.
        book.doubt(first, 0);
        let (head, tail) = self.ring.positions();
        book.high_water_bytes = book.high_water_bytes.max(head - tail);
        self.ring = ring;
        must_ring
    }

    /// Moves what lies from this position on, in a ring that was taken back, into memory of this process alone. A
    /// daemon that is slow may still read the ring and move its tail: it must find no later event there.
    pub(super) fn move_rest(&mut self, from: u64) {
        // Where there is no memory, the ring has to do.
        let Ok(memory) = Memory::private(self.options.capacity_bytes) else { return };
        let mut ring = RingProducer::new(memory, is_ordered());
        self.copy_to(&mut ring, from);
        self.book.base = self.number().saturating_sub(ring.events());
        self.ring = ring;
    }

    /// Copies the events from this position on, and the losses that no daemon has counted, into `ring`, which is empty
    /// and as large. Whether its bell is to be rung.
    fn copy_to(&self, ring: &mut RingProducer, mut at: u64) -> bool {
        let now = Moment::now();
        let (mut body, mut must_ring) = (Vec::new(), false);
        while let Ok(Some(found)) = self.ring.find(at) {
            self.ring.copy_body(&found, &mut body);
            let mut head = found.head;
            head.stamp = now.without_ticks(&self.opened, head.stamp);
            match ring.push_record(head, &body) {
                Ok(bell) => must_ring |= bell == Bell::Ring,
                // It cannot happen: without a pad the same events take no more room.
                Err(_) => break,
            }
            at = found.end;
        }
        ring.carry_losses(self.ring.losses_untold());
        must_ring
    }
}
