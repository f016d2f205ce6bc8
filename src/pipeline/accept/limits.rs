//! Bounds what more than one folder of `accept` holds: each bound has its unit and its reason.

use crate::pipeline::record::{EXTENSION_BYTES_MAX, HEAD_BYTES, LOSS_BYTES, SOURCE_BYTES_MAX};

/// Bytes of one read: large enough to make system calls rare, small enough to stay in the core's own cache.
pub const READ_BYTES: usize = 256 << 10;

/// The most bytes that one event takes in the buffer in addition to its payload: its own head and extension, its
/// source record, and a loss record.
pub const OVERHEAD_BYTES_MAX: usize = HEAD_BYTES + EXTENSION_BYTES_MAX + SOURCE_BYTES_MAX + LOSS_BYTES;

/// The most sessions of the framed protocol that are remembered.
pub const SESSIONS_MAX: usize = 4096;

/// The most rings that a daemon can have.
pub const RINGS_MAX: usize = 1024;
