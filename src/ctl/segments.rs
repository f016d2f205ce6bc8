//! `dbufctl segments`: each file of the directory, what it holds and in which state it is.
//!
//! A sealed file says it in its footer. Of the others the heads of the batches are read, not their records: `verify` is
//! for that.

use std::fmt::Write as _;
use std::fs::File;
use std::process::ExitCode;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::{Value, json};

use super::args::JsonArgs;
use super::cat;
use super::context::Context;
use super::output::say;
use super::print::escape::{json_line, put_visible};
use super::stats::bytes_for_eyes;
use crate::pipeline::store::footer::Footer;
use crate::pipeline::store::scan::SegmentFile;
use crate::pipeline::store::scan::segment::Segment;
use crate::sync::Arc;

/// What is known of one file.
struct Row {
    name: String,
    state: &'static str,
    bytes: u64,
    /// What it holds, or why that is not known.
    held: Result<Footer, String>,
}

/// Runs the command.
///
/// # Errors
/// When the directory cannot be listed or the output cannot be written.
pub(super) fn run(args: JsonArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let directory = cat::open(&[], &context.directory)?;
    let rows: Vec<Row> = directory.files.iter().filter_map(row).collect();
    if args.json {
        say(&json_line(&rows.iter().map(as_json).collect()))?;
    } else {
        say(&table(&rows, &Zoned::now().time_zone().clone()))?;
    }
    let unreadable = rows.iter().filter(|row| row.held.is_err()).count();
    if unreadable > 0 {
        anyhow::bail!("{unreadable} of {} files cannot be read; run 'dbufctl verify'", rows.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// None for a file that has gone since the directory was listed.
fn row(file: &SegmentFile) -> Option<Row> {
    let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let state = file.name.map_or("unknown", |name| name.state.name());
    let opened = match File::open(&file.path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        opened => opened,
    };
    let held = opened.map_err(|error| error.to_string()).and_then(|opened| held(opened));
    Some(Row { name, state, bytes: file.bytes, held })
}

fn held(file: File) -> Result<Footer, String> {
    let segment = Segment::open(Arc::new(file), None).map_err(|error| error.to_string())?;
    match segment.footer {
        Ok(footer) => Ok(footer),
        Err(_) => segment.rebuild(false, &mut |_| ()).map(|(footer, _)| footer).map_err(|error| error.to_string()),
    }
}

fn as_json(row: &Row) -> Value {
    let mut object = json!({ "file": row.name, "state": row.state, "bytes": row.bytes });
    match &row.held {
        Ok(held) => {
            let holds = held.events > 0;
            object["first_sequence"] = json!(holds.then_some(held.first_sequence));
            object["last_sequence"] = json!(holds.then(|| held.next_sequence - 1));
            object["first_time"] = json!(holds.then(|| timestamp(held.time_min_ns).to_string()));
            object["last_time"] = json!(holds.then(|| timestamp(held.time_max_ns).to_string()));
            object["events"] = json!(held.events);
        }
        Err(error) => object["error"] = json!(error),
    }
    object
}

fn table(rows: &[Row], zone: &TimeZone) -> String {
    let time = |ns| timestamp(ns).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let mut text =
        format!("{:<29} {:<6} {:>12} {:>10}  {:<19}  {}\n", "FILE", "STATE", "EVENTS", "BYTES", "FROM", "TO");
    for row in rows {
        let bytes = bytes_for_eyes(row.bytes as f64);
        let _ = write!(text, "{:<29} {:<6} ", visible(&row.name), row.state);
        let _ = match &row.held {
            Err(error) => writeln!(text, "{:>12} {bytes:>10}  {}", "?", visible(error)),
            Ok(held) if held.events == 0 => writeln!(text, "{:>12} {bytes:>10}", 0),
            Ok(held) => {
                let (from, to) = (time(held.time_min_ns), time(held.time_max_ns));
                writeln!(text, "{:>12} {bytes:>10}  {from:<19}  {to}", held.events)
            }
        };
    }
    text
}

fn visible(text: &str) -> String {
    let mut out = Vec::new();
    put_visible(&mut out, text.as_bytes(), b" ");
    String::from_utf8_lossy(&out).into_owned()
}

/// Any 64 bits of nanoseconds are in the calendar: they end in 2554.
fn timestamp(ns: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default()
}
