//! How the store is: what `stats` shows of it.
//!
//! Enters: word from the reader thread and the syncer, a few times for each batch at most. Leaves: [`StatusSnapshot`], to
//! anyone who asks, without waiting for the disk. Nothing here can fail.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::WriteError;
use crate::config::settings::SyncPolicy;
use crate::sync::{Mutex, MutexGuard};

/// A call to the disk that takes longer than this is a stall.
pub const STALL_AFTER: Duration = Duration::from_secs(5);

/// Durations are counted in buckets that grow by an eighth of a power of two: at most 9 % off.
const BUCKETS: usize = 40 * BUCKETS_PER_OCTAVE;
const BUCKETS_PER_OCTAVE: usize = 8;

/// Whether the disk takes what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Condition {
    /// It does.
    #[default]
    Ok,
    /// It has no room.
    Full,
    /// It answers with errors.
    Failing,
    /// It has not answered for a while.
    Stalled,
}

impl Condition {
    /// The name in `stats`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Full => "full",
            Self::Failing => "failing",
            Self::Stalled => "stalled",
        }
    }
}

/// Who calls the disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    Reader,
    Syncer,
}

/// How long syncs took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncLatency {
    /// How many there were.
    pub count: u64,
    /// Half of them took at most this.
    pub p50_us: u64,
    /// 99 of 100 took at most this.
    pub p99_us: u64,
    /// None took longer.
    pub max_us: u64,
}

/// The store at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSnapshot {
    /// Where the segments are.
    pub directory: PathBuf,
    /// How many there are, the active one included.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The name of the active one; empty if there is none.
    pub active: String,
    /// The time of the oldest event, nanoseconds of the wall clock.
    pub oldest_time_ns: Option<u64>,
    /// When what is persisted becomes durable.
    pub sync_policy: SyncPolicy,
    /// Whether the disk takes what it is given.
    pub condition: Condition,
    /// The last thing that went wrong, and is not necessarily wrong any more.
    pub last_error: Option<String>,
    /// How long syncs took.
    pub sync: SyncLatency,
}

/// How the store is, as it changes.
#[derive(Debug)]
pub struct Status(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    sealed: u64,
    sealed_bytes: u64,
    active: Option<(String, u64)>,
    oldest_time_ns: Option<u64>,
    sync_policy: SyncPolicy,
    /// What the reader's last append came to, and whether the syncer has a file that it could not sync.
    append: Condition,
    syncer: Condition,
    last_error: Option<String>,
    busy_since: [Option<Instant>; 2],
    durations: Box<[u64; BUCKETS]>,
    duration_max_us: u64,
}

impl Status {
    pub(super) fn new(directory: PathBuf, sync_policy: SyncPolicy) -> Self {
        Self(Mutex::new(Inner {
            directory,
            sealed: 0,
            sealed_bytes: 0,
            active: None,
            oldest_time_ns: None,
            sync_policy,
            append: Condition::Ok,
            syncer: Condition::Ok,
            last_error: None,
            busy_since: [None; 2],
            durations: Box::new([0; BUCKETS]),
            duration_max_us: 0,
        }))
    }

    /// The store, now.
    #[must_use]
    pub fn snapshot(&self) -> StatusSnapshot {
        let inner = self.lock();
        let stalled = inner.busy_since.iter().flatten().any(|since| since.elapsed() > STALL_AFTER);
        let condition = match (stalled, inner.append, inner.syncer) {
            (true, _, _) => Condition::Stalled,
            (false, Condition::Ok, syncer) => syncer,
            (false, append, _) => append,
        };
        StatusSnapshot {
            directory: inner.directory.clone(),
            segments: inner.sealed + u64::from(inner.active.is_some()),
            bytes: inner.sealed_bytes + inner.active.as_ref().map_or(0, |active| active.1),
            active: inner.active.as_ref().map_or_else(String::new, |active| active.0.clone()),
            oldest_time_ns: inner.oldest_time_ns,
            sync_policy: inner.sync_policy,
            condition,
            last_error: inner.last_error.clone(),
            sync: inner.latency(),
        }
    }

    pub(super) fn set_policy(&self, policy: SyncPolicy) {
        self.lock().sync_policy = policy;
    }

    /// A call to the disk begins.
    pub(super) fn begin(&self, caller: Caller) {
        self.lock().busy_since[caller as usize] = Some(Instant::now());
    }

    /// It came back.
    pub(super) fn end(&self, caller: Caller) {
        self.lock().busy_since[caller as usize] = None;
    }

    /// What an append came to.
    pub(super) fn appended<T>(&self, result: &Result<T, WriteError>) {
        let mut inner = self.lock();
        inner.append = match result {
            Ok(_) => Condition::Ok,
            Err(WriteError::Full(_)) => Condition::Full,
            Err(WriteError::Failed(_)) => Condition::Failing,
        };
        if let Err(e) = result {
            inner.last_error = Some(e.to_string());
        }
    }

    /// What the syncer found: an error, or that all is well again.
    pub(super) fn syncer(&self, error: Option<String>) {
        let mut inner = self.lock();
        inner.syncer = if error.is_some() { Condition::Failing } else { Condition::Ok };
        if error.is_some() {
            inner.last_error = error;
        }
    }

    /// Something went wrong that makes no state of its own.
    pub(super) fn note(&self, error: String) {
        self.lock().last_error = Some(error);
    }

    /// The active segment and its bytes.
    pub(super) fn active(&self, name: String, bytes: u64) {
        self.lock().active = Some((name, bytes));
    }

    /// How far the active segment has grown, and the time of its oldest event.
    pub(super) fn grew(&self, bytes: u64, time_min_ns: u64) {
        let mut inner = self.lock();
        if let Some(active) = &mut inner.active {
            active.1 = bytes;
        }
        inner.oldest_time_ns.get_or_insert(time_min_ns);
    }

    /// The active segment is no longer.
    pub(super) fn closed(&self) {
        let mut inner = self.lock();
        if let Some((_, bytes)) = inner.active.take() {
            inner.sealed += 1;
            inner.sealed_bytes += bytes;
        }
    }

    /// What a listing of the directory found beside the active segment.
    pub(super) fn listed(&self, sealed: u64, sealed_bytes: u64, oldest_time_ns: Option<u64>) {
        let mut inner = self.lock();
        (inner.sealed, inner.sealed_bytes) = (sealed, sealed_bytes);
        inner.oldest_time_ns = oldest_time_ns;
    }

    /// The name of the active segment.
    pub(super) fn active_name(&self) -> Option<String> {
        self.lock().active.as_ref().map(|active| active.0.clone())
    }

    /// A sync has succeeded.
    pub(super) fn synced(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut inner = self.lock();
        inner.durations[bucket(us)] += 1;
        inner.duration_max_us = inner.duration_max_us.max(us);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no thread panics while it holds the status")
    }
}

impl Inner {
    fn latency(&self) -> SyncLatency {
        let count = self.durations.iter().sum();
        let percentile = |hundredths: u64| {
            let mut left = (count * hundredths).div_ceil(100);
            let at = self.durations.iter().position(|n| {
                left = left.saturating_sub(*n);
                left == 0
            });
            if count == 0 { 0 } else { at.map_or(self.duration_max_us, upper_us).min(self.duration_max_us) }
        };
        SyncLatency { count, p50_us: percentile(50), p99_us: percentile(99), max_us: self.duration_max_us }
    }
}

/// The bucket of a duration.
fn bucket(us: u64) -> usize {
    if us < BUCKETS_PER_OCTAVE as u64 {
        return us as usize;
    }
    let octave = us.ilog2() as usize - 3;
    let within = (us >> octave) as usize - BUCKETS_PER_OCTAVE;
    ((octave + 1) * BUCKETS_PER_OCTAVE + within).min(BUCKETS - 1)
}

/// The longest duration that falls into a bucket.
fn upper_us(bucket: usize) -> u64 {
    if bucket < BUCKETS_PER_OCTAVE {
        return bucket as u64;
    }
    let octave = bucket / BUCKETS_PER_OCTAVE - 1;
    (((BUCKETS_PER_OCTAVE + bucket % BUCKETS_PER_OCTAVE + 1) as u64) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_into_a_bucket_that_holds_it() {
        for us in (0..100_000).chain([1 << 30, (1 << 40) + 12345]) {
            let upper = upper_us(bucket(us));
            assert!(upper >= us && upper <= us + us / 8, "{us} in a bucket up to {upper}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_durations() {
        let status = Status::new(PathBuf::new(), SyncPolicy::Never);
        assert_eq!(status.snapshot().sync, SyncLatency::default());
        for us in 1..=100 {
            status.synced(Duration::from_micros(us));
        }
        let sync = status.snapshot().sync;
        assert_eq!((sync.count, sync.max_us), (100, 100));
        assert!((50..=56).contains(&sync.p50_us) && (99..=100).contains(&sync.p99_us), "{sync:?}");
    }

    #[test]
    fn the_state_tells_what_is_wrong_and_heals() {
        let status = Status::new(PathBuf::new(), SyncPolicy::Never);
        status.appended::<()>(&Err(WriteError::Full(std::io::ErrorKind::StorageFull.into())));
        assert_eq!(status.snapshot().condition, Condition::Full);
        status.appended(&Ok(()));
        assert_eq!(status.snapshot().condition, Condition::Ok);
        assert!(status.snapshot().last_error.is_some());
        status.syncer(Some("no".into()));
        assert_eq!(status.snapshot().condition, Condition::Failing);
        status.syncer(None);
        assert_eq!(status.snapshot().condition, Condition::Ok);
    }
}
