//! The watchdog tells the truth: a thread that does not get on is a hang, a disk that does not is not.

use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::load::Load;
use crate::machine::Machine;
use crate::support::wait_for;

const INTERVAL: Duration = Duration::from_secs(2);
/// Where the disk that can be blocked is.
const DISK: &str = "/var/log/dbufd";

fn start(machine: &Machine) {
    // The default is half a minute. A process that is killed for a hang leaves no core in a test.
    let text = format!("[Service]\nWatchdogSec={}\nLimitCORE=0\n", INTERVAL.as_secs());
    machine.write("/etc/systemd/system/dbufd.service.d/watchdog.conf", &text);
    // All senders meet the same writer.
    machine.write("/etc/dbufd/dbufd.toml", "[writers]\ncount = 1\n");
    machine.run(&["systemctl", "daemon-reload"]);
    machine.run(&["systemctl", "start", "dbufd"]);
    machine.run(&["dbufctl", "send", "--sync", "it works"]);
}

/// A thread of the daemon that is held by this one, as a debugger would.
struct Held(Pid);

impl Held {
    fn hold(machine: &Machine, thread_name: &str) -> Self {
        let pid = machine.pid_outside(&machine.property("MainPID"));
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs").flatten();
        let is_it = |task: &fs::DirEntry| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == thread_name)
        };
        let task = tasks.into_iter().find(is_it).unwrap_or_else(|| panic!("there is no thread {thread_name}"));
        let task = Pid::from_raw(task.file_name().to_string_lossy().parse().expect("a number"));
        ptrace::seize(task, ptrace::Options::empty()).expect("root may trace");
        ptrace::interrupt(task).expect("it is traced");
        Self(task)
    }

    fn look(&self) -> Option<WaitStatus> {
        match waitpid(self.0, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) => None,
            other => Some(other.expect("it is traced")),
        }
    }

    fn wait_for_stop(&self) {
        wait_for("the thread to stop", || self.look().filter(|seen| matches!(seen, WaitStatus::PtraceEvent(..))));
    }

    /// A thread that is traced is not gone before its tracer has seen it go.
    fn wait_for_end(&self) {
        wait_for("the thread to end", || {
            self.look().filter(|seen| matches!(seen, WaitStatus::Exited(..) | WaitStatus::Signaled(..)))
        });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It is gone, unless the test has failed.
        let _ = ptrace::detach(self.0, None);
    }
}

/// Runs `meanwhile` while a client sends, which connects again when the daemon is gone.
fn while_somebody_sends(machine: &Machine, meanwhile: impl FnOnce()) {
    let done = AtomicBool::new(false);
    // Ends the sender also when an assertion fails.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = machine.stream();
            while !done.load(Ordering::Relaxed) {
                if stream.write_all(b"a line of somebody\n").is_err() {
                    stream = machine.stream();
                }
                // A steady rate: the watchdog looks for events that come and are not taken.
                thread::sleep(Duration::from_millis(10));
            }
        });
        let _done = Done(&done);
        meanwhile();
    });
}

fn is_restarted(machine: &Machine, held: &Held) {
    held.wait_for_end();
    machine.wait_for_property("NRestarts", "1");
    machine.wait_for_property("ActiveState", "active");
    let journal = machine.run(&["journalctl", "-u", "dbufd", "--no-pager"]);
    assert!(journal.contains("Watchdog timeout") && journal.contains("makes no progress"), "{journal}");
    machine.run(&["dbufctl", "send", "--sync", "it works again"]);
    machine.wait_for_event("it works again");
}

#[test]
fn a_reader_that_stands_still_while_somebody_sends_is_restarted() {
    let Some(machine) = Machine::boot() else { return };
    start(&machine);
    while_somebody_sends(&machine, || {
        let held = Held::hold(&machine, "dbufd-reader");
        held.wait_for_stop();
        is_restarted(&machine, &held);
    });
}

#[test]
fn a_writer_that_stands_still_while_somebody_sends_is_restarted() {
    let Some(machine) = Machine::boot() else { return };
    start(&machine);
    while_somebody_sends(&machine, || {
        let held = Held::hold(&machine, "dbufd-writer-0");
        held.wait_for_stop();
        is_restarted(&machine, &held);
    });
}

#[test]
fn a_reader_that_is_stopped_on_its_way_back_from_the_disk_is_not_taken_for_a_slow_disk() {
    let Some(machine) = Machine::boot_with_disk(DISK) else { return };
    start(&machine);
    machine.run(&["fsfreeze", "--freeze", DISK]);
    while_somebody_sends(&machine, || {
        machine.wait_for_stats("events that are not persisted", |stats| {
            stats["events"]["received"].as_u64() > stats["events"]["persisted"].as_u64()
        });
        // It is inside the write, and stops when that returns.
        let held = Held::hold(&machine, "dbufd-reader");
        machine.run(&["fsfreeze", "--unfreeze", DISK]);
        held.wait_for_stop();
        is_restarted(&machine, &held);
    });
}

#[test]
fn an_idle_daemon_feeds_the_watchdog() {
    let Some(machine) = Machine::boot() else { return };
    start(&machine);
    // Time is what is tested: systemd kills a service that says nothing for one interval.
    thread::sleep(3 * INTERVAL + INTERVAL / 2);
    assert_eq!((machine.property("NRestarts"), machine.property("ActiveState")), ("0".into(), "active".into()));
}

#[test]
fn a_disk_that_blocks_for_several_intervals_is_a_state_and_no_hang() {
    let Some(machine) = Machine::boot_with_disk(DISK) else { return };
    start(&machine);
    let pid = machine.property("MainPID");
    let load = Load::start(&machine, 4);
    machine.run(&["fsfreeze", "--freeze", DISK]);
    // Time is what is tested: systemd kills a service that says nothing for one interval.
    thread::sleep(4 * INTERVAL);
    machine.wait_for_stats("the state", |stats| stats["storage"]["state"] == "stalled");
    wait_for("the state in systemctl status", || {
        machine.run(&["systemctl", "status", "dbufd"]).contains("storage stalled").then_some(())
    });
    machine.run(&["fsfreeze", "--unfreeze", DISK]);
    machine.wait_for_stats("the disk to recover", |stats| stats["storage"]["state"] == "ok");
    load.stop().is_there(&machine);
    assert_eq!((machine.property("NRestarts"), machine.property("MainPID")), ("0".into(), pid));
}
