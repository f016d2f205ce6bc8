use std::time::Instant;

use dbuf_wire::frames::{Event, put_field};
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{Bell, RingProducer};
use proptest::prelude::*;

use crate::pipeline::accept::ring::table::RingTable;
use crate::pipeline::accept::tests::manager::Manager;
use crate::pipeline::harness::{CAPACITY, RingHarness};
use crate::pipeline::record::Cause;
use crate::sync::atomic::Ordering::Relaxed;

fn event(payload: &[u8]) -> Event<'_> {
    Event { pri: 6, payload, ..Event::default() }
}

fn push(producer: &mut RingProducer, event: &Event<'_>) {
    assert_eq!(producer.push(event, Stamp::None), Ok(Bell::Silent));
}

fn texts(harness: &mut RingHarness) -> Vec<String> {
    let events = harness.take().unwrap();
    events.iter().map(|event| String::from_utf8_lossy(&event.payload).into_owned()).collect()
}

#[test]
fn an_event_of_a_ring_has_its_tag_priority_time_and_payload() {
    let mut harness = RingHarness::new(4096);
    let mut producer = harness.producer();
    push(&mut producer, &event(b"plain"));
    let mut fields = Vec::new();
    assert!(put_field(&mut fields, b"ORDER", b"17"));
    let full = Event { pri: 3, tag: b"billing", fields: &fields, payload: b"card refused", ..Event::default() };
    assert_eq!(producer.push(&full, Stamp::Nanoseconds(42)), Ok(Bell::Silent));
    let events = harness.take().unwrap();
    assert_eq!((&events[0].tag[..], events[0].pri, events[0].source_time_ns), (&b"app"[..], 6, None));
    assert_eq!((&events[1].tag[..], events[1].pri, events[1].source_time_ns), (&b"billing"[..], 3, Some(42)));
    assert_eq!(events[1].payload, b"card refused");
    assert_eq!(producer.memory().words().taken.load(Relaxed), 2);
    assert_eq!(producer.positions(), (32 + 64, 96), "its room is given back");
}

#[test]
fn an_event_with_fields_may_be_larger_than_the_receive_buffer() {
    let mut harness = RingHarness::new(30_000);
    let mut producer = harness.producer();
    let mut fields = Vec::new();
    assert!(put_field(&mut fields, b"ORDER", b"17"));
    for size in [1, 8_000, 20_000] {
        let payload = vec![b'x'; size];
        push(&mut producer, &Event { fields: &fields, ..event(&payload) });
        let events = harness.take().unwrap();
        assert_eq!((events.len(), &events[0].payload), (1, &payload));
    }
}

#[test]
fn each_of_many_tags_is_its_own_events_alone() {
    let mut harness = RingHarness::new(4096);
    let mut producer = harness.producer();
    push(&mut producer, &event(b"of the ring itself"));
    for number in 0..1300 {
        let (tag, text) = (format!("t{number}"), format!("event {number}"));
        push(&mut producer, &Event { tag: tag.as_bytes(), ..event(text.as_bytes()) });
    }
    push(&mut producer, &event(b"of the ring itself"));
    let mut number = 0;
    while number < 1302 {
        for event in harness.take().unwrap() {
            let of_ring = number == 0 || number == 1301;
            let (tag, text) = (format!("t{}", number.max(1) - 1), format!("event {}", number.max(1) - 1));
            let wanted = if of_ring { ("app".into(), "of the ring itself".into()) } else { (tag, text) };
            assert_eq!((event.tag, event.payload), (wanted.0.into_bytes(), wanted.1.into_bytes()));
            number += 1;
        }
    }
    assert_eq!(number, 1302);
}

#[test]
fn an_event_is_reported_as_persisted_and_durable_when_it_is_and_not_when_it_is_taken() {
    let mut harness = RingHarness::new(4096);
    let mut producer = harness.producer();
    push(&mut producer, &event(b"one"));
    push(&mut producer, &event(b"two"));
    assert_eq!(texts(&mut harness), ["one", "two"]);
    let told = |harness: &mut RingHarness, producer: &RingProducer| {
        assert_eq!(texts(harness).len(), 0);
        let words = producer.memory().words();
        assert_eq!(words.taken.load(Relaxed), 2);
        (words.persisted.load(Relaxed), words.durable.load(Relaxed))
    };
    assert_eq!(told(&mut harness, &producer), (0, 0));
    harness.persisted_before(1 << 40);
    assert_eq!(told(&mut harness, &producer), (2, 0));
    harness.durable_before(1 << 40);
    assert_eq!(told(&mut harness, &producer), (2, 2));
}

/// Publishes one event in each of `events` generations of a stored ring. Every other event is given up, and the program
/// is told so. Returns the first generation.
fn publish_and_lose(harness: &mut RingHarness, manager: &mut Manager, events: u64) -> u64 {
    let mut producer = harness.producer();
    let generation =
        |manager: &mut Manager| RingTable::inherit(manager.copy_of("rings")).unwrap().find(0).unwrap().state.generation;
    for number in 1..=events {
        push(&mut producer, &event(b"one"));
        assert_eq!(texts(harness).len(), 1);
        let of_event = generation(manager);
        if number % 2 == 0 {
            harness.progress().note_lost(of_event);
        }
        harness.persisted_before(of_event + 1);
        assert_eq!(texts(harness).len(), 0);
    }
    generation(manager) - 2 * (events - 1)
}

#[test]
fn after_a_death_a_reported_loss_is_not_counted_again_and_what_was_in_a_file_is_not_lost() {
    for (events, was_told) in [(2, true), (2, false), (40, true), (40, false)] {
        let mut manager = Manager::new();
        let mut harness = RingHarness::stored(&manager.store());
        publish_and_lose(&mut harness, &mut manager, events);
        let memory = harness.client_memory();
        let words = memory.words();
        assert_eq!((words.persisted.load(Relaxed), words.durable.load(Relaxed)), (events, 0));
        assert_eq!(words.lost.load(Relaxed), events / 2);
        if !was_told {
            // It had noted what it was about to tell.
            words.lost.store(0, Relaxed);
            words.persisted.store(0, Relaxed);
        }
        harness.die(&manager.store(), manager.left_rings());
        assert_eq!((words.persisted.load(Relaxed), words.lost.load(Relaxed)), (events, events / 2));
        harness.persisted_before(1 << 40);
        assert_eq!(texts(&mut harness).len(), 0);
        assert_eq!((words.persisted.load(Relaxed), words.durable.load(Relaxed)), (events, 0));
        harness.durable_before(1 << 40);
        assert_eq!(texts(&mut harness).len(), 0);
        assert_eq!((words.durable.load(Relaxed), words.lost.load(Relaxed)), (events, events / 2), "{events}");
    }
}

#[test]
fn after_a_death_a_failed_sync_is_counted_for_what_was_in_the_file_alone() {
    let mut manager = Manager::new();
    let mut harness = RingHarness::stored(&manager.store());
    let first = publish_and_lose(&mut harness, &mut manager, 4);
    harness.die(&manager.store(), manager.left_rings());
    harness.progress().note_lost_in_file(&(first..=first + 9));
    harness.durable_before(1 << 40);
    assert_eq!(texts(&mut harness).len(), 0);
    let memory = harness.client_memory();
    assert_eq!((memory.words().durable.load(Relaxed), memory.words().lost.load(Relaxed)), (4, 4));
}

#[test]
fn an_event_that_breaks_a_rule_is_refused_alone_and_counted() {
    let mut harness = RingHarness::new(1000);
    let mut producer = harness.producer();
    push(&mut producer, &event(b"before"));
    push(&mut producer, &event(&[b'x'; 1001]));
    push(&mut producer, &event(b""));
    push(&mut producer, &Event { pri: 200, ..event(b"high") });
    push(&mut producer, &Event { tag: &[b't'; 65], ..event(b"long") });
    push(&mut producer, &event(&[b'x'; 30_000]));
    push(&mut producer, &event(b"after"));
    assert_eq!(texts(&mut harness), ["before", "after"]);
    assert_eq!((harness.lost(Cause::TooBig), harness.lost(Cause::Malformed)), (2, 3));
    let words = producer.memory().words();
    assert_eq!((words.taken.load(Relaxed), words.refused.load(Relaxed)), (7, 5));
}

#[test]
fn what_found_no_room_is_counted_once() {
    let mut harness = RingHarness::new(4096);
    let mut producer = harness.producer();
    producer.lose(100);
    producer.lose(7);
    push(&mut producer, &event(b"one"));
    assert_eq!(texts(&mut harness), ["one"]);
    assert_eq!((texts(&mut harness).len(), harness.lost(Cause::Full)), (0, 2));
    assert_eq!(producer.memory().words().lost_events_told.load(Relaxed), 2);
    producer.lose(1);
    let _ = harness.take();
    assert_eq!(harness.lost(Cause::Full), 3, "also where no event came with it");
}

#[test]
fn a_program_that_lost_events_for_an_hour_while_the_writer_waited_for_the_disk_is_counted_exactly() {
    let mut harness = RingHarness::new(4096);
    // 100 million a second, of 100 bytes each.
    let (events, bytes) = (3600 * 100_000_000, 3600 * 10_000_000_000);
    let words = harness.client_memory();
    let words = words.words();
    words.lost_bytes.store(bytes, Relaxed);
    words.lost_events.store(events, Relaxed);
    assert_eq!(texts(&mut harness).len(), 0);
    assert_eq!(harness.lost(Cause::Full), events);
    assert_eq!((words.lost_events_told.load(Relaxed), words.lost_bytes_told.load(Relaxed)), (events, bytes));
}

#[test]
fn a_program_that_counts_what_it_has_never_tried_to_send_adds_no_more_than_it_could_have_lost() {
    let begun = Instant::now();
    let mut harness = RingHarness::new(4096);
    let memory = harness.client_memory();
    // Each look finds 2^32 more events of 2^44 bytes.
    for look in 1..=1_u64 << 12 {
        memory.words().lost_bytes.store(look << 44, Relaxed);
        memory.words().lost_events.store(look << 32, Relaxed);
        harness.publish_pending().unwrap();
        harness.swap();
    }
    let lost = harness.lost(Cause::Full);
    let most = (1 << 40) + 4 * begun.elapsed().as_nanos() as u64;
    assert!(lost <= most, "{lost} of at most {most}");
    assert_eq!(memory.words().lost_events_told.load(Relaxed), lost, "the rest is left where it was");
}

#[test]
fn an_event_that_was_torn_is_counted() {
    let mut harness = RingHarness::new(4096);
    let mut producer = harness.producer();
    push(&mut producer, &event(b"whole"));
    producer.memory().words().writing.store(1024, Relaxed);
    assert_eq!(texts(&mut harness), ["whole"]);
    harness.end();
    assert_eq!(harness.lost(Cause::Abandoned), 1);
}

#[test]
fn what_cannot_be_true_ends_the_ring_and_what_came_before_it_is_kept() {
    let spoil = |spoil: &dyn Fn(&RingProducer)| {
        let mut harness = RingHarness::new(4096);
        let mut producer = harness.producer();
        push(&mut producer, &event(b"good"));
        push(&mut producer, &event(b"bad"));
        spoil(&producer);
        harness.take().map(|events| events.len())
    };
    let beyond = Err("a record reaches beyond the ring's end or head");
    let strange = Err("a record of an unknown type");
    assert_eq!(spoil(&|producer| producer.memory().put(32, &u32::MAX.to_le_bytes())), beyond);
    assert_eq!(spoil(&|producer| producer.memory().put(32, &32_u32.to_le_bytes())), beyond);
    assert_eq!(spoil(&|producer| producer.memory().put(36, &[9])), strange);
    assert_eq!(spoil(&|producer| producer.memory().put(36, &[3])), strange, "a pad is only at the end");
    let head = Err("the ring's head is where it cannot be");
    assert_eq!(spoil(&|producer| producer.memory().words().head.store(CAPACITY * 2, Relaxed)), head);
    let losses = Err("the ring's count of losses has decreased");
    assert_eq!(spoil(&|producer| producer.memory().words().lost_events.store(u64::MAX, Relaxed)), losses);
    assert_eq!(spoil(&|_| ()), Ok(2));
}

#[test]
fn events_go_round_the_ring_in_their_order() {
    let mut harness = RingHarness::new(4096);
    let mut producer = harness.producer();
    let mut number = 0;
    for _ in 0..200 {
        let mut sent = Vec::new();
        for size in [10, 100, 3000] {
            let text = format!("{number:0size$}");
            push(&mut producer, &event(text.as_bytes()));
            sent.push(text);
            number += 1;
        }
        assert_eq!(texts(&mut harness), sent);
    }
    assert!(producer.positions().0 > 5 * CAPACITY);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn nothing_that_a_program_writes_harms_more_than_its_ring(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        head in prop_oneof![any::<u64>(), (0_u64..40).prop_map(|n| n * 16), Just(CAPACITY)],
        lost in any::<u64>(),
    ) {
        let mut harness = RingHarness::new(500);
        let memory = harness.client_memory();
        memory.put(0, &bytes);
        memory.words().head.store(head, Relaxed);
        memory.words().lost_events.store(lost, Relaxed);
        memory.words().sync.store(lost, Relaxed);
        if let Ok(events) = harness.take() {
            prop_assert!(events.iter().all(|event| (1..=500).contains(&event.payload.len())));
        }
    }
}
