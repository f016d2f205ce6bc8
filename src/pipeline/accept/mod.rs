//! Accepts bytes, finds the events in them, and publishes the events to the buffer.
//!
//! Input: bytes on the listening sockets, on the datagram sockets, and in rings. Output: records in the front half of
//! the buffer. Thread: N pinned writers. Failure: only [`Accept::start`] can fail. Nothing that a client sends ends a
//! writer.
//!
//! - Each writer has its own epoll set and accepts from all listening sockets. A client goes to the writer with the
//!   fewest connections and stays there, which keeps its events in order. The first writer owns the datagram sockets.
//! - One read of a socket has one acceptance time and usually becomes one claim of the buffer (see [`publish`]).
//! - While the buffer is full, a writer waits for room and reads nothing: the kernel's queues then block the senders.
//!
//! Folders, from the top: [`writer`] runs the threads; [`text`], [`frames`], [`ring`] and [`datagram`] are the
//! protocols; [`connection`] is the code that all stream protocols share; [`publish`] publishes their events;
//! [`limits`] holds the bounds. Each folder imports only from folders below it. No protocol imports another, with two
//! exceptions: a ring begins as a framed connection, and a datagram is parsed as text.

pub mod connection;
pub(crate) mod datagram;
pub mod frames;
pub mod limits;
pub mod publish;
pub mod ring;
pub(crate) mod text;
pub mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use self::connection::stored::{InheritedConnection, StoredConnections};
use self::frames::Sessions;
use self::limits::OVERHEAD_BYTES_MAX;
use self::publish::receive_buffer::ReceiveBuffers;
use self::publish::{Publisher, WriterContext};
use self::ring::registry::Rings;
use self::writer::{InheritedWork, Listeners, Shared, WriterHandle, WriterThread, Writers};
pub use self::writer::{Listener, ListenerKind};
use super::buffer::{DoubleBuffer, TooManyWriters};
use super::counters::Counters;
use super::progress::Progress;
use super::pulse::Pulse;
use super::record::padded;
use super::shares::Shares;
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::{Arc, mpsc, thread};
use crate::sys::fdstore::FdStore;
use crate::sys::pidfd;

/// How much later than at its deadline a writer may end: it may be in the middle of a read, or have no processor.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// The parameters of [`Accept::start`].
#[derive(Debug)]
pub struct AcceptOptions {
    /// Sockets to accept from and to receive on.
    pub listeners: Vec<Listener>,
    /// The buffer to publish to. It must have room for one writer for each entry of `cpus`.
    pub buffer: DoubleBuffer,
    /// The counters. They must have one writer for each entry of `cpus`.
    pub counters: Arc<Counters>,
    /// How far the reader has come. It must have one writer for each entry of `cpus`.
    pub progress: Arc<Progress>,
    /// One writer thread for each entry, pinned to that core; `None` is not pinned.
    pub cpus: Vec<Option<usize>>,
    /// `ingest.max_event`, in bytes.
    pub max_event_bytes: usize,
    /// Stores connections for the next process; `None` without systemd's descriptor store.
    pub stored: Option<Arc<StoredConnections>>,
    /// Connections that the previous process left.
    pub inherited: Vec<InheritedConnection>,
    /// What users share.
    pub shares: Arc<Shares>,
    /// The sessions of the framed protocol.
    pub sessions: Arc<Sessions>,
    /// The rings, including those that the previous process left.
    pub rings: Arc<Rings>,
    /// The memory that the writers read into, one for each entry of `cpus`.
    pub receive_buffers: Vec<ReceiveBuffers>,
    /// Holds receive buffers of writers that no longer exist until they are finished.
    pub store: Option<Arc<FdStore>>,
}

/// Why the writers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refused a descriptor, an option or a thread.
    #[error("cannot start the writers: {0}; raise the limits of open files and threads (LimitNOFILE=, TasksMax=)")]
    Kernel(#[from] io::Error),
    /// The buffer was built for fewer writers.
    #[error("cannot start the writers: {0}; build the buffer for more writers")]
    Writers(#[from] TooManyWriters),
    /// The largest event allowed would never fit into a claim.
    #[error(
        "ingest.max_event = {max_event_bytes} bytes is too large: the buffer holds events of at most {limit_bytes} \
         bytes; lower ingest.max_event or raise buffer.capacity"
    )]
    MaxEvent {
        /// `ingest.max_event`, in bytes.
        max_event_bytes: usize,
        /// The largest event that fits, in bytes.
        limit_bytes: usize,
    },
}

/// The running writers.
#[derive(Debug)]
pub struct Accept {
    writers: Arc<Writers>,
    threads: Vec<thread::JoinHandle<()>>,
    ended: mpsc::Receiver<usize>,
    limit_bytes: usize,
}

/// How the writers stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Stopped {
    /// Writers that still waited for room at the deadline. They end when the buffer's reader is dropped.
    pub writers_left: usize,
}

impl Accept {
    /// Starts the writers.
    ///
    /// # Errors
    /// [`StartError`]. No thread runs then.
    ///
    /// # Panics
    /// If the number of receive buffers is not the number of writers.
    pub fn start(options: AcceptOptions) -> Result<Self, StartError> {
        let limit_bytes = options.buffer.largest_claim().saturating_sub(OVERHEAD_BYTES_MAX);
        let max_event_bytes = options.max_event_bytes;
        if padded(max_event_bytes) > limit_bytes {
            return Err(StartError::MaxEvent { max_event_bytes, limit_bytes });
        }
        assert_eq!(options.receive_buffers.len(), options.cpus.len(), "each writer has its receive buffer");
        let cpus = options.cpus.clone();
        let (writers, prepared) = prepare(options)?;
        // Everything that can fail comes before the first thread starts, except starting the threads themselves.
        let (end, ended) = mpsc::channel();
        let mut accept = Self { writers, threads: Vec::new(), ended, limit_bytes };
        for (thread, cpu) in prepared.into_iter().zip(cpus) {
            match accept.spawn(thread, cpu, end.clone()) {
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
        writer: WriterThread,
        cpu: Option<usize>,
        end: mpsc::Sender<usize>,
    ) -> io::Result<thread::JoinHandle<()>> {
        let index = self.threads.len();
        let writers = Arc::clone(&self.writers);
        thread::Builder::new().name(format!("dbufd-writer-{index}")).spawn(move || {
            pin(cpu, &writers.counters, index);
            writer.run();
            // After the deadline the receiver is gone, and sending fails.
            let _ = end.send(index);
        })
    }

    /// Changes `ingest.max_event`, from the next read on. A value larger than the buffer can hold is reduced. Returns
    /// the value in force, in bytes.
    pub fn set_max_event_bytes(&self, bytes: usize) -> usize {
        let bytes = bytes.clamp(1, self.limit_bytes);
        // Relaxed: the limit publishes no other data.
        self.writers.max_event_bytes.store(bytes, Relaxed);
        bytes
    }

    /// Each writer's sign of life, by the writer's index.
    #[must_use]
    pub fn pulses(&self) -> Vec<Arc<Pulse>> {
        self.writers.handles.iter().map(|writer| Arc::clone(&writer.pulse)).collect()
    }

    /// Stops accepting, takes what the kernel holds (of stored connections and of systemd's sockets only what was there
    /// when the stop began), sends the clients of the framed protocol their pending answers, and ends the threads.
    /// Returns at most 2 s after `within`. A writer that waits for room cannot be ended: it is left running.
    ///
    /// The reader must keep running meanwhile.
    pub fn stop(self, within: Duration) -> Stopped {
        let stop_by = Instant::now() + within;
        for index in 0..self.writers.handles.len() {
            self.writers.stop_by(index, stop_by);
        }
        let give_up = stop_by + STOP_GRACE;
        let mut threads: Vec<_> = self.threads.into_iter().map(Some).collect();
        while threads.iter().any(Option::is_some) {
            let left = give_up.saturating_duration_since(Instant::now());
            let Ok(index) = self.ended.recv_timeout(left) else { break };
            if let Some(thread) = threads[index].take() {
                // The thread has ended. If it panicked, the panic hook has already reported that.
                let _ = thread.join();
            }
        }
        Stopped { writers_left: threads.iter().flatten().count() }
    }
}

/// Creates the writers, each with a thread that is ready to run.
fn prepare(options: AcceptOptions) -> Result<(Arc<Writers>, Vec<WriterThread>), StartError> {
    let mut has_pidfds = pidfd::are_described();
    for listener in &options.listeners {
        has_pidfds &= listener.prepare()?;
    }
    let handle = || -> io::Result<WriterHandle> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(WriterHandle::new(bell))
    };
    let writers = Arc::new(Writers {
        handles: options.cpus.iter().map(|_| handle()).collect::<io::Result<_>>()?,
        counters: options.counters,
        max_event_bytes: AtomicUsize::new(options.max_event_bytes),
        shared: Arc::new(Shared { sessions: options.sessions, rings: options.rings }),
        shares: options.shares,
        stored: options.stored,
        store: options.store,
    });
    let connections = by_writer(&options.receive_buffers, options.inherited);
    let mut rings: Vec<Vec<_>> = options.cpus.iter().map(|_| Vec::new()).collect();
    for (turn, ring) in writers.shared.rings.take_inherited().into_iter().enumerate() {
        rings[turn % options.cpus.len()].push(ring);
    }
    let inherited = options.receive_buffers.into_iter().zip(connections).zip(rings);
    let inherited =
        inherited.map(|((receive_buffers, connections), rings)| InheritedWork { receive_buffers, connections, rings });
    let mut first = Listeners::new(options.listeners, &writers.shares);
    let mut threads = Vec::new();
    for (index, inherited) in inherited.enumerate() {
        // Datagram sockets go to the first writer.
        let others = first.of_another_writer();
        let listeners = std::mem::replace(&mut first, others);
        let pulse = Arc::clone(&writers.handles[index].pulse);
        let publisher = Publisher::new(options.buffer.writer()?, index, Arc::clone(&writers.counters), pulse);
        let (progress, waker) = (Arc::clone(&options.progress), options.buffer.waker());
        let mut context = WriterContext::new(publisher, index, options.max_event_bytes, progress, waker);
        context.processes.has_pidfds = has_pidfds;
        threads.push(WriterThread::new(index, Arc::clone(&writers), context, listeners, inherited)?);
    }
    Ok((writers, threads))
}

/// Distributes connections. A connection with unfinished bytes goes to the writer whose receive buffer holds them. The
/// others are dealt out in turn.
fn by_writer(receive_buffers: &[ReceiveBuffers], inherited: Vec<InheritedConnection>) -> Vec<Vec<InheritedConnection>> {
    let mut of_each: Vec<Vec<InheritedConnection>> = receive_buffers.iter().map(|_| Vec::new()).collect();
    for (turn, inherited) in inherited.into_iter().enumerate() {
        let concerned =
            receive_buffers.iter().position(|receive_buffers| receive_buffers.concern(inherited.stored.slot()));
        of_each[concerned.unwrap_or(turn % receive_buffers.len())].push(inherited);
    }
    of_each
}

fn pin(cpu: Option<usize>, counters: &Counters, index: usize) {
    let Some(id) = cpu else { return };
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        // Relaxed: a plain value for display.
        counters.writers[index].0.cpu_plus_one.store(id as u32 + 1, Relaxed);
    } else {
        tracing::warn!(cpu = id, writer = index, "the writer cannot be pinned to its core; it runs on any core");
    }
}
