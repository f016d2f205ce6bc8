//! Tells writers how far the reader has come, so that they can acknowledge events.
//!
//! Input: from the reader and the syncer, which generations are persisted, durable and lost. Output: wakes each writer
//! that asked, through its own eventfd in its epoll set; and for the next process, what is durable and what is lost.
//! Thread: any. Failure: no memory or no descriptors at the start.
//!
//! The edges `progress` and `want` are in `levels`; what survives the process is in `lost_generations`.

mod levels;
mod lost_generations;

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use self::levels::{Levels, Wants};
use self::lost_generations::LostGenerations;
use crate::sync::atomic::{AtomicU32, Ordering::Relaxed};
use crate::sync::{Mutex, lock};
use crate::sys::fdstore::FdStore;

/// What a writer waits for, as bits.
pub mod want {
    /// More is persisted.
    pub const PERSISTED: u32 = 1;
    /// More is durable.
    pub const DURABLE: u32 = 2;
}

/// How far the reader has come.
#[derive(Debug)]
pub struct Progress {
    levels: Levels,
    lost: LostGenerations,
    /// Guards the words of `lost` that tell which generations are lost.
    lost_lock: Mutex<()>,
    asked: AtomicU32,
    writers: Box<[Waiter]>,
}

#[derive(Debug)]
struct Waiter {
    wants: Wants,
    bell: EventFd,
}

impl Progress {
    /// Creates progress for `writers` writers. Its notes of losses end with the process.
    ///
    /// # Errors
    /// If the kernel gives no eventfd or no memory.
    pub fn new(writers: usize) -> io::Result<Self> {
        Self::over(LostGenerations::new()?, writers)
    }

    /// The same, continued from what the previous process left in `store` under `name`.
    ///
    /// # Errors
    /// As [`Progress::new`].
    pub fn take_over(store: &FdStore, name: &str, inherited: Option<OwnedFd>, writers: usize) -> io::Result<Self> {
        Self::over(LostGenerations::take_over(store, name, inherited)?, writers)
    }

    fn over(lost: LostGenerations, writers: usize) -> io::Result<Self> {
        let waiter = || {
            let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
            Ok(Waiter { wants: Wants::default(), bell })
        };
        Ok(Self {
            levels: Levels::new(lost.durable_before()),
            lost,
            lost_lock: Mutex::new(()),
            asked: AtomicU32::new(0),
            writers: (0..writers).map(|_| waiter()).collect::<io::Result<_>>()?,
        })
    }

    /// Every generation below this one is in a file, or noted as lost.
    pub fn persisted_before(&self) -> u64 {
        self.levels.persisted_before()
    }

    /// Every generation below this one is durable, or noted as lost.
    pub fn durable_before(&self) -> u64 {
        self.levels.durable_before()
    }

    /// The highest generation that this process or an earlier one has had in front, as far as it is known.
    pub fn highest_generation(&self) -> u64 {
        self.lost.highest().max(self.lost.durable_before())
    }

    /// Sets the generation that is in front. Only the reader may call this.
    pub fn set_highest_generation(&self, generation: u64) {
        self.lost.set_highest(generation);
    }

    /// Notes that a sync has failed: what is in files from this generation on may not be durable even if a later sync
    /// succeeds. None when that is settled. A next process that finds the note counts all of that as lost, because the
    /// kernel reports the error only once. Only the reader or the syncer may call this.
    pub fn set_broken(&self, from: Option<u64>) {
        self.lost.set_broken(from);
    }

    /// The last value set.
    #[cfg(test)]
    pub(crate) fn broken(&self) -> Option<u64> {
        self.lost.broken()
    }

    /// Notes that every generation below `generation` is in a file or noted as lost. Only the reader may call this.
    pub fn set_persisted(&self, generation: u64) {
        self.levels.set_persisted(generation);
        self.wake(want::PERSISTED);
    }

    /// Notes that every generation below `generation` is durable or noted as lost. Only the reader and the syncer may
    /// call this.
    pub fn set_durable(&self, generation: u64) {
        self.lost.set_durable_before(self.levels.set_durable(generation));
        self.wake(want::DURABLE);
    }

    /// Notes that something of `generation` could not be stored. Must be called before [`Progress::set_persisted`] or
    /// [`Progress::set_durable`] covers it.
    pub fn note_lost(&self, generation: u64) {
        let _lock = lock(&self.lost_lock);
        self.lost.note(&(generation..=generation), false);
    }

    /// Notes that something of each of these generations is lost that was, or may have been, in a file.
    /// [`Progress::set_persisted`] may have covered it already. This is one step for any number of generations.
    pub fn note_lost_in_file(&self, generations: &RangeInclusive<u64>) {
        let _lock = lock(&self.lost_lock);
        self.lost.note(generations, true);
    }

    /// Whether something of `generation` was lost.
    pub fn was_lost(&self, generation: u64) -> bool {
        self.was_lost_among(&(generation..=generation), false)
    }

    /// Whether something of one of these generations was lost. With `in_file`, only losses of what was in a file count:
    /// the sender already knows which of its events came to a file. Costs one load if nothing of them or after them was
    /// lost.
    pub fn was_lost_among(&self, generations: &RangeInclusive<u64>, in_file: bool) -> bool {
        // The caller has first read the number of edge `progress`, which makes the notes visible.
        if self.lost.last() < *generations.start() {
            return false;
        }
        let _lock = lock(&self.lost_lock);
        self.lost.are_among(generations, in_file)
    }

    /// Notes that a writer waits: its bell rings at the next progress of that kind. The writer must look at the numbers
    /// again after this call, because progress that was made before rings no bell.
    pub fn want(&self, writer: usize, wants: u32) {
        self.writers[writer].wants.want(wants);
    }

    /// The bell of a writer, for its epoll set. It becomes readable after progress that the writer wanted.
    pub fn bell(&self, writer: usize) -> BorrowedFd<'_> {
        self.writers[writer].bell.as_fd()
    }

    /// Silences a writer's bell.
    pub fn silence(&self, writer: usize) {
        // Nothing to read is no error: the bell was already silent.
        let _ = self.writers[writer].bell.read();
    }

    /// Asks for a swap and a sync of what is published now. The caller must wake the reader afterwards.
    pub fn ask_sync(&self) {
        // Relaxed: the reader's bell, which is rung next, publishes it (edge `bell` of the buffer).
        self.asked.fetch_add(1, Relaxed);
    }

    /// Takes the requests of [`Progress::ask_sync`], and returns their number. Only the reader may call this.
    pub fn take_ask(&self) -> u32 {
        // Relaxed: as above. A request that comes just after this is seen at its own ring.
        self.asked.swap(0, Relaxed)
    }

    fn wake(&self, kind: u32) {
        for writer in &self.writers {
            if writer.wants.take(kind) {
                // It can only fail if the bell's count would overflow. Then the bell rings already.
                let _ = writer.bell.write(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(progress: &Progress, writer: usize) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        poll(&mut [PollFd::new(progress.bell(writer), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn only_a_writer_that_asked_is_woken_and_only_once() {
        let progress = Progress::new(2).unwrap();
        progress.set_persisted(1);
        assert!(!rings(&progress, 0) && !rings(&progress, 1));
        progress.want(1, want::PERSISTED);
        progress.set_durable(1);
        assert!(!rings(&progress, 1), "durable is not what it asked for");
        progress.set_persisted(2);
        assert!(!rings(&progress, 0) && rings(&progress, 1));
        progress.silence(1);
        progress.set_persisted(3);
        assert!(!rings(&progress, 1));
    }

    #[test]
    fn a_lost_generation_is_remembered() {
        let progress = Progress::new(1).unwrap();
        assert!(!progress.was_lost(5));
        progress.note_lost(5);
        progress.set_persisted(6);
        assert!(progress.was_lost(5) && !progress.was_lost(4));
    }
}
