//! Queues the files that wait for a footer, a sync, a rename or a repair.
//!
//! Input: from the reader thread, each file that was created, written to or closed, and requests; from the syncer, the
//! results of its jobs. Output: the syncer's next [`Job`], and what is durable. Thread: the reader and the syncer,
//! under a lock that each holds for a few instructions, never during a call to the disk. Nothing can fail.
//!
//! Invariants, cited by number:
//! 1. A sync that failed is final for its file: it is broken, gets no more batches and is never synced again.
//! 2. A file that is being written to is not repaired: the reader thread announces the begin and the end of each write,
//!    and the begin is refused for a broken file. Neither thread waits for the other's disk.
//! 3. What counts as durable is a prefix: the first batch that is not durable yet, in whatever file, ends it.
//! 4. While all is durable and every deletion is in the log, the syncer sleeps without a deadline.
//! 5. The queue holds a bounded number of files, see [`room`].

mod backoff;
mod broken;
mod group_commit;
mod jobs;
mod room;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use dbuf_segment::name::Name;

use super::deleter::Deleter;
use super::disk::DiskFile;
use super::retain::Limits;
use super::status::Status;
use super::stream::Stream;
use super::types::Durable;
use crate::options::{Storage, SyncPolicy};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, lock};
use backoff::Backoff;
use group_commit::GroupCommit;

/// Write-back is started each time a file has grown by this many bytes. So a sync finds little left to do, and the
/// kernel never stalls the reader thread because of too much dirty memory.
const WRITE_BACK_BYTES: u64 = 4 << 20;
/// Sealed files at most that are kept open because no sync has covered them.
const UNSYNCED_MAX: usize = 16;
/// Complete files at most that wait for their footer or for a sync. The reader thread creates no segment while more do.
pub(super) const COMPLETE_MAX: usize = 32;
/// Files that wait for a repair. While there are as many, no sync is tried, so that no more files break.
pub(super) const BROKEN_MAX: usize = 8;

/// A position in a file, between two batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FilePosition {
    /// The offset of the next batch.
    pub(super) offset: u64,
    /// The sequence of the next event.
    pub(super) sequence: u64,
    /// Events before it in this file.
    pub(super) events: u64,
    /// Every generation before this one is before it, in any file.
    pub(super) generation: u64,
}

/// A batch that no sync has covered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dirty {
    pub(super) generation: u64,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The active segment.
    Growing,
    /// Complete. It waits for its sync and its rename.
    Closed,
    /// Renamed, and not synced.
    Unsynced,
    /// Broken (invariant 1). It waits for its repair.
    Broken,
}

/// A file that the queue still tracks.
#[derive(Clone)]
pub(super) struct Tracked {
    pub(super) id: u64,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) name: Name,
    phase: Phase,
    /// A write is under way (invariant 2).
    writing: bool,
    /// Whether its name is durable in the directory.
    pub(super) entry_durable: bool,
    pub(super) end: FilePosition,
    pub(super) durable: FilePosition,
    /// The first batch in it that is not durable.
    pub(super) dirty: Option<Dirty>,
    /// The first batch in it that came after the current sync began.
    dirty_after: Option<Dirty>,
    /// The footer of a complete file, which the syncer writes.
    pub(super) footer: Arc<[u8]>,
    written_back: u64,
    looked_at: u64,
}

impl Tracked {
    /// The generation of the first batch in it that is not durable, or of the next batch.
    fn first_not_durable(&self) -> u64 {
        self.dirty.map_or(self.end.generation, |dirty| dirty.generation)
    }

    /// The size of a complete file in bytes, including its footer.
    pub(super) fn ended_bytes(&self) -> u64 {
        self.end.offset + self.footer.len() as u64
    }
}

/// How the thread must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// When nothing is left to do.
    Done,
    /// At once, as if the process had been killed.
    Now,
}

struct SyncQueue {
    /// Oldest first.
    files: VecDeque<Tracked>,
    next_id: u64,
    storage: Storage,
    step_bytes: u64,
    persisted_before: u64,
    told_before: u64,
    requested: Option<u64>,
    group_commit: GroupCommit,
    retain_due: bool,
    /// Of the repairs.
    backoff: Backoff,
    /// [`UNSYNCED_MAX`], or fewer while the reader waits for room.
    unsynced_max: usize,
    reader_waits: bool,
    /// The syncer has files open that may not be among the files here.
    is_at_work: bool,
    jobs_done: u64,
    /// The first generation that may be in a broken file whose repair has not been reported yet.
    broken_from: Option<u64>,
    stop: Stop,
}

/// See [`StoreOptions`](super::StoreOptions).
type OnDurable = Box<dyn Fn(Durable) + Send + Sync>;
type OnBroken = Box<dyn Fn(Option<u64>) + Send + Sync>;

/// The state that both threads share.
pub(super) struct Shared {
    pub(super) stream: Stream,
    pub(super) status: Arc<Status>,
    pub(super) deleter: Deleter,
    on_durable: OnDurable,
    on_broken: OnBroken,
    queue: Mutex<SyncQueue>,
    /// The syncer waits here for a job, and the reader for room.
    work: Condvar,
    room: Condvar,
}

/// What the syncer does next.
pub(super) enum Job {
    /// Write again what was not durable in a broken file.
    Repair(Tracked),
    /// Write the footer of a closed file, sync it, and give it the name of a sealed one.
    Finish(Tracked),
    /// Sync a file.
    Sync(Tracked),
    /// Start writing back a range of a file.
    WriteBack(Arc<dyn DiskFile>, u64, u64),
    /// Delete what the settings no longer allow.
    Retain(Storage),
    /// Count what each user has in a file.
    Count(Name),
    /// Answer a request: everything is durable.
    Answer,
    /// Sleep, at most for this long.
    Wait(Option<Duration>),
    /// End the thread.
    End,
}

/// What the reader thread must know of a file that it is about to write to.
pub(super) struct Permit {
    /// Whether the file's name is durable.
    pub(super) entry_durable: bool,
}

impl Shared {
    pub(super) fn new(
        stream: Stream,
        status: Arc<Status>,
        deleter: Deleter,
        (storage, limits): (Storage, Limits),
        on_durable: OnDurable,
        on_broken: OnBroken,
    ) -> Self {
        let queue = SyncQueue {
            files: VecDeque::new(),
            next_id: 0,
            storage,
            step_bytes: limits.step_bytes,
            persisted_before: 0,
            told_before: 0,
            requested: None,
            group_commit: GroupCommit::default(),
            retain_due: true,
            backoff: Backoff::default(),
            unsynced_max: UNSYNCED_MAX,
            reader_waits: false,
            is_at_work: false,
            jobs_done: 0,
            broken_from: None,
            stop: Stop::No,
        };
        let (queue, work, room) = (Mutex::new(queue), Condvar::new(), Condvar::new());
        Self { stream, status, deleter, on_durable, on_broken, queue, work, room }
    }

    fn lock(&self) -> MutexGuard<'_, SyncQueue> {
        lock(&self.queue)
    }

    /// Adds a file that was created. Returns its number.
    pub(super) fn made(&self, file: Arc<dyn DiskFile>, name: Name, offset: u64) -> u64 {
        let mut queue = self.lock();
        let id = queue.next_id;
        queue.next_id += 1;
        let generation = queue.persisted_before;
        let mark = FilePosition { offset, sequence: name.first_sequence, events: 0, generation };
        queue.files.push_back(Tracked {
            id,
            file,
            name,
            phase: Phase::Growing,
            writing: false,
            entry_durable: false,
            end: mark,
            durable: mark,
            dirty: None,
            dirty_after: None,
            footer: Arc::default(),
            written_back: offset,
            looked_at: offset,
        });
        id
    }

    /// Begins a write of the reader thread to a file. None if it must not write (invariants 1 and 2).
    pub(super) fn begin_write(&self, id: u64) -> Option<Permit> {
        let mut queue = self.lock();
        let tracked = queue.file(id)?;
        if tracked.phase != Phase::Growing {
            return None;
        }
        tracked.writing = true;
        Some(Permit { entry_durable: tracked.entry_durable })
    }

    /// Ends a write that has added nothing.
    pub(super) fn unwritten(&self, id: u64) {
        if let Some(tracked) = self.lock().file(id) {
            tracked.writing = false;
        }
        self.work.notify_one();
    }

    /// Ends a write that has added a batch, up to `end`. `durable` says whether a sync has covered it. Returns the
    /// number of events that have become durable by that.
    pub(super) fn wrote(&self, id: u64, end: FilePosition, durable: bool) -> u64 {
        let mut queue = self.lock();
        queue.persisted_before = end.generation;
        self.sign(&mut queue);
        let step_bytes = queue.step_bytes;
        let policy = queue.storage.sync;
        let Some(tracked) = queue.file(id) else { return 0 };
        tracked.writing = false;
        tracked.end = end;
        let events = if durable { end.events - tracked.durable.events } else { 0 };
        let first = !durable && tracked.dirty.is_none();
        if durable {
            (tracked.durable, tracked.dirty, tracked.dirty_after) = (end, None, None);
            tracked.entry_durable = true;
        } else {
            let dirty = Dirty { generation: end.generation - 1, since: Instant::now() };
            tracked.dirty.get_or_insert(dirty);
            tracked.dirty_after.get_or_insert(dirty);
        }
        let broken = tracked.phase == Phase::Broken;
        let write_back = end.offset - tracked.written_back >= WRITE_BACK_BYTES;
        let look = end.offset - tracked.looked_at >= step_bytes;
        if look {
            tracked.looked_at = end.offset;
            queue.retain_due = true;
        }
        // The syncer sleeps until there is a reason: the first batch after a pause, or enough batches.
        let interval = matches!(policy, SyncPolicy::Interval(_));
        if broken || look || (interval && (first || write_back)) {
            self.work.notify_one();
        }
        events
    }

    /// Notes that the batch of this generation is in no file and is done. Returns the generation below which everything
    /// is durable, if nothing is dirty. A sync that is under way sees the generation when it is done, because both hold
    /// the lock.
    pub(super) fn passed(&self, generation: u64) -> Option<u64> {
        let mut queue = self.lock();
        queue.persisted_before = queue.persisted_before.max(generation + 1);
        let is_clean = queue.files.iter().all(|tracked| tracked.dirty.is_none());
        if is_clean {
            queue.told_before = queue.told_before.max(queue.persisted_before);
        }
        is_clean.then_some(queue.persisted_before)
    }

    /// Closes a file, which gets no more batches. `footer` is its footer. A broken file is repaired as it is.
    pub(super) fn closed(&self, id: u64, footer: Vec<u8>) {
        let mut queue = self.lock();
        if let Some(tracked) = queue.file(id) {
            tracked.writing = false;
            if tracked.phase == Phase::Growing {
                (tracked.phase, tracked.footer) = (Phase::Closed, Arc::from(footer));
            }
        }
        self.work.notify_one();
    }

    /// Notes that the reader has deleted a segment. Wakes the syncer, which logs it when it is time.
    pub(super) fn deleted(&self) {
        // Under the lock, so that the syncer, which looks and then sleeps, does not miss it between the two.
        let _queue = self.lock();
        self.work.notify_one();
    }

    /// Forgets a file that is gone.
    pub(super) fn forget(&self, id: u64) {
        self.lock().files.retain(|tracked| tracked.id != id);
    }

    /// Requests a sync of everything that was appended, for this many askers.
    pub(super) fn request(&self, before_generation: u64, askers: usize) {
        let mut queue = self.lock();
        self.sign(&mut queue);
        let prior = queue.requested;
        queue.requested = prior.max(Some(before_generation));
        queue.group_commit.ask(askers);
        // A syncer that already waits for more askers wakes at its deadline, or when all have asked.
        if prior.is_none() || queue.group_commit.put_off(Instant::now()).is_none() {
            self.work.notify_one();
        }
    }

    /// Applies other settings.
    pub(super) fn reconfigure(&self, storage: Storage, limits: Limits) {
        let mut queue = self.lock();
        (queue.storage, queue.step_bytes, queue.retain_due) = (storage, limits.step_bytes, true);
        self.work.notify_one();
    }

    /// Ends the syncer: when everything is done, or at once.
    pub(super) fn stop(&self, once_done: bool) {
        let mut queue = self.lock();
        queue.stop = if once_done { Stop::Done } else { Stop::Now };
        queue.backoff.skip();
        self.work.notify_one();
    }

    /// The syncer's next job. Sleeps once if there is none.
    pub(super) fn next_job(&self) -> Job {
        let mut queue = self.lock();
        let log_at = self.deleter.log_at();
        let now = Instant::now();
        let job = match queue.next_job(now) {
            Job::Wait(timeout) => match self.status.fill.next_uncounted() {
                Some(name) => Job::Count(name),
                None => {
                    let log_in = log_at.map(|at| at.saturating_duration_since(now));
                    Job::Wait(timeout.into_iter().chain(log_in).min())
                }
            },
            job => job,
        };
        queue.is_at_work = matches!(job, Job::Repair(_) | Job::Finish(_) | Job::Sync(_) | Job::Retain(_));
        // The queue stays locked until the thread sleeps, so a reason that comes after this look wakes it.
        let woken = match job {
            Job::Wait(Some(timeout)) => self.work.wait_timeout(queue, timeout).map(drop).is_ok(),
            Job::Wait(None) => self.work.wait(queue).map(drop).is_ok(),
            _ => true,
        };
        assert!(woken, "no thread panics while it holds the sync queue");
        job
    }

    /// Notes that the syncer has done its job and has closed what it had opened.
    pub(super) fn job_done(&self) {
        let mut queue = self.lock();
        queue.is_at_work = false;
        queue.jobs_done += 1;
        if queue.reader_waits {
            self.room.notify_one();
        }
    }

    /// The next job without waiting, including jobs that were put off. For tests.
    #[cfg(test)]
    pub(super) fn job_now(&self) -> Job {
        let mut queue = self.lock();
        queue.backoff.skip();
        queue.group_commit = GroupCommit::default();
        queue.next_job(Instant::now())
    }

    /// The job that is due then. For tests.
    #[cfg(test)]
    pub(super) fn job_at(&self, now: Instant) -> Job {
        self.lock().next_job(now)
    }

    /// Notes that a sync has succeeded. Returns the number of events that have become durable by it.
    pub(super) fn synced(&self, done: &Tracked, took: Duration) -> u64 {
        let mut queue = self.lock();
        queue.group_commit.done(Instant::now(), took);
        let events = queue.synced(done);
        queue.files.retain(|file| file.id != done.id || file.phase != Phase::Unsynced);
        self.sign(&mut queue);
        events
    }

    /// Notes that a closed file has its final name, or keeps its old one because it could not be renamed.
    pub(super) fn finished(&self, id: u64, name: Option<Name>) {
        let mut queue = self.lock();
        queue.retain_due = true;
        let Some(file) = queue.file(id) else { return };
        if file.dirty.is_some() {
            (file.phase, file.footer) = (Phase::Unsynced, Arc::default());
            file.name = name.unwrap_or(file.name);
        } else {
            queue.files.retain(|file| file.id != id);
        }
    }

    /// The settings for syncs.
    pub(super) fn policy(&self) -> SyncPolicy {
        self.lock().storage.sync
    }

    /// Whether batches are left that no sync could cover although the settings require one.
    pub(super) fn is_owing(&self) -> bool {
        let queue = self.lock();
        queue.files.iter().any(|tracked| tracked.phase != Phase::Unsynced && tracked.dirty.is_some())
    }

    /// Reports what is durable now, if that has changed.
    pub(super) fn report_durable(&self, events: u64, took: Duration, lost: Lost) {
        let mut queue = self.lock();
        let first_dirty = queue.files.iter().filter_map(|tracked| Some(tracked.dirty?.generation)).min();
        let all = queue.persisted_before.max(queue.requested.unwrap_or(0));
        let before_generation = first_dirty.unwrap_or(all);
        if queue.requested.is_some_and(|requested| requested <= before_generation) {
            queue.requested = None;
        }
        let news = before_generation > queue.told_before || events > 0 || lost.events > 0;
        queue.told_before = queue.told_before.max(before_generation);
        drop(queue);
        if news {
            let (lost_events, lost_generations) = (lost.events, lost.generations);
            (self.on_durable)(Durable { before_generation, events, took, lost_events, lost_generations });
        }
    }
}

/// What a repair could not save.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) events: u64,
    pub(super) generations: Vec<RangeInclusive<u64>>,
}

impl SyncQueue {
    fn file(&mut self, id: u64) -> Option<&mut Tracked> {
        self.files.iter_mut().find(|tracked| tracked.id == id)
    }
}
