//! Runs the writer threads: each sleeps in epoll, reads what is ready, and publishes it.
//!
//! Input: sockets, and what the previous process left. Output: events in the front half. Thread: one for each writer.
//! Failure: a thread cannot be set up; nothing that a client sends ends a writer.
//!
//! `thread` is the loop, `resume` its beginning and `stop` its end. `newcomers` accepts clients. `poll_rings` looks
//! into rings when `ring_schedule` says so. `listeners` says which protocol each socket begins with, and `first_bytes`
//! decides where the socket alone does not say it. `carries` chooses what gives memory back, `throttled` keeps the
//! connections of users who must wait, and `unkept` lists connections that are to be stored later. `handle` is how
//! others see a writer.

mod carries;
mod first_bytes;
mod handle;
mod listeners;
mod newcomers;
mod poll_rings;
mod resume;
mod ring_schedule;
mod stop;
mod thread;
mod throttled;
mod token;
mod turns;
mod unkept;
mod wait_queue;

pub(crate) use self::first_bytes::Shared;
pub(crate) use self::handle::{InheritedWork, WriterHandle, Writers};
pub(crate) use self::listeners::Listeners;
pub use self::listeners::{Listener, ListenerKind};
pub(crate) use self::thread::WriterThread;
