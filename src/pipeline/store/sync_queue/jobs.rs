//! Decides which job is the syncer's next.
//!
//! Input: the queue, locked. Output: a [`Job`]. Thread: the syncer. Nothing here waits, and nothing can fail.

use std::time::Instant;

use super::{Job, Phase, Stop, SyncQueue, Tracked, WRITE_BACK_BYTES};
use crate::options::SyncPolicy;
use crate::sync::Arc;

impl SyncQueue {
    pub(super) fn next_job(&mut self, now: Instant) -> Job {
        if self.stop == Stop::Now {
            return Job::End;
        }
        let may_retry = self.backoff.is_due(now);
        let broken = |tracked: &&Tracked| tracked.phase == Phase::Broken && !tracked.writing;
        if may_retry && let Some(tracked) = self.files.iter().find(broken) {
            return Job::Repair(tracked.clone());
        }
        if !self.is_blocked() {
            if let Some(tracked) = self.files.iter_mut().find(|tracked| tracked.phase == Phase::Closed) {
                tracked.dirty_after = None;
                return Job::Finish(tracked.clone());
            }
            if let Some(job) = self.sync_job(now) {
                return job;
            }
        }
        if std::mem::take(&mut self.retain_due) {
            return Job::Retain(self.storage.clone());
        }
        if self.stop == Stop::Done {
            return Job::End;
        }
        self.wait(now)
    }

    /// The sync that is due, or the write-back that comes before it.
    fn sync_job(&mut self, now: Instant) -> Option<Job> {
        let unsynced = self.files.iter().filter(|tracked| tracked.phase == Phase::Unsynced).count();
        let requested = self.requested.is_some();
        let asked = requested && self.put_off(now).is_none();
        let policy = self.storage.sync;
        let can = |tracked: &&mut Tracked| match tracked.phase {
            Phase::Growing => {
                tracked.dirty.is_some() && (asked || sync_at(tracked, policy).is_some_and(|at| at <= now))
            }
            // One is left from before the settings changed if they require syncs now.
            Phase::Unsynced => requested || policy != SyncPolicy::Never || unsynced > self.unsynced_max,
            Phase::Closed | Phase::Broken => false,
        };
        if let Some(tracked) = self.files.iter_mut().find(can) {
            tracked.dirty_after = None;
            let job = Job::Sync(tracked.clone());
            self.group_commit.begin(now);
            return Some(job);
        }
        if self.requested.is_some() && self.files.iter().all(|tracked| tracked.dirty.is_none()) {
            return Some(Job::Answer);
        }
        let growing = self.files.back_mut().filter(|tracked| tracked.phase == Phase::Growing)?;
        let bytes = growing.end.offset - growing.written_back;
        if bytes < WRITE_BACK_BYTES || !matches!(self.storage.sync, SyncPolicy::Interval(_)) {
            return None;
        }
        let from = std::mem::replace(&mut growing.written_back, growing.end.offset);
        Some(Job::WriteBack(Arc::clone(&growing.file), from, bytes))
    }

    fn wait(&self, now: Instant) -> Job {
        let is_blocked = self.is_blocked();
        let until = |tracked: &Tracked| match tracked.phase {
            Phase::Growing if !is_blocked => sync_at(tracked, self.storage.sync),
            Phase::Broken if !tracked.writing => self.backoff.at(),
            _ => None,
        };
        let put_off = self.put_off(now).filter(|_| !is_blocked);
        let until = self.files.iter().filter_map(until).chain(put_off).min();
        Job::Wait(until.map(|until| until.saturating_duration_since(now)))
    }

    /// Until when a requested sync waits for more askers.
    fn put_off(&self, now: Instant) -> Option<Instant> {
        self.requested.and_then(|_| self.group_commit.put_off(now)).filter(|_| self.stop == Stop::No)
    }

    /// Notes a sync that succeeded. Returns the number of events that have become durable.
    pub(super) fn synced(&mut self, done: &Tracked) -> u64 {
        let Some(tracked) = self.file(done.id) else { return 0 };
        // The reader thread may have synced further in the meantime.
        let events = done.end.events.saturating_sub(tracked.durable.events);
        if done.end.offset > tracked.durable.offset {
            tracked.durable = done.end;
        }
        tracked.dirty = tracked.dirty_after.take();
        tracked.entry_durable = true;
        events
    }
}

/// When the settings require a file to be synced.
fn sync_at(tracked: &Tracked, policy: SyncPolicy) -> Option<Instant> {
    let since = tracked.dirty?.since;
    match policy {
        SyncPolicy::Interval(interval) => since.checked_add(interval),
        // It is left from before the settings changed: now.
        SyncPolicy::Batch => Some(since),
        SyncPolicy::Never => None,
    }
}
