//! Encodes events, blocks of lines and losses into one claim, each after the record that introduces its source.
//!
//! Input: events and the slots of their sources. Output: records in the claim, and a tally of them. Thread: the writer.
//! Nothing can fail: what does not fit is not encoded, and the caller tries it again with the next claim.

use super::observer::PublishObserver;
use super::sources::{Peer, SLOTS_MAX, Sources};
use crate::pipeline::buffer::Claim;
use crate::pipeline::record::{
    Event, LOSS_BYTES, Loss, Transport, encode_lines, encode_loss, lines_record_bytes, padded,
};

/// Sources that one claim names at most.
const CLAIM_SLOTS_MAX: usize = 512;

const _: () = assert!(CLAIM_SLOTS_MAX < SLOTS_MAX, "invariant 1 of the sources");

/// Memory that keeps its events until they are published and encodes them straight into a claim. A ring is one.
///
/// A socket cannot do that without rolling back the state of its parser; see [`super::publisher`].
pub(crate) trait EventSource: PublishObserver {
    /// Encodes as many events as fit, and at least one if it needs no more room than was asked for. If the claim fails,
    /// this is called again and starts with the same event.
    fn encode(&mut self, encoder: &mut ClaimEncoder<'_, '_>);
}

/// What one claim carries.
#[derive(Debug, Default)]
pub(super) struct ClaimTally {
    pub(super) by_slot: Vec<SlotTally>,
    /// The producer's own sequence of the last event that has one.
    pub(super) sequence: Option<u64>,
}

/// What one claim carries of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotTally {
    pub(super) slot: u32,
    pub(super) events: u64,
    pub(super) bytes: u64,
}

impl ClaimTally {
    pub(super) fn clear(&mut self) {
        self.by_slot.clear();
        self.sequence = None;
    }

    #[inline]
    fn add(&mut self, slot: u32, events: u64, bytes: u64) {
        match self.by_slot.last_mut() {
            Some(last) if last.slot == slot => {
                last.events += events;
                last.bytes += bytes;
            }
            _ => self.by_slot.push(SlotTally { slot, events, bytes }),
        }
    }
}

/// Encodes into one claim. Everything in it has the same acceptance time.
pub(crate) struct ClaimEncoder<'a, 'c> {
    pub(super) claim: &'a mut Claim<'c>,
    pub(super) sources: &'a mut Sources,
    pub(super) tally: &'a mut ClaimTally,
    pub(super) time_ns: u64,
}

impl ClaimEncoder<'_, '_> {
    /// See [`Sources::slot`].
    #[inline]
    pub(crate) fn slot(&mut self, peer: &Peer, transport: Transport, tag: &[u8]) -> u32 {
        self.sources.slot(peer, transport, 0, tag)
    }

    /// Encodes an event or a piece of one. False if it does not fit.
    #[inline]
    pub(crate) fn encode(&mut self, slot: u32, event: &Event<'_>) -> bool {
        if !self.has_room(slot, event.record_bytes()) {
            return false;
        }
        let event = Event { source: self.introduce(slot), time_ns: self.time_ns, ..*event };
        event.encode(self.claim);
        // A piece that is not the last takes no sequence.
        let ends = event.piece.is_none_or(|piece| !piece.continues);
        self.tally.add(slot, u64::from(ends), event.payload.len() as u64);
        self.tally.sequence = event.producer_sequence.or(self.tally.sequence);
        true
    }

    /// Encodes a whole event. `fill` copies its payload of `payload_bytes` bytes into place. False if it does not fit.
    #[inline]
    pub(crate) fn encode_around(
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
        self.tally.add(slot, 1, payload_bytes as u64);
        true
    }

    /// Encodes a block of `lines` lines, each with its newline. False if it does not fit.
    #[inline]
    pub(super) fn encode_lines(&mut self, slot: u32, pri: u8, block: &[u8], lines: u32) -> bool {
        if !self.has_room(slot, lines_record_bytes(block.len())) {
            return false;
        }
        let source = self.introduce(slot);
        encode_lines(self.claim, source, self.time_ns, pri, block);
        self.tally.add(slot, u64::from(lines), block.len() as u64 - u64::from(lines));
        true
    }

    /// Encodes a loss record. False if it does not fit.
    pub(super) fn encode_loss(&mut self, slot: u32, loss: &Loss) -> bool {
        // Losses are few and their list counts them, so they take no room in the tally.
        if self.sources.introduction_bytes(slot) + LOSS_BYTES > self.claim.room() {
            return false;
        }
        let source = self.introduce(slot);
        encode_loss(self.claim, source, self.time_ns, loss);
        true
    }

    #[inline]
    fn has_room(&self, slot: u32, record_bytes: usize) -> bool {
        // The slots that a claim names are looked up until it is published (invariant 1 of the sources).
        let has_slots = self.tally.by_slot.len() < CLAIM_SLOTS_MAX;
        has_slots && self.sources.introduction_bytes(slot) + record_bytes <= self.claim.room()
    }

    #[inline]
    fn introduce(&mut self, slot: u32) -> u32 {
        self.sources.introduce(slot, self.time_ns, self.claim)
    }
}
