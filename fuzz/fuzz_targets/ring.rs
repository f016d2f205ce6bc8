//! A program's end of a ring: whatever it writes there, and whenever, costs it its ring at most. The input is a list of
//! deeds: honest events, words and bytes of any value at any place, and looks of the daemon between them.
#![no_main]

use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;

use dbuf_wire::frames::Event;
use dbuf_wire::ring::RingProducer;
use dbuf_wire::ring::record::Stamp;
use dbufd::pipeline::harness::{CAPACITY, RingHarness};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const MAX_EVENT: usize = 2000;

#[derive(Arbitrary, Debug)]
enum Deed {
    /// An honest event; its length is taken of this.
    Event { length: u16, pri: u8, tag: u8, ticks: Option<u64> },
    /// Bytes at a place.
    Put { at: u16, bytes: Vec<u8> },
    /// The head of a record at a place.
    Head { at: u16, length: u32, kind: u8, pri: u8, tag: u8, clock: u8 },
    /// The head of the ring, as far from where it is.
    Move { by: i32 },
    /// A word.
    Word { which: u8, value: u64 },
    /// The daemon looks.
    Look,
}

fn put(producer: &RingProducer, at: u64, bytes: &[u8]) {
    let memory = producer.memory();
    let room = (CAPACITY as usize) - memory.offset(at);
    memory.put(at, &bytes[..bytes.len().min(room)]);
}

fn word(producer: &RingProducer, which: u8, value: u64) {
    let words = producer.memory().words();
    match which % 10 {
        0 => words.head.store(value, Relaxed),
        1 => words.writing.store(value, Relaxed),
        2 => words.lost_events.store(value, Relaxed),
        3 => words.lost_bytes.store(value, Relaxed),
        4 => words.wants.store(value as u32, Relaxed),
        5 => words.sync.store(value, Relaxed),
        6 => words.tail.store(value, Relaxed),
        7 => words.state.store(value, Relaxed),
        8 => words.capacity_bytes.store(value, Relaxed),
        _ => words.taken.store(value, Relaxed),
    }
}

thread_local! {
    // Its halves are made once: to touch their memory takes longer than all else.
    static HARNESS: RefCell<RingHarness> = RefCell::new(RingHarness::new(MAX_EVENT));
}

fuzz_target!(|deeds: Vec<Deed>| HARNESS.with_borrow_mut(|harness| run(harness, deeds)));

fn run(harness: &mut RingHarness, deeds: Vec<Deed>) {
    harness.renew();
    let mut producer = harness.producer();
    for deed in deeds {
        match deed {
            Deed::Event { length, pri, tag, ticks } => {
                let payload = vec![b'x'; usize::from(length % 3000)];
                let tag = vec![b't'; usize::from(tag % 80)];
                let event = Event { pri, tag: &tag, payload: &payload, ..Event::default() };
                let _ = producer.push(&event, ticks.map_or(Stamp::None, Stamp::Ticks));
            }
            Deed::Put { at, bytes } => put(&producer, u64::from(at), &bytes),
            Deed::Head { at, length, kind, pri, tag, clock } => {
                let mut head = length.to_le_bytes().to_vec();
                head.extend_from_slice(&[kind, pri, tag, clock]);
                put(&producer, u64::from(at) & !15, &head);
            }
            Deed::Move { by } => {
                let head = producer.memory().words().head.load(Relaxed);
                word(&producer, 0, head.wrapping_add_signed(i64::from(by)));
            }
            Deed::Word { which, value } => word(&producer, which, value),
            Deed::Look => {
                let Ok(events) = harness.take() else { return };
                assert!(events.iter().all(|event| (1..=MAX_EVENT).contains(&event.payload.len()) && event.pri <= 191));
            }
        }
    }
    if harness.take().is_ok() {
        harness.end();
    }
}
