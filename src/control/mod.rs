//! The control plane: one thread, one tokio runtime, and the only folder that names tokio.
//!
//! Enters: the command line, signals, dbufctl's requests, systemd's sockets. Leaves: a daemon that is put together in
//! order and taken apart in order, answers, notes to systemd, the report. What can fail: starting, with one sentence.
//! Once it serves, nothing here ends the daemon but a wish to.

mod log;
pub mod server;
mod service;
mod signals;
mod sockets;
