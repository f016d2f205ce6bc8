//! Sends events to `dbufd` from Rust programs.
//!
//! * [`Producer`], for programs that log a lot and must not wait: it writes an event into memory that the daemon reads,
//!   in some 20 ns and without a system call. While there is no daemon, it keeps events.
//! * [`log()`] and [`mod@local`]: the same without a handle to pass around, one producer for each thread.
//! * The features `tracing` and `log`, for programs that use those crates: an event with a field for each value, by one
//!   producer for each thread.
//! * [`Client`], for few events that each matter: it sends frames over `stream.sock`, waits while the daemon has no
//!   room, and learns which events are persisted, durable, refused or lost, by their numbers.
//!
//! When there is no room, a producer drops an event and counts it, unless it is told to wait; a client waits. Both have
//! a `sync` that returns when everything so far is durable. Nothing here starts a thread, and nothing depends on tokio.
//! The module [`wire`] is the framed protocol itself, in both directions; the daemon decodes with the same code, and
//! `docs/PROTOCOL.md` has the bytes.
//!
//! If events are in danger, one line on standard error says so: when a producer cannot reach the daemon for the first
//! time, and when it ends with events that were not delivered. `quiet` in the options turns both off.
//!
//! ```no_run
//! use dbuf_client::{Producer, ProducerOptions};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut producer = Producer::open(ProducerOptions { name: "shop".into(), ..Default::default() })?;
//! producer.send(6, b"order 17 accepted")?;
//! producer.sync(Duration::from_secs(5))?; // it is on the disk now
//! # Ok(())
//! # }
//! ```
//!
//! ```no_run
//! use dbuf_client::{Client, ClientOptions};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), dbuf_client::Error> {
//! let options = ClientOptions { name: "shop", ..Default::default() };
//! let mut client = Client::connect("/run/dbufd/stream.sock", &options)?;
//! client.send(6, b"", 0, b"order 17 accepted")?;
//! client.send(3, b"billing", 0, b"card refused")?;
//! client.sync(Duration::from_secs(5))?; // both are on the disk now
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]
#![deny(missing_docs)]
// The loom models do not need this crate, and its statics cannot be loom's.
#![cfg(not(dbuf_loom))]

#[cfg(any(feature = "log", feature = "tracing"))]
mod backend;
mod client;
mod connection;
pub mod local;
#[cfg(feature = "log")]
pub mod log;
mod producer;
mod reason;
mod rules;
mod sys;
#[cfg(feature = "tracing")]
pub mod tracing;

pub use client::{Client, ClientOptions, Error};
pub use connection::Refusal;
/// The framed protocol itself, both directions; the daemon decodes with the same code.
#[doc(inline)]
pub use dbuf_wire::frames as wire;
pub use local::log;
pub use producer::{
    Claim, LinkKind, OpenError, Producer, ProducerOptions, SendError, Statistics, SyncError, WhenFull, WithoutDaemon,
};
