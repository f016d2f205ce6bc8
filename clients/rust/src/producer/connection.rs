//! A connection to the daemon that never makes anybody wait: frames in both directions, and descriptors that come
//! along.
//!
//! Enters: bytes to send. Leaves: what the daemon has said. The producer's thread. What can fail: everything, as the
//! connection's end ([`Said::End`]).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, send, socket_with,
};

use crate::wire::{Code, Frame, Level, Welcome};

/// Bytes that are read at a time.
const READ_BYTES: usize = 4096;
/// The most descriptors that are taken; a GRANT brings one.
const DESCRIPTORS_MAX: usize = 1;

/// What the daemon has said.
#[derive(Debug)]
pub(super) enum Said {
    Welcome(Welcome),
    Grant {
        capacity: u64,
    },
    Ack {
        level: Level,
        sequence: u64,
    },
    Fault {
        code: u8,
        first: u64,
        last: u64,
        text: String,
    },
    /// The connection has ended: by its peer, or because that sends what cannot be understood.
    End(Option<String>),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    incoming: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Connection {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket, incoming: Vec::new(), descriptors: Vec::new() })
    }

    /// One that is there, with what its peer has sent along.
    #[cfg(test)]
    pub(super) fn with(socket: OwnedFd, descriptors: Vec<OwnedFd>) -> Self {
        Self { socket, incoming: Vec::new(), descriptors }
    }

    /// Writes what it can, and says how much that was.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// The next thing that the daemon has said; None if that is all for now.
    pub(super) fn hear(&mut self) -> Option<Said> {
        loop {
            match Frame::decode(&self.incoming) {
                Err(error) => return Some(Said::End(Some(format!("dbufd is not understood: {error}")))),
                Ok(None) => {}
                Ok(Some((frame, consumed))) => {
                    let said = said(&frame);
                    self.incoming.drain(..consumed);
                    match said {
                        Some(said) => return Some(said),
                        None => continue,
                    }
                }
            }
            match self.receive() {
                Ok(0) => return Some(Said::End(None)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(error) => return Some(Said::End(Some(format!("the connection to dbufd failed: {error}")))),
            }
        }
    }

    fn receive(&mut self) -> Result<usize, Errno> {
        let mut bytes = [0; READ_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        // Who sends more than was asked for is let down, not collected.
        self.descriptors.truncate(DESCRIPTORS_MAX);
        self.incoming.extend_from_slice(&bytes[..got.bytes]);
        Ok(got.bytes)
    }

    /// The memory that a GRANT brings.
    pub(super) fn take_memory(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop()
    }

    /// Waits until the daemon has said something, or takes more if `writes` says that more is to be written; or for so
    /// long.
    pub(super) fn wait(&self, writes: bool, timeout: Duration) {
        let flags = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let timeout = rustix::event::Timespec::try_from(timeout).ok();
        // Whatever it says, the caller looks.
        let _ = poll(&mut [PollFd::new(&self.socket, flags)], timeout.as_ref());
    }
}

fn said(frame: &Frame<'_>) -> Option<Said> {
    Some(match frame {
        Frame::Welcome(welcome) => Said::Welcome(*welcome),
        Frame::Grant { capacity } => Said::Grant { capacity: *capacity },
        Frame::Ack { level, sequence } => Said::Ack { level: *level, sequence: *sequence },
        Frame::Error(fault) => {
            let text = String::from_utf8_lossy(fault.text).into_owned();
            Said::Fault { code: fault.code, first: fault.first, last: fault.last, text }
        }
        Frame::Ignored { .. } => return None,
        Frame::Hello(_) | Frame::Event(_) | Frame::Sync | Frame::Bye | Frame::Ring { .. } => {
            Said::End(Some("dbufd is not understood: a frame that only clients send".into()))
        }
    })
}

/// A fault in words for people.
pub(super) fn in_words(code: u8, text: &str) -> String {
    match Code::from_number(code) {
        Some(code) => format!("{text} ({})", code.name()),
        None => format!("{text} (code {code})"),
    }
}
