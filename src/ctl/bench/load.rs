//! Runs the load: threads that send blocks, each as a producer of its own.
//!
//! Input: a [`Plan`], and for each writer a way to send. Output: what each writer has sent and how long each call took.
//! One thread a writer, and the caller's, which shows the progress. Failures: a way to send, which ends the run.

use std::io::{BufWriter, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use dbuf_client::{Client, LinkKind, Producer, ProducerOptions, WhenFull, WithoutDaemon};

use super::blocks::{Blocks, INDEX_MAX};
use super::progress::Shown;
use crate::ctl::daemon::DISK_TIMEOUT;
use crate::ctl::failure::client_failure;
use crate::pipeline::histogram::Histogram;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use crate::sync::{CacheLine, mpsc, thread};

/// How much is sent, and how fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Writers.
    pub(super) writers: usize,
    /// Events of all writers; None: as many as fit into the duration.
    pub(super) events: Option<u64>,
    /// How long, if the number is not given.
    pub(super) duration: Option<Duration>,
    /// Other work before each event.
    pub(super) work: Duration,
    /// Events a second, of all writers.
    pub(super) rate: Option<u64>,
}

impl Plan {
    fn events_of(&self, writer: usize) -> u64 {
        let writers = self.writers as u64;
        let share = |events: u64| events / writers + u64::from((writer as u64) < events % writers);
        self.events.map_or(INDEX_MAX, share).min(INDEX_MAX)
    }

    /// The time between two events of one writer.
    fn interval(&self) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(self.writers as f64 / rate as f64))
    }
}

/// A way to send.
pub(super) trait Way: Send {
    /// Sends one block, or collects it with others.
    fn put(&mut self, block: &[u8]) -> anyhow::Result<()>;
    /// Sends the collected blocks.
    fn push(&mut self) -> anyhow::Result<()>;
    /// Sends the collected blocks and waits for whatever confirmation there is.
    fn finish(&mut self) -> anyhow::Result<()> {
        self.push()
    }
}

/// Frames, durable in the end.
pub(super) struct Frames(pub(super) Client);

impl Way for Frames {
    fn put(&mut self, block: &[u8]) -> anyhow::Result<()> {
        self.0.send(6, b"", 0, block).map(|_| ()).map_err(client_failure)
    }

    fn push(&mut self) -> anyhow::Result<()> {
        self.0.push().map_err(client_failure)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.0.sync(DISK_TIMEOUT).map_err(client_failure)
    }
}

/// A ring. It waits while the ring is full; durable in the end.
pub(super) struct Ring(Producer);

impl Ring {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let producer = Producer::open(ProducerOptions {
            name: "bench".into(),
            path: Some(path.to_path_buf()),
            when_full: WhenFull::Wait(DISK_TIMEOUT),
            without_daemon: WithoutDaemon::Fail,
            quiet: true,
            ..ProducerOptions::default()
        })?;
        let statistics = producer.statistics();
        if statistics.link != LinkKind::Ring {
            let why = statistics.last_error.unwrap_or_else(|| "this dbufd has none".into());
            anyhow::bail!("no ring: {why}; take fewer --writers, or raise ingest.rings and ingest.ring_bytes");
        }
        Ok(Self(producer))
    }
}

impl Way for Ring {
    fn put(&mut self, block: &[u8]) -> anyhow::Result<()> {
        Ok(self.0.send(6, block)?)
    }

    fn push(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.0.sync(DISK_TIMEOUT)?)
    }
}

/// Text lines, collected as a program's standard output is.
pub(super) struct Lines(BufWriter<UnixStream>);

impl Lines {
    pub(super) fn connect(path: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        Ok(Self(BufWriter::with_capacity(64 << 10, stream)))
    }
}

impl Way for Lines {
    fn put(&mut self, block: &[u8]) -> anyhow::Result<()> {
        self.0.write_all(block)?;
        self.0.write_all(b"\n")?;
        Ok(())
    }

    fn push(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush()?)
    }
}

/// A datagram for each block.
pub(super) struct Datagrams(UnixDatagram);

impl Datagrams {
    pub(super) fn connect(path: &Path) -> anyhow::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
        Ok(Self(socket))
    }
}

impl Way for Datagrams {
    fn put(&mut self, block: &[u8]) -> anyhow::Result<()> {
        let sent = self.0.send(block);
        sent.map(|_| ()).with_context(|| format!("a datagram of {} bytes was not accepted", block.len()))
    }

    fn push(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What a writer has sent.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Events.
    pub(super) events: u64,
    /// Payload bytes.
    pub(super) bytes: u64,
    /// Their sizes.
    pub(super) sizes: Histogram,
    /// Nanoseconds of each call.
    pub(super) calls_ns: Histogram,
}

/// What each writer has sent so far; each has a cache line of its own.
pub(super) type Sent = [CacheLine<AtomicU64>];

/// Runs `plan` with one thread for each of `ways`, and returns what each has sent. `stop` ends it early.
pub(super) fn run(
    plan: &Plan,
    blocks: &Blocks,
    ways: Vec<Box<dyn Way>>,
    stop: &AtomicBool,
    shown: &Shown,
) -> anyhow::Result<Vec<Share>> {
    let sent: Vec<CacheLine<AtomicU64>> = ways.iter().map(|_| CacheLine::default()).collect();
    let deadline = plan.duration.map(|duration| Instant::now() + duration);
    thread::scope(|scope| {
        let (done, inbox) = mpsc::channel();
        for (writer, way) in ways.into_iter().enumerate() {
            let (done, sent) = (done.clone(), &sent[writer].0);
            scope.spawn(move || {
                let one = One { plan, blocks, writer, deadline, stop, sent };
                let result = one.run(way);
                if result.is_err() {
                    // Relaxed: it only ends the run sooner.
                    stop.store(true, Relaxed);
                }
                // The receiver lives until all writers have answered.
                let _ = done.send((writer, result));
            });
        }
        drop(done);
        collect(&inbox, &sent, shown)
    })
}

type Answer = (usize, anyhow::Result<Share>);

fn collect(inbox: &mpsc::Receiver<Answer>, sent: &Sent, shown: &Shown) -> anyhow::Result<Vec<Share>> {
    let mut shares: Vec<Share> = sent.iter().map(|_| Share::default()).collect();
    let mut failure = None;
    loop {
        match inbox.recv_timeout(Duration::from_millis(100)) {
            Ok((writer, Ok(share))) => shares[writer] = share,
            Ok((_, Err(error))) => failure = failure.or(Some(error)),
            // Relaxed: a number for the progress bar only.
            Err(mpsc::RecvTimeoutError::Timeout) => shown.show(sent.iter().map(|n| n.0.load(Relaxed)).sum()),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    failure.map_or(Ok(shares), Err)
}

/// One writer's part.
struct One<'a> {
    plan: &'a Plan,
    blocks: &'a Blocks,
    writer: usize,
    deadline: Option<Instant>,
    stop: &'a AtomicBool,
    sent: &'a AtomicU64,
}

impl One<'_> {
    fn run(&self, mut way: Box<dyn Way>) -> anyhow::Result<Share> {
        let mut share = Share::default();
        let mut block = Vec::new();
        let interval = self.plan.interval();
        let mut due = Instant::now();
        for index in 0..self.plan.events_of(self.writer) {
            if let Some(interval) = interval {
                self.wait_until(due, &mut *way)?;
                due += interval;
            }
            self.work();
            // Relaxed: nothing but the end of the run depends on it.
            if self.stop.load(Relaxed) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            self.blocks.fill(self.writer, index, &mut block);
            let before = Instant::now();
            way.put(&block)?;
            share.calls_ns.record(before.elapsed().as_nanos() as u64, 1);
            share.sizes.record(block.len() as u64, 1);
            share.bytes += block.len() as u64;
            share.events += 1;
            self.sent.store(share.events, Relaxed);
        }
        way.finish()?;
        Ok(share)
    }

    /// Waits until the next event is due. Sends collected blocks first if they would otherwise be late.
    fn wait_until(&self, due: Instant, way: &mut dyn Way) -> anyhow::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            way.push()?;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// The other work: arithmetic, for as long as the plan says.
    fn work(&self) {
        if self.plan.work.is_zero() {
            return;
        }
        let before = Instant::now();
        let mut state = 1u64;
        while before.elapsed() < self.plan.work {
            for _ in 0..8 {
                state = std::hint::black_box(state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1));
            }
        }
    }
}
