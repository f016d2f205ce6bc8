//! Reads backward: the same items as forward, in the opposite order.
//!
//! Input: a directory, and what is wanted of it. Output: items, newest first. Thread: any. Failure: none; a file that
//! cannot be read is an item. A file is read in the blocks of its index, so that the last events of a large directory
//! are found at once. See the rules at the head of [`super`].

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::forward::failed;
use super::merge::Merged;
use super::segment::{Batch, Damage, Segment, Step};
use super::{Directory, Item, SegmentFile, Wanted, bound, item, malformed, open_file, unreadable};

/// Reads the items of `directory`, newest first, until `each` breaks. A file that cannot be read is an item too.
///
/// It differs from [`super::forward()`] in one respect: damage that extends over the start of a block of the index is
/// reported in two parts.
pub fn backward(
    directory: &Directory,
    wanted: &Wanted<'_>,
    mut each: impl FnMut(Item<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut reader = Backward::default();
    for (i, file) in directory.files.iter().enumerate().rev() {
        reader.file(file, bound(file, directory.files.get(i + 1)), wanted, &mut each)?;
        if file.name.is_some_and(|name| name.first_sequence < wanted.from_sequence) {
            break;
        }
    }
    reader.report_damage(&mut each)
}

/// What is at an offset of a file.
enum Place {
    Batch(u64),
    Damage(Damage, Option<(u64, u64)>),
}

/// The state of reading backward.
#[derive(Default)]
struct Backward {
    /// The first sequence that was given out; None if what precedes it was not read.
    seen: Option<u64>,
    /// Damage that was found. It is reported before the items that precede it, with a gap between them if there is one.
    damage: Vec<(PathBuf, Damage)>,
    stream_id: Option<u128>,
    batch: Batch,
    merged: Merged,
}

impl Backward {
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
                self.report_damage(each)?;
                self.seen = None;
                return each(Item::Damage { path: &file.path, damage: unreadable(file, &e) });
            }
        };
        self.stream_id = Some(segment.stream_id);
        if !wanted.segment(&segment) {
            self.seen = None;
            return ControlFlow::Continue(());
        }
        let index = match &segment.footer {
            Ok(footer) => footer.index.clone(),
            Err(_) => match segment.rebuild(false, &mut |_| {}) {
                Ok((footer, _)) => footer.index,
                Err(e) => {
                    self.damage.push((file.path.clone(), failed(&segment, Segment::FIRST, &e)));
                    self.seen = None;
                    return ControlFlow::Continue(());
                }
            },
        };
        let mut end = segment.limit();
        for row in index.iter().skip(1).rev() {
            if wanted.times(row.time_min_ns, row.time_max_ns) {
                self.block(&segment, &file.path, (row.offset, end), bound, wanted, each)?;
            } else {
                self.seen = None;
            }
            end = row.offset;
            if row.first_sequence < wanted.from_sequence {
                return ControlFlow::Continue(());
            }
        }
        // The first block starts at the first batch, because damage before the first whole batch has no row of its own.
        self.block(&segment, &file.path, (Segment::FIRST, end), bound, wanted, each)
    }

    /// Reads one block.
    fn block(
        &mut self,
        segment: &Segment,
        path: &Path,
        (start, end): (u64, u64),
        bound: u64,
        wanted: &Wanted<'_>,
        each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for place in places(segment, &mut self.batch, start, end).into_iter().rev() {
            let step = match place {
                Place::Batch(at) => segment.step(at, &mut self.batch, &|header| wanted.batch(header)),
                Place::Damage(damage, sequences) => Ok(Step::Damage { damage, next: 0, sequences }),
            };
            match step {
                Ok(Step::Batch) if wanted.batch(&self.batch.header) => {
                    self.batch(segment, path, bound, wanted, each)?
                }
                Ok(Step::Batch) if self.batch.header.first_sequence < bound => {
                    self.seen = Some(self.batch.header.first_sequence);
                }
                // What is beyond the bound is in the next file, and was read there.
                Ok(Step::Batch) => {}
                Ok(Step::Damage { damage, sequences, .. }) => self.note_damage(path, damage, sequences, bound),
                // The file was truncated since.
                Ok(Step::End { .. }) => {}
                Err(e) => {
                    self.damage.push((path.to_path_buf(), failed(segment, self.batch.header.offset, &e)));
                    self.seen = None;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn note_damage(&mut self, path: &Path, damage: Damage, sequences: Option<(u64, u64)>, bound: u64) {
        if let Some((first, next)) = sequences {
            if self.seen.is_some_and(|seen| next > seen) || first >= bound {
                return;
            }
            self.seen = Some(first);
        }
        self.damage.push((path.to_path_buf(), damage));
    }

    fn report_damage(&mut self, each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        for (path, damage) in self.damage.drain(..) {
            each(Item::Damage { path: &path, damage })?;
        }
        ControlFlow::Continue(())
    }

    fn batch(
        &mut self,
        segment: &Segment,
        path: &Path,
        bound: u64,
        wanted: &Wanted<'_>,
        each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (first, next) = (self.batch.header.first_sequence, self.batch.header.next_sequence());
        if (next > first && first >= bound) || self.seen.is_some_and(|seen| next > seen) {
            return ControlFlow::Continue(());
        }
        if let Some(seen) = self.seen.filter(|seen| *seen > next) {
            each(Item::Gap { from: next, to: seen - 1 })?;
        }
        self.report_damage(each)?;
        self.seen = Some(first);
        if let Err(what) = self.merged.order(&self.batch) {
            return each(Item::Damage { path, damage: malformed(&self.batch.header, what) });
        }
        let boot_id = segment.header.as_ref().map_or(0, |header| header.boot_id);
        let from = wanted.from_sequence;
        // What precedes the first wanted event in the batch was given out, or not, with the event before it.
        let until = move |placed: &super::merge::Placed<'_>| first >= from || placed.sequence.is_none_or(|s| s >= from);
        for placed in self.merged.backward(&self.batch).take_while(until) {
            each(item(placed, segment.stream_id, boot_id))?;
        }
        ControlFlow::Continue(())
    }
}

/// The batches and damage between two offsets, in the order of the file. Reads headers only. A disk that does not
/// answer ends the block, as it does when the batches are read.
fn places(segment: &Segment, batch: &mut Batch, start: u64, end: u64) -> Vec<Place> {
    let mut places = Vec::new();
    let mut at = start;
    while at < end {
        match segment.step(at, batch, &|_| false) {
            Ok(Step::Batch) => {
                places.push(Place::Batch(at));
                at = batch.header.end();
            }
            Ok(Step::Damage { mut damage, next, sequences }) => {
                damage.bytes = damage.bytes.min(end - at);
                places.push(Place::Damage(damage, sequences));
                at = next;
            }
            Ok(Step::End { .. }) => break,
            Err(e) => {
                places.push(Place::Damage(failed(segment, at, &e), None));
                break;
            }
        }
    }
    places
}
