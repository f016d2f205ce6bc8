//! Counts the events and payload bytes of each source of a run.
//!
//! Input: the records of one run, in order. Output: a [`SourceCount`] for each source. Thread: any. Nothing can fail:
//! what has no source is counted as unknown.

use std::collections::HashMap;

use super::decode::Record;

/// The sources of a run, each with what it has sent.
#[derive(Debug, Default)]
pub struct PerSource<'a> {
    /// Writers number their sources from zero in the order of first use, so a source's id is its index here.
    all: Vec<SourceCount<'a>>,
    /// The sources whose id is not their index.
    others: HashMap<u32, usize>,
    /// Events and bytes of records whose source was not introduced. That is a bug or broken memory.
    unknown: (u64, u64),
}

/// What one source has sent.
#[derive(Clone, Copy, Debug)]
pub struct SourceCount<'a> {
    id: u32,
    /// Its source record.
    pub source: Record<'a>,
    /// Events of which the last piece is there.
    pub events: u64,
    /// Payload bytes, those of pieces included.
    pub bytes: u64,
}

impl<'a> SourceCount<'a> {
    /// A source that has sent nothing.
    #[must_use]
    pub fn new(source: Record<'a>) -> Self {
        Self { id: source.source, source, events: 0, bytes: 0 }
    }
}

impl<'a> PerSource<'a> {
    /// Adds a source.
    pub fn introduce(&mut self, source: Record<'a>) {
        let (id, index) = (source.source, self.all.len());
        if id as usize != index {
            self.others.insert(id, index);
        }
        self.all.push(SourceCount::new(source));
    }

    /// Counts events of the source with this id.
    #[inline]
    pub fn add(&mut self, id: u32, events: u64, bytes: u64) {
        let index = match self.all.get(id as usize) {
            Some(count) if count.id == id && self.others.is_empty() => id as usize,
            _ => match self.others.get(&id) {
                Some(index) => *index,
                None if self.all.get(id as usize).is_some_and(|count| count.id == id) => id as usize,
                None => {
                    self.unknown.0 += events;
                    self.unknown.1 += bytes;
                    return;
                }
            },
        };
        self.all[index].events += events;
        self.all[index].bytes += bytes;
    }

    /// All sources, in the order in which they were introduced.
    #[must_use]
    pub fn all(&self) -> &[SourceCount<'a>] {
        &self.all
    }

    /// Events and payload bytes of records whose source was not introduced.
    #[must_use]
    pub fn unknown(&self) -> (u64, u64) {
        self.unknown
    }
}
