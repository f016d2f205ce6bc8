//! A thread's sign of life, for the watchdog: what it is doing, and how often it has come round.
//!
//! Enters: the thread says what it is about to do. Leaves: the control plane looks, and asks the kernel whether the
//! thread may run at all: one that was stopped still says what it was doing before. Nothing here can fail. A pulse is
//! no lock and orders nothing, so all of it is Relaxed: the watchdog looks seconds apart.

use crate::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering::Relaxed};
use crate::sys::task;

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// It runs: its rounds must go on.
    Running = 0,
    /// It sleeps because there is nothing to do.
    Parked = 1,
    /// It waits for room in the buffer, that is for the reader.
    WaitsForRoom = 2,
    /// It is inside a system call on the disk, or waits for a disk to recover.
    Disk = 3,
}

/// One thread's pulse.
#[derive(Debug, Default)]
pub struct Pulse {
    rounds: AtomicU64,
    activity: AtomicU8,
    /// The thread's number; 0 until it has begun.
    task: AtomicI32,
}

/// What a look at a pulse showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// How often the thread has come round.
    pub rounds: u64,
    /// What it is doing.
    pub activity: Activity,
    /// Whether it was stopped, by a debugger for one, and does nothing of the kind.
    pub stopped: bool,
}

impl Pulse {
    /// The pulse is that of the calling thread.
    pub fn begin(&self) {
        self.task.store(task::current(), Relaxed);
    }

    /// The thread has come round once more and is now doing this.
    pub fn beat(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
        self.rounds.fetch_add(1, Relaxed);
    }

    /// What the thread is doing now.
    pub fn look(&self) -> Beat {
        let activity = match self.activity.load(Relaxed) {
            1 => Activity::Parked,
            2 => Activity::WaitsForRoom,
            3 => Activity::Disk,
            _ => Activity::Running,
        };
        let task = self.task.load(Relaxed);
        Beat { rounds: self.rounds.load(Relaxed), activity, stopped: task != 0 && task::is_stopped(task) }
    }
}
