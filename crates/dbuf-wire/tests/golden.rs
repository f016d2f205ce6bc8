//! Holds this crate against `clients/golden/frames.json`, by which clients in other languages are held, too: the same
//! frames, byte by byte, and the same errors.

use dbuf_wire::frames::{self as wire, Event, Fault, Frame, Hello, Level, Welcome};
use serde_json::Value;

fn vectors() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../clients/golden/frames.json");
    let text = std::fs::read_to_string(path).expect("clients/golden/frames.json is beside the crate");
    serde_json::from_str(&text).expect("a list")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}"))
}

fn bytes(value: &Value, key: &str) -> Vec<u8> {
    let digits = text(value, key).as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(str::from_utf8(two).expect("ASCII"), 16).expect("a byte")).collect()
}

fn number<T: TryFrom<u64>>(value: &Value, key: &str) -> T {
    let number = value[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {value}"));
    T::try_from(number).unwrap_or_else(|_| panic!("{key} does not fit in {value}"))
}

fn level(value: &Value, key: &str) -> Level {
    match text(value, key) {
        "none" => Level::None,
        "persisted" => Level::Persisted,
        "durable" => Level::Durable,
        other => panic!("no level {other}"),
    }
}

/// The frame of these fields; `kept` holds its bytes.
fn frame<'a>(fields: &Value, kept: &'a mut [Vec<u8>; 3]) -> Frame<'a> {
    for (key, to) in [("name", 0), ("tag", 0), ("payload", 1), ("text", 1)] {
        if fields.get(key).is_some() {
            kept[to] = bytes(fields, key);
        }
    }
    for field in fields.get("fields").and_then(Value::as_array).into_iter().flatten() {
        assert!(wire::put_field(&mut kept[2], &bytes(field, "name"), &bytes(field, "value")), "{field}");
    }
    let [first, second, third] = &*kept;
    match text(fields, "kind") {
        "hello" => Frame::Hello(Hello {
            version: number(fields, "version"),
            version_min: number(fields, "version_min"),
            compatible: number(fields, "compatible"),
            incompatible: number(fields, "incompatible"),
            session: u128::from_le_bytes(bytes(fields, "session").try_into().expect("16 bytes")),
            ack: level(fields, "ack"),
            name: first,
        }),
        "event" => Frame::Event(Event {
            pri: number(fields, "pri"),
            tag: first,
            time_ns: number(fields, "time_ns"),
            sequence: number(fields, "sequence"),
            fields: third,
            payload: second,
        }),
        "sync" => Frame::Sync,
        "bye" => Frame::Bye,
        "ring" => Frame::Ring { capacity: number(fields, "capacity") },
        "grant" => Frame::Grant { capacity: number(fields, "capacity") },
        "welcome" => Frame::Welcome(Welcome {
            version: number(fields, "version"),
            max_event: number(fields, "max_event"),
            compatible: number(fields, "compatible"),
            incompatible: number(fields, "incompatible"),
            last: number(fields, "last"),
        }),
        "ack" => Frame::Ack { level: level(fields, "level"), sequence: number(fields, "sequence") },
        "error" => Frame::Error(Fault {
            code: number(fields, "code"),
            first: number(fields, "first"),
            last: number(fields, "last"),
            text: second,
        }),
        "ignored" => Frame::Ignored { kind: number(fields, "number") },
        other => panic!("no kind {other}"),
    }
}

#[test]
fn every_golden_frame_is_read_and_written_byte_by_byte() {
    let mut seen = 0;
    for vector in vectors().iter().filter(|vector| vector.get("error").is_none()) {
        let name = text(vector, "name");
        let golden = bytes(vector, "hex");
        let mut kept = [Vec::new(), Vec::new(), Vec::new()];
        let frame = frame(&vector["frame"], &mut kept);
        let only = vector.get("only").and_then(Value::as_str);
        if only != Some("encode") {
            assert_eq!(Frame::decode(&golden), Ok(Some((frame, golden.len()))), "{name}");
            for cut in 0..golden.len() {
                assert_eq!(Frame::decode(&golden[..cut]), Ok(None), "{name}, cut at {cut}");
            }
        }
        if only != Some("decode") {
            let mut written = Vec::new();
            frame.encode(&mut written);
            assert_eq!(written, golden, "{name}");
        }
        seen += 1;
    }
    assert!(seen > 20, "the golden frames were not found");
}

#[test]
fn what_is_no_frame_is_refused_for_the_reason_that_is_given() {
    let mut seen = 0;
    for vector in vectors().iter().filter(|vector| vector.get("error").is_some()) {
        let error = Frame::decode(&bytes(vector, "hex")).expect_err(text(vector, "name"));
        assert_eq!(error.to_string(), text(vector, "error"), "{}", text(vector, "name"));
        seen += 1;
    }
    assert!(seen > 8, "the golden errors were not found");
}
