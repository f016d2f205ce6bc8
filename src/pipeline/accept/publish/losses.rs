//! Keeps losses until their records are published, and counts them with these records.
//!
//! Input: a source, a cause, numbers of events and bytes. Output: loss records in a claim. Thread: the writer that
//! owns the list. Nothing can fail: a loss waits here until a publish that carries its record has succeeded.

use super::encoder::ClaimEncoder;
use crate::pipeline::record::{Cause, LOSS_BYTES, Loss};

/// Losses of different source or cause that wait at a time; the publisher publishes them when there are as many.
pub(super) const LOSSES_MAX: usize = 64;

/// A loss, and the slot of its source.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotLoss {
    pub(super) slot: u32,
    pub(super) loss: Loss,
}

/// Losses that wait.
#[derive(Debug, Default)]
pub(super) struct Losses(Vec<SlotLoss>);

impl Losses {
    /// Adds lost events and their bytes; those of one source and one cause become one record.
    pub(super) fn add(&mut self, slot: u32, cause: Cause, events: u64, bytes: u64, time_ns: u64) {
        match self.0.iter_mut().find(|known| known.slot == slot && known.loss.cause == cause) {
            Some(SlotLoss { loss, .. }) => {
                loss.events += events;
                loss.bytes += bytes;
                loss.last_ns = time_ns;
            }
            None => {
                let loss = Loss { cause, events, bytes, first_ns: time_ns, last_ns: time_ns };
                self.0.push(SlotLoss { slot, loss });
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= LOSSES_MAX
    }

    /// The slot and the bytes of the first record, without its source record.
    pub(super) fn first(&self) -> Option<(u32, usize)> {
        self.0.first().map(|first| (first.slot, LOSS_BYTES))
    }

    /// Encodes as many as have room. Returns how many.
    pub(super) fn encode(&self, encoder: &mut ClaimEncoder<'_, '_>) -> usize {
        self.0.iter().take_while(|lost| encoder.encode_loss(lost.slot, &lost.loss)).count()
    }

    /// All that wait, in the order in which they are published.
    pub(super) fn all(&self) -> &[SlotLoss] {
        &self.0
    }

    /// Leaves out up to `events` lost events, the first ones, because the previous process has published their
    /// records. These may have been fewer records: a sender may have ended since, and each of its losses has an
    /// unknown source now. Returns how many there were.
    pub(super) fn skip(&mut self, events: u64) -> u64 {
        let mut left = events;
        for SlotLoss { loss, .. } in &mut self.0 {
            let skipped = loss.events.min(left);
            loss.events -= skipped;
            left -= skipped;
        }
        self.0.retain(|lost| lost.loss.events > 0);
        events - left
    }

    /// The first `count` of them are published.
    pub(super) fn published(&mut self, count: usize) {
        self.0.drain(..count);
    }
}
