//! The reader: the one thread that swaps the halves of the double buffer and persists what the back half holds.
//!
//! Enters: sealed batches of the buffer, what the previous process left in it, and commands of the control plane. Leaves: batches in segments, progress for
//! producers that wait, and measurements. One blocking thread, `dbufd-reader`; it sleeps without a timeout while there
//! is nothing to do. What can fail: the disk. Then the policy decides whether producers wait or events are counted as
//! lost; the thread itself goes on.
//!
//! Invariants, cited by number:
//! 1. A generation counts as persisted only when its batch is in the file or its events are counted as lost.
//! 2. A batch is given up as a whole or persisted as a whole.
//! 3. A batch is persisted once, whatever process swapped it out: what the previous process left is compared with the newest batch
//!    in the files before it is written.
//! 4. A sync that is asked for covers all that was published before it was asked.

pub(crate) mod batch_summary;
mod losses;
mod reader;
mod syncs;
#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use thiserror::Error;

use crate::options::Storage;
use crate::pipeline::buffer;
use crate::pipeline::counters::Counters;
use crate::pipeline::histogram::Histogram;
use crate::pipeline::progress::Progress;
use crate::pipeline::pulse::Pulse;
use crate::pipeline::store::disk::Disk;
use crate::pipeline::store::{self, Recovery};
use crate::sync::{Arc, Mutex, mpsc, thread};

/// Answers a command; called once, on the reader's or the syncer's thread, so it must not block.
pub type Reply = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What the control plane may ask of the reader.
pub enum Command {
    /// Persist what is published, then seal the active segment and open the next.
    Rotate(Reply),
    /// Persist what is published, make it durable, then answer.
    Sync(Reply),
    /// Work on with these settings.
    Reconfigure(Box<Settings>),
    /// Persist what is published, seal the active segment, and end. What the disk does not take in `timeout` stays in
    /// memory that outlives the process, or is counted as lost.
    Stop {
        /// How long a disk that refuses is tried.
        timeout: Duration,
    },
}

/// The settings that may change while the reader runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The segments.
    pub storage: Storage,
    /// The longest that a published event waits for company before a swap.
    pub linger: Duration,
    /// Whether sizes and latencies are measured.
    pub measure: bool,
}

/// What a reader needs to start.
pub struct Options {
    /// The reading end of the double buffer.
    pub reader: buffer::Reader,
    /// Wakes that reader.
    pub waker: buffer::Waker,
    /// Buffers of previous processes that are not gone on with: persisted first, the oldest first.
    pub old: Vec<Old>,
    /// Whether the previous process has left anything: then what it wrote may not be durable yet.
    pub has_previous: bool,
    /// Whether the buffer's memory outlives the process: what a disk does not take before the end is then no loss.
    pub outlives: bool,
    /// The disk under the segments.
    pub disk: Arc<dyn Disk>,
    /// The account.
    pub counters: Arc<Counters>,
    /// What producers wait for.
    pub progress: Arc<Progress>,
    /// What may change later.
    pub settings: Settings,
    /// The core to run on, if it is pinned.
    pub cpu: Option<usize>,
}

/// A buffer that the previous process left and that this process does not go on with.
pub struct Old {
    /// Its reader.
    pub reader: buffer::Reader,
    /// Called when nothing in it is needed any more.
    pub done: Box<dyn FnOnce() + Send>,
}

/// The reader could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The directory of segments cannot be used.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The kernel gave no thread.
    #[error("cannot start the reader thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(#[source] io::Error),
}

/// Sizes and latencies of what was persisted.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Payload bytes of each event.
    pub event_size: Histogram,
    /// Microseconds from acceptance to the file, for each event.
    pub persist_us: Histogram,
    /// Microseconds of each sync.
    pub sync_us: Histogram,
}

/// The running reader. [`Drain::stop`] ends it.
#[derive(Debug)]
pub struct Drain {
    thread: thread::JoinHandle<Stopped>,
    handle: DrainHandle,
}

/// How the control plane speaks with the reader.
#[derive(Clone, Debug)]
pub struct DrainHandle {
    commands: mpsc::Sender<Command>,
    waker: buffer::Waker,
    measured: Arc<Mutex<Measured>>,
    pulse: Arc<Pulse>,
    status: Arc<store::Status>,
}

/// How the reader ended.
#[derive(Debug)]
pub struct Stopped {
    /// What went wrong with the last segment, if anything did; what it holds is recovered at the next start.
    pub error: Option<String>,
}

impl Drain {
    /// Opens the directory of segments, recovering what an earlier life left, and starts the reader.
    ///
    /// # Errors
    /// [`StartError`] when the directory cannot be used, another daemon holds it, or there is no thread to be had.
    pub fn start(options: Options) -> Result<(Self, Recovery), StartError> {
        let measured = Arc::new(Mutex::new(Measured::default()));
        let pulse = Arc::new(Pulse::default());
        let (commands, inbox) = mpsc::channel();
        let syncs = Arc::new(syncs::Syncs::new(
            Arc::clone(&options.counters),
            Arc::clone(&options.progress),
            Arc::clone(&measured),
        ));
        let on_durable = Box::new({
            let syncs = Arc::clone(&syncs);
            move |durable: store::Durable| syncs.durable(&durable)
        });
        let storage = options.settings.storage.clone();
        let (store, recovery) = store::Store::open(store::Options { storage, on_durable }, options.disk)?;
        options.counters.account.belongs_to(store.stream_id(), store.next_sequence(), reader::now_ns());
        let handle = DrainHandle {
            commands,
            waker: options.waker,
            measured: Arc::clone(&measured),
            pulse: Arc::clone(&pulse),
            status: store.status(),
        };
        let reader = reader::ReaderThread::new(reader::Parts {
            buffer: options.reader,
            store,
            inbox,
            syncs,
            measured,
            pulse,
            counters: options.counters,
            progress: options.progress,
            settings: options.settings,
            old: options.old,
            has_previous: options.has_previous,
            outlives: options.outlives,
            newest: recovery.newest.clone(),
        });
        let cpu = options.cpu;
        let thread = thread::Builder::new()
            .name("dbufd-reader".into())
            .spawn(move || {
                if let Some(id) = cpu {
                    // A core that has gone away since is no reason not to run.
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                reader.run()
            })
            .map_err(StartError::Thread)?;
        Ok((Self { thread, handle }, recovery))
    }

    /// The way to speak with the reader.
    #[must_use]
    pub fn handle(&self) -> DrainHandle {
        self.handle.clone()
    }

    /// Persists what is published, seals the active segment and ends the thread. The writers must have ended before.
    /// What a disk does not take within `timeout` stays in memory that outlives the process, or is counted as lost.
    pub fn stop(self, timeout: Duration) -> Stopped {
        self.handle.command(Command::Stop { timeout });
        self.thread
            .join()
            .unwrap_or_else(|_| Stopped { error: Some("the reader thread failed; this is a bug in dbufd".into()) })
    }
}

impl DrainHandle {
    /// Gives the reader a command and wakes it.
    pub fn command(&self, command: Command) {
        if let Err(mpsc::SendError(Command::Rotate(reply) | Command::Sync(reply))) = self.commands.send(command) {
            reply(Err("the daemon is stopping; start it again first".into()));
        }
        self.waker.ring();
    }

    /// Sizes and latencies up to now.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.measured.lock().expect("no thread panics while it holds the measurements").clone()
    }

    /// The reader's pulse.
    #[must_use]
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// The state of the segments.
    #[must_use]
    pub fn store_status(&self) -> Arc<store::Status> {
        Arc::clone(&self.status)
    }
}
