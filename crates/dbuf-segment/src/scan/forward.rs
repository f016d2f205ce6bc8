//! Reads forward: from file to file, from batch to batch.
//!
//! Input: a directory, and what is wanted of it. Output: items, oldest first. Thread: any. Failure: none; a file that
//! cannot be read is an item. See the rules at the head of [`super`].

use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use super::merge::Merged;
use super::segment::{Batch, Damage, Segment, Step};
use super::{Directory, Item, SegmentFile, Wanted, bound, item, malformed, open_file, unreadable};

/// Reads the items of `directory`, oldest first, until `each` breaks. A file that cannot be read is an item too.
pub fn forward(
    directory: &Directory,
    wanted: &Wanted<'_>,
    mut each: impl FnMut(Item<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut reader = Forward::new(wanted.from_sequence);
    for (i, file) in directory.files.iter().enumerate() {
        let next = directory.files.get(i + 1);
        if next.and_then(|next| next.name).is_some_and(|next| next.first_sequence <= wanted.from_sequence) {
            continue;
        }
        reader.file(file, bound(file, next), wanted, &mut each)?;
    }
    ControlFlow::Continue(())
}

/// The state of reading forward.
pub(super) struct Forward {
    /// The sequence after the last one that was given out. Lower ones are not given out again (rule 2).
    pub(super) seen: u64,
    /// Whether everything before was read, so that a jump is a gap (rule 3).
    contiguous: bool,
    /// The sequence up to which the file counts (rule 1).
    bound: u64,
    pub(super) stream_id: Option<u128>,
    batch: Batch,
    merged: Merged,
}

/// How far a segment was read.
pub(super) struct Reached {
    /// The next offset to read.
    pub(super) at: u64,
}

impl Forward {
    pub(super) fn new(from_sequence: u64) -> Self {
        Self {
            seen: from_sequence,
            contiguous: false,
            bound: u64::MAX,
            stream_id: None,
            batch: Batch::default(),
            merged: Merged::default(),
        }
    }

    /// Notes that everything before is known: a jump from here on is a gap.
    pub(super) fn expect_all(&mut self) {
        self.contiguous = true;
    }

    fn file(
        &mut self,
        file: &SegmentFile,
        bound: u64,
        wanted: &Wanted<'_>,
        each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(opened) = open_file(file, self.stream_id) else { return ControlFlow::Continue(()) };
        let segment = match opened {
            Ok(segment) => segment,
            Err(e) => {
                self.contiguous = false;
                return each(Item::Damage { path: &file.path, damage: unreadable(file, &e) });
            }
        };
        self.stream_id = Some(segment.stream_id);
        if !wanted.segment(&segment) {
            self.contiguous = false;
            return ControlFlow::Continue(());
        }
        self.bound = bound;
        let at = self.seek(&segment, wanted);
        self.segment(&segment, &file.path, at, wanted, each).map_continue(drop)
    }

    /// The offset at which to begin in a segment: skips rows of the index that hold nothing wanted.
    fn seek(&mut self, segment: &Segment, wanted: &Wanted<'_>) -> u64 {
        let Ok(footer) = &segment.footer else { return Segment::FIRST };
        let rows = &footer.index;
        let by_sequence = rows.partition_point(|row| row.first_sequence <= wanted.from_sequence).saturating_sub(1);
        let by_time = rows.iter().take_while(|row| !wanted.times(row.time_min_ns, row.time_max_ns)).count();
        let row = by_sequence.max(by_time);
        if row == 0 {
            return Segment::FIRST;
        }
        self.contiguous = false;
        rows.get(row).map_or(footer.offset, |row| row.offset)
    }

    /// Reads a segment from `at` on, as far as possible.
    pub(super) fn segment(
        &mut self,
        segment: &Segment,
        path: &Path,
        mut at: u64,
        wanted: &Wanted<'_>,
        each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<(), Reached> {
        loop {
            match segment.step(at, &mut self.batch, &|header| wanted.batch(header)) {
                Ok(Step::Batch) => {
                    at = self.batch.header.end();
                    if wanted.batch(&self.batch.header) {
                        self.batch(segment, path, each)?;
                    } else if self.batch.header.first_sequence < self.bound {
                        // Read, and not wanted.
                        self.seen = self.seen.max(self.batch.header.next_sequence());
                        self.contiguous = true;
                    }
                }
                Ok(Step::Damage { damage, next, sequences }) => {
                    at = next;
                    if self.is_news(sequences) {
                        each(Item::Damage { path, damage })?;
                    }
                }
                Ok(Step::End { .. }) => return ControlFlow::Continue(Reached { at }),
                Err(e) => {
                    self.contiguous = false;
                    each(Item::Damage { path, damage: failed(segment, at, &e) })?;
                    return ControlFlow::Continue(Reached { at: u64::MAX });
                }
            }
        }
    }

    /// Whether damage that cost these sequences must be reported: not if they were given out from elsewhere.
    fn is_news(&mut self, sequences: Option<(u64, u64)>) -> bool {
        let Some((first, next)) = sequences else { return true };
        if first >= self.bound {
            // They are in the next file, undamaged.
            return false;
        }
        let news = next > self.seen;
        self.seen = self.seen.max(next);
        news
    }

    fn batch(
        &mut self,
        segment: &Segment,
        path: &Path,
        each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (first, next) = (self.batch.header.first_sequence, self.batch.header.next_sequence());
        let events = next > first;
        if (events && (next <= self.seen || first >= self.bound)) || (!events && first < self.seen) {
            return ControlFlow::Continue(());
        }
        if self.contiguous && first > self.seen {
            each(Item::Gap { from: self.seen, to: first - 1 })?;
        }
        let from = std::mem::replace(&mut self.seen, next);
        self.contiguous = true;
        if let Err(what) = self.merged.order(&self.batch) {
            return each(Item::Damage { path, damage: malformed(&self.batch.header, what) });
        }
        let boot_id = segment.header.as_ref().map_or(0, |header| header.boot_id);
        let placed = self.merged.forward(&self.batch);
        // If a batch was given out in part, its records up to the last event given out are not given out again either.
        for placed in placed.skip_while(|placed| first < from && placed.sequence.is_none_or(|sequence| sequence < from))
        {
            each(item(placed, segment.stream_id, boot_id))?;
        }
        ControlFlow::Continue(())
    }
}

/// The rest of a file that the disk cannot read.
pub(super) fn failed(segment: &Segment, at: u64, error: &io::Error) -> Damage {
    Damage { offset: at, bytes: segment.file_bytes.saturating_sub(at), what: error.to_string(), events: None }
}
