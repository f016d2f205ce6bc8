//! A connection that speaks the framed protocol: drives its [`FrameSession`].
//!
//! Enters: bytes of one connection, in order, and the reader's progress. Leaves: events in the publisher, and replies on the
//! socket. The connection's writer thread. What can fail: only that the reader is gone; a client's faults end its
//! connection at most.

use std::os::fd::OwnedFd;

use dbuf_client::wire::HEAD_BYTES;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::{FrameSession, Step};
use crate::pipeline::accept::publish::{Closed, Extra, NoObserver, Peer, PublishObserver, Published};
use crate::pipeline::accept::writer::context::WriterContext;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::Transport;
use crate::sync::atomic::Ordering::Relaxed;

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

/// How a stretch of bytes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// More is to come; the frame that is not whole takes so many bytes.
    More(usize),
    /// The client asks for a ring of so many bytes; nothing is left of what was read.
    Ring(u64),
    /// The client is done: answer, then close.
    Bye,
    /// The client broke the protocol: close.
    Broken,
}

/// Takes in what was read. What is not whole is left in `carry`.
pub(crate) fn take(
    session: &mut FrameSession,
    carry: &mut Vec<u8>,
    mut data: &[u8],
    peer: &Peer,
    context: &mut WriterContext,
) -> Result<End, Closed> {
    while !carry.is_empty() {
        let (done, end) = steps(session, carry, peer, context)?;
        carry.drain(..done);
        let End::More(frame_bytes) = end else { return Ok(end) };
        if carry.is_empty() {
            break;
        }
        if data.is_empty() {
            return Ok(end);
        }
        // Exactly the rest of this frame, so that the next one is read where it is.
        let part = frame_bytes.saturating_sub(carry.len()).clamp(1, data.len());
        carry.extend_from_slice(&data[..part]);
        data = &data[part..];
    }
    let (done, end) = steps(session, data, peer, context)?;
    if let End::More(_) = end {
        carry.extend_from_slice(&data[done..]);
    }
    Ok(end)
}

/// Takes all whole frames from the front of `bytes`. Returns how many bytes these were.
fn steps(
    session: &mut FrameSession,
    bytes: &[u8],
    peer: &Peer,
    context: &mut WriterContext,
) -> Result<(usize, End), Closed> {
    let mut at = 0;
    let end = loop {
        match session.next(&bytes[at..]) {
            Step::Event { event, consumed } => {
                let tag = if event.tag.is_empty() { session.name() } else { event.tag };
                let slot = context.publisher.slot(peer, Transport::Frames, 0, tag);
                let extra = Extra {
                    source_time_ns: (event.time_ns != 0).then_some(event.time_ns),
                    producer_sequence: Some(event.sequence),
                    piece: None,
                };
                at += consumed;
                context.publisher.add_with(slot, event.pri, at - event.payload.len()..at, extra, event.fields);
            }
            Step::Refused { cause, payload_bytes, consumed } => {
                let slot = context.publisher.slot(peer, Transport::Frames, 0, session.name());
                context.publisher.lose(slot, cause, payload_bytes);
                at += consumed;
            }
            Step::Duplicate { consumed } => {
                context.publisher.counters().duplicates.fetch_add(1, Relaxed);
                at += consumed;
            }
            Step::Passed { consumed } => at += consumed,
            Step::More { frame_bytes } => break End::More(frame_bytes),
            Step::Ring { capacity, consumed } => {
                at += consumed;
                // Whoever sends more before the answer does not know yet whether that is to be frames.
                break if at == bytes.len() { End::Ring(capacity) } else { End::Broken };
            }
            Step::Bye => break End::Bye,
            Step::Broken { cause, why } => {
                if let Some(cause) = cause {
                    let slot = context.publisher.slot(peer, Transport::Frames, 0, session.name());
                    context.publisher.lose(slot, cause, 0);
                }
                tracing::debug!(pid = peer.identity.pid, why, "a framed connection ends");
                break End::Broken;
            }
        }
        if context.publisher.is_full() {
            context.publisher.publish_pending(bytes, session)?;
        }
    };
    context.publisher.publish_pending(bytes, session)?;
    Ok((at, end))
}

/// The connection has ended with `rest` of a frame unread: an event that was cut is lost.
pub(crate) fn end(session: &FrameSession, rest: &[u8], peer: &Peer, context: &mut WriterContext) -> Result<(), Closed> {
    if let Some(cause) = session.at_end(rest) {
        let slot = context.publisher.slot(peer, Transport::Frames, 0, session.name());
        context.publisher.lose(slot, cause, rest.len().saturating_sub(HEAD_BYTES) as u64);
        context.publisher.publish_pending(&[], &mut NoObserver)?;
    }
    Ok(())
}

/// Whether replies can go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyState {
    /// All that was due is sent.
    Clear,
    /// The client has to read first.
    Blocked,
    /// The client will never read again; what it has sent is still good.
    Gone,
}

/// Sends what is due by now.
pub(crate) fn answer(session: &mut FrameSession, socket: &OwnedFd, context: &WriterContext) -> ReplyState {
    let progress = &context.progress;
    if session.take_sync() {
        progress.ask_sync();
        context.waker.ring();
    }
    // First say what is wanted, then look: progress made before that rings no bell.
    let wants = session.wants();
    if wants != 0 {
        progress.want(context.index, wants);
    }
    let (persisted_before, durable_before) = (progress.persisted_before(), progress.durable_before());
    session.progress(persisted_before, durable_before, |generations| progress.was_lost_among(&generations));
    loop {
        let outgoing = session.outgoing();
        if outgoing.is_empty() {
            return ReplyState::Clear;
        }
        match send(socket, outgoing, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => session.sent(sent),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return ReplyState::Blocked,
            Err(_) => return ReplyState::Gone,
        }
    }
}
