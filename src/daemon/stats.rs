//! The figures, as `stats --json` shows them; their names are part of what people rely on.
//!
//! Enters: counters and measurements of the running threads. Leaves: one [`Stats`], which dbufctl gets as JSON and the
//! report prints. Control thread. What can fail: nothing; what the kernel does not say is zero.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

use crate::config::keys::sync_name;
use crate::pipeline::accept::connection::stored::StoredConnections;
use crate::pipeline::accept::ring::registry::{RingStatus, Rings};
use crate::pipeline::account::{Row, Totals};
use crate::pipeline::buffer::DoubleBuffer;
use crate::pipeline::counters::{Counters, WriterCounters};
use crate::pipeline::drain::{DrainHandle, Measured};
use crate::pipeline::histogram::Histogram;
use crate::pipeline::record::Cause;
use crate::pipeline::store::{Condition, StatusSnapshot};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, CacheLine};

/// Producers that are shown; the rest stand in one row.
const PRODUCERS_SHOWN: usize = 100;
/// The lowest and the highest bound of the size buckets, as powers of two. The last holds everything above.
const BUCKET_BITS: std::ops::RangeInclusive<u32> = 4..=20;

/// Where the figures come from.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) started: Instant,
    pub(super) counters: Arc<Counters>,
    pub(super) buffer: DoubleBuffer,
    pub(super) drain: DrainHandle,
    pub(super) stored: Option<Arc<StoredConnections>>,
    pub(super) rings: Arc<Rings>,
}

/// All figures of one moment.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Stats {
    pub(super) version: &'static str,
    pub(super) uptime_seconds: f64,
    /// How long events and bytes have been counted: also before this process, where the service manager keeps the account.
    pub(super) counting_seconds: f64,
    pub(super) events: Events,
    pub(super) bytes: Bytes,
    pub(super) buffer: Buffer,
    pub(super) event_size: EventSize,
    pub(super) latency_us: Latency,
    pub(super) connections: Connections,
    pub(super) writers: Vec<Writer>,
    pub(super) producers: Vec<Producer>,
    pub(super) rings: Vec<Ring>,
    pub(super) storage: Storage,
    pub(super) cpu_seconds: Cpu,
    pub(super) rss_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Events {
    pub(super) received: u64,
    pub(super) persisted: u64,
    pub(super) durable: u64,
    pub(super) lost_total: u64,
    /// By cause; every cause is there, also at zero.
    pub(super) lost: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Bytes {
    pub(super) received: u64,
    pub(super) persisted: u64,
    pub(super) written: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Buffer {
    pub(super) capacity_bytes: u64,
    pub(super) front_bytes: u64,
    pub(super) swaps: u64,
    pub(super) full_waits: u64,
    pub(super) full_wait_us: u64,
    pub(super) late_writers: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct EventSize {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) mean: f64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    pub(super) buckets: Vec<Bucket>,
}

/// Events that are larger than the bucket before and at most this large.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bucket {
    pub(super) le: u64,
    pub(super) count: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) publish_to_persist: PersistLatency,
    pub(super) sync: SyncLatency,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct PersistLatency {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) max: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct SyncLatency {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

/// Connections of the stream socket.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Connections {
    /// Open now.
    pub(super) open: u64,
    /// Of these, those that a restart does not break.
    pub(super) stored: u64,
    /// Turned away for want of descriptors, since the start.
    pub(super) refused: u64,
    /// Served, but not kept for want of room in systemd's store, since the start.
    pub(super) unkept: u64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Writer {
    pub(super) index: usize,
    pub(super) cpu: Option<u32>,
    pub(super) connections: u64,
    pub(super) events: u64,
    pub(super) bytes: u64,
}

/// A producer; for the row of all others, pid and uid are null.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Producer {
    pub(super) tag: String,
    pub(super) pid: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) unit: String,
    pub(super) transport: &'static str,
    /// Received from it: stored, in memory, and lost.
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) stored: u64,
    pub(super) in_memory: u64,
    pub(super) lost: u64,
}

/// A ring that is there now.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ring {
    pub(super) tag: String,
    pub(super) pid: u32,
    pub(super) uid: u32,
    pub(super) unit: String,
    pub(super) capacity_bytes: u64,
    /// Found waiting at the last look, and at most.
    pub(super) waiting_bytes: u64,
    pub(super) high_water_bytes: u64,
    /// Taken from it since it began, those that were refused included.
    pub(super) events: u64,
    /// Found no room in it.
    pub(super) lost: u64,
    pub(super) refused: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Storage {
    pub(super) directory: String,
    pub(super) segments: u64,
    pub(super) bytes: u64,
    pub(super) active: Option<String>,
    pub(super) oldest_time: Option<String>,
    pub(super) sync_policy: String,
    pub(super) state: String,
    pub(super) last_error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Cpu {
    pub(super) user: f64,
    pub(super) system: f64,
}

impl Figures {
    /// The figures of this moment.
    pub(super) fn take(&self) -> Stats {
        // The totals first: they are read in an order that never shows more persisted than received.
        let totals = self.counters.account.totals();
        let uptime = self.started.elapsed().as_secs_f64();
        let measured = self.drain.measured();
        let buffer = self.buffer.stats();
        Stats {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: rounded(uptime),
            counting_seconds: rounded(self.counting_seconds().max(uptime)),
            events: events(&totals, self.counters.durable_events.load(Relaxed)),
            bytes: Bytes {
                received: totals.received_bytes,
                persisted: totals.persisted_bytes,
                written: totals.written_bytes,
            },
            buffer: Buffer {
                capacity_bytes: buffer.capacity_bytes,
                front_bytes: buffer.front_bytes,
                swaps: buffer.swaps,
                full_waits: buffer.full_waits,
                full_wait_us: buffer.full_wait_us,
                late_writers: buffer.late_writers,
            },
            event_size: event_size(&measured.event_size),
            latency_us: latency(&measured),
            connections: self.connections(),
            writers: writers(&self.counters),
            producers: self.counters.account.busiest(PRODUCERS_SHOWN).into_iter().map(producer).collect(),
            rings: self.rings.all().iter().map(ring).collect(),
            storage: storage(self.drain.store_status().snapshot()),
            cpu_seconds: cpu(),
            rss_bytes: rss_bytes(),
        }
    }
}

impl Figures {
    /// By the wall clock, which alone was there before this process.
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
            stored: self.stored.as_ref().map_or(0, |stored| stored.stored()),
            refused: sum(|writer| &writer.refused_connections),
            unkept: self.stored.as_ref().map_or(0, |stored| stored.unkept()),
        }
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
        lost: Cause::ALL.into_iter().map(Cause::name).zip(totals.lost).collect(),
    }
}

fn event_size(sizes: &Histogram) -> EventSize {
    EventSize {
        min: sizes.min(),
        max: sizes.max(),
        // Not rounded: a sum that is made of it must not fall from one look to the next.
        mean: sizes.mean(),
        p50: sizes.quantile(0.5),
        p90: sizes.quantile(0.9),
        p99: sizes.quantile(0.99),
        buckets: buckets(sizes),
    }
}

fn buckets(sizes: &Histogram) -> Vec<Bucket> {
    let mut below = 0;
    let mut buckets: Vec<Bucket> = BUCKET_BITS
        .map(|bits| {
            // One less than a power of two: there the histogram's own buckets end, so the count is exact.
            let le = (1 << bits) - 1;
            let up_to = sizes.at_most(le);
            let count = up_to - below;
            below = up_to;
            Bucket { le, count }
        })
        .collect();
    if sizes.count() > below {
        buckets.push(Bucket { le: sizes.max(), count: sizes.count() - below });
    }
    buckets
}

fn latency(measured: &Measured) -> Latency {
    let (persist, sync) = (&measured.persist_us, &measured.sync_us);
    Latency {
        publish_to_persist: PersistLatency {
            p50: persist.quantile(0.5),
            p99: persist.quantile(0.99),
            p999: persist.quantile(0.999),
            max: persist.max(),
        },
        sync: SyncLatency { p50: sync.quantile(0.5), p99: sync.quantile(0.99), max: sync.max() },
    }
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
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // Relaxed: see the head of the counters.
    let figure = |figure: &AtomicU64| figure.load(Relaxed);
    Ring {
        tag: text(if identity.tag.is_empty() { &identity.comm } else { &identity.tag }),
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
    let (stored, in_memory, lost) = (row.stored, row.in_memory(), row.lost_total());
    let (events, bytes) = (row.sent, row.sent_bytes);
    let Some(identity) = row.identity else {
        let (tag, unit) = ("(all others)".to_owned(), String::new());
        return Producer { tag, pid: None, uid: None, unit, transport: "", events, bytes, stored, in_memory, lost };
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Producer {
        // Without a tag the command's name says most.
        tag: text(if identity.tag.is_empty() { &identity.comm } else { &identity.tag }),
        pid: Some(identity.pid),
        uid: Some(identity.uid),
        unit: text(&identity.unit),
        transport: identity.transport.name(),
        events,
        bytes,
        stored,
        in_memory,
        lost,
    }
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
    }
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

/// proc_pid_status(5): in units of 1024 bytes, whatever the file calls them.
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
    fn every_event_is_in_one_bucket() {
        let mut sizes = Histogram::default();
        for (size, n) in [(1, 5), (15, 1), (16, 2), (1 << 20, 3), (5 << 20, 4)] {
            sizes.record(size, n);
        }
        let buckets = buckets(&sizes);
        assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 15);
        assert_eq!((buckets[0].le, buckets[0].count, buckets[1].count), (15, 6, 2));
        let last = buckets.last().unwrap();
        assert_eq!((last.le, last.count), (5 << 20, 7));
        assert!(buckets.windows(2).all(|pair| pair[0].le < pair[1].le));
    }

    #[test]
    fn the_sum_of_all_sizes_can_be_had_from_the_mean() {
        let mut sizes = Histogram::default();
        sizes.record(7, 1);
        sizes.record(5000, 2_000_000);
        let shown = event_size(&sizes);
        let count: u64 = shown.buckets.iter().map(|bucket| bucket.count).sum();
        assert_eq!((shown.mean * count as f64).round() as u64, 7 + 5000 * 2_000_000);
    }

    #[test]
    fn every_cause_of_loss_is_shown_by_its_name() {
        let mut totals = Totals { received_events: 9, persisted_events: 2, ..Totals::default() };
        totals.lost = [1, 2, 3, 1, 0];
        let shown = serde_json::to_value(events(&totals, 0)).unwrap();
        assert_eq!(
            shown["lost"],
            serde_json::json!({"full": 1, "too_big": 2, "malformed": 3, "disk": 1, "abandoned": 0})
        );
        assert_eq!(shown["lost_total"], 7);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        assert!(rss_bytes() > 1 << 20);
        assert!(cpu().user >= 0.0);
    }
}
