//! Gives every crate of dbufd its atomics, locks and threads: those of the standard library, or loom's under `--cfg
//! dbuf_loom`.
//!
//! Input: none. Output: types and functions. Thread: any. Failures: none except those that the standard library
//! documents.
//!
//! It adds what the lock-free parts need and the standard library lacks: [`CacheLine`], [`Futex`], and [`Edge`], which
//! names every ordering that publishes something between threads. loom has no channels, so a model has no `mpsc`.
//!
//! ```
//! use dbuf_sync::{Arc, Edge, atomic::{AtomicU64, Ordering::Relaxed}, thread};
//!
//! const READY: Edge = Edge::new("ready");
//! let (data, ready) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
//! let writer = thread::spawn({
//!     let (data, ready) = (Arc::clone(&data), Arc::clone(&ready));
//!     move || {
//!         data.store(7, Relaxed);
//!         ready.store(1, READY.release());
//!     }
//! });
//! if ready.load(READY.acquire()) == 1 {
//!     assert_eq!(data.load(Relaxed), 7);
//! }
//! writer.join().expect("the writer does not panic");
//! ```

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("dbuf-sync needs Linux, because `Futex` is futex(2)");

mod edge;
mod futex;

#[cfg(not(dbuf_loom))]
pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, atomic, mpsc};
#[cfg(not(dbuf_loom))]
pub use std::thread;

/// A barrier for the compiler alone. loom has none, because it reorders no plain code.
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

/// Keeps a value on its own cache lines: 128 bytes, because the prefetcher loads lines in pairs.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct CacheLine<T>(
    /// The value.
    pub T,
);

const _: () = assert!(align_of::<CacheLine<u8>>() == 128 && size_of::<CacheLine<u64>>() == 128);

/// Locks a mutex. No thread panics while it holds one: dbufd aborts on a panic, and its tests fail.
///
/// # Panics
/// If a thread has panicked while it held the mutex.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds a lock")
}
