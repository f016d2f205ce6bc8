//! A storm of kills with a manager that is prompt, slow, or busy with something else, and with clients that come
//! again all the time.
//!
//! It needs neither root nor systemd: `support/manager.rs` stands in for it. As root the segments are on a small
//! disk, which gets full now and then.
//!
//! ```sh
//! cargo test --test storm                                       # 30 kills
//! DBUF_STORM_KILLS=1000 cargo test --release --test storm -- --nocapture
//! DBUF_SEED=N                                                   # the weather of a run again
//! DBUF_STORM_CLIENTS=framed,ring                                # only clients whose names begin so
//! DBUF_STORM_WITHOUT=sizes,full,stops,refused,managers          # none of these: other sizes, full disks, stops,
//!                                                               # stops of which the manager takes nothing, managers
//!                                                               # that are not prompt
//! ```
//!
//! In the end each client says what it was promised, and the files are held against that. A promise is: each line on a
//! connection that the manager had, each datagram that was sent, each event of a session, each event in a ring. Not
//! promised is what the documented gap takes: what was said on a connection that the daemon had accepted, and died
//! before the manager had it. The manager knows each connection by its client's name, so that is told exactly: which
//! connections it never had, and of which of these the last lines are missing. A client that closes at once does not
//! notice; so these are counted, and a death can meet no more of them than there are at a time.

#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/framed.rs"]
mod framed;
#[path = "../support/manager.rs"]
mod manager;
#[path = "../support/mod.rs"]
mod support;

mod clients;
mod event;
mod frames;
mod lines;
mod promise;
mod rings;
mod weather;

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use clients::Place;
use disk::Disk;
use manager::Manager;
use promise::{Found, Wrong};
use support::{wait_for, wait_within};
use weather::Weather;

const KILLS: u64 = 30;
/// As root: room for all that is sent around a kill, and for all together. It is filled up now and then.
const DISK_MIB: (u64, u64) = (2, 128);

/// Connections that close at once, at a time: the one that has just closed, and the one after it.
const BRIEF_AT_ONCE: u64 = 2;
/// Of what dbufctl says when something is wrong.
const TOLD_MAX: usize = 400;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Starts the clients that are wanted.
fn start_clients(place: &Place, manager: &Manager) -> Vec<JoinHandle<()>> {
    let wanted = std::env::var("DBUF_STORM_CLIENTS").unwrap_or_default();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.split(',').any(|part| name.starts_with(part));
    let mut started = Vec::new();
    // The first client, so that the ring in the store is its own.
    if is_wanted("producer") {
        let producer = rings::open_producer(place, "producer");
        let is_ring = |name: &String| name.starts_with("ring") && name.ends_with("-line");
        wait_for("the producer's ring in the store", || manager.names().iter().any(is_ring).then_some(()));
        started.push(place.spawn("producer", move |place, name, random| {
            rings::producer(place, name, random, producer);
        }));
    }
    let mut start = |kind: &str, count: usize, run: fn(&Place, &str, event::Random)| {
        let names = (0..count).map(|number| format!("{kind}{number}")).filter(|name| is_wanted(name));
        started.extend(names.map(|name| place.spawn(&name, run)));
    };
    start("long", 3, |place, name, random| lines::long(place, name, random, lines::Style::Whole));
    start("torn", 3, |place, name, random| lines::long(place, name, random, lines::Style::Torn));
    start("pieces", 1, |place, name, random| lines::long(place, name, random, lines::Style::Pieces));
    start("short", 2, |place, name, random| lines::short(place, name, random, true));
    start("brief", 1, |place, name, random| lines::short(place, name, random, false));
    start("framed", 10, frames::run);
    start("ring", 3, rings::again);
    start("stays", 1, rings::stays);
    start("dgram", 2, lines::datagrams);
    started
}

/// What the daemon and dbufctl say when all is quiet.
fn look(manager: &Manager, directory: &Path, wrong: &mut Wrong) {
    let ctl = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbufctl"));
        command.arg("--runtime").arg(manager.home.path("run")).arg("--directory").arg(directory).args(arguments);
        let output = command.stdin(Stdio::null()).output().expect("dbufctl runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(ctl(&["sync"]).0, Some(0), "{}", manager.log());
    let stats: Value = serde_json::from_str(&ctl(&["stats", "--json"]).1).expect("stats are JSON");
    let events = &stats["events"];
    if events["lost_total"] != 0 || events["received"] != events["persisted"] {
        wrong.say("the figures", events.to_string());
    }
    for command in ["account", "verify"] {
        let (code, told) = ctl(&[command, "--json"]);
        if code != Some(0) {
            let told: String = told.chars().take(TOLD_MAX).collect();
            wrong.say("account or verify", format!("{command} ends with {code:?}: {told}"));
        }
    }
    let log = manager.log();
    for line in log
        .lines()
        .filter(|line| line.contains("panicked") || line.contains("ERROR") || line.contains("is cut off with its ring"))
    {
        wrong.say("the log", line.to_owned());
    }
}

/// Waits until the daemon has read all connections to their end.
fn settle(manager: &Manager, wrong: &mut Wrong) {
    let mut left = String::new();
    let settled = wait_within(clients::ANSWER_TIMEOUT, || {
        let stats = manager.home.stats();
        let (open, rings) = (&stats["connections"]["open"], stats["rings"].as_array().map_or(0, Vec::len));
        let names: Vec<String> = manager.names();
        let is_place = |name: &&String| name.strip_prefix('c').is_some_and(|rest| rest.parse::<u32>().is_ok());
        let stored = names.iter().filter(|name| is_place(name) || name.starts_with("ring") && *name != "rings").count();
        left = format!("{open} connections open, {rings} rings, {stored} descriptors stored");
        (*open == 0 && rings == 0 && stored == 0).then_some(())
    });
    if settled.is_none() {
        wrong.say("clients are gone, and this is left of them", left);
    }
}

#[test]
fn a_storm_of_kills_loses_nothing_that_was_promised_and_leaves_no_client_without_an_answer() {
    let kills = number("DBUF_STORM_KILLS", KILLS);
    let seed = number("DBUF_SEED", u64::from(std::process::id()));
    println!("DBUF_SEED={seed} DBUF_STORM_KILLS={kills}");
    let begun = Instant::now();
    let mut manager = Manager::new();
    let disk = Disk::of(&mut manager, &format!("{}m", kills * DISK_MIB.0 + DISK_MIB.1));
    let directory = disk.as_ref().map_or_else(|| manager.home.segments(), |disk| disk.path().to_owned());
    let mut weather = Weather::new(seed);
    let settings = weather.settings();
    manager.start(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    let place = Place::new(&manager.home.path("run"), manager.view(), seed);
    let clients = start_clients(&place, &manager);
    while weather.counts.get("kills").is_none_or(|done| *done < kills) {
        weather.life(&mut manager, disk.as_ref());
    }
    weather.calm_down(&mut manager, disk.as_ref());
    place.end();
    for client in clients {
        client.join().expect("a client ends by itself");
    }
    let (mut promises, mut wrong, figures) = place.book.take();
    // Only now all notifications are read that say so.
    promises.iter_mut().for_each(|promise| promise.settle(|connection| manager.has_taken(connection)));
    settle(&manager, &mut wrong);
    look(&manager, &directory, &mut wrong);
    let mut cat = Command::new(env!("CARGO_BIN_EXE_dbufctl"));
    cat.arg("--directory").arg(&directory).args(["cat", "-o", "json"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut cat = cat.spawn().expect("dbufctl runs");
    let found = Found::compare(&promises, cat.stdout.take().expect("its output"), &mut wrong);
    cat.wait().expect("a child");
    if found.cut_off > manager.lives * BRIEF_AT_ONCE {
        wrong.say("more brief connections are cut off than deaths can meet", format!("{} of them", found.cut_off));
    }
    let mut report = String::new();
    let _ = writeln!(report, "{kills} kills, {} lives, in {:.1} s", manager.lives, begun.elapsed().as_secs_f64());
    let _ = writeln!(report, "  weather: {:?}\n  clients: {figures:?}\n  files: {found:?}", weather.counts);
    println!("{report}");
    assert!(wrong.is_empty(), "DBUF_SEED={seed}: {report}wrong:\n{wrong}");
}
