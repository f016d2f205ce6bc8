//! Decides by the first bytes of a connection whether it speaks the framed protocol or text.
//!
//! Input: the first bytes, which may come in parts. Output: the protocol that continues. Thread: the connection's
//! writer. Failure: only that the reader is gone. A handshake that breaks a rule ends its connection.

use std::os::fd::OwnedFd;

use dbuf_wire::frames::{MAGIC, is_framed};
use rustix::net::{RecvFlags, recv};

use crate::pipeline::accept::connection::protocol::{AfterBytes, Link, Next, Protocol};
use crate::pipeline::accept::connection::read_position::{InheritedPosition, ReadPosition};
use crate::pipeline::accept::frames::connection::FrameConnection;
use crate::pipeline::accept::frames::{HANDSHAKE_BYTES_MAX, Handshake, Sessions, handshake};
use crate::pipeline::accept::publish::{Closed, NoObserver, WriterContext};
use crate::pipeline::accept::ring::registry::Rings;
use crate::pipeline::accept::text::Text;
use crate::pipeline::record::{Cause, Transport};
use crate::sync::Arc;

/// What the protocols of all writers share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The sessions of the framed protocol.
    pub(crate) sessions: Arc<Sessions>,
    /// The rings.
    pub(crate) rings: Arc<Rings>,
}

/// A connection whose protocol is not known yet.
#[derive(Debug)]
pub(crate) struct FirstBytes(Arc<Shared>);

impl FirstBytes {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn open_session(&self, rest: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed> {
        let Shared { sessions, rings } = &*self.0;
        match handshake(&link.carry, context.max_event_bytes, link.peer.identity.uid, sessions) {
            Handshake::More => Ok(AfterBytes::Stay),
            Handshake::Open { session, consumed } => {
                link.peer.identity.session = session.session();
                link.carry.drain(..consumed);
                let rings: Arc<Rings> = Arc::clone(rings);
                hand_over(Box::new(FrameConnection::new(*session, rings)), rest, link, context)
            }
            Handshake::Refused { reply, why, malformed } => {
                tracing::debug!(pid = link.peer.identity.pid, why, "a framed connection is refused");
                link.send_last(&reply);
                if malformed {
                    let slot = context.publisher.slot(&link.peer, Transport::Frames, 0, b"");
                    context.publisher.lose(slot, Cause::Malformed, 0);
                    context.publisher.publish_pending(&[], &mut NoObserver)?;
                }
                link.carry.clear();
                Ok(AfterBytes::Close)
            }
        }
    }
}

/// Whether the first bytes of a new connection are those of the framed protocol. Leaves the bytes in the socket.
pub(super) fn speaks_frames(socket: &OwnedFd) -> bool {
    let mut first = [0; MAGIC.len()];
    let peeked = recv(socket, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    peeked.is_ok_and(|(bytes, _)| is_framed(&first[..bytes.min(MAGIC.len())]) == Some(true))
}

/// Gives `protocol` what was read after the first bytes.
fn hand_over(
    mut protocol: Box<dyn Protocol>,
    rest: &[u8],
    link: &mut Link,
    context: &mut WriterContext,
) -> Result<AfterBytes, Closed> {
    Ok(match protocol.take(rest, link, context)? {
        AfterBytes::Stay => AfterBytes::Become(protocol),
        other => other,
    })
}

impl Protocol for FirstBytes {
    fn take(&mut self, bytes: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed> {
        let part = bytes.len().min(HANDSHAKE_BYTES_MAX - link.carry.len());
        let (first, rest) = bytes.split_at(part);
        let framed = if link.carry.is_empty() {
            is_framed(bytes)
        } else {
            link.carry.extend_from_slice(first);
            is_framed(&link.carry)
        };
        if framed == Some(false) {
            // Either nothing was carried, or all of `first` is in the carry now.
            let rest = if link.carry.is_empty() { bytes } else { rest };
            return hand_over(Box::<Text>::default(), rest, link, context);
        }
        if link.carry.is_empty() {
            link.carry.extend_from_slice(first);
        }
        if framed.is_none() { Ok(AfterBytes::Stay) } else { self.open_session(rest, link, context) }
    }

    /// A framed connection cannot be resumed: its client connects again, and is told how far the daemon has come.
    fn take_again(&mut self, bytes: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed> {
        if is_framed(&[&link.carry, bytes].concat()) == Some(false) {
            self.take(bytes, link, context)
        } else {
            Ok(AfterBytes::Close)
        }
    }

    fn end(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        if is_framed(&link.carry) == Some(true) {
            // It left in the middle of its handshake. No event was offered, so none is lost.
            return Ok(Next::Close);
        }
        Text::default().end(link, context)
    }

    /// What has come is a part of a handshake at most. It belongs to the process that completes it.
    fn change_sender(&mut self, _link: &mut Link, _context: &mut WriterContext) -> Result<bool, Closed> {
        Ok(true)
    }

    /// What has come is nothing, or a part of the magic. Its client connects again. It is not a line.
    fn cut_off(&mut self, _link: &mut Link, _context: &mut WriterContext) -> Result<Next, Closed> {
        Ok(Next::Close)
    }

    fn resume(&mut self, position: InheritedPosition, link: &mut Link) -> AfterBytes {
        match position {
            InheritedPosition::LineStart => AfterBytes::Stay,
            InheritedPosition::Undecided { carry } if carry.len() < HANDSHAKE_BYTES_MAX => {
                link.carry = carry;
                AfterBytes::Stay
            }
            InheritedPosition::Text { open_line, carry } => {
                link.carry = carry;
                AfterBytes::Become(Box::new(Text::resume(open_line)))
            }
            InheritedPosition::Lost => AfterBytes::Become(Box::<Text>::default()),
            // It speaks frames, or its protocol is not known. In the second case it is usually a framed client too.
            // That connects again, asks how far the daemon has come, and sends the rest.
            InheritedPosition::Undecided { .. } | InheritedPosition::LostHandshake | InheritedPosition::Unknown => {
                AfterBytes::Close
            }
        }
    }

    fn position<'a>(&'a self, carry: &'a [u8]) -> Option<ReadPosition<'a>> {
        Some(ReadPosition::Undecided { carry })
    }
}
