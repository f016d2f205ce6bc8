//! Prints `dbufctl stats`: the daemon's figures as JSON, as Prometheus text, or as a table for people.
//!
//! Input: the `data` of the daemon's answer. Output: text on standard output. One thread. Failures: no daemon, a closed
//! output, an answer that is not this schema. `--json` prints the daemon's object as it came, of whatever version.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::context::Context;
use super::daemon::{self, ANSWER_TIMEOUT};
use super::output::Output;
use super::values::period;
use crate::escape::json_line;
use crate::stats::{Snapshot, prometheus, table};
use crate::sync::thread;

/// `stats`
#[derive(Clone, Copy, Debug, Args)]
pub struct StatsArgs {
    /// Print one JSON object
    #[arg(long, conflicts_with = "prometheus")]
    pub json: bool,
    /// Print the Prometheus text format, version 0.0.4
    #[arg(long)]
    pub prometheus: bool,
    /// Print again and again, until Ctrl-C
    #[arg(long, value_name = "SECS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "2", value_parser = period)]
    pub watch: Option<Duration>,
}

/// Clears the screen and moves the terminal's cursor to the top left.
const REDRAW: &[u8] = b"\x1b[H\x1b[2J";

/// Runs the command.
///
/// # Errors
/// When no daemon answers, its answer is not understood, or the output cannot be written.
pub(super) fn run(args: StatsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut output = Output::stdout()?;
    let redraw = args.watch.is_some() && output.is_terminal() && !args.json && !args.prometheus;
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
            } else if before.is_some() {
                output.buffer.push(b'\n');
            }
            let since = before.as_ref().map(|(then, old)| (time - *then, old));
            let text =
                if args.prometheus { prometheus::render(&now) } else { table::render(&now, since, context.color) };
            output.buffer.extend_from_slice(text.as_bytes());
            before = Some((time, now));
        }
        output.write_now()?;
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
