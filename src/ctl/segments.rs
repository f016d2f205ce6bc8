//! Lists the files of the directory, what each holds and its state. This is `dbufctl segments`.
//!
//! A sealed file has that in its footer. Of the others, only the batch headers are read, not the records; `verify`
//! reads those.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use jiff::Zoned;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::context::Context;
use super::directory::{self, file_name};
use super::output::print_out;
use super::print::clock::timestamp;
use crate::escape::{json_line, visible};
use crate::pipeline::store::scan::{Described, describe};
use crate::stats::format;

/// `segments`
#[derive(Clone, Copy, Debug, Args)]
pub struct SegmentsArgs {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// The directory cannot be listed, a file in it cannot be read, or the output cannot be written.
pub(super) fn run(args: SegmentsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let directory = directory::open(&[], &context.directory)?;
    // A file that was deleted after the directory was listed is left out.
    let rows: Vec<_> = directory.files.iter().filter_map(|file| Some((file_name(file), describe(file)?))).collect();
    if args.json {
        print_out(&json_line(&rows.iter().map(|(name, held)| as_json(name, held)).collect()))?;
    } else {
        print_out(&table(&rows, Zoned::now().time_zone()))?;
    }
    let unreadable = rows.iter().filter(|(_, held)| held.error.is_some()).count();
    if unreadable > 0 {
        anyhow::bail!("{unreadable} of {} files cannot be read; run 'dbufctl verify'", rows.len());
    }
    Ok(ExitCode::SUCCESS)
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
