//! Keeps the reader's losses until a batch reports them: events that were in the buffer and could not be persisted.
//! They are counted at once.
//!
//! Input: the summary of a batch that is given up. Output: a run of source and loss records for the next batch. Thread:
//! the reader. Nothing can fail; memory is bounded. The account's memory holds the same losses for the next process.

use super::batch_summary::BatchSummary;
use crate::pipeline::account::{Identity, LOSSES_PENDING_MAX, Producer, ReaderRecorder, Tally};
use crate::pipeline::record::{self, Cause, Kind, Loss, Record, Source};
use crate::sync::Arc;

/// The writer number of the run that the reader itself adds to a batch.
pub(super) const READER_RUN: u8 = u8::MAX;

/// Senders and causes that pending losses are reported under, at most. More losses are reported as dbufd's own.
const NAMED_MAX: usize = LOSSES_PENDING_MAX - Cause::COUNT;

/// Losses that no batch has reported yet.
#[derive(Debug, Default)]
pub(super) struct Losses {
    rows: Vec<(Arc<Producer>, Loss)>,
    encoded: Vec<u8>,
}

impl Losses {
    /// Starts with the losses that the previous process could not report.
    pub(super) fn from_previous(recorder: &ReaderRecorder) -> Self {
        Self { rows: recorder.pending_losses(), encoded: Vec::new() }
    }

    /// Counts all events of `summary` as lost, under their producers, and keeps the losses for the report.
    pub(super) fn give_up(&mut self, summary: &BatchSummary<'_>, cause: Cause, recorder: &mut ReaderRecorder) {
        summary.each(&mut |source, record| match record.kind {
            Kind::Event => self.add(source, loss_of(record, cause), recorder),
            // Its events were counted when they were lost. Only its report would be lost with the batch.
            Kind::Loss => {
                if let Ok(loss) = record.as_loss() {
                    self.add(source, loss, recorder);
                }
            }
            Kind::Source => {}
        });
        recorder.begin(summary.generation);
        summary.shares(&mut |source, events, bytes| {
            recorder.prepare(source, &Tally::lost(cause, events, bytes));
        });
        recorder.prepare_pending_losses(&self.rows);
        recorder.given_up();
    }

    fn add(&mut self, source: &Source<'_>, loss: Loss, recorder: &ReaderRecorder) {
        let known = self
            .rows
            .iter_mut()
            .find(|(producer, row)| row.cause == loss.cause && producer.identity.as_source() == *source);
        if let Some((_, row)) = known {
            row.merge(&loss);
            return;
        }
        let identity = if self.rows.len() < NAMED_MAX { Identity::of(source) } else { Identity::unnamed() };
        match self.rows.iter_mut().find(|(producer, row)| row.cause == loss.cause && producer.identity == identity) {
            Some((_, row)) => row.merge(&loss),
            None => self.rows.push((recorder.producer(&identity), loss)),
        }
    }

    /// The run that reports all losses kept here, and `withdrawn` events that a failed sync has taken back. Empty if
    /// there is nothing to report. [`Losses::reported`] forgets them.
    pub(super) fn run(&mut self, withdrawn: u64, now_ns: u64) -> &[u8] {
        self.encoded.clear();
        let unnamed = Identity::unnamed();
        let taken_back = Loss { cause: Cause::Disk, events: withdrawn, bytes: 0, first_ns: now_ns, last_ns: now_ns };
        let all = self.rows.iter().map(|(producer, loss)| (&producer.identity, loss));
        let all = all.chain((withdrawn > 0).then_some((&unnamed, &taken_back)));
        for (id, (identity, loss)) in all.enumerate() {
            record::encode_source(&mut self.encoded, id as u32, now_ns, &identity.as_source());
            record::encode_loss(&mut self.encoded, id as u32, now_ns, loss);
        }
        &self.encoded
    }

    /// Forgets the losses: a batch with the run has been written.
    pub(super) fn reported(&mut self) {
        self.rows.clear();
    }
}

fn loss_of(record: &Record<'_>, cause: Cause) -> Loss {
    Loss {
        cause,
        events: record.event_count() as u64,
        bytes: record.payload_bytes() as u64,
        first_ns: record.time_ns,
        last_ns: record.time_ns,
    }
}
