//! The daemon, put together in order and taken apart in order.
//!
//! Enters: the checked configuration. Leaves: threads that run, and the values through which the control plane speaks
//! with them. Main thread. What can fail: [`Daemon::start`], with one sentence; what had been started is then taken
//! back by dropping it.
//!
//! Start: 1. the runtime directory is taken; 2. segments are opened and recovered, and the reader runs; 3. sockets;
//! 4. writers. So whatever a client can send finds a place to go, and a second daemon stops before it touches anything.
//!
//! Stop: 1. the sockets' files go, so that nobody new comes; 2. the writers take what the kernel still holds and end;
//! 3. the reader persists everything and seals the segment; 4. systemd takes the last notifications about what it is to
//! keep; 5. the lock goes with the process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Gid;

use super::cores::{self, Plan};
use super::sockets::{Files, Runtime};
use super::stats::Figures;
use super::takeover::{Memory, Store};
use crate::config::Config;
use crate::pipeline::accept::{Accept, AcceptOptions};
use crate::pipeline::assembly::Pipeline;
use crate::pipeline::buffer;
use crate::pipeline::drain::{self, Drain, DrainHandle};
use crate::pipeline::pulse::{Beat, Pulse};
use crate::pipeline::store::Recovery;
use crate::pipeline::takeover::names::Inherited;
use crate::sync::Arc;

/// How long the writers may take to empty what the kernel holds of their connections.
const WRITERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a disk that refuses is tried before what it did not take is left to the next process, or counted as lost.
const DISK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a start waits for a service manager that is busy, as it is while it reloads its units.
const MANAGER_START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the service manager may take to read the last notifications.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(5);

/// A running daemon, without its control socket and its signals.
pub(super) struct Daemon {
    files: Files,
    accept: Accept,
    drain: Drain,
    store: Option<Store>,
    /// Last, so that the lock goes after everything else.
    _runtime: Runtime,
}

/// What else a start brings.
pub(super) struct Parts {
    /// The control socket.
    pub(super) control: OwnedFd,
    /// What recovery found.
    pub(super) recovery: Recovery,
    /// For looking on.
    pub(super) live: Live,
}

/// How the control plane looks at a daemon and asks it for something, also while it stops.
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
        let store = Store::start(&inherited)?;
        let plan = cores::plan(config, &cores::allowed());
        warn_of(&plan);
        let memory = Memory::take_over(config, &buffer_options(config, plan.writers.len()), store.as_ref(), inherited)?;
        let Memory { pipeline, sessions, rings, receive_buffers, stored, connections } = memory;
        // What is taken in before the manager has the memory that it goes into would be lost with this process.
        let waiting = store.as_ref().map_or(0, |store| store.store.wait_taken(MANAGER_START_TIMEOUT));
        if waiting > 0 {
            tracing::warn!(waiting, "the service manager takes no notifications; a crash would lose what is in memory");
        }
        let (pipeline, recovery) = Pipeline::start(pipeline, drain_settings(config), plan.reader)?;
        let Pipeline { buffer, counters, progress, drain } = pipeline;
        // What fails from here on must not leave the reader and its lock on the directory behind.
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
        let figures = Figures { started, counters, buffer, drain: drain.handle(), stored, rings };
        let parts = Parts { control, recovery, live: Live { figures, writers: accept.pulses() } };
        Ok((Self { files, accept, drain, store, _runtime: runtime }, parts))
    }

    /// Takes over the part of a new configuration that a running daemon can.
    pub(super) fn reconfigure(&self, old: &Config, new: &Config, group: Option<Gid>) -> Result<()> {
        let access = |config: &Config| (config.ingest.socket_mode, config.ingest.socket_group.clone());
        if access(old) != access(new) {
            self.files.set_access(new.ingest.socket_mode, group).context("cannot change who may send")?;
        }
        self.accept.set_max_event_bytes(new.ingest.max_event_bytes);
        self.drain.handle().command(drain::ReaderCommand::Reconfigure(Box::new(drain_settings(new))));
        Ok(())
    }

    /// Drains, persists, seals. Blocks until it is done or the time is over.
    pub(super) fn stop(mut self) -> Ended {
        self.files.remove_ingest();
        let stopped = self.accept.stop(WRITERS_TIMEOUT);
        if stopped.writers_left > 0 {
            tracing::warn!(writers = stopped.writers_left, "writers still wait for room in the buffer");
        }
        let ended = Ended { error: self.drain.stop(DISK_TIMEOUT).error };
        // A notification that waits in this process dies with it, and the next one would find connections that have
        // ended.
        let waiting = self.store.map_or(0, |store| store.store.settle(MANAGER_TIMEOUT));
        if waiting > 0 {
            tracing::warn!(waiting, "the service manager has not taken all notifications; some connections may break");
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
        tracing::warn!(cores = ?plan.left_out, "these cores are not allowed to dbufd (see taskset -p); left out");
    }
}

/// Every connection costs a descriptor, so as many as the hard limit gives. The soft one is low for the sake of
/// programs that use select(2).
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open descriptors; there may be fewer connections");
    }
}
