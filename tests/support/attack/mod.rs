//! Attacks of one user, and senders of other users next to them, each as a process of its own.
//!
//! `benches/fairness.rs` measures one attack after the other, `tests/attack` goes on for minutes under systemd. Both
//! programs start themselves again for each process: [`role`] is the first thing that such a copy calls. A copy takes
//! orders on its standard input and answers on its standard output, so it ends with the program that started it.

#![allow(dead_code, reason = "the benchmark and the test use different parts")]

mod frames;
mod rings;
mod sender;
mod streams;

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde_json::Value;

pub(crate) use sender::{Kind, parse};

/// The user that attacks: `nobody`.
pub(crate) const ATTACKER: u32 = 65534;
/// Processes that attack at once.
pub(crate) const PROCESSES: u32 = 8;

/// What a copy of the program is to do: `attacker`, `attack NAME NUMBER SECONDS` or `sender KIND NAME`.
const ROLE: &str = "DBUF_ATTACK_ROLE";
/// The daemon's runtime directory.
const RUNTIME: &str = "DBUF_ATTACK_RUNTIME";
/// An attacker waits at most this long for the daemon before it looks at its time again.
const SLICE: Duration = Duration::from_millis(200);
/// After it was refused.
const RETRY: Duration = Duration::from_millis(10);
/// Longer than an attack needs to end after its time; what goes on then is killed.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// One kind of attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// What it tries.
    pub(crate) what: &'static str,
    run: fn(&Target) -> u64,
}

const fn attack(name: &'static str, what: &'static str, run: fn(&Target) -> u64) -> Attack {
    Attack { name, what, run }
}

/// All of them. The first is none, for comparison.
pub(crate) const ATTACKS: &[Attack] = &[
    attack("none", "no attack", |target| target.rest()),
    attack("lines", "lines of 100 bytes at full speed", streams::lines),
    attack("bytes", "one byte per write", streams::bytes),
    attack("tags", "a new tag for each event", frames::tags),
    attack("datagrams", "datagrams at full speed", streams::datagrams),
    attack("processes", "a process for each datagram", streams::processes),
    attack("idle", "idle connections, as many as there are", streams::idle),
    attack("connects", "connections that close at once", streams::connects),
    attack("hellos", "open sessions without an event", frames::hellos),
    attack("sessions", "sessions with one event each", frames::sessions),
    attack("rings", "rings that are filled with garbage", rings::corrupted),
    attack("losses", "rings that claim billions of losses", rings::losses),
    attack("halves", "half lines of the largest size", streams::halves),
    attack("deaf", "clients that never read an answer", frames::deaf),
    attack("descriptors", "descriptors whose close blocks, with each event", streams::descriptors),
    attack("batches", "payloads that look like batches of a segment", frames::batches),
    attack("control", "connections of the control socket", streams::control),
];

/// The attack of this name.
pub(crate) fn named(name: &str) -> Option<&'static Attack> {
    ATTACKS.iter().find(|attack| attack.name == name)
}

/// What an attacking process aims at, and how long.
pub(crate) struct Target {
    runtime: PathBuf,
    /// Differs between the processes of an attack.
    number: u32,
    /// How many connections it can have.
    descriptors_max: usize,
    until: Instant,
}

impl Target {
    fn is_on(&self) -> bool {
        Instant::now() < self.until
    }

    fn rest(&self) -> u64 {
        std::thread::sleep(self.until.saturating_duration_since(Instant::now()));
        0
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.runtime.join(name)
    }

    fn stream(&self) -> io::Result<UnixStream> {
        connect(&self.socket("stream.sock"), SocketType::STREAM).map(UnixStream::from)
    }
}

/// Connects to a socket of the daemon. Neither this nor a write waits longer than [`SLICE`].
fn connect(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(SLICE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Does what this copy of the program was started for, and says whether it was.
pub(crate) fn role() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    let runtime = PathBuf::from(std::env::var_os(RUNTIME).expect("the runtime directory"));
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["attacker"] => {
            begin_session();
            attacker();
        }
        ["attack", name, number, seconds] => {
            // Nothing of an attack outlives the process that leads it.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).expect("an option");
            let time = Duration::from_secs_f64(seconds.parse().expect("seconds"));
            let number = number.parse().expect("a number");
            let target = Target { runtime, number, descriptors_max: raise_limit(), until: Instant::now() + time };
            say(&(named(name).expect("an attack").run)(&target).to_string());
        }
        ["sender", kind, name] => {
            begin_session();
            say(&sender::run(kind.parse().expect("a kind"), name, &runtime).to_string());
        }
        _ => panic!("{ROLE}={role}"),
    }
    true
}

/// Gets as many descriptors as this user may have. Gives how many are free for an attack.
fn raise_limit() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("what the user may have");
    usize::try_from(hard).expect("a number") - 64
}

fn say(answer: &str) {
    // What the test harness prints may be on the same line before it.
    let _ = writeln!(io::stdout(), "\n{ANSWER}{answer}");
}

const ANSWER: &str = "answer: ";

/// Leaves the session of the program that started this, so that the kernel divides the processor between the daemon,
/// its attackers and its senders, and not between their processes, as it does between services and users of systemd.
fn begin_session() {
    // The weight of the whole, if the kernel groups processes by session.
    let weight = std::fs::read_to_string("/proc/self/autogroup").unwrap_or_default();
    let weight = weight.trim().rsplit(' ').next().unwrap_or_default().to_owned();
    let _ = rustix::process::setsid();
    let _ = std::fs::write("/proc/self/autogroup", weight);
}

/// Leads attacks, one for each line `NAME SECONDS` of standard input, and answers how often it did what it does.
fn attacker() {
    for order in io::stdin().lines().map_while(Result::ok) {
        let (name, seconds) = order.split_once(' ').expect("an attack and its time");
        let until = Instant::now() + Duration::from_secs_f64(seconds.parse().expect("seconds")) + END_TIMEOUT;
        let mut processes: Vec<Child> = (0..PROCESSES)
            .map(|number| {
                let mut command = copy(&format!("attack {name} {number} {seconds}"));
                command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a process")
            })
            .collect();
        while Instant::now() < until && processes.iter_mut().any(|child| matches!(child.try_wait(), Ok(None))) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let done = processes.iter_mut().filter_map(|child| {
            let _ = child.kill();
            let _ = child.wait();
            answers(child.stdout.take().expect("its output")).next()?.parse::<u64>().ok()
        });
        say(&done.sum::<u64>().to_string());
    }
}

fn answers(output: impl Read) -> impl Iterator<Item = String> {
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    lines.filter_map(|line| line.strip_prefix(ANSWER).map(str::to_owned))
}

/// A command that starts this program again. A test harness is told to run nothing but the role.
fn copy(role: &str) -> Command {
    // Not by its path, which another user may not be able to reach.
    let mut command = Command::new("/proc/self/exe");
    command.args(HARNESS).env(ROLE, role);
    command
}

/// Arguments by which the harness of a test runs `a_process_of_an_attack` alone, and says as little as it can.
pub(crate) const HARNESS: [&str; 4] = ["--exact", "a_process_of_an_attack", "--nocapture", "--test-threads=1"];

/// The environment of a copy with this role.
pub(crate) fn environment(role: &str, runtime: &Path) -> [(&'static str, String); 2] {
    [(ROLE, role.to_owned()), (RUNTIME, runtime.to_string_lossy().into_owned())]
}

/// A copy of the program that runs: an attacker or a sender.
pub(crate) struct Process {
    child: Option<Child>,
    orders: Option<Box<dyn Write>>,
    next_line: Box<dyn FnMut() -> String>,
}

impl Process {
    /// Starts a copy as this user and group.
    pub(crate) fn start_as(user: u32, group: u32, role: &str, runtime: &Path) -> Self {
        use std::os::unix::process::CommandExt;
        let mut command = copy(role);
        command.envs(environment(role, runtime)).uid(user).gid(group);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let next_line = Box::new(move || lines.next().expect("an answer").expect("text"));
        let orders: Box<dyn Write> = Box::new(child.stdin.take().expect("its input"));
        Self { child: Some(child), orders: Some(orders), next_line }
    }

    /// A copy that something else has started, with the other ends of its standard input and output.
    pub(crate) fn of(orders: impl Write + 'static, next_line: impl FnMut() -> String + 'static) -> Self {
        Self { child: None, orders: Some(Box::new(orders)), next_line: Box::new(next_line) }
    }

    /// Has an attacker attack. [`Process::answer`] waits for its end.
    pub(crate) fn order(&mut self, attack: &Attack, time: Duration) {
        let orders = self.orders.as_mut().expect("it takes orders");
        writeln!(orders, "{} {}", attack.name, time.as_secs_f64()).expect("the attacker is there");
    }

    /// The next answer.
    pub(crate) fn answer(&mut self) -> String {
        loop {
            if let Some(answer) = (self.next_line)().strip_prefix(ANSWER) {
                return answer.to_owned();
            }
        }
    }

    /// Has a sender end, and takes its report.
    pub(crate) fn stop(mut self) -> Value {
        self.orders = None;
        serde_json::from_str(&self.answer()).expect("a report")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What an attacker holds open, the oldest first.
struct Held<T> {
    held: VecDeque<T>,
    max: usize,
    is_renewed: bool,
}

impl<T: AsFd> Held<T> {
    /// Holds what it has once there is no more to be had.
    fn new(max: usize) -> Self {
        Self { held: VecDeque::new(), max, is_renewed: false }
    }

    /// Gives up the oldest for a new one.
    fn renewing(max: usize) -> Self {
        Self { is_renewed: true, ..Self::new(max) }
    }

    /// Holds one more, and says how many that are.
    fn push(&mut self, one: impl FnOnce() -> io::Result<T>) -> u64 {
        if self.held.len() == self.max {
            self.held.retain(|one| !has_ended(one));
        }
        if self.held.len() == self.max && self.is_renewed {
            self.held.pop_front();
        }
        if self.held.len() < self.max
            && let Ok(one) = one()
        {
            self.held.push_back(one);
            return 1;
        }
        self.held.retain(|one| !has_ended(one));
        std::thread::sleep(RETRY);
        0
    }
}

/// Whether the daemon has ended a connection of which nothing is read.
fn has_ended(stream: &impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
    let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}
