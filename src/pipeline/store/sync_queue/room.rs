//! Bounds the files that the queue holds open, because each of them has a descriptor.
//!
//! Input: the reader thread, before it creates a segment. Output: permission, once few enough complete files wait.
//! Thread: the reader waits; the syncer wakes it. Failure: the disk fails, and no file gets done.
//!
//! The reader waits only while the syncer has a job that ends the wait: a complete file is finished or synced without
//! anything that the reader does. That is a disk that is slow, as in a write that takes long. If too many syncs have
//! failed, the syncer has no such job before a repair succeeds. Then the reader does not wait; its caller decides what
//! becomes of the batch, as for any other failure of the disk.

use std::io;

use super::{BROKEN_MAX, COMPLETE_MAX, Phase, Shared, SyncQueue, Tracked, UNSYNCED_MAX};
use crate::options::SyncPolicy;

impl SyncQueue {
    /// Complete files that wait for the syncer, and the file that it is at work on.
    fn complete(&self) -> usize {
        let is_complete = |file: &&Tracked| matches!(file.phase, Phase::Closed | Phase::Unsynced);
        self.files.iter().filter(is_complete).count() + usize::from(self.is_at_work)
    }

    fn broken(&self) -> usize {
        self.files.iter().filter(|file| file.phase == Phase::Broken).count()
    }

    /// Whether no more files may break: no file is synced before a repair has succeeded, which includes a sync. Nothing
    /// could become durable in the meantime, because the broken files come first.
    pub(super) fn is_blocked(&self) -> bool {
        self.broken() >= BROKEN_MAX
    }
}

impl Shared {
    /// Number of files that the syncer will close, and number of jobs that it has done.
    pub(in super::super) fn to_close(&self) -> (usize, u64) {
        let queue = self.lock();
        (queue.complete(), queue.jobs_done)
    }

    /// Whether there is room for another segment, while at most `complete_max` complete files wait. If not, asks the
    /// syncer for it.
    ///
    /// # Errors
    /// The disk fails, and there will be no room before it works again.
    pub(in super::super) fn has_room(&self, complete_max: usize) -> io::Result<bool> {
        let mut queue = self.lock();
        self.look_for_room(&mut queue, complete_max)
    }

    /// Waits for room for another segment.
    ///
    /// # Errors
    /// As those of [`Shared::has_room`].
    pub(in super::super) fn wait_for_room(&self, complete_max: usize) -> io::Result<()> {
        let mut queue = self.lock();
        loop {
            let has_room = self.look_for_room(&mut queue, complete_max);
            queue.reader_waits = matches!(has_room, Ok(false));
            if !queue.reader_waits {
                return has_room.map(drop);
            }
            self.work.notify_one();
            queue = self.room.wait(queue).expect("no thread panics while it holds the sync queue");
        }
    }

    fn look_for_room(&self, queue: &mut SyncQueue, complete_max: usize) -> io::Result<bool> {
        let has_room = queue.complete() <= complete_max;
        queue.unsynced_max = if has_room { UNSYNCED_MAX } else { UNSYNCED_MAX.min(complete_max) };
        // With `batch`, the reader's own sync would break the new segment too.
        if queue.is_blocked() && (!has_room || queue.storage.sync == SyncPolicy::Batch) {
            // The caller tries again, which is reason enough to try a repair again.
            self.sign(queue);
            let waiting = format!("{BROKEN_MAX} segments wait to be written again after failed syncs");
            return Err(io::Error::other(waiting));
        }
        Ok(has_room)
    }

    /// Notes a sign that the disk may work again.
    pub(super) fn sign(&self, queue: &mut SyncQueue) {
        if queue.backoff.sign() {
            self.work.notify_one();
        }
    }

    /// Whether the reader waits for room.
    #[cfg(test)]
    pub(in super::super) fn reader_waits(&self) -> bool {
        self.lock().reader_waits
    }
}

const _: () = assert!(UNSYNCED_MAX <= COMPLETE_MAX, "else the syncer would have no job that makes room");
