//! Defines the options of the pipeline, and the bounds that the configuration shares with it.
//!
//! Input: none. Output: plain types without a method. Any thread. Nothing can fail.
//!
//! Both the configuration, which reads these values from a file, and the pipeline, which obeys them, import this file.
//! So neither of the two imports the other: the pipeline can be built without a configuration file (`dbufctl bench` and
//! the tests do that), and the configuration can be read without the pipeline.

use std::path::PathBuf;
use std::time::Duration;

/// The largest value of `ingest.max_event`, in bytes: the limit of a record.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// The largest value of `ingest.rings`: the rows of the table of rings.
pub const RINGS_MAX: usize = 1024;

/// An amount of a file system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// Hundredths of its size.
    Percent(f64),
}

/// When what is persisted becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// When the kernel writes it by itself.
    Never,
    /// Before the next batch.
    Batch,
    /// At most this long after it was persisted.
    Interval(Duration),
}

/// What happens when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest segments go; when there are none left, as `Wait`.
    DeleteOldest,
    /// Producers wait; nothing is lost.
    Wait,
    /// New events are lost and counted.
    Drop,
}

/// The segments.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Where they are.
    pub directory: PathBuf,
    /// A segment is sealed when it would grow beyond this, in bytes.
    pub segment_bytes: u64,
    /// A segment is sealed when its first event is this old.
    pub segment_age: Duration,
    /// The most that all segments may take.
    pub retain: Option<Amount>,
    /// Segments whose newest event is older than this go.
    pub retain_age: Option<Duration>,
    /// Events younger than this stay, whatever one user stores.
    pub keep_at_least: Option<Duration>,
    /// What is left free on the file system.
    pub min_free: Option<Amount>,
    /// When what is persisted becomes durable.
    pub sync: SyncPolicy,
    /// What happens when the disk is full.
    pub when_full: WhenFull,
}

impl Default for Storage {
    /// The defaults of the configuration, except the directory, which depends on the user.
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            segment_bytes: 256 << 20,
            segment_age: Duration::from_secs(24 * 3600),
            retain: Some(Amount::Percent(10.0)),
            retain_age: None,
            keep_at_least: None,
            min_free: Some(Amount::Percent(5.0)),
            sync: SyncPolicy::Interval(Duration::from_secs(1)),
            when_full: WhenFull::DeleteOldest,
        }
    }
}
