//! Notes which files a failed sync has broken, and what became of their repairs.
//!
//! Input: from either thread, a sync that failed; from the syncer, the results of repairs. Output: the first generation
//! that may be in a broken file, to [`StoreOptions::on_broken`](super::super::StoreOptions). Thread: the reader and the
//! syncer. Nothing can fail.

use std::time::{Duration, Instant};

use dbuf_segment::name::Name;

use super::backoff::Backoff;
use super::{Phase, Shared, SyncQueue, Tracked};

impl Shared {
    /// Notes that a sync of the reader thread has failed. What the file held before stays; the rest does not count.
    pub(in super::super) fn broke(&self, id: u64) {
        let mut queue = self.lock();
        self.report_broken(&mut queue, id);
        if let Some(tracked) = queue.file(id) {
            (tracked.writing, tracked.phase) = (false, Phase::Broken);
        }
        self.work.notify_one();
    }

    /// Notes that a sync has failed (invariant 1).
    pub(in super::super) fn sync_failed(&self, id: u64) {
        let mut queue = self.lock();
        self.report_broken(&mut queue, id);
        if let Some(file) = queue.file(id) {
            file.phase = Phase::Broken;
        }
    }

    /// Reports a file whose sync has failed: what is in it, or was just written to it, may be in no file after a loss
    /// of power, although all later syncs succeed.
    fn report_broken(&self, queue: &mut SyncQueue, id: u64) {
        let Some(first) = queue.file(id).map(|tracked| tracked.first_not_durable()) else { return };
        queue.broken_from = Some(queue.broken_from.map_or(first, |from| from.min(first)));
        (self.on_broken)(queue.broken_from);
    }

    /// Notes that the results of all repairs have been reported.
    pub(in super::super) fn repairs_reported(&self) {
        let mut queue = self.lock();
        let broken = queue.files.iter().filter(|tracked| tracked.phase == Phase::Broken);
        queue.broken_from = broken.map(Tracked::first_not_durable).min();
        (self.on_broken)(queue.broken_from);
    }

    /// Notes that a file is repaired. Returns whether no other file is broken.
    pub(in super::super) fn repaired(&self, id: u64) -> bool {
        let mut queue = self.lock();
        queue.files.retain(|file| file.id != id);
        (queue.backoff, queue.retain_due) = (Backoff::default(), true);
        !queue.files.iter().any(|file| file.phase == Phase::Broken)
    }

    /// Notes that a file, which now has this name, could not be repaired. It is tried again later.
    pub(in super::super) fn repair_failed(&self, id: u64, name: Name, took: Duration) {
        let mut queue = self.lock();
        if let Some(file) = queue.file(id) {
            file.name = name;
        }
        queue.backoff.failed(Instant::now(), took);
    }
}
