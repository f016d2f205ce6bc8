//! How many instructions an event costs on each hot path, counted by valgrind: a figure that does not change with the
//! weather, so that a change which makes a path longer is seen on a noisy machine, too.
//!
//! `cargo bench --features harness --bench instructions`             counts, and compares with benches/instructions.tsv
//! `cargo bench --features harness --bench instructions -- --accept` counts, and writes that file
//!
//! Each path is run twice under `valgrind --tool=callgrind`, with N events and with three times as many; the difference
//! is what the events cost, without the program's start. A count that is more than [`MARGIN`] off fails: above, the
//! path has become slower; below, the file is to follow, or it would hide the next step back. Another compiler, another
//! C library (its copies are counted, too) and another kind of processor, for which that chooses other copies, count
//! otherwise: where they are not those of the file the counts are shown and nothing is compared.

use std::fmt::Write as _;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use dbuf_wire::frames::Event as Sent;
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{Memory, RingProducer};
use dbufd::pipeline::buffer::{DoubleBuffer, Options};
use dbufd::pipeline::harness::ReaderHarness;
use dbufd::pipeline::harness::RingHarness;
use dbufd::pipeline::harness::WriterHarness;
use dbufd::pipeline::record::{Event, Record};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.tsv");
/// How far a count may be from the one in the file.
const MARGIN: f64 = 0.04;
/// What the C library's choice of a copy depends on.
const FLAGS: [&str; 5] = ["avx2", "avx512vl", "avx512f", "erms", "fsrm"];
const EVENTS: usize = 10_000;
const MAX_EVENT: usize = 64 << 10;
/// What a read of a socket brings when much comes.
const LINES_A_READ: usize = 500;
/// Events that go through a ring before it is emptied.
const EVENTS_A_LOOK: usize = 250;
const PAYLOAD: [u8; 99] = [b'x'; 99];

/// Runs this many events through a path.
type Path = fn(events: usize);

const PATHS: [(&str, Path); 7] = [
    ("buffer: append, a claim each", append),
    ("lines: from the bytes of a read into the half", lines),
    ("datagrams: one syslog message into the half", datagrams),
    ("ring: send, and from the ring into the half", ring),
    ("ring: send alone", send),
    ("reader: summary and checksum", summary),
    ("records: decode", decode),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [path, events] = &arguments[..] {
        let path: usize = path.parse().expect("the index of a path");
        PATHS[path].1(events.parse().expect("a count"));
        return ExitCode::SUCCESS;
    }
    let circumstances = circumstances();
    let counts: Vec<f64> = (0..PATHS.len()).map(count).collect();
    if arguments == ["--accept"] {
        let mut text = format!("{circumstances}\n");
        for ((name, _), count) in PATHS.iter().zip(&counts) {
            writeln!(text, "{count:.1}\t{name}").expect("a string takes all");
        }
        std::fs::write(REFERENCE, text).expect("the file can be written");
    }
    compare(&circumstances, &counts)
}

/// What the counts depend on, apart from the code.
fn circumstances() -> String {
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().unwrap_or_else(|e| panic!("{program}: {e}"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = processor.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let flags: Vec<&str> = flags.split_whitespace().filter(|flag| FLAGS.contains(flag)).collect();
    let flags = flags.join(" ");
    [said("rustc", "--version"), said("getconf", "GNU_LIBC_VERSION"), said("valgrind", "--version"), flags].join("; ")
}

/// Prints the table. Fails where a count has changed.
fn compare(circumstances: &str, counts: &[f64]) -> ExitCode {
    let known = std::fs::read_to_string(REFERENCE).unwrap_or_default();
    let mut known = known.lines();
    let of = known.next().unwrap_or_default();
    let known: Vec<(&str, f64)> = known
        .filter_map(|line| line.split_once('\t'))
        .map(|(count, name)| (name, count.parse().expect("a count")))
        .collect();
    let mut has_changed = false;
    println!("instructions an event of 100 bytes");
    for ((name, _), count) in PATHS.iter().zip(counts) {
        let before = known.iter().find(|(known, _)| known == name).map(|(_, before)| *before);
        let verdict = match before {
            Some(before) if (count / before - 1.0).abs() <= MARGIN => "",
            Some(before) if *count > before => "  MORE",
            Some(_) => "  less",
            None => "  new",
        };
        has_changed |= !verdict.is_empty();
        let before = before.map_or("-".to_owned(), |before| format!("{before:.1}"));
        println!("{name:<52} {count:>8.1} {before:>8}{verdict}");
    }
    if of != circumstances {
        println!("not compared: benches/instructions.tsv is of\n  {of}\nand this is\n  {circumstances}");
        return ExitCode::SUCCESS;
    }
    if has_changed {
        println!("more than {:.0} % off: if that is meant, run this with --accept and commit the file", MARGIN * 100.0);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Instructions an event of a path.
fn count(path: usize) -> f64 {
    let [few, many] = [EVENTS, 3 * EVENTS].map(|events| instructions(path, events));
    (many - few) as f64 / (2 * EVENTS) as f64
}

fn instructions(path: usize, events: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this program"))
        .args([path.to_string(), events.to_string()])
        .output()
        .expect("valgrind is installed (Debian: apt install valgrind)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", PATHS[path].0);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")).expect("callgrind's count").1;
    collected.trim().parse().expect("callgrind's count is a number")
}

/// As in the daemon, and large enough for all that a path puts into a half.
fn options() -> Options {
    Options { capacity_bytes: 4 << 20, ..Options::default() }
}

fn append(events: usize) {
    let (buffer, mut reader) = DoubleBuffer::new(&options()).expect("a small buffer");
    let mut writer = buffer.writer().expect("the only writer");
    let mut record = Vec::new();
    Event { payload: &PAYLOAD, ..Event::default() }.encode(&mut record);
    for number in 0..events {
        writer.append(black_box(&record)).expect("there is room");
        if number % 5000 == 4999 {
            black_box(reader.swap().bytes());
        }
    }
}

fn lines(events: usize) {
    let mut harness = WriterHarness::over(MAX_EVENT, &options());
    let mut line = PAYLOAD.to_vec();
    line.push(b'\n');
    let read = line.repeat(LINES_A_READ);
    for _ in 0..events / LINES_A_READ {
        harness.publish_text(black_box(&read));
        black_box(harness.swap().bytes());
    }
}

fn datagrams(events: usize) {
    let mut harness = WriterHarness::over(MAX_EVENT, &options());
    let message = format!("<13>Nov 23 05:26:33 shop[4711]: {}", "x".repeat(68));
    for number in 0..events {
        harness.publish_datagram(black_box(message.as_bytes()));
        if number % LINES_A_READ == LINES_A_READ - 1 {
            black_box(harness.swap().bytes());
        }
    }
}

fn ring(events: usize) {
    let mut harness = RingHarness::over(WriterHarness::over(MAX_EVENT, &options()));
    let mut producer = harness.producer();
    let event = Sent { pri: 6, payload: &PAYLOAD, ..Sent::default() };
    for number in 1..=events {
        let _ = producer.push(black_box(&event), Stamp::Ticks(number as u64)).expect("there is room");
        if number % EVENTS_A_LOOK == 0 {
            black_box(harness.publish_pending()).expect("an honest client");
            black_box(harness.swap().bytes());
        }
    }
}

fn send(events: usize) {
    let memory = Memory::private(64 << 10).expect("a little memory");
    let mut producer = RingProducer::new(memory, true);
    let event = Sent { pri: 6, payload: &PAYLOAD, ..Sent::default() };
    for number in 1..=events {
        let _ = producer.push(black_box(&event), Stamp::Ticks(number as u64)).expect("there is room");
        if number % EVENTS_A_LOOK == 0 {
            let (head, _) = producer.positions();
            producer.memory().words().tail.store(head, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

fn summary(events: usize) {
    let mut harness = WriterHarness::over(MAX_EVENT, &options());
    let mut line = PAYLOAD.to_vec();
    line.push(b'\n');
    harness.publish_text(&line.repeat(EVENTS));
    let batch = harness.swap();
    let mut summary = ReaderHarness::default();
    for _ in 0..events / EVENTS {
        black_box(summary.take(black_box(&batch)));
    }
}

fn decode(events: usize) {
    let mut run = Vec::new();
    for _ in 0..EVENTS {
        Event { payload: &PAYLOAD, source_time_ns: Some(1), ..Event::default() }.encode(&mut run);
    }
    for _ in 0..events / EVENTS {
        let mut rest = &black_box(&run)[..];
        while let Ok((record, bytes)) = Record::decode(rest) {
            black_box((record.payload(), record.source_time_ns()));
            rest = &rest[bytes..];
        }
    }
}
