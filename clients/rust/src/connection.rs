//! Speaks frames with the daemon: the one connection under [`crate::Client`] and [`crate::Producer`].
//!
//! Input: frames to send. Output: what the daemon has said, and descriptors that came along. The owner's thread; only
//! [`Connection::wait`] waits, and [`Connection::open`] if it has a timeout. Failures: everything, as the connection's
//! end ([`Said::End`], or an error of a write). That includes a descriptor that the program has closed or replaced: it
//! is neither used nor closed.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
#[cfg(test)]
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use dbuf_wire::ring::DOORBELL;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recvmsg, send, socket_with, sockopt,
};

use crate::sys::Descriptor;
use crate::wire::{Code, Fault, Frame, Head, Hello, Level, MAGIC, Welcome, WireError};

/// A sender gathers about this many bytes of frames before it has them written.
pub(crate) const GATHER_BYTES: usize = 64 << 10;
/// Bytes that are read at a time.
const READ_BYTES: usize = 4096;
/// The most descriptors that are taken; a GRANT brings one.
const DESCRIPTORS_MAX: usize = 1;

/// What the daemon has said.
#[derive(Debug)]
pub(crate) enum Said {
    Welcome(Welcome),
    Grant { capacity: u64 },
    Ack { level: Level, sequence: u64 },
    Refusal(Refusal),
    End(End),
}

/// Events that the daemon did not store.
///
/// ```no_run
/// # fn main() -> Result<(), dbuf_client::Error> {
/// # let mut client = dbuf_client::Client::connect("/run/dbufd/stream.sock", &Default::default())?;
/// for refusal in client.refusals() {
///     eprintln!("events {} to {}: {}", refusal.first, refusal.last, refusal.text);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The first sequence.
    pub first: u64,
    /// The last sequence.
    pub last: u64,
    /// Why; a number that [`Code::from_number`] may not know.
    pub code: u8,
    /// The daemon's words.
    pub text: String,
}

/// Why a connection has ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The daemon closed it.
    Closed,
    /// The daemon said why: its words, and the code's name, or number if it is of a later version.
    Refused { text: String, code: String },
    /// The daemon's bytes are not understood.
    Wire(WireError),
    /// The kernel says why.
    Failed(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("dbufd closed the connection"),
            Self::Refused { text, code } => write!(f, "{text} ({code})"),
            Self::Wire(error) => write!(f, "dbufd is not understood: {error}"),
            Self::Failed(error) if error.raw_os_error() == Some(libc::EBADF) => {
                f.write_str("the program has closed or replaced the descriptor of the connection to dbufd")
            }
            Self::Failed(error) => write!(f, "the connection to dbufd failed: {}", crate::reason::kernel(error)),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Descriptor,
    outgoing: Vec<u8>,
    written: usize,
    incoming: Vec<u8>,
    received: Vec<Descriptor>,
}

impl Connection {
    /// Connects to the daemon's socket, and waits at most `timeout` where many others do the same.
    pub(crate) fn open(path: &Path, timeout: Duration) -> io::Result<Self> {
        let mut flags = SocketFlags::CLOEXEC;
        if timeout.is_zero() {
            flags |= SocketFlags::NONBLOCK;
        }
        let socket = Descriptor::socket(|| Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?))?;
        let (address, deadline) = (SocketAddrUnix::new(path)?, Instant::now() + timeout);
        loop {
            if !timeout.is_zero() {
                let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
                sockopt::set_socket_timeout(socket.get()?, sockopt::Timeout::Send, Some(left))?;
            }
            match connect(socket.get()?, &address) {
                Ok(()) => return Ok(Self::over(socket, Vec::new())),
                // A signal of the program, also one whose handler restarts other calls: socket(7).
                Err(Errno::INTR) => {}
                Err(error) => return Err(socket.cause_of(error).into()),
            }
        }
    }

    fn over(socket: Descriptor, received: Vec<Descriptor>) -> Self {
        Self { socket, outgoing: Vec::new(), written: 0, incoming: Vec::new(), received }
    }

    /// One that is there, with what its peer has sent along.
    #[cfg(test)]
    pub(crate) fn with(socket: OwnedFd, received: Vec<OwnedFd>) -> Self {
        let own = |descriptor| Descriptor::open(|| Ok(descriptor)).expect("an open descriptor");
        Self::over(own(socket), received.into_iter().map(own).collect())
    }

    /// Ends it now. What is used of it later fails.
    pub(crate) fn close(&mut self) {
        self.socket.close();
    }

    /// The user whose process listens at the other end.
    pub(crate) fn peer_uid(&self) -> io::Result<u32> {
        Ok(sockopt::socket_peercred(self.socket.get()?)?.uid.as_raw())
    }

    /// Queues what a client says first.
    pub(crate) fn queue_hello(&mut self, hello: Hello<'_>) {
        self.queue_bytes().extend_from_slice(&MAGIC);
        self.queue(&Frame::Hello(hello));
    }

    /// Queues a frame behind what is not written yet.
    pub(crate) fn queue(&mut self, frame: &Frame<'_>) {
        frame.encode(self.queue_bytes());
    }

    fn queue_bytes(&mut self) -> &mut Vec<u8> {
        if self.is_written() {
            self.outgoing.clear();
            self.written = 0;
        }
        &mut self.outgoing
    }

    /// Bytes that are queued.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.outgoing.len() - self.written
    }

    /// Whether everything that was queued is written.
    pub(crate) fn is_written(&self) -> bool {
        self.written == self.outgoing.len()
    }

    /// Events of which the daemon has not been given the last byte.
    pub(crate) fn unwritten_events(&self) -> u64 {
        let (mut at, mut events) = (0, 0);
        while let Some(Ok(Some(head))) = self.outgoing.get(at..).map(Head::decode) {
            at += head.frame_bytes();
            events += u64::from(head.is_event() && at > self.written);
        }
        events
    }

    /// Writes what the kernel takes without waiting, and says whether that was all.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while !self.is_written() {
            let rest = &self.outgoing[self.written..];
            match send(self.socket.get()?, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => self.written += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.is_written())
    }

    /// The next thing that the daemon has said; None if that is all for now.
    pub(crate) fn hear(&mut self) -> Option<Said> {
        loop {
            match Frame::decode(&self.incoming) {
                Err(error) => return Some(Said::End(End::Wire(error))),
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
                Ok(0) | Err(Errno::CONNRESET) => return Some(Said::End(End::Closed)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(error) => return Some(Said::End(End::Failed(error.into()))),
            }
        }
    }

    fn receive(&mut self) -> Result<usize, Errno> {
        let mut bytes = [0; READ_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(self.socket.get()?, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                self.received.extend(received.filter_map(|it| Descriptor::open(|| Ok(it)).ok()));
            }
        }
        // A daemon that sends more than was asked for does not make this process run out of descriptors.
        self.received.truncate(DESCRIPTORS_MAX);
        self.incoming.extend_from_slice(&bytes[..got.bytes]);
        Ok(got.bytes)
    }

    /// The memory that a GRANT brings.
    pub(crate) fn take_memory(&mut self) -> Option<Descriptor> {
        self.received.pop()
    }

    /// Rings the doorbell of the ring whose connection this is. A connection without room for the byte rings already;
    /// an end is noticed by the next look.
    pub(crate) fn ring_doorbell(&self) {
        if let Ok(socket) = self.socket.get() {
            let _ = send(socket, &[DOORBELL], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    /// Waits until the daemon has said something, or takes more of what is queued; at most for `timeout`, and without
    /// a bound if there is none.
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let flags = if self.is_written() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let timeout = timeout.and_then(|timeout| rustix::event::Timespec::try_from(timeout).ok());
        if let Ok(socket) = self.socket.get() {
            // Whatever it says, the caller looks. A descriptor that is gone is found by the look.
            let _ = poll(&mut [PollFd::new(&socket, flags)], timeout.as_ref());
        }
    }
}

fn said(frame: &Frame<'_>) -> Option<Said> {
    Some(match frame {
        Frame::Welcome(welcome) => Said::Welcome(*welcome),
        Frame::Grant { capacity } => Said::Grant { capacity: *capacity },
        Frame::Ack { level, sequence } => Said::Ack { level: *level, sequence: *sequence },
        Frame::Error(fault) => said_error(fault),
        Frame::Ignored { .. } => return None,
        Frame::Hello(_) | Frame::Event(_) | Frame::Sync | Frame::Bye | Frame::Ring { .. } => {
            Said::End(End::Wire(WireError("a frame that only clients send")))
        }
    })
}

fn said_error(fault: &Fault<'_>) -> Said {
    let text = String::from_utf8_lossy(fault.text).into_owned();
    if fault.code >= Code::Broken as u8 {
        Said::End(End::Refused { text, code: code_name(fault.code) })
    } else {
        Said::Refusal(Refusal { first: fault.first, last: fault.last, code: fault.code, text })
    }
}

fn code_name(code: u8) -> String {
    Code::from_number(code).map_or_else(|| format!("code {code}"), |code| code.name().to_string())
}

impl Refusal {
    /// Events that it names.
    pub(crate) fn events(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// For people.
    pub(crate) fn in_words(&self) -> String {
        format!("{} ({})", self.text, code_name(self.code))
    }
}
