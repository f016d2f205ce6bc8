//! Reads one connection and has its protocol publish the events.
//!
//! Input: the bytes of the socket, whenever it is readable. Output: events in the publisher, replies on the socket, and
//! [`Next`], which says whether the connection stays open. Thread: the connection's writer. Failure: only that the
//! reader is gone.
//!
//! The [`Protocol`] is a trait object, so this file does not know which protocol a connection speaks. An idle
//! connection costs a descriptor, this structure and its first protocol. It takes more memory only while part of an
//! event has arrived.

pub(crate) mod acceptor;
pub(crate) mod peer;
pub(crate) mod protocol;
pub(crate) mod read_position;
pub mod stored;

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::epoll::EpollFlags;
use rustix::io::ioctl_fionread;

use self::peer::{NO_SENDER, vouched};
use self::protocol::{AfterBytes, Link, LookResult, Next, Polled, Protocol, ReadResult, ReplyState};
use self::read_position::InheritedPosition;
use self::stored::{Retry, StoredConnection, StoredConnections};
use crate::pipeline::accept::publish::receive_buffer::{ReadProgress, ReceiveBuffer, Subject};
use crate::pipeline::accept::publish::{Closed, Handle, Known, Names, Peer, Processes, WriterContext};
use crate::pipeline::account::Identity;
use crate::pipeline::shares::Held;
use crate::sync::Arc;
use crate::sys::recvmmsg::Credentials;

/// How long a connection does without a pidfd of its sender. It gets one at once when another process sends.
const ASK_AGAIN_NS: u64 = 1_000_000;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Declared before the link, so that it is dropped first: a client that sees the end may reopen its session at
    /// once.
    protocol: Box<dyn Protocol>,
    /// The round in which the carry began. The oldest carry is shed first.
    pub(crate) carried_since: u64,
    /// The events that its writer's epoll set waits for.
    pub(crate) interest: EpollFlags,
    /// Its writer looks into its memory.
    pub(crate) is_polled: bool,
    /// Its user must wait: its writer neither watches nor reads it.
    pub(crate) is_throttled: bool,
    /// Only the numbers of its peer are known so far. The names are looked up before the first read.
    pub(crate) is_unnamed: bool,
    /// When the names of the sending process were looked up.
    pub(crate) looked_up_ns: u64,
    /// When the kernel was last asked for the pidfd of the sending process.
    asked_ns: u64,
    /// Another process sends than the one that is noted for the next process, or it has other names.
    is_renamed: bool,
    /// The previous process has left it.
    pub(crate) is_inherited: bool,
    /// It is from a daemon that did not have the kernel name its senders. Bytes may wait in it that name none.
    pub(crate) is_older: bool,
    /// It is in its writer's list of connections that wait for the reader's progress.
    pub(crate) is_listed: bool,
    link: Link,
    /// The part of its user's share. The user is that of the process that connected.
    held: Held,
}

impl Connection {
    /// A connection that starts with `protocol`.
    pub(crate) fn new(held: Held, stored: StoredConnection, peer: Peer, protocol: Box<dyn Protocol>) -> Self {
        Self {
            protocol,
            held,
            looked_up_ns: 0,
            asked_ns: 0,
            is_renamed: false,
            is_inherited: false,
            is_older: false,
            carried_since: 0,
            interest: EpollFlags::EPOLLIN,
            is_polled: false,
            is_throttled: false,
            is_unnamed: false,
            is_listed: false,
            link: Link::new(stored, peer),
        }
    }

    /// Resumes at the previous process's position. If the position cannot be read, the caller must call
    /// [`Connection::lose_rest`] next.
    pub(crate) fn resume(&mut self, position: InheritedPosition, context: &mut WriterContext) -> Next {
        let after = self.protocol.resume(position, &mut self.link);
        context.carried_bytes += self.link.carry.capacity();
        self.after(after)
    }

    /// Counts as lost the event of which the previous process had read a part, when its position cannot be read.
    /// `resumed` is the number of this step, if the previous process had begun it already.
    pub(crate) fn lose_rest(
        &mut self,
        read_progress: &ReadProgress,
        resumed: Option<u64>,
        context: &mut WriterContext,
    ) -> Result<Next, Closed> {
        let number = self.begin_step(Subject::LostLine, read_progress, resumed, context);
        let next = self.counted(context, |protocol, link, context| protocol.lose_rest(link, context))?;
        Ok(self.end_of_read(next, number, read_progress))
    }

    /// Begins a publish that does not come from a read, with the steps of a read, so that the next process neither
    /// forgets it nor repeats it. Returns the number of the step.
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

    /// Records how far the connection was read, including read `number`, and that this read is done. A connection that
    /// ends with this read, or cannot be resumed, loses its read position here: the next process then ends it, whatever
    /// protocol it spoke. If the position cannot be removed, the connection ends now, because the next process would
    /// misread it.
    fn end_of_read(&mut self, next: Next, number: u64, read_progress: &ReadProgress) -> Next {
        let keeps = next == Next::Open && self.note_position(number);
        if keeps && std::mem::take(&mut self.is_renamed) {
            // After the position: a read that the position does not include is repeated, with the sender before it.
            self.link.stored.note_sender(&self.link.peer.identity);
        }
        // Both while the receive buffer still holds the read, and before the slot can become another connection's.
        let is_safe = keeps || self.link.stored.forget_position();
        read_progress.end();
        if !keeps {
            self.link.stored.let_go();
        }
        if is_safe { next } else { Next::Close }
    }

    /// The memory that the connection shares with its client, if any.
    pub(crate) fn polled(&mut self) -> Option<&mut dyn Polled> {
        self.protocol.polled()
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        self.link.socket()
    }

    /// The user of the process that connected.
    pub(crate) fn uid(&self) -> u32 {
        self.held.uid()
    }

    /// The user of the process that sent what was read last: its limits count.
    pub(crate) fn sender_uid(&self) -> u32 {
        self.link.peer.identity.uid
    }

    /// Bytes that the client has sent and that are not read yet.
    pub(crate) fn waiting_bytes(&mut self) -> u64 {
        match self.protocol.polled() {
            Some(polled) => polled.waiting_bytes(),
            None => ioctl_fionread(self.link.socket()).unwrap_or(0),
        }
    }

    /// Whether the next process would resume the connection.
    pub(crate) fn is_stored(&self) -> bool {
        self.link.stored.is_stored() || self.protocol.is_stored()
    }

    /// Whether it should be stored for the next process, and is not.
    pub(crate) fn is_unkept(&self) -> bool {
        self.link.stored.is_unkept()
    }

    /// Tries again to store the connection for the next process.
    pub(crate) fn keep_later(&mut self, all: &Arc<StoredConnections>) -> Retry {
        let Link { carry, stored, peer, .. } = &mut self.link;
        match self.protocol.position(carry) {
            Some(position) => all.keep_later(stored, self.held.uid(), &peer.identity, &position),
            None => Retry::Done,
        }
    }

    /// Ends the connection, also for its peer, and drops what these receive buffers still hold of it.
    pub(crate) fn close(self, receive_buffers: &mut [ReceiveBuffer]) {
        // The share is given back last.
        let Self { protocol, mut link, held: _held, .. } = self;
        if let Some(slot) = link.stored.slot() {
            // Before the slot can become another connection's, as in `end_of_read`.
            link.stored.forget_position();
            receive_buffers.iter_mut().for_each(|receive_buffer| receive_buffer.leave_out(slot));
        }
        protocol.close(link.socket());
        link.stored.close();
    }

    /// Reads once and publishes the events.
    pub(crate) fn read(
        &mut self,
        receive_buffer: &mut ReceiveBuffer,
        context: &mut WriterContext,
    ) -> Result<ReadResult, Closed> {
        if let Some(polled) = self.protocol.polled() {
            return polled.read(&mut self.link, &mut receive_buffer.stream, context);
        }
        receive_buffer.headers.ask_for_pidfds(self.wants_pidfd(context));
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
            self.link.peer.identity = peer::named(identity, self.link.socket(), &mut context.processes);
        }
        let (read, next) = match got {
            // Nothing to read, or the call was interrupted and the next round repeats it.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                (ReadResult::Nothing, Next::Open)
            }
            // A reset means that the peer closed without reading our replies: an end like any other.
            Ok(0) | Err(_) => {
                let next = self.end(context)?;
                (ReadResult::End(next), next)
            }
            Ok(bytes) => {
                let process = receive_buffer.headers.take_pidfd(0);
                self.attribute(receive_buffer.headers.sender(0), process, context)?;
                let bytes = &receive_buffer.stream[..bytes];
                let after = self.counted(context, |protocol, link, context| protocol.take(bytes, link, context))?;
                let next = self.after_bytes(after, context)?;
                (ReadResult::Some(next), next)
            }
        };
        let is_closed = self.end_of_read(next, number, &receive_buffer.read_progress) == Next::Close;
        Ok(if is_closed { ReadResult::End(Next::Close) } else { read })
    }

    /// Publishes what the previous process has read, except the events that it had already published.
    pub(crate) fn replay(
        &mut self,
        receive_buffer: &ReceiveBuffer,
        number: u64,
        context: &mut WriterContext,
    ) -> Result<Next, Closed> {
        let received = receive_buffer.headers.received(0).unwrap_or(0);
        let bytes = &receive_buffer.stream[..received.min(receive_buffer.stream.len())];
        context.accept_now();
        if let Some(sender) = receive_buffer.headers.sender(0) {
            self.attribute_to(vouched(Some(sender)), &Handle::None, context)?;
        }
        let next = if bytes.is_empty() {
            self.end(context)?
        } else {
            let after = self.counted(context, |protocol, link, context| protocol.take_again(bytes, link, context))?;
            self.after_bytes(after, context)?
        };
        Ok(self.end_of_read(next, number, &receive_buffer.read_progress))
    }

    /// Whether the next read should bring a pidfd of its sender. That takes some microseconds, so not every read does.
    fn wants_pidfd(&mut self, context: &WriterContext) -> bool {
        let now_ns = context.publisher.time_ns();
        let wants = context.processes.has_pidfds && now_ns.abs_diff(self.asked_ns) >= ASK_AGAIN_NS;
        if wants {
            self.asked_ns = now_ns;
        }
        wants
    }

    /// Attributes what a read has brought to the process that sent it. All bytes of a read are of one process.
    fn attribute(
        &mut self,
        sender: Option<Credentials>,
        process: Option<OwnedFd>,
        context: &mut WriterContext,
    ) -> Result<(), Closed> {
        let Some(sender) = sender.filter(|sender| !self.is_older || *sender != NO_SENDER) else { return Ok(()) };
        let are_fresh = Processes::are_fresh(self.looked_up_ns, context.publisher.time_ns());
        if are_fresh && self.link.peer.is(sender) {
            return Ok(());
        }
        let handle = match context.processes.handle(process) {
            // What waited while no daemon ran may be of a process that has ended, and whose number another one has.
            Handle::Number if self.is_inherited => Handle::None,
            handle => handle,
        };
        self.attribute_to(vouched(Some(sender)), &handle, context)
    }

    /// As [`Connection::attribute`], for another process, or for one whose names are to be looked up again.
    #[cold]
    fn attribute_to(
        &mut self,
        sender: Credentials,
        handle: &Handle,
        context: &mut WriterContext,
    ) -> Result<(), Closed> {
        let is_other = !self.link.peer.is(sender);
        if is_other && !self.counted(context, |protocol, link, context| protocol.change_sender(link, context))? {
            return Ok(());
        }
        let now_ns = context.publisher.time_ns();
        let old = &self.link.peer.identity;
        if is_other && !old.comm.is_empty() {
            context.processes.remember(&self.link.peer, self.looked_up_ns);
        }
        let is_same_process = old.pid == sender.pid && sender.pid != 0;
        let remembered = if is_other { context.processes.fresh(sender, now_ns) } else { None };
        let (number, names) = match remembered {
            Some(Known { peer, names, at_ns }) => {
                self.looked_up_ns = at_ns;
                (Some(peer), Some(names))
            }
            None => {
                let names = context.processes.look_up(sender, handle, now_ns);
                (self.looked_up_ns, self.asked_ns) = match names {
                    Some(_) => (now_ns, self.asked_ns),
                    // The next read brings a pidfd.
                    None if is_same_process => (self.looked_up_ns, 0),
                    None => (0, 0),
                };
                (None, names)
            }
        };
        // A process that has ended keeps the names that it had.
        let names = names.filter(|names| !(is_same_process && names.has_ended));
        let Names { comm, unit, .. } = match names {
            Some(names) => names,
            None if is_same_process => Names { comm: old.comm.clone(), unit: old.unit.clone(), has_ended: false },
            None => Names::default(),
        };
        let identity = Identity { session: old.session, comm, unit, ..peer::numbers(sender) };
        if identity == *old {
            return Ok(());
        }
        self.link.peer = match number {
            // Only text changes hands, and has no session.
            Some(number) => Peer { number, identity },
            None => context.peer(identity),
        };
        self.is_renamed = true;
        Ok(())
    }

    /// Notes the process that sent what the previous process read last.
    pub(crate) fn was_sent_by(&mut self, sender: Option<Credentials>, context: &mut WriterContext) {
        if let Some(sender) = sender.filter(|sender| !self.link.peer.is(*sender)) {
            self.link.peer = context.peer(peer::numbers(vouched(Some(sender))));
            self.link.stored.note_sender(&self.link.peer.identity);
        }
    }

    /// Follows up after the protocol has taken the bytes of one read. If the protocol ended the connection, the carry
    /// is discarded, because it is no line.
    fn after_bytes(&mut self, after: AfterBytes, context: &mut WriterContext) -> Result<Next, Closed> {
        let next = self.after(after);
        if next == Next::Open && self.has_noted_end() { self.end(context) } else { Ok(next) }
    }

    /// Whether the peer's close belongs to this read. The last line of a connection that is only noted must be
    /// published while the receive buffer holds it: the next process has nothing else of the connection.
    fn has_noted_end(&self) -> bool {
        let resumes = self.protocol.position(&self.link.carry).is_some();
        resumes && self.link.stored.is_noted() && ioctl_fionread(self.link.socket()) == Ok(0)
    }

    /// Notes for the next process how far the connection has been read, including read `number`. False if the next
    /// process could not resume it.
    fn note_position(&mut self, number: u64) -> bool {
        let Link { carry, stored, .. } = &mut self.link;
        match self.protocol.position(carry) {
            Some(position) => stored.note_position(&position, number),
            None => false,
        }
    }

    /// The connection's slot, if it has one.
    pub(crate) fn slot(&self) -> Option<u32> {
        self.link.stored.slot()
    }

    /// Sends the replies that are due.
    pub(crate) fn answer(&mut self, context: &WriterContext) -> Next {
        self.protocol.answer(&mut self.link, context)
    }

    /// Whether the client waits for the reader's progress.
    pub(crate) fn waits_for_progress(&self) -> bool {
        self.protocol.waits_for_progress(&self.link)
    }

    /// The events that the epoll set should wait for now.
    pub(crate) fn wanted_interest(&self) -> EpollFlags {
        let input = if self.link.is_lingering { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
        let is_blocked = self.link.reply_state == ReplyState::Blocked;
        let output = if is_blocked { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
        input | output
    }

    pub(crate) fn is_lingering(&self) -> bool {
        self.link.is_lingering
    }

    /// Bytes of memory that the connection holds for an event that has not arrived completely.
    pub(crate) fn carried_bytes(&self) -> usize {
        self.link.carry.capacity()
    }

    /// Frees the memory of an event that has not arrived completely. `resumed` is as in [`Connection::lose_rest`].
    pub(crate) fn shed(
        &mut self,
        read_progress: &ReadProgress,
        resumed: Option<u64>,
        context: &mut WriterContext,
    ) -> Result<Next, Closed> {
        let number = self.begin_step(Subject::Carry, read_progress, resumed, context);
        let next = self.counted(context, |protocol, link, context| protocol.shed(link, context))?;
        Ok(self.end_of_read(next, number, read_progress))
    }

    /// Prepares for the end of this process; the next process may resume the connection.
    pub(crate) fn finish(&mut self, context: &WriterContext) -> Next {
        self.protocol.finish(&mut self.link, context)
    }

    /// Ends the connection from this side.
    pub(crate) fn cut_off(&mut self, context: &mut WriterContext) -> Result<Next, Closed> {
        context.accept_now();
        self.counted(context, |protocol, link, context| protocol.cut_off(link, context))
    }

    /// Publishes the events that lie in the memory shared with the client.
    pub(crate) fn look(
        &mut self,
        receive_buffer: &mut ReceiveBuffer,
        context: &mut WriterContext,
    ) -> Result<LookResult, Closed> {
        match self.protocol.polled() {
            Some(polled) => polled.look(&mut self.link, &mut receive_buffer.stream, context),
            None => Ok(LookResult { next: Next::Open, bytes: 0 }),
        }
    }

    fn end(&mut self, context: &mut WriterContext) -> Result<Next, Closed> {
        self.counted(context, |protocol, link, context| protocol.end(link, context))
    }

    fn after(&mut self, after: AfterBytes) -> Next {
        match after {
            AfterBytes::Stay => Next::Open,
            AfterBytes::Close => Next::Close,
            AfterBytes::Become(protocol) => {
                self.protocol = protocol;
                Next::Open
            }
        }
    }

    /// Does `work` and accounts for the change in carried memory.
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
        // The command's name and the unit take a few dozen bytes more, and the first protocol a pointer.
        assert!(size_of::<Option<Connection>>() <= 304, "{}", size_of::<Option<Connection>>());
    }
}
