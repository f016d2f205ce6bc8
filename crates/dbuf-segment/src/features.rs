//! Names the features of batches and footers that the first version does not know.
//!
//! Input: records. Output: feature bits. Pure; any thread. Nothing can fail.

use crate::record::{Cause, Kind, Record};

/// Incompatible features of a segment and of a footer that this code knows.
pub const INCOMPAT_KNOWN: u32 = 0;
/// An incompatible feature of a batch: it holds records of lines.
pub const INCOMPAT_LINES: u32 = 1 << 0;
/// An incompatible feature of a batch: it holds loss records of the cause [`Cause::Limited`].
pub const INCOMPAT_LIMITED: u32 = 1 << 1;
/// Incompatible features of a batch that this code knows.
pub const BATCH_INCOMPAT_KNOWN: u32 = INCOMPAT_LINES | INCOMPAT_LIMITED;
/// A compatible feature of a footer: it has a table of counts.
pub const COMPAT_COUNTS: u32 = 1 << 0;

/// The incompatible features that a batch with this record must carry.
#[must_use]
pub fn features_of(record: &Record<'_>) -> u32 {
    if record.is_lines() {
        INCOMPAT_LINES
    } else if record.kind == Kind::Loss && record.as_loss().is_ok_and(|loss| loss.cause == Cause::Limited) {
        INCOMPAT_LIMITED
    } else {
        0
    }
}
