//! Tests a producer against a daemon that does what each test says: what arrives, what is kept, what is counted.

mod daemon;

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use daemon::{BOTH, CAPACITY, Daemon, TIMEOUT, Talk, numbers, send_numbers, texts, until};
use dbuf_client::wire::{Code, Event, Level, feature, kind, put_field};
use dbuf_client::{LinkKind, OpenError, Producer, ProducerOptions, SendError, SyncError, WhenFull, WithoutDaemon};
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{Memory, flag, state, want};

fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Fills the memory to the brim; how many events that took.
fn fill(producer: &mut Producer) -> usize {
    let mut sent = 0;
    while producer.try_send(&Event { pri: 6, payload: &[b'x'; 1000], ..Event::default() }).is_ok() {
        sent += 1;
    }
    sent
}

// The ring.

#[test]
fn what_is_sent_lies_in_the_ring_whole_and_in_order() {
    let daemon = Daemon::new();
    let (mut producer, talk, mut ring) = daemon.ring(daemon.options());
    assert_eq!((talk.name.as_slice(), talk.ack, talk.compatible), (&b"tests"[..], Level::Persisted, BOTH));
    assert!(talk.session != 0);
    let mut fields = Vec::new();
    assert!(put_field(&mut fields, b"ORDER", b"17"));
    for round in 0..200 {
        let payload = vec![round as u8; 1 + round * 37];
        producer.send(3, &payload).unwrap();
        let whole = Event { pri: 4, tag: b"billing", time_ns: 1234, fields: &fields, payload: &payload, sequence: 0 };
        producer.send_event(&whole).unwrap();
        let came = ring.take_all();
        assert_eq!(came.len(), 2);
        assert_eq!((came[0].pri, came[0].tag.len(), &came[0].payload), (3, 0, &payload));
        assert_eq!((came[1].pri, &came[1].tag[..], &came[1].payload), (4, &b"billing"[..], &payload));
        assert_eq!((came[1].field("ORDER"), came[1].stamp), (Some("17"), Stamp::Nanoseconds(1234)));
    }
    let told = producer.statistics();
    assert_eq!((told.events, told.link, told.links, told.waiting_bytes), (400, LinkKind::Ring, 1, 0));
    assert_eq!(told.bytes, 2 * (0..200).map(|round| 1 + round * 37).sum::<u64>());
}

#[test]
fn events_that_come_while_the_daemon_sleeps_and_wakes_are_each_taken_once() {
    const EVENTS: usize = 20_000;
    let daemon = Daemon::new();
    let options = ProducerOptions { when_full: WhenFull::Wait(TIMEOUT), ..daemon.options() };
    let (mut producer, _talk, mut ring) = daemon.ring(options);
    let taker = std::thread::spawn(move || {
        let mut came = Vec::new();
        while came.len() < EVENTS {
            ring.consumer.set_state(state::ASLEEP);
            dbuf_wire::ring::RingConsumer::after_barrier();
            // This daemon has no membarrier(2) to order a producer's steps with, so it does not trust its last look.
            if ring.consumer.look() == Ok(0) {
                let bell = [rustix::event::PollFd::new(&ring.connection, rustix::event::PollFlags::IN)];
                let soon = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                let _ = rustix::event::poll(&mut bell.clone(), Some(&soon));
            }
            ring.consumer.set_state(state::AWAKE);
            ring.rings();
            came.extend(ring.take(200));
            if ring.consumer.wants() & want::ROOM != 0 {
                ring.consumer.wake();
            }
        }
        came
    });
    send_numbers(&mut producer, 1, EVENTS);
    let came = taker.join().unwrap();
    assert_eq!(texts(&came), numbers(1, EVENTS));
    assert_eq!(producer.statistics().lost_full, 0);
}

#[test]
fn a_sleeping_daemon_is_rung_for_once() {
    let daemon = Daemon::new();
    let (mut producer, _talk, mut ring) = daemon.ring(daemon.options());
    send_numbers(&mut producer, 1, 3);
    assert_eq!(ring.rings(), 0, "it is awake");
    ring.consumer.set_state(state::ASLEEP);
    send_numbers(&mut producer, 4, 6);
    assert_eq!((ring.rings(), producer.statistics().doorbells), (1, 1));
}

#[test]
fn events_say_when_they_happened_by_ticks_only_where_the_daemon_takes_them() {
    let daemon = Daemon::new();
    let (mut producer, _talk, mut ring) = daemon.ring_with(daemon.options(), flag::TICKS);
    producer.send(6, b"x").unwrap();
    assert!(!cfg!(target_arch = "x86_64") || matches!(ring.take_all()[0].stamp, Stamp::Ticks(_)));

    let (mut producer, _talk, mut ring) = daemon.ring_with(daemon.options(), 0);
    let before = now_ns();
    producer.send(6, b"x").unwrap();
    let Stamp::Nanoseconds(time_ns) = ring.take_all()[0].stamp else { panic!("no nanoseconds") };
    assert!(before <= time_ns && time_ns <= now_ns());

    let options = ProducerOptions { stamp: false, ..daemon.options() };
    let (mut producer, _talk, mut ring) = daemon.ring(options);
    producer.send(6, b"x").unwrap();
    producer.send_event(&Event { pri: 6, time_ns: 7, payload: b"y", ..Event::default() }).unwrap();
    let came = ring.take_all();
    assert_eq!((came[0].stamp, came[1].stamp), (Stamp::None, Stamp::Nanoseconds(7)));
}

#[test]
fn an_event_that_breaks_a_rule_is_refused_before_it_is_written() {
    let daemon = Daemon::new();
    let (mut producer, _talk, mut ring) = daemon.ring(daemon.options());
    let invalid = |result| matches!(result, Err(SendError::Invalid(_)));
    assert!(invalid(producer.send(6, b"")));
    assert!(invalid(producer.send(192, b"x")));
    assert!(invalid(producer.send_event(&Event { tag: &[b't'; 65], payload: b"x", ..Event::default() })));
    assert!(invalid(producer.send_event(&Event { fields: &[0; 16385], payload: b"x", ..Event::default() })));
    assert_eq!(producer.send(6, &[0; 20_001]), Err(SendError::TooBig { bytes: 20_001, bytes_max: 20_000 }));
    let told = producer.statistics();
    assert_eq!((told.events, told.lost_full, told.waiting_bytes), (0, 0, 0));
    producer.send(6, &[0; 20_000]).unwrap();
    ring.consumer.tell_max_event(30_000);
    producer.send(6, &[0; 30_000]).unwrap();
    assert_eq!(ring.take_all().len(), 2);
    // More than half of the ring, with its tag, although the daemon would take it.
    ring.consumer.tell_max_event(60_000);
    let half = CAPACITY as usize / 2 - 16;
    let large = Event { tag: b"t", payload: &vec![0; half], ..Event::default() };
    assert_eq!(producer.send_event(&large), Err(SendError::TooBig { bytes: half + 1, bytes_max: half }));
    producer.send(6, &vec![0; half]).unwrap();
    assert_eq!(ring.take_all().len(), 1);
}

// Full.

#[test]
fn an_event_that_finds_no_room_is_counted_and_told_to_the_daemon() {
    let daemon = Daemon::new();
    let (mut producer, _talk, mut ring) = daemon.ring(daemon.options());
    let sent = fill(&mut producer);
    assert_eq!(
        (producer.send(6, &[1; 500]), producer.send(6, &[1; 700])),
        (Err(SendError::Full), Err(SendError::Full))
    );
    let told = producer.statistics();
    assert_eq!((told.events, told.lost_full, told.lost_full_bytes, told.waits), (sent as u64, 2, 1200, 0));
    assert_eq!(ring.consumer.losses(), Ok((2, 1200)));
    assert_eq!(ring.take_all().len(), sent);
    producer.send(6, b"there is room again").unwrap();
    assert_eq!(texts(&ring.take_all()), ["there is room again"]);
}

#[test]
fn an_event_that_is_only_tried_is_the_callers_and_not_counted() {
    let daemon = Daemon::new();
    let (mut producer, _talk, ring) = daemon.ring(daemon.options());
    fill(&mut producer);
    let event = Event { pri: 6, payload: &[0; 1000], ..Event::default() };
    assert_eq!(producer.try_send(&event), Err(SendError::Full));
    assert_eq!((producer.statistics().lost_full, ring.consumer.losses()), (0, Ok((0, 0))));
}

#[test]
fn a_wait_for_room_ends_in_time_and_never_gives_the_ring_up() {
    let daemon = Daemon::new();
    let timeout = Duration::from_millis(250);
    let options = ProducerOptions { when_full: WhenFull::Wait(timeout), ..daemon.options() };
    let (mut producer, _talk, ring) = daemon.ring(options);
    fill(&mut producer);
    let begun = Instant::now();
    assert_eq!(producer.send(6, &[0; 1000]), Err(SendError::Full));
    assert!(begun.elapsed() >= timeout);
    let begun = Instant::now();
    let event = Event { pri: 6, payload: &[0; 1000], ..Event::default() };
    assert_eq!(producer.send_with_deadline(&event, begun + Duration::from_millis(5)), Err(SendError::Full));
    assert!(begun.elapsed() >= Duration::from_millis(5));
    assert!(begun.elapsed() < timeout, "its own deadline, not that of the options");
    let told = producer.statistics();
    assert_eq!((told.link, told.links, told.lost_full, told.waits), (LinkKind::Ring, 1, 2, 2));
    assert_eq!(ring.consumer.wants(), 0, "the wish is taken back");
}

#[test]
fn a_send_that_waits_rings_the_bell_and_is_woken_by_room() {
    let daemon = Daemon::new();
    let options = ProducerOptions { when_full: WhenFull::Wait(Duration::MAX), ..daemon.options() };
    let (mut producer, _talk, mut ring) = daemon.ring(options);
    let sent = fill(&mut producer);
    let taker = std::thread::spawn(move || {
        ring.wait_for_bell();
        assert_eq!(ring.consumer.wants() & want::ROOM, want::ROOM);
        let came = ring.take_all().len();
        ring.consumer.wake();
        (came, ring)
    });
    producer.send(6, b"at last").unwrap();
    let (came, mut ring) = taker.join().unwrap();
    assert_eq!((came, texts(&ring.take_all())), (sent, vec!["at last"]));
    assert_eq!(producer.statistics().lost_full, 0);
}

// Claims.

#[test]
fn a_claim_is_an_event_once_it_is_published_and_never_if_it_is_dropped() {
    let daemon = Daemon::new();
    let (mut producer, _talk, mut ring) = daemon.ring(daemon.options());
    let mut fields = Vec::new();
    assert!(put_field(&mut fields, b"ORDER", b"17"));
    let mut claim = producer.claim(3, 20).unwrap();
    write!(claim, "card of {} refused", 17).unwrap();
    assert_eq!(claim.room(), 2);
    assert!(ring.consumer.look() == Ok(0), "not yet");
    claim.publish().unwrap();
    let mut claim = producer.claim(3, 1000).unwrap();
    claim.write_all(b"never mind").unwrap();
    drop(claim);
    assert!(ring.consumer.look().is_ok() && !ring.consumer.is_torn(), "as if it had never been");
    let whole = Event { pri: 4, tag: b"billing", time_ns: 9, fields: &fields, ..Event::default() };
    let mut claim = producer.claim_event(&whole, 10).unwrap();
    claim.write_all(b"abc").unwrap();
    claim.write_all(b"def").unwrap();
    claim.publish().unwrap();
    let came = ring.take_all();
    assert_eq!(texts(&came), ["card of 17 refused", "abcdef"]);
    assert_eq!((came[0].pri, came[1].pri, &came[1].tag[..]), (3, 4, &b"billing"[..]));
    assert_eq!((came[1].field("ORDER"), came[1].stamp), (Some("17"), Stamp::Nanoseconds(9)));
    let told = producer.statistics();
    assert_eq!((told.events, told.bytes), (2, 18 + 6));
    assert!(!ring.consumer.is_torn());
}

#[test]
fn a_claim_takes_no_more_than_was_claimed_and_nothing_is_no_event() {
    let daemon = Daemon::new();
    let (mut producer, _talk, mut ring) = daemon.ring(daemon.options());
    let mut claim = producer.claim(6, 4).unwrap();
    assert!(write!(claim, "12345").is_err());
    claim.publish().unwrap();
    assert!(matches!(producer.claim(6, 10).unwrap().publish(), Err(SendError::Invalid(_))));
    assert!(matches!(producer.claim(6, 0), Err(SendError::Invalid(_))));
    assert!(matches!(producer.claim(6, 20_001), Err(SendError::TooBig { .. })));
    assert_eq!(texts(&ring.take_all()), ["1234"]);
    fill(&mut producer);
    assert_eq!(producer.claim(6, 1000).err(), Some(SendError::Full));
    assert_eq!(producer.statistics().lost_full, 1);
}

#[test]
fn a_claim_without_a_ring_goes_by_frames() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.frames(daemon.options());
    let mut claim = producer.claim(5, 100).unwrap();
    write!(claim, "formatted").unwrap();
    claim.publish().unwrap();
    let came = talk.event();
    assert_eq!((came.text(), came.pri, came.sequence), ("formatted", 5, 1));
}

// Frames.

#[test]
fn where_a_ring_is_refused_events_go_by_frames_and_room_comes_with_acknowledgements() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.open(daemon.options(), |daemon| {
        let mut talk = daemon.accept();
        talk.welcome(0, BOTH);
        assert_eq!(talk.asks_for_ring(), CAPACITY);
        talk.fault(Code::NoRing, 0, 0, "there are enough");
        talk
    });
    let told = producer.statistics();
    assert_eq!((told.link, told.last_error.as_deref()), (LinkKind::Frames, Some("there are enough (no_ring)")));
    let mut fields = Vec::new();
    assert!(put_field(&mut fields, b"ORDER", b"17"));
    let whole = Event { pri: 4, tag: b"billing", time_ns: 9, fields: &fields, payload: b"whole", sequence: 77 };
    producer.send_event(&whole).unwrap();
    let came = talk.event();
    assert_eq!((came.pri, &came.tag[..], came.field("ORDER"), came.text()), (4, &b"billing"[..], Some("17"), "whole"));
    assert_eq!((came.sequence, came.stamp), (1, Stamp::Nanoseconds(9)), "the sequence is the producer's own");
    let before = now_ns();
    let sent = fill(&mut producer);
    assert!(sent < 64, "what is not acknowledged takes room");
    let came = talk.events(sent);
    assert!(came.iter().map(|came| came.sequence).eq(2..2 + sent as u64));
    assert!(came.iter().all(|came| matches!(came.stamp, Stamp::Nanoseconds(time_ns) if time_ns >= before)));
    talk.ack(Level::Persisted, 11);
    until(&mut producer, |producer| producer.statistics().persisted == 11);
    assert_eq!(fill(&mut producer), 10, "as many as were acknowledged, but the first is small");
    assert!(talk.events(10).iter().map(|came| came.sequence).eq(2 + sent as u64..12 + sent as u64));
    talk.ack(Level::Persisted, 11 + sent as u64);
    until(&mut producer, |producer| producer.statistics().waiting_bytes == 0);
}

#[test]
fn a_daemon_that_does_not_read_makes_no_send_wait() {
    let daemon = Daemon::new();
    let options = ProducerOptions { capacity_bytes: 1 << 20, ..daemon.options() };
    let (mut producer, mut talk) = daemon.frames(options);
    let sent = fill(&mut producer);
    assert!(sent > 900, "the memory takes them although the socket does not");
    assert_eq!(producer.send(6, &[0; 1000]), Err(SendError::Full));
    // Half frames are completed, and nothing is sent twice.
    let reader = std::thread::spawn(move || {
        let came = talk.events(sent);
        (came, talk)
    });
    until(&mut producer, |_| reader.is_finished());
    let (came, _talk) = reader.join().unwrap();
    assert!(came.iter().map(|came| came.sequence).eq(1..=sent as u64));
    assert_eq!(producer.statistics().lost_full, 1);
}

#[test]
fn a_send_that_waits_is_woken_by_an_acknowledgement() {
    let daemon = Daemon::new();
    let options = ProducerOptions { when_full: WhenFull::Wait(TIMEOUT), ..daemon.options() };
    let (mut producer, mut talk) = daemon.frames(options);
    let sent = fill(&mut producer);
    let reader = std::thread::spawn(move || {
        talk.events(sent);
        talk.ack(Level::Persisted, 5);
        let late = talk.event();
        (talk, late)
    });
    producer.send(6, &[7; 1000]).unwrap();
    let (_talk, late) = reader.join().unwrap();
    assert_eq!((late.sequence, late.payload[0]), (sent as u64 + 1, 7));
}

#[test]
fn events_that_the_daemon_names_are_counted_by_what_it_says() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.frames(daemon.options());
    send_numbers(&mut producer, 1, 10);
    talk.fault(Code::TooBig, 2, 2, "too big");
    talk.fault(Code::Malformed, 3, 3, "malformed");
    talk.fault(Code::Lost, 5, 7, "no space left on device");
    talk.ack(Level::Persisted, 10);
    until(&mut producer, |producer| producer.statistics().persisted == 10);
    let told = producer.statistics();
    assert_eq!((told.refused, told.lost, told.link), (2, 3, LinkKind::Frames));
    assert_eq!(told.last_error.as_deref(), Some("no space left on device (lost)"));
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_says_nothing_more() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.frames(daemon.options());
    send_numbers(&mut producer, 1, 3);
    talk.ack(Level::Persisted, 1000);
    until(&mut producer, |producer| producer.statistics().waiting_bytes == 0);
    assert_eq!(producer.statistics().persisted, 3);
    send_numbers(&mut producer, 4, 5);
    assert_eq!(texts(&talk.events(5)), numbers(1, 5));
    assert!(producer.statistics().waiting_bytes > 0);
}

#[test]
fn a_daemon_without_fields_gets_the_text() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.open(daemon.options(), |daemon| {
        let mut talk = daemon.accept();
        talk.welcome(0, 0);
        talk
    });
    let mut fields = Vec::new();
    assert!(put_field(&mut fields, b"ORDER", b"17"));
    producer.send_event(&Event { pri: 6, fields: &fields, payload: b"text", ..Event::default() }).unwrap();
    let came = talk.event();
    assert_eq!((came.text(), came.fields.len()), ("text", 0));
}

#[test]
fn what_found_no_room_where_there_is_no_ring_is_reported_by_an_event_once() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.frames(daemon.options());
    let sent = fill(&mut producer);
    assert_eq!(
        (producer.send(6, &[0; 1000]), producer.send(6, &[0; 500])),
        (Err(SendError::Full), Err(SendError::Full))
    );
    assert_eq!(talk.events(sent).len(), sent);
    talk.ack(Level::Persisted, sent as u64);
    until(&mut producer, |producer| producer.statistics().events > sent as u64);
    let report = talk.event();
    assert_eq!((report.pri, report.tag.len(), report.sequence), (4, 0, sent as u64 + 1), "in the producer's own name");
    assert_eq!(report.text(), "2 events (1500 bytes) were lost before they reached dbufd");
    assert_eq!((report.field("LOST_EVENTS"), report.field("LOST_BYTES")), (Some("2"), Some("1500")));
    producer.send(6, b"next").unwrap();
    assert_eq!((talk.event().text(), producer.statistics().lost_full), ("next", 2));
}

#[test]
fn losses_without_a_daemon_are_reported_by_frames_when_one_comes() {
    let mut daemon = Daemon::absent();
    let mut producer = Producer::open(daemon.options()).unwrap();
    let sent = fill(&mut producer);
    assert_eq!(producer.send(6, &[0; 1000]), Err(SendError::Full));
    daemon.come();
    let mut talk = daemon.again(&mut producer, |daemon| {
        let mut talk = daemon.accept();
        talk.welcome(0, feature::FIELDS);
        talk
    });
    assert_eq!(talk.events(sent).len(), sent);
    talk.ack(Level::Persisted, sent as u64);
    until(&mut producer, |producer| producer.statistics().events > sent as u64);
    assert_eq!(talk.event().field("LOST_EVENTS"), Some("1"));
}

// A daemon that is not there, and one that comes again.

#[test]
fn events_are_kept_without_a_daemon_and_delivered_in_order_when_one_comes() {
    let mut daemon = Daemon::absent();
    let mut producer = Producer::open(daemon.options()).unwrap();
    let told = producer.statistics();
    assert_eq!(told.link, LinkKind::None);
    assert!(told.last_error.unwrap().starts_with("cannot connect to "));
    let before = now_ns();
    send_numbers(&mut producer, 1, 100);
    daemon.come();
    let (_talk, mut ring) = daemon.again(&mut producer, |daemon| daemon.accept().into_ring(0, flag::TICKS));
    send_numbers(&mut producer, 101, 110);
    let came = ring.take_all();
    assert_eq!(texts(&came), numbers(1, 110));
    assert!(matches!(came[0].stamp, Stamp::Nanoseconds(time_ns) if (before..=now_ns()).contains(&time_ns)));
    assert_eq!((producer.statistics().events, producer.statistics().last_error), (110, None));
}

#[test]
fn what_finds_no_room_without_a_daemon_is_counted_and_told_to_the_next() {
    let mut daemon = Daemon::absent();
    let mut producer = Producer::open(daemon.options()).unwrap();
    let sent = fill(&mut producer);
    assert_eq!(producer.send(6, &[0; 1000]), Err(SendError::Full));
    daemon.come();
    let (_talk, mut ring) = daemon.again(&mut producer, |daemon| daemon.accept().into_ring(0, 0));
    assert_eq!((ring.consumer.losses(), ring.take_all().len()), (Ok((1, 1000)), sent));
}

#[test]
fn what_a_daemon_has_not_taken_is_moved_into_the_next_ring_once() {
    let daemon = Daemon::new();
    let (mut producer, talk, mut ring) = daemon.ring(daemon.options());
    // Once around, so that what is left lies on both sides of the end.
    for _ in 0..50 {
        producer.send(6, &[0; 1000]).unwrap();
    }
    assert_eq!(ring.take_all().len(), 50);
    let before = now_ns();
    send_numbers(&mut producer, 1, 600);
    assert_eq!(texts(&ring.take(200)), numbers(1, 200));
    ring.consumer.take_losses((0, 0));
    let session = talk.session;
    drop(talk);
    let (talk, mut next) = daemon.again(&mut producer, |daemon| daemon.accept().into_ring(0, 0));
    assert_eq!(talk.session, session, "it is known again by its session");
    send_numbers(&mut producer, 601, 605);
    let came = next.take_all();
    assert_eq!(texts(&came), numbers(201, 605));
    let after = now_ns();
    for came in came {
        let Stamp::Nanoseconds(time_ns) = came.stamp else { panic!("ticks in a ring without") };
        let doubt = 1_000_000;
        assert!(before - doubt <= time_ns && time_ns <= after + doubt, "{before} {time_ns} {after}");
    }
    let told = producer.statistics();
    assert_eq!((told.events, told.links, told.unconfirmed), (655, 2, 250));
}

#[test]
fn a_daemon_that_sleeps_is_rung_for_what_is_moved_into_its_ring() {
    let mut daemon = Daemon::absent();
    let mut producer = Producer::open(daemon.options()).unwrap();
    send_numbers(&mut producer, 1, 3);
    daemon.come();
    let play = |daemon: &Daemon| daemon.accept().into_ring_in(state::ASLEEP, 0, 0);
    let (_talk, mut ring) = daemon.again(&mut producer, play);
    assert_eq!((ring.rings(), texts(&ring.take_all()).len()), (1, 3));
}

#[test]
fn losses_are_told_to_the_next_daemon_as_far_as_the_last_did_not_count_them() {
    let daemon = Daemon::new();
    let (mut producer, talk, mut ring) = daemon.ring(daemon.options());
    fill(&mut producer);
    assert!(producer.send(6, &[0; 100]).is_err());
    ring.consumer.take_losses((1, 100));
    assert!(producer.send(6, &[0; 200]).is_err() && producer.send(6, &[0; 300]).is_err());
    drop(talk);
    let (_talk, next) = daemon.again(&mut producer, |daemon| daemon.accept().into_ring(0, 0));
    assert_eq!(next.consumer.losses(), Ok((2, 500)));
    assert_eq!(producer.statistics().lost_full, 3);
}

#[test]
fn after_a_lost_connection_frames_go_on_behind_what_welcome_names() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.frames(daemon.options());
    send_numbers(&mut producer, 1, 100);
    assert_eq!(texts(&talk.events(60)), numbers(1, 60));
    talk.ack(Level::Persisted, 40);
    until(&mut producer, |producer| producer.statistics().persisted == 40);
    let session = talk.session;
    drop(talk);
    let mut talk = daemon.again(&mut producer, |daemon| {
        let mut talk = daemon.accept();
        talk.welcome(70, feature::FIELDS);
        talk
    });
    assert_eq!(talk.session, session);
    let came = talk.events(30);
    assert_eq!((texts(&came), came[0].sequence), (numbers(71, 100).iter().map(String::as_str).collect(), 71));
    talk.ack(Level::Persisted, 100);
    until(&mut producer, |producer| producer.statistics().waiting_bytes == 0);
    assert_eq!(producer.statistics().unconfirmed, 0, "this daemon knows what it was sent");
}

#[test]
fn a_daemon_that_has_forgotten_is_sent_again_what_was_not_acknowledged() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.frames(daemon.options());
    send_numbers(&mut producer, 1, 100);
    talk.ack(Level::Persisted, 40);
    until(&mut producer, |producer| producer.statistics().persisted == 40);
    drop(talk);
    let mut talk = daemon.again(&mut producer, |daemon| {
        let mut talk = daemon.accept();
        talk.welcome(0, feature::FIELDS);
        talk
    });
    assert_eq!(talk.event().sequence, 41);
    assert_eq!(producer.statistics().unconfirmed, 40);
}

#[test]
fn a_producer_goes_from_a_ring_to_frames_and_back_without_losing_or_repeating() {
    let daemon = Daemon::new();
    let (mut producer, talk, mut ring) = daemon.ring(daemon.options());
    send_numbers(&mut producer, 1, 30);
    assert_eq!(texts(&ring.take(10)), numbers(1, 10));
    drop(talk);
    let mut talk = daemon.again(&mut producer, |daemon| {
        let mut talk = daemon.accept();
        talk.welcome(0, feature::FIELDS);
        talk
    });
    let came = talk.events(20);
    assert_eq!((texts(&came), came[0].sequence), (numbers(11, 30).iter().map(String::as_str).collect(), 11));
    assert!(came.iter().all(|came| matches!(came.stamp, Stamp::Nanoseconds(_))), "ticks are no time in a frame");
    send_numbers(&mut producer, 31, 40);
    talk.ack(Level::Persisted, 15);
    until(&mut producer, |producer| producer.statistics().persisted == 15);
    drop(talk);
    // It had read 35 of them.
    let (_talk, mut ring) = daemon.again(&mut producer, |daemon| daemon.accept().into_ring(35, flag::TICKS));
    send_numbers(&mut producer, 41, 42);
    assert_eq!(texts(&ring.take_all()), numbers(36, 42));
    assert_eq!(producer.statistics().events, 42);
}

#[test]
fn what_a_daemon_says_before_it_ends_a_ring_is_kept() {
    let daemon = Daemon::new();
    let (mut producer, mut talk, _ring) = daemon.ring(daemon.options());
    talk.fault(Code::Broken, 0, 0, "the ring's head is where it cannot be");
    drop(talk);
    until(&mut producer, |producer| producer.statistics().link == LinkKind::None);
    let told = producer.statistics().last_error;
    assert_eq!(told.as_deref(), Some("the ring's head is where it cannot be (broken)"));
}

#[test]
fn a_ring_that_is_not_the_one_asked_for_is_not_used_and_events_are_kept() {
    let daemon = Daemon::new();
    let mut producer = None;
    // A memory that is larger than the frame says; and a frame that says as much.
    let wrong = |talk: &mut Talk, times: u64| {
        talk.welcome(0, BOTH);
        let capacity = talk.asks_for_ring();
        talk.grant(capacity * times, &Memory::create(2 * CAPACITY, 0).unwrap().1);
        assert!(talk.frame().is_none(), "the client ends it");
    };
    std::thread::scope(|scope| {
        let player = scope.spawn(|| {
            wrong(&mut daemon.accept(), 1);
            wrong(&mut daemon.accept(), 2);
        });
        let mut opened = Producer::open(daemon.options()).unwrap();
        until(&mut opened, |_| player.is_finished());
        player.join().unwrap();
        let why = opened.statistics().last_error.unwrap();
        assert!(why.contains("another ring than was asked for"), "{why}");
        producer = Some(opened);
    });
    let mut producer = producer.unwrap();
    send_numbers(&mut producer, 1, 5);
    let (_talk, mut ring) = daemon.again(&mut producer, |daemon| daemon.accept().into_ring(0, 0));
    assert_eq!(texts(&ring.take_all()), numbers(1, 5));
}

#[test]
fn a_daemon_that_takes_its_time_to_answer_gets_all() {
    let daemon = Daemon::new();
    // No answer comes, as while systemd starts the daemon.
    let mut producer = Producer::open(daemon.options()).unwrap();
    send_numbers(&mut producer, 1, 5);
    assert_eq!(producer.statistics().link, LinkKind::None);
    let (_talk, mut ring) = daemon.again(&mut producer, |daemon| daemon.accept().into_ring(0, 0));
    send_numbers(&mut producer, 6, 7);
    assert_eq!(texts(&ring.take_all()), numbers(1, 7));
}

#[test]
fn without_a_daemon_a_producer_that_may_not_keep_fails() {
    let mut daemon = Daemon::absent();
    let options = ProducerOptions { without_daemon: WithoutDaemon::Fail, ..daemon.options() };
    assert!(matches!(Producer::open(options.clone()), Err(OpenError::NoDaemon(_))));
    daemon.come();
    // The answer may take longer than an opening waits on a busy machine: only then it is tried again.
    let (mut producer, talk, ring) = std::thread::scope(|scope| {
        let player = scope.spawn(|| daemon.accept().into_ring(0, 0));
        let producer = Producer::open(options).unwrap();
        let (talk, ring) = player.join().unwrap();
        (producer, talk, ring)
    });
    producer.send(6, b"x").unwrap();
    daemon.go();
    drop((talk, ring));
    until(&mut producer, |producer| producer.statistics().link == LinkKind::None);
    assert_eq!(producer.send(6, b"x"), Err(SendError::NoDaemon));
    assert_eq!(producer.sync(TIMEOUT), Err(SyncError::NoDaemon));
    assert_eq!(producer.statistics().events, 1);
}

#[test]
fn a_size_that_no_ring_has_is_refused() {
    let daemon = Daemon::absent();
    for capacity_bytes in [0, 1000, 100_000, 1 << 15, 1 << 27] {
        let options = ProducerOptions { capacity_bytes, ..daemon.options() };
        assert!(matches!(Producer::open(options), Err(OpenError::Capacity(_))), "{capacity_bytes}");
    }
}

// Sync.

#[test]
fn a_sync_of_a_ring_returns_when_its_events_are_durable() {
    let daemon = Daemon::new();
    let (mut producer, _talk, mut ring) = daemon.ring(daemon.options());
    producer.sync(TIMEOUT).unwrap();
    send_numbers(&mut producer, 1, 5);
    let player = std::thread::spawn(move || {
        ring.wait_for_bell();
        assert_eq!((ring.consumer.sync_wanted(), ring.consumer.wants()), (5, want::DURABLE));
        ring.take_all();
        ring.consumer.tell(5, 3, 0, 0);
        ring.consumer.wake();
        ring.consumer.tell(5, 5, 0, 0);
        ring.consumer.wake();
        ring
    });
    producer.sync(TIMEOUT).unwrap();
    let ring = player.join().unwrap();
    let told = producer.statistics();
    assert_eq!((told.persisted, told.durable, ring.consumer.wants()), (5, 5, 0));
}

#[test]
fn a_sync_that_is_not_answered_ends_in_time_and_a_later_one_can_succeed() {
    let daemon = Daemon::new();
    let (mut producer, _talk, ring) = daemon.ring(daemon.options());
    send_numbers(&mut producer, 1, 2);
    ring.consumer.tell(2, 1, 0, 0);
    let timeout = Duration::from_millis(5);
    assert_eq!(producer.sync(timeout), Err(SyncError::Timeout(timeout)));
    ring.consumer.tell(2, 2, 0, 0);
    producer.sync(TIMEOUT).unwrap();
}

#[test]
fn a_sync_says_once_how_many_events_are_not_stored() {
    let daemon = Daemon::new();
    let (mut producer, talk, mut ring) = daemon.ring(daemon.options());
    send_numbers(&mut producer, 1, 10);
    ring.take_all();
    ring.consumer.tell(10, 10, 2, 1);
    assert_eq!(producer.sync(TIMEOUT), Err(SyncError::NotStored { lost: 3, unconfirmed: 0 }));
    assert_eq!(producer.sync(TIMEOUT), Ok(()));
    let told = producer.statistics();
    assert_eq!((told.lost, told.refused), (2, 1));
    // What this daemon takes now, it never calls durable.
    send_numbers(&mut producer, 11, 14);
    ring.take(3);
    drop(talk);
    let (_talk, mut next) = daemon.again(&mut producer, |daemon| daemon.accept().into_ring(0, 0));
    assert_eq!(texts(&next.take_all()), ["event 14"]);
    next.consumer.tell(1, 1, 0, 0);
    assert_eq!(producer.sync(TIMEOUT), Err(SyncError::NotStored { lost: 0, unconfirmed: 3 }));
    assert_eq!(producer.sync(TIMEOUT), Ok(()));
    let told = producer.statistics();
    assert_eq!((told.persisted, told.durable, told.lost, told.refused), (14, 14, 2, 1));
}

#[test]
fn a_sync_by_frames_is_asked_for_behind_the_events_and_answered() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.frames(daemon.options());
    send_numbers(&mut producer, 1, 3);
    let player = std::thread::spawn(move || {
        talk.events(3);
        assert!(talk.is_kind(kind::SYNC));
        talk.fault(Code::Lost, 2, 2, "disk");
        talk.ack(Level::Persisted, 3);
        talk.ack(Level::Durable, 3);
        talk
    });
    assert_eq!(producer.sync(TIMEOUT), Err(SyncError::NotStored { lost: 1, unconfirmed: 0 }));
    let _talk = player.join().unwrap();
    assert_eq!((producer.statistics().durable, producer.sync(TIMEOUT)), (3, Ok(())));
}

#[test]
fn a_sync_by_frames_covers_more_than_is_written_at_a_time() {
    let daemon = Daemon::new();
    let options = ProducerOptions { capacity_bytes: 1 << 20, ..daemon.options() };
    let (mut producer, mut talk) = daemon.frames(options);
    let sent = fill(&mut producer);
    assert!(sent > 500);
    let player = std::thread::spawn(move || {
        talk.events(sent);
        assert!(talk.is_kind(kind::SYNC));
        talk.ack(Level::Durable, sent as u64);
        talk
    });
    producer.sync(TIMEOUT).unwrap();
    player.join().unwrap();
}

#[test]
fn a_sync_is_answered_also_by_a_daemon_that_knows_of_nothing() {
    let daemon = Daemon::new();
    let (mut producer, mut talk) = daemon.frames(daemon.options());
    send_numbers(&mut producer, 1, 3);
    talk.ack(Level::Persisted, 3);
    until(&mut producer, |producer| producer.statistics().persisted == 3);
    drop(talk);
    let mut talk = daemon.again(&mut producer, |daemon| {
        let mut talk = daemon.accept();
        talk.welcome(0, feature::FIELDS);
        talk
    });
    let player = std::thread::spawn(move || {
        assert!(talk.is_kind(kind::SYNC));
        talk.ack(Level::Durable, 0);
        talk
    });
    // It is done, but this daemon cannot say it of those.
    assert_eq!(producer.sync(TIMEOUT), Err(SyncError::NotStored { lost: 0, unconfirmed: 3 }));
    player.join().unwrap();
    assert_eq!(producer.sync(TIMEOUT), Ok(()));
}

#[test]
fn a_sync_is_asked_for_again_on_the_next_link() {
    let daemon = Daemon::new();
    let (mut producer, talk, ring) = daemon.ring(daemon.options());
    send_numbers(&mut producer, 1, 3);
    let _talk = std::thread::scope(|scope| {
        let player = scope.spawn(|| {
            ring.wait_for_bell();
            drop(talk);
            let mut talk = daemon.accept();
            talk.welcome(0, feature::FIELDS);
            talk.events(3);
            assert!(talk.is_kind(kind::SYNC));
            talk.ack(Level::Durable, 3);
            talk
        });
        producer.sync(TIMEOUT).unwrap();
        player.join().unwrap()
    });
}

#[test]
fn a_sync_without_a_daemon_says_so_when_its_time_is_over() {
    let daemon = Daemon::absent();
    let mut producer = Producer::open(daemon.options()).unwrap();
    producer.send(6, b"x").unwrap();
    assert_eq!(producer.sync(Duration::from_millis(5)), Err(SyncError::NoDaemon));
}

// The end.

#[test]
fn a_producer_that_is_closed_writes_what_it_has_and_says_goodbye() {
    let daemon = Daemon::new();
    let options = ProducerOptions { close_wait: TIMEOUT, ..daemon.options() };
    let (mut producer, mut talk) = daemon.frames(options);
    send_numbers(&mut producer, 1, 3);
    producer.close().unwrap();
    assert_eq!(texts(&talk.events(3)), numbers(1, 3));
    assert!(talk.is_kind(kind::BYE) && talk.frame().is_none());
    assert!(!daemon.is_called(), "once");
}

#[test]
fn a_producer_that_is_closed_without_a_daemon_says_what_is_left_behind() {
    let daemon = Daemon::absent();
    let options = ProducerOptions { close_wait: TIMEOUT, ..daemon.options() };
    let mut producer = Producer::open(options).unwrap();
    send_numbers(&mut producer, 1, 3);
    let begun = Instant::now();
    assert_eq!(producer.close(), Err(3));
    assert!(begun.elapsed() < TIMEOUT, "it is not waited for");
}

#[test]
fn a_ring_outlives_its_producer() {
    let daemon = Daemon::new();
    let (mut producer, mut talk, mut ring) = daemon.ring(daemon.options());
    send_numbers(&mut producer, 1, 3);
    drop(producer);
    assert!(talk.frame().is_none(), "the end is the connection's end, and nothing else");
    assert_eq!(texts(&ring.take_all()), numbers(1, 3));
    assert!(!ring.consumer.is_torn());
}
