//! Defines the bounds that more than one folder of `accept` uses, each with its unit and its reason.
//!
//! Input and output: none, these are constants. Thread: any. Nothing here can fail.

use crate::pipeline::record::{EXTENSION_BYTES_MAX, HEAD_BYTES, LOSS_BYTES, SOURCE_BYTES_MAX};

/// Bytes of one read: large enough to make system calls rare, small enough to stay in the core's own cache.
pub const READ_BYTES: usize = 256 << 10;

/// Bytes that one event takes at most in the buffer in addition to its payload: its head, its extension, its source
/// record and a loss record.
pub const OVERHEAD_BYTES_MAX: usize = HEAD_BYTES + EXTENSION_BYTES_MAX + SOURCE_BYTES_MAX + LOSS_BYTES;

/// Sessions of the framed protocol that the daemon remembers at most.
pub const SESSIONS_MAX: usize = 4096;

/// Rings that a daemon has at most.
pub const RINGS_MAX: usize = 1024;

/// Processes that send datagrams and are remembered at a time, each with a descriptor.
pub const SENDERS_MAX: usize = 256;
