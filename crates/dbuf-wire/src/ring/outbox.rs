//! Empties a ring without a daemon: its producer reads back what it has published, and takes it itself.
//!
//! Input: a position. Output: records, and losses that another ring is to report. The producer's thread. Failures:
//! memory that a daemon could write to may hold anything ([`Broken`]).

use super::LOSSES;
use super::consumer::Broken;
use super::producer::RingProducer;
use super::record::{ALIGN, HEAD_BYTES, RecordHead, kind};
use dbuf_sync::atomic::Ordering::Relaxed;

/// An event that was found in the memory.
///
/// ```
/// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
/// use dbuf_wire::frames::Event;
/// use dbuf_wire::ring::record::Stamp;
///
/// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
/// let found = producer.find(0).unwrap().unwrap();
/// assert_eq!((found.at, found.end, found.head.length), (0, 32, 1));
/// # Ok::<(), std::io::Error>(())
/// ```
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
    ///
    /// ```
    /// # let (producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert_eq!(producer.find(0), Ok(None));
    /// # Ok::<(), std::io::Error>(())
    /// ```
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
                _ => return Err(Broken("a record of an unknown type")),
            }
        }
        Ok(None)
    }

    /// Copies what follows the head of a found event in place of what `into` holds.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// let found = producer.find(0).unwrap().unwrap();
    /// let mut body = Vec::new();
    /// producer.copy_body(&found, &mut body);
    /// assert_eq!(body, b"x");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn copy_body(&self, found: &Found, into: &mut Vec<u8>) {
        into.clear();
        into.resize(found.head.length as usize, 0);
        self.memory.copy(found.at + HEAD_BYTES as u64, into);
    }

    /// How many events are published from this position on; those behind bytes that are no record are not seen.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// assert_eq!((producer.events_from(0), producer.events_from(32)), (1, 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn events_from(&self, at: u64) -> u64 {
        let (mut at, mut events) = (at, 0);
        while let Ok(Some(found)) = self.find(at) {
            events += 1;
            at = found.end;
        }
        events
    }

    /// Takes everything before this position, which makes room. Only without a daemon that does that. A position that
    /// is not in the ring counts as the nearest that is.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// producer.take_to(32);
    /// assert_eq!(producer.positions(), (32, 32));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn take_to(&mut self, position: u64) {
        let position = position.clamp(self.tail, self.head);
        self.tail = position;
        // Relaxed: this thread alone reads it from here on.
        self.memory.words().tail.store(position, Relaxed);
    }

    /// Losses that no daemon has counted: events, and their bytes.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// producer.lose(100);
    /// assert_eq!(producer.losses_untold(), (1, 100));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn losses_untold(&self) -> (u64, u64) {
        let words = self.memory.words();
        // Relaxed: plain counters; the daemon that wrote the other half of them is gone.
        let events = words.lost_events.load(Relaxed).saturating_sub(words.lost_events_told.load(Relaxed));
        let bytes = words.lost_bytes.load(Relaxed).saturating_sub(words.lost_bytes_told.load(Relaxed));
        (events, bytes)
    }

    /// Adds losses that were counted elsewhere, as in an earlier ring, so that this ring reports them.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// producer.carry_losses((2, 300));
    /// assert_eq!(producer.losses_untold(), (2, 300));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn carry_losses(&mut self, (events, bytes): (u64, u64)) {
        let words = self.memory.words();
        // Relaxed, but for the last store: counters that this thread alone writes.
        words.lost_bytes.store(words.lost_bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
        // edge `losses`, releasing: as in `RingProducer::lose`.
        words.lost_events.store(words.lost_events.load(Relaxed).wrapping_add(events), LOSSES.release());
    }
    /// Notes that these losses are reported. Only without a daemon that does that.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// producer.lose(100);
    /// producer.note_reported((1, 100));
    /// assert_eq!(producer.losses_untold(), (0, 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn note_reported(&mut self, (events, bytes): (u64, u64)) {
        let words = self.memory.words();
        // Relaxed: this thread alone uses these words from here on.
        words.lost_bytes_told.store(words.lost_bytes_told.load(Relaxed).wrapping_add(bytes), Relaxed);
        words.lost_events_told.store(words.lost_events_told.load(Relaxed).wrapping_add(events), Relaxed);
    }
}
