//! Runs the writer threads: each sleeps in epoll, reads what is ready, and publishes it.
//!
//! Input: sockets and rings. Output: events in the buffer. Thread: one for each writer. Failure: the reader is gone;
//! then the writer ends.
//!
//! `thread` is the loop, `resume` its beginning and `stop` its end. `poll_rings` looks into rings when `ring_schedule`
//! says so. `listeners` says which protocol a socket starts with, and `first_bytes` decides where the socket alone does
//! not tell. `handle` is how others see a writer.

mod first_bytes;
mod handle;
mod listeners;
mod poll_rings;
mod resume;
mod ring_schedule;
mod stop;
mod thread;
mod token;

pub(crate) use self::first_bytes::Shared;
pub(crate) use self::handle::{InheritedWork, WriterHandle, Writers};
pub(crate) use self::listeners::Listeners;
pub use self::listeners::{Listener, ListenerKind};
pub(crate) use self::thread::WriterThread;
