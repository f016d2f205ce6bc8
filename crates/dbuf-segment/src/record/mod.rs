//! Encodes and decodes records: the bytes of one event, the same in a writer's claim, in the buffer and in a segment.
//! They are encoded once and never serialised again.
//!
//! Input: the parts of an event; or bytes of a batch. Output: bytes in a claim; or a [`Record`] that borrows the bytes.
//! Thread: any. Failure: decoding, with [`Malformed`]. Bytes from a file or from an earlier process are never trusted.
//!
//! The byte table is in `docs/FORMAT.md`; a test compares it with these files. Numbers are little-endian.
//!
//! Invariants, cited by number:
//! 1. A record starts and ends at a multiple of [`ALIGN`] from the start of its run; padding bytes are zero.
//! 2. A source record precedes, in the same run, the first record that names its source: a run stands alone.
//! 3. Only an event that is complete takes a sequence; a piece that is continued does not, and neither does a source or
//!    a loss record. A record of lines takes one for each ([`Record::event_count`]).
//!
//! A record of lines ([`flag::LINES`]) holds consecutive lines of text under one head: they share everything that the
//! head says. So a line costs only its own bytes, and many lines are copied at once.

mod decode;
mod encode;
mod layout;
mod loss;
mod newlines;
mod per_source;
mod source;
#[cfg(test)]
mod tests;

pub use dbuf_wire::frames::{FIELDS_BYTES_MAX, put_field};
pub use decode::{Malformed, Record};
pub use encode::{Event, Piece, Sink, encode_lines, encode_loss, encode_source, lines_record_bytes};
pub use layout::{
    ALIGN, COMM_BYTES_MAX, EXTENSION_BYTES_MAX, HEAD_BYTES, Kind, LOSS_BYTES, LOSS_PAYLOAD_BYTES, MAX_EVENT_BYTES_MAX,
    SOURCE_BYTES_MAX, SOURCE_FIXED_BYTES, TAG_BYTES_MAX, UNIT_BYTES_MAX, flag, padded,
};
pub use loss::{Cause, Loss};
pub use newlines::Newlines;
pub use per_source::{PerSource, SourceCount};
pub use source::{Source, Transport, USER_UNKNOWN};
