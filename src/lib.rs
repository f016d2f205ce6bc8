//! `dbufd`: events from Unix sockets, through a lock-free double buffer, into rotated, checksummed segments.
//!
//! The journey of an event (1 to 4), and what surrounds it (5 to 8):
//!
//! 1. [`pipeline::accept`]: bytes arrive on a socket and become events; a pinned writer thread owns each socket.
//! 2. `dbuf_buffer`: the writer copies them into the **front** half of the double buffer and publishes them.
//! 3. [`pipeline::drain`]: the reader swaps the halves with one atomic operation and seals the **back** half as a
//!    batch.
//! 4. [`pipeline::store`]: the batch is appended to the active segment. Segments rotate, expire, and are read again
//!    (`dbuf_segment`).
//! 5. [`daemon`]: signals, systemd and dbufctl's socket, on a thread of their own. The only folder that uses tokio.
//! 6. `stats`: all figures in one schema; the daemon fills it, its report, dbufctl and Prometheus show it.
//! 7. [`config`]: reads and checks the configuration.
//! 8. [`ctl`]: `dbufctl`, the command that people type.
//!
//! [`options`] is what configuration and pipeline share, `escape` makes untrusted bytes fit for a terminal, [`sys`]
//! wraps facilities of the kernel and the processor, one a file, and [`sync`] is the only door to atomics and threads.
//! The order of imports is another one: `docs/ARCHITECTURE.md`, "Crates and folders", draws it, and `tests/boundaries`
//! checks it.
//!
//! What others can use, and what is to be tested alone, is in crates of its own: `dbuf_sync` (atomics and threads),
//! `dbuf_buffer` (the double buffer), `dbuf_wire` (the protocol and the ring), `dbuf_segment` (records, and reading
//! segments).
//!
//! Under `--cfg dbuf_loom`, for the models, only the files below that own an edge between threads or processes are
//! built.

#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("dbufd needs Linux on x86_64, because it uses memfds, futexes and the time-stamp counter");

#[cfg(not(dbuf_loom))]
pub mod config;
#[cfg(not(dbuf_loom))]
pub mod ctl;
#[cfg(not(dbuf_loom))]
pub mod daemon;
#[cfg(not(dbuf_loom))]
mod daemon_args;
#[cfg(not(dbuf_loom))]
mod escape;
#[cfg(not(dbuf_loom))]
pub mod options;
#[cfg(not(dbuf_loom))]
pub mod pipeline;
#[cfg(not(dbuf_loom))]
mod stats;
#[cfg(not(dbuf_loom))]
pub mod sys;

/// The only door to atomics and threads.
#[cfg(not(dbuf_loom))]
pub use dbuf_sync as sync;

#[cfg(dbuf_loom)]
#[path = "pipeline/account/cell.rs"]
mod cell;
#[cfg(dbuf_loom)]
#[path = "pipeline/progress/levels.rs"]
mod levels;
#[cfg(dbuf_loom)]
#[path = "pipeline/takeover/note.rs"]
mod note;
