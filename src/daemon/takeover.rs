//! Takes over what the previous process left, in an order that keeps its publish notes valid.
//!
//! Input: the descriptors that systemd passed. Output: the memory of the new process, in which every publish of the
//! previous process is either done or not begun, and its connections. Main thread, at the start, before any other
//! thread runs. Failures: no memory is left.
//!
//! These are steps 1 to 3 of "The order of a start" in `docs/ARCHITECTURE.md`: find the buffers, resolve all publish
//! notes, create what is missing.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::sys::resource::{self, getrlimit};
use nix::unistd::geteuid;

use super::buffer_memory::{BufferMemory, InheritedBuffers};
use super::server::CLIENTS_MAX;
use crate::config::Config;
use crate::pipeline::accept::connection::stored::{InheritedConnection, InheritedConnections, StoredConnections};
use crate::pipeline::accept::frames::{SessionTable, Sessions};
use crate::pipeline::accept::limits::{SENDERS_MAX, SESSIONS_MAX};
use crate::pipeline::accept::publish::receive_buffer::{InheritedReceiveBuffer, ReceiveBuffers};
use crate::pipeline::accept::ring::registry::{self, InheritedRings, Rings};
use crate::pipeline::accept::ring::table::RingTable;
use crate::pipeline::account::{Account, InheritedAccount, PRODUCERS_MAX};
use crate::pipeline::assembly;
use crate::pipeline::buffer::{Options, PublishPosition};
use crate::pipeline::counters::Counters;
use crate::pipeline::progress::Progress;
use crate::pipeline::shares::{Resource, Shares, throttle};
use crate::pipeline::takeover::names::{Inherited, Name};
use crate::sync::Arc;
use crate::sys::fdstore::{FdStore, room_from_environment};
use crate::sys::notify::Notifier;

/// Descriptors that the daemon itself has: an idle one with two writers has 31.
const DESCRIPTORS_OWN: u64 = 64;
/// Descriptors that connections leave beside these, or half of the rest if that is less: for segments and their
/// directory, watched processes, clients of the control socket.
const DESCRIPTORS_RESERVED: u64 = 1024;
/// Rings take at most the room of the store divided by this.
const RINGS_SHARE: usize = 2;

/// systemd's file-descriptor store, and how many descriptors it holds at most.
#[derive(Clone, Debug)]
pub(super) struct DescriptorStore {
    pub(super) store: Arc<FdStore>,
    room: usize,
}

impl DescriptorStore {
    /// None if no manager listens, or if the store has no room and holds nothing.
    pub(super) fn start(inherited: &Inherited) -> Result<Option<Self>> {
        let room = room_from_environment();
        // A wrong NOTIFY_SOCKET is reported in `service`, which sends the notifications about the daemon's state.
        let notifier = Notifier::from_environment().unwrap_or_default();
        let Some(notifier) = notifier.filter(|_| room > 0 || !inherited.is_empty()) else { return Ok(None) };
        let names: Vec<String> = inherited.names().collect();
        let store = FdStore::start(notifier, names.iter().map(String::as_str));
        let store = store.context("cannot use systemd's file-descriptor store")?;
        for name in &inherited.unknown {
            tracing::warn!(name, "systemd stores a descriptor that this version of dbufd does not know; it is removed");
            store.remove(name);
        }
        Ok(Some(Self { store: Arc::new(store), room }))
    }
}

/// The memory and the connections of the new process.
pub(super) struct Memory {
    pub(super) pipeline: assembly::Memory,
    pub(super) shares: Arc<Shares>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) rings: Arc<Rings>,
    pub(super) receive_buffers: Vec<ReceiveBuffers>,
    pub(super) stored: Option<Arc<StoredConnections>>,
    pub(super) connections: Vec<InheritedConnection>,
}

/// What the previous process left, with its notes resolved.
struct Found {
    buffers: InheritedBuffers,
    sessions: Option<SessionTable>,
    rings: InheritedRings,
    account: InheritedAccount,
    receive_buffers: Vec<InheritedReceiveBuffer>,
    progress: Option<OwnedFd>,
    connections: InheritedConnections,
}

impl Found {
    /// Steps 1 and 2.
    fn resolve(store: &FdStore, mut inherited: Inherited, writers: usize) -> Self {
        let halves = inherited.take(|name| matches!(name, Name::Halves(_)).then_some(name));
        let buffers = InheritedBuffers::find(store, halves, writers);
        let account = inherited.take(|name| matches!(name, Name::Account(_)).then_some(name));
        let receive_buffers =
            inherited.take(|name| if let Name::ReceiveBuffer(index) = name { Some(index) } else { None });
        let kept_twice = inherited.take_lines_kept_twice();
        let is_part = |name| matches!(name, Name::Ring(_) | Name::RingLine(_));
        let found = Self {
            sessions: inherited.take_one(Name::Sessions).and_then(SessionTable::inherit),
            rings: InheritedRings {
                ring_table: inherited.take_one(Name::Rings).and_then(RingTable::inherit),
                parts: inherited.take(|name| is_part(name).then_some(name)),
            },
            account: InheritedAccount::find(account),
            receive_buffers: receive_buffers
                .into_iter()
                .map(|(index, memory)| InheritedReceiveBuffer::new(index, memory))
                .collect(),
            progress: inherited.take_one(Name::Progress),
            connections: InheritedConnections {
                connections: inherited.take(|name| if let Name::Connection(slot) = name { Some(slot) } else { None }),
                read_positions: inherited.take_one(Name::ReadPositions),
                in_receive_buffers: Vec::new(),
                kept_twice,
            },
            buffers,
        };
        let was_published = |position: PublishPosition| found.buffers.was_published(position);
        found.sessions.iter().for_each(|sessions| sessions.resolve(&was_published));
        found.rings.ring_table.iter().for_each(|rings| rings.resolve(&was_published));
        found.receive_buffers.iter().for_each(|buffer| buffer.resolve(&was_published));
        found.account.resolve(&was_published);
        found
    }
}

impl Memory {
    /// Memory for `options.writers_max` writers: that of the previous process if there is a store, and new memory.
    pub(super) fn take_over(
        config: &Config,
        options: &Options,
        store: Option<&DescriptorStore>,
        inherited: Inherited,
    ) -> Result<Self> {
        match store {
            Some(store) => {
                let found = Found::resolve(&store.store, inherited, options.writers_max);
                Self::create(config, options, store, found)
            }
            None => Self::create_alone(config, options),
        }
    }

    /// Step 3.
    fn create(
        config: &Config,
        options: &Options,
        DescriptorStore { store, room }: &DescriptorStore,
        found: Found,
    ) -> Result<Self> {
        let writers = options.writers_max;
        let Found { buffers, sessions, rings, account, receive_buffers, progress, mut connections } = found;
        let progress = Progress::take_over(store, &Name::Progress.to_string(), progress, writers);
        let progress = progress.context("cannot create the memory for progress")?;
        let highest = progress.highest_generation();
        let lost = buffers.lost_generations(highest, progress.durable_before());
        if !lost.is_empty() {
            tracing::warn!("memory of the previous process is gone; events that only this memory held may be lost");
            // Some of it may be in a file.
            progress.note_lost_in_file(&(lost.start..=lost.end - 1));
        }
        // A receive buffer for each writer; read positions, sessions and progress. Of the buffer and the account there
        // are two while one replaces the other.
        let memories = writers + 3 + (buffers.count() + 1).max(2) + 2;
        let rings_room = (config.ingest.rings * registry::DESCRIPTORS + 1).min(room / RINGS_SHARE);
        let connections_room = room.saturating_sub(memories + rings_room);
        let shares = shares(config, StoredConnections::capacity(connections_room));
        let account = Account::take_over(writers, Arc::clone(&shares), store, account, !buffers.is_empty());
        let account = account.context("no memory for the account of events")?;
        let receive_buffers = ReceiveBuffers::take_over(writers, Some(store), receive_buffers)
            .context("no memory for the receive buffers")?;
        connections.in_receive_buffers = receive_buffers.iter().flat_map(ReceiveBuffers::slots).collect();
        let (stored, connections) = StoredConnections::open(Arc::clone(&shares), Arc::clone(store), connections)
            .context("cannot keep connections over a restart")?;
        if !connections.is_empty() {
            tracing::info!(connections = connections.len(), "resumes the connections of the previous process");
        }
        let has_previous = highest > 0 || !buffers.is_empty();
        let BufferMemory { buffer, reader, old } = buffers.into_memory(store, options, highest)?;
        // Noted before anything is published: a next process that does not find this memory can then tell.
        progress.set_highest_generation(buffer.generation());
        let counters = Arc::new(Counters::with_account(writers, account));
        let progress = Arc::new(progress);
        let front_budget = shares.throttle().front_budget();
        Ok(Self {
            pipeline: assembly::Memory {
                buffer,
                reader,
                counters,
                progress,
                old,
                has_previous,
                outlives: true,
                front_budget,
            },
            sessions: Sessions::stored(Arc::clone(&shares), store, sessions)
                .context("cannot keep sessions over a restart")?,
            rings: Rings::stored(Arc::clone(&shares), store, rings_room, rings)
                .context("no memory for the table of rings")?,
            shares,
            receive_buffers,
            stored: Some(stored),
            connections,
        })
    }

    /// Without a store, nothing survives the process.
    fn create_alone(config: &Config, options: &Options) -> Result<Self> {
        let shares = shares(config, 0);
        let account = Account::sharing(Arc::clone(&shares), options.writers_max);
        let account = account.context("no memory for the account of events")?;
        let counters = Arc::new(Counters::with_account(options.writers_max, account));
        Ok(Self {
            pipeline: assembly::Memory {
                counters,
                front_budget: shares.throttle().front_budget(),
                ..assembly::Memory::new(options)?
            },
            sessions: Sessions::new(Arc::clone(&shares)),
            rings: Rings::new(Arc::clone(&shares)),
            shares,
            receive_buffers: ReceiveBuffers::take_over(options.writers_max, None, Vec::new())
                .context("no memory for the receive buffers")?,
            stored: None,
            connections: Vec::new(),
        })
    }
}

/// What the users of the machine share.
fn shares(config: &Config, stored_connections: u64) -> Arc<Shares> {
    let capacity = |resource: Resource| match resource {
        Resource::Connections => connections_max(),
        Resource::StoredConnections => stored_connections,
        Resource::Sessions => SESSIONS_MAX as u64,
        Resource::Rings => config.ingest.rings as u64,
        Resource::RingBytes => config.ingest.ring_bytes,
        Resource::Producers => PRODUCERS_MAX as u64,
        Resource::Senders => SENDERS_MAX as u64,
        Resource::ControlConnections => CLIENTS_MAX,
        // Not held, so it has no capacity here.
        Resource::SystemdTime => 0,
    };
    let shares = Shares::new(Resource::ALL.map(capacity), geteuid().as_raw());
    set_limits(&shares, config);
    shares
}

/// Sets the limits of users.
pub(super) fn set_limits(shares: &Shares, config: &Config) {
    shares.set_enabled(config.limits.shares);
    shares.throttle().set(throttle::UserLimits {
        events_per_second: config.limits.events_per_second.map(|events| events as u64),
        bytes_per_second: config.limits.bytes_per_second,
        keep_at_least: config.storage.keep_at_least,
    });
}

/// Connections that leave enough descriptors to all the rest.
fn connections_max() -> u64 {
    let (limit, _) = getrlimit(resource::Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    connections_within(limit)
}

fn connections_within(descriptors: u64) -> u64 {
    let left = descriptors - DESCRIPTORS_OWN.min(descriptors / 2);
    left - DESCRIPTORS_RESERVED.min(left / 2)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::IoSliceMut;
    use std::mem::MaybeUninit;
    use std::os::unix::net::UnixDatagram;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;
    use crate::pipeline::account::{Identity, Tally};
    use crate::pipeline::drain;
    use crate::pipeline::record::Cause;

    #[test]
    fn connections_leave_descriptors_whatever_the_limit_is() {
        let connections = [0, 2, 64, 1024, 524_288].map(connections_within);
        assert_eq!(connections, [0, 1, 16, 480, 523_200]);
    }

    /// A manager that keeps what it is given.
    struct Manager {
        folder: tempfile::TempDir,
        socket: UnixDatagram,
        kept: HashMap<String, OwnedFd>,
    }

    impl Manager {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(folder.path().join("n")).unwrap();
            Self { folder, socket, kept: HashMap::new() }
        }

        /// A start of a process with all that was kept.
        fn start(&mut self) -> Memory {
            let notifier = Notifier::to(self.folder.path().join("n").to_str().unwrap().as_bytes()).unwrap();
            let store = FdStore::start(notifier, self.kept.keys().map(String::as_str)).unwrap();
            let store = DescriptorStore { store: Arc::new(store), room: 100 };
            let kept = self.kept.iter().map(|(name, descriptor)| (descriptor.try_clone().unwrap(), name.clone()));
            let inherited = Inherited::sort(kept.collect());
            let options = Options { writers_max: 1, ..Options::default() };
            let memory = Memory::take_over(&Config::default(), &options, Some(&store), inherited).unwrap();
            assert_eq!(store.store.wait_taken(std::time::Duration::from_secs(20)), 0);
            memory
        }

        /// Takes what it was given, but for memory of this name.
        fn take_all_but(&mut self, lost: &str) {
            let (mut bytes, mut space) = ([0; 256], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
            loop {
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
                let Ok(got) = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) else {
                    return;
                };
                let text = String::from_utf8_lossy(&bytes[..got.bytes]).into_owned();
                let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap();
                let descriptor = control.drain().find_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                    _ => None,
                });
                if let Some(descriptor) = descriptor.filter(|_| name != lost) {
                    self.kept.insert(name.to_owned(), descriptor);
                }
            }
        }
    }

    #[test]
    fn what_only_memory_held_that_no_manager_had_is_lost_and_no_generation_is_given_out_twice() {
        let mut manager = Manager::new();
        let mut fronts = Vec::new();
        for _ in 0..3 {
            let memory = manager.start();
            manager.take_all_but("halves");
            let progress = &memory.pipeline.progress;
            assert!(fronts.iter().all(|before| progress.was_lost(*before)), "{fronts:?}");
            let front = memory.pipeline.buffer.generation();
            assert!(!progress.was_lost(front) && fronts.last() < Some(&front));
            fronts.push(front);
        }
    }

    #[test]
    fn what_the_account_has_in_memory_is_lost_where_no_halves_are_left() {
        let mut manager = Manager::new();
        let memory = manager.start();
        let account = &memory.pipeline.counters.account;
        let mut recorder = account.recorder(0);
        recorder.prepare(&account.producer(&Identity::default()), &Tally { events: 5, bytes: 50, ..Tally::default() });
        recorder.published();
        drop((recorder, memory));
        manager.take_all_but("halves");
        // A start that comes no further changes nothing, although the next one finds its halves.
        drop(manager.start());
        manager.take_all_but("");
        let directory = manager.folder.path().join("segments");
        let mut config = Config::default();
        config.storage.directory = directory;
        let settings = drain::Settings { storage: config.storage, linger: config.buffer.linger, measure: false };
        let (pipeline, _) = assembly::Pipeline::start(manager.start().pipeline, settings, None).unwrap();
        let totals = pipeline.counters.account.totals();
        assert_eq!((totals.received_events, totals.lost[Cause::Abandoned as usize], totals.lost_total()), (5, 5, 5));
        assert_eq!(pipeline.drain.stop(std::time::Duration::ZERO).error, None);
    }
}
