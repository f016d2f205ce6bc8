//! Reads segments without a daemon: for `dbufctl`, recovery and tests.
//!
//! Input: a directory, or files. Output: [`Item`]s in order: events with their sequences and sources, losses, damage,
//! gaps. Thread: any. Memory is bounded: one batch at a time. Failure: the disk, with an error; damage is an item.
//!
//! Rules, cited by number:
//! 1. Files are read in the order of their names. A torn file counts up to the first sequence of the next file, because
//!    what was not durable in it was written again there.
//! 2. A batch whose sequences were given out already is skipped.
//! 3. A jump in the sequence is a [`Item::Gap`], except at the front, where the oldest files were deleted.

pub mod backward;
pub mod follow;
pub mod forward;
pub mod join;
pub mod merge;
pub mod segment;
#[cfg(test)]
mod tests;
pub mod verify;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::format::{BatchHeader, SEGMENT_BYTES};
use crate::name::{Name, State};
use crate::record::{Kind, Loss, Malformed, Record, Source};
pub use backward::backward;
use dbuf_sync::Arc;
pub use follow::Follower;
pub use forward::forward;
pub use join::{Joined, Joiner};
pub use segment::Damage;
use segment::{OpenError, Segment};
pub use verify::{Described, FileReport, describe, verify, verify_bytes};

/// A file of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Its path.
    pub path: PathBuf,
    /// Its parsed name; None if it is not named like a segment.
    pub name: Option<Name>,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The segments of a directory, oldest first.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The files.
    pub files: Vec<SegmentFile>,
}

impl Directory {
    /// Lists the segments in `path`: every file that existed when the call began, even if files are created and renamed
    /// meanwhile. The list may include newer files, but then also every file between them.
    ///
    /// An active file without a header holds nothing and is left out.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(path: &Path) -> io::Result<Self> {
        let names = settled(|| names(path))?;
        let files =
            names.into_iter().filter_map(|name| listed(path, name).transpose()).collect::<io::Result<Vec<_>>>()?;
        let holds_something = |file: &SegmentFile| {
            file.name.is_some_and(|name| name.state != State::Active) || file.bytes >= SEGMENT_BYTES as u64
        };
        Ok(Self { files: files.into_iter().filter(holds_something).collect() })
    }

    /// The given files, in the given order.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn of_files(paths: &[PathBuf]) -> io::Result<Self> {
        let file = |path: &PathBuf| {
            let name = Name::of_path(path);
            Ok(SegmentFile { path: path.clone(), name, bytes: fs::metadata(path)?.len() })
        };
        Ok(Self { files: paths.iter().map(file).collect::<io::Result<_>>()? })
    }
}

/// The names of the segments in a directory.
fn names(directory: &Path) -> io::Result<Vec<Name>> {
    let found = fs::read_dir(directory)?.map(|found| Ok(Name::of_path(&found?.path())));
    found.filter_map(io::Result::transpose).collect()
}

/// The file that was listed under this name. None if it is gone, or not a regular file.
fn listed(directory: &Path, name: Name) -> io::Result<Option<SegmentFile>> {
    for name in names_of(name) {
        let path = name.in_directory(directory);
        match fs::metadata(&path) {
            Ok(about) if about.is_file() => {
                return Ok(Some(SegmentFile { path, name: Some(name), bytes: about.len() }));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// The names of all files that were there when the first listing began.
///
/// A listing is not atomic. It may miss a file that is renamed meanwhile, under both names, and it may or may not have
/// a file that is created meanwhile. But a file is renamed only once. So a file that was created before a listing
/// began is in that listing or in the next one. Hence four listings: the newest file of the first two was created
/// before the third began, so everything up to that file is in the third or the fourth.
fn settled(mut list: impl FnMut() -> io::Result<Vec<Name>>) -> io::Result<Vec<Name>> {
    let newest = list()?.into_iter().chain(list()?).map(|name| name.first_sequence).max();
    let before = list()?;
    let mut names = list()?;
    let is_missed = |name: &Name| name.state == State::Active && !names_of(*name).any(|name| names.contains(&name));
    let missed: Vec<_> = before.into_iter().filter(is_missed).collect();
    names.extend(missed);
    names.retain(|name| Some(name.first_sequence) <= newest);
    names.sort_unstable();
    Ok(names)
}

/// The names that a file may have after it was listed under this one: the daemon may have sealed it or named it torn
/// since.
fn names_of(name: Name) -> impl Iterator<Item = Name> {
    let later = if name.state == State::Active { &[State::Sealed, State::Torn][..] } else { &[] };
    std::iter::once(name).chain(later.iter().map(move |state| Name { state: *state, ..name }))
}

/// One result of reading.
#[derive(Debug)]
pub enum Item<'a> {
    /// An event, or a piece of one.
    Event(StoredEvent<'a>),
    /// Events that are not in the files, and why.
    Loss {
        /// The loss.
        loss: Loss,
        /// When it was written, in nanoseconds of the wall clock.
        time_ns: u64,
        /// The sender of the lost events.
        source: Source<'a>,
    },
    /// Bytes that cannot be read.
    Damage {
        /// The file.
        path: &'a Path,
        /// The damage.
        damage: Damage,
    },
    /// Sequences that are in no file, from the first to the last.
    Gap {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
}

/// An event, or a piece of one.
#[derive(Clone, Copy, Debug)]
pub struct StoredEvent<'a> {
    /// Its sequence; None for a piece that is continued.
    pub sequence: Option<u64>,
    /// The record; for a record of lines, one of its lines.
    pub record: Record<'a>,
    /// Its sender.
    pub source: Source<'a>,
    /// The stream that it belongs to.
    pub stream_id: u128,
    /// The boot in which its segment was made; 0 if it is not known.
    pub boot_id: u128,
}

/// Selects what to read. Files and batches without anything wanted are skipped. The others are given out completely,
/// and the caller checks each event.
#[derive(Default)]
pub struct Wanted<'w> {
    /// Sequences from this one on.
    pub from_sequence: u64,
    /// Acceptance times from this one on, in nanoseconds of the wall clock.
    pub from_ns: u64,
    /// Acceptance times up to this one, in nanoseconds of the wall clock; None: all.
    pub until_ns: Option<u64>,
    /// Whether a source is wanted. Files whose footer lists no wanted source are skipped.
    pub source: Option<&'w dyn Fn(&Source<'_>) -> bool>,
}

impl Wanted<'_> {
    fn batch(&self, header: &BatchHeader) -> bool {
        (header.next_sequence() > self.from_sequence || header.events == 0)
            && self.times(header.time_min_ns, header.time_max_ns)
    }

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

/// Opens a file of a directory. None if retention has removed it since it was listed.
fn open_file(file: &SegmentFile, stream_id: Option<u128>) -> Option<Result<Segment, OpenError>> {
    let directory = file.path.parent();
    let later = file.name.into_iter().flat_map(|name| names_of(name).skip(1));
    let renamed = later.filter_map(|name| Some(name.in_directory(directory?)));
    for path in std::iter::once(file.path.clone()).chain(renamed) {
        match fs::File::open(path) {
            Ok(opened) => return Some(Segment::open(Arc::new(opened), stream_id)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Some(Err(OpenError::Disk(e))),
        }
    }
    None
}

/// The damage of a file that cannot be read at all.
fn unreadable(file: &SegmentFile, error: &OpenError) -> Damage {
    Damage { offset: 0, bytes: file.bytes, what: error.to_string(), events: None }
}

/// The damage of a batch whose records are not what its header says.
fn malformed(header: &BatchHeader, what: Malformed) -> Damage {
    let bytes = header.end() - header.offset;
    Damage { offset: header.offset, bytes, what: what.to_string(), events: Some(u64::from(header.events)) }
}

/// The sequence up to which a file counts (rule 1), by the name of the next file.
fn bound(file: &SegmentFile, next: Option<&SegmentFile>) -> u64 {
    match (file.name, next.and_then(|next| next.name)) {
        (Some(Name { state: State::Torn, .. }), Some(next)) => next.first_sequence,
        _ => u64::MAX,
    }
}

fn item(placed: merge::Placed<'_>, stream_id: u128, boot_id: u128) -> Item<'_> {
    let merge::Placed { sequence, record, source } = placed;
    match record.kind {
        Kind::Loss => match record.as_loss() {
            Ok(loss) => Item::Loss { loss, time_ns: record.time_ns, source },
            Err(_) => unreachable!("it was decoded when it was ordered"),
        },
        _ => Item::Event(StoredEvent { sequence, record, source, stream_id, boot_id }),
    }
}
