//! An event's journey with the real programs: in over a socket, into segments, back to a person's eyes.

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::{Home, TIMEOUT, events_of, has, send_numbered, shell, wait_for, wait_within};

const QUICK: &[&str] = &["storage.sync=50ms"];

#[test]
fn what_nc_logger_socat_and_send_put_in_is_read_back() {
    let home = Home::new();
    let daemon = home.start(QUICK);
    let mut expected = vec!["by send".to_string()];
    home.ctl_ok(&["send", "--sync", "-p", "err", "-t", "tool", "by", "send"]);
    for (program, script, text) in [
        ("nc", "echo by nc | nc -UN $STREAM", "by nc"),
        ("socat", "echo by socat | socat - UNIX-CONNECT:$STREAM", "by socat"),
        ("logger", "logger -u $DGRAM -t greeter -p user.warning by logger", "by logger"),
    ] {
        if has(program) {
            let output = shell(&home, script);
            assert!(output.status.success(), "{program}: {output:?}");
            expected.push(text.into());
        } else {
            eprintln!("skipped: {program} is not installed");
        }
    }
    home.wait_persisted(expected.len() as u64);
    let mut seen: Vec<String> = home.cat().lines().map(String::from).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    for event in home.json() {
        match event["MESSAGE"].as_str().expect("text") {
            "by send" => assert_eq!((&event["PRIORITY"], &event["SYSLOG_IDENTIFIER"]), (&"3".into(), &"tool".into())),
            "by logger" => {
                assert_eq!((&event["PRIORITY"], &event["SYSLOG_IDENTIFIER"]), (&"4".into(), &"greeter".into()))
            }
            _ => assert_eq!(event["PRIORITY"], "6"),
        }
        assert_eq!(event["_UID"], nix::unistd::getuid().to_string());
        assert!(event["_PID"].is_string(), "its process is known: {event}");
    }
    assert!(home.ctl_ok(&["segments"]).contains("active"));
    home.ctl_ok(&["verify"]);
    drop(daemon);
}

#[test]
fn fields_are_stored_beside_the_text_and_events_are_found_by_them() {
    let home = Home::new();
    let daemon = home.start(QUICK);
    for (order, user) in [("17", "ann"), ("18", "ben"), ("17", "ben")] {
        let (order_is, user_is) = (format!("ORDER={order}"), format!("USER={user}"));
        home.ctl_ok(&[
            "send",
            "--sync",
            "-F",
            &order_is,
            "-F",
            &user_is,
            "-F",
            "_PID=1",
            &format!("{order} of {user}"),
        ]);
    }
    home.ctl_ok(&["send", "--sync", "nobody's"]);
    let events = home.json();
    assert_eq!(
        (&events[0]["ORDER"], &events[0]["USER"], &events[0]["MESSAGE"]),
        (&"17".into(), &"ann".into(), &"17 of ann".into())
    );
    assert_eq!(events[0]["FIELD__PID"], "1", "what the kernel vouches for cannot be forged");
    assert_ne!(events[0]["_PID"], "1");
    assert!(events[3].get("ORDER").is_none());
    let found = |what: &[&str]| {
        home.ctl_ok(&[&["cat", "-o", "cat"], what].concat()).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(found(&["ORDER=17"]), ["17 of ann", "17 of ben"]);
    assert_eq!(found(&["ORDER=17", "USER=ben"]), ["17 of ben"]);
    assert_eq!(found(&["USER=ben", "USER=ann"]).len(), 3, "of one name any value will do");
    assert_eq!(found(&["ORDER=1"]), [""; 0]);
    assert_eq!(found(&["MESSAGE=nobody's", "PRIORITY=6"]), ["nobody's"]);
    for format in ["verbose", "export"] {
        assert!(home.ctl_ok(&["cat", "-o", format, "USER=ann"]).contains("ORDER=17"), "{format}");
    }
    drop(daemon);
}

#[test]
fn each_line_is_there_once_and_in_the_order_of_its_connection() {
    const CONNECTIONS: u64 = 4;
    const LINES: u64 = 20_000;
    // So that this few lines fill several segments.
    const ROOM: &str = "that_takes_room_that_takes_room_that_takes_room_that_takes_room";
    let home = Home::new();
    // Small halves, for a batch is never parted between two segments.
    let daemon = home.start(&["storage.segment_size=1MiB", "buffer.capacity=512KiB", "storage.sync=50ms"]);
    let mut tail =
        home.ctl_command(&["tail", "-n", "all", "-o", "cat"]).stdout(Stdio::piped()).spawn().expect("dbufctl tail");
    let followed = std::thread::spawn({
        let mut lines = BufReader::new(tail.stdout.take().expect("its output")).lines();
        move || -> Vec<String> { lines.by_ref().map_while(Result::ok).take_while(|l| l != "the end").collect() }
    });
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let path = home.socket("stream.sock");
            scope.spawn(move || send_numbered(&path, &format!("c{connection}_{ROOM}"), 0..LINES));
        }
    });
    let stats = home.wait_persisted(CONNECTIONS * LINES);
    assert_eq!(stats["events"]["received"], stats["events"]["persisted"]);
    assert_eq!(stats["events"]["lost_total"], 0);
    assert!(stats["storage"]["segments"].as_u64() > Some(5), "rotation happened: {}", stats["storage"]);
    home.stream().write_all(b"the end\n").expect("the daemon reads");
    let followed = followed.join().expect("the tail ended");
    let _ = tail.kill();
    let _ = tail.wait();
    in_order_and_once(home.cat().lines().filter(|l| *l != "the end"), LINES);
    in_order_and_once(followed.iter().map(String::as_str), LINES);
    home.ctl_ok(&["verify"]);
    dense(&home);
    drop(daemon);
}

fn in_order_and_once<'a>(lines: impl Iterator<Item = &'a str>, each: u64) {
    let mut next: HashMap<&str, u64> = HashMap::new();
    for line in lines {
        let (connection, number) = line.split_once(' ').expect("a numbered line");
        let expected = next.entry(connection).or_default();
        assert_eq!(number.parse(), Ok(*expected), "of {connection}");
        *expected += 1;
    }
    assert!(!next.is_empty() && next.values().all(|n| *n == each), "{next:?}");
}

/// Sequences start at 1 and have no gap. Returns the last.
fn dense(home: &Home) -> u64 {
    let mut last = 0;
    // Not parsed as JSON, which is slow for tens of thousands of events in a debug build.
    for event in String::from_utf8(home.ctl(&["cat", "-o", "json"]).stdout).expect("text").lines() {
        let (_, sequence) = event.split_once(r#""__SEQNUM":""#).expect("a sequence");
        let sequence: u64 = sequence.split('"').next().and_then(|number| number.parse().ok()).expect("a number");
        assert_eq!(sequence, last + 1, "sequences are dense");
        last = sequence;
    }
    last
}

#[test]
fn after_kill_9_all_that_was_persisted_is_read_and_the_sequence_goes_on() {
    let home = Home::new();
    let daemon = home.start(QUICK);
    let path = home.socket("stream.sock");
    let sender = std::thread::spawn(move || send_numbered(&path, "a", 0..3_000_000));
    // Few, for all that is stored until the kill is read below.
    let stats = home.wait_persisted(1000);
    daemon.kill();
    sender.join().expect("the sender ends");
    let persisted = stats["events"]["persisted"].as_u64().expect("a count");

    // Whatever the kill left behind the last whole batch: half a batch, as a torn write leaves it.
    let active = std::fs::read_dir(home.segments()).expect("segments").flatten().map(|e| e.path());
    let active = active.filter(|p| p.extension().is_some_and(|e| e == "active")).max().expect("an active segment");
    let whole = std::fs::metadata(&active).expect("a file").len();
    let mut bytes = std::fs::read(&active).expect("a file");
    let batch_like = bytes[bytes.len() / 2..].to_vec();
    bytes.extend_from_slice(&batch_like[..batch_like.len().min(1000)]);
    std::fs::write(&active, &bytes).expect("a file");
    let added = bytes.len() as u64 - whole;
    assert!(added > 0);

    let daemon = home.start(QUICK);
    let told = wait_for("the report of the torn tail, in bytes", || {
        let log = daemon.log();
        let (_, bytes) = log.split_once("a torn end of ")?;
        bytes.split_once(" bytes was cut")?.0.parse::<u64>().ok()
    });
    // The kill itself may have torn more off.
    assert!((added..whole).contains(&told), "{told} bytes of at least {added}");
    send_numbered(&home.socket("stream.sock"), "b", 0..10);
    home.wait_persisted(10);
    let before = dense(&home) - 10;
    assert!(before >= persisted, "{before} of at least {persisted}");
    for (at, line) in (0..).zip(home.cat().lines()) {
        let (who, number) = if at < before { ("a", at) } else { ("b", at - before) };
        assert_eq!(line, format!("{who} {number}"));
    }
    home.ctl_ok(&["verify"]);
    drop(daemon);
}

const HELD_LINE: &[u8; 100] = &{
    let mut line = [b'h'; 100];
    line[99] = b'\n';
    line
};

/// Writes lines until the kernel takes no more. Gives how many bytes it took.
fn filled(mut stream: UnixStream) -> (UnixStream, usize) {
    stream.set_nonblocking(true).expect("a socket");
    let mut taken = 0;
    while let Ok(bytes) = stream.write(&HELD_LINE[taken % HELD_LINE.len()..]) {
        taken += bytes;
    }
    (stream, taken)
}

#[test]
fn at_sigterm_what_was_accepted_is_in_the_files_and_the_report_agrees() {
    let home = Home::new();
    let daemon = home.start(QUICK);
    let path = home.socket("stream.sock");
    let sender = std::thread::spawn(move || send_numbered(&path, "a", 0..3_000_000));
    home.wait_persisted(50_000);
    // What the kernel has taken counts as accepted. Here it takes as much as it has room for, and the daemon reads
    // nothing of it yet.
    daemon.signal(Signal::SIGSTOP);
    let held: Vec<(UnixStream, usize)> = (0..40).map(|_| filled(home.stream())).collect();
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGCONT);
    let report = daemon.wait_stopped();
    sender.join().expect("the sender ends");
    let text = home.cat();
    let (held_lines, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('h'));
    // The last line of each connection may have been cut.
    assert_eq!(held_lines.len(), held.iter().map(|(_, bytes)| bytes.div_ceil(HELD_LINE.len())).sum::<usize>());
    for (number, line) in lines.iter().enumerate() {
        if number + 1 < lines.len() {
            assert_eq!(*line, format!("a {number}"));
        }
    }
    let all = (lines.len() + held_lines.len()) as u64;
    let [received, persisted, ..] = events_of(&report).expect("the row of events");
    assert_eq!((received, persisted), (all, all), "{report}");
    assert!(
        home.segments()
            .read_dir()
            .expect("segments")
            .flatten()
            .all(|e| !e.path().to_string_lossy().ends_with(".active"))
    );
    home.ctl_ok(&["verify"]);
}

#[test]
fn an_idle_daemon_does_not_wake() {
    let home = Home::new();
    let daemon = home.start(QUICK);
    send_numbered(&home.socket("stream.sock"), "a", 0..1000);
    let held = home.stream();
    home.wait_for_stats("all durable", |s| s["events"]["durable"] == 1000);
    // Longer than the default of every interval of the data plane.
    daemon.assert_nobody_wakes(Duration::from_secs(2));
    drop((held, daemon));
}

#[test]
fn a_second_daemon_refuses_and_names_the_first() {
    let home = Home::new();
    let daemon = home.start(QUICK);
    for (directory, runtime) in [("segments", "other"), ("other", "run")] {
        let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_dbufd"))
            .arg("--directory")
            .arg(home.path(directory))
            .arg("--runtime")
            .arg(home.path(runtime))
            .args(["--config", "/dev/null"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("dbufd runs");
        // One that does not refuse would run for ever.
        wait_within(TIMEOUT, || second.try_wait().expect("a child"));
        let _ = second.kill();
        let second = second.wait_with_output().expect("a child");
        let words = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(
            !second.status.success() && words.contains(&daemon.pid().to_string()),
            "{directory}/{runtime}: {words}"
        );
    }
    home.ctl_ok(&["ping"]);
}

#[test]
fn rotate_sync_and_reload_do_as_they_say() {
    let home = Home::new();
    let mut daemon = home.start(&["storage.sync=1h"]);
    send_numbered(&home.socket("stream.sock"), "a", 0..10);
    home.wait_persisted(10);
    home.ctl_ok(&["sync"]);
    assert_eq!(home.stats()["events"]["durable"], 10);
    home.ctl_ok(&["rotate"]);
    send_numbered(&home.socket("stream.sock"), "a", 10..20);
    home.wait_persisted(20);
    daemon.signal(Signal::SIGUSR1);
    wait_for("a third segment", || {
        let segments: serde_json::Value =
            serde_json::from_str(&home.ctl_ok(&["segments", "--json"])).expect("an array");
        (segments.as_array().map(Vec::len) >= Some(3)).then_some(())
    });
    home.ctl_ok(&["reload"]);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_notice("RELOADING=1");
    assert_eq!(home.cat().lines().count(), 20);
    assert!(daemon.is_alive());
}

#[test]
fn a_datagram_sender_is_told_apart_by_its_pid() {
    let home = Home::new();
    let daemon = home.start(QUICK);
    let socket = UnixDatagram::unbound().expect("a socket");
    for number in 0..100 {
        socket.send_to(format!("<12>app[42]: event {number}").as_bytes(), home.socket("dgram.sock")).expect("sent");
    }
    home.wait_persisted(100);
    let events = home.json();
    assert_eq!(events.len(), 100);
    let own = std::process::id().to_string();
    assert!(events.iter().all(|e| e["_PID"] == own.as_str() && e["PRIORITY"] == "4"));
    drop(daemon);
}

#[test]
fn output_into_a_closed_pipe_ends_quietly() {
    let home = Home::new();
    let daemon = home.start(QUICK);
    send_numbered(&home.socket("stream.sock"), "a", 0..100_000);
    home.wait_persisted(100_000);
    let mut cat =
        home.ctl_command(&["cat", "-o", "cat"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cat");
    let mut first = [0; 4];
    cat.stdout.take().expect("its output").read_exact(&mut first).expect("some bytes");
    let output = cat.wait_with_output().expect("cat ends");
    assert_eq!((&first, output.stderr.as_slice()), (b"a 0\n", &b""[..]));
    drop(daemon);
}
