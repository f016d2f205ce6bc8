//! Recovers the directory: turns what an earlier process left into sealed segments, and finds the next sequence.
//!
//! Input: the directory, locked. Output: [`Recovery`]. Thread: the caller's, once, before the reader thread starts.
//! Failure: only that the directory cannot be listed. What recovery cannot read it leaves alone and reports.
//!
//! | found | done |
//! |---|---|
//! | a `.repair` file | removed: its batches are still in the torn file |
//! | `.active` without a batch | the sequence in its name counts; removed, unless no other file says it |
//! | `.active` with batches | a torn end is cut, a footer written, and it is sealed; damage in the middle stays |
//! | the same, without room for the footer | a torn end is cut, and it is named torn: whole batches, no index |
//! | `.active` that needs a newer version, or a batch does | left alone; new sequences are above all that it can hold |
//! | `.active` whose header cannot be read | named torn |
//! | a sealed or torn one | left alone; the newest says which sequence comes next |
//!
//! Only the footer of a sealed file counts. The batches of another file are walked, because that file may end with
//! bytes that a sender chose, and these may look like a footer. An active file that has its footer gets the same footer
//! again.
//!
//! The process may die after each step: what it leaves then is in the table again.

use std::io::{self, IoSlice};
use std::path::Path;

use dbuf_segment::footer::Footer;
use dbuf_segment::format::{BatchHeader, Broken, SEGMENT_BYTES};
use dbuf_segment::name::{Name, REPAIR, State};
use dbuf_segment::scan::segment::{Batch, OpenError, Segment, Step};

use super::disk::{self, Disk, DiskFile, ReadAt, write_all};
use super::types::Recovery;
use crate::sync::Arc;

/// Bytes that an event takes at least in a file: a line of one byte, and its newline.
const EVENT_BYTES_MIN: u64 = 2;

/// Recovers `directory`. Returns what was found, and the stream that its segments belong to, if there is one.
///
/// # Errors
/// Only if the directory cannot be listed.
pub(super) fn recover(disk: &dyn Disk, directory: &Path) -> io::Result<(Recovery, Option<u128>)> {
    let recovery = Recovery { next_sequence: 1, ..Recovery::default() };
    let mut work = Work { disk, directory, recovery, empty: Vec::new() };
    work.remove_repairs()?;
    let found = disk::segments(disk, directory)?;
    let stream_id = work.stream_id(&found);
    for &(name, bytes) in &found {
        if name.state == State::Active {
            work.active(name, bytes, stream_id);
        } else {
            work.count_sequence(name.first_sequence);
        }
    }
    work.newest(&found, stream_id);
    work.remove_empty();
    let left = disk::segments(disk, directory)?;
    work.recovery.segments = left.len();
    let last_of = |name| last_batch(&work.open(name, stream_id).ok()?.1).ok()?;
    let newest = left.iter().rev().find_map(|(name, _)| last_of(*name));
    work.recovery.newest = newest;
    Ok((work.recovery, stream_id))
}

type Opened = (Arc<dyn DiskFile>, Segment);

/// Refuses a file of which neither the header nor any batch can be read.
fn has_something((file, segment): Opened) -> Result<Opened, OpenError> {
    match segment.header {
        Err(broken) if segment.footer.is_err() && segment.rebuild(false, &mut |_| {})?.0.batches == 0 => {
            Err(broken.into())
        }
        _ => Ok((file, segment)),
    }
}

/// A sequence above all that a file of that size can hold.
fn beyond(name: Name, bytes: u64) -> u64 {
    name.first_sequence.saturating_add(bytes / EVENT_BYTES_MIN)
}

/// The header of the last batch of a segment; None if there is no whole one.
fn last_batch(segment: &Segment) -> io::Result<Option<BatchHeader>> {
    let last_row = segment.footer.as_ref().ok().and_then(|footer| footer.index.last());
    let mut at = last_row.map_or(Segment::FIRST, |row| row.offset);
    let (mut batch, mut last) = (Batch::default(), None);
    loop {
        match segment.step(at, &mut batch, &|_| false)? {
            Step::Batch => {
                at = batch.header.end();
                last = Some(batch.header.clone());
            }
            Step::Damage { next, .. } => at = next,
            Step::End { .. } => return Ok(last),
        }
    }
}

struct Work<'d> {
    disk: &'d dyn Disk,
    directory: &'d Path,
    recovery: Recovery,
    /// Files that hold no batch.
    empty: Vec<Name>,
}

impl Work<'_> {
    fn count_sequence(&mut self, next: u64) {
        self.recovery.next_sequence = self.recovery.next_sequence.max(next);
    }

    fn note(&mut self, name: Name, what: impl std::fmt::Display) {
        self.recovery.notes.push(format!("{name}: {what}"));
    }

    fn remove_repairs(&mut self) -> io::Result<()> {
        for found in self.disk.list(self.directory)? {
            if found.name.rsplit_once('.').is_some_and(|(_, extension)| extension == REPAIR)
                && let Err(e) = self.disk.remove(&self.directory.join(&found.name))
            {
                self.recovery.notes.push(format!("{}: cannot be removed: {e}", found.name));
            }
        }
        Ok(())
    }

    fn open(&self, name: Name, stream_id: Option<u128>) -> Result<Opened, OpenError> {
        let file = self.disk.open(&name.in_directory(self.directory))?;
        let mut segment = Segment::open(Arc::clone(&file) as Arc<dyn ReadAt>, stream_id)?;
        if name.state != State::Sealed {
            segment.footer = Err(Broken::Damaged("only the footer of a sealed file counts"));
            if let (Err(_), Some(stream_id)) = (&segment.header, stream_id) {
                segment.stream_id = stream_id;
            }
        }
        Ok((file, segment))
    }

    /// The stream of the newest segment whose header is whole, or of the newest that can be read.
    fn stream_id(&self, found: &[(Name, u64)]) -> Option<u128> {
        let newest = |wants: fn(&Segment) -> bool| {
            let mut opened = found.iter().rev().filter_map(|(name, _)| Some(self.open(*name, None).ok()?.1));
            opened.find(wants).map(|segment| segment.stream_id)
        };
        newest(|segment| segment.header.is_ok()).or_else(|| newest(|_| true))
    }

    fn active(&mut self, name: Name, bytes: u64, stream_id: Option<u128>) {
        if bytes <= SEGMENT_BYTES as u64 {
            self.recovery.torn_bytes += bytes % SEGMENT_BYTES as u64;
            self.empty.push(name);
            return;
        }
        match self.open(name, stream_id).and_then(has_something) {
            Ok((file, segment)) => {
                if let Err(e) = self.seal(name, &*file, &segment) {
                    self.beyond(name, bytes);
                    self.note(name, format_args!("cannot be recovered: {e}; it is left as it is"));
                }
            }
            Err(OpenError::Broken(Broken::Damaged(what))) => {
                self.beyond(name, bytes);
                let torn = Name { state: State::Torn, ..name };
                let renamed = self.rename(name, torn);
                self.recovery.damaged_ranges += 1;
                self.note(name, format_args!("{what}; it is kept as torn"));
                if let Err(e) = renamed {
                    self.note(name, format_args!("cannot be renamed: {e}"));
                }
            }
            Err(e) => {
                self.beyond(name, bytes);
                self.note(name, format_args!("{e}; it is left as it is"));
            }
        }
    }

    fn seal(&mut self, name: Name, file: &dyn DiskFile, segment: &Segment) -> io::Result<()> {
        if segment.needs_newer()? {
            // Truncating it after the last known batch would remove batches of a newer version.
            return Err(io::Error::other(Broken::Unknown("a batch")));
        }
        let (footer, is_written) = self.rebuild(name, file, segment)?;
        if footer.batches == 0 {
            self.empty.push(name);
            return Ok(());
        }
        self.count_sequence(footer.next_sequence);
        self.recovery.events += footer.events;
        // A sealed segment has its footer: without it, the segment could not be told from a truncated one. And
        // retention could not remove an active segment, just when there is no room.
        let state = if is_written { State::Sealed } else { State::Torn };
        self.rename(name, Name { state, ..name })
    }

    /// Truncates a torn end and writes the footer. Returns it, and whether it is in the file.
    fn rebuild(&mut self, name: Name, file: &dyn DiskFile, segment: &Segment) -> io::Result<(Footer, bool)> {
        let mut damaged = Vec::new();
        let (footer, torn_bytes) = segment.rebuild(true, &mut |damage| damaged.push(damage))?;
        for damage in &damaged {
            self.note(name, format_args!("damaged: {damage}; it is kept and skipped"));
        }
        self.recovery.damaged_ranges += damaged.len();
        if footer.batches == 0 && damaged.is_empty() {
            if torn_bytes > 0 {
                self.recovery.torn_bytes += torn_bytes;
                self.note(name, format_args!("a torn batch of {torn_bytes} bytes, and no whole one: it is removed"));
            }
            return Ok((footer, false));
        }
        // An end that is part of a footer has cost nothing.
        if torn_bytes > 0 && !segment.is_footer(footer.offset)? {
            self.recovery.torn_bytes += torn_bytes;
            self.recovery.torn_files += 1;
            self.note(name, format_args!("a torn end of {torn_bytes} bytes was cut"));
        }
        let bytes = footer.encode();
        let sealed = file
            .truncate(footer.offset)
            .and_then(|()| write_all(file, &mut [IoSlice::new(&bytes)], footer.offset))
            .and_then(|()| file.sync());
        let is_written = sealed.is_ok();
        if let Err(e) = sealed {
            // Part of it may have found room. A footer is a cache, and readers work without it.
            let _ = file.truncate(footer.offset);
            self.note(name, format_args!("its footer cannot be written: {e}; it is kept as torn, and whole"));
        }
        Ok((footer, is_written))
    }

    /// Reads the newest sealed segment, and the newest file if that is another one, for the next sequence.
    fn newest(&mut self, found: &[(Name, u64)], stream_id: Option<u128>) {
        let sealed = found.iter().rev().find(|(name, _)| name.state == State::Sealed);
        let last = found.last().filter(|(name, _)| name.state == State::Torn);
        for &(name, bytes) in sealed.into_iter().chain(last) {
            let opened = self.open(name, stream_id).and_then(has_something);
            let read = opened.and_then(|(_, segment)| match &segment.footer {
                Ok(footer) => {
                    let reached = last_batch(&segment)?.map_or(0, |batch| batch.next_sequence());
                    // Batches that are damaged may have had sequences, but no more than there are bytes.
                    let next = reached.max(footer.next_sequence.min(beyond(name, bytes)));
                    Ok((next, footer.events))
                }
                Err(_) => {
                    let (footer, _) = segment.rebuild(false, &mut |_| {})?;
                    Ok((footer.next_sequence, footer.events))
                }
            });
            match read {
                Ok((next, events)) => {
                    self.count_sequence(next);
                    self.recovery.events += events;
                }
                Err(e) => {
                    self.beyond(name, bytes);
                    self.note(name, format_args!("{e}; it is left as it is"));
                }
            }
        }
    }

    /// Sets the next sequence beyond what a file of that size can hold: a gap is better than a sequence given out
    /// twice.
    fn beyond(&mut self, name: Name, bytes: u64) {
        self.count_sequence(beyond(name, bytes));
    }

    fn rename(&self, from: Name, to: Name) -> io::Result<()> {
        disk::rename_to_free(self.disk, self.directory, &from.in_directory(self.directory), to).map(drop)
    }

    /// Removes the files without a batch, except one whose name alone says the next sequence: a crash before the next
    /// segment exists would give sequences out again. The next start removes that one, when another file says the same.
    fn remove_empty(&mut self) {
        for name in std::mem::take(&mut self.empty) {
            if name.first_sequence > self.recovery.next_sequence {
                self.count_sequence(name.first_sequence);
            } else {
                self.remove(name);
            }
        }
    }

    fn remove(&mut self, name: Name) {
        if let Err(e) = self.disk.remove(&name.in_directory(self.directory)) {
            self.note(name, format_args!("it is empty and cannot be removed: {e}"));
        }
    }
}
