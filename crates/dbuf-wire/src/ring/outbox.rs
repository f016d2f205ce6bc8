//! Empties a ring without a daemon: its producer reads back what it has published, and takes it itself.
//!
//! Input: a position. Output: records, and what is to be carried over into another ring. Thread: the producer's.
//! Failure: [`Broken`], because a daemon could write to this memory, and nothing that it wrote is believed unchecked.

use super::consumer::Broken;
use super::producer::RingProducer;
use super::record::{ALIGN, HEAD_BYTES, RecordHead, kind};
use dbuf_sync::atomic::Ordering::Relaxed;

/// An event that was found in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its head.
    pub head: RecordHead,
    /// Where it begins.
    pub at: u64,
    /// Where the next record begins.
    pub end: u64,
}

impl RingProducer {
    /// The event at this position, or behind the pad there; None if nothing more is published.
    ///
    /// # Errors
    /// [`Broken`], if the bytes there are no record.
    pub fn find(&self, at: u64) -> Result<Option<Found>, Broken> {
        let mut at = at;
        while at < self.head {
            let to_end = self.memory.capacity() - self.memory.offset(at) as u64;
            let room = to_end.min(self.head - at);
            if !at.is_multiple_of(ALIGN as u64) || room < HEAD_BYTES as u64 {
                return Err(Broken("a position where no record begins"));
            }
            let mut head = [0; HEAD_BYTES];
            self.memory.copy(at, &mut head);
            let head = RecordHead::of_bytes(&head);
            if head.record_bytes() > room {
                return Err(Broken("a record that reaches beyond the ring's end or head"));
            }
            let end = at + head.record_bytes();
            match head.kind {
                kind::PAD => at = end,
                kind::EVENT | kind::EVENT_WITH_FIELDS => return Ok(Some(Found { head, at, end })),
                _ => return Err(Broken("a record of a type that there is not")),
            }
        }
        Ok(None)
    }

    /// Copies what follows the head of a found event in place of what `into` holds.
    pub fn copy_body(&self, found: &Found, into: &mut Vec<u8>) {
        into.clear();
        into.resize(found.head.length as usize, 0);
        self.memory.copy(found.at + HEAD_BYTES as u64, into);
    }

    /// How many events are published from this position on; those behind bytes that are no record are not seen.
    #[must_use]
    pub fn events_from(&self, at: u64) -> u64 {
        let (mut at, mut events) = (at, 0);
        while let Ok(Some(found)) = self.find(at) {
            events += 1;
            at = found.end;
        }
        events
    }

    /// Takes everything before this position: there is room again. Only where no daemon does that. A position that is
    /// not in the ring counts as the nearest that is.
    pub fn take_to(&mut self, position: u64) {
        let position = position.clamp(self.tail, self.head);
        self.tail = position;
        // Relaxed: this thread alone reads it from here on.
        self.memory.words().tail.store(position, Relaxed);
    }

    /// Losses that no daemon has counted: events, and their bytes.
    #[must_use]
    pub fn losses_untold(&self) -> (u64, u64) {
        let words = self.memory.words();
        // Relaxed: plain counters; the daemon that wrote the other half of them is gone.
        let events = words.lost_events.load(Relaxed).saturating_sub(words.lost_events_told.load(Relaxed));
        let bytes = words.lost_bytes.load(Relaxed).saturating_sub(words.lost_bytes_told.load(Relaxed));
        (events, bytes)
    }

    /// Adds losses of an earlier ring, which are to be told in this one.
    pub fn carry_losses(&mut self, (events, bytes): (u64, u64)) {
        let words = self.memory.words();
        // Relaxed: as in [`RingProducer::lose`], the bytes first.
        words.lost_bytes.store(words.lost_bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
        words.lost_events.store(words.lost_events.load(Relaxed).wrapping_add(events), Relaxed);
    }
}
