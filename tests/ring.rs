//! Rings through a whole daemon: what was sent survives its program, and a program can hurt nobody but itself.
//!
//! `DBUFD_APP_KILLS` says how often a program is killed; 12 times without it.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use dbuf_client::ring::want;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::ring::RingClient;
use support::{Home, wait_for};

const RING: u64 = 1 << 20;
/// Where the program that is killed finds the daemon, its own number, and the file of how much it has sent.
const SOCKET: &str = "DBUFD_TEST_SOCKET";
const NUMBER: &str = "DBUFD_TEST_NUMBER";
const SENT: &str = "DBUFD_TEST_SENT";

/// The program that is killed: it notes each event whose send has returned. Does nothing where it is run as a test.
#[test]
fn a_program_that_sends_until_it_is_killed() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let number = std::env::var(NUMBER).expect("its number");
    let sent = File::options().write(true).open(std::env::var_os(SENT).expect("a file")).expect("a file");
    let mut client = RingClient::open(socket.as_ref(), "killed", RING);
    for event in 1_u64.. {
        client.send(format!("of {number} event {event} with {} more", "x".repeat((event % 200) as usize)).as_bytes());
        sent.write_all_at(&event.to_le_bytes(), 0).expect("the file takes it");
    }
}

#[test]
fn every_event_whose_send_returned_is_there_when_its_program_is_killed() {
    let kills: u64 = std::env::var("DBUFD_APP_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let home = Home::new();
    let _daemon = home.start(&[]);
    let mut sent = Vec::new();
    for number in 0..kills {
        let path = home.path("sent");
        std::fs::write(&path, [0; 8]).unwrap();
        let mut program = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_program_that_sends_until_it_is_killed"])
            .env(SOCKET, home.socket("stream.sock"))
            .env(NUMBER, number.to_string())
            .env(SENT, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let noted = || u64::from_le_bytes(std::fs::read(&path).unwrap().try_into().unwrap());
        wait_for("its first events", || (noted() > 100).then_some(()));
        // Somewhere in the middle; nothing depends on where.
        std::thread::sleep(Duration::from_micros(number * 7919 % 20_000));
        let signal = [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGABRT][(number % 3) as usize];
        // Rust's own handler of SIGSEGV takes the first for a full stack of another thread, and lets the second through.
        let status = wait_for("its end", || {
            kill(Pid::from_raw(program.id() as i32), signal).unwrap();
            program.try_wait().unwrap()
        });
        assert_eq!(status.signal(), Some(signal as i32));
        sent.push(noted());
    }
    wait_for("the end of each ring", || home.stats()["rings"].as_array().unwrap().is_empty().then_some(()));
    let stats = home.stats();
    home.ctl_ok(&["sync"]);
    let text = home.cat();
    let mut there = vec![0; kills as usize];
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (number, event): (usize, u64) = (words[1].parse().unwrap(), words[3].parse().unwrap());
        assert_eq!(event, there[number] + 1, "of program {number}: missing, twice, or out of order");
        assert_eq!(words.get(5).map_or(0, |x| x.len()), if event % 200 == 0 { 0 } else { (event % 200) as usize });
        there[number] = event;
    }
    for (number, (sent, there)) in sent.iter().zip(&there).enumerate() {
        // The one that was published when the note of it did not come any more.
        assert!((*sent..=sent + 1).contains(there), "of program {number}: {sent} sent, {there} there");
    }
    let total: u64 = there.iter().sum();
    let torn = &stats["events"]["lost"]["abandoned"];
    println!("{kills} programs killed: {total} events, none missing, none twice, {torn} torn");
    assert_eq!(stats["events"]["lost_total"], *torn);
    assert_eq!(stats["events"]["received"].as_u64().unwrap(), total + torn.as_u64().unwrap());
}

#[test]
fn a_program_at_a_steady_rate_never_rings_and_an_idle_ring_wakes_nobody() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut client = RingClient::open(&home.socket("stream.sock"), "steady", RING);
    client.send(b"first");
    home.wait_persisted(1);
    let began = client.rung;
    for _ in 0..2000 {
        client.send(&[b'x'; 100]);
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(
        client.rung - began <= 200,
        "a bell each time that the machine was away for long, and no more: {}",
        client.rung
    );
    home.wait_persisted(2001);
    wait_for("the writer to sleep", || {
        (client.ring.memory().words().state.load(std::sync::atomic::Ordering::Relaxed) & 3 == 2).then_some(())
    });
    // The last sync comes a second after the last event.
    wait_for("all to be durable", || (home.stats()["events"]["durable"].as_u64() >= Some(2001)).then_some(()));
    let switches = || daemon.switches(|name| name.starts_with("dbufd-"));
    let before = switches();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(switches(), before, "with a ring that nobody fills, nobody wakes");
}

#[test]
fn stats_show_each_ring_and_its_memory_is_what_it_says() {
    let home = Home::new();
    let daemon = home.start(&[]);
    // Whatever the first ring needs beside its memory.
    drop(RingClient::open(&home.socket("stream.sock"), "warm", RING));
    wait_for("its end", || home.stats()["rings"].as_array().unwrap().is_empty().then_some(()));
    let before = daemon.resident_bytes();
    let mut clients: Vec<_> =
        ["one", "two"].map(|name| RingClient::open(&home.socket("stream.sock"), name, RING)).into();
    for client in &mut clients {
        // Round the ring some times.
        for _ in 0..50_000 {
            client.send(&[b'x'; 100]);
        }
    }
    home.wait_persisted(100_000);
    let stats = home.stats();
    let rings = stats["rings"].as_array().unwrap();
    assert_eq!(rings.iter().map(|ring| ring["tag"].as_str().unwrap()).collect::<Vec<_>>(), ["one", "two"]);
    for ring in rings {
        assert_eq!((ring["events"].as_u64(), ring["lost"].as_u64()), (Some(50_000), Some(0)), "{ring}");
        assert_eq!(ring["pid"].as_u64(), Some(u64::from(std::process::id())));
        assert!((1..=RING).contains(&ring["high_water_bytes"].as_u64().unwrap()), "{ring}");
    }
    let more = daemon.resident_bytes().saturating_sub(before);
    assert!(more < 2 * RING + (1 << 20), "two rings of 1 MiB cost {more} bytes");
    assert!(home.ctl_ok(&["stats"]).contains("most full"));
    assert!(home.ctl_ok(&["stats", "--prometheus"]).contains("dbufd_ring_events_total{tag=\"one\""));
}

#[test]
fn a_program_that_scribbles_over_all_of_its_ring_is_cut_off_while_ten_others_go_on() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut others: Vec<_> =
        (0..10).map(|n| RingClient::open(&home.socket("stream.sock"), &format!("other-{n}"), 64 << 10)).collect();
    let mut hostile = RingClient::open(&home.socket("stream.sock"), "hostile", 64 << 10);
    for round in 0..200_u64 {
        for other in &mut others {
            other.send(b"still here");
        }
        for at in (0..64 << 10).step_by(4096) {
            hostile.ring.memory().put(at, &[round as u8; 4096]);
        }
        hostile.ring.memory().words().head.store(round * 4096 + 16, std::sync::atomic::Ordering::Relaxed);
        hostile.ring.want(want::ROOM);
        hostile.ring_bell();
    }
    wait_for("the end of its connection", || hostile.has_ended().then_some(()));
    home.wait_persisted(2000);
    let stats = home.stats();
    let (lost, malformed) = (&stats["events"]["lost_total"], &stats["events"]["lost"]["malformed"]);
    assert!(lost == malformed && malformed.as_u64() >= Some(1), "{stats}");
    assert_eq!(stats["rings"].as_array().unwrap().len(), 10);
    assert!(daemon.log().contains("a program is cut off with its ring"), "{}", daemon.log());
    assert_eq!(home.cat().lines().filter(|line| *line == "still here").count(), 2000);
}
