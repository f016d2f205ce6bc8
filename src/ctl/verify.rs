//! Checks every byte of every file, and prints what is damaged, where, and how much. This is `dbufctl verify`.
//!
//! While a daemon holds the directory, the end of an active file may be a batch that is being written. Otherwise it is
//! torn, and the next daemon will cut it off.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueHint};
use serde_json::{Value, json};

use super::context::Context;
use super::directory::{self, file_name};
use super::failure::DAMAGE_EXIT;
use super::output::Output;
use crate::escape::{json_line, visible};
use crate::pipeline::store::scan::{self, FileReport};
use crate::stats::format::plural;

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Check these files instead of the directory
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub files: Vec<PathBuf>,
}

/// What was found in all files together.
#[derive(Debug, Default)]
struct Sum {
    files: u64,
    events: u64,
    bytes: u64,
    damaged_places: u64,
    damaged_bytes: u64,
    torn_bytes: u64,
    lost_events: u64,
    gaps: Vec<(u64, u64)>,
}

/// Runs the command.
///
/// # Errors
/// The files cannot be listed, or the output cannot be written.
pub(super) fn run(args: &VerifyArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let directory = directory::open(&args.files, &context.directory)?;
    let mut output = Output::stdout()?;
    let mut sum = Sum::default();
    let mut rows = Vec::new();
    let mut written = Ok(());
    sum.gaps = scan::verify(&directory, |report| {
        let torn_bytes = torn_bytes(report);
        sum.add(report, torn_bytes);
        if args.json {
            rows.push(as_json(report, torn_bytes));
            return ControlFlow::Continue(());
        }
        output.buffer.extend_from_slice(described(report, torn_bytes).as_bytes());
        // After each file: a large directory takes a while, and the user sees the progress.
        written = output.write_now();
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    written?;
    let text = if args.json { json_line(&sum.as_json(&rows)) } else { sum.described() };
    output.buffer.extend_from_slice(text.as_bytes());
    output.write_now()?;
    // Undamaged files may still report losses, and the exit code must show both.
    Ok(if sum.is_well() && sum.lost_events == 0 { ExitCode::SUCCESS } else { ExitCode::from(DAMAGE_EXIT) })
}

/// Bytes at the end of a file that no daemon is writing.
fn torn_bytes(report: &FileReport) -> u64 {
    let is_written = || report.file.path.parent().is_some_and(is_held);
    if report.tail_bytes > 0 && !is_written() { report.tail_bytes } else { 0 }
}

/// Whether a daemon holds the directory. The lock is looked up and not tried: trying it could stop a daemon that starts
/// at this moment. proc_locks(5) names the locked files by inode.
fn is_held(directory: &Path) -> bool {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    // Earlier versions lock only the file.
    [directory, &directory.join(".lock")].iter().any(|path| {
        let Ok(about) = std::fs::metadata(path) else { return false };
        let inode = format!(":{}", about.ino());
        locks.lines().any(|line| line.contains("FLOCK") && line.split_whitespace().any(|word| word.ends_with(&inode)))
    })
}

fn described(report: &FileReport, torn_bytes: u64) -> String {
    let is_well = report.damage.is_empty() && torn_bytes == 0;
    let mut text = format!("{}: ", visible(&file_name(&report.file)));
    let _ = writeln!(
        text,
        "{}, {} {} in {} {}, {} bytes",
        if is_well { "ok" } else { "DAMAGED" },
        report.events,
        plural(report.events, "event"),
        report.batches,
        if report.batches == 1 { "batch" } else { "batches" },
        report.file.bytes
    );
    for damage in &report.damage {
        let _ = writeln!(text, "    {}", visible(&damage.to_string()));
    }
    if torn_bytes > 0 {
        let _ = writeln!(text, "    {torn_bytes} bytes at the end are torn; dbufd truncates them at its next start");
    } else if report.tail_bytes > 0 {
        let _ = writeln!(text, "    {} bytes at the end are being written", report.tail_bytes);
    }
    text
}

fn as_json(report: &FileReport, torn_bytes: u64) -> Value {
    let holds = report.events > 0;
    let damage = |damage: &scan::Damage| {
        let scan::Damage { offset, bytes, what, events } = damage;
        json!({ "offset": offset, "bytes": bytes, "what": what, "events": events })
    };
    json!({
        "file": file_name(&report.file),
        "state": report.file.name.map_or("unknown", |name| name.state.name()),
        "ok": report.damage.is_empty() && torn_bytes == 0,
        "bytes": report.file.bytes,
        "batches": report.batches,
        "events": report.events,
        "lost_events": report.lost_events,
        "first_sequence": holds.then_some(report.sequences.0),
        "last_sequence": holds.then(|| report.sequences.1 - 1),
        "torn_bytes": torn_bytes,
        "damage": report.damage.iter().map(damage).collect::<Value>(),
    })
}

impl Sum {
    fn add(&mut self, report: &FileReport, torn_bytes: u64) {
        self.files += 1;
        self.events += report.events;
        self.bytes += report.file.bytes;
        self.damaged_places += report.damage.len() as u64;
        self.damaged_bytes += report.damage.iter().map(|damage| damage.bytes).sum::<u64>();
        self.torn_bytes += torn_bytes;
        self.lost_events += report.lost_events;
    }

    fn missing_events(&self) -> u64 {
        self.gaps.iter().map(|(from, to)| to - from + 1).sum()
    }

    fn is_well(&self) -> bool {
        self.damaged_places == 0 && self.torn_bytes == 0 && self.gaps.is_empty()
    }

    fn described(&self) -> String {
        let mut text = String::new();
        for (from, to) in &self.gaps {
            let _ = writeln!(text, "missing: sequences {from} to {to} are in no file");
        }
        let (files, events) = (plural(self.files, "file"), plural(self.events, "event"));
        let all = format!("{} {files}, {} {events}, {} bytes", self.files, self.events, self.bytes);
        let _ = if self.is_well() {
            writeln!(text, "files are whole: {all}")
        } else {
            writeln!(
                text,
                "FILES ARE NOT WHOLE: {all}; {} damaged {} with {} bytes, {} bytes torn, {} events missing",
                self.damaged_places,
                plural(self.damaged_places, "place"),
                self.damaged_bytes,
                self.torn_bytes,
                self.missing_events()
            )
        };
        if self.lost_events > 0 {
            let _ = writeln!(
                text,
                "{} {} never reached a file; 'dbufctl cat' shows when, whose and why",
                self.lost_events,
                plural(self.lost_events, "event")
            );
        }
        text
    }

    fn as_json(&self, files: &[Value]) -> Value {
        let gap = |(from, to): &(u64, u64)| json!({ "first_sequence": from, "last_sequence": to });
        json!({
            "ok": self.is_well(),
            "events": self.events,
            "bytes": self.bytes,
            "damaged_places": self.damaged_places,
            "damaged_bytes": self.damaged_bytes,
            "torn_bytes": self.torn_bytes,
            "missing_events": self.missing_events(),
            "lost_events": self.lost_events,
            "gaps": self.gaps.iter().map(gap).collect::<Value>(),
            "files": files,
        })
    }
}
