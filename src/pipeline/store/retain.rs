//! Deletes the oldest segments: to stay within the limits of the settings, or to make room on a full disk.
//!
//! Input: the directory, listed again each time, so that no other list can disagree with it. Output: fewer files, and
//! what was in them in the account and in the log ([`Deleter`]).
//! Thread: the syncer after it started, after a rotation and as the active segment grows; and the reader when a write
//! found no room. Failure: the disk; then the rest is deleted next time.
//!
//! The active segment is never deleted, and it counts. Segments are recognized by their names: other files in the
//! directory stay.

use std::io;
use std::path::Path;
use std::time::Instant;

use dbuf_segment::name::{Name, State};
use dbuf_segment::scan::segment::{Batch, Segment, Step};

use super::deleter::{Deleter, Reason};
use super::disk::{self, Disk, Space};
use super::status::Status;
use super::stream::Stream;
use crate::options::{Amount, Storage};
use crate::sync::Arc;
use crate::sys::clock;

/// A segment takes at most this fraction of what is retained, so that there is always one to delete.
const SEGMENTS_MIN: u64 = 4;
/// The limits are checked each time the active segment has grown by this fraction of a segment.
const LOOKS_PER_SEGMENT: u64 = 4;

/// The limits, in bytes of this file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The size at which a segment is sealed.
    pub(super) segment_bytes: u64,
    /// Bytes that all segments may take together.
    pub(super) retain_bytes: Option<u64>,
    /// Bytes to leave free.
    pub(super) free_bytes: Option<u64>,
    /// How far the active segment may grow before the limits are checked again.
    pub(super) step_bytes: u64,
}

impl Limits {
    /// The limits that `storage` sets on a file system of this size. If the size is not known, percentages do not
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

impl Limits {
    /// Bytes that may be in the segments before one of them is deleted, when there are `bytes` now and `free_bytes` are
    /// free on the file system; the maximum if that is too little for a promise. A segment that is deleted takes its
    /// newest events with it, and the limits are checked in steps.
    fn room_bytes(&self, bytes: u64, free_bytes: u64) -> u64 {
        let by_free = bytes.saturating_add(free_bytes).saturating_sub(self.free_bytes.unwrap_or(0));
        let most = self.retain_bytes.unwrap_or(u64::MAX).min(by_free);
        let room = most.saturating_sub(self.segment_bytes + 2 * self.step_bytes);
        // With less than a segment nothing can be promised, and nobody is to wait: other programs fill the disk.
        if room < self.segment_bytes { u64::MAX } else { room }
    }
}

/// A segment that may be deleted.
struct Old {
    name: Name,
    bytes: u64,
}

/// The segments that may be deleted, oldest first, and the bytes of those that may not.
fn list(disk: &dyn Disk, directory: &Path) -> io::Result<(Vec<Old>, u64)> {
    let (active, old): (Vec<_>, Vec<_>) =
        disk::segments(disk, directory)?.into_iter().partition(|(name, _)| name.state == State::Active);
    let old = old.into_iter().map(|(name, bytes)| Old { name, bytes }).collect();
    Ok((old, active.iter().map(|(_, bytes)| bytes).sum()))
}

/// Deletes what the settings no longer allow, and updates the status.
///
/// # Errors
/// Those of the disk.
pub(super) fn retain(stream: &Stream, storage: &Storage, status: &Status, deleter: &Deleter) -> io::Result<()> {
    let (disk, directory) = (&*stream.disk, &*stream.directory);
    let space = disk.space(directory).ok();
    let limits = Limits::new(storage, space);
    let (mut old, active_bytes) = list(disk, directory)?;
    let mut bytes = old.iter().map(|old| old.bytes).sum::<u64>() + active_bytes;
    let mut free_bytes = space.map_or(u64::MAX, |space| space.free_bytes);
    status.set_room_bytes(limits.room_bytes(bytes, free_bytes));
    let mut gone = 0;
    for segment in &old {
        // Includes the step: it may be added before the next check.
        let over = limits.retain_bytes.is_some_and(|max| bytes + limits.step_bytes > max);
        let tight = limits.free_bytes.is_some_and(|min| free_bytes < min.saturating_add(limits.step_bytes));
        let reason = match (over, tight) {
            (true, _) => Reason::RetainBytes,
            (false, true) => Reason::MinFree,
            (false, false) if is_past(disk, storage, segment) => Reason::RetainAge,
            (false, false) => break,
        };
        remove(stream, segment, gone + 1 == old.len(), (deleter, reason))?;
        bytes -= segment.bytes;
        free_bytes = free_bytes.saturating_add(segment.bytes);
        gone += 1;
    }
    deleter.log(Instant::now());
    old.drain(..gone);
    update_status(disk, directory, &old, status);
    Ok(())
}

/// Deletes the oldest segment. Returns whether there was one.
///
/// # Errors
/// Those of the disk.
pub(super) fn delete_oldest(stream: &Stream, status: &Status, deleter: &Deleter) -> io::Result<bool> {
    let (disk, directory) = (&*stream.disk, &*stream.directory);
    let (mut old, _) = list(disk, directory)?;
    if old.is_empty() {
        return Ok(false);
    }
    let oldest = old.remove(0);
    remove(stream, &oldest, old.is_empty(), (deleter, Reason::FullDisk))?;
    deleter.log(Instant::now());
    update_status(disk, directory, &old, status);
    Ok(true)
}

/// Deletes a segment. The last one that is not active also says where the sequence continues. So the name of the active
/// one, which says it too, must be durable first. Otherwise a loss of power could take both, and sequences would be
/// given out again.
fn remove(stream: &Stream, segment: &Old, is_last: bool, (deleter, reason): (&Deleter, Reason)) -> io::Result<()> {
    if is_last {
        stream.sync_directory()?;
    }
    deleter.delete(&*stream.disk, &stream.directory, (segment.name, segment.bytes), reason)
}

/// Whether the newest event of a segment is older than `storage.retain_age`. A segment that cannot be read is kept: the
/// size limit will remove it.
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

fn update_status(disk: &dyn Disk, directory: &Path, old: &[Old], status: &Status) {
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
    // A segment that was closed and waits for its sync still has the name of an active one.
    let is_active = |name: &Name| status.active_name().is_some_and(|active| active == name.to_string());
    // Without a listing, what was known before stays.
    let Ok(listed) = disk::segments(disk, directory) else { return };
    let names: Vec<Name> = listed.iter().map(|(name, _)| *name).collect();
    status.fill.listed(&names, status.active_name().and_then(|name| Name::parse(&name)));
    let closed = listed.iter().filter(|(name, _)| !is_active(name));
    let (count, bytes) = closed.fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes));
    status.listed(count, bytes, oldest_time_ns);
}

/// The current limits, for a disk that can report its size.
pub(super) fn limits(disk: &Arc<dyn Disk>, storage: &Storage) -> Limits {
    Limits::new(storage, disk.space(&storage.directory).ok())
}
