//! Gives every crate of dbufd its atomics, locks and threads: the standard library's, or loom's under `--cfg
//! dbuf_loom`.
//!
//! Input: nothing. Output: types and functions. Any thread. Failures: none, but for what the standard library
//! documents.
//!
//! It adds what the lock-free parts need and the standard library lacks: [`CacheLine`], [`Futex`], and [`Edge`], which
//! gives a name to every ordering that carries something. loom has no channels, so there is no `mpsc` in a model.

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("dbuf-sync needs Linux, because `Futex` is futex(2)");

mod edge;
mod futex;

#[cfg(not(dbuf_loom))]
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, atomic, mpsc};
#[cfg(not(dbuf_loom))]
pub use std::thread;

/// A barrier for the compiler alone. loom has none: it reorders no plain code.
pub use std::sync::atomic::compiler_fence;

#[cfg(dbuf_loom)]
pub use loom::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
#[cfg(dbuf_loom)]
pub use loom::thread;
/// For models: runs a closure under every order of steps, and cells that report two threads at one byte.
#[cfg(dbuf_loom)]
pub use loom::{cell, model};

pub use edge::Edge;
pub use futex::Futex;

/// Keeps a value on cache lines of its own: 128 bytes, since the prefetcher brings lines in pairs.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct CacheLine<T>(
    /// The value.
    pub T,
);

const _: () = assert!(align_of::<CacheLine<u8>>() == 128 && size_of::<CacheLine<u64>>() == 128);

/// Locks a mutex that no thread panics under: dbufd aborts on a panic, and its tests fail.
///
/// # Panics
/// When a thread has panicked while it held the mutex.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds a lock")
}
