//! Borrows from a segment what a format prints.

use crate::ctl::select::Cursor;
use crate::pipeline::record::{Loss, Record, Source};

/// An event to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventView<'a> {
    pub(crate) cursor: Cursor,
    pub(crate) boot: u128,
    pub(crate) record: Record<'a>,
    /// The whole payload, pieces joined.
    pub(crate) payload: &'a [u8],
    pub(crate) source: Source<'a>,
}

/// Lost events, to be printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossView<'a> {
    pub(crate) time_ns: u64,
    pub(crate) loss: Loss,
    pub(crate) source: Source<'a>,
}
