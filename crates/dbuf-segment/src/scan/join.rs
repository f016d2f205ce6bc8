//! Joins the pieces of an over-long line to one event.
//!
//! Input: events and pieces, in the order of reading, forward or backward. Output: whole events, each in the place of
//! its last piece. Thread: any. Nothing can fail: an event whose pieces are not all there, or take more memory than is
//! allowed, is given out as far as it goes and marked as not whole.
//!
//! Forward, an event is complete when its last piece comes. Backward, the last piece comes first. The items after it
//! are held until the first piece has come, so that the order stays.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use super::StoredEvent;
use crate::record::{Record, encode_source};

/// Bytes that are held for incomplete events, at most.
pub const JOIN_BYTES_MAX: usize = 64 << 20;

/// An event with its whole payload.
#[derive(Clone, Copy, Debug)]
pub struct Joined<'a> {
    /// The event; its last piece, if it was stored in pieces.
    pub event: StoredEvent<'a>,
    /// Its payload.
    pub payload: &'a [u8],
    /// Whether the payload is complete.
    pub is_whole: bool,
}

/// Joins pieces. Use one for each reading, in one direction.
#[derive(Debug)]
pub struct Joiner {
    bytes_max: usize,
    bytes: usize,
    /// Forward: what has come of each event.
    begun: HashMap<u64, Begun>,
    clock: u64,
    /// Backward: the items that wait, newest first.
    held: VecDeque<Held>,
}

#[derive(Debug, Default)]
struct Begun {
    payload: Vec<u8>,
    is_whole: bool,
    touched: u64,
}

#[derive(Debug)]
struct Held {
    sequence: Option<u64>,
    stream_id: u128,
    boot_id: u128,
    record: Vec<u8>,
    source: Vec<u8>,
    /// The id of the event whose first pieces have not come yet.
    awaits: Option<u64>,
    /// Payloads of its pieces, the last piece first.
    pieces: Vec<Vec<u8>>,
}

impl Default for Joiner {
    fn default() -> Self {
        Self::new(JOIN_BYTES_MAX)
    }
}

impl Joiner {
    /// Holds at most `bytes_max` bytes of incomplete events.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, begun: HashMap::new(), clock: 0, held: VecDeque::new() }
    }

    /// Takes the next event of a reading forward.
    pub fn forward(
        &mut self,
        event: &StoredEvent<'_>,
        each: &mut impl FnMut(Joined<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let payload = event.record.payload();
        let Some(piece) = event.record.piece() else {
            return each(Joined { event: *event, payload, is_whole: true });
        };
        if !piece.continued {
            // A line with that id never came to its end, because the daemon ended in the middle of it.
            self.forget(piece.id);
        }
        self.clock += 1;
        let begun =
            self.begun.entry(piece.id).or_insert_with(|| Begun { is_whole: !piece.continued, ..Begun::default() });
        begun.payload.extend_from_slice(payload);
        begun.touched = self.clock;
        self.bytes += payload.len();
        if piece.continues {
            self.make_room(piece.id);
            if self.bytes <= self.bytes_max {
                return ControlFlow::Continue(());
            }
        }
        let begun = self.forget(piece.id).unwrap_or_default();
        let is_whole = begun.is_whole && !piece.continues;
        each(Joined { event: *event, payload: &begun.payload, is_whole })
    }

    fn forget(&mut self, id: u64) -> Option<Begun> {
        let begun = self.begun.remove(&id)?;
        self.bytes -= begun.payload.len();
        Some(begun)
    }

    /// Forgets the events that were begun longest ago, except `but`: most likely their ends were never written.
    fn make_room(&mut self, but: u64) {
        while self.bytes > self.bytes_max {
            let others = self.begun.iter().filter(|(id, _)| **id != but);
            let Some(oldest) = others.min_by_key(|(_, begun)| begun.touched).map(|(id, _)| *id) else { return };
            self.forget(oldest);
        }
    }

    /// Takes the next event of a reading backward.
    pub fn backward(
        &mut self,
        event: &StoredEvent<'_>,
        each: &mut impl FnMut(Joined<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let payload = event.record.payload();
        let piece = event.record.piece();
        if piece.is_none() && self.held.is_empty() {
            return each(Joined { event: *event, payload, is_whole: true });
        }
        match piece {
            Some(piece) if piece.continues => {
                // Its end was not read, or was given up. Then the rest of it is of no use.
                let held = self.held.iter_mut().find(|held| held.awaits == Some(piece.id));
                if let Some(held) = held {
                    held.pieces.push(payload.to_vec());
                    held.awaits = piece.continued.then_some(piece.id);
                    self.bytes += payload.len();
                }
            }
            _ => {
                let awaits = piece.filter(|piece| piece.continued).map(|piece| piece.id);
                let held = Held::new(event, awaits);
                self.bytes += held.bytes();
                self.held.push_back(held);
            }
        }
        self.release(each)
    }

    /// Gives out what is complete, and what there is no more memory to wait for.
    fn release(&mut self, each: &mut impl FnMut(Joined<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        while self.held.front().is_some_and(|held| held.awaits.is_none() || self.bytes > self.bytes_max) {
            let Some(held) = self.held.pop_front() else { break };
            self.bytes -= held.bytes();
            held.give(each)?;
        }
        ControlFlow::Continue(())
    }

    /// Gives out what is still held, at the end of a reading backward.
    pub fn finish(&mut self, each: &mut impl FnMut(Joined<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        self.bytes = 0;
        for held in self.held.drain(..) {
            held.give(each)?;
        }
        ControlFlow::Continue(())
    }
}

impl Held {
    fn new(event: &StoredEvent<'_>, awaits: Option<u64>) -> Self {
        let (mut source, mut record) = (Vec::new(), Vec::new());
        encode_source(&mut source, 0, 0, &event.source);
        event.record.encode(&mut record);
        Self {
            sequence: event.sequence,
            stream_id: event.stream_id,
            boot_id: event.boot_id,
            record,
            source,
            awaits,
            pieces: Vec::new(),
        }
    }

    fn bytes(&self) -> usize {
        self.record.len() + self.source.len() + self.pieces.iter().map(Vec::len).sum::<usize>()
    }

    fn give(&self, each: &mut impl FnMut(Joined<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        // Both were decoded before they were held.
        let Ok((record, _)) = Record::decode(&self.record) else { return ControlFlow::Continue(()) };
        let Ok((source, _)) = Record::decode(&self.source) else { return ControlFlow::Continue(()) };
        let Ok(source) = source.as_source() else { return ControlFlow::Continue(()) };
        let event =
            StoredEvent { sequence: self.sequence, record, source, stream_id: self.stream_id, boot_id: self.boot_id };
        let is_whole = self.awaits.is_none();
        if self.pieces.is_empty() {
            return each(Joined { event, payload: record.payload(), is_whole });
        }
        let mut payload: Vec<u8> = self.pieces.iter().rev().flatten().copied().collect();
        payload.extend_from_slice(record.payload());
        each(Joined { event, payload: &payload, is_whole })
    }
}
