//! Accepts bytes, finds the events in them, and publishes these to the buffer.
//!
//! Input: bytes on the listening sockets, on the datagram sockets, and in rings. Output: records in the front half of
//! the buffer. Thread: N pinned writers. Failure: only [`Accept::start`]; nothing that a client sends makes a writer
//! end.
//!
//! - Each writer has an epoll set of its own and accepts from all listening sockets. A client goes to the writer with
//!   the fewest connections and stays there, so that the order of its events needs no effort. Datagram sockets are
//!   the first writer's.
//! - One read of a socket is one acceptance time, and one claim of the buffer as a rule (see [`publish`]).
//! - While the buffer is full a writer waits for room and reads nothing: the kernel's queues push back on the senders.
//!
//! Folders, from the top: [`writer`] runs the threads; [`text`], [`frames`], [`ring`] and [`datagram`] are the
//! protocols; [`connection`] is what they share; [`publish`] publishes what they bring; [`limits`] has the bounds.
//! Each imports only what is below it, and no protocol imports another, except that a ring begins as a framed
//! connection and that datagrams are read as text.

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
use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::{Arc, mpsc, thread};
use crate::sys::fdstore::FdStore;

/// What [`Accept::start`] takes.
#[derive(Debug)]
pub struct AcceptOptions {
    /// Where events come in.
    pub listeners: Vec<Listener>,
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
    /// Where connections are stored for the next process, if there is such a place.
    pub stored: Option<Arc<StoredConnections>>,
    /// Connections that the previous process left.
    pub inherited: Vec<InheritedConnection>,
    /// The sessions of the framed protocol.
    pub sessions: Arc<Sessions>,
    /// The rings, also those that the previous process left.
    pub rings: Arc<Rings>,
    /// Where the writers read; one for each of `cpus`.
    pub receive_buffers: Vec<ReceiveBuffers>,
    /// Where receive buffers of writers that no longer exist are stored until they are finished.
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
        "ingest.max_event of {max_event_bytes} bytes does not fit: the buffer takes at most {limit_bytes}; \
         make one smaller or the other larger"
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
    writers: Arc<Writers>,
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

impl Accept {
    /// Starts the writers.
    ///
    /// # Errors
    /// [`StartError`]; no thread runs then.
    ///
    /// # Panics
    /// When there are not as many receive buffers as writers.
    pub fn start(options: AcceptOptions) -> Result<Self, StartError> {
        let limit_bytes = options.buffer.largest_claim().saturating_sub(OVERHEAD_BYTES_MAX);
        let max_event_bytes = options.max_event_bytes;
        if padded(max_event_bytes) > limit_bytes {
            return Err(StartError::MaxEvent { max_event_bytes, limit_bytes });
        }
        assert_eq!(options.receive_buffers.len(), options.cpus.len(), "each writer has its receive buffer");
        let cpus = options.cpus.clone();
        let (writers, prepared) = prepare(options)?;
        // All that can fail comes before the first thread, except for the threads themselves.
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
            // The receiver is gone if the time to stop was over.
            let _ = end.send(index);
        })
    }

    /// Changes `ingest.max_event`, from the next read on. What does not fit the buffer is cut to what does; returns
    /// what is in force.
    pub fn set_max_event_bytes(&self, bytes: usize) -> usize {
        let bytes = bytes.clamp(1, self.limit_bytes);
        // Relaxed: a limit hands nothing over.
        self.writers.max_event_bytes.store(bytes, Relaxed);
        bytes
    }

    /// Each writer's sign of life, by index.
    #[must_use]
    pub fn pulses(&self) -> Vec<Arc<Pulse>> {
        self.writers.handles.iter().map(|writer| Arc::clone(&writer.pulse)).collect()
    }

    /// Accepts no more, takes what the kernel holds for each socket until it is empty once, lets the clients of the
    /// framed protocol have the answers that they are owed, and ends the threads. Returns at the latest after `within`
    /// and a little: a writer that waits for room cannot be ended, and is left.
    ///
    /// The reader has to go on meanwhile.
    pub fn stop(self, within: Duration) -> Stopped {
        let stop_by = Instant::now() + within;
        for index in 0..self.writers.handles.len() {
            self.writers.stop_by(index, stop_by);
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

/// Makes the writers, each with its thread that is ready to run.
fn prepare(options: AcceptOptions) -> Result<(Arc<Writers>, Vec<WriterThread>), StartError> {
    options.listeners.iter().try_for_each(Listener::prepare)?;
    let handle = || -> io::Result<WriterHandle> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(WriterHandle::new(bell))
    };
    let writers = Arc::new(Writers {
        handles: options.cpus.iter().map(|_| handle()).collect::<io::Result<_>>()?,
        counters: options.counters,
        max_event_bytes: AtomicUsize::new(options.max_event_bytes),
        shared: Arc::new(Shared { sessions: options.sessions, rings: options.rings }),
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
    let mut first = Listeners::new(options.listeners);
    let mut threads = Vec::new();
    for (index, inherited) in inherited.enumerate() {
        // Datagram sockets go to the first writer.
        let others = first.of_another_writer();
        let listeners = std::mem::replace(&mut first, others);
        let pulse = Arc::clone(&writers.handles[index].pulse);
        let publisher = Publisher::new(options.buffer.writer()?, index, Arc::clone(&writers.counters), pulse);
        let (progress, waker) = (Arc::clone(&options.progress), options.buffer.waker());
        let context = WriterContext::new(publisher, index, options.max_event_bytes, progress, waker);
        threads.push(WriterThread::new(index, Arc::clone(&writers), context, listeners, inherited)?);
    }
    Ok((writers, threads))
}

/// Shares connections out: each to the writer in whose receive buffer something of it is unfinished, the others in
/// turn.
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
        // Relaxed: a plain value for people.
        counters.writers[index].0.cpu_plus_one.store(id as u32 + 1, Relaxed);
    } else {
        tracing::warn!(cpu = id, writer = index, "the writer cannot be pinned to its core and runs anywhere");
    }
}
