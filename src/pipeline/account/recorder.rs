//! Records what a publish or a batch brings: each thread has its own cell in every row and prepares its figures there.
//!
//! Input: tallies of producers, and what became of the publish or the batch. Output: figures in the account's memory.
//! Thread: the one that owns the recorder. Nothing here can fail.

use super::figures::Tally;
use super::identity::Identity;
use super::memory::{Memory, READER, ROWS, UNNAMED};
use super::producers::{Account, Producer};
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::{Loss, Record};
use crate::sync::Arc;
use crate::sync::atomic::Ordering::Relaxed;

/// Counts for a writer: figures are prepared before a publish, and count after it.
#[derive(Debug)]
pub struct Recorder {
    pub(super) account: Arc<Account>,
    pub(super) cell: usize,
    pub(super) number: u64,
    /// Rows that are prepared.
    pub(super) touched: Vec<u32>,
    /// For each row, the round in which it was last prepared.
    rounds: Box<[u64]>,
    round: u64,
}

impl Account {
    /// The recorder of writer `writer`. There must be only one at a time.
    pub fn recorder(self: &Arc<Self>, writer: usize) -> Recorder {
        Recorder::new(Arc::clone(self), READER + 1 + writer)
    }

    /// The recorder of the reader. There must be only one at a time.
    pub fn reader_recorder(self: &Arc<Self>) -> ReaderRecorder {
        ReaderRecorder::new(Arc::clone(self))
    }
}

impl Recorder {
    pub(super) fn new(account: Arc<Account>, cell: usize) -> Self {
        // Skips one number: the previous process may have prepared it and died before it noted it.
        let number = account.memory.number(cell) + 2;
        Self { account, cell, number, touched: Vec::new(), rounds: vec![0; ROWS].into(), round: 1 }
    }

    /// Adds to what the next publish brings of a producer.
    #[inline]
    pub fn prepare(&mut self, producer: &Producer, add: &Tally) {
        self.prepare_row(producer.row, add);
    }

    #[inline]
    fn prepare_row(&mut self, row: u32, add: &Tally) {
        let is_first = self.rounds[row as usize] != self.round;
        if is_first {
            self.rounds[row as usize] = self.round;
            self.touched.push(row);
        }
        self.account.memory.prepare(row, self.cell, self.number, is_first, add);
    }

    /// Notes that what is prepared is about to be published at `position`.
    #[inline]
    pub fn before_publish(&self, position: PublishPosition) {
        self.account.memory.before_publish(self.cell, self.number, position);
    }

    /// Notes that the publish has failed: nothing of it counts. Must be called before another claim can get the
    /// position.
    pub fn abort(&mut self) {
        self.account.memory.abort(self.cell);
        self.begin_round();
    }

    /// Notes that it is published.
    #[inline]
    pub fn published(&mut self) {
        self.commit();
        self.account.memory.published(self.cell, self.number);
        self.begin_round();
    }

    /// Counts what belongs to no publish. If the process dies meanwhile, parts of it may be missing.
    pub fn count_now(&mut self) {
        self.account.memory.set_number(self.cell, self.number);
        self.commit();
        self.begin_round();
    }

    #[inline]
    fn commit(&mut self) {
        for row in &self.touched {
            self.account.memory.commit(*row, self.cell, self.number);
        }
    }

    #[inline]
    fn begin_round(&mut self) {
        self.touched.clear();
        self.round += 1;
        self.number += 1;
    }
}

/// Counts for the reader, batch by batch, under the batch's generation.
#[derive(Debug)]
pub struct ReaderRecorder {
    recorder: Recorder,
    /// Producers of the batch, whose rows must not change hands until it is counted.
    held: Vec<Arc<Producer>>,
    /// The current batch was found in memory, and no writer's count of it is left. So the reader counts its events as
    /// sent, too.
    adopts: bool,
}

impl ReaderRecorder {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self { recorder: Recorder::new(account, READER), held: Vec::new(), adopts: false }
    }

    /// Says whether the next batches are what the previous process left in the buffer.
    pub fn set_inherited(&mut self, is_inherited: bool) {
        // Relaxed: decided before this thread began.
        self.adopts = is_inherited && self.recorder.account.adopts.load(Relaxed);
    }

    /// Begins a batch that is about to be persisted or given up. Discards what was prepared before.
    pub fn begin(&mut self, generation: u64) {
        self.held.clear();
        self.recorder.begin_round();
        self.recorder.number = generation;
        // Even if nothing is counted there this time: an earlier try may have left something.
        self.recorder.prepare_row(UNNAMED, &Tally::default());
    }

    /// Adds to what the batch brings of the producer with this source record, or of the unnamed.
    pub fn prepare(&mut self, source: Option<&Record<'_>>, add: &Tally) {
        let mut add = *add;
        if self.adopts {
            (add.adopted_events, add.adopted_bytes) = (add.events + add.lost_total(), add.bytes);
        }
        let Some(producer) = source.and_then(|record| self.recorder.account.producer_of(record, self.adopts)) else {
            return self.recorder.prepare_row(UNNAMED, &add);
        };
        self.recorder.prepare(&producer, &add);
        self.held.push(producer);
    }

    /// Prepares the pending losses: once the batch has come, these losses, and no others, wait to be reported in the
    /// data.
    pub fn prepare_pending_losses(&mut self, losses: &[(Arc<Producer>, Loss)]) {
        let rows = losses.iter().map(|(producer, loss)| (producer.row, *loss));
        self.recorder.account.memory.prepare_pending_losses(self.recorder.number, rows);
    }

    /// Counts the batch: it is in a file, and the next event will have this sequence.
    pub fn persisted(&mut self, next_sequence: u64, written_bytes: u64) {
        self.count_batch(|memory| {
            memory.set_next_sequence(next_sequence);
            memory.add_written(written_bytes);
        });
    }

    /// Counts the batch as given up.
    pub fn given_up(&mut self) {
        self.recorder.account.memory.give_up(self.recorder.number);
        self.count_batch(|_| ());
    }

    fn count_batch(&mut self, more: impl FnOnce(&Memory)) {
        let account = Arc::clone(&self.recorder.account);
        account.memory.turn().change(|| {
            self.recorder.commit();
            account.memory.commit_pending_losses(self.recorder.number);
            more(&account.memory);
        });
        self.recorder.begin_round();
    }

    /// Counts the previous process's batch of this generation: it is in the files, so what was prepared for it counts.
    pub fn settle_persisted(&self, generation: u64, next_sequence: u64) {
        let memory = &self.recorder.account.memory;
        memory.commit_all(READER, generation);
        memory.commit_pending_losses(generation);
        memory.set_next_sequence(next_sequence);
    }

    /// Whether the previous process had given up the batch of this generation. If so, what was prepared for it counts.
    pub fn settle_given_up(&self, generation: u64) -> bool {
        let memory = &self.recorder.account.memory;
        let is_given_up = memory.was_given_up(generation);
        if is_given_up {
            memory.commit_all(READER, generation);
            memory.commit_pending_losses(generation);
        }
        is_given_up
    }

    /// Losses that the previous process could not report in the data.
    pub fn pending_losses(&self) -> Vec<(Arc<Producer>, Loss)> {
        let account = &self.recorder.account;
        let named = |row: u32| {
            let identity = account.memory.identity(row).unwrap_or_else(Identity::unnamed);
            account.counted_as(&identity)
        };
        account.memory.pending_losses().into_iter().map(|(row, loss)| (named(row), loss)).collect()
    }

    /// Events that a failed sync has taken back and no batch has reported.
    pub fn withdrawn(&self) -> u64 {
        let memory = &self.recorder.account.memory;
        memory.withdrawn().wrapping_sub(memory.looked(UNNAMED, READER).withdrawn)
    }

    /// The producer under which a writer has counted `identity`.
    #[must_use]
    pub fn producer(&self, identity: &Identity) -> Arc<Producer> {
        self.recorder.account.counted_as(identity)
    }
}
