//! Losses that were not reported before the daemon ended.

use std::time::Duration;

use dbuf_wire::frames::{Code, Frame, Level};
use dbuf_wire::ring::want;

use crate::disk::Disk;
use crate::framed::{Framed, Heard, Waited};
use crate::manager::{Manager, unique};
use crate::support::wait_for;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const SESSION: u128 = 11;
/// Batches that are lost between one loss and the question after it.
const OTHERS: u64 = 4500;
const SETTINGS: [&str; 4] =
    ["storage.when_full=drop", "storage.min_free=none", "storage.retain_bytes=none", "buffer.capacity=256KiB"];

#[derive(Clone, Copy)]
enum End {
    Kill,
    Stop,
}

fn restart(manager: &mut Manager, disk: &Disk, end: End) {
    match end {
        End::Kill => {
            manager.kill();
            disk.heal();
        }
        End::Stop => {
            manager.stop();
            disk.heal();
        }
    }
    manager.start(&SETTINGS);
}

/// Up to `last`, which of the events an ERROR has named before an acknowledgement that passes them.
fn unnamed(line: &mut Framed, named: &mut Vec<u64>, last: u64) -> Vec<u64> {
    loop {
        match line.hear(ANSWER_TIMEOUT) {
            Heard::Error { code, first, last, .. } if code == Code::Lost as u8 => named.extend(first..=last),
            Heard::Ack { sequence, .. } => {
                return (1..=last.min(sequence)).filter(|event| !named.contains(event)).collect();
            }
            Heard::Welcome { .. } => {}
            other => panic!("no answer to SYNC: {other:?}"),
        }
    }
}

fn a_session_over(end: End) {
    let mut manager = Manager::new();
    let Some(disk) = Disk::of(&mut manager, "1m") else { return };
    manager.start(&SETTINGS);
    let path = manager.home.socket("stream.sock");
    disk.fill();
    let mut line = Framed::connect(&path, &unique("losses-1")).expect("the daemon listens");
    let mut bytes = Framed::greeting("shop", SESSION, Level::None);
    let large = "x".repeat(60_000);
    for sequence in 1..=5 {
        bytes.extend(Framed::event(sequence, format!("{sequence} {large}").as_bytes()));
    }
    line.send(&bytes).expect("the daemon reads");
    let lost = |stats: &serde_json::Value| stats["events"]["lost_total"].as_u64().unwrap_or(0);
    let stats = manager.home.wait_for_stats("the events to be persisted or lost", |stats| {
        lost(stats) + stats["events"]["persisted"].as_u64().unwrap_or(0) == 5
    });
    assert!(lost(&stats) > 0, "the disk is full: {stats}");
    // What it was told on this connection counts as told.
    let mut named = Vec::new();
    restart(&mut manager, &disk, end);
    loop {
        match line.hear(Duration::ZERO) {
            Heard::Error { code, first, last, .. } if code == Code::Lost as u8 => named.extend(first..=last),
            Heard::End | Heard::Silence => break,
            _ => {}
        }
    }
    drop(line);
    let mut line = wait_for("a place for the session", || {
        let mut line = Framed::connect(&path, &unique("losses-2")).ok()?;
        line.send(&Framed::greeting("shop", SESSION, Level::None)).ok()?;
        match line.hear(ANSWER_TIMEOUT) {
            Heard::Welcome { last } => {
                assert_eq!(last, 5, "the daemon knows where the session stands");
                Some(line)
            }
            _ => None,
        }
    });
    line.send(&Framed::frame(&Frame::Sync)).expect("the daemon reads");
    let stored: Vec<u64> =
        disk.events().iter().filter_map(|event| event["MESSAGE"].as_str()?.split(' ').next()?.parse().ok()).collect();
    let unnamed: Vec<u64> =
        unnamed(&mut line, &mut named, 5).into_iter().filter(|event| !stored.contains(event)).collect();
    assert_eq!(unnamed, [0; 0], "acknowledged as durable, not in the files, and no ERROR has named them");
}

#[test]
fn an_acknowledgement_after_a_kill_names_what_was_lost_first() {
    a_session_over(End::Kill);
}

#[test]
fn an_acknowledgement_after_a_restart_names_what_was_lost_first() {
    a_session_over(End::Stop);
}

#[test]
fn a_ring_knows_after_a_kill_how_many_of_its_events_were_lost() {
    let mut manager = Manager::new();
    let Some(disk) = Disk::of(&mut manager, "1m") else { return };
    // The writer is asleep again when the events are given up, and does not look into the ring.
    manager.start(&[&SETTINGS[..], &["buffer.linger=2s"]].concat());
    let name = unique("losses-ring");
    let mut line = Framed::connect(&manager.home.socket("stream.sock"), &name).expect("the daemon listens");
    line.send(&Framed::greeting("ring", 0, Level::None)).expect("the daemon reads");
    assert_eq!(line.hear(ANSWER_TIMEOUT), Heard::Welcome { last: 0 });
    line.send(&Framed::frame(&Frame::Ring { capacity: 1 << 20 })).expect("the daemon reads");
    assert_eq!(line.hear(ANSWER_TIMEOUT), Heard::Granted);
    let mut ring = line.into_ring();
    wait_for("the ring in the store", || manager.has_taken_ring(&name).then_some(()));
    disk.fill();
    for event in 0..5 {
        // Small, or the halves are full before that.
        ring.try_send(format!("{event} {}", "x".repeat(8_000)).as_bytes()).expect("there is room");
    }
    let lost = |stats: &serde_json::Value| stats["events"]["lost_total"].as_u64().unwrap_or(0);
    manager.home.wait_for_stats("the events to be persisted or lost", |stats| {
        lost(stats) + stats["events"]["persisted"].as_u64().unwrap_or(0) == 5
    });
    let lost = lost(&manager.home.stats());
    assert!(lost > 0, "the disk is full");
    restart(&mut manager, &disk, End::Kill);
    ring.ask_sync();
    let waited = ring.wait(want::DURABLE, ANSWER_TIMEOUT, |producer| {
        producer.memory().words().durable.load(std::sync::atomic::Ordering::Acquire) >= 5
    });
    assert_eq!(waited, Waited::Done, "it goes on with the next daemon");
    assert_eq!(ring.lost(), lost, "of five events these were lost, and all five are called durable");
}

#[test]
fn an_acknowledgement_names_what_was_lost_before_thousands_of_losses_of_others() {
    let mut manager = Manager::new();
    let Some(disk) = Disk::of(&mut manager, "1m") else { return };
    manager.start(&SETTINGS);
    let path = manager.home.socket("stream.sock");
    disk.fill();
    let mut line = Framed::connect(&path, &unique("early")).expect("the daemon listens");
    let mut other = Framed::connect(&path, &unique("others")).expect("the daemon listens");
    let large = "x".repeat(8000);
    line.send(&Framed::greeting("early", SESSION, Level::None)).expect("the daemon reads");
    other.send(&Framed::greeting("others", SESSION + 1, Level::None)).expect("the daemon reads");
    for line in [&mut line, &mut other] {
        assert_eq!(line.hear(ANSWER_TIMEOUT), Heard::Welcome { last: 0 });
    }
    // One batch for each of these; first of the other, until there is no room even for a small one.
    let lose = |other: &mut Framed, sequence: u64| {
        let mut bytes = Framed::event(sequence, large.as_bytes());
        bytes.extend(Framed::frame(&Frame::Sync));
        other.send(&bytes).expect("the daemon reads");
        let mut is_lost = false;
        loop {
            match other.hear(ANSWER_TIMEOUT) {
                Heard::Error { code, .. } => is_lost |= code == Code::Lost as u8,
                Heard::Ack { sequence: acknowledged, .. } if acknowledged >= sequence => return is_lost,
                Heard::Ack { .. } => {}
                heard => panic!("no answer to SYNC: {heard:?}"),
            }
        }
    };
    let mut next = 1;
    while !lose(&mut other, next) {
        next += 1;
    }
    let before = manager.home.stats()["events"]["lost_total"].as_u64().expect("a number");
    line.send(&Framed::event(1, large.as_bytes())).expect("the daemon reads");
    manager.home.wait_for_stats("its loss", |stats| stats["events"]["lost_total"].as_u64() > Some(before));
    for sequence in next + 1..next + 1 + OTHERS {
        lose(&mut other, sequence);
    }
    line.send(&Framed::frame(&Frame::Sync)).expect("the daemon reads");
    let mut named = Vec::new();
    assert_eq!(unnamed(&mut line, &mut named, 1), [0; 0], "acknowledged as durable, and no ERROR has named it");
}
