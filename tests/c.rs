//! `clients/c/dbuf.h`: its compilers, its bytes, and how it behaves towards a daemon. The daemon is played here, but
//! for one test with the real one; the program is `clients/c/tests/driver.c`, which does what it is told line by line.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use dbuf_wire::frames::{Code, Event, Fault, Frame, Level, MAGIC, Welcome, feature, fields};
use dbuf_wire::ring::record::{self, HEAD_BYTES, RecordHead, Stamp};
use dbuf_wire::ring::{DOORBELL, Memory, Position, RingConsumer, flag, state, want};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{RecvFlags, recv};
use serde_json::Value;
use support::c::{self, FOLDER, compile};
use support::{Home, TIMEOUT, wait_for};

const CAPACITY: u64 = 64 << 10;
const EVERYTHING: u64 = feature::FIELDS | feature::RING;

// What dbuf.h returns.
const FULL: &str = "-1";
const TOO_BIG: &str = "-2";
const INVALID: &str = "-3";
const NO_DAEMON: &str = "-4";
const TIMED_OUT: &str = "-5";
const NOT_STORED: &str = "-6";
const CLAIM: &str = "-7";

/// A program of clients/c/tests, built once, so that it stops at the first wrong access.
fn program(name: &str) -> PathBuf {
    static BUILT: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    let built = &BUILT[usize::from(name == "driver")];
    let checks = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"];
    built.get_or_init(|| c::build(name, &checks)).clone()
}

fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    // Who is traced, or runs in a box, cannot look for leaks.
    command.env("ASAN_OPTIONS", "detect_leaks=0").stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// The program under test.
struct Driver {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Driver {
    fn new() -> Self {
        let mut child = command("driver").spawn().expect("the driver starts");
        let (to, from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { child, to, from: BufReader::new(from) }
    }

    /// Begins something, while this side plays the daemon.
    fn tell(&mut self, line: &str) {
        writeln!(self.to, "{line}").expect("the driver reads");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the driver answers");
        assert!(line.ends_with('\n'), "the driver has died: {:?}", self.child.wait());
        line.trim_end().to_string()
    }

    fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.answer()
    }

    #[track_caller]
    fn expect(&mut self, line: &str, wanted: &str) {
        let answer = self.ask(line);
        assert_eq!(answer, wanted, "{line}: {}", self.ask("error"));
    }

    #[track_caller]
    fn ok(&mut self, line: &str) {
        self.expect(line, "0");
    }

    fn count(&mut self, name: &str) -> u64 {
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

/// A daemon that does as the test says.
struct Fake {
    folder: tempfile::TempDir,
    listener: Option<UnixListener>,
}

impl Fake {
    fn new() -> Self {
        let mut fake = Self { folder: tempfile::tempdir().expect("a folder"), listener: None };
        fake.listen();
        fake
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("stream.sock")
    }

    fn listen(&mut self) {
        self.listener = Some(UnixListener::bind(self.path()).expect("a socket"));
    }

    fn stop(&mut self) {
        self.listener = None;
        std::fs::remove_file(self.path()).expect("the socket was there");
    }

    /// What opens a producer that would use it.
    fn open(&self, wait_ms: u32, options: &str) -> String {
        format!("open {} {CAPACITY} {wait_ms} {options}", self.path().display())
    }

    /// The next connection, as far as its HELLO.
    fn accept(&self) -> Line {
        let (stream, _) = self.listener.as_ref().expect("it listens").accept().expect("a connection");
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
    fn give_ring(&self) -> Ring {
        self.accept().welcome(EVERYTHING, 0).grant(flag::TICKS)
    }

    /// A program with a ring.
    fn with_ring(&self, driver: &mut Driver, wait_ms: u32, options: &str) -> Ring {
        driver.tell(&self.open(wait_ms, options));
        let ring = self.give_ring();
        assert_eq!(driver.answer(), "0");
        driver.ok("until ring");
        ring
    }

    /// A program that sends frames.
    fn with_frames(&self, driver: &mut Driver, wait_ms: u32) -> Line {
        driver.tell(&self.open(wait_ms, "-"));
        let mut line = self.accept().welcome(EVERYTHING, 0);
        line.refuse_ring();
        assert_eq!(driver.answer(), "0");
        driver.ok("until frames");
        line
    }
}

/// A frame of the client's.
#[derive(Debug, PartialEq)]
enum Sent {
    Hello { session: u128, asks: u64 },
    Event(u64, Owned),
    Ring(u64),
    Sync,
    Bye,
    End,
}

/// An event, however it came.
#[derive(Clone, Debug, Default, PartialEq)]
struct Owned {
    pri: u8,
    tag: Vec<u8>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    payload: Vec<u8>,
    time_ns: u64,
}

impl Owned {
    fn new(event: &Event<'_>, time_ns: u64) -> Self {
        let fields = fields(event.fields).map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        Self { pri: event.pri, tag: event.tag.to_vec(), fields, payload: event.payload.to_vec(), time_ns }
    }

    /// The number that the driver has written into it, having made sure that it is whole.
    fn number(&self) -> u64 {
        let colon = self.payload.iter().position(|byte| *byte == b':').expect("a number");
        assert!(self.payload[colon + 1..].iter().all(|byte| *byte == b'x'), "{self:?}");
        str::from_utf8(&self.payload[..colon]).expect("digits").parse().expect("a number")
    }
}

/// A connection.
struct Line {
    stream: UnixStream,
    bytes: Vec<u8>,
    session: u128,
    asks: u64,
}

impl Line {
    /// The next frame of the client.
    fn read(&mut self) -> Sent {
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
    fn read_event(&mut self) -> (u64, Owned) {
        match self.read() {
            Sent::Event(sequence, event) => (sequence, event),
            other => panic!("no event: {other:?}"),
        }
    }

    fn write(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).expect("the client is there");
    }

    fn welcome(mut self, granted: u64, last: u64) -> Self {
        let compatible = self.asks & granted;
        self.write(&Frame::Welcome(Welcome { version: 1, max_event: 20_000, compatible, incompatible: 0, last }));
        self
    }

    fn ack(&mut self, level: Level, sequence: u64) {
        self.write(&Frame::Ack { level, sequence });
    }

    fn error(&mut self, code: Code, first: u64, last: u64, text: &str) {
        self.write(&Frame::Error(Fault { code: code as u8, first, last, text: text.as_bytes() }));
    }

    fn refuse_ring(&mut self) {
        assert_eq!(self.read(), Sent::Ring(CAPACITY));
        self.error(Code::NoRing, 0, 0, "no more rings");
    }

    fn grant(mut self, flags: u64) -> Ring {
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

fn own(frame: &Frame<'_>) -> Sent {
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
struct Ring {
    line: Line,
    consumer: RingConsumer,
    events: u64,
}

impl Ring {
    /// Takes at most this many events of those that are there.
    fn take(&mut self, events_max: usize) -> Vec<Owned> {
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

    fn take_all(&mut self) -> Vec<Owned> {
        self.take(usize::MAX)
    }

    fn numbers(&mut self) -> Vec<u64> {
        self.take_all().iter().map(Owned::number).collect()
    }

    /// How often the bell was rung since the last look.
    fn rings(&self) -> u64 {
        let mut bytes = [0xFF; 64];
        let read = recv(&self.line.stream, &mut bytes, RecvFlags::DONTWAIT).map_or(0, |(_, read)| read);
        assert!(bytes[..read].iter().all(|byte| *byte == DOORBELL), "{bytes:?}");
        read as u64
    }

    fn wait_for_wish(&self, bit: u32) {
        wait_for("a wish", || (self.consumer.wants() & bit != 0).then_some(()));
    }
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn the_header_compiles_without_a_warning_as_c_and_as_cpp() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty.c");
    let twice = folder.path().join("twice.c");
    std::fs::write(&empty, "#include \"dbuf.h\"\nint main(void) { return 0; }\n").expect("a file");
    // What is in no example, and the header a second time, after others.
    std::fs::write(
        &twice,
        "#include <stdio.h>\n#include \"dbuf.h\"\n#include \"dbuf.h\"\nint other(dbuf_producer *p);\n\
         int other(dbuf_producer *p) {\n\
         dbuf_options o = dbuf_options_default();\nreturn dbuf_log_options(&o) + \
         dbuf_send_within(p, DBUF_INFO, \"x\", 1, 5) + dbuf_tend(p);\n}\n",
    )
    .expect("a file");
    let example = |name: &str| Path::new(FOLDER).join("examples").join(name);
    let c = [empty.clone(), example("hello.c"), example("fields.c"), example("bench.c")];
    let cpp = [empty, example("hello.c"), example("threads.cpp")];
    let to = folder.path().join("out");
    std::thread::scope(|scope| {
        for (compiler, mode, sources) in [
            ("gcc", &["-std=c11", "-O2"][..], &c[..]),
            ("clang", &["-std=c11", "-O2"], &c),
            ("g++", &["-x", "c++", "-std=c++17", "-O2"], &cpp),
            ("clang++", &["-x", "c++", "-std=c++17", "-O2"], &cpp),
            ("gcc", &["-std=gnu11", "-O0", "-c"], std::slice::from_ref(&twice)),
            ("g++", &["-x", "c++", "-std=c++20", "-O3", "-c"], std::slice::from_ref(&twice)),
        ] {
            if compiler.starts_with("clang") && c::is_skipped(compiler) {
                continue;
            }
            let to = to.with_extension(format!("{compiler}{}", mode.len()));
            scope.spawn(move || {
                for source in sources {
                    let mode: Vec<&str> = mode.iter().copied().chain(["-pthread"]).collect();
                    compile(compiler, &mode, source, &to).unwrap_or_else(|report| panic!("{report}"));
                }
            });
        }
    });
}

/// Several files of one program include the header, some of them C++: they share what a program must have once.
#[test]
fn files_of_c_and_of_cpp_make_one_program_with_one_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let c = write("one.c", "#include \"dbuf.h\"\nvoid *one(void);\nvoid *one(void) { return dbuf_log_producer(); }\n");
    let cpp = write(
        "two.cpp",
        "#include \"dbuf.h\"\nextern \"C\" void *one(void);\nint main() {\n  dbuf_options o = dbuf_options_default();\n\
         o.socket = \"/dev/null/nobody\";\n  dbuf_log_options(&o);\n  return one() != nullptr && \
         one() == dbuf_log_producer() ? 0 : 1;\n}\n",
    );
    let (one, two, all) = (folder.path().join("one.o"), folder.path().join("two.o"), folder.path().join("all"));
    compile("gcc", &["-std=c11", "-c"], &c, &one).expect("it compiles");
    compile("g++", &["-std=c++17", "-c"], &cpp, &two).expect("it compiles");
    let linked =
        Command::new("g++").arg(&one).arg(&two).arg("-pthread").arg("-o").arg(&all).status().expect("g++ runs");
    assert!(linked.success());
    assert!(Command::new(&all).status().expect("it runs").success(), "each file has its own");
}

fn golden(name: &str) -> Vec<Value> {
    let path = Path::new(FOLDER).join("../golden").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).expect("golden vectors")).expect("a list")
}

/// A text of the vector, `-` for an empty one.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    match value[key].as_str().unwrap_or_else(|| panic!("no text {key} in {value}")) {
        "" => "-",
        text => text,
    }
}

fn golden_fields(event: &Value) -> String {
    let fields: Vec<String> = event.get("fields").and_then(Value::as_array).into_iter().flatten().map(field).collect();
    return if fields.is_empty() { "-".into() } else { fields.join(",") };
    fn field(field: &Value) -> String {
        let part = |key: &str| field[key].as_str().expect("a text").to_string();
        format!("{}={}", part("name"), part("value"))
    }
}

fn level(frame: &Value, key: &str) -> usize {
    ["none", "persisted", "durable"].iter().position(|name| Some(*name) == frame[key].as_str()).expect("a level")
}

/// What the golden program is asked to write for a frame; None where a client of C never would.
fn to_write(frame: &Value) -> Option<String> {
    Some(match text(frame, "kind") {
        "hello" => format!(
            "hello {} {} {} {} {} {} {}",
            text(frame, "name"),
            level(frame, "ack"),
            frame["version"],
            frame["version_min"],
            frame["compatible"],
            frame["incompatible"],
            text(frame, "session")
        ),
        // A tag that is too long is refused, not cut.
        "event" if text(frame, "tag").len() <= 128 => format!(
            "event {} {} {} {} {} {}",
            frame["pri"],
            text(frame, "tag"),
            frame["time_ns"],
            golden_fields(frame),
            text(frame, "payload"),
            frame["sequence"]
        ),
        "sync" => "sync".into(),
        "bye" => "bye".into(),
        "ring" => format!("asking {}", frame["capacity"]),
        _ => return None,
    })
}

/// What the golden program is to make of a frame; None where no daemon sends it.
fn to_read(frame: &Value) -> Option<String> {
    Some(match text(frame, "kind") {
        "welcome" => format!(
            "welcome {} {} {} {} {}",
            frame["last"], frame["max_event"], frame["version"], frame["compatible"], frame["incompatible"]
        ),
        "ack" => format!("ack {} {}", level(frame, "level"), frame["sequence"]),
        "error" => format!("error {} {} {} {}", frame["code"], frame["first"], frame["last"], text(frame, "text")),
        "grant" => format!("grant {}", frame["capacity"]),
        "ignored" => format!("ignored {}", frame["number"]),
        _ => return None,
    })
}

/// Questions, and what is to be answered, `..` standing for any byte.
fn golden_questions() -> Vec<(String, String)> {
    let mut questions = Vec::new();
    for vector in golden("frames.json") {
        let hex = text(&vector, "hex");
        if vector.get("error").is_some() {
            questions.push((format!("read {hex}"), "refused".into()));
            continue;
        }
        let only = vector.get("only").and_then(Value::as_str);
        if let Some(question) = to_write(&vector["frame"]).filter(|_| only != Some("decode")) {
            questions.push((question, hex.into()));
        }
        // Frames of clients are refused by a client.
        let reading = to_read(&vector["frame"]).unwrap_or("refused".into());
        if only != Some("encode") {
            questions.push((format!("read {hex}"), reading));
        }
    }
    for vector in golden("ring.json") {
        let mut question = format!("ring {} {}\n", vector["capacity"], vector["start"]);
        for event in vector["events"].as_array().expect("a list") {
            let clock = ["none", "nanoseconds", "ticks"].iter().position(|name| *name == text(event, "clock"));
            question += &format!(
                "put {} {} {} {} {} {}\n",
                event["pri"],
                text(event, "tag"),
                clock.expect("a clock"),
                event["time"],
                golden_fields(event),
                text(event, "payload")
            );
        }
        questions.push((question + "dump", format!("{} {}", vector["head"], text(&vector, "hex"))));
    }
    questions
}

#[test]
fn every_golden_vector_is_what_the_header_writes_and_reads() {
    let questions = golden_questions();
    assert!(questions.len() > 60, "the golden vectors were not found");
    let mut child = command("golden").spawn().expect("the golden program starts");
    let mut to = child.stdin.take().expect("a pipe");
    let mut from = BufReader::new(child.stdout.take().expect("a pipe"));
    for (question, wanted) in questions {
        writeln!(to, "{question}").expect("it reads");
        to.flush().expect("it reads");
        let mut answer = String::new();
        from.read_line(&mut answer).expect("it answers");
        let is_same = answer.trim_end().len() == wanted.len()
            && answer.bytes().zip(wanted.bytes()).all(|(is, golden)| is == golden || golden == b'.');
        assert!(is_same, "{question}\nis  {answer}not {wanted}");
    }
    drop(to);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn events_arrive_whole_and_in_order_through_the_ring() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    let mut next = 1;
    // Sizes that meet the end of the data at every place, many times over.
    for round in 0..60 {
        for bytes in [10, 100, 1000 + round, 5000, 9973] {
            driver.ok(&format!("send {bytes}"));
        }
        driver.ok("send 33 100");
        let events = ring.take_all();
        assert_eq!(events.iter().map(|event| event.payload.len()).nth(4), Some(9973));
        assert_eq!(events.iter().map(Owned::number).collect::<Vec<_>>(), numbers(next..=next + 104));
        next += 105;
    }
    assert!(ring.consumer.tail() > 15 * CAPACITY && !ring.consumer.is_torn());
    assert_eq!(driver.count("events"), next - 1);
    assert_eq!((driver.count("waiting"), driver.count("lost_full"), driver.count("doorbells")), (0, 0, 0));
}

#[test]
fn an_event_has_its_tag_its_fields_and_its_time_whichever_way_it_takes() {
    let wanted = Owned {
        pri: 3,
        tag: b"billing".to_vec(),
        fields: vec![(b"ORDER".to_vec(), b"17".to_vec()), (b"NOTE".to_vec(), Vec::new())],
        payload: b"refused".to_vec(),
        time_ns: 1_700_000_000_000_000_000,
    };
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("event refused");
    assert_eq!(ring.take_all(), std::slice::from_ref(&wanted));

    let mut driver = Driver::new();
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("event refused");
    assert_eq!(line.read_event(), (1, wanted.clone()));

    // A daemon that takes no fields gets the rest.
    let mut driver = Driver::new();
    driver.tell(&fake.open(0, "-"));
    let mut line = fake.accept().welcome(0, 0);
    assert_eq!(driver.answer(), "0");
    driver.ok("until frames");
    driver.ok("event refused");
    driver.ok("send 20");
    assert_eq!(line.read_event(), (1, Owned { fields: Vec::new(), ..wanted }));
    assert_eq!(line.read_event().1.number(), 2);
}

#[test]
fn events_are_stamped_with_ticks_only_where_the_ring_allows_it_and_not_at_all_if_nobody_wants_it() {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let clock_of = |ring: &mut Ring| {
        ring.consumer.look().unwrap();
        let mut head = [0; HEAD_BYTES];
        ring.consumer.copy(0, &mut head);
        ring.take_all();
        RecordHead::of_bytes(&head).stamp
    };
    let fake = Fake::new();
    let mut driver = Driver::new();
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 9");
    assert!(matches!(clock_of(&mut ring), Stamp::Ticks(1..)));

    let mut driver = Driver::new();
    driver.tell(&fake.open(0, "-"));
    let mut ring = fake.accept().welcome(EVERYTHING, 0).grant(0);
    assert_eq!(driver.answer(), "0");
    driver.ok("until ring");
    let before = now();
    driver.ok("send 9");
    let Stamp::Nanoseconds(time) = clock_of(&mut ring) else { panic!("nanoseconds") };
    assert!(before <= time && time <= now());

    let mut driver = Driver::new();
    let mut ring = fake.with_ring(&mut driver, 0, "s");
    driver.ok("send 9 200");
    assert_eq!(clock_of(&mut ring), Stamp::None);
}

#[test]
fn events_go_by_frames_where_the_ring_is_refused() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    assert!(line.session != 0 && line.asks == EVERYTHING);
    // More than a socket holds, so that frames are cut anywhere.
    driver.tell("fill 3000");
    let sent: u64 = driver.answer().parse().expect("a number");
    assert!(sent >= 20);
    for sequence in 1..=sent {
        let (is, event) = line.read_event();
        assert_eq!((is, event.number(), event.payload.len()), (sequence, sequence, 3000));
    }
    // Nothing is acknowledged: there is no room.
    driver.expect("send 3000", FULL);
    assert_eq!(driver.count("lost_full"), 1);
    line.ack(Level::Persisted, sent - 1);
    wait_for("room", || (driver.ask("send 3000") == "0").then_some(()));
    assert_eq!(line.read_event().0, sent + 1);
    assert_eq!(driver.count("persisted"), sent - 1);
    line.ack(Level::Persisted, sent + 1);
    driver.ok("close");
    assert_eq!((line.read(), line.read()), (Sent::Bye, Sent::End));
}

#[test]
fn a_frame_that_the_socket_takes_in_parts_goes_on_where_it_was_cut() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    driver.tell(&format!("open {} {} 0 r", fake.path().display(), 1 << 20));
    let mut line = fake.accept().welcome(EVERYTHING, 0);
    assert_eq!(driver.answer(), "0");
    driver.ok("until frames");
    // Some 900 KB, more than a socket holds, of which nothing is read at first.
    driver.ok("send 2999 300");
    driver.tell("sync 60000");
    for sequence in 1..=300 {
        let (is, event) = line.read_event();
        assert_eq!((is, event.number(), event.payload.len()), (sequence, sequence, 2999));
    }
    assert_eq!(line.read(), Sent::Sync);
    line.ack(Level::Durable, 300);
    assert_eq!(driver.answer(), "0");
    assert_eq!(driver.count("waiting"), 0);
}

/// Bytes that the client has written and this side has not read.
fn unread(line: &Line) -> u64 {
    rustix::io::ioctl_fionread(&line.stream).expect("a socket")
}

#[test]
fn a_sync_that_finds_the_socket_full_of_events_waits_for_room_on_the_same_connection() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let open = format!("open {} {} 0 r", fake.path().display(), 1 << 20);
    let connect = |driver: &mut Driver| {
        driver.tell(&open);
        let line = fake.accept().welcome(EVERYTHING, 0);
        assert_eq!(driver.answer(), "0");
        driver.ok("until frames");
        line
    };
    // How many events fill a socket, so that the next finds no room.
    let line = connect(&mut driver);
    let mut fits = 0;
    loop {
        let before = unread(&line);
        driver.ok("send 2999");
        if unread(&line) == before {
            break;
        }
        fits += 1;
    }
    drop((line, driver));

    let mut driver = Driver::new();
    let mut line = connect(&mut driver);
    driver.ok(&format!("send 2999 {fits}"));
    let full = unread(&line);
    driver.expect("sync 20", TIMED_OUT);
    assert_eq!((unread(&line), driver.count("links")), (full, 1));
    driver.tell("sync 60000");
    for sequence in 1..=fits {
        assert_eq!(line.read_event().0, sequence);
    }
    assert_eq!(line.read(), Sent::Sync);
    line.ack(Level::Durable, fits);
    assert_eq!(driver.answer(), "0");
}

#[test]
fn who_wants_no_ring_does_not_ask_for_one() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    driver.tell(&fake.open(0, "r"));
    let mut line = fake.accept();
    assert_eq!(line.asks, feature::FIELDS);
    line = line.welcome(EVERYTHING, 0);
    assert_eq!(driver.answer(), "0");
    driver.ok("send 9");
    assert_eq!(line.read_event().0, 1);
}

#[test]
fn events_are_kept_without_a_daemon_and_delivered_when_one_comes() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    fake.stop();
    driver.ok(&fake.open(0, "-"));
    driver.ok("send 100 50");
    driver.ok("errno");
    assert_eq!((driver.count("events"), driver.count("link")), (52, 0));
    assert!(driver.ask("error").starts_with("cannot connect to "));
    // As many as fit, and the rest is counted.
    let kept: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.expect("send 1000", FULL);
    fake.listen();
    driver.tell("until ring");
    let mut ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    let events = ring.take_all();
    assert_eq!(events.len() as u64, 52 + kept);
    assert_eq!(events[50].payload, b"kept");
    assert_eq!(events[49].number(), 50);
    assert!(events.iter().all(|event| event.time_ns > 0), "they have the time at which they were sent");
    assert_eq!(ring.consumer.losses(), Ok((1, 1000)), "the daemon learns what found no room");
    driver.ok("send 9");
    assert_eq!(ring.numbers(), [51 + kept]);
}

#[test]
fn who_cannot_do_without_a_daemon_is_told_that_there_is_none() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    fake.stop();
    driver.tell(&fake.open(0, "f"));
    assert_eq!(driver.answer(), NO_DAEMON);
    fake.listen();
    let ring = fake.with_ring(&mut driver, 0, "f");
    driver.ok("send 9");
    fake.stop();
    drop(ring);
    driver.ok("until none");
    driver.expect("send 9", NO_DAEMON);
    driver.expect("sync 60000", NO_DAEMON);
    assert_eq!(driver.count("events"), 1);
}

#[test]
fn what_a_ring_still_had_moves_into_the_next_and_nothing_comes_twice() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 500 70");
    let mut all: Vec<u64> = ring.take(30).iter().map(Owned::number).collect();
    driver.expect("send 9000 4", "0");
    let full: u64 = driver.ask("fill 2000").parse().expect("a number");
    driver.expect("send 1999", FULL);
    let told = ring.consumer.losses().expect("a loss");
    ring.consumer.take_losses(told);
    driver.expect("send 2000", FULL);
    ring.line.error(Code::Broken, 0, 0, "an end with a reason");
    drop(ring);
    driver.ok("until none");
    assert_eq!(driver.ask("error"), "dbufd: an end with a reason");
    driver.ok("try 9");
    driver.tell("until ring");
    let mut ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    let events = ring.take_all();
    let age = |event: &Owned| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        now - event.time_ns
    };
    assert!(events.iter().all(|event| age(event) < TIMEOUT.as_nanos() as u64), "their ticks have become a time");
    assert!(events.windows(2).all(|two| two[0].time_ns <= two[1].time_ns));
    all.extend(events.iter().map(Owned::number));
    driver.ok("send 20");
    all.extend(ring.numbers());
    assert_eq!(all, numbers(1..=76 + full));
    assert_eq!(ring.consumer.losses(), Ok((1, 2000)));
    // Nobody vouches for what the first daemon took.
    driver.tell("sync 60000");
    ring.wait_for_wish(want::DURABLE);
    assert_eq!(ring.consumer.sync_wanted(), ring.events);
    ring.consumer.tell(ring.events, ring.events, 0, 0);
    ring.consumer.wake();
    assert_eq!(driver.answer(), NOT_STORED);
    assert_eq!((driver.count("unconfirmed"), driver.count("durable"), driver.count("links")), (30, 76 + full, 2));
    driver.ok("sync 0");
}

#[test]
fn frames_that_the_daemon_has_are_not_sent_again_and_all_others_are() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("send 100 10");
    for sequence in 1..=10 {
        assert_eq!(line.read_event().0, sequence);
    }
    line.ack(Level::Persisted, 4);
    let session = line.session;
    drop(line);
    driver.ok("until none");
    driver.ok("send 100 5");
    driver.tell("until frames");
    // It has 7, of which it has told 4; and a ring would know nothing of these.
    let mut line = fake.accept().welcome(EVERYTHING, 7);
    assert_eq!(line.session, session);
    assert_eq!(driver.answer(), "0");
    for sequence in 8..=15 {
        let (is, event) = line.read_event();
        assert_eq!((is, event.number()), (sequence, sequence));
    }
    line.ack(Level::Persisted, 15);
    drop(line);
    driver.ok("until none");
    driver.ok("send 100");
    // Now all is settled but the last, and that is what a ring gets.
    driver.tell("until ring");
    let mut line = fake.accept().welcome(EVERYTHING, 15);
    line.error(Code::Lost, 3, 3, "no disk");
    line.ack(Level::Durable, 15);
    let mut ring = line.grant(flag::TICKS);
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), [16]);
    assert_eq!((driver.count("persisted"), driver.count("durable"), driver.count("lost")), (15, 15, 1));
    assert_eq!(driver.count("unconfirmed"), 0);
}

#[test]
fn what_the_daemon_refuses_or_loses_is_counted() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("send 100 10");
    line.error(Code::TooBig, 2, 2, "too big");
    line.error(Code::Lost, 4, 6, "no disk");
    line.ack(Level::Persisted, 10);
    wait_for("the answer", || (driver.ask("tend") == "0" && driver.count("persisted") == 10).then_some(()));
    assert_eq!((driver.count("refused"), driver.count("lost"), driver.count("waiting")), (1, 3, 0));
    assert_eq!(driver.ask("error"), "dbufd: no disk");

    let mut driver = Driver::new();
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 10");
    ring.take_all();
    ring.consumer.tell(10, 8, 2, 1);
    assert_eq!((driver.count("refused"), driver.count("lost")), (1, 2));
    assert_eq!((driver.count("persisted"), driver.count("durable")), (10, 8));
    ring.consumer.tell(u64::MAX, u64::MAX, 2, 1);
    assert_eq!((driver.count("persisted"), driver.count("durable")), (10, 10), "no more than was sent");
}

#[test]
fn an_event_that_finds_no_room_is_counted_unless_it_was_only_a_try() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    assert_eq!((sent, driver.count("lost_full")), (CAPACITY / 1024, 0));
    driver.expect("try 1000", FULL);
    driver.expect("send 1000", FULL);
    driver.expect("send 500", FULL);
    assert_eq!((driver.count("lost_full"), driver.count("lost_full_bytes"), driver.count("waits")), (2, 1500, 0));
    assert_eq!(ring.consumer.losses(), Ok((2, 1500)));
    assert_eq!(ring.numbers(), numbers(1..=sent));
    driver.ok("send 1000");
    assert_eq!((driver.count("events"), driver.count("high_water")), (sent + 1, CAPACITY));
}

#[test]
fn a_send_that_may_wait_gives_up_in_time() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 30, "-");
    driver.ask("fill 1000");
    for (question, at_least_ms) in [("send 1000", 30), ("within 1000 250", 250), ("within 1000 0", 0)] {
        let begin = Instant::now();
        driver.expect(question, FULL);
        assert!(begin.elapsed() >= Duration::from_millis(at_least_ms), "{question}: {:?}", begin.elapsed());
        assert!(begin.elapsed() < TIMEOUT);
    }
    assert_eq!((driver.count("lost_full"), driver.count("waits")), (3, 2));
    assert_eq!(ring.consumer.wants(), 0, "nothing is wished for any more");
    assert_eq!(ring.rings(), 2, "once for each wait");
    let full = ring.take_all().len() as u64;
    driver.ok("send 9");
    assert_eq!(ring.numbers(), [full + 1]);
}

#[test]
fn room_wakes_a_send_that_waits() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.tell("within 5000 60000");
    ring.wait_for_wish(want::ROOM);
    // What is not enough wakes it, too, and it sleeps on.
    ring.take(1);
    ring.consumer.wake();
    wait_for("the bell", || (ring.rings() > 0).then_some(()));
    ring.take_all();
    ring.consumer.wake();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), [sent + 1]);
    assert_eq!(driver.count("waits"), 1);

    let mut driver = Driver::new();
    let mut line = fake.with_frames(&mut driver, 60_000);
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.tell("send 1000");
    for _ in 0..sent {
        line.read_event();
    }
    line.ack(Level::Persisted, 1);
    assert_eq!(driver.answer(), "0");
    assert_eq!(line.read_event().0, sent + 1);
}

#[test]
fn a_send_that_waits_goes_on_when_the_ring_ends_and_another_comes() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let ring = fake.with_ring(&mut driver, 0, "-");
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    driver.tell("within 1000 60000");
    ring.wait_for_wish(want::ROOM);
    drop(ring);
    let mut ring = fake.give_ring();
    ring.wait_for_wish(want::ROOM);
    assert_eq!(ring.numbers(), numbers(1..=sent));
    ring.consumer.wake();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), [sent + 1]);
}

#[test]
fn a_ring_that_nobody_empties_is_kept_as_long_as_its_connection_is() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    let sent: u64 = driver.ask("fill 1000").parse().expect("a number");
    for _ in 0..3 {
        driver.expect("within 1000 150", FULL);
        driver.ok("tend");
    }
    assert_eq!((driver.count("link"), driver.count("links")), (1, 1));
    assert_eq!(ring.numbers(), numbers(1..=sent));
}

#[test]
fn the_bell_is_rung_once_for_each_time_that_the_daemon_falls_asleep() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 9 10");
    assert_eq!(ring.rings(), 0, "it is awake");
    for _ in 0..2 {
        ring.consumer.set_state(state::ASLEEP);
        driver.ok("send 9 10");
        assert_eq!(ring.rings(), 1);
        ring.consumer.set_state(state::AWAKE);
    }
    ring.take_all();
    ring.consumer.set_state(state::DOZING);
    driver.ok("send 1000 32");
    assert_eq!(ring.rings(), 0, "just half full");
    driver.ok("send 1000 3");
    assert_eq!(ring.rings(), 1, "more than half full");
    assert_eq!(driver.count("doorbells"), 3);
}

#[test]
fn an_event_that_wakes_nobody_finds_the_next_daemon_at_once() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    ring.consumer.set_state(state::ASLEEP);
    drop(ring);
    // This one rings, and sees that the connection has ended.
    wait_for("the end", || (driver.ask("send 9") == "0" && driver.count("link") == 0).then_some(()));
    let sent = driver.count("events");
    driver.tell("until ring");
    ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), numbers(1..=sent));
}

#[test]
fn a_daemon_that_died_awake_is_found_out_although_the_ring_is_not_full() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let ring = fake.with_ring(&mut driver, 0, "-");
    drop(ring);
    // Its last word was that it is awake: no bell. The sends themselves look, about once a second.
    wait_for("the end", || (driver.ask("send 1") == "0" && driver.count("link") == 0).then_some(()));
}

#[test]
fn a_forked_child_has_a_ring_of_its_own_and_does_not_disturb_its_parent() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 3");
    driver.tell("child");
    let mut of_child = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    let of_child: Vec<Vec<u8>> = of_child.take_all().into_iter().map(|event| event.payload).collect();
    assert_eq!(of_child, [b"child".to_vec()]);
    driver.ok("send 100 2");
    assert_eq!(ring.numbers(), numbers(1..=5));
    assert_eq!((driver.count("link"), driver.count("events")), (1, 5));
    driver.ok("close");
    assert_eq!(ring.line.read(), Sent::End);
}

#[test]
fn a_child_that_never_sends_does_not_keep_its_parents_connection_open() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    // The child is there until the driver is dead, with copies of all that it had.
    assert!(driver.ask("idle").parse::<i32>().expect("a number") > 0);
    driver.ok("send 100");
    driver.ok("close");
    assert_eq!(ring.line.read(), Sent::End);
    assert_eq!(ring.numbers(), [1]);
}

#[test]
fn sync_waits_until_everything_is_durable() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("sync 0");
    driver.ok("send 100 5");
    driver.expect("sync 20", TIMED_OUT);
    driver.tell("sync 60000");
    ring.wait_for_wish(want::DURABLE);
    wait_for("the bell", || (ring.rings() > 0).then_some(()));
    assert_eq!(ring.consumer.sync_wanted(), 5);
    ring.take_all();
    ring.consumer.tell(5, 4, 0, 0);
    ring.consumer.wake();
    ring.consumer.tell(5, 5, 1, 0);
    ring.consumer.wake();
    assert_eq!(driver.answer(), NOT_STORED);
    assert_eq!(driver.ask("error"), "1 events were not stored, and of 0 a daemon that is gone did not say so");
    driver.ok("sync 60000");

    let mut driver = Driver::new();
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("send 100 5");
    driver.tell("sync 60000");
    for _ in 0..5 {
        line.read_event();
    }
    assert_eq!(line.read(), Sent::Sync);
    line.ack(Level::Persisted, 5);
    line.ack(Level::Durable, 3);
    line.ack(Level::Durable, 5);
    assert_eq!(driver.answer(), "0");
    assert_eq!(driver.count("durable"), 5);
}

#[test]
fn sync_outlives_the_daemon_that_it_asked() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 5");
    driver.tell("sync 60000");
    ring.wait_for_wish(want::DURABLE);
    drop(ring);
    // The next gives no ring.
    let mut line = fake.accept().welcome(EVERYTHING, 0);
    line.refuse_ring();
    for sequence in 1..=5 {
        assert_eq!(line.read_event().0, sequence);
    }
    assert_eq!(line.read(), Sent::Sync);
    line.ack(Level::Durable, 5);
    assert_eq!(driver.answer(), "0");
}

#[test]
fn a_claim_is_published_with_the_length_that_it_became_or_leaves_no_trace() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.expect("publish 1", CLAIM);
    driver.ok("claim 9000");
    assert!(ring.consumer.look() == Ok(0) && ring.consumer.is_torn(), "it is being written");
    driver.expect("claim 10", CLAIM);
    driver.expect("send 10", CLAIM);
    driver.expect("sync 10", CLAIM);
    driver.expect("publish 9001", INVALID);
    driver.expect("publish 0", INVALID);
    driver.ok("publish 10");
    driver.ok("claim 9000");
    driver.ok("discard");
    assert!(ring.consumer.look() == Ok(32) && !ring.consumer.is_torn());
    driver.ok("send 10");
    let events = ring.take_all();
    assert_eq!(events.iter().map(Owned::number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((events[0].pri, events[0].payload.len()), (5, 10));
    // Over the end of the data, again and again.
    for number in 3..60 {
        driver.ok("claim 9000");
        driver.ok("publish 4000");
        assert_eq!(ring.numbers(), [number]);
    }
    ring.consumer.set_state(state::ASLEEP);
    driver.ok("claim 20");
    driver.ok("publish 20");
    assert_eq!(ring.rings(), 1);
}

#[test]
fn a_formatted_text_is_one_event_without_the_newline_at_its_end() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("print hello");
    // Beyond what is claimed for a text before its length is known, and at its bound.
    for bytes in [1022, 1023, 1024, 5000, 20_000] {
        driver.ok(&format!("long {bytes}"));
    }
    driver.expect("long 20001", TOO_BIG);
    driver.expect("long 0", INVALID);
    let lengths: Vec<usize> = ring.take_all().iter().map(|event| event.payload.len()).collect();
    assert_eq!(lengths, [5, 1022, 1023, 1024, 5000, 20_000]);
    // The NUL behind a text, which is not sent, takes room, too: it must not lie on what comes next, or behind the
    // data.
    while ring.consumer.tail() % CAPACITY != 0 {
        let to_end = CAPACITY - ring.consumer.tail() % CAPACITY;
        driver.ok(&format!("send {}", if to_end > 16_016 { 16_000 - 16 } else { to_end - 16 }));
        ring.take_all();
    }
    driver.ok("send 20000 3");
    driver.ok(&format!("send {}", CAPACITY - 3 * 20_016 - 1040 - 16));
    driver.expect("long 1024", FULL);
    driver.ok("send 1024");
    ring.take_all();
    // Less room than is claimed at first is enough, if the text fits.
    driver.ask("fill 1000");
    ring.take(1);
    driver.ok("long 900");
    driver.expect("long 900", FULL);
    assert_eq!((driver.count("lost_full"), driver.count("lost_full_bytes")), (2, 1924));
}

#[test]
fn an_event_that_is_too_big_is_refused_before_it_is_written() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 20000");
    driver.expect("send 20001", TOO_BIG);
    driver.expect("send 0", INVALID);
    // The daemon takes larger ones by now; half the ring is the bound that stays.
    ring.consumer.tell_max_event(1 << 20);
    ring.take_all();
    driver.ok("send 32752");
    driver.expect("send 32753", TOO_BIG);
    driver.expect("claim 32753", TOO_BIG);
    assert_eq!((driver.count("events"), driver.count("lost_full")), (2, 0));
    assert_eq!(ring.numbers(), [2]);
}

#[test]
fn a_ring_that_is_none_is_not_used_and_frames_are() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    driver.tell(&fake.open(0, "-"));
    let mut line = fake.accept().welcome(EVERYTHING, 0);
    assert_eq!(line.read(), Sent::Ring(CAPACITY));
    // A file as a ring's, but for the seal: it could shrink.
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(b"dbufring\x01\0\0\0\0\x10\0\0").expect("the header's begin");
    file.set_len(4096 + CAPACITY).expect("its length");
    let mut reply = Vec::new();
    Frame::Grant { capacity: CAPACITY }.encode(&mut reply);
    let passed = [file.as_raw_fd(), file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&passed)];
    let pieces = [std::io::IoSlice::new(&reply)];
    sendmsg::<()>(line.stream.as_raw_fd(), &pieces, &rights, MsgFlags::empty(), None).expect("the client is there");
    assert_eq!((line.read(), driver.answer()), (Sent::End, "0".into()));
    driver.tell("tend");
    let line = fake.accept();
    assert_eq!((driver.answer().as_str(), line.asks), ("0", feature::FIELDS), "it does not ask again");
    let mut line = line.welcome(EVERYTHING, 0);
    driver.ok("until frames");
    driver.ok("send 9");
    assert_eq!(line.read_event().0, 1);
}

#[test]
fn frames_of_a_later_version_are_skipped_where_they_may_be() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut line = fake.with_frames(&mut driver, 0);
    driver.ok("send 100");
    // 100 kB that mean nothing, and an ACK behind them.
    let mut bytes = vec![0xa0, 0x86, 0x01, 0, 0x80];
    bytes.resize(24 + 100_000, 0);
    line.stream.write_all(&bytes).expect("the client reads");
    line.ack(Level::Persisted, 1);
    wait_for("the ACK", || (driver.ask("tend") == "0" && driver.count("persisted") == 1).then_some(()));
    line.write(&Frame::Sync);
    driver.ok("until none");
    assert_eq!(driver.ask("error"), "dbufd sent something that this client does not understand");
}

#[test]
fn closing_tries_to_get_rid_of_what_no_daemon_has() {
    let (mut fake, mut driver) = (Fake::new(), Driver::new());
    fake.stop();
    driver.ok(&fake.open(0, "-"));
    driver.ok("send 100 5");
    driver.ok("closing 60000");
    fake.listen();
    driver.tell("close");
    let mut ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), numbers(1..=5));
    assert_eq!(ring.line.read(), Sent::End);

    // Also if nobody has noticed yet that the daemon is gone.
    let mut driver = Driver::new();
    let ring = fake.with_ring(&mut driver, 0, "-");
    driver.ok("send 100 3");
    driver.ok("closing 60000");
    drop(ring);
    driver.tell("close");
    let mut ring = fake.give_ring();
    assert_eq!(driver.answer(), "0");
    assert_eq!(ring.numbers(), numbers(1..=3));

    fake.stop();
    let mut driver = Driver::new();
    driver.ok(&fake.open(0, "-"));
    driver.ok("close");
    driver.ok(&fake.open(0, "-"));
    driver.ok("send 100");
    driver.ok("closing 0");
    assert_eq!(driver.ask("close"), TIMED_OUT);
}

#[test]
fn a_thread_that_logs_has_a_producer_of_its_own_which_ends_with_it() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let _ring = fake.with_ring(&mut driver, 0, "-");
    for round in 0..2 {
        driver.tell(&format!("log round{round}"));
        let mut ring = fake.give_ring();
        assert_eq!(driver.answer(), "0");
        assert_eq!(ring.line.read(), Sent::End, "the thread is over");
        let payloads: Vec<Vec<u8>> = ring.take_all().into_iter().map(|event| event.payload).collect();
        assert_eq!(payloads, [format!("round{round}").into_bytes()]);
    }
}

#[test]
fn a_hostile_count_of_taken_bytes_is_not_believed() {
    let (fake, mut driver) = (Fake::new(), Driver::new());
    let mut ring = fake.with_ring(&mut driver, 0, "-");
    driver.ask("fill 1000");
    let words = ring.consumer.memory().words();
    for tail in [u64::MAX, CAPACITY + 16, CAPACITY * 2] {
        words.tail.store(tail, Relaxed);
        assert_eq!(driver.count("waiting"), CAPACITY);
        driver.expect("send 1000", FULL);
    }
    words.tail.store(0, Relaxed);
    assert_eq!(ring.numbers(), numbers(1..=driver.count("events")), "nothing was written over");
}

#[test]
fn the_real_daemon_stores_what_a_program_in_c_sends_over_its_restarts() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut driver = Driver::new();
    let path = home.socket("stream.sock");
    driver.ok(&format!("open {} {} 5000 -", path.display(), 1 << 20));
    driver.ok("until ring");
    driver.ok("send 100 20000");
    driver.ok("event refused");
    driver.ok("sync 60000");
    daemon.stop();
    driver.ok("send 50 1000");
    driver.ok("until none");
    let daemon = home.start(&["ingest.rings=0"]);
    driver.ok("until frames");
    driver.ok("send 50 1000");
    driver.ok("sync 60000");
    driver.ok("close");
    daemon.stop();
    let cat = home.cat();
    let lines: Vec<&str> = cat.lines().filter(|line| *line != "refused").collect();
    assert_eq!(lines.len(), 22_000);
    assert_eq!(cat.lines().count(), 22_001);
    for (at, line) in lines.iter().enumerate() {
        // The event with fields has taken a number, too.
        let number = if at < 20_000 { at + 1 } else { at + 2 };
        assert_eq!(line.trim_end_matches('x'), format!("{number}:"));
    }
    let refused = home.ctl_ok(&["cat", "ORDER=17", "-o", "json"]);
    let refused: Value = serde_json::from_str(refused.trim()).expect("one event");
    assert_eq!((&refused["_TRANSPORT"], &refused["SYSLOG_IDENTIFIER"]), (&"ring".into(), &"billing".into()));
}
