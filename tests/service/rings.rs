//! Rings over `kill -9` and restarts of the service: their programs notice nothing.
//!
//! `DBUFD_KILLS` says how often; 4 without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::machine::Machine;
use crate::support::ring::RingClient;
use crate::support::wait_for;

const PROGRAMS: usize = 3;

/// Sends numbered events until it is told to stop; gives how many, and the longest wait for room.
fn program(machine: &Machine, index: usize, stop: Arc<AtomicBool>) -> thread::JoinHandle<(u64, Duration)> {
    let socket = machine.path("/run/dbufd/stream.sock");
    thread::spawn(move || {
        let mut client = RingClient::open(&socket, "ring", 1 << 20);
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..20 {
                client.send(format!("ring {index} {number}").as_bytes());
                number += 1;
            }
            thread::sleep(Duration::from_micros(500));
        }
        assert!(!client.has_ended(), "its connection lives on");
        (number, client.longest_wait)
    })
}

#[test]
fn rings_go_on_over_kill_9_and_restarts_and_each_event_is_there_once() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["systemctl", "start", "dbufd"]);
    let kills: u64 = std::env::var("DBUFD_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let stop = Arc::new(AtomicBool::new(false));
    let programs: Vec<_> = (0..PROGRAMS).map(|index| program(&machine, index, Arc::clone(&stop))).collect();
    machine.wait_for_stats("their rings", |stats| stats["rings"].as_array().is_some_and(|r| r.len() == PROGRAMS));
    for kill in 0..kills {
        // Somewhere between two swaps: the pauses differ, and nothing depends on them.
        thread::sleep(Duration::from_micros(150_000 + kill * 7_919_000 % 100_000));
        if kill % 4 == 3 {
            machine.run(&["systemctl", "restart", "dbufd"]);
        } else {
            let before = machine.property("NRestarts");
            machine.run(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "dbufd"]);
            wait_for("the next life", || (machine.property("NRestarts") != before).then_some(()));
        }
        machine.wait_for_property("ActiveState", "active");
    }
    stop.store(true, Ordering::Relaxed);
    let sent: Vec<(u64, Duration)> = programs.into_iter().map(|program| program.join().expect("no error")).collect();
    wait_for("the end of each ring", || machine.try_stats()?["rings"].as_array()?.is_empty().then_some(()));
    let texts = machine.settled_texts();
    let mut next = [0; PROGRAMS];
    for text in texts.iter().filter_map(|text| text.strip_prefix("ring ")) {
        let (index, number) = text.split_once(' ').expect("an event is not bent");
        let (index, number): (usize, u64) = (index.parse().expect("a number"), number.parse().expect("a number"));
        assert_eq!(number, next[index], "of program {index}: missing, twice, or out of order");
        next[index] += 1;
    }
    assert_eq!(next.to_vec(), sent.iter().map(|(sent, _)| *sent).collect::<Vec<_>>());
    let longest = sent.iter().map(|(_, longest)| *longest).max().unwrap_or_default();
    println!("{kills} kills and restarts: {} events, none missing, none twice; longest wait {longest:?}", texts.len());
    machine.account_of(&texts);
}
