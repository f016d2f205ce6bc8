//! Orders the records of a batch: its runs, merged by acceptance time.
//!
//! Input: a batch whose checksum was right. Output: its records in order, each with its sequence and its source.
//! Thread: any. Failure: records that do not fill their run, with [`Malformed`].
//!
//! The rule: of all runs, the one whose next record has the smallest acceptance time comes next; of equal ones, the one
//! that comes first in the batch. The order within a run never changes, even where the clock jumped back.

use std::collections::HashMap;
use std::ops::Range;

use super::segment::Batch;
use crate::record::{Kind, Malformed, Record, Source};

/// No source, no sequence.
const NONE: u64 = u64::MAX;

/// A record's position. A record of lines has one for all its events. Each may take only two bytes, so one position for
/// each would take many times the size of the batch.
#[derive(Clone, Copy, Debug)]
struct Slot {
    at: usize,
    source_at: u64,
    /// The sequence of its first event.
    sequence: u64,
}

/// The order of a batch's records. Its buffers are reused for the next batch.
#[derive(Debug, Default)]
pub struct Merged {
    slots: Vec<Slot>,
    runs: Vec<Run>,
}

#[derive(Debug, Default)]
struct Run {
    at: usize,
    end: usize,
    time_ns: u64,
    sources: HashMap<u32, u64>,
}

impl Run {
    fn is_done(&self) -> bool {
        self.at == self.end
    }

    /// Reads the time of the next record.
    fn look(&mut self, content: &[u8]) -> Result<(), Malformed> {
        if !self.is_done() {
            self.time_ns = Record::decode(&content[self.at..self.end])?.0.time_ns;
        }
        Ok(())
    }
}

impl Merged {
    /// Orders the records of `batch`.
    ///
    /// # Errors
    /// [`Malformed`] if its records are not what the header says. Then nothing of it counts.
    pub fn order(&mut self, batch: &Batch) -> Result<(), Malformed> {
        self.slots.clear();
        self.start_runs(batch)?;
        let mut sequence = batch.header.first_sequence;
        while let Some(best) = self.first_but(None) {
            let limit = self.first_but(Some(best)).map(|other| (self.runs[other].time_ns, other));
            loop {
                self.take(best, &batch.content, &mut sequence)?;
                let run = &self.runs[best];
                if run.is_done() || limit.is_some_and(|limit| limit < (run.time_ns, best)) {
                    break;
                }
            }
        }
        if sequence != batch.header.next_sequence() {
            return Err(Malformed("the number of events in a batch is not the one in its header"));
        }
        Ok(())
    }

    fn start_runs(&mut self, batch: &Batch) -> Result<(), Malformed> {
        self.runs.resize_with(batch.header.runs.len(), Run::default);
        let mut at = 0;
        for (run, bytes) in self.runs.iter_mut().zip(batch.runs()) {
            run.sources.clear();
            (run.at, run.end) = (at, at + bytes.len());
            at = run.end;
            run.look(&batch.content)?;
        }
        Ok(())
    }

    /// The run whose next record comes first, except one.
    fn first_but(&self, but: Option<usize>) -> Option<usize> {
        let live = self.runs.iter().enumerate().filter(|(i, run)| !run.is_done() && Some(*i) != but);
        live.min_by_key(|(i, run)| (run.time_ns, *i)).map(|(i, _)| i)
    }

    fn take(&mut self, from: usize, content: &[u8], sequence: &mut u64) -> Result<(), Malformed> {
        let run = &mut self.runs[from];
        let (record, bytes) = Record::decode(&content[run.at..run.end])?;
        if record.kind == Kind::Source {
            record.as_source()?;
            run.sources.insert(record.source, run.at as u64);
        } else {
            if record.kind == Kind::Loss {
                record.as_loss()?;
            }
            let events = record.event_count() as u64;
            self.slots.push(Slot {
                at: run.at,
                source_at: run.sources.get(&record.source).copied().unwrap_or(NONE),
                sequence: if events > 0 { *sequence } else { NONE },
            });
            *sequence += events;
        }
        run.at += bytes;
        run.look(content)
    }

    /// The events and losses in their order, forward.
    pub fn forward<'a>(&'a self, batch: &'a Batch) -> impl Iterator<Item = Placed<'a>> {
        place(batch, self.slots.iter()).flat_map(Placed::forward)
    }

    /// The events and losses in their order, backward.
    pub fn backward<'a>(&'a self, batch: &'a Batch) -> impl Iterator<Item = Placed<'a>> {
        place(batch, self.slots.iter().rev()).flat_map(Placed::backward)
    }
}

/// A record with its sequence and source.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// The sequence of the event that it ends.
    pub sequence: Option<u64>,
    /// The record: an event, a piece of one, or a loss. For a record of lines, one of its lines.
    pub record: Record<'a>,
    /// Its sender.
    pub source: Source<'a>,
}

impl<'a> Placed<'a> {
    /// The record itself; for a record of lines each line, from the first on.
    fn forward(self) -> impl Iterator<Item = Self> {
        let first = self.sequence.unwrap_or_default();
        let lines = self.record.lines().zip(first..).map(move |(at, sequence)| self.line(at, sequence));
        self.alone().into_iter().chain(lines)
    }

    /// The record itself; for a record of lines each line, from the last on.
    fn backward(self) -> impl Iterator<Item = Self> {
        let first = self.sequence.unwrap_or_default();
        let sequences = (first..first + self.record.event_count() as u64).rev();
        let lines = self.record.lines_backward().zip(sequences).map(move |(at, sequence)| self.line(at, sequence));
        self.alone().into_iter().chain(lines)
    }

    fn alone(self) -> Option<Self> {
        (!self.record.is_lines()).then_some(self)
    }

    fn line(self, at: Range<usize>, sequence: u64) -> Self {
        Self { sequence: Some(sequence), record: self.record.line(at), ..self }
    }
}

fn place<'a>(batch: &'a Batch, slots: impl Iterator<Item = &'a Slot>) -> impl Iterator<Item = Placed<'a>> {
    let mut last = (NONE, Source::default());
    slots.filter_map(move |slot| {
        // Both were decoded when they were ordered.
        let (record, _) = Record::decode(&batch.content[slot.at..]).ok()?;
        if slot.source_at != last.0 {
            last = (slot.source_at, source_at(batch, slot.source_at).unwrap_or_default());
        }
        let sequence = (slot.sequence != NONE).then_some(slot.sequence);
        Some(Placed { sequence, record, source: last.1 })
    })
}

fn source_at(batch: &Batch, at: u64) -> Option<Source<'_>> {
    let (record, _) = Record::decode(batch.content.get(usize::try_from(at).ok()?..)?).ok()?;
    record.as_source().ok()
}
