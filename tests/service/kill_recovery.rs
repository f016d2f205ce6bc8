//! `kill -9` at random moments, under load of every kind.
//!
//! `DBUFD_KILLS` says how often; 4 without it, which takes some seconds. With many, not as a release build: that one
//! has more stored in the meantime than the machine's memory, on which its disk lies, has room for.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dbuf_client::{Client, ClientOptions};
use dbuf_wire::frames::Level;
use serde_json::Value;

use crate::load::{Datagrams, Load, missing_datagrams};
use crate::machine::Machine;
use crate::support::{TIMEOUT, wait_for};

/// Clients of the framed protocol, as fast as they can.
const FRAMED: u128 = 2;
/// Connections that send lines, and the datagram sender, at a steady rate.
const PLAIN: usize = 20;
/// Frames that a client sends before it looks what the daemon says.
const BURST: u64 = 200;

/// A producer that numbers its events by its own sequence, and sends again what a daemon that died had not accepted.
fn framed(socket: PathBuf, session: u128, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let options = ClientOptions { name: "framed", session, ack: Level::Persisted, quiet: true };
        loop {
            // The daemon may be away, or still read the connection before this one.
            let Ok(mut client) = Client::connect(&socket, &options) else {
                thread::yield_now();
                continue;
            };
            let mut send = || -> Result<u64, dbuf_client::Error> {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..BURST {
                        let text = format!("frame of {session} {}", client.sequence() + 1);
                        client.send(6, b"", 0, text.as_bytes())?;
                    }
                    client.push()?;
                }
                client.sync(TIMEOUT)?;
                Ok(client.sequence())
            };
            if let Ok(sequence) = send() {
                return sequence;
            }
        }
    })
}

/// How often each client's sequence stands in the segments; every one must be there once.
fn check_framed(texts: &[String], sent: &[u64]) {
    let mut seen: HashMap<(u128, u64), u64> = HashMap::new();
    for text in texts.iter().filter(|text| text.starts_with("frame of ")) {
        let mut words = text.split(' ').skip(2).map(|word| word.parse::<u64>().expect("a frame is not altered"));
        let key = (words.next().map_or(0, u128::from), words.next().unwrap_or(0));
        *seen.entry(key).or_default() += 1;
    }
    for (session, &sent) in (1..).zip(sent) {
        let missing: Vec<u64> = (1..=sent).filter(|n| !seen.contains_key(&(session, *n))).collect();
        let twice: Vec<_> = (1..=sent).filter(|n| seen.get(&(session, *n)).is_some_and(|times| *times > 1)).collect();
        assert!(missing.is_empty(), "of {sent}: {} are missing, from {} on", missing.len(), missing[0]);
        assert!(twice.is_empty(), "of {sent}: {} are there twice, from {} on", twice.len(), twice[0]);
        assert!(sent > BURST, "something was sent");
    }
}

#[test]
fn kill_9_at_random_moments_loses_no_frame_and_no_line_and_stores_none_twice() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["systemctl", "start", "dbufd"]);
    let kills: u64 = std::env::var("DBUFD_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let stop = Arc::new(AtomicBool::new(false));
    let socket = machine.path("/run/dbufd/stream.sock");
    let clients: Vec<_> = (1..=FRAMED).map(|session| framed(socket.clone(), session, Arc::clone(&stop))).collect();
    let lines = Load::start(&machine, PLAIN);
    let datagrams = Datagrams::start(&machine);
    for kill in 0..kills {
        // Somewhere between two swaps: the pauses differ, and nothing depends on them.
        thread::sleep(Duration::from_micros(150_000 + kill * 7_919_000 % 100_000));
        let before = machine.property("NRestarts");
        machine.run(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "dbufd"]);
        wait_for("the next life", || (machine.property("NRestarts") != before).then_some(()));
        machine.wait_for_property("ActiveState", "active");
    }
    stop.store(true, Ordering::Relaxed);
    let sent: Vec<u64> = clients.into_iter().map(|client| client.join().expect("a client ends")).collect();
    let (lines, datagrams) = (lines.stop(), datagrams.stop());
    let all = sent.iter().sum::<u64>() + lines.lines.iter().sum::<u64>() + datagrams;
    machine.wait_for_stats("all to come", |stats| stats["events"]["received"].as_u64() >= Some(all));
    let missing: usize = lines.missing(&machine).iter().map(Vec::len).sum();
    let texts = machine.settled_texts();
    check_framed(&texts, &sent);
    assert_eq!(missing_datagrams(&texts, datagrams), Vec::<u64>::new(), "of {datagrams}");
    // The account was kept through all lives: it says of each client what that says of itself.
    let account = machine.account_of(&texts);
    for (session, sent) in (1_u128..).zip(&sent) {
        let is_its = |row: &&Value| row["session"] == format!("{session:032x}");
        let rows = account["producers"].as_array().into_iter().flatten().filter(is_its);
        assert_eq!(rows.map(|row| row["stored"].as_u64().unwrap_or(0)).sum::<u64>(), *sent, "{account}");
    }
    println!(
        "{kills} kills: {} frames, {} lines, {datagrams} datagrams; {missing} lines lost",
        sent.iter().sum::<u64>(),
        lines.lines.iter().sum::<u64>()
    );
    assert_eq!(missing, 0, "lines are lost");
}

#[test]
fn kill_9_while_writers_wait_for_the_disk_loses_no_connection_that_has_said_all() {
    const DISK: &str = "/var/log/dbufd";
    let Some(machine) = Machine::boot_with_disk(DISK) else { return };
    machine.write("/etc/dbufd/dbufd.toml", "[buffer]\ncapacity = \"256KiB\"\n");
    machine.run(&["systemctl", "start", "dbufd"]);
    machine.run(&["fsfreeze", "--freeze", DISK]);
    // More than both halves hold, by connections that have each said all by the time they are accepted. When there is
    // no more room, each writer has in its hands what one of them has said.
    let lines = |client: u32| (0..10).map(move |line| format!("short {client} {line} {}", "x".repeat(2000)));
    let sent: Vec<Vec<String>> = (0..60).map(|client| lines(client).collect()).collect();
    for lines in &sent {
        machine.stream().write_all(lines.join("\n").as_bytes()).expect("it fits the kernel's queue");
    }
    let mut received = Value::Null;
    machine.wait_for_stats("both writers to wait for room", |stats| {
        let now = stats["events"]["received"].clone();
        let writers = stats["writers"].as_array().expect("an array");
        let goes_on = std::mem::replace(&mut received, now.clone()) != now;
        !goes_on && writers.iter().all(|writer| writer["connections"] != 0)
    });
    let before = machine.property("NRestarts");
    machine.run(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "dbufd"]);
    machine.run(&["fsfreeze", "--unfreeze", DISK]);
    wait_for("the next life", || (machine.property("NRestarts") != before).then_some(()));
    machine.wait_for_property("ActiveState", "active");
    let mut texts = machine.settled_texts();
    let mut sent = sent.concat();
    texts.sort();
    sent.sort();
    let missing = sent.iter().filter(|line| texts.binary_search(line).is_err()).count();
    assert!(texts == sent, "of {} lines, {missing} are missing; there are {}", sent.len(), texts.len());
}
