//! What a producer is asked to be, and what it says of itself.
//!
//! Enters: an application's wishes. Leaves: errors and numbers. Plain data; nothing here can fail.

use std::path::PathBuf;
use std::time::Duration;

/// What a [`crate::Producer`] is to be.
///
/// ```
/// use dbuf_client::{ProducerOptions, WhenFull};
/// use std::time::Duration;
///
/// let options = ProducerOptions {
///     name: "shop".into(),
///     when_full: WhenFull::Wait(Duration::from_millis(50)),
///     ..ProducerOptions::default()
/// };
/// assert_eq!(options.capacity_bytes, 1 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerOptions {
    /// The tag of events that have none, at most 64 bytes; a longer one is cut. Empty: the program's short name.
    pub name: String,
    /// The daemon's `stream.sock`; None: where `dbufctl` would find it.
    pub path: Option<PathBuf>,
    /// Bytes of the ring: a power of two from 64 KiB to 64 MiB. An event takes its own and 16 to 31 more.
    pub capacity_bytes: u64,
    /// What [`crate::Producer::send`] does where there is no room.
    pub when_full: WhenFull,
    /// What becomes of events while there is no daemon.
    pub without_daemon: WithoutDaemon,
    /// Whether events say when they happened, where the caller does not: by the processor's counter or the wall clock.
    pub stamp: bool,
    /// Whether to ask for a ring; else it is frames from the beginning.
    pub ring: bool,
    /// Whether the ring's memory is to be provided when the ring is made, and not bit by bit as it is filled the first
    /// time.
    pub populate: bool,
    /// How long the end of a producer may take where events wait that only it can write: without a ring.
    pub close_wait: Duration,
    /// Nothing is written to standard error. Otherwise a line says there, once, that the daemon cannot be reached, and
    /// at the end how many events were not delivered.
    pub quiet: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            name: String::new(),
            path: None,
            capacity_bytes: 1 << 20,
            when_full: WhenFull::Drop,
            without_daemon: WithoutDaemon::Keep,
            stamp: true,
            ring: true,
            populate: false,
            close_wait: Duration::from_millis(100),
            quiet: false,
        }
    }
}

/// What to do with an event for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Give it up, and count it.
    Drop,
    /// Wait so long for room; then give it up, and count it.
    Wait(Duration),
}

/// What to do while there is no daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutDaemon {
    /// Keep events, as many as there is room for, until there is one.
    Keep,
    /// Fail: [`crate::Producer::open`] and each send.
    Fail,
}

/// Why there is no producer.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no ring of that size.
    #[error("a ring has a power of two of bytes, from 64 KiB to 64 MiB, and not {0}")]
    Capacity(u64),
    /// The process has no memory left for it.
    #[error("no memory for a producer: {0}")]
    NoMemory(#[from] std::io::Error),
    /// No daemon answers, and the options say that this is an error.
    #[error("{0}")]
    NoDaemon(String),
}

/// Why an event was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no room.
    #[error("there is no room for the event")]
    Full,
    /// It is larger than the daemon takes, or than half of the ring.
    #[error("the event has {bytes} bytes, and at most {bytes_max} are taken")]
    TooBig {
        /// Its bytes.
        bytes: usize,
        /// The most that can be sent.
        bytes_max: usize,
    },
    /// It breaks a rule of the protocol.
    #[error("not a valid event: {0}")]
    Invalid(&'static str),
    /// There is no daemon, and the options say that this is an error.
    #[error("no dbufd answers")]
    NoDaemon,
    /// This thread has no producer: it is about to end, or within another call of [`mod@crate::local`]; or none can be
    /// opened.
    #[error("this thread has no producer now")]
    NoProducer,
    /// A forked child needs memory of its own, and there is none.
    #[error("no memory for a producer")]
    NoMemory,
}

/// Why events are not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// Not in time; they may become so.
    #[error("not durable within {0:?}")]
    Timeout(Duration),
    /// There was no daemon in that time.
    #[error("no dbufd answers")]
    NoDaemon,
    /// Everything is done that could be, and some of the events since the last sync are not stored.
    #[error("{lost} events were not stored, and of {unconfirmed} a daemon that is gone did not say so")]
    NotStored {
        /// Refused by the daemon, or lost by it.
        lost: u64,
        /// Taken by a daemon that ended before it called them durable. Most of them may well be.
        unconfirmed: u64,
    },
}

/// Who empties a producer's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// Nobody: there is no daemon now.
    #[default]
    None,
    /// The producer itself, by frames.
    Frames,
    /// The daemon.
    Ring,
}

/// What became of a producer's events, and of itself. Of a forked child: since the fork.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Events that were sent.
    pub events: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Events that found no room and were given up.
    pub lost_full: u64,
    /// Bytes of their payloads.
    pub lost_full_bytes: u64,
    /// Events that the daemon refused.
    pub refused: u64,
    /// Events that the daemon took and could not store.
    pub lost: u64,
    /// Events that a daemon took which ended before it called them durable.
    pub unconfirmed: u64,
    /// Every event up to this one, counted from 1, is in a file, or among those that are not stored. It lags behind,
    /// except after [`crate::Producer::sync`].
    pub persisted: u64,
    /// The same, for the disk.
    pub durable: u64,
    /// Bytes of the ring, or of what stands in for it.
    pub capacity_bytes: u64,
    /// Bytes that wait there.
    pub waiting_bytes: u64,
    /// The most that were seen to wait.
    pub high_water_bytes: u64,
    /// How often the doorbell was rung.
    pub doorbells: u64,
    /// How often a call waited for room.
    pub waits: u64,
    /// Links that were made, rings and frames.
    pub links: u64,
    /// The link now.
    pub link: LinkKind,
    /// Why there is no link, or no ring, or why the last one ended.
    pub last_error: Option<String>,
}
