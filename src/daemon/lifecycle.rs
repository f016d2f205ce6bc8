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
//! 3. the reader persists everything and seals the segment; 4. the lock goes with the process.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Gid;

use super::buffer_memory::{self, BufferMemory};
use super::cores::{self, Plan};
use super::inherited_fds::InheritedFds;
use super::sockets::{Files, Runtime};
use super::stats::Figures;
use crate::config::Config;
use crate::pipeline::accept::connection::stored::{InheritedConnection, InheritedConnections, StoredConnections};
use crate::pipeline::accept::frames::{PreviousSessions, Sessions};
use crate::pipeline::accept::ring::registry::{self, InheritedRings, RingLimits, Rings};
use crate::pipeline::accept::writer::receive_buffer::ReceiveBuffers;
use crate::pipeline::accept::{Accept, AcceptOptions};
use crate::pipeline::account::{self, Account};
use crate::pipeline::buffer::{self, DoubleBuffer, PublishPosition};
use crate::pipeline::counters::Counters;
use crate::pipeline::drain::{self, Drain, DrainHandle};
use crate::pipeline::progress::Progress;
use crate::pipeline::pulse::{Beat, Pulse};
use crate::pipeline::store::{RealDisk, Recovery};
use crate::sync::Arc;
use crate::sys::fdstore::FdStore;

/// Rings have no more than this part of the store.
const RINGS_SHARE: usize = 2;
/// How long the writers may take to empty what the kernel holds of their connections.
const WRITERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a disk that refuses is tried before what it did not take is left to the next process, or counted as lost.
const DISK_TIMEOUT: Duration = Duration::from_secs(30);

/// A running daemon, without its control socket and its signals.
pub(super) struct Daemon {
    files: Files,
    accept: Accept,
    drain: Drain,
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
        let passed = InheritedFds::sort(passed);
        let store = passed.store().context("cannot use systemd's file-descriptor store")?;
        let plan = cores::plan(config, &cores::allowed());
        warn_of(&plan);
        let writers = plan.writers.len();
        let InheritedFds { sockets, left, halves, sessions, receive_buffers, account, rings, .. } = passed;
        let stored = [halves, receive_buffers, account];
        let memory =
            Memory::take_over(config, writers, store.as_ref().map(|(store, _)| store), stored, sessions.as_ref())?;
        let Memory { halves: BufferMemory { buffer, reader, old, previous }, sessions, receive_buffers, counters } =
            memory;
        let rings = take_over_rings(config, store.as_ref(), rings, previous.as_ref())?;
        let progress = Arc::new(Progress::new(writers).context("cannot make the writers' bells")?);
        let (drain, recovery) = Drain::start(drain::Options {
            reader,
            waker: buffer.waker(),
            old,
            has_previous: previous.is_some(),
            outlives: store.is_some(),
            disk: Arc::new(RealDisk),
            counters: Arc::clone(&counters),
            progress: Arc::clone(&progress),
            settings: drain_settings(config),
            cpu: plan.reader,
        })?;
        // What fails from here on must not leave the reader and its lock on the directory behind.
        let rest = runtime.open(&config.ingest, group, sockets).and_then(|sockets| {
            let receive_buffer_store = store.as_ref().map(|(store, _)| Arc::clone(store));
            let (stored, inherited) = keep_connections(store, left, &receive_buffers, rings_room(config))?;
            let accept = Accept::start(AcceptOptions {
                listeners: sockets.listeners,
                buffer: buffer.clone(),
                counters: Arc::clone(&counters),
                progress,
                cpus: plan.writers,
                max_event_bytes: config.ingest.max_event_bytes,
                stored: stored.clone(),
                inherited,
                sessions,
                rings: Arc::clone(&rings),
                receive_buffers,
                store: receive_buffer_store,
            })?;
            Ok((accept, stored, sockets.control, sockets.files))
        });
        let (accept, stored, control, files) = match rest {
            Ok(rest) => rest,
            Err(error) => {
                drain.stop(Duration::ZERO);
                return Err(error);
            }
        };
        let figures = Figures { started, counters, buffer, drain: drain.handle(), stored, rings };
        let parts = Parts { control, recovery, live: Live { figures, writers: accept.pulses() } };
        Ok((Self { files, accept, drain, _runtime: runtime }, parts))
    }

    /// Takes over the part of a new configuration that a running daemon can.
    pub(super) fn reconfigure(&self, old: &Config, new: &Config, group: Option<Gid>) -> Result<()> {
        let access = |config: &Config| (config.ingest.socket_mode, config.ingest.socket_group.clone());
        if access(old) != access(new) {
            self.files.set_access(new.ingest.socket_mode, group).context("cannot change who may send")?;
        }
        self.accept.set_max_event_bytes(new.ingest.max_event_bytes);
        self.drain.handle().command(drain::Command::Reconfigure(Box::new(drain_settings(new))));
        Ok(())
    }

    /// Drains, persists, seals. Blocks until it is done or the time is over.
    pub(super) fn stop(mut self) -> Ended {
        self.files.remove_ingest();
        let stopped = self.accept.stop(WRITERS_TIMEOUT);
        if stopped.writers_left > 0 {
            tracing::warn!(writers = stopped.writers_left, "writers still wait for room in the buffer");
        }
        Ended { error: self.drain.stop(DISK_TIMEOUT).error }
    }
}

/// All that outlives the daemon, beside its connections.
struct Memory {
    halves: BufferMemory,
    sessions: Arc<Sessions>,
    receive_buffers: Vec<ReceiveBuffers>,
    counters: Arc<Counters>,
}

impl Memory {
    /// New, or that of the previous process: what is kept of its halves, its desks and its account, and its sessions.
    ///
    /// Before the reader runs: what was published can be told only as long as the buffer is as it was left.
    fn take_over(
        config: &Config,
        writers: usize,
        store: Option<&Arc<FdStore>>,
        [halves, receive_buffers, account]: [Vec<(OwnedFd, String)>; 3],
        sessions: Option<&OwnedFd>,
    ) -> Result<Self> {
        let halves = buffer_memory::take_over(store, halves, &buffer_options(config, writers))?;
        let previous = halves.previous.as_ref();
        let sessions = take_over_sessions(store, sessions, previous)?;
        let was_published = |spot: PublishPosition| previous.is_some_and(|(buffer, _)| buffer.was_published(spot));
        let account = match store {
            Some(store) => {
                let ask: &dyn Fn(PublishPosition) -> bool = &was_published;
                Account::take_over(writers, store, &account, previous.is_some().then_some(ask))
            }
            None => Account::new(writers),
        };
        let account = account.context("there is no memory for the account of events")?;
        let receive_buffers =
            ReceiveBuffers::take_over(writers, store.map(|store| &**store), receive_buffers, &was_published)
                .context("there is no memory for what the writers read")?;
        Ok(Self { sessions, receive_buffers, counters: Arc::new(Counters::with_account(writers, account)), halves })
    }
}

/// The sessions, also those of the previous process whose buffer says what became of its last publish.
fn take_over_sessions(
    store: Option<&Arc<FdStore>>,
    memory: Option<&OwnedFd>,
    previous: Option<&(DoubleBuffer, u64)>,
) -> Result<Arc<Sessions>> {
    let Some(store) = store else { return Ok(Sessions::new()) };
    let was_published = |spot| previous.is_some_and(|(buffer, _)| buffer.was_published(spot));
    let generation = previous.map_or(0, |(_, generation)| *generation);
    let previous = memory.map(|memory| PreviousSessions { memory, was_published: &was_published, generation });
    Sessions::stored(store, previous.as_ref()).context("cannot keep sessions over a restart")
}

/// Descriptors that rings may take in the store, and one for how far each was taken.
fn rings_room(config: &Config) -> usize {
    config.ingest.rings * registry::DESCRIPTORS + 1
}

/// The rings, also those of the previous process. Before the reader runs.
fn take_over_rings(
    config: &Config,
    store: Option<&(Arc<FdStore>, usize)>,
    left: InheritedRings,
    previous: Option<&(DoubleBuffer, u64)>,
) -> Result<Arc<Rings>> {
    let ingest = &config.ingest;
    let limits = RingLimits { rings: ingest.rings, bytes: ingest.ring_bytes };
    let Some((store, room)) = store else { return Ok(Rings::new(limits)) };
    let was_published = |spot: PublishPosition| previous.is_some_and(|(buffer, _)| buffer.was_published(spot));
    let generation = previous.map_or(0, |(_, generation)| *generation);
    Rings::stored(limits, store, rings_room(config).min(room / RINGS_SHARE), left, (&was_published, generation))
        .context("there is no memory for what is known of rings")
}

/// Keeps connections for the next process, where there is a store; and those of the previous process.
fn keep_connections(
    store: Option<(Arc<FdStore>, usize)>,
    mut left: InheritedConnections,
    receive_buffers: &[ReceiveBuffers],
    rings_room: usize,
) -> Result<(Option<Arc<StoredConnections>>, Vec<InheritedConnection>)> {
    left.in_receive_buffers = receive_buffers.iter().flat_map(ReceiveBuffers::slots).collect();
    // A receive buffer for each writer, the sessions; the buffer and the account, of which there may be two each for a moment.
    let memory = receive_buffers.len() + 1 + buffer_memory::NAMES.len() + account::NAMES.len();
    let room_for = |room: usize| room.saturating_sub(memory + rings_room.min(room / RINGS_SHARE));
    let stored = store.map(|(store, room)| StoredConnections::open(store, room_for(room), left));
    let (stored, inherited) = stored.transpose().context("cannot keep connections over a restart")?.unzip();
    let inherited: Vec<InheritedConnection> = inherited.unwrap_or_default();
    if !inherited.is_empty() {
        tracing::info!(connections = inherited.len(), "goes on with the connections of its predecessor");
    }
    Ok((stored, inherited))
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

/// Every connection costs a descriptor, so as many as the hard limit gives. The soft one is low for the sake of programs
/// that use select(2).
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open descriptors; there may be fewer connections");
    }
}
