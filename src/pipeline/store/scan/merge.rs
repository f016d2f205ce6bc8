//! The order of the records in a batch: its runs, merged by acceptance time.
//!
//! Enters: a batch whose checksum was right. Leaves: its records in their order, each with its sequence and its source.
//! Any thread. What can fail: records that do not fill their run, with [`Malformed`].
//!
//! The rule: of all runs, the one whose next record has the smallest acceptance time goes on; of equal ones the one that
//! lies first. The order within a run is never changed, even where the clock jumped back.

use std::collections::HashMap;
use std::ops::Range;

use super::segment::Batch;
use crate::pipeline::record::{Kind, Malformed, Record, Source};

/// No source, no sequence.
const NONE: u64 = u64::MAX;

/// A record's place, or that of a line of one.
#[derive(Clone, Debug)]
struct Slot {
    at: usize,
    /// Where the line stands in the record's payload; empty for a record that is none of lines.
    line: Range<u32>,
    source_at: u64,
    sequence: u64,
}

/// The order of a batch's records. Its buffers are used again for the next.
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
    /// [`Malformed`] if its records are not what the header says; then nothing of it counts.
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
            return Err(Malformed("a batch has other events than its header says"));
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

    /// The run whose next record comes first, leaving one out.
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
            let (at, source_at) = (run.at, run.sources.get(&record.source).copied().unwrap_or(NONE));
            let mut place = |line, takes| {
                self.slots.push(Slot { at, line, source_at, sequence: if takes { *sequence } else { NONE } });
                *sequence += u64::from(takes);
            };
            if record.is_lines() {
                // A record's length has 32 bits.
                record.lines().for_each(|line| place(line.start as u32..line.end as u32, true));
            } else {
                place(0..0, record.event_count() > 0);
            }
        }
        run.at += bytes;
        run.look(content)
    }

    /// The records in their order, forward.
    pub fn forward<'a>(&'a self, batch: &'a Batch) -> impl Iterator<Item = Placed<'a>> {
        place(batch, self.slots.iter())
    }

    /// The records in their order, backward.
    pub fn backward<'a>(&'a self, batch: &'a Batch) -> impl Iterator<Item = Placed<'a>> {
        place(batch, self.slots.iter().rev())
    }
}

/// A record, where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// The sequence of the event that it ends.
    pub sequence: Option<u64>,
    /// The record: an event, a piece of one, or a loss. Of a record of lines, one of them.
    pub record: Record<'a>,
    /// Who it comes from.
    pub source: Source<'a>,
}

fn place<'a>(batch: &'a Batch, slots: impl Iterator<Item = &'a Slot>) -> impl Iterator<Item = Placed<'a>> {
    let mut last = (NONE, Source::default());
    slots.filter_map(move |slot| {
        // Both were decoded when they were ordered.
        let rest = &batch.content[slot.at..];
        let (mut record, _) = Record::decode(rest).ok()?;
        if record.is_lines() {
            record = record.line(slot.line.start as usize..slot.line.end as usize);
        }
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
