//! Where bytes arrive and become events.
//!
//! Enters: bytes on the stream socket (text lines, syslog, or the framed protocol) and on the datagram socket (plain
//! bytes or syslog). Leaves: records in the front half of the buffer. N pinned writer threads run all of it.
//! What can fail: only [`Accept::start`]; nothing that a client sends makes a writer end.
//!
//! - Each writer has an epoll set of its own and listens on the stream socket; a client goes to the writer with the
//!   fewest connections and stays there, so that its order needs no effort. The datagram socket is the first writer's.
//! - One read of a socket is one acceptance time, and one claim of the buffer as a rule (see `publish`).
//! - While the buffer is full a writer waits for room and reads nothing: the kernel's queues push back on the senders.
//!
//! The way through the files: `listener` → `stream` (→ `text` → `lines`, `meaning`, `syslog`; or → `framed`, [`frames`])
//! and `datagram` (→ `senders`, `meaning`) → `publish` (→ `source`, `losses`). `writer` is the thread, `peer` says who,
//! [`kept`] keeps connections for the next process, [`desk`] what is just being read. [`ring`] is the way without a socket: memory
//! that a program shares with its writer.

pub mod connection;
pub(crate) mod datagram;
pub mod frames;
pub mod limits;
pub(crate) mod publish;
pub mod ring;
pub(crate) mod text;
pub mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use dbuf_wire::frames::{MAGIC, is_framed};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{setsockopt, sockopt::PassCred};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{RecvFlags, recv};

use self::connection::listener::Listener;
use self::connection::stored::{InheritedConnection, StoredConnection, StoredConnections};
use self::frames::Sessions;
use self::limits::OVERHEAD_BYTES_MAX;
use self::publish::Publisher;
use self::ring::Ring;
use self::ring::registry::Rings;
use self::writer::WriterThread;
use self::writer::context::WriterContext;
use self::writer::receive_buffer::ReceiveBuffers;
use super::account::Identity;
use super::buffer::{DoubleBuffer, TooManyWriters};
use super::counters::Counters;
use super::progress::Progress;
use super::pulse::Pulse;
use super::record::padded;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard, mpsc, thread};
use crate::sys::fdstore::FdStore;

/// The sockets that events come in by.
#[derive(Debug)]
pub struct Sockets {
    /// A stream socket that listens.
    pub stream: OwnedFd,
    /// A datagram socket that is bound.
    pub datagram: OwnedFd,
    /// They are systemd's, and stay when this process ends: what is not taken out of them is not lost.
    pub are_passed: bool,
}

/// What [`Accept::start`] takes.
#[derive(Debug)]
pub struct AcceptOptions {
    /// Where events come in.
    pub sockets: Sockets,
    /// Where events go; it can have one writer for each of `cpus`.
    pub buffer: DoubleBuffer,
    /// Where they are counted; it has one writer for each of `cpus`.
    pub counters: Arc<Counters>,
    /// How far the reader is; it has one writer for each of `cpus`.
    pub progress: Arc<Progress>,
    /// One writer thread for each, pinned to that core if there is one.
    pub cpus: Vec<Option<usize>>,
    /// `ingest.max_event`.
    pub max_event_bytes: usize,
    /// Where connections are kept for the next process, if there is such a place.
    pub stored: Option<Arc<StoredConnections>>,
    /// Connections that the previous process left.
    pub inherited: Vec<InheritedConnection>,
    /// The sessions of the framed protocol.
    pub sessions: Arc<Sessions>,
    /// The rings, also those that the previous process left.
    pub rings: Arc<Rings>,
    /// Where the writers read; one for each of `cpus`.
    pub receive_buffers: Vec<ReceiveBuffers>,
    /// Where receive buffers of writers that there are no more are kept until they are finished.
    pub store: Option<Arc<FdStore>>,
}

/// Why writers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refused a descriptor, an option or a thread.
    #[error("the writers cannot start: {0}")]
    Kernel(#[from] io::Error),
    /// The buffer was built for fewer writers.
    #[error("the writers cannot start: {0}; build the buffer for more")]
    Writers(#[from] TooManyWriters),
    /// The largest event would never fit.
    #[error(
        "ingest.max_event of {max_event_bytes} bytes does not fit: the buffer takes at most {limit_bytes}; make one smaller or the other larger"
    )]
    MaxEvent {
        /// What was asked for.
        max_event_bytes: usize,
        /// What fits.
        limit_bytes: usize,
    },
}

/// The writers, while they run.
#[derive(Debug)]
pub struct Accept {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
    ended: mpsc::Receiver<usize>,
    limit_bytes: usize,
}

/// How the writers stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Stopped {
    /// Writers that still waited for room when the time was over. They end when the buffer's reader is dropped.
    pub writers_left: usize,
}

/// What all writers see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) writers: Box<[WriterHandle]>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) max_event_bytes: AtomicUsize,
    pub(crate) stored: Option<Arc<StoredConnections>>,
    pub(crate) store: Option<Arc<FdStore>>,
    pub(crate) sockets_are_passed: bool,
}

/// One writer, as others see it.
#[derive(Debug)]
pub(crate) struct WriterHandle {
    pub(crate) inbox: Mutex<Inbox>,
    pub(crate) bell: EventFd,
    pub(crate) pulse: Arc<Pulse>,
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) newcomers: Vec<Newcomer>,
    /// When to have stopped; None while there is no such order.
    pub(crate) stop_by: Option<Instant>,
    pub(crate) is_closed: bool,
}

/// What previous processes left for one writer, and its own receive buffer.
#[derive(Debug)]
pub(crate) struct InheritedWork {
    pub(crate) receive_buffers: ReceiveBuffers,
    pub(crate) inherited: Vec<InheritedConnection>,
    /// Each with its connection.
    pub(crate) rings: Vec<(OwnedFd, Ring)>,
}

/// A client that was accepted by one writer for another.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) stored: StoredConnection,
    pub(crate) identity: Identity,
}

impl Accept {
    /// Starts the writers.
    ///
    /// # Errors
    /// [`StartError`]; no thread runs then.
    ///
    /// # Panics
    /// When there are not as many desks as writers.
    pub fn start(options: AcceptOptions) -> Result<Self, StartError> {
        let AcceptOptions {
            sockets,
            buffer,
            counters,
            progress,
            cpus,
            max_event_bytes,
            stored,
            inherited,
            sessions,
            rings,
            receive_buffers,
            store,
        } = options;
        let limit_bytes = buffer.largest_claim().saturating_sub(OVERHEAD_BYTES_MAX);
        if padded(max_event_bytes) > limit_bytes {
            return Err(StartError::MaxEvent { max_event_bytes, limit_bytes });
        }
        set_nonblocking(&sockets.stream)?;
        setsockopt(&sockets.datagram, PassCred, &true).map_err(io::Error::from)?;
        let handle = || -> io::Result<WriterHandle> {
            let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
            Ok(WriterHandle { inbox: Mutex::default(), bell, pulse: Arc::default() })
        };
        let shared = Arc::new(Shared {
            writers: cpus.iter().map(|_| handle()).collect::<io::Result<_>>()?,
            counters,
            max_event_bytes: AtomicUsize::new(max_event_bytes),
            stored,
            store,
            sockets_are_passed: sockets.are_passed,
        });
        let stream = Arc::new(sockets.stream);
        let mut datagram = Some(sockets.datagram);
        assert_eq!(receive_buffers.len(), cpus.len(), "each writer has its desk");
        let inherited = by_writer(&receive_buffers, inherited);
        let of_each = receive_buffers.into_iter().zip(inherited);
        let mut inherited_rings: Vec<Vec<_>> = cpus.iter().map(|_| Vec::new()).collect();
        for (turn, ring) in rings.take_inherited().into_iter().enumerate() {
            inherited_rings[turn % cpus.len()].push(ring);
        }
        let workers = (0..cpus.len()).zip(of_each).map(
            |(index, (receive_buffers, inherited))| -> Result<WriterThread, StartError> {
                let pulse = Arc::clone(&shared.writers[index].pulse);
                let publisher = Publisher::new(buffer.writer()?, index, Arc::clone(&shared.counters), pulse);
                let (sessions, progress) = (Arc::clone(&sessions), Arc::clone(&progress));
                let context = WriterContext::new(
                    publisher,
                    index,
                    max_event_bytes,
                    sessions,
                    progress,
                    buffer.waker(),
                    Arc::clone(&rings),
                );
                let listener = Listener::new(Arc::clone(&stream));
                let left =
                    InheritedWork { receive_buffers, inherited, rings: std::mem::take(&mut inherited_rings[index]) };
                Ok(WriterThread::new(index, Arc::clone(&shared), context, listener, datagram.take(), left)?)
            },
        );
        // All that can fail comes before the first thread, except for the threads themselves.
        let workers = workers.collect::<Result<Vec<_>, _>>()?;
        let (end, ended) = mpsc::channel();
        let mut accept = Self { shared, threads: Vec::new(), ended, limit_bytes };
        for (worker, cpu) in workers.into_iter().zip(cpus) {
            match accept.spawn(worker, cpu, end.clone()) {
                Ok(thread) => accept.threads.push(thread),
                Err(error) => {
                    let _ = accept.stop(Duration::from_secs(1));
                    return Err(error.into());
                }
            }
        }
        Ok(accept)
    }

    fn spawn(
        &self,
        worker: WriterThread,
        cpu: Option<usize>,
        end: mpsc::Sender<usize>,
    ) -> io::Result<thread::JoinHandle<()>> {
        let index = self.threads.len();
        let shared = Arc::clone(&self.shared);
        thread::Builder::new().name(format!("dbufd-writer-{index}")).spawn(move || {
            pin(cpu, &shared.counters, index);
            worker.run();
            // Nobody listens any more if the time to stop was over.
            let _ = end.send(index);
        })
    }

    /// Changes `ingest.max_event`, from the next read on. What does not fit the buffer is cut to what does; returns
    /// what is in force.
    pub fn set_max_event_bytes(&self, bytes: usize) -> usize {
        let bytes = bytes.clamp(1, self.limit_bytes);
        // Relaxed: a limit hands nothing over.
        self.shared.max_event_bytes.store(bytes, Relaxed);
        bytes
    }

    /// Each writer's sign of life, by index.
    #[must_use]
    pub fn pulses(&self) -> Vec<Arc<Pulse>> {
        self.shared.writers.iter().map(|writer| Arc::clone(&writer.pulse)).collect()
    }

    /// Accepts no more, takes what the kernel holds for each socket until it is empty once, lets the clients of the
    /// framed protocol have the answers that they are owed, and ends the threads. Returns at the latest after `within`
    /// and a little: a writer that waits for room cannot be ended, and is left.
    ///
    /// The reader has to go on meanwhile.
    pub fn stop(self, within: Duration) -> Stopped {
        let stop_by = Instant::now() + within;
        for index in 0..self.shared.writers.len() {
            self.shared.inbox(index).stop_by = Some(stop_by);
            self.shared.ring(index);
        }
        // A thread that is in the middle of a read when the time is over may still finish it.
        let give_up = stop_by + Duration::from_millis(200);
        let mut threads: Vec<_> = self.threads.into_iter().map(Some).collect();
        while threads.iter().any(Option::is_some) {
            let left = give_up.saturating_duration_since(Instant::now());
            let Ok(index) = self.ended.recv_timeout(left) else { break };
            if let Some(thread) = threads[index].take() {
                // It has ended; a panic in it has been told by the panic itself.
                let _ = thread.join();
            }
        }
        Stopped { writers_left: threads.iter().flatten().count() }
    }
}

impl Shared {
    pub(crate) fn inbox(&self, index: usize) -> MutexGuard<'_, Inbox> {
        self.writers[index].inbox.lock().expect("no thread panics while it holds an inbox")
    }

    pub(crate) fn ring(&self, index: usize) {
        // It can only fail when the bell's count would overflow, and then the bell rings already.
        let _ = self.writers[index].bell.write(1);
    }

    pub(crate) fn count_connection(&self, index: usize) {
        // Relaxed: a plain counter.
        self.counters.writers[index].0.connections.fetch_add(1, Relaxed);
    }

    /// Keeps a new connection for the next process, where that can be. One that has begun to speak frames is not kept:
    /// the next process could not resume it, and its client connects again.
    pub(crate) fn keep(&self, socket: OwnedFd, identity: &Identity) -> StoredConnection {
        match &self.stored {
            Some(stored) if !speaks_frames(&socket) => stored.keep(socket, identity),
            _ => StoredConnection::unstored(socket),
        }
    }

    /// Notes whose a new connection is whose peer has said all, where that can be.
    pub(crate) fn note(&self, socket: OwnedFd, identity: &Identity) -> StoredConnection {
        match &self.stored {
            Some(stored) => stored.note(socket, identity),
            None => StoredConnection::unstored(socket),
        }
    }

    /// Gives a client to another writer; gives it back if that one stops.
    pub(crate) fn hand_over(&self, index: usize, newcomer: Newcomer) -> Option<Newcomer> {
        let mut inbox = self.inbox(index);
        if inbox.is_closed {
            return Some(newcomer);
        }
        // Counted now, so that the next one does not go the same way before the writer has looked.
        self.count_connection(index);
        inbox.newcomers.push(newcomer);
        drop(inbox);
        self.ring(index);
        None
    }

    /// Silences the bell and takes what is in the inbox: clients, and when to have stopped.
    pub(crate) fn take_inbox(&self, index: usize) -> (Vec<Newcomer>, Option<Instant>) {
        // The bell first: what comes into the inbox after this rings it again. Nothing to read is no error.
        let _ = self.writers[index].bell.read();
        let mut inbox = self.inbox(index);
        (std::mem::take(&mut inbox.newcomers), inbox.stop_by)
    }

    /// Closes the inbox for good, and takes what was in it.
    pub(crate) fn close_inbox(&self, index: usize) -> Vec<Newcomer> {
        let mut inbox = self.inbox(index);
        inbox.is_closed = true;
        std::mem::take(&mut inbox.newcomers)
    }
}

/// Shares connections out: each to the writer on whose desk lies what was read of it, the others in turn.
fn by_writer(receive_buffers: &[ReceiveBuffers], inherited: Vec<InheritedConnection>) -> Vec<Vec<InheritedConnection>> {
    let mut of_each: Vec<Vec<InheritedConnection>> = receive_buffers.iter().map(|_| Vec::new()).collect();
    for (turn, inherited) in inherited.into_iter().enumerate() {
        let concerned =
            receive_buffers.iter().position(|receive_buffers| receive_buffers.concern(inherited.stored.slot()));
        of_each[concerned.unwrap_or(turn % receive_buffers.len())].push(inherited);
    }
    of_each
}

/// Whether the first bytes of a new connection are those of the framed protocol. They stay where they are.
fn speaks_frames(socket: &OwnedFd) -> bool {
    let mut first = [0; MAGIC.len()];
    let peeked = recv(socket, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    peeked.is_ok_and(|(bytes, _)| is_framed(&first[..bytes.min(MAGIC.len())]) == Some(true))
}

fn set_nonblocking(socket: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(socket, fcntl_getfl(socket)? | OFlags::NONBLOCK)?)
}

fn pin(cpu: Option<usize>, counters: &Counters, index: usize) {
    let Some(id) = cpu else { return };
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        // Relaxed: a plain value for people.
        counters.writers[index].0.cpu_plus_one.store(id as u32 + 1, Relaxed);
    } else {
        tracing::warn!(cpu = id, writer = index, "the writer cannot be pinned to its core and runs anywhere");
    }
}
