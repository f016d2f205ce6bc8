//! `dbufd`: events from Unix sockets, through a lock-free double buffer, into rotated, checksummed segments.
//!
//! The journey of an event, and the order of the modules:
//!
//! 1. [`pipeline::accept`]: bytes arrive on a socket and become events; a pinned writer thread owns each socket.
//! 2. [`pipeline::buffer`]: the writer copies them into the **front** half of the double buffer and publishes them.
//! 3. [`pipeline::drain`]: the reader swaps the halves with one atomic operation and seals the **back** half as a batch.
//! 4. [`pipeline::store`]: the batch is appended to the active segment; segments rotate, are retained, are read again.
//! 5. [`daemon`]: signals, systemd and dbufctl's socket, on a thread of their own. The only place that knows tokio.
//! 6. [`config`]: what the file says, and so what the daemon will do.
//! 7. [`ctl`]: `dbufctl`, the command that people type.
//!
//! [`sys`] holds one kernel facility a file, [`sync`] is the only door to atomics and threads.
//!
//! Under `--cfg dbuf_loom` only [`pipeline::buffer`] and what it needs are built, for the models that check it.
//!
//! To embed the double buffer in another program, [`pipeline::buffer`] is all that is needed.

#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("dbufd needs Linux on x86_64, because it uses memfds, futexes and the time-stamp counter");

#[cfg(not(dbuf_loom))]
pub mod config;
#[cfg(not(dbuf_loom))]
pub mod ctl;
#[cfg(not(dbuf_loom))]
pub mod daemon;
pub mod pipeline;
#[cfg(not(dbuf_loom))]
pub mod sys;
/// All of it that [`pipeline::buffer`] needs.
#[cfg(dbuf_loom)]
pub mod sys {
    pub mod vector;
}

/// The only door to atomics and threads.
pub use dbuf_sync as sync;
