//! Programs that send numbered events through a ring: each a process of its own, so that it can be killed, and one for
//! each client. In memory that the test shares they note how many sends have returned, and the longest.
//!
//! Which client, and what it is to do, stands in their environment. Those in Rust are this test again, the one in C is
//! `clients/c/tests/killed.c`. A test that includes this includes `support` as well.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs::File;
use std::hint::spin_loop;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::thread;
use std::time::{Duration, Instant};

use dbuf_client::{LinkKind, Producer, ProducerOptions, WhenFull};
use dbufd::sys::mapping::fix_size;
use dbufd::sys::words::Words;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::support::ring::RingClient;
use crate::support::{TIMEOUT, c, wait_for};

/// The longest that a send of `dbuf_client` or of `dbuf.h` may wait for room.
pub(crate) const WAIT: Duration = Duration::from_secs(10);

const CLIENT: &str = "DBUFD_TEST_CLIENT";
const SOCKET: &str = "DBUFD_TEST_SOCKET";
const RING_BYTES: &str = "DBUFD_TEST_RING_BYTES";
const WAIT_MS: &str = "DBUFD_TEST_WAIT_MS";
const NUMBER: &str = "DBUFD_TEST_NUMBER";
const NOTES: &str = "DBUFD_TEST_NOTES";
const PAUSE_US: &str = "DBUFD_TEST_PAUSE_US";

// The words of the notes.
const RETURNED: usize = 0;
const LONGEST_NS: usize = 1;
const ORDER: usize = 2;
const NOTES_BYTES: usize = 4096;
// What `ORDER` may say: to go on, which it says at first; to stop; to stop in the middle of an event, and that this is
// done.
const GO_ON: u64 = 0;
const STOP: u64 = 1;
const STALL: u64 = 2;
const STALLED: u64 = 3;

/// Events that a program sends between two pauses.
const BURST: u64 = 10;

/// What a program sends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// The ring's end of the tests, with nothing between it and the protocol.
    Bare,
    /// `dbuf_client::Producer`.
    Producer,
    /// `clients/c/dbuf.h`.
    C,
}

impl Client {
    /// All that can be had here.
    pub(crate) fn all() -> &'static [Self] {
        static IS_C_SKIPPED: OnceLock<bool> = OnceLock::new();
        let all = &[Self::Bare, Self::Producer, Self::C];
        if *IS_C_SKIPPED.get_or_init(|| c::is_skipped("gcc")) { &all[..2] } else { all }
    }

    /// The tag of its events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Producer => "producer",
            Self::C => "c",
        }
    }

    fn command(self) -> Command {
        static IN_C: OnceLock<PathBuf> = OnceLock::new();
        if self == Self::C {
            return Command::new(IN_C.get_or_init(|| c::build("killed", &["-std=c11", "-O2", "-pthread"])));
        }
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command.args(["--exact", "program::a_program_that_sends_until_it_is_killed_or_told_to_stop", "--nocapture"]);
        command
    }
}

/// Event `event` of program `number`. A long one now and then takes the ring's end by surprise.
pub(crate) fn text(number: usize, event: u64) -> String {
    let more = if event.is_multiple_of(256) { 8000 } else { event % 100 };
    format!("of {number} event {event} with {} more", "x".repeat(more as usize))
}

/// Which event of which program this says it is.
pub(crate) fn parse(text: &str) -> Option<(usize, u64)> {
    let (number, rest) = text.strip_prefix("of ")?.split_once(" event ")?;
    Some((number.parse().ok()?, rest.split_once(" with ")?.0.parse().ok()?))
}

/// One that runs; killed when it goes out of scope.
pub(crate) struct Program {
    pub(crate) client: Client,
    child: Child,
    notes: Words,
    _memory: OwnedFd,
}

impl Program {
    /// Starts it. It rests for `pause` after a few events each time; not at all if that is zero.
    pub(crate) fn start(client: Client, number: usize, socket: &Path, ring_bytes: u64, pause: Duration) -> Self {
        let memory = memfd_create("notes", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memory");
        fix_size(memory.as_fd(), NOTES_BYTES).expect("memory");
        let notes = Words::of_memory(memory.as_fd(), 0, NOTES_BYTES / 8).expect("memory");
        let mut command = client.command();
        command.env(CLIENT, client.name()).env(SOCKET, socket).env(NUMBER, number.to_string());
        command.env(RING_BYTES, ring_bytes.to_string()).env(PAUSE_US, pause.as_micros().to_string());
        command.env(WAIT_MS, WAIT.as_millis().to_string());
        command.env(NOTES, format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
        Self { client, child, notes, _memory: memory }
    }

    /// How many of its sends have returned, as it has noted.
    pub(crate) fn returned(&self) -> u64 {
        // Relaxed, here and below: a number for the test.
        self.notes.all()[RETURNED].load(Relaxed)
    }

    /// The longest of them.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_nanos(self.notes.all()[LONGEST_NS].load(Relaxed))
    }

    /// Waits until more than this many have returned.
    pub(crate) fn wait_for(&mut self, events: u64) {
        wait_for("a program to send", || {
            let status = self.child.try_wait().expect("a child");
            assert!(status.is_none(), "{:?} ends by itself: {status:?}", self.client);
            (self.returned() > events).then_some(())
        });
    }

    /// Ends it by this signal.
    pub(crate) fn kill(&mut self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        // Rust's own handler of SIGSEGV takes the first for a full stack of another thread, and lets the second
        // through.
        let status = wait_for("its end", || {
            kill(pid, signal).expect("it is there");
            self.child.try_wait().expect("a child")
        });
        assert_eq!(status.signal(), Some(signal as i32));
    }

    /// Has it stop in the middle of an event. Not the bare one.
    pub(crate) fn stall(&self) {
        let order = &self.notes.all()[ORDER];
        order.store(STALL, Relaxed);
        wait_for("a program in the middle of an event", || (order.load(Relaxed) == STALLED).then_some(()));
    }

    /// Has it stop, and look whether its client agrees that all is well. Gives how many events it has sent.
    pub(crate) fn stop(&mut self) -> u64 {
        self.notes.all()[ORDER].store(STOP, Relaxed);
        let status = wait_for("its end", || self.child.try_wait().expect("a child"));
        assert!(status.success(), "{:?} ended with {status}", self.client);
        self.returned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program in Rust. Does nothing where it is run as a test.
#[test]
fn a_program_that_sends_until_it_is_killed_or_told_to_stop() {
    let Ok(client) = std::env::var(CLIENT) else { return };
    let order = |name: &str| std::env::var(name).expect("an order");
    let number = |name: &str| order(name).parse::<u64>().expect("a number");
    let (socket, ring_bytes) = (PathBuf::from(order(SOCKET)), number(RING_BYTES));
    let memory: OwnedFd = File::options().read(true).write(true).open(order(NOTES)).expect("the test's memory").into();
    let notes = Words::of_memory(memory.as_fd(), 0, NOTES_BYTES / 8).expect("the test's memory");
    let (number, pause) = (number(NUMBER) as usize, Duration::from_micros(number(PAUSE_US)));
    if client == Client::Bare.name() {
        let mut client = RingClient::open(&socket, &client, ring_bytes);
        send_all(&notes, number, pause, |_, text| client.send(text));
        return assert!(!client.has_ended(), "its connection lives on");
    }
    let mut producer = open(socket, client, ring_bytes);
    send_all(&notes, number, pause, |event, text| send(&mut producer, event, text));
    match notes.all()[ORDER].load(Relaxed) {
        STALL => stall(producer, &notes),
        _ => close(producer),
    }
}

fn send_all(notes: &Words, number: usize, pause: Duration, mut send: impl FnMut(u64, &[u8])) {
    let (notes, mut longest) = (notes.all(), Duration::ZERO);
    for event in 1.. {
        let text = text(number, event);
        let begun = Instant::now();
        send(event, text.as_bytes());
        longest = longest.max(begun.elapsed());
        // Relaxed: a number for the test.
        notes[LONGEST_NS].store(longest.as_nanos() as u64, Relaxed);
        // Release: not before the event is published.
        notes[RETURNED].store(event, Release);
        if notes[ORDER].load(Relaxed) != GO_ON {
            return;
        }
        if !pause.is_zero() && event.is_multiple_of(BURST) {
            thread::sleep(pause);
        }
    }
}

/// A producer that has a ring: what it kept before that would die with it.
fn open(socket: PathBuf, name: String, capacity_bytes: u64) -> Producer {
    let when_full = WhenFull::Wait(WAIT);
    let options = ProducerOptions { name, path: Some(socket), capacity_bytes, when_full, ..Default::default() };
    let mut producer = Producer::open(options).expect("a producer");
    wait_for("a ring", || {
        producer.tend();
        (producer.statistics().link == LinkKind::Ring).then_some(())
    });
    producer
}

/// One in eight stretches of events is written in place, slowly, so that a kill meets open claims, too.
fn send(producer: &mut Producer, event: u64, text: &[u8]) {
    if event / 100 % 8 != 7 {
        return producer.send(6, text).expect("no error");
    }
    let mut claim = producer.claim(6, text.len() + 100).expect("no error");
    for part in text.chunks(16) {
        claim.write_all(part).expect("there is room");
        spin_loop();
    }
    claim.publish().expect("no error");
}

/// Until somebody ends this.
fn stall(mut producer: Producer, notes: &Words) {
    let mut claim = producer.claim(6, 100).expect("no error");
    claim.write_all(b"half of an ev").expect("there is room");
    // Release: not before that is so.
    notes.all()[ORDER].store(STALLED, Release);
    loop {
        thread::park();
    }
}

fn close(mut producer: Producer) {
    producer.sync(TIMEOUT).expect("all is durable");
    let told = producer.statistics();
    assert_eq!((told.link, told.links), (LinkKind::Ring, 1), "it has noticed nothing: {told:?}");
    assert_eq!((told.lost_full, told.refused, told.lost, told.unconfirmed), (0, 0, 0, 0), "{told:?}");
    assert_eq!((told.persisted, told.durable), (told.events, told.events), "{told:?}");
    producer.close().expect("nothing is left behind");
}
