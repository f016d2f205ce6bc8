//! Records what a publish or a batch brings: each thread has a cell of its own in every row, and prepares its figures
//! there.

use super::figures::Tally;
use super::identity::Identity;
use super::memory::{Memory, READER, ROWS, UNNAMED};
use super::producers::{Account, Producer};
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::{Loss, Record};
use crate::sync::Arc;
use crate::sync::atomic::Ordering::Relaxed;

/// How a writer counts: what a publish will bring is prepared before it, and holds after it.
#[derive(Debug)]
pub struct Recorder {
    pub(super) account: Arc<Account>,
    pub(super) cell: usize,
    pub(super) number: u64,
    /// Rows that are prepared.
    pub(super) touched: Vec<u32>,
    /// For each row, the round in which it was prepared last.
    rounds: Box<[u64]>,
    round: u64,
}

impl Account {
    /// The way to count for writer `writer`. One at a time.
    pub fn recorder(self: &Arc<Self>, writer: usize) -> Recorder {
        Recorder::new(Arc::clone(self), READER + 1 + writer)
    }

    /// The way to count for the reader. One at a time.
    pub fn reader_recorder(self: &Arc<Self>) -> ReaderRecorder {
        ReaderRecorder::new(Arc::clone(self))
    }
}

impl Recorder {
    pub(super) fn new(account: Arc<Account>, cell: usize) -> Self {
        // The next number may have been prepared by the previous process that did not come to noting it.
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

    /// What is prepared is about to be published at `spot`.
    #[inline]
    pub fn about_to(&self, spot: PublishPosition) {
        self.account.memory.about_to(self.cell, self.number, spot);
    }

    /// That has failed: nothing of it counts. Called before the spot can become another's.
    pub fn take_back(&mut self) {
        self.account.memory.take_back(self.cell);
        self.begin_round();
    }

    /// It is published.
    #[inline]
    pub fn published(&mut self) {
        self.hold();
        self.account.memory.published(self.cell, self.number);
        self.begin_round();
    }

    /// Counts what goes with no publish. If the process dies meanwhile, parts of it may be missing.
    pub fn count_now(&mut self) {
        self.account.memory.set_number(self.cell, self.number);
        self.hold();
        self.begin_round();
    }

    #[inline]
    fn hold(&mut self) {
        for row in &self.touched {
            self.account.memory.hold(*row, self.cell, self.number);
        }
    }

    #[inline]
    fn begin_round(&mut self) {
        self.touched.clear();
        self.round += 1;
        self.number += 1;
    }
}

/// How the reader counts: batch by batch, under the batch's generation.
#[derive(Debug)]
pub struct ReaderRecorder {
    recorder: Recorder,
    /// Producers of the batch, whose rows must not change hands until it is counted.
    held: Vec<Arc<Producer>>,
    /// What is counted now was found in memory, and no writer's count of it is left: it is counted as received as well.
    adopts: bool,
}

impl ReaderRecorder {
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self { recorder: Recorder::new(account, READER), held: Vec::new(), adopts: false }
    }

    /// Whether the batches that come now are what the previous process left in the buffer.
    pub fn set_inherited(&mut self, is_inherited: bool) {
        // Relaxed: decided before this thread began.
        self.adopts = is_inherited && self.recorder.account.adopts.load(Relaxed);
    }

    /// A batch is about to be persisted, or given up; whatever was prepared before is forgotten.
    pub fn begin(&mut self, generation: u64) {
        self.held.clear();
        self.recorder.begin_round();
        self.recorder.number = generation;
        // Also if nothing of it is counted there this time: an earlier try may have left something.
        self.recorder.prepare_row(UNNAMED, &Tally::default());
    }

    /// Adds to what the batch brings of the producer whose source record this is, or of the unnamed.
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

    /// Once the batch has come, these losses, and no others, wait to be reported in the data.
    pub fn prepare_pending_losses(&mut self, losses: &[(Arc<Producer>, Loss)]) {
        let rows = losses.iter().map(|(producer, loss)| (producer.row, *loss));
        self.recorder.account.memory.prepare_pending_losses(self.recorder.number, rows);
    }

    /// The batch is in a file; the next event will have this sequence.
    pub fn persisted(&mut self, next_sequence: u64, written_bytes: u64) {
        self.come(|memory| {
            memory.set_next_sequence(next_sequence);
            memory.add_written(written_bytes);
        });
    }

    /// The batch is given up.
    pub fn given_up(&mut self) {
        self.recorder.account.memory.give_up(self.recorder.number);
        self.come(|_| ());
    }

    fn come(&mut self, more: impl FnOnce(&Memory)) {
        let account = Arc::clone(&self.recorder.account);
        account.memory.turn().change(|| {
            self.recorder.hold();
            account.memory.hold_pending_losses(self.recorder.number);
            more(&account.memory);
        });
        self.recorder.begin_round();
    }

    /// The previous process's batch of this generation is in the files: all that it had prepared for that holds.
    pub fn settle_persisted(&self, generation: u64, next_sequence: u64) {
        let memory = &self.recorder.account.memory;
        memory.hold_all(READER, generation);
        memory.hold_pending_losses(generation);
        memory.set_next_sequence(next_sequence);
    }

    /// Whether the previous process had given up the batch of this generation; then all that it had prepared for that
    /// holds.
    pub fn settle_given_up(&self, generation: u64) -> bool {
        let memory = &self.recorder.account.memory;
        let is_given_up = memory.was_given_up(generation);
        if is_given_up {
            memory.hold_all(READER, generation);
            memory.hold_pending_losses(generation);
        }
        is_given_up
    }

    /// Losses that the previous process could not tell of in the data.
    pub fn pending_losses(&self) -> Vec<(Arc<Producer>, Loss)> {
        let account = &self.recorder.account;
        let named = |row: u32| {
            let identity = account.memory.identity(row).unwrap_or_else(Identity::unnamed);
            account.counted_as(&identity)
        };
        account.memory.pending_losses().into_iter().map(|(row, loss)| (named(row), loss)).collect()
    }

    /// Events that a failed sync has taken back, and of which no batch has told.
    pub fn withdrawn(&self) -> u64 {
        let memory = &self.recorder.account.memory;
        memory.withdrawn().wrapping_sub(memory.looked(UNNAMED, READER).withdrawn)
    }

    /// The producer as which a writer has counted `identity`.
    #[must_use]
    pub fn producer(&self, identity: &Identity) -> Arc<Producer> {
        self.recorder.account.counted_as(identity)
    }
}
