//! How the store is: what `stats` shows of it.
//!
//! Enters: word from the reader thread and the syncer, a few times for each batch at most. Leaves:
//! [`StatusSnapshot`], to anyone who asks, without waiting for the disk. Nothing here can fail.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::types::WriteError;
use crate::options::SyncPolicy;
use crate::sync::{Mutex, MutexGuard, lock};

/// A call to the disk that takes longer than this is a stall.
pub const STALL_AFTER: Duration = Duration::from_secs(5);

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
    /// All of them.
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

/// Who calls the disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Caller {
    Reader,
    Syncer,
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
    /// The name of the active one, if there is one.
    pub active: Option<String>,
    /// The time of the oldest event, nanoseconds of the wall clock.
    pub oldest_time_ns: Option<u64>,
    /// When what is persisted becomes durable.
    pub sync_policy: SyncPolicy,
    /// Whether the disk takes what it is given.
    pub state: Condition,
    /// The last thing that went wrong, and is not necessarily wrong any more.
    pub last_error: Option<String>,
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
        }))
    }

    /// The store, now.
    #[must_use]
    pub fn snapshot(&self) -> StatusSnapshot {
        self.snapshot_at(Instant::now())
    }

    /// The store, as it is if it is `now`.
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

    /// The active segment was removed.
    pub(super) fn removed(&self) {
        self.lock().active = None;
    }

    /// What a listing of the directory found in addition to the active segment.
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
        lock(&self.0)
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
