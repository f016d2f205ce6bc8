//! A client of the framed protocol that never waits without a bound, and says what it heard: an answer, an end, or
//! nothing.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

use dbuf_wire::frames::{Event, Frame, Hello, Level, MAGIC, feature};
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{Bell, DOORBELL, Memory, RingProducer, want};
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, bind, connect, recvmsg, send, socket_with,
};

/// A write that takes longer has met a daemon that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that waits on its ring looks at its connection in between.
const RING_SLICE: Duration = Duration::from_millis(20);

/// What a client hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Welcome {
        last: u64,
    },
    Ack {
        level: Level,
        sequence: u64,
    },
    Error {
        code: u8,
        first: u64,
        last: u64,
        text: String,
    },
    Granted,
    /// The daemon, or its death, has ended the connection.
    End,
    /// Nothing came in time.
    Silence,
}

/// Connects from a socket with a name, by which `manager.rs` knows the connection. Names are for one test process.
pub(crate) fn connect_named(path: &Path, name: &str) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// A connection.
pub(crate) struct Framed {
    pub(crate) stream: UnixStream,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Framed {
    /// Connects, from a socket of this name.
    pub(crate) fn connect(path: &Path, name: &str) -> io::Result<Self> {
        let stream = connect_named(path, name)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self::over(stream))
    }

    /// Of a connection that is there.
    pub(crate) fn over(stream: UnixStream) -> Self {
        Self { stream, bytes: Vec::new(), descriptors: Vec::new() }
    }

    /// Magic and HELLO.
    pub(crate) fn greeting(tag: &str, session: u128, ack: Level) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        Frame::Hello(Hello { session, ack, compatible: feature::RING, ..Hello::new(tag.as_bytes()) })
            .encode(&mut bytes);
        bytes
    }

    /// The frame of an event.
    pub(crate) fn event(sequence: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Event { pri: 6, sequence, payload, ..Event::default() }.encode(&mut bytes);
        bytes
    }

    pub(crate) fn frame(frame: &Frame<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        bytes
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame; or the end, or that nothing has come within this time.
    pub(crate) fn hear(&mut self, timeout: Duration) -> Heard {
        let deadline = Instant::now() + timeout;
        loop {
            match Frame::decode(&self.bytes).expect("frames") {
                Some((frame, consumed)) => {
                    let heard = match frame {
                        Frame::Welcome(welcome) => Heard::Welcome { last: welcome.last },
                        Frame::Ack { level, sequence } => Heard::Ack { level, sequence },
                        Frame::Error(fault) => Heard::Error {
                            code: fault.code,
                            first: fault.first,
                            last: fault.last,
                            text: String::from_utf8_lossy(fault.text).into_owned(),
                        },
                        Frame::Grant { .. } => Heard::Granted,
                        other => panic!("no daemon says this: {other:?}"),
                    };
                    self.bytes.drain(..consumed);
                    return heard;
                }
                None if !self.has_come(deadline.saturating_duration_since(Instant::now())) => return Heard::Silence,
                None => match self.read() {
                    Ok(0) | Err(_) => return Heard::End,
                    Ok(_) => {}
                },
            }
        }
    }

    /// Whether the daemon has ended the connection. What it said before stays to be heard.
    pub(crate) fn has_ended(&mut self) -> bool {
        while self.has_come(Duration::ZERO) {
            if matches!(self.read(), Ok(0) | Err(_)) {
                return true;
            }
        }
        false
    }

    fn has_come(&self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).expect("a short time");
        poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    fn read(&mut self) -> io::Result<usize> {
        let (mut space, mut block) = ([MaybeUninit::uninit(); cmsg_space!(ScmRights(2))], [0; 4096]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut block)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.bytes.extend_from_slice(&block[..got.bytes]);
        Ok(got.bytes)
    }

    /// The ring that was granted.
    pub(crate) fn into_ring(mut self) -> Ring {
        let memory = Memory::of_file(&self.descriptors.pop().expect("memory")).expect("a ring");
        // It fences for itself.
        Ring { line: self, producer: RingProducer::new(memory, false) }
    }
}

/// A ring and its connection.
pub(crate) struct Ring {
    pub(crate) line: Framed,
    pub(crate) producer: RingProducer,
}

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// It is so.
    Done,
    /// The connection has ended.
    Ended,
    /// Neither, within the time.
    InVain,
}

impl Ring {
    /// Sends one event; None while there is no room.
    pub(crate) fn try_send(&mut self, payload: &[u8]) -> Option<()> {
        let bell = self.producer.push(&Event { pri: 6, payload, ..Event::default() }, Stamp::None).ok()?;
        if bell == Bell::Ring {
            self.ring_bell();
        }
        Some(())
    }

    pub(crate) fn ring_bell(&self) {
        let rung = send(&self.line.stream, &[DOORBELL], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        // A connection without room rings already; of its end the next look learns.
        assert!(matches!(rung, Ok(1) | Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET)), "the doorbell: {rung:?}");
    }

    /// Events that the daemon has taken.
    pub(crate) fn taken(&self) -> u64 {
        self.producer.memory().words().taken.load(Acquire)
    }

    pub(crate) fn persisted(&self) -> u64 {
        self.producer.memory().words().persisted.load(Acquire)
    }

    pub(crate) fn durable(&self) -> u64 {
        self.producer.memory().words().durable.load(Acquire)
    }

    pub(crate) fn lost(&self) -> u64 {
        self.producer.memory().words().lost.load(Acquire)
    }

    /// Asks that all so far becomes durable.
    pub(crate) fn ask_sync(&self) {
        self.producer.memory().words().sync.store(self.producer.events(), Relaxed);
    }

    /// Waits for something that is to be told with `wants`.
    pub(crate) fn wait(
        &mut self,
        wants: u32,
        timeout: Duration,
        is_done: impl Fn(&mut RingProducer) -> bool,
    ) -> Waited {
        let deadline = Instant::now() + timeout;
        let mut is_rung = false;
        let waited = loop {
            let turn = self.producer.want(wants);
            if is_done(&mut self.producer) {
                break Waited::Done;
            }
            if self.line.has_ended() {
                break if is_done(&mut self.producer) { Waited::Done } else { Waited::Ended };
            }
            if Instant::now() > deadline {
                break Waited::InVain;
            }
            if !std::mem::replace(&mut is_rung, true) {
                self.ring_bell();
            }
            self.producer.sleep(turn, RING_SLICE);
        };
        self.producer.want_no_more(wants);
        waited
    }

    /// Waits until all that was sent has been taken.
    pub(crate) fn wait_until_taken(&mut self, timeout: Duration) -> Waited {
        // Room is what the daemon tells of as it takes.
        self.wait(want::ROOM, timeout, |producer| producer.memory().words().taken.load(Acquire) >= producer.events())
    }
}
