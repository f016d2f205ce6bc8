//! Encodes and decodes records: the bytes that a writer publishes, that travel through the buffer, and that stand in a
//! segment. They are written once and never serialised again.
//!
//! Enters: an event's parts. Leaves: bytes in a claim, or a borrowed [`Record`] over bytes of a batch. Any thread.
//! What can fail: decoding, with [`Malformed`]; bytes from a file or from another life of the daemon are never trusted.
//!
//! The byte table is in `docs/FORMAT.md`; a test holds it against this file. Numbers are little-endian.
//!
//! Invariants, cited by number:
//! 1. A record starts and ends at a multiple of [`ALIGN`] from the start of its run; padding bytes are zero.
//! 2. A source record precedes, in the same run, the first record that names its source: a run stands alone.
//! 3. Only an event that is complete takes a sequence; a piece that is continued does not, and neither does a source or
//!    a loss record. A record of lines takes one for each ([`Record::event_count`]).
//!
//! A record of lines ([`flag::LINES`]) holds events that came as lines of text, one behind the other as they came,
//! under one head: they share all that it says. So a line costs its own bytes, and a copy of many is one copy.

mod decode;
mod newlines;
#[cfg(test)]
mod tests;

pub use dbuf_wire::frames::{FIELDS_BYTES_MAX, put_field};
pub use decode::{Malformed, Record};
pub use newlines::Newlines;

/// Records start at multiples of this many bytes.
pub const ALIGN: usize = 8;
/// Bytes of a record's fixed head.
pub const HEAD_BYTES: usize = 24;
/// The longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 64;
/// The longest command name that is kept, in bytes (the kernel's own limit is 15).
pub const COMM_BYTES_MAX: usize = 32;
/// The longest systemd unit name that is kept, in bytes (systemd's own limit is 255).
pub const UNIT_BYTES_MAX: usize = 255;
/// Bytes of the fixed part of a source record's payload.
pub const SOURCE_FIXED_BYTES: usize = 40;
/// The longest source record, head and padding included.
pub const SOURCE_BYTES_MAX: usize =
    padded(HEAD_BYTES + SOURCE_FIXED_BYTES + TAG_BYTES_MAX + COMM_BYTES_MAX + UNIT_BYTES_MAX);
/// Bytes of a loss record's payload.
pub const LOSS_PAYLOAD_BYTES: usize = 40;
/// A loss record, head included.
pub const LOSS_BYTES: usize = HEAD_BYTES + LOSS_PAYLOAD_BYTES;
/// The highest value that `ingest.max_event` may have, in bytes.
pub const MAX_EVENT_BYTES_MAX: usize = 1 << 20;
/// The most bytes that stand between an event's head and its payload.
pub const EXTENSION_BYTES_MAX: usize = 3 * 8 + padded(4 + FIELDS_BYTES_MAX);

const _: () = assert!(HEAD_BYTES.is_multiple_of(ALIGN) && LOSS_BYTES.is_multiple_of(ALIGN));

/// `len` rounded up to the next multiple of [`ALIGN`].
#[must_use]
pub const fn padded(len: usize) -> usize {
    (len + ALIGN - 1) & !(ALIGN - 1)
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An event, or a piece of one.
    Event = 1,
    /// Who the records that name this source come from.
    Source = 2,
    /// Events that were accepted or offered and are not in the file, and why.
    Loss = 3,
}

/// Bits of a record's flags. The first four name the extensions that follow the head, in this order.
pub mod flag {
    /// 8 bytes: the time that the sender stated, nanoseconds of the wall clock.
    pub const SOURCE_TIME: u16 = 1 << 0;
    /// 8 bytes: the producer's own sequence (framed protocol).
    pub const PRODUCER_SEQUENCE: u16 = 1 << 1;
    /// 8 bytes: an id that all pieces of one event share, unique within a life of the daemon.
    pub const PIECE: u16 = 1 << 2;
    /// A u32 with the length of the fields, then the fields, padded to 8 bytes.
    pub const FIELDS: u16 = 1 << 3;
    /// More pieces of this event follow.
    pub const CONTINUES: u16 = 1 << 4;
    /// This piece continues an earlier one.
    pub const CONTINUED: u16 = 1 << 5;
    /// The payload is several events, one a line, each ended by a newline that is not part of it. Goes with no other
    /// flag.
    pub const LINES: u16 = 1 << 6;
    /// All bits that this version knows.
    pub const KNOWN: u16 = (1 << 7) - 1;
}

/// How an event came in. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Transport {
    /// A text line of a stream.
    #[default]
    Lines = 1,
    /// A plain datagram.
    Datagram = 2,
    /// Syslog (RFC 3164 or RFC 5424), by datagram or stream.
    Syslog = 3,
    /// An event of the framed protocol.
    Frames = 4,
    /// A shared-memory ring.
    Ring = 5,
    /// dbufd itself, or a program that embeds its buffer.
    Internal = 6,
}

impl Transport {
    /// The name in `_TRANSPORT` and in `stats`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Datagram => "dgram",
            Self::Syslog => "syslog",
            Self::Frames => "frames",
            Self::Ring => "ring",
            Self::Internal => "internal",
        }
    }

    /// The transport with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Lines,
            2 => Self::Datagram,
            3 => Self::Syslog,
            4 => Self::Frames,
            5 => Self::Ring,
            6 => Self::Internal,
            _ => return None,
        })
    }
}

/// Why an event was lost. The numbers are stored; the names stand in `stats` and in loss records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The disk was full and the policy is to drop.
    Full = 0,
    /// Larger than `ingest.max_event`.
    TooBig = 1,
    /// Its envelope broke the protocol.
    Malformed = 2,
    /// The disk failed.
    Disk = 3,
    /// Its sender left in the middle of it, or the daemon had to end before it was persisted.
    Abandoned = 4,
}

impl Cause {
    /// How many causes there are.
    pub const COUNT: usize = 5;
    /// Every cause, in the order of its number.
    pub const ALL: [Self; Self::COUNT] = [Self::Full, Self::TooBig, Self::Malformed, Self::Disk, Self::Abandoned];

    /// The name in `stats` and in the output of dbufctl.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TooBig => "too_big",
            Self::Malformed => "malformed",
            Self::Disk => "disk",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Who sent something. What the kernel vouches for is apart from what the sender merely says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Source<'a> {
    /// Process id, from the kernel; 0 if unknown.
    pub pid: u32,
    /// User id, from the kernel.
    pub uid: u32,
    /// Group id, from the kernel.
    pub gid: u32,
    /// The pid that a syslog header claims; 0 if none.
    pub claimed_pid: u32,
    /// Session of the framed protocol; 0 if none.
    pub session: u128,
    /// How it came in.
    pub transport: Transport,
    /// The sender's tag; empty if none. At most [`TAG_BYTES_MAX`] bytes.
    pub tag: &'a [u8],
    /// The command's name, from the kernel; empty if unknown. At most [`COMM_BYTES_MAX`] bytes.
    pub comm: &'a [u8],
    /// The systemd unit, from the kernel's cgroup; empty if none. At most [`UNIT_BYTES_MAX`] bytes.
    pub unit: &'a [u8],
}

impl Source<'_> {
    /// Bytes of this source's record, head and padding included.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        padded(HEAD_BYTES + SOURCE_FIXED_BYTES + self.tag.len() + self.comm.len() + self.unit.len())
    }
}

/// An account of events that are not in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub cause: Cause,
    /// How many events.
    pub events: u64,
    /// How many payload bytes, as far as they are known.
    pub bytes: u64,
    /// When the first was lost, nanoseconds of the wall clock.
    pub first_ns: u64,
    /// When the last was lost, nanoseconds of the wall clock.
    pub last_ns: u64,
}

impl Loss {
    /// Adds another loss of the same cause and sender.
    pub fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.bytes += other.bytes;
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
    }
}

/// The parts of an event that is about to be written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event<'a> {
    /// Acceptance time, nanoseconds of the wall clock.
    pub time_ns: u64,
    /// The id that a source record of the same run has given to the sender.
    pub source: u32,
    /// Facility times 8 plus priority, as in syslog; the facility is 0 where there is none.
    pub pri: u8,
    /// The sender's own time, if it stated one.
    pub source_time_ns: Option<u64>,
    /// The producer's own sequence, if it has one.
    pub producer_sequence: Option<u64>,
    /// The id of the event that this is a piece of, and which neighbours the piece has.
    pub piece: Option<Piece>,
    /// Fields next to the payload, as [`put_field`] encodes them; empty if none.
    pub fields: &'a [u8],
    /// The payload. At most [`MAX_EVENT_BYTES_MAX`] bytes.
    pub payload: &'a [u8],
}

/// Where a piece stands in its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Shared by all pieces of the event.
    pub id: u64,
    /// A piece came before.
    pub continued: bool,
    /// A piece follows.
    pub continues: bool,
}

/// Where encoded bytes go: a claim of the buffer, or a vector.
pub trait Sink {
    /// Appends `bytes`. The caller has made sure that they fit.
    fn put(&mut self, bytes: &[u8]);

    /// Appends `len` bytes, for the caller to write. The caller has made sure that they fit.
    fn open(&mut self, len: usize) -> &mut [u8];
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn open(&mut self, len: usize) -> &mut [u8] {
        let at = self.len();
        self.resize(at + len, 0);
        &mut self[at..]
    }
}

#[cfg(feature = "buffer")]
impl Sink for dbuf_buffer::Claim<'_> {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        dbuf_buffer::Claim::put(self, bytes);
    }

    #[inline(always)]
    fn open(&mut self, len: usize) -> &mut [u8] {
        dbuf_buffer::Claim::open(self, len)
    }
}

/// Puts a head, a word at a time: assembled from smaller stores and then copied, it would wait for them in the CPU.
#[inline(always)]
fn put_head(to: &mut impl Sink, length: usize, kind: Kind, pri: u8, flags: u16, time_ns: u64, source: u32) {
    let first = length as u64 | (kind as u64) << 32 | u64::from(pri) << 40 | u64::from(flags) << 48;
    to.put(&first.to_le_bytes());
    to.put(&time_ns.to_le_bytes());
    to.put(&u64::from(source).to_le_bytes());
}

/// Puts `bytes` and the padding behind them. The last word is put whole, with its padding, for the speed of short
/// events.
#[inline(always)]
fn put_padded(to: &mut impl Sink, bytes: &[u8]) {
    let tail = bytes.len() % ALIGN;
    to.put(&bytes[..bytes.len() - tail]);
    match bytes.last_chunk::<ALIGN>() {
        _ if tail == 0 => {}
        Some(last) => to.put(&(u64::from_le_bytes(*last) >> (8 * (ALIGN - tail))).to_le_bytes()),
        None => {
            to.put(bytes);
            put_padding(to, tail);
        }
    }
}

#[inline]
fn put_padding(to: &mut impl Sink, length: usize) {
    to.put(&[0; ALIGN][..padded(length) - length]);
}

impl Event<'_> {
    #[inline]
    fn extension_bytes(&self) -> usize {
        let mut n = 0;
        if self.source_time_ns.is_some() {
            n += 8;
        }
        if self.producer_sequence.is_some() {
            n += 8;
        }
        if self.piece.is_some() {
            n += 8;
        }
        if !self.fields.is_empty() {
            n += padded(4 + self.fields.len());
        }
        n
    }

    /// Bytes of this event's record, head and padding included.
    #[inline]
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        padded(HEAD_BYTES + self.extension_bytes() + self.payload.len())
    }

    /// Writes the record. `to` has room for [`Event::record_bytes`].
    // Always inline: a claim then keeps its place in a register through all the puts, which saves 2 of 14 ns.
    #[inline(always)]
    pub fn encode(&self, to: &mut impl Sink) {
        let length = self.extension_bytes() + self.payload.len();
        let mut flags = 0;
        if self.source_time_ns.is_some() {
            flags |= flag::SOURCE_TIME;
        }
        if self.producer_sequence.is_some() {
            flags |= flag::PRODUCER_SEQUENCE;
        }
        if let Some(piece) = self.piece {
            flags |= flag::PIECE
                | if piece.continues { flag::CONTINUES } else { 0 }
                | if piece.continued { flag::CONTINUED } else { 0 };
        }
        if !self.fields.is_empty() {
            flags |= flag::FIELDS;
        }
        put_head(to, length, Kind::Event, self.pri, flags, self.time_ns, self.source);
        if flags != 0 {
            self.encode_extensions(to);
        }
        put_padded(to, self.payload);
    }

    /// Writes the record of an event that has neither fields, pieces nor a sequence, and whose payload `fill` copies
    /// from where it lies. `to` has room for [`Event::record_bytes`] and the payload.
    #[inline(always)]
    pub fn encode_around(&self, payload_bytes: usize, to: &mut impl Sink, fill: impl FnOnce(&mut [u8])) {
        debug_assert!(self.fields.is_empty() && self.piece.is_none() && self.producer_sequence.is_none());
        let length = self.extension_bytes() + payload_bytes;
        let flags = if self.source_time_ns.is_some() { flag::SOURCE_TIME } else { 0 };
        put_head(to, length, Kind::Event, self.pri, flags, self.time_ns, self.source);
        if let Some(time) = self.source_time_ns {
            to.put(&time.to_le_bytes());
        }
        let place = to.open(padded(payload_bytes));
        if let Some(last) = place.last_chunk_mut::<ALIGN>() {
            *last = [0; ALIGN];
        }
        fill(&mut place[..payload_bytes]);
    }

    fn encode_extensions(&self, to: &mut impl Sink) {
        if let Some(time) = self.source_time_ns {
            to.put(&time.to_le_bytes());
        }
        if let Some(sequence) = self.producer_sequence {
            to.put(&sequence.to_le_bytes());
        }
        if let Some(piece) = self.piece {
            to.put(&piece.id.to_le_bytes());
        }
        if !self.fields.is_empty() {
            to.put(&(self.fields.len() as u32).to_le_bytes());
            to.put(self.fields);
            put_padding(to, 4 + self.fields.len());
        }
    }
}

/// Bytes of a record of lines, head and padding included; `lines_bytes` is theirs, newlines included.
#[must_use]
pub const fn lines_record_bytes(lines_bytes: usize) -> usize {
    padded(HEAD_BYTES + lines_bytes)
}

/// Writes a record of lines. `lines` ends with a newline, and none of them is empty. `to` has room for
/// [`lines_record_bytes`].
pub fn encode_lines(to: &mut impl Sink, source: u32, time_ns: u64, pri: u8, lines: &[u8]) {
    debug_assert!(lines.ends_with(b"\n"));
    put_head(to, lines.len(), Kind::Event, pri, flag::LINES, time_ns, source);
    put_padded(to, lines);
}

/// Writes the record that gives `source` the id `id` in this run. `to` has room for [`Source::record_bytes`].
pub fn encode_source(to: &mut impl Sink, id: u32, time_ns: u64, source: &Source<'_>) {
    let length = SOURCE_FIXED_BYTES + source.tag.len() + source.comm.len() + source.unit.len();
    put_head(to, length, Kind::Source, 0, 0, time_ns, id);
    to.put(&source.pid.to_le_bytes());
    to.put(&source.uid.to_le_bytes());
    to.put(&source.gid.to_le_bytes());
    to.put(&source.claimed_pid.to_le_bytes());
    to.put(&source.session.to_le_bytes());
    to.put(&[source.transport as u8, source.tag.len() as u8, source.comm.len() as u8, source.unit.len() as u8]);
    to.put(&[0; 4]);
    to.put(source.tag);
    to.put(source.comm);
    to.put(source.unit);
    put_padding(to, length);
}

/// Writes a loss record of the source `id`. `to` has room for [`LOSS_BYTES`].
pub fn encode_loss(to: &mut impl Sink, id: u32, time_ns: u64, loss: &Loss) {
    put_head(to, LOSS_PAYLOAD_BYTES, Kind::Loss, 0, 0, time_ns, id);
    to.put(&[loss.cause as u8, 0, 0, 0, 0, 0, 0, 0]);
    to.put(&loss.events.to_le_bytes());
    to.put(&loss.bytes.to_le_bytes());
    to.put(&loss.first_ns.to_le_bytes());
    to.put(&loss.last_ns.to_le_bytes());
}
