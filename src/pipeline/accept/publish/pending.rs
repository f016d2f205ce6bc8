//! Lists the events of one read until they are published.
//!
//! Input: events and blocks of lines, as ranges of the bytes that were read. Output: records in a claim. Thread: the
//! writer that owns the list. Nothing can fail.
//!
//! An event takes a few words here, and the list stays in the processor's cache. The payload is copied once, from the
//! bytes that were read into the claim.

use std::ops::Range;

use super::encoder::ClaimEncoder;
use crate::pipeline::record::{Event, Newlines, Piece, padded};

/// Events that wait at a time: what a chunk holds of small ones.
pub(super) const EVENTS_MAX: usize = 512;
/// Bytes of fields with which the list counts as full.
const FIELDS_BYTES_FULL: usize = 256 << 10;

/// What an event has in addition to source, priority and payload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) source_time_ns: Option<u64>,
    pub(crate) producer_sequence: Option<u64>,
    pub(crate) piece: Option<Piece>,
}

/// An event that waits, or a block of lines, as a range of the bytes that were read.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingEvent {
    start: u32,
    bytes: u32,
    pub(super) slot: u32,
    /// The lines of a block; 0 for an event by itself.
    lines: u32,
    /// The index of its extra, plus one; 0 if it has none.
    extra: u32,
    pri: u8,
}

impl PendingEvent {
    /// What the next process counts of it: events and pieces.
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

    /// Leaves out the first `lines` lines of a block that has more.
    fn skip_lines(&mut self, lines: u64, input: &[u8]) {
        let bytes = &input[self.start as usize..][..self.bytes as usize];
        let skipped = Newlines::new(bytes).nth(lines as usize - 1).map_or(0, |newline| newline as u32 + 1);
        self.start += skipped;
        self.bytes -= skipped;
        self.lines -= lines as u32;
    }
}

/// The events that wait.
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

    /// Leaves out up to `count` events and pieces at the front.
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

    /// Encodes events from `first` on, as many as have room. Returns the first that had none.
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
        // The payload's bytes do not matter for the length, so any will do.
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

/// What [`PendingEvents::skip`] has left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Events and pieces.
    pub(super) count: u64,
    /// The index of the first event that is not left out.
    pub(super) next: usize,
}
