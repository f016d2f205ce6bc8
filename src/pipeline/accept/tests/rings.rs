//! Tests rings over real sockets: how they are granted, filled, waited for, cut off and resumed.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use dbuf_wire::frames::{Code, Event, Fault, Frame, Hello, MAGIC, feature};
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{Bell, DOORBELL, Memory, NoRoom, RingProducer, want};
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::rig::{Plan, Rig, Seen};
use crate::pipeline::accept::ring::table::{RingState, RingTable};
use crate::pipeline::accept::tests::manager::Manager;
use crate::pipeline::record::{Cause, Transport};
use crate::sync::atomic::Ordering::Relaxed;

/// A program with a ring.
pub(super) struct Client {
    line: UnixStream,
    ring: RingProducer,
}

fn read_frame(line: &mut UnixStream) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    line.read_exact(&mut bytes).unwrap();
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    bytes.resize(24 + length, 0);
    line.read_exact(&mut bytes[24..]).unwrap();
    bytes
}

/// Asks for a ring. Returns the connection, and the answer with its descriptors.
fn ask(rig: &Rig, capacity: u64) -> (UnixStream, Vec<u8>, Vec<OwnedFd>) {
    let mut line = rig.connect();
    let mut opening = MAGIC.to_vec();
    Frame::Hello(Hello { compatible: feature::RING, ..Hello::new(b"shop") }).encode(&mut opening);
    line.write_all(&opening).unwrap();
    let welcome = read_frame(&mut line);
    let Ok(Some((Frame::Welcome(welcome), _))) = Frame::decode(&welcome) else { panic!("a WELCOME") };
    assert_eq!(welcome.compatible, feature::RING);
    let mut request = Vec::new();
    Frame::Ring { capacity }.encode(&mut request);
    line.write_all(&request).unwrap();
    let (mut space, mut bytes) = ([MaybeUninit::uninit(); cmsg_space!(ScmRights(2))], [0; 200]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&line, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let descriptors = descriptors.collect();
    (line, bytes[..got].to_vec(), descriptors)
}

impl Client {
    pub(super) fn open(rig: &Rig) -> Self {
        let (line, answer, mut descriptors) = ask(rig, 64 << 10);
        assert_eq!(Frame::decode(&answer), Ok(Some((Frame::Grant { capacity: 64 << 10 }, answer.len()))));
        let memory = descriptors.pop().unwrap();
        assert!(descriptors.is_empty());
        // No membarrier(2) for the whole test program: each publish has a fence.
        let ring = RingProducer::new(Memory::of_file(&memory).unwrap(), false);
        Self { line, ring }
    }

    fn try_send(&mut self, text: &str) -> Result<(), NoRoom> {
        let event = Event { pri: 6, payload: text.as_bytes(), ..Event::default() };
        let bell = self.ring.push(&event, Stamp::None)?;
        if bell == Bell::Ring {
            self.ring_bell();
        }
        Ok(())
    }

    pub(super) fn send(&mut self, text: &str) {
        self.try_send(text).unwrap();
    }

    fn ring_bell(&self) {
        let rung = send(&self.line, &[DOORBELL], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        // A connection without room rings already.
        assert!(matches!(rung, Ok(1) | Err(Errno::AGAIN)), "{rung:?}");
    }

    /// Sleeps on the turn until `is_there`.
    fn wait_for(&mut self, wants: u32, is_there: impl Fn(&mut RingProducer) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let turn = self.ring.want(wants);
            if is_there(&mut self.ring) {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain");
            self.ring_bell();
            self.ring.sleep(turn, Duration::from_secs(20));
        }
    }
}

fn last_words(line: &mut UnixStream) -> (u8, String) {
    let frame = read_frame(line);
    let Ok(Some((Frame::Error(Fault { code, text, .. }), _))) = Frame::decode(&frame) else { panic!("an ERROR") };
    (code, String::from_utf8_lossy(text).into_owned())
}

#[test]
fn events_of_a_ring_are_the_programs_own_in_their_order() {
    let rig = Rig::new(&Plan::default());
    let mut client = Client::open(&rig);
    for number in 0..5000 {
        let text = format!("event {number}");
        while client.try_send(&text).is_err() {
            client.wait_for(want::ROOM, |ring| ring.has_room(100));
        }
    }
    let events = rig.wait_for_events(5000);
    assert!(events.iter().enumerate().all(|(number, event)| event.text() == format!("event {number}")));
    let source = &events[0].source;
    assert_eq!((source.pid, source.transport, &source.tag[..]), (std::process::id(), Transport::Ring, &b"shop"[..]));
}

#[test]
fn a_ring_says_from_its_beginning_how_large_an_event_may_be() {
    let rig = Rig::new(&Plan { max_event_bytes: 5000, ..Plan::default() });
    for _ in 0..20 {
        let client = Client::open(&rig);
        assert_eq!(client.ring.memory().words().max_event_bytes.load(Relaxed), 5000);
    }
}

#[test]
fn an_event_for_a_writer_that_sleeps_wakes_it() {
    let rig = Rig::new(&Plan::default());
    let mut client = Client::open(&rig);
    for number in 1..=3 {
        let deadline = Instant::now() + Duration::from_secs(20);
        while client.ring.memory().words().state.load(Relaxed) & 3 != 2 {
            assert!(Instant::now() < deadline, "it never sleeps");
            std::thread::yield_now();
        }
        client.send("wake up");
        rig.wait_for_events(number);
    }
}

#[test]
fn a_program_learns_when_its_events_are_durable() {
    let rig = Rig::new(&Plan::default());
    let mut client = Client::open(&rig);
    client.send("one");
    client.send("two");
    client.ring.ask_sync();
    client.wait_for(want::DURABLE, |ring| ring.memory().words().durable.load(Relaxed) == 2);
    assert_eq!(client.ring.memory().words().persisted.load(Relaxed), 2);
}

#[test]
fn what_a_program_left_in_its_ring_is_taken_and_a_torn_event_is_counted() {
    let rig = Rig::new(&Plan::default());
    let mut client = Client::open(&rig);
    for number in 0..100 {
        client.send(&number.to_string());
    }
    client.ring.memory().words().writing.store(1 << 20, Relaxed);
    drop(client);
    let (source, loss) = rig.wait_for_loss();
    assert_eq!((loss.cause, loss.events, &source.tag[..]), (Cause::Abandoned, 1, &b"shop"[..]));
    assert_eq!(rig.stop().events.len(), 100);
}

#[test]
fn a_program_that_scribbles_over_its_ring_is_cut_off_by_name_while_others_go_on() {
    let rig = Rig::new(&Plan::default());
    let mut others: Vec<Client> = (0..3).map(|_| Client::open(&rig)).collect();
    let mut client = Client::open(&rig);
    client.send("good");
    rig.wait_for_events(1);
    for at in (0..64 << 10).step_by(64) {
        client.ring.memory().put(at, &[0xA5; 64]);
    }
    client.ring.memory().words().head.store(32 << 10, Relaxed);
    client.ring_bell();
    let (code, text) = last_words(&mut client.line);
    assert_eq!((code, &text[..]), (Code::Broken as u8, "a record reaches beyond the ring's end or head"));
    let (_, loss) = rig.wait_for_loss();
    assert_eq!((loss.cause, loss.events), (Cause::Malformed, 1));
    for other in &mut others {
        other.send("still here");
    }
    assert_eq!(rig.wait_for_events(4).len(), 4);
}

#[test]
fn a_program_that_talks_on_the_connection_of_its_ring_is_cut_off() {
    let rig = Rig::new(&Plan::default());
    let mut client = Client::open(&rig);
    client.line.write_all(b"hello").unwrap();
    assert_eq!(last_words(&mut client.line).1, "the connection of a ring carries bytes that are not doorbells");
}

#[test]
fn a_doorbell_that_is_rung_without_end_hinders_no_ring() {
    let rig = Rig::new(&Plan::default());
    let (mut client, mut other) = (Client::open(&rig), Client::open(&rig));
    client.line.set_nonblocking(true).unwrap();
    for number in 0..50 {
        // As often as the connection takes it.
        while (&client.line).write(&[DOORBELL; 4096]).is_ok() {}
        client.send(&format!("ringing {number}"));
        other.send(&format!("quiet {number}"));
        rig.wait_for_events(2 * (number + 1));
    }
}

#[test]
fn a_client_that_gets_no_ring_is_told_why_and_continues_with_frames() {
    let rig = Rig::new(&Plan::default());
    let (mut line, answer, descriptors) = ask(&rig, 1 << 21);
    assert!(descriptors.is_empty());
    let Ok(Some((Frame::Error(fault), _))) = Frame::decode(&answer) else { panic!("an ERROR") };
    assert_eq!(fault.code, Code::NoRing as u8);
    assert!(String::from_utf8_lossy(fault.text).contains("ingest.ring_bytes"));
    let mut event = Vec::new();
    Event { pri: 6, sequence: 1, payload: b"by frames", ..Event::default() }.encode(&mut event);
    line.write_all(&event).unwrap();
    assert_eq!(rig.wait_for_events(1)[0].text(), "by frames");
}

#[test]
fn a_ring_is_resumed_by_the_next_daemon_and_its_program_notices_nothing() {
    let plan = Plan { keeps_rings: true, ..Plan::default() };
    let mut manager = Manager::new();
    let first = Rig::under(&mut manager, &plan, Seen::default());
    let mut client = Client::open(&first);
    client.send("one");
    first.wait_for_events(1);
    manager.wait_for(&["bookmarks", "ring0", "ring0-line", "rings"]);
    let seen = first.stop();
    client.send("two");
    client.send("three");
    let second = Rig::under(&mut manager, &plan, seen);
    second.wait_for_events(3);
    client.send("four");
    let events = second.wait_for_events(4);
    assert_eq!(events.iter().map(super::rig::Got::text).collect::<Vec<_>>(), ["one", "two", "three", "four"]);
    assert_eq!(events[3].source, events[0].source);
    client.line.set_nonblocking(true).unwrap();
    assert!(client.line.read(&mut [0]).is_err(), "the connection is still there");
    drop(client);
    manager.wait_for(&["bookmarks", "rings"]);
    drop(second);
}

#[test]
fn what_a_dead_daemon_has_taken_is_not_reported_as_persisted_before_it_is() {
    let plan = Plan { keeps_rings: true, ..Plan::default() };
    let mut manager = Manager::new();
    let late = Plan { generation_first: 1 << 20, reports_progress: false, ..plan.clone() };
    let first = Rig::under(&mut manager, &late, Seen::default());
    let mut client = Client::open(&first);
    client.send("one");
    first.wait_for_events(1);
    let seen = first.stop_within(Duration::from_millis(10));
    // The reader never comes to what the dead process has left, whose generations are above its own.
    let second = Rig::under(&mut manager, &plan, seen);
    client.send("two");
    second.wait_for_events(2);
    client.send("three");
    second.wait_for_events(3);
    client.wait_for(want::ROOM, |ring| ring.memory().words().taken.load(Relaxed) == 3);
    // An orderly stop would wait for progress, and there is none.
    second.stop_within(Duration::from_millis(10));
    assert_eq!(client.ring.memory().words().persisted.load(Relaxed), 0);
    assert_eq!(client.ring.memory().words().durable.load(Relaxed), 0);
}

#[test]
fn a_program_that_waits_is_woken_by_the_next_process_because_the_previous_one_may_have_died_before_it_did_so() {
    let plan = Plan { keeps_rings: true, ..Plan::default() };
    let mut manager = Manager::new();
    let first = Rig::under(&mut manager, &plan, Seen::default());
    let mut client = Client::open(&first);
    client.send("one");
    client.wait_for(want::ROOM, |ring| ring.memory().words().taken.load(Relaxed) == 1);
    let seen = first.stop();
    // There is room and nothing to take, as when a daemon dies between its last two steps.
    let turn = client.ring.want(want::ROOM);
    let deadline = Instant::now() + Duration::from_secs(20);
    let second = Rig::under(&mut manager, &plan, seen);
    while client.ring.memory().words().turn.load(Relaxed) == turn {
        assert!(Instant::now() < deadline, "it sleeps on");
        client.ring.sleep(turn, Duration::from_secs(20));
    }
    drop(second);
}

#[test]
fn a_ring_with_a_missing_part_is_removed_and_its_program_sees_the_end() {
    let plan = Plan { keeps_rings: true, ..Plan::default() };
    let mut manager = Manager::new();
    let first = Rig::under(&mut manager, &plan, Seen::default());
    let mut client = Client::open(&first);
    manager.wait_for(&["bookmarks", "ring0", "ring0-line", "rings"]);
    let seen = first.stop();
    manager.store().remove("ring0");
    manager.wait_for(&["bookmarks", "ring0-line", "rings"]);
    let second = Rig::under(&mut manager, &plan, seen);
    manager.wait_for(&["bookmarks", "rings"]);
    assert_eq!(client.line.read(&mut [0]).unwrap(), 0);
    drop(second);
}

#[test]
fn a_ring_of_an_earlier_version_is_not_resumed_and_its_program_sees_the_end() {
    let plan = Plan { keeps_rings: true, ..Plan::default() };
    let mut manager = Manager::new();
    let first = Rig::under(&mut manager, &plan, Seen::default());
    let mut client = Client::open(&first);
    manager.wait_for(&["bookmarks", "ring0", "ring0-line", "rings"]);
    let seen = first.stop();
    let words = client.ring.memory().words();
    words.version.store(words.version.load(Relaxed) - 1, Relaxed);
    let second = Rig::under(&mut manager, &plan, seen);
    manager.wait_for(&["bookmarks", "rings"]);
    assert_eq!(client.line.read(&mut [0]).unwrap(), 0);
    drop(second);
}

#[test]
fn a_ring_whose_end_is_recorded_is_not_counted_as_torn_again_after_a_death() {
    let plan = Plan { keeps_rings: true, ..Plan::default() };
    let mut manager = Manager::new();
    let first = Rig::under(&mut manager, &plan, Seen::default());
    let mut client = Client::open(&first);
    client.send("one");
    first.wait_for_events(1);
    manager.wait_for(&["bookmarks", "ring0", "ring0-line", "rings"]);
    let seen = first.stop();
    // It had counted the event that the program was writing, and died before it released the ring.
    client.ring.memory().words().writing.store(1 << 20, Relaxed);
    let table = RingTable::inherit(manager.copy_of("rings")).unwrap();
    let state = table.find(0).unwrap().state;
    table.commit(0, &RingState { has_ended: true, ..state });
    let second = Rig::under(&mut manager, &plan, seen);
    manager.wait_for(&["bookmarks", "rings"]);
    assert_eq!(client.line.read(&mut [0]).unwrap(), 0, "its program sees the end");
    let seen = second.stop();
    assert_eq!((seen.texts(), seen.losses.len()), (vec!["one".to_owned()], 0));
}
