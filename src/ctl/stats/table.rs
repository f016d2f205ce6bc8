//! The counters as a table for people, at most 80 columns wide.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::{number, rows, text};
use crate::ctl::findings::plural;
use crate::ctl::print::escape::visible;

/// So many producers are shown; all are in `--json`.
const PRODUCERS_SHOWN: usize = 8;
/// So many writer threads are shown.
const WRITERS_SHOWN: usize = 8;
/// Columns of the longest bar of the size distribution.
const BAR_COLUMNS: f64 = 37.0;

struct Table<'a> {
    out: String,
    data: &'a Value,
    color: bool,
}

/// All of `data` for eyes. `since`: an earlier snapshot and how long ago it was, for rates over that time instead of
/// over the daemon's life.
pub(super) fn render(data: &Value, since: Option<(Duration, &Value)>, color: bool) -> String {
    let mut table = Table { out: String::new(), data, color };
    table.head();
    table.events(since);
    table.buffer();
    table.sizes();
    table.latencies();
    table.writers();
    table.producers();
    table.rings();
    table.storage();
    table.out
}

impl Table<'_> {
    fn number(&self, path: &str) -> f64 {
        number(self.data, path).unwrap_or(0.0)
    }

    fn text(&self, path: &str) -> String {
        text(self.data, path).map_or_else(|| "-".to_owned(), |text| fit(&text, 60))
    }

    /// One row: a label at the left, and what there is to say about it.
    fn row(&mut self, label: &str, value: &str) {
        let _ = if self.color && !label.is_empty() {
            writeln!(self.out, "\x1b[1m{label:<10}\x1b[0m {value}")
        } else {
            writeln!(self.out, "{label:<10} {value}")
        };
    }

    fn gap(&mut self) {
        self.out.push('\n');
    }

    fn head(&mut self) {
        let uptime = duration(self.number("uptime_seconds"));
        let cpu = self.number("cpu_seconds.user") + self.number("cpu_seconds.system");
        let share = ratio(cpu, self.number("uptime_seconds")) * 100.0;
        let line = format!(
            "{}   up {uptime}   CPU {} ({share:.1} % of a core)   memory {}",
            self.text("version"),
            duration(cpu),
            bytes(self.number("rss_bytes"))
        );
        self.row("dbufd", &line);
        self.gap();
    }

    fn events(&mut self, since: Option<(Duration, &Value)>) {
        let now = |path: &str| self.number(path);
        let (seconds, before): (f64, &Value) =
            since.map_or((now("counting_seconds"), &Value::Null), |(time, data)| (time.as_secs_f64(), data));
        let rate = |path: &str| ratio(now(path) - number(before, path).unwrap_or(0.0), seconds).max(0.0);
        let title = format!("{:>14} {:>14} {:>14} {:>14}", "received", "persisted", "durable", "lost");
        let events = format!(
            "{:>14} {:>14} {:>14} {:>14}",
            count(now("events.received")),
            count(now("events.persisted")),
            count(now("events.durable")),
            count(now("events.lost_total"))
        );
        let per_second = format!(
            "{:>14} {:>14} {:>14} {:>14}",
            count(rate("events.received").round()),
            count(rate("events.persisted").round()),
            count(rate("events.durable").round()),
            count(rate("events.lost_total").round())
        );
        let payload = format!("{:>14} {:>14}", bytes(now("bytes.received")), bytes(now("bytes.persisted")));
        let payload = format!("{payload}   {} written to files", bytes(now("bytes.written")));
        let lost = self.lost();
        self.row("", &title);
        self.row("events", &events);
        self.row("  a second", &per_second);
        self.row("payload", &payload);
        if let Some(lost) = lost {
            self.row("lost", &lost);
        }
        self.gap();
    }

    fn lost(&self) -> Option<String> {
        let causes = self.data.pointer("/events/lost")?.as_object()?;
        let parts: Vec<_> = causes
            .iter()
            .filter_map(|(cause, events)| Some((cause, events.as_f64().filter(|&events| events > 0.0)?)))
            .map(|(cause, events)| format!("{} {}", count(events), fit(cause, 20)))
            .collect();
        (!parts.is_empty()).then(|| parts.join(" · "))
    }

    fn buffer(&mut self) {
        let capacity = self.number("buffer.capacity_bytes");
        let filled = ratio(self.number("buffer.front_bytes"), capacity) * 100.0;
        let line = format!(
            "2 x {}, front {filled:.0} % full, {} swaps, {} late writers",
            bytes(capacity),
            count(self.number("buffer.swaps")),
            count(self.number("buffer.late_writers"))
        );
        self.row("buffer", &line);
        let waits = self.number("buffer.full_waits");
        if waits > 0.0 {
            let line =
                format!("was full {} times, {} in all", count(waits), micros(self.number("buffer.full_wait_us")));
            self.row("", &line);
        }
        self.gap();
    }

    fn sizes(&mut self) {
        if number(self.data, "event_size.max").is_none() {
            return;
        }
        let parts: Vec<_> = ["min", "p50", "mean", "p90", "p99", "max"]
            .iter()
            .filter_map(|name| Some(format!("{name} {}", bytes(number(self.data, &format!("event_size.{name}"))?))))
            .collect();
        self.row("size", &parts.join("  "));
        let buckets = self.data.pointer("/event_size/buckets").and_then(Value::as_array);
        let counts: Vec<_> = buckets
            .into_iter()
            .flatten()
            .map(|row| (number(row, "le"), number(row, "count").unwrap_or(0.0)))
            .filter(|(_, count)| *count > 0.0)
            .collect();
        let total: f64 = counts.iter().map(|(_, count)| count).sum();
        let most = counts.iter().map(|(_, count)| *count).fold(0.0, f64::max);
        for (bound, count) in counts {
            // A bound is one less than a power of two; the power reads better, but is not in the bucket.
            let bound = bound.map_or_else(|| "more".to_owned(), |bound| format!("under {}", bytes(bound + 1.0)));
            let bar = "#".repeat((ratio(count, most) * BAR_COLUMNS).ceil() as usize);
            let line = format!("{bound:>15} {:>5.1} % {bar}", ratio(count, total) * 100.0);
            self.row("", &line);
        }
        self.gap();
    }

    fn latencies(&mut self) {
        for (label, path) in [("persist", "latency_us.publish_to_persist"), ("sync", "latency_us.sync")] {
            let parts: Vec<_> = ["p50", "p99", "p999", "max"]
                .iter()
                .filter_map(|name| Some(format!("{name} {}", micros(number(self.data, &format!("{path}.{name}"))?))))
                .collect();
            if !parts.is_empty() {
                self.row(label, &parts.join("   "));
            }
        }
        self.gap();
    }

    fn writers(&mut self) {
        let writers = rows(self.data, "writers");
        if writers.is_empty() {
            return;
        }
        let title = format!("{:>5} {:>12} {:>14} {:>12}", "core", "connections", "events", "payload");
        self.row("writers", &format!("{title}{}", self.kept()));
        for writer in &writers[..writers.len().min(WRITERS_SHOWN)] {
            let line = format!(
                "{:>5} {:>12} {:>14} {:>12}",
                text(writer, "cpu").unwrap_or_else(|| "any".into()),
                count(number(writer, "connections").unwrap_or(0.0)),
                count(number(writer, "events").unwrap_or(0.0)),
                bytes(number(writer, "bytes").unwrap_or(0.0))
            );
            self.row(&format!("  {}", text(writer, "index").unwrap_or_default()), &line);
        }
        if writers.len() > WRITERS_SHOWN {
            self.row("", &format!("{} more, see --json", writers.len() - WRITERS_SHOWN));
        }
        let refused = self.number("connections.refused");
        if refused > 0.0 {
            self.row("", &format!("{} connections were turned away", count(refused)));
        }
        self.gap();
    }

    /// What a restart would do to the connections, where there is a service manager that can keep them.
    fn kept(&self) -> String {
        let [kept, unkept] = ["kept", "unkept"].map(|member| self.number(&format!("connections.{member}")));
        match (kept > 0.0, unkept > 0.0) {
            (_, true) => fit(&format!("   {} kept, {} not", count(kept), count(unkept)), 23),
            (true, false) => fit(&format!("   {} kept", count(kept)), 23),
            (false, false) => String::new(),
        }
    }

    fn producers(&mut self) {
        let producers = rows(self.data, "producers");
        if producers.is_empty() {
            return;
        }
        self.row("producers", &format!("{:<28} {:>12} {:>10} {:>8} via", "busiest first", "events", "payload", "lost"));
        for producer in &producers[..producers.len().min(PRODUCERS_SHOWN)] {
            let line = format!(
                "{:<28} {:>12} {:>10} {:>8} {}",
                fit(&producer_name(producer), 28),
                count(number(producer, "events").unwrap_or(0.0)),
                bytes(number(producer, "bytes").unwrap_or(0.0)),
                count(number(producer, "lost").unwrap_or(0.0)),
                fit(&text(producer, "transport").unwrap_or_default(), 8)
            );
            self.row("", &line);
        }
        if producers.len() > PRODUCERS_SHOWN {
            self.row("", &format!("{} more, see --json", producers.len() - PRODUCERS_SHOWN));
        }
        self.gap();
    }

    fn rings(&mut self) {
        let rings = rows(self.data, "rings");
        if rings.is_empty() {
            return;
        }
        let title = format!("{:<28} {:>12} {:>10} {:>10} {:>8}", "", "events", "size", "most full", "lost");
        self.row("rings", &title);
        for ring in &rings[..rings.len().min(PRODUCERS_SHOWN)] {
            let value = |path: &str| number(ring, path).unwrap_or(0.0);
            let fill = ratio(value("high_water_bytes"), value("capacity_bytes")) * 100.0;
            let line = format!(
                "{:<28} {:>12} {:>10} {:>8.0} % {:>8}",
                fit(&producer_name(ring), 28),
                count(value("events")),
                bytes(value("capacity_bytes")),
                fill,
                count(value("lost"))
            );
            self.row("", &line);
        }
        if rings.len() > PRODUCERS_SHOWN {
            self.row("", &format!("{} more, see --json", rings.len() - PRODUCERS_SHOWN));
        }
        self.gap();
    }

    fn storage(&mut self) {
        let line = format!(
            "{}: {} {}, {}",
            self.text("storage.directory"),
            count(self.number("storage.segments")),
            plural(self.number("storage.segments") as u64, "segment"),
            bytes(self.number("storage.bytes"))
        );
        self.row("storage", &line);
        let line = format!("oldest {}   sync {}", self.text("storage.oldest_time"), self.text("storage.sync_policy"));
        self.row("", &line);
        let state = self.text("storage.state");
        let error = text(self.data, "storage.last_error").filter(|error| !error.is_empty());
        let line = match error {
            Some(error) if state != "ok" => format!("{state}: {}", fit(&error, 60)),
            Some(error) => format!("{state}; last error: {}", fit(&error, 50)),
            None => state.clone(),
        };
        let line = if self.color && state != "ok" { format!("\x1b[1;31m{line}\x1b[0m") } else { line };
        self.row("state", &line);
    }
}

fn producer_name(producer: &Value) -> String {
    let named = |path| text(producer, path).filter(|text| !text.is_empty());
    let name = named("tag").or_else(|| named("unit")).unwrap_or_else(|| "unknown".into());
    match number(producer, "pid").filter(|&pid| pid > 0.0) {
        Some(pid) => format!("{name}[{pid}]"),
        None => name,
    }
}

/// `text` without control bytes, in at most `columns` characters.
fn fit(text: &str, columns: usize) -> String {
    let visible = visible(text);
    if visible.chars().count() <= columns {
        return visible;
    }
    visible.chars().take(columns - 1).chain(['…']).collect()
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// A count with a comma between each three digits.
pub(in crate::ctl) fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// An amount of bytes in the unit that leaves one to four digits before the point.
pub(in crate::ctl) fn bytes(number: f64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024.0 {
        return format!("{number:.0} B");
    }
    let mut scaled = number / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

fn micros(number: f64) -> String {
    match number {
        n if n < 1e3 => format!("{n:.0} us"),
        n if n < 1e6 => format!("{:.1} ms", n / 1e3),
        n => duration(n / 1e6),
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_a_terminal_and_shows_no_control_byte() {
        let text = render(&super::super::sample(), None, false);
        assert!(text.lines().count() <= 42, "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 80 && !line.chars().any(char::is_control), "{line}");
        }
        for has in [
            "1,234,567",
            "under 64 B",
            "5 too_big · 2 malformed",
            "8.0 MiB",
            "p999 9.0 ms",
            "payload   1 kept, 1 not",
            "app\\x1b[31m[42]",
            "/var/log/dbufd",
        ] {
            assert!(text.contains(has), "{has} is not in:\n{text}");
        }
    }

    #[test]
    fn rates_are_over_the_time_since_the_snapshot_before() {
        let now = super::super::sample();
        let mut before = now.clone();
        before["events"]["received"] = 1_234_367.into();
        let text = render(&now, Some((Duration::from_secs(2), &before)), false);
        let row = text.lines().find(|line| line.contains("a second")).unwrap();
        assert_eq!(row.split_whitespace().nth(2), Some("100"), "{row}");
    }

    #[test]
    fn a_daemon_that_says_little_makes_no_trouble() {
        let text = render(&serde_json::json!({}), None, false);
        assert!(text.contains("events") && !text.contains("size"), "{text}");
    }

    #[test]
    fn numbers_are_made_for_eyes() {
        assert_eq!([count(0.0), count(999.0), count(1000.0), count(1_234_567.0)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([bytes(1023.0), bytes(1536.0), bytes(8_388_608.0)], ["1023 B", "1.5 KiB", "8.0 MiB"]);
        assert_eq!([micros(320.0), micros(7200.0), micros(61e6)], ["320 us", "7.2 ms", "1 min 01 s"]);
        assert_eq!([duration(1.25), duration(3700.0), duration(93784.0)], ["1.2 s", "1 h 01 min", "1 d 02 h"]);
    }
}
