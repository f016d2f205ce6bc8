//! What hostile input costs the daemon, compared with the plainest input of its kind: processor time of the daemon, and
//! of the sender. The daemon has a service manager, which keeps its connections. If root runs this, the senders are an
//! ordinary user.
//!
//! `cargo bench --bench hostile [-- NAME]`. Prints a table, of the rows whose name contains NAME. Fails if a row costs
//! more than [`RATIO_MAX`] times its baseline. Writes only into a temporary folder of its own.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use dbuf_wire::frames::{Event, Frame, Hello, Level, MAGIC, feature};
use dbuf_wire::ring::{DOORBELL, Memory, want};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// The most that an input may cost, compared with its baseline.
const RATIO_MAX: f64 = 20.0;
/// `nobody`.
const UID: u32 = 65534;
const LINE: [u8; 99] = [b'x'; 99];
const BLOCK_BYTES: usize = 64 << 10;

/// Sends this many units to the sockets in a folder.
type Attack = fn(folder: &Path, units: usize);

/// One input.
struct Row {
    name: &'static str,
    /// The index of the row that it is compared with.
    baseline: usize,
    /// How many are sent. What one of them is, the name says.
    units: usize,
    attack: Attack,
}

const fn row(name: &'static str, baseline: usize, units: usize, attack: Attack) -> Row {
    Row { name, baseline, units, attack }
}

const EVENTS: usize = 0;
const WRITES: usize = 5;
const DATAGRAMS: usize = 10;
const FRAMES: usize = 14;
const CONNECTIONS: usize = 18;
const REQUESTS: usize = 30;

/// The plainest input of each kind comes first.
const ROWS: [Row; 33] = [
    row("lines of 100 bytes, 64 KiB a write", EVENTS, 2_000_000, plain_lines),
    row("the same as syslog, one tag", EVENTS, 1_000_000, |folder, units| syslog(folder, units, 1)),
    row("the same as syslog, a tag for each", EVENTS, 1_000_000, |folder, units| syslog(folder, units, usize::MAX)),
    row("100 empty lines", EVENTS, 1_000_000, |folder, units| bulk(folder, units, |to, _| to.extend([b'\n'; 100]))),
    row("50 lines of one byte", EVENTS, 1_000_000, |folder, units| {
        bulk(folder, units, |to, _| to.extend(b"x\n".repeat(50)))
    }),
    row("a line of 100 bytes, a write each", WRITES, 200_000, |folder, units| {
        writes(folder, units, &[&LINE[..], b"\n"].concat())
    }),
    row("half lines of 100 bytes, two writes for a line", WRITES, 200_000, half_lines),
    row("one byte a write, in a line without end", WRITES, 200_000, |folder, units| writes(folder, units, b"x")),
    row("one byte a write, after 60 KiB of a line", WRITES, 200_000, after_60k),
    row("a newline a write", WRITES, 200_000, |folder, units| writes(folder, units, b"\n")),
    row("datagrams of 100 bytes", DATAGRAMS, 200_000, |folder, units| datagrams(folder, units, |_| LINE.to_vec())),
    row("datagrams, a tag for each", DATAGRAMS, 200_000, |folder, units| {
        datagrams(folder, units, |number| format!("<14>Nov 23 05:26:33 t{number}: x").into_bytes())
    }),
    row("empty datagrams", DATAGRAMS, 200_000, |folder, units| datagrams(folder, units, |_| Vec::new())),
    row("datagrams with a descriptor", DATAGRAMS, 100_000, datagrams_with_descriptors),
    row("frames of 100 bytes, 64 KiB a write", FRAMES, 1_000_000, |folder, units| frames(folder, units, |_, _| ())),
    row("frames, a tag for each", FRAMES, 500_000, tagged_frames),
    row("frames that were sent before", FRAMES, 500_000, |folder, units| {
        frames(folder, units, |frame, _| frame[8..16].copy_from_slice(&1_u64.to_le_bytes()));
    }),
    row("frames of a client that reads no answer", FRAMES, 500_000, deaf),
    row("connections with one line", CONNECTIONS, 20_000, |folder, units| {
        connections(folder, units, b"a line\n", false)
    }),
    row("connections that say nothing", CONNECTIONS, 20_000, |folder, units| connections(folder, units, b"", false)),
    row("connections that say nothing and are accepted first", CONNECTIONS, 5_000, |folder, units| {
        connections(folder, units, b"", true);
    }),
    row("connections with half a HELLO", CONNECTIONS, 20_000, |folder, units| {
        connections(folder, units, &hello(0)[..20], false);
    }),
    row("connections with a HELLO, a session for each", CONNECTIONS, 20_000, hellos),
    row("connections with a HELLO and an event, a session for each", CONNECTIONS, 20_000, hellos_with_events),
    row("connections with a HELLO, accepted first", CONNECTIONS, 5_000, slow_hellos),
    row("connections with a HELLO of an open session", CONNECTIONS, 20_000, busy_hellos),
    row("connections with a HELLO that breaks a rule", CONNECTIONS, 20_000, |folder, units| {
        let mut bytes = hello(1);
        bytes[8..12].fill(0xff);
        connections(folder, units, &bytes, false);
    }),
    row("connections with a ring", CONNECTIONS, 1_000, |folder, units| rings(folder, units, false)),
    row("connections with a ring that is corrupted", CONNECTIONS, 1_000, |folder, units| rings(folder, units, true)),
    row("connections that never end, and one line", CONNECTIONS, 3_000, many_connections),
    row("pings of control.sock", REQUESTS, 10_000, pings),
    row("connections of control.sock", REQUESTS, 10_000, |folder, units| control(folder, units, b"")),
    row("64 KiB without an end to control.sock", REQUESTS, 2_000, |folder, units| {
        control(folder, units, &[b'x'; BLOCK_BYTES]);
    }),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [mode, row, folder] = &arguments[..]
        && mode == "attack"
    {
        let row = &ROWS[row.parse::<usize>().expect("the index of a row")];
        (row.attack)(Path::new(folder), row.units);
        return ExitCode::SUCCESS;
    }
    let wanted = |row: &Row| arguments.first().is_none_or(|name| row.name.contains(name.as_str()));
    println!("{:<54} {:>10} {:>10} {:>7}", "microseconds of a core", "daemon", "sender", "ratio");
    let mut costs: HashMap<usize, f64> = HashMap::new();
    let mut is_dear = false;
    for (index, row) in ROWS.iter().enumerate() {
        let is_baseline = ROWS.iter().any(|other| other.baseline == index && wanted(other));
        if !wanted(row) && !is_baseline {
            continue;
        }
        let (daemon, sender) = measure(index);
        costs.insert(index, daemon);
        let ratio = daemon / costs[&row.baseline];
        is_dear |= ratio > RATIO_MAX;
        println!(
            "{:<54} {daemon:>10.3} {sender:>10.3} {ratio:>7.1}{}",
            row.name,
            if ratio > RATIO_MAX { "  !" } else { "" }
        );
    }
    if is_dear { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Starts the daemon with a manager that keeps what it is given, and returns when it is ready.
fn start(folder: &Path, settings: &[&str]) -> Child {
    let notify = folder.join("notify.sock");
    let socket = UnixDatagram::bind(&notify).expect("a socket");
    let daemon = Command::new(env!("CARGO_BIN_EXE_dbufd"))
        .arg("--runtime")
        .arg(folder.join("run"))
        .arg("--directory")
        .arg(folder.join("segments"))
        .args(["--config", "/dev/null"])
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .env("NOTIFY_SOCKET", &notify)
        .env("FDSTORE", "8192")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("dbufd starts");
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || keep(&socket, || _ = ready.send(())));
    is_ready.recv().expect("dbufd starts");
    daemon
}

/// Keeps descriptors by their names, until the process ends.
fn keep(socket: &UnixDatagram, ready: impl Fn()) {
    let mut stored: HashMap<String, OwnedFd> = HashMap::new();
    loop {
        let (mut space, mut bytes) = ([MaybeUninit::uninit(); cmsg_space!(ScmRights(1))], [0; 1024]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let Ok(got) = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) else {
            return;
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let note = String::from_utf8_lossy(&bytes[..got.bytes]).into_owned();
        let name = || note.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
        match descriptor {
            Some(descriptor) if note.contains("FDSTORE=1") => drop(stored.insert(name(), descriptor)),
            _ if note.contains("FDSTOREREMOVE=1") => drop(stored.remove(&name())),
            _ if note.contains("READY=1") => ready(),
            _ => {}
        }
    }
}

/// Microseconds that a unit of a row costs the daemon, and its sender.
fn measure(index: usize) -> (f64, f64) {
    let folder = tempfile::Builder::new().prefix("dbufd-bench-").tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).expect("an own folder");
    let settings = ["storage.sync=never", "storage.retain_bytes=256MiB", "storage.segment_size=64MiB"];
    let mut daemon = start(folder.path(), &settings);
    let run = folder.path().join("run");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o711)).expect("the daemon's folder");
    let before = idle_cpu_us(daemon.id());
    let sender = || getrusage(UsageWho::RUSAGE_CHILDREN).map(|usage| usage.user_time() + usage.system_time());
    let sender_before = sender().expect("own figures");
    let mut attack = Command::new(std::env::current_exe().expect("this program"));
    attack.args(["attack", &index.to_string()]).arg(&run);
    // control.sock is for root and a group.
    if nix::unistd::geteuid().is_root() && ROWS[index].baseline != REQUESTS {
        attack.uid(UID).gid(UID);
    }
    let status = attack.status().expect("this program runs");
    assert!(status.success(), "{}: {status}", ROWS[index].name);
    let sender = (sender().expect("own figures") - sender_before).num_microseconds() as f64;
    let spent = idle_cpu_us(daemon.id()) - before;
    daemon.kill().and_then(|()| daemon.wait()).expect("it ends");
    let units = ROWS[index].units as f64;
    (spent / units, sender / units)
}

/// The processor time of a process and its threads, once it rests.
fn idle_cpu_us(pid: u32) -> f64 {
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).expect("a process").flatten();
    let of_task = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default() / 1000.0
    };
    let mut before = f64::MAX;
    loop {
        let now: f64 = tasks().map(of_task).sum();
        if now - before < 1000.0 && now >= before {
            return now;
        }
        before = now;
        std::thread::sleep(Duration::from_millis(200));
    }
}

// ---- text ----

fn connect(folder: &Path) -> UnixStream {
    UnixStream::connect(folder.join("stream.sock")).expect("the daemon listens")
}

/// Sends units in large writes. `add` appends the unit with this number.
fn bulk(folder: &Path, units: usize, mut add: impl FnMut(&mut Vec<u8>, usize)) {
    let (mut stream, mut block) = (connect(folder), Vec::new());
    for number in 0..units {
        add(&mut block, number);
        if block.len() >= BLOCK_BYTES {
            stream.write_all(&block).expect("the daemon reads");
            block.clear();
        }
    }
    stream.write_all(&block).expect("the daemon reads");
}

fn plain_lines(folder: &Path, units: usize) {
    bulk(folder, units, |to, _| {
        to.extend(LINE);
        to.push(b'\n');
    });
}

fn syslog(folder: &Path, units: usize, tags: usize) {
    bulk(folder, units, |to, number| {
        let begin = to.len();
        write!(to, "<14>Nov 23 05:26:33 t{}: ", number % tags).expect("memory takes all");
        to.resize(begin + LINE.len(), b'x');
        to.push(b'\n');
    });
}

fn writes(folder: &Path, units: usize, bytes: &[u8]) {
    let mut stream = connect(folder);
    (0..units).for_each(|_| stream.write_all(bytes).expect("the daemon reads"));
}

fn half_lines(folder: &Path, units: usize) {
    let mut stream = connect(folder);
    for _ in 0..units {
        stream.write_all(&LINE[..50]).expect("the daemon reads");
        stream.write_all(b"x\n").expect("the daemon reads");
    }
}

/// Lines of `ingest.max_event`, of which the first part comes at once and the rest byte by byte.
fn after_60k(folder: &Path, units: usize) {
    let mut stream = connect(folder);
    for number in 0..units {
        if number % 4000 == 0 {
            stream.write_all(b"\n").and_then(|()| stream.write_all(&[b'x'; 60 << 10])).expect("the daemon reads");
        }
        stream.write_all(b"x").expect("the daemon reads");
    }
}

// ---- datagrams ----

fn datagrams(folder: &Path, units: usize, mut payload: impl FnMut(usize) -> Vec<u8>) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect(folder.join("dgram.sock")).expect("the daemon listens");
    for number in 0..units {
        let payload = payload(number);
        let sent = socket.send(&payload).expect("the daemon receives");
        assert_eq!(sent, payload.len());
    }
}

fn datagrams_with_descriptors(folder: &Path, units: usize) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.connect(folder.join("dgram.sock")).expect("the daemon listens");
    let descriptor = fs::File::open("/dev/null").expect("a descriptor");
    for _ in 0..units {
        let (mut space, descriptors) = ([MaybeUninit::uninit(); cmsg_space!(ScmRights(1))], [descriptor.as_fd()]);
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        match sendmsg(&socket, &[IoSlice::new(&LINE)], &mut control, SendFlags::empty()) {
            Ok(_) => {}
            // Too many are in flight, or the daemon takes none: without.
            Err(_) => assert_eq!(socket.send(&LINE).expect("the daemon receives"), LINE.len()),
        }
    }
}

// ---- frames ----

fn hello(session: u128) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let hello = Hello { session, ack: Level::Persisted, compatible: feature::RING, ..Hello::new(b"hostile") };
    Frame::Hello(hello).encode(&mut bytes);
    bytes
}

/// Says HELLO, and reads WELCOME.
fn greet(folder: &Path, session: u128) -> UnixStream {
    let mut stream = connect(folder);
    stream.write_all(&hello(session)).expect("the daemon reads");
    stream.read_exact(&mut [0; 48]).expect("WELCOME");
    stream
}

/// Sends events of 100 bytes. `alter` changes the frame with this number.
fn frames(folder: &Path, units: usize, alter: impl Fn(&mut [u8], usize)) {
    let stream = greet(folder, 0);
    let answers = stream.try_clone().expect("a descriptor");
    let reads = std::thread::spawn(move || read_all(&answers));
    send_frames(&stream, units, b"", alter);
    stream.shutdown(std::net::Shutdown::Write).expect("a socket");
    reads.join().expect("it reads");
}

fn read_all(mut stream: &UnixStream) {
    let mut bytes = [0; 64 << 10];
    while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
}

fn send_frames(mut stream: &UnixStream, units: usize, tag: &[u8], alter: impl Fn(&mut [u8], usize)) {
    let mut block = Vec::new();
    for number in 0..units {
        let begin = block.len();
        let event = Event { pri: 6, sequence: number as u64 + 1, tag, payload: &LINE, ..Event::default() };
        Frame::Event(event).encode(&mut block);
        alter(&mut block[begin..], number);
        if block.len() >= BLOCK_BYTES {
            if stream.write_all(&block).is_err() {
                return;
            }
            block.clear();
        }
    }
    let _ = stream.write_all(&block);
}

fn tagged_frames(folder: &Path, units: usize) {
    let mark = b"0123456789abcdef";
    let stream = greet(folder, 0);
    let answers = stream.try_clone().expect("a descriptor");
    let reads = std::thread::spawn(move || read_all(&answers));
    send_frames(&stream, units, mark, |frame, number| {
        let at = frame.windows(mark.len()).position(|part| part == mark).expect("the tag");
        frame[at..at + mark.len()].copy_from_slice(format!("{number:016}").as_bytes());
    });
    stream.shutdown(std::net::Shutdown::Write).expect("a socket");
    reads.join().expect("it reads");
}

/// One connection after the other: a client that reads nothing is cut off.
fn deaf(folder: &Path, units: usize) {
    for _ in 0..units / 5000 {
        let stream = greet(folder, 0);
        send_frames(&stream, 5000, b"", |_, _| ());
    }
}

// ---- connections ----

/// Connects, says this and leaves. `waits`: only after the daemon has accepted it and rests.
fn connections(folder: &Path, units: usize, said: &[u8], waits: bool) {
    for _ in 0..units {
        let mut stream = connect(folder);
        if waits {
            std::thread::sleep(Duration::from_micros(200));
        }
        // The daemon may have ended it.
        let _ = stream.write_all(said);
    }
}

fn hellos(folder: &Path, units: usize) {
    for number in 0..units {
        let _ = connect(folder).write_all(&hello(number as u128 + 1));
    }
}

fn hellos_with_events(folder: &Path, units: usize) {
    let mut event = Vec::new();
    Frame::Event(Event { pri: 6, sequence: 1, payload: &LINE, ..Event::default() }).encode(&mut event);
    for number in 0..units {
        let _ = connect(folder).write_all(&[hello(number as u128 + 1), event.clone()].concat());
    }
}

fn slow_hellos(folder: &Path, units: usize) {
    for number in 0..units {
        let mut stream = connect(folder);
        std::thread::sleep(Duration::from_micros(200));
        let _ = stream.write_all(&hello(number as u128 + 1));
    }
}

fn busy_hellos(folder: &Path, units: usize) {
    let _open = greet(folder, 7);
    connections(folder, units, &hello(7), false);
}

fn many_connections(folder: &Path, units: usize) {
    let open: Vec<UnixStream> = (0..units).map(|_| connect(folder)).collect();
    for mut stream in open {
        // Some may be refused.
        let _ = stream.write_all(b"a line\n");
    }
}

/// Asks for a ring on each connection, and overwrites it.
fn rings(folder: &Path, units: usize, corrupts: bool) {
    for number in 0..units {
        let mut line = greet(folder, number as u128 + 1);
        let mut request = Vec::new();
        Frame::Ring { capacity: 64 << 10 }.encode(&mut request);
        line.write_all(&request).expect("the daemon reads");
        let (mut space, mut bytes) = ([MaybeUninit::uninit(); cmsg_space!(ScmRights(1))], [0; 200]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&line, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).expect("an answer");
        let granted = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        // A user who has used up systemd's time gets none.
        let Some(file) = granted.filter(|_| corrupts) else { continue };
        scribble(&file, &mut line);
    }
}

fn scribble(file: &OwnedFd, line: &mut UnixStream) {
    let memory = Memory::of_file(file).expect("a ring");
    for at in (0..64 << 10).step_by(4096) {
        memory.put(at, &[0xff; 4096]);
    }
    memory.words().head.store(32 << 10, std::sync::atomic::Ordering::Relaxed);
    memory.words().wants.store(want::ROOM, std::sync::atomic::Ordering::Relaxed);
    let _ = line.write_all(&[DOORBELL]);
    // Until the daemon has cut it off.
    let _ = line.read(&mut [0; 8]);
}

// ---- control.sock ----

fn pings(folder: &Path, units: usize) {
    let mut reply = [0; 4096];
    for _ in 0..units {
        let mut stream = UnixStream::connect(folder.join("control.sock")).expect("the daemon listens");
        stream.write_all(b"{\"command\":\"ping\"}\n").expect("the daemon reads");
        assert!(stream.read(&mut reply).expect("an answer") > 0);
    }
}

fn control(folder: &Path, units: usize, said: &[u8]) {
    for _ in 0..units {
        match UnixStream::connect(folder.join("control.sock")) {
            Ok(mut stream) => drop(stream.write_all(said)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}
