//! Defines what a protocol does with one connection, and what it gets to work with.
//!
//! Input: bytes that a writer read, or memory that a client fills. Output: events in the publisher, replies on the
//! socket. Thread: the connection's writer. Failure: the reader is gone; a client's faults end its connection at most.
//!
//! A protocol is a folder of its own and implements [`Protocol`]. It sees its connection as a [`Link`], publishes
//! through the [`WriterContext`], and knows no other protocol and no part of the writer's thread. One whose events
//! lie in memory that it shares with its client implements [`Polled`] as well.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::read_position::{InheritedPosition, ReadPosition};
use super::stored::StoredConnection;
use crate::pipeline::accept::publish::{Closed, Peer, WriterContext};

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It stays open.
    Open,
    /// It is done with.
    Close,
}

/// What follows after a protocol has taken bytes.
#[derive(Debug)]
pub(crate) enum AfterBytes {
    /// The protocol stays the same.
    Stay,
    /// The connection is done with.
    Close,
    /// From here on the connection speaks this protocol. Nothing of what was read is left.
    Become(Box<dyn Protocol>),
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadResult {
    /// Bytes; there may be more.
    Some(Next),
    /// Nothing is there now.
    Nothing,
    /// The end.
    End(Next),
}

/// What one look into a polled protocol's memory brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LookResult {
    pub(crate) next: Next,
    /// Bytes that were taken.
    pub(crate) bytes: u64,
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

/// A connection, as its protocol sees it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: Peer,
    /// The beginning of what has not come whole.
    pub(crate) carry: Vec<u8>,
    pub(crate) reply_state: ReplyState,
    /// Nothing more is read; the connection stays for the answers that its client waits for.
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

    /// Sends a last reply, as far as the socket has room for it. A client that does not read does not want to know.
    pub(crate) fn send_last(&self, reply: &[u8]) {
        let _ = send(self.socket(), reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Sends bytes without blocking. Returns how many went, or the state of the replies if none did.
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

/// The protocol that one connection speaks. Errors mean that the reader is gone.
pub(crate) trait Protocol: Debug + Send {
    /// Publishes what was read. What has not come whole stays in the link's carry.
    fn take(&mut self, bytes: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed>;

    /// Publishes what the previous process has read, except for the events that it has published.
    fn take_again(&mut self, bytes: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed> {
        self.take(bytes, link, context)
    }

    /// The client has ended: what has come in part is an event, or is lost and counted.
    fn end(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed>;

    /// This process ends the connection.
    fn cut_off(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        self.end(link, context)
    }

    /// Gives up the memory of what has not come whole.
    fn shed(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        self.end(link, context).map(|_| Next::Close)
    }

    /// Resumes where the previous process stood. Where the position cannot be read, [`Protocol::lose_rest`] follows.
    fn resume(&mut self, _position: InheritedPosition, _link: &mut Link) -> AfterBytes {
        AfterBytes::Close
    }

    /// Counts as lost what the previous process had read in part and whose position cannot be read.
    fn lose_rest(&mut self, _link: &mut Link, _context: &mut WriterContext) -> Result<Next, Closed> {
        Ok(Next::Open)
    }

    /// How far the connection has been read, for the next process. None if that cannot resume it.
    fn position<'a>(&'a self, _carry: &'a [u8]) -> Option<ReadPosition<'a>> {
        None
    }

    /// Sends what the client is owed by now.
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

    /// The memory that it shares with its client, if it has any.
    fn polled(&mut self) -> Option<&mut dyn Polled> {
        None
    }

    /// Whether it is stored for the next process by itself, whatever becomes of its connection's slot.
    fn is_stored(&self) -> bool {
        false
    }

    /// Ends what it holds, before its connection ends.
    fn close(self: Box<Self>, _socket: &OwnedFd) {}
}

/// A protocol whose events lie in memory that its client fills without a system call. The writer looks there by
/// itself; while it does not, the client wakes it by a byte on the connection (the doorbell).
pub(crate) trait Polled {
    /// Tells the client whether the writer looks by itself; see `dbuf_wire::ring::state`.
    fn set_state(&mut self, state: u64);

    /// Whether something waits there.
    fn has_something(&mut self) -> bool;

    /// Bytes that wait there.
    fn waiting_bytes(&mut self) -> u64;

    /// The socket is ready: takes doorbells, notices that the client has left, and publishes what lies in the memory.
    /// `scratch` is for copies.
    fn read(&mut self, link: &mut Link, scratch: &mut [u8], context: &mut WriterContext) -> Result<ReadResult, Closed>;

    /// Publishes what lies in the memory, up to a bound.
    fn look(&mut self, link: &mut Link, scratch: &mut [u8], context: &mut WriterContext) -> Result<LookResult, Closed>;
}
