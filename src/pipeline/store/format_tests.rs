//! Compares the golden files with what today's writer makes. The crate that reads segments tests that they stay
//! readable.

use std::io::IoSlice;

use dbuf_segment::format::SegmentHeader;
use dbuf_segment::name::{Name, State};
use dbuf_segment::scan::segment::Segment;
use dbuf_segment::scan::verify_bytes;

use super::appender::{Active, end_file};
use super::disk::write_all;
use super::testing::{TestBatch, directory};
use super::*;
use crate::pipeline::record::{Cause, Event, Loss, Piece, put_field};

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/v1.segment");
const GOLDEN_LINES: &[u8] = include_bytes!("../../../tests/golden/lines.segment");
const GOLDEN_COUNTS: &[u8] = include_bytes!("../../../tests/golden/counts.segment");

/// Two batches that use everything that a segment may contain.
fn golden_batches() -> [TestBatch; 2] {
    let mut fields = Vec::new();
    put_field(&mut fields, b"SYSLOG_MSGID", b"ID47");
    let event = |time_ns, payload: &'static [u8]| Event { time_ns, pri: 14, payload, ..Event::default() };
    let piece = |continued, continues| Some(Piece { id: 77, continued, continues });
    let mut first = TestBatch::new(3);
    first.run("web", &[(1_000, "first"), (3_000, "third")]);
    first.event(&Event { source_time_ns: Some(900), fields: &fields, ..event(4_000, b"with fields") });
    first.event(&Event { piece: piece(false, true), ..event(5_000, b"a long ") });
    first.run("db", &[(2_000, "second"), (500, "the clock jumped back")]);
    first.loss(2_500, &Loss { cause: Cause::TooBig, events: 2, bytes: 99, first_ns: 2_400, last_ns: 2_500 });
    let mut second = TestBatch::new(4);
    second.run("web", &[]);
    second.event(&Event { piece: piece(true, false), producer_sequence: Some(12), ..event(6_000, b"line") });
    second.event(&event(7_000, b"\xff\x00 bytes"));
    [first, second]
}

/// A batch with records of lines, and one without.
fn golden_batches_of_lines() -> [TestBatch; 2] {
    let mut first = TestBatch::new(3);
    first.run("web", &[(1_000, "alone")]).lines(2_000, "one\ntwo\nthree\n").run("db", &[(1_500, "between")]);
    first.lines(2_000, "of the same time\nbut of a later run\n");
    [first, TestBatch::of(4, &[(3_000, "without lines")])]
}

/// A golden file as today's writer makes it.
fn write_golden(batches: &[TestBatch]) -> Vec<u8> {
    let header = SegmentHeader {
        stream_id: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
        boot_id: 0xb007,
        created_ns: 1_700_000_000_000_000_000,
        first_sequence: 101,
    };
    let directory = directory();
    let name = Name::new(header.first_sequence, State::Active);
    let file = RealDisk.create(&name.in_directory(directory.path())).unwrap();
    write_all(&*file, &mut [IoSlice::new(&header.encode())], 0).unwrap();
    let mut active = Active::new(file, name, header.stream_id, 0);
    for batch in batches {
        batch.lend(64, |view| {
            let header = active.write(view, active.footer.next_sequence, u64::MAX).unwrap();
            active.accept(&header, view);
        });
    }
    end_file(&*active.file, &active.footer.encode(), active.footer.offset);
    let mut bytes = vec![0; active.file.bytes().unwrap() as usize];
    assert_eq!(active.file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

#[test]
fn todays_writer_makes_the_bytes_of_the_golden_file() {
    let written = write_golden(&golden_batches_of_lines());
    // The footers of the older files have no counts, so only what comes before them is the same.
    let (old, lines) = (write_golden(&golden_batches()), written.clone());
    for (golden, mut bytes) in [(GOLDEN, old), (GOLDEN_LINES, lines), (GOLDEN_COUNTS, written)] {
        let mut golden = golden.to_vec();
        let segment = Segment::open(Arc::new(golden.clone()), None).unwrap();
        let footer = segment.footer.unwrap();
        if footer.counts().is_none() {
            golden.truncate(footer.offset as usize);
            bytes.truncate(footer.offset as usize);
        }
        let differ = bytes.iter().zip(&golden).position(|(ours, theirs)| ours != theirs);
        assert_eq!(
            (bytes.len(), differ),
            (golden.len(), None),
            "a change of the format needs a feature bit and a new file"
        );
    }
}

#[test]
fn lines_in_a_batch_that_does_not_say_so_are_damage() {
    let mut bytes = Vec::new();
    golden_batches_of_lines()[0].lend(usize::MAX, |view| {
        let directory = directory();
        let name = Name::new(101, State::Active);
        let file = RealDisk.create(&name.in_directory(directory.path())).unwrap();
        let header = SegmentHeader { stream_id: 1, boot_id: 2, created_ns: 3, first_sequence: 101 };
        write_all(&*file, &mut [IoSlice::new(&header.encode())], 0).unwrap();
        let mut active = Active::new(file, name, 1, 0);
        active.write(&BatchView { incompat: 0, ..*view }, 101, u64::MAX).unwrap();
        bytes.resize(active.file.bytes().unwrap() as usize, 0);
        active.file.read_at(&mut bytes, 0).unwrap();
    });
    let damage = verify_bytes(Arc::new(bytes));
    assert!(damage[0].what.contains("a feature that its header does not name"), "{damage:?}");
}
