//! Lists the events of one read until they are published.
//!
//! Input: events and blocks of lines, as ranges of the bytes that were read. Output: records in a claim. Thread: the
//! writer that owns the list. Nothing can fail.
//!
//! An event takes a few words here, so the list stays in the processor's cache. The payload is copied once, from the
//! bytes that were read into the claim.

use std::ops::Range;

use super::encoder::ClaimEncoder;
use crate::pipeline::record::{Event, Newlines, Piece, padded};

/// Pending events at most: the number of small events that fit into a chunk.
pub(super) const EVENTS_MAX: usize = 512;
/// Bytes of fields at which the list counts as full.
const FIELDS_BYTES_FULL: usize = 256 << 10;

/// What an event can have besides source, priority and payload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) source_time_ns: Option<u64>,
    pub(crate) producer_sequence: Option<u64>,
    pub(crate) piece: Option<Piece>,
}

/// A pending event or block of lines, as a range of the bytes that were read.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingEvent {
    start: u32,
    bytes: u32,
    pub(super) slot: u32,
    /// Lines of a block; 0 for a single event.
    lines: u32,
    /// The index of its extra plus one; 0 if it has none.
    extra: u32,
    pri: u8,
}

impl PendingEvent {
    /// Its number of events and pieces, as the next process counts them.
    pub(super) fn count(&self) -> u64 {
        u64::from(self.lines.max(1))
    }

    /// Bytes of its payloads.
    pub(super) fn payload_bytes(&self) -> u64 {
        u64::from(self.bytes - self.lines)
    }

    pub(super) fn is_block(&self) -> bool {
        self.lines > 0
    }

    /// Skips the first `lines` lines of a block that has more.
    fn skip_lines(&mut self, lines: u64, input: &[u8]) {
        let bytes = &input[self.start as usize..][..self.bytes as usize];
        let skipped = Newlines::new(bytes).nth(lines as usize - 1).map_or(0, |newline| newline as u32 + 1);
        self.start += skipped;
        self.bytes -= skipped;
        self.lines -= lines as u32;
    }
}

/// The pending events.
#[derive(Debug, Default)]
pub(super) struct PendingEvents {
    all: Vec<PendingEvent>,
    extras: Vec<(Extra, Range<usize>)>,
    fields: Vec<u8>,
}

impl PendingEvents {
    pub(super) fn all(&self) -> &[PendingEvent] {
        &self.all
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.all.len() >= EVENTS_MAX || self.fields.len() >= FIELDS_BYTES_FULL
    }

    #[inline]
    pub(super) fn add(&mut self, slot: u32, pri: u8, range: Range<usize>) {
        let (start, bytes) = (range.start as u32, range.len() as u32);
        self.all.push(PendingEvent { start, bytes, slot, lines: 0, extra: 0, pri });
    }

    #[inline]
    pub(super) fn add_lines(&mut self, slot: u32, pri: u8, range: Range<usize>, lines: usize) {
        let (start, bytes, lines) = (range.start as u32, range.len() as u32, lines as u32);
        self.all.push(PendingEvent { start, bytes, slot, lines, extra: 0, pri });
    }

    pub(super) fn add_with(&mut self, slot: u32, pri: u8, range: Range<usize>, extra: Extra, fields: &[u8]) {
        let begin = self.fields.len();
        self.fields.extend_from_slice(fields);
        self.extras.push((extra, begin..self.fields.len()));
        let (start, bytes, extra) = (range.start as u32, range.len() as u32, self.extras.len() as u32);
        self.all.push(PendingEvent { start, bytes, slot, lines: 0, extra, pri });
    }

    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.extras.clear();
        self.fields.clear();
    }

    /// Skips up to `count` events and pieces at the front.
    pub(super) fn skip(&mut self, count: u64, input: &[u8]) -> Skipped {
        let mut skipped = Skipped { count: 0, next: 0 };
        while skipped.count < count
            && let Some(pending) = self.all.get_mut(skipped.next)
        {
            let part = pending.count().min(count - skipped.count);
            if part < pending.count() {
                pending.skip_lines(part, input);
            } else {
                skipped.next += 1;
            }
            skipped.count += part;
        }
        skipped
    }

    /// Encodes events from `first` on, as many as fit. Returns the index of the first one that did not fit.
    #[inline]
    pub(super) fn encode(&self, first: usize, input: &[u8], encoder: &mut ClaimEncoder<'_, '_>) -> usize {
        for (index, pending) in self.all.iter().enumerate().skip(first) {
            let payload = &input[pending.start as usize..][..pending.bytes as usize];
            let is_encoded = if pending.is_block() {
                encoder.encode_lines(pending.slot, pending.pri, payload, pending.lines)
            } else {
                encoder.encode(pending.slot, &Event { payload, ..self.event(pending) })
            };
            if !is_encoded {
                return index;
            }
        }
        self.all.len()
    }

    /// Bytes of its record, without its source record.
    pub(super) fn record_bytes(&self, pending: &PendingEvent) -> usize {
        // Only the length of the payload matters here, so it is added to an event without payload.
        self.event(pending).record_bytes() + padded(pending.bytes as usize)
    }

    /// Whether this event takes a sequence: it is whole, or the last piece.
    pub(super) fn takes_sequence(&self, pending: &PendingEvent) -> bool {
        self.extra(pending).and_then(|(extra, _)| extra.piece).is_none_or(|piece| !piece.continues)
    }

    fn extra(&self, pending: &PendingEvent) -> Option<&(Extra, Range<usize>)> {
        pending.extra.checked_sub(1).map(|index| &self.extras[index as usize])
    }

    /// The event without its payload.
    #[inline]
    fn event(&self, pending: &PendingEvent) -> Event<'_> {
        let event = Event { pri: pending.pri, ..Event::default() };
        match self.extra(pending) {
            None => event,
            Some((extra, fields)) => Event {
                source_time_ns: extra.source_time_ns,
                producer_sequence: extra.producer_sequence,
                piece: extra.piece,
                fields: &self.fields[fields.clone()],
                ..event
            },
        }
    }
}

/// What [`PendingEvents::skip`] has skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Events and pieces.
    pub(super) count: u64,
    /// The index of the first event that is not skipped.
    pub(super) next: usize,
}
