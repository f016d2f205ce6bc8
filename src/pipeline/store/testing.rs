//! Holds what the store's tests share: batches made from events, and everything that is read back.
//!
//! Input: events. Output: batches, directories and settings. Thread: the test's. Failure: panics.

use std::path::Path;
use std::time::Duration;

pub(crate) use dbuf_segment::testing::{backward, forward, read, text};

use super::format::features_of;
use super::types::{BatchView, RunView};
use crate::options::{Storage, SyncPolicy, WhenFull};
use crate::pipeline::record::{
    Event, Kind, Loss, PerSource, Record, Source, SourceCount, encode_lines, encode_loss, encode_source,
};

/// A batch that owns its bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestBatch {
    pub(crate) generation: u64,
    runs: Vec<Vec<u8>>,
}

impl TestBatch {
    pub(crate) fn new(generation: u64) -> Self {
        Self { generation, runs: Vec::new() }
    }

    /// A batch of one run whose events have these times and payloads.
    pub(crate) fn of(generation: u64, events: &[(u64, &str)]) -> Self {
        let mut batch = Self::new(generation);
        batch.run("app", events);
        batch
    }

    /// Adds a run of one source.
    pub(crate) fn run(&mut self, tag: &str, events: &[(u64, &str)]) -> &mut Self {
        let mut run = Vec::new();
        let time_ns = events.first().map_or(0, |event| event.0);
        encode_source(&mut run, 0, time_ns, &Source { pid: 7, tag: tag.as_bytes(), ..Source::default() });
        for &(time_ns, payload) in events {
            Event { time_ns, pri: 6, payload: payload.as_bytes(), ..Event::default() }.encode(&mut run);
        }
        self.runs.push(run);
        self
    }

    /// Adds an event of the first source to the last run.
    pub(crate) fn event(&mut self, event: &Event<'_>) -> &mut Self {
        event.encode(self.runs.last_mut().expect("a run was added before"));
        self
    }

    /// Adds a record of lines of the first source to the last run.
    pub(crate) fn lines(&mut self, time_ns: u64, lines: &str) -> &mut Self {
        let run = self.runs.last_mut().expect("a run was added before");
        encode_lines(run, 0, time_ns, 6, lines.as_bytes());
        self
    }

    /// Adds a loss of the first source to the last run.
    pub(crate) fn loss(&mut self, time_ns: u64, loss: &Loss) -> &mut Self {
        encode_loss(self.runs.last_mut().expect("a run was added before"), 0, time_ns, loss);
        self
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.runs.iter().flat_map(|run| records(run))
    }

    fn sources(&self) -> Vec<SourceCount<'_>> {
        let of_run = |run| {
            let mut sources = PerSource::default();
            for record in records(run) {
                match record.kind {
                    Kind::Source => sources.introduce(record),
                    Kind::Event => {
                        sources.add(record.source, record.event_count() as u64, record.payload_bytes() as u64);
                    }
                    Kind::Loss => {}
                }
            }
            sources.all().to_vec()
        };
        self.runs.iter().flat_map(|run| of_run(run)).collect()
    }

    /// Lends the batch, its runs cut into slices of at most `slice_bytes` (but at least one record).
    pub(crate) fn lend<T>(&self, slice_bytes: usize, to: impl FnOnce(&BatchView<'_>) -> T) -> T {
        let slices: Vec<_> = self.runs.iter().map(|run| cut(run, slice_bytes)).collect();
        let runs: Vec<_> = slices
            .iter()
            .enumerate()
            .map(|(writer, slices)| RunView {
                writer: writer as u8,
                events: records(&self.runs[writer]).map(|record| record.event_count()).sum::<usize>() as u32,
                slices,
            })
            .collect();
        to(&BatchView {
            generation: self.generation,
            events: runs.iter().map(|run| run.events).sum(),
            payload_bytes: self.records().filter(|r| r.kind == Kind::Event).map(|r| r.payload_bytes() as u64).sum(),
            time_min_ns: self.records().map(|r| r.time_ns).min().unwrap_or(0),
            time_max_ns: self.records().map(|r| r.time_ns).max().unwrap_or(0),
            content_crc: self.runs.iter().fold(0, |crc, run| crc32c::crc32c_append(crc, run)),
            incompat: self.records().fold(0, |features, r| features | features_of(&r)),
            runs: &runs,
            sources: &self.sources(),
        })
    }
}

fn records(run: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = run;
    std::iter::from_fn(move || {
        let (record, bytes) = Record::decode(rest).ok()?;
        rest = &rest[bytes..];
        Some(record)
    })
}

fn cut(run: &[u8], slice_bytes: usize) -> Vec<&[u8]> {
    let (mut slices, mut start, mut at) = (Vec::new(), 0, 0);
    while at < run.len() {
        let bytes = Record::decode(&run[at..]).expect("a test encodes whole records").1;
        if at > start && at + bytes - start > slice_bytes {
            slices.push(&run[start..at]);
            start = at;
        }
        at += bytes;
    }
    slices.push(&run[start..]);
    slices
}

/// A directory that is removed with the value. It is in memory if possible, so that tests do not wait for a disk.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory can be made")
}

/// Settings for a test: small segments, no retention.
pub(crate) fn storage(directory: &Path) -> Storage {
    Storage {
        directory: directory.to_path_buf(),
        segment_bytes: 4096,
        segment_age: Duration::from_secs(3600),
        retain: None,
        retain_age: None,
        keep_at_least: None,
        min_free: None,
        sync: SyncPolicy::Never,
        when_full: WhenFull::Wait,
    }
}
