//! One connection of the stream socket.
//!
//! Enters: what its socket holds, whenever it holds something. Leaves: events in the layer, replies on the socket, and
//! a [`Fate`]. The connection's writer thread. What can fail: only that the reader is gone.
//!
//! The first bytes decide: the framed protocol's magic, or else text. A connection that says nothing is a descriptor
//! and this structure; memory beyond that is taken only while an event has come in part.

mod ring;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use dbuf_wire::frames::{CONTROL_BYTES_MAX, HEAD_BYTES, MAGIC, is_framed};
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{Shutdown, shutdown};
use rustix::io::ioctl_fionread;
use rustix::net::{SendFlags, send};

use super::desk::{Desk, Subject};
use super::framed::{self, End, Line};
use super::frames::{FrameSession, Greeting, greet};
use super::intake::Intake;
use super::kept::{Bookmark, Kept, Mark};
use super::layer::{Closed, Nobody};
use super::peer;
use super::ring::Ring;
use super::source::Peer;
use super::text::Text;
use crate::pipeline::record::{Cause, Transport};

/// The magic and the longest HELLO.
const GREETING_BYTES_MAX: usize = MAGIC.len() + HEAD_BYTES + CONTROL_BYTES_MAX as usize;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays open.
    Open,
    /// It is done with.
    Close,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes; there may be more.
    Some(Fate),
    /// Nothing is there now.
    Nothing,
    /// The end.
    End(Fate),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    peer: Peer,
    protocol: Protocol,
    /// The beginning of what has not come whole.
    carry: Vec<u8>,
    /// The round in which the carry began; what is carried longest is shed first.
    pub(super) carried_since: u64,
    /// What its epoll set waits for.
    pub(super) interest: EpollFlags,
    line: Line,
    /// Nothing more is read; it stays for the answers that its client waits for.
    is_lingering: bool,
    /// Its ring's doorbell is in its writer's epoll set.
    pub(super) is_bell_watched: bool,
    /// Its peer is known by numbers alone, until something is read.
    pub(super) is_unnamed: bool,
    /// It is in its writer's list of those that wait for the reader's progress.
    pub(super) is_listed: bool,
    /// The last field, so that it is dropped last, as [`Connection::close`] does.
    kept: Kept,
}

#[derive(Debug)]
enum Protocol {
    Undecided,
    Text(Text),
    Frames(Box<FrameSession>),
    Ring(Box<Ring>),
}

impl Connection {
    pub(super) fn new(kept: Kept, peer: Peer) -> Self {
        Self {
            peer,
            protocol: Protocol::Undecided,
            carry: Vec::new(),
            carried_since: 0,
            interest: EpollFlags::EPOLLIN,
            line: Line::Clear,
            is_lingering: false,
            is_bell_watched: false,
            is_unnamed: false,
            is_listed: false,
            kept,
        }
    }

    /// Goes on where a predecessor stood. A line that it had read in part, and of which nobody knows what became, is
    /// counted as lost.
    pub(super) fn resume(&mut self, bookmark: Bookmark, intake: &mut Intake) -> Result<Fate, Closed> {
        intake.begin();
        self.counted(intake, |this, intake| match bookmark {
            Bookmark::LineStart => Ok(Fate::Open),
            Bookmark::Undecided { carry } if carry.len() < GREETING_BYTES_MAX => {
                this.carry = carry;
                Ok(Fate::Open)
            }
            Bookmark::Text { ongoing, carry } => {
                this.protocol = Protocol::Text(Text::resume(ongoing));
                this.carry = carry;
                Ok(Fate::Open)
            }
            Bookmark::Lost => {
                this.protocol = Protocol::Text(Text::default());
                let slot = intake.layer.slot(&this.peer, Transport::Lines, 0, b"");
                intake.layer.lose(slot, Cause::Abandoned, 0);
                intake.layer.lay_down(&[], &mut Nobody)?;
                Ok(Fate::Open)
            }
            // It had not said yet what it is. As a rule that is a client of the framed protocol, which comes again.
            Bookmark::Undecided { .. } | Bookmark::LostGreeting => Ok(Fate::Close),
        })
    }

    /// One with a ring that a predecessor left.
    pub(super) fn with_ring(socket: OwnedFd, peer: Peer, ring: Ring) -> Self {
        Self { protocol: Protocol::Ring(Box::new(ring)), ..Self::new(Kept::not(socket), peer) }
    }

    /// Its ring, if it has one.
    pub(super) fn ring(&mut self) -> Option<&mut Ring> {
        match &mut self.protocol {
            Protocol::Ring(ring) => Some(ring),
            Protocol::Undecided | Protocol::Text(_) | Protocol::Frames(_) => None,
        }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.kept.socket
    }

    /// Bytes that it has sent and nobody has taken.
    pub(super) fn waiting_bytes(&mut self) -> u64 {
        match &mut self.protocol {
            Protocol::Ring(ring) => ring.waiting_bytes(),
            Protocol::Undecided | Protocol::Text(_) | Protocol::Frames(_) => {
                ioctl_fionread(&self.kept.socket).unwrap_or(0)
            }
        }
    }

    /// Whether a successor would go on with it.
    pub(super) fn is_kept(&self) -> bool {
        match &self.protocol {
            Protocol::Ring(ring) => ring.is_kept(),
            Protocol::Undecided | Protocol::Text(_) | Protocol::Frames(_) => self.kept.is_kept(),
        }
    }

    /// Ends it, for its peer as well.
    pub(super) fn close(self) {
        let Self { protocol, kept, .. } = self;
        match protocol {
            Protocol::Ring(ring) => {
                // systemd may hold the connection on; the client is to see the end now. One that has left is no error.
                let _ = shutdown(kept.socket.as_raw_fd(), Shutdown::Both);
                ring.close();
            }
            // The session first: a client that sees the end may open it again at once.
            protocol => drop(protocol),
        }
        kept.close();
    }

    /// Reads once, and lays down what came.
    pub(super) fn read(&mut self, desk: &mut Desk, intake: &mut Intake) -> Result<Read, Closed> {
        if let Protocol::Ring(_) = self.protocol {
            return self.read_ring(desk, intake);
        }
        let mut number = 0;
        let subject = self.kept.place().map(Subject::Stream);
        let begin = || {
            intake.layer.begin_read(0);
            if let Some(subject) = subject {
                number = desk.notes.begin(subject, intake.next_piece, intake.max_event_bytes);
            }
        };
        let got = desk.headers.receive_stream(&self.kept.socket, &mut desk.stream, begin);
        intake.begin();
        if std::mem::take(&mut self.is_unnamed) {
            self.peer.identity = peer::named(std::mem::take(&mut self.peer.identity), &self.kept.socket);
        }
        let read = match got {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            // Asked again in the next round.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Read::Nothing,
            // A reset means that the peer closed without reading our replies: an end like any other.
            Ok(0) | Err(_) => Read::End(self.counted(intake, Self::end)?),
            Ok(bytes) => self.take_read(&desk.stream[..bytes], intake)?,
        };
        let keeps = self.mark(number);
        // Before its place can become another's.
        desk.notes.end();
        if !keeps {
            self.kept.let_go();
        }
        Ok(read)
    }

    /// Lays down what a predecessor has read, but for the events that it has published.
    pub(super) fn replay(&mut self, desk: &Desk, number: u64, intake: &mut Intake) -> Result<Fate, Closed> {
        let bytes = &desk.stream[..desk.headers.received(0).unwrap_or(0).min(desk.stream.len())];
        let begins_framed = || is_framed(&[&self.carry, bytes].concat()) != Some(false);
        if matches!(self.protocol, Protocol::Undecided) && !bytes.is_empty() && begins_framed() {
            // Its client comes again, and is told where it stands.
            return Ok(Fate::Close);
        }
        intake.begin();
        let read = match bytes {
            [] => Read::End(self.counted(intake, Self::end)?),
            bytes => self.take_read(bytes, intake)?,
        };
        let fate = match read {
            Read::Some(fate) | Read::End(fate) => fate,
            Read::Nothing => Fate::Open,
        };
        let keeps = self.mark(number);
        desk.notes.end();
        if !keeps {
            self.kept.let_go();
        }
        Ok(fate)
    }

    /// Lays down what one read has brought. The end of text that is only noted belongs to the read that brought all of it:
    /// a last line without its newline is then on the desk until it is published, like all others.
    fn take_read(&mut self, bytes: &[u8], intake: &mut Intake) -> Result<Read, Closed> {
        let fate = self.counted(intake, |this, intake| this.take(bytes, intake))?;
        let is_text = !matches!(self.protocol, Protocol::Frames(_));
        let is_all = is_text && self.kept.is_noted() && ioctl_fionread(&self.kept.socket) == Ok(0);
        Ok(if is_all { Read::End(self.counted(intake, Self::end)?) } else { Read::Some(fate) })
    }

    /// Notes how far it has been read, the read of this number included, for a successor. False if a successor could not
    /// go on with it.
    fn mark(&mut self, number: u64) -> bool {
        match &self.protocol {
            Protocol::Undecided => self.kept.mark(&Mark::Undecided { carry: &self.carry }, number),
            Protocol::Text(text) => self.kept.mark(&text.mark(&self.carry), number),
            // Its client connects again, asks where it stands and sends the rest; nobody could go on in mid-frame.
            Protocol::Frames(_) => false,
            // It is kept as a ring's.
            Protocol::Ring(_) => false,
        }
    }

    /// Its place, if it has one.
    pub(super) fn place(&self) -> Option<u32> {
        self.kept.place()
    }

    /// Sends what the client is owed by now.
    pub(super) fn answer(&mut self, intake: &Intake) -> Fate {
        let session = match &mut self.protocol {
            Protocol::Frames(session) => session,
            Protocol::Ring(ring) => {
                ring.answer(false, intake);
                return if self.is_lingering && ring.is_told() { Fate::Close } else { Fate::Open };
            }
            Protocol::Undecided | Protocol::Text(_) => return Fate::Open,
        };
        // What a client has sent is good even if it reads no more: a line that is gone does not end the connection.
        if self.line != Line::Gone {
            self.line = framed::answer(session, &self.kept.socket, intake);
        }
        let owed = self.line == Line::Blocked || (self.line == Line::Clear && session.wants() != 0);
        if session.is_deaf() || (self.is_lingering && !owed) { Fate::Close } else { Fate::Open }
    }

    /// Whether its client waits for the reader's progress.
    pub(super) fn waits_for_progress(&self) -> bool {
        match &self.protocol {
            Protocol::Frames(session) => session.wants() != 0 && self.line != Line::Gone,
            Protocol::Ring(ring) => ring.wanted_progress() != 0,
            Protocol::Undecided | Protocol::Text(_) => false,
        }
    }

    /// What its epoll set should wait for now.
    pub(super) fn wanted_interest(&self) -> EpollFlags {
        let input = if self.is_lingering { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        let output = if self.line == Line::Blocked { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        input | output
    }

    pub(super) fn is_lingering(&self) -> bool {
        self.is_lingering
    }

    /// Bytes of memory that it keeps for what has not come whole.
    pub(super) fn carried_bytes(&self) -> usize {
        self.carry.capacity()
    }

    /// Gives up the memory of what has not come whole: text becomes a piece, a frame ends the connection.
    pub(super) fn shed(&mut self, intake: &mut Intake) -> Result<Fate, Closed> {
        intake.begin();
        let fate = self.counted(intake, |this, intake| match &mut this.protocol {
            Protocol::Text(text) => text.shed(&mut this.carry, &this.peer, intake).map(|()| Fate::Open),
            Protocol::Frames(_) | Protocol::Undecided | Protocol::Ring(_) => this.end(intake).map(|_| Fate::Close),
        })?;
        // It was not read, so there is nothing on the desk.
        if !self.mark(0) {
            self.kept.let_go();
        }
        Ok(fate)
    }

    /// The end of what is read: what has come in part is an event, or is lost and counted.
    pub(super) fn end(&mut self, intake: &mut Intake) -> Result<Fate, Closed> {
        if let Protocol::Undecided = self.protocol {
            if is_framed(&self.carry) == Some(true) {
                // It left in the middle of its greeting: nothing was offered, so nothing is lost.
                return Ok(Fate::Close);
            }
            self.protocol = Protocol::Text(Text::default());
        }
        match &mut self.protocol {
            Protocol::Undecided | Protocol::Ring(_) => Ok(Fate::Close),
            Protocol::Text(text) => text.end(&mut self.carry, &self.peer, intake).map(|()| Fate::Close),
            Protocol::Frames(session) => {
                framed::end(session, &self.carry, &self.peer, intake)?;
                self.carry.clear();
                self.is_lingering = true;
                Ok(self.answer(intake))
            }
        }
    }

    /// The end that this process makes of it. Half a frame of a session was not accepted, and its client, who sees the end,
    /// sends it again: it is not lost.
    pub(super) fn cut_off(&mut self, intake: &mut Intake) -> Result<Fate, Closed> {
        match &mut self.protocol {
            Protocol::Frames(session) if session.session() != 0 => self.carry.clear(),
            // What its program publishes from here on is its own to send again. Of what was taken it can ask nobody later.
            Protocol::Ring(ring) => {
                ring.finish();
                self.is_lingering = true;
                return Ok(self.answer(intake));
            }
            _ => {}
        }
        self.end(intake)
    }

    /// Does `work` and keeps the account of carried memory.
    fn counted<T>(
        &mut self,
        intake: &mut Intake,
        work: impl FnOnce(&mut Self, &mut Intake) -> Result<T, Closed>,
    ) -> Result<T, Closed> {
        let before = self.carry.capacity();
        let done = work(self, intake);
        if self.carry.is_empty() {
            self.carry = Vec::new();
        }
        intake.carried_bytes = intake.carried_bytes + self.carry.capacity() - before;
        done
    }

    fn take(&mut self, data: &[u8], intake: &mut Intake) -> Result<Fate, Closed> {
        match &mut self.protocol {
            Protocol::Undecided => self.decide(data, intake),
            Protocol::Text(text) => text.take(&mut self.carry, data, &self.peer, intake).map(|()| Fate::Open),
            Protocol::Frames(session) => {
                let end = framed::take(session, &mut self.carry, data, &self.peer, intake)?;
                if let End::Bye = end {
                    self.carry.clear();
                    self.is_lingering = true;
                }
                if let End::Ring(capacity) = end {
                    return Ok(self.grant(capacity, intake));
                }
                let fate = self.answer(intake);
                Ok(if end == End::Broken { Fate::Close } else { fate })
            }
            Protocol::Ring(_) => self.cut_off_ring("there are bytes on the connection of a ring", intake),
        }
    }

    fn decide(&mut self, data: &[u8], intake: &mut Intake) -> Result<Fate, Closed> {
        let part = data.len().min(GREETING_BYTES_MAX - self.carry.len());
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
            return self.take(if self.carry.is_empty() { data } else { rest }, intake);
        }
        if self.carry.is_empty() {
            self.carry.extend_from_slice(first);
        }
        if framed.is_none() {
            return Ok(Fate::Open);
        }
        match greet(&self.carry, intake.max_event_bytes, self.peer.identity.uid, &intake.sessions) {
            Greeting::More => Ok(Fate::Open),
            Greeting::Open { session, consumed } => {
                self.peer.identity.session = session.session();
                self.protocol = Protocol::Frames(session);
                self.carry.drain(..consumed);
                self.take(rest, intake)
            }
            Greeting::Refused { reply, why, malformed } => {
                tracing::debug!(pid = self.peer.identity.pid, why, "a framed connection is refused");
                self.refuse_greeting(&reply, malformed, intake)
            }
        }
    }

    fn refuse_greeting(&mut self, reply: &[u8], malformed: bool, intake: &mut Intake) -> Result<Fate, Closed> {
        // A fresh socket has room for one reply.
        let _ = send(&self.kept.socket, reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        if malformed {
            let slot = intake.layer.slot(&self.peer, Transport::Frames, 0, b"");
            intake.layer.lose(slot, Cause::Malformed, 0);
            intake.layer.lay_down(&[], &mut Nobody)?;
        }
        self.carry.clear();
        Ok(Fate::Close)
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
