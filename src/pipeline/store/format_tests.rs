//! The byte tables of `docs/FORMAT.md` against the code, and the golden file against today's writer and reader.

use std::io::IoSlice;

use super::appender::{Active, end_file};
use super::disk::write_all;
use super::format::{self, Field, SegmentHeader};
use super::name::{Name, State};
use super::scan::{Directory, verify_bytes};
use super::testing::{TestBatch, backward, directory, forward};
use super::*;
use crate::pipeline::record::{
    Cause, Event, HEAD_BYTES, Loss, Piece, Source, Transport, encode_loss, encode_source, flag, put_field,
};

const FORMAT: &str = include_str!("../../../docs/FORMAT.md");
const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/v1.segment");
const GOLDEN_LINES: &[u8] = include_bytes!("../../../tests/golden/lines.segment");

/// The rows of the table below ``Layout `name` ``: offset, bytes, name, meaning.
fn table(name: &str) -> Vec<(usize, usize, String, String)> {
    let lines = FORMAT.lines().skip_while(|line| !line.starts_with(&format!("Layout `{name}`")));
    let rows = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    let row = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_string());
        let mut cell = || cells.next().expect("a row has four cells");
        (cell().parse().unwrap(), cell().parse().unwrap(), cell(), cell())
    };
    rows.map(row).collect()
}

#[test]
fn the_tables_of_segments_batches_and_footers_are_those_of_the_code() {
    let layouts: [(&str, &[Field]); 6] = [
        ("segment", format::segment::FIELDS),
        ("batch", format::batch::FIELDS),
        ("run", format::run::FIELDS),
        ("footer", format::footer::FIELDS),
        ("index_row", format::index_row::FIELDS),
        ("trailer", format::trailer::FIELDS),
    ];
    for (name, fields) in layouts {
        let documented: Vec<_> = table(name).into_iter().map(|(at, bytes, name, _)| (at, bytes, name)).collect();
        let coded: Vec<_> = fields.iter().map(|field| (field.at, field.bytes, field.name.to_string())).collect();
        assert_eq!(documented, coded, "{name}");
    }
}

#[test]
fn the_magics_are_those_of_the_code() {
    let magics: [(&str, &[u8]); 4] = [
        ("segment", &format::SEGMENT_MAGIC),
        ("batch", &format::BATCH_MAGIC),
        ("footer", &format::FOOTER_MAGIC),
        ("trailer", &format::TRAILER_MAGIC),
    ];
    for (name, magic) in magics {
        let hex: Vec<_> = magic.iter().map(|byte| format!("{byte:02X}")).collect();
        let row = table(name).into_iter().find(|row| row.2 == "magic").unwrap();
        assert_eq!(row.3, format!("`{}`", hex.join(" ")), "{name}");
    }
}

/// Each field of a documented layout has the value that was written, and together they fill `bytes`.
fn assert_fields(layout: &str, bytes: &[u8], values: &[(&str, u128)]) {
    let rows = table(layout);
    let mut end = 0;
    for (at, size, name, _) in &rows {
        assert_eq!(*at, end, "{layout}.{name}");
        end = at + size;
        let mut word = [0; 16];
        word[..*size].copy_from_slice(&bytes[*at..end]);
        let value = values.iter().find(|(field, _)| field == name).map_or(0, |(_, value)| *value);
        assert!(name == "reserved" || value != 0, "the test gives {layout}.{name} no value");
        assert_eq!(u128::from_le_bytes(word), value, "{layout}.{name}");
    }
    assert_eq!(rows.len(), values.len() + rows.iter().filter(|row| row.2 == "reserved").count(), "{layout}");
    assert_eq!(end, bytes.len(), "{layout}");
}

#[test]
fn the_tables_of_records_are_those_of_the_code() {
    let mut bytes = Vec::new();
    Event { time_ns: 5, source: 6, pri: 7, source_time_ns: Some(8), payload: b"12", ..Event::default() }
        .encode(&mut bytes);
    let values = [("length", 10), ("kind", 1), ("pri", 7), ("flags", 1), ("time_ns", 5), ("source", 6)];
    assert_fields("record", &bytes[..HEAD_BYTES], &values);

    bytes.clear();
    let source = Source {
        pid: 1,
        uid: 2,
        gid: 3,
        claimed_pid: 4,
        session: 5 << 64,
        transport: Transport::Syslog,
        tag: b"t",
        comm: b"cc",
        unit: b"uuu",
    };
    encode_source(&mut bytes, 9, 1, &source);
    let values = [
        ("pid", 1),
        ("uid", 2),
        ("gid", 3),
        ("claimed_pid", 4),
        ("session", 5 << 64),
        ("transport", 3),
        ("tag_bytes", 1),
        ("comm_bytes", 2),
        ("unit_bytes", 3),
    ];
    assert_fields("source", &bytes[HEAD_BYTES..HEAD_BYTES + 40], &values);
    assert_eq!(&bytes[HEAD_BYTES + 40..HEAD_BYTES + 46], b"tccuuu");

    bytes.clear();
    encode_loss(&mut bytes, 9, 1, &Loss { cause: Cause::Disk, events: 2, bytes: 3, first_ns: 4, last_ns: 5 });
    let values = [("cause", 3), ("events", 2), ("bytes", 3), ("first_ns", 4), ("last_ns", 5)];
    assert_fields("loss", &bytes[HEAD_BYTES..], &values);
}

#[test]
fn flags_causes_and_transports_are_those_of_the_code() {
    let flags = [
        ("source_time", flag::SOURCE_TIME),
        ("producer_sequence", flag::PRODUCER_SEQUENCE),
        ("piece", flag::PIECE),
        ("fields", flag::FIELDS),
        ("continues", flag::CONTINUES),
        ("continued", flag::CONTINUED),
        ("lines", flag::LINES),
    ];
    assert_eq!(flags.iter().fold(0, |all, (_, bit)| all | bit), flag::KNOWN);
    for (name, bit) in flags {
        assert!(FORMAT.contains(&format!("| {} | {name} |", bit.trailing_zeros())), "{name}");
    }
    let causes: Vec<_> = Cause::ALL.iter().map(|cause| format!("{} {}", *cause as u8, cause.name())).collect();
    assert!(FORMAT.contains(&causes.join(", ")));
    let transports = (1..).map_while(Transport::from_number);
    let transports: Vec<_> = transports.map(|transport| format!("{} {}", transport as u8, transport.name())).collect();
    assert!(FORMAT.contains(&transports.join(", ")));
}

/// Two batches that use everything that a segment may hold.
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

/// A golden file, as today's writer makes it.
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
    for (golden, batches) in [(GOLDEN, golden_batches()), (GOLDEN_LINES, golden_batches_of_lines())] {
        let bytes = write_golden(&batches);
        let differ = bytes.iter().zip(golden).position(|(ours, theirs)| ours != theirs);
        assert_eq!(
            (bytes.len(), differ),
            (golden.len(), None),
            "a change of the format needs a feature bit and a new file"
        );
    }
}

/// A golden file is whole, and this is what it holds, forward and backward.
fn assert_is_read(golden: &[u8], all: &[&str]) {
    assert_eq!(verify_bytes(Arc::new(golden.to_vec())), []);
    let directory = directory();
    std::fs::write(directory.path().join("00000000000000000101.segment"), golden).unwrap();
    let listed = Directory::open(directory.path()).unwrap();
    assert_eq!(forward(&listed, &scan::Wanted::default()), all);
    let reversed: Vec<_> = all.iter().rev().copied().collect();
    assert_eq!(backward(&listed, &scan::Wanted::default()), reversed);
}

#[test]
fn the_golden_file_of_lines_stays_readable_and_says_that_it_has_them() {
    let all = [
        "101 web alone",
        "102 db between",
        "103 web one",
        "104 web two",
        "105 web three",
        "106 db of the same time",
        "107 db but of a later run",
        "108 app without lines",
    ];
    assert_is_read(GOLDEN_LINES, &all);
    let first = &GOLDEN_LINES[format::SEGMENT_BYTES..];
    assert_eq!(format::get_u32(first, format::batch::incompat), format::INCOMPAT_LINES, "older readers step over it");
    assert_eq!(format::get_u32(&GOLDEN[format::SEGMENT_BYTES..], format::batch::incompat), 0);
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
        active.write(&BatchView { has_lines: false, ..*view }, 101, u64::MAX).unwrap();
        bytes.resize(active.file.bytes().unwrap() as usize, 0);
        active.file.read_at(&mut bytes, 0).unwrap();
    });
    let damage = verify_bytes(Arc::new(bytes));
    assert!(damage[0].what.contains("lines"), "{damage:?}");
}

#[test]
fn the_golden_file_stays_readable() {
    let all = [
        "101 web first",
        "102 db second",
        "103 db the clock jumped back",
        "lost 2 too_big",
        "104 web third",
        "105 web with fields",
        "piece web a long ",
        "106 web line",
        "107 web \u{fffd}\0 bytes",
    ];
    assert_is_read(GOLDEN, &all);
}
