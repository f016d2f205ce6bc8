//! Lets threads sleep on a word, and wakes them.
//!
//! Input: the value that the word is expected to have. Output: none; the caller looks again. Thread: any. Failures:
//! none; a wait that the kernel refuses returns at once. Linux only.

use std::time::Duration;

use crate::atomic::AtomicU32;
#[cfg(dbuf_loom)]
use crate::atomic::Ordering;
#[cfg(dbuf_loom)]
use crate::{Condvar, Mutex};

/// A word that threads can sleep on. Spurious returns are allowed: the sleeper looks again.
///
/// The kernel compares the word and goes to sleep in one step. A wake after a change of the word finds either the
/// sleeper or a comparison that fails (futex(2)). This is a promise about this word alone: it orders nothing else.
#[cfg(not(dbuf_loom))]
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Futex(AtomicU32);

#[cfg(not(dbuf_loom))]
impl Futex {
    /// Creates a word with this value.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    /// Sleeps while the word is `expected`, at most for `timeout`. Returns at once if it is not.
    pub fn wait(&self, expected: u32, timeout: Option<Duration>) {
        use rustix::thread::futex;
        // A timeout that the kernel's format cannot hold counts as no timeout.
        let timeout = timeout.and_then(|time| futex::Timespec::try_from(time).ok());
        // Every error (changed, interrupted, timed out) means the same: look again.
        let _ = futex::wait(&self.0, futex::Flags::PRIVATE, expected, timeout.as_ref());
    }

    /// Wakes up to `count` sleepers.
    pub fn wake(&self, count: u32) {
        use rustix::thread::futex;
        // It fails only for a bad address or a bad operation, and both are fixed here.
        let _ = futex::wake(&self.0, futex::Flags::PRIVATE, count);
    }
}

/// A model of a word that threads can sleep on; its lock is the kernel's bucket lock. Time does not pass in a model. So
/// a sleep ends only by a wake, and a lost wake is a deadlock that loom reports.
#[cfg(dbuf_loom)]
#[derive(Debug)]
pub struct Futex {
    word: AtomicU32,
    bucket: Mutex<()>,
    sleepers: Condvar,
}

#[cfg(dbuf_loom)]
impl Futex {
    /// Creates a word with this value.
    #[must_use]
    pub fn new(value: u32) -> Self {
        Self { word: AtomicU32::new(value), bucket: Mutex::new(()), sleepers: Condvar::new() }
    }

    /// Sleeps while the word is `expected`, whatever the timeout.
    pub fn wait(&self, expected: u32, _timeout: Option<Duration>) {
        let bucket = self.bucket.lock().expect("no model panics while it holds a bucket");
        // Relaxed: the bucket's lock orders the comparison against wakes, as in the kernel.
        if self.word.load(Ordering::Relaxed) == expected {
            drop(self.sleepers.wait(bucket));
        }
    }

    /// Wakes sleepers, possibly more than `count`, which is allowed.
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

#[cfg(all(test, not(dbuf_loom)))]
mod tests {
    use super::*;
    use crate::atomic::Ordering::Relaxed;
    use crate::{Arc, thread};

    #[test]
    fn a_sleeper_wakes_when_the_word_changes_and_does_not_sleep_on_another_value() {
        let word = Arc::new(Futex::new(0));
        word.wait(1, None);
        word.wait(0, Some(Duration::from_millis(1)));
        let sleeper = thread::spawn({
            let word = Arc::clone(&word);
            move || {
                // Relaxed: the join orders everything else.
                while word.load(Relaxed) == 0 {
                    word.wait(0, None);
                }
            }
        });
        word.store(1, Relaxed);
        word.wake(1);
        sleeper.join().expect("the sleeper does not panic");
    }
}
