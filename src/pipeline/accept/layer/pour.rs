//! Events that go from where they lie straight into a claim, without waiting in the layer's list.
//!
//! Enters: a [`Feed`], which looks at events as it lays them down. Leaves: published records, and counts. The layer's thread. What
//! can fail: the reader is gone.
//!
//! It is for memory that keeps its events until they are published: a ring's. Where the reader swaps meanwhile, the feed looks at
//! the same events again. A socket's bytes cannot do that without taking back what the look has changed (see [`super`]).

use super::{Carried, Closed, EVENTS_MAX, Event, Layer, Peer, Sources, Transport, Witness, prepare};
use crate::pipeline::accept::layer::Brought;
use crate::pipeline::buffer::{Claim, Refused};
use crate::pipeline::pulse::Activity;
use crate::pipeline::record::padded;

/// Where events lie that are laid down as they are looked at.
pub(in crate::pipeline::accept) trait Feed: Witness {
    /// Lays down as many as have room, one at least of what was asked for. It is called again, from the same event on, if what it
    /// has laid down does not count.
    fn put(&mut self, tray: &mut Tray<'_, '_>);
}

/// Room for a feed's events.
pub(in crate::pipeline::accept) struct Tray<'a, 'c> {
    claim: &'a mut Claim<'c>,
    sources: &'a mut Sources,
    carried: &'a mut Carried,
    time_ns: u64,
}

impl Tray<'_, '_> {
    /// See [`Layer::slot`].
    #[inline]
    pub(in crate::pipeline::accept) fn slot(&mut self, peer: &Peer, transport: Transport, tag: &[u8]) -> u32 {
        self.sources.slot(peer, transport, 0, tag)
    }

    /// Lays down a whole event. False if it has no room.
    pub(in crate::pipeline::accept) fn add(&mut self, slot: u32, event: &Event<'_>) -> bool {
        if !self.has_room(slot, event.record_bytes()) {
            return false;
        }
        let event = Event { source: self.introduce(slot), time_ns: self.time_ns, ..*event };
        event.encode(self.claim);
        self.carried.add(slot, 1, event.payload.len() as u64);
        true
    }

    /// Lays down a whole event, whose payload of so many bytes `fill` copies to its place. False if it has no room.
    #[inline]
    pub(in crate::pipeline::accept) fn add_around(
        &mut self,
        slot: u32,
        event: &Event<'_>,
        payload_bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        if !self.has_room(slot, event.record_bytes() + padded(payload_bytes)) {
            return false;
        }
        let event = Event { source: self.introduce(slot), time_ns: self.time_ns, ..*event };
        event.encode_around(payload_bytes, self.claim, fill);
        self.carried.add(slot, 1, payload_bytes as u64);
        true
    }

    #[inline]
    fn has_room(&self, slot: u32, record_bytes: usize) -> bool {
        // The slots of what a claim carries are looked up until it is published (invariant 1 of the sources).
        let has_slots = self.carried.by_slot.len() < EVENTS_MAX;
        has_slots && self.sources.introduction_bytes(slot) + record_bytes <= self.claim.room()
    }

    #[inline]
    fn introduce(&mut self, slot: u32) -> u32 {
        self.sources.introduce(slot, self.time_ns, self.claim)
    }
}

impl Layer {
    /// Publishes what `feed` lays down into one claim of at least `need` bytes; waits for room if need be. False if no claim is as
    /// large. Nothing waits in the layer at this moment.
    ///
    /// # Errors
    /// [`Closed`]; what lies in the feed stays there.
    pub(in crate::pipeline::accept) fn pour(&mut self, need: usize, feed: &mut impl Feed) -> Result<bool, Closed> {
        debug_assert!(self.events.all.is_empty() && self.losses.all().is_empty(), "nothing is overtaken");
        loop {
            self.pulse.beat(Activity::WaitsForRoom);
            let claim = self.writer.claim(need);
            self.pulse.beat(Activity::Running);
            let mut claim = match claim {
                Ok(claim) => claim,
                Err(Refused::TooLarge) => return Ok(false),
                Err(_) => return Err(Closed),
            };
            let generation = claim.generation();
            self.sources.enter(generation);
            self.carried.clear();
            let (sources, carried, time_ns) = (&mut self.sources, &mut self.carried, self.time_ns);
            feed.put(&mut Tray { claim: &mut claim, sources, carried, time_ns });
            if claim.is_empty() {
                break;
            }
            prepare(&mut self.teller, &self.sources, &self.carried, &[]);
            let brought = Brought { sequence: None, is_all: true };
            self.teller.about_to(claim.spot());
            feed.about_to_publish(claim.spot(), brought);
            let sealed = || {
                self.teller.take_back();
                feed.take_back();
            };
            if claim.publish_or(sealed).is_ok() {
                self.teller.published();
                feed.published(generation, brought);
                self.publishes += 1;
                break;
            }
        }
        self.sources.end_round();
        Ok(true)
    }
}
