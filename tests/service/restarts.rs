//! Restarts and deaths under load: no sender may notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::load::{Load, Sent};
use crate::machine::Machine;
use crate::support::wait_for;

const CONNECTIONS: usize = 50;
const TIMES: u64 = 10;
/// How long a daemon lives at least, so that it dies over its work and not over its start.
const LIFE: Duration = Duration::from_millis(150);
/// A sender of datagrams at a steady rate, to whom an error is a failure.
struct Datagrams {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Datagrams {
    fn start(machine: &Machine) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let socket = machine.datagrams();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let text = format!("datagram {number}");
                assert_eq!(socket.send(text.as_bytes()).expect("a sender sees no error"), text.len());
                number += 1;
                thread::sleep(Duration::from_millis(10));
            }
            number
        });
        Self { stop, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no datagram is refused")
    }
}

/// What was sent while `end` ended the daemon again and again, and how many datagrams.
fn under_load(machine: &Machine, end: impl Fn()) -> (Sent, u64) {
    machine.run(&["systemctl", "start", "dbufd"]);
    let load = Load::start_torn(machine, CONNECTIONS);
    let datagrams = Datagrams::start(machine);
    for _ in 0..TIMES {
        thread::sleep(LIFE);
        let before = machine.property("MainPID");
        end();
        wait_for("the next life", || {
            let now = machine.run(&["systemctl", "show", "-P", "MainPID", "-P", "ActiveState", "dbufd"]);
            let (pid, state) = now.trim().split_once('\n')?;
            (pid != before && state == "active").then_some(())
        });
    }
    (load.stop(), datagrams.stop())
}

/// The numbers of the datagrams that are missing; none is twice there or out of order.
fn missing_datagrams(machine: &Machine, sent: u64) -> Vec<u64> {
    let texts = machine.settled_texts();
    let there: Vec<u64> = texts.iter().filter_map(|text| text.strip_prefix("datagram ")?.parse().ok()).collect();
    assert!(there.is_sorted_by(|a, b| a < b), "{there:?}");
    (0..sent).filter(|number| there.binary_search(number).is_err()).collect()
}

#[test]
fn restarts_under_load_break_no_connection_and_lose_nothing() {
    let Some(machine) = Machine::boot() else { return };
    let (sent, datagrams) = under_load(&machine, || {
        machine.run(&["systemctl", "restart", "dbufd"]);
    });
    sent.is_there(&machine);
    assert_eq!(missing_datagrams(&machine, datagrams), Vec::<u64>::new(), "of {datagrams}");
}

#[test]
fn kill_9_under_load_breaks_no_connection_and_loses_nothing() {
    let Some(machine) = Machine::boot() else { return };
    let (sent, datagrams) = under_load(&machine, || {
        machine.run(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "dbufd"]);
    });
    sent.is_there(&machine);
    assert_eq!(missing_datagrams(&machine, datagrams), Vec::<u64>::new(), "of {datagrams}");
    assert_eq!(machine.property("NRestarts"), TIMES.to_string());
    machine.run(&["dbufctl", "verify"]);
    machine.account_of(&machine.settled_texts());
}
