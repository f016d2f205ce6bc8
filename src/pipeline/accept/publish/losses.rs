//! Keeps losses until their records are published, and counts each loss together with its record.
//!
//! Input: a source, a cause, numbers of events and bytes. Output: loss records in a claim. Thread: the writer that owns
//! the list. Nothing can fail: a loss stays in the list until its record is published.

use super::encoder::ClaimEncoder;
use crate::pipeline::record::{Cause, LOSS_BYTES, Loss};

/// Pending losses of different source or cause. The publisher publishes them when there are this many.
pub(super) const LOSSES_MAX: usize = 64;

/// A loss, and the slot of its source.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotLoss {
    pub(super) slot: u32,
    pub(super) loss: Loss,
}

/// The pending losses.
#[derive(Debug, Default)]
pub(super) struct Losses(Vec<SlotLoss>);

impl Losses {
    /// Adds lost events and their bytes. Losses of the same source and cause share one record.
    pub(super) fn add(&mut self, slot: u32, cause: Cause, events: u64, bytes: u64, time_ns: u64) {
        let loss = Loss { cause, events, bytes, first_ns: time_ns, last_ns: time_ns };
        match self.0.iter_mut().find(|known| known.slot == slot && known.loss.cause == cause) {
            Some(known) => known.loss.merge(&loss),
            None => self.0.push(SlotLoss { slot, loss }),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= LOSSES_MAX
    }

    /// The slot and the bytes of the first record, without its source record.
    pub(super) fn first(&self) -> Option<(u32, usize)> {
        self.0.first().map(|first| (first.slot, LOSS_BYTES))
    }

    /// Encodes as many as fit. Returns how many.
    pub(super) fn encode(&self, encoder: &mut ClaimEncoder<'_, '_>) -> usize {
        self.0.iter().take_while(|lost| encoder.encode_loss(lost.slot, &lost.loss)).count()
    }

    /// All pending losses, in the order in which they are published.
    pub(super) fn all(&self) -> &[SlotLoss] {
        &self.0
    }

    /// Skips up to `events` lost events at the front, because the previous process has published their records. Counts
    /// events, not records: the previous process may have used fewer records. A sender that has ended since cannot be
    /// identified any more, so each of its losses has a source of its own now. Returns how many events it skipped.
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

    /// Removes the first `count` losses: they are published.
    pub(super) fn published(&mut self, count: usize) {
        self.0.drain(..count);
    }
}
