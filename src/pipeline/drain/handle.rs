//! Connects the control plane with the reader: commands, measurements, signs of life.
//!
//! Input: [`ReaderCommand`]s. Output: the commands for the reader's thread, and the reader's measurements for the
//! control plane. Thread: any. Nothing here can fail: a command that comes too late is answered with an error.

use std::time::Duration;

use crate::options::Storage;
use crate::pipeline::buffer;
use crate::pipeline::histogram::Histogram;
use crate::pipeline::pulse::Pulse;
use crate::pipeline::store;
use crate::sync::{Arc, Mutex, lock, mpsc};

/// Answers a command. It is called once, on the reader's or the syncer's thread, so it must not block.
pub type Reply = Box<dyn FnOnce(Result<(), String>) + Send>;

/// A command of the control plane to the reader.
pub enum ReaderCommand {
    /// Persist what is published, then seal the active segment and open the next one.
    Rotate(Reply),
    /// Persist what is published, make it durable, then answer.
    Sync(Reply),
    /// Continue with these settings.
    Reconfigure(Box<Settings>),
    /// Persist what is published, seal the active segment, and end. What the disk does not take within `timeout` stays
    /// in memory that outlives the process, or is counted as lost.
    Stop {
        /// How long to retry a disk that refuses.
        timeout: Duration,
    },
}

/// The settings that may change while the reader runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The segments.
    pub storage: Storage,
    /// How long a published event waits for others before a swap, at most.
    pub linger: Duration,
    /// Whether sizes and latencies are measured.
    pub measure: bool,
}

/// A buffer that the previous process left and that this process does not continue.
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

/// The control plane's end of the connection to the reader.
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
    /// What went wrong with the last segment, if anything. The next start recovers what it holds.
    pub error: Option<String>,
}

impl DrainHandle {
    /// Sends the reader a command and wakes it.
    pub fn command(&self, command: ReaderCommand) {
        if let Err(mpsc::SendError(ReaderCommand::Rotate(reply) | ReaderCommand::Sync(reply))) =
            self.commands.send(command)
        {
            reply(Err("the daemon is stopping; start it again first".into()));
        }
        self.waker.wake();
    }

    /// Sizes and latencies since the start.
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
