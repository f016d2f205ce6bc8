//! A producer of `dbuf.h` and its daemon: what is sent, kept, waited for, counted and closed.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use dbuf_wire::frames::{Code, Frame, Level, feature};
use dbuf_wire::ring::record::{HEAD_BYTES, RecordHead, Stamp};
use dbuf_wire::ring::{flag, state, want};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::Value;

use crate::harness::*;
use crate::support::{Home, TIMEOUT, wait_for};

#[test]
fn events_arrive_whole_and_in_order_through_the_ring() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    let mut next = 1;
    // With these sizes records meet the end of the data at many places.
    for round in 0..60 {
        for bytes in [10, 100, 1000 + round, 5000, 9973] {
            driver.ok(&format!("send {bytes}"));
        }
        driver.ok("send 33 100");
        let events = ring.take_all();
        assert_eq!(events.iter().map(|event| event.payload.len()).nth(4), Some(9973));
        assert_eq!(events.iter().map(Owned::number).collect::<Vec<_>>(), numbers(next..=next + 104));
        next += 105;
    }
    assert!(ring.consumer.tail() > 15 * CAPACITY && !ring.consumer.is_torn());
    assert_eq!(driver.count("events"), next - 1);
    assert_eq!((driver.count("waiting"), driver.count("lost_full"), driver.count("doorbells")), (0, 0, 0));
}

#[test]
fn an_event_has_its_tag_its_fields_and_its_time_whichever_way_it_takes() {
    let wanted = Owned {
        pri: 3,
        tag: b"billing".to_vec(),
        fields: vec![(b"ORDER".to_vec(), b"17".to_vec()), (b"NOTE".to_vec(), Vec::new())],
        payload: b"refused".to_vec(),
        time_ns: 1_700_000_000_000_000_000,
    };
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("event refused");
    assert_eq!(ring.take_all(), std::slice::from_ref(&wanted));

    let mut driver = Driver::new();
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("event refused");
    assert_eq!(line.read_event(), (1, wanted.clone()));

    // A daemon that takes no fields gets the rest.
    let mut driver = Driver::new();
    driver.tell(&fake.open(0, "-"));
    let mut line = fake.accept().welcome(0, 0);
    assert_eq!(driver.answer(), "0");
    driver.ok("until frames");
    driver.ok("event refused");
    driver.ok("send 20");
    assert_eq!(line.read_event(), (1, Owned { fields: Vec::new(), ..wanted }));
    assert_eq!(line.read_event().1.number(), 2);
}

#[test]
fn events_are_stamped_with_ticks_only_where_the_ring_allows_it_and_not_at_all_if_nobody_wants_it() {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let clock_of = |ring: &mut Ring| {
        ring.consumer.look().unwrap();
        let mut head = [0; HEAD_BYTES];
        ring.consumer.copy(0, &mut head);
        ring.take_all();
        RecordHead::of_bytes(&head).stamp
    };
    let fake = Fake::new();
    let mut driver = Driver::new();
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 9");
    assert!(matches!(clock_of(&mut ring), Stamp::Ticks(1..)));

    let mut driver = Driver::new();
    driver.tell(&fake.open(0, "-"));
    let mut ring = fake.accept().welcome(EVERYTHING, 0).grant(0);
    assert_eq!(driver.answer(), "0");
    driver.ok("until ring");
    let before = now();
    driver.ok("send 9");
    let Stamp::Nanoseconds(time) = clock_of(&mut ring) else { panic!("nanoseconds") };
    assert!(before <= time && time <= now());

    let mut driver = Driver::new();
    let mut ring = fake.with_ring(&mut driver, 0, "s");
    driver.ok("send 9 200");
    assert_eq!(clock_of(&mut ring), Stamp::None);
}

#[test]
fn events_go_by_frames_where_the_ring_is_refused() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    assert!(line.session != 0 && line.asks == EVERYTHING);
    // More than a socket holds, so that frames are cut anywhere.
    driver.tell("fill 3000");
    let sent: u64 = driver.answer().parse().expect("a number");
    assert!(sent >= 20);
    for sequence in 1..=sent {
        let (is, event) = line.read_event();
        assert_eq!((is, event.number(), event.payload.len()), (sequence, sequence, 3000));
    }
    // Nothing is acknowledged: there is no room.
    driver.expect("send 3000", FULL);
    assert_eq!(driver.count("lost_full"), 1);
    line.ack(Level::Persisted, sent - 1);
    wait_for("room", || (driver.ask("send 3000") == "0").then_some(()));
    // Before it comes the report of what was lost: by frames only the client can say it.
    let lost = driver.count("lost_full");
    let (is, event) = line.read_event();
    let text = match lost {
        1 => "dbuf: 1 event was lost here: there was no room for it".into(),
        _ => format!("dbuf: {lost} events were lost here: there was no room for them"),
    };
    assert_eq!((is, event.pri, event.payload), (sent + 1, 4, text.into_bytes()));
    assert_eq!(line.read_event().0, sent + 2);
    assert_eq!(driver.count("persisted"), sent - 1);
    line.ack(Level::Persisted, sent + 2);
    driver.ok("close");
    assert_eq!((line.read(), line.read()), (Sent::Bye, Sent::End));
}

#[test]
fn a_frame_that_the_socket_takes_in_parts_goes_on_where_it_was_cut() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    driver.tell(&format!("open {} {} 0 r", fake.path().display(), 1 << 20));
    let mut line = fake.accept().welcome(EVERYTHING, 0);
    assert_eq!(driver.answer(), "0");
    driver.ok("until frames");
    // Some 900 KB, more than a socket holds, of which nothing is read at first.
    driver.ok("send 2999 300");
    driver.tell("sync 60000");
    for sequence in 1..=300 {
        let (is, event) = line.read_event();
        assert_eq!((is, event.number(), event.payload.len()), (sequence, sequence, 2999));
    }
    assert_eq!(line.read(), Sent::Sync);
    line.ack(Level::Durable, 300);
    assert_eq!(driver.answer(), "0");
    assert_eq!(driver.count("waiting"), 0);
}

/// Bytes that the client has written and this side has not read.
fn unread(line: &Line) -> u64 {
    rustix::io::ioctl_fionread(&line.stream).expect("a socket")
}

#[test]
fn a_sync_that_finds_the_socket_full_of_events_waits_for_room_on_the_same_connection() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let open = format!("open {} {} 0 r", fake.path().display(), 1 << 20);
    let connect = |driver: &mut Driver| {
        driver.tell(&open);
        let line = fake.accept().welcome(EVERYTHING, 0);
        assert_eq!(driver.answer(), "0");
        driver.ok("until frames");
        line
    };
    // How many events fill a socket, so that the next finds no room.
    let line = connect(&mut driver);
    let mut fits = 0;
    loop {
        let before = unread(&line);
        driver.ok("send 2999");
        if unread(&line) == before {
            break;
        }
        fits += 1;
    }
    drop((line, driver));

    let mut driver = Driver::new();
    let mut line = connect(&mut driver);
    driver.ok(&format!("send 2999 {fits}"));
    let full = unread(&line);
    driver.expect("sync 20", TIMED_OUT);
    assert_eq!((unread(&line), driver.count("links")), (full, 1));
    driver.tell("sync 60000");
    for sequence in 1..=fits {
        assert_eq!(line.read_event().0, sequence);
    }
    assert_eq!(line.read(), Sent::Sync);
    line.ack(Level::Durable, fits);
    assert_eq!(driver.answer(), "0");
}

#[test]
fn who_wants_no_ring_does_not_ask_for_one() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    driver.tell(&fake.open(0, "r"));
    let mut line = fake.accept();
    assert_eq!(line.asks, feature::FIELDS);
    line = line.welcome(EVERYTHING, 0);
    assert_eq!(driver.answer(), "0");
    driver.ok("send 9");
    assert_eq!(line.read_event().0, 1);
}

#[test]
fn events_are_kept_without_a_daemon_and_delivered_when_one_comes() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    fake.stop();
    driver.ok(&fake.open(0, "-"));
    driver.ok("send 100 50");
    driver.ok("errno");
    assert_eq!((driver.count("events"), driver.count("link")), (52, 0));
    assert!(driver.ask("error").starts_with("cannot connect to "));
    // As many as fit, and the rest is counted.
    let kept: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.expect("send 1000", FULL);
    fake.listen();
    driver.tell("until ring");
    let mut ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    let events = ring.take_all();
    assert_eq!(events.len() as u64, 52 + kept);
    assert_eq!(events[50].payload, b"kept");
    assert_eq!(events[49].number(), 50);
    assert!(events.iter().all(|event| event.time_ns > 0), "they have the time at which they were sent");
    assert_eq!(ring.consumer.losses(), Ok((1, 1000)), "the daemon learns what found no room");
    driver.ok("send 9");
    assert_eq!(ring.numbers(), [51 + kept]);
}

#[test]
fn who_cannot_do_without_a_daemon_is_told_that_there_is_none() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    fake.stop();
    driver.tell(&fake.open(0, "f"));
    assert_eq!(driver.answer(), NO_DAEMON);
    fake.listen();
    let ring = fake.with_ring(&mut driver, 0, "f");
    driver.ok("send 9");
    fake.stop();
    drop(ring);
    driver.ok("until none");
    driver.expect("send 9", NO_DAEMON);
    driver.expect("sync 60000", NO_DAEMON);
    assert_eq!(driver.count("events"), 1);
}

#[test]
fn what_a_ring_still_had_moves_into_the_next_and_nothing_comes_twice() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 500 70");
    let mut all: Vec<u64> = ring.take(30).iter().map(Owned::number).collect();
    driver.expect("send 9000 4", "0");
    let full: u64 = driver.ask("fill 2000").parse().expect("a number");
    driver.expect("send 1999", FULL);
    let told = ring.consumer.losses().expect("a loss");
    ring.consumer.take_losses(told);
    driver.expect("send 2000", FULL);
    ring.line.error(Code::Broken, 0, 0, "an end with a reason");
    drop(ring);
    driver.ok("until none");
    assert_eq!(driver.ask("error"), "dbufd: an end with a reason");
    driver.ok("try 9");
    driver.tell("until ring");
    let mut ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    let events = ring.take_all();
    let age = |event: &Owned| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        now - event.time_ns
    };
    assert!(events.iter().all(|event| age(event) < TIMEOUT.as_nanos() as u64), "their ticks have become a time");
    assert!(events.windows(2).all(|two| two[0].time_ns <= two[1].time_ns));
    all.extend(events.iter().map(Owned::number));
    driver.ok("send 20");
    all.extend(ring.numbers());
    assert_eq!(all, numbers(1..=76 + full));
    assert_eq!(ring.consumer.losses(), Ok((1, 2000)));
    // No daemon confirms what the first one took.
    driver.tell("sync 60000");
    ring.wait_for_wish(want::DURABLE);
    assert_eq!(ring.consumer.sync_wanted(), ring.events);
    ring.consumer.tell(ring.events, ring.events, 0, 0);
    ring.consumer.wake();
    assert_eq!(driver.answer(), NOT_STORED);
    assert_eq!(
        driver.ask("error"),
        "30 events are unconfirmed: the daemon took them and died before it called them durable; \
         most are probably stored"
    );
    assert_eq!((driver.count("unconfirmed"), driver.count("durable"), driver.count("links")), (30, 76 + full, 2));
    driver.ok("sync 0");
}

#[test]
fn frames_that_the_daemon_has_are_not_sent_again_and_all_others_are() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("send 100 10");
    for sequence in 1..=10 {
        assert_eq!(line.read_event().0, sequence);
    }
    line.ack(Level::Persisted, 4);
    let session = line.session;
    drop(line);
    driver.ok("until none");
    driver.ok("send 100 5");
    driver.tell("until frames");
    // It has 7 and has acknowledged 4. A ring could not acknowledge the others.
    let mut line = fake.accept().welcome(EVERYTHING, 7);
    assert_eq!(line.session, session);
    assert_eq!(driver.answer(), "0");
    for sequence in 8..=15 {
        let (is, event) = line.read_event();
        assert_eq!((is, event.number()), (sequence, sequence));
    }
    line.ack(Level::Persisted, 15);
    drop(line);
    driver.ok("until none");
    driver.ok("send 100");
    // Now all but the last are acknowledged. The ring gets the last.
    driver.tell("until ring");
    let mut line = fake.accept().welcome(EVERYTHING, 15);
    line.error(Code::Lost, 3, 3, "no disk");
    line.ack(Level::Durable, 15);
    let mut ring = line.grant(flag::TICKS);
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), [16]);
    assert_eq!((driver.count("persisted"), driver.count("durable"), driver.count("lost")), (15, 15, 1));
    assert_eq!(driver.count("unconfirmed"), 0);
}

#[test]
fn what_the_daemon_refuses_or_loses_is_counted() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("send 100 10");
    line.error(Code::TooBig, 2, 2, "too big");
    line.error(Code::Lost, 4, 6, "no disk");
    line.ack(Level::Persisted, 10);
    wait_for("the answer", || (driver.ask("tend") == "0" && driver.count("persisted") == 10).then_some(()));
    assert_eq!((driver.count("refused"), driver.count("lost"), driver.count("waiting")), (1, 3, 0));
    assert_eq!(driver.ask("error"), "dbufd: no disk");

    let mut driver = Driver::new();
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 10");
    ring.take_all();
    ring.consumer.tell(10, 8, 2, 1);
    assert_eq!((driver.count("refused"), driver.count("lost")), (1, 2));
    assert_eq!((driver.count("persisted"), driver.count("durable")), (10, 8));
    ring.consumer.tell(u64::MAX, u64::MAX, 2, 1);
    assert_eq!((driver.count("persisted"), driver.count("durable")), (10, 10), "no more than was sent");
}

#[test]
fn an_event_that_finds_no_room_is_counted_unless_it_was_only_a_try() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    assert_eq!((sent, driver.count("lost_full")), (CAPACITY / 1024, 0));
    driver.expect("try 1000", FULL);
    driver.expect("send 1000", FULL);
    driver.expect("send 500", FULL);
    assert_eq!((driver.count("lost_full"), driver.count("lost_full_bytes"), driver.count("waits")), (2, 1500, 0));
    assert_eq!(ring.consumer.losses(), Ok((2, 1500)));
    assert_eq!(ring.numbers(), numbers(1..=sent));
    driver.ok("send 1000");
    assert_eq!((driver.count("events"), driver.count("high_water")), (sent + 1, CAPACITY));
}

#[test]
fn a_send_that_may_wait_gives_up_in_time() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 30, "-");
    driver.ask("fill 1000");
    for (question, at_least_ms) in [("send 1000", 30), ("within 1000 250", 250), ("within 1000 0", 0)] {
        let begin = Instant::now();
        driver.expect(question, FULL);
        assert!(begin.elapsed() >= Duration::from_millis(at_least_ms), "{question}: {:?}", begin.elapsed());
        assert!(begin.elapsed() < TIMEOUT);
    }
    assert_eq!((driver.count("lost_full"), driver.count("waits")), (3, 2));
    assert_eq!(ring.consumer.wants(), 0, "nothing is wished for any more");
    assert_eq!(ring.rings(), 2, "once for each wait");
    let full = ring.take_all().len() as u64;
    driver.ok("send 9");
    assert_eq!(ring.numbers(), [full + 1]);
}

#[test]
fn room_wakes_a_send_that_waits() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.tell("within 5000 60000");
    ring.wait_for_wish(want::ROOM);
    // Too little room wakes it, too, and it sleeps again.
    ring.take(1);
    ring.consumer.wake();
    wait_for("the bell", || (ring.rings() > 0).then_some(()));
    ring.take_all();
    ring.consumer.wake();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), [sent + 1]);
    assert_eq!(driver.count("waits"), 1);

    let mut driver = Driver::new();
    let mut line = fake.with_frames(&mut driver, 60_000);
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.tell("send 1000");
    for _ in 0..sent {
        line.read_event();
    }
    line.ack(Level::Persisted, 1);
    assert_eq!(driver.answer(), "0");
    assert_eq!(line.read_event().0, sent + 1);
}

#[test]
fn a_send_that_waits_goes_on_when_the_ring_ends_and_another_comes() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let ring = fake.with_ring(&mut driver, 0, "-");
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.tell("within 1000 60000");
    ring.wait_for_wish(want::ROOM);
    drop(ring);
    let mut ring = fake.give_ring();
    ring.wait_for_wish(want::ROOM);
    assert_eq!(ring.numbers(), numbers(1..=sent));
    ring.consumer.wake();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), [sent + 1]);
}

#[test]
fn a_ring_that_nobody_empties_is_kept_as_long_as_its_connection_is() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    for _ in 0..3 {
        driver.expect("within 1000 150", FULL);
        driver.ok("tend");
    }
    assert_eq!((driver.count("link"), driver.count("links")), (1, 1));
    assert_eq!(ring.numbers(), numbers(1..=sent));
}

#[test]
fn the_bell_is_rung_once_for_each_time_that_the_daemon_falls_asleep() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 9 10");
    assert_eq!(ring.rings(), 0, "it is awake");
    for _ in 0..2 {
        ring.consumer.set_state(state::ASLEEP);
        driver.ok("send 9 10");
        assert_eq!(ring.rings(), 1);
        ring.consumer.set_state(state::AWAKE);
    }
    ring.take_all();
    ring.consumer.set_state(state::DOZING);
    driver.ok("send 1000 32");
    assert_eq!(ring.rings(), 0, "just half full");
    driver.ok("send 1000 3");
    assert_eq!(ring.rings(), 1, "more than half full");
    assert_eq!(driver.count("doorbells"), 3);
}

#[test]
fn an_event_that_wakes_nobody_finds_the_next_daemon_at_once() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    ring.consumer.set_state(state::ASLEEP);
    drop(ring);
    // This one rings, and sees that the connection has ended.
    wait_for("the end", || (driver.ask("send 9") == "0" && driver.count("link") == 0).then_some(()));
    let sent = driver.count("events");
    driver.tell("until ring");
    ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), numbers(1..=sent));
}

#[test]
fn a_daemon_that_died_awake_is_found_out_although_the_ring_is_not_full() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let ring = fake.with_ring(&mut driver, 0, "-");
    drop(ring);
    // Its state says awake, so no doorbell rings. The sends look about once a second.
    wait_for("the end", || (driver.ask("send 1") == "0" && driver.count("link") == 0).then_some(()));
}

#[test]
fn a_forked_child_has_a_ring_of_its_own_and_does_not_disturb_its_parent() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 3");
    driver.tell("child");
    let mut of_child = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    let of_child: Vec<Vec<u8>> = of_child.take_all().into_iter().map(|event| event.payload).collect();
    assert_eq!(of_child, [b"child".to_vec()]);
    driver.ok("send 100 2");
    assert_eq!(ring.numbers(), numbers(1..=5));
    assert_eq!((driver.count("link"), driver.count("events")), (1, 5));
    driver.ok("close");
    assert_eq!(ring.line.read(), Sent::End);
}

#[test]
fn a_child_that_never_sends_does_not_keep_its_parents_connection_open() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    // The child lives until the driver is dead. It was forked with copies of all descriptors.
    assert!(driver.ask("idle").parse::<i32>().expect("a number") > 0);
    driver.ok("send 100");
    driver.ok("close");
    assert_eq!(ring.line.read(), Sent::End);
    assert_eq!(ring.numbers(), [1]);
}

#[test]
fn sync_waits_until_everything_is_durable() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("sync 0");
    driver.ok("send 100 5");
    driver.expect("sync 20", TIMED_OUT);
    driver.tell("sync 60000");
    ring.wait_for_wish(want::DURABLE);
    wait_for("the bell", || (ring.rings() > 0).then_some(()));
    assert_eq!(ring.consumer.sync_wanted(), 5);
    ring.take_all();
    ring.consumer.tell(5, 4, 0, 0);
    ring.consumer.wake();
    ring.consumer.tell(5, 5, 1, 0);
    ring.consumer.wake();
    assert_eq!(driver.answer(), NOT_STORED);
    assert_eq!(driver.ask("error"), "1 event was not stored");
    driver.ok("sync 60000");

    let mut driver = Driver::new();
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("send 100 5");
    driver.tell("sync 60000");
    for _ in 0..5 {
        line.read_event();
    }
    assert_eq!(line.read(), Sent::Sync);
    line.ack(Level::Persisted, 5);
    line.ack(Level::Durable, 3);
    line.ack(Level::Durable, 5);
    assert_eq!(driver.answer(), "0");
    assert_eq!(driver.count("durable"), 5);
}

#[test]
fn sync_outlives_the_daemon_that_it_asked() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 5");
    driver.tell("sync 60000");
    ring.wait_for_wish(want::DURABLE);
    drop(ring);
    // The next daemon gives no ring.
    let mut line = fake.accept().welcome(EVERYTHING, 0);
    line.refuse_ring();
    for sequence in 1..=5 {
        assert_eq!(line.read_event().0, sequence);
    }
    assert_eq!(line.read(), Sent::Sync);
    line.ack(Level::Durable, 5);
    assert_eq!(driver.answer(), "0");
}

#[test]
fn a_claim_is_published_with_the_length_that_it_became_or_leaves_no_trace() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.expect("publish 1", CLAIM);
    driver.ok("claim 9000");
    assert!(ring.consumer.look() == Ok(0) && ring.consumer.is_torn(), "it is being written");
    driver.expect("claim 10", CLAIM);
    driver.expect("send 10", CLAIM);
    driver.expect("sync 10", CLAIM);
    driver.expect("publish 9001", INVALID);
    driver.expect("publish 0", INVALID);
    driver.ok("publish 10");
    driver.ok("claim 9000");
    driver.ok("discard");
    assert!(ring.consumer.look() == Ok(32) && !ring.consumer.is_torn());
    driver.ok("send 10");
    let events = ring.take_all();
    assert_eq!(events.iter().map(Owned::number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((events[0].pri, events[0].payload.len()), (5, 10));
    // Claims that reach over the end of the data.
    for number in 3..60 {
        driver.ok("claim 9000");
        driver.ok("publish 4000");
        assert_eq!(ring.numbers(), [number]);
    }
    ring.consumer.set_state(state::ASLEEP);
    driver.ok("claim 20");
    driver.ok("publish 20");
    assert_eq!(ring.rings(), 1);
}

#[test]
fn a_formatted_text_is_one_event_without_the_newline_at_its_end() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("print hello");
    // Around and above the bytes that are claimed before the length of a text is known.
    for bytes in [1022, 1023, 1024, 5000, 20_000] {
        driver.ok(&format!("long {bytes}"));
    }
    driver.expect("long 20001", TOO_BIG);
    driver.expect("long 0", INVALID);
    let lengths: Vec<usize> = ring.take_all().iter().map(|event| event.payload.len()).collect();
    assert_eq!(lengths, [5, 1022, 1023, 1024, 5000, 20_000]);
    // The NUL behind a text is not sent, but takes room: it must overwrite neither the next record nor what lies
    // behind the data.
    while ring.consumer.tail() % CAPACITY != 0 {
        let to_end = CAPACITY - ring.consumer.tail() % CAPACITY;
        driver.ok(&format!("send {}", if to_end > 16_016 { 16_000 - 16 } else { to_end - 16 }));
        ring.take_all();
    }
    driver.ok("send 20000 3");
    driver.ok(&format!("send {}", CAPACITY - 3 * 20_016 - 1040 - 16));
    driver.expect("long 1024", FULL);
    driver.ok("send 1024");
    ring.take_all();
    // If the text fits, less room than the first claim is enough.
    driver.ask("fill 1000");
    ring.take(1);
    driver.ok("long 900");
    driver.expect("long 900", FULL);
    assert_eq!((driver.count("lost_full"), driver.count("lost_full_bytes")), (2, 1924));
}

#[test]
fn an_event_that_is_too_big_is_refused_before_it_is_written() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 20000");
    driver.expect("send 20001", TOO_BIG);
    driver.expect("send 0", INVALID);
    // The daemon takes larger ones now; half the ring stays the limit.
    ring.consumer.tell_max_event(1 << 20);
    ring.take_all();
    driver.ok("send 32752");
    driver.expect("send 32753", TOO_BIG);
    driver.expect("claim 32753", TOO_BIG);
    assert_eq!((driver.count("events"), driver.count("lost_full")), (2, 0));
    assert_eq!(ring.numbers(), [2]);
}

#[test]
fn a_ring_that_is_none_is_not_used_and_frames_are() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    driver.tell(&fake.open(0, "-"));
    let mut line = fake.accept().welcome(EVERYTHING, 0);
    assert_eq!(line.read(), Sent::Ring(CAPACITY));
    // A file like a ring's, but without the seal: it could shrink.
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"dbufring\x01\0\0\0\0\x10\0\0").expect("the header's begin");
    file.set_len(4096 + CAPACITY).expect("its length");
    let mut reply = Vec::new();
    Frame::Grant { capacity: CAPACITY }.encode(&mut reply);
    let passed = [file.as_raw_fd(), file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&passed)];
    let pieces = [std::io::IoSlice::new(&reply)];
    sendmsg::<()>(line.stream.as_raw_fd(), &pieces, &rights, MsgFlags::empty(), None).expect("the client is there");
    assert_eq!((line.read(), driver.answer()), (Sent::End, "0".into()));
    driver.tell("tend");
    let line = fake.accept();
    assert_eq!((driver.answer().as_str(), line.asks), ("0", feature::FIELDS), "it does not ask again");
    let mut line = line.welcome(EVERYTHING, 0);
    driver.ok("until frames");
    driver.ok("send 9");
    assert_eq!(line.read_event().0, 1);
}

#[test]
fn frames_of_a_later_version_are_skipped_where_they_may_be() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("send 100");
    // 100 kB that mean nothing, and an ACK behind them.
    let mut bytes = vec![0xa0, 0x86, 0x01, 0, 0x80];
    bytes.resize(24 + 100_000, 0);
    line.stream.write_all(&bytes).expect("the client reads");
    line.ack(Level::Persisted, 1);
    wait_for("the ACK", || (driver.ask("tend") == "0" && driver.count("persisted") == 1).then_some(()));
    line.write(&Frame::Sync);
    driver.ok("until none");
    assert_eq!(driver.ask("error"), "dbufd sent something that this client does not understand");
}

#[test]
fn closing_tries_to_get_rid_of_what_no_daemon_has() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    fake.stop();
    driver.ok(&fake.open(0, "-"));
    driver.ok("send 100 5");
    driver.ok("closing 60000");
    fake.listen();
    driver.tell("close");
    let mut ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), numbers(1..=5));
    assert_eq!(ring.line.read(), Sent::End);

    // Also if no call has noticed yet that the daemon is gone.
    let mut driver = Driver::new();
    let ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 3");
    driver.ok("closing 60000");
    drop(ring);
    driver.tell("close");
    let mut ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), numbers(1..=3));

    fake.stop();
    let mut driver = Driver::new();
    driver.ok(&fake.open(0, "-"));
    driver.ok("close");
    driver.ok(&fake.open(0, "-"));
    driver.ok("send 100");
    driver.ok("closing 0");
    assert_eq!(driver.ask("close"), TIMED_OUT);
}

#[test]
fn a_thread_that_logs_has_a_producer_of_its_own_which_ends_with_it() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let _ring = fake.with_ring(&mut driver, 0, "-");
    for round in 0..2 {
        driver.tell(&format!("log round{round}"));
        let mut ring = fake.give_ring();
        assert_eq!(driver.answer(), "0");
        assert_eq!(ring.line.read(), Sent::End, "the thread is over");
        let payloads: Vec<Vec<u8>> = ring.take_all().into_iter().map(|event| event.payload).collect();
        assert_eq!(payloads, [format!("round{round}").into_bytes()]);
    }
}

#[test]
fn a_hostile_count_of_taken_bytes_is_not_believed() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ask("fill 1000");
    let words = ring.consumer.memory().words();
    for tail in [u64::MAX, CAPACITY + 16, CAPACITY * 2] {
        words.tail.store(tail, Relaxed);
        assert_eq!(driver.count("waiting"), CAPACITY);
        driver.expect("send 1000", FULL);
    }
    words.tail.store(0, Relaxed);
    assert_eq!(ring.numbers(), numbers(1..=driver.count("events")), "nothing was written over");
}

#[test]
fn the_real_daemon_stores_what_a_program_in_c_sends_over_its_restarts() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut driver = Driver::new();
    let path = home.socket("stream.sock");
    driver.ok(&format!("open {} {} 5000 -", path.display(), 1 << 20));
    driver.ok("until ring");
    driver.ok("send 100 20000");
    driver.ok("event refused");
    driver.ok("sync 60000");
    daemon.stop();
    driver.ok("send 50 1000");
    driver.ok("until none");
    let daemon = home.start(&["ingest.rings=0"]);
    driver.ok("until frames");
    driver.ok("send 50 1000");
    driver.ok("sync 60000");
    driver.ok("close");
    daemon.stop();
    let cat = home.cat();
    let lines: Vec<&str> = cat.lines().filter(|line| *line != "refused").collect();
    assert_eq!(lines.len(), 22_000);
    assert_eq!(cat.lines().count(), 22_001);
    for (at, line) in lines.iter().enumerate() {
        // The event with fields has used a number, too.
        let number = if at < 20_000 { at + 1 } else { at + 2 };
        assert_eq!(line.trim_end_matches('x'), format!("{number}:"));
    }
    let refused = home.ctl_ok(&["cat", "ORDER=17", "-o", "json"]);
    let refused: Value = serde_json::from_str(refused.trim()).expect("one event");
    assert_eq!((&refused["_TRANSPORT"], &refused["SYSLOG_IDENTIFIER"]), (&"ring".into(), &"billing".into()));
}
