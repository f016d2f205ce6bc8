//! A file that anyone may have written is read: no panic, no endless loop, no memory beyond its size.
//!
//! The first byte says how the rest is taken: as a whole file; as the records of a batch whose checksums are right; or
//! as a footer whose checksum is right. Without the latter two the fuzzer would have to guess checksums.
#![no_main]

use std::sync::Arc;

use dbuf_segment::footer::{Footer, Trailer};
use dbuf_segment::format::{BATCH_INCOMPAT_KNOWN, BatchHeader, RunRow, SEGMENT_BYTES, SegmentHeader, checksum};
use dbuf_segment::record::Record;
use dbuf_segment::scan::verify_bytes;
use libfuzzer_sys::fuzz_target;

const STREAM_ID: u128 = 7;

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    match how {
        0 => drop(verify_bytes(Arc::new(rest.to_vec()))),
        1 => as_footer(rest),
        runs => as_records(usize::from(*runs), rest),
    }
});

fn as_footer(bytes: &[u8]) {
    let trailer = Trailer { footer_offset: 128, footer_bytes: bytes.len() as u32, footer_crc: checksum(bytes) };
    if let Ok(footer) = Footer::decode(&trailer, bytes) {
        let _ = footer.sources().count();
        let _ = footer.counts().map(|(named, _)| named.count());
        let _ = footer.agrees_with(&footer);
    }
}

/// How many events the records of a run are, as far as they can be read.
fn events(mut run: &[u8]) -> u32 {
    let mut events = 0;
    while let Ok((record, bytes)) = Record::decode(run) {
        events += record.event_count() as u32;
        assert_eq!(record.lines().count(), record.lines_backward().count());
        run = &run[bytes..];
    }
    events
}

/// A segment of one batch with this many runs, whose records are hostile.
fn as_records(runs: usize, bytes: &[u8]) {
    let mut content = bytes.to_vec();
    content.resize(content.len().next_multiple_of(8), 0);
    let each = (content.len() / runs).next_multiple_of(8);
    let mut left = content.len();
    let mut row = |writer: usize| {
        let bytes = if writer + 1 == runs { left } else { each.min(left) };
        left -= bytes;
        let run = &content[content.len() - left - bytes..][..bytes];
        RunRow { writer: writer as u16, events: events(run), bytes: bytes as u64 }
    };
    let runs: Vec<_> = (0..runs).map(&mut row).collect();
    let header = BatchHeader {
        first_sequence: 1,
        events: runs.iter().map(|run| run.events).sum(),
        content_bytes: content.len() as u64,
        offset: SEGMENT_BYTES as u64,
        content_crc: checksum(&content),
        incompat: BATCH_INCOMPAT_KNOWN,
        runs,
        ..BatchHeader::default()
    };
    let segment = SegmentHeader { stream_id: STREAM_ID, boot_id: 0, created_ns: 0, first_sequence: 1 };
    let mut file = segment.encode().to_vec();
    let mut head = Vec::new();
    header.encode(STREAM_ID, &mut head);
    file.extend_from_slice(&head);
    file.extend_from_slice(&content);
    drop(verify_bytes(Arc::new(file)));
}
