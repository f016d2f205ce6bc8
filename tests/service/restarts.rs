//! Restarts and deaths under load: no sender may notice.

use std::thread;
use std::time::Duration;

use crate::load::{Datagrams, Load, Sent, missing_datagrams};
use crate::machine::Machine;
use crate::support::wait_for;

const CONNECTIONS: usize = 50;
const TIMES: u64 = 10;
/// How long a daemon lives at least, so that it dies over its work and not over its start.
const LIFE: Duration = Duration::from_millis(150);

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

#[test]
fn restarts_under_load_break_no_connection_and_lose_nothing() {
    let Some(machine) = Machine::boot() else { return };
    let (sent, datagrams) = under_load(&machine, || {
        machine.run(&["systemctl", "restart", "dbufd"]);
    });
    sent.is_there(&machine);
    assert_eq!(missing_datagrams(&machine.settled_texts(), datagrams), Vec::<u64>::new(), "of {datagrams}");
}

#[test]
fn kill_9_under_load_breaks_no_connection_and_loses_nothing() {
    let Some(machine) = Machine::boot() else { return };
    let (sent, datagrams) = under_load(&machine, || {
        machine.run(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "dbufd"]);
    });
    sent.is_there(&machine);
    assert_eq!(missing_datagrams(&machine.settled_texts(), datagrams), Vec::<u64>::new(), "of {datagrams}");
    assert_eq!(machine.property("NRestarts"), TIMES.to_string());
    machine.run(&["dbufctl", "verify"]);
    machine.account_of(&machine.settled_texts());
}
