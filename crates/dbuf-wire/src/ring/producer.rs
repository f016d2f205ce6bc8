//! Puts events into a ring: the producer's end, which reserves, fills, and publishes with one store.
//!
//! Input: events. Output: records in the ring, and whether the bell is to be rung. Thread: one. Failure: there is no
//! room.

use super::layout::{flag, state, want};
use super::memory::Memory;
use super::record::{HEAD_BYTES, RecordHead, Stamp, kind, record_bytes};
use super::{ASLEEP, HEAD, ROOM, TURN};

use crate::frames::{Event, FIELDS_LENGTH_BYTES};
use dbuf_sync::atomic::Ordering::{Relaxed, SeqCst};
use dbuf_sync::compiler_fence;

/// There is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// What a publish asks of the producer.
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
    /// The other side orders nothing from afar.
    fence: bool,
}

/// A place for one record, which counts when it is published.
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
    #[must_use]
    pub fn new(memory: Memory, is_ordered: bool) -> Self {
        // Relaxed: written before the ring was handed over.
        let fence = !is_ordered || memory.words().flags.load(Relaxed) & flag::FENCE != 0;
        Self { memory, head: 0, tail: 0, rung: 0, events: 0, fence }
    }

    /// The memory.
    #[inline]
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether times may be in ticks.
    #[must_use]
    pub fn takes_ticks(&self) -> bool {
        // Relaxed: as above.
        self.memory.words().flags.load(Relaxed) & flag::TICKS != 0
    }

    /// Events published.
    #[inline]
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Bytes published, and bytes taken as far as is known now.
    #[must_use]
    pub fn positions(&self) -> (u64, u64) {
        (self.head, self.seen_tail())
    }

    /// The most bytes that an event can have with its tag and fields: two of the largest fit, however they lie.
    #[inline]
    #[must_use]
    pub fn event_bytes_max(&self) -> usize {
        self.memory.capacity() as usize / 2 - HEAD_BYTES
    }

    /// Publishes an event; its sequence and time are not looked at, for `stamp` says when it happened.
    ///
    /// # Errors
    /// [`NoRoom`]; nothing is changed then. An event beyond [`RingProducer::event_bytes_max`] never has room.
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

    /// Publishes a record as it lay in another ring.
    ///
    /// # Errors
    /// [`NoRoom`].
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
    #[inline]
    pub fn claim(&mut self, length_max: usize) -> Result<Reserved, NoRoom> {
        self.reserve(length_max)
    }

    /// Copies bytes into a reserved place, `offset` bytes after its record's head.
    ///
    /// # Panics
    /// When they would reach beyond it.
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

    /// Gives a reserved place back: nothing was published.
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

    /// The daemon's tail. It is believed as far as it can be true: another process of this user could have written it.
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
    #[inline]
    pub fn lose(&mut self, payload_bytes: usize) {
        let words = self.memory.words();
        // Relaxed: plain counters, which this thread alone writes. The bytes first, so that they are there with the
        // event.
        words.lost_bytes.store(words.lost_bytes.load(Relaxed).wrapping_add(payload_bytes as u64), Relaxed);
        words.lost_events.store(words.lost_events.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Says what is to be told from here on, as bits of [`want`], and what to sleep on: the value of the turn before
    /// which the caller has to look again, and only then may sleep. Then the bell is to be rung.
    pub fn want(&self, wants: u32) -> u32 {
        let words = self.memory.words();
        // Relaxed: the barrier does it. Only this side writes it.
        words.wants.store(words.wants.load(Relaxed) | wants, Relaxed);
        // edge `turn`, releasing: the wish is there before the caller looks. Either the daemon sees it after what it
        // did, or the caller sees what that was.
        TURN.full_releasing();
        // edge `turn`, acquiring, as well: a caller that sees this turn sees what it was changed for. Relaxed would let
        // the caller see the new turn, miss what has come, and sleep on.
        words.turn.load(TURN.acquire())
    }

    /// Takes wishes back.
    pub fn want_no_more(&self, wants: u32) {
        let words = self.memory.words();
        // Relaxed: being woken once more does no harm.
        words.wants.store(words.wants.load(Relaxed) & !wants, Relaxed);
    }

    /// Asks that all events so far become durable now. Then [`want::DURABLE`] is to be wished for, and the bell rung.
    pub fn ask_sync(&self) {
        // Relaxed: the barrier of the wish that follows orders it.
        self.memory.words().sync.store(self.events, Relaxed);
    }

    /// Whether an event with `length` bytes after its head would find room now.
    pub fn has_room(&mut self, length: usize) -> bool {
        let bytes = record_bytes(length) as u64;
        let to_end = self.memory.capacity() - self.memory.offset(self.head) as u64;
        let pad = if bytes > to_end { to_end } else { 0 };
        self.tail = self.seen_tail();
        self.head + pad + bytes - self.tail <= self.memory.capacity()
    }

    /// Sleeps until the daemon's turn is another one, or for `timeout`; it may also return for no reason.
    #[cfg(not(dbuf_loom))]
    pub fn sleep(&self, turn: u32, timeout: std::time::Duration) {
        use rustix::thread::futex;
        let timeout = futex::Timespec::try_from(timeout).ok();
        // Whatever it says (changed, interrupted, timed out), the caller looks again. The word is in memory that two
        // processes share, so the flag of private ones is not set.
        let _ = futex::wait(&self.memory.words().turn, futex::Flags::empty(), turn, timeout.as_ref());
    }
}

const _: () = assert!(want::ROOM | want::PERSISTED | want::DURABLE == 7, "three bits");
