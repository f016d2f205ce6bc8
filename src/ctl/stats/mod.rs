//! `dbufctl stats`: the daemon's counters as JSON, as Prometheus text, or as a table for people.
//!
//! Enters: the `data` of the daemon's reply, one JSON object whose names people rely on. Leaves: text. What can fail:
//! asking. What the daemon does not say (an older one, or one without `stats.enabled`) is left out, never invented.

mod args;
mod prometheus;
mod table;

pub(super) use args::StatsArgs;
pub(super) use table::{bytes as bytes_for_eyes, count as count_for_eyes};

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::Value;

use super::context::Context;
use super::daemon::{self, ANSWER_TIMEOUT};
use super::output::Output;
use super::print::escape::json_line;
use crate::sync::thread;

/// Clears the screen and puts the terminal's own mark at the top left.
const REDRAW: &[u8] = b"\x1b[H\x1b[2J";

/// Runs the command.
///
/// # Errors
/// When no daemon answers or the output cannot be written.
pub(super) fn run(args: StatsArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut output = Output::stdout()?;
    let redraw = args.watch.is_some() && output.is_terminal() && !args.json && !args.prometheus;
    let mut before: Option<(Instant, Value)> = None;
    loop {
        let data = ask(&context.runtime)?;
        let now = Instant::now();
        if redraw {
            output.buffer.extend_from_slice(REDRAW);
        } else if before.is_some() && !args.json {
            output.buffer.push(b'\n');
        }
        let text = if args.json {
            json_line(&data)
        } else if args.prometheus {
            prometheus::render(&data)
        } else {
            let since = before.as_ref().map(|(then, old)| (now - *then, old));
            table::render(&data, since, context.color)
        };
        output.buffer.extend_from_slice(text.as_bytes());
        output.write_now()?;
        let Some(period) = args.watch else { return Ok(ExitCode::SUCCESS) };
        before = Some((now, data));
        thread::sleep(period);
    }
}

fn ask(runtime: &Path) -> anyhow::Result<Value> {
    let data = daemon::ask(runtime, "stats", ANSWER_TIMEOUT)?;
    anyhow::ensure!(data.is_object(), "stats: the daemon's answer holds no statistics; is it a dbufd?");
    Ok(data)
}

/// The number at the end of a path such as `events.lost.full`.
fn number(data: &Value, path: &str) -> Option<f64> {
    at(data, path)?.as_f64()
}

/// The text at the end of a path. What is not text is shown as JSON; null is nothing.
fn text(data: &Value, path: &str) -> Option<String> {
    match at(data, path)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn at<'a>(data: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(data, |value, name| value.get(name))
}

fn rows<'a>(data: &'a Value, name: &str) -> &'a [Value] {
    data.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
fn sample() -> Value {
    serde_json::json!({
        "version": "0.1.0",
        "uptime_seconds": 93784.5,
        "counting_seconds": 93784.5,
        "events": {
            "received": 1_234_567, "persisted": 1_234_560, "durable": 1_234_000, "lost_total": 7,
            "lost": { "full": 0, "too_big": 5, "malformed": 2, "disk": 0, "abandoned": 0 }
        },
        "bytes": { "received": 123_456_789, "persisted": 123_456_000, "written": 150_000_000 },
        "buffer": {
            "capacity_bytes": 8_388_608, "front_bytes": 1_048_576, "swaps": 4711, "full_waits": 3,
            "full_wait_us": 1500, "late_writers": 1
        },
        "event_size": {
            "min": 1, "max": 9000, "mean": 100.0, "p50": 90, "p90": 200, "p99": 4000,
            "buckets": [
                { "le": 63, "count": 10 }, { "le": 127, "count": 80 }, { "le": 255, "count": 80 },
                { "le": 9000, "count": 100 }
            ]
        },
        "latency_us": {
            "publish_to_persist": { "p50": 2100, "p99": 3000, "p999": 9000, "max": 12000 },
            "sync": { "p50": 320, "p99": 7200, "max": 9100 }
        },
        "connections": { "open": 2, "kept": 1, "refused": 0, "unkept": 1 },
        "writers": [
            { "index": 0, "cpu": 0, "connections": 2, "events": 1_000_000, "bytes": 100_000_000 },
            { "index": 1, "cpu": null, "connections": 0, "events": 234_567, "bytes": 23_456_789 }
        ],
        "producers": [
            { "tag": "app\u{1b}[31m", "pid": 42, "uid": 1000, "unit": "app.service", "transport": "lines",
              "events": 1_000_000, "bytes": 100_000_000, "lost": 0 },
            { "tag": "q\"x\\\n", "pid": 43, "uid": 0, "unit": "", "transport": "dgram", "events": 200_000,
              "bytes": 20_000_000, "lost": 4 },
            { "tag": "q\"x\\\n", "pid": 43, "uid": 0, "unit": "", "transport": "dgram", "events": 34_567,
              "bytes": 3_456_789, "lost": 3 }
        ],
        "storage": {
            "directory": "/var/log/dbufd", "segments": 3, "bytes": 150_000_000,
            "active": "00000000000000900000.active", "oldest_time": "2026-11-23T05:00:00Z", "sync_policy": "1s",
            "state": "ok", "last_error": null
        },
        "cpu_seconds": { "user": 1.25, "system": 2.5 },
        "rss_bytes": 35_651_584
    })
}
