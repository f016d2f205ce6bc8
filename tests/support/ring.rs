//! A program's end of a ring, with nothing between it and the protocol.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use dbuf_wire::frames::{Event, Frame, Hello, MAGIC, feature};
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{Bell, DOORBELL, Memory, RingProducer, want};
use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

use super::TIMEOUT;

/// Rings the doorbell of a ring. A connection without room rings already; of one that has ended the next look learns.
pub fn ring_doorbell(line: &UnixStream) {
    let sent = send(line, &[DOORBELL], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    assert!(matches!(sent, Ok(1) | Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET)), "the doorbell: {sent:?}");
}

/// A ring and its connection.
pub struct RingClient {
    pub line: UnixStream,
    pub ring: RingProducer,
    /// The longest that a send has waited for room.
    pub longest_wait: Duration,
    pub rung: u64,
}

impl RingClient {
    /// Asks for a ring, and gets one.
    pub fn open(socket: &Path, name: &str, capacity: u64) -> Self {
        let mut line = UnixStream::connect(socket).expect("the daemon listens");
        line.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut opening = MAGIC.to_vec();
        Frame::Hello(Hello { compatible: feature::RING, ..Hello::new(name.as_bytes()) }).encode(&mut opening);
        line.write_all(&opening).expect("HELLO");
        // A head and the fixed part of a WELCOME.
        line.read_exact(&mut [0; 48]).expect("WELCOME");
        let mut request = Vec::new();
        Frame::Ring { capacity }.encode(&mut request);
        line.write_all(&request).expect("RING");
        let (mut space, mut bytes) = ([MaybeUninit::uninit(); cmsg_space!(ScmRights(2))], [0; 200]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&line, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let got = got.expect("an answer").bytes;
        let granted = Frame::decode(&bytes[..got]).expect("a frame");
        assert_eq!(granted, Some((Frame::Grant { capacity }, got)));
        let mut descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let memory = descriptors.next().expect("memory");
        // Whether membarrier(2) reaches this process is not this client's business: it fences.
        let ring = RingProducer::new(Memory::of_file(&memory).expect("a ring"), false);
        Self { line, ring, longest_wait: Duration::ZERO, rung: 0 }
    }

    /// Sends one event; waits for room as long as it takes.
    pub fn send(&mut self, payload: &[u8]) {
        let event = Event { pri: 6, payload, ..Event::default() };
        loop {
            match self.ring.push(&event, Stamp::None) {
                Ok(Bell::Silent) => return,
                Ok(Bell::Ring) => return self.ring_bell(),
                Err(_) => self.wait_for_room(payload.len()),
            }
        }
    }

    fn wait_for_room(&mut self, bytes: usize) {
        let began = Instant::now();
        loop {
            let turn = self.ring.want(want::ROOM);
            if self.ring.has_room(bytes) {
                break;
            }
            assert!(began.elapsed() < TIMEOUT, "the daemon takes nothing");
            self.ring_bell();
            self.ring.sleep(turn, Duration::from_millis(100));
        }
        self.ring.want_no_more(want::ROOM);
        self.longest_wait = self.longest_wait.max(began.elapsed());
    }

    pub fn ring_bell(&mut self) {
        self.rung += 1;
        ring_doorbell(&self.line);
    }

    /// Whether the daemon has ended the connection.
    pub fn has_ended(&mut self) -> bool {
        self.line.set_nonblocking(true).expect("an option");
        !self.line.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
