//! Holds the status of the store, which `stats` shows.
//!
//! Input: notices from the reader thread and the syncer, a few for each batch at most. Output: [`StatusSnapshot`].
//! Thread: any, without waiting for the disk. Nothing here can fail.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::fill::{Fill, UserFill};
use super::types::WriteError;
use crate::options::SyncPolicy;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard, lock};

/// A call to the disk that takes longer than this is a stall.
pub const STALL_AFTER: Duration = Duration::from_secs(5);

/// Whether the disk works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Condition {
    /// It works.
    #[default]
    Ok,
    /// It is full.
    Full,
    /// It returns errors.
    Failing,
    /// A call has not returned for [`STALL_AFTER`].
    Stalled,
}

impl Condition {
    /// All conditions.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Full, Self::Failing, Self::Stalled];

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

/// The thread that calls the disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    Reader,
    Syncer,
}

/// The status at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSnapshot {
    /// The directory of the segments.
    pub directory: PathBuf,
    /// Number of segments, including the active one.
    pub segments: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The name of the active segment, if there is one.
    pub active: Option<String>,
    /// The time of the oldest event, in nanoseconds of the wall clock.
    pub oldest_time_ns: Option<u64>,
    /// When persisted events become durable.
    pub sync_policy: SyncPolicy,
    /// Whether the disk works.
    pub state: Condition,
    /// The last error. It may be over by now.
    pub last_error: Option<String>,
}

/// The status of the store, as it changes.
#[derive(Debug)]
pub struct Status {
    inner: Mutex<Inner>,
    room_bytes: Arc<AtomicU64>,
    pub(super) fill: Fill,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    sealed: u64,
    sealed_bytes: u64,
    active: Option<(String, u64)>,
    oldest_time_ns: Option<u64>,
    sync_policy: SyncPolicy,
    /// The result of the reader's last append, and whether the syncer has a file that it could not sync.
    append: Condition,
    syncer: Condition,
    last_error: Option<String>,
    busy_since: [Option<Instant>; 2],
}

impl Status {
    pub(super) fn new(directory: PathBuf, sync_policy: SyncPolicy) -> Self {
        let inner = Mutex::new(Inner {
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
        });
        Self { inner, room_bytes: Arc::new(AtomicU64::new(u64::MAX)), fill: Fill::default() }
    }

    /// Bytes that may be in the segments before retention deletes one of them; the maximum while that is unknown.
    #[must_use]
    pub fn room_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.room_bytes)
    }

    pub(super) fn set_room_bytes(&self, bytes: u64) {
        // Relaxed: it publishes no other data.
        self.room_bytes.store(bytes, Relaxed);
    }

    /// The status now.
    #[must_use]
    pub fn snapshot(&self) -> StatusSnapshot {
        self.snapshot_at(Instant::now())
    }

    /// The status at the time `now`.
    pub(crate) fn snapshot_at(&self, now: Instant) -> StatusSnapshot {
        let inner = self.lock();
        let since = |since: &Instant| now.saturating_duration_since(*since);
        let stalled = inner.busy_since.iter().flatten().any(|busy| since(busy) > STALL_AFTER);
        let state = match (stalled, inner.append, inner.syncer) {
            (true, _, _) => Condition::Stalled,
            (false, Condition::Ok, syncer) => syncer,
            (false, append, _) => append,
        };
        StatusSnapshot {
            directory: inner.directory.clone(),
            segments: inner.sealed + u64::from(inner.active.is_some()),
            bytes: inner.sealed_bytes + inner.active.as_ref().map_or(0, |active| active.1),
            active: inner.active.as_ref().map(|active| active.0.clone()),
            oldest_time_ns: inner.oldest_time_ns,
            sync_policy: inner.sync_policy,
            state,
            last_error: inner.last_error.clone(),
        }
    }

    /// What each user has in the segments, most bytes first.
    #[must_use]
    pub fn users(&self) -> Vec<UserFill> {
        self.fill.users()
    }

    pub(super) fn set_policy(&self, policy: SyncPolicy) {
        self.lock().sync_policy = policy;
    }

    /// A call to the disk begins.
    pub(super) fn begin(&self, caller: Caller) {
        self.lock().busy_since[caller as usize] = Some(Instant::now());
    }

    /// The call has returned.
    pub(super) fn end(&self, caller: Caller) {
        self.lock().busy_since[caller as usize] = None;
    }

    /// Notes the result of an append.
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

    /// Notes an error of the syncer, or that it has none any more.
    pub(super) fn syncer(&self, error: Option<String>) {
        let mut inner = self.lock();
        inner.syncer = if error.is_some() { Condition::Failing } else { Condition::Ok };
        if error.is_some() {
            inner.last_error = error;
        }
    }

    /// Notes an error that does not change the condition.
    pub(super) fn note(&self, error: String) {
        self.lock().last_error = Some(error);
    }

    /// Sets the active segment and its size in bytes.
    pub(super) fn active(&self, name: String, bytes: u64) {
        self.lock().active = Some((name, bytes));
    }

    /// Sets the size of the active segment in bytes, and the time of its oldest event.
    pub(super) fn grew(&self, bytes: u64, time_min_ns: u64) {
        let mut inner = self.lock();
        if let Some(active) = &mut inner.active {
            active.1 = bytes;
        }
        inner.oldest_time_ns.get_or_insert(time_min_ns);
    }

    /// The active segment was closed.
    pub(super) fn closed(&self) {
        let mut inner = self.lock();
        if let Some((_, bytes)) = inner.active.take() {
            inner.sealed += 1;
            inner.sealed_bytes += bytes;
        }
    }

    /// The active segment was removed.
    pub(super) fn removed(&self) {
        self.lock().active = None;
    }

    /// Sets what a listing of the directory found in addition to the active segment.
    pub(super) fn listed(&self, sealed: u64, sealed_bytes: u64, oldest_time_ns: Option<u64>) {
        let mut inner = self.lock();
        (inner.sealed, inner.sealed_bytes) = (sealed, sealed_bytes);
        inner.oldest_time_ns = oldest_time_ns;
    }

    /// The name of the active segment.
    pub(super) fn active_name(&self) -> Option<String> {
        self.lock().active.as_ref().map(|active| active.0.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_answer_is_stalled_and_not_merely_quiet() {
        let status = Status::new(PathBuf::new(), SyncPolicy::Never);
        status.begin(Caller::Syncer);
        assert_eq!(status.snapshot().state, Condition::Ok);
        status.lock().busy_since[Caller::Syncer as usize] = Instant::now().checked_sub(STALL_AFTER * 2);
        assert_eq!(status.snapshot().state, Condition::Stalled);
        status.end(Caller::Syncer);
        assert_eq!(status.snapshot().state, Condition::Ok);
    }

    #[test]
    fn the_state_tells_what_is_wrong_and_heals() {
        let status = Status::new(PathBuf::new(), SyncPolicy::Never);
        status.appended::<()>(&Err(WriteError::Full(std::io::ErrorKind::StorageFull.into())));
        assert_eq!(status.snapshot().state, Condition::Full);
        status.appended(&Ok(()));
        assert_eq!(status.snapshot().state, Condition::Ok);
        assert!(status.snapshot().last_error.is_some());
        status.syncer(Some("no".into()));
        assert_eq!(status.snapshot().state, Condition::Failing);
        status.syncer(None);
        assert_eq!(status.snapshot().state, Condition::Ok);
    }
}
