//! Tests that events carry the process that sent them, with the names that it has now.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::manager::Manager;
use super::rig::{Got, Plan, Rig, Seen, TIMEOUT};
use crate::pipeline::record::Cause;
use crate::sync::atomic::Ordering::Relaxed;

/// A shell whose standard output is `socket`. The test answers each of its `read x`.
struct Shell(Child);

impl Shell {
    fn new(script: &str, socket: impl Into<OwnedFd>) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(socket.into());
        Self(command.spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn answer(&mut self) {
        self.say("go on\n");
    }

    fn say(&mut self, line: &str) {
        self.0.stdin.as_ref().unwrap().write_all(line.as_bytes()).unwrap();
    }

    fn wait(mut self) -> u32 {
        assert!(self.0.wait().unwrap().success());
        self.pid()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn said(events: &[Got]) -> Vec<(String, u32)> {
    events.iter().map(|event| (event.text(), event.source.pid)).collect()
}

#[test]
fn a_line_on_an_inherited_connection_is_of_the_process_that_wrote_it() {
    let rig = Rig::new(&Plan::default());
    let mut stream = rig.connect();
    let own = std::process::id();
    stream.write_all(b"before\n").unwrap();
    let child = Shell::new("echo child", stream.try_clone().unwrap()).wait();
    stream.write_all(b"after\n").unwrap();
    let events = rig.wait_for_events(3);
    assert_eq!(said(&events), [("before".into(), own), ("child".into(), child), ("after".into(), own)]);
    assert!(!events[0].source.comm.is_empty());
    assert_ne!(events[1].source.comm, events[0].source.comm, "the child has no name of its parent");
    assert_eq!(events[2].source.comm, events[0].source.comm);
}

#[test]
fn a_line_on_an_inherited_connection_is_of_the_user_who_wrote_it() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can start a program of another user");
    }
    let rig = Rig::new(&Plan::default());
    let mut stream = rig.connect();
    stream.write_all(b"of root\n").unwrap();
    let mut child = Command::new("sh");
    child.args(["-c", "echo of another"]).uid(65534).gid(65533).stdout(OwnedFd::from(stream.try_clone().unwrap()));
    assert!(child.status().unwrap().success());
    stream.write_all(b"of root again\n").unwrap();
    let users: Vec<_> =
        rig.wait_for_events(3).iter().map(|event| (event.text(), event.source.uid, event.source.gid)).collect();
    let expected = [("of root", 0, 0), ("of another", 65534, 65533), ("of root again", 0, 0)];
    assert_eq!(users, expected.map(|(text, uid, gid)| (text.into(), uid, gid)));
}

#[test]
fn no_process_continues_the_line_of_another() {
    let rig = Rig::new(&Plan { writers: 1, max_event_bytes: 64, ..Plan::default() });
    let mut stream = rig.connect();
    let long = "x".repeat(100);
    stream.write_all(b"half").unwrap();
    let child = Shell::new(&format!("echo ' a line'; printf {long}"), stream.try_clone().unwrap()).wait();
    stream.write_all(b"rest\nnext\n").unwrap();
    let own = std::process::id();
    let expected =
        [("half".into(), own), (" a line".into(), child), (long, child), ("rest".into(), own), ("next".into(), own)];
    assert_eq!(said(&rig.wait_for_events(5)), expected);
    assert!(rig.stop().losses.is_empty());
}

/// Waits for an event of `pid` that came while it had this command.
fn wait_for_comm(rig: &Rig, pid: u32, comm: &str) {
    rig.wait_for(&format!("an event of {comm}"), |seen| {
        let is_it = |event: &Got| event.source.pid == pid && *event.source.comm == *comm.as_bytes();
        seen.events.iter().any(is_it).then_some(())
    });
}

/// Answers until an event came that has this command.
fn answer_until(rig: &Rig, shell: &mut Shell, comm: &str) {
    let has_come = |seen: &Seen| seen.events.iter().any(|event| *event.source.comm == *comm.as_bytes());
    let deadline = Instant::now() + TIMEOUT;
    while !rig.look(has_come) {
        assert!(Instant::now() < deadline, "waited in vain for {comm}");
        shell.answer();
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn names_follow_a_rename_and_an_exec() {
    for is_datagram in [false, true] {
        let rig = Rig::new(&Plan::default());
        let socket = || if is_datagram { OwnedFd::from(rig.datagrams()) } else { OwnedFd::from(rig.connect()) };
        let go_on = "while :; do echo x; sleep 0.05; done";
        let mut renamed = Shell::new(&format!("echo x; read x; printf renamed > /proc/$$/comm; {go_on}"), socket());
        // Another program that repeats what it reads.
        let mut changed = Shell::new("echo x; read x; exec cat", socket());
        for shell in [&mut renamed, &mut changed] {
            wait_for_comm(&rig, shell.pid(), "sh");
            shell.answer();
        }
        wait_for_comm(&rig, renamed.pid(), "renamed");
        answer_until(&rig, &mut changed, "cat");
    }
}

#[test]
fn the_next_process_knows_who_sent_half_a_line() {
    let mut manager = Manager::new();
    let first = Rig::under(&mut manager, &Plan::default(), Seen::default());
    let stream = first.connect();
    first.wait_until("it is accepted", |counters| counters.writers.iter().any(|w| w.0.connections.load(Relaxed) > 0));
    (&stream).write_all(b"parent\n").unwrap();
    let script = "while read x && test \"$x\" != half; do echo child; done; printf half; read x; echo ' a line'";
    let mut child = Shell::new(script, stream.try_clone().unwrap());
    answer_until(&first, &mut child, "sh");
    child.say("half\n");
    let seen = first.stop();
    let second = Rig::under(&mut manager, &Plan::default(), seen);
    child.answer();
    let pid = child.wait();
    let last =
        second.wait_for("the line", |seen| seen.events.iter().find(|event| event.text() == "half a line").cloned());
    assert_eq!((last.source.pid, &*last.source.comm), (pid, &b"sh"[..]));
}

#[test]
fn what_a_client_frames_is_of_the_process_that_began_its_connection() {
    let rig = Rig::new(&Plan::default());
    let mut stream: UnixStream = rig.connect();
    let greeting = super::hello(1, dbuf_wire::frames::Level::None);
    stream.write_all(&[greeting, super::event(1, b"parent")].concat()).unwrap();
    rig.wait_for_events(1);
    let frame = super::event(2, b"child");
    let octal: String = frame.iter().map(|byte| format!("\\{byte:03o}")).collect();
    Shell::new(&format!("printf '{octal}'"), stream.try_clone().unwrap()).wait();
    let own = std::process::id();
    assert_eq!(said(&rig.wait_for_events(2)), [("parent".into(), own), ("child".into(), own)]);
    assert!(rig.stop().losses.iter().all(|(_, loss)| loss.cause != Cause::Malformed));
}
