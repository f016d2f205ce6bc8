//! Repairs a file whose sync has failed: reads the batches that were not durable and writes them again, into another
//! file.
//!
//! Input: a broken file, and how far it is durable. Output: a sealed segment with what could be read back, and the
//! broken file, truncated and named torn. Thread: the syncer. Failure: the disk; then the whole repair is tried again
//! later.
//!
//! After a failed write the kernel marks the memory as clean and may forget it, but usually it is still there. Each
//! batch is verified before it is written again, so that forgotten data is not mistaken for written data.
//!
//! The steps, each of which may be the last before a crash:
//! 1. The broken file is named torn. Recovery leaves torn files alone; readers read them up to the next file.
//! 2. The batches are written to a `.repair` file, which no reader opens and recovery removes. It is synced.
//! 3. It gets the name of a sealed segment, with the first sequence of its first batch. From here on readers take these
//!    batches from it, and read the torn file only up to that sequence.
//! 4. The torn file is truncated to what is durable in it. If that is nothing, the file is removed.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};

use dbuf_segment::footer::Footer;
use dbuf_segment::format::{BatchHeader, SEGMENT_BYTES};
use dbuf_segment::name::{Name, REPAIR, State};
use dbuf_segment::scan::segment::{Batch, Segment, Step};

use super::disk::{self, DiskFile, ReadAt, write_all};
use super::stream::Stream;
use super::sync_queue::Tracked;
use crate::sync::Arc;

/// What was written again.
#[derive(Debug, Default)]
pub(super) struct Saved {
    pub(super) events: u64,
    pub(super) generations: BTreeSet<u64>,
}

/// Why a repair failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The current name of the broken file.
    pub(super) name: Name,
    pub(super) error: io::Error,
}

/// Writes what is not durable of a broken file again. None if the file is gone with nothing to save, or if retention
/// took it.
///
/// # Errors
/// [`Failure`]. Then nothing is changed except the broken file's name.
pub(super) fn repair(stream: &Stream, tracked: &Tracked) -> Result<Option<Saved>, Failure> {
    let mut name = tracked.name;
    // Nothing in it counts, so it is simply removed.
    let empty = tracked.durable.offset <= SEGMENT_BYTES as u64;
    let nothing_to_save = tracked.end.offset == tracked.durable.offset;
    // Another file may have the name of a deleted one. The deleted file can still be read through its descriptor.
    let is_deleted = tracked.file.has_name().is_ok_and(|has_name| !has_name);
    if is_deleted && (nothing_to_save || name.state != State::Active) {
        return Ok(None);
    }
    if !is_deleted && name.state != State::Torn && !(empty && nothing_to_save) {
        name = match name_torn(stream, name) {
            Ok(name) => name,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure { name, error }),
        };
    }
    let saved = if nothing_to_save {
        Saved::default()
    } else {
        write_again(stream, tracked).map_err(|error| Failure { name, error })?
    };
    let path = name.in_directory(&stream.directory);
    // Step 4 only tidies up: readers know where the torn file ends for them.
    if is_deleted {
        // Nothing to tidy up.
    } else if empty {
        let _ = stream.disk.remove(&path);
    } else {
        let _ = tracked.file.truncate(tracked.durable.offset);
    }
    Ok(Some(saved))
}

fn name_torn(stream: &Stream, name: Name) -> io::Result<Name> {
    let from = name.in_directory(&stream.directory);
    let to = Name { state: State::Torn, ..name };
    let path = disk::rename_to_free(&*stream.disk, &stream.directory, &from, to)?;
    Ok(Name::of_path(&path).unwrap_or(to))
}

fn write_again(stream: &Stream, tracked: &Tracked) -> io::Result<Saved> {
    let Stream { disk, directory, .. } = stream;
    let first_sequence = tracked.durable.sequence;
    let path = directory.join(format!("{first_sequence:020}.{REPAIR}"));
    match disk.remove(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = stream.make_file(&path, first_sequence)?;
    let written = fill(stream, tracked, &*file).and_then(|saved| {
        file.sync()?;
        disk::rename_to_free(&**disk, directory, &path, Name::new(first_sequence, State::Sealed))?;
        stream.sync_directory()?;
        Ok(saved)
    });
    if written.is_err() {
        let _ = disk.remove(&path);
    }
    written
}

/// Copies the batches that are not durable and can be verified, and a footer.
fn fill(stream: &Stream, tracked: &Tracked, to: &dyn DiskFile) -> io::Result<Saved> {
    let from: Arc<dyn ReadAt> = Arc::clone(&tracked.file) as Arc<dyn ReadAt>;
    let segment = Segment::open(from, Some(stream.stream_id)).map_err(io::Error::other)?;
    let mut saved = Saved::default();
    let mut footer = Footer::new(stream.stream_id, tracked.durable.sequence);
    let mut batch = Batch::default();
    let mut at = tracked.durable.offset;
    while at < tracked.end.offset {
        match segment.step(at, &mut batch, &|_| true) {
            Ok(Step::Batch) => {
                at = batch.header.end();
                saved.events += u64::from(batch.header.events);
                saved.generations.insert(batch.header.generation);
                copy(&mut footer, &mut batch, to)?;
            }
            Ok(Step::Damage { next, .. }) => at = next,
            // What cannot be read is lost, and so is everything after it, because its start is not known.
            Ok(Step::End { .. }) | Err(_) => break,
        }
    }
    if footer.next_sequence < tracked.end.sequence || footer.batches == 0 {
        // The last events are lost. A batch without events keeps their sequences from being given out again.
        let mut marker = Batch::default();
        marker.header.first_sequence = tracked.end.sequence;
        marker.header.generation = tracked.end.generation.saturating_sub(1);
        marker.header.header_bytes = BatchHeader::bytes_for(0) as u32;
        (marker.header.time_min_ns, marker.header.time_max_ns) = (footer.time_max_ns, footer.time_max_ns);
        copy(&mut footer, &mut marker, to)?;
    }
    write_all(to, &mut [IoSlice::new(&footer.encode())], footer.offset)?;
    Ok(saved)
}

fn copy(footer: &mut Footer, batch: &mut Batch, to: &dyn DiskFile) -> io::Result<()> {
    batch.header.offset = footer.offset;
    batch.header.header_bytes = BatchHeader::bytes_for(batch.header.runs.len()) as u32;
    let mut head = Vec::new();
    batch.header.encode(footer.stream_id, &mut head);
    write_all(to, &mut [IoSlice::new(&head), IoSlice::new(&batch.content)], batch.header.offset)?;
    footer.add(&batch.header);
    for run in batch.runs() {
        footer.add_run(run);
    }
    Ok(())
}
