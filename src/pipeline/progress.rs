//! How far the reader has come, for writers whose producers wait for acknowledgements.
//!
//! Enters: the reader and the syncer say which generations are persisted and durable. Leaves: writers that asked are
//! woken through an eventfd of their own, which lies in their epoll set. Nothing here can fail once it is built.
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `progress` | [`Progress::set_persisted`], [`Progress::set_durable`] | [`Progress::persisted_before`], [`Progress::durable_before`] | the file's bytes are written (or synced), and losses are noted | an acknowledgement could overtake the note that its events were lost |
//! | `want` | [`Progress::want`] | the reader's look at `wants` | that a writer waits | a writer sleeps although what it waits for is done |

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{CacheLine, Mutex};

/// The most lost generations that are remembered for acknowledgements.
const LOST_GENERATIONS_MAX: usize = 4096;

/// What a writer waits for; bits of a set.
pub mod want {
    /// That more is persisted.
    pub const PERSISTED: u32 = 1;
    /// That more is durable.
    pub const DURABLE: u32 = 2;
}

/// How far the reader has come.
#[derive(Debug)]
pub struct Progress {
    persisted_before: CacheLine<AtomicU64>,
    durable_before: CacheLine<AtomicU64>,
    asked: AtomicU32,
    losses: AtomicU64,
    lost_generations: Mutex<Vec<u64>>,
    writers: Box<[CacheLine<Waiter>]>,
}

#[derive(Debug)]
struct Waiter {
    wants: AtomicU32,
    bell: EventFd,
}

impl Progress {
    /// For so many writers.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new(writers: usize) -> io::Result<Self> {
        let waiter = || {
            let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
            Ok(CacheLine(Waiter { wants: AtomicU32::new(0), bell }))
        };
        Ok(Self {
            persisted_before: CacheLine(AtomicU64::new(0)),
            durable_before: CacheLine(AtomicU64::new(0)),
            asked: AtomicU32::new(0),
            losses: AtomicU64::new(0),
            lost_generations: Mutex::new(Vec::new()),
            writers: (0..writers).map(|_| waiter()).collect::<io::Result<_>>()?,
        })
    }

    /// Every generation below this one is in a file, or noted as lost.
    pub fn persisted_before(&self) -> u64 {
        // edge `progress`, acquiring: whoever sees the number also sees the losses that were noted before it.
        // Relaxed could show the number first.
        self.persisted_before.0.load(Ordering::Acquire)
    }

    /// Every generation below this one is durable, or noted as lost.
    pub fn durable_before(&self) -> u64 {
        // edge `progress`, acquiring: as above.
        self.durable_before.0.load(Ordering::Acquire)
    }

    /// The reader says that every generation below `generation` is in a file or noted as lost.
    pub fn set_persisted(&self, generation: u64) {
        // edge `progress`, releasing: the losses noted before are visible with the number. Only the reader writes it.
        self.persisted_before.0.store(generation, Ordering::Release);
        self.wake(want::PERSISTED);
    }

    /// The syncer says that every generation below `generation` is durable or noted as lost.
    pub fn set_durable(&self, generation: u64) {
        // edge `progress`, releasing: as above. The reader and the syncer may both say so, so the number only grows.
        self.durable_before.0.fetch_max(generation, Ordering::AcqRel);
        self.wake(want::DURABLE);
    }

    /// Notes that something of `generation` could not be persisted. Called before [`Progress::set_persisted`] covers it.
    pub fn note_lost(&self, generation: u64) {
        let mut lost = self.lost_generations.lock().expect("no thread panics while it holds the lost generations");
        if lost.len() == LOST_GENERATIONS_MAX {
            lost.remove(0);
        }
        lost.push(generation);
        // Relaxed: edge `progress` carries it.
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether something of `generation` was lost.
    pub fn was_lost(&self, generation: u64) -> bool {
        self.was_lost_among(&(generation..=generation))
    }

    /// Whether something of one of these generations was lost. Costs one load while nothing was ever lost.
    pub fn was_lost_among(&self, generations: &RangeInclusive<u64>) -> bool {
        // Relaxed: the caller has read the number of edge `progress` first.
        self.losses.load(Ordering::Relaxed) > 0
            && self
                .lost_generations
                .lock()
                .expect("no thread panics while it holds the lost generations")
                .iter()
                .any(|lost| generations.contains(lost))
    }

    /// A writer says that it waits: its bell rings at the next progress of that kind. It must look at the numbers
    /// again after this call, for progress made before it rings no bell.
    pub fn want(&self, writer: usize, wants: u32) {
        // edge `want`, releasing and acquiring: of this RMW and the reader's exchange one comes first. If ours, the
        // reader sees it and rings; if the reader's, we see the number that it stored before. Relaxed would lose both.
        self.writers[writer].0.wants.fetch_or(wants, Ordering::AcqRel);
    }

    /// The bell of a writer, for its epoll set. Readable after progress that it wanted.
    pub fn bell(&self, writer: usize) -> BorrowedFd<'_> {
        self.writers[writer].0.bell.as_fd()
    }

    /// Silences a writer's bell.
    pub fn silence(&self, writer: usize) {
        // Nothing to read is no error: the bell was silent already.
        let _ = self.writers[writer].0.bell.read();
    }

    /// Asks that what is published now be swapped and synced at once. The caller rings the reader afterwards.
    pub fn ask_sync(&self) {
        // Relaxed: the reader's bell, rung next, carries it (edge `bell` of the buffer).
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// The reader takes the requests of [`Progress::ask_sync`], and learns how many there were.
    pub fn take_ask(&self) -> u32 {
        // Relaxed: as above. A request that comes just after is seen at its own ring.
        self.asked.swap(0, Ordering::Relaxed)
    }

    fn wake(&self, kind: u32) {
        for CacheLine(writer) in &self.writers {
            // edge `want`, acquiring and releasing: see `want`.
            if writer.wants.fetch_and(!kind, Ordering::AcqRel) & kind != 0 {
                // It can only fail when the bell's count would overflow, and then the bell rings already.
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
