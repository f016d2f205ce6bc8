//! Writers when descriptors run out, and with thousands of clients. A process of its own, since the limit is the
//! process's; one test after the other, for the same reason.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dbufd::pipeline::accept::frames::Sessions;
use dbufd::pipeline::accept::publish::receive_buffer::ReceiveBuffers;
use dbufd::pipeline::accept::ring::registry::Rings;
use dbufd::pipeline::accept::{Accept, AcceptOptions, Listener, ListenerKind, Stopped};
use dbufd::pipeline::buffer::{DoubleBuffer, Options, Reader, Waker};
use dbufd::pipeline::counters::Counters;
use dbufd::pipeline::progress::Progress;
use dbufd::pipeline::pulse::Beat;
use dbufd::pipeline::shares::{Resource, Shares};
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

const TIMEOUT: Duration = Duration::from_secs(60);
const WRITERS: usize = 2;

/// One test at a time changes the process's limit.
static LIMIT: Mutex<()> = Mutex::new(());

/// Writers over a reader that throws everything away.
struct Daemon {
    directory: tempfile::TempDir,
    accept: Option<Accept>,
    counters: Arc<Counters>,
    is_over: Arc<AtomicBool>,
    waker: Waker,
    reader: Option<JoinHandle<()>>,
}

fn shares() -> Arc<Shares> {
    Shares::new([1 << 20; Resource::ALL.len()], nix::unistd::geteuid().as_raw())
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stream = OwnedFd::from(UnixListener::bind(directory.path().join("stream.sock")).unwrap());
        // The listener of the standard library has a short queue.
        nix::sys::socket::listen(&stream, nix::sys::socket::Backlog::MAXCONN).unwrap();
        let datagram = OwnedFd::from(UnixDatagram::bind(directory.path().join("dgram.sock")).unwrap());
        let (buffer, reader) = DoubleBuffer::new(&Options { writers_max: WRITERS, ..Options::default() }).unwrap();
        let (counters, is_over) = (Arc::new(Counters::new(WRITERS).unwrap()), Arc::new(AtomicBool::new(false)));
        let waker = buffer.waker();
        let accept = Accept::start(AcceptOptions {
            listeners: vec![
                Listener { kind: ListenerKind::Stream, socket: stream, is_passed: false },
                Listener { kind: ListenerKind::Datagram, socket: datagram, is_passed: false },
            ],
            stored: None,
            inherited: Vec::new(),
            shares: shares(),
            sessions: Sessions::new(shares()),
            rings: Rings::new(shares()),
            receive_buffers: ReceiveBuffers::take_over(WRITERS, None, Vec::new()).unwrap(),
            store: None,
            buffer,
            counters: Arc::clone(&counters),
            progress: Arc::new(Progress::new(WRITERS).unwrap()),
            cpus: vec![None; WRITERS],
            max_event_bytes: 4096,
        })
        .unwrap();
        let over = Arc::clone(&is_over);
        let reader = Some(std::thread::spawn(move || discard(reader, &over)));
        Self { directory, accept: Some(accept), counters, is_over, waker, reader }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("stream.sock")
    }

    fn sum(&self, what: impl Fn(&dbufd::pipeline::counters::WriterCounters) -> u64) -> u64 {
        self.counters.writers.iter().map(|writer| what(&writer.0)).sum()
    }

    fn connections(&self) -> u64 {
        self.sum(|writer| writer.connections.load(Ordering::Relaxed))
    }

    fn refused(&self) -> u64 {
        self.sum(|writer| writer.refused_connections.load(Ordering::Relaxed))
    }

    fn events(&self) -> u64 {
        self.counters.account.totals().received_events
    }

    fn beats(&self) -> Vec<Beat> {
        self.accept.as_ref().unwrap().pulses().iter().map(|pulse| pulse.look()).collect()
    }

    fn wait_until(&self, what: &str, mut enough: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !enough(self) {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            // Spares the machine, and decides nothing.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(self.accept.take().unwrap().stop(TIMEOUT), Stopped { writers_left: 0 });
        self.is_over.store(true, Ordering::Release);
        self.waker.wake();
        self.reader.take().unwrap().join().unwrap();
    }
}

fn discard(mut reader: Reader, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Acquire) {
        reader.wait(Duration::ZERO, None);
        reader.swap();
    }
}

/// The number that the next descriptor of this process gets.
fn next_descriptor() -> u64 {
    let next = std::fs::File::open("/dev/null").unwrap();
    u64::try_from(next.as_raw_fd()).unwrap()
}

#[test]
fn when_descriptors_run_out_clients_wait_with_what_they_have_sent_and_nobody_spins() {
    let _one = LIMIT.lock().unwrap_or_else(PoisonError::into_inner);
    let daemon = Daemon::start();
    let address = SocketAddrUnix::new(daemon.path()).unwrap();
    // The clients' own descriptors are made before the limit comes down.
    let clients: Vec<OwnedFd> = (0..40)
        .map(|_| socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap())
        .collect();
    let (soft, hard) = getrlimit(Limit::RLIMIT_NOFILE).unwrap();
    setrlimit(Limit::RLIMIT_NOFILE, next_descriptor() + 8, hard).unwrap();
    let mut clients: Vec<UnixStream> = clients
        .into_iter()
        .map(|client| {
            connect(&client, &address).unwrap();
            let mut client = UnixStream::from(client);
            client.write_all(b"a line\n").unwrap();
            client
        })
        .collect();
    daemon.wait_until("some are served", |daemon| daemon.events() > 0);
    let rounds = || daemon.beats().iter().map(|beat| beat.rounds).sum::<u64>();
    let (before, began) = (rounds(), Instant::now());
    // Time is what is tested: a writer that found no descriptor looks again every 100 ms.
    std::thread::sleep(Duration::from_millis(150));
    let spent = rounds() - before;
    let looks = began.elapsed().as_millis() as u64 / 100 + 1;
    assert!((1..=8).contains(&daemon.events()), "the others wait");
    // A few for each look, and for each client that is still being served. A writer that spins makes thousands.
    let most = 4 * WRITERS as u64 * looks + 100;
    assert!(spent <= most, "nobody spins over a full table of descriptors: {spent} rounds");
    // Half of them leave: what they have sent stays.
    clients.truncate(20);
    setrlimit(Limit::RLIMIT_NOFILE, soft, hard).unwrap();
    daemon.wait_until("all lines are there", |daemon| daemon.events() == 40);
    assert_eq!(daemon.refused(), 0, "nobody is turned away");
    for client in &mut clients {
        client.write_all(b"one more\n").unwrap();
    }
    daemon.wait_until("they are served", |daemon| daemon.events() == 60);
}

#[test]
fn thousands_of_clients_are_served_and_each_keeps_its_order() {
    let _one = LIMIT.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, hard) = getrlimit(Limit::RLIMIT_NOFILE).unwrap();
    setrlimit(Limit::RLIMIT_NOFILE, hard, hard).unwrap();
    // Both ends are in this process.
    let count = 5000.min((hard - 200) / 2);
    let daemon = Daemon::start();
    let mut clients: Vec<_> = (0..count).map(|_| UnixStream::connect(daemon.path()).unwrap()).collect();
    daemon.wait_until("all are accepted", |daemon| daemon.connections() == count);
    for writer in &daemon.counters.writers {
        assert!(writer.0.connections.load(Ordering::Relaxed) >= count / WRITERS as u64 - 1, "they are spread evenly");
    }
    for round in 0..3 {
        for client in &mut clients {
            write!(client, "round {round}\npart").unwrap();
        }
    }
    // "round 0", "partround 1", "partround 2", and "part" at the end.
    daemon.wait_until("all whole lines are there", |daemon| daemon.events() == 3 * count);
    drop(clients);
    daemon.wait_until("all have left", |daemon| daemon.connections() == 0);
    assert_eq!((daemon.events(), daemon.refused()), (4 * count, 0));
    assert_eq!(daemon.counters.account.totals().received_bytes, count * (7 + 11 + 11 + 4));
}
