//! The only door to atomics and threads: the standard library's, or loom's under `--cfg dbuf_loom`.

pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, atomic, mpsc};
pub use std::thread;

/// Keeps a value on cache lines of its own: 128 bytes, since the prefetcher brings lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct CacheLine<T>(
    /// The value.
    pub T,
);
