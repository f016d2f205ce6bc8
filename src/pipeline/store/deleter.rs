//! Deletes a segment for retention: reports what it held before and after, and logs what was deleted.
//!
//! Input: the name of a segment, and the reason. Output: one file fewer; notice to the account; a line in the log.
//! Thread: the syncer, or the reader when a write found no room; one deletion at a time, under a lock that is held
//! during the calls to the disk. Failure: the disk; then the segment stays and does not count as deleted.
//!
//! The first deletion after a pause is logged at once. What follows within [`LOG_EVERY`] is added up and logged as one
//! line, so that a flood of events that pushes out segment after segment does not also flood the log.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use dbuf_segment::footer::Footer;
use dbuf_segment::name::{Name, State};
use dbuf_segment::scan::segment::Segment;

use super::disk::Disk;
use crate::sync::{Mutex, lock};

/// Deletions are logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// What retention does to a segment. See [`StoreOptions`](super::StoreOptions).
#[derive(Clone, Copy, Debug)]
pub enum Deletion<'a> {
    /// It is about to delete a segment.
    Begins {
        /// The name of the file.
        name: Name,
        /// The size of the file in bytes.
        bytes: u64,
        /// What the segment holds; None if it cannot be read.
        footer: Option<&'a Footer>,
    },
    /// The deletion has ended.
    Ends {
        /// Whether the file is gone.
        is_gone: bool,
    },
}

/// Why a segment is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    RetainBytes,
    RetainAge,
    MinFree,
    FullDisk,
}

impl Reason {
    const ALL: [Self; 4] = [Self::RetainBytes, Self::RetainAge, Self::MinFree, Self::FullDisk];

    const fn name(self) -> &'static str {
        match self {
            Self::RetainBytes => "storage.retain_bytes",
            Self::RetainAge => "storage.retain_age",
            Self::MinFree => "storage.min_free",
            Self::FullDisk => "a full disk",
        }
    }
}

/// Called before and after each deletion.
type OnDelete = Box<dyn Fn(Deletion<'_>) + Send + Sync>;

/// Deletes segments, and tells the account and the log.
pub(super) struct Deleter {
    on_delete: OnDelete,
    one_at_a_time: Mutex<()>,
    log: Mutex<Log>,
}

impl Deleter {
    pub(super) fn new(on_delete: OnDelete) -> Self {
        Self { on_delete, one_at_a_time: Mutex::default(), log: Mutex::default() }
    }

    /// Deletes the segment, unless it is gone already.
    pub(super) fn delete(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        (name, bytes): (Name, u64),
        reason: Reason,
    ) -> io::Result<()> {
        let _one = lock(&self.one_at_a_time);
        let footer = read_footer(disk, directory, name);
        (self.on_delete)(Deletion::Begins { name, bytes, footer: footer.as_ref() });
        let removed = disk.remove(&name.in_directory(directory));
        (self.on_delete)(Deletion::Ends { is_gone: removed.is_ok() });
        match removed {
            // Another program was faster.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
            Ok(()) => {
                lock(&self.log).add(name, bytes, footer.as_ref(), reason);
                Ok(())
            }
        }
    }

    /// When [`Deleter::log`] next has something to write.
    pub(super) fn log_at(&self) -> Option<Instant> {
        lock(&self.log).due_at()
    }

    /// Writes to the log what was deleted, if it is time for that.
    pub(super) fn log(&self, now: Instant) {
        let line = lock(&self.log).take(now);
        if let Some(Merged { segments, events, bytes, unread, .. }) = &line {
            let what = line.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::info!(segments, events, bytes, unread, "{what}");
        }
    }

    /// Writes to the log what waits for it, because the store ends.
    pub(super) fn log_rest(&self) {
        lock(&self.log).logged_at = None;
        self.log(Instant::now());
    }
}

/// The footer of a segment, or, if it has none, what the headers of its batches say; then its sources are not known.
/// None if it cannot be read.
pub(super) fn read_footer(disk: &dyn Disk, directory: &Path, name: Name) -> Option<Footer> {
    let segment = Segment::open(disk.open(&name.in_directory(directory)).ok()?, None).ok()?;
    // A sender may have chosen the last bytes of a file that was not sealed.
    match segment.footer {
        Ok(footer) if name.state == State::Sealed => Some(footer),
        _ => Some(segment.rebuild(false, &mut |_| {}).ok()?.0),
    }
}

/// What waits to be logged.
#[derive(Debug, Default)]
struct Log {
    merged: Option<Merged>,
    logged_at: Option<Instant>,
}

impl Log {
    fn add(&mut self, name: Name, bytes: u64, footer: Option<&Footer>, reason: Reason) {
        let merged = self.merged.get_or_insert_with(|| Merged::new(name));
        merged.segments += 1;
        merged.last = name;
        merged.bytes += bytes;
        merged.reasons[reason as usize] = true;
        match footer {
            Some(footer) => {
                merged.events += footer.events;
                merged.time_min_ns = merged.time_min_ns.min(footer.time_min_ns);
                merged.time_max_ns = merged.time_max_ns.max(footer.time_max_ns);
            }
            None => merged.unread += 1,
        }
    }

    fn due_at(&self) -> Option<Instant> {
        self.merged.as_ref()?;
        Some(self.logged_at.map_or_else(Instant::now, |at| at + LOG_EVERY))
    }

    fn take(&mut self, now: Instant) -> Option<Merged> {
        if self.logged_at.is_some_and(|at| now.saturating_duration_since(at) < LOG_EVERY) {
            return None;
        }
        let merged = self.merged.take()?;
        self.logged_at = Some(now);
        Some(merged)
    }
}

/// Some deletions.
#[derive(Debug)]
struct Merged {
    segments: u64,
    first: Name,
    last: Name,
    events: u64,
    /// Bytes of the files.
    bytes: u64,
    /// Segments whose content is not known.
    unread: u64,
    time_min_ns: u64,
    time_max_ns: u64,
    reasons: [bool; Reason::ALL.len()],
}

impl Merged {
    fn new(first: Name) -> Self {
        Self {
            segments: 0,
            first,
            last: first,
            events: 0,
            bytes: 0,
            unread: 0,
            time_min_ns: u64::MAX,
            time_max_ns: 0,
            reasons: [false; Reason::ALL.len()],
        }
    }
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segments, first, last, events, bytes, .. } = self;
        if *segments == 1 {
            write!(f, "retention deleted the segment {first}: {events} events, {bytes} bytes")?;
        } else {
            write!(f, "retention deleted {segments} segments, {first} to {last}: {events} events, {bytes} bytes")?;
        }
        let time = |ns: u64| jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
        if self.time_min_ns <= self.time_max_ns {
            write!(f, " of the time from {:.0} to {:.0}", time(self.time_min_ns), time(self.time_max_ns))?;
        }
        let reasons: Vec<_> =
            Reason::ALL.iter().zip(self.reasons).filter_map(|(reason, is)| is.then_some(reason.name())).collect();
        write!(f, ", because of {}", reasons.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use dbuf_segment::name::State;

    use super::*;

    fn sealed(first_sequence: u64) -> Name {
        Name::new(first_sequence, State::Sealed)
    }

    fn footer(events: u64, second: u64) -> Footer {
        let ns = second * 1_000_000_000;
        let mut footer = Footer::new(1, 1);
        (footer.events, footer.time_min_ns, footer.time_max_ns) = (events, ns, ns + 999_999_999);
        footer
    }

    #[test]
    fn a_storm_of_deletions_becomes_one_line_now_and_one_each_minute() {
        let mut log = Log::default();
        let start = Instant::now();
        assert_eq!(log.due_at(), None, "nothing was deleted, so the syncer may sleep");
        log.add(sealed(1), 100, Some(&footer(10, 0)), Reason::RetainBytes);
        assert!(log.due_at().is_some_and(|at| at <= Instant::now()));
        assert_eq!(
            log.take(start).unwrap().to_string(),
            "retention deleted the segment 00000000000000000001.segment: 10 events, 100 bytes of the time from \
             1970-01-01T00:00:00Z to 1970-01-01T00:00:00Z, because of storage.retain_bytes"
        );
        for n in 1..=1000 {
            log.add(sealed(n * 10 + 1), 100, Some(&footer(10, n)), Reason::RetainBytes);
            assert!(log.take(start + LOG_EVERY / 2).is_none(), "within a minute");
        }
        log.add(sealed(20_001), 7, None, Reason::FullDisk);
        assert_eq!(log.due_at(), Some(start + LOG_EVERY));
        let merged = log.take(start + LOG_EVERY).unwrap();
        assert_eq!((merged.segments, merged.events, merged.unread), (1001, 10_000, 1));
        assert_eq!(
            merged.to_string(),
            "retention deleted 1001 segments, 00000000000000000011.segment to 00000000000000020001.segment: 10000 \
             events, 100007 bytes of the time from 1970-01-01T00:00:01Z to 1970-01-01T00:16:40Z, because of \
             storage.retain_bytes and a full disk"
        );
        assert!(log.take(start + 3 * LOG_EVERY).is_none() && log.due_at().is_none());
    }
}
