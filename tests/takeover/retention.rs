//! What retention deletes is counted for each producer, and stays counted when the daemon ends.

use std::time::Duration;

use dbuf_wire::frames::Level;
use serde_json::Value;

use crate::framed::{Framed, Heard};
use crate::manager::{Manager, unique};
use crate::support::{Home, wait_for};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const SETTINGS: [&str; 4] =
    ["storage.segment_size=64KiB", "storage.retain_bytes=1MiB", "storage.min_free=none", "storage.sync=100ms"];
/// Events of the victim. None of its segments has any of the other's.
const VICTIM: u64 = 123;
/// Events of 1,000 bytes that push out everything that was there before.
const FLOOD: u64 = 1500;

/// Events that are sent at a time. A batch is never divided, so a batch of many would make one large segment.
const PORTION: usize = 20;

/// Sends the events after the first `sent` ones, up to `last`, and returns when they are persisted.
fn send(home: &Home, tag: &str, session: u128, sent: u64, last: u64, bytes: usize) {
    let path = home.socket("stream.sock");
    let mut line = Framed::connect(&path, &unique(tag)).expect("the daemon listens");
    line.send(&Framed::greeting(tag, session, Level::Persisted)).expect("the daemon reads");
    let payload = "x".repeat(bytes);
    let sequences: Vec<u64> = (sent + 1..=last).collect();
    for portion in sequences.chunks(PORTION) {
        let events: Vec<u8> =
            portion.iter().flat_map(|sequence| Framed::event(*sequence, payload.as_bytes())).collect();
        line.send(&events).expect("the daemon reads");
        let until = portion.last().copied();
        loop {
            match line.hear(ANSWER_TIMEOUT) {
                Heard::Ack { sequence, .. } if Some(sequence) >= until => break,
                Heard::Ack { .. } | Heard::Welcome { .. } => {}
                other => panic!("no acknowledgement: {other:?}"),
            }
        }
    }
}

/// The account at a moment without a deletion.
fn account(home: &Home) -> Value {
    let deleted = || home.stats()["storage"]["deleted"].clone();
    wait_for("an account without a deletion in between", || {
        let before = deleted();
        let account = serde_json::from_str(&home.ctl_ok(&["account", "--json"])).expect("the account is JSON");
        (deleted() == before).then_some(account)
    })
}

/// Figures of the producer with this tag.
fn row(object: &Value, tag: &str) -> [u64; 4] {
    let rows = object["producers"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["tag"] == tag).unwrap_or_else(|| panic!("{tag} has a row: {object}"));
    ["stored", "in_files", "deleted", "gone"].map(|name| row[name].as_u64().expect("a number"))
}

/// Checks that every stored event is in the files or was deleted by retention, for each producer.
fn assert_balanced(home: &Home, flood: u64) {
    let object = account(home);
    assert_eq!((&object["ok"], &object["deleted_unknown"]), (&Value::Bool(true), &0.into()), "{object}");
    assert_eq!(row(&object, "victim"), [VICTIM, 0, VICTIM, VICTIM], "{object}");
    let [stored, in_files, deleted, gone] = row(&object, "flood");
    assert_eq!((stored, in_files + deleted, deleted), (flood, flood, gone), "{object}");
    assert_eq!(object["deleted"], object["deleted_by_retention"], "{object}");
    assert_eq!(object["deleted"], VICTIM + deleted, "{object}");
}

/// Floods until all of the victim's events are deleted. The deletions go on for a moment after the last event.
fn flood(home: &Home, sent: u64) {
    send(home, "flood", 2, sent, sent + FLOOD, 1000);
    home.ctl_ok(&["rotate"]);
    home.wait_for_stats("retention to have deleted what is too much", |stats| {
        let storage = &stats["storage"];
        storage["deleted"]["events"].as_u64() > Some(VICTIM) && storage["bytes"].as_u64() < Some(1 << 20)
    });
}

#[test]
fn the_account_says_how_many_events_of_whom_a_flood_has_pushed_out_also_after_a_kill_and_a_restart() {
    let mut manager = Manager::new();
    manager.start(&SETTINGS);
    send(&manager.home, "victim", 1, 0, VICTIM, 100);
    let stats = manager.home.stats();
    assert_eq!(stats["storage"]["users"][0]["events"], VICTIM, "{stats}");
    assert_eq!(stats["storage"]["deleted"]["segments"], 0, "{stats}");
    manager.home.ctl_ok(&["rotate"]);
    flood(&manager.home, 0);
    assert_balanced(&manager.home, FLOOD);

    let stats = manager.home.stats();
    let storage = &stats["storage"];
    assert!(storage["reach_seconds"].as_f64().is_some_and(|reach| reach < 3600.0), "{storage}");
    manager.home.wait_for_stats("what is left in the files", |stats| {
        let (users, deleted) = (&stats["storage"]["users"], stats["storage"]["deleted"]["events"].as_u64());
        users[0]["events"].as_u64() == deleted.map(|deleted| FLOOD + VICTIM - deleted)
    });
    let prometheus = manager.home.ctl_ok(&["stats", "--prometheus"]);
    let of_victim = prometheus.lines().find(|line| line.starts_with("dbufd_producer_deleted_total{tag=\"victim\""));
    assert!(of_victim.is_some_and(|line| line.ends_with(&format!(" {VICTIM}"))), "{prometheus}");
    assert!(prometheus.contains("\ndbufd_storage_reach_seconds "), "{prometheus}");
    let log = manager.log();
    let line = log.lines().find(|line| line.contains("retention deleted")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("00000000000000000001.segment"), "{line}");
    assert!(line.contains("because of storage.retain_bytes"), "{line}");
    let (lines, segments) = (log.matches("retention deleted").count() as u64, &storage["deleted"]["segments"]);
    assert!(segments.as_u64() > Some(lines), "{segments} deletions are few lines: {log}");

    manager.kill();
    manager.start(&SETTINGS);
    assert_balanced(&manager.home, FLOOD);
    flood(&manager.home, FLOOD);
    assert_balanced(&manager.home, 2 * FLOOD);
    manager.stop();
    manager.start(&SETTINGS);
    assert_balanced(&manager.home, 2 * FLOOD);
    // The new process reads the footers of the files.
    let users = manager
        .home
        .wait_for_stats("the footers to be read", |stats| stats["storage"]["users"][0]["events"].as_u64() > Some(0));
    assert_eq!(users["storage"]["users"].as_array().map(Vec::len), Some(1), "{users}");
}

#[test]
fn a_segment_of_an_earlier_version_is_deleted_without_its_producers_and_is_counted() {
    let mut manager = Manager::new();
    std::fs::create_dir_all(manager.home.segments()).expect("a folder");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.segment");
    std::fs::copy(golden, manager.home.segments().join("00000000000000000101.segment")).expect("a file");
    manager.start(&SETTINGS);
    let is_unknown = |stats: &Value| stats["storage"]["users"][0]["uid"].is_null();
    let stats = manager.home.wait_for_stats("the old segment to be counted", |stats| {
        stats["storage"]["users"].as_array().is_some_and(|users| !users.is_empty())
    });
    assert!(is_unknown(&stats) && stats["storage"]["users"][0]["events"] == 7, "{stats}");
    send(&manager.home, "flood", 2, 0, FLOOD, 1000);
    manager.home.wait_for_stats("the old segment to be deleted", |stats| {
        stats["storage"]["deleted"]["older_events"] == 7 && !is_unknown(stats)
    });
    let object = account(&manager.home);
    assert_eq!((&object["ok"], &object["deleted_older"]), (&Value::Bool(true), &7.into()), "{object}");
    let [stored, in_files, deleted, _] = row(&object, "flood");
    assert_eq!((stored, in_files + deleted), (FLOOD, FLOOD), "{object}");
}
