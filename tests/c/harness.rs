//! Runs `clients/c/tests/driver.c` and plays the daemon that it talks to.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use dbuf_wire::frames::{Code, Event, Fault, Frame, Level, MAGIC, Welcome, feature, fields};
use dbuf_wire::ring::record::{self, HEAD_BYTES, RecordHead, Stamp};
use dbuf_wire::ring::{DOORBELL, Memory, Position, RingConsumer, flag};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use serde_json::Value;

use crate::support::{TIMEOUT, c, wait_for};

pub(crate) const CAPACITY: u64 = 64 << 10;
pub(crate) const EVERYTHING: u64 = feature::FIELDS | feature::RING;

// What dbuf.h returns.
pub(crate) const FULL: &str = "-1";
pub(crate) const TOO_BIG: &str = "-2";
pub(crate) const INVALID: &str = "-3";
pub(crate) const NO_DAEMON: &str = "-4";
pub(crate) const TIMED_OUT: &str = "-5";
pub(crate) const NOT_STORED: &str = "-6";
pub(crate) const CLAIM: &str = "-7";

/// Builds a program of clients/c/tests, once. It stops at the first invalid access.
pub(crate) fn program(name: &str) -> PathBuf {
    static BUILT: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    let built = &BUILT[usize::from(name == "driver")];
    let checks = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"];
    built.get_or_init(|| c::build(name, &checks)).clone()
}

/// Builds a program of clients/c/tests for one test.
pub(crate) fn build(folder: &Path, compiler: &str, flags: &[&str], source: &str) -> PathBuf {
    let to = folder.join(source.replace('.', "-"));
    let source = Path::new(c::FOLDER).join("tests").join(source);
    c::compile(compiler, flags, &source, &to).unwrap_or_else(|report| panic!("{report}"));
    to
}

pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    // A traced process cannot look for leaks.
    command.env("ASAN_OPTIONS", "detect_leaks=0").stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// The program under test.
pub(crate) struct Driver {
    pub(crate) child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    /// Its standard error.
    errors: File,
}

impl Driver {
    pub(crate) fn new() -> Self {
        Self::of(&mut command("driver"))
    }

    pub(crate) fn of(command: &mut Command) -> Self {
        let errors = tempfile::tempfile().expect("a file");
        Self::with_errors(command.stderr(errors.try_clone().expect("the same file")), errors)
    }

    /// Starts a command whose standard error is set up already.
    pub(crate) fn with_errors(command: &mut Command, errors: File) -> Self {
        let mut child = command.spawn().expect("the driver starts");
        let (to, from) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        Self { child, to, from: BufReader::new(from), errors }
    }

    /// Reads what it has written to standard error so far.
    pub(crate) fn errors(&mut self) -> String {
        let mut text = String::new();
        self.errors.rewind().expect("a file");
        self.errors.read_to_string(&mut text).expect("text");
        text
    }

    /// Ends its input. The driver then ends by itself; this side may have to play the daemon for that.
    pub(crate) fn end_input(&mut self) {
        self.to = None;
    }

    /// Ends it without closing anything. Returns what it has written to standard error.
    pub(crate) fn end(mut self) -> String {
        self.end_input();
        let status = self.child.wait().expect("it ends");
        let errors = self.errors();
        assert!(status.success(), "{status}: {errors}");
        errors
    }

    /// Begins something, while this side plays the daemon.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.to.as_ref().expect("a pipe"), "{line}").expect("the driver reads");
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the driver answers");
        assert!(line.ends_with('\n'), "the driver has died: {:?}: {}", self.child.wait(), self.errors());
        line.trim_end().to_string()
    }

    pub(crate) fn answers_within(&mut self, time: Duration) -> bool {
        let limit = Timespec::try_from(time).expect("a time");
        poll(&mut [PollFd::new(self.from.get_ref(), PollFlags::IN)], Some(&limit)).expect("a pipe") == 1
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str, wanted: &str) {
        let answer = self.ask(line);
        assert_eq!(answer, wanted, "{line}: {}", self.ask("error"));
    }

    #[track_caller]
    pub(crate) fn ok(&mut self, line: &str) {
        self.expect(line, "0");
    }

    pub(crate) fn count(&mut self, name: &str) -> u64 {
        let stats: Value = serde_json::from_str(&self.ask("stats")).expect("an object");
        stats[name].as_u64().unwrap_or_else(|| panic!("no {name} in {stats}"))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon that does what the test says.
pub(crate) struct Fake {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) listener: Option<UnixListener>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let mut fake = Self { folder: tempfile::tempdir().expect("a folder"), listener: None };
        fake.listen();
        fake
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("stream.sock")
    }

    pub(crate) fn listen(&mut self) {
        self.listener = Some(UnixListener::bind(self.path()).expect("a socket"));
    }

    pub(crate) fn stop(&mut self) {
        self.listener = None;
        std::fs::remove_file(self.path()).expect("the socket was there");
    }

    /// The line that opens a producer of this daemon.
    pub(crate) fn open(&self, wait_ms: u32, options: &str) -> String {
        format!("open {} {CAPACITY} {wait_ms} {options}", self.path().display())
    }

    /// Accepts the next connection and reads its HELLO.
    pub(crate) fn accept(&self) -> Line {
        let listener = self.listener.as_ref().expect("it listens");
        let limit = Timespec::try_from(TIMEOUT).expect("a time");
        assert_eq!(poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit)), Ok(1), "nobody has connected");
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut line = Line { stream, bytes: Vec::new(), session: 0, asks: 0 };
        let mut magic = [0; 8];
        line.stream.read_exact(&mut magic).expect("the magic");
        assert_eq!(magic, MAGIC);
        let Sent::Hello { session, asks } = line.read() else { panic!("the first frame is HELLO") };
        (line.session, line.asks) = (session, asks);
        line
    }

    /// Takes the next connection and gives it a ring.
    pub(crate) fn give_ring(&self) -> Ring {
        self.accept().welcome(EVERYTHING, 0).grant(flag::TICKS)
    }

    /// A program with a ring.
    pub(crate) fn with_ring(&self, driver: &mut Driver, wait_ms: u32, options: &str) -> Ring {
        driver.tell(&self.open(wait_ms, options));
        let ring = self.give_ring();
        assert_eq!(driver.answer(), "0");
        driver.ok("until ring");
        ring
    }

    /// A program that sends frames.
    pub(crate) fn with_frames(&self, driver: &mut Driver, wait_ms: u32) -> Line {
        driver.tell(&self.open(wait_ms, "-"));
        let mut line = self.accept().welcome(EVERYTHING, 0);
        line.refuse_ring();
        assert_eq!(driver.answer(), "0");
        driver.ok("until frames");
        line
    }
}

/// A frame from the client.
#[derive(Debug, PartialEq)]
pub(crate) enum Sent {
    Hello { session: u128, asks: u64 },
    Event(u64, Owned),
    Ring(u64),
    Sync,
    Bye,
    End,
}

/// An event, from a ring or a frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Owned {
    pub(crate) pri: u8,
    pub(crate) tag: Vec<u8>,
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) payload: Vec<u8>,
    pub(crate) time_ns: u64,
}

impl Owned {
    pub(crate) fn new(event: &Event<'_>, time_ns: u64) -> Self {
        let fields = fields(event.fields).map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        Self { pri: event.pri, tag: event.tag.to_vec(), fields, payload: event.payload.to_vec(), time_ns }
    }

    /// Checks that the event is whole, and returns the number that the driver has written into it.
    pub(crate) fn number(&self) -> u64 {
        let colon = self.payload.iter().position(|byte| *byte == b':').expect("a number");
        assert!(self.payload[colon + 1..].iter().all(|byte| *byte == b'x'), "{self:?}");
        str::from_utf8(&self.payload[..colon]).expect("digits").parse().expect("a number")
    }
}

/// A connection.
pub(crate) struct Line {
    pub(crate) stream: UnixStream,
    pub(crate) bytes: Vec<u8>,
    pub(crate) session: u128,
    pub(crate) asks: u64,
}

impl Drop for Line {
    fn drop(&mut self) {
        // The end of the daemon's process, although a child that another test has just forked still holds a copy.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Line {
    /// The next frame of the client.
    pub(crate) fn read(&mut self) -> Sent {
        loop {
            let (sent, used) = match Frame::decode(&self.bytes).expect("frames") {
                None => (None, 0),
                Some((frame, used)) => (Some(own(&frame)), used),
            };
            self.bytes.drain(..used);
            if let Some(sent) = sent {
                return sent;
            }
            let mut more = [0; 64 << 10];
            match self.stream.read(&mut more) {
                Ok(0) => return Sent::End,
                Ok(count) => self.bytes.extend_from_slice(&more[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Sent::End,
                Err(error) => panic!("no frame came: {error}"),
            }
        }
    }

    #[track_caller]
    pub(crate) fn read_event(&mut self) -> (u64, Owned) {
        match self.read() {
            Sent::Event(sequence, event) => (sequence, event),
            other => panic!("no event: {other:?}"),
        }
    }

    pub(crate) fn write(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).expect("the client is there");
    }

    pub(crate) fn welcome(mut self, granted: u64, last: u64) -> Self {
        let compatible = self.asks & granted;
        self.write(&Frame::Welcome(Welcome { version: 1, max_event: 20_000, compatible, incompatible: 0, last }));
        self
    }

    pub(crate) fn ack(&mut self, level: Level, sequence: u64) {
        self.write(&Frame::Ack { level, sequence });
    }

    pub(crate) fn error(&mut self, code: Code, first: u64, last: u64, text: &str) {
        self.write(&Frame::Error(Fault { code: code as u8, first, last, text: text.as_bytes() }));
    }

    pub(crate) fn refuse_ring(&mut self) {
        assert_eq!(self.read(), Sent::Ring(CAPACITY));
        self.error(Code::NoRing, 0, 0, "no more rings");
    }

    pub(crate) fn grant(mut self, flags: u64) -> Ring {
        assert_eq!(self.read(), Sent::Ring(CAPACITY));
        let (memory, file) = Memory::create(CAPACITY, flags).expect("memory");
        let mut reply = Vec::new();
        Frame::Grant { capacity: CAPACITY }.encode(&mut reply);
        let passed = [file.as_raw_fd()];
        let pieces = [std::io::IoSlice::new(&reply)];
        let rights = [ControlMessage::ScmRights(&passed)];
        sendmsg::<()>(self.stream.as_raw_fd(), &pieces, &rights, MsgFlags::empty(), None).expect("the client is there");
        Ring { line: self, consumer: RingConsumer::new(memory, &Position::default()), events: 0 }
    }
}

pub(crate) fn own(frame: &Frame<'_>) -> Sent {
    match frame {
        Frame::Hello(hello) => {
            assert_eq!((hello.name, hello.ack), (&b"driver"[..], Level::Persisted));
            Sent::Hello { session: hello.session, asks: hello.compatible }
        }
        Frame::Event(event) => Sent::Event(event.sequence, Owned::new(event, event.time_ns)),
        Frame::Ring { capacity } => Sent::Ring(*capacity),
        Frame::Sync => Sent::Sync,
        Frame::Bye => Sent::Bye,
        other => panic!("no client sends {other:?}"),
    }
}

/// The daemon's end of a ring.
pub(crate) struct Ring {
    pub(crate) line: Line,
    pub(crate) consumer: RingConsumer,
    pub(crate) events: u64,
}

impl Ring {
    /// Takes at most this many of the events that are there.
    pub(crate) fn take(&mut self, events_max: usize) -> Vec<Owned> {
        let waiting = self.consumer.look().expect("an honest client") as usize;
        let mut bytes = vec![0; waiting];
        self.consumer.copy(0, &mut bytes);
        let (mut at, mut events) = (0, Vec::new());
        while at < waiting && events.len() < events_max {
            let head = RecordHead::of_bytes(bytes[at..at + HEAD_BYTES].try_into().expect("a head"));
            if head.kind != record::kind::PAD {
                let body = &bytes[at + HEAD_BYTES..][..head.length as usize];
                let time_ns = match head.stamp {
                    Stamp::Nanoseconds(time) => time,
                    Stamp::None | Stamp::Ticks(_) => 0,
                };
                events.push(Owned::new(&record::event(&head, body).expect("an event"), time_ns));
            }
            at += head.record_bytes() as usize;
        }
        self.events += events.len() as u64;
        self.consumer.take(at as u64, self.events);
        events
    }

    pub(crate) fn take_all(&mut self) -> Vec<Owned> {
        self.take(usize::MAX)
    }

    pub(crate) fn numbers(&mut self) -> Vec<u64> {
        self.take_all().iter().map(Owned::number).collect()
    }

    /// How often the doorbell was rung since the last call.
    pub(crate) fn rings(&self) -> u64 {
        let mut bytes = [0xFF; 64];
        let read = recv(&self.line.stream, &mut bytes, RecvFlags::DONTWAIT).map_or(0, |(_, read)| read);
        assert!(bytes[..read].iter().all(|byte| *byte == DOORBELL), "{bytes:?}");
        read as u64
    }

    pub(crate) fn wait_for_wish(&self, bit: u32) {
        wait_for("a wish", || (self.consumer.wants() & bit != 0).then_some(()));
    }
}

pub(crate) fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.collect()
}
