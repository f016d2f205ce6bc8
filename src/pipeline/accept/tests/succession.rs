//! Tests connections that outlive their daemon: one life ends, and the next resumes them.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt::PassCred};

use super::rig::{Got, Plan, Rig, Seen, TIMEOUT};
use super::{assert_ended, event, frame, hello, is_durable, replies};
use crate::pipeline::accept::ListenerKind;
use crate::pipeline::accept::connection::Connection;
use crate::pipeline::accept::connection::protocol::{Next, ReadResult};
use crate::pipeline::accept::connection::read_position::{InheritedPosition, ReadPosition, ReadPositions, damage};
use crate::pipeline::accept::frames::Sessions;
use crate::pipeline::accept::publish::receive_buffer::{
    InheritedReceiveBuffer, ReceiveBuffer, ReceiveBuffers, Subject,
};
use crate::pipeline::accept::publish::{Publisher, WriterContext};
use crate::pipeline::accept::ring::registry::Rings;
use crate::pipeline::accept::tests::manager::Manager;
use crate::pipeline::accept::writer::Shared;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::{DoubleBuffer, Options, Reader};
use crate::pipeline::counters::Counters;
use crate::pipeline::progress::Progress;
use crate::pipeline::pulse::Activity;
use crate::pipeline::record::Cause;
use crate::pipeline::shares::{Resource, Shares};
use crate::sync::atomic::Ordering::Relaxed;
use dbuf_wire::frames::{Frame, Head, Level, MAGIC, kind};

fn plan() -> Plan {
    Plan { max_event_bytes: 1024, ..Plan::default() }
}

/// Lets `write` write in a first life and `write_on` after it. Returns what a second life has seen when it ends.
fn two_lives(write: impl Fn(&mut UnixStream), write_on: &[u8]) -> (Seen, Vec<String>) {
    let mut manager = Manager::new();
    let first = Rig::under(&mut manager, &plan(), Seen::default());
    let mut client = first.connect();
    first.wait_until("it is accepted", |counters| counters.writers.iter().any(|w| w.0.connections.load(Relaxed) > 0));
    write(&mut client);
    let seen = first.stop();
    assert_eq!(manager.names(), ["bookmarks", "c0"], "it is kept");
    // The kernel takes it although no daemon runs.
    client.write_all(write_on).unwrap();
    drop(client);
    let second = Rig::under(&mut manager, &plan(), seen);
    second.wait_until("it is read to its end", |counters| {
        counters.writers.iter().all(|writer| writer.0.connections.load(Relaxed) == 0)
    });
    let seen = second.stop();
    (seen, manager.names())
}

#[test]
fn a_line_that_two_daemons_read_is_one_event() {
    let (seen, names) = two_lives(|client| client.write_all(b"whole\nhalf").unwrap(), b" and half\nlast");
    assert_eq!(seen.texts(), ["whole", "half and half", "last"]);
    assert!(seen.losses.is_empty());
    assert_eq!(names, ["bookmarks"], "a connection that has ended is removed");
}

#[test]
fn a_line_longer_than_an_event_comes_whole_from_two_daemons() {
    let line: Vec<u8> = (0..10_000_u32).map(|n| b'a' + (n % 23) as u8).collect();
    let (seen, _) =
        two_lives(|client| client.write_all(&line[..5_000]).unwrap(), &[&line[5_000..], b"\nnext\n"].concat());
    assert_eq!((seen.events[0].payload == line, seen.events[0].pieces), (true, 10));
    assert_eq!((seen.events[1].text(), seen.events.len(), seen.losses.len()), ("next".into(), 2, 0));
}

#[test]
fn syslog_that_is_counted_in_octets_is_one_event_of_two_daemons() {
    let text = format!("<13>Nov 23 05:26:33 root: {}", "y\n".repeat(900));
    let sent = format!("{} {text}after\n", text.len());
    for cut in [3, 30, 1500] {
        let (seen, _) = two_lives(|client| client.write_all(&sent.as_bytes()[..cut]).unwrap(), &sent.as_bytes()[cut..]);
        assert!(seen.texts() == ["y\n".repeat(900), "after".to_owned()], "cut at {cut}");
    }
}

#[test]
fn a_connection_that_has_said_nothing_yet_is_kept() {
    let (seen, _) = two_lives(|_| (), b"at last\n");
    assert_eq!(seen.texts(), ["at last"]);
}

#[test]
fn connections_of_the_previous_process_count_as_open_before_a_writer_comes_to_them() {
    let mut manager = Manager::new();
    let first = Rig::under(&mut manager, &plan(), Seen::default());
    let clients: Vec<UnixStream> = (0..10).map(|_| first.connect()).collect();
    first.wait_until("all are stored", |_| first.open_connections() == 10);
    let seen = first.stop();
    let second = Rig::under(&mut manager, &plan(), seen);
    assert_eq!(second.open_connections(), 10, "none has left");
    drop(clients);
}

#[test]
fn a_framed_connection_ends_with_its_daemon_so_that_its_client_asks_where_it_stands() {
    let mut manager = Manager::new();
    let rig = Rig::under(&mut manager, &plan(), Seen::default());
    let mut client = rig.connect();
    client.write_all(&[hello(1, Level::Durable), event(1, b"framed")].concat()).unwrap();
    replies(&mut client, is_durable(1));
    manager.wait_for(&["bookmarks"]);
    assert_eq!(rig.stop().texts(), ["framed"]);
    assert_ended(&mut client);
}

#[test]
fn a_connection_that_the_manager_still_holds_keeps_no_writer_awake() {
    let mut manager = Manager::new();
    let rig = Rig::under(&mut manager, &plan(), Seen::default());
    let mut client = rig.connect();
    client.write_all(b"bye\n").unwrap();
    assert_eq!((rig.wait_for_events(1).len(), manager.names()), (1, vec!["bookmarks".to_owned(), "c0".to_owned()]));
    drop(client);
    rig.wait_until("it is closed", |counters| counters.writers.iter().all(|w| w.0.connections.load(Relaxed) == 0));
    // The manager has not yet read that it is to close it.
    let rounds = || rig.accept.as_ref().unwrap().pulses().iter().map(|pulse| pulse.look().rounds).sum::<u64>();
    let before = rounds();
    // Time is what is tested: a writer that spins makes thousands of rounds in it.
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(rounds() - before < 10, "{} rounds for nothing", rounds() - before);
    assert_eq!(manager.names(), ["bookmarks"]);
    rig.stop();
}

#[test]
fn connections_that_found_the_store_full_are_stored_when_others_have_left() {
    let mut manager = Manager::new();
    let rig = Rig::under(&mut manager, &plan(), Seen::default());
    let mut clients: Vec<UnixStream> = (0..20).map(|_| rig.connect()).collect();
    let unkept = |counters: &Counters| {
        counters.writers.iter().map(|writer| writer.0.unkept_connections.load(Relaxed)).sum::<u64>()
    };
    // The manager has room for 15.
    rig.wait_until("five are unkept", |counters| unkept(counters) == 5);
    // All have sent half a line.
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(format!("whole {number}\nhalf").as_bytes()).unwrap();
    }
    rig.wait_for_events(20);
    drop(clients.split_off(10));
    // The read positions, and all that are left.
    rig.wait_until("all have found room", |counters| manager.names().len() == 11 && unkept(counters) == 0);
    let seen = rig.stop();
    for client in &mut clients {
        client.write_all(b" and half\n").unwrap();
    }
    let rig = Rig::under(&mut manager, &plan(), seen);
    rig.wait_for("the other halves", |seen| {
        (seen.texts().iter().filter(|text| *text == "half and half").count() == 10).then_some(())
    });
    rig.stop();
}

#[test]
fn clients_that_send_everything_and_close_are_not_given_to_the_manager() {
    let mut manager = Manager::new();
    let rig = Rig::under(&mut manager, &Plan { early: vec![b"early\n".to_vec(); 100], ..plan() }, Seen::default());
    assert_eq!(rig.wait_for_events(100).len(), 100);
    assert_eq!(manager.names(), ["bookmarks"]);
    assert_eq!(manager.puts, 1, "nothing but the read positions was ever given to it");
    assert_eq!(rig.stop().events.len(), 100);
}

#[test]
fn a_connection_from_a_kind_of_listener_that_is_not_known_is_ended_and_not_read_as_text() {
    let mut manager = Manager::new();
    let pairs = [0, 7].map(|kind| (kind, UnixStream::pair().unwrap()));
    let (connections, _) = manager.next_process(16);
    let [mut known, mut unknown] = pairs.map(|(kind, (mut client, ours))| {
        drop(connections.keep(kind, ours.into(), &Identity::default()));
        client.write_all(b"line\n").unwrap();
        client
    });
    drop(connections);
    let rig = Rig::under(&mut manager, &plan(), Seen::default());
    // A reset, because what it had sent was not read.
    unknown.set_read_timeout(Some(TIMEOUT)).unwrap();
    let end = unknown.read(&mut [0; 8]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "its client sees the end: {end:?}");
    known.write_all(b"more\n").unwrap();
    rig.wait_for_events(2);
    assert_eq!(rig.stop().texts(), ["line", "more"]);
}

// ---- a read in progress ----

/// A first life reads `read` of a connection in one read, publishes this many of its events, and dies. Then `write_on`
/// comes, and a second life resumes. Returns the texts that the second life has published.
fn died_in_a_read(position: &ReadPosition<'_>, read: &[u8], published: u64, write_on: &[u8]) -> Vec<String> {
    let mut manager = Manager::new();
    let (mut client, ours) = UnixStream::pair().unwrap();
    {
        let (connections, _) = manager.next_process(16);
        let mut stored = connections.keep(0, ours.into(), &Identity::default());
        assert!(stored.note_position(position, 1));
        let mut receive_buffers = ReceiveBuffers::take_over(1, Some(&manager.store()), Vec::new()).unwrap();
        let receive_buffer = &mut receive_buffers[0].own;
        client.write_all(read).unwrap();
        let (read_progress, place) = (Arc::clone(&receive_buffer.read_progress), stored.slot().unwrap());
        let begin = || _ = read_progress.begin(Subject::Stream(place), 77, plan().max_event_bytes);
        assert_eq!(
            receive_buffer.headers.receive_stream(&stored.socket, &mut receive_buffer.stream, begin).unwrap(),
            read.len()
        );
        read_progress.commit(published);
    }
    client.write_all(write_on).unwrap();
    drop(client);
    let left = vec![InheritedReceiveBuffer::new(0, manager.copy_of("desk0"))];
    let receive_buffers = ReceiveBuffers::take_over(2, Some(&manager.store()), left).unwrap();
    let rig = Rig::with_receive_buffers(&mut manager, &plan(), Seen::default(), receive_buffers);
    rig.wait_until("it is read to its end", |counters| {
        counters.writers.iter().all(|writer| writer.0.connections.load(Relaxed) == 0)
    });
    let seen = rig.stop();
    assert!(seen.losses.is_empty());
    seen.texts()
}

const LINE_START: ReadPosition<'_> = ReadPosition::Undecided { carry: b"" };

#[test]
fn what_was_read_and_not_published_is_published_by_the_next_process_and_nothing_twice() {
    let read = b"one\ntwo\nthree\nfo";
    for (published, expected) in [(0, &["one", "two", "three", "four"][..]), (2, &["three", "four"]), (3, &["four"])] {
        assert_eq!(died_in_a_read(&LINE_START, read, published, b"ur"), expected, "{published} were published");
    }
}

#[test]
fn a_refusal_that_was_published_is_not_counted_again_by_the_next_process() {
    // Two events, and after them the record of both refusals: this many of these four are published.
    for (published, events, lost) in [(0, 2, 2), (1, 1, 2), (2, 0, 2), (4, 0, 0)] {
        let mut manager = Manager::new();
        {
            let (client, ours) = UnixDatagram::pair().unwrap();
            let mut receive_buffers = ReceiveBuffers::take_over(1, Some(&manager.store()), Vec::new()).unwrap();
            let receive_buffer = &mut receive_buffers[0].own;
            for bytes in [2000, 10, 3000, 20] {
                client.send(&vec![b'x'; bytes]).unwrap();
            }
            let read_progress = Arc::clone(&receive_buffer.read_progress);
            let begin = || _ = read_progress.begin(Subject::Datagrams, 77, plan().max_event_bytes);
            let bytes_max = plan().max_event_bytes;
            assert_eq!(
                receive_buffer.headers.receive_datagrams(&ours, &mut receive_buffer.arena, bytes_max, begin).unwrap(),
                4
            );
            read_progress.commit(published);
        }
        let left = vec![InheritedReceiveBuffer::new(0, manager.copy_of("desk0"))];
        let receive_buffers = ReceiveBuffers::take_over(1, Some(&manager.store()), left).unwrap();
        let rig =
            Rig::with_receive_buffers(&mut manager, &Plan { writers: 1, ..plan() }, Seen::default(), receive_buffers);
        // What it inherits comes before anything new.
        rig.send(b"new\n");
        rig.wait_for_events(events + 1);
        let totals = rig.totals_of(events as u64 + 1 + lost);
        assert_eq!((totals.received_events, totals.lost_total()), (events as u64 + 1 + lost, lost), "{published}");
        let seen = rig.stop();
        assert_eq!(seen.losses.iter().map(|(_, loss)| loss.events).sum::<u64>(), lost, "{published}");
    }
}

#[test]
fn what_was_read_after_half_a_line_ends_that_line() {
    let half = ReadPosition::Text { open_line: None, carry: b"half " };
    assert_eq!(died_in_a_read(&half, b"a line\nnext", 0, b" line\n"), ["half a line", "next line"]);
    assert_eq!(died_in_a_read(&half, b"a line\nnext", 1, b" line\n"), ["next line"]);
}

#[test]
fn a_read_that_the_position_includes_is_not_published_again() {
    let mut manager = Manager::new();
    let (mut client, ours) = UnixStream::pair().unwrap();
    {
        let (connections, _) = manager.next_process(16);
        let mut stored = connections.keep(0, ours.into(), &Identity::default());
        let mut receive_buffers = ReceiveBuffers::take_over(1, Some(&manager.store()), Vec::new()).unwrap();
        let (receive_buffer, place) = (&mut receive_buffers[0].own, stored.slot().unwrap());
        client.write_all(b"one\nha").unwrap();
        let read_progress = Arc::clone(&receive_buffer.read_progress);
        let mut number = 0;
        let begin = || number = read_progress.begin(Subject::Stream(place), 77, plan().max_event_bytes);
        receive_buffer.headers.receive_stream(&stored.socket, &mut receive_buffer.stream, begin).unwrap();
        read_progress.commit(1);
        assert!(stored.note_position(&ReadPosition::Text { open_line: None, carry: b"ha" }, number));
    }
    client.write_all(b"lf\n").unwrap();
    let left = vec![InheritedReceiveBuffer::new(0, manager.copy_of("desk0"))];
    let receive_buffers = ReceiveBuffers::take_over(1, Some(&manager.store()), left).unwrap();
    let rig = Rig::with_receive_buffers(&mut manager, &Plan { writers: 1, ..plan() }, Seen::default(), receive_buffers);
    rig.wait_for_events(1);
    assert_eq!(rig.stop().texts(), ["half"]);
}

#[test]
fn a_death_between_two_senders_ends_the_line_of_the_first_once() {
    // How much of "half", "line" and "rest" is published, and whether the read position includes the read.
    for (published, includes, expected) in
        [(0, false, &["half", "line", "rest"][..]), (1, false, &["line", "rest"]), (2, true, &["rest"])]
    {
        let mut manager = Manager::new();
        let (client, ours) = UnixStream::pair().unwrap();
        setsockopt(&ours, PassCred, &true).unwrap();
        let first = Identity { pid: 4_000_001, uid: 7, comm: b"first"[..].into(), ..Identity::default() };
        {
            let (connections, _) = manager.next_process(16);
            let mut stored = connections.keep(0, ours.into(), &first);
            assert!(stored.note_position(&ReadPosition::Text { open_line: None, carry: b"half" }, 1));
            let mut receive_buffers = ReceiveBuffers::take_over(1, Some(&manager.store()), Vec::new()).unwrap();
            let (receive_buffer, place) = (&mut receive_buffers[0].own, stored.slot().unwrap());
            (&client).write_all(b"line\nre").unwrap();
            let read_progress = Arc::clone(&receive_buffer.read_progress);
            let mut number = 0;
            let begin = || number = read_progress.begin(Subject::Stream(place), 77, plan().max_event_bytes);
            receive_buffer.headers.receive_stream(&stored.socket, &mut receive_buffer.stream, begin).unwrap();
            read_progress.commit(published);
            if includes {
                assert!(stored.note_position(&ReadPosition::Text { open_line: None, carry: b"re" }, number));
            }
        }
        (&client).write_all(b"st\n").unwrap();
        drop(client);
        let left = vec![InheritedReceiveBuffer::new(0, manager.copy_of("desk0"))];
        let receive_buffers = ReceiveBuffers::take_over(2, Some(&manager.store()), left).unwrap();
        let rig = Rig::with_receive_buffers(&mut manager, &plan(), Seen::default(), receive_buffers);
        let events = rig.wait_for_events(expected.len());
        assert_eq!(rig.stop().texts(), expected, "{published} were published");
        for Got { source, payload, .. } in &events {
            let pid = if payload == b"half" { first.pid } else { std::process::id() };
            assert_eq!(source.pid, pid, "{}", payload.escape_ascii());
        }
    }
}

#[test]
fn a_framed_client_in_its_handshake_must_connect_again() {
    let greeting = [hello(1, Level::Durable), event(1, b"framed")].concat();
    assert_eq!(died_in_a_read(&LINE_START, &greeting, 0, b"and more frames"), [""; 0]);
}

/// As [`died_in_a_read`], for a client that has sent everything and left, so that only the receive buffer is left of
/// it.
fn died_in_the_read_of_all(said: &[u8], published: u64) -> Vec<(String, u32)> {
    let mut manager = Manager::new();
    let client = Identity { pid: 4_000_001, uid: 7, comm: b"short"[..].into(), ..Identity::default() };
    {
        let (mut stream, ours) = UnixStream::pair().unwrap();
        stream.write_all(said).unwrap();
        drop(stream);
        let (connections, _) = manager.next_process(16);
        let stored = connections.note(0, ours.into(), &client);
        let mut receive_buffers = ReceiveBuffers::take_over(1, Some(&manager.store()), Vec::new()).unwrap();
        let receive_buffer = &mut receive_buffers[0].own;
        let (read_progress, place) = (Arc::clone(&receive_buffer.read_progress), stored.slot().unwrap());
        let begin = || _ = read_progress.begin(Subject::Stream(place), 77, plan().max_event_bytes);
        assert_eq!(
            receive_buffer.headers.receive_stream(&stored.socket, &mut receive_buffer.stream, begin).unwrap(),
            said.len()
        );
        read_progress.commit(published);
    }
    assert_eq!(manager.names(), ["bookmarks", "desk0"], "systemd has not heard of it");
    let left = vec![InheritedReceiveBuffer::new(0, manager.copy_of("desk0"))];
    let receive_buffers = ReceiveBuffers::take_over(2, Some(&manager.store()), left).unwrap();
    let rig = Rig::with_receive_buffers(&mut manager, &plan(), Seen::default(), receive_buffers);
    rig.wait_until("it is done with", |counters| {
        counters.writers.iter().all(|writer| writer.0.connections.load(Relaxed) == 0)
    });
    // A client of its own, so that no other connection gets its place meanwhile.
    rig.connect().write_all(b"of another\n").unwrap();
    let seen = rig.stop();
    assert!(seen.losses.is_empty());
    let others = seen.events.iter().filter(|event| event.text() != "of another");
    others.map(|event| (event.text(), event.source.pid)).collect()
}

#[test]
fn bytes_of_a_client_that_has_sent_everything_and_closed_outlive_the_process() {
    let said = b"one\ntwo\nlast without its end";
    for (published, expected) in
        [(0, &["one", "two", "last without its end"][..]), (2, &["last without its end"]), (3, &[])]
    {
        let published_again = died_in_the_read_of_all(said, published);
        assert!(published_again.iter().all(|(_, pid)| *pid == 4_000_001), "its owner is known: {published_again:?}");
        let texts: Vec<&str> = published_again.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, expected, "{published} were published");
    }
}

#[test]
fn a_client_that_has_sent_everything_and_closed_is_read_to_its_end_at_once() {
    let mut manager = Manager::new();
    let rig = Rig::under(&mut manager, &plan(), Seen::default());
    for said in [&b"one\ntwo\n"[..], b"three\nfour", b"five", b"", b"\n"] {
        rig.connect().write_all(said).unwrap();
    }
    let mut texts: Vec<String> = rig.wait_for_events(5).iter().map(|event| event.text()).collect();
    texts.sort();
    assert_eq!(texts, ["five", "four", "one", "three", "two"]);
    rig.stop();
    assert_eq!(manager.names(), ["bookmarks"], "no place is taken for longer");
}

/// A first life takes `step` for a connection with this position, publishes `published` events and pieces of it, and
/// dies. Then `write_on` comes. Returns what a second life has seen.
fn died_in_a_step(
    step: fn(u32) -> Subject,
    position: &ReadPosition<'_>,
    is_damaged: bool,
    (published, before): (u64, Seen),
    write_on: &[u8],
) -> Seen {
    let mut manager = Manager::new();
    let (mut client, ours) = UnixStream::pair().unwrap();
    {
        let (connections, _) = manager.next_process(16);
        let mut stored = connections.keep(0, ours.into(), &Identity::default());
        assert!(stored.note_position(position, 1) && stored.note_position(position, 2));
        let receive_buffers = ReceiveBuffers::take_over(1, Some(&manager.store()), Vec::new()).unwrap();
        let read_progress = &receive_buffers[0].own.read_progress;
        read_progress.begin(step(stored.slot().unwrap()), 77, plan().max_event_bytes);
        read_progress.commit(published);
    }
    if is_damaged {
        damage(&manager.copy_of("bookmarks"), 0);
    }
    client.write_all(write_on).unwrap();
    drop(client);
    let left = vec![InheritedReceiveBuffer::new(0, manager.copy_of("desk0"))];
    let receive_buffers = ReceiveBuffers::take_over(2, Some(&manager.store()), left).unwrap();
    let rig = Rig::with_receive_buffers(&mut manager, &plan(), before, receive_buffers);
    rig.wait_until("it is read to its end", |counters| {
        counters.writers.iter().all(|writer| writer.0.connections.load(Relaxed) == 0)
    });
    rig.stop()
}

#[test]
fn a_piece_that_was_published_to_free_memory_is_not_published_again_after_a_death() {
    let carried = ReadPosition::Text { open_line: None, carry: b"the beginning" };
    let seen = died_in_a_step(Subject::Carry, &carried, false, (0, Seen::default()), b" and the end\n");
    assert_eq!((seen.texts(), seen.losses.len()), (vec!["the beginning and the end".to_owned()], 0));
    // The piece that the first life has published.
    let piece = Got { payload: b"the beginning".to_vec(), pieces: 1, ..seen.events[0].clone() };
    let before = Seen { pieces: HashMap::from([(77, piece)]), ..Seen::default() };
    let seen = died_in_a_step(Subject::Carry, &carried, false, (1, before), b" and the end\n");
    assert_eq!((seen.texts(), seen.losses.len()), (vec!["the beginning and the end".to_owned()], 0));
}

#[test]
fn a_line_whose_loss_was_reported_is_not_reported_again_after_a_death() {
    let carried = ReadPosition::Text { open_line: None, carry: b"the beginning" };
    for (published, lost) in [(0, 1), (1, 0)] {
        let seen = died_in_a_step(Subject::LostLine, &carried, true, (published, Seen::default()), b"next\n");
        assert_eq!(seen.texts(), ["next"]);
        assert_eq!(seen.losses.iter().map(|(_, loss)| loss.events).sum::<u64>(), lost, "{published} were published");
    }
}

// ---- a framed client whose connection ends with a read ----

/// A frame that breaks the protocol, all of it within the bytes of a handshake.
fn broken() -> Vec<u8> {
    let mut bytes = Vec::new();
    Head { length: 1 << 31, kind: kind::EVENT, detail: 6, tag_length: 0, sequence: 1, time_ns: 0 }.encode(&mut bytes);
    bytes.extend_from_slice(b"a line of text\n");
    bytes
}

#[test]
fn a_broken_frame_of_a_client_that_has_closed_is_no_line() {
    let early = vec![[hello(1, Level::None), broken()].concat()];
    let rig = Rig::under(&mut Manager::new(), &Plan { early, ..plan() }, Seen::default());
    assert_eq!(rig.wait_for_loss().1.cause, Cause::Malformed);
    let seen = rig.stop();
    assert_eq!((seen.texts(), seen.losses.len()), (Vec::new(), 1));
}

/// A stored connection of the stream socket, and what its writer has.
struct Reading {
    client: UnixStream,
    connection: Connection,
    receive_buffer: ReceiveBuffer,
    context: WriterContext,
    manager: Manager,
    _reader: Reader,
}

impl Reading {
    fn begin() -> Self {
        let mut manager = Manager::new();
        let (client, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stored = manager.next_process(16).0.keep(0, ours.into(), &Identity::default());
        let receive_buffer = ReceiveBuffers::take_over(1, Some(&manager.store()), Vec::new()).unwrap().remove(0).own;
        let options = Options { capacity_bytes: 1 << 20, chunk_bytes: 64 << 10, writers_max: 1 };
        let (buffer, reader) = DoubleBuffer::new(&options).unwrap();
        let counters = Arc::new(Counters::new(1).unwrap());
        let publisher = Publisher::new(buffer.writer().unwrap(), 0, counters, Arc::default());
        let progress = Arc::new(Progress::new(1).unwrap());
        let mut context = WriterContext::new(publisher, 0, plan().max_event_bytes, progress, buffer.waker());
        let rings = Rings::new(Shares::even(1 << 20));
        let protocol = ListenerKind::Stream
            .first_protocol(&Arc::new(Shared { sessions: Sessions::new(Shares::even(4096)), rings }));
        let held = Shares::even(1).take_over(Resource::Connections, 0, 1);
        let connection = Connection::new(held, stored, context.peer(Identity::default()), protocol);
        Self { client, connection, receive_buffer, context, manager, _reader: reader }
    }

    fn read(&mut self, sent: &[u8]) -> ReadResult {
        self.client.write_all(sent).unwrap();
        self.connection.read(&mut self.receive_buffer, &mut self.context).unwrap()
    }

    /// What the next process finds if this one dies now.
    fn left(&mut self) -> (InheritedPosition, bool) {
        let read_positions = ReadPositions::open(self.manager.copy_of("bookmarks")).unwrap();
        (read_positions.read(0).position, self.receive_buffer.read_progress.outlive())
    }
}

#[test]
fn a_framed_client_whose_connection_ends_with_a_read_has_no_record_when_the_read_is_done() {
    let ends = [
        [hello(1, Level::None), event(1, b"one"), frame(&Frame::Bye)].concat(),
        [hello(1, Level::None), broken()].concat(),
        [MAGIC.to_vec(), event(1, b"no hello")].concat(),
    ];
    for said in ends {
        for first in [0, 3] {
            let mut reading = Reading::begin();
            if first > 0 {
                assert_eq!(reading.read(&said[..first]), ReadResult::Some(Next::Open));
            }
            let last = reading.read(&said[first..]);
            assert!(matches!(last, ReadResult::Some(Next::Close) | ReadResult::End(Next::Close)), "{last:?}");
            assert_eq!(reading.left(), (InheritedPosition::Unknown, false), "before the connection is closed");
        }
    }
}

#[test]
fn half_a_handshake_that_is_given_up_to_free_memory_has_no_record_when_that_is_done() {
    let mut reading = Reading::begin();
    assert_eq!(reading.read(&hello(1, Level::None)[..20]), ReadResult::Some(Next::Open));
    let read_progress = Arc::clone(&reading.receive_buffer.read_progress);
    assert_eq!(reading.connection.shed(&read_progress, None, &mut reading.context), Ok(Next::Close));
    assert_eq!(reading.left(), (InheritedPosition::Unknown, false), "before the connection is closed");
}

#[test]
fn a_framed_client_that_reconnects_has_no_record_when_its_last_read_is_done() {
    let mut reading = Reading::begin();
    reading.client.write_all(&[hello(1, Level::None), event(1, b"one")].concat()).unwrap();
    let (socket, read_progress) = (reading.connection.socket(), Arc::clone(&reading.receive_buffer.read_progress));
    let begin = || _ = read_progress.begin(Subject::Stream(0), 77, plan().max_event_bytes);
    reading.receive_buffer.headers.receive_stream(socket, &mut reading.receive_buffer.stream, begin).unwrap();
    let next = reading.connection.replay(&reading.receive_buffer, 1, &mut reading.context);
    assert_eq!(next, Ok(Next::Close));
    assert_eq!(reading.left(), (InheritedPosition::Unknown, false), "before its slot can be another's");
}

#[test]
fn the_unfinished_read_of_a_connection_that_ends_is_dropped_before_its_slot_is_reused() {
    let mut manager = Manager::new();
    let (mut text, its_socket) = UnixStream::pair().unwrap();
    let (mut framed, other_socket) = UnixStream::pair().unwrap();
    {
        let (connections, _) = manager.next_process(16);
        let of_text = connections.keep(0, its_socket.into(), &Identity::default());
        let mut of_framed = connections.keep(0, other_socket.into(), &Identity::default());
        text.write_all(&b"line\n".repeat(30_000)).unwrap();
        framed.write_all(&[hello(1, Level::Durable), event(1, b"framed")].concat()).unwrap();
        let mut receive_buffers = ReceiveBuffers::take_over(2, Some(&manager.store()), Vec::new()).unwrap();
        for (of_writer, stored) in receive_buffers.iter_mut().zip([&of_text, &of_framed]) {
            let receive_buffer = &mut of_writer.own;
            let (read_progress, slot) = (Arc::clone(&receive_buffer.read_progress), stored.slot().unwrap());
            let begin = || _ = read_progress.begin(Subject::Stream(slot), 77, plan().max_event_bytes);
            receive_buffer.headers.receive_stream(&stored.socket, &mut receive_buffer.stream, begin).unwrap();
        }
        assert!(of_framed.forget_position(), "the process dies right after this");
    }
    let take_over = |manager: &mut Manager, writers| {
        let left = [0, 1].map(|index| InheritedReceiveBuffer::new(index, manager.copy_of(&format!("desk{index}"))));
        ReceiveBuffers::take_over(writers, Some(&manager.store()), left.into()).unwrap()
    };
    let receive_buffers = take_over(&mut manager, 1);
    let sizes = Plan { writers: 1, capacity_bytes: 64 << 10, chunk_bytes: 16 << 10, ..plan() };
    let rig = Rig::with_receive_buffers(
        &mut manager,
        &Plan { begins_paused: true, ..sizes },
        Seen::default(),
        receive_buffers,
    );
    // The lines do not fit, so the writer gets no further than these.
    let pulse = &rig.accept.as_ref().unwrap().pulses()[0];
    rig.wait_until("the writer publishes the lines", |_| pulse.look().activity == Activity::WaitsForRoom);
    let unfinished: Vec<u32> = take_over(&mut manager, 2).iter().flat_map(ReceiveBuffers::slots).collect();
    assert_eq!(unfinished, [0], "a third process would have these to finish");
    rig.pause(false);
    assert_eq!(rig.wait_for_events(30_000).len(), 30_000);
    rig.stop();
}
