use super::*;
use crate::wire::{Code, Fault};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

/// A daemon of one connection that does what `play` says after it has read a HELLO.
fn with_daemon(
    play: impl FnOnce(&mut UnixStream, &mut Vec<u8>) + Send + 'static,
) -> (tempfile::TempDir, PathBuf, thread::JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        read_until(&mut stream, &mut bytes, |bytes| {
            bytes.len() > wire::MAGIC.len() && Frame::decode(&bytes[wire::MAGIC.len()..]).unwrap().is_some()
        });
        let (_, hello) = Frame::decode(&bytes[wire::MAGIC.len()..]).unwrap().unwrap();
        bytes.drain(..wire::MAGIC.len() + hello);
        play(&mut stream, &mut bytes);
    });
    (dir, path, daemon)
}

fn read_until(stream: &mut UnixStream, bytes: &mut Vec<u8>, enough: impl Fn(&[u8]) -> bool) {
    let mut more = [0; 4096];
    while !enough(bytes) {
        let n = stream.read(&mut more).unwrap();
        assert!(n > 0, "the client went away too early");
        bytes.extend_from_slice(&more[..n]);
    }
}

fn reply(stream: &mut UnixStream, frames: &[Frame<'_>]) {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    stream.write_all(&bytes).unwrap();
}

fn welcome(last: u64) -> Frame<'static> {
    Frame::Welcome(Welcome { version: 1, max_event: 1000, compatible: 0, incompatible: 0, last })
}

fn has_sync(bytes: &[u8]) -> bool {
    frames(bytes).iter().any(|frame| matches!(frame, Frame::Sync))
}

fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Some((frame, consumed)) = Frame::decode(bytes).unwrap() {
        frames.push(frame);
        bytes = &bytes[consumed..];
    }
    frames
}

#[test]
fn what_is_sent_arrives_and_sync_waits_for_the_durable_acknowledgement() {
    let (_dir, path, daemon) = with_daemon(|stream, bytes| {
        reply(stream, &[welcome(0)]);
        read_until(stream, bytes, has_sync);
        let events: Vec<_> = frames(bytes)
            .into_iter()
            .filter_map(|frame| if let Frame::Event(event) = frame { Some(event) } else { None })
            .collect();
        assert_eq!(events[0], Event { pri: 6, tag: b"", time_ns: 0, sequence: 1, fields: b"", payload: b"one" });
        assert_eq!(events[1], Event { pri: 3, tag: b"tag", time_ns: 9, sequence: 2, fields: b"", payload: b"two" });
        reply(stream, &[Frame::Ack { level: Level::Durable, sequence: 1 }]);
        reply(stream, &[Frame::Ack { level: Level::Durable, sequence: 2 }]);
    });
    let mut client = Client::connect(&path, &ClientOptions::default()).unwrap();
    assert_eq!(client.send(6, b"", 0, b"one").unwrap(), 1);
    assert_eq!(client.send(3, b"tag", 9, b"two").unwrap(), 2);
    client.sync(Duration::from_secs(10)).unwrap();
    daemon.join().unwrap();
}

#[test]
fn a_refused_event_makes_the_sync_an_error_once_and_is_named() {
    let (_dir, path, daemon) = with_daemon(|stream, bytes| {
        reply(stream, &[welcome(0)]);
        read_until(stream, bytes, has_sync);
        let fault = Fault { code: Code::Lost as u8, first: 1, last: 2, text: b"disk" };
        reply(stream, &[Frame::Error(fault), Frame::Ack { level: Level::Durable, sequence: 3 }]);
    });
    let mut client = Client::connect(&path, &ClientOptions::default()).unwrap();
    for _ in 0..3 {
        client.send(6, b"", 0, b"x").unwrap();
    }
    assert!(matches!(client.sync(Duration::from_secs(10)), Err(Error::Refused(2))));
    let named: Vec<_> = client.refusals().collect();
    assert_eq!(named, [Refusal { first: 1, last: 2, code: Code::Lost as u8, text: "disk".into() }]);
    client.sync(Duration::ZERO).unwrap();
    daemon.join().unwrap();
}

#[test]
fn an_event_that_breaks_a_rule_is_refused_before_it_is_sent_and_takes_no_sequence() {
    let (_dir, path, daemon) = with_daemon(|stream, bytes| {
        reply(stream, &[welcome(41)]);
        let is_bye = |bytes: &[u8]| frames(bytes).iter().any(|frame| matches!(frame, Frame::Bye));
        read_until(stream, bytes, is_bye);
        assert_eq!(frames(bytes).len(), 2, "one event and the goodbye");
    });
    let mut client = Client::connect(&path, &ClientOptions { session: 5, ..Default::default() }).unwrap();
    assert!(matches!(client.send(6, b"", 0, &[0; 1001]), Err(Error::TooBig { bytes: 1001, max_event: 1000 })));
    assert!(matches!(client.send(6, b"", 0, b""), Err(Error::Invalid(_))));
    assert!(matches!(client.send(6, &[b't'; 65], 0, b"x"), Err(Error::Invalid(_))));
    assert!(matches!(client.send(192, b"", 0, b"x"), Err(Error::Invalid(_))));
    assert_eq!(client.send(6, b"", 0, b"x").unwrap(), 42, "a session goes on where the daemon says");
    client.close().unwrap();
    daemon.join().unwrap();
}

#[test]
fn a_daemon_that_ends_the_connection_is_quoted() {
    let (_dir, path, daemon) = with_daemon(|stream, _| {
        reply(stream, &[Frame::Error(Fault { code: Code::Busy as u8, first: 0, last: 0, text: b"come back later" })]);
    });
    let error = Client::connect(&path, &ClientOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "dbufd ended the connection: come back later (busy)");
    daemon.join().unwrap();
}

#[test]
fn a_sync_that_is_not_answered_ends_in_time_and_a_dead_daemon_at_once() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (_dir, path, daemon) = with_daemon(move |stream, _| {
        reply(stream, &[welcome(0)]);
        let _ = wait.recv();
    });
    let mut client = Client::connect(&path, &ClientOptions { quiet: true, ..ClientOptions::default() }).unwrap();
    client.send(6, b"", 0, b"x").unwrap();
    assert!(matches!(client.sync(Duration::from_millis(20)), Err(Error::Timeout(_))));
    drop(go);
    daemon.join().unwrap();
    assert!(matches!(client.sync(Duration::from_secs(10)), Err(Error::Closed)));
    assert!(matches!(client.push(), Err(Error::Closed)), "and stays so");
    client.send(6, b"", 0, b"never written").unwrap();
    assert!(matches!(client.close(), Err(Error::Closed)), "an event is left");
}

#[test]
fn a_sync_ends_in_time_although_the_daemon_reads_nothing_and_a_later_one_goes_on_there() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (_dir, path, daemon) = with_daemon(move |stream, bytes| {
        reply(stream, &[welcome(0)]);
        wait.recv().unwrap();
        read_until(stream, bytes, has_sync);
        let all = frames(bytes);
        let is_sync = |frame: &&Frame<'_>| matches!(frame, Frame::Sync);
        assert_eq!((all.len(), all.iter().filter(is_sync).count()), (4001, 1), "it is asked once");
        reply(stream, &[Frame::Ack { level: Level::Durable, sequence: 4000 }]);
        read_until(stream, bytes, |bytes| matches!(frames(bytes).last(), Some(Frame::Bye)));
    });
    let mut client = Client::connect(&path, &ClientOptions::default()).unwrap();
    for sequence in 1..=4000 {
        // Not by `send`, which waits for room.
        let payload = [b'x'; 1000];
        client.connection.queue(&Frame::Event(Event { sequence, payload: &payload, ..Event::default() }));
        client.sequence = sequence;
    }
    for _ in 0..2 {
        assert!(matches!(client.sync(Duration::from_millis(20)), Err(Error::Timeout(_))));
    }
    go.send(()).unwrap();
    client.sync(Duration::from_secs(60)).unwrap();
    client.close().unwrap();
    daemon.join().unwrap();
}

#[test]
fn replies_cut_at_any_byte_are_understood() {
    let mut bytes = Vec::new();
    welcome(0).encode(&mut bytes);
    Frame::Ack { level: Level::Persisted, sequence: 7 }.encode(&mut bytes);
    Frame::Ignored { kind: 0xF0 }.encode(&mut bytes);
    Frame::Ack { level: Level::Durable, sequence: 6 }.encode(&mut bytes);
    let (_dir, path, daemon) = with_daemon(move |stream, _| {
        for byte in bytes {
            stream.write_all(&[byte]).unwrap();
        }
    });
    let mut client = Client::connect(&path, &ClientOptions { ack: Level::Persisted, ..Default::default() }).unwrap();
    daemon.join().unwrap();
    let error = client.acknowledged().unwrap_err();
    assert!(matches!(error, Error::Closed));
    assert_eq!((client.acknowledged, client.durable), (7, 6));
}
