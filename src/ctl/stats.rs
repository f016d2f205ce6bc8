//! Prints `dbufctl stats`: the daemon's figures as JSON, as Prometheus text, or as a table for people.
//!
//! Input: the `data` of the daemon's answer. Output: text on standard output or in a file. One thread. Failures: no
//! daemon, a closed output, an answer that is not this schema. `--json` prints the daemon's object unchanged, of
//! whatever version.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use serde::Deserialize;
use serde_json::Value;

use super::context::Context;
use super::daemon::{self, ANSWER_TIMEOUT};
use super::output::{Output, replace_file};
use super::values::period;
use crate::escape::json_line;
use crate::stats::{Snapshot, prometheus, table};
use crate::sync::thread;

/// How often `--watch` refreshes if it has no value, in seconds.
const WATCH_SECONDS: &str = "2";

/// `stats`
#[derive(Clone, Debug, Args)]
pub struct StatsArgs {
    /// Print one JSON object
    #[arg(long, conflicts_with = "prometheus")]
    pub json: bool,
    /// Print the Prometheus text format, version 0.0.4
    #[arg(long)]
    pub prometheus: bool,
    /// Give each process series of its own, with the label pid; without it, producers that differ only in their
    /// process are one series
    #[arg(long, requires = "prometheus")]
    pub with_pid: bool,
    /// Write to FILE instead of standard output; FILE is replaced in one step, so no program reads half a file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Refresh every SECS seconds until Ctrl-C [default: 2]
    #[arg(long, value_name = "SECS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = WATCH_SECONDS, value_parser = period)]
    pub watch: Option<Duration>,
}

/// Clears the screen and moves the terminal's cursor to the top left.
const REDRAW: &[u8] = b"\x1b[H\x1b[2J";

/// Runs the command.
///
/// # Errors
/// When no daemon answers, its answer is not understood, or the output cannot be written.
pub(super) fn run(args: &StatsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut output = Output::stdout()?;
    let to_terminal = args.output.is_none() && output.is_terminal();
    let redraw = args.watch.is_some() && to_terminal && !args.json && !args.prometheus;
    let color = context.color && args.output.is_none();
    let mut before: Option<(Instant, Snapshot)> = None;
    loop {
        let data = daemon::ask(&context.runtime, "stats", ANSWER_TIMEOUT)?;
        anyhow::ensure!(data.is_object(), "stats: the daemon's answer holds no statistics; is it a dbufd?");
        if args.json {
            output.buffer.extend_from_slice(json_line(&data).as_bytes());
        } else {
            let (time, now) = (Instant::now(), parse(&data)?);
            if redraw {
                output.buffer.extend_from_slice(REDRAW);
            } else if before.is_some() && args.output.is_none() {
                output.buffer.push(b'\n');
            }
            let since = before.as_ref().map(|(then, old)| (time - *then, old));
            let text = if args.prometheus {
                prometheus::render(&now, args.with_pid)
            } else {
                table::render(&now, since, color)
            };
            output.buffer.extend_from_slice(text.as_bytes());
            before = Some((time, now));
        }
        match &args.output {
            Some(file) => replace_file(file, &std::mem::take(&mut output.buffer))?,
            None => output.write_now()?,
        }
        let Some(period) = args.watch else { return Ok(ExitCode::SUCCESS) };
        thread::sleep(period);
    }
}

/// A field that the daemon lacks is zero or empty, and one that is unknown is ignored; only a changed type is an error.
fn parse(data: &Value) -> anyhow::Result<Snapshot> {
    Snapshot::deserialize(data).map_err(|error| {
        let version = data.get("version").and_then(Value::as_str).unwrap_or("of unknown version");
        anyhow::anyhow!(
            "stats: dbufctl {} does not understand the figures of dbufd {version} ({error}); use the dbufctl of that \
             version, or --json",
            env!("CARGO_PKG_VERSION")
        )
    })
}
