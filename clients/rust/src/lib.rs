//! What an application links to send events to `dbufd`.
//!
//! [`Client`] sends events over the daemon's `stream.sock` and learns which of them are persisted or durable.
//! [`wire`] is the framed protocol itself, both directions; the daemon decodes with the same code. The bytes are
//! drawn in `docs/PROTOCOL.md`.
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

#[cfg(not(dbuf_loom))]
mod client;
#[cfg(not(dbuf_loom))]
mod producer;
#[doc(hidden)]
pub mod ring;
#[doc(hidden)]
pub mod sync;
#[cfg(not(dbuf_loom))]
mod sys;
pub mod wire;

#[cfg(not(dbuf_loom))]
pub use client::{Client, ClientOptions, Error, Refusal};
#[cfg(not(dbuf_loom))]
pub use producer::{
    Claim, LinkKind, OpenError, Producer, ProducerOptions, SendError, Statistics, SyncError, WhenFull, WithoutDaemon,
};
