//! Defines what a protocol does with one connection, and what it may use for that.
//!
//! Input: the bytes of a connection, and the reader's progress. Output: events in the publisher, replies, and what
//! becomes of the connection. Thread: the connection's writer. Failure: only that the reader is gone.
//!
//! Each protocol has its own folder and implements [`Protocol`]. It sees its connection as a [`Link`] and publishes
//! through the [`WriterContext`]. It knows no other protocol and no part of the writer's thread. A protocol whose
//! events are in memory shared with its client implements [`Polled`] as well.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::read_position::{InheritedPosition, ReadPosition};
use super::stored::StoredConnection;
use crate::pipeline::accept::publish::{Closed, Peer, WriterContext};

/// What to do with a connection next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Keep it open.
    Open,
    /// Close it.
    Close,
}

/// What a protocol does after it took bytes.
#[derive(Debug)]
pub(crate) enum AfterBytes {
    /// It continues with its connection.
    Stay,
    /// The connection is finished.
    Close,
    /// From here on the connection speaks this protocol. Everything that was read is consumed.
    Become(Box<dyn Protocol>),
}

/// The result of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadResult {
    /// Bytes came. There may be more.
    Some(Next),
    /// Nothing is there now.
    Nothing,
    /// The client has ended.
    End(Next),
}

/// The result of one look into a polled protocol's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LookResult {
    pub(crate) next: Next,
    /// Bytes that were taken.
    pub(crate) bytes: u64,
}

/// Whether replies can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyState {
    /// Everything that was due is sent.
    Clear,
    /// The client must read first.
    Blocked,
    /// The client will never read again. What it has sent still counts.
    Gone,
}

/// A connection as its protocol sees it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: Peer,
    /// The beginning of an event that has not arrived completely.
    pub(crate) carry: Vec<u8>,
    pub(crate) reply_state: ReplyState,
    /// Nothing more is read. The connection stays open for the answers that its client waits for.
    pub(crate) is_lingering: bool,
    /// The last field, so that it is dropped last: the socket is closed when everything else has ended.
    pub(crate) stored: StoredConnection,
}

impl Link {
    pub(crate) fn new(stored: StoredConnection, peer: Peer) -> Self {
        Self { peer, carry: Vec::new(), reply_state: ReplyState::Clear, is_lingering: false, stored }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.stored.socket
    }

    /// Sends a last reply, as far as the socket has room for it. A client that does not read loses it.
    pub(crate) fn send_last(&self, reply: &[u8]) {
        let _ = send(self.socket(), reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Sends bytes without blocking. Returns the number of bytes sent, or the state of the replies if none were.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize, ReplyState> {
        loop {
            match send(self.socket(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => return Ok(sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(ReplyState::Blocked),
                Err(_) => return Err(ReplyState::Gone),
            }
        }
    }
}

/// The protocol that one connection speaks. Everything runs on the connection's writer thread. Errors mean that the
/// reader is gone. A client's fault ends its own connection at most.
pub(crate) trait Protocol: Debug + Send {
    /// Publishes what was read. An incomplete event stays in the link's carry.
    fn take(&mut self, bytes: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed>;

    /// Publishes what the previous process has read, except the events that it had already published.
    fn take_again(&mut self, bytes: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed> {
        self.take(bytes, link, context)
    }

    /// Handles the client's end: an incomplete event becomes an event, or is lost and counted.
    fn end(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed>;

    /// Another process sends from here on. An event of which the first one has sent a part ends here, so that no
    /// process continues an event of another. False if all that comes by this connection belongs to the process that
    /// began it.
    fn change_sender(&mut self, _link: &mut Link, _context: &mut WriterContext) -> Result<bool, Closed> {
        Ok(false)
    }

    /// Ends the connection from this side.
    fn cut_off(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        self.end(link, context)
    }

    /// Frees the memory of an incomplete event.
    fn shed(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        self.end(link, context).map(|_| Next::Close)
    }

    /// Resumes at the previous process's position. If the position cannot be read, [`Protocol::lose_rest`] is called
    /// next.
    fn resume(&mut self, _position: InheritedPosition, _link: &mut Link) -> AfterBytes {
        AfterBytes::Close
    }

    /// Counts as lost the event of which the previous process had read a part, when its position cannot be read.
    fn lose_rest(&mut self, _link: &mut Link, _context: &mut WriterContext) -> Result<Next, Closed> {
        Ok(Next::Open)
    }

    /// How far the connection has been read, for the next process. None if that could not resume it.
    fn position<'a>(&'a self, _carry: &'a [u8]) -> Option<ReadPosition<'a>> {
        None
    }

    /// Sends the replies that are due.
    fn answer(&mut self, _link: &mut Link, _context: &WriterContext) -> Next {
        Next::Open
    }

    /// Prepares for the end of this process; the next process may resume the connection.
    fn finish(&mut self, _link: &mut Link, _context: &WriterContext) -> Next {
        Next::Open
    }

    /// Whether the client waits for the reader's progress.
    fn waits_for_progress(&self, _link: &Link) -> bool {
        false
    }

    /// The memory that the protocol shares with its client, if any.
    fn polled(&mut self) -> Option<&mut dyn Polled> {
        None
    }

    /// Whether the protocol is itself stored for the next process, independently of its connection's slot.
    fn is_stored(&self) -> bool {
        false
    }

    /// Ends what the protocol holds, before its connection ends.
    fn close(self: Box<Self>, _socket: &OwnedFd) {}
}

/// A protocol whose events are in memory that its client fills without a system call. The writer looks there on its
/// own. While it does not, the client wakes it with a byte on the connection (the doorbell).
pub(crate) trait Polled {
    /// Tells the client whether the writer looks on its own; see `dbuf_wire::ring::state`.
    fn set_state(&mut self, state: u64);

    /// Whether something waits in the memory.
    fn has_something(&mut self) -> bool;

    /// Bytes that wait in the memory.
    fn waiting_bytes(&mut self) -> u64;

    /// Handles a ready socket: takes doorbells, notices that the client has left, and publishes what is in the memory.
    /// `scratch` is for copies.
    fn read(&mut self, link: &mut Link, scratch: &mut [u8], context: &mut WriterContext) -> Result<ReadResult, Closed>;

    /// Publishes what is in the memory, up to a bound.
    fn look(&mut self, link: &mut Link, scratch: &mut [u8], context: &mut WriterContext) -> Result<LookResult, Closed>;
}
