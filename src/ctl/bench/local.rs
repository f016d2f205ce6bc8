//! Runs writers, double buffer, reader and files in this process, without a daemon: `--via buffer`.
//!
//! Input: none. Output: a way to send for each writer, and segments in a directory. The load's threads are the writers;
//! the reader's thread is the daemon's own. Failures: memory, the disk, and a directory in use.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::load::Way;
use crate::config::Config;
use crate::ctl::failure::Failure;
use crate::options::{Storage, WhenFull};
use crate::pipeline::account::{Identity, Producer, Recorder, Tally};
use crate::pipeline::assembly::{Memory, Pipeline};
use crate::pipeline::buffer::{Options, Refused, Sealed, Writer};
use crate::pipeline::drain::{self, Measured};
use crate::pipeline::record::{Event, Transport, encode_source};
use crate::pipeline::store::scan::Directory;
use crate::sync::Arc;

/// How long the disk may take when the run is over.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a local run puts its segments.
pub(super) struct OutputDirectory {
    /// The directory.
    pub(super) path: PathBuf,
    is_temporary: bool,
}

impl OutputDirectory {
    /// The given directory, which must not hold segments, or a temporary one that is removed after the run.
    pub(super) fn new(asked: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(path) = asked {
            let holds_segments = Directory::open(path).is_ok_and(|directory| !directory.files.is_empty());
            if holds_segments {
                let text = format!("{}: already holds segments; name an empty directory", path.display());
                return Err(Failure::Usage(text).into());
            }
            fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
            return Ok(Self { path: path.to_owned(), is_temporary: false });
        }
        let path = std::env::temp_dir().join(format!("dbufctl-bench-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot create {}; set TMPDIR, or give --directory", path.display()))?;
        Ok(Self { path, is_temporary: true })
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        if self.is_temporary {
            // What cannot be removed is in the temporary directory, which the system cleans up.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The pipeline of a local run.
pub(super) struct Local(Pipeline);

impl Local {
    /// Starts it for `writers` writers with the daemon's defaults, apart from what would spoil a benchmark: retention
    /// deletes nothing, and a full disk loses events instead of stopping the writers for ever.
    pub(super) fn start(writers: usize, directory: &Path) -> anyhow::Result<Self> {
        let defaults = Config::default();
        let capacity_bytes = defaults.buffer.capacity_bytes;
        let memory = Memory::new(&Options { capacity_bytes, writers_max: writers, ..Options::default() })?;
        let storage = Storage {
            directory: directory.to_owned(),
            retain: None,
            min_free: None,
            when_full: WhenFull::Drop,
            ..defaults.storage
        };
        let settings = drain::Settings { storage, linger: defaults.buffer.linger, measure: true };
        let (pipeline, _) = Pipeline::start(memory, settings, None)?;
        Ok(Self(pipeline))
    }

    /// A way to send, straight into the buffer.
    pub(super) fn way(&self) -> anyhow::Result<Direct> {
        let writer = self.0.buffer.writer()?;
        let recorder = self.0.counters.account.recorder(usize::from(writer.index()));
        let identity = Identity {
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            transport: Transport::Internal,
            tag: b"bench"[..].into(),
            ..Identity::default()
        };
        let producer = self.0.counters.account.producer(&identity);
        Ok(Direct { writer, recorder, producer, named_in: 0 })
    }

    /// Ends the run. All published events are in the files and durable. The ways to send no longer exist.
    pub(super) fn stop(self) -> anyhow::Result<Outcome> {
        let stats = self.0.buffer.stats();
        let handle = self.0.drain.handle();
        if let Some(error) = self.0.drain.stop(STOP_TIMEOUT).error {
            anyhow::bail!("the files could not be finished: {error}");
        }
        Ok(Outcome { measured: handle.measured(), swaps: stats.swaps, full_waits: stats.full_waits })
    }
}

/// What a local run knows in addition to its writers.
pub(super) struct Outcome {
    /// The reader's measurements.
    pub(super) measured: Measured,
    /// Swaps of the halves.
    pub(super) swaps: u64,
    /// How often a writer waited for room.
    pub(super) full_waits: u64,
}

/// Sends by writing records into the buffer, as a writer thread of the daemon does.
pub(super) struct Direct {
    writer: Writer,
    recorder: Recorder,
    producer: Arc<Producer>,
    /// The generation that holds the record of the source.
    named_in: u64,
}

/// A run has one source, so one id is enough.
const SOURCE: u32 = 0;

impl Direct {
    fn try_put(&mut self, event: &Event<'_>, need: usize) -> Result<Result<(), Sealed>, Refused> {
        let mut claim = self.writer.claim(need)?;
        let generation = claim.generation();
        if generation != self.named_in {
            encode_source(&mut claim, SOURCE, event.time_ns, &self.producer.identity.as_source());
        }
        event.encode(&mut claim);
        self.recorder
            .prepare(&self.producer, &Tally { events: 1, bytes: event.payload.len() as u64, ..Tally::default() });
        let published = claim.publish();
        if published.is_ok() {
            self.named_in = generation;
            self.recorder.published();
        } else {
            self.recorder.abort();
        }
        Ok(published)
    }
}

impl Way for Direct {
    fn put(&mut self, block: &[u8]) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let event =
            Event { time_ns: now.as_nanos() as u64, source: SOURCE, pri: 6, payload: block, ..Event::default() };
        let need = event.record_bytes() + self.producer.identity.as_source().record_bytes();
        // Sealed: the reader has swapped meanwhile. Each swap is progress, so this loop ends.
        while self.try_put(&event, need)?.is_err() {}
        Ok(())
    }

    fn push(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}
