//! The only door to atomics and threads: the standard library's, or loom's under `--cfg dbuf_loom`.
//!
//! Those of the clients' crate, which shares rings with the daemon, are the same. It also holds what the lock-free parts need
//! beside them: [`CacheLine`], [`Futex`], and [`Edge`], by which every ordering that carries something has a name.

#[cfg(not(dbuf_loom))]
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, atomic, mpsc};
#[cfg(not(dbuf_loom))]
pub use std::thread;

#[cfg(dbuf_loom)]
pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
#[cfg(dbuf_loom)]
pub use loom::thread;

use std::time::Duration;

pub use dbuf_client::sync::Edge;

use atomic::AtomicU32;
#[cfg(dbuf_loom)]
use atomic::Ordering;

/// Keeps a value on cache lines of its own: 128 bytes, since the prefetcher brings lines in pairs.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct CacheLine<T>(
    /// The value.
    pub T,
);

/// A word that threads can sleep on. Spurious returns are allowed: who sleeps looks again.
///
/// The kernel compares the word and goes to sleep in one step, and a wake after a change of the word finds either
/// the sleeper or a comparison that fails (futex(2)). That is a promise about this word alone: it orders nothing else.
#[cfg(not(dbuf_loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Futex(AtomicU32);

#[cfg(not(dbuf_loom))]
impl Futex {
    /// With this value.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    /// Sleeps while the word is `expected`, at most for `patience`. Returns at once if it is not.
    pub fn wait(&self, expected: u32, patience: Option<Duration>) {
        use rustix::thread::futex;
        // A time that the kernel's format cannot hold is as good as for ever.
        let patience = patience.and_then(|time| futex::Timespec::try_from(time).ok());
        // Every error (changed, interrupted, timed out) means the same: look again.
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, expected, patience.as_ref());
    }

    /// Wakes up to `count` sleepers.
    pub fn wake(&self, count: u32) {
        use rustix::thread::futex;
        // It fails only for a bad address or a bad operation, and both are fixed here.
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, count);
    }
}

/// A word that threads can sleep on, modelled: the lock is the kernel's bucket lock. Time does not pass in a model,
/// so a sleep ends only by a wake, and a wake that is lost is a deadlock that loom reports.
#[cfg(dbuf_loom)]
#[derive(Debug)]
pub struct Futex {
    word: AtomicU32,
    bucket: Mutex<()>,
    sleepers: Condvar,
}

#[cfg(dbuf_loom)]
impl Futex {
    /// With this value.
    #[must_use]
    pub fn new(value: u32) -> Self {
        Self { word: AtomicU32::new(value), bucket: Mutex::new(()), sleepers: Condvar::new() }
    }

    /// Sleeps while the word is `expected`, whatever the patience.
    pub fn wait(&self, expected: u32, _patience: Option<Duration>) {
        let bucket = self.bucket.lock().expect("no model panics while it holds a bucket");
        // Relaxed: the bucket's lock orders the comparison against wakes, as in the kernel.
        if self.word.load(Ordering::Relaxed) == expected {
            drop(self.sleepers.wait(bucket));
        }
    }

    /// Wakes sleepers; more than asked for, which is allowed.
    pub fn wake(&self, _count: u32) {
        let _bucket = self.bucket.lock().expect("no model panics while it holds a bucket");
        self.sleepers.notify_all();
    }
}

impl std::ops::Deref for Futex {
    type Target = AtomicU32;

    #[cfg(not(dbuf_loom))]
    fn deref(&self) -> &AtomicU32 {
        &self.0
    }

    #[cfg(dbuf_loom)]
    fn deref(&self) -> &AtomicU32 {
        &self.word
    }
}
