//! Shows the watchdog a thread's sign of life: what it is doing, and how many rounds it has made.
//!
//! Input: the thread says what it is about to do. Output: for the control plane, the last activity and the rounds. The
//! control plane also asks the kernel whether the thread is stopped, because a stopped thread still shows its last
//! activity. Thread: one writes a pulse, any may look. Nothing here can fail. All accesses are Relaxed: a pulse orders
//! nothing, and the watchdog looks seconds apart.

use crate::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering::Relaxed};
use crate::sys::task;

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// It runs, so its rounds must increase.
    Running = 0,
    /// It sleeps because there is nothing to do.
    Parked = 1,
    /// It waits for room in the buffer, which means for the reader.
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

/// The result of a look at a pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Number of rounds that the thread has made.
    pub rounds: u64,
    /// What it is doing.
    pub activity: Activity,
    /// Whether it is stopped, for example by a debugger, and so does nothing.
    pub stopped: bool,
}

impl Pulse {
    /// Ties the pulse to the calling thread.
    pub fn begin(&self) {
        self.task.store(task::current(), Relaxed);
    }

    /// Counts one more round, and sets what the thread does now.
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
