//! Encodes and decodes the bytes that programs and `dbufd` exchange, as `docs/PROTOCOL.md` defines them.
//!
//! Input: the parts of an event or a frame, or bytes that another process wrote. Output: those bytes, or those parts.
//! Any thread; one thread to each end of a ring. Failures: everything that another process can write, with
//! [`WireError`] or [`ring::Broken`]; nothing that it wrote is believed unchecked.
//!
//! - [`frames`]: the framed protocol, both directions.
//! - [`fields`]: names and values next to a payload, in frames, in rings and in segments.
//! - [`numbers`]: the numbers of the protocol, by name.
//! - [`ring`]: memory that a producer shares with the daemon: its layout, and both of its ends.
//!
//! Under `--cfg dbuf_loom` the models of the ring are built on loom.

#![deny(unsafe_code)]
#![deny(missing_docs)]

#[cfg(not(target_os = "linux"))]
compile_error!("dbuf-wire needs Linux, because a ring is a sealed memfd and its sleepers wait on a futex");
#[cfg(target_endian = "big")]
compile_error!("dbuf-wire needs a little-endian processor, because both ends of a ring write its words as they are");

mod error;
pub mod fields;
pub mod frames;
pub mod numbers;
pub mod ring;

pub use error::WireError;
