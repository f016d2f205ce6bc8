//! Holds `docs/PROTOCOL.md` against the code: its worked example and its tables of numbers.

use dbuf_wire::frames::{self as wire, Code, Event, Fault, Frame, Hello, Level, Welcome, kind};

const SESSION: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/PROTOCOL.md");
    std::fs::read_to_string(path).expect("docs/PROTOCOL.md is beside the crate")
}

/// The bytes of the hex dump in the fenced block that is marked `name`: what stands before `#` on each line.
fn dump(document: &str, name: &str) -> Vec<u8> {
    let fence = format!("```{name}\n");
    let (_, rest) = document.split_once(&fence).unwrap_or_else(|| panic!("no block {name}"));
    let (block, _) = rest.split_once("```").expect("the block ends");
    block
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or("").split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("{byte} is no byte")))
        .collect()
}

fn from_client() -> [Frame<'static>; 5] {
    [
        Frame::Hello(Hello { session: SESSION, ack: Level::Durable, ..Hello::new(b"shop") }),
        Frame::Event(Event { pri: 6, sequence: 1, payload: b"order 17 accepted", ..Event::default() }),
        Frame::Event(Event {
            pri: 3,
            tag: b"billing",
            time_ns: 1_700_000_000_000_000_000,
            sequence: 2,
            fields: b"",
            payload: b"card refused",
        }),
        Frame::Sync,
        Frame::Bye,
    ]
}

fn from_daemon() -> [Frame<'static>; 3] {
    [
        Frame::Welcome(Welcome { version: 1, max_event: 65536, compatible: 0, incompatible: 0, last: 0 }),
        Frame::Ack { level: Level::Durable, sequence: 2 },
        Frame::Error(Fault { code: Code::Lost as u8, first: 3, last: 9, text: b"disk full" }),
    ]
}

fn encoded(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    bytes
}

fn decoded(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Some((frame, consumed)) = Frame::decode(bytes).expect("the example is right") {
        frames.push(frame);
        bytes = &bytes[consumed..];
    }
    assert!(bytes.is_empty(), "the example ends with a whole frame");
    frames
}

#[test]
fn the_worked_example_is_what_the_code_writes_and_reads() {
    let document = document();
    let client = dump(&document, "client-bytes");
    let frames = client.strip_prefix(&wire::MAGIC).expect("the example opens with the magic");
    assert_eq!(decoded(frames), from_client());
    assert_eq!(frames, encoded(&from_client()));
    let daemon = dump(&document, "daemon-bytes");
    assert_eq!(decoded(&daemon), from_daemon());
    assert_eq!(daemon, encoded(&from_daemon()));
}

#[test]
fn the_tables_have_every_number_under_its_name() {
    let document = document();
    let has = |row: String| assert!(document.contains(&row), "docs/PROTOCOL.md has no row {row}");
    for (number, name) in [
        (kind::HELLO, "HELLO"),
        (kind::EVENT, "EVENT"),
        (kind::SYNC, "SYNC"),
        (kind::BYE, "BYE"),
        (kind::EVENT_WITH_FIELDS, "EVENT_WITH_FIELDS"),
        (kind::WELCOME, "WELCOME"),
        (kind::ACK, "ACK"),
        (kind::ERROR, "ERROR"),
        (kind::RING, "RING"),
        (kind::GRANT, "GRANT"),
    ] {
        has(format!("| `0x{number:02X}` | {name} |"));
    }
    let mut codes = 0;
    for code in (0..=u8::MAX).filter_map(Code::from_number) {
        has(format!("| `0x{:02X}` | {} | {} |", code as u8, code.name(), if code.is_final() { "yes" } else { "no" }));
        codes += 1;
    }
    assert_eq!(codes, 7);
    for level in [Level::None, Level::Persisted, Level::Durable] {
        has(format!("| {} | {} |", level as u8, format!("{level:?}").to_lowercase()));
    }
    has(format!("| FIELDS | {} |", wire::feature::FIELDS.trailing_zeros()));
    has(format!("| RING | {} |", wire::feature::RING.trailing_zeros()));
    let (tag, fields) = (wire::TAG_BYTES_MAX as u32, wire::FIELDS_BYTES_MAX as u32);
    for bound in [wire::LENGTH_MAX, wire::CONTROL_BYTES_MAX, u32::from(wire::PRI_MAX), tag, fields] {
        assert!(document.contains(&format!("**{bound}**")), "docs/PROTOCOL.md does not state the bound {bound}");
    }
}
