//! Senders at a steady rate, in threads of the test, and what became of what they sent.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::machine::Machine;
use crate::support::wait_for;

/// Connections that one thread serves.
const CONNECTIONS_A_THREAD: usize = 16;
/// A hundred kills leave tens of millions of events.
const ALL_READ: Duration = Duration::from_secs(600);
/// Between two lines of a connection.
const PAUSE: Duration = Duration::from_millis(10);

/// Connections that each send numbered lines, one every [`PAUSE`].
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
    connections: usize,
}

/// What was sent: this many lines on each connection.
pub(crate) struct Sent {
    pub(crate) lines: Vec<u64>,
}

impl Load {
    /// Connects and begins. That a connection breaks is a failure, which [`Load::stop`] tells.
    pub(crate) fn start(machine: &Machine, connections: usize) -> Self {
        Self::begin(machine, connections, |_| false)
    }

    /// As [`Load::start`], but every other connection writes the second half of a line with the first of the next, so
    /// that at any moment half a line is on its way.
    pub(crate) fn start_torn(machine: &Machine, connections: usize) -> Self {
        Self::begin(machine, connections, |index| index % 2 == 1)
    }

    fn begin(machine: &Machine, connections: usize, is_torn: fn(usize) -> bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut rest = (0..connections).map(|index| Connection {
            index,
            stream: machine.stream(),
            is_torn: is_torn(index),
            rest: String::new(),
        });
        let mut threads = Vec::new();
        for _ in 0..connections.div_ceil(CONNECTIONS_A_THREAD) {
            let own = rest.by_ref().take(CONNECTIONS_A_THREAD).collect();
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || send(own, &stop)));
        }
        Self { stop, threads, connections }
    }

    /// Whether a connection has broken, which ends its thread.
    pub(crate) fn is_broken(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Stops sending and gives what was sent.
    pub(crate) fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        let counts: Vec<u64> = self.threads.into_iter().map(|t| t.join().expect("no connection breaks")).collect();
        Sent { lines: (0..self.connections).map(|index| counts[index / CONNECTIONS_A_THREAD]).collect() }
    }
}

impl Sent {
    /// The numbers that are missing, by connection, when all that was sent has been taken. No line is altered, twice
    /// there or out of order, which is asserted.
    pub(crate) fn missing(&self, machine: &Machine) -> Vec<Vec<u64>> {
        let texts = machine.settled_texts();
        let mut next = vec![0; self.lines.len()];
        let mut missing = vec![Vec::new(); self.lines.len()];
        // By either end, so that a piece of a line is noticed.
        for text in texts.iter().filter(|text| text.starts_with("line of ") || text.ends_with(" more")) {
            let words: Vec<&str> = text.split(' ').collect();
            let (Some(Ok(index)), Some(Ok(number))) =
                (words.get(2).map(|w| w.parse()), words.get(3).map(|w| w.parse()))
            else {
                panic!("an altered line: {text}")
            };
            let index: usize = index;
            assert_eq!(text, &line(index, number), "an altered line");
            assert!(number >= next[index], "connection {index}: {number} comes again, or late");
            missing[index].extend(next[index]..number);
            next[index] = number + 1;
        }
        for (index, &sent) in self.lines.iter().enumerate() {
            missing[index].extend(next[index]..sent);
        }
        missing
    }

    /// Asserts that all is there.
    pub(crate) fn is_there(&self, machine: &Machine) {
        let missing = self.missing(machine);
        assert!(missing.iter().all(Vec::is_empty), "of {:?} lines, missing: {missing:?}", self.lines);
        assert!(self.lines.iter().all(|&lines| lines > 0), "something was sent");
    }
}

struct Connection {
    index: usize,
    stream: UnixStream,
    is_torn: bool,
    /// Of the last line, what is still to be written.
    rest: String,
}

impl Connection {
    fn send(&mut self, number: u64) {
        let mut text = std::mem::take(&mut self.rest) + &line(self.index, number) + "\n";
        if self.is_torn {
            self.rest = text.split_off(text.len() - 10);
        }
        self.write(&text);
    }

    fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap_or_else(|e| panic!("connection {}: {e}", self.index));
    }
}

/// Sends until it is told to stop; gives how many lines each connection has sent.
fn send(mut connections: Vec<Connection>, stop: &AtomicBool) -> u64 {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        connections.iter_mut().for_each(|connection| connection.send(number));
        number += 1;
        thread::sleep(PAUSE);
    }
    for connection in &mut connections {
        let rest = std::mem::take(&mut connection.rest);
        connection.write(&rest);
    }
    number
}

fn line(index: usize, number: u64) -> String {
    format!("line of {index} {number} with {} more", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)
}

/// A sender of datagrams at a steady rate, to whom an error is a failure.
pub(crate) struct Datagrams {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Datagrams {
    pub(crate) fn start(machine: &Machine) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let socket = machine.datagrams();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut number = 0;
            while !stopped.load(Ordering::Relaxed) {
                let text = format!("datagram {number}");
                assert_eq!(socket.send(text.as_bytes()).expect("a sender sees no error"), text.len());
                number += 1;
                thread::sleep(PAUSE);
            }
            number
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no datagram is refused")
    }
}

/// The numbers of the datagrams that are missing; none is twice there or out of order.
pub(crate) fn missing_datagrams(texts: &[String], sent: u64) -> Vec<u64> {
    let there: Vec<u64> = texts.iter().filter_map(|text| text.strip_prefix("datagram ")?.parse().ok()).collect();
    assert!(there.is_sorted_by(|a, b| a < b), "{there:?}");
    (0..sent).filter(|number| there.binary_search(number).is_err()).collect()
}

impl Machine {
    /// The account, which adds up, covers these events and no others since the first start, and knows of no loss.
    pub(crate) fn account_of(&self, texts: &[String]) -> Value {
        let output = self.exec_within(ALL_READ, &["dbufctl", "account", "--json"]);
        let account: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(account["ok"] == true && account["daemon"] == true, "{account}");
        let figures = ["sent", "stored", "in_files"].map(|name| account[name].as_u64());
        assert_eq!(figures, [Some(texts.len() as u64); 3], "{account}");
        assert_eq!((account["lost_total"].as_u64(), account["in_memory"].as_u64()), (Some(0), Some(0)), "{account}");
        account
    }

    /// The text of each event, when the senders' connections have been read to their end and all is durable.
    pub(crate) fn settled_texts(&self) -> Vec<String> {
        wait_for("the end of each connection", || {
            let stats = self.try_stats()?;
            let writers = stats["writers"].as_array()?;
            writers.iter().all(|writer| writer["connections"] == 0).then_some(())
        });
        self.run(&["dbufctl", "sync"]);
        let output = self.exec_within(ALL_READ, &["dbufctl", "cat", "-o", "cat"]);
        // 3 says that there were losses, which is for the test to judge.
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}
