//! When a writer looks into its rings, and when it sleeps.
//!
//! Enters: what the last looks have brought. Leaves: how long the writer may rest, and what its producers are told of that. The
//! writer's thread. What can fail: the reader can go.
//!
//! A wake-up costs 40 us of a core and a system call of the producer, so neither is to come often:
//! - While looks bring much the writer does not rest, and producers see it awake.
//! - While they bring little it dozes, [`DOZE`] at a time; a ring that becomes half full meanwhile rings. At a steady rate no
//!   producer ever calls the kernel.
//! - After [`DOZES_MAX`] looks in vain it sleeps, and the next event rings. Before that it has the kernel put a barrier into every
//!   producer (see `dbuf_wire::ring`), and looks once more. So idle rings cost nothing.

use std::time::Duration;

use dbuf_wire::ring::{RingConsumer, state};

use super::{Closed, Worker};
use crate::sys::membarrier;

/// How long a writer rests at a time while little comes: as long as half the linger of the buffer by default.
const DOZE: Duration = Duration::from_millis(1);
/// Looks in vain before it sleeps.
const DOZES_MAX: u32 = 20;
/// A round that brought so much is followed by another at once.
const MUCH_BYTES: u64 = 64 << 10;

/// The rings of one writer.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// Indices of the connections that have them.
    indices: Vec<u32>,
    brought_bytes: u64,
    /// Looks in vain, one after the other.
    vain: u32,
    /// Producers have been told that nobody looks; until one rings, nobody has to.
    are_asleep: bool,
}

impl Rings {
    pub(super) fn add(&mut self, index: u32) {
        self.indices.push(index);
        self.vain = 0;
        self.are_asleep = false;
    }

    pub(super) fn forget(&mut self, index: u32) {
        self.indices.retain(|known| *known != index);
    }
}

impl Worker {
    /// Looks into each ring once.
    pub(super) fn look_into_rings(&mut self) -> Result<(), Closed> {
        if self.rings.are_asleep {
            return Ok(());
        }
        self.rings.brought_bytes = 0;
        let mut at = 0;
        while let Some(&index) = self.rings.indices.get(at) {
            let Some(connection) = &mut self.connections[index as usize] else {
                self.rings.forget(index);
                continue;
            };
            let (fate, bytes) = connection.look(&mut self.desks[0], &mut self.intake)?;
            self.rings.brought_bytes += bytes;
            self.settle(index, fate);
            // One that has ended is no longer there, and the next is in its place.
            if self.rings.indices.get(at) == Some(&index) {
                at += 1;
            }
        }
        self.rings.vain = if self.rings.brought_bytes == 0 { self.rings.vain.saturating_add(1) } else { 0 };
        Ok(())
    }

    /// How long the writer may rest; None for as long as nothing happens.
    pub(super) fn before_sleep(&mut self) -> Option<Duration> {
        if self.rings.indices.is_empty() || self.rings.are_asleep {
            return None;
        }
        if self.rings.brought_bytes >= MUCH_BYTES {
            return Some(Duration::ZERO);
        }
        if self.rings.vain < DOZES_MAX {
            self.set_state(state::DOZING);
            return Some(DOZE);
        }
        self.set_state(state::ASLEEP);
        membarrier::everywhere();
        RingConsumer::after_barrier();
        let mut has_something = false;
        for index in &self.rings.indices {
            let connection = self.connections[*index as usize].as_mut();
            has_something |=
                connection.and_then(|connection| connection.ring()).is_some_and(|ring| ring.has_something());
        }
        self.rings.are_asleep = !has_something;
        has_something.then_some(Duration::ZERO)
    }

    /// Producers need not ring from here on. While they sleep it takes a bell, for what else wakes the writer is nothing to them.
    pub(super) fn after_sleep(&mut self, is_bell: bool) {
        if is_bell || !self.rings.are_asleep {
            self.rings.are_asleep = false;
            self.set_state(state::AWAKE);
        }
    }

    fn set_state(&mut self, kind: u64) {
        for index in &self.rings.indices {
            if let Some(ring) = self.connections[*index as usize].as_mut().and_then(|connection| connection.ring()) {
                ring.set_state(kind);
            }
        }
    }
}
