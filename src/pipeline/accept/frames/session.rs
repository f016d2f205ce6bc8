//! Interprets the bytes of one framed connection: finds the events, remembers what is promised, and encodes the
//! replies. `dbuf_wire::frames` defines the bytes, and `docs/PROTOCOL.md` draws them.
//!
//! Input: bytes that a writer read from one connection, and the reader's progress. Output: [`Step`]s for the writer,
//! and replies in a bounded outbox. This file makes no system calls. Thread: the connection's writer; only
//! [`Sessions`](super::Sessions) is shared. Failure: everything that a client sends wrong, as a [`Step::Refused`] that
//! costs one event or a [`Step::Broken`] that ends the connection.
//!
//! How a writer drives it:
//! 1. It passes the bytes, beginning with the magic, to [`handshake`] until that returns a [`FrameSession`] and the
//!    number of bytes that it consumed.
//! 2. It calls [`FrameSession::next`] with the bytes that are not consumed yet, until that returns [`Step::More`],
//!    [`Step::Bye`] or [`Step::Broken`]. It publishes the event of each [`Step::Event`], and a loss record for each
//!    [`Step::Refused`].
//! 3. It publishes them in as many claims as necessary, and repeats a claim that was sealed. After each publish it
//!    tells [`FrameSession::commit`] the claim's generation.
//! 4. After each round, and whenever the bell rings for what [`FrameSession::wants`], it does this: if
//!    [`FrameSession::take_sync`] says so, it asks the reader for a sync. It tells [`FrameSession::progress`] how far
//!    the reader is. It sends [`FrameSession::outgoing`] without blocking and tells [`FrameSession::sent`] how much
//!    went out. It closes the connection if [`FrameSession::reads_no_replies`].
//! 5. At the connection's end, [`FrameSession::at_end`] says whether it came in the middle of an event. Dropping the
//!    session gives its place in [`Sessions`] back.
//!
//! Invariants, cited by number:
//! 1. What was parsed and not yet published is neither acknowledged nor remembered: it may be sent again.
//! 2. An acknowledgement of N is sent after every ERROR that names an event up to N.
//! 3. No event is accepted whose sequence is not above all before it in its session, on whatever connection.
//! 4. The memory that a client can make a session hold is bounded: the outbox by [`OUTBOX_BYTES_MAX`], spans by
//!    [`SPANS_MAX`].

use std::ops::RangeInclusive;

use dbuf_wire::frames::{self as wire, Code, Event, Fault, Frame, HEAD_BYTES, Head, Hello, Welcome, feature, kind};

use super::acks::Acks;
use super::sessions::{SessionGuard, SessionState};
use crate::pipeline::accept::publish::Published;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::Cause;
use crate::pipeline::takeover::spans::{Known, Span};

/// Bytes of replies that wait for a client to read them, at most. The daemon disconnects a client that lets more pile
/// up.
pub const OUTBOX_BYTES_MAX: usize = 64 << 10;
/// While more than this many bytes wait, no acknowledgement joins them: a later one covers more.
pub(super) const OUTBOX_BYTES_FOR_ACKS: usize = 4 << 10;

/// What a writer does next with a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// An event to publish. An empty tag stands for [`FrameSession::name`].
    Event {
        /// The event.
        event: Event<'a>,
        /// Bytes consumed.
        consumed: usize,
    },
    /// An event that is refused as a whole: count it, and publish a loss record. The client is told.
    Refused {
        /// Why.
        cause: Cause,
        /// Bytes of its payload.
        payload_bytes: u64,
        /// Bytes consumed.
        consumed: usize,
    },
    /// An event that was accepted before: count it as a duplicate.
    Duplicate {
        /// Bytes consumed.
        consumed: usize,
    },
    /// Nothing to do: the body of a refused event, a frame of a later version, or a SYNC (see
    /// [`FrameSession::take_sync`]).
    Passed {
        /// Bytes consumed.
        consumed: usize,
    },
    /// The frame is incomplete.
    More {
        /// Bytes of the whole frame, from the first byte given; never more than [`frame_bytes_max`].
        frame_bytes: usize,
    },
    /// The client asks for a ring of this many bytes, before it has sent any event: grant it, or call
    /// [`FrameSession::no_ring`].
    Ring {
        /// Bytes of data that the ring holds.
        capacity: u64,
        /// Bytes consumed.
        consumed: usize,
    },
    /// The client says that nothing more will come: publish, answer, and close.
    Bye,
    /// The connection must end: publish what came before, answer, and close.
    Broken {
        /// What to count one event as; None if the fault is not in an event.
        cause: Option<Cause>,
        /// The reason, for the daemon's own log.
        why: &'static str,
    },
}

/// The largest frame that a writer must hold as a whole, in bytes, for this `ingest.max_event`.
#[must_use]
pub const fn frame_bytes_max(max_event_bytes: usize) -> usize {
    let event = wire::TAG_BYTES_MAX + wire::FIELDS_LENGTH_BYTES + wire::FIELDS_BYTES_MAX + max_event_bytes;
    let control = wire::CONTROL_BYTES_MAX as usize;
    HEAD_BYTES + if event > control { event } else { control }
}

/// Features of this daemon.
pub(super) const FEATURES: u64 = feature::FIELDS | feature::RING;

/// One framed connection after its HELLO.
#[derive(Debug)]
pub struct FrameSession {
    name: Box<[u8]>,
    max_event_bytes: usize,
    /// Its events may have fields.
    has_fields: bool,
    /// It may ask for a ring.
    may_have_ring: bool,
    /// The highest sequence that was accepted or refused.
    last: u64,
    /// Bytes of a refused or ignored frame that have not come yet.
    skip: u32,
    /// First and last sequence of the events that are parsed and not published.
    pub(super) unpublished: Option<(u64, u64)>,
    /// The sequence up to which a SYNC wants everything durable; None after [`FrameSession::take_sync`].
    sync: Option<u64>,
    acks: Acks,
    outbox: Vec<u8>,
    /// Spans whose loss is in the outbox, or in a part of it that was sent.
    unsent_losses: Vec<Span>,
    /// The client let too many replies pile up.
    reads_no_replies: bool,
    guard: SessionGuard,
}

impl FrameSession {
    pub(super) fn new(
        hello: &Hello<'_>,
        max_event_bytes: usize,
        guard: SessionGuard,
        known: Option<SessionState>,
    ) -> Self {
        let last = guard.session_state.last;
        let mut outbox = Vec::new();
        Frame::Welcome(Welcome {
            version: hello.version.min(wire::VERSION),
            max_event: max_event_bytes as u32,
            compatible: hello.compatible & FEATURES,
            incompatible: hello.incompatible,
            last,
        })
        .encode(&mut outbox);
        Self {
            name: hello.name.into(),
            max_event_bytes,
            has_fields: (hello.compatible | hello.incompatible) & feature::FIELDS != 0,
            may_have_ring: (hello.compatible | hello.incompatible) & feature::RING != 0,
            last,
            skip: 0,
            unpublished: None,
            sync: None,
            acks: match known {
                None => Acks::new(hello.ack),
                Some(session_state) => Acks::resumed(hello.ack, session_state.pending, session_state.losses),
            },
            outbox,
            unsent_losses: Vec::new(),
            reads_no_replies: false,
            guard,
        }
    }

    /// The producer's name, which is the tag of events without one.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The session's id; 0 if the client has none.
    #[must_use]
    pub fn session(&self) -> u128 {
        self.guard.id()
    }

    /// Interprets the frame at the start of `bytes`. After [`Step::More`], give the same bytes again with more.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Step<'a> {
        if self.reads_no_replies {
            return Step::Broken { cause: None, why: "the client does not read its replies" };
        }
        if self.skip > 0 && !bytes.is_empty() {
            let consumed = bytes.len().min(self.skip as usize);
            self.skip -= consumed as u32;
            return Step::Passed { consumed };
        }
        let head = match Head::decode(bytes) {
            Ok(Some(head)) => head,
            Ok(None) => return Step::More { frame_bytes: HEAD_BYTES },
            Err(error) => return self.broken(Some(Cause::Malformed), error.0),
        };
        match head.kind {
            kind::EVENT => self.event(&head, bytes),
            kind::EVENT_WITH_FIELDS if self.has_fields => self.event(&head, bytes),
            kind::SYNC => {
                self.sync = Some(self.last);
                self.pass(&head)
            }
            kind::BYE => Step::Bye,
            kind::RING if self.may_have_ring => self.ring(&head, bytes),
            kind if kind & wire::IGNORABLE != 0 => self.pass(&head),
            _ => self.broken(Some(Cause::Malformed), "a frame of this type is not allowed here"),
        }
    }

    fn event<'a>(&mut self, head: &Head, bytes: &'a [u8]) -> Step<'a> {
        // Invariant 3. A refused event that comes again is also a duplicate: it was named and counted.
        if (1..=self.last).contains(&head.sequence) {
            self.skip = head.length;
            return Step::Duplicate { consumed: HEAD_BYTES };
        }
        if let Some((code, text)) = fault_of(head, self.max_event_bytes) {
            return self.refuse(head, code, text);
        }
        let frame_bytes = head.frame_bytes();
        let Some(body) = bytes.get(HEAD_BYTES..frame_bytes) else { return Step::More { frame_bytes } };
        let (tag, rest) = body.split_at(usize::from(head.tag_length));
        let (fields, payload) = if head.kind == kind::EVENT {
            (&[][..], rest)
        } else {
            match wire::split_fields(rest) {
                Ok((_, [])) => return self.refuse(head, Code::Malformed, "an event without payload"),
                Ok((_, payload)) if payload.len() > self.max_event_bytes => {
                    return self.refuse(head, Code::TooBig, TOO_BIG);
                }
                Ok(parts) => parts,
                Err(error) => return self.refuse(head, Code::Malformed, error.0),
            }
        };
        self.may_have_ring = false;
        self.last = head.sequence;
        let first = self.unpublished.map_or(head.sequence, |(first, _)| first);
        self.unpublished = Some((first, head.sequence));
        let event = Event { pri: head.detail, tag, time_ns: head.time_ns, sequence: head.sequence, fields, payload };
        Step::Event { event, consumed: frame_bytes }
    }

    fn ring(&mut self, head: &Head, bytes: &[u8]) -> Step<'static> {
        match Frame::decode(bytes) {
            Ok(Some((Frame::Ring { capacity }, consumed))) => Step::Ring { capacity, consumed },
            Ok(_) => Step::More { frame_bytes: head.frame_bytes() },
            Err(error) => self.broken(None, error.0),
        }
    }

    /// Answers that the ring is not granted. Frames continue to work.
    pub fn no_ring(&mut self, why: &str) {
        self.error(Code::NoRing, 0, 0, why);
    }

    fn refuse(&mut self, head: &Head, code: Code, text: &'static str) -> Step<'static> {
        self.skip = head.length;
        self.last = self.last.max(head.sequence);
        self.error(code, head.sequence, head.sequence, text);
        let cause = if code == Code::TooBig { Cause::TooBig } else { Cause::Malformed };
        Step::Refused { cause, payload_bytes: head.payload_bytes() as u64, consumed: HEAD_BYTES }
    }

    fn pass(&mut self, head: &Head) -> Step<'static> {
        self.skip = head.length;
        Step::Passed { consumed: HEAD_BYTES }
    }

    fn broken(&mut self, cause: Option<Cause>, why: &'static str) -> Step<'static> {
        self.error(Code::Broken, 0, 0, why);
        Step::Broken { cause, why }
    }

    fn error(&mut self, code: Code, first: u64, last: u64, text: &str) {
        if self.outbox.len() > OUTBOX_BYTES_MAX {
            self.reads_no_replies = true;
            return;
        }
        Frame::Error(Fault { code: code as u8, first, last, text: text.as_bytes() }).encode(&mut self.outbox);
    }

    /// Notes that the events since the last publish, as far as `published` covers them, are about to be published at
    /// `position`. If it covers everything, the refused events count as published too, because their loss records are
    /// included.
    pub fn prepare(&self, position: PublishPosition, published: Published) {
        if let Some(last) = self.covered_up_to(published) {
            self.guard.prepare(position, last);
        }
    }

    fn covered_up_to(&self, published: Published) -> Option<u64> {
        if published.is_all { Some(self.last) } else { published.sequence }
    }

    /// Notes that this publish has failed, so that nothing of it counts.
    pub fn abort(&self) {
        self.guard.abort();
    }

    /// Notes that the events since the last publish, as far as `published` covers them, are published in `generation`.
    pub fn commit(&mut self, generation: u64, published: Published) {
        if let Some(last) = self.covered_up_to(published) {
            self.guard.commit(last, generation);
        }
        // Invariant 1.
        let (Some((first, last)), Some(sequence)) = (self.unpublished, published.sequence) else { return };
        self.acks.published(generation, (first, sequence));
        self.unpublished = (sequence < last).then(|| (sequence + 1, last));
    }

    /// Takes the request of a SYNC, once the events before it are published. The writer then asks the reader for a
    /// sync.
    #[must_use]
    pub fn take_sync(&mut self) -> bool {
        if self.unpublished.is_some() {
            return false;
        }
        let sync = self.sync.take();
        if let Some(sequence) = sync {
            self.acks.sync(sequence);
        }
        sync.is_some()
    }

    /// Tells the session how far the reader is: `Progress::persisted_before`, then `Progress::durable_before`.
    /// `was_lost` says whether something of these generations was lost; its second parameter limits the question to
    /// losses in a file.
    pub fn progress(
        &mut self,
        persisted_before: u64,
        durable_before: u64,
        was_lost: impl Fn(RangeInclusive<u64>, bool) -> bool,
    ) {
        let last = self.settled();
        // Takes no memory unless something was lost.
        let mut lost = Vec::new();
        self.acks.progress((persisted_before, durable_before), last, was_lost, |span| lost.push(span));
        for span in lost {
            self.error(Code::Lost, span.sequences.0, span.sequences.1, "accepted, then lost because the disk failed");
            self.unsent_losses.push(span);
        }
    }

    /// Whether the client has left more replies unread than the daemon keeps. Then nothing is acknowledged any more,
    /// and the writer closes the connection.
    #[must_use]
    pub fn reads_no_replies(&self) -> bool {
        self.reads_no_replies
    }

    /// The progress that this session waits for, as bits of `progress::want`; 0 if none.
    #[must_use]
    pub fn wants(&self) -> u32 {
        self.acks.wants()
    }

    /// The replies that wait to be sent. Empty if there are none.
    pub fn outgoing(&mut self) -> &[u8] {
        // Invariant 2: the losses before an acknowledgement were put into the outbox before the acknowledgement became
        // due.
        if self.outbox.len() <= OUTBOX_BYTES_FOR_ACKS && !self.reads_no_replies {
            for (level, sequence) in self.acks.take_due() {
                Frame::Ack { level, sequence }.encode(&mut self.outbox);
            }
        }
        &self.outbox
    }

    /// Removes the first `bytes` bytes of [`FrameSession::outgoing`]: they are sent.
    pub fn sent(&mut self, bytes: usize) {
        self.outbox.drain(..bytes);
    }

    /// Notes that all replies are sent: the client now knows the result of every event up to the last acknowledgement.
    /// Until then, a loss is reported again when the client comes back, in this process or in the next one. If the
    /// client read no replies, some replies never were in the outbox.
    pub fn all_sent(&mut self) {
        if self.reads_no_replies {
            return;
        }
        self.unsent_losses.clear();
        let (losses_known_to, fate_known_to) = self.acks.reached(self.settled());
        self.guard.known(Known { fate_known_to, losses_known_to, lost_count: 0 });
    }

    /// The sequence up to which everything is published or refused.
    fn settled(&self) -> u64 {
        self.unpublished.map_or(self.last, |(first, _)| first - 1)
    }

    /// What the connection's end means for `rest`, the bytes that no step has consumed: the cause of loss if an event
    /// is incomplete.
    #[must_use]
    pub fn at_end(&self, rest: &[u8]) -> Option<Cause> {
        let begins_event = rest.get(4).is_none_or(|kind| matches!(*kind, kind::EVENT | kind::EVENT_WITH_FIELDS));
        (self.skip == 0 && !rest.is_empty() && begins_event).then_some(Cause::Abandoned)
    }
}

impl Drop for FrameSession {
    fn drop(&mut self) {
        let mut pending = std::mem::take(&mut self.unsent_losses);
        pending.extend(self.acks.pending());
        pending.sort_by_key(|span| span.sequences);
        let losses = self.guard.session_state.losses;
        self.guard.session_state = SessionState { last: self.settled(), pending, losses };
    }
}

const TOO_BIG: &str = "the payload is larger than ingest.max_event";

/// What is wrong with the event of this head, for faults that cost only this event.
fn fault_of(head: &Head, max_event_bytes: usize) -> Option<(Code, &'static str)> {
    let more = if head.kind == kind::EVENT { 0 } else { wire::FIELDS_LENGTH_BYTES + wire::FIELDS_BYTES_MAX };
    if head.payload_bytes() > max_event_bytes + more {
        Some((Code::TooBig, TOO_BIG))
    } else if head.payload_bytes() == 0 {
        Some((Code::Malformed, "an event without payload"))
    } else if usize::from(head.tag_length) > wire::TAG_BYTES_MAX {
        Some((Code::Malformed, "the tag is longer than 64 bytes"))
    } else if head.detail > wire::PRI_MAX {
        Some((Code::Malformed, "pri is above 191"))
    } else if head.sequence == 0 {
        Some((Code::Malformed, "the sequence is 0; sequences count from 1"))
    } else {
        None
    }
}
