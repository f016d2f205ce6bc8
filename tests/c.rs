//! `clients/c/dbuf.h`: its compilers, its bytes, and how it behaves towards a daemon. The daemon is played here, but for one test
//! with the real one; the program is `clients/c/tests/driver.c`, which does what it is told line by line.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use dbuf_client::ring::record::{self, HEAD_BYTES, Head, Stamp};
use dbuf_client::ring::{Memory, Position, RingConsumer, flag, state, want};
use dbuf_client::wire::{Code, Event, Fault, Frame, Level, MAGIC, Welcome, feature, fields};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::Value;
use support::{Home, PATIENCE, wait_for};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/c");
const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"];
const CAPACITY: u64 = 64 << 10;
const EVERYTHING: u64 = feature::FIELDS | feature::RING;

// What dbuf.h returns.
const FULL: &str = "-1";
const TOO_BIG: &str = "-2";
const INVALID: &str = "-3";
const NO_DAEMON: &str = "-4";
const TIMEOUT: &str = "-5";
const NOT_STORED: &str = "-6";
const CLAIM: &str = "-7";

/// Compiles a source below clients/c; what the compiler says is the error.
fn compile(compiler: &str, arguments: &[&str], source: &Path, to: &Path) -> Result<(), String> {
    let mut command = Command::new(compiler);
    command.args(WARNINGS).args(arguments).arg(format!("-I{FOLDER}")).arg(source).arg("-o").arg(to);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{compiler}: {error}"))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {report}")) }
}

fn is_there(compiler: &str) -> bool {
    Command::new(compiler).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A program of clients/c/tests, built once, so that it stops at the first wrong access.
fn program(name: &str) -> PathBuf {
    static BUILT: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    let built = &BUILT[usize::from(name == "driver")];
    let build = || {
        let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("c-{name}-{}", std::process::id()));
        let source = Path::new(FOLDER).join("tests").join(format!("{name}.c"));
        let checks = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"];
        compile("gcc", &checks, &source, &to).expect("the test program compiles");
        to
    };
    built.get_or_init(build).clone()
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
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
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
        let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("an eventfd");
        let mut reply = Vec::new();
        Frame::Grant { capacity: CAPACITY }.encode(&mut reply);
        let passed = [file.as_raw_fd(), bell.as_raw_fd()];
        let pieces = [std::io::IoSlice::new(&reply)];
        let rights = [ControlMessage::ScmRights(&passed)];
        sendmsg::<()>(self.stream.as_raw_fd(), &pieces, &rights, MsgFlags::empty(), None).expect("the client is there");
        Ring { line: self, consumer: RingConsumer::new(memory, &Position::default()), bell, events: 0 }
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
    bell: OwnedFd,
    events: u64,
}

impl Ring {
    /// Takes at most so many events of those that are there.
    fn take(&mut self, events_max: usize) -> Vec<Owned> {
        let waiting = self.consumer.look().expect("an honest client") as usize;
        let mut bytes = vec![0; waiting];
        self.consumer.copy(0, &mut bytes);
        let (mut at, mut events) = (0, Vec::new());
        while at < waiting && events.len() < events_max {
            let head = Head::of_bytes(bytes[at..at + HEAD_BYTES].try_into().expect("so many bytes"));
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
        let mut count = [0; 8];
        rustix::io::read(&self.bell, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
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
        "#include <stdio.h>\n#include \"dbuf.h\"\n#include \"dbuf.h\"\nint other(dbuf_producer *p);\nint other(dbuf_producer *p) {\n\
         dbuf_options o = dbuf_options_default();\nreturn dbuf_log_options(&o) + dbuf_send_within(p, DBUF_INFO, \"x\", 1, 5) + dbuf_pump(p);\n}\n",
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
            if compiler.starts_with("clang") && std::env::var_os("DBUF_CI").is_none() && !is_there(compiler) {
                eprintln!("skipped: there is no {compiler}");
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
         o.socket = \"/dev/null/nobody\";\n  dbuf_log_options(&o);\n  return one() != nullptr && one() == dbuf_log_producer() ? 0 : 1;\n}\n",
    );
    let (one, two, all) = (folder.path().join("one.o"), folder.path().join("two.o"), folder.path().join("all"));
    compile("gcc", &["-std=c11", "-c"], &c, &one).expect("it compiles");
    compile("g++", &["-std=c++17", "-c"], &cpp, &two).expect("it compiles");
    let linked = Command::new("g++").arg(&one).arg(&two).arg("-pthread").arg("-o").arg(&all).status().expect("g++ runs");
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
