//! Events of 100 bytes to a file, as text lines over two stream connections and through two rings, compared with the
//! barest possible program: one thread that read()s 256 KiB from one such connection and write()s it to a file.
//! Alternating runs in one process, medians, ratios.
//!
//! `cargo bench --bench lines [-- RUNS]`. Prints a table; writes only into a temporary folder of its own.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dbuf_client::{LinkKind, Producer, ProducerOptions, WhenFull, WithoutDaemon};
use serde_json::Value;
use support::usage::cpu_seconds;

const LINE_BYTES: usize = 100;
const LINES: u64 = 10_000_000;
const BLOCK_LINES: usize = 650;

struct Run {
    seconds: f64,
    cpu_seconds: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [mode, rest @ ..] = arguments.as_slice() {
        match (mode.as_str(), rest) {
            ("barest", [socket, file]) => return barest(socket, file),
            ("send", [socket, lines]) => return send(socket, lines.parse().expect("a count")),
            ("ring", [socket, events]) => return ring(socket, events.parse().expect("a count")),
            _ => (),
        }
    }
    let runs: usize = arguments.first().and_then(|n| n.parse().ok()).unwrap_or(7);
    let folder = tempfile::Builder::new()
        .prefix("dbufd-bench-")
        .tempdir_in(std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into))
        .expect("a folder");
    // The first round does not count.
    let mut rows: [(&str, Vec<Run>); 5] = [
        ("barest read/write", vec![]),
        ("lines, sync = never", vec![]),
        ("lines, sync = 1s", vec![]),
        ("rings, sync = never", vec![]),
        ("rings, sync = 1s", vec![]),
    ];
    for round in 0..=runs {
        let measured = [
            run_barest(folder.path()),
            run_dbufd(folder.path(), "never", "send"),
            run_dbufd(folder.path(), "1s", "send"),
            run_dbufd(folder.path(), "never", "ring"),
            run_dbufd(folder.path(), "1s", "ring"),
        ];
        for ((_, kept), run) in rows.iter_mut().zip(measured) {
            if round > 0 {
                kept.push(run);
            }
        }
    }
    println!("{LINES} events of {LINE_BYTES} bytes; medians of {runs} alternating runs");
    println!("{:<22} {:>12} {:>9} {:>14} {:>7}", "", "events/s", "MB/s", "CPU us/event", "ratio");
    let base = median(&rows[0].1, |r| r.seconds);
    for (name, kept) in &rows {
        let seconds = median(kept, |r| r.seconds);
        let rate = LINES as f64 / seconds;
        let cpu = median(kept, |r| r.cpu_seconds) * 1e6 / LINES as f64;
        println!("{name:<22} {rate:>12.0} {:>9.0} {cpu:>14.3} {:>7.2}", rate * LINE_BYTES as f64 / 1e6, base / seconds);
    }
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The child that is measured against.
fn barest(socket: &str, file: &str) {
    let listener = UnixListener::bind(socket).expect("a socket");
    println!("ready");
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut file = File::create(file).expect("a file");
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stream.read(&mut buffer).expect("the sender sends") {
            0 => return,
            n => file.write_all(&buffer[..n]).expect("room on the disk"),
        }
    }
}

/// The child that sends: the same for both sides.
fn send(socket: &str, lines: u64) {
    let mut block = Vec::new();
    for number in 0..BLOCK_LINES {
        let mut line = format!("{number:07} ").into_bytes();
        line.resize(LINE_BYTES - 1, b'x');
        line.push(b'\n');
        block.extend_from_slice(&line);
    }
    let mut stream = UnixStream::connect(socket).expect("somebody listens");
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).expect("the word to go");
    let mut left = lines as usize;
    while left > 0 {
        let now = left.min(BLOCK_LINES);
        stream.write_all(&block[..now * LINE_BYTES]).expect("somebody reads");
        left -= now;
    }
}

/// The child that sends through a ring of its own, and waits where that is full.
fn ring(socket: &str, events: u64) {
    let mut producer = Producer::open(ProducerOptions {
        path: Some(socket.into()),
        when_full: WhenFull::Wait(Duration::from_secs(60)),
        without_daemon: WithoutDaemon::Fail,
        ..ProducerOptions::default()
    })
    .expect("a daemon");
    assert_eq!(producer.statistics().link, LinkKind::Ring);
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).expect("the word to go");
    for _ in 0..events {
        producer.send(6, &[b'x'; LINE_BYTES]).expect("room within a minute");
    }
}

fn child(arguments: &[&str]) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a child");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("its output")).read_line(&mut line).expect("its word");
    assert_eq!(line.trim(), "ready");
    child
}

fn go(senders: &mut [Child]) -> Instant {
    let start = Instant::now();
    for sender in senders {
        sender.stdin.take().expect("its input").write_all(b"go\n").expect("it waits");
    }
    start
}

/// Memory that a virtual machine's host took back is slow at its first touch, and the first to run after it was given
/// back pays for all. So before each run more memory is touched, as a file's, than any run takes.
fn warm(folder: &Path) {
    let path = folder.join("warm");
    let mut file = File::create(&path).expect("a file");
    let block = vec![1; 1 << 20];
    for _ in 0..(LINES as usize * LINE_BYTES * 2) >> 20 {
        file.write_all(&block).expect("room on the disk");
    }
    fs::remove_file(path).expect("a file");
}

fn run_barest(folder: &Path) -> Run {
    warm(folder);
    let (socket, file) = (folder.join("barest.sock"), folder.join("barest.out"));
    let (socket, file) = (socket.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
    let mut program = child(&["barest", socket, file]);
    let mut senders = [child(&["send", socket, &LINES.to_string()])];
    let start = go(&mut senders);
    senders[0].wait().expect("the sender ends");
    // A zombie still shows its processor time, so wait for the end without reaping.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(program.id()).expect("a pid"));
    let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags).expect("a child");
    let run = Run { seconds: start.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds(program.id()) };
    program.wait().expect("it ended");
    assert_eq!(fs::metadata(file).expect("a file").len(), LINES * LINE_BYTES as u64);
    fs::remove_file(file).expect("a file");
    fs::remove_file(socket).expect("a socket");
    run
}

fn run_dbufd(folder: &Path, sync: &str, mode: &str) -> Run {
    warm(folder);
    let (runtime, segments) = (folder.join("run"), folder.join("segments"));
    let mut daemon = support::start(folder, &[&format!("storage.sync={sync}")]);
    let socket = runtime.join("stream.sock");
    let half = (LINES / 2).to_string();
    let mut senders: Vec<Child> = (0..2).map(|_| child(&[mode, socket.to_str().expect("UTF-8"), &half])).collect();
    let mut control = BufReader::new(UnixStream::connect(runtime.join("control.sock")).expect("the daemon listens"));
    let before = cpu_seconds(daemon.id());
    let start = go(&mut senders);
    for sender in &mut senders {
        sender.wait().expect("the sender ends");
    }
    while persisted(&mut control) < LINES {
        std::thread::sleep(Duration::from_millis(2));
    }
    let run = Run { seconds: start.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds(daemon.id()) - before };
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the daemon is there");
    assert!(daemon.wait().expect("it ends").success());
    fs::remove_dir_all(&segments).expect("segments");
    run
}

fn persisted(control: &mut BufReader<UnixStream>) -> u64 {
    control.get_mut().write_all(b"{\"command\":\"stats\"}\n").expect("the daemon reads");
    let mut line = String::new();
    control.read_line(&mut line).expect("the daemon answers");
    let reply: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(reply["data"]["events"]["lost_total"], 0);
    reply["data"]["events"]["persisted"].as_u64().expect("a count")
}
