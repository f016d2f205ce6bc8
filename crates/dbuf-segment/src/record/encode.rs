//! Encodes records, each part once, into its final place.
//!
//! Input: the parts of an event, a source, a loss. Output: bytes in a [`Sink`], which must have room for them. Thread:
//! any. Failures: none.

use super::layout::{ALIGN, HEAD_BYTES, Kind, LOSS_PAYLOAD_BYTES, SOURCE_FIXED_BYTES, flag, padded};
use super::loss::Loss;
use super::source::Source;

/// The parts of an event to encode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event<'a> {
    /// Acceptance time, in nanoseconds of the wall clock.
    pub time_ns: u64,
    /// The id that a source record in the same run has given to the sender.
    pub source: u32,
    /// Facility times 8 plus priority, as in syslog. The facility is 0 if there is none.
    pub pri: u8,
    /// The time that the sender stated, in nanoseconds of the wall clock.
    pub source_time_ns: Option<u64>,
    /// The producer's own sequence, if it has one.
    pub producer_sequence: Option<u64>,
    /// The piece's position in its event, if this is a piece.
    pub piece: Option<Piece>,
    /// Fields besides the payload, as [`put_field`](dbuf_wire::frames::put_field) encodes them; empty if there are
    /// none.
    pub fields: &'a [u8],
    /// The payload. At most [`MAX_EVENT_BYTES_MAX`](super::MAX_EVENT_BYTES_MAX) bytes.
    pub payload: &'a [u8],
}

/// The position of a piece in its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The id that all pieces of the event share.
    pub id: u64,
    /// A piece came before.
    pub continued: bool,
    /// A piece follows.
    pub continues: bool,
}

/// Where encoded bytes go: a claim of the buffer, or a vector.
pub trait Sink {
    /// Appends `bytes`. The caller has checked that they fit.
    fn put(&mut self, bytes: &[u8]);

    /// Appends `len` bytes for the caller to write. The caller has checked that they fit.
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

/// Puts a head, one word at a time. A head assembled from smaller stores and then copied would wait for these stores.
#[inline(always)]
pub(super) fn put_head(to: &mut impl Sink, length: usize, kind: Kind, pri: u8, flags: u16, time_ns: u64, source: u32) {
    let first = length as u64 | (kind as u64) << 32 | u64::from(pri) << 40 | u64::from(flags) << 48;
    to.put(&first.to_le_bytes());
    to.put(&time_ns.to_le_bytes());
    to.put(&u64::from(source).to_le_bytes());
}

/// Puts `bytes` and the padding after them. The last word is put as a whole, with its padding, which is faster for
/// short events.
#[inline(always)]
pub(super) fn put_padded(to: &mut impl Sink, bytes: &[u8]) {
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

    /// Bytes of this event's record, including head and padding.
    #[inline]
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        padded(HEAD_BYTES + self.extension_bytes() + self.payload.len())
    }

    /// Encodes the record. `to` must have room for [`Event::record_bytes`].
    // Always inline: then a claim keeps its position in a register through all puts, which saves 2 of 14 ns.
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

    /// Encodes the record of an event without fields, pieces or a sequence. `fill` copies its payload of
    /// `payload_bytes` bytes into place. `to` must have room for [`Event::record_bytes`] and the payload.
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

/// Bytes of a record of lines, including head and padding. `lines_bytes` is the size of the lines with their newlines.
#[must_use]
pub const fn lines_record_bytes(lines_bytes: usize) -> usize {
    padded(HEAD_BYTES + lines_bytes)
}

/// Encodes a record of lines. `lines` must end with a newline, and no line may be empty. `to` must have room for
/// [`lines_record_bytes`].
pub fn encode_lines(to: &mut impl Sink, source: u32, time_ns: u64, pri: u8, lines: &[u8]) {
    debug_assert!(lines.ends_with(b"\n"));
    put_head(to, lines.len(), Kind::Event, pri, flag::LINES, time_ns, source);
    put_padded(to, lines);
}

/// Encodes the record that gives `source` the id `id` in this run. `to` must have room for [`Source::record_bytes`].
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

/// Encodes a loss record of the source `id`. `to` must have room for [`LOSS_BYTES`](super::LOSS_BYTES).
pub fn encode_loss(to: &mut impl Sink, id: u32, time_ns: u64, loss: &Loss) {
    put_head(to, LOSS_PAYLOAD_BYTES, Kind::Loss, 0, 0, time_ns, id);
    to.put(&[loss.cause as u8, 0, 0, 0, 0, 0, 0, 0]);
    to.put(&loss.events.to_le_bytes());
    to.put(&loss.bytes.to_le_bytes());
    to.put(&loss.first_ns.to_le_bytes());
    to.put(&loss.last_ns.to_le_bytes());
}
