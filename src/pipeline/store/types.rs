//! Defines what goes into and comes out of the store: batches, settings, results, errors.
//!
//! Input and output: plain values. Thread: any. Failure: none here; the errors are those of the store.

use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use dbuf_segment::format::BatchHeader;
use dbuf_segment::record::SourceCount;

use super::deleter::Deletion;
use crate::options::Storage;

/// One writer's part of a batch.
#[derive(Clone, Copy, Debug)]
pub struct RunView<'a> {
    /// The writer.
    pub writer: u8,
    /// Events that end in it.
    pub events: u32,
    /// Its bytes, in order. No record straddles two slices.
    pub slices: &'a [&'a [u8]],
}

/// A batch, as the reader passes it on.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    /// The generation of the swap that brought it.
    pub generation: u64,
    /// Events that end in it.
    pub events: u32,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// The smallest acceptance time in it, nanoseconds of the wall clock.
    pub time_min_ns: u64,
    /// The largest acceptance time in it, nanoseconds of the wall clock.
    pub time_max_ns: u64,
    /// CRC-32C of all its slices, one after the other. The caller computes it, because it walks the records and has
    /// them in its cache.
    pub content_crc: u32,
    /// Its incompatible features.
    pub incompat: u32,
    /// Its runs, by ascending writer.
    pub runs: &'a [RunView<'a>],
    /// The sources in them, run by run, and what each has sent. The caller has already walked the records, so the store
    /// need not.
    pub sources: &'a [SourceCount<'a>],
}

/// The parameters of [`Store::open`](super::Store::open).
pub struct StoreOptions {
    /// The settings.
    pub storage: Storage,
    /// Called when batches have become durable: by the syncer thread, or by the reader thread with `storage.sync =
    /// "batch"`.
    pub on_durable: Box<dyn Fn(Durable) + Send + Sync>,
    /// Called when a sync has failed, before anything else is done about it, and again when the affected batches are
    /// durable or lost. Its parameter is the first generation that may be in a file whose sync has failed; None if
    /// there is no such file. The reader or the syncer calls it under the sync queue's lock, so it must not wait.
    pub on_broken: Box<dyn Fn(Option<u64>) + Send + Sync>,
    /// Called before and after retention deletes a segment, by the syncer or the reader, one deletion at a time.
    pub on_delete: Box<dyn Fn(Deletion<'_>) + Send + Sync>,
}

/// What has become durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Every generation below this one is durable or lost.
    pub before_generation: u64,
    /// Events that have become durable.
    pub events: u64,
    /// How long the sync took.
    pub took: Duration,
    /// Events that were persisted, were not durable, and cannot be read back from a disk whose sync failed.
    pub lost_events: u64,
    /// Generations that these events may have been in.
    pub lost_generations: Vec<RangeInclusive<u64>>,
}

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The sequence of the batch's first event.
    pub first_sequence: u64,
    /// Bytes written, including all heads.
    pub written_bytes: u64,
}

/// Why nothing of a batch is in a file.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No room on the disk, and nothing more that may be deleted.
    #[error("the disk is full: {0}; free some space on it")]
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

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has the directory.
    #[error("another dbufd{} holds {directory}; stop it, or set another storage.directory for this one", shown(*pid))]
    Held {
        /// Its pid; 0 if it is not known.
        pid: u32,
        /// The directory.
        directory: String,
    },
    /// The kernel refused a thread.
    #[error("cannot start the syncer thread: {0}; raise the limit of processes and threads (TasksMax=, ulimit -u)")]
    Thread(io::Error),
    /// The directory cannot be used.
    #[error("{directory}: {error}; make it a directory that dbufd may write to, or set storage.directory")]
    Directory {
        /// The directory.
        directory: String,
        /// The error.
        error: io::Error,
    },
}

fn shown(pid: u32) -> String {
    if pid > 0 { format!(" (pid {pid})") } else { String::new() }
}

/// What recovery found.
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
    /// Events in the segments that were read.
    pub events: u64,
    /// The sequence of the next event.
    pub next_sequence: u64,
    /// The header of the newest batch, if there is one.
    pub newest: Option<BatchHeader>,
    /// Notes for the operator, one line each.
    pub notes: Vec<String>,
}
