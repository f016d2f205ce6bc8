use super::link::Link;
use super::state::LOOK_TICKS;
use super::*;
use crate::connection::{Connection, Said};
use crate::sys;
use crate::wire::{self, Event, feature};
use dbuf_wire::ring::{Memory, Position, RingConsumer, flag};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const CAPACITY: u64 = 64 << 10;

/// A producer with a ring, the daemon's end of that, and of its connection.
fn linked() -> (Producer, RingConsumer, UnixStream) {
    linked_with(true)
}

fn linked_with(stamp: bool) -> (Producer, RingConsumer, UnixStream) {
    let path = Some("/nonexistent/stream.sock".into());
    let options = ProducerOptions { path, capacity_bytes: CAPACITY, stamp, quiet: true, ..ProducerOptions::default() };
    let mut producer = Producer::open(options).unwrap();
    let (consumer, theirs) = grant(&mut producer);
    (producer, consumer, theirs)
}

/// Gives a producer without a link a ring that it has not asked for.
fn grant(producer: &mut Producer) -> (RingConsumer, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (memory, file) = Memory::create(CAPACITY, flag::TICKS).unwrap();
    let connection = Connection::with(OwnedFd::from(ours), vec![file]);
    producer.link = Link::Framed(Box::new(frames::Framed::new(connection, Instant::now())));
    let welcome = wire::Welcome { version: 1, max_event: 9000, compatible: feature::RING, incompatible: 0, last: 0 };
    producer.take(Said::Welcome(welcome));
    producer.take(Said::Grant { capacity: CAPACITY });
    assert_eq!(producer.statistics().link, LinkKind::Ring);
    (RingConsumer::new(memory, &Position::default()), theirs)
}

/// Lets as much time pass for a producer as makes it look.
fn let_time_pass(producer: &mut Producer) {
    producer.looked_ticks = sys::ticks().wrapping_sub(LOOK_TICKS);
    producer.looked_at = producer.looked_at.checked_sub(Duration::from_secs(1)).unwrap();
}

#[test]
fn a_send_looks_now_and_then_whether_a_daemon_that_is_awake_is_still_there() {
    for stamp in [true, false] {
        let (mut producer, _consumer, theirs) = linked_with(stamp);
        drop(theirs);
        producer.send(6, b"x").unwrap();
        assert_eq!(producer.statistics().link, LinkKind::Ring, "nothing has made it look");
        if sys::HAS_TICKS {
            let_time_pass(&mut producer);
            producer.send_event(&Event { pri: 6, time_ns: 7, payload: b"x", ..Event::default() }).unwrap();
            assert_eq!((producer.statistics().link, producer.statistics().events), (LinkKind::None, 2), "{stamp}");
        }
    }
}

#[test]
fn a_daemon_that_is_silent_for_ever_is_never_given_up() {
    let (mut producer, _consumer, _theirs) = linked();
    while producer.try_send(&Event { pri: 6, payload: &[0; 1000], ..Event::default() }).is_ok() {}
    for _ in 0..100 {
        let_time_pass(&mut producer);
        assert_eq!(producer.send(6, &[0; 1000]), Err(SendError::Full));
    }
    assert_eq!((producer.statistics().link, producer.statistics().lost_full), (LinkKind::Ring, 100));
}

#[test]
fn a_memory_that_a_daemon_has_damaged_costs_what_is_in_it_and_no_more() {
    let (mut producer, _consumer, theirs) = linked();
    for _ in 0..10 {
        producer.send(6, b"x").unwrap();
    }
    producer.ring.memory().put(32 * 4, &[0xFF; 16]);
    drop(theirs);
    let_time_pass(&mut producer);
    producer.tend();
    assert_eq!(producer.link.kind(), LinkKind::None);
    // Four are seen to be there; the others count as taken, and no daemon has said that they are stored.
    assert_eq!((producer.number(), producer.book.taken, producer.book.unconfirmed), (10, 6, 6));
    producer.send(6, b"behind it").unwrap();
    let (mut consumer, _theirs) = grant(&mut producer);
    producer.send(6, b"y").unwrap();
    assert_eq!(consumer.look(), Ok(5 * 32));
    assert_eq!((producer.number(), producer.book.unconfirmed, producer.book.lost), (12, 6, 1));
}
