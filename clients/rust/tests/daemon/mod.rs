//! Plays the daemon in a few lines: it does what a test says, step by step.

#![allow(dead_code, unreachable_pub, reason = "not every file of tests needs all of it")]

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dbuf_client::wire::{self, Code, Fault, Frame, HEAD_BYTES, Head, Level, MAGIC, Welcome, feature};
use dbuf_client::{LinkKind, Producer, ProducerOptions};
use dbuf_wire::ring::record::{self, RecordHead, Stamp, kind};
use dbuf_wire::ring::{DOORBELL, Memory, Position, RingConsumer, flag, state};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

pub const CAPACITY: u64 = 64 << 10;
/// After this time a test has failed.
pub const TIMEOUT: Duration = Duration::from_secs(60);
pub const BOTH: u64 = feature::FIELDS | feature::RING;

/// A socket in a directory that goes away.
pub struct Daemon {
    dir: tempfile::TempDir,
    listener: Option<UnixListener>,
}

impl Daemon {
    pub fn new() -> Self {
        let mut this = Self::absent();
        this.come();
        this
    }

    /// One that does not listen yet.
    pub fn absent() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), listener: None }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("stream.sock")
    }

    pub fn come(&mut self) {
        self.listener = Some(UnixListener::bind(self.path()).unwrap());
    }

    pub fn go(&mut self) {
        self.listener = None;
        std::fs::remove_file(self.path()).unwrap();
    }

    /// Has connections wait for it until its queue takes no more, and returns them.
    pub fn fill_queue(&self) -> Vec<OwnedFd> {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, listen, socket_with};
        listen(self.listener.as_ref().unwrap(), 0).unwrap();
        let address = SocketAddrUnix::new(self.path()).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let mut waiting = Vec::new();
        loop {
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            match connect(&socket, &address) {
                Ok(()) => waiting.push(socket),
                Err(error) => {
                    assert_eq!(error, rustix::io::Errno::AGAIN);
                    return waiting;
                }
            }
        }
    }

    /// Whether somebody has connected and is not accepted yet.
    pub fn is_called(&self) -> bool {
        is_ready_within(self.listener.as_ref().unwrap(), Duration::ZERO)
    }

    pub fn options(&self) -> ProducerOptions {
        ProducerOptions {
            name: "tests".into(),
            path: Some(self.path()),
            capacity_bytes: CAPACITY,
            close_wait: Duration::ZERO,
            quiet: true,
            ..ProducerOptions::default()
        }
    }

    /// The next connection, whose HELLO was read.
    pub fn accept(&self) -> Talk {
        let listener = self.listener.as_ref().unwrap();
        assert!(is_ready(listener), "no client connects");
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut talk = Talk { stream, session: 0, compatible: 0, ack: Level::None, name: Vec::new() };
        let mut magic = [0; MAGIC.len()];
        talk.stream.read_exact(&mut magic).unwrap();
        assert_eq!(magic, MAGIC);
        let bytes = talk.frame().expect("a HELLO");
        let Ok(Some((Frame::Hello(hello), _))) = Frame::decode(&bytes) else { panic!("no HELLO") };
        (talk.session, talk.compatible, talk.ack) = (hello.session, hello.compatible, hello.ack);
        talk.name = hello.name.to_vec();
        talk
    }

    /// A producer with a ring, and the daemon's end of it.
    pub fn ring(&self, options: ProducerOptions) -> (Producer, Talk, Ring) {
        self.ring_with(options, flag::TICKS)
    }

    pub fn ring_with(&self, options: ProducerOptions, flags: u64) -> (Producer, Talk, Ring) {
        let (producer, (talk, ring)) = self.open(options, |daemon| daemon.accept().into_ring(0, flags));
        (producer, talk, ring)
    }

    /// A producer that has to do with frames, for this daemon has no rings.
    pub fn frames(&self, options: ProducerOptions) -> (Producer, Talk) {
        self.open(options, |daemon| {
            let mut talk = daemon.accept();
            talk.welcome(0, feature::FIELDS);
            talk
        })
    }

    /// Opens a producer while the daemon plays, and waits until it is linked.
    pub fn open<T: Send>(&self, options: ProducerOptions, play: impl FnOnce(&Self) -> T + Send) -> (Producer, T) {
        std::thread::scope(|scope| {
            let player = scope.spawn(|| play(self));
            let mut producer = Producer::open(options).unwrap();
            until(&mut producer, |producer| producer.statistics().link != LinkKind::None);
            (producer, player.join().unwrap())
        })
    }

    /// The same for a producer that is there: it finds this daemon again.
    pub fn again<T: Send>(&self, producer: &mut Producer, play: impl FnOnce(&Self) -> T + Send) -> T {
        let links = producer.statistics().links;
        std::thread::scope(|scope| {
            let player = scope.spawn(|| play(self));
            until(producer, |producer| producer.statistics().links > links);
            player.join().unwrap()
        })
    }
}

/// Waits until something can be read.
fn is_ready(descriptor: &impl AsFd) -> bool {
    is_ready_within(descriptor, TIMEOUT)
}

fn is_ready_within(descriptor: &impl AsFd, timeout: Duration) -> bool {
    let mut polled = [rustix::event::PollFd::new(descriptor, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec::try_from(timeout).unwrap();
    rustix::event::poll(&mut polled, Some(&timeout)) == Ok(1)
}

/// Has the producer tend its link, as a send does, until the condition holds.
pub fn until(producer: &mut Producer, is_so: impl Fn(&Producer) -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        producer.tend();
        if is_so(producer) {
            return;
        }
        assert!(Instant::now() < deadline, "it never came: {:?}", producer.statistics());
        // Spares the machine, and decides nothing.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A connection, as the daemon sees it.
pub struct Talk {
    pub stream: UnixStream,
    pub session: u128,
    pub compatible: u64,
    pub ack: Level,
    pub name: Vec<u8>,
}

impl Drop for Talk {
    fn drop(&mut self) {
        // The end of the daemon's process, whatever else holds the connection in the test.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// An event that has come by a frame or a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    pub sequence: u64,
    pub pri: u8,
    pub tag: Vec<u8>,
    pub fields: Vec<(String, String)>,
    pub payload: Vec<u8>,
    pub stamp: Stamp,
}

impl Came {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn new(event: &wire::Event<'_>, stamp: Stamp) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self {
            sequence: event.sequence,
            pri: event.pri,
            tag: event.tag.to_vec(),
            fields: wire::fields(event.fields).map(|(name, value)| (text(name), text(value))).collect(),
            payload: event.payload.to_vec(),
            stamp,
        }
    }
}

impl Talk {
    /// The bytes of the next frame; None at the end of the connection.
    pub fn frame(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; HEAD_BYTES];
        if self.stream.read_exact(&mut bytes).is_err() {
            return None;
        }
        let head = Head::decode(&bytes).unwrap().unwrap();
        bytes.resize(head.frame_bytes(), 0);
        self.stream.read_exact(&mut bytes[HEAD_BYTES..]).unwrap();
        Some(bytes)
    }

    pub fn say(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn welcome(&mut self, last: u64, compatible: u64) {
        let compatible = compatible & self.compatible;
        self.say(&Frame::Welcome(Welcome { version: 1, max_event: 20_000, compatible, incompatible: 0, last }));
    }

    pub fn fault(&mut self, code: Code, first: u64, last: u64, text: &str) {
        self.say(&Frame::Error(Fault { code: code as u8, first, last, text: text.as_bytes() }));
    }

    pub fn ack(&mut self, level: Level, sequence: u64) {
        self.say(&Frame::Ack { level, sequence });
    }

    /// The next frames, this many, which are events.
    pub fn events(&mut self, count: usize) -> Vec<Came> {
        (0..count).map(|_| self.event()).collect()
    }

    pub fn event(&mut self) -> Came {
        let bytes = self.frame().expect("the connection has ended");
        match Frame::decode(&bytes).unwrap().unwrap().0 {
            Frame::Event(event) if event.time_ns == 0 => Came::new(&event, Stamp::None),
            Frame::Event(event) => Came::new(&event, Stamp::Nanoseconds(event.time_ns)),
            other => panic!("no event: {other:?}"),
        }
    }

    /// All events until the client says goodbye.
    pub fn events_until_bye(&mut self) -> Vec<Came> {
        let mut came = Vec::new();
        loop {
            let bytes = self.frame().expect("an end without goodbye");
            match Frame::decode(&bytes).unwrap().unwrap().0 {
                Frame::Event(event) => came.push(Came::new(&event, Stamp::None)),
                Frame::Bye => return came,
                other => panic!("no event: {other:?}"),
            }
        }
    }

    pub fn is_kind(&mut self, kind: u8) -> bool {
        self.frame().is_some_and(|bytes| bytes[4] == kind)
    }

    /// Answers HELLO, reads RING, and gives one.
    pub fn into_ring(self, last: u64, flags: u64) -> (Self, Ring) {
        self.into_ring_in(state::AWAKE, last, flags)
    }

    /// The same of a daemon in this state.
    pub fn into_ring_in(mut self, state: u64, last: u64, flags: u64) -> (Self, Ring) {
        self.welcome(last, BOTH);
        let capacity = self.asks_for_ring();
        let (memory, file) = Memory::create(capacity, flags).unwrap();
        let mut consumer = RingConsumer::new(memory, &Position::default());
        consumer.set_state(state);
        consumer.tell_max_event(20_000);
        self.grant(capacity, &file);
        let connection = self.stream.try_clone().unwrap();
        (self, Ring { consumer, connection, events: 0 })
    }

    pub fn asks_for_ring(&mut self) -> u64 {
        let bytes = self.frame().expect("a RING");
        let Ok(Some((Frame::Ring { capacity }, _))) = Frame::decode(&bytes) else { panic!("no RING") };
        capacity
    }

    pub fn grant(&self, capacity: u64, memory: &OwnedFd) {
        let mut bytes = Vec::new();
        Frame::Grant { capacity }.encode(&mut bytes);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [memory.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        rustix::net::sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }
}

/// The daemon's end of a ring.
pub struct Ring {
    pub consumer: RingConsumer,
    /// The doorbell comes on it.
    pub connection: UnixStream,
    pub events: u64,
}

impl Ring {
    /// Takes at most this many events.
    pub fn take(&mut self, count: usize) -> Vec<Came> {
        let waiting = self.consumer.look().unwrap() as usize;
        let mut bytes = vec![0; waiting];
        self.consumer.copy(0, &mut bytes);
        let (mut at, mut came) = (0, Vec::new());
        while at < waiting && came.len() < count {
            let head = RecordHead::of_bytes(bytes[at..at + 16].try_into().unwrap());
            if head.kind != kind::PAD {
                let body = &bytes[at + 16..][..head.length as usize];
                self.events += 1;
                let mut event = record::event(&head, body).unwrap();
                event.sequence = self.events;
                came.push(Came::new(&event, head.stamp));
            }
            at += head.record_bytes() as usize;
        }
        self.consumer.take(at as u64, self.events);
        came
    }

    pub fn take_all(&mut self) -> Vec<Came> {
        self.take(usize::MAX)
    }

    /// How often the bell was rung since the last call.
    pub fn rings(&self) -> u64 {
        let mut bytes = [0xFF; 64];
        let flags = rustix::net::RecvFlags::DONTWAIT;
        let read = rustix::net::recv(&self.connection, &mut bytes, flags).map_or(0, |(_, read)| read);
        assert!(bytes[..read].iter().all(|byte| *byte == DOORBELL), "{bytes:?}");
        read as u64
    }

    /// Waits until the bell is rung.
    pub fn wait_for_bell(&self) {
        assert!(is_ready(&self.connection), "the bell is not rung");
        assert!(self.rings() > 0);
    }
}

pub fn texts(came: &[Came]) -> Vec<&str> {
    came.iter().map(Came::text).collect()
}

/// The texts from one number to another.
pub fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..=to).map(|number| format!("event {number}")).collect()
}

/// Sends the events of these numbers.
pub fn send_numbers(producer: &mut Producer, from: usize, to: usize) {
    for text in numbers(from, to) {
        producer.send(6, text.as_bytes()).unwrap();
    }
}

/// Runs `run` in a forked child; its exit status.
pub fn in_child(run: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child runs code of this test and of the library, takes no lock that another thread could hold (the C
    // library sees to its allocator's), and ends without running anything of the parent's.
    match unsafe { libc::fork() } {
        0 => {
            let is_fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(false);
            // SAFETY: as above.
            unsafe { libc::_exit(if is_fine { 0 } else { 1 }) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the child is this process's own, and the status is there to be written.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            status
        }
    }
}
