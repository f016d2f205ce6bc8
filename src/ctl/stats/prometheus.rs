//! The counters in Prometheus' text format, version 0.0.4.
//!
//! Units are Prometheus' base units (seconds, bytes), counters end in `_total`, and every family has HELP and TYPE.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::{number, rows, text};
use crate::ctl::print::escape::put_visible;

/// A family with one sample: name, type, path in the JSON, divisor to the base unit, what it is.
type Single = (&'static str, &'static str, &'static str, f64, &'static str);

const SINGLES: &[Single] = &[
    ("uptime_seconds", "gauge", "uptime_seconds", 1.0, "Time since the daemon started."),
    (
        "counting_seconds",
        "gauge",
        "counting_seconds",
        1.0,
        "Time since events are counted; a restart under systemd does not end it.",
    ),
    ("events_received_total", "counter", "events.received", 1.0, "Events that came in, stored or lost."),
    ("events_persisted_total", "counter", "events.persisted", 1.0, "Events that are in a file."),
    ("events_durable_total", "counter", "events.durable", 1.0, "Events that a sync has covered."),
    ("received_bytes_total", "counter", "bytes.received", 1.0, "Payload bytes that came in."),
    ("persisted_bytes_total", "counter", "bytes.persisted", 1.0, "Payload bytes that are in a file."),
    ("written_bytes_total", "counter", "bytes.written", 1.0, "Bytes written to files, heads and all."),
    ("buffer_capacity_bytes", "gauge", "buffer.capacity_bytes", 1.0, "Bytes in each half of the double buffer."),
    ("buffer_front_bytes", "gauge", "buffer.front_bytes", 1.0, "Bytes of the front half that are taken."),
    ("buffer_swaps_total", "counter", "buffer.swaps", 1.0, "Swaps of the two halves."),
    ("buffer_full_waits_total", "counter", "buffer.full_waits", 1.0, "Times that a writer waited for room."),
    ("buffer_full_wait_seconds_total", "counter", "buffer.full_wait_us", 1e6, "Time that writers waited for room."),
    (
        "buffer_late_writers_total",
        "counter",
        "buffer.late_writers",
        1.0,
        "Times that the reader waited for a copy that was still going on.",
    ),
    ("connections", "gauge", "connections.open", 1.0, "Open connections of the stream socket."),
    ("connections_kept", "gauge", "connections.kept", 1.0, "Connections that a restart does not break."),
    ("connections_refused_total", "counter", "connections.refused", 1.0, "Connections that were turned away."),
    (
        "connections_unkept_total",
        "counter",
        "connections.unkept",
        1.0,
        "Connections that systemd's store had no room for, so that a restart breaks them.",
    ),
    ("storage_segments", "gauge", "storage.segments", 1.0, "Segment files."),
    ("storage_bytes", "gauge", "storage.bytes", 1.0, "Bytes that the segment files take."),
    ("resident_memory_bytes", "gauge", "rss_bytes", 1.0, "Resident memory of the daemon."),
];

/// The latencies: name, path in the JSON, its members, what it is.
const LATENCIES: &[(&str, &str, &[&str], &str)] = &[
    (
        "publish_to_persist_latency_seconds",
        "latency_us.publish_to_persist",
        &["p50", "p99", "p999", "max"],
        "Time from an event's publication in the buffer to its being in a file.",
    ),
    ("sync_latency_seconds", "latency_us.sync", &["p50", "p99", "max"], "Time that a sync of a file took."),
];

/// Rows with labels: name, type, list in the JSON, member, what it is.
const LISTED: &[(&str, &str, &str, &str, &str)] = &[
    ("writer_connections", "gauge", "writers", "connections", "Open connections of a writer thread."),
    ("writer_events_total", "counter", "writers", "events", "Events that a writer thread published."),
    ("writer_bytes_total", "counter", "writers", "bytes", "Payload bytes that a writer thread published."),
    ("producer_events_total", "counter", "producers", "events", "Events of one of the busiest producers."),
    ("producer_bytes_total", "counter", "producers", "bytes", "Payload bytes of one of the busiest producers."),
    ("producer_lost_total", "counter", "producers", "lost", "Lost events of one of the busiest producers."),
    ("ring_capacity_bytes", "gauge", "rings", "capacity_bytes", "Bytes of data of a ring."),
    ("ring_waiting_bytes", "gauge", "rings", "waiting_bytes", "Bytes that the last look into a ring has found."),
    ("ring_high_water_bytes", "gauge", "rings", "high_water_bytes", "The most bytes that were found in a ring."),
    ("ring_events_total", "counter", "rings", "events", "Events taken from a ring."),
    ("ring_lost_total", "counter", "rings", "lost", "Events that found no room in a ring."),
];

/// All of `data` as Prometheus reads it.
pub(super) fn render(data: &Value) -> String {
    let mut out = String::new();
    if let Some(version) = text(data, "version") {
        family(&mut out, "build_info", "gauge", "The daemon's version.");
        sample(&mut out, "build_info", &[("version", &version)], 1.0);
    }
    for &(name, kind, path, divisor, help) in SINGLES {
        if let Some(value) = number(data, path) {
            family(&mut out, name, kind, help);
            sample(&mut out, name, &[], value / divisor);
        }
    }
    lost(&mut out, data);
    sizes(&mut out, data);
    for &(name, path, members, help) in LATENCIES {
        latency(&mut out, data, name, path, members, help);
    }
    for &(name, kind, list, member, help) in LISTED {
        listed(&mut out, rows(data, list), name, kind, member, help);
    }
    state(&mut out, data);
    cpu(&mut out, data);
    out
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP dbufd_{name} {help}\n# TYPE dbufd_{name} {kind}");
}

fn sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    let _ = write!(out, "dbufd_{name}");
    for (index, (label, value)) in labels.iter().enumerate() {
        let _ = write!(out, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, escaped(value));
    }
    let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

/// Control characters are made visible first: tags are chosen by clients, and the output may be a terminal.
fn escaped(value: &str) -> String {
    let mut visible = Vec::new();
    put_visible(&mut visible, value.as_bytes(), b"\n");
    String::from_utf8_lossy(&visible).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn lost(out: &mut String, data: &Value) {
    let Some(causes) = data.pointer("/events/lost").and_then(Value::as_object) else { return };
    family(out, "events_lost_total", "counter", "Events that were lost, by cause.");
    for (cause, count) in causes {
        sample(out, "events_lost_total", &[("cause", cause)], count.as_f64().unwrap_or(0.0));
    }
}

fn sizes(out: &mut String, data: &Value) {
    let buckets = data.pointer("/event_size/buckets").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if buckets.is_empty() {
        return;
    }
    let name = "event_size_bytes";
    family(out, name, "histogram", "Sizes of the payloads of events.");
    let bucket = format!("{name}_bucket");
    // The JSON counts each bucket for itself; Prometheus wants all up to it.
    let mut total = 0.0;
    for row in buckets {
        total += number(row, "count").unwrap_or(0.0);
        // The last bucket ends at the largest event so far. A bound that moves is no bound for Prometheus.
        let fixed = |bound: &f64| (*bound as u64 + 1).is_power_of_two();
        if let Some(bound) = number(row, "le").filter(fixed) {
            sample(out, &bucket, &[("le", &bound.to_string())], total);
        }
    }
    sample(out, &bucket, &[("le", "+Inf")], total);
    sample(out, &format!("{name}_sum"), &[], (number(data, "event_size.mean").unwrap_or(0.0) * total).round());
    sample(out, &format!("{name}_count"), &[], total);
}

fn latency(out: &mut String, data: &Value, name: &str, path: &str, members: &[&str], help: &str) {
    let values: Vec<_> =
        members.iter().filter_map(|member| Some((*member, number(data, &format!("{path}.{member}"))?))).collect();
    if !values.is_empty() {
        family(out, name, "gauge", help);
        for (member, value) in values {
            sample(out, name, &[("statistic", member)], value / 1e6);
        }
    }
}

fn listed(out: &mut String, rows: &[Value], name: &str, kind: &str, member: &str, help: &str) {
    let labels: &[&str] = match name.split('_').next() {
        Some("writer") => &["index", "cpu"],
        Some("ring") => &["tag", "pid", "uid", "unit"],
        _ => &["tag", "pid", "uid", "unit", "transport"],
    };
    // The daemon tells producers apart by more than it shows; a series must stand here once, so they are added up.
    let mut sums: BTreeMap<Vec<String>, f64> = BTreeMap::new();
    for row in rows {
        let key = labels.iter().map(|label| text(row, label).unwrap_or_default()).collect();
        *sums.entry(key).or_default() += number(row, member).unwrap_or(0.0);
    }
    if !sums.is_empty() {
        family(out, name, kind, help);
        for (values, sum) in sums {
            let pairs: Vec<_> = labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            sample(out, name, &pairs, sum);
        }
    }
}

fn state(out: &mut String, data: &Value) {
    if let Some(state) = text(data, "storage.state") {
        family(out, "storage_healthy", "gauge", "Whether events can be stored, with the state's name.");
        sample(out, "storage_healthy", &[("state", &state)], f64::from(u8::from(state == "ok")));
    }
    if let Some(time) = text(data, "storage.oldest_time").and_then(|time| time.parse::<jiff::Timestamp>().ok()) {
        family(out, "storage_oldest_time_seconds", "gauge", "Time of the oldest event that is stored, since 1970.");
        sample(out, "storage_oldest_time_seconds", &[], time.as_millisecond() as f64 / 1e3);
    }
}

fn cpu(out: &mut String, data: &Value) {
    let Some(modes) = data.get("cpu_seconds").and_then(Value::as_object) else { return };
    family(out, "cpu_seconds_total", "counter", "Time that the daemon spent on a processor.");
    for (mode, seconds) in modes {
        sample(out, "cpu_seconds_total", &[("mode", mode)], seconds.as_f64().unwrap_or(0.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_family_is_declared_once_before_its_samples_and_no_series_stands_twice() {
        let text = render(&super::super::sample());
        let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
        let mut current = (String::new(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(families.insert(name.to_owned()) && help.ends_with('.'), "{line}");
                current.0 = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, current.0);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                current.1 = kind.to_owned();
            } else {
                let (labelled, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
                assert!(series.insert(labelled.to_owned()), "{line}");
                let name = labelled.split('{').next().unwrap();
                assert!(name == current.0 || current.1 == "histogram" && name.starts_with(&current.0), "{line}");
            }
        }
        assert!(families.len() > 25, "{families:?}");
    }

    #[test]
    fn buckets_are_cumulative_and_units_are_base_units() {
        let text = render(&super::super::sample());
        for line in [
            "dbufd_event_size_bytes_bucket{le=\"63\"} 10",
            "dbufd_event_size_bytes_bucket{le=\"127\"} 90",
            "dbufd_event_size_bytes_bucket{le=\"+Inf\"} 270",
            "dbufd_event_size_bytes_sum 27000",
            "dbufd_event_size_bytes_count 270",
            "dbufd_events_received_total 1234567",
            "dbufd_events_lost_total{cause=\"too_big\"} 5",
            "dbufd_buffer_full_wait_seconds_total 0.0015",
            "dbufd_sync_latency_seconds{statistic=\"p99\"} 0.0072",
            "dbufd_connections_kept 1",
            "dbufd_connections_refused_total 0",
            "dbufd_storage_oldest_time_seconds 1795410000",
            "dbufd_storage_healthy{state=\"ok\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn labels_are_escaped_and_producers_that_look_alike_are_added_up() {
        let text = render(&super::super::sample());
        let line = r#"dbufd_producer_lost_total{tag="q\"x\\\n",pid="43",uid="0",unit="",transport="dgram"} 7"#;
        assert!(text.lines().any(|found| found == line), "{text}");
    }

    #[test]
    fn what_the_daemon_does_not_say_is_left_out() {
        assert_eq!(render(&serde_json::json!({})), "");
        let text = render(&serde_json::json!({ "rss_bytes": 1, "event_size": null, "latency_us": null }));
        assert_eq!(text.lines().count(), 3);
    }
}
