//! Appends batches to the active segment.
//!
//! Input: batches. Output: bytes in a file, written straight from the half. Thread: the reader. Failure: every call to
//! the disk; then nothing of the batch counts, and the same batch may come again.
//!
//! Invariants, cited by number:
//! 1. `footer.offset` is the end of the last whole batch. What lies beyond it in the file does not count, and is
//!    truncated or overwritten.
//! 2. A file that has refused a write or a sync for any reason except lack of space gets no more batches.

use std::io::{self, IoSlice};
use std::time::Instant;

use dbuf_segment::footer::Footer;
use dbuf_segment::format::{BatchHeader, RunRow, SEGMENT_BYTES};
use dbuf_segment::name::{Name, State};

use super::disk::{DiskFile, write_all};
use super::sync_queue::Shared;
use super::types::{BatchView, RunView};
use crate::sync::Arc;

/// Space is allocated ahead: as much again as the file has, within these bounds.
const ALLOCATE_BYTES_MIN: u64 = 1 << 20;
const ALLOCATE_BYTES_MAX: u64 = 16 << 20;

/// The segment that batches are appended to.
pub(super) struct Active {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) name: Name,
    pub(super) footer: Footer,
    /// When its first batch came.
    pub(super) first_batch: Option<Instant>,
    /// Its number in the sync queue.
    pub(super) id: u64,
    allocated: u64,
}

impl Active {
    /// Creates the next segment.
    pub(super) fn create(shared: &Shared, first_sequence: u64) -> io::Result<Self> {
        let stream = &shared.stream;
        let mut name = Name::new(first_sequence, State::Active);
        let file = loop {
            match stream.make_file(&name.in_directory(&stream.directory), first_sequence) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && name.copy < 100 => name.copy += 1,
                result => break result?,
            }
        };
        let first = SEGMENT_BYTES as u64;
        shared.status.active(name.to_string(), first);
        let id = shared.made(Arc::clone(&file), name, first);
        Ok(Self::new(file, name, stream.stream_id, id))
    }

    /// A file that contains only its header.
    pub(super) fn new(file: Arc<dyn DiskFile>, name: Name, stream_id: u128, id: u64) -> Self {
        let footer = Footer::new(stream_id, name.first_sequence);
        Self { file, name, footer, first_batch: None, id, allocated: SEGMENT_BYTES as u64 }
    }

    /// Whether the batch would make the segment larger than `bytes_max`. A batch that is larger than that by itself
    /// still goes into a file.
    pub(super) fn is_full_for(&self, batch: &BatchView<'_>, bytes_max: u64) -> bool {
        self.footer.batches > 0 && self.footer.offset + batch_bytes(batch) > bytes_max
    }

    /// Writes a batch whose first event has `first_sequence`. It counts after [`Active::accept`]. Allocates nothing
    /// beyond `bytes_max` except for the batch itself.
    pub(super) fn write(
        &mut self,
        batch: &BatchView<'_>,
        first_sequence: u64,
        bytes_max: u64,
    ) -> io::Result<BatchHeader> {
        let header = self.header_of(batch, first_sequence);
        let mut head = Vec::new();
        header.encode(self.footer.stream_id, &mut head);
        self.allocate(header.end(), bytes_max);
        let slices = batch.runs.iter().flat_map(|run| run.slices);
        let mut slices: Vec<_> = std::iter::once(&head[..]).chain(slices.copied()).map(IoSlice::new).collect();
        if let Err(e) = write_all(&*self.file, &mut slices, self.footer.offset) {
            // Invariant 1: if it cannot be truncated, the next batch overwrites it.
            let _ = self.file.truncate(self.footer.offset);
            self.allocated = self.footer.offset;
            return Err(e);
        }
        Ok(header)
    }

    /// Counts a batch that was written, and made durable if the policy requires that.
    pub(super) fn accept(&mut self, header: &BatchHeader, batch: &BatchView<'_>) {
        self.first_batch.get_or_insert_with(Instant::now);
        self.footer.add(header);
        batch.sources.iter().for_each(|count| self.footer.add_source(count));
    }

    fn header_of(&self, batch: &BatchView<'_>, first_sequence: u64) -> BatchHeader {
        let slices = || batch.runs.iter().flat_map(|run| run.slices);
        let row = |run: &RunView<'_>| RunRow {
            writer: u16::from(run.writer),
            events: run.events,
            bytes: run.slices.iter().map(|slice| slice.len() as u64).sum(),
        };
        BatchHeader {
            generation: batch.generation,
            first_sequence,
            events: batch.events,
            header_bytes: BatchHeader::bytes_for(batch.runs.len()) as u32,
            content_bytes: slices().map(|slice| slice.len() as u64).sum(),
            time_min_ns: batch.time_min_ns,
            time_max_ns: batch.time_max_ns,
            offset: self.footer.offset,
            payload_bytes: batch.payload_bytes,
            content_crc: batch.content_crc,
            incompat: batch.incompat,
            runs: batch.runs.iter().map(row).collect(),
        }
    }

    /// Allocates ahead, so that the file is contiguous and no write has to search for free blocks.
    fn allocate(&mut self, needed: u64, bytes_max: u64) {
        if needed <= self.allocated {
            return;
        }
        // Allocates no more than a full segment needs: the rest would be missing for the next segment until the syncer
        // has given it back.
        let ahead = needed + needed.clamp(ALLOCATE_BYTES_MIN, ALLOCATE_BYTES_MAX);
        let to = ahead.min(bytes_max.max(needed));
        // A file system that cannot allocate, or has no room, reports that at the write.
        let _ = self.file.allocate(self.allocated, to - self.allocated);
        self.allocated = to;
    }
}

/// Writes a footer after the batches. Returns whether it is there. If not, nothing follows the batches.
pub(super) fn end_file(file: &dyn DiskFile, footer: &[u8], offset: u64) -> bool {
    let write = || write_all(file, &mut [IoSlice::new(footer)], offset).is_ok();
    // A second try when there was no room: truncating frees what the file has allocated beyond its end.
    let is_written = write() || (file.truncate(offset).is_ok() && write());
    if !is_written {
        // Part of it may have found room. If it cannot be truncated, it is a tail that readers ignore.
        let _ = file.truncate(offset);
    }
    is_written
}

/// Bytes that a batch takes in a file.
pub(super) fn batch_bytes(batch: &BatchView<'_>) -> u64 {
    let content: usize = batch.runs.iter().flat_map(|run| run.slices).map(|slice| slice.len()).sum();
    (BatchHeader::bytes_for(batch.runs.len()) + content) as u64
}
