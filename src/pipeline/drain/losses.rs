//! Losses that the reader has to answer for: events that were in the buffer and could not be persisted. They are
//! counted at once, and kept here until a batch can be written that says so in the data itself.
//!
//! Enters: the census of a batch that is given up. Leaves: a run of source and loss records for the next batch.
//! Reader thread. Nothing here can fail; memory is bounded by [`SOURCES_MAX`].

use super::census::Census;
use crate::pipeline::counters::{Counters, Identity};
use crate::pipeline::record::{self, Cause, Kind, Loss, Record, Source, Transport};
use crate::sync::atomic::Ordering::Relaxed;

/// The writer number of the run that the reader itself adds to a batch.
pub(super) const READER_RUN: u8 = u8::MAX;

/// The most senders that are told apart among unreported losses; more are reported as dbufd's own.
const SOURCES_MAX: usize = 256;

/// Losses that no batch has reported yet.
#[derive(Debug, Default)]
pub(super) struct Losses {
    rows: Vec<(Identity, Loss)>,
    encoded: Vec<u8>,
}

impl Losses {
    /// Counts all events of `census` as lost, with their producers, and keeps the report. Returns how many events.
    pub(super) fn give_up(&mut self, census: &Census<'_>, cause: Cause, counters: &Counters) -> u64 {
        census.each(&mut |source, record| match record.kind {
            Kind::Event => self.add(source, loss_of(record, cause)),
            // Counted when it happened; only its report would be lost with the batch.
            Kind::Loss => {
                if let Ok(loss) = record.as_loss() {
                    self.add(source, loss);
                }
            }
            Kind::Source => {}
        });
        census.by_producer(&mut |source, events, _| {
            counters.producer(&Identity::of(source)).lost.fetch_add(events, Relaxed);
        });
        counters.reader.0.lost.add(cause, census.events);
        census.events
    }

    fn add(&mut self, source: &Source<'_>, loss: Loss) {
        let known =
            self.rows.iter_mut().find(|(identity, row)| row.cause == loss.cause && identity.as_source() == *source);
        if let Some((_, row)) = known {
            row.merge(&loss);
        } else if self.rows.len() < SOURCES_MAX {
            self.rows.push((Identity::of(source), loss));
        } else {
            self.add_unnamed(loss);
        }
    }

    /// Keeps the report of a loss whose producers cannot be told any more.
    pub(super) fn add_unnamed(&mut self, loss: Loss) {
        let unnamed = Identity { transport: Transport::Internal, ..Identity::default() };
        match self.rows.iter_mut().find(|(identity, row)| *identity == unnamed && row.cause == loss.cause) {
            Some((_, row)) => row.merge(&loss),
            None => self.rows.push((unnamed, loss)),
        }
    }

    /// The run that reports all losses kept here; empty if there is none. [`Losses::reported`] forgets them.
    pub(super) fn run(&mut self, now_ns: u64) -> &[u8] {
        self.encoded.clear();
        for (id, (identity, loss)) in self.rows.iter().enumerate() {
            record::encode_source(&mut self.encoded, id as u32, now_ns, &identity.as_source());
            record::encode_loss(&mut self.encoded, id as u32, now_ns, loss);
        }
        &self.encoded
    }

    /// A batch with the run has been written.
    pub(super) fn reported(&mut self) {
        self.rows.clear();
    }

    /// Whether anything waits to be reported.
    pub(super) fn any(&self) -> bool {
        !self.rows.is_empty()
    }
}

fn loss_of(record: &Record<'_>, cause: Cause) -> Loss {
    Loss {
        cause,
        events: u64::from(record.ends_event()),
        bytes: record.payload().len() as u64,
        first_ns: record.time_ns,
        last_ns: record.time_ns,
    }
}
