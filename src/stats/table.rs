//! Renders a snapshot as a table for people, at most 80 columns wide: `dbufctl stats`, and the daemon's report.
//!
//! Input: a [`Snapshot`], for rates an earlier one. Output: text without control bytes other than colors. No thread, no
//! state, no failures. A row without a figure is left out.

use std::fmt::Write as _;
use std::time::Duration;

use super::format::{bar, bytes, count, fit, micros, plural, ratio, seconds};
use super::{Buffer, Deleted, EventSize, Latency, Producer, Refusals, Ring, Snapshot, Storage, User, Writer};

/// Rows that a list shows; `--json` has all.
const ROWS_SHOWN: usize = 8;
/// Users that the storage's row shows.
const USERS_SHOWN: usize = 2;
/// Columns of the longest bar of the size distribution.
const BAR_COLUMNS: usize = 37;

struct Table {
    out: String,
    color: bool,
}

/// All of `now`. With an earlier snapshot and the time since then, rates are over that time, otherwise over all the
/// time that was counted.
pub(crate) fn render(now: &Snapshot, since: Option<(Duration, &Snapshot)>, color: bool) -> String {
    let mut table = Table { out: String::new(), color };
    table.head(now);
    table.events(now, since);
    table.buffer(&now.buffer);
    table.sizes(&now.event_size);
    table.latencies(&now.latency_us);
    table.writers(now);
    table.producers(&now.producers);
    table.rings(&now.rings);
    table.storage(&now.storage);
    table.out
}

/// The daemon's report: the table, and below it the rate of payload and what is only in memory.
pub(crate) fn report(last: &Snapshot) -> String {
    let mut table = Table { out: render(last, None, false), color: false };
    let rate = bytes(ratio(last.bytes.received as f64, last.counting_seconds).round() as u64);
    table.row("rate", &format!("{rate} of payload a second over {}", seconds(last.counting_seconds)));
    // After a stop: what the disk refused. The next process takes it over where systemd keeps the memory.
    let left = last.events.in_memory();
    if left > 0 {
        table.row("in memory", &format!("{} {} that no file holds", count(left), plural(left, "event")));
    }
    table.out
}

/// The size distribution, one line a bucket that holds anything, below its summary. Empty if there was no event.
pub(crate) fn sizes(sizes: &EventSize) -> Vec<String> {
    if sizes.max == 0 {
        return Vec::new();
    }
    let (min, mean, max) = (bytes(sizes.min), bytes(sizes.mean.round() as u64), bytes(sizes.max));
    let [p50, p90, p99] = [sizes.p50, sizes.p90, sizes.p99].map(bytes);
    // Two lines: with all six in one, sizes of MiB would not fit into 80 columns.
    let mut lines = vec![format!("min {min}   mean {mean}   max {max}"), format!("p50 {p50}   p90 {p90}   p99 {p99}")];
    let total: u64 = sizes.buckets.iter().map(|bucket| bucket.count).sum();
    let most = sizes.buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0);
    lines.extend(sizes.buckets.iter().filter(|bucket| bucket.count > 0).map(|bucket| {
        // A bound is one less than a power of two; the power reads better, but is not in the bucket.
        let bound = format!("under {}", bytes(bucket.le.saturating_add(1)));
        let share = ratio(bucket.count as f64, total as f64) * 100.0;
        format!("{bound:>15} {share:>5.1} % {}", bar(bucket.count, most, BAR_COLUMNS))
    }));
    lines
}

impl Table {
    /// One row: a label at the left, and what there is to say about it.
    fn row(&mut self, label: &str, value: &str) {
        let value = value.trim_end();
        let _ = if self.color && !label.is_empty() {
            writeln!(self.out, "\x1b[1m{label:<10}\x1b[0m {value}")
        } else {
            writeln!(self.out, "{label:<10} {value}")
        };
    }

    /// Ends a section, unless it is empty.
    fn gap(&mut self) {
        if !self.out.ends_with("\n\n") {
            self.out.push('\n');
        }
    }

    /// A list with its title, if it has any rows.
    fn list<T>(&mut self, label: &str, title: &str, rows: &[T], row: impl Fn(&T) -> (String, String)) {
        if rows.is_empty() {
            return;
        }
        self.row(label, title);
        for (label, value) in rows.iter().take(ROWS_SHOWN).map(row) {
            self.row(&label, &value);
        }
        if rows.len() > ROWS_SHOWN {
            self.row("", &format!("{} more in 'dbufctl stats --json'", rows.len() - ROWS_SHOWN));
        }
    }

    fn head(&mut self, now: &Snapshot) {
        let cpu = now.cpu_seconds.user + now.cpu_seconds.system;
        let share = ratio(cpu, now.uptime_seconds) * 100.0;
        let (uptime, cpu, memory) = (seconds(now.uptime_seconds), seconds(cpu), bytes(now.rss_bytes));
        let version = or_dash(&now.version);
        self.row("dbufd", &format!("{version}   up {uptime}   CPU {cpu} ({share:.1} % of a core)   memory {memory}"));
        self.gap();
    }

    fn events(&mut self, now: &Snapshot, since: Option<(Duration, &Snapshot)>) {
        let columns = |cells: [String; 4]| cells.map(|cell| format!("{cell:>14}")).join(" ");
        let figures =
            |Snapshot { events, .. }: &Snapshot| [events.received, events.persisted, events.durable, events.lost_total];
        let (time, before) =
            since.map_or((now.counting_seconds, [0; 4]), |(time, before)| (time.as_secs_f64(), figures(before)));
        let mut rates = figures(now);
        for (rate, before) in rates.iter_mut().zip(before) {
            *rate = ratio(rate.saturating_sub(before) as f64, time).round() as u64;
        }
        self.row("", &columns(["received", "persisted", "durable", "lost"].map(str::to_owned)));
        self.row("events", &columns(figures(now).map(count)));
        self.row("  a second", &columns(rates.map(count)));
        let [received, persisted, written] = [now.bytes.received, now.bytes.persisted, now.bytes.written].map(bytes);
        self.row("payload", &format!("{received:>14} {persisted:>14}   {written} written to files"));
        let lost = now.events.lost.iter().filter(|(_, events)| **events > 0);
        let lost: Vec<_> = lost.map(|(cause, events)| format!("{} {}", count(events), fit(cause, 20))).collect();
        if !lost.is_empty() {
            self.row("lost", &lost.join(" · "));
        }
        self.gap();
    }

    fn buffer(&mut self, buffer: &Buffer) {
        let filled = ratio(buffer.front_bytes as f64, buffer.capacity_bytes as f64) * 100.0;
        let (half, swaps, late) = (bytes(buffer.capacity_bytes), count(buffer.swaps), count(buffer.late_writers));
        let [swap, writer] =
            [(buffer.swaps, "swap"), (buffer.late_writers, "late writer")].map(|(n, noun)| plural(n, noun));
        self.row("buffer", &format!("2 x {half}, front {filled:.0} % full, {swaps} {swap}, {late} {writer}"));
        if buffer.full_waits > 0 {
            let (times, waited) = (count(buffer.full_waits), micros(buffer.full_wait_us));
            self.row(
                "",
                &format!("was full {times} {}; writers waited {waited} in all", plural(buffer.full_waits, "time")),
            );
        }
        self.gap();
    }

    fn sizes(&mut self, event_size: &EventSize) {
        for (index, line) in sizes(event_size).iter().enumerate() {
            self.row(if index == 0 { "size" } else { "" }, line);
        }
        self.gap();
    }

    fn latencies(&mut self, latency: &Latency) {
        let measured = [("persist", &latency.publish_to_persist), ("sync", &latency.sync)];
        for (label, values) in measured.into_iter().filter(|(_, values)| values.max > 0) {
            let parts: Vec<_> = values.named().map(|(name, value)| format!("{name} {}", micros(value))).collect();
            self.row(label, &parts.join("   "));
        }
        self.gap();
    }

    fn writers(&mut self, now: &Snapshot) {
        let title = format!("{:>5} {:>12} {:>14} {:>12}", "core", "connections", "events", "payload");
        let [kept, unkept] = [now.connections.kept, now.connections.unkept_open];
        // What a restart would do to the connections, where there is a service manager that can keep them.
        let stored = match (kept > 0, unkept > 0) {
            (_, true) => format!("   {} kept, {} not", count(kept), count(unkept)),
            (true, false) => format!("   {} kept", count(kept)),
            (false, false) => String::new(),
        };
        self.list("writers", &format!("{title}{}", fit(&stored, 23)), &now.writers, |writer: &Writer| {
            let cpu = writer.cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
            let (connections, events) = (count(writer.connections), count(writer.events));
            let value = format!("{cpu:>5} {connections:>12} {events:>14} {:>12}", bytes(writer.bytes));
            (format!("  {}", writer.index), value)
        });
        if now.connections.refused > 0 {
            let (refused, noun) = (count(now.connections.refused), plural(now.connections.refused, "connection"));
            self.row("", &format!("{refused} {noun} refused: its user's share, or no epoll watch left"));
        }
        for Refusals { resource, uid, count: times } in &now.limits.refused {
            let user = uid.map_or_else(|| "other users".to_owned(), |uid| format!("user {uid}"));
            let (times, noun) = (count(*times), plural(*times, "time"));
            let what = match resource.as_str() {
                "rate" => "had to wait for limits.*".to_owned(),
                "window_bytes" => "had to wait for storage.keep_at_least".to_owned(),
                "buffer_bytes" => "had to wait for its share of the buffer".to_owned(),
                resource => format!("refused more {}", resource.replace('_', " ")),
            };
            self.row("", &format!("{user}: {what} {times} {noun}"));
        }
        self.gap();
    }

    fn producers(&mut self, producers: &[Producer]) {
        let title = format!("{:<28} {:>11} {:>10} {:>8}  via", "busiest first", "events", "payload", "lost");
        self.list("producers", &title, producers, |producer| {
            let name = fit(&name(&producer.tag, &producer.unit, producer.pid), 28);
            let (events, payload, lost) = (count(producer.events), bytes(producer.bytes), count(producer.lost));
            let value = format!("{name:<28} {events:>11} {payload:>10} {lost:>8}  {}", fit(&producer.transport, 8));
            (String::new(), value)
        });
        self.gap();
    }

    fn rings(&mut self, rings: &[Ring]) {
        let title = format!("{:<25} {:>12} {:>10} {:>10} {:>8}", "", "events", "size", "most full", "lost");
        self.list("rings", &title, rings, |ring| {
            let name = fit(&name(&ring.tag, &ring.unit, Some(ring.pid)), 25);
            let fill = ratio(ring.high_water_bytes as f64, ring.capacity_bytes as f64) * 100.0;
            let (events, size, lost) = (count(ring.events), bytes(ring.capacity_bytes), count(ring.lost));
            (String::new(), format!("{name:<25} {events:>12} {size:>10} {fill:>8.0} % {lost:>8}"))
        });
        self.gap();
    }

    fn storage(&mut self, storage: &Storage) {
        let (segments, size) = (count(storage.segments), bytes(storage.bytes));
        let noun = plural(storage.segments, "segment");
        self.row("storage", &format!("{}: {segments} {noun}, {size}", or_dash(&storage.directory)));
        let oldest = or_dash(storage.oldest_time.as_deref().unwrap_or_default());
        let reach = storage.reach_seconds.map(|reach| format!(", {} ago", seconds(reach))).unwrap_or_default();
        self.row("", &format!("oldest {oldest}{reach}   sync {}", or_dash(&storage.sync_policy)));
        self.users(&storage.users);
        self.deleted(&storage.deleted);
        let state = or_dash(&storage.state);
        let line = match storage.last_error.as_deref().unwrap_or_default() {
            "" => state.clone(),
            error if state != "ok" => format!("{state}: {}", fit(error, 60)),
            error => format!("{state}; last error: {}", fit(error, 50)),
        };
        let line = if self.color && state != "ok" { format!("\x1b[1;31m{line}\x1b[0m") } else { line };
        self.row("state", &line);
    }
}

impl Table {
    /// What users have in the segments: those with the most bytes.
    fn users(&mut self, users: &[User]) {
        let all: u64 = users.iter().map(|user| user.bytes).sum();
        let part = |user: &User| {
            let name = user.uid.map_or_else(|| "others".to_owned(), |uid| format!("user {uid}"));
            format!("{name} {} ({:.0} %)", bytes(user.bytes), ratio(user.bytes as f64, all as f64) * 100.0)
        };
        let parts: Vec<_> = users.iter().take(USERS_SHOWN).map(part).collect();
        if !parts.is_empty() {
            self.row("", &format!("payload of {}", parts.join(", ")));
        }
    }

    fn deleted(&mut self, deleted: &Deleted) {
        if deleted.segments == 0 {
            return;
        }
        let [segments, events] = [(deleted.segments, "segment"), (deleted.events, "event")]
            .map(|(number, noun)| format!("{} {}", count(number), plural(number, noun)));
        self.row("deleted", &format!("by retention: {segments}, {}, {events}", bytes(deleted.bytes)));
    }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { fit(text, 60) }
}

fn name(tag: &str, unit: &str, pid: Option<u32>) -> String {
    let name = [tag, unit].into_iter().find(|name| !name.is_empty()).unwrap_or("unknown");
    match pid.filter(|&pid| pid > 0) {
        Some(pid) => format!("{name}[{pid}]"),
        None => name.to_owned(),
    }
}
