//! Renders a snapshot in Prometheus' text format, version 0.0.4.
//!
//! Input: a [`Snapshot`]. Output: text, fit for `promtool check metrics`. No thread, no state, no failures.
//!
//! Units are Prometheus' base units (seconds, bytes), counters end in `_total`, and every family has HELP and TYPE.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{EventSize, Producer, Quantiles, Ring, Snapshot, Writer};
use crate::escape::put_visible;

/// A family with one sample: name, value in the base unit, what it is.
type Single = (&'static str, fn(&Snapshot) -> f64, &'static str);
/// A family with a sample for each row of a list: name, value, what it is.
type Listed<T> = (&'static str, fn(&T) -> u64, &'static str);
type Label = (&'static str, String);

const SINGLES: &[Single] = &[
    ("uptime_seconds", |s| s.uptime_seconds, "Time since the daemon started."),
    (
        "counting_seconds",
        |s| s.counting_seconds,
        "Time since events are counted; a restart under systemd does not end it.",
    ),
    ("events_received_total", |s| s.events.received as f64, "Events that came in, stored or lost."),
    ("events_persisted_total", |s| s.events.persisted as f64, "Events that are in a file."),
    ("events_durable_total", |s| s.events.durable as f64, "Events that a sync has covered."),
    ("received_bytes_total", |s| s.bytes.received as f64, "Payload bytes that came in."),
    ("persisted_bytes_total", |s| s.bytes.persisted as f64, "Payload bytes that are in a file."),
    ("written_bytes_total", |s| s.bytes.written as f64, "Bytes written to files, heads and all."),
    ("buffer_capacity_bytes", |s| s.buffer.capacity_bytes as f64, "Bytes in each half of the double buffer."),
    ("buffer_front_bytes", |s| s.buffer.front_bytes as f64, "Bytes of the front half that are taken."),
    ("buffer_swaps_total", |s| s.buffer.swaps as f64, "Swaps of the two halves."),
    ("buffer_full_waits_total", |s| s.buffer.full_waits as f64, "Times that a writer waited for room."),
    ("buffer_full_wait_seconds_total", |s| s.buffer.full_wait_us as f64 / 1e6, "Time that writers waited for room."),
    (
        "buffer_late_writers_total",
        |s| s.buffer.late_writers as f64,
        "Times that the reader waited for a copy that was still going on.",
    ),
    ("connections", |s| s.connections.open as f64, "Open connections of the stream socket."),
    ("connections_kept", |s| s.connections.kept as f64, "Connections that a restart does not break."),
    ("connections_refused_total", |s| s.connections.refused as f64, "Connections that were turned away."),
    (
        "connections_unkept_total",
        |s| s.connections.unkept as f64,
        "Connections that systemd's store had no room for, so that a restart breaks them.",
    ),
    ("storage_segments", |s| s.storage.segments as f64, "Segment files."),
    ("storage_bytes", |s| s.storage.bytes as f64, "Bytes that the segment files take."),
    ("resident_memory_bytes", |s| s.rss_bytes as f64, "Resident memory of the daemon."),
];

const WRITERS: &[Listed<Writer>] = &[
    ("writer_connections", |w| w.connections, "Open connections of a writer thread."),
    ("writer_events_total", |w| w.events, "Events that a writer thread published."),
    ("writer_bytes_total", |w| w.bytes, "Payload bytes that a writer thread published."),
];

const PRODUCERS: &[Listed<Producer>] = &[
    ("producer_events_total", |p| p.events, "Events of one of the busiest producers."),
    ("producer_bytes_total", |p| p.bytes, "Payload bytes of one of the busiest producers."),
    ("producer_lost_total", |p| p.lost, "Lost events of one of the busiest producers."),
];

const RINGS: &[Listed<Ring>] = &[
    ("ring_capacity_bytes", |r| r.capacity_bytes, "Bytes of data of a ring."),
    ("ring_waiting_bytes", |r| r.waiting_bytes, "Bytes that the last look into a ring has found."),
    ("ring_high_water_bytes", |r| r.high_water_bytes, "The most bytes that were found in a ring."),
    ("ring_events_total", |r| r.events, "Events taken from a ring."),
    ("ring_lost_total", |r| r.lost, "Events that found no room in a ring."),
];

/// All of `now`, as Prometheus reads it.
pub(crate) fn render(now: &Snapshot) -> String {
    let mut out = String::new();
    family(&mut out, "build_info", "The daemon's version.");
    sample(&mut out, "build_info", &[("version", now.version.clone())], 1.0);
    for (name, value, help) in SINGLES {
        family(&mut out, name, help);
        sample(&mut out, name, &[], value(now));
    }
    family(&mut out, "events_lost_total", "Events that were lost, by cause.");
    for (cause, count) in &now.events.lost {
        sample(&mut out, "events_lost_total", &[("cause", cause.clone())], *count as f64);
    }
    sizes(&mut out, &now.event_size);
    latencies(&mut out, now);
    listed(&mut out, &now.writers, WRITERS, |w| vec![("index", w.index.to_string()), ("cpu", or_empty(w.cpu))]);
    listed(&mut out, &now.producers, PRODUCERS, |p| {
        let mut labels = identity(&p.tag, p.pid, p.uid, &p.unit);
        labels.push(("transport", p.transport.clone()));
        labels
    });
    listed(&mut out, &now.rings, RINGS, |r| identity(&r.tag, Some(r.pid), Some(r.uid), &r.unit));
    storage_and_cpu(&mut out, now);
    out
}

fn identity(tag: &str, pid: Option<u32>, uid: Option<u32>, unit: &str) -> Vec<Label> {
    vec![("tag", tag.to_owned()), ("pid", or_empty(pid)), ("uid", or_empty(uid)), ("unit", unit.to_owned())]
}

fn or_empty(number: Option<u32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

fn family(out: &mut String, name: &str, help: &str) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    declare(out, name, kind, help);
}

fn declare(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP dbufd_{name} {help}\n# TYPE dbufd_{name} {kind}");
}

fn sample(out: &mut String, name: &str, labels: &[Label], value: f64) {
    let _ = write!(out, "dbufd_{name}");
    for (index, (label, value)) in labels.iter().enumerate() {
        let _ = write!(out, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, escaped(value));
    }
    let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

/// Makes control characters visible first: clients choose tags, and the output may go to a terminal.
fn escaped(value: &str) -> String {
    let mut visible = Vec::new();
    put_visible(&mut visible, value.as_bytes(), b"\n");
    String::from_utf8_lossy(&visible).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn sizes(out: &mut String, sizes: &EventSize) {
    if sizes.buckets.is_empty() {
        return;
    }
    let name = "event_size_bytes";
    declare(out, name, "histogram", "Sizes of the payloads of events.");
    let bucket = format!("{name}_bucket");
    // The snapshot counts each bucket by itself; Prometheus wants the count of all up to it.
    let mut total = 0;
    for row in &sizes.buckets {
        total += row.count;
        // The last bucket ends at the largest event so far. A bound that moves is no bound for Prometheus.
        if (row.le + 1).is_power_of_two() {
            sample(out, &bucket, &[("le", row.le.to_string())], total as f64);
        }
    }
    sample(out, &bucket, &[("le", "+Inf".to_owned())], total as f64);
    sample(out, &format!("{name}_sum"), &[], (sizes.mean * total as f64).round());
    sample(out, &format!("{name}_count"), &[], total as f64);
}

fn latencies(out: &mut String, now: &Snapshot) {
    let mut latency = |name: &str, values: &Quantiles, help: &str| {
        family(out, name, help);
        for (statistic, value) in values.named() {
            sample(out, name, &[("statistic", statistic.to_owned())], value as f64 / 1e6);
        }
    };
    latency(
        "publish_to_persist_latency_seconds",
        &now.latency_us.publish_to_persist,
        "Time from an event's publication in the buffer to its being in a file.",
    );
    latency("sync_latency_seconds", &now.latency_us.sync, "Time that a sync of a file took.");
}

/// The daemon tells producers apart by more than it shows. A series must appear once, so equal labels are added up.
fn listed<T>(out: &mut String, rows: &[T], families: &[Listed<T>], labels: fn(&T) -> Vec<Label>) {
    for (name, value, help) in families.iter().filter(|_| !rows.is_empty()) {
        let mut sums: BTreeMap<Vec<Label>, u64> = BTreeMap::new();
        for row in rows {
            *sums.entry(labels(row)).or_default() += value(row);
        }
        family(out, name, help);
        for (labels, sum) in sums {
            sample(out, name, &labels, sum as f64);
        }
    }
}

fn storage_and_cpu(out: &mut String, now: &Snapshot) {
    let state = &now.storage.state;
    family(out, "storage_healthy", "Whether events can be stored, with the state's name.");
    sample(out, "storage_healthy", &[("state", state.clone())], f64::from(u8::from(state == "ok")));
    let oldest = now.storage.oldest_time.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    if let Some(time) = oldest {
        family(out, "storage_oldest_time_seconds", "Time of the oldest event that is stored, since 1970.");
        sample(out, "storage_oldest_time_seconds", &[], time.as_millisecond() as f64 / 1e3);
    }
    family(out, "cpu_seconds_total", "Time that the daemon spent on a processor.");
    for (mode, seconds) in [("user", now.cpu_seconds.user), ("system", now.cpu_seconds.system)] {
        sample(out, "cpu_seconds_total", &[("mode", mode.to_owned())], seconds);
    }
}
