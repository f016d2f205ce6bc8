use super::*;
use crate::pipeline::record::{Cause, Event, Loss, Record, Source, Transport, USER_UNKNOWN, put_field};
use serde_json::{Value, json};

const TIME_NS: u64 = 1_795_410_796_123_456_789;
const CURSOR: Cursor = Cursor { stream: 0xabc, sequence: 42 };

fn source() -> Source<'static> {
    Source {
        pid: 7,
        uid: 1000,
        gid: 100,
        claimed_pid: 8,
        session: 0,
        transport: Transport::Syslog,
        tag: b"app",
        comm: b"cat",
        unit: b"app.service",
    }
}

struct Shape {
    format: Format,
    terminal: bool,
    color: bool,
}

impl From<Format> for Shape {
    fn from(format: Format) -> Self {
        Self { format, terminal: false, color: false }
    }
}

fn printed_with(shape: impl Into<Shape>, event: &Event<'_>, source: Source<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    event.encode(&mut bytes);
    let (record, _) = Record::decode(&bytes).unwrap();
    let view = EventView { cursor: CURSOR, boot: 0xb007, record, payload: record.payload(), source };
    let shape = shape.into();
    let mut out = Vec::new();
    Printer::new(shape.format, shape.terminal, shape.color, TimeZone::UTC).event(&mut out, &view);
    out
}

fn printed(shape: impl Into<Shape>, payload: &[u8]) -> String {
    let event = Event { time_ns: TIME_NS, pri: 3 << 3 | 4, payload, ..Event::default() };
    String::from_utf8(printed_with(shape, &event, source())).unwrap()
}

fn loss(format: Format) -> String {
    let loss = Loss { cause: Cause::TooBig, events: 3, bytes: 300, first_ns: 1, last_ns: 2 };
    let view = LossView { time_ns: TIME_NS, loss, source: source() };
    let mut out = Vec::new();
    Printer::new(format, false, false, TimeZone::UTC).loss(&mut out, &view);
    String::from_utf8(out).unwrap()
}

#[test]
fn short_formats_differ_in_the_time_alone() {
    assert_eq!(printed(Format::Short, b"hello"), "Nov 23 05:13:16 app[7]: hello\n");
    assert_eq!(printed(Format::ShortPrecise, b"hello"), "Nov 23 05:13:16.123456 app[7]: hello\n");
    assert_eq!(printed(Format::ShortIso, b"hello"), "2026-11-23T05:13:16+00:00 app[7]: hello\n");
}

#[test]
fn who_it_was_falls_back_to_the_command_and_then_to_unknown() {
    let event = Event { time_ns: TIME_NS, payload: b"x", ..Event::default() };
    let name = |source| String::from_utf8(printed_with(Format::Short, &event, source)).unwrap();
    assert_eq!(name(Source { tag: b"", ..source() }), "Nov 23 05:13:16 cat[7]: x\n");
    assert_eq!(name(Source { pid: 0, ..source() }), "Nov 23 05:13:16 app[8]: x\n");
    assert_eq!(name(Source::default()), "Nov 23 05:13:16 unknown: x\n");
    assert_eq!(name(Source { tag: b"\x1b\n", ..source() }), "Nov 23 05:13:16 \\x1b\\x0a[7]: x\n");
}

#[test]
fn later_lines_of_a_payload_stand_under_the_first() {
    let text = printed(Format::Short, b"one\ntwo\n\x1bthree\r\n");
    let indent = " ".repeat("Nov 23 05:13:16 app[7]: ".len());
    assert_eq!(text, format!("Nov 23 05:13:16 app[7]: one\n{indent}two\n{indent}\\x1bthree\n"));
}

#[test]
fn cat_and_raw_give_the_bytes_to_a_pipe_and_nothing_to_obey_to_a_terminal() {
    assert_eq!(printed(Format::Cat, b"\x1b[2Ja"), "\x1b[2Ja\n");
    assert_eq!(printed(Format::Raw, b"\x1b[2Ja"), "\x1b[2Ja");
    let terminal = |format| Shape { format, terminal: true, color: false };
    assert_eq!(printed(terminal(Format::Cat), b"\x1b[2Ja\nb"), "\\x1b[2Ja\nb\n");
    assert_eq!(printed(terminal(Format::Raw), b"\x1b[2Ja"), "\\x1b[2Ja");
    for format in [Format::Short, Format::Json, Format::Verbose, Format::Export] {
        let event = Event { payload: b"\x1b\x9b\x07\x7f", ..Event::default() };
        let shown = String::from_utf8(printed_with(terminal(format), &event, source())).unwrap();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{format:?} {shown:?}");
    }
}

#[test]
fn colors_are_those_of_the_priority() {
    let colored = |pri| {
        let event = Event { time_ns: TIME_NS, pri, payload: b"x", ..Event::default() };
        let shape = Shape { format: Format::Short, terminal: true, color: true };
        String::from_utf8(printed_with(shape, &event, source())).unwrap()
    };
    assert!(colored(3).ends_with(": \x1b[0;1;31mx\x1b[0m\n"));
    assert!(colored(6).ends_with(": x\n"));
}

#[test]
fn json_has_journalctls_names_and_only_strings() {
    let mut fields = Vec::new();
    for (name, value) in [
        ("CODE_LINE", "7"),
        ("B", "2"),
        ("B", "1"),
        ("_PID", "1"),
        ("odd-name", "x"),
        ("MESSAGE", "no"),
        ("SOURCE_REALTIME_TIMESTAMP", "1"),
    ] {
        assert!(put_field(&mut fields, name.as_bytes(), value.as_bytes()));
    }
    let event = Event {
        time_ns: TIME_NS,
        pri: 3 << 3 | 4,
        source_time_ns: Some(5_000),
        producer_sequence: Some(9),
        fields: &fields,
        payload: b"a \"quoted\" line\nand more",
        ..Event::default()
    };
    let line = printed_with(Format::Json, &event, source());
    assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
    assert_eq!(
        serde_json::from_slice::<Value>(&line).unwrap(),
        json!({
            "__CURSOR": "s=00000000000000000000000000000abc;n=2a",
            "__SEQNUM": "42",
            "__REALTIME_TIMESTAMP": "1795410796123456",
            "__TIME_NS": "1795410796123456789",
            "_BOOT_ID": "0000000000000000000000000000b007",
            "PRIORITY": "4",
            "SYSLOG_FACILITY": "3",
            "SYSLOG_IDENTIFIER": "app",
            "SYSLOG_PID": "8",
            "_PID": "7",
            "_UID": "1000",
            "_GID": "100",
            "_COMM": "cat",
            "_SYSTEMD_UNIT": "app.service",
            "_TRANSPORT": "syslog",
            "SOURCE_REALTIME_TIMESTAMP": "5",
            "DBUF_PRODUCER_SEQUENCE": "9",
            "B": ["2", "1"],
            "CODE_LINE": "7",
            "FIELD_MESSAGE": "no",
            "FIELD_ODD_NAME": "x",
            "FIELD_SOURCE_REALTIME_TIMESTAMP": "1",
            "FIELD__PID": "1",
            "MESSAGE": "a \"quoted\" line\nand more",
        })
    );
}

#[test]
fn json_of_an_unknown_sender_claims_nothing() {
    let event = Event { payload: b"\xff", ..Event::default() };
    let line = printed_with(Format::Json, &event, Source { uid: USER_UNKNOWN, ..Source::default() });
    let object: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(object["MESSAGE"], json!([255]));
    for absent in ["_PID", "_UID", "_GID", "_COMM", "_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER", "SYSLOG_FACILITY"] {
        assert!(object.get(absent).is_none(), "{absent}");
    }
}

#[test]
fn no_event_claims_the_kernels_facility() {
    let shown = |pri, value: &str, source| {
        let mut fields = Vec::new();
        assert!(put_field(&mut fields, b"SYSLOG_FACILITY", value.as_bytes()));
        let line =
            printed_with(Format::Json, &Event { pri, fields: &fields, payload: b"x", ..Event::default() }, source);
        let object: Value = serde_json::from_slice(&line).unwrap();
        (object.get("SYSLOG_FACILITY").cloned(), object.get("FIELD_SYSLOG_FACILITY").is_some())
    };
    let frames = || Source { transport: Transport::Frames, ..source() };
    assert_eq!(shown(7, "3", source()), (None, true), "of syslog in files of older versions");
    assert_eq!(shown(3 << 3, "0", source()), (Some(json!("3")), true));
    for (value, is_shown) in
        [("1", true), ("23", true), ("0", false), ("00", false), ("+0", false), ("24", false), ("", false)]
    {
        let expected = is_shown.then(|| json!(value));
        assert_eq!(shown(6, value, frames()), (expected, !is_shown), "{value}");
    }
}

#[test]
fn json_names_the_user_of_a_process_that_has_no_number_here() {
    let line = printed_with(Format::Json, &Event { payload: b"x", ..Event::default() }, Source { pid: 0, ..source() });
    let object: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((object.get("_PID"), &object["_UID"], &object["_GID"]), (None, &json!("1000"), &json!("100")));
}

#[test]
fn export_is_text_where_it_can_be_and_counted_bytes_elsewhere() {
    let text = printed(Format::Export, b"hello");
    assert!(text.starts_with("__CURSOR=s=") && text.ends_with("\nMESSAGE=hello\n\n"), "{text}");
    let known = ["__CURSOR", "__REALTIME_TIMESTAMP"];
    let metadata = text.lines().filter(|line| line.starts_with("__"));
    assert!(metadata.map(|line| line.split('=').next().unwrap()).eq(known), "{text}");
    let event = Event { payload: b"a\nb\xff", ..Event::default() };
    let bytes = printed_with(Format::Export, &event, source());
    assert!(bytes.ends_with(b"\nMESSAGE\n\x04\0\0\0\0\0\0\0a\nb\xff\n\n"));
}

#[test]
fn verbose_names_the_cursor_and_every_field() {
    let text = printed(Format::Verbose, b"one\ntwo");
    let cursor = "[s=00000000000000000000000000000abc;n=2a]";
    assert!(text.starts_with(&format!("Mon 2026-11-23 05:13:16.123456789 UTC {cursor}\n    __CURSOR=")), "{text}");
    assert!(text.contains("\n    _PID=7\n") && text.ends_with("    MESSAGE=one\n        two\n"), "{text}");
}

#[test]
fn a_loss_is_printed_for_people_and_programs_and_never_as_an_event() {
    assert_eq!(loss(Format::Short), "-- Nov 23 05:13:16 3 events of app[7] lost (too_big) --\n");
    assert_eq!(loss(Format::Cat), "");
    assert_eq!(loss(Format::Raw), "");
    let object: Value = serde_json::from_str(&loss(Format::Json)).unwrap();
    assert_eq!((&object["DBUF_LOST"], &object["DBUF_CAUSE"]), (&json!("3"), &json!("too_big")));
    assert!(object.get("__SEQNUM").is_none() && object.get("MESSAGE").is_none());
    assert!(loss(Format::Export).contains("\nDBUF_LOST=3\n"));
}
