//! The framed protocol through a whole daemon: what it acknowledges is true, and what is sent twice is stored once.

mod support;

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use dbuf_client::{Client, ClientOptions, Error};
use dbuf_wire::frames::{Event, Frame, Hello, Level, MAGIC};
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Home, TIMEOUT, wait_for};

/// Connects, again and again while the daemon still reads the session's last connection.
fn connect(home: &Home, options: &ClientOptions<'_>) -> Client {
    wait_for("a place for the session", || match Client::connect(home.socket("stream.sock"), options) {
        Err(Error::Ended { code, .. }) if code == "busy" => None,
        result => Some(result.expect("the daemon lets the client in")),
    })
}

fn payloads(home: &Home) -> Vec<String> {
    home.cat().lines().map(str::to_owned).collect()
}

#[test]
fn what_a_sync_returned_for_is_there_after_kill_9() {
    let home = Home::new();
    let daemon = home.start(&["storage.sync=never"]);
    let mut client = connect(&home, &ClientOptions::default());
    let sent: Vec<String> = (0..5000).map(|n| format!("event {n}")).collect();
    for payload in &sent {
        client.send(6, b"", 0, payload.as_bytes()).unwrap();
    }
    client.sync(TIMEOUT).unwrap();
    // At once: whatever is asked in between gives the daemon the time to make a lie true.
    daemon.kill();
    assert_eq!(payloads(&home), sent);
}

#[test]
fn events_are_acknowledged_unasked_at_the_level_that_was_chosen() {
    let home = Home::new();
    let _daemon = home.start(&["storage.sync=50ms"]);
    for ack in [Level::Persisted, Level::Durable] {
        let mut client = connect(&home, &ClientOptions { ack, ..ClientOptions::default() });
        for _ in 0..100 {
            client.send(6, b"", 0, b"x").unwrap();
        }
        client.push().unwrap();
        wait_for("the acknowledgement", || (client.acknowledged().unwrap() == 100).then_some(()));
        let stats = home.stats();
        let reached = if ack == Level::Durable { "durable" } else { "persisted" };
        assert!(stats["events"][reached].as_u64() >= Some(100), "{stats}");
    }
}

#[test]
fn what_is_sent_again_after_a_reconnect_is_stored_once() {
    let home = Home::new();
    let _daemon = home.start(&[]);
    let options = ClientOptions { session: 77, name: "again", ..ClientOptions::default() };
    let mut first = connect(&home, &options);
    for n in 1..=100 {
        first.send(6, b"", 0, format!("{n}").as_bytes()).unwrap();
    }
    first.close().unwrap();

    let second = connect(&home, &options);
    assert_eq!(second.sequence(), 100, "the daemon says where the session stands");
    second.close().unwrap();

    // A client that did not ask, and sends from the middle on.
    let mut bytes = MAGIC.to_vec();
    Frame::Hello(Hello { session: 77, ..Hello::new(b"again") }).encode(&mut bytes);
    for n in 51..=150u64 {
        let payload = n.to_string();
        Event { pri: 6, sequence: n, payload: payload.as_bytes(), ..Event::default() }.encode(&mut bytes);
    }
    wait_for("a place for the session", || {
        // Refused while the last connection is still read; then the daemon may close before all is written.
        let _ = home.stream().write_all(&bytes);
        (home.stats()["events"]["received"].as_u64() >= Some(150)).then_some(())
    });
    home.wait_persisted(150);
    let expected: Vec<String> = (1..=150).map(|n| n.to_string()).collect();
    assert_eq!(payloads(&home), expected);
}

#[test]
fn a_frame_keeps_its_tag_its_time_and_who_the_kernel_says_sent_it() {
    let home = Home::new();
    let _daemon = home.start(&[]);
    let mut client = connect(&home, &ClientOptions { name: "shop", ..ClientOptions::default() });
    client.send(3, b"billing", 1_700_000_000_123_456_789, b"card refused").unwrap();
    client.send(6, b"", 0, b"by name").unwrap();
    client.sync(TIMEOUT).unwrap();
    let events = home.json();
    let field = |event: &Value, name: &str| event[name].as_str().map(str::to_owned);
    assert_eq!(field(&events[0], "SYSLOG_IDENTIFIER").as_deref(), Some("billing"));
    assert_eq!(field(&events[0], "PRIORITY").as_deref(), Some("3"));
    assert_eq!(field(&events[0], "SOURCE_REALTIME_TIMESTAMP").as_deref(), Some("1700000000123456"));
    assert_eq!(field(&events[1], "SYSLOG_IDENTIFIER").as_deref(), Some("shop"));
    for event in &events {
        assert_eq!(field(event, "_TRANSPORT").as_deref(), Some("frames"));
        assert_eq!(field(event, "_PID"), Some(std::process::id().to_string()));
    }
}

#[test]
fn send_takes_words_or_lines_and_returns_when_they_are_durable() {
    let home = Home::new();
    let _daemon = home.start(&["ingest.max_event=1KiB"]);
    home.ctl_ok(&["send", "-p", "err", "-t", "backup", "--sync", "done", "after", "3 h"]);
    let mut lines = home
        .ctl_command(&["send", "-t", "lines", "--sync"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let long = "x".repeat(1025);
    lines.stdin.take().unwrap().write_all(format!("one\n\n{long}\nlast").as_bytes()).unwrap();
    let output = lines.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "a line was too long");
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 3"), "{output:?}");
    assert_eq!(home.stats()["events"]["durable"], 3);
    assert_eq!(payloads(&home), ["done after 3 h", "one", "last"]);
    let events = home.json();
    assert_eq!((&events[0]["PRIORITY"], &events[0]["SYSLOG_IDENTIFIER"]), (&"3".into(), &"backup".into()));
}

#[test]
fn the_benchmark_proves_each_way_through_the_daemon() {
    let home = Home::new();
    let _daemon = home.start(&[]);
    for via in ["ring", "frames", "lines", "dgram"] {
        let report = home.ctl_ok(&["bench", "--via", via, "--events", "3000", "--json"]);
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!((&report["proof"]["proven"], &report["proof"]["found"]), (&true.into(), &3000.into()), "{report}");
    }
    let too_large = home.ctl(&["bench", "--via", "frames", "--size", "10..100000"]);
    assert_eq!(too_large.status.code(), Some(2));
}

#[test]
fn a_daemon_that_stops_ends_the_connection_and_the_client_can_tell() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut client = connect(&home, &ClientOptions::default());
    client.send(6, b"", 0, b"before").unwrap();
    client.sync(TIMEOUT).unwrap();
    daemon.stop();
    client.send(6, b"", 0, b"after").unwrap();
    assert!(matches!(client.sync(Duration::from_secs(10)), Err(Error::Closed | Error::Io(_))));
    assert_eq!(payloads(&home), ["before"]);
}

#[test]
fn what_a_client_has_sent_is_stored_also_if_it_leaves_without_reading_its_answers() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut stream = home.stream();
    let mut bytes = MAGIC.to_vec();
    Frame::Hello(Hello { ack: Level::Persisted, ..Hello::new(b"leaves") }).encode(&mut bytes);
    Event { pri: 6, sequence: 1, payload: b"1", ..Event::default() }.encode(&mut bytes);
    stream.write_all(&bytes).unwrap();
    home.wait_persisted(1);
    // An answer lies in its queue now: the kernel tells the daemon of a reset when it leaves.
    daemon.signal(Signal::SIGSTOP);
    let mut bytes = Vec::new();
    for sequence in 2..=10u64 {
        let payload = sequence.to_string();
        Event { pri: 6, sequence, payload: payload.as_bytes(), ..Event::default() }.encode(&mut bytes);
    }
    stream.write_all(&bytes).unwrap();
    drop(stream);
    daemon.signal(Signal::SIGCONT);
    home.wait_for_stats("the end of the connection", |stats| stats["connections"]["open"] == 0);
    home.ctl_ok(&["sync"]);
    let expected: Vec<String> = (1..=10).map(|n: u64| n.to_string()).collect();
    assert_eq!(payloads(&home), expected);
}

#[test]
fn a_magic_that_a_stop_cuts_off_is_no_line() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut stream = home.stream();
    stream.write_all(&MAGIC[..5]).unwrap();
    home.wait_for_stats("the connection", |stats| stats["connections"]["open"] == 1);
    // It comes again when the daemon does, and says the rest then.
    daemon.stop();
    assert_eq!(payloads(&home), [""; 0]);
}
