//! One connection of the stream socket.
//!
//! Enters: what its socket holds, whenever it holds something. Leaves: events in the publisher, replies on the socket, and
//! a [`Next`]. The connection's writer thread. What can fail: only that the reader is gone.
//!
//! The first bytes decide: the framed protocol's magic, or else text. A connection that says nothing is a descriptor
//! and this structure; memory beyond that is taken only while an event has come in part.

pub(crate) mod listener;
pub(crate) mod peer;
pub(crate) mod read_position;
pub mod stored;

use std::io;
use std::os::fd::OwnedFd;

use dbuf_wire::frames::{CONTROL_BYTES_MAX, HEAD_BYTES, MAGIC, is_framed};
use nix::sys::epoll::EpollFlags;
use rustix::io::ioctl_fionread;
use rustix::net::{SendFlags, send};

use self::read_position::{InheritedPosition, ReadPosition};
use self::stored::StoredConnection;
use crate::pipeline::accept::frames::connection::{self as framed, End, ReplyState};
use crate::pipeline::accept::frames::{FrameSession, Handshake, handshake};
use crate::pipeline::accept::publish::{Closed, NoObserver, Peer};
use crate::pipeline::accept::ring::Ring;
use crate::pipeline::accept::text::Text;
use crate::pipeline::accept::writer::context::WriterContext;
use crate::pipeline::accept::writer::receive_buffer::{ReadProgress, ReceiveBuffer, Subject};
use crate::pipeline::record::{Cause, Transport};
use crate::pipeline::takeover::names::end_for_peer;

/// The magic and the longest HELLO.
const HANDSHAKE_BYTES_MAX: usize = MAGIC.len() + HEAD_BYTES + CONTROL_BYTES_MAX as usize;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It stays open.
    Open,
    /// It is done with.
    Close,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// Bytes; there may be more.
    Some(Next),
    /// Nothing is there now.
    Nothing,
    /// The end.
    End(Next),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(crate) protocol: Protocol,
    /// The beginning of what has not come whole.
    pub(crate) carry: Vec<u8>,
    /// The round in which the carry began; what is carried longest is shed first.
    pub(crate) carried_since: u64,
    /// What its epoll set waits for.
    pub(crate) interest: EpollFlags,
    pub(crate) reply_state: ReplyState,
    /// Nothing more is read; it stays for the answers that its client waits for.
    pub(crate) is_lingering: bool,
    /// Its ring's doorbell is in its writer's epoll set.
    pub(crate) is_bell_watched: bool,
    /// Its peer is known by numbers alone, until something is read.
    pub(crate) is_unnamed: bool,
    /// It is in its writer's list of those that wait for the reader's progress.
    pub(crate) is_listed: bool,
    /// The last field, so that it is dropped last, as [`Connection::close`] does.
    pub(crate) stored: StoredConnection,
}

#[derive(Debug)]
pub(crate) enum Protocol {
    Undecided,
    Text(Text),
    Frames(Box<FrameSession>),
    Ring(Box<Ring>),
}

impl Connection {
    pub(crate) fn new(stored: StoredConnection, peer: Peer) -> Self {
        Self {
            peer,
            protocol: Protocol::Undecided,
            carry: Vec::new(),
            carried_since: 0,
            interest: EpollFlags::EPOLLIN,
            reply_state: ReplyState::Clear,
            is_lingering: false,
            is_bell_watched: false,
            is_unnamed: false,
            is_listed: false,
            stored,
        }
    }

    /// Resumes where the previous process stood. Of a line that it had read in part, and whose position cannot be read,
    /// [`Connection::lose_line`] has to follow.
    pub(crate) fn resume(&mut self, position: InheritedPosition, context: &mut WriterContext) -> Next {
        let (protocol, carry) = match position {
            InheritedPosition::LineStart => return Next::Open,
            InheritedPosition::Undecided { carry } if carry.len() < HANDSHAKE_BYTES_MAX => (Protocol::Undecided, carry),
            InheritedPosition::Text { open_line, carry } => (Protocol::Text(Text::resume(open_line)), carry),
            InheritedPosition::Lost => (Protocol::Text(Text::default()), Vec::new()),
            // It speaks frames, or had not said yet what it speaks: then it is as a rule a client of the framed protocol.
            // That connects again, asks where it stands, and sends the rest.
            InheritedPosition::Undecided { .. } | InheritedPosition::LostHandshake | InheritedPosition::Unknown => {
                return Next::Close;
            }
        };
        context.carried_bytes += carry.capacity();
        (self.protocol, self.carry) = (protocol, carry);
        Next::Open
    }

    /// Counts the line as lost whose position could not be read. `resumed` is the number of the step, if the previous
    /// process has begun it.
    pub(crate) fn lose_line(
        &mut self,
        read_progress: &ReadProgress,
        resumed: Option<u64>,
        context: &mut WriterContext,
    ) -> Result<Next, Closed> {
        self.step(Subject::LostLine, read_progress, resumed, context, |this, context| {
            let slot = context.publisher.slot(&this.peer, Transport::Lines, 0, b"");
            context.publisher.lose(slot, Cause::Abandoned, 0);
            context.publisher.publish_pending(&[], &mut NoObserver).map(|()| Next::Open)
        })
    }

    /// Publishes something that no read brought, by the steps of a read, so that the next process neither forgets it nor
    /// does it twice.
    fn step(
        &mut self,
        subject: fn(u32) -> Subject,
        read_progress: &ReadProgress,
        resumed: Option<u64>,
        context: &mut WriterContext,
        work: impl FnOnce(&mut Self, &mut WriterContext) -> Result<Next, Closed>,
    ) -> Result<Next, Closed> {
        context.begin();
        let number = match (resumed, self.stored.slot()) {
            (Some(number), _) => number,
            (None, slot) => {
                context.publisher.begin_read(0);
                let begin = |slot| read_progress.begin(subject(slot), context.next_piece, context.max_event_bytes);
                slot.map_or(0, begin)
            }
        };
        let next = self.counted(context, work)?;
        Ok(if self.record(number, read_progress) { next } else { Next::Close })
    }

    /// Records how far it was read, the read of this number included, and that the read is done. False if the connection
    /// has to end, because the next process would take it for something else.
    fn record(&mut self, number: u64, read_progress: &ReadProgress) -> bool {
        let keeps = self.note_position(number);
        // Both while the receive buffer still says what was read, and before its slot can become another's.
        let is_safe = keeps || self.stored.forget_record();
        read_progress.end();
        if !keeps {
            self.stored.let_go();
        }
        is_safe
    }

    /// One with a ring that the previous process left.
    pub(crate) fn with_ring(socket: OwnedFd, peer: Peer, ring: Ring) -> Self {
        Self { protocol: Protocol::Ring(Box::new(ring)), ..Self::new(StoredConnection::unstored(socket), peer) }
    }

    /// Its ring, if it has one.
    pub(crate) fn ring(&mut self) -> Option<&mut Ring> {
        match &mut self.protocol {
            Protocol::Ring(ring) => Some(ring),
            Protocol::Undecided | Protocol::Text(_) | Protocol::Frames(_) => None,
        }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.stored.socket
    }

    /// Bytes that it has sent and nobody has taken.
    pub(crate) fn waiting_bytes(&mut self) -> u64 {
        match &mut self.protocol {
            Protocol::Ring(ring) => ring.waiting_bytes(),
            Protocol::Undecided | Protocol::Text(_) | Protocol::Frames(_) => {
                ioctl_fionread(&self.stored.socket).unwrap_or(0)
            }
        }
    }

    /// Whether the next process would go on with it.
    pub(crate) fn is_stored(&self) -> bool {
        match &self.protocol {
            Protocol::Ring(ring) => ring.is_stored(),
            Protocol::Undecided | Protocol::Text(_) | Protocol::Frames(_) => self.stored.is_stored(),
        }
    }

    /// Ends it, for its peer as well.
    pub(crate) fn close(self) {
        let Self { protocol, stored, .. } = self;
        match protocol {
            Protocol::Ring(ring) => {
                // systemd may hold the connection on; the client is to see the end now.
                end_for_peer(&stored.socket);
                ring.close();
            }
            // The session first: a client that sees the end may open it again at once.
            protocol => drop(protocol),
        }
        stored.close();
    }

    /// Reads once, and lays down what came.
    pub(crate) fn read(
        &mut self,
        receive_buffer: &mut ReceiveBuffer,
        context: &mut WriterContext,
    ) -> Result<Read, Closed> {
        if let Protocol::Ring(_) = self.protocol {
            return self.read_ring(receive_buffer, context);
        }
        let mut number = 0;
        let subject = self.stored.slot().map(Subject::Stream);
        let begin = || {
            context.publisher.begin_read(0);
            if let Some(subject) = subject {
                number = receive_buffer.read_progress.begin(subject, context.next_piece, context.max_event_bytes);
            }
        };
        let got = receive_buffer.headers.receive_stream(&self.stored.socket, &mut receive_buffer.stream, begin);
        context.begin();
        if std::mem::take(&mut self.is_unnamed) {
            self.peer.identity = peer::named(std::mem::take(&mut self.peer.identity), &self.stored.socket);
        }
        let read = match got {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            // Asked again in the next round.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Read::Nothing,
            // A reset means that the peer closed without reading our replies: an end like any other.
            Ok(0) | Err(_) => Read::End(self.counted(context, Self::end)?),
            Ok(bytes) => self.take_read(&receive_buffer.stream[..bytes], context)?,
        };
        Ok(if self.record(number, &receive_buffer.read_progress) { read } else { Read::End(Next::Close) })
    }

    /// Lays down what the previous process has read, but for the events that it has published.
    pub(crate) fn replay(
        &mut self,
        receive_buffer: &ReceiveBuffer,
        number: u64,
        context: &mut WriterContext,
    ) -> Result<Next, Closed> {
        let bytes =
            &receive_buffer.stream[..receive_buffer.headers.received(0).unwrap_or(0).min(receive_buffer.stream.len())];
        let begins_framed = || is_framed(&[&self.carry, bytes].concat()) != Some(false);
        if matches!(self.protocol, Protocol::Undecided) && !bytes.is_empty() && begins_framed() {
            // Its client comes again, and is told where it stands.
            return Ok(Next::Close);
        }
        context.begin();
        let read = match bytes {
            [] => Read::End(self.counted(context, Self::end)?),
            bytes => self.take_read(bytes, context)?,
        };
        let next = match read {
            Read::Some(next) | Read::End(next) => next,
            Read::Nothing => Next::Open,
        };
        Ok(if self.record(number, &receive_buffer.read_progress) { next } else { Next::Close })
    }

    /// Lays down what one read has brought. The end of text that is only noted belongs to the read that brought all of it:
    /// a last line without its newline is then in the receive buffer until it is published, like all others.
    fn take_read(&mut self, bytes: &[u8], context: &mut WriterContext) -> Result<Read, Closed> {
        let next = self.counted(context, |this, context| this.take(bytes, context))?;
        let is_text = !matches!(self.protocol, Protocol::Frames(_));
        let is_all = is_text && self.stored.is_noted() && ioctl_fionread(&self.stored.socket) == Ok(0);
        Ok(if is_all { Read::End(self.counted(context, Self::end)?) } else { Read::Some(next) })
    }

    /// Notes how far it has been read, the read of this number included, for the next process. False if the next process could not
    /// go on with it.
    fn note_position(&mut self, number: u64) -> bool {
        match &self.protocol {
            Protocol::Undecided => self.stored.note_position(&ReadPosition::Undecided { carry: &self.carry }, number),
            Protocol::Text(text) => self.stored.note_position(&text.position(&self.carry), number),
            // Its client connects again, asks where it stands and sends the rest; nobody could go on in mid-frame.
            Protocol::Frames(_) => false,
            // It is kept as a ring's.
            Protocol::Ring(_) => false,
        }
    }

    /// Its place, if it has one.
    pub(crate) fn slot(&self) -> Option<u32> {
        self.stored.slot()
    }

    /// Sends what the client is owed by now.
    pub(crate) fn answer(&mut self, context: &WriterContext) -> Next {
        let session = match &mut self.protocol {
            Protocol::Frames(session) => session,
            Protocol::Ring(ring) => {
                ring.answer(false, context);
                return if self.is_lingering && ring.is_reported() { Next::Close } else { Next::Open };
            }
            Protocol::Undecided | Protocol::Text(_) => return Next::Open,
        };
        // What a client has sent is good even if it reads no more: a line that is gone does not end the connection.
        if self.reply_state != ReplyState::Gone {
            self.reply_state = framed::answer(session, &self.stored.socket, context);
        }
        let owed =
            self.reply_state == ReplyState::Blocked || (self.reply_state == ReplyState::Clear && session.wants() != 0);
        if session.is_deaf() || (self.is_lingering && !owed) { Next::Close } else { Next::Open }
    }

    /// Whether its client waits for the reader's progress.
    pub(crate) fn waits_for_progress(&self) -> bool {
        match &self.protocol {
            Protocol::Frames(session) => session.wants() != 0 && self.reply_state != ReplyState::Gone,
            Protocol::Ring(ring) => ring.wanted_progress() != 0,
            Protocol::Undecided | Protocol::Text(_) => false,
        }
    }

    /// What its epoll set should wait for now.
    pub(crate) fn wanted_interest(&self) -> EpollFlags {
        let input = if self.is_lingering { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        let output = if self.reply_state == ReplyState::Blocked { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        input | output
    }

    pub(crate) fn is_lingering(&self) -> bool {
        self.is_lingering
    }

    /// Bytes of memory that it keeps for what has not come whole.
    pub(crate) fn carried_bytes(&self) -> usize {
        self.carry.capacity()
    }

    /// Gives up the memory of what has not come whole: text becomes a piece, a frame ends the connection. `resumed` as in
    /// [`Connection::lose_line`].
    pub(crate) fn shed(
        &mut self,
        read_progress: &ReadProgress,
        resumed: Option<u64>,
        context: &mut WriterContext,
    ) -> Result<Next, Closed> {
        self.step(Subject::Carry, read_progress, resumed, context, |this, context| match &mut this.protocol {
            Protocol::Text(text) => text.shed(&mut this.carry, &this.peer, context).map(|()| Next::Open),
            Protocol::Frames(_) | Protocol::Undecided | Protocol::Ring(_) => this.end(context).map(|_| Next::Close),
        })
    }

    /// The end of what is read: what has come in part is an event, or is lost and counted.
    pub(crate) fn end(&mut self, context: &mut WriterContext) -> Result<Next, Closed> {
        if let Protocol::Undecided = self.protocol {
            if is_framed(&self.carry) == Some(true) {
                // It left in the middle of its greeting: nothing was offered, so nothing is lost.
                return Ok(Next::Close);
            }
            self.protocol = Protocol::Text(Text::default());
        }
        match &mut self.protocol {
            Protocol::Undecided | Protocol::Ring(_) => Ok(Next::Close),
            Protocol::Text(text) => text.end(&mut self.carry, &self.peer, context).map(|()| Next::Close),
            Protocol::Frames(session) => {
                framed::end(session, &self.carry, &self.peer, context)?;
                self.carry.clear();
                self.is_lingering = true;
                Ok(self.answer(context))
            }
        }
    }

    /// This process ends, and the next one may go on with it: its program is to know what of its ring is durable.
    pub(crate) fn finish(&mut self, context: &WriterContext) -> Next {
        match self.ring() {
            Some(ring) => {
                ring.finish();
                self.answer(context)
            }
            None => Next::Open,
        }
    }

    /// The end that this process makes of it. Half a frame of a session was not accepted, and its client, who sees the end,
    /// sends it again: it is not lost.
    pub(crate) fn cut_off(&mut self, context: &mut WriterContext) -> Result<Next, Closed> {
        match &mut self.protocol {
            Protocol::Frames(session) if session.session() != 0 => self.carry.clear(),
            // What its program publishes from here on is its own to send again. Of what was taken it can ask nobody later.
            Protocol::Ring(ring) => {
                ring.finish();
                self.is_lingering = true;
                return Ok(self.answer(context));
            }
            _ => {}
        }
        self.end(context)
    }

    /// Does `work` and keeps the account of carried memory.
    fn counted<T>(
        &mut self,
        context: &mut WriterContext,
        work: impl FnOnce(&mut Self, &mut WriterContext) -> Result<T, Closed>,
    ) -> Result<T, Closed> {
        let before = self.carry.capacity();
        let done = work(self, context);
        if self.carry.is_empty() {
            self.carry = Vec::new();
        }
        context.carried_bytes = context.carried_bytes + self.carry.capacity() - before;
        done
    }

    fn take(&mut self, data: &[u8], context: &mut WriterContext) -> Result<Next, Closed> {
        match &mut self.protocol {
            Protocol::Undecided => self.decide(data, context),
            Protocol::Text(text) => text.take(&mut self.carry, data, &self.peer, context).map(|()| Next::Open),
            Protocol::Frames(session) => {
                let end = framed::take(session, &mut self.carry, data, &self.peer, context)?;
                if let End::Bye = end {
                    self.carry.clear();
                    self.is_lingering = true;
                }
                if let End::Ring(capacity) = end {
                    return Ok(self.grant(capacity, context));
                }
                let next = self.answer(context);
                Ok(if end == End::Broken { Next::Close } else { next })
            }
            Protocol::Ring(_) => self.cut_off_ring("there are bytes on the connection of a ring", context),
        }
    }

    fn decide(&mut self, data: &[u8], context: &mut WriterContext) -> Result<Next, Closed> {
        let part = data.len().min(HANDSHAKE_BYTES_MAX - self.carry.len());
        let (first, rest) = data.split_at(part);
        let framed = if self.carry.is_empty() {
            is_framed(data)
        } else {
            self.carry.extend_from_slice(first);
            is_framed(&self.carry)
        };
        if framed == Some(false) {
            self.protocol = Protocol::Text(Text::default());
            // Nothing of it was carried, or all of `first` is by now.
            return self.take(if self.carry.is_empty() { data } else { rest }, context);
        }
        if self.carry.is_empty() {
            self.carry.extend_from_slice(first);
        }
        if framed.is_none() {
            return Ok(Next::Open);
        }
        match handshake(&self.carry, context.max_event_bytes, self.peer.identity.uid, &context.sessions) {
            Handshake::More => Ok(Next::Open),
            Handshake::Open { session, consumed } => {
                self.peer.identity.session = session.session();
                self.protocol = Protocol::Frames(session);
                self.carry.drain(..consumed);
                self.take(rest, context)
            }
            Handshake::Refused { reply, why, malformed } => {
                tracing::debug!(pid = self.peer.identity.pid, why, "a framed connection is refused");
                self.refuse_handshake(&reply, malformed, context)
            }
        }
    }

    fn refuse_handshake(&mut self, reply: &[u8], malformed: bool, context: &mut WriterContext) -> Result<Next, Closed> {
        // A fresh socket has room for one reply.
        let _ = send(&self.stored.socket, reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        if malformed {
            let slot = context.publisher.slot(&self.peer, Transport::Frames, 0, b"");
            context.publisher.lose(slot, Cause::Malformed, 0);
            context.publisher.publish_pending(&[], &mut NoObserver)?;
        }
        self.carry.clear();
        Ok(Next::Close)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_says_nothing_takes_little_memory() {
        // Its command's name and its unit come on top, a few dozen bytes.
        assert!(size_of::<Option<Connection>>() <= 240, "{}", size_of::<Option<Connection>>());
    }
}
