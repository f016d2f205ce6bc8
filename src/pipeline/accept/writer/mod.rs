//! Runs the writer threads: each sleeps in epoll, reads what is ready, and publishes it.
//!
//! `thread` is the loop, `resume` its beginning and `stop` its end; `poll_rings` decides when rings are looked at. `context` is
//! what all sockets of one writer share, [`receive_buffer`] the memory that it reads into.

pub(crate) mod context;
pub(crate) mod poll_rings;
pub mod receive_buffer;
mod resume;
mod stop;
mod thread;
mod token;

pub(crate) use self::thread::WriterThread;
