//! Losses that have yet to become records in the data, and are counted with these.
//!
//! Enters: a source, a cause, how many events and bytes. Leaves: loss records in a claim. One list a writer, on its
//! thread. Nothing can fail: a loss waits here until a publish that carries its record has succeeded.

use super::sources::Sources;
use crate::pipeline::buffer::Claim;
use crate::pipeline::record::{Cause, LOSS_BYTES, Loss, encode_loss};

/// Losses of different source or cause that wait at a time; the publisher lays them down when there are as many.
pub(crate) const LOSSES_MAX: usize = 64;

/// Losses that wait.
#[derive(Debug, Default)]
pub(crate) struct Losses(Vec<(u32, Loss)>);

impl Losses {
    /// Adds lost events and their bytes; those of one source and one cause become one record.
    pub(crate) fn add(&mut self, slot: u32, cause: Cause, (events, bytes): (u64, u64), time_ns: u64) {
        match self.0.iter_mut().find(|(s, known)| *s == slot && known.cause == cause) {
            Some((_, known)) => {
                known.events += events;
                known.bytes += bytes;
                known.last_ns = time_ns;
            }
            None => self.0.push((slot, Loss { cause, events, bytes, first_ns: time_ns, last_ns: time_ns })),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= LOSSES_MAX
    }

    /// The slot and the bytes of the first record, without its source record.
    pub(crate) fn first(&self) -> Option<(u32, usize)> {
        self.0.first().map(|(slot, _)| (*slot, LOSS_BYTES))
    }

    /// Lays down as many as have room. Returns how many.
    pub(crate) fn put(&self, claim: &mut Claim<'_>, sources: &mut Sources, time_ns: u64) -> usize {
        for (index, (slot, loss)) in self.0.iter().enumerate() {
            if sources.introduction_bytes(*slot) + LOSS_BYTES > claim.room() {
                return index;
            }
            let id = sources.introduce(*slot, time_ns, claim);
            encode_loss(claim, id, time_ns, loss);
        }
        self.0.len()
    }

    /// All that wait, in the order in which they are laid down.
    pub(crate) fn all(&self) -> &[(u32, Loss)] {
        &self.0
    }

    /// Leaves out up to so many lost events, the first ones, for the previous process has published what says so. They may have been
    /// fewer records then: who sent them may have ended since, and each is a stranger's now. Returns how many there were.
    pub(crate) fn skip(&mut self, events: u64) -> u64 {
        let mut left = events;
        for (_, loss) in &mut self.0 {
            let skipped = loss.events.min(left);
            loss.events -= skipped;
            left -= skipped;
        }
        self.0.retain(|(_, loss)| loss.events > 0);
        events - left
    }

    /// The first so many are published.
    pub(crate) fn published(&mut self, count: usize) {
        self.0.drain(..count);
    }
}
