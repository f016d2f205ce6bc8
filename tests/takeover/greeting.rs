//! Clients of the framed protocol and of rings whose removal from the store the manager never took.

use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use dbuf_wire::frames::{Event, Frame, Level};
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{state, want};

use crate::framed::{Framed, Heard, Ring, Waited};
use crate::manager::{Manager, Pace, unique};
use crate::support::wait_for;

/// A client that hears nothing for this long never will.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const RING_BYTES: u64 = 64 << 10;

#[derive(Clone, Copy)]
enum End {
    Kill,
    Stop,
}

/// A manager and a daemon, and a connection that the manager has, of which nothing has been read.
fn connected(name: &str) -> (Manager, Framed) {
    let mut manager = Manager::new();
    manager.start(&[]);
    let name = unique(name);
    let line = Framed::connect(&manager.home.socket("stream.sock"), &name).expect("the daemon listens");
    manager.home.wait_for_stats("the connection", |stats| stats["connections"]["open"] == 1);
    (manager, line)
}

fn restart(manager: &mut Manager, end: End) {
    match end {
        End::Kill => manager.kill(),
        End::Stop => {
            manager.stop();
        }
    }
    manager.set_pace(Pace::Prompt);
    manager.start(&[]);
}

/// Whether the client gets an answer to a SYNC, or sees the end.
fn hears_something(line: &mut Framed) -> bool {
    let mut bytes = Framed::event(2, b"event two");
    bytes.extend(Framed::frame(&Frame::Sync));
    // A connection that has ended takes nothing.
    if line.send(&bytes).is_err() {
        return true;
    }
    loop {
        match line.hear(ANSWER_TIMEOUT) {
            Heard::End | Heard::Ack { level: Level::Durable, .. } => return true,
            Heard::Silence => return false,
            _ => {}
        }
    }
}

fn a_framed_client_over(end: End) {
    let (mut manager, mut line) = connected("framed");
    manager.refuse_all();
    let mut bytes = Framed::greeting("shop", 7, Level::Persisted);
    bytes.extend(Framed::event(1, b"event one"));
    line.send(&bytes).expect("the daemon reads");
    assert_eq!(line.hear(ANSWER_TIMEOUT), Heard::Welcome { last: 0 });
    manager.home.wait_persisted(1);
    restart(&mut manager, end);
    let is_answered = hears_something(&mut line);
    // Ends what may have been taken for a line, so that it is seen.
    drop(line);
    manager.home.wait_for_stats("the end of the connection", |stats| stats["connections"]["open"] == 0);
    manager.home.ctl_ok(&["sync"]);
    let stored: Vec<_> = manager.home.json().into_iter().map(|event| (event["_TRANSPORT"].clone(), event)).collect();
    assert!(stored.iter().all(|(transport, _)| transport == "frames"), "frames are no lines: {stored:?}");
    assert!(is_answered, "a client of frames hears neither an answer nor an end");
}

#[test]
fn a_framed_client_is_never_inherited_as_text_when_the_manager_took_nothing_of_its_removal() {
    a_framed_client_over(End::Kill);
}

#[test]
fn a_framed_client_is_never_inherited_as_text_after_an_orderly_stop_whose_manager_took_nothing() {
    a_framed_client_over(End::Stop);
}

/// The same while a text connection has its place, which the manager does not know of.
#[test]
fn a_framed_client_never_gets_the_half_line_of_the_connection_that_has_its_place_now() {
    let (mut manager, mut line) = connected("place-framed");
    manager.refuse_all();
    line.send(&Framed::greeting("shop", 7, Level::Persisted)).expect("the daemon reads");
    assert_eq!(line.hear(ANSWER_TIMEOUT), Heard::Welcome { last: 0 });
    let mut text = Framed::connect(&manager.home.socket("stream.sock"), &unique("place-text")).expect("it listens");
    text.send(b"first line\nhalf a line of somebody").expect("the daemon reads");
    manager.home.wait_persisted(1);
    restart(&mut manager, End::Kill);
    let is_answered = hears_something(&mut line);
    drop((line, text));
    manager.home.wait_for_stats("the end of the connections", |stats| stats["connections"]["open"] == 0);
    manager.home.ctl_ok(&["sync"]);
    let stored: Vec<String> = manager.home.cat().lines().map(str::to_owned).collect();
    // The manager never had the text connection, so its half line may be gone; the whole line may not.
    let half = "half a line of somebody";
    assert!(stored == ["first line"] || stored == ["first line", half], "nobody sent this: {stored:?}");
    assert!(is_answered, "a client of frames hears neither an answer nor an end");
}

/// Asks for a ring, of which the manager may learn or not.
fn ring_of(manager: &Manager, name: &str) -> Ring {
    let mut line = Framed::connect(&manager.home.socket("stream.sock"), name).expect("the daemon listens");
    line.send(&Framed::greeting("ring", 0, Level::None)).expect("the daemon reads");
    assert_eq!(line.hear(ANSWER_TIMEOUT), Heard::Welcome { last: 0 });
    line.send(&Framed::frame(&Frame::Ring { capacity: RING_BYTES })).expect("the daemon reads");
    assert_eq!(line.hear(ANSWER_TIMEOUT), Heard::Granted);
    line.into_ring()
}

/// Sends these, waits until they are taken, and leaves.
fn send_and_leave(manager: &Manager, mut ring: Ring, texts: &[String]) {
    texts.iter().for_each(|text| ring.try_send(text.as_bytes()).expect("there is room"));
    assert_eq!(ring.wait_until_taken(ANSWER_TIMEOUT), Waited::Done);
    drop(ring);
    manager.home.wait_for_stats("the end of the ring", |stats| stats["rings"].as_array().is_some_and(Vec::is_empty));
}

fn numbered(prefix: &str) -> Vec<String> {
    (0..10).map(|number| format!("{prefix} {number}")).collect()
}

fn assert_stored(manager: &Manager, due: &[String]) {
    // What was inherited of rings has been taken then, or let go of.
    manager.home.wait_for_stats("no ring", |stats| stats["rings"].as_array().is_some_and(Vec::is_empty));
    manager.home.ctl_ok(&["sync"]);
    let stored: Vec<String> = manager.home.cat().lines().map(str::to_owned).collect();
    let stats = manager.home.stats();
    assert_eq!(stored, due, "each is stored once; the log: {}", manager.log());
    assert_eq!(stats["events"]["lost_total"], 0, "{}: {}", stats["events"], manager.log());
}

#[test]
fn a_ring_whose_end_the_manager_did_not_learn_of_is_not_taken_a_second_time() {
    let mut manager = Manager::new();
    manager.start(&[]);
    let name = unique("ended");
    let ring = ring_of(&manager, &name);
    wait_for("the ring in the store", || manager.has_taken_ring(&name).then_some(()));
    manager.refuse_all();
    send_and_leave(&manager, ring, &numbered("first"));
    restart(&mut manager, End::Kill);
    assert_stored(&manager, &numbered("first"));
}

#[test]
fn what_is_taken_at_the_end_of_a_ring_is_not_taken_a_second_time() {
    let mut manager = Manager::new();
    manager.start(&[]);
    let name = unique("last");
    let mut ring = ring_of(&manager, &name);
    wait_for("the ring in the store", || manager.has_taken_ring(&name).then_some(()));
    manager.refuse_all();
    let is_asleep = |ring: &Ring| ring.producer.memory().words().state.load(Acquire) & state::MASK == state::ASLEEP;
    wait_for("its writer to sleep", || is_asleep(&ring).then_some(()));
    for text in numbered("last") {
        // Without the bell: the end of the connection is what the writer hears.
        let event = Event { pri: 6, payload: text.as_bytes(), ..Event::default() };
        let _ = ring.producer.push(&event, Stamp::None).expect("there is room");
    }
    drop(ring);
    manager.home.wait_for_stats("the end of the ring", |stats| stats["rings"].as_array().is_some_and(Vec::is_empty));
    restart(&mut manager, End::Kill);
    assert_stored(&manager, &numbered("last"));
}

/// A ring has ended and another one, of which the manager learns nothing at all, begins before a kill.
fn a_second_ring_after(texts: &[String]) {
    let mut manager = Manager::new();
    manager.start(&[]);
    let name = unique("row");
    let ring = ring_of(&manager, &name);
    wait_for("the ring in the store", || manager.has_taken_ring(&name).then_some(()));
    manager.refuse_all();
    send_and_leave(&manager, ring, &numbered("first"));
    let mut second = ring_of(&manager, &unique("row"));
    texts.iter().for_each(|text| second.try_send(text.as_bytes()).expect("there is room"));
    assert_eq!(second.wait_until_taken(ANSWER_TIMEOUT), Waited::Done);
    restart(&mut manager, End::Kill);
    wait_for("the second ring to end", || second.line.has_ended().then_some(()));
    assert_stored(&manager, &[numbered("first"), texts.to_vec()].concat());
}

#[test]
fn a_ring_is_not_taken_again_because_another_has_its_row() {
    // Where it stands a record of the first ring begins, too.
    a_second_ring_after(&["other 0".to_owned()]);
}

#[test]
fn a_ring_that_has_ended_is_not_read_where_another_one_stands() {
    a_second_ring_after(&numbered("longer than those of the first"));
}

fn a_ring_over(end: End) {
    let (mut manager, mut line) = connected("ring");
    manager.refuse_all();
    line.send(&Framed::greeting("ring", 0, Level::None)).expect("the daemon reads");
    assert_eq!(line.hear(ANSWER_TIMEOUT), Heard::Welcome { last: 0 });
    line.send(&Framed::frame(&Frame::Ring { capacity: RING_BYTES })).expect("the daemon reads");
    assert_eq!(line.hear(ANSWER_TIMEOUT), Heard::Granted);
    let mut ring = line.into_ring();
    ring.try_send(b"before").expect("there is room");
    assert_eq!(ring.wait_until_taken(ANSWER_TIMEOUT), Waited::Done);
    restart(&mut manager, end);
    ring.try_send(b"after").expect("there is room");
    ring.ask_sync();
    let waited =
        ring.wait(want::DURABLE, ANSWER_TIMEOUT, |producer| producer.memory().words().durable.load(Acquire) >= 2);
    assert_ne!(waited, Waited::InVain, "a program writes into a ring that nobody has, and never learns of it");
    manager.home.ctl_ok(&["sync"]);
    let stored: Vec<String> = manager.home.cat().lines().map(str::to_owned).collect();
    let taken = if waited == Waited::Done { 2 } else { 1 };
    assert_eq!(stored, ["before", "after"][..taken], "what was taken is stored, and nothing else");
}

#[test]
fn a_rings_program_learns_that_its_daemon_is_gone_when_the_manager_took_nothing_of_its_ring() {
    a_ring_over(End::Kill);
}

#[test]
fn a_rings_program_learns_that_its_daemon_is_gone_after_an_orderly_stop_whose_manager_took_nothing() {
    a_ring_over(End::Stop);
}

#[test]
fn a_producer_whose_ring_is_still_in_the_managers_socket_goes_on_after_a_kill() {
    use dbuf_client::{LinkKind, Producer, ProducerOptions};
    let mut manager = Manager::new();
    manager.start(&[]);
    let path = Some(manager.home.socket("stream.sock"));
    manager.set_pace(Pace::Refusing);
    let options = ProducerOptions { path, name: "producer".into(), ..ProducerOptions::default() };
    let mut producer = Producer::open(options).expect("a producer");
    wait_for("a ring", || {
        producer.tend();
        (producer.statistics().link == LinkKind::Ring).then_some(())
    });
    producer.send(6, b"before").expect("no error");
    producer.sync(ANSWER_TIMEOUT).expect("all is durable");
    restart(&mut manager, End::Kill);
    producer.send(6, b"after").expect("no error");
    let synced = producer.sync(2 * ANSWER_TIMEOUT);
    assert_eq!(synced, Ok(()), "{:?}", producer.statistics());
    let stored: Vec<String> = manager.home.cat().lines().map(str::to_owned).collect();
    assert_eq!(stored.iter().filter(|line| *line == "after").count(), 1, "{stored:?}");
}
