//! Names the kinds of sockets that events come in by, and the protocol that each begins with.
//!
//! Input: sockets. Output: listeners for each writer, and the first protocol of a connection. Thread: the main thread
//! at the start, then writers. Failure: the kernel refuses to change a socket.
//!
//! A new source is a new folder, a new kind here, and a new transport number in the format.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::first_bytes::{FirstBytes, Shared, speaks_frames};
use crate::pipeline::accept::connection::acceptor::Acceptor;
use crate::pipeline::accept::connection::protocol::Protocol;
use crate::pipeline::accept::datagram::Datagrams;
use crate::pipeline::shares::Shares;
use crate::sync::Arc;
use crate::sys::socket_options::identify_senders;

/// What a socket carries. The number of a kind is stored with its connections for the next process, so it must not
/// change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ListenerKind {
    /// Connections whose first bytes decide: text (lines, priorities, syslog) or the framed protocol.
    Stream = 0,
    /// Datagrams: plain bytes or syslog.
    Datagram = 1,
}

/// A socket that events come in by.
#[derive(Debug)]
pub struct Listener {
    /// What it carries.
    pub kind: ListenerKind,
    /// A listening socket, or a bound datagram socket.
    pub socket: OwnedFd,
    /// systemd owns it and keeps it when this process ends, so what is not read from it is not lost.
    pub is_passed: bool,
}

impl Listener {
    /// Prepares the socket for epoll, and for what the kernel says of its senders.
    /// True if the kernel attaches a pidfd of the sender.
    pub(crate) fn prepare(&self) -> io::Result<bool> {
        if self.kind.has_connections() {
            fcntl_setfl(&self.socket, fcntl_getfl(&self.socket)? | OFlags::NONBLOCK)?;
        }
        identify_senders(&self.socket)
    }
}

/// A listening socket as one writer has it. All writers accept from it.
#[derive(Debug)]
pub(crate) struct StreamListener {
    pub(crate) kind: ListenerKind,
    pub(crate) acceptor: Acceptor,
    pub(crate) is_passed: bool,
}

/// A datagram socket. Only one writer receives from it, so that each sender's order is kept.
#[derive(Debug)]
pub(crate) struct DatagramListener {
    pub(crate) datagrams: Datagrams,
    pub(crate) is_passed: bool,
}

/// The sockets of one writer.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) streams: Vec<StreamListener>,
    pub(crate) datagrams: Vec<DatagramListener>,
}

impl Listeners {
    /// The sockets of the writer that receives datagrams.
    pub(crate) fn new(all: Vec<Listener>, shares: &Arc<Shares>) -> Self {
        let mut listeners = Self::default();
        for Listener { kind, socket, is_passed } in all {
            if kind.has_connections() {
                let acceptor = Acceptor::new(Arc::new(socket));
                listeners.streams.push(StreamListener { kind, acceptor, is_passed });
            } else {
                let datagrams = Datagrams::new(socket, Arc::clone(shares));
                listeners.datagrams.push(DatagramListener { datagrams, is_passed });
            }
        }
        listeners
    }

    /// The sockets of another writer, which accepts from the same listening sockets.
    pub(crate) fn of_another_writer(&self) -> Self {
        let streams = self.streams.iter().map(|stream| StreamListener {
            kind: stream.kind,
            acceptor: Acceptor::new(Arc::clone(&stream.acceptor.socket)),
            is_passed: stream.is_passed,
        });
        Self { streams: streams.collect(), datagrams: Vec::new() }
    }
}

impl ListenerKind {
    /// The kind with this number whose connections are stored; None if there is none.
    pub(super) fn of_stored(number: u16) -> Option<Self> {
        [Self::Stream].into_iter().find(|kind| *kind as u16 == number)
    }

    fn has_connections(self) -> bool {
        self != Self::Datagram
    }

    /// Whether the next process could resume a new connection. A client that has begun to speak frames connects again
    /// instead.
    pub(super) fn is_resumable(self, socket: &OwnedFd) -> bool {
        !speaks_frames(socket)
    }

    /// The protocol that a new connection starts with.
    pub(crate) fn first_protocol(self, shared: &Arc<Shared>) -> Box<dyn Protocol> {
        match self {
            // A datagram socket has no connections, so this is never called for one.
            Self::Stream | Self::Datagram => Box::new(FirstBytes::new(Arc::clone(shared))),
        }
    }
}
