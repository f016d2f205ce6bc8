//! Counts as lost what the previous process had in memory, if nothing of that memory is left.
//!
//! Input: the account of the previous process, and what the files say. Output: rows that add up, and losses that the
//! next batch reports. Thread: the main thread, at the start, before any thread counts. Nothing can fail.
//!
//! A word says that this must be done. It is set before a new buffer exists, where the next process would look for the
//! events, and cleared when everything is done. Until then each start does it again.
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 | the losses are prepared, under a number that no batch has | nothing is counted |
//! | 2 | that number becomes the number of what was given up | the next start commits the losses, and finds no more |
//! | 3 | the losses are committed | the same |

use super::figures::{Tally, sum};
use super::memory::{FOLDED, Memory, PENDING_LOSSES_MAX, READER, ROWS, UNNAMED};
use super::producers::Account;
use crate::pipeline::record::{Cause, Loss};

/// Not the number of any batch.
const NUMBER: u64 = u64::MAX;

/// Losses that are reported under their producers, at most.
const NAMED_MAX: usize = PENDING_LOSSES_MAX - Cause::COUNT;

impl Account {
    /// Counts as lost what the previous process had sent and not stored, if nothing of its buffers is left. `newest` is
    /// the generation of the newest batch in the files, and `next_sequence` the sequence of the next event there.
    pub fn lose_what_is_gone(&self, newest: Option<u64>, next_sequence: u64, now_ns: u64) {
        let memory = &self.memory;
        if !memory.is_buffer_gone() {
            return;
        }
        // The previous process may have died before it counted a batch that is in the files, or one that it had given
        // up.
        if let Some(generation) = newest.filter(|_| memory.next_sequence() < next_sequence) {
            memory.commit_all(READER, generation);
            memory.commit_pending_losses(generation);
            memory.set_next_sequence(next_sequence);
        }
        memory.commit_given_up();
        memory.forget_generations();
        let mut losses = memory.pending_losses();
        for row in rows() {
            let (events, bytes) = in_memory(memory, row);
            if events > 0 {
                memory.prepare(row, READER, NUMBER, true, &Tally::lost(Cause::Abandoned, events, bytes));
                add(
                    &mut losses,
                    row,
                    Loss { cause: Cause::Abandoned, events, bytes, first_ns: now_ns, last_ns: now_ns },
                );
            }
        }
        memory.prepare_pending_losses(NUMBER, losses.into_iter());
        memory.give_up(NUMBER);
        memory.commit_given_up();
        memory.forget_generations();
        memory.set_buffer_gone(false);
    }
}

/// All rows except the folded one, of whose producers nothing is in memory.
fn rows() -> impl Iterator<Item = u32> {
    (0..ROWS as u32).filter(|row| *row != FOLDED)
}

/// Events that were published and are neither stored nor lost, and their bytes.
fn in_memory(memory: &Memory, row: u32) -> (u64, u64) {
    let writers = (READER + 1..memory.cells()).map(|cell| memory.looked(row, cell)).fold(Tally::default(), Tally::plus);
    let reader = memory.looked(row, READER);
    (
        sum([writers.events, reader.adopted_events]).saturating_sub(sum([reader.events, reader.lost_total()])),
        sum([writers.bytes, reader.adopted_bytes]).saturating_sub(sum([reader.bytes, reader.lost_bytes])),
    )
}

/// Adds a loss to the pending ones, without its producer if there is no room for one more name.
fn add(losses: &mut Vec<(u32, Loss)>, row: u32, loss: Loss) {
    let same = |losses: &[(u32, Loss)], row: u32| {
        losses.iter().position(|(of, known)| (*of, known.cause) == (row, loss.cause))
    };
    let row = if losses.len() < NAMED_MAX || same(losses, row).is_some() { row } else { UNNAMED };
    match same(losses, row) {
        Some(at) => losses[at].1.merge(&loss),
        None => losses.push((row, loss)),
    }
}
