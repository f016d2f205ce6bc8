//! Defines what a producer can be asked to be, and what it reports: options, errors, statistics.
//!
//! Input: an application's choices. Output: errors and numbers. Plain data. Failures: none.

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
    /// The tag of events that have none, at most 64 bytes; a longer name is cut. Empty: the program's short name.
    pub name: String,
    /// The daemon's `stream.sock`. None: the socket that `dbufctl` would find.
    pub path: Option<PathBuf>,
    /// Bytes of the ring: a power of two from 64 KiB to 64 MiB. An event takes its own bytes and 16 to 31 more.
    pub capacity_bytes: u64,
    /// What [`crate::Producer::send`] does when there is no room.
    pub when_full: WhenFull,
    /// What becomes of events while there is no daemon.
    pub without_daemon: WithoutDaemon,
    /// Whether the producer states when an event happened, if the caller does not: by the processor's time-stamp
    /// counter in a ring, by the wall clock otherwise.
    pub stamp: bool,
    /// Whether to ask the daemon for a ring. Without one, events go by frames.
    pub ring: bool,
    /// Whether the kernel provides all memory of a ring when the ring is made. Otherwise it provides each page when
    /// the producer first writes to it.
    pub populate: bool,
    /// The longest that closing or dropping the producer takes when it has to deliver events itself: by frames, or
    /// because its daemon has ended.
    pub close_wait: Duration,
    /// Write nothing to standard error. By default a producer writes one line when it cannot reach the daemon, and one
    /// at its end if events were not delivered.
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
///
/// ```
/// use dbuf_client::{ProducerOptions, WhenFull};
///
/// assert_eq!(ProducerOptions::default().when_full, WhenFull::Drop);
/// let unhurried = WhenFull::Wait(std::time::Duration::from_secs(1));
/// # let _ = unhurried;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Drop the event and count it.
    Drop,
    /// Wait at most this long for room; then drop the event and count it.
    Wait(Duration),
}

/// What to do while there is no daemon.
///
/// ```
/// use dbuf_client::{Producer, ProducerOptions, WithoutDaemon};
///
/// let path = Some("/nonexistent/stream.sock".into());
/// let options = ProducerOptions { path, without_daemon: WithoutDaemon::Fail, ..ProducerOptions::default() };
/// assert!(Producer::open(options).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutDaemon {
    /// Keep events in memory until there is a daemon, as many as there is room for.
    Keep,
    /// Return an error from [`crate::Producer::open`] and from each send.
    Fail,
}

/// Why [`crate::Producer::open`] failed.
///
/// ```
/// use dbuf_client::{OpenError, Producer, ProducerOptions};
///
/// let error = Producer::open(ProducerOptions { capacity_bytes: 100_000, ..ProducerOptions::default() }).unwrap_err();
/// assert!(matches!(error, OpenError::Capacity(100_000)));
/// ```
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A ring cannot have this size.
    #[error("a ring has a power of two of bytes, from 64 KiB to 64 MiB, and not {0}")]
    Capacity(u64),
    /// The process has no memory left for it.
    #[error("no memory for a producer: {0}")]
    NoMemory(#[from] std::io::Error),
    /// The daemon cannot be reached, and the options make that an error. The text has the path, the reason, and a
    /// remedy where one is certain.
    #[error("{0}")]
    NoDaemon(String),
}

/// Why an event was not sent.
///
/// ```
/// use dbuf_client::{Producer, ProducerOptions, SendError};
///
/// # let path = Some("/nonexistent/stream.sock".into());
/// # let options = ProducerOptions { path, quiet: true, ..ProducerOptions::default() };
/// let mut producer = Producer::open(options)?;
/// assert_eq!(producer.send(6, b""), Err(SendError::Invalid("the payload is empty")));
/// # Ok::<(), dbuf_client::OpenError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no room.
    #[error("there is no room for the event")]
    Full,
    /// The event is larger than the daemon takes (`ingest.max_event`), or than half of the ring.
    #[error("the event has {bytes} bytes, and at most {bytes_max} are taken")]
    TooBig {
        /// Its bytes.
        bytes: usize,
        /// The most that can be sent.
        bytes_max: usize,
    },
    /// The event breaks a rule of the protocol.
    #[error("not a valid event: {0}")]
    Invalid(&'static str),
    /// There is no connection to the daemon, and the options make that an error. [`Statistics::last_error`] has the
    /// reason.
    #[error("there is no connection to dbufd; the producer's statistics say why")]
    NoDaemon,
    /// This thread has no producer: it is within another call of [`mod@crate::local`], or none can be opened.
    #[error("this thread has no producer now")]
    NoProducer,
    /// A forked child needs memory of its own, and there is none.
    #[error("no memory for a producer")]
    NoMemory,
}

/// Why [`crate::Producer::sync`] cannot say that all events are durable.
///
/// ```
/// use dbuf_client::SyncError;
///
/// let error = SyncError::NotStored { lost: 2, unconfirmed: 5 };
/// assert_eq!(
///     error.to_string(),
///     "2 events were not stored; 5 events are unconfirmed: a daemon took them and ended before it called them durable"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// Not within this time; a later call may succeed.
    #[error("not durable within {0:?}")]
    Timeout(Duration),
    /// There was no daemon in that time. [`Statistics::last_error`] has the reason.
    #[error("there is no connection to dbufd; the producer's statistics say why")]
    NoDaemon,
    /// Of the events since the last sync, some are not stored, or it is not known whether they are. All others are
    /// durable.
    #[error(
        "{lost} events were not stored; {unconfirmed} events are unconfirmed: a daemon took them and ended before it \
         called them durable"
    )]
    NotStored {
        /// Refused by the daemon, or lost by it.
        lost: u64,
        /// Taken by a daemon that ended before it called them durable. Most of them are probably stored.
        unconfirmed: u64,
    },
}

/// How a producer's events reach the daemon now.
///
/// ```
/// use dbuf_client::{LinkKind, Producer, ProducerOptions};
///
/// # let path = Some("/nonexistent/stream.sock".into());
/// # let options = ProducerOptions { path, quiet: true, ..ProducerOptions::default() };
/// let producer = Producer::open(options)?;
/// assert_eq!(producer.statistics().link, LinkKind::None); // no daemon listens there
/// # Ok::<(), dbuf_client::OpenError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkKind {
    /// There is no daemon now: events wait in memory.
    #[default]
    None,
    /// The producer sends frames.
    Frames,
    /// The daemon takes events out of the ring.
    Ring,
}

/// What became of a producer's events. In a forked child: since the fork.
///
/// ```
/// use dbuf_client::{Producer, ProducerOptions};
///
/// # let path = Some("/nonexistent/stream.sock".into());
/// # let options = ProducerOptions { path, quiet: true, ..ProducerOptions::default() };
/// let mut producer = Producer::open(options)?;
/// producer.send(6, b"order 17 accepted").ok();
/// let statistics = producer.statistics();
/// assert_eq!((statistics.events, statistics.bytes, statistics.lost_full), (1, 17, 0));
/// assert!(statistics.last_error.is_some_and(|why| why.starts_with("cannot connect to ")));
/// # Ok::<(), dbuf_client::OpenError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Events that were sent, and events of the producer itself that report losses.
    pub events: u64,
    /// Bytes of the payloads that were sent.
    pub bytes: u64,
    /// Events that found no room and were dropped. The data reports them: a daemon that has the ring counts them, and
    /// by frames an event of the producer itself says how many.
    pub lost_full: u64,
    /// Bytes of their payloads.
    pub lost_full_bytes: u64,
    /// Events that the daemon refused.
    pub refused: u64,
    /// Events that the daemon took and could not store.
    pub lost: u64,
    /// Events that a daemon took and that it had not called durable when it ended.
    pub unconfirmed: u64,
    /// Every event up to this one, counted from 1, is in a file, or among those that are not stored. The number lags
    /// behind, except after [`crate::Producer::sync`].
    pub persisted: u64,
    /// The same, for the disk.
    pub durable: u64,
    /// Bytes of the ring, or of the memory that stands in for it.
    pub capacity_bytes: u64,
    /// Bytes that wait there.
    pub waiting_bytes: u64,
    /// The most bytes that were seen to wait.
    pub high_water_bytes: u64,
    /// How often the doorbell was rung.
    pub doorbells: u64,
    /// How often a call waited for room.
    pub waits: u64,
    /// Links that were made, rings and frames together.
    pub links: u64,
    /// The link now.
    pub link: LinkKind,
    /// Why there is no link, or no ring, or why the last link ended.
    pub last_error: Option<String>,
}
