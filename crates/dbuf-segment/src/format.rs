//! Lays out a segment: header, batches, footer, trailer. The byte tables are in `docs/FORMAT.md`; a test compares them
//! with the tables here.
//!
//! Input: numbers; or bytes, which are never trusted. Output: bytes; or numbers. Thread: any; nothing here waits.
//! Failure: decoding, with [`Broken`].
//!
//! Invariants, cited by number:
//! 1. Header, batches and footer start at multiples of 8 and take multiples of 8 bytes; numbers are little-endian.
//! 2. The CRC of a batch's header starts from the stream id, which is random, and covers its offset in the file. So
//!    bytes of a payload that look like a batch are not taken for one when a reader looks for the next whole batch
//!    after damage, and neither is a batch that the disk put in the wrong place.
//! 3. Everything in a footer can be rebuilt from the batches: it is a cache.
//! 4. An unknown bit among the incompatible features means: do not read. A reader ignores unknown compatible ones.

use std::fmt;

pub use crate::features::{
    BATCH_INCOMPAT_KNOWN, COMPAT_COUNTS, INCOMPAT_KNOWN, INCOMPAT_LIMITED, INCOMPAT_LINES, features_of,
};

/// The version that this code writes.
pub const VERSION: u16 = 1;
/// First bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"dbufseg\x1a";
/// First bytes of a batch.
pub const BATCH_MAGIC: [u8; 4] = *b"dbB\xB1";
/// First bytes of a footer.
pub const FOOTER_MAGIC: [u8; 4] = *b"dbF\xF1";
/// Last bytes of a sealed segment.
pub const TRAILER_MAGIC: [u8; 4] = *b"dbT\xE1";

/// Bytes of a segment's header; the first batch follows.
pub const SEGMENT_BYTES: usize = 128;
/// Bytes of a batch's header, without the table of runs.
pub const BATCH_FIXED_BYTES: usize = 88;
/// Bytes of a row in the table of runs.
pub const RUN_BYTES: usize = 16;
/// Runs in a batch, at most.
pub const RUNS_MAX: usize = 4096;
/// Bytes of the longest header of a batch, including the table of runs.
pub const BATCH_HEADER_BYTES_MAX: usize = BATCH_FIXED_BYTES + RUNS_MAX * RUN_BYTES;
/// Bytes of a footer's fixed part.
pub const FOOTER_FIXED_BYTES: usize = 104;
/// Bytes of a row in the index of batches.
pub const INDEX_ROW_BYTES: usize = 32;
/// Bytes of the head of a footer's table of counts.
pub const COUNTS_BYTES: usize = 8;
/// Bytes of a row in a footer's table of counts.
pub const COUNT_ROW_BYTES: usize = 16;
/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = 24;
/// Bytes of the longest footer that is read.
pub const FOOTER_BYTES_MAX: usize = 64 << 20;

/// CRC-32C.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// A field of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in the byte table.
    pub name: &'static str,
    /// Offset of its first byte.
    pub at: usize,
    /// Its size in bytes.
    pub bytes: usize,
}

macro_rules! layout {
    ($(#[$doc:meta])* $layout:ident, $total:expr, { $($name:ident: $at:literal, $bytes:literal;)* }) => {
        $(#[$doc])*
        pub mod $layout {
            use super::Field;
            $(
                #[doc = concat!("`", stringify!($name), "`: see `docs/FORMAT.md`.")]
                #[allow(non_upper_case_globals, reason = "the names are those of the byte table")]
                pub const $name: Field = Field { name: stringify!($name), at: $at, bytes: $bytes };
            )*
            /// All fields in order, without holes.
            pub const FIELDS: &[Field] = &[$($name),*];
            const _: () = {
                let (mut at, mut i) = (0, 0);
                while i < FIELDS.len() {
                    assert!(FIELDS[i].at == at, "a hole or an overlap");
                    at += FIELDS[i].bytes;
                    i += 1;
                }
                assert!(at == $total, "the fields do not fill the layout");
            };
        }
    };
}

layout!(
    /// The header of a segment.
    segment, super::SEGMENT_BYTES, {
        magic: 0, 8;
        version: 8, 2;
        reserved: 10, 2;
        header_bytes: 12, 4;
        compat: 16, 4;
        incompat: 20, 4;
        stream_id: 24, 16;
        boot_id: 40, 16;
        created_ns: 56, 8;
        first_sequence: 64, 8;
        reserved_too: 72, 52;
        header_crc: 124, 4;
    }
);
layout!(
    /// The header of a batch.
    batch, super::BATCH_FIXED_BYTES, {
        magic: 0, 4;
        version: 4, 2;
        runs: 6, 2;
        compat: 8, 4;
        incompat: 12, 4;
        generation: 16, 8;
        first_sequence: 24, 8;
        events: 32, 4;
        header_bytes: 36, 4;
        content_bytes: 40, 8;
        time_min_ns: 48, 8;
        time_max_ns: 56, 8;
        offset: 64, 8;
        payload_bytes: 72, 8;
        content_crc: 80, 4;
        header_crc: 84, 4;
    }
);
layout!(
    /// A row in a batch's table of runs.
    run, super::RUN_BYTES, {
        writer: 0, 2;
        reserved: 2, 2;
        events: 4, 4;
        bytes: 8, 8;
    }
);
layout!(
    /// The fixed part of a footer.
    footer, super::FOOTER_FIXED_BYTES, {
        magic: 0, 4;
        version: 4, 2;
        flags: 6, 2;
        compat: 8, 4;
        incompat: 12, 4;
        offset: 16, 8;
        stream_id: 24, 16;
        first_sequence: 40, 8;
        next_sequence: 48, 8;
        events: 56, 8;
        payload_bytes: 64, 8;
        batches: 72, 8;
        time_min_ns: 80, 8;
        time_max_ns: 88, 8;
        index_rows: 96, 4;
        sources: 100, 4;
    }
);
layout!(
    /// A row in a footer's index.
    index_row, super::INDEX_ROW_BYTES, {
        offset: 0, 8;
        first_sequence: 8, 8;
        time_min_ns: 16, 8;
        time_max_ns: 24, 8;
    }
);
layout!(
    /// The head of a footer's table of counts.
    counts, super::COUNTS_BYTES, {
        rows: 0, 4;
        reserved: 4, 4;
    }
);
layout!(
    /// A row in a footer's table of counts.
    count_row, super::COUNT_ROW_BYTES, {
        events: 0, 8;
        payload_bytes: 8, 8;
    }
);
layout!(
    /// The end of a sealed segment.
    trailer, super::TRAILER_BYTES, {
        footer_offset: 0, 8;
        footer_bytes: 8, 4;
        footer_crc: 12, 4;
        trailer_crc: 16, 4;
        magic: 20, 4;
    }
);

/// Why bytes cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// They are damaged, or something else altogether.
    Damaged(&'static str),
    /// They are whole, but of a version or with a feature that this program does not know.
    Unknown(&'static str),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(what) => f.write_str(what),
            Self::Unknown(what) => write!(f, "{what} of a newer version; read it with a newer dbufctl"),
        }
    }
}

impl std::error::Error for Broken {}

pub(crate) fn put(bytes: &mut [u8], field: Field, value: u64) {
    bytes[field.at..][..field.bytes].copy_from_slice(&value.to_le_bytes()[..field.bytes]);
}

pub(crate) fn put_bytes(bytes: &mut [u8], field: Field, value: &[u8]) {
    bytes[field.at..][..field.bytes].copy_from_slice(value);
}

pub(crate) fn get(bytes: &[u8], field: Field) -> u64 {
    let mut word = [0; 8];
    word[..field.bytes].copy_from_slice(&bytes[field.at..][..field.bytes]);
    u64::from_le_bytes(word)
}

pub(crate) fn get_u32(bytes: &[u8], field: Field) -> u32 {
    get(bytes, field) as u32
}

pub(crate) fn get_u128(bytes: &[u8], field: Field) -> u128 {
    u128::from_le_bytes(bytes[field.at..][..16].try_into().expect("sixteen bytes"))
}

pub(crate) fn has(bytes: &[u8], field: Field, value: &[u8]) -> bool {
    bytes.get(field.at..field.at + field.bytes) == Some(value)
}

/// Refuses a version or features that this code must not read.
fn check_features(version: u64, unknown: u32, what: &'static str) -> Result<(), Broken> {
    if version == u64::from(VERSION) && unknown == 0 { Ok(()) } else { Err(Broken::Unknown(what)) }
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random, and the same in all segments of a directory.
    pub stream_id: u128,
    /// The boot of the machine in which the segment was made.
    pub boot_id: u128,
    /// When the segment was made, in nanoseconds of the wall clock.
    pub created_ns: u64,
    /// The sequence of its first event.
    pub first_sequence: u64,
}

impl SegmentHeader {
    /// Encodes the header.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_BYTES] {
        let mut bytes = [0; SEGMENT_BYTES];
        put_bytes(&mut bytes, segment::magic, &SEGMENT_MAGIC);
        put(&mut bytes, segment::version, u64::from(VERSION));
        put(&mut bytes, segment::header_bytes, SEGMENT_BYTES as u64);
        put_bytes(&mut bytes, segment::stream_id, &self.stream_id.to_le_bytes());
        put_bytes(&mut bytes, segment::boot_id, &self.boot_id.to_le_bytes());
        put(&mut bytes, segment::created_ns, self.created_ns);
        put(&mut bytes, segment::first_sequence, self.first_sequence);
        let crc = checksum(&bytes[..segment::header_crc.at]);
        put(&mut bytes, segment::header_crc, u64::from(crc));
        bytes
    }

    /// Decodes the first bytes of a file.
    ///
    /// # Errors
    /// [`Broken`] if they are not a header that this version may read.
    pub fn decode(bytes: &[u8]) -> Result<Self, Broken> {
        if bytes.len() < SEGMENT_BYTES {
            return Err(Broken::Damaged("the file is shorter than a segment's header"));
        }
        if !has(bytes, segment::magic, &SEGMENT_MAGIC) {
            return Err(Broken::Damaged("the file does not start as a segment"));
        }
        if checksum(&bytes[..segment::header_crc.at]) != get_u32(bytes, segment::header_crc) {
            return Err(Broken::Damaged("the checksum of the segment's header is wrong"));
        }
        check_features(get(bytes, segment::version), get_u32(bytes, segment::incompat) & !INCOMPAT_KNOWN, "a segment")?;
        if get(bytes, segment::header_bytes) != SEGMENT_BYTES as u64 {
            return Err(Broken::Unknown("a segment's header"));
        }
        Ok(Self {
            stream_id: get_u128(bytes, segment::stream_id),
            boot_id: get_u128(bytes, segment::boot_id),
            created_ns: get(bytes, segment::created_ns),
            first_sequence: get(bytes, segment::first_sequence),
        })
    }
}

/// One writer's part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// The writer's index.
    pub writer: u16,
    /// Events that end in it.
    pub events: u32,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The header of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BatchHeader {
    /// The generation of the swap that brought it.
    pub generation: u64,
    /// The sequence of its first event.
    pub first_sequence: u64,
    /// Events that end in it.
    pub events: u32,
    /// Bytes of its header, including the table of runs.
    pub header_bytes: u32,
    /// Bytes of its records.
    pub content_bytes: u64,
    /// The smallest acceptance time in it, in nanoseconds of the wall clock.
    pub time_min_ns: u64,
    /// The largest acceptance time in it, in nanoseconds of the wall clock.
    pub time_max_ns: u64,
    /// Its offset in its file, in bytes.
    pub offset: u64,
    /// Bytes of payload in it.
    pub payload_bytes: u64,
    /// CRC-32C of its records.
    pub content_crc: u32,
    /// Its incompatible features ([`features_of`] its records).
    pub incompat: u32,
    /// Its runs, in the order of their bytes.
    pub runs: Vec<RunRow>,
}

impl BatchHeader {
    /// Bytes of a header with this many runs.
    #[must_use]
    pub const fn bytes_for(runs: usize) -> usize {
        BATCH_FIXED_BYTES + runs * RUN_BYTES
    }

    /// The offset of the next batch, or of the footer.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.header_bytes) + self.content_bytes
    }

    /// The sequence after its last event.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.first_sequence + u64::from(self.events)
    }

    /// Encodes the header into `bytes`, which it replaces. The number of runs determines `header_bytes`.
    pub fn encode(&self, stream_id: u128, bytes: &mut Vec<u8>) {
        self.encode_with(stream_id, self.incompat, bytes);
    }

    /// The same with these incompatible features, as a newer version may have them.
    #[doc(hidden)]
    pub fn encode_with(&self, stream_id: u128, incompat: u32, bytes: &mut Vec<u8>) {
        assert!(self.runs.len() <= RUNS_MAX, "a batch has at most {RUNS_MAX} runs");
        bytes.clear();
        bytes.resize(Self::bytes_for(self.runs.len()), 0);
        put_bytes(bytes, batch::magic, &BATCH_MAGIC);
        put(bytes, batch::version, u64::from(VERSION));
        put(bytes, batch::runs, self.runs.len() as u64);
        put(bytes, batch::incompat, u64::from(incompat));
        put(bytes, batch::generation, self.generation);
        put(bytes, batch::first_sequence, self.first_sequence);
        put(bytes, batch::events, u64::from(self.events));
        put(bytes, batch::header_bytes, Self::bytes_for(self.runs.len()) as u64);
        put(bytes, batch::content_bytes, self.content_bytes);
        put(bytes, batch::time_min_ns, self.time_min_ns);
        put(bytes, batch::time_max_ns, self.time_max_ns);
        put(bytes, batch::offset, self.offset);
        put(bytes, batch::payload_bytes, self.payload_bytes);
        put(bytes, batch::content_crc, u64::from(self.content_crc));
        for (row, to) in self.runs.iter().zip(bytes[BATCH_FIXED_BYTES..].chunks_exact_mut(RUN_BYTES)) {
            put(to, run::writer, u64::from(row.writer));
            put(to, run::events, u64::from(row.events));
            put(to, run::bytes, row.bytes);
        }
        let crc = header_crc(stream_id, bytes);
        put(bytes, batch::header_crc, u64::from(crc));
    }

    /// The length in bytes that the header at the start of `bytes` claims; None if no batch can start there. Checks
    /// only the magic and the bounds: the result says how much to read.
    #[must_use]
    pub fn claimed_bytes(bytes: &[u8]) -> Option<usize> {
        if bytes.len() < BATCH_FIXED_BYTES || !has(bytes, batch::magic, &BATCH_MAGIC) {
            return None;
        }
        let claimed = get(bytes, batch::header_bytes) as usize;
        (claimed.is_multiple_of(8) && (BATCH_FIXED_BYTES..=BATCH_HEADER_BYTES_MAX).contains(&claimed))
            .then_some(claimed)
    }

    /// Whether a batch may start with `bytes`, its header without the table of runs, at `offset` in a file whose
    /// batches end at `limit`. Checks what needs no checksum, because a sender chooses the bytes that are searched: it
    /// can make each 8 of them look like the start of a header of 64 KiB, but it does not know their offset.
    #[must_use]
    pub fn may_start(bytes: &[u8], offset: u64, limit: u64) -> bool {
        let Some(header_bytes) = Self::claimed_bytes(bytes) else { return false };
        let end =
            (header_bytes as u64).checked_add(get(bytes, batch::content_bytes)).and_then(|n| n.checked_add(offset));
        // A later version may lay out its table of runs in another way.
        let has_room = get(bytes, batch::version) != u64::from(VERSION)
            || Self::bytes_for(get(bytes, batch::runs) as usize) <= header_bytes;
        get(bytes, batch::offset) == offset && end.is_some_and(|end| end <= limit) && has_room
    }

    /// Decodes the header at the start of `bytes`, which are at `offset` in a file.
    ///
    /// # Errors
    /// [`Broken`] if no batch of that stream was written there, or one that this version must not read. In the latter
    /// case the error is [`Broken::Unknown`], and `self` has the batch's true extent.
    pub fn decode_from(&mut self, stream_id: u128, offset: u64, bytes: &[u8]) -> Result<(), Broken> {
        let claimed = Self::claimed_bytes(bytes).ok_or(Broken::Damaged("no batch starts here"))?;
        let bytes = bytes.get(..claimed).ok_or(Broken::Damaged("the header of a batch is truncated"))?;
        if header_crc(stream_id, bytes) != get_u32(bytes, batch::header_crc) {
            return Err(Broken::Damaged("the checksum of a batch's header is wrong"));
        }
        self.offset = get(bytes, batch::offset);
        if self.offset != offset {
            return Err(Broken::Damaged("a batch is not at the offset that it was written to"));
        }
        self.generation = get(bytes, batch::generation);
        self.first_sequence = get(bytes, batch::first_sequence);
        self.events = get_u32(bytes, batch::events);
        self.header_bytes = claimed as u32;
        self.content_bytes = get(bytes, batch::content_bytes);
        self.time_min_ns = get(bytes, batch::time_min_ns);
        self.time_max_ns = get(bytes, batch::time_max_ns);
        self.payload_bytes = get(bytes, batch::payload_bytes);
        self.content_crc = get_u32(bytes, batch::content_crc);
        self.decode_runs(bytes)
    }

    fn decode_runs(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.runs.clear();
        // The checksum was right, so this cannot happen by accident. It keeps the sums below, and in readers, from
        // overflowing.
        if !self.content_bytes.is_multiple_of(8) || self.content_bytes > 1 << 48 || self.first_sequence > 1 << 62 {
            return Err(Broken::Damaged("a batch has an impossible size"));
        }
        let incompat = get_u32(bytes, batch::incompat);
        check_features(get(bytes, batch::version), incompat & !BATCH_INCOMPAT_KNOWN, "a batch")?;
        self.incompat = incompat;
        let runs = get(bytes, batch::runs) as usize;
        let table = bytes[BATCH_FIXED_BYTES..]
            .get(..runs * RUN_BYTES)
            .ok_or(Broken::Damaged("a batch's table of runs is longer than its header"))?;
        self.runs.extend(table.chunks_exact(RUN_BYTES).map(|row| RunRow {
            writer: get(row, run::writer) as u16,
            events: get_u32(row, run::events),
            bytes: get(row, run::bytes),
        }));
        let sum = self.runs.iter().try_fold(0u64, |sum, run| sum.checked_add(run.bytes));
        if sum != Some(self.content_bytes) {
            return Err(Broken::Damaged("the runs of a batch do not fill it"));
        }
        Ok(())
    }
}

/// CRC-32C of the stream id and a batch's header, without the header's checksum itself.
fn header_crc(stream_id: u128, bytes: &[u8]) -> u32 {
    let (at, after) = (batch::header_crc.at, batch::header_crc.at + batch::header_crc.bytes);
    let crc = crc32c::crc32c_append(checksum(&stream_id.to_le_bytes()), &bytes[..at]);
    crc32c::crc32c_append(crc, &bytes[after..])
}
