//! Names what goes in and out of the store: batches, settings, results, errors.
//!
//! Input and output: plain values. Any thread. Failures: none; the errors here are those of the store.

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use dbuf_segment::format::BatchHeader;

use crate::options::Storage;

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
    /// CRC-32C of all its slices, one after the other. The thread that walks the records has them in its cache, and
    /// this wants that.
    pub content_crc: u32,
    /// Whether records of lines are among them.
    pub has_lines: bool,
    /// Its runs, by ascending writer.
    pub runs: &'a [RunView<'a>],
    /// The source records in them. The caller has walked the records already, so the store need not.
    pub sources: &'a [&'a [u8]],
}

/// What a store needs to know.
pub struct StoreOptions {
    /// The settings.
    pub storage: Storage,
    /// Called when batches have become durable: by the syncer thread, or by the reader thread with `sync = "batch"`.
    pub on_durable: Box<dyn Fn(Durable) + Send + Sync>,
    /// Called when a sync has failed, before anything else is done about it, and when what that concerned is durable or
    /// lost: the first generation that may be in a file whose sync has failed, None if there is no such file. By either
    /// thread, while it holds a lock: it must not wait.
    pub on_broken: Box<dyn Fn(Option<u64>) + Send + Sync>,
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
    /// Events that were persisted, were not durable, and cannot be read back from a disk whose sync failed.
    pub lost_events: u64,
    /// Generations that these may have been in.
    pub lost_generations: Vec<RangeInclusive<u64>>,
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
    /// There is no thread to be had.
    #[error("cannot start the syncer thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(io::Error),
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
    /// The header of the newest batch, if there is one.
    pub newest: Option<BatchHeader>,
    /// What a person should know, a line each.
    pub notes: Vec<String>,
}
