//! Counts as lost what the previous process had in memory, where nothing of that memory is left.
//!
//! Input: the account of the previous process, and what the files say. Output: rows that add up, and losses that the
//! next batch reports. Main thread, at the start, before any thread counts. Nothing can fail.
//!
//! A word says that it is to be done. It is set before there is a new buffer, in which the next process would look for
//! the events, and cleared when all is done; until then each start does it again.
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 | the losses are prepared, under a number that no batch has | nothing is counted |
//! | 2 | the number is that of what is given up | the next start counts what is prepared, and finds no more |
//! | 3 | what is prepared holds | the same |

use super::figures::Tally;
use super::memory::{FOLDED, Memory, PENDING_LOSSES_MAX, READER, ROWS, UNNAMED};
use super::producers::Account;
use crate::pipeline::record::{Cause, Loss};

/// Not the number of any batch.
const NUMBER: u64 = u64::MAX;

/// The most losses that are reported with their producers.
const NAMED_MAX: usize = PENDING_LOSSES_MAX - Cause::COUNT;

impl Account {
    /// Where nothing is left of the previous process's buffers: what it had sent and not stored is lost. The newest
    /// batch in the files is of generation `newest`, and the next event there has the sequence `next_sequence`.
    pub fn lose_what_is_gone(&self, newest: Option<u64>, next_sequence: u64, now_ns: u64) {
        let memory = &self.memory;
        if !memory.is_buffer_gone() {
            return;
        }
        // It may have died before it counted a batch that is in the files, or one that it had given up.
        if let Some(generation) = newest.filter(|_| memory.next_sequence() < next_sequence) {
            memory.hold_all(READER, generation);
            memory.hold_pending_losses(generation);
            memory.set_next_sequence(next_sequence);
        }
        memory.hold_given_up();
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
        memory.hold_given_up();
        memory.forget_generations();
        memory.set_buffer_gone(false);
    }
}

/// All but those of which nothing is in memory.
fn rows() -> impl Iterator<Item = u32> {
    (0..ROWS as u32).filter(|row| *row != FOLDED)
}

/// Events that were published and are neither stored nor lost, and their bytes.
fn in_memory(memory: &Memory, row: u32) -> (u64, u64) {
    let writers = (READER + 1..memory.cells()).map(|cell| memory.looked(row, cell)).fold(Tally::default(), Tally::plus);
    let reader = memory.looked(row, READER);
    (
        (writers.events + reader.adopted_events).saturating_sub(reader.events + reader.lost_total()),
        (writers.bytes + reader.adopted_bytes).saturating_sub(reader.bytes + reader.lost_bytes),
    )
}

/// Adds a loss to those that wait, without its producer where there is no room to name it.
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
