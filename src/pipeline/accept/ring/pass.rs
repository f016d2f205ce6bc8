//! Encodes what is in a ring straight into the half, in one pass.
//!
//! Input: what was published when the pass began. Output: published records, and how far the ring is taken. Thread: the
//! ring's writer. Failure: the reader is gone; or the program has written something impossible.
//!
//! The program may change any byte at any time. So a head, a tag, and fields are copied first, and only the copy is
//! used. A payload is not looked at: it is copied once, from the ring to its place in the half. Two copies of the same
//! bytes may differ. So the same copy of the head decides the size of the claim and is then encoded, and each step
//! takes at least one record, whatever the program does meanwhile.

use dbuf_wire::frames::TAG_BYTES_MAX;
use dbuf_wire::ring::record::{self, HEAD_BYTES, RecordHead, Stamp, kind};
use dbuf_wire::ring::{Position, RingConsumer};

use super::row::RingRow;
use super::table::RingState;
use crate::pipeline::accept::frames::Acks;
use crate::pipeline::accept::publish::{
    ClaimEncoder, Closed, EventSource, Peer, PublishObserver, Published, Publisher,
};
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::{Cause, Event, SOURCE_BYTES_MAX, Transport};
use crate::sys::ticks::Moment;

/// Bytes that a record in the half has at most in addition to its source and to what follows the head in the ring: its
/// own head, a time, and the padding of fields and payload.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// One pass.
pub(crate) struct Pass<'a> {
    pub(crate) consumer: &'a mut RingConsumer,
    pub(crate) row: &'a RingRow,
    pub(crate) acks: &'a mut Acks,
    pub(crate) name: &'a [u8],
    pub(crate) peer: &'a Peer,
    /// Converts ticks; None where ticks are not used.
    pub(crate) moment: Option<Moment>,
    pub(crate) max_event_bytes: usize,
    /// Memory that fields are copied to.
    pub(crate) scratch: &'a mut [u8],
    /// How far the ring is taken.
    pub(crate) position: Position,
    /// How far it is taken once the current claim is published.
    pub(crate) next: Position,
    /// The generation of the latest event that was taken.
    pub(crate) generation: u64,
    /// The current publish is the ring's last one: it reports how the ring has ended.
    pub(crate) ends: bool,
    /// The end of what the program had published.
    pub(crate) end: u64,
    /// Events that were refused.
    pub(crate) refused: u64,
}

/// Why a claim takes no more events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClaimEnd {
    /// The pass continues with another claim.
    Pause,
    /// The event that begins here breaks a rule.
    Refused(u64, Refusal),
    /// What the program has written is impossible.
    Broken(&'static str),
}

/// The loss that an event causes by breaking a rule, and the event's bytes.
type Refusal = (Cause, u64);

/// What is at a position of the ring, by the record's head.
enum HeadVerdict {
    /// Nothing: this many bytes must be skipped.
    Pad(u64),
    /// An event.
    Event,
    Refused(Refusal),
    Broken(&'static str),
}

/// A pass while it encodes events. It starts with an event whose head it has read.
struct PassEncoder<'p, 'a> {
    pass: &'p mut Pass<'a>,
    first: RecordHead,
    stop: ClaimEnd,
}

impl Pass<'_> {
    /// Takes what is in the ring, until enough is taken or nothing is left. Returns why the program must be
    /// disconnected, if it must be.
    pub(crate) fn run(&mut self, enough_bytes: u64, publisher: &mut Publisher) -> Result<Option<&'static str>, Closed> {
        let enough = self.position.tail + enough_bytes;
        while self.position.tail < self.end.min(enough) {
            let first = self.head(self.position.tail);
            // An event that breaks a rule needs no room.
            let length = (first.length as usize).min(self.max_event_bytes + record::OVERHEAD_BYTES_MAX);
            let need = SOURCE_BYTES_MAX + RECORD_OVERHEAD_BYTES + length;
            let mut flow = PassEncoder { pass: self, first, stop: ClaimEnd::Pause };
            let has_claim = publisher.publish_from(need, &mut flow)?;
            match flow.stop {
                _ if !has_claim => {
                    // No claim can ever hold it.
                    let end = self.position.tail + first.record_bytes().min(self.end - self.position.tail);
                    self.refuse(end, (Cause::TooBig, u64::from(first.length)), publisher)?;
                }
                ClaimEnd::Pause => {}
                ClaimEnd::Refused(end, rule) => self.refuse(end, rule, publisher)?,
                ClaimEnd::Broken(why) => return Ok(Some(why)),
            }
        }
        Ok(None)
    }

    /// Counts events that found no room in the ring, as the program reports them.
    pub(crate) fn lose(&mut self, lost: (u64, u64), publisher: &mut Publisher) -> Result<(), Closed> {
        let slot = publisher.slot(self.peer, Transport::Ring, 0, self.name);
        publisher.lose_many(slot, Cause::Full, lost.0, lost.1);
        let before = self.position.lost;
        self.next.lost = (before.0.wrapping_add(lost.0), before.1.wrapping_add(lost.1));
        publisher.publish_pending(&[], self)?;
        self.consumer.take_losses(lost);
        Ok(())
    }

    /// Counts a torn event, or everything that a disconnected program had still written, as one loss. Its record and
    /// the ring's end are one step for the next process, so that it does not count the same loss again.
    pub(crate) fn end_with_loss(&mut self, cause: Cause, publisher: &mut Publisher) -> Result<(), Closed> {
        let slot = publisher.slot(self.peer, Transport::Ring, 0, self.name);
        publisher.lose(slot, cause, 0);
        self.ends = true;
        publisher.publish_pending(&[], self)
    }

    /// Takes an event that breaks a rule. The record that reports it is published by itself.
    fn refuse(&mut self, end: u64, (cause, bytes): Refusal, publisher: &mut Publisher) -> Result<(), Closed> {
        let slot = publisher.slot(self.peer, Transport::Ring, 0, self.name);
        publisher.lose(slot, cause, bytes);
        self.next.tail = end;
        self.next.events += 1;
        self.refused = self.refused.saturating_add(1);
        publisher.publish_pending(&[], self)
    }

    #[inline]
    fn head(&self, at: u64) -> RecordHead {
        let mut head = [0; HEAD_BYTES];
        self.consumer.copy(at - self.consumer.tail(), &mut head);
        RecordHead::of_bytes(&head)
    }

    /// Interprets the head of the record at `at`.
    #[inline]
    fn view(&self, at: u64, head: &RecordHead) -> HeadVerdict {
        let memory = self.consumer.memory();
        let to_end = memory.capacity() - memory.offset(at) as u64;
        let record_bytes = head.record_bytes();
        if record_bytes > to_end.min(self.end - at) {
            return HeadVerdict::Broken("a record reaches beyond the ring's end or head");
        }
        match head.kind {
            kind::EVENT | kind::EVENT_WITH_FIELDS => {}
            kind::PAD if record_bytes == to_end => return HeadVerdict::Pad(record_bytes),
            _ => return HeadVerdict::Broken("a record of an unknown type"),
        }
        if head.length as usize > self.max_event_bytes + record::OVERHEAD_BYTES_MAX {
            return HeadVerdict::Refused((Cause::TooBig, u64::from(head.length)));
        }
        HeadVerdict::Event
    }

    /// The state of the ring after a publish in `generation`.
    fn state_after(&self, generation: u64, published: Published) -> RingState {
        if !published.is_all {
            return RingState { position: self.position, generation: self.generation, has_ended: false };
        }
        let generation = if self.next.events > self.position.events { generation } else { self.generation };
        RingState { position: self.next, generation, has_ended: self.ends }
    }

    /// Notes that the ring is published as far as `state` says. There may have been nothing to publish but a pad.
    fn settle(&mut self, state: RingState) {
        self.row.commit(&state);
        self.consumer.take(self.next.tail - self.position.tail, self.next.events);
        (self.position, self.generation) = (self.next, state.generation);
    }

    #[inline]
    fn source_time_ns(&self, stamp: Stamp) -> Option<u64> {
        match stamp {
            Stamp::None => None,
            Stamp::Nanoseconds(time_ns) => Some(time_ns),
            Stamp::Ticks(ticks) => self.moment.as_ref().map(|moment| moment.time_ns(ticks)),
        }
    }

    /// Encodes the event that begins at `at`. `own_slot` is the slot of events without their own tag, once there was
    /// one. False if it does not fit.
    #[inline]
    fn event(
        &mut self,
        at: u64,
        head: &RecordHead,
        own_slot: &mut Option<u32>,
        encoder: &mut ClaimEncoder<'_, '_>,
    ) -> Result<bool, Refusal> {
        let malformed = |_| (Cause::Malformed, u64::from(head.length));
        let body = at + HEAD_BYTES as u64 - self.consumer.tail();
        if head.kind == kind::EVENT_WITH_FIELDS {
            return self.event_with_fields(body, head, encoder);
        }
        let payload_bytes = record::payload_bytes(head).map_err(malformed)?;
        if payload_bytes > self.max_event_bytes {
            return Err((Cause::TooBig, payload_bytes as u64));
        }
        let tag_bytes = usize::from(head.tag_length);
        let slot = if tag_bytes == 0 {
            *own_slot.get_or_insert_with(|| encoder.slot(self.peer, Transport::Ring, self.name))
        } else {
            let mut tag = [0; TAG_BYTES_MAX];
            self.consumer.copy(body, &mut tag[..tag_bytes]);
            encoder.slot(self.peer, Transport::Ring, &tag[..tag_bytes])
        };
        let event = Event { pri: head.pri, source_time_ns: self.source_time_ns(head.stamp), ..Event::default() };
        let fill = |payload: &mut [u8]| self.consumer.copy(body + tag_bytes as u64, payload);
        Ok(encoder.encode_around(slot, &event, payload_bytes, fill))
    }

    fn event_with_fields(
        &mut self,
        body: u64,
        head: &RecordHead,
        encoder: &mut ClaimEncoder<'_, '_>,
    ) -> Result<bool, Refusal> {
        let source_time_ns = self.source_time_ns(head.stamp);
        let length = head.length as usize;
        let mut large = Vec::new();
        let copy = match self.scratch.get_mut(..length) {
            Some(copy) => copy,
            None => {
                large.resize(length, 0);
                &mut large[..]
            }
        };
        self.consumer.copy(body, copy);
        let event = record::event(head, copy).map_err(|_| (Cause::Malformed, u64::from(head.length)))?;
        if event.payload.len() > self.max_event_bytes {
            return Err((Cause::TooBig, event.payload.len() as u64));
        }
        let tag = if event.tag.is_empty() { self.name } else { event.tag };
        let slot = encoder.slot(self.peer, Transport::Ring, tag);
        let (fields, payload) = (event.fields, event.payload);
        Ok(encoder.encode(slot, &Event { pri: event.pri, source_time_ns, fields, payload, ..Event::default() }))
    }
}

impl EventSource for PassEncoder<'_, '_> {
    fn encode(&mut self, encoder: &mut ClaimEncoder<'_, '_>) {
        let pass = &mut *self.pass;
        // Looked up once for each claim: a slot is certain to stay valid only for that long.
        let mut own_slot = None;
        let (mut at, mut head) = (pass.position.tail, self.first);
        let mut events = 0;
        self.stop = loop {
            match pass.view(at, &head) {
                HeadVerdict::Event => match pass.event(at, &head, &mut own_slot, encoder) {
                    Ok(true) => {
                        at += head.record_bytes();
                        events += 1;
                    }
                    Ok(false) => break ClaimEnd::Pause,
                    Err(rule) => break ClaimEnd::Refused(at + head.record_bytes(), rule),
                },
                HeadVerdict::Pad(bytes) => at += bytes,
                HeadVerdict::Refused(rule) => break ClaimEnd::Refused(at + head.record_bytes(), rule),
                HeadVerdict::Broken(why) => break ClaimEnd::Broken(why),
            }
            if at == pass.end {
                break ClaimEnd::Pause;
            }
            head = pass.head(at);
        };
        pass.next = Position { tail: at, events: pass.position.events + events, lost: pass.position.lost };
        if events == 0 && at != pass.position.tail {
            pass.settle(RingState { position: pass.next, generation: pass.generation, has_ended: false });
        }
    }
}

impl PublishObserver for PassEncoder<'_, '_> {
    fn prepare(&mut self, position: PublishPosition, published: Published) {
        self.pass.prepare(position, published);
    }

    fn abort(&mut self) {
        self.pass.abort();
    }

    fn commit(&mut self, generation: u64, published: Published) {
        self.pass.commit(generation, published);
    }

    fn outlives(&self) -> bool {
        self.pass.outlives()
    }
}

impl PublishObserver for Pass<'_> {
    fn prepare(&mut self, position: PublishPosition, published: Published) {
        self.row.prepare(position, &self.state_after(position.generation(), published));
    }

    fn abort(&mut self) {
        self.row.abort();
    }

    fn commit(&mut self, generation: u64, published: Published) {
        let state = self.state_after(generation, published);
        if !published.is_all {
            self.row.commit(&state);
            return;
        }
        if self.next.events > self.position.events {
            self.acks.published(generation, (self.position.events + 1, self.next.events));
        }
        self.settle(state);
    }

    fn outlives(&self) -> bool {
        self.row.is_stored
    }
}
