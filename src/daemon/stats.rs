//! Fills the schema of all figures from the running threads.
//!
//! Input: counters and measurements of the data plane, and the kernel's figures of this process. Output: a
//! [`Snapshot`]. Control thread. Failures: none; a figure that the kernel does not give is zero.

use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::config::keys::sync_name;
use crate::pipeline::accept::connection::stored::StoredConnections;
use crate::pipeline::accept::ring::registry::{RingStatus, Rings};
use crate::pipeline::account::{Deletions, Row, Totals};
use crate::pipeline::buffer::{BufferStats, DoubleBuffer};
use crate::pipeline::counters::{Counters, WriterCounters};
use crate::pipeline::drain::{DrainHandle, Measured};
use crate::pipeline::record::Cause;
use crate::pipeline::shares::{ShareStatus, Shares};
use crate::pipeline::store::{Condition, StatusSnapshot, UserFill};
use crate::stats::{
    Buffer, Bytes, Connections, Cpu, Deleted, EventSize, Events, Latency, Limits, Producer, Quantiles, Refusals,
    Resource, Ring, Snapshot, Storage, User, Writer,
};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, CacheLine};
use crate::sys::clock;

/// Producers that are shown, and groups of them; the rest share one row.
const PRODUCERS_SHOWN: usize = 100;
/// Users that are shown; the rest share one row.
const USERS_SHOWN: usize = 64;
/// The size buckets end below these powers of two.
const BUCKET_EXPONENTS: std::ops::RangeInclusive<u32> = 4..=20;

/// Where the figures come from.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) started: Instant,
    pub(super) counters: Arc<Counters>,
    pub(super) buffer: DoubleBuffer,
    pub(super) drain: DrainHandle,
    pub(super) stored: Option<Arc<StoredConnections>>,
    pub(super) shares: Arc<Shares>,
    pub(super) rings: Arc<Rings>,
}

impl Figures {
    /// The figures of this moment.
    pub(super) fn take(&self) -> Snapshot {
        // The totals first: they are read in an order that never shows more persisted than received.
        let totals = self.counters.account.totals();
        let uptime = self.started.elapsed().as_secs_f64();
        let measured = self.drain.measured();
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: rounded(uptime),
            counting_seconds: rounded(self.counting_seconds().max(uptime)),
            events: events(&totals, self.counters.durable_events.load(Relaxed)),
            bytes: Bytes {
                received: totals.received_bytes,
                persisted: totals.persisted_bytes,
                written: totals.written_bytes,
            },
            buffer: buffer(&self.buffer.stats()),
            event_size: EventSize::of(&measured.event_size, BUCKET_EXPONENTS),
            latency_us: latency(&measured),
            connections: self.connections(),
            limits: limits(&self.shares),
            writers: writers(&self.counters),
            producers: self.counters.account.busiest(PRODUCERS_SHOWN).into_iter().map(producer).collect(),
            producer_groups: self.counters.account.busiest_groups(PRODUCERS_SHOWN).into_iter().map(group).collect(),
            rings: self.rings.all().iter().map(ring).collect(),
            storage: self.storage(),
            cpu_seconds: cpu(),
            rss_bytes: rss_bytes(),
        }
    }

    /// By the wall clock: the account may be older than this process.
    fn counting_seconds(&self) -> f64 {
        let since = self.counters.account.since_ns().map(|ns| SystemTime::UNIX_EPOCH + Duration::from_nanos(ns));
        since.and_then(|since| since.elapsed().ok()).unwrap_or_default().as_secs_f64()
    }

    fn connections(&self) -> Connections {
        // Relaxed: see the head of the counters.
        let sum = |of: fn(&WriterCounters) -> &AtomicU64| {
            self.counters.writers.iter().map(|CacheLine(writer)| of(writer).load(Relaxed)).sum()
        };
        Connections {
            open: sum(|writer| &writer.connections),
            kept: self.stored.as_ref().map_or(0, |stored| stored.stored()),
            refused: sum(|writer| &writer.refused_connections),
            unkept: self.stored.as_ref().map_or(0, |stored| stored.unkept()),
            unkept_open: sum(|writer| &writer.unkept_connections),
        }
    }

    fn storage(&self) -> Storage {
        let (store, deletions) = (self.drain.store_status(), self.counters.account.deletions());
        Storage { users: users(store.users()), deleted: deleted(&deletions), ..storage(store.snapshot()) }
    }

    /// How the segments are doing.
    pub(super) fn storage_state(&self) -> Condition {
        self.drain.store_status().snapshot().state
    }
}

fn events(totals: &Totals, durable: u64) -> Events {
    Events {
        received: totals.received_events,
        persisted: totals.persisted_events,
        durable,
        lost_total: totals.lost_total(),
        lost: Cause::ALL.into_iter().map(|cause| cause.name().to_owned()).zip(totals.lost).collect(),
    }
}

fn buffer(stats: &BufferStats) -> Buffer {
    let &BufferStats { capacity_bytes, front_bytes, swaps, full_waits, full_wait_us, late_writers, .. } = stats;
    Buffer { capacity_bytes, front_bytes, swaps, full_waits, full_wait_us, late_writers }
}

fn latency(measured: &Measured) -> Latency {
    let publish_to_persist = Quantiles::of(&measured.persist_us);
    Latency { publish_to_persist, sync: Quantiles { p999: None, ..Quantiles::of(&measured.sync_us) } }
}

fn limits(shares: &Shares) -> Limits {
    let status = shares.status();
    let refusals = |status: &ShareStatus| {
        let resource = status.name;
        let row = move |uid: Option<u32>, count: u64| Refusals { resource: resource.to_owned(), uid, count };
        let others = (status.refused_others > 0).then(|| row(None, status.refused_others));
        status.refused.iter().map(|(uid, count)| row(Some(*uid), *count)).chain(others).collect::<Vec<_>>()
    };
    Limits {
        shares: shares.are_enabled(),
        resources: status.iter().filter_map(resource).collect(),
        refused: status.iter().flat_map(refusals).collect(),
    }
}

fn resource(status: &ShareStatus) -> Option<Resource> {
    let held = status.held?;
    Some(Resource {
        name: status.name.to_owned(),
        capacity: held.capacity,
        held: held.held,
        busiest_uid: held.most.map(|(uid, _)| uid),
        busiest_held: held.most.map_or(0, |(_, held)| held),
    })
}

fn writers(counters: &Counters) -> Vec<Writer> {
    let row = |(index, writer): (usize, &CacheLine<WriterCounters>)| {
        let (events, bytes) = counters.account.of_writer(index);
        // Relaxed: see the head of the counters.
        let (cpu, connections) = (writer.0.cpu_plus_one.load(Relaxed), writer.0.connections.load(Relaxed));
        Writer { index, cpu: cpu.checked_sub(1), connections, events, bytes }
    };
    counters.writers.iter().enumerate().map(row).collect()
}

fn ring(seen: &RingStatus) -> Ring {
    let RingStatus { identity, capacity_bytes, figures } = seen;
    // Relaxed: see the head of the counters.
    let figure = |figure: &AtomicU64| figure.load(Relaxed);
    Ring {
        tag: tag(&identity.tag, &identity.comm),
        pid: identity.pid,
        uid: identity.uid,
        unit: text(&identity.unit),
        capacity_bytes: *capacity_bytes,
        waiting_bytes: figure(&figures.waiting_bytes),
        high_water_bytes: figure(&figures.high_water_bytes),
        events: figure(&figures.events),
        lost: figure(&figures.lost),
        refused: figure(&figures.refused),
    }
}

fn producer(row: Row) -> Producer {
    let shown = Producer {
        events: row.sent,
        bytes: row.sent_bytes,
        stored: row.stored,
        in_memory: row.in_memory(),
        lost: row.lost_total(),
        deleted: row.deleted,
        deleted_bytes: row.deleted_bytes,
        ..Producer::default()
    };
    let Some(identity) = row.identity else { return Producer { tag: "(all others)".to_owned(), ..shown } };
    Producer {
        tag: tag(&identity.tag, &identity.comm),
        pid: Some(identity.pid),
        uid: Some(identity.uid),
        unit: text(&identity.unit),
        transport: identity.transport.name().to_owned(),
        ..shown
    }
}

fn group(row: Row) -> Producer {
    Producer { pid: None, ..producer(row) }
}

/// Without a tag, the name of the command says most.
fn tag(tag: &[u8], comm: &[u8]) -> String {
    text(if tag.is_empty() { comm } else { tag })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn storage(status: StatusSnapshot) -> Storage {
    Storage {
        directory: status.directory.to_string_lossy().into_owned(),
        segments: status.segments,
        bytes: status.bytes,
        active: status.active,
        oldest_time: status.oldest_time_ns.map(timestamp),
        sync_policy: sync_name(status.sync_policy),
        state: status.state.name().to_owned(),
        last_error: status.last_error,
        reach_seconds: status.oldest_time_ns.map(|ns| rounded(clock::now_ns().saturating_sub(ns) as f64 / 1e9)),
        users: Vec::new(),
        deleted: Deleted::default(),
    }
}

/// The users with the most bytes. All others share the row of those that are not known.
fn users(all: Vec<UserFill>) -> Vec<User> {
    let mut shown: Vec<User> = Vec::new();
    let mut others = User::default();
    for UserFill { uid, events, bytes } in all {
        if uid.is_some() && shown.len() < USERS_SHOWN {
            shown.push(User { uid, events, bytes });
        } else {
            (others.events, others.bytes) = (others.events + events, others.bytes + bytes);
        }
    }
    shown.extend(Some(others).filter(|others| *others != User::default()));
    shown
}

fn deleted(deletions: &Deletions) -> Deleted {
    let &Deletions { segments, file_bytes, events, bytes, unknown_events, older_events } = deletions;
    Deleted { segments, bytes: file_bytes, events, payload_bytes: bytes, unknown_events, older_events }
}

/// RFC 3339, in UTC.
fn timestamp(ns: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(ns));
    time.map(|time| time.to_string()).unwrap_or_default()
}

fn cpu() -> Cpu {
    let seconds = |time: nix::sys::time::TimeVal| rounded(time.num_microseconds() as f64 / 1e6);
    getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| Cpu { user: seconds(usage.user_time()), system: seconds(usage.system_time()) })
        .unwrap_or_default()
}

/// proc_pid_status(5): the unit is 1024 bytes, although the file says kB.
fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    field.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Three digits after the point: more would be noise.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_of_loss_is_shown_by_its_name() {
        let mut totals = Totals { received_events: 9, persisted_events: 2, ..Totals::default() };
        totals.lost = [1, 2, 3, 1, 0, 0];
        let shown = serde_json::to_value(events(&totals, 0)).unwrap();
        assert_eq!(
            shown["lost"],
            serde_json::json!({"full": 1, "too_big": 2, "malformed": 3, "disk": 1, "abandoned": 0, "limited": 0})
        );
        assert_eq!(shown["lost_total"], 7);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        assert!(rss_bytes() > 1 << 20);
        assert!(cpu().user >= 0.0);
    }
}
