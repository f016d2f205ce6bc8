//! Drives the [`FrameSession`] of one framed connection.
//!
//! Input: bytes of one connection, in order, and the reader's progress. Output: events in the publisher, and replies on
//! the socket. Thread: the connection's writer. Failure: only that the reader is gone. A client's fault ends its own
//! connection at most.

use std::fmt::Debug;

use dbuf_wire::frames::HEAD_BYTES;

use super::{FrameSession, Step};
use crate::pipeline::accept::connection::protocol::{AfterBytes, Link, Next, Protocol, ReplyState};
use crate::pipeline::accept::publish::{Closed, Extra, NoObserver, Peer, PublishObserver, Published, WriterContext};
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::Transport;
use crate::sync::Arc;
use crate::sync::atomic::Ordering::Relaxed;

/// Gives rings to framed connections that ask for one.
pub(crate) trait RingGrants: Debug + Send + Sync {
    /// Creates a ring of `capacity` bytes for `identity`, whose tag is the ring's name, and passes it to the client.
    fn grant(self: Arc<Self>, identity: &Identity, capacity: u64, link: &Link, context: &WriterContext) -> Granted;
}

/// The answer to a request for a ring.
#[derive(Debug)]
pub(crate) enum Granted {
    /// From here on the connection belongs to the ring.
    Ring(Box<dyn Protocol>),
    /// No ring, for this reason. The connection continues with frames.
    Refused(String),
    /// The ring could not be passed to the client, and its connection ends.
    Failed,
}

/// A connection that speaks the framed protocol.
#[derive(Debug)]
pub(crate) struct FrameConnection {
    session: FrameSession,
    rings: Arc<dyn RingGrants>,
}

impl PublishObserver for FrameSession {
    fn prepare(&mut self, position: PublishPosition, published: Published) {
        FrameSession::prepare(self, position, published);
    }

    fn abort(&mut self) {
        FrameSession::abort(self);
    }

    fn commit(&mut self, generation: u64, published: Published) {
        FrameSession::commit(self, generation, published);
    }
}

/// Why the session stopped taking bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// More must come: the incomplete frame has this many bytes.
    More(usize),
    /// The client asks for a ring of this many bytes. Everything that was read is consumed.
    Ring(u64),
    /// The client is done: answer, then close.
    Bye,
    /// The client broke the protocol: close.
    Broken,
}

impl Protocol for FrameConnection {
    fn take(&mut self, bytes: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed> {
        let end = self.take_bytes(bytes, link, context)?;
        match end {
            End::Ring(capacity) => return Ok(self.grant(capacity, link, context)),
            End::Bye => {
                link.carry.clear();
                link.is_lingering = true;
            }
            End::More(_) | End::Broken => {}
        }
        let next = self.answer(link, context);
        Ok(if end == End::Broken || next == Next::Close { AfterBytes::Close } else { AfterBytes::Stay })
    }

    /// Counts an event whose end has not come as lost.
    fn end(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        let Link { carry, peer, .. } = link;
        if let Some(cause) = self.session.at_end(carry) {
            let slot = context.publisher.slot(peer, Transport::Frames, 0, self.session.name());
            context.publisher.lose(slot, cause, carry.len().saturating_sub(HEAD_BYTES) as u64);
            context.publisher.publish_pending(&[], &mut NoObserver)?;
        }
        carry.clear();
        link.is_lingering = true;
        Ok(self.answer(link, context))
    }

    /// The part of a frame that has come was not accepted. If there is a session, the client sees the end and sends it
    /// again, so it is not lost.
    fn cut_off(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        if self.session.session() != 0 {
            link.carry.clear();
        }
        self.end(link, context)
    }

    /// Events count even if the client reads no replies: a socket that takes no replies does not end the connection.
    fn answer(&mut self, link: &mut Link, context: &WriterContext) -> Next {
        if link.reply_state != ReplyState::Gone {
            link.reply_state = self.send_replies(link, context);
        }
        let is_owed = match link.reply_state {
            ReplyState::Blocked => true,
            ReplyState::Clear => self.session.wants() != 0,
            ReplyState::Gone => false,
        };
        if self.session.reads_no_replies() || (link.is_lingering && !is_owed) { Next::Close } else { Next::Open }
    }

    fn waits_for_progress(&self, link: &Link) -> bool {
        self.session.wants() != 0 && link.reply_state != ReplyState::Gone
    }

    // No position: a half-received frame cannot be resumed. The client connects again, asks how far the daemon has
    // come, and sends the rest.
}

impl FrameConnection {
    /// Creates a connection whose session is open.
    pub(crate) fn new(session: FrameSession, rings: Arc<dyn RingGrants>) -> Self {
        Self { session, rings }
    }

    /// Takes what was read. An incomplete frame stays in the carry.
    fn take_bytes(&mut self, mut data: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<End, Closed> {
        let Link { carry, peer, .. } = link;
        while !carry.is_empty() {
            let (done, end) = self.take_frames(carry, peer, context)?;
            carry.drain(..done);
            let End::More(frame_bytes) = end else { return Ok(end) };
            if carry.is_empty() {
                break;
            }
            if data.is_empty() {
                return Ok(end);
            }
            // Copies only the rest of this frame, so that the next one is parsed where it lies.
            let part = frame_bytes.saturating_sub(carry.len()).clamp(1, data.len());
            carry.extend_from_slice(&data[..part]);
            data = &data[part..];
        }
        let (done, end) = self.take_frames(data, peer, context)?;
        if let End::More(_) = end {
            carry.extend_from_slice(&data[done..]);
        }
        Ok(end)
    }

    /// Takes all whole frames from the front of `bytes`. Returns their number of bytes.
    fn take_frames(&mut self, bytes: &[u8], peer: &Peer, context: &mut WriterContext) -> Result<(usize, End), Closed> {
        let Self { session, .. } = self;
        let publisher = &mut context.publisher;
        let mut at = 0;
        let end = loop {
            match session.next(&bytes[at..]) {
                Step::Event { event, consumed } => {
                    let tag = if event.tag.is_empty() { session.name() } else { event.tag };
                    let slot = publisher.slot(peer, Transport::Frames, 0, tag);
                    let extra = Extra {
                        source_time_ns: (event.time_ns != 0).then_some(event.time_ns),
                        producer_sequence: Some(event.sequence),
                        piece: None,
                    };
                    at += consumed;
                    publisher.add_with(slot, event.pri, at - event.payload.len()..at, extra, event.fields);
                }
                Step::Refused { cause, payload_bytes, consumed } => {
                    let slot = publisher.slot(peer, Transport::Frames, 0, session.name());
                    publisher.lose(slot, cause, payload_bytes);
                    at += consumed;
                }
                Step::Duplicate { consumed } => {
                    publisher.counters().duplicates.fetch_add(1, Relaxed);
                    at += consumed;
                }
                Step::Passed { consumed } => at += consumed,
                Step::More { frame_bytes } => break End::More(frame_bytes),
                Step::Ring { capacity, consumed } => {
                    at += consumed;
                    // The client must wait for the answer: only then does it know whether to send frames.
                    break if at == bytes.len() { End::Ring(capacity) } else { End::Broken };
                }
                Step::Bye => break End::Bye,
                Step::Broken { cause, why } => {
                    if let Some(cause) = cause {
                        let slot = publisher.slot(peer, Transport::Frames, 0, session.name());
                        publisher.lose(slot, cause, 0);
                    }
                    tracing::debug!(pid = peer.identity.pid, why, "a framed connection ends");
                    break End::Broken;
                }
            }
            if publisher.is_full() {
                publisher.publish_pending(bytes, session)?;
            }
        };
        publisher.publish_pending(bytes, session)?;
        Ok((at, end))
    }

    /// Gives the client a ring, or says why there is none.
    fn grant(&mut self, capacity: u64, link: &mut Link, context: &WriterContext) -> AfterBytes {
        // WELCOME comes first.
        let _ = self.answer(link, context);
        let identity = Identity { tag: self.session.name().into(), session: 0, ..link.peer.identity.clone() };
        match Arc::clone(&self.rings).grant(&identity, capacity, link, context) {
            Granted::Ring(ring) => {
                link.peer.identity.session = 0;
                AfterBytes::Become(ring)
            }
            Granted::Refused(why) => {
                tracing::debug!(pid = identity.pid, uid = identity.uid, why, "a ring is refused");
                self.session.no_ring(&why);
                if self.answer(link, context) == Next::Close { AfterBytes::Close } else { AfterBytes::Stay }
            }
            Granted::Failed => AfterBytes::Close,
        }
    }

    /// Sends the replies that are due.
    fn send_replies(&mut self, link: &Link, context: &WriterContext) -> ReplyState {
        let Self { session, .. } = self;
        let progress = &context.progress;
        if session.take_sync() {
            progress.ask_sync();
            context.waker.wake();
        }
        // First set what is wanted, then look: the bell does not ring for progress that was made before.
        let wants = session.wants();
        if wants != 0 {
            progress.want(context.index, wants);
        }
        let (persisted_before, durable_before) = (progress.persisted_before(), progress.durable_before());
        let was_lost = |generations, in_file| progress.was_lost_among(&generations, in_file);
        session.progress(persisted_before, durable_before, was_lost);
        loop {
            let outgoing = session.outgoing();
            if outgoing.is_empty() {
                session.all_sent();
                return ReplyState::Clear;
            }
            match link.send(outgoing) {
                Ok(sent) => session.sent(sent),
                Err(state) => return state,
            }
        }
    }
}
