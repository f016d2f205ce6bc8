//! Stores the losses that no batch has reported yet, in two copies. As with the figures, one of them holds.
//!
//! Input: losses of the reader, under a number. Output: the losses that wait. Thread: the reader. Nothing here can
//! fail.

use super::{LOSS_WORDS, Memory, PENDING_LOSSES, PENDING_LOSSES_AT, PENDING_LOSSES_MAX, PENDING_LOSSES_WORDS, ROWS};
use crate::pipeline::account::cell::{get, set};
use crate::pipeline::record::{Cause, Loss};
use crate::sync::atomic::AtomicU64;

impl Memory {
    pub(super) fn pending_losses_copy(&self, copy: usize) -> &[AtomicU64] {
        &self.words()[PENDING_LOSSES_AT + copy * PENDING_LOSSES_WORDS..][..PENDING_LOSSES_WORDS]
    }

    fn pending_losses_holds(&self) -> usize {
        (get(self.head(PENDING_LOSSES)) % 2) as usize
    }

    /// Prepares these losses, which wait once `number` has come; at most [`PENDING_LOSSES_MAX`].
    pub(in super::super) fn prepare_pending_losses(
        &self,
        number: u64,
        losses: impl ExactSizeIterator<Item = (u32, Loss)>,
    ) {
        let copy = self.pending_losses_copy(1 - self.pending_losses_holds());
        let count = losses.len().min(PENDING_LOSSES_MAX);
        for (words, (row, loss)) in copy[2..].chunks_exact(LOSS_WORDS).zip(losses.take(count)) {
            let values = [u64::from(row), loss.cause as u64, loss.events, loss.bytes, loss.first_ns, loss.last_ns];
            for (word, value) in words.iter().zip(values) {
                set(word, value);
            }
        }
        set(&copy[1], count as u64);
        set(&copy[0], number);
    }

    /// Makes the losses that were prepared under `number` wait: it has come.
    pub(in super::super) fn commit_pending_losses(&self, number: u64) {
        let holds = self.pending_losses_holds();
        if get(&self.pending_losses_copy(1 - holds)[0]) == number {
            set(self.head(PENDING_LOSSES), 1 - holds as u64);
        }
    }

    /// The pending losses.
    pub(in super::super) fn pending_losses(&self) -> Vec<(u32, Loss)> {
        let copy = self.pending_losses_copy(self.pending_losses_holds());
        let count = get(&copy[1]).min(PENDING_LOSSES_MAX as u64) as usize;
        let one = |words: &[AtomicU64]| {
            let [row, cause, events, bytes, first_ns, last_ns] = std::array::from_fn(|at| get(&words[at]));
            let cause = *Cause::ALL.get(usize::try_from(cause).ok()?)?;
            let row = u32::try_from(row).ok().filter(|row| (*row as usize) < ROWS)?;
            Some((row, Loss { cause, events, bytes, first_ns, last_ns }))
        };
        copy[2..].chunks_exact(LOSS_WORDS).take(count).filter_map(one).collect()
    }
}
