//! Holds the settings in force: every value checked and in its own unit. `etc/dbufd.toml` says what each key means, its
//! default and its bounds.

use std::time::Duration;

use nix::unistd::{Gid, Group};

use super::units::quoted;
pub use crate::options::{Amount, Storage, SyncPolicy, WhenFull};

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[buffer]`
    pub buffer: Buffer,
    /// `[writers]`
    pub writers: Writers,
    /// `[reader]`
    pub reader: Reader,
    /// `[ingest]`
    pub ingest: Ingest,
    /// `[limits]`
    pub limits: Limits,
    /// `[storage]`
    pub storage: Storage,
    /// `[stats]`
    pub stats: Stats,
    /// `[log]`
    pub log: Log,
}

/// The double buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Bytes in each half.
    pub capacity_bytes: usize,
    /// The longest that a published event waits for others before a swap; zero swaps at once.
    pub linger: Duration,
}

/// The pinned writer threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Writers {
    /// How many; None: four, but at most one for each allowed core.
    pub count: Option<usize>,
    /// Where they run.
    pub cpus: Cpus,
}

/// Cores for writer threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cpus {
    /// Spread over the cores that the process is allowed.
    Auto,
    /// Not pinned.
    None,
    /// These, in turn.
    List(Vec<usize>),
}

/// The reader thread.
#[derive(Clone, Debug, PartialEq)]
pub struct Reader {
    /// Where it runs. `Auto` leaves it to the scheduler if there are as many writers as cores.
    pub cpu: Cpus,
}

/// What is accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Ingest {
    /// The largest event, in bytes.
    pub max_event_bytes: usize,
    /// Permission bits of the sockets that take events.
    pub socket_mode: u32,
    /// Group of these sockets.
    pub socket_group: Option<String>,
    /// The most rings, of all users.
    pub rings: usize,
    /// The most bytes of all rings together.
    pub ring_bytes: u64,
}

impl Ingest {
    /// The group that `socket_group` names.
    ///
    /// # Errors
    /// This machine has no such group, or the user database cannot be read.
    pub fn group(&self) -> Result<Option<Gid>, String> {
        let Some(name) = &self.socket_group else { return Ok(None) };
        if let Ok(number) = name.parse::<u32>() {
            return Ok(Some(Gid::from_raw(number)));
        }
        let shown = quoted(name);
        match Group::from_name(name) {
            Ok(Some(group)) => Ok(Some(group.gid)),
            Ok(None) => Err(format!("ingest.socket_group: there is no group {shown}; see getent group")),
            Err(error) => Err(format!("ingest.socket_group: cannot look up {shown}: {error}; see getent group")),
        }
    }
}

/// Limits of users.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Whether users have shares of what is finite.
    pub shares: bool,
    /// Events of each user in a second.
    pub events_per_second: Option<usize>,
    /// Payload bytes of each user in a second.
    pub bytes_per_second: Option<u64>,
}

/// Statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// Whether sizes and latencies are measured; plain counters always are.
    pub enabled: bool,
}

/// The daemon's own log.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The least important level that is logged.
    pub level: Level,
}

/// A level of the daemon's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What failed.
    Error,
    /// What may fail.
    Warn,
    /// What the daemon does: a line for each step of its life.
    Info,
    /// More detail, to investigate a problem.
    Debug,
    /// Everything.
    Trace,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            buffer: Buffer { capacity_bytes: 8 << 20, linger: Duration::from_millis(2) },
            writers: Writers { count: None, cpus: Cpus::Auto },
            reader: Reader { cpu: Cpus::Auto },
            ingest: Ingest {
                max_event_bytes: 64 << 10,
                socket_mode: 0o666,
                socket_group: None,
                rings: 256,
                ring_bytes: 512 << 20,
            },
            limits: Limits { shares: true, events_per_second: None, bytes_per_second: None },
            storage: Storage::default(),
            stats: Stats { enabled: true },
            log: Log { level: Level::Info },
        }
    }
}
