//! Holds the producer's end of a ring against `clients/golden/ring.json`, by which clients in other languages are held,
//! too. Each vector is a ring whose head and tail stand at `start`, the events that are sent then, and what the data
//! has from there on up to the new head; `..` is a byte that means nothing: behind a record's end, or in a pad.

use dbuf_wire::frames::{self as wire, Event};
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{Memory, Position, RingConsumer, RingProducer, flag};
use serde_json::Value;

fn vectors() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../clients/golden/ring.json");
    let text = std::fs::read_to_string(path).expect("clients/golden/ring.json is beside the crate");
    serde_json::from_str(&text).expect("a list")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}"))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {value}"))
}

/// None for a byte that means nothing.
fn bytes_or_none(digits: &str) -> Vec<Option<u8>> {
    let pairs = digits.as_bytes().chunks(2).map(|two| str::from_utf8(two).expect("ASCII"));
    pairs.map(|two| (two != "..").then(|| u8::from_str_radix(two, 16).expect("a byte"))).collect()
}

fn bytes(value: &Value, key: &str) -> Vec<u8> {
    bytes_or_none(text(value, key)).into_iter().map(|byte| byte.expect("a byte that means something")).collect()
}

/// Brings both ends to a position, by events that are taken at once.
fn bring_to(start: u64, producer: &mut RingProducer, consumer: &mut RingConsumer) {
    let largest = producer.memory().capacity() / 2;
    while producer.positions().0 < start {
        let to_end = producer.memory().capacity() - producer.positions().0 % producer.memory().capacity();
        let record = (start - producer.positions().0).min(largest).min(to_end);
        let payload = vec![0xee; record as usize - 16];
        let _ =
            producer.push(&Event { payload: &payload, ..Event::default() }, Stamp::None).expect("the ring is empty");
        let waiting = consumer.look().expect("an honest producer");
        consumer.take(waiting, producer.events());
    }
    assert_eq!(producer.positions(), (start, start));
}

fn send(event: &Value, producer: &mut RingProducer) {
    let mut fields = Vec::new();
    for field in event["fields"].as_array().expect("a list") {
        assert!(wire::put_field(&mut fields, &bytes(field, "name"), &bytes(field, "value")), "{field}");
    }
    let stamp = match (text(event, "clock"), number(event, "time")) {
        ("none", 0) => Stamp::None,
        ("nanoseconds", time) => Stamp::Nanoseconds(time),
        ("ticks", time) => Stamp::Ticks(time),
        other => panic!("no time {other:?}"),
    };
    let (tag, payload) = (bytes(event, "tag"), bytes(event, "payload"));
    let pri = u8::try_from(number(event, "pri")).expect("a byte");
    let event = Event { pri, tag: &tag, fields: &fields, payload: &payload, ..Event::default() };
    let _ = producer.push(&event, stamp).expect("there is room");
}

#[test]
fn every_golden_ring_is_written_byte_by_byte() {
    let vectors = vectors();
    assert!(vectors.len() > 10, "the golden rings were not found");
    for vector in &vectors {
        let name = text(vector, "name");
        let (memory, file) = Memory::create(number(vector, "capacity"), flag::TICKS).expect("memory");
        let mut consumer = RingConsumer::new(Memory::of_file(&file).expect("the same"), &Position::default());
        let mut producer = RingProducer::new(memory, true);
        let start = number(vector, "start");
        bring_to(start, &mut producer, &mut consumer);
        for event in vector["events"].as_array().expect("a list") {
            send(event, &mut producer);
        }
        assert_eq!(producer.positions(), (number(vector, "head"), start), "{name}");
        let golden = bytes_or_none(text(vector, "hex"));
        assert_eq!(consumer.look(), Ok(golden.len() as u64), "{name}");
        let mut written = vec![0; golden.len()];
        consumer.copy(0, &mut written);
        for (at, (written, golden)) in written.iter().zip(golden).enumerate() {
            assert!(golden.is_none_or(|golden| golden == *written), "{name}: byte {at} is {written:02x}");
        }
    }
}
