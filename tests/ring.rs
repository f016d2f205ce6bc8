//! Rings through a whole daemon: what was sent survives its program, and a program can spoil its own ring alone.
//!
//! `DBUFD_APP_KILLS` says how often a program is killed; 12 times without it.

#[path = "support/program.rs"]
mod program;
mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use dbuf_client::{LinkKind, Producer, ProducerOptions};
use dbuf_wire::ring::{state, want};
use nix::sys::signal::Signal;
use program::{Client, Program};
use serde_json::{Value, json};
use support::ring::RingClient;
use support::{Home, TIMEOUT, wait_for};

const RING: u64 = 1 << 20;
#[test]
fn every_event_whose_send_returned_is_there_when_its_program_is_killed() {
    let kills: u64 = std::env::var("DBUFD_APP_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let home = Home::new();
    let _daemon = home.start(&[]);
    let clients = Client::all();
    let mut sent = Vec::new();
    for number in 0..kills as usize {
        let client = clients[number % clients.len()];
        let mut program = Program::start(client, number, &home.socket("stream.sock"), RING, Duration::ZERO);
        program.wait_for(100);
        // Somewhere in the middle; nothing depends on where.
        std::thread::sleep(Duration::from_micros(number as u64 * 7919 % 20_000));
        program.kill([Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGABRT][number / clients.len() % 3]);
        sent.push(program.returned());
    }
    wait_for("the end of each ring", || home.stats()["rings"].as_array().unwrap().is_empty().then_some(()));
    let stats = home.stats();
    home.ctl_ok(&["sync"]);
    let there = events_of(&home, kills as usize);
    let torn = torn_by_client(&home);
    for (at, client) in clients.iter().enumerate() {
        let of_it = || (at..kills as usize).step_by(clients.len());
        for number in of_it() {
            // The one that was published when the note of it did not come any more.
            let (sent, there) = (sent[number], there[number]);
            assert!((sent..=sent + 1).contains(&there), "of program {number}, {client:?}: {sent} sent, {there} there");
        }
        let (events, torn) = (of_it().map(|n| there[n]).sum::<u64>(), torn.get(client.name()).copied().unwrap_or(0));
        let kills = of_it().count();
        assert!(torn <= kills as u64, "of each program one at most: {torn} of {kills}");
        println!("{client:?}: {kills} programs killed: {events} events, none missing, none twice, {torn} torn");
    }
    let (total, torn): (u64, u64) = (there.iter().sum(), torn.values().sum());
    assert_eq!((&stats["events"]["lost"]["abandoned"], &stats["events"]["lost_total"]), (&json!(torn), &json!(torn)));
    assert_eq!(stats["events"]["received"], json!(total + torn));
}

#[test]
fn an_event_that_was_being_written_when_its_program_was_killed_is_counted_as_abandoned() {
    for client in Client::all().iter().filter(|client| **client != Client::Bare) {
        let home = Home::new();
        let _daemon = home.start(&[]);
        let mut program = Program::start(*client, 0, &home.socket("stream.sock"), RING, Duration::ZERO);
        program.wait_for(100);
        program.stall();
        program.kill(Signal::SIGKILL);
        wait_for("the end of its ring", || home.stats()["rings"].as_array().unwrap().is_empty().then_some(()));
        home.ctl_ok(&["sync"]);
        assert_eq!(events_of(&home, 1), [program.returned()]);
        assert_eq!(torn_by_client(&home), HashMap::from([(client.name().to_owned(), 1)]));
    }
}

#[test]
fn of_what_a_daemon_took_that_ends_in_order_nothing_is_unconfirmed() {
    let home = Home::new();
    // By itself nothing becomes durable.
    let daemon = home.start(&["storage.sync=1h"]);
    let options = ProducerOptions { path: Some(home.socket("stream.sock")), ..Default::default() };
    let mut producer = Producer::open(options).unwrap();
    // The daemon may answer later than a producer waits when it is opened.
    wait_for("a ring", || {
        producer.tend();
        (producer.statistics().link == LinkKind::Ring).then_some(())
    });
    let send = |producer: &mut Producer, events: std::ops::RangeInclusive<u64>| {
        events.for_each(|event| producer.send(6, program::text(0, event).as_bytes()).unwrap());
    };
    send(&mut producer, 1..=1000);
    home.wait_persisted(1000);
    assert_eq!(producer.statistics().durable, 0);
    // Of these it takes what it comes to.
    send(&mut producer, 1001..=1500);
    daemon.stop();
    wait_for("it to notice", || {
        producer.tend();
        (producer.statistics().link == LinkKind::None).then_some(())
    });
    let told = producer.statistics();
    assert!(told.persisted == told.durable && told.durable >= 1000 && told.unconfirmed == 0, "{told:?}");
    send(&mut producer, 1501..=1600);
    let _daemon = home.start(&[]);
    producer.sync(TIMEOUT).unwrap();
    assert_eq!(events_of(&home, 1), [1600]);
}

/// How many events of each program are there: whole, in order, and each once.
fn events_of(home: &Home, programs: usize) -> Vec<u64> {
    // Its last words are of the losses, which are looked at elsewhere.
    let mut cat = home.ctl_command(&["cat", "-o", "cat"]);
    let mut cat = cat.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut there = vec![0; programs];
    for line in BufReader::new(cat.stdout.take().unwrap()).lines().map(Result::unwrap) {
        let (number, event) = program::parse(&line).unwrap_or_else(|| panic!("altered: {line}"));
        assert_eq!(event, there[number] + 1, "of program {number}: missing, twice, or out of order");
        assert_eq!(line, program::text(number, event), "altered");
        there[number] = event;
    }
    assert!(matches!(cat.wait().unwrap().code(), Some(0 | 3)));
    there
}

/// Events that were torn, by the records of losses, for each client's tag.
fn torn_by_client(home: &Home) -> HashMap<String, u64> {
    // What is lost has no text, so no pattern keeps it out; no event has this one.
    let losses = home.ctl(&["cat", "-o", "json", "-g", "^NO EVENT SAYS THIS$"]).stdout;
    let mut torn = HashMap::new();
    for line in String::from_utf8(losses).unwrap().lines() {
        let loss: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| loss[name].as_str().unwrap_or_default();
        assert_eq!((text("DBUF_CAUSE"), text("_TRANSPORT")), ("abandoned", "ring"), "{loss}");
        *torn.entry(text("SYSLOG_IDENTIFIER").to_owned()).or_default() += text("DBUF_LOST").parse::<u64>().unwrap();
    }
    torn
}

/// The state that the writer has told, and how often it has told one. A state counts only once it is the writer's last.
fn asleep_after(client: &RingClient, count_before: u64) -> u64 {
    wait_for("the writer to sleep", || {
        let told = client.ring.memory().words().state.load(std::sync::atomic::Ordering::Relaxed);
        let count = told / state::COUNT_ONE;
        (told & state::MASK == state::ASLEEP && count > count_before).then_some(count)
    })
}

#[test]
fn a_program_at_a_steady_rate_never_rings_and_an_idle_ring_wakes_nobody() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut client = RingClient::open(&home.socket("stream.sock"), "steady", RING);
    let (mut pauses, mut sent) = (0, Instant::now());
    client.send(b"first");
    home.wait_persisted(1);
    let began = client.rung;
    for _ in 0..2000 {
        // The writer sleeps after 20 ms without an event. So an event that comes sooner finds it awake, however little
        // of the processor this process and the daemon get.
        pauses += u64::from(sent.elapsed() >= Duration::from_millis(15));
        sent = Instant::now();
        client.send(&[b'x'; 100]);
        // The steady rate: some 4,000 events a second.
        std::thread::sleep(Duration::from_micros(200));
    }
    let rung = client.rung - began;
    assert!(rung <= pauses, "{rung} bells, and {pauses} pauses after which the writer could sleep");
    home.wait_persisted(2001);
    asleep_after(&client, 0);
    // The last sync comes a second after the last event.
    wait_for("all to be durable", || (home.stats()["events"]["durable"].as_u64() >= Some(2001)).then_some(()));
    daemon.assert_nobody_wakes(Duration::from_millis(300));
}

#[test]
fn a_writer_that_was_woken_looks_for_more_events_before_it_sleeps_again() {
    let home = Home::new();
    let _daemon = home.start(&[]);
    let mut client = RingClient::open(&home.socket("stream.sock"), "rare", RING);
    let mut count = asleep_after(&client, 0);
    for event in 1..=3 {
        client.send(b"rare");
        assert_eq!(client.rung, event, "it slept");
        let again = asleep_after(&client, count);
        // Awake, dozing at least once, awake for the next look, asleep.
        assert!(again - count >= 4, "it went to sleep after {} changes of its state", again - count);
        count = again;
    }
}

#[test]
fn stats_show_each_ring_and_its_memory_is_what_it_says() {
    let home = Home::new();
    let daemon = home.start(&[]);
    // The first ring costs the daemon more than its memory, once.
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
    assert!(home.ctl_ok(&["stats", "--prometheus"]).contains("dbufd_rings{tag=\"one\""));
    assert!(home.ctl_ok(&["stats", "--prometheus", "--with-pid"]).contains("dbufd_ring_events_total{tag=\"one\""));
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
    // Its end is seen a moment before its row is given back.
    let stats = home.wait_for_stats("its ring to be gone", |stats| {
        stats["rings"].as_array().is_some_and(|rings| rings.len() == 10)
    });
    let (lost, malformed) = (&stats["events"]["lost_total"], &stats["events"]["lost"]["malformed"]);
    assert!(lost == malformed && malformed.as_u64() >= Some(1), "{stats}");
    assert!(daemon.log().contains("a program is cut off with its ring"), "{}", daemon.log());
    assert_eq!(home.cat().lines().filter(|line| *line == "still here").count(), 2000);
}
