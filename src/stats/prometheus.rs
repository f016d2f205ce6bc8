//! Renders a snapshot in Prometheus' text format, version 0.0.4.
//!
//! Input: a [`Snapshot`]. Output: text, fit for `promtool check metrics`. No thread, no state, no failures.
//!
//! Units are Prometheus' base units (seconds, bytes), counters end in `_total`, and every family has HELP and TYPE.
//!
//! Prometheus keeps each series that it has ever seen, so a label must not take ever new values. That is why a process
//! id is a label only on request. Without it, producers that differ only in their process are one series. The daemon
//! adds those up, so that a sum does not fall when a process ends. For rings there is no such sum: a ring's counters
//! end with the ring, so they are given only with the process id. The counters of producers with the transport `ring`
//! count the same events.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{EventSize, Limits, Producer, Quantiles, Resource, Ring, Snapshot, User, Writer};
use crate::escape::put_visible;
use crate::pipeline::store::Condition;

/// A family with one sample: name, value in the base unit, what it is.
type Single = (&'static str, fn(&Snapshot) -> f64, &'static str);
/// A family with a sample for each row of a list: name, value, what it is.
type Listed<T> = (&'static str, fn(&T) -> u64, &'static str);
type Label = (&'static str, String);

const SINGLES: &[Single] = &[
    ("uptime_seconds", |s| s.uptime_seconds, "Time since this process of the daemon started."),
    (
        "counting_seconds",
        |s| s.counting_seconds,
        "Time that the counters of events cover; under systemd it includes earlier processes.",
    ),
    ("events_received_total", |s| s.events.received as f64, "Events received: persisted, lost or in memory."),
    ("events_persisted_total", |s| s.events.persisted as f64, "Events written to a segment."),
    ("events_durable_total", |s| s.events.durable as f64, "Events that a sync has made durable."),
    ("received_bytes_total", |s| s.bytes.received as f64, "Payload bytes received."),
    ("persisted_bytes_total", |s| s.bytes.persisted as f64, "Payload bytes written to segments."),
    ("written_bytes_total", |s| s.bytes.written as f64, "Bytes written to segments, headers included."),
    ("buffer_capacity_bytes", |s| s.buffer.capacity_bytes as f64, "Bytes in each half of the double buffer."),
    ("buffer_front_bytes", |s| s.buffer.front_bytes as f64, "Bytes of the front half that are in use."),
    ("buffer_swaps_total", |s| s.buffer.swaps as f64, "Swaps of the two halves."),
    (
        "buffer_full_waits_total",
        |s| s.buffer.full_waits as f64,
        "Times that a writer waited because both halves were full.",
    ),
    (
        "buffer_full_wait_seconds_total",
        |s| s.buffer.full_wait_us as f64 / 1e6,
        "Time that writers waited because both halves were full.",
    ),
    (
        "buffer_late_writers_total",
        |s| s.buffer.late_writers as f64,
        "Times that the reader waited for a writer that was still copying.",
    ),
    ("connections", |s| s.connections.open as f64, "Open connections of the stream socket."),
    ("connections_kept", |s| s.connections.kept as f64, "Open connections that a restart does not break."),
    (
        "connections_refused_total",
        |s| s.connections.refused as f64,
        "Connections refused because their user has its share of them, or no epoll watch was left.",
    ),
    (
        "connections_unkept_total",
        |s| s.connections.unkept as f64,
        "Connections that were not put into systemd's descriptor store when they came; most are put there later.",
    ),
    (
        "connections_unkept_open",
        |s| s.connections.unkept_open as f64,
        "Open connections that a restart breaks: systemd's descriptor store, or their user's share of it, has no room.",
    ),
    ("storage_segments", |s| s.storage.segments as f64, "Segments, the active one included."),
    ("storage_bytes", |s| s.storage.bytes as f64, "Bytes of all segments."),
    ("storage_deleted_segments_total", |s| s.storage.deleted.segments as f64, "Segments that retention deleted."),
    (
        "storage_deleted_bytes_total",
        |s| s.storage.deleted.bytes as f64,
        "Bytes of the segments that retention deleted.",
    ),
    ("storage_deleted_events_total", |s| s.storage.deleted.events as f64, "Stored events that retention deleted."),
    (
        "storage_deleted_payload_bytes_total",
        |s| s.storage.deleted.payload_bytes as f64,
        "Payload bytes of the events that retention deleted.",
    ),
    (
        "storage_deleted_unknown_events_total",
        |s| s.storage.deleted.unknown_events as f64,
        "Events that retention deleted and whose producers are not known.",
    ),
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
    ("producer_deleted_total", |p| p.deleted, "Events of one of the busiest producers that retention deleted."),
];

const RINGS: &[Listed<Ring>] = &[
    ("rings", |_| 1, "Rings that exist now."),
    ("ring_capacity_bytes", |r| r.capacity_bytes, "Bytes of data that the rings of a producer hold."),
    ("ring_waiting_bytes", |r| r.waiting_bytes, "Bytes that the last look into the rings of a producer found."),
];

/// Not added up: the rings of a producer that were fullest, each by itself.
const FULLEST_RINGS: &[Listed<Ring>] =
    &[("ring_high_water_bytes", |r| r.high_water_bytes, "The most bytes that were found in a ring of a producer.")];

/// They end with their ring.
const RING_COUNTERS: &[Listed<Ring>] = &[
    ("ring_events_total", |r| r.events, "Events taken from a ring."),
    ("ring_lost_total", |r| r.lost, "Events that found no room in a ring."),
];

const USERS: &[Listed<User>] = &[
    ("storage_user_events", |u| u.events, "Events that a user has in the segments."),
    ("storage_user_bytes", |u| u.bytes, "Payload bytes that a user has in the segments."),
];

const RESOURCES: &[Listed<Resource>] = &[
    ("limit_capacity", |r| r.capacity, "How much there is of something that users share."),
    ("limit_held", |r| r.held, "How much of it all users hold together."),
];

/// All of `now`, as Prometheus reads it. `with_pid`: producers and rings have a label with their process id, so that
/// each process has series of its own.
pub(crate) fn render(now: &Snapshot, with_pid: bool) -> String {
    let mut out = String::new();
    family(&mut out, "build_info", "The daemon's version.");
    sample(&mut out, "build_info", &[("version", now.version.clone())], 1.0);
    for (name, value, help) in SINGLES {
        family(&mut out, name, help);
        sample(&mut out, name, &[], value(now));
    }
    family(&mut out, "events_lost_total", "Lost events, by cause.");
    for (cause, count) in &now.events.lost {
        sample(&mut out, "events_lost_total", &[("cause", cause.clone())], *count as f64);
    }
    sizes(&mut out, &now.event_size);
    latencies(&mut out, now);
    limits(&mut out, &now.limits);
    let sum = |a: u64, b: u64| a + b;
    let writer = |w: &Writer| vec![("index", w.index.to_string()), ("cpu", or_empty(w.cpu))];
    listed(&mut out, &now.writers, WRITERS, sum, writer);
    // A daemon of an earlier version does not add them up.
    let added_up = if now.producer_groups.is_empty() { &now.producers } else { &now.producer_groups };
    listed(&mut out, if with_pid { &now.producers } else { added_up }, PRODUCERS, sum, |p| {
        let mut labels = identity(&p.tag, with_pid.then_some(p.pid), p.uid, &p.unit);
        labels.push(("transport", p.transport.clone()));
        labels
    });
    let ring = |r: &Ring| identity(&r.tag, with_pid.then_some(Some(r.pid)), Some(r.uid), &r.unit);
    listed(&mut out, &now.rings, RINGS, sum, ring);
    listed(&mut out, &now.rings, FULLEST_RINGS, u64::max, ring);
    if with_pid {
        listed(&mut out, &now.rings, RING_COUNTERS, sum, ring);
    }
    storage_and_cpu(&mut out, now);
    out
}

fn identity(tag: &str, pid: Option<Option<u32>>, uid: Option<u32>, unit: &str) -> Vec<Label> {
    let mut labels = vec![("tag", tag.to_owned())];
    labels.extend(pid.map(|pid| ("pid", or_empty(pid))));
    labels.extend([("uid", or_empty(uid)), ("unit", unit.to_owned())]);
    labels
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

fn limits(out: &mut String, limits: &Limits) {
    let resource = |name: &str| ("resource", name.to_owned());
    for (name, value, help) in RESOURCES {
        family(out, name, help);
        for shared in &limits.resources {
            sample(out, name, &[resource(&shared.name)], value(shared) as f64);
        }
    }
    family(out, "limit_refused_total", "Times that a user was refused more than its share.");
    for refused in &limits.refused {
        let labels = [resource(&refused.resource), ("uid", or_empty(refused.uid))];
        sample(out, "limit_refused_total", &labels, refused.count as f64);
    }
}

fn sizes(out: &mut String, sizes: &EventSize) {
    if sizes.buckets.is_empty() {
        return;
    }
    let name = "event_size_bytes";
    declare(out, name, "histogram", "Sizes of event payloads.");
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
        "Time from the publication of an event in the buffer until it is persisted.",
    );
    latency("sync_latency_seconds", &now.latency_us.sync, "Duration of a sync.");
}

/// The daemon tells producers apart by more than the labels. A series must appear once, so values with equal labels
/// become one.
fn listed<T>(
    out: &mut String,
    rows: &[T],
    families: &[Listed<T>],
    join: fn(u64, u64) -> u64,
    labels: impl Fn(&T) -> Vec<Label>,
) {
    for (name, value, help) in families.iter().filter(|_| !rows.is_empty()) {
        let mut series: BTreeMap<Vec<Label>, u64> = BTreeMap::new();
        for row in rows {
            let joined = series.entry(labels(row)).or_default();
            *joined = join(*joined, value(row));
        }
        family(out, name, help);
        for (labels, value) in series {
            sample(out, name, &labels, value as f64);
        }
    }
}

fn storage_and_cpu(out: &mut String, now: &Snapshot) {
    let state = now.storage.state.as_str();
    let is = |yes: bool| f64::from(u8::from(yes));
    family(out, "storage_healthy", "1 if events can be stored, 0 if not; dbufd_storage_state says why.");
    sample(out, "storage_healthy", &[], is(state == Condition::Ok.name()));
    family(out, "storage_state", "1 for the state that the storage is in, 0 for the others.");
    let known = Condition::ALL.map(Condition::name);
    // A daemon of another version may have more states.
    let unknown = Some(state).filter(|state| !state.is_empty() && !known.contains(state));
    for name in known.into_iter().chain(unknown) {
        sample(out, "storage_state", &[("state", name.to_owned())], is(state == name));
    }
    let oldest = now.storage.oldest_time.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    if let Some(time) = oldest {
        family(out, "storage_oldest_time_seconds", "Time of the oldest stored event, in seconds since 1970.");
        sample(out, "storage_oldest_time_seconds", &[], time.as_millisecond() as f64 / 1e3);
    }
    if let Some(seconds) = now.storage.reach_seconds {
        family(out, "storage_reach_seconds", "How far back the segments reach: the age of the oldest stored event.");
        sample(out, "storage_reach_seconds", &[], seconds);
    }
    listed(out, &now.storage.users, USERS, |a, b| a + b, |user| vec![("uid", or_empty(user.uid))]);
    family(out, "cpu_seconds_total", "CPU time of the daemon.");
    for (mode, seconds) in [("user", now.cpu_seconds.user), ("system", now.cpu_seconds.system)] {
        sample(out, "cpu_seconds_total", &[("mode", mode.to_owned())], seconds);
    }
}
