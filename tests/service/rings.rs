//! Rings over `kill -9` and restarts of the service: their programs notice nothing.
//!
//! `DBUFD_KILLS` says how often; 4 without it.

use std::thread;
use std::time::Duration;

use crate::machine::Machine;
use crate::program::{self, Client, Program, WAIT};
use crate::support::wait_for;

/// Of each client one with a ring that holds what it sends while the daemon is away, and one with a ring that gets
/// full.
const RINGS: [u64; 2] = [1 << 20, 64 << 10];
/// Of a program, after a few events: some 15,000 a second.
const PAUSE: Duration = Duration::from_micros(500);

#[test]
fn rings_go_on_over_kill_9_and_restarts_and_each_event_is_there_once() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["systemctl", "start", "dbufd"]);
    let kills: u64 = std::env::var("DBUFD_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let socket = machine.path("/run/dbufd/stream.sock");
    let wanted = Client::all().iter().flat_map(|client| RINGS.map(|ring| (*client, ring)));
    let mut programs: Vec<_> = wanted
        .enumerate()
        .map(|(number, (client, ring))| Program::start(client, number, &socket, ring, PAUSE))
        .collect();
    programs.iter_mut().for_each(|program| program.wait_for(0));
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
    let sent: Vec<u64> = programs.iter_mut().map(Program::stop).collect();
    wait_for("the end of each ring", || machine.try_stats()?["rings"].as_array()?.is_empty().then_some(()));
    let texts = machine.settled_texts();
    let mut there = vec![0; sent.len()];
    for text in &texts {
        let (number, event) = program::parse(text).unwrap_or_else(|| panic!("altered: {text}"));
        assert_eq!(event, there[number] + 1, "of program {number}: missing, twice, or out of order");
        assert_eq!(*text, program::text(number, event), "altered");
        there[number] = event;
    }
    assert_eq!(there, sent);
    for (program, sent) in programs.iter().zip(sent) {
        let (client, longest) = (program.client, program.longest());
        println!(
            "{client:?}: {kills} kills and restarts: {sent} events, none missing, none twice; longest send {longest:?}"
        );
        assert!(longest < WAIT, "{client:?} has waited longer than it wanted to");
    }
    machine.account_of(&texts);
}
