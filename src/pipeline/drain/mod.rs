//! Persists what the back half holds: one thread, the reader, swaps the halves of the double buffer and writes batches.
//!
//! Input: sealed batches of the buffer, what the previous process left in it, and commands of the control plane.
//! Output: batches in segments, progress for producers that wait, and measurements. Thread: one, `dbufd-reader`; it
//! sleeps without a timeout while there is nothing to do. Failure: the disk. Then `storage.when_full` decides whether
//! producers wait or events are counted as lost. The thread itself keeps running.
//!
//! Invariants, cited by number:
//! 1. A generation counts as persisted only when its batch is in the file or its events are counted as lost.
//! 2. A batch is given up as a whole or persisted as a whole.
//! 3. A batch is persisted once, whichever process swapped the halves: what the previous process left is compared with
//!    the newest batch in the files before it is written.
//! 4. A requested sync covers everything that was published before the request.

pub(crate) mod batch_summary;
mod handle;
mod losses;
mod reader;
mod standing_queue;
mod syncs;
#[cfg(test)]
mod tests;

use std::io;
use std::time::{Duration, Instant};

use thiserror::Error;

pub use self::handle::{DrainHandle, DrainStopped, Measured, Old, ReaderCommand, Reply, Settings};
use self::reader::{Persister, ReaderThread, Shared};
use self::standing_queue::StandingQueue;
use crate::pipeline::buffer;
use crate::pipeline::counters::Counters;
use crate::pipeline::progress::Progress;
use crate::pipeline::pulse::Pulse;
use crate::pipeline::shares::front_half::FrontBudget;
use crate::pipeline::store::disk::Disk;
use crate::pipeline::store::{self, Recovery};
use crate::sync::{Arc, Mutex, mpsc, thread};
use crate::sys::clock;

/// The parameters of [`Drain::start`].
pub struct DrainOptions {
    /// The reading end of the double buffer.
    pub reader: buffer::Reader,
    /// Wakes that reader.
    pub waker: buffer::Waker,
    /// Buffers of previous processes that this process does not continue, the oldest first. They are persisted first.
    pub old: Vec<Old>,
    /// Whether the previous process has left anything. Then what it wrote may not be durable yet.
    pub has_previous: bool,
    /// Whether the buffer's memory outlives the process. Then what the disk does not take before the end is not lost.
    pub outlives: bool,
    /// The disk under the segments.
    pub disk: Arc<dyn Disk>,
    /// The account.
    pub counters: Arc<Counters>,
    /// The progress that producers wait for.
    pub progress: Arc<Progress>,
    /// Where the reader says how much of the front half the users may fill.
    pub front_budget: Arc<FrontBudget>,
    /// The settings that may change later.
    pub settings: Settings,
    /// The core to run on; `None` is not pinned.
    pub cpu: Option<usize>,
}

/// Why the reader cannot start.
#[derive(Debug, Error)]
pub enum DrainError {
    /// The directory of segments cannot be used.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// The kernel refused a thread.
    #[error("cannot start the reader thread: {0}; raise the limit of processes and threads (TasksMax=, ulimit -u)")]
    Thread(#[source] io::Error),
}

/// The running reader. [`Drain::stop`] ends it.
#[derive(Debug)]
pub struct Drain {
    thread: thread::JoinHandle<DrainStopped>,
    handle: DrainHandle,
}

impl Drain {
    /// Opens the directory of segments, recovers what an earlier process left in it, and starts the reader.
    ///
    /// # Errors
    /// [`DrainError`]: the directory cannot be used, another daemon holds it, or the kernel refuses a thread.
    pub fn start(options: DrainOptions) -> Result<(Self, Recovery), DrainError> {
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
        let on_broken = Box::new({
            let progress = Arc::clone(&options.progress);
            move |from| progress.set_broken(from)
        });
        let storage = options.settings.storage.clone();
        let counters = Arc::clone(&options.counters);
        let on_delete = Box::new(move |deletion: store::Deletion<'_>| match deletion {
            store::Deletion::Begins { name, bytes, footer } => counters.account.begin_deletion(name, bytes, footer),
            store::Deletion::Ends { is_gone } => counters.account.end_deletion(is_gone),
        });
        let store_options = store::StoreOptions { storage, on_durable, on_broken, on_delete };
        let (mut store, recovery) = store::Store::recover(store_options, options.disk)?;
        let (account, now_ns) = (&options.counters.account, clock::now_ns());
        account.belongs_to(store.stream_id(), store.next_sequence(), now_ns);
        let newest = recovery.newest.as_ref().map(|newest| newest.generation);
        account.lose_what_is_gone(newest, store.next_sequence(), now_ns);
        account.settle_deletion(|name| store.has(name));
        // From here on retention deletes segments, and the account counts them.
        store.start()?;
        let handle = DrainHandle {
            commands,
            waker: options.waker,
            measured: Arc::clone(&measured),
            pulse: Arc::clone(&pulse),
            status: store.status(),
        };
        let persister = Persister::new(
            store,
            inbox,
            options.settings,
            options.outlives,
            StandingQueue::new(options.reader.half_bytes(), options.front_budget, Instant::now()),
            Shared { syncs, measured, pulse, counters: options.counters, progress: options.progress },
        );
        let reader = ReaderThread {
            buffer: options.reader,
            old: options.old,
            has_previous: options.has_previous,
            newest: recovery.newest.clone(),
            persister,
        };
        let cpu = options.cpu;
        let thread = thread::Builder::new()
            .name("dbufd-reader".into())
            .spawn(move || {
                if let Some(id) = cpu {
                    // A core that no longer exists is no reason not to run.
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                reader.run()
            })
            .map_err(DrainError::Thread)?;
        Ok((Self { thread, handle }, recovery))
    }

    /// The control plane's end of the connection to the reader.
    #[must_use]
    pub fn handle(&self) -> DrainHandle {
        self.handle.clone()
    }

    /// Persists what is published, seals the active segment and ends the thread. The writers must have ended before.
    /// What the disk does not take within `timeout` stays in memory that outlives the process, or is counted as lost.
    pub fn stop(self, timeout: Duration) -> DrainStopped {
        self.handle.command(ReaderCommand::Stop { timeout });
        self.thread.join().unwrap_or_else(|_| DrainStopped {
            error: Some("the reader thread panicked; this is a bug in dbufd".into()),
        })
    }
}
