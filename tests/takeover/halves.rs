//! Changes the size of the halves while the disk takes nothing, and while the manager takes nothing.

use std::io::Write;
use std::time::Duration;

use serde_json::Value;

use crate::disk::Disk;
use crate::manager::{Manager, Pace, connect_named, unique};
use crate::support::{wait_for, wait_within};

const EVENTS: usize = 100;
/// A daemon may wait for its manager instead of taking events. This is how long the test gives it to take some.
const UNTAKEN_TIMEOUT: Duration = Duration::from_secs(2);

#[test]
fn three_sizes_of_halves_in_a_row_lose_nothing() {
    let mut manager = Manager::new();
    let Some(disk) = Disk::of(&mut manager, "4m") else { return };
    let common = ["storage.when_full=wait", "storage.min_free=none", "storage.retain_bytes=none"];
    let with = |capacity: &'static str| [&common[..], &[capacity]].concat();
    manager.start(&with("buffer.capacity=2MiB"));
    let name = unique("sizes");
    let mut stream = connect_named(&manager.home.socket("stream.sock"), &name).expect("it listens");
    let mut sent = Vec::new();
    let mut send = |manager: &Manager, part: &str| {
        for number in 0..EVENTS {
            let line = format!("{part} {number} {}", "x".repeat(200));
            writeln!(stream, "{line}").expect("the connection lives");
            sent.push(line);
        }
        manager
            .home
            .wait_for_stats("all to be read", |stats| stats["events"]["received"].as_u64() >= Some(sent.len() as u64));
        sent.clone()
    };
    wait_for("the connection in the store", || manager.has_taken(&name).then_some(()));
    // Before the first event, for which more room would be allocated than it needs.
    disk.fill();
    send(&manager, "full");
    for capacity in ["buffer.capacity=1MiB", "buffer.capacity=512KiB", "buffer.capacity=768KiB"] {
        manager.kill();
        manager.start(&with(capacity));
        send(&manager, capacity);
    }
    let stats = manager.home.stats();
    assert!(stats["events"]["persisted"].as_u64() < stats["events"]["received"].as_u64(), "the disk is full: {stats}");
    disk.heal();
    let due = send(&manager, "healed");
    manager.home.wait_persisted(due.len() as u64);
    wait_for("the old halves to be let go of", || {
        (manager.names().iter().filter(|name| name.starts_with("halves")).count() <= 1).then_some(())
    });
    let names = manager.names();
    let halves = names.iter().filter(|name| name.starts_with("halves")).count();
    assert_eq!(halves, 1, "the halves in use are in the store: {names:?}");
    // Into a segment of which nothing is allocated.
    manager.home.ctl_ok(&["rotate"]);
    disk.fill();
    send(&manager, "once more");
    manager.kill();
    manager.start(&with("buffer.capacity=768KiB"));
    disk.heal();
    let all = send(&manager, "last");
    manager.home.wait_persisted(all.len() as u64);
    manager.home.ctl_ok(&["sync"]);
    let stored: Vec<String> =
        disk.events().iter().filter_map(|event| event["MESSAGE"].as_str().map(str::to_owned)).collect();
    assert_eq!(stored.len(), all.len(), "each is there once");
    assert!(stored == all, "byte for byte, and in order");
}

#[test]
fn halves_that_the_manager_has_not_taken_yet_lose_nothing() {
    // Nothing is swapped, so all of it lies in the halves.
    let with = |capacity: &'static str| [capacity, "buffer.linger=10s"];
    let mut manager = Manager::new();
    manager.start(&with("buffer.capacity=2MiB"));
    let name = unique("untaken");
    let mut stream = connect_named(&manager.home.socket("stream.sock"), &name).expect("it listens");
    wait_for("the connection in the store", || manager.has_taken(&name).then_some(()));
    manager.refuse_all();
    manager.kill();
    manager.launch(&with("buffer.capacity=1MiB"));
    let mut sent = Vec::new();
    for number in 0..EVENTS {
        let line = format!("line {number}");
        writeln!(stream, "{line}").expect("the connection lives");
        sent.push(line);
    }
    // Either the daemon takes them, or it waits for the manager first: both are right.
    wait_within(UNTAKEN_TIMEOUT, || (received(&manager) >= EVENTS as u64).then_some(()));
    manager.kill();
    manager.set_pace(Pace::Prompt);
    manager.start(&["buffer.capacity=1MiB"]);
    let stored = wait_for("the lines", || {
        manager.home.ctl_ok(&["sync"]);
        let text = manager.home.cat();
        (text.lines().count() >= sent.len()).then(|| text.lines().map(str::to_owned).collect::<Vec<_>>())
    });
    assert_eq!(stored.len(), sent.len(), "of lines on a connection that the manager has, these are left: {stored:?}");
    assert!(stored == sent);
}

/// What a daemon has received that may not answer yet.
fn received(manager: &Manager) -> u64 {
    let output = manager.home.ctl(&["stats", "--json"]);
    let stats: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    stats.and_then(|stats| stats["events"]["received"].as_u64()).unwrap_or(0)
}
