//! Lays out a record: its sizes, its kinds, and the bits of its flags.
//!
//! Input and output: none, these are constants. Thread: any. Failures: none.

use dbuf_wire::frames::FIELDS_BYTES_MAX;

/// Records start at multiples of this many bytes.
pub const ALIGN: usize = 8;
/// Bytes of a record's fixed head.
pub const HEAD_BYTES: usize = 24;
/// The longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 64;
/// The longest command name that is stored, in bytes (the kernel's own limit is 15).
pub const COMM_BYTES_MAX: usize = 32;
/// The longest systemd unit name that is stored, in bytes (systemd's own limit is 255).
pub const UNIT_BYTES_MAX: usize = 255;
/// Bytes of the fixed part of a source record's payload.
pub const SOURCE_FIXED_BYTES: usize = 40;
/// Bytes of the longest source record, including head and padding.
pub const SOURCE_BYTES_MAX: usize =
    padded(HEAD_BYTES + SOURCE_FIXED_BYTES + TAG_BYTES_MAX + COMM_BYTES_MAX + UNIT_BYTES_MAX);
/// Bytes of a loss record's payload.
pub const LOSS_PAYLOAD_BYTES: usize = 40;
/// Bytes of a loss record, including its head.
pub const LOSS_BYTES: usize = HEAD_BYTES + LOSS_PAYLOAD_BYTES;
/// The highest value that `ingest.max_event` may have, in bytes.
pub const MAX_EVENT_BYTES_MAX: usize = 1 << 20;
/// Bytes between an event's head and its payload, at most.
pub const EXTENSION_BYTES_MAX: usize = 3 * 8 + padded(4 + FIELDS_BYTES_MAX);

const _: () = assert!(HEAD_BYTES.is_multiple_of(ALIGN) && LOSS_BYTES.is_multiple_of(ALIGN));

/// `len` rounded up to the next multiple of [`ALIGN`].
#[must_use]
pub const fn padded(len: usize) -> usize {
    (len + ALIGN - 1) & !(ALIGN - 1)
}

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An event, or a piece of one.
    Event = 1,
    /// The sender of the records that name this source.
    Source = 2,
    /// Events that were accepted or offered and are not in the file, and why.
    Loss = 3,
}

/// Bits of a record's flags. The first four name the extensions that follow the head, in this order.
pub mod flag {
    /// 8 bytes: the time that the sender stated, in nanoseconds of the wall clock.
    pub const SOURCE_TIME: u16 = 1 << 0;
    /// 8 bytes: the producer's own sequence (framed protocol).
    pub const PRODUCER_SEQUENCE: u16 = 1 << 1;
    /// 8 bytes: an id that all pieces of one event share, unique within a life of the daemon.
    pub const PIECE: u16 = 1 << 2;
    /// A u32 with the length of the fields in bytes, then the fields, padded to 8 bytes.
    pub const FIELDS: u16 = 1 << 3;
    /// More pieces of this event follow.
    pub const CONTINUES: u16 = 1 << 4;
    /// This piece continues an earlier one.
    pub const CONTINUED: u16 = 1 << 5;
    /// The payload is several events, one on each line. Each ends with a newline that is not part of it. Excludes all
    /// other flags.
    pub const LINES: u16 = 1 << 6;
    /// All bits that this version knows.
    pub const KNOWN: u16 = (1 << 7) - 1;
}
