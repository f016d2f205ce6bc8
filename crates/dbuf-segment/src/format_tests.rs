//! Compares the byte tables of `docs/FORMAT.md` with the code, and the golden files with today's reader.

use dbuf_sync::Arc;

use crate::footer::{Count, Footer, Trailer};
use crate::format::{self, Field};
use crate::record::{
    Cause, Event, HEAD_BYTES, Loss, Record, Source, Transport, encode_lines, encode_loss, encode_source, flag,
};
use crate::scan::segment::Segment;
use crate::scan::{Directory, Wanted, verify_bytes};
use crate::testing::{backward, forward};

const FORMAT: &str = include_str!("../../../docs/FORMAT.md");
const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/v1.segment");
const GOLDEN_LINES: &[u8] = include_bytes!("../../../tests/golden/lines.segment");
const GOLDEN_COUNTS: &[u8] = include_bytes!("../../../tests/golden/counts.segment");

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
    let layouts: [(&str, &[Field]); 8] = [
        ("segment", format::segment::FIELDS),
        ("batch", format::batch::FIELDS),
        ("run", format::run::FIELDS),
        ("footer", format::footer::FIELDS),
        ("index_row", format::index_row::FIELDS),
        ("counts", format::counts::FIELDS),
        ("count_row", format::count_row::FIELDS),
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

/// Checks that each field of a documented layout has the value that was written, and that together they fill `bytes`.
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

/// Checks that a golden file is whole, and that this is its content, forward and backward.
fn assert_is_read(golden: &[u8], all: &[&str]) {
    assert_eq!(verify_bytes(Arc::new(golden.to_vec())), []);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("00000000000000000101.segment"), golden).unwrap();
    let listed = Directory::open(directory.path()).unwrap();
    assert_eq!(forward(&listed, &Wanted::default()), all);
    let reversed: Vec<_> = all.iter().rev().copied().collect();
    assert_eq!(backward(&listed, &Wanted::default()), reversed);
}

/// What the golden files with lines hold.
const LINES: [&str; 8] = [
    "101 web alone",
    "102 db between",
    "103 web one",
    "104 web two",
    "105 web three",
    "106 db of the same time",
    "107 db but of a later run",
    "108 app without lines",
];

fn footer_of(segment: &[u8]) -> Footer {
    Segment::open(Arc::new(segment.to_vec()), None).unwrap().footer.unwrap()
}

#[test]
fn the_golden_file_of_counts_says_what_each_source_has_in_it() {
    assert_is_read(GOLDEN_COUNTS, &LINES);
    let footer = footer_of(GOLDEN_COUNTS);
    let (named, others) = footer.counts().expect("it has counts");
    let named: Vec<_> =
        named.map(|(record, count)| (record.as_source().unwrap().tag, count.events, count.payload_bytes)).collect();
    assert_eq!(named, [(&b"web"[..], 4, 16), (b"db", 3, 41), (b"app", 1, 13)]);
    assert_eq!(others, Count::default());
    assert!(footer_of(GOLDEN_LINES).counts().is_none(), "an earlier version did not write them");
}

#[test]
fn a_footer_agrees_with_its_batches_also_with_features_that_this_version_does_not_know() {
    let mut later = GOLDEN_COUNTS.to_vec();
    later.truncate(later.len() - format::TRAILER_BYTES);
    let at = footer_of(GOLDEN_COUNTS).offset as usize;
    later[at + format::footer::compat.at + 1] |= 0x80;
    later.extend_from_slice(&[0xa5; 40]);
    let trailer = Trailer {
        footer_offset: at as u64,
        footer_bytes: (later.len() - at) as u32,
        footer_crc: format::checksum(&later[at..]),
    };
    later.extend_from_slice(&trailer.encode());
    assert_is_read(&later, &LINES);
}

/// The golden file of counts with other bytes at an offset of its footer, and right checksums.
fn with_footer(offset: usize, bytes: &[u8]) -> Arc<Vec<u8>> {
    let mut wrong = GOLDEN_COUNTS.to_vec();
    let (at, end) = (footer_of(GOLDEN_COUNTS).offset as usize, wrong.len() - format::TRAILER_BYTES);
    wrong[at + offset..][..bytes.len()].copy_from_slice(bytes);
    let (footer_bytes, footer_crc) = ((end - at) as u32, format::checksum(&wrong[at..end]));
    let trailer = Trailer { footer_offset: at as u64, footer_bytes, footer_crc };
    wrong[end..].copy_from_slice(&trailer.encode());
    Arc::new(wrong)
}

/// The offset of the last row of counts in the footer of the golden file of counts.
fn last_row() -> usize {
    let end = GOLDEN_COUNTS.len() - format::TRAILER_BYTES - format::COUNT_ROW_BYTES;
    end - footer_of(GOLDEN_COUNTS).offset as usize
}

#[test]
fn a_footer_whose_counts_are_wrong_does_not_agree_with_the_batches() {
    let damage = verify_bytes(with_footer(last_row() + format::count_row::events.at, &[2]));
    assert!(damage.len() == 1 && damage[0].what.contains("does not agree"), "{damage:?}");
}

#[test]
fn a_footer_that_counts_more_than_its_segment_can_hold_is_damaged() {
    use format::{count_row, footer};
    let rows = [last_row(), last_row() - format::COUNT_ROW_BYTES].into_iter();
    let of_rows = rows.flat_map(|row| [row + count_row::events.at, row + count_row::payload_bytes.at]);
    for offset in of_rows.chain([footer::events.at, footer::payload_bytes.at]) {
        let segment = Segment::open(with_footer(offset, &u64::MAX.to_le_bytes()), None).unwrap();
        let why = segment.footer.unwrap_err().to_string();
        assert!(why.contains("more than the segment can hold"), "{why}");
    }
}

#[test]
fn the_golden_file_of_lines_stays_readable_and_says_that_it_has_them() {
    assert_is_read(GOLDEN_LINES, &LINES);
    let first = &GOLDEN_LINES[format::SEGMENT_BYTES..];
    assert_eq!(format::get_u32(first, format::batch::incompat), format::INCOMPAT_LINES, "older readers step over it");
    assert_eq!(format::get_u32(&GOLDEN[format::SEGMENT_BYTES..], format::batch::incompat), 0);
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

#[test]
fn a_flipped_bit_anywhere_in_a_golden_file_is_found() {
    for golden in [GOLDEN, GOLDEN_LINES, GOLDEN_COUNTS] {
        for at in 0..golden.len() {
            let mut bytes = golden.to_vec();
            bytes[at] ^= 1 << (at % 8);
            assert_ne!(verify_bytes(Arc::new(bytes)), [], "a flipped bit at {at} is not found");
        }
    }
}

#[test]
fn a_batch_needs_a_feature_for_what_the_first_version_does_not_know() {
    let mut run = Vec::new();
    encode_source(&mut run, 0, 1, &Source::default());
    Event { payload: b"event", ..Event::default() }.encode(&mut run);
    encode_lines(&mut run, 0, 1, 6, b"a\nb\n");
    for cause in Cause::ALL {
        encode_loss(&mut run, 0, 1, &Loss { cause, events: 1, bytes: 1, first_ns: 1, last_ns: 1 });
    }
    let mut features = Vec::new();
    let mut rest = &run[..];
    while !rest.is_empty() {
        let (record, bytes) = Record::decode(rest).unwrap();
        features.push(format::features_of(&record));
        rest = &rest[bytes..];
    }
    let [lines, limited] = [format::INCOMPAT_LINES, format::INCOMPAT_LIMITED];
    assert_eq!(features, [0, 0, lines, 0, 0, 0, 0, 0, limited]);
    assert_eq!(format::BATCH_INCOMPAT_KNOWN, lines | limited);
}
