//! Runs the syncer: the thread that waits for the disk so that the reader thread need not.
//!
//! Input: jobs from the [queue](super::sync_queue). Output: syncs, renames, deletions, repairs, and what is durable.
//! Thread: `dbufd-syncer`. Failure: the disk, at each step. Then the status says so and the step is repeated, except a
//! sync.
//!
//! The life of a file: growing, then closed by the reader thread, then finished with its footer, synced, renamed, and
//! forgotten. With `storage.sync = "never"` it is renamed without a sync and remembered, because a sync may be
//! requested.

use std::io;
use std::time::{Duration, Instant};

use dbuf_segment::name::{Name, State};

use super::appender::end_file;
use super::disk;
use super::status::Caller;
use super::stream::Stream;
use super::sync_queue::{Job, Lost, Shared, Tracked};
use super::{deleter, repair, retain};
use crate::options::{Storage, SyncPolicy};

/// The syncer's loop.
pub(super) fn run(shared: &Shared) {
    while perform(shared, shared.next_job()) {}
}

/// Does a job. Returns whether there may be more.
pub(super) fn perform(shared: &Shared, job: Job) -> bool {
    match job {
        Job::Repair(tracked) => repair(shared, &tracked),
        Job::Finish(tracked) => finish(shared, &tracked),
        Job::Sync(tracked) => {
            sync(shared, &tracked);
        }
        Job::WriteBack(file, from, bytes) => {
            // Only a hint: errors show up when the file is synced.
            let _ = guarded(shared, || file.start_write_back(from, bytes));
        }
        Job::Retain(storage) => {
            let done = guarded(shared, || retain(shared, &storage));
            if let Err(e) = done {
                shared.status.note(format!("cannot delete old segments: {e}; tried again later"));
            }
        }
        Job::Count(name) => {
            let Stream { disk, directory, .. } = &shared.stream;
            let footer = guarded(shared, || deleter::read_footer(&**disk, directory, name));
            shared.status.fill.count(name, footer.as_ref());
        }
        Job::Answer => shared.report_durable(0, Duration::ZERO, Lost::default()),
        Job::Wait(_) => shared.deleter.log(Instant::now()),
        Job::End => {
            shared.deleter.log_rest();
            return false;
        }
    }
    shared.job_done();
    true
}

fn retain(shared: &Shared, storage: &Storage) -> io::Result<()> {
    retain::retain(&shared.stream, storage, &shared.status, &shared.deleter)
}

/// Makes a call to the disk whose duration the status watches.
fn guarded<T>(shared: &Shared, call: impl FnOnce() -> T) -> T {
    shared.status.begin(Caller::Syncer);
    let result = call();
    shared.status.end(Caller::Syncer);
    result
}

/// Syncs a file. Returns whether that succeeded.
fn sync(shared: &Shared, tracked: &Tracked) -> bool {
    let start = Instant::now();
    match guarded(shared, || shared.stream.make_durable(&*tracked.file, tracked.entry_durable)) {
        Ok(()) => {
            let took = start.elapsed();
            let events = shared.synced(tracked, took);
            shared.report_durable(events, took, Lost::default());
            true
        }
        Err(e) => {
            shared.status.syncer(Some(format!("{} cannot be synced: {e}", tracked.name)));
            shared.sync_failed(tracked.id);
            false
        }
    }
}

/// Writes the footer of a complete file, syncs it, and gives it the name of a sealed one.
fn finish(shared: &Shared, tracked: &Tracked) {
    let never = shared.policy() == SyncPolicy::Never;
    let is_ended = guarded(shared, || end_file(&*tracked.file, &tracked.footer, tracked.end.offset));
    if !never && tracked.dirty.is_some() && !sync(shared, tracked) {
        return;
    }
    let Stream { disk, directory, .. } = &shared.stream;
    // A sealed segment has its footer: without it, the segment could not be told from a truncated one.
    let to = Name { state: if is_ended { State::Sealed } else { State::Torn }, ..tracked.name };
    let renamed = guarded(shared, || {
        let path = disk::rename_to_free(&**disk, directory, &tracked.name.in_directory(directory), to);
        if !never {
            // The content is safe under either name; recovery would rename it again.
            let _ = shared.stream.sync_directory();
        }
        path
    });
    if renamed.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) && tracked.dirty.is_some() {
        shared.status.syncer(Some(format!("{} was deleted by another program", tracked.name)));
        shared.sync_failed(tracked.id);
        return;
    }
    if let Err(e) = &renamed {
        shared.status.note(format!("{} cannot be renamed: {e}; the next start does it", tracked.name));
    }
    if is_ended {
        // Comes last, because it can take 0.2 s on a file system that discards freed blocks. What could not be freed
        // stays allocated until the file is removed.
        let _ = guarded(shared, || tracked.file.truncate(tracked.ended_bytes()));
    }
    shared.finished(tracked.id, renamed.ok().as_deref().and_then(Name::of_path));
}

/// Saves what was not durable in a broken file.
fn repair(shared: &Shared, tracked: &Tracked) {
    let start = Instant::now();
    match guarded(shared, || repair::repair(&shared.stream, tracked)) {
        Ok(saved) => {
            if shared.repaired(tracked.id) {
                shared.status.syncer(None);
            }
            let (events, lost) = saved.map_or((0, Lost::default()), |saved| (saved.events, lost(tracked, &saved)));
            shared.report_durable(events, start.elapsed(), lost);
            shared.repairs_reported();
        }
        Err(repair::Failure { name, error }) => {
            shared.repair_failed(tracked.id, name, start.elapsed());
            shared.status.syncer(Some(format!("{name} cannot be written again after a failed sync: {error}")));
        }
    }
}

/// What was in the broken file, was not durable, and could not be saved.
fn lost(tracked: &Tracked, saved: &repair::Saved) -> Lost {
    let events = (tracked.end.events - tracked.durable.events).saturating_sub(saved.events);
    if events == 0 {
        return Lost::default();
    }
    let mut next = tracked.dirty.map_or(tracked.end.generation, |dirty| dirty.generation);
    let mut generations = Vec::new();
    for &is_there in saved.generations.iter().chain([&tracked.end.generation]) {
        if next < is_there {
            generations.push(next..=is_there - 1);
        }
        next = is_there + 1;
    }
    Lost { events, generations }
}
