//! Measures the throughput, and proves that each event arrived once. This is `dbufctl bench`.
//!
//! Input: a plan from the command line. Output: a report on standard output; exit code 1 if the proof fails. Failures:
//! no daemon (exit code 4), a way to send, the disk.
//!
//! Each writer is a thread and a producer of its own. Its blocks follow from the seed ([`blocks`]), so the files can be
//! compared with what must be in them ([`proof`]). Ctrl-C ends the sending early; the report then covers what was sent.

mod blocks;
mod load;
mod local;
mod progress;
mod proof;
mod report;

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use dbuf_client::{Client, ClientOptions};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::context::Context;
use super::daemon::{DISK_TIMEOUT, ask};
use super::failure::{Failure, client_failure};
use super::output::print_out;
use crate::config::paths::{DATAGRAM_SOCKET, STREAM_SOCKET};
use crate::config::units::{parse_duration, parse_size};
use crate::pipeline::record::MAX_EVENT_BYTES_MAX;
use crate::sync::atomic::AtomicBool;
use crate::sync::{Arc, thread};
use blocks::{BLOCK_BYTES_MIN, Blocks, INDEX_MAX, WRITERS_MAX};
use load::{Datagrams, Frames, Lines, Plan, Ring, Share, Way};
use local::{Local, OutputDirectory};
use progress::Shown;
use proof::{Proof, Verdict};
use report::Report;

/// Events of a run without a number and a duration.
const EVENTS_DEFAULT: u64 = 100_000;
/// How long nothing new may arrive in the files before the rest counts as missing.
const QUIET: Duration = Duration::from_secs(5);

/// `bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The way that the events take; 'buffer' needs no daemon
    #[arg(long, value_enum, default_value_t, value_name = "WAY")]
    pub via: Via,
    /// Number of threads that send
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = writers())]
    pub writers: u16,
    /// Number of events in total [default: 100000]
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub events: Option<u64>,
    /// Send for this long instead: 10s, 2min
    #[arg(long, value_name = "T", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Bytes of each event, random in this range
    #[arg(long, value_name = "A..B", default_value = "10..10000", value_parser = sizes)]
    pub size: RangeInclusive<usize>,
    /// Nanoseconds of computing between two events
    #[arg(long, value_name = "NS", default_value_t = 0)]
    pub work: u64,
    /// Events a second in total; without it, as fast as possible
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: Option<u64>,
    /// Repeat an earlier run: the seed that its report printed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What the events go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// Double buffer, reader and files in this process
    #[default]
    Buffer,
    /// Memory shared with the daemon; all events are durable at the end
    Ring,
    /// The daemon's framed protocol; all events are durable at the end
    Frames,
    /// Text lines to the daemon
    Lines,
    /// Datagrams to the daemon
    Dgram,
}

impl Via {
    fn name(self) -> &'static str {
        match self {
            Self::Buffer => "buffer",
            Self::Ring => "ring",
            Self::Frames => "frames",
            Self::Lines => "lines",
            Self::Dgram => "dgram",
        }
    }
}

fn writers() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=WRITERS_MAX as i64)
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| format!("'{}' is not a duration such as 10s or 2min", text.escape_default()))
}

fn sizes(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let size = |text: &str| parse_size(text).and_then(|bytes| usize::try_from(bytes).ok());
    match (size(from), size(to)) {
        (Some(from), Some(to)) if BLOCK_BYTES_MIN <= from && from <= to && to <= MAX_EVENT_BYTES_MAX => Ok(from..=to),
        _ => Err(format!(
            "'{}' is not a range A..B with {BLOCK_BYTES_MIN} <= A <= B <= {MAX_EVENT_BYTES_MAX} bytes",
            text.escape_default()
        )),
    }
}

/// Runs `bench`. `directory` comes from the command line, if given: a local run keeps its segments there.
///
/// # Errors
/// The load could not be sent.
pub(super) fn run(args: &BenchArgs, context: &Context, directory: Option<&Path>) -> anyhow::Result<ExitCode> {
    let bench = Bench::new(args)?;
    bench.stop_on_signals()?;
    let report = bench.report_of(args.via, context, directory)?;
    let text = if args.json { format!("{:#}\n", report.json()) } else { report.text() };
    print_out(&text)?;
    Ok(if report.is_proven() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A run before it starts.
struct Bench {
    plan: Plan,
    seed: u64,
    blocks: Blocks,
    started_ns: u64,
    stop: Arc<AtomicBool>,
}

impl Bench {
    fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        let writers = usize::from(args.writers);
        let events = args.events.or_else(|| args.duration.is_none().then_some(EVENTS_DEFAULT));
        if events.is_some_and(|events| events > INDEX_MAX * writers as u64) {
            let text = format!("--events: at most {INDEX_MAX} for each writer; use more --writers");
            return Err(Failure::Usage(text).into());
        }
        let work = Duration::from_nanos(args.work);
        let plan = Plan { writers, events, duration: args.duration, work, rate: args.rate };
        let started_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let seed = args.seed.unwrap_or(started_ns ^ u64::from(std::process::id()));
        let (blocks, stop) = (Blocks::new(seed, args.size.clone()), Arc::new(AtomicBool::new(false)));
        Ok(Self { plan, seed, blocks, started_ns, stop })
    }

    /// Lets a signal end the sending. Tests do without: these handlers stay for the life of the process, and other
    /// tests in it raise the same signals.
    fn stop_on_signals(&self) -> anyhow::Result<()> {
        for signal in [SIGINT, SIGTERM] {
            // The second signal ends the process at once, with 128 plus its number, as in a shell.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&self.stop))?;
            signal_hook::flag::register(signal, Arc::clone(&self.stop))?;
        }
        Ok(())
    }

    fn report_of(&self, via: Via, context: &Context, directory: Option<&Path>) -> anyhow::Result<Report> {
        match via {
            Via::Buffer => self.local(directory),
            via => self.daemon(via, context),
        }
    }

    fn local(&self, directory: Option<&Path>) -> anyhow::Result<Report> {
        let output = OutputDirectory::new(directory)?;
        let pipeline = Local::start(self.plan.writers, &output.path)?;
        let ways = self.ways(|| Ok(Box::new(pipeline.way()?)))?;
        let started = Instant::now();
        let (shares, sent_in) = self.send(ways)?;
        let outcome = pipeline.stop()?;
        let stored_in = started.elapsed();
        let mut proof = self.proof();
        let verdict = proof.read(&output.path).map(|()| proof.verdict(&sent(&shares)));
        let mut report = self.report(Via::Buffer, &shares, sent_in, stored_in, verdict);
        report.local = Some((outcome.measured.persist_us, outcome.swaps, outcome.full_waits));
        Ok(report)
    }

    fn daemon(&self, via: Via, context: &Context) -> anyhow::Result<Report> {
        let stream = context.runtime.join(STREAM_SOCKET);
        let connect =
            || Client::connect(&stream, &ClientOptions { name: "bench", quiet: true, ..ClientOptions::default() });
        // Also for ways without frames: it checks that a daemon answers, and what it accepts.
        let max_event = connect().map_err(client_failure)?.max_event();
        if *self.blocks.sizes().end() > max_event {
            let text = format!("--size: the daemon takes events of up to {max_event} bytes; see ingest.max_event");
            return Err(Failure::Usage(text).into());
        }
        let ways = self.ways(|| {
            Ok(match via {
                Via::Ring => Box::new(Ring::open(&stream)?),
                Via::Lines => Box::new(Lines::connect(&stream)?),
                Via::Dgram => Box::new(Datagrams::connect(&context.runtime.join(DATAGRAM_SOCKET))?),
                _ => Box::new(Frames(connect().map_err(client_failure)?)),
            })
        })?;
        let started = Instant::now();
        let (shares, sent_in) = self.send(ways)?;
        let (verdict, stored_in) = self.look(context, &sent(&shares), started);
        Ok(self.report(via, &shares, sent_in, stored_in, verdict))
    }

    fn ways(&self, make: impl Fn() -> anyhow::Result<Box<dyn Way>>) -> anyhow::Result<Vec<Box<dyn Way>>> {
        (0..self.plan.writers).map(|_| make()).collect()
    }

    fn send(&self, ways: Vec<Box<dyn Way>>) -> anyhow::Result<(Vec<Share>, Duration)> {
        let shown = Shown::new(self.plan.events.filter(|_| self.plan.duration.is_none()));
        let started = Instant::now();
        let shares = load::run(&self.plan, &self.blocks, ways, &self.stop, &shown)?;
        Ok((shares, started.elapsed()))
    }

    fn proof(&self) -> Proof<'_> {
        Proof::new(&self.blocks, std::process::id(), self.started_ns, self.plan.writers)
    }

    /// Reads the daemon's files until all that was sent is in them, or nothing new arrives. Returns the time of the
    /// sync after which everything was there.
    fn look(&self, context: &Context, sent: &[u64], started: Instant) -> (anyhow::Result<Verdict>, Duration) {
        let mut proof = self.proof();
        let total = sent.iter().sum::<u64>();
        let mut news = (0, Instant::now());
        loop {
            // A sync does not cover bytes that the daemon has not read yet, so one may not be enough.
            if let Err(error) = ask(&context.runtime, "sync", DISK_TIMEOUT) {
                return (Err(error), started.elapsed());
            }
            let stored_in = started.elapsed();
            if let Err(error) = proof.read(&context.directory) {
                return (Err(error), stored_in);
            }
            if proof.seen() != news.0 {
                news = (proof.seen(), Instant::now());
            }
            if proof.seen() >= total || news.1.elapsed() > QUIET {
                return (Ok(proof.verdict(sent)), stored_in);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn report(
        &self,
        via: Via,
        shares: &[Share],
        sent_in: Duration,
        stored_in: Duration,
        verdict: anyhow::Result<Verdict>,
    ) -> Report {
        let mut total = Share::default();
        for share in shares {
            total.events += share.events;
            total.bytes += share.bytes;
            total.sizes.add(&share.sizes);
            total.calls_ns.add(&share.calls_ns);
        }
        let verdict = verdict.map_err(|error| format!("{error:#}"));
        let (writers, seed) = (self.plan.writers, self.seed);
        Report { via: via.name(), writers, seed, total, sent_in, stored_in, local: None, verdict }
    }
}

fn sent(shares: &[Share]) -> Vec<u64> {
    shares.iter().map(|share| share.events).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::store::scan::Directory;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn parsed(line: &str) -> Result<BenchArgs, String> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    fn local(line: &str) -> (Report, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let report = Bench::new(&parsed(line).unwrap()).unwrap().local(Some(dir.path())).unwrap();
        (report, dir)
    }

    #[test]
    fn a_run_through_the_buffer_is_proven_from_its_files() {
        let (report, dir) = local("--events 4001 --writers 3 --size 10..3000");
        assert_eq!(report.verdict, Ok(Verdict { found: 4001, ..Verdict::default() }));
        assert_eq!((report.total.events, report.total.calls_ns.count()), (4001, 4001));
        assert!(!Directory::open(dir.path()).unwrap().files.is_empty(), "a directory that was named is left as it is");
        let again = Bench::new(&parsed("").unwrap()).unwrap().local(Some(dir.path())).err().unwrap();
        assert!(matches!(again.downcast_ref(), Some(Failure::Usage(_))), "and is not written into again");
    }

    #[test]
    fn what_is_missing_from_the_files_fails_the_proof() {
        let args = parsed("--events 500 --seed 4").unwrap();
        let bench = Bench::new(&args).unwrap();
        let dir = tempfile::tempdir().unwrap();
        assert!(bench.local(Some(dir.path())).unwrap().is_proven());
        let mut other = Bench::new(&args).unwrap();
        other.started_ns = bench.started_ns;
        let mut proof = other.proof();
        proof.read(dir.path()).unwrap();
        assert!(proof.verdict(&[125, 125, 125, 125]).is_proven(), "the same seed, the same blocks");
        assert_eq!(proof.verdict(&[125, 125, 126, 125]).missing, 1);
        let damaged = Directory::open(dir.path()).unwrap().files[0].path.clone();
        let mut bytes = std::fs::read(&damaged).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&damaged, bytes).unwrap();
        let mut proof = other.proof();
        proof.read(dir.path()).unwrap();
        let verdict = proof.verdict(&[125, 125, 125, 125]);
        assert!(!verdict.is_proven() && verdict.damage > 0, "{verdict:?}");
    }

    #[test]
    fn a_rate_is_kept_and_a_duration_ends_the_run() {
        let before = Instant::now();
        let (report, _dir) = local("--duration 200ms --rate 500 --writers 2 --work 1000");
        assert!(before.elapsed() >= Duration::from_millis(190));
        assert!(report.is_proven() && report.total.events <= 102, "{} events", report.total.events);
    }

    #[test]
    fn an_interrupt_ends_the_sending_and_the_report_is_of_what_was_sent() {
        let bench = Bench::new(&parsed("--rate 1 --events 1000").unwrap()).unwrap();
        // Relaxed: the threads are started after it.
        bench.stop.store(true, crate::sync::atomic::Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let report = bench.local(Some(dir.path())).unwrap();
        assert!(report.is_proven());
        assert_eq!(report.total.events, 0);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (line, reason) in [
            ("--size 9..20", "10 <= A <= B"),
            ("--size 20..10", "10 <= A <= B"),
            ("--size 10..2MiB", "1048576 bytes"),
            ("--writers 0", "1..=64"),
            ("--writers 65", "1..=64"),
            ("--events 5 --duration 5s", "cannot be used with"),
            ("--duration soon", "not a duration"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
        let context = Context { runtime: "/nowhere".into(), directory: "/nowhere".into(), color: false };
        for via in ["--via lines", "--via ring"] {
            let args = parsed(via).unwrap();
            let silent = Bench::new(&args).unwrap().report_of(args.via, &context, None).err().unwrap();
            assert!(matches!(silent.downcast_ref(), Some(Failure::NoDaemon(_))));
        }
        let many = Bench::new(&parsed("--writers 1 --events 99999999999").unwrap()).err().unwrap();
        assert!(matches!(many.downcast_ref(), Some(Failure::Usage(_))));
    }
}
