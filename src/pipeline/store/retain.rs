//! The oldest segments go: to stay within what the settings allow, or to make room on a full disk.
//!
//! Enters: the directory, listed anew each time, so that nothing can disagree with it. Leaves: fewer files. Run by
//! the syncer after it started, after a rotation and as the active segment grows; and by the reader thread when a
//! write found no room. What can fail: the disk; then the rest waits for the next time.
//!
//! The active segment never goes, and counts. Segments are told by their names: what else lies in the directory stays.

use std::io;
use std::path::Path;

use dbuf_segment::name::{Name, State};
use dbuf_segment::scan::segment::{Batch, Segment, Step};

use super::disk::{self, Disk, Space};
use super::status::Status;
use crate::options::{Amount, Storage};
use crate::sync::Arc;
use crate::sys::clock;

/// A segment takes at most this part of what is retained, so that there is always one to delete.
const SEGMENTS_MIN: u64 = 4;
/// Limits are looked at each time the active segment has grown by this part of a segment.
const LOOKS_PER_SEGMENT: u64 = 4;

/// Limits, in bytes of this file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// When a segment is sealed.
    pub(super) segment_bytes: u64,
    /// What all segments may take.
    pub(super) retain_bytes: Option<u64>,
    /// What is left free.
    pub(super) free_bytes: Option<u64>,
    /// How far the active segment may grow until the limits are looked at again.
    pub(super) step_bytes: u64,
}

impl Limits {
    /// The limits that `storage` sets on a file system with this room; without one that is known, percentages do not
    /// count.
    pub(super) fn new(storage: &Storage, space: Option<Space>) -> Self {
        let bytes = |amount: Amount| match amount {
            Amount::Bytes(bytes) => Some(bytes),
            Amount::Percent(percent) => space.map(|space| (space.total_bytes as f64 * percent / 100.0) as u64),
        };
        let retain_bytes = storage.retain.and_then(bytes);
        let segment_bytes =
            retain_bytes.map_or(storage.segment_bytes, |retain| storage.segment_bytes.min(retain / SEGMENTS_MIN));
        Self {
            segment_bytes,
            retain_bytes,
            free_bytes: storage.min_free.and_then(bytes),
            step_bytes: segment_bytes / LOOKS_PER_SEGMENT,
        }
    }
}

/// A segment that may go.
struct Old {
    name: Name,
    bytes: u64,
}

/// What may go, oldest first, and the bytes of what may not.
fn list(disk: &dyn Disk, directory: &Path) -> io::Result<(Vec<Old>, u64)> {
    let (active, old): (Vec<_>, Vec<_>) =
        disk::segments(disk, directory)?.into_iter().partition(|(name, _)| name.state == State::Active);
    let old = old.into_iter().map(|(name, bytes)| Old { name, bytes }).collect();
    Ok((old, active.iter().map(|(_, bytes)| bytes).sum()))
}

/// Deletes what the settings no longer allow, and tells the status what is there.
///
/// # Errors
/// What the disk says.
pub(super) fn retain(disk: &dyn Disk, storage: &Storage, status: &Status) -> io::Result<()> {
    let directory = &storage.directory;
    let space = disk.space(directory).ok();
    let limits = Limits::new(storage, space);
    let (mut old, active_bytes) = list(disk, directory)?;
    let mut bytes = old.iter().map(|old| old.bytes).sum::<u64>() + active_bytes;
    let mut free_bytes = space.map_or(u64::MAX, |space| space.free_bytes);
    let mut gone = 0;
    for segment in &old {
        // The step is what may be added before the next look.
        let over = limits.retain_bytes.is_some_and(|max| bytes + limits.step_bytes > max);
        let tight = limits.free_bytes.is_some_and(|min| free_bytes < min.saturating_add(limits.step_bytes));
        if !over && !tight && !is_past(disk, storage, segment) {
            break;
        }
        remove(disk, directory, segment, gone + 1 == old.len())?;
        bytes -= segment.bytes;
        free_bytes = free_bytes.saturating_add(segment.bytes);
        gone += 1;
    }
    old.drain(..gone);
    tell(disk, directory, &old, status);
    Ok(())
}

/// Deletes the oldest segment. Returns whether there was one.
///
/// # Errors
/// What the disk says.
pub(super) fn delete_oldest(disk: &dyn Disk, directory: &Path, status: &Status) -> io::Result<bool> {
    let (mut old, _) = list(disk, directory)?;
    if old.is_empty() {
        return Ok(false);
    }
    let oldest = old.remove(0);
    remove(disk, directory, &oldest, old.is_empty())?;
    tell(disk, directory, &old, status);
    Ok(true)
}

/// Deletes a segment. The last one that is not active says where the sequence goes on, until the name of the active
/// one, which says it too, is sure to stay: a loss of power that took the one and not the other would give sequences
/// out again.
fn remove(disk: &dyn Disk, directory: &Path, segment: &Old, is_last: bool) -> io::Result<()> {
    if is_last {
        disk.sync_directory(directory)?;
    }
    match disk.remove(&segment.name.in_directory(directory)) {
        // Someone else was faster.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether the newest event of a segment is older than `retain_age`. One that cannot be read is kept: size will tell.
fn is_past(disk: &dyn Disk, storage: &Storage, segment: &Old) -> bool {
    let Some(age) = storage.retain_age else { return false };
    let oldest_ns = clock::now_ns().saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    let newest = open(disk, &storage.directory, segment.name).and_then(|opened| match &opened.footer {
        Ok(footer) => Some(footer.time_max_ns),
        Err(_) => Some(opened.rebuild(false, &mut |_| {}).ok()?.0.time_max_ns),
    });
    newest.is_some_and(|newest| newest < oldest_ns)
}

fn open(disk: &dyn Disk, directory: &Path, name: Name) -> Option<Segment> {
    Segment::open(disk.open(&name.in_directory(directory)).ok()?, None).ok()
}

fn tell(disk: &dyn Disk, directory: &Path, old: &[Old], status: &Status) {
    let time = |name| {
        let segment = open(disk, directory, name)?;
        let mut batch = Batch::default();
        match segment.step(Segment::FIRST, &mut batch, &|_| false).ok()? {
            Step::Batch => Some(batch.header.time_min_ns),
            Step::Damage { .. } | Step::End { .. } => None,
        }
    };
    let active = || Name::parse(&status.active_name()?);
    let oldest_time_ns = old.first().map(|old| old.name).or_else(active).and_then(time);
    // A segment that was closed and awaits its sync has the name of an active one still.
    let is_active = |name: &Name| status.active_name().is_some_and(|active| active == name.to_string());
    let closed = disk::segments(disk, directory).unwrap_or_default();
    let closed = closed.iter().filter(|(name, _)| !is_active(name));
    let (count, bytes) = closed.fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes));
    status.listed(count, bytes, oldest_time_ns);
}

/// The limits now, for a disk whose room can be asked.
pub(super) fn limits(disk: &Arc<dyn Disk>, storage: &Storage) -> Limits {
    Limits::new(storage, disk.space(&storage.directory).ok())
}
