//! Puts events into a ring: the producer's end, which reserves, fills, and publishes with one store.
//!
//! Input: events. Output: records in the ring, and whether the doorbell is to be rung. One thread. Failures: there is
//! no room.

use super::layout::{flag, state};
use super::memory::Memory;
use super::record::{HEAD_BYTES, RecordHead, Stamp, kind, record_bytes};
use super::{ASLEEP, HEAD, LOSSES, ROOM};

use crate::frames::{Event, FIELDS_LENGTH_BYTES};
use dbuf_sync::atomic::Ordering::{Relaxed, SeqCst};
use dbuf_sync::compiler_fence;

/// There is no room for the event.
///
/// ```
/// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
/// use dbuf_wire::ring::NoRoom;
/// use dbuf_wire::frames::Event;
/// use dbuf_wire::ring::record::Stamp;
///
/// let large = vec![0; 64 << 10];
/// assert_eq!(producer.push(&Event { payload: &large, ..Event::default() }, Stamp::None), Err(NoRoom));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// What a publish asks of the producer.
///
/// ```
/// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
/// use dbuf_wire::ring::{Bell, state};
/// use dbuf_wire::frames::Event;
/// use dbuf_wire::ring::record::Stamp;
///
/// consumer.set_state(state::ASLEEP);
/// let bell = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
/// assert_eq!(bell, Bell::Ring);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Bell {
    /// Nothing.
    Silent,
    /// To ring the doorbell: send the byte [`DOORBELL`](super::DOORBELL) on the ring's connection, without waiting. A
    /// connection that has no room for the byte is ringing already.
    Ring,
}

/// The producer's end.
///
/// ```
/// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
/// use dbuf_wire::frames::Event;
/// use dbuf_wire::ring::record::Stamp;
///
/// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
/// assert_eq!(consumer.look(), Ok(32)); // a head of 16 bytes, and the payload, rounded up
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct RingProducer {
    pub(super) memory: Memory,
    /// Bytes published; the word in the ring says the same.
    pub(super) head: u64,
    /// Bytes taken, as last seen.
    pub(super) tail: u64,
    /// The state of the daemon for which the bell was rung last.
    rung: u64,
    events: u64,
    /// The daemon cannot order this thread's steps with membarrier(2).
    fence: bool,
}

/// Reserved room for one record, which becomes an event when it is published.
///
/// ```
/// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
/// let place = producer.claim(100).unwrap();
/// producer.fill(&place, 0, b"not needed");
/// producer.give_back(place);
/// assert_eq!(consumer.look(), Ok(0));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Reserved {
    /// Where it begins.
    at: u64,
    /// Where the next one does.
    end: u64,
}

impl RingProducer {
    /// The end of a ring that no producer has had. `is_ordered` says that membarrier(2) reaches this process.
    ///
    /// ```
    /// # let (producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert_eq!(producer.events(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn new(memory: Memory, is_ordered: bool) -> Self {
        // Relaxed: written before the ring was handed over.
        let fence = !is_ordered || memory.words().flags.load(Relaxed) & flag::FENCE != 0;
        Self { memory, head: 0, tail: 0, rung: 0, events: 0, fence }
    }

    /// The memory.
    ///
    /// ```
    /// # let (producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert_eq!(producer.memory().capacity(), 64 << 10);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether times may be in ticks.
    ///
    /// ```
    /// # let (producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert!(!producer.takes_ticks());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn takes_ticks(&self) -> bool {
        // Relaxed: as above.
        self.memory.words().flags.load(Relaxed) & flag::TICKS != 0
    }

    /// Events published.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// assert_eq!(producer.events(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Bytes published, and bytes taken as far as is known now.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// assert_eq!(producer.positions(), (32, 0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn positions(&self) -> (u64, u64) {
        (self.head, self.seen_tail())
    }

    /// The most bytes that an event can have with its tag and fields: two of the largest fit, however they lie.
    ///
    /// ```
    /// # let (producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert_eq!(producer.event_bytes_max(), (32 << 10) - 16);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn event_bytes_max(&self) -> usize {
        self.memory.capacity() as usize / 2 - HEAD_BYTES
    }

    /// Publishes an event. Its sequence and time are ignored: `stamp` says when it happened.
    ///
    /// # Errors
    /// [`NoRoom`]; nothing is changed then. An event beyond [`RingProducer::event_bytes_max`] never has room.
    ///
    /// ```
    /// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// assert_eq!(consumer.look(), Ok(32));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn push(&mut self, event: &Event<'_>, stamp: Stamp) -> Result<Bell, NoRoom> {
        let Event { pri, tag, fields, payload, .. } = *event;
        if !fields.is_empty() {
            return self.push_with_fields(event, stamp);
        }
        let length = tag.len() + payload.len();
        let place = self.reserve(length)?;
        let head = RecordHead { length: length as u32, kind: kind::EVENT, pri, tag_length: tag.len() as u8, stamp };
        let mut at = self.put_head(&place, head);
        if !tag.is_empty() {
            at = self.put(at, tag);
        }
        self.put(at, payload);
        Ok(self.publish(&place))
    }

    fn push_with_fields(&mut self, event: &Event<'_>, stamp: Stamp) -> Result<Bell, NoRoom> {
        let Event { pri, tag, fields, payload, .. } = *event;
        let length = tag.len() + FIELDS_LENGTH_BYTES + fields.len() + payload.len();
        let place = self.reserve(length)?;
        let head = RecordHead {
            length: length as u32,
            kind: kind::EVENT_WITH_FIELDS,
            pri,
            tag_length: tag.len() as u8,
            stamp,
        };
        let mut at = self.put_head(&place, head);
        for part in [tag, &(fields.len() as u32).to_le_bytes(), fields, payload] {
            at = self.put(at, part);
        }
        Ok(self.publish(&place))
    }

    /// Publishes a record that was read from another ring.
    ///
    /// # Errors
    /// [`NoRoom`].
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::ring::record::{RecordHead, Stamp, kind};
    ///
    /// let head = RecordHead { length: 0, kind: kind::EVENT, pri: 6, tag_length: 0, stamp: Stamp::None };
    /// let _ = producer.push_record(head, b"as it was in another ring").unwrap();
    /// assert_eq!(producer.events(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn push_record(&mut self, head: RecordHead, body: &[u8]) -> Result<Bell, NoRoom> {
        let place = self.reserve(body.len())?;
        let at = self.put_head(&place, RecordHead { length: body.len() as u32, ..head });
        self.put(at, body);
        Ok(self.publish(&place))
    }

    /// Reserves a place for a record with at most `length_max` bytes after its head. It is filled by
    /// [`RingProducer::fill`] and published by [`RingProducer::publish_claim`]; nothing else may be sent before that,
    /// or before [`RingProducer::give_back`].
    ///
    /// # Errors
    /// [`NoRoom`].
    ///
    /// ```
    /// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::ring::record::{RecordHead, Stamp, kind};
    ///
    /// let place = producer.claim(100).unwrap();
    /// producer.fill(&place, 0, b"three");
    /// let head = RecordHead { length: 5, kind: kind::EVENT, pri: 6, tag_length: 0, stamp: Stamp::None };
    /// let _ = producer.publish_claim(place, head);
    /// assert_eq!(consumer.look(), Ok(32));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn claim(&mut self, length_max: usize) -> Result<Reserved, NoRoom> {
        self.reserve(length_max)
    }

    /// Copies bytes into a reserved place, `offset` bytes after its record's head.
    ///
    /// # Panics
    /// When they would reach beyond it.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// let place = producer.claim(100).unwrap();
    /// producer.fill(&place, 0, b"first ");
    /// producer.fill(&place, 6, b"second");
    /// producer.give_back(place);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn fill(&self, place: &Reserved, offset: usize, bytes: &[u8]) {
        let at = place.at + (HEAD_BYTES + offset) as u64;
        assert!(at + bytes.len() as u64 <= place.end, "more bytes than were reserved");
        self.memory.put(at, bytes);
    }

    /// Publishes what a reserved place was filled with; `head` says how many bytes that became, and the rest is room
    /// again.
    ///
    /// # Panics
    /// When that is more than was reserved.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::ring::record::{RecordHead, Stamp, kind};
    ///
    /// let place = producer.claim(100).unwrap();
    /// producer.fill(&place, 0, b"x");
    /// let head = RecordHead { length: 1, kind: kind::EVENT, pri: 6, tag_length: 0, stamp: Stamp::None };
    /// let _ = producer.publish_claim(place, head);
    /// assert_eq!(producer.events(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[allow(clippy::needless_pass_by_value, reason = "a place is used once")]
    pub fn publish_claim(&mut self, place: Reserved, head: RecordHead) -> Bell {
        let place = Reserved { at: place.at, end: (place.at + head.record_bytes()).min(place.end) };
        assert!(place.at + head.record_bytes() == place.end, "more bytes than were reserved");
        self.put_head(&place, head);
        // Relaxed: as where the place was reserved; it says again what head is about to be.
        self.memory.words().writing.store(place.end, Relaxed);
        self.publish(&place)
    }

    /// Gives reserved room back: nothing is published.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// let place = producer.claim(100).unwrap();
    /// producer.give_back(place);
    /// assert_eq!(producer.events(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[allow(clippy::needless_pass_by_value, reason = "a place is used once")]
    pub fn give_back(&mut self, place: Reserved) {
        debug_assert!(place.at >= self.head, "the place is behind what was published");
        // Relaxed: as above.
        self.memory.words().writing.store(self.head, Relaxed);
    }

    /// Finds room for a record with `length` bytes after its head; fills up the rest before the end of the data
    /// if it would reach beyond.
    #[inline]
    fn reserve(&mut self, length: usize) -> Result<Reserved, NoRoom> {
        if length > self.event_bytes_max() {
            return Err(NoRoom);
        }
        let bytes = record_bytes(length) as u64;
        let to_end = self.memory.capacity() - self.memory.offset(self.head) as u64;
        let pad = if bytes > to_end { to_end } else { 0 };
        let (at, end) = (self.head + pad, self.head + pad + bytes);
        if end - self.tail > self.memory.capacity() {
            self.tail = self.seen_tail();
            if end - self.tail > self.memory.capacity() {
                return Err(NoRoom);
            }
        }
        // Relaxed: only a process that finds this one dead looks at it, and that comes after everything it did. The
        // fence is for the compiler alone, which must not write the record first. edge `head` carries the record.
        self.memory.words().writing.store(end, Relaxed);
        compiler_fence(SeqCst);
        if pad > 0 {
            let length = (pad as usize - HEAD_BYTES) as u32;
            let head = RecordHead { length, kind: kind::PAD, pri: 0, tag_length: 0, stamp: Stamp::None };
            let [first, second] = head.to_words();
            self.put(self.head, &first.to_le_bytes());
            self.put(self.head + 8, &second.to_le_bytes());
        }
        Ok(Reserved { at, end })
    }

    /// The daemon's tail. A value that cannot be true is ignored: another process of this user could have written it.
    pub(super) fn seen_tail(&self) -> u64 {
        // edge `room`, acquiring: the daemon's copies of what lay before it are over. Relaxed would let the bytes of
        // the next record run into them.
        let tail = self.memory.words().tail.load(ROOM.acquire());
        if tail <= self.head && tail >= self.tail { tail } else { self.tail }
    }

    #[inline]
    fn put_head(&self, place: &Reserved, head: RecordHead) -> u64 {
        let [first, second] = head.to_words();
        self.put(place.at, &first.to_le_bytes());
        self.put(place.at + 8, &second.to_le_bytes());
        place.at + HEAD_BYTES as u64
    }

    #[inline]
    fn put(&self, at: u64, bytes: &[u8]) -> u64 {
        self.memory.put(at, bytes);
        at + bytes.len() as u64
    }

    #[inline]
    fn publish(&mut self, place: &Reserved) -> Bell {
        let words = self.memory.words();
        // edge `head`, releasing: the record's bytes come before it. Relaxed would let the daemon copy what is not
        // there.
        words.head.store(place.end, HEAD.release());
        self.head = place.end;
        self.events += 1;
        if self.fence {
            // edge `asleep`, releasing, where the daemon has no barrier that reaches here.
            ASLEEP.full_releasing();
        }
        // edge `asleep`, releasing: the head is there before the state is read, once the daemon has passed its barrier.
        // Without it the daemon could miss the head, and this load its falling asleep: the event would wait for the
        // next.
        ASLEEP.light();
        // Relaxed: the barrier does it.
        let state = words.state.load(Relaxed);
        if state & state::MASK == state::AWAKE { Bell::Silent } else { self.bell(state) }
    }

    /// Whether the bell is to be rung for a daemon in this state: once for each time that it falls asleep.
    #[cold]
    fn bell(&mut self, state: u64) -> Bell {
        if state == self.rung {
            return Bell::Silent;
        }
        if state & state::MASK != state::ASLEEP {
            self.tail = self.seen_tail();
            if self.head - self.tail <= self.memory.capacity() / 2 {
                return Bell::Silent;
            }
        }
        self.rung = state;
        Bell::Ring
    }

    /// Counts an event that found no room.
    ///
    /// ```
    /// # let (mut producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// producer.lose(100);
    /// assert_eq!(consumer.losses(), Ok((1, 100)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn lose(&mut self, payload_bytes: usize) {
        let words = self.memory.words();
        // Relaxed, but for the last store: counters that this thread alone writes.
        words.lost_bytes.store(words.lost_bytes.load(Relaxed).wrapping_add(payload_bytes as u64), Relaxed);
        // edge `losses`, releasing: the bytes are there with the event.
        words.lost_events.store(words.lost_events.load(Relaxed).wrapping_add(1), LOSSES.release());
    }
}
