//! Summarises a batch before it is written, in one walk over its records.
//!
//! Input: the sealed runs of a batch. Output: the table of runs that the store writes, with their counts and times, and
//! sizes and times for the histograms if statistics are on. Thread: the reader. Failure: a record that cannot be
//! decoded ends its chunk. That is a bug or broken memory, never input. The bytes after it are counted and not written,
//! because a file must hold nothing that its readers cannot walk.

use std::collections::HashMap;

use crate::pipeline::buffer::Batch;
use crate::pipeline::histogram::Histogram;
use crate::pipeline::record::{Kind, PerSource, Record, Source};
use crate::pipeline::store::format::{BatchHeader, INCOMPAT_LINES, features_of};

/// Events in pieces whose size is followed at a time, at most.
const OPEN_PIECES_MAX: usize = 256;

/// One writer's part of a batch.
#[derive(Debug)]
pub(crate) struct RunSummary<'a> {
    pub(crate) writer: u8,
    pub(crate) events: u32,
    pub(crate) slices: Vec<&'a [u8]>,
    pub(crate) sources: PerSource<'a>,
}

/// The content of a batch.
#[derive(Debug)]
pub(crate) struct BatchSummary<'a> {
    pub(crate) generation: u64,
    pub(crate) runs: Vec<RunSummary<'a>>,
    pub(crate) events: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) time_min_ns: u64,
    pub(crate) time_max_ns: u64,
    /// CRC-32C of the slices of all runs, one after the other.
    pub(crate) content_crc: u32,
    /// Its incompatible features.
    pub(crate) incompat: u32,
    /// Bytes that could not be walked.
    pub(crate) broken_bytes: u64,
}

/// Sizes and times of a batch's events, and the sizes so far of events whose last piece has not come yet.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    pub(crate) sizes: Histogram,
    /// Acceptance times, each with its number of events. Equal neighbours are merged, because all events of one read
    /// share one time.
    pub(crate) times: Vec<(u64, u64)>,
    /// The size of the last events, and how many in a row had it. Neighbours often have the same size, so one addition
    /// counts them all.
    alike: (u64, u64),
    open_pieces: Vec<(u64, u64)>,
}

impl Sizes {
    #[inline]
    fn see(&mut self, record: &Record<'_>) {
        let mut size = record.payload().len() as u64;
        if record.flags != 0
            && let Some(piece) = record.piece()
        {
            match self.whole_size(piece.id, size, piece.continues) {
                Some(whole) => size = whole,
                None => return,
            }
        }
        self.see_size(size);
        self.see_time(record.time_ns, 1);
    }

    #[inline]
    fn see_size(&mut self, size: u64) {
        if size == self.alike.0 {
            self.alike.1 += 1;
        } else {
            self.count_alike();
            self.alike = (size, 1);
        }
    }

    #[inline]
    fn see_time(&mut self, time_ns: u64, events: u64) {
        match self.times.last_mut() {
            Some((time, n)) if *time == time_ns => *n += events,
            _ => self.times.push((time_ns, events)),
        }
    }

    /// Counts the events in `alike`.
    fn count_alike(&mut self) {
        let (size, n) = std::mem::take(&mut self.alike);
        self.sizes.record(size, n);
    }

    /// The size of the whole event once its last piece has come.
    fn whole_size(&mut self, id: u64, size: u64, continues: bool) -> Option<u64> {
        let known = self.open_pieces.iter().position(|(open, _)| *open == id);
        match (known, continues) {
            (Some(at), true) => self.open_pieces[at].1 += size,
            (Some(at), false) => return Some(self.open_pieces.swap_remove(at).1 + size),
            (None, true) => {
                if self.open_pieces.len() == OPEN_PIECES_MAX {
                    self.open_pieces.remove(0);
                }
                self.open_pieces.push((id, size));
            }
            (None, false) => return Some(size),
        }
        None
    }
}

impl<'a> BatchSummary<'a> {
    /// Walks all records of `batch`. Adds sizes and times to `sizes` if it is there.
    pub(crate) fn take(batch: &'a Batch<'_>, mut sizes: Option<&mut Sizes>) -> Self {
        let mut summary = Self {
            generation: batch.generation(),
            runs: Vec::new(),
            events: 0,
            payload_bytes: 0,
            time_min_ns: u64::MAX,
            time_max_ns: 0,
            content_crc: 0,
            incompat: 0,
            broken_bytes: 0,
        };
        if let Some(sizes) = sizes.as_deref_mut() {
            sizes.times.clear();
        }
        for run in batch.runs() {
            let mut of_run =
                RunSummary { writer: run.writer(), events: 0, slices: Vec::new(), sources: PerSource::default() };
            for chunk in run.chunks() {
                summary.walk(chunk, &mut of_run, sizes.as_deref_mut());
            }
            if !of_run.slices.is_empty() {
                summary.events += u64::from(of_run.events);
                summary.runs.push(of_run);
            }
        }
        if let Some(sizes) = sizes {
            sizes.count_alike();
        }
        summary
    }

    fn walk(&mut self, chunk: &'a [u8], run: &mut RunSummary<'a>, mut sizes: Option<&mut Sizes>) {
        // Comes first: it reads memory sequentially, which brings the chunk into the cache faster than the walk would.
        let before = self.content_crc;
        self.content_crc = crc32c::crc32c_append(before, chunk);
        let mut at = 0;
        while at < chunk.len() {
            let Ok((record, bytes)) = Record::decode(&chunk[at..]) else {
                self.broken_bytes += (chunk.len() - at) as u64;
                self.content_crc = crc32c::crc32c_append(before, &chunk[..at]);
                break;
            };
            if record.is_lines() {
                self.lines(&record, run, sizes.as_deref_mut());
            } else if record.kind == Kind::Event {
                let (ends, payload) = (record.event_count(), record.payload().len() as u64);
                run.events += ends as u32;
                run.sources.add(record.source, ends as u64, payload);
                self.payload_bytes += payload;
                if let Some(sizes) = sizes.as_deref_mut() {
                    sizes.see(&record);
                }
            } else if record.kind == Kind::Source {
                run.sources.introduce(record);
            } else {
                self.incompat |= features_of(&record);
            }
            self.time_min_ns = self.time_min_ns.min(record.time_ns);
            self.time_max_ns = self.time_max_ns.max(record.time_ns);
            at += bytes;
        }
        if at > 0 {
            run.slices.push(&chunk[..at]);
        }
    }

    fn lines(&mut self, record: &Record<'_>, run: &mut RunSummary<'a>, sizes: Option<&mut Sizes>) {
        let events = match sizes {
            None => record.event_count(),
            Some(sizes) => {
                let events = record.lines().map(|line| sizes.see_size(line.len() as u64)).count();
                sizes.see_time(record.time_ns, events as u64);
                events
            }
        };
        let payload = (record.payload().len() - events) as u64;
        run.events += events as u32;
        run.sources.add(record.source, events as u64, payload);
        self.payload_bytes += payload;
        self.incompat |= INCOMPAT_LINES;
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether this is the batch with this header. The generation alone does not tell, because an old buffer may have
    /// had the same one. Generation, counts and times together do.
    pub(crate) fn is_in(&self, header: &BatchHeader) -> bool {
        (self.generation, self.events, self.payload_bytes, self.time_min_ns, self.time_max_ns)
            == (
                header.generation,
                u64::from(header.events),
                header.payload_bytes,
                header.time_min_ns,
                header.time_max_ns,
            )
    }

    /// Walks all records once more, each with its source. For the rare case that a batch is given up.
    pub(crate) fn each(&self, f: &mut dyn FnMut(&Source<'_>, &Record<'_>)) {
        for run in &self.runs {
            let mut sources: HashMap<u32, Source<'_>> = HashMap::new();
            for (record, _) in run.slices.iter().flat_map(|slice| records(slice)) {
                if record.kind == Kind::Source {
                    sources.insert(record.source, record.as_source().unwrap_or_default());
                }
                f(sources.entry(record.source).or_default(), &record);
            }
        }
    }

    /// Calls `f` with the events and payload bytes of each source, run by run. The source is None if it is not known.
    pub(crate) fn shares(&self, f: &mut dyn FnMut(Option<&Record<'_>>, u64, u64)) {
        for sources in self.runs.iter().map(|run| &run.sources) {
            for count in sources.all().iter().filter(|count| count.events + count.bytes > 0) {
                f(Some(&count.source), count.events, count.bytes);
            }
            let (events, bytes) = sources.unknown();
            if events + bytes > 0 {
                f(None, events, bytes);
            }
        }
    }
}

/// The records of a whole slice, each with its bytes.
pub(crate) fn records(mut rest: &[u8]) -> impl Iterator<Item = (Record<'_>, &[u8])> {
    std::iter::from_fn(move || {
        let (record, bytes) = Record::decode(rest).ok()?;
        let (this, behind) = rest.split_at(bytes);
        rest = behind;
        Some((record, this))
    })
}
