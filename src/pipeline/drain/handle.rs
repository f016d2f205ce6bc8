//! Lets the control plane speak with the reader: commands, measurements, signs of life.
//!
//! Input: [`ReaderCommand`]s. Output: the same, for the reader's thread; what it has measured. Thread: any. Nothing
//! here can fail; a command that comes too late is answered with an error.

use std::time::Duration;

use crate::options::Storage;
use crate::pipeline::buffer;
use crate::pipeline::histogram::Histogram;
use crate::pipeline::pulse::Pulse;
use crate::pipeline::store;
use crate::sync::{Arc, Mutex, lock, mpsc};

/// Answers a command; called once, on the reader's or the syncer's thread, so it must not block.
pub type Reply = Box<dyn FnOnce(Result<(), String>) + Send>;

/// What the control plane may ask of the reader.
pub enum ReaderCommand {
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
    /// The longest that a published event waits for others before a swap.
    pub linger: Duration,
    /// Whether sizes and latencies are measured.
    pub measure: bool,
}

/// A buffer that the previous process left and that this process does not go on with.
pub struct Old {
    /// Its reader.
    pub reader: buffer::Reader,
    /// Called when nothing in it is needed any more.
    pub done: Box<dyn FnOnce() + Send>,
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

/// How the control plane speaks with the reader.
#[derive(Clone, Debug)]
pub struct DrainHandle {
    pub(super) commands: mpsc::Sender<ReaderCommand>,
    pub(super) waker: buffer::Waker,
    pub(super) measured: Arc<Mutex<Measured>>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) status: Arc<store::Status>,
}

/// How the reader ended.
#[derive(Debug)]
pub struct DrainStopped {
    /// What went wrong with the last segment, if anything did; what it holds is recovered at the next start.
    pub error: Option<String>,
}

impl DrainHandle {
    /// Gives the reader a command and wakes it.
    pub fn command(&self, command: ReaderCommand) {
        if let Err(mpsc::SendError(ReaderCommand::Rotate(reply) | ReaderCommand::Sync(reply))) =
            self.commands.send(command)
        {
            reply(Err("the daemon is stopping; start it again first".into()));
        }
        self.waker.ring();
    }

    /// Sizes and latencies up to now.
    #[must_use]
    pub fn measured(&self) -> Measured {
        lock(&self.measured).clone()
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
