//! Reads one connection and has its protocol publish what came.
//!
//! Input: what the socket holds, whenever it holds something. Output: events in the publisher, replies on the socket,
//! and what is [`Next`]. Thread: the connection's writer. Failure: only that the reader is gone.
//!
//! Which protocol a connection speaks is the [`Protocol`]'s own matter. A connection that says nothing is a
//! descriptor, this structure and its first protocol; memory in addition to that is taken only while an event has
//! come in part.

pub(crate) mod acceptor;
pub(crate) mod peer;
pub(crate) mod protocol;
pub(crate) mod read_position;
pub mod stored;

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::epoll::EpollFlags;
use rustix::io::ioctl_fionread;

use self::protocol::{Link, Looked, Next, Polled, Protocol, Read, ReplyState, Turn};
use self::read_position::InheritedPosition;
use self::stored::StoredConnection;
use crate::pipeline::accept::publish::receive_buffer::{ReadProgress, ReceiveBuffer, Subject};
use crate::pipeline::accept::publish::{Closed, Peer, WriterContext};

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Before the link: a client that sees the end may open its session again at once.
    protocol: Box<dyn Protocol>,
    /// The round in which the carry began; what is carried longest is shed first.
    pub(crate) carried_since: u64,
    /// What its epoll set waits for.
    pub(crate) interest: EpollFlags,
    /// Its writer looks into its memory.
    pub(crate) is_polled: bool,
    /// Its peer is known by numbers alone, until something is read.
    pub(crate) is_unnamed: bool,
    /// It is in its writer's list of those that wait for the reader's progress.
    pub(crate) is_listed: bool,
    link: Link,
}

impl Connection {
    /// One that speaks `protocol`, to begin with.
    pub(crate) fn new(stored: StoredConnection, peer: Peer, protocol: Box<dyn Protocol>) -> Self {
        Self {
            protocol,
            carried_since: 0,
            interest: EpollFlags::EPOLLIN,
            is_polled: false,
            is_unnamed: false,
            is_listed: false,
            link: Link::new(stored, peer),
        }
    }

    /// Resumes where the previous process stood. Where the position cannot be read, [`Connection::lose_rest`] has to
    /// follow.
    pub(crate) fn resume(&mut self, position: InheritedPosition, context: &mut WriterContext) -> Next {
        let turn = self.protocol.resume(position, &mut self.link);
        context.carried_bytes += self.link.carry.capacity();
        self.after(turn)
    }

    /// Counts as lost what the previous process had read in part and whose position cannot be read. `resumed` is the
    /// number of the step, if the previous process has begun it.
    pub(crate) fn lose_rest(
        &mut self,
        read_progress: &ReadProgress,
        resumed: Option<u64>,
        context: &mut WriterContext,
    ) -> Result<Next, Closed> {
        let number = self.begin_step(Subject::LostLine, read_progress, resumed, context);
        let next = self.counted(context, |protocol, link, context| protocol.lose_rest(link, context))?;
        Ok(self.record(next, number, read_progress))
    }

    /// Begins to publish something that no read brought, by the steps of a read, so that the next process neither
    /// forgets it nor does it twice. Returns the number of the step.
    fn begin_step(
        &self,
        subject: fn(u32) -> Subject,
        read_progress: &ReadProgress,
        resumed: Option<u64>,
        context: &mut WriterContext,
    ) -> u64 {
        context.accept_now();
        resumed.unwrap_or_else(|| {
            context.publisher.begin_read(0);
            let begin = |slot| read_progress.begin(subject(slot), context.next_piece, context.max_event_bytes);
            self.link.stored.slot().map_or(0, begin)
        })
    }

    /// Records how far the connection was read, the read of this number included, and that the read is done. One that
    /// ends with this read has no record from here on: the next process does not go on with it, whatever it spoke.
    /// What comes next is its end, too, if the next process would take it for something else.
    fn record(&mut self, next: Next, number: u64, read_progress: &ReadProgress) -> Next {
        let keeps = next == Next::Open && self.note_position(number);
        // Both while the receive buffer still says what was read, and before the slot can become another connection's.
        let is_safe = keeps || self.link.stored.forget_record();
        read_progress.end();
        if !keeps {
            self.link.stored.let_go();
        }
        if is_safe { next } else { Next::Close }
    }

    /// The memory that it shares with its client, if it has any.
    pub(crate) fn polled(&mut self) -> Option<&mut dyn Polled> {
        self.protocol.polled()
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        self.link.socket()
    }

    /// Bytes that the client has sent and that wait to be read.
    pub(crate) fn waiting_bytes(&mut self) -> u64 {
        match self.protocol.polled() {
            Some(polled) => polled.waiting_bytes(),
            None => ioctl_fionread(self.link.socket()).unwrap_or(0),
        }
    }

    /// Whether the next process would go on with it.
    pub(crate) fn is_stored(&self) -> bool {
        self.link.stored.is_stored() || self.protocol.is_stored()
    }

    /// Ends it, for its peer as well. What the previous process left of it in one of these receive buffers ends, too.
    pub(crate) fn close(self, receive_buffers: &mut [ReceiveBuffer]) {
        let Self { protocol, mut link, .. } = self;
        if let Some(slot) = link.stored.slot() {
            // Before the slot can become another connection's, as in `record`.
            link.stored.forget_record();
            receive_buffers.iter_mut().for_each(|receive_buffer| receive_buffer.leave_out(slot));
        }
        protocol.close(link.socket());
        link.stored.close();
    }

    /// Reads once, and publishes what came.
    pub(crate) fn read(
        &mut self,
        receive_buffer: &mut ReceiveBuffer,
        context: &mut WriterContext,
    ) -> Result<Read, Closed> {
        if let Some(polled) = self.protocol.polled() {
            return polled.read(&mut self.link, &mut receive_buffer.stream, context);
        }
        let mut number = 0;
        let subject = self.link.stored.slot().map(Subject::Stream);
        let begin = || {
            context.publisher.begin_read(0);
            if let Some(subject) = subject {
                number = receive_buffer.read_progress.begin(subject, context.next_piece, context.max_event_bytes);
            }
        };
        let got = receive_buffer.headers.receive_stream(self.link.socket(), &mut receive_buffer.stream, begin);
        context.accept_now();
        if std::mem::take(&mut self.is_unnamed) {
            let identity = std::mem::take(&mut self.link.peer.identity);
            self.link.peer.identity = peer::named(identity, self.link.socket());
        }
        let (read, next) = match got {
            // Nothing is there, or the call is made again in the next round.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                (Read::Nothing, Next::Open)
            }
            // A reset means that the peer closed without reading our replies: an end like any other.
            Ok(0) | Err(_) => {
                let next = self.end(context)?;
                (Read::End(next), next)
            }
            Ok(bytes) => {
                let bytes = &receive_buffer.stream[..bytes];
                let turn = self.counted(context, |protocol, link, context| protocol.take(bytes, link, context))?;
                let next = self.after_bytes(turn, context)?;
                (Read::Some(next), next)
            }
        };
        let is_closed = self.record(next, number, &receive_buffer.read_progress) == Next::Close;
        Ok(if is_closed { Read::End(Next::Close) } else { read })
    }

    /// Publishes what the previous process has read, except for the events that it has published.
    pub(crate) fn replay(
        &mut self,
        receive_buffer: &ReceiveBuffer,
        number: u64,
        context: &mut WriterContext,
    ) -> Result<Next, Closed> {
        let received = receive_buffer.headers.received(0).unwrap_or(0);
        let bytes = &receive_buffer.stream[..received.min(receive_buffer.stream.len())];
        context.accept_now();
        let next = if bytes.is_empty() {
            self.end(context)?
        } else {
            let turn = self.counted(context, |protocol, link, context| protocol.take_again(bytes, link, context))?;
            self.after_bytes(turn, context)?
        };
        Ok(self.record(next, number, &receive_buffer.read_progress))
    }

    /// After its protocol took what one read has brought. A connection that the protocol ends has said all: what it
    /// still carries is no line.
    fn after_bytes(&mut self, turn: Turn, context: &mut WriterContext) -> Result<Next, Closed> {
        let next = self.after(turn);
        if next == Next::Open && self.has_noted_end() { self.end(context) } else { Ok(next) }
    }

    /// Whether the end that its peer has made belongs to this read. A connection that is only noted, and that the
    /// next process could resume, has its last line in the receive buffer until it is published, like all others.
    fn has_noted_end(&self) -> bool {
        let resumes = self.protocol.position(&self.link.carry).is_some();
        resumes && self.link.stored.is_noted() && ioctl_fionread(self.link.socket()) == Ok(0)
    }

    /// Notes how far it has been read, the read of this number included, for the next process. False if that could
    /// not resume it.
    fn note_position(&mut self, number: u64) -> bool {
        let Link { carry, stored, .. } = &mut self.link;
        match self.protocol.position(carry) {
            Some(position) => stored.note_position(&position, number),
            None => false,
        }
    }

    /// Its slot, if it has one.
    pub(crate) fn slot(&self) -> Option<u32> {
        self.link.stored.slot()
    }

    /// Sends what the client is owed by now.
    pub(crate) fn answer(&mut self, context: &WriterContext) -> Next {
        self.protocol.answer(&mut self.link, context)
    }

    /// Whether its client waits for the reader's progress.
    pub(crate) fn waits_for_progress(&self) -> bool {
        self.protocol.waits_for_progress(&self.link)
    }

    /// What its epoll set should wait for now.
    pub(crate) fn wanted_interest(&self) -> EpollFlags {
        let input = if self.link.is_lingering { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        let is_blocked = self.link.reply_state == ReplyState::Blocked;
        let output = if is_blocked { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        input | output
    }

    pub(crate) fn is_lingering(&self) -> bool {
        self.link.is_lingering
    }

    /// Bytes of memory that it holds for what has not come whole.
    pub(crate) fn carried_bytes(&self) -> usize {
        self.link.carry.capacity()
    }

    /// Gives up the memory of what has not come whole. `resumed` as in [`Connection::lose_rest`].
    pub(crate) fn shed(
        &mut self,
        read_progress: &ReadProgress,
        resumed: Option<u64>,
        context: &mut WriterContext,
    ) -> Result<Next, Closed> {
        let number = self.begin_step(Subject::Carry, read_progress, resumed, context);
        let next = self.counted(context, |protocol, link, context| protocol.shed(link, context))?;
        Ok(self.record(next, number, read_progress))
    }

    /// This process ends, and the next one may go on with it.
    pub(crate) fn finish(&mut self, context: &WriterContext) -> Next {
        self.protocol.finish(&mut self.link, context)
    }

    /// The end that this process makes of it.
    pub(crate) fn cut_off(&mut self, context: &mut WriterContext) -> Result<Next, Closed> {
        context.accept_now();
        self.counted(context, |protocol, link, context| protocol.cut_off(link, context))
    }

    /// Publishes what lies in the memory that it shares with its client.
    pub(crate) fn look(
        &mut self,
        receive_buffer: &mut ReceiveBuffer,
        context: &mut WriterContext,
    ) -> Result<Looked, Closed> {
        match self.protocol.polled() {
            Some(polled) => polled.look(&mut self.link, &mut receive_buffer.stream, context),
            None => Ok(Looked { next: Next::Open, bytes: 0 }),
        }
    }

    fn end(&mut self, context: &mut WriterContext) -> Result<Next, Closed> {
        self.counted(context, |protocol, link, context| protocol.end(link, context))
    }

    fn after(&mut self, turn: Turn) -> Next {
        match turn {
            Turn::Stay => Next::Open,
            Turn::Close => Next::Close,
            Turn::Become(protocol) => {
                self.protocol = protocol;
                Next::Open
            }
        }
    }

    /// Does `work`, and counts how the carried memory changes by it.
    fn counted<T>(
        &mut self,
        context: &mut WriterContext,
        work: impl FnOnce(&mut dyn Protocol, &mut Link, &mut WriterContext) -> Result<T, Closed>,
    ) -> Result<T, Closed> {
        let before = self.link.carry.capacity();
        let done = work(&mut *self.protocol, &mut self.link, context);
        if self.link.carry.is_empty() {
            self.link.carry = Vec::new();
        }
        context.carried_bytes = context.carried_bytes + self.link.carry.capacity() - before;
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_says_nothing_takes_little_memory() {
        // Its command's name and its unit come on top, a few dozen bytes, and a pointer in its first protocol.
        assert!(size_of::<Option<Connection>>() <= 240, "{}", size_of::<Option<Connection>>());
    }
}
