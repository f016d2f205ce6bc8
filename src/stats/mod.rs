//! Names all figures of a daemon once: this schema is the `data` of `stats --json`, field by field, in this order.
//!
//! Input: the daemon fills a [`Snapshot`]; dbufctl reads one from the daemon's answer. Output: JSON through serde, the
//! [`table`] for people, which is the final report too, and [`prometheus`] text. No thread, no state. Failures: none
//! here; JSON whose types do not fit is serde's error.
//!
//! Users rely on names, types and order. A daemon of another version may lack a field, which is then zero or empty, or
//! have more fields, which are ignored.

pub(crate) mod format;
pub(crate) mod prometheus;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::pipeline::histogram::Histogram;

/// All figures of one moment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Snapshot {
    pub(crate) version: String,
    pub(crate) uptime_seconds: f64,
    /// The time that events and bytes cover. Where the service manager keeps the account, it began before this process.
    pub(crate) counting_seconds: f64,
    pub(crate) events: Events,
    pub(crate) bytes: Bytes,
    pub(crate) buffer: Buffer,
    pub(crate) event_size: EventSize,
    pub(crate) latency_us: Latency,
    pub(crate) connections: Connections,
    pub(crate) limits: Limits,
    pub(crate) writers: Vec<Writer>,
    pub(crate) producers: Vec<Producer>,
    /// Producers that differ only in their process, added up. Each has null as its pid.
    pub(crate) producer_groups: Vec<Producer>,
    pub(crate) rings: Vec<Ring>,
    pub(crate) storage: Storage,
    pub(crate) cpu_seconds: Cpu,
    pub(crate) rss_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Events {
    pub(crate) received: u64,
    pub(crate) persisted: u64,
    pub(crate) durable: u64,
    pub(crate) lost_total: u64,
    /// By cause; the daemon gives every cause, also at zero.
    pub(crate) lost: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Bytes {
    pub(crate) received: u64,
    pub(crate) persisted: u64,
    pub(crate) written: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Buffer {
    pub(crate) capacity_bytes: u64,
    pub(crate) front_bytes: u64,
    pub(crate) swaps: u64,
    pub(crate) full_waits: u64,
    pub(crate) full_wait_us: u64,
    pub(crate) late_writers: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct EventSize {
    pub(crate) min: u64,
    pub(crate) max: u64,
    /// Not rounded: the sum that Prometheus gets is the mean times the count, and must never fall.
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) buckets: Vec<Bucket>,
}

/// Events that are larger than the bucket before and at most this large.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Bucket {
    pub(crate) le: u64,
    pub(crate) count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Latency {
    pub(crate) publish_to_persist: Quantiles,
    pub(crate) sync: Quantiles,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Quantiles {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    /// Absent for syncs: there are too few of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p999: Option<u64>,
    pub(crate) max: u64,
}

/// Connections of the stream socket.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Connections {
    pub(crate) open: u64,
    /// Those of the open ones that a restart does not break.
    pub(crate) kept: u64,
    /// Turned away since the start: their user had its share of them, or no epoll watch was left.
    pub(crate) refused: u64,
    /// Served since the start, and not stored when they came: their user or systemd's store had no room, or systemd was
    /// to be spared.
    pub(crate) unkept: u64,
    /// Those of the open ones that should be stored and are not: a restart breaks them.
    pub(crate) unkept_open: u64,
}

/// What users share, and how often one of them was refused more than its share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Limits {
    pub(crate) shares: bool,
    pub(crate) resources: Vec<Resource>,
    pub(crate) refused: Vec<Refusals>,
}

/// Something finite.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) capacity: u64,
    pub(crate) held: u64,
    /// The user who holds the most of it.
    pub(crate) busiest_uid: Option<u32>,
    pub(crate) busiest_held: u64,
}

/// Refusals since the start. Null as the uid: users beyond the first 64.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Refusals {
    pub(crate) resource: String,
    pub(crate) uid: Option<u32>,
    pub(crate) count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Writer {
    pub(crate) index: usize,
    pub(crate) cpu: Option<u32>,
    pub(crate) connections: u64,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// A producer; in the row of all others, pid and uid are null.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Producer {
    pub(crate) tag: String,
    pub(crate) pid: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) unit: String,
    pub(crate) transport: String,
    /// Received from it: stored, in memory, and lost.
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) stored: u64,
    pub(crate) in_memory: u64,
    pub(crate) lost: u64,
    /// Stored events that retention has deleted.
    pub(crate) deleted: u64,
    /// Payload bytes of these events.
    pub(crate) deleted_bytes: u64,
}

/// A ring that exists now.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Ring {
    pub(crate) tag: String,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) unit: String,
    pub(crate) capacity_bytes: u64,
    /// Found waiting at the last look.
    pub(crate) waiting_bytes: u64,
    /// The most that was found waiting.
    pub(crate) high_water_bytes: u64,
    /// Taken from it since it began, including refused ones.
    pub(crate) events: u64,
    /// Found no room in it.
    pub(crate) lost: u64,
    pub(crate) refused: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Storage {
    pub(crate) directory: String,
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
    pub(crate) active: Option<String>,
    /// RFC 3339, in UTC.
    pub(crate) oldest_time: Option<String>,
    pub(crate) sync_policy: String,
    pub(crate) state: String,
    pub(crate) last_error: Option<String>,
    /// How far back the segments reach: the age of the oldest event.
    pub(crate) reach_seconds: Option<f64>,
    /// What each user has in the segments, most bytes first.
    pub(crate) users: Vec<User>,
    pub(crate) deleted: Deleted,
}

/// What a user has in the segments. Null as the uid: users beyond the first 64, and events whose user is not known.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct User {
    pub(crate) uid: Option<u32>,
    pub(crate) events: u64,
    /// Of payload.
    pub(crate) bytes: u64,
}

/// What retention has deleted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Deleted {
    pub(crate) segments: u64,
    /// Of these segments.
    pub(crate) bytes: u64,
    pub(crate) events: u64,
    pub(crate) payload_bytes: u64,
    /// Those of the events whose producers are not known, because their segment does not name them.
    pub(crate) unknown_events: u64,
    /// Those of the events that are older than the counters. No producer has them, but groups of producers have.
    pub(crate) older_events: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Cpu {
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Events {
    /// Neither persisted nor lost.
    pub(crate) fn in_memory(&self) -> u64 {
        self.received.saturating_sub(self.persisted.saturating_add(self.lost_total))
    }
}

impl EventSize {
    /// The sizes in buckets that end below the powers of two with these exponents. What is larger than all of them has
    /// one more bucket.
    pub(crate) fn of(sizes: &Histogram, exponents: RangeInclusive<u32>) -> Self {
        let mut below = 0;
        let mut bucket = |le: u64, up_to: u64| Bucket { le, count: up_to - std::mem::replace(&mut below, up_to) };
        // One less than a power of two is where the histogram's own buckets end, so the counts are exact.
        let bounds = exponents.map(|exponent| (1 << exponent) - 1);
        let mut buckets: Vec<Bucket> = bounds.map(|le| bucket(le, sizes.at_most(le))).collect();
        buckets.extend(Some(bucket(sizes.max(), sizes.count())).filter(|last| last.count > 0));
        Self {
            min: sizes.min(),
            max: sizes.max(),
            mean: sizes.mean(),
            p50: sizes.quantile(0.5),
            p90: sizes.quantile(0.9),
            p99: sizes.quantile(0.99),
            buckets,
        }
    }
}

impl Quantiles {
    pub(crate) fn of(values: &Histogram) -> Self {
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| values.quantile(quantile));
        Self { p50, p99, p999: Some(p999), max: values.max() }
    }

    /// Each with its name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [("p50", Some(self.p50)), ("p99", Some(self.p99)), ("p999", self.p999), ("max", Some(self.max))];
        all.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}
