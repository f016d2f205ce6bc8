//! Reading segments, with no daemon: `dbufctl`, recovery, tests.
//!
//! Enters: a directory, or files. Leaves: [`Item`]s in order: events with their sequences and sources, losses, damage,
//! gaps. Any thread. Memory is flat: one batch at a time. What can fail: the disk, with an error; damage is an item.
//!
//! Rules, cited by number:
//! 1. Files are read in the order of their names. A torn file counts up to the first sequence of the next file, for what
//!    was not durable in it was written again there.
//! 2. A batch whose sequences were given out already is skipped.
//! 3. A jump in the sequence is a [`Item::Gap`], except at the front, where the oldest files went.

pub mod merge;
pub mod segment;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::disk::RealDisk;
use super::name::{Name, State};
use crate::pipeline::record::{Loss, Record, Source};
use crate::sync::Arc;
use merge::Merged;
pub use segment::Damage;
use segment::{Batch, OpenError, Segment, Step};

/// A file of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Where it is.
    pub path: PathBuf,
    /// What its name says; None for a file that was named some other way.
    pub name: Option<Name>,
    /// Its bytes.
    pub bytes: u64,
}

/// The segments of a directory, oldest first.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Them.
    pub files: Vec<SegmentFile>,
}

impl Directory {
    /// Lists the segments in `path`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let segments = super::disk::segments(&RealDisk, path)?;
        let files = segments
            .into_iter()
            .map(|(name, bytes)| SegmentFile { path: name.in_directory(path), name: Some(name), bytes })
            .collect();
        Ok(Self { files })
    }

    /// These files, in this order.
    ///
    /// # Errors
    /// What the disk says.
    pub fn of_files(paths: &[PathBuf]) -> io::Result<Self> {
        let file = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| Name::parse(name.to_str()?));
            Ok(SegmentFile { path: path.clone(), name, bytes: fs::metadata(path)?.len() })
        };
        Ok(Self { files: paths.iter().map(file).collect::<io::Result<_>>()? })
    }
}

/// What is read.
#[derive(Debug)]
pub enum Item<'a> {
    /// An event, or a piece of one.
    Event(Event<'a>),
    /// Events that are not in the files, and why.
    Loss {
        /// The account.
        loss: Loss,
        /// When it was written, nanoseconds of the wall clock.
        time_ns: u64,
        /// Whose events they were.
        source: Source<'a>,
    },
    /// Bytes that cannot be read.
    Damage {
        /// In which file.
        path: &'a Path,
        /// What is wrong.
        damage: Damage,
    },
    /// Sequences that are in no file: from the first to the last.
    Gap {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
}

/// An event, or a piece of one.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Its sequence; None for a piece that is continued.
    pub sequence: Option<u64>,
    /// What was written.
    pub record: Record<'a>,
    /// Who it comes from.
    pub source: Source<'a>,
    /// The stream that it belongs to.
    pub stream_id: u128,
    /// The boot in which its segment was made; 0 if that is not known.
    pub boot_id: u128,
}

/// What is wanted. Files and batches that hold nothing of it are skipped; in those that hold some, everything is given,
/// and the caller looks at each event.
#[derive(Default)]
pub struct Wanted<'w> {
    /// Sequences from this one on.
    pub from_sequence: u64,
    /// Acceptance times from this one on, nanoseconds of the wall clock.
    pub from_ns: u64,
    /// Acceptance times up to this one; None: all.
    pub until_ns: Option<u64>,
    /// Whether a source is wanted; files in whose footer none is are skipped.
    pub source: Option<&'w dyn Fn(&Source<'_>) -> bool>,
}

impl Wanted<'_> {
    fn times(&self, min_ns: u64, max_ns: u64) -> bool {
        max_ns >= self.from_ns && self.until_ns.is_none_or(|until| min_ns <= until)
    }

    fn segment(&self, segment: &Segment) -> bool {
        let Ok(footer) = &segment.footer else { return true };
        let holds = |wanted: &dyn Fn(&Source<'_>) -> bool| footer.sources().any(|source| wanted(&source));
        footer.next_sequence > self.from_sequence
            && self.times(footer.time_min_ns, footer.time_max_ns)
            && (!footer.sources_complete || self.source.is_none_or(holds))
    }
}

/// Reads the items of `directory`, oldest first, until `each` breaks.
///
/// # Errors
/// What the disk says when a file cannot be read at all is given as [`Item::Damage`]; no error ends the reading.
pub fn forward(directory: &Directory, wanted: &Wanted<'_>, mut each: impl FnMut(Item<'_>) -> ControlFlow<()>) {
    let mut reader = Forward::default();
    for (i, file) in directory.files.iter().enumerate() {
        let next = directory.files.get(i + 1).and_then(|file| Some(file.name?.first_sequence));
        if next.is_some_and(|next| next <= wanted.from_sequence) {
            continue;
        }
        reader.bound = match file.name {
            Some(Name { state: State::Torn, .. }) => next.unwrap_or(u64::MAX),
            _ => u64::MAX,
        };
        if reader.file(file, wanted, &mut each).is_break() {
            return;
        }
    }
}

/// The state of reading forward.
#[derive(Default)]
struct Forward {
    /// The sequence after the last that was given out.
    seen: u64,
    /// Whether all that precedes was looked at, so that a jump is a gap.
    contiguous: bool,
    /// Rule 1.
    bound: u64,
    stream_id: Option<u128>,
    batch: Batch,
    merged: Merged,
}

impl Forward {
    fn file(
        &mut self,
        file: &SegmentFile,
        wanted: &Wanted<'_>,
        each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let opened = match fs::File::open(&file.path) {
            Ok(opened) => Segment::open(Arc::new(opened), self.stream_id),
            // Retention took it since the directory was listed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return ControlFlow::Continue(()),
            Err(e) => Err(OpenError::Disk(e)),
        };
        let segment = match opened {
            Ok(segment) => segment,
            Err(e) => {
                self.contiguous = false;
                let damage = Damage { offset: 0, bytes: file.bytes, what: e.to_string(), events: None };
                return each(Item::Damage { path: &file.path, damage });
            }
        };
        self.stream_id = Some(segment.stream_id);
        if !wanted.segment(&segment) {
            self.contiguous = false;
            return ControlFlow::Continue(());
        }
        self.segment(&segment, &file.path, wanted, each)
    }

    fn segment(
        &mut self,
        segment: &Segment,
        path: &Path,
        wanted: &Wanted<'_>,
        each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut at = Segment::FIRST;
        loop {
            let step = segment.step(at, &mut self.batch, true);
            match step {
                Ok(Step::Batch) => {
                    at = self.batch.header.end();
                    if wanted.times(self.batch.header.time_min_ns, self.batch.header.time_max_ns) {
                        self.batch(segment, path, each)?;
                    } else {
                        self.seen = self.seen.max(self.batch.header.next_sequence());
                        self.contiguous = true;
                    }
                }
                Ok(Step::Damage { damage, next, sequences }) => {
                    if let Some((_, after)) = sequences {
                        self.seen = self.seen.max(after);
                    }
                    each(Item::Damage { path, damage })?;
                    at = next;
                }
                Ok(Step::End { .. }) => return ControlFlow::Continue(()),
                Err(e) => {
                    self.contiguous = false;
                    let bytes = segment.file_bytes.saturating_sub(at);
                    let damage = Damage { offset: at, bytes, what: e.to_string(), events: None };
                    return each(Item::Damage { path, damage });
                }
            }
        }
    }

    fn batch(
        &mut self,
        segment: &Segment,
        path: &Path,
        each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (first, next) = (self.batch.header.first_sequence, self.batch.header.next_sequence());
        if first < self.seen || (first >= self.bound && next > first) {
            return ControlFlow::Continue(());
        }
        if self.contiguous && first > self.seen {
            each(Item::Gap { from: self.seen, to: first - 1 })?;
        }
        (self.seen, self.contiguous) = (next, true);
        if let Err(malformed) = self.merged.order(&self.batch) {
            let header = &self.batch.header;
            let damage = Damage {
                offset: header.offset,
                bytes: header.end() - header.offset,
                what: malformed.to_string(),
                events: Some(u64::from(header.events)),
            };
            return each(Item::Damage { path, damage });
        }
        let boot_id = segment.header.as_ref().map_or(0, |header| header.boot_id);
        for placed in self.merged.forward(&self.batch) {
            each(item(placed, segment.stream_id, boot_id))?;
        }
        ControlFlow::Continue(())
    }
}

fn item(placed: merge::Placed<'_>, stream_id: u128, boot_id: u128) -> Item<'_> {
    let merge::Placed { sequence, record, source } = placed;
    match record.as_loss() {
        Ok(loss) => Item::Loss { loss, time_ns: record.time_ns, source },
        Err(_) => Item::Event(Event { sequence, record, source, stream_id, boot_id }),
    }
}
