use super::record::{RecordHead, Stamp};
use super::*;
use crate::frames::Event;
use dbuf_sync::atomic::Ordering::Relaxed;

const CAPACITY: u64 = 64 << 10;

fn ends() -> (RingProducer, RingConsumer) {
    let (memory, file) = Memory::create(CAPACITY, flag::TICKS).unwrap();
    let consumer = RingConsumer::new(Memory::of_file(&file).unwrap(), &Position::default());
    (RingProducer::new(memory, true), consumer)
}

fn event(payload: &[u8]) -> Event<'_> {
    Event { pri: 6, payload, ..Event::default() }
}

/// Takes all that is there: the payloads.
fn take_all(consumer: &mut RingConsumer) -> Vec<Vec<u8>> {
    let waiting = consumer.look().unwrap() as usize;
    let mut bytes = vec![0; waiting];
    consumer.copy(0, &mut bytes);
    let (mut at, mut payloads) = (0, Vec::new());
    while at < waiting {
        let head = RecordHead::of_bytes(bytes[at..at + 16].try_into().unwrap());
        if head.kind != record::kind::PAD {
            let body = &bytes[at + 16..][..head.length as usize];
            payloads.push(record::event(&head, body).unwrap().payload.to_vec());
        }
        at += head.record_bytes() as usize;
    }
    assert_eq!(at, waiting);
    consumer.take(waiting as u64, payloads.len() as u64);
    payloads
}

#[test]
fn events_come_out_as_they_went_in_however_often_the_ring_goes_round() {
    let (mut producer, mut consumer) = ends();
    let mut number = 0_u64;
    for round in 0..500 {
        let mut sent = Vec::new();
        for size in [1, 7, 100, 1000, 5000, 31_000 - round] {
            let payload: Vec<u8> = (0..size as u64).map(|at| (number + at) as u8).collect();
            number += 1;
            if producer.push(&event(&payload), Stamp::None).is_ok() {
                sent.push(payload);
            }
        }
        assert!(sent.len() >= 5, "there is room for all but the largest at least");
        assert_eq!(take_all(&mut consumer), sent);
    }
    assert!(producer.positions().0 > 100 * CAPACITY);
}

#[test]
fn a_full_ring_changes_nothing_and_has_room_again_when_something_is_taken() {
    let (mut producer, mut consumer) = ends();
    let payload = [7; 1000];
    let mut sent = 0;
    while producer.push(&event(&payload), Stamp::None).is_ok() {
        sent += 1;
    }
    let before = (producer.positions(), producer.memory().words().writing.load(Relaxed));
    assert_eq!(producer.push(&event(&payload), Stamp::None), Err(NoRoom));
    assert_eq!((producer.positions(), producer.memory().words().writing.load(Relaxed)), before);
    assert_eq!(take_all(&mut consumer).len(), sent);
    assert!(producer.has_room(1000) && producer.push(&event(&payload), Stamp::None).is_ok());
    assert!(!consumer.is_torn() || consumer.look().is_ok());
}

#[test]
fn two_of_the_largest_events_fit_however_they_lie() {
    let (mut producer, mut consumer) = ends();
    let largest = vec![1; producer.event_bytes_max()];
    for shift in 0..300 {
        let _ = producer.push(&event(&vec![2; 1 + shift * 16]), Stamp::None).unwrap();
        take_all(&mut consumer);
        let _ = producer.push(&event(&largest), Stamp::None).unwrap();
        assert_eq!(take_all(&mut consumer).len(), 1);
    }
    assert_eq!(producer.push(&event(&vec![1; largest.len() + 1]), Stamp::None), Err(NoRoom));
}

#[test]
fn the_bell_is_rung_once_for_each_time_that_the_daemon_falls_asleep() {
    let (mut producer, mut consumer) = ends();
    let push = |producer: &mut RingProducer| producer.push(&event(b"x"), Stamp::None).unwrap();
    assert_eq!(push(&mut producer), Bell::Silent, "it is awake");
    consumer.set_state(state::ASLEEP);
    assert_eq!((push(&mut producer), push(&mut producer)), (Bell::Ring, Bell::Silent));
    // It wakes, takes all and sleeps again, and the producer has noticed nothing of it.
    consumer.set_state(state::AWAKE);
    consumer.set_state(state::ASLEEP);
    assert_eq!((push(&mut producer), push(&mut producer)), (Bell::Ring, Bell::Silent));
}

#[test]
fn a_daemon_that_dozes_is_woken_when_the_ring_is_half_full() {
    let (mut producer, mut consumer) = ends();
    consumer.set_state(state::DOZING);
    let mut rings = Vec::new();
    while producer.positions().0 < CAPACITY {
        if producer.push(&event(&[0; 1008]), Stamp::None).unwrap() == Bell::Ring {
            rings.push(producer.positions().0);
        }
    }
    assert_eq!(rings, [CAPACITY / 2 + 1024]);
}

#[test]
fn a_head_that_cannot_be_true_is_broken() {
    for head in [8, CAPACITY + 16, u64::MAX - 15, 1 << 63] {
        let (producer, mut consumer) = ends();
        producer.memory().words().head.store(head, Relaxed);
        assert_eq!(consumer.look(), Err(Broken("the ring's head is where it cannot be")), "{head}");
    }
    let (mut producer, mut consumer) = ends();
    let _ = producer.push(&event(&[0; 100]), Stamp::None).unwrap();
    consumer.look().unwrap();
    producer.memory().words().head.store(16, Relaxed);
    assert!(consumer.look().is_err(), "it never goes back");
}

#[test]
fn losses_are_taken_once_and_cannot_go_back() {
    let (mut producer, mut consumer) = ends();
    producer.lose(100);
    producer.lose(50);
    assert_eq!(consumer.losses(), Ok((2, 150)));
    assert_eq!(consumer.losses(), Ok((2, 150)), "not taken yet");
    consumer.take_losses((2, 150));
    assert_eq!(consumer.losses(), Ok((0, 0)));
    producer.lose(1);
    assert_eq!(consumer.losses(), Ok((1, 1)));
    producer.memory().words().lost_events.store(0, Relaxed);
    assert!(consumer.losses().is_err());
}

#[test]
fn a_producer_that_died_within_an_event_has_left_a_torn_one() {
    let (mut producer, mut consumer) = ends();
    let _ = producer.push(&event(b"whole"), Stamp::None).unwrap();
    consumer.look().unwrap();
    assert!(!consumer.is_torn());
    producer.memory().words().writing.store(64, Relaxed);
    assert!(consumer.is_torn());
}

#[test]
fn memory_that_could_shrink_or_is_no_power_of_two_is_refused() {
    use std::os::fd::OwnedFd;
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    assert!(Memory::of_file(&file).is_err());
    assert!(Memory::create(100_000, 0).is_err() && Memory::private(1 << 40).is_err());
    let (memory, file) = Memory::create(CAPACITY, 0).unwrap();
    assert!(memory.is_known());
    memory.words().capacity_bytes.store(1 << 60, Relaxed);
    assert_eq!(Memory::of_file(&file).unwrap().capacity(), CAPACITY, "what the header says is for people");
    memory.words().version.store(1, Relaxed);
    assert!(!memory.is_known());
}

#[test]
fn a_claim_is_published_with_the_length_that_it_became() {
    let (mut producer, mut consumer) = ends();
    let head = |length| RecordHead { length, kind: record::kind::EVENT, pri: 6, tag_length: 0, stamp: Stamp::None };
    for round in 0..1000 {
        let place = producer.claim(5000).unwrap();
        producer.fill(&place, 0, b"ab");
        producer.fill(&place, 2, b"c");
        assert!(consumer.look().unwrap() == 0 && consumer.is_torn(), "nothing is there before it is published");
        if round % 2 == 0 {
            producer.give_back(place);
            assert!(take_all(&mut consumer).is_empty() && !consumer.is_torn());
        } else {
            let _ = producer.publish_claim(place, head(3));
            assert_eq!(take_all(&mut consumer), [b"abc"]);
            assert!(!consumer.is_torn());
        }
    }
    assert!(producer.positions().0 > 0 && producer.events() == 500);
}

#[test]
fn a_producer_without_a_daemon_reads_back_what_it_has_written_and_takes_it_itself() {
    let mut producer = RingProducer::new(Memory::private(CAPACITY).unwrap(), true);
    let (mut at, mut sent, mut body) = (0, 0_u32, Vec::new());
    let mut found_numbers = Vec::new();
    for _ in 0..50 {
        while producer.push(&event(&[&sent.to_le_bytes()[..], &[7; 3000]].concat()), Stamp::None).is_ok() {
            sent += 1;
        }
        assert_eq!(producer.events_from(at), u64::from(sent) - found_numbers.len() as u64);
        while let Some(found) = producer.find(at).unwrap() {
            producer.copy_body(&found, &mut body);
            found_numbers.push(u32::from_le_bytes(body[..4].try_into().unwrap()));
            at = found.end;
        }
        producer.take_to(at);
    }
    assert!(sent > 500 && found_numbers == (0..sent).collect::<Vec<_>>());
}

#[test]
fn what_is_no_record_is_not_read_back() {
    let (mut producer, _consumer) = ends();
    let _ = producer.push(&event(b"one"), Stamp::None).unwrap();
    let _ = producer.push(&event(b"two"), Stamp::None).unwrap();
    assert!(producer.find(8).is_err());
    producer.memory().put(32 + 4, &[9]);
    assert!(producer.find(32).is_err() && producer.events_from(0) == 1);
    producer.memory().put(32, &[0xFF, 0xFF, 0, 0, 1]);
    assert!(producer.find(32).is_err() && producer.find(0).unwrap().is_some());
}

#[test]
fn losses_that_were_not_told_are_carried_into_the_next_ring() {
    let (mut producer, mut consumer) = ends();
    producer.lose(10);
    consumer.take_losses(consumer.losses().unwrap());
    producer.lose(20);
    producer.lose(30);
    let (mut next, next_consumer) = ends();
    next.carry_losses(producer.losses_untold());
    assert_eq!(next_consumer.losses(), Ok((2, 50)));
}
