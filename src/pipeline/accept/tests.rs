//! Tests the writers as clients see them: real sockets, the real buffer, and everything that a client can do wrong.

pub(crate) mod manager;
mod rig;
mod rings;
mod senders;
mod succession;
mod throttled;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use dbuf_wire::frames::{Code, Event, Frame, Head, Hello, Level, MAGIC, kind};

use self::rig::{Plan, Rig};
use crate::pipeline::pulse::Activity;
use crate::pipeline::record::{Cause, Transport};
use crate::sync::atomic::Ordering::Relaxed;

fn rig() -> Rig {
    Rig::new(&Plan::default())
}

// ---- text ----

#[test]
fn lines_become_events_that_name_their_sender() {
    let rig = rig();
    rig.send(b"hello\n<3>on fire\n\nlast without newline");
    let events = rig.wait_for_events(3);
    let texts: Vec<_> = events.iter().map(|event| (event.text(), event.pri)).collect();
    assert_eq!(texts, [("hello".into(), 6), ("on fire".into(), 3), ("last without newline".into(), 6)]);
    for event in &events {
        assert_eq!((event.source.pid, event.source.transport), (std::process::id(), Transport::Lines));
        assert!(!event.source.comm.is_empty() && event.time_ns > 1_700_000_000_000_000_000);
    }
    let seen = rig.stop();
    assert_eq!((seen.events.len(), seen.losses.len()), (3, 0));
}

#[test]
fn syslog_is_parsed_on_a_stream_and_in_a_datagram() {
    let rig = rig();
    rig.send(b"<156>Nov 23 05:26:32 web app[77]: hi\n28 <13>Nov 23 05:26:33 root: hi");
    let datagrams = rig.datagrams();
    datagrams.send(b"<14>1 2026-11-23T05:26:32.5Z h app 77 ID47 [a@1 b=\"c\"] hi").unwrap();
    let events = rig.wait_for_events(3);
    for event in &events {
        assert_eq!((event.text(), event.source.transport), ("hi".into(), Transport::Syslog));
        assert!(event.source_time_ns.is_some());
    }
    let by_tag = |pri: u8| events.iter().find(|event| event.pri == pri).unwrap();
    assert_eq!((&*by_tag(156).source.tag, by_tag(156).source.claimed_pid), (&b"app"[..], 77));
    assert_eq!(by_tag(156).fields, [(b"SYSLOG_HOSTNAME".to_vec(), b"web".to_vec())]);
    assert_eq!(&*by_tag(13).source.tag, b"root");
    let names: Vec<_> = by_tag(14).fields.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    assert_eq!(names, ["SYSLOG_HOSTNAME", "SYSLOG_MSGID", "SYSLOG_STRUCTURED_DATA"]);
}

#[test]
fn any_bytes_are_stored_as_they_came() {
    let rig = rig();
    let line: Vec<u8> = (0..=255u8).filter(|b| *b != b'\n').collect();
    let mut garbage = Vec::new();
    for turn in 0..200 {
        let mut turned = line.clone();
        turned.rotate_left(turn);
        garbage.extend_from_slice(&turned);
        garbage.push(b'\n');
    }
    rig.send(&garbage);
    let events = rig.wait_for_events(200);
    for (turn, event) in events.iter().enumerate() {
        let mut turned = line.clone();
        turned.rotate_left(turn);
        assert_eq!(event.payload, turned, "turn {turn}");
    }
}

#[test]
fn a_line_of_many_megabytes_comes_whole_in_pieces() {
    let rig = rig();
    let line: Vec<u8> = (0..5_000_000u32).map(|n| b'a' + (n % 25) as u8).collect();
    rig.send(&[b"<4>", &line[..], b"\nafter\n"].concat());
    let events = rig.wait_for_events(2);
    assert!(events[0].payload == line && events[0].pri == 4);
    assert_eq!(events[0].pieces, (line.len() + 3).div_ceil(4096));
    assert_eq!((events[1].text(), events[1].pieces), ("after".into(), 1));
    let totals = rig.totals_of(2);
    assert_eq!((totals.received_events, totals.received_bytes), (2, line.len() as u64 + 5));
}

#[test]
fn a_piece_of_syslog_that_ends_in_a_newline_keeps_it() {
    let rig = Rig::new(&Plan { max_event_bytes: 1024, ..Plan::default() });
    for before in 0..2 {
        let text = format!("<13>Nov 23 05:26:33 root: {}{}", "x".repeat(before), "y\n".repeat(900));
        rig.send(format!("{} {text}", text.len()).as_bytes());
        let events = rig.wait_for_events(before + 1);
        assert_eq!(events[before].text(), text[26..], "one of two begins a piece with the newline, the other ends it");
    }
}

#[test]
fn a_line_that_drips_in_by_single_bytes_is_one_event() {
    let rig = rig();
    let mut stream = rig.connect();
    for byte in b"drip\ndrop\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(rig.wait_for_events(2).iter().map(rig::Got::text).collect::<Vec<_>>(), ["drip", "drop"]);
}

#[test]
fn a_batch_is_cut_where_the_chunk_ends_and_every_line_comes_once_in_order() {
    // Chunks so small that one read takes many claims, and a reader that swaps all the time.
    let rig =
        Rig::new(&Plan { max_event_bytes: 1024, capacity_bytes: 320 << 10, chunk_bytes: 1 << 10, ..Plan::default() });
    let count = 50_000;
    let threads: Vec<_> = (0..3)
        .map(|sender| {
            let mut stream = rig.connect();
            std::thread::spawn(move || {
                let lines: String = (0..count).map(|n| format!("{sender} {n} {}\n", "x".repeat(n % 90))).collect();
                stream.write_all(lines.as_bytes()).unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut next = [0; 3];
    for event in rig.wait_for_events(3 * count) {
        let text = event.text();
        let mut words = text.split(' ');
        let sender: usize = words.next().unwrap().parse().unwrap();
        assert_eq!(words.next().unwrap().parse(), Ok(next[sender]));
        next[sender] += 1;
    }
    assert_eq!((next, rig.totals_of(3 * count as u64).received_events), ([count; 3], 3 * count as u64));
}

#[test]
fn memory_for_what_has_not_come_whole_is_bounded_and_nothing_of_it_is_lost() {
    let max_event_bytes = 1 << 20;
    let rig = Rig::new(&Plan { writers: 1, max_event_bytes, capacity_bytes: 8 << 20, ..Plan::default() });
    let half = vec![b'x'; 900 << 10];
    let mut streams: Vec<_> = (0..48).map(|_| rig.connect()).collect();
    for stream in &mut streams {
        stream.write_all(&half).unwrap();
    }
    // 42 MiB would be carried. What is over the bound is in the buffer, as pieces.
    rig.wait_until("the oldest are published as pieces", |counters| counters.account.totals().received_bytes > 0);
    for stream in &mut streams {
        stream.write_all(b"end\n").unwrap();
    }
    let events = rig.wait_for_events(48);
    assert!(events.iter().all(|event| event.payload.len() == half.len() + 3));
    assert!(events.iter().any(|event| event.pieces > 1) && events.iter().any(|event| event.pieces == 1));
}

#[test]
fn half_frames_of_many_clients_cannot_take_the_memory_of_one_that_works() {
    let max_event_bytes = 1 << 20;
    let rig = Rig::new(&Plan { writers: 1, max_event_bytes, capacity_bytes: 8 << 20, ..Plan::default() });
    let half = event(1, &vec![b'x'; 900 << 10]);
    let idle = rig.connect();
    (&idle).write_all(b"half a line since morning").unwrap();
    let hostile: Vec<_> = (0..48)
        .map(|n| {
            let mut stream = rig.connect();
            stream.write_all(&[&hello(100 + n, Level::None)[..], &half[..half.len() - 1]].concat()).unwrap();
            stream
        })
        .collect();
    let mut working = rig.connect();
    working.write_all(&hello(7, Level::Durable)).unwrap();
    for sequence in 1..=20 {
        working.write_all(&event(sequence, &vec![b'y'; 700 << 10])).unwrap();
    }
    replies(&mut working, is_durable(20));
    assert!(rig.counters.account.totals().lost[Cause::Abandoned as usize] > 0, "the oldest halves went");
    drop((hostile, idle));
    let seen = rig.stop();
    assert_eq!(seen.events.iter().filter(|event| event.producer_sequence.is_some()).count(), 20);
    let line = seen.events.iter().find(|event| event.payload == b"half a line since morning").unwrap();
    assert_eq!(line.pieces, 1);
    assert_eq!(seen.losses.iter().map(|(_, loss)| loss.events).sum::<u64>(), 48);
}

#[test]
fn the_limit_can_change_while_events_come() {
    let rig = rig();
    let mut stream = rig.connect();
    stream.write_all(&[b'x'; 3000]).unwrap();
    stream.write_all(b"\n").unwrap();
    assert_eq!(rig.wait_for_events(1)[0].pieces, 1);
    stream.write_all(&[b'y'; 3000]).unwrap();
    assert_eq!(rig.accept.as_ref().unwrap().set_max_event_bytes(1000), 1000);
    stream.write_all(b"\n").unwrap();
    let second = &rig.wait_for_events(2)[1];
    assert_eq!(second.payload, [b'y'; 3000]);
    rig.datagrams().send(&[b'z'; 1001]).unwrap();
    assert_eq!(rig.wait_for_loss().1.cause, Cause::TooBig);
    assert!(rig.accept.as_ref().unwrap().set_max_event_bytes(usize::MAX) < 1 << 20, "cut to what the buffer takes");
}

// ---- datagrams ----

#[test]
fn datagrams_come_in_order_byte_for_byte() {
    let rig = rig();
    let socket = rig.datagrams();
    for n in 0..500u32 {
        socket.send(&[&n.to_le_bytes()[..], b"\0\n"].concat()).unwrap();
    }
    socket.send(b"").unwrap();
    for (n, event) in rig.wait_for_events(500).iter().enumerate() {
        assert_eq!(event.payload, [&(n as u32).to_le_bytes()[..], b"\0\n"].concat());
        assert_eq!((event.source.pid, event.source.transport), (std::process::id(), Transport::Datagram));
        assert!(!event.source.comm.is_empty());
    }
    assert_eq!(rig.stop().events.len(), 500, "an empty datagram is no event");
}

#[test]
fn a_datagram_too_large_is_refused_whole_and_its_sender_is_named() {
    let rig = rig();
    let socket = rig.datagrams();
    socket.send(&[b'x'; 5000]).unwrap();
    socket.send(&[b'x'; 4097]).unwrap();
    socket.send(&[b'x'; 4096]).unwrap();
    assert_eq!(rig.wait_for_events(1)[0].payload.len(), 4096);
    let seen = rig.wait_for("two losses", |seen| {
        (seen.losses.iter().map(|(_, loss)| loss.events).sum::<u64>() == 2).then(|| seen.losses.clone())
    });
    for (source, loss) in &seen {
        assert_eq!((source.pid, loss.cause), (std::process::id(), Cause::TooBig));
    }
    assert_eq!(seen.iter().map(|(_, loss)| loss.bytes).sum::<u64>(), 9097);
    let totals = rig.totals_of(3);
    assert_eq!((totals.received_events, totals.lost[Cause::TooBig as usize]), (3, 2));
    let rows = rig.counters.account.busiest(10);
    assert_eq!(rows.iter().map(|row| (row.sent, row.lost_total())).collect::<Vec<_>>(), [(3, 2)]);
}

#[test]
fn datagrams_of_a_process_that_has_ended_are_still_its_own() {
    let rig = rig();
    let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.connect(sys.argv[1])\n\
                  for n in range(300): s.send(b'%d' % n)";
    let mut child = std::process::Command::new("python3").arg("-c").arg(script).arg(rig.path("dgram.sock")).spawn();
    let Ok(child) = &mut child else { return };
    assert!(child.wait().unwrap().success());
    let events = rig.wait_for_events(300);
    for (n, event) in events.iter().enumerate() {
        assert_eq!((event.text(), event.source.pid), (n.to_string(), child.id()));
        assert_eq!(&*event.source.comm, b"python3");
    }
}

// ---- frames ----

fn hello(session: u128, ack: Level) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    Frame::Hello(Hello { session, ack, ..Hello::new(b"tester") }).encode(&mut bytes);
    bytes
}

fn event(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Event { pri: 5, sequence, payload, ..Event::default() }.encode(&mut bytes);
    bytes
}

fn frame(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

/// Reads replies, each as text, until `last` is true for one.
fn replies(stream: &mut UnixStream, mut last: impl FnMut(&Frame<'_>) -> bool) -> Vec<String> {
    let (mut bytes, mut all) = (Vec::new(), Vec::new());
    loop {
        while let Some((frame, taken)) = Frame::decode(&bytes).unwrap() {
            all.push(format!("{frame:?}"));
            if last(&frame) {
                return all;
            }
            bytes.drain(..taken);
        }
        let mut part = [0; 4096];
        let got = stream.read(&mut part).unwrap();
        assert!(got > 0, "the connection ended after {all:?}");
        bytes.extend_from_slice(&part[..got]);
    }
}

fn is_durable(sequence: u64) -> impl FnMut(&Frame<'_>) -> bool {
    move |frame| matches!(frame, Frame::Ack { level: Level::Durable, sequence: s } if *s >= sequence)
}

fn assert_ended(stream: &mut UnixStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn frames_are_stored_and_acknowledged_when_they_are_durable() {
    let rig = rig();
    let mut stream = rig.connect();
    let sent = [hello(7, Level::None), event(1, b"one"), event(5, b"two\n"), frame(&Frame::Sync)].concat();
    // Byte by byte, so that every frame is cut at every byte.
    for byte in &sent {
        stream.write_all(&[*byte]).unwrap();
    }
    replies(&mut stream, is_durable(5));
    let events = rig.wait_for_events(2);
    assert_eq!((events[0].text(), events[1].text()), ("one".into(), "two\n".into()));
    assert_eq!((events[0].producer_sequence, events[1].producer_sequence), (Some(1), Some(5)));
    for event in &events {
        assert_eq!((event.pri, &*event.source.tag, event.source.session), (5, &b"tester"[..], 7));
        assert_eq!(event.source.transport, Transport::Frames);
    }
}

#[test]
fn a_client_that_says_bye_at_once_still_gets_its_acknowledgement() {
    let rig = rig();
    let mut stream = rig.connect();
    let bye = [hello(7, Level::Durable), event(1, b"one"), frame(&Frame::Bye)].concat();
    stream.write_all(&bye).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    replies(&mut stream, is_durable(1));
    assert_ended(&mut stream);
}

#[test]
fn many_frames_over_many_claims_are_acknowledged_to_the_last() {
    let rig =
        Rig::new(&Plan { max_event_bytes: 1024, capacity_bytes: 320 << 10, chunk_bytes: 1 << 10, ..Plan::default() });
    let mut stream = rig.connect();
    let count = 30_000;
    let writer = {
        let mut stream = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            stream.write_all(&hello(9, Level::Persisted)).unwrap();
            let frames: Vec<u8> = (1..=count).flat_map(|n| event(n, &vec![b'x'; n as usize % 300 + 1])).collect();
            stream.write_all(&frames).unwrap();
        })
    };
    let acknowledged = |frame: &Frame<'_>| matches!(frame, Frame::Ack { sequence, .. } if *sequence == count);
    replies(&mut stream, acknowledged);
    writer.join().unwrap();
    let events = rig.wait_for_events(count as usize);
    assert!(events.iter().zip(1..).all(|(event, n)| event.producer_sequence == Some(n)));
}

#[test]
fn a_frame_that_is_sent_again_is_stored_once() {
    let rig = rig();
    for _ in 0..2 {
        let mut stream = rig.connect();
        stream.write_all(&[hello(7, Level::Durable), event(1, b"one"), frame(&Frame::Bye)].concat()).unwrap();
        replies(&mut stream, is_durable(1));
        assert_ended(&mut stream);
    }
    assert_eq!(rig.counters.writers.iter().map(|w| w.0.duplicates.load(Relaxed)).sum::<u64>(), 1);
    assert_eq!(rig.stop().events.len(), 1);
}

#[test]
fn a_frame_too_large_is_refused_alone_and_named() {
    let rig = rig();
    let mut stream = rig.connect();
    stream.write_all(&[hello(7, Level::None), event(1, &[b'x'; 4097]), event(2, b"two")].concat()).unwrap();
    let told = replies(&mut stream, |frame| matches!(frame, Frame::Error(fault) if fault.code == Code::TooBig as u8));
    assert!(told.last().unwrap().contains("first: 1"));
    assert_eq!(rig.wait_for_events(1)[0].text(), "two");
    let (source, loss) = rig.wait_for_loss();
    assert_eq!((&*source.tag, loss.cause, loss.events, loss.bytes), (&b"tester"[..], Cause::TooBig, 1, 4097));
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_frame_leaves_a_loss_and_nothing_else() {
    let rig = rig();
    let cut = event(2, b"never whole");
    rig.send(&[&hello(7, Level::None)[..], &event(1, b"one"), &cut[..cut.len() - 3]].concat());
    assert_eq!(rig.wait_for_events(1)[0].text(), "one");
    let (source, loss) = rig.wait_for_loss();
    assert_eq!((source.pid, loss.cause, loss.events), (std::process::id(), Cause::Abandoned, 1));
}

#[test]
fn half_a_frame_at_a_stop_is_lost_only_if_no_client_sends_it_again() {
    for (session, losses) in [(7, 0), (0, 1)] {
        let rig = rig();
        let mut stream = rig.connect();
        let cut = event(2, b"never whole");
        let sent = [&hello(session, Level::None)[..], &event(1, b"one"), &cut[..cut.len() - 3]].concat();
        stream.write_all(&sent).unwrap();
        rig.wait_for_events(1);
        let seen = rig.stop();
        assert_eq!((seen.events.len(), seen.losses.len()), (1, losses), "session {session}");
    }
}

#[test]
fn a_length_of_two_gibibytes_ends_the_connection_from_the_head_alone() {
    let rig = rig();
    let mut stream = rig.connect();
    let mut head = Vec::new();
    Head { length: 1 << 31, kind: kind::EVENT, detail: 6, tag_length: 0, sequence: 2, time_ns: 0 }.encode(&mut head);
    stream.write_all(&[hello(7, Level::None), event(1, b"one"), head].concat()).unwrap();
    replies(&mut stream, |frame| matches!(frame, Frame::Error(fault) if fault.code == Code::Broken as u8));
    assert_ended(&mut stream);
    assert_eq!(rig.wait_for_events(1)[0].text(), "one", "what came before is stored");
    assert_eq!(rig.wait_for_loss().1.cause, Cause::Malformed);
}

#[test]
fn a_tag_that_is_longer_than_its_frame_ends_the_connection() {
    let rig = rig();
    let mut stream = rig.connect();
    let mut head = Vec::new();
    Head { length: 3, kind: kind::EVENT, detail: 6, tag_length: 9, sequence: 1, time_ns: 0 }.encode(&mut head);
    stream.write_all(&[hello(7, Level::None), head, b"abc".to_vec()].concat()).unwrap();
    assert_ended(&mut stream);
    assert_eq!(rig.wait_for_loss().1.cause, Cause::Malformed);
}

#[test]
fn a_wrong_handshake_is_answered_and_counted() {
    let rig = rig();
    let mut stream = rig.connect();
    stream.write_all(&[&MAGIC[..], &event(1, b"no hello")].concat()).unwrap();
    replies(&mut stream, |frame| matches!(frame, Frame::Error(_)));
    assert_ended(&mut stream);
    assert_eq!(rig.wait_for_loss().1.cause, Cause::Malformed);
    // A client that leaves in the middle of its handshake has offered no event.
    rig.send(&hello(7, Level::None)[..20]);
    rig.wait_until("both are gone", |counters| counters.writers.iter().all(|w| w.0.connections.load(Relaxed) == 0));
    assert_eq!(rig.counters.account.totals().lost_total(), 1);
}

#[test]
fn bytes_that_begin_like_the_magic_and_continue_otherwise_are_text() {
    let rig = rig();
    let mut stream = rig.connect();
    for part in [&MAGIC[..3], b"xyz\n", &MAGIC[..2]] {
        stream.write_all(part).unwrap();
    }
    drop(stream);
    let events = rig.wait_for_events(2);
    assert_eq!(events[0].payload, [&MAGIC[..3], b"xyz"].concat());
    assert_eq!(events[1].payload, MAGIC[..2]);
}

#[test]
fn a_client_that_never_reads_its_replies_is_cut_off_and_every_refusal_is_counted() {
    let rig = rig();
    let mut stream = rig.connect();
    stream.write_all(&hello(7, Level::None)).unwrap();
    let mut sent = 0;
    // Each of these is refused with a reply.
    while stream.write_all(&event(sent + 1, b"")).is_ok() {
        sent += 1;
        assert!(sent < 1_000_000, "a deaf client is cut off");
    }
    let lost = rig.counters.account.totals().lost[Cause::Malformed as usize];
    assert!(lost > 0 && lost <= sent);
    rig.send(b"others are served\n");
    assert_eq!(rig.wait_for_events(1)[0].text(), "others are served");
    let recorded = |seen: &rig::Seen| seen.losses.iter().map(|(_, loss)| loss.events).sum::<u64>();
    rig.wait_for("each refusal in the data", |seen| (recorded(seen) == lost).then_some(()));
}

// ---- many clients ----

#[test]
fn a_flood_on_one_connection_does_not_starve_another() {
    let keep = |payload: &[u8]| payload != b"flood";
    let rig = Rig::new(&Plan { writers: 1, keep, ..Plan::default() });
    let mut flood = rig.connect();
    let block = "flood\n".repeat(50_000).into_bytes();
    let flooding = std::thread::spawn(move || while flood.write_all(&block).is_ok() {});
    rig.wait_until("the flood has begun", |counters| counters.account.totals().received_events > 1000);
    let mut stream = rig.connect();
    let datagrams = rig.datagrams();
    for n in 0..20 {
        writeln!(stream, "quiet {n}").unwrap();
        datagrams.send(format!("datagram {n}").as_bytes()).unwrap();
        // Each event must come before the next is sent, so that a flood that starved this client would be seen.
        for wanted in [format!("quiet {n}"), format!("datagram {n}")] {
            rig.wait_for("the quiet ones", |seen| {
                seen.events.iter().any(|event| event.payload == wanted.as_bytes()).then_some(())
            });
        }
    }
    drop((stream, datagrams));
    let accept = { rig }.accept.take().unwrap();
    // The flood goes on: without a bound the writers would read it for ever.
    assert_eq!(accept.stop(rig::TIMEOUT).writers_left, 0, "a flood does not delay the end beyond its time");
    flooding.join().unwrap();
}

#[test]
fn clients_that_connect_and_leave_cost_nothing() {
    let rig = rig();
    let silent: Vec<_> = (0..50).map(|_| rig.connect()).collect();
    for n in 0..500 {
        let stream = rig.connect();
        if n % 5 == 0 {
            (&stream).write_all(b"x").unwrap();
        }
    }
    rig.wait_for_events(100);
    let open = |counters: &crate::pipeline::counters::Counters| -> Vec<u64> {
        counters.writers.iter().map(|writer| writer.0.connections.load(Relaxed)).collect()
    };
    rig.wait_until("only the silent ones are left", |counters| open(counters).iter().sum::<u64>() == 50);
    assert!(open(&rig.counters).iter().all(|count| *count > 0), "clients are spread: {:?}", open(&rig.counters));
    drop(silent);
    rig.wait_until("all are gone", |counters| open(counters).iter().sum::<u64>() == 0);
}

#[test]
fn without_work_no_writer_wakes_up() {
    let rig = rig();
    let silent = rig.connect();
    rig.send(b"one\n");
    rig.wait_for_events(1);
    rig.wait_until("the sender is gone", |counters| {
        counters.writers.iter().map(|writer| writer.0.connections.load(Relaxed)).sum::<u64>() == 1
    });
    let looks = || -> Vec<_> { rig.accept.as_ref().unwrap().pulses().iter().map(|pulse| pulse.look()).collect() };
    // Again and again: a writer that was woken and has not run yet looks as if it slept.
    rig.wait_until("no writer wakes for a while", |_| {
        let before = looks();
        // Time is what is tested: nothing can be waited for where nothing happens.
        std::thread::sleep(Duration::from_millis(150));
        before.iter().all(|beat| beat.activity == Activity::Parked) && looks() == before
    });
    drop(silent);
}

// ---- full, and the end ----

#[test]
fn while_the_buffer_is_full_senders_wait_and_nothing_is_lost() {
    let rig = Rig::new(&Plan {
        writers: 1,
        max_event_bytes: 1024,
        capacity_bytes: 256 << 10,
        chunk_bytes: 32 << 10,
        ..Plan::default()
    });
    rig.send(b"first\n");
    rig.wait_for_events(1);
    rig.pause(true);
    let mut stream = rig.connect();
    let lines: String = (0..20_000).map(|n| format!("{n:0100}\n")).collect();
    let sender = std::thread::spawn(move || stream.write_all(lines.as_bytes()).unwrap());
    rig.wait_until_the_writer_waits_for_room();
    assert!(!sender.is_finished(), "the sender is held back");
    rig.pause(false);
    sender.join().unwrap();
    let events = rig.wait_for_events(20_001);
    assert!(events[1..].iter().zip(0..).all(|(event, n)| event.text() == format!("{n:0100}")));
}

#[test]
fn clients_beyond_the_last_connection_wait_in_the_queue_and_are_served_when_others_leave() {
    let rig = Rig::new(&Plan { writers: 1, connections_max: 2, ..Plan::default() });
    let mut open = [rig.connect(), rig.connect()];
    for (number, stream) in open.iter_mut().enumerate() {
        writeln!(stream, "open {number}").unwrap();
    }
    rig.wait_for_events(2);
    let mut late = [rig.connect(), rig.connect()];
    for (number, stream) in late.iter_mut().enumerate() {
        writeln!(stream, "late {number}").unwrap();
    }
    // The writer has seen that clients wait, and reads on what is open.
    writeln!(open[0], "again").unwrap();
    rig.wait_for_events(3);
    assert_eq!(rig.counters.writers[0].0.connections.load(Relaxed), 2);
    drop(open);
    rig.wait_for_events(5);
    assert_eq!(rig.counters.writers[0].0.refused_connections.load(Relaxed), 0, "nobody is turned away");
    let mut texts = rig.stop().texts();
    texts.sort_unstable();
    assert_eq!(texts, ["again", "late 0", "late 1", "open 0", "open 1"]);
    drop(late);
}

#[test]
fn a_writer_that_waits_for_room_does_not_hold_up_the_end() {
    let mut rig = Rig::new(&Plan {
        writers: 1,
        max_event_bytes: 1024,
        capacity_bytes: 64 << 10,
        chunk_bytes: 32 << 10,
        ..Plan::default()
    });
    rig.pause(true);
    let mut stream = rig.connect();
    let sender = std::thread::spawn(move || stream.write_all(&b"x\n".repeat(2_000_000)));
    rig.wait_until_the_writer_waits_for_room();
    let stopped = rig.accept.take().unwrap().stop(Duration::ZERO);
    assert_eq!(stopped.writers_left, 1);
    // It ends with the reader. What it held is stored or counted.
    rig.end_reader();
    assert!(sender.join().unwrap().is_err(), "the sender sees its connection end");
}

#[test]
fn a_stop_takes_what_the_kernel_holds() {
    for _ in 0..20 {
        let rig = rig();
        // The reader is held back, so that most of this is still in the kernel when the order to stop comes.
        rig.pause(true);
        let mut streams: Vec<_> = (0..10).map(|_| rig.connect()).collect();
        for (n, stream) in streams.iter_mut().enumerate() {
            stream.write_all(format!("{n} whole\n{n} without newline").as_bytes()).unwrap();
        }
        let datagrams = rig.datagrams();
        datagrams.send(b"a datagram").unwrap();
        let mut framed = rig.connect();
        framed.write_all(&[hello(7, Level::Durable), event(1, b"framed")].concat()).unwrap();
        rig.pause(false);
        let seen = rig.stop();
        assert_eq!((seen.events.len(), seen.losses.len()), (22, 0), "{:?}", seen.texts());
        replies(&mut framed, is_durable(1));
        assert_ended(&mut framed);
    }
}
