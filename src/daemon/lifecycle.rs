//! Starts the parts of the daemon in order, and stops them in order.
//!
//! Input: the checked configuration. Output: running threads, and the values through which the control plane talks to
//! them. Main thread. Failures: [`Daemon::start`], with one sentence; what had been started is stopped by dropping it.
//!
//! Start: lock the runtime directory, so that a second daemon stops before it changes anything; then the six steps of
//! "The order of a start" in `docs/ARCHITECTURE.md`. The sockets come last, so the pipeline is complete before a client
//! can send.
//!
//! Stop: remove the files of the sockets, so that no new client connects; then the three steps of "What an orderly stop
//! waits for" there. The lock is released with the process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Gid;

use super::cores::{self, Plan};
use super::sockets::{Files, Runtime};
use super::stats::Figures;
use super::takeover::{DescriptorStore, Memory, set_limits};
use crate::config::Config;
use crate::pipeline::accept::{Accept, AcceptOptions};
use crate::pipeline::assembly::Pipeline;
use crate::pipeline::buffer;
use crate::pipeline::drain::{self, Drain, DrainHandle};
use crate::pipeline::pulse::{Beat, Pulse};
use crate::pipeline::shares::Shares;
use crate::pipeline::store::Recovery;
use crate::pipeline::takeover::names::Inherited;
use crate::sync::Arc;

/// How long the writers may take to read what the kernel holds of their connections.
const WRITERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a failing disk is retried. What is not written by then is left to the next process, or counted as lost.
const DISK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a start waits for a busy service manager. It is busy while it reloads its units, for example.
const MANAGER_START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the service manager may take to read the last notifications.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(5);

/// A running daemon, without its control socket and its signals.
pub(super) struct Daemon {
    files: Files,
    accept: Accept,
    drain: Drain,
    store: Option<DescriptorStore>,
    shares: Arc<Shares>,
    /// Last, so that the lock is released after everything else.
    _runtime: Runtime,
}

/// What a start returns besides the daemon.
pub(super) struct Parts {
    /// The control socket.
    pub(super) control: OwnedFd,
    /// What recovery found.
    pub(super) recovery: Recovery,
    /// For figures and requests.
    pub(super) live: Live,
}

/// Lets the control plane read the daemon's figures and send it requests, also while the daemon stops.
#[derive(Clone)]
pub(super) struct Live {
    /// The counters and measurements.
    pub(super) figures: Figures,
    writers: Vec<Arc<Pulse>>,
}

impl Live {
    /// The reader.
    pub(super) fn reader(&self) -> &DrainHandle {
        &self.figures.drain
    }

    /// The pulse of every writer, and the reader's last.
    pub(super) fn beats(&self) -> Vec<Beat> {
        self.writers.iter().map(|pulse| pulse.look()).chain([self.reader().pulse().look()]).collect()
    }
}

/// How the daemon ended.
pub(super) struct Ended {
    /// What went wrong with the last segment, if anything did.
    pub(super) error: Option<String>,
}

impl Daemon {
    /// Starts everything but the control plane.
    pub(super) fn start(
        config: &Config,
        runtime: &Path,
        group: Option<Gid>,
        passed: Vec<(OwnedFd, String)>,
    ) -> Result<(Self, Parts)> {
        let started = Instant::now();
        raise_descriptor_limit();
        let runtime = Runtime::take(runtime)?;
        let mut inherited = Inherited::sort(passed);
        let sockets = std::mem::take(&mut inherited.sockets);
        let store = DescriptorStore::start(&inherited)?;
        let plan = cores::plan(config, &cores::allowed());
        warn_of(&plan);
        let memory = Memory::take_over(config, &buffer_options(config, plan.writers.len()), store.as_ref(), inherited)?;
        let Memory { pipeline, shares, sessions, rings, receive_buffers, stored, connections } = memory;
        // Events are accepted only when the manager has their memory. Otherwise a crash would lose them.
        let waiting = store.as_ref().map_or(0, |store| store.store.wait_taken(MANAGER_START_TIMEOUT));
        if waiting > 0 {
            tracing::warn!(waiting, "the service manager reads no notifications; a crash would lose events in memory");
        }
        let (pipeline, recovery) = Pipeline::start(pipeline, drain_settings(config), plan.reader)?;
        let Pipeline { buffer, counters, progress, drain } = pipeline;
        shares.throttle().share_room(drain.handle().store_status().room_bytes());
        // From here on, an error must stop the reader and release its lock on the directory.
        let rest = runtime.open(&config.ingest, group, sockets).and_then(|sockets| {
            let accept = Accept::start(AcceptOptions {
                listeners: sockets.listeners,
                buffer: buffer.clone(),
                counters: Arc::clone(&counters),
                progress,
                cpus: plan.writers,
                max_event_bytes: config.ingest.max_event_bytes,
                stored: stored.clone(),
                inherited: connections,
                shares: Arc::clone(&shares),
                sessions,
                rings: Arc::clone(&rings),
                receive_buffers,
                store: store.as_ref().map(|store| Arc::clone(&store.store)),
            })?;
            Ok((accept, sockets.control, sockets.files))
        });
        let (accept, control, files) = match rest {
            Ok(rest) => rest,
            Err(error) => {
                drain.stop(Duration::ZERO);
                return Err(error);
            }
        };
        let figures =
            Figures { started, counters, buffer, drain: drain.handle(), stored, shares: Arc::clone(&shares), rings };
        let parts = Parts { control, recovery, live: Live { figures, writers: accept.pulses() } };
        Ok((Self { files, accept, drain, store, shares, _runtime: runtime }, parts))
    }

    /// What users share.
    pub(super) fn shares(&self) -> Arc<Shares> {
        Arc::clone(&self.shares)
    }

    /// Applies the part of a new configuration that a running daemon can change.
    pub(super) fn reconfigure(&self, old: &Config, new: &Config, group: Option<Gid>) -> Result<()> {
        let access = |config: &Config| (config.ingest.socket_mode, config.ingest.socket_group.clone());
        if access(old) != access(new) {
            self.files.set_access(new.ingest.socket_mode, group).context(
                "cannot change the mode or the group of the sockets (ingest.socket_mode, ingest.socket_group)",
            )?;
        }
        self.accept.set_max_event_bytes(new.ingest.max_event_bytes);
        set_limits(&self.shares, new);
        self.drain.handle().command(drain::ReaderCommand::Reconfigure(Box::new(drain_settings(new))));
        Ok(())
    }

    /// Drains, persists, seals. Blocks until that is done or the timeouts are over.
    pub(super) fn stop(mut self) -> Ended {
        self.files.remove_ingest();
        let stopped = self.accept.stop(WRITERS_TIMEOUT);
        if stopped.writers_left > 0 {
            tracing::warn!(
                writers = stopped.writers_left,
                "writers still wait for room in the buffer; what their connections hold is not read"
            );
        }
        let ended = Ended { error: self.drain.stop(DISK_TIMEOUT).error };
        // A notification that is still in this process is lost with it, and the next process would find connections
        // that have ended.
        let waiting = self.store.map_or(0, |store| store.store.settle(MANAGER_TIMEOUT));
        if waiting > 0 {
            tracing::warn!(waiting, "the service manager has not read all notifications; connections may break");
        }
        ended
    }
}

fn buffer_options(config: &Config, writers: usize) -> buffer::Options {
    let default = buffer::Options::default();
    // The halves consist of whole chunks.
    let capacity_bytes = config.buffer.capacity_bytes.next_multiple_of(default.chunk_bytes);
    buffer::Options { capacity_bytes, writers_max: writers, ..default }
}

fn drain_settings(config: &Config) -> drain::Settings {
    drain::Settings { storage: config.storage.clone(), linger: config.buffer.linger, measure: config.stats.enabled }
}

fn warn_of(plan: &Plan) {
    if !plan.left_out.is_empty() {
        tracing::warn!(cores = ?plan.left_out, "no thread is pinned to these cores: dbufd may not use them");
    }
}

/// Raises the soft limit of open descriptors to the hard one, because every connection takes a descriptor. The soft
/// limit is low only for programs that use select(2), and dbufd does not.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open descriptors; fewer connections are accepted");
    }
}
