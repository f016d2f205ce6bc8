//! What neither the standard library nor rustix has: the time-stamp counter, and a word from fork(2).
//!
//! Enters: nothing. Leaves: ticks; a number that changes in each forked child. Any thread. What can fail: a C library
//! without memory for one more handler.

#![allow(unsafe_code, reason = "an instruction, and a function of the C library")]

use std::io;
use std::sync::OnceLock;

use dbuf_sync::atomic::AtomicU64;
use dbuf_sync::atomic::Ordering::Relaxed;

/// How many forks lie between this process and the one in which the crate was used first.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Whether [`ticks`] counts anything here.
pub(crate) const HAS_TICKS: bool = cfg!(target_arch = "x86_64");

/// The processor's time-stamp counter.
#[inline]
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has the instruction, and the kernel lets programs use it unless prctl(2),
        // PR_SET_TSC, was asked not to.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// A number that is another one in a forked child. [`watch_forks`] was called before.
#[inline]
pub(crate) fn forks() -> u64 {
    // Relaxed: it changes only in a child, before anything else runs there.
    FORKS.load(Relaxed)
}

/// Has the C library count forks from here on.
///
/// # Errors
/// When it has no memory for that.
pub(crate) fn watch_forks() -> io::Result<()> {
    static WATCHED: OnceLock<i32> = OnceLock::new();
    extern "C" fn in_child() {
        // Relaxed: the child has one thread.
        FORKS.fetch_add(1, Relaxed);
    }
    let error = *WATCHED.get_or_init(|| {
        // SAFETY: pthread_atfork(3) asks for functions that may run in a child, where only what is async-signal-safe
        // may be done: the handler adds to an atomic. It is code of this library, which must not be unloaded; if it is
        // in a shared object, the C library ties the handler to that and forgets it with it (glibc's
        // __register_atfork).
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) }
    });
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_go_on() {
        let (first, second) = (ticks(), ticks());
        assert!(!HAS_TICKS || second > first);
    }
}
