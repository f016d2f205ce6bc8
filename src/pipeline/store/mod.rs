//! Appends batches to segments, makes them durable, and rotates, retains and recovers segments.
//!
//! Input: batches, from the reader thread. Output: files as `docs/FORMAT.md` describes them, and notice of what is
//! durable. [`scan`], of the crate `dbuf-segment`, reads the files, with or without a daemon. Thread: the reader, and
//! the syncer that the store starts. Failure: the disk, in every call. A failed append leaves nothing of its batch, and
//! the caller decides whether to append it again.

mod appender;
mod deleter;
pub mod disk;
#[cfg(test)]
mod fault_disk;
mod fill;
#[cfg(test)]
mod format_tests;
mod lock;
mod recover;
mod repair;
mod retain;
#[cfg(test)]
pub(crate) mod sim_disk;
pub mod status;
mod stream;
mod sync_queue;
mod syncer;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod types;

use std::io;
use std::time::Instant;

use crate::options::{Storage, SyncPolicy, WhenFull};
use crate::sync::{Arc, thread};
use appender::Active;
use dbuf_segment::name::Name;
pub use dbuf_segment::{footer, format, name, scan};
use deleter::Deleter;
pub use deleter::Deletion;
pub use disk::{Disk, RealDisk};
pub use fill::UserFill;
use lock::HeldDirectory;
use retain::Limits;
use status::Caller;
pub use status::{Condition, Status, StatusSnapshot};
use stream::Stream;
use sync_queue::{COMPLETE_MAX, FilePosition, Lost, Shared};
pub use types::{Appended, BatchView, Durable, OpenError, Recovery, RunView, StoreOptions, WriteError};

/// The reader thread's part of the store. If it is dropped without [`Store::close`], it leaves the files as a killed
/// process would.
pub struct Store {
    shared: Arc<Shared>,
    syncer: Option<thread::JoinHandle<()>>,
    storage: Storage,
    limits: Limits,
    active: Option<Active>,
    next_sequence: u64,
    /// The generation of a batch that is in a file which could not be synced, and the sequence after it. Another batch
    /// must not get its sequences, because a program may have read it.
    unsynced: Option<(u64, u64)>,
}

/// Files at most that a previous process may have left without a sync. Earlier versions left up to this number.
const LEFT_UNSYNCED_MAX: usize = 66;

/// Why one try to write a batch failed.
enum Refused {
    /// The file accepts no more; another one may.
    ByFile(WriteError),
    /// There is no room.
    Full(io::Error),
}

impl Store {
    /// Opens the directory that the options name, and recovers what an earlier process left in it.
    ///
    /// # Errors
    /// [`OpenError`] if the directory cannot be used or another daemon uses it; never because of its content.
    pub fn open(options: StoreOptions, disk: Arc<dyn Disk>) -> Result<(Self, Recovery), OpenError> {
        let (mut store, recovery) = Self::recover(options, disk)?;
        store.start()?;
        Ok((store, recovery))
    }

    /// As [`Store::open`], without the syncer: until [`Store::start`] nothing is synced, sealed or deleted.
    ///
    /// # Errors
    /// [`OpenError`] if the directory cannot be used or another daemon uses it; never because of its content.
    pub fn recover(options: StoreOptions, disk: Arc<dyn Disk>) -> Result<(Self, Recovery), OpenError> {
        let StoreOptions { storage, on_durable, on_broken, on_delete } = options;
        let directory = storage.directory.clone();
        let name = || directory.display().to_string();
        let failed = |error| OpenError::Directory { directory: name(), error };
        disk.make_directory(&directory).map_err(failed)?;
        let held = HeldDirectory::lock(&directory).map_err(|refused| match refused {
            lock::Refused::Held(pid) => OpenError::Held { pid, directory: name() },
            lock::Refused::Disk(error) => failed(error),
        })?;
        let (recovery, stream_id) = recover::recover(&*disk, &directory).map_err(failed)?;
        let limits = retain::limits(&disk, &storage);
        let stream = Stream {
            disk,
            directory: directory.clone(),
            held,
            stream_id: stream_id.unwrap_or_else(stream::random_id),
            boot_id: stream::boot_id(),
        };
        let status = Arc::new(Status::new(directory.clone(), storage.sync));
        let (deleter, settings) = (Deleter::new(on_delete), (storage.clone(), limits));
        let shared = Arc::new(Shared::new(stream, status, deleter, settings, on_durable, on_broken));
        // The name of the new segment says which sequence is next. It must exist before retention removes the files
        // that said so. If there is no room for it, the first batch tries again.
        let active = Active::create(&shared, recovery.next_sequence).ok();
        let next_sequence = recovery.next_sequence;
        let store = Self { shared, syncer: None, storage, limits, active, next_sequence, unsynced: None };
        Ok((store, recovery))
    }

    /// Starts the syncer.
    ///
    /// # Errors
    /// [`OpenError::Thread`] if the kernel refuses a thread.
    pub fn start(&mut self) -> Result<(), OpenError> {
        let shared = Arc::clone(&self.shared);
        let syncer = thread::Builder::new().name("dbufd-syncer".into()).spawn(move || syncer::run(&shared));
        self.syncer = Some(syncer.map_err(OpenError::Thread)?);
        Ok(())
    }

    /// Whether the directory has a segment of this name.
    #[must_use]
    pub fn has(&self, name: Name) -> bool {
        let Stream { disk, directory, .. } = &self.shared.stream;
        disk::segments(&**disk, directory).is_ok_and(|found| found.iter().any(|(there, _)| *there == name))
    }

    /// Appends a batch. With `storage.sync = "batch"` it is durable on return.
    ///
    /// # Errors
    /// [`WriteError`]. Then nothing of the batch counts, and the same batch may be appended later.
    pub fn append(&mut self, batch: &BatchView<'_>) -> Result<Appended, WriteError> {
        if let Some((generation, after)) = self.unsynced.take_if(|(generation, _)| *generation != batch.generation) {
            debug_assert!(generation < batch.generation, "generations rise");
            self.next_sequence = self.next_sequence.max(after);
        }
        self.shared.status.begin(Caller::Reader);
        let result = self.append_making_room(batch);
        self.shared.status.end(Caller::Reader);
        self.shared.status.appended(&result);
        result
    }

    fn append_making_room(&mut self, batch: &BatchView<'_>) -> Result<Appended, WriteError> {
        loop {
            let full = match self.append_somewhere(batch) {
                Err(WriteError::Full(e)) if self.storage.when_full == WhenFull::DeleteOldest => e,
                result => return result,
            };
            let Shared { stream, status, deleter, .. } = &*self.shared;
            match retain::delete_oldest(stream, status, deleter) {
                Ok(true) => self.shared.deleted(),
                Ok(false) => return Err(WriteError::Full(full)),
                Err(e) => return Err(WriteError::Failed(e)),
            }
        }
    }

    /// Appends to the active segment, or to a new one if that is full or its disk fails.
    fn append_somewhere(&mut self, batch: &BatchView<'_>) -> Result<Appended, WriteError> {
        if self.active.as_ref().is_some_and(|active| active.is_full_for(batch, self.limits.segment_bytes)) {
            self.seal();
        }
        // The failure may concern only this file, even if the file is new.
        let mut again = true;
        loop {
            let active = match self.active.take() {
                Some(active) => active,
                None => self.begin_segment()?,
            };
            match self.append_to(active, batch) {
                Ok(appended) => return Ok(appended),
                Err(Refused::Full(e)) => return Err(WriteError::Full(e)),
                Err(Refused::ByFile(e)) if !again => return Err(e),
                Err(Refused::ByFile(_)) => again = false,
            }
        }
    }

    /// Appends to `active`, which stays the active segment unless it refuses.
    fn append_to(&mut self, mut active: Active, batch: &BatchView<'_>) -> Result<Appended, Refused> {
        let Some(permit) = self.shared.begin_write(active.id) else {
            self.shared.status.closed();
            return Err(Refused::ByFile(WriteError::Failed(io::Error::other("its last sync failed"))));
        };
        if active.file.has_name().is_ok_and(|has_name| !has_name) {
            // A write to it would be lost with the file. Batches in it that no sync has covered are written again
            // elsewhere.
            self.shared.broke(active.id);
            self.shared.status.closed();
            return Err(Refused::ByFile(WriteError::Failed(stream::deleted())));
        }
        let header = match active.write(batch, self.next_sequence, self.limits.segment_bytes) {
            Ok(header) => header,
            Err(e) => {
                self.shared.unwritten(active.id);
                return Err(match WriteError::from(e) {
                    WriteError::Full(e) => {
                        self.active = Some(active);
                        Refused::Full(e)
                    }
                    failed @ WriteError::Failed(_) => {
                        self.leave(&active);
                        Refused::ByFile(failed)
                    }
                });
            }
        };
        let start = Instant::now();
        let durable = self.storage.sync == SyncPolicy::Batch;
        if durable && let Err(e) = self.shared.stream.make_durable(&*active.file, permit.entry_durable) {
            self.unsynced = Some((batch.generation, header.next_sequence()));
            self.shared.broke(active.id);
            self.shared.status.closed();
            return Err(Refused::ByFile(e.into()));
        }
        active.accept(&header, batch);
        self.next_sequence = header.next_sequence();
        self.unsynced = None;
        let end = FilePosition {
            offset: active.footer.offset,
            sequence: self.next_sequence,
            events: active.footer.events,
            generation: batch.generation + 1,
        };
        self.shared.status.grew(end.offset, batch.time_min_ns);
        self.shared.status.fill.add(active.name, u64::from(batch.events), batch.payload_bytes, batch.sources);
        let events = self.shared.wrote(active.id, end, durable);
        self.active = Some(active);
        if durable {
            self.shared.report_durable(events, start.elapsed(), Lost::default());
        }
        let written_bytes = u64::from(header.header_bytes) + header.content_bytes;
        Ok(Appended { first_sequence: header.first_sequence, written_bytes })
    }

    /// Closes a file that refused a write. Its batches count. A file without batches is removed.
    fn leave(&mut self, active: &Active) {
        self.shared.status.closed();
        if active.footer.batches == 0 {
            self.shared.forget(active.id);
            let _ = self.shared.stream.disk.remove(&active.name.in_directory(&self.shared.stream.directory));
        } else {
            self.shared.closed(active.id, active.footer.encode());
        }
    }

    /// Seals the active segment, if it has batches. The syncer does the disk's part of that: on a file system that
    /// discards freed blocks, freeing a file's unused end alone took 0.2 s in a measurement.
    fn seal(&mut self) {
        if let Some(active) = self.active.take_if(|active| active.footer.batches > 0) {
            self.shared.status.closed();
            self.shared.closed(active.id, active.footer.encode());
        }
    }

    /// Seals the active segment and creates the next one. A segment without a batch stays.
    ///
    /// # Errors
    /// [`WriteError`] if the next one cannot be created; the next append tries again.
    pub fn rotate(&mut self) -> Result<(), WriteError> {
        self.seal();
        if self.active.is_none() {
            self.active = Some(self.begin_segment()?);
        }
        Ok(())
    }

    /// Creates the next segment, once few enough complete ones wait for the syncer. If the process has no descriptor
    /// left, waits until the syncer has closed the files that it holds open.
    fn begin_segment(&self) -> io::Result<Active> {
        let mut complete_max = COMPLETE_MAX;
        loop {
            self.wait_for_room(complete_max)?;
            let (_, jobs_done) = self.shared.to_close();
            match Active::create(&self.shared, self.next_sequence) {
                Err(e) if disk::is_out_of_descriptors(&e) => match self.shared.to_close() {
                    (0, now) if now == jobs_done => return Err(e),
                    (complete, _) => complete_max = complete.saturating_sub(1),
                },
                result => return result,
            }
        }
    }

    fn wait_for_room(&self, complete_max: usize) -> io::Result<()> {
        if self.syncer.is_some() {
            return self.shared.wait_for_room(complete_max);
        }
        while !self.shared.has_room(complete_max)? {
            syncer::perform(&self.shared, self.shared.next_job());
        }
        Ok(())
    }

    /// Rotates if the first batch of the active segment has reached `storage.segment_age`.
    pub fn rotate_if_due(&mut self) {
        if self.next_deadline().is_some_and(|deadline| deadline <= Instant::now())
            && let Err(e) = self.rotate()
        {
            self.shared.status.note(e.to_string());
        }
    }

    /// When [`Store::rotate_if_due`] next has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.active.as_ref()?.first_batch?.checked_add(self.storage.segment_age)
    }

    /// The id of this stream of segments.
    #[must_use]
    pub fn stream_id(&self) -> u128 {
        self.shared.stream.stream_id
    }

    /// The sequence of the next event.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Notes that the batch of this generation was given up: it is in no file, and nothing more happens to it. Returns
    /// the generation below which everything is durable, if nothing waits for a sync. Otherwise the sync reports it.
    pub fn passed(&self, generation: u64) -> Option<u64> {
        self.shared.passed(generation)
    }

    /// Requests a sync of everything that was appended. When it has succeeded, [`StoreOptions::on_durable`] is called
    /// with at least `before_generation`. The syncer may wait, for a fraction of the time that a sync takes, until
    /// `askers` or as many as last time have asked.
    pub fn request_sync(&self, before_generation: u64, askers: usize) {
        self.shared.request(before_generation, askers);
    }

    /// Makes durable what earlier processes have written: the newest segments, as many as may have been left unsynced.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn sync_previous(&self) -> io::Result<()> {
        self.shared.status.begin(Caller::Reader);
        let done = self.sync_newest();
        self.shared.status.end(Caller::Reader);
        done
    }

    fn sync_newest(&self) -> io::Result<()> {
        let Stream { disk, directory, .. } = &self.shared.stream;
        for (name, _) in disk::segments(&**disk, directory)?.iter().rev().take(LEFT_UNSYNCED_MAX) {
            match disk.open(&name.in_directory(directory)).and_then(|file| file.sync()) {
                // Retention has just removed it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        self.shared.stream.sync_directory()
    }

    /// Applies new settings. The directory stays the same.
    pub fn reconfigure(&mut self, storage: &Storage) {
        self.storage = Storage { directory: self.storage.directory.clone(), ..*storage };
        self.limits = retain::limits(&self.shared.stream.disk, &self.storage);
        self.shared.status.set_policy(self.storage.sync);
        self.shared.reconfigure(self.storage.clone(), self.limits);
    }

    /// The status of the store, for display.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.shared.status)
    }

    /// Seals the active segment, syncs it as the settings require, and ends.
    ///
    /// # Errors
    /// [`WriteError`] if something could not be made durable; recovery finds what is in the files.
    pub fn close(mut self) -> Result<(), WriteError> {
        self.seal();
        self.end(true);
        // A segment without a batch exists for the sequence in its name. The sealed segments say it as well.
        let Stream { disk, directory, .. } = &self.shared.stream;
        let has_others = disk::segments(&**disk, directory).is_ok_and(|all| all.len() > 1);
        if let Some(empty) = self.active.take().filter(|_| has_others) {
            let _ = disk.remove(&empty.name.in_directory(directory));
            self.shared.status.removed();
        }
        if self.shared.is_owing() {
            let error = self.shared.status.snapshot().last_error.unwrap_or_default();
            return Err(WriteError::Failed(io::Error::other(error)));
        }
        Ok(())
    }

    fn end(&mut self, once_done: bool) {
        self.shared.stop(once_done);
        match self.syncer.take() {
            Some(syncer) => syncer.join().expect("the syncer does not panic"),
            None => syncer::run(&self.shared),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.syncer.is_some() {
            self.end(false);
        }
    }
}
