//! Reads, verifies and encodes the segments that `dbufd` stores, as `docs/FORMAT.md` draws them.
//!
//! Input: files, or bytes in memory. Output: events in order, losses, damage and gaps; whether every byte is what was
//! written. Thread: any; one batch in memory at a time. Failures: the disk, with an error. Damage is not an error: it
//! is found, measured and reported. The crate needs no daemon, and writes no file.
//!
//! - [`record`]: encodes and decodes one event.
//! - [`mod@format`]: the layout of segment, batch and trailer; [`footer`]: what makes a segment quick to search;
//!   [`name`]: names of files.
//! - [`mod@file`]: what a reader needs of a file.
//! - [`scan`]: reads forward, backward and as files grow; joins long events; verifies.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//!
//! use dbuf_segment::scan::{Directory, Item, Wanted, forward};
//!
//! let directory = Directory::open(Path::new("/var/log/dbufd"))?;
//! let _ = forward(&directory, &Wanted::default(), |item| {
//!     if let Item::Event(event) = item {
//!         println!("{}", String::from_utf8_lossy(event.record.payload()));
//!     }
//!     ControlFlow::Continue(())
//! });
//! # Ok::<(), std::io::Error>(())
//! ```

#![deny(unsafe_code)]
// No model needs it, and loom's Arc cannot hold a trait object.
#![cfg(not(dbuf_loom))]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!(
    "dbuf-segment needs Linux on x86_64, because it follows files with inotify and finds line ends with SSE2"
);

mod features;
pub mod file;
pub mod footer;
pub mod format;
#[cfg(test)]
mod format_tests;
pub mod name;
pub mod record;
pub mod scan;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
mod vector;
