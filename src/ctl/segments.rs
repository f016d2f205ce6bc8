//! `dbufctl segments`: each file of the directory, what it holds and in which state it is.
//!
//! A sealed file says it in its footer. Of the others the heads of the batches are read, not their records: `verify` is
//! for that.

use std::fmt::Write as _;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::{Value, json};

use super::args::JsonArgs;
use super::cat;
use super::context::Context;
use super::output::say;
use crate::escape::{json_line, visible};
use crate::pipeline::store::scan::{Described, SegmentFile, describe};
use crate::stats::format;

/// Runs the command.
///
/// # Errors
/// When the directory cannot be listed, a file in it cannot be read or the output cannot be written.
pub(super) fn run(args: JsonArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let directory = cat::open(&[], &context.directory)?;
    // A file that has gone since the directory was listed is left out.
    let rows: Vec<_> = directory.files.iter().filter_map(|file| Some((name(file), describe(file)?))).collect();
    if args.json {
        say(&json_line(&rows.iter().map(|(name, held)| as_json(name, held)).collect()))?;
    } else {
        say(&table(&rows, Zoned::now().time_zone()))?;
    }
    let unreadable = rows.iter().filter(|(_, held)| held.error.is_some()).count();
    if unreadable > 0 {
        anyhow::bail!("{unreadable} of {} files cannot be read; run 'dbufctl verify'", rows.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn name(file: &SegmentFile) -> String {
    file.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn as_json(name: &str, held: &Described) -> Value {
    let time = |ns: u64| timestamp(ns).to_string();
    let mut object = json!({
        "file": name,
        "state": held.state.name(),
        "first_sequence": held.last_sequence.map(|_| held.first_sequence),
        "last_sequence": held.last_sequence,
        "first_time": held.times_ns.map(|(first, _)| time(first)),
        "last_time": held.times_ns.map(|(_, last)| time(last)),
        "events": held.events,
        "bytes": held.bytes,
    });
    if let Some(error) = &held.error {
        object["error"] = json!(error);
    }
    object
}

fn table(rows: &[(String, Described)], zone: &TimeZone) -> String {
    let time = |ns| timestamp(ns).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let mut text =
        format!("{:<29} {:<6} {:>12} {:>10}  {:<19}  {}\n", "FILE", "STATE", "EVENTS", "BYTES", "FROM", "TO");
    for (name, held) in rows {
        let bytes = format::bytes(held.bytes);
        let _ = write!(text, "{:<29} {:<6} ", visible(name), held.state.name());
        let _ = match (&held.error, held.times_ns) {
            (Some(error), _) => writeln!(text, "{:>12} {bytes:>10}  {}", "?", visible(error)),
            (None, None) => writeln!(text, "{:>12} {bytes:>10}", held.events),
            (None, Some((first, last))) => {
                writeln!(text, "{:>12} {bytes:>10}  {:<19}  {}", held.events, time(first), time(last))
            }
        };
    }
    text
}

/// Any 64 bits of nanoseconds are in the calendar: they end in 2554.
pub(super) fn timestamp(ns: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default()
}
