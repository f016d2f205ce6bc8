//! Eight programs that each wait until an event is durable before they send the next, compared with the plainest
//! program that can promise as much: one thread that write()s 100 bytes and calls fdatasync() for each event, on the
//! same disk. Alternating runs, medians of them.
//!
//! `cargo bench --bench commit [-- RUNS [SECONDS]]`. Prints a table; writes only into a temporary folder of its own,
//! below `BENCH_DIR` if that is set: the file system matters.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use dbuf_client::{Client, ClientOptions};

const EVENT_BYTES: usize = 100;
const THREADS: [usize; 3] = [1, 8, 32];
/// What is asked of eight threads: this many times the rate of one fdatasync an event, and at most this many times its
/// time.
const RATE_MIN: f64 = 4.0;
const WAIT_MAX: f64 = 2.0;

/// One run: events in a second, and the median wait for one.
#[derive(Clone, Copy)]
struct Run {
    rate: f64,
    wait_us: f64,
}

fn main() {
    let arguments: Vec<f64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let runs = arguments.first().map_or(7, |runs| *runs as usize);
    let time = Duration::from_secs_f64(*arguments.get(1).unwrap_or(&2.0));
    let below = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::Builder::new().prefix("dbufd-bench-").tempdir_in(below).expect("a folder");
    let mut plain = Vec::new();
    let mut ours: [Vec<Run>; THREADS.len()] = Default::default();
    // The first round does not count.
    for round in 0..=runs {
        for (threads, ours) in THREADS.into_iter().zip(&mut ours) {
            let (before, run) = (run_plain(folder.path(), time), run_dbufd(folder.path(), threads, time));
            if round > 0 {
                plain.push(before);
                ours.push(run);
            }
        }
    }
    let base = Run { rate: median(&plain, |run| run.rate), wait_us: median(&plain, |run| run.wait_us) };
    println!("events of {EVENT_BYTES} bytes, each durable before the next of its thread; {runs} alternating runs");
    println!("{:<28} {:>10} {:>7} {:>16} {:>7}", "", "events/s", "ratio", "median wait, us", "ratio");
    println!("{:<28} {:>10.0} {:>7.2} {:>16.0} {:>7.2}", "write and fdatasync", base.rate, 1.0, base.wait_us, 1.0);
    for (threads, ours) in THREADS.into_iter().zip(&ours) {
        let (rate, wait_us) = (median(ours, |run| run.rate), median(ours, |run| run.wait_us));
        let (times, waits) = (rate / base.rate, wait_us / base.wait_us);
        let name = format!("dbufd, threads that wait: {threads}");
        println!("{name:<28} {rate:>10.0} {times:>7.2} {wait_us:>16.0} {waits:>7.2}");
        if threads == 8 && (times < RATE_MIN || waits > WAIT_MAX) {
            println!("  less than {RATE_MIN} times the rate, or more than {WAIT_MAX} times the wait");
        }
    }
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    middle(&mut runs.iter().map(of).collect::<Vec<_>>())
}

fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn summed(mut waits_us: Vec<f64>, time: Duration) -> Run {
    Run { rate: waits_us.len() as f64 / time.as_secs_f64(), wait_us: middle(&mut waits_us) }
}

/// Calls `one` again and again, and says how long each call took.
fn repeat(time: Duration, mut one: impl FnMut()) -> Vec<f64> {
    let (start, mut waits_us) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let begin = Instant::now();
        one();
        waits_us.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    waits_us
}

fn run_plain(folder: &Path, time: Duration) -> Run {
    let path = folder.join("plain");
    let mut file = File::create(&path).expect("a file");
    let waits_us = repeat(time, || {
        file.write_all(&[b'x'; EVENT_BYTES]).expect("room on the disk");
        file.sync_data().expect("a disk that works");
    });
    fs::remove_file(path).expect("a file");
    summed(waits_us, time)
}

fn run_dbufd(folder: &Path, threads: usize, time: Duration) -> Run {
    let (runtime, segments) = (folder.join("run"), folder.join("segments"));
    let mut daemon = support::start(folder, &[]);
    let socket = runtime.join("stream.sock");
    let waits_us = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..threads)
            .map(|_| {
                let options = ClientOptions { name: "commit", ..ClientOptions::default() };
                let mut client = Client::connect(&socket, &options).expect("the daemon listens");
                scope.spawn(move || {
                    repeat(time, || {
                        client.send(6, b"", 0, &[b'x'; EVENT_BYTES]).expect("the daemon reads");
                        client.sync(Duration::from_secs(60)).expect("it becomes durable");
                    })
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the daemon is there");
    assert!(daemon.wait().expect("it ends").success());
    fs::remove_dir_all(&segments).expect("segments");
    summed(waits_us, time)
}
