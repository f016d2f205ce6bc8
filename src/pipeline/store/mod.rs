//! Segments: batches go in, files stay, and are read again.
//!
//! Enters: batches, from the reader thread. Leaves: files as `docs/FORMAT.md` describes them, and word of what is durable.
//! [`scan`] reads them, with or without a daemon. What can fail: the disk, in every call; a failed append leaves nothing
//! of its batch, and the caller decides whether it comes again.

mod appender;
pub mod disk;
pub mod footer;
pub mod format;
pub mod name;
pub mod scan;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::time::{Duration, Instant};

use crate::config::settings::{Storage, SyncPolicy};
use crate::sync::Arc;
use appender::{Active, Stream};
use disk::Disk;
pub use disk::RealDisk;

/// One writer's part of a batch.
#[derive(Clone, Copy, Debug)]
pub struct RunView<'a> {
    /// The writer.
    pub writer: u8,
    /// Events that end in it.
    pub events: u32,
    /// Its bytes, in order; no record straddles two slices.
    pub slices: &'a [&'a [u8]],
}

/// A batch, as the reader hands it over.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// The swap that brought it.
    pub generation: u64,
    /// Events that end in it.
    pub events: u32,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// The smallest acceptance time in it, nanoseconds of the wall clock.
    pub time_min_ns: u64,
    /// The largest acceptance time in it, nanoseconds of the wall clock.
    pub time_max_ns: u64,
    /// Its runs, by ascending writer.
    pub runs: &'a [RunView<'a>],
}

/// What a store needs to know.
pub struct Options {
    /// The settings.
    pub storage: Storage,
    /// Called when batches have become durable: by the syncer thread, or by the reader thread with `sync = "batch"`.
    pub on_durable: Box<dyn Fn(Durable) + Send + Sync>,
}

/// Word of what is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Every generation below this one is.
    pub before_generation: u64,
    /// Events that have become so.
    pub events: u64,
    /// How long the sync took.
    pub took: Duration,
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The sequence of the batch's first event.
    pub first_sequence: u64,
    /// Bytes written, heads and all.
    pub written_bytes: u64,
}

/// Why nothing of a batch is in a file.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No room on the disk, and nothing more that may be deleted.
    #[error("the disk is full: {0}")]
    Full(io::Error),
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Failed(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(e),
            _ => Self::Failed(e),
        }
    }
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has the directory.
    #[error("another dbufd (pid {pid}) holds {directory}; stop it, or give this one a directory of its own")]
    Held {
        /// Who.
        pid: u32,
        /// What.
        directory: String,
    },
    /// The directory cannot be used.
    #[error("{directory}: {error}; make it a directory that dbufd may write to, or set storage.directory")]
    Directory {
        /// Which.
        directory: String,
        /// Why.
        error: io::Error,
    },
}

/// What was found when the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segments in the directory.
    pub segments: usize,
    /// Bytes that were cut from the ends of segments.
    pub torn_bytes: u64,
    /// Segments that had such ends.
    pub torn_files: usize,
    /// Damaged places in the middle of segments. They are kept.
    pub damaged_ranges: usize,
    /// Events in the segments that were looked into.
    pub events: u64,
    /// The sequence of the next event.
    pub next_sequence: u64,
    /// What a person should know, a line each.
    pub notes: Vec<String>,
}

/// The reader thread's half of the store.
pub struct Store {
    stream: Arc<Stream>,
    storage: Storage,
    on_durable: Arc<dyn Fn(Durable) + Send + Sync>,
    active: Option<Active>,
    next_sequence: u64,
}

impl Store {
    /// Opens the directory that the options name.
    ///
    /// # Errors
    /// [`OpenError`] if the directory cannot be used or another daemon uses it; never because of what is in it.
    pub fn open(options: Options, disk: Arc<dyn Disk>) -> Result<(Self, Recovery), OpenError> {
        let directory = options.storage.directory.clone();
        let failed = |error| OpenError::Directory { directory: directory.display().to_string(), error };
        disk.make_directory(&directory).map_err(failed)?;
        let segments = disk::segments(&*disk, &directory).map_err(failed)?.len();
        let stream = Arc::new(Stream { disk, directory: directory.clone(), stream_id: 1, boot_id: 1 });
        let recovery = Recovery { segments, next_sequence: 1, ..Recovery::default() };
        let store = Self {
            stream,
            storage: options.storage,
            on_durable: options.on_durable.into(),
            active: None,
            next_sequence: recovery.next_sequence,
        };
        Ok((store, recovery))
    }

    /// Appends a batch.
    ///
    /// # Errors
    /// [`WriteError`]; then nothing of the batch counts, and the same batch may be appended later.
    pub fn append(&mut self, batch: &BatchView<'_>) -> Result<Appended, WriteError> {
        if self.active.as_ref().is_some_and(|active| active.is_full_for(batch, self.storage.segment_bytes)) {
            self.rotate()?;
        }
        if self.active.is_none() {
            self.active = Some(Active::create(&self.stream, self.next_sequence)?);
        }
        let active = self.active.as_mut().expect("it was made just now");
        let header = active.write(batch, self.next_sequence)?;
        if self.storage.sync == SyncPolicy::Batch {
            let start = Instant::now();
            active.file.sync().map_err(WriteError::Failed)?;
            let events = u64::from(batch.events);
            (self.on_durable)(Durable { before_generation: batch.generation + 1, events, took: start.elapsed() });
        }
        active.accept(&header, batch);
        self.next_sequence = header.next_sequence();
        let written_bytes = u64::from(header.header_bytes) + header.content_bytes;
        Ok(Appended { first_sequence: header.first_sequence, written_bytes })
    }

    /// Seals the active segment.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn rotate(&mut self) -> Result<(), WriteError> {
        let Some(mut active) = self.active.take() else { return Ok(()) };
        active.write_footer();
        let from = active.name.in_directory(&self.stream.directory);
        let to = name::Name { state: name::State::Sealed, ..active.name };
        disk::rename_to_free(&*self.stream.disk, &self.stream.directory, &from, to)?;
        Ok(())
    }

    /// The sequence of the next event.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Seals the active segment and ends.
    ///
    /// # Errors
    /// [`WriteError`] if the end of the segment could not be made durable.
    pub fn close(mut self) -> Result<(), WriteError> {
        self.rotate()
    }
}
