//! A thread's sign of life, for the watchdog: what it is doing, and how often it has come round.
//!
//! Enters: the thread says what it is about to do. Leaves: the control plane looks. Nothing here can fail. A pulse is
//! no lock and orders nothing, so all of it is Relaxed: the watchdog looks seconds apart.

use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

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
}

/// What a look at a pulse showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// How often the thread has come round.
    pub rounds: u64,
    /// What it is doing.
    pub activity: Activity,
}

impl Pulse {
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
        Beat { rounds: self.rounds.load(Relaxed), activity }
    }
}
