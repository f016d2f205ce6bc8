//! Stands in for systemd, where a test needs to decide when the service manager reads: sockets that are passed, a
//! store of descriptors by name, notifications, `kill -9`, an orderly stop, a restart with everything that is in the
//! store.
//!
//! As the real one does:
//! - `FDSTORE=1` of a name that is taken adds a second descriptor; `FDSTOREREMOVE=1` removes all of a name; a
//!   descriptor that is in the store already is not added again; what finds no room is dropped without a word;
//! - what a daemon has sent is read also after its death, and before the next start. What it still had in its own
//!   queue is gone;
//! - after a stop the store is emptied; after a death or a restart it is not.
//!
//! Each client may bind its socket to a name of its own ([`connect_named`]). Then the manager knows exactly of which
//! connections it ever had a descriptor.

#![allow(dead_code, reason = "each test file uses its own part")]

#[path = "launch.rs"]
mod launch;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Backlog, UnixAddr, getpeername, listen};
use nix::unistd::Pid;
use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};

pub(crate) use crate::framed::connect_named;
use crate::support::{Home, wait_for, wait_within};

/// The longest that a daemon may take to start or to stop.
const LIFE_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks whether it is over.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// A note has less, with all its lines.
const NOTE_BYTES: usize = 4096;
/// Descriptors that a note may bring.
const NOTE_DESCRIPTORS: usize = 8;

/// How the manager reads notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At once.
    Prompt,
    /// One, and then none for this long. When a daemon starts the socket is full.
    Slow(Duration),
    /// None: it is busy with something else, such as a daemon-reload.
    Refusing,
    /// None, and its socket is full, so that what a daemon sends has to wait in the daemon.
    Clogged,
}

/// The manager, its sockets, and the daemon that it runs.
pub(crate) struct Manager {
    pub(crate) home: Home,
    sockets: Vec<(OwnedFd, &'static str)>,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
    child: Option<Child>,
    /// What the daemon is started with, such as `nsenter` and its arguments.
    pub(crate) wrapper: Vec<String>,
    /// Daemons that were started.
    pub(crate) lives: u64,
}

struct Shared {
    socket: UnixDatagram,
    state: Mutex<State>,
    is_changed: Condvar,
}

struct State {
    pace: Pace,
    store: Vec<Stored>,
    /// How many descriptors the store takes.
    room: usize,
    /// Of each connection by its client's name, under which names its descriptor has come.
    taken: HashMap<String, HashSet<String>>,
    is_ready: bool,
    is_over: bool,
    /// Descriptors that found no room.
    overflowed: u64,
}

struct Stored {
    name: String,
    descriptor: OwnedFd,
    /// Device and inode where they tell one file from another; those of anonymous inodes do not.
    file: Option<(u64, u64)>,
}

impl Manager {
    /// A manager with the unit's room, its sockets open, and no daemon yet.
    pub(crate) fn new() -> Self {
        let home = Home::new();
        let run = home.path("run");
        std::fs::create_dir_all(&run).expect("a folder");
        let stream = UnixListener::bind(run.join("stream.sock")).expect("a socket");
        listen(&stream, Backlog::new(4096).expect("a backlog")).expect("it listens");
        let control = UnixListener::bind(run.join("control.sock")).expect("a socket");
        let datagram = UnixDatagram::bind(run.join("dgram.sock")).expect("a socket");
        sockopt::set_socket_passcred(&datagram, true).expect("an option");
        for name in ["stream.sock", "dgram.sock"] {
            std::fs::set_permissions(run.join(name), std::fs::Permissions::from_mode(0o666)).expect("a mode");
        }
        let sockets = vec![(stream.into(), "ingest"), (datagram.into(), "ingest"), (control.into(), "control")];
        let socket = UnixDatagram::bind(home.path("notify.sock")).expect("a socket");
        socket.set_nonblocking(true).expect("an option");
        let state = State {
            pace: Pace::Prompt,
            store: Vec::new(),
            room: 8192,
            taken: HashMap::new(),
            is_ready: false,
            is_over: false,
            overflowed: 0,
        };
        let shared = Arc::new(Shared { socket, state: Mutex::new(state), is_changed: Condvar::new() });
        let worker = Arc::clone(&shared);
        let reader = Some(thread::spawn(move || worker.read_notes()));
        Self { home, sockets, shared, reader, child: None, wrapper: Vec::new(), lives: 0 }
    }

    /// Starts a daemon with what is in the store, and does not wait for it.
    pub(crate) fn launch(&mut self, settings: &[&str]) {
        assert!(self.child.is_none(), "one daemon at a time");
        let mut state = self.shared.state();
        self.shared.read_the_rest(&mut state);
        if matches!(state.pace, Pace::Slow(_) | Pace::Clogged) {
            self.clog();
        }
        state.is_ready = false;
        let sockets = self.sockets.iter().map(|(socket, name)| (socket.as_fd(), *name));
        let stored = state.store.iter().map(|stored| (stored.descriptor.as_fd(), stored.name.as_str()));
        let passed: Vec<_> = sockets.chain(stored).collect();
        let mut order = self.wrapper.clone();
        order.push(env!("CARGO_BIN_EXE_dbufd").to_owned());
        let path = |name| self.home.path(name).to_string_lossy().into_owned();
        order.extend(["--directory".to_owned(), path("segments"), "--runtime".to_owned(), path("run")]);
        order.extend(["--config".to_owned(), "/dev/null".to_owned()]);
        order.extend(settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]));
        let log = |name| File::options().create(true).append(true).open(self.home.path(name)).expect("a file");
        let child = launch::launch(&order, &passed, |command| {
            command.env("NOTIFY_SOCKET", self.home.path("notify.sock")).env("FDSTORE", state.room.to_string());
            command.stdout(log("stdout")).stderr(log("stderr"));
        });
        drop(passed);
        drop(state);
        self.child = Some(child.unwrap_or_else(|error| panic!("no daemon starts: {error}: {}", self.log())));
        self.lives += 1;
    }

    /// Starts a daemon and waits until it says that it is ready.
    pub(crate) fn start(&mut self, settings: &[&str]) {
        self.launch(settings);
        self.wait_until_ready();
    }

    pub(crate) fn wait_until_ready(&mut self) {
        wait_for("a daemon that is ready", || {
            if let Some(status) = self.child.as_mut().expect("a daemon").try_wait().expect("a child") {
                panic!("dbufd ended with {status} before it was ready: {}", self.log());
            }
            self.is_ready().then_some(())
        });
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.shared.state().is_ready
    }

    /// `kill -9`. What the daemon had sent is read before the next start.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a daemon");
        // It may have ended by itself, which is worse than a kill.
        if let Some(status) = child.try_wait().expect("a child") {
            panic!("dbufd ended by itself with {status}: {}", self.log());
        }
        child.kill().expect("it is there");
        child.wait().expect("a child");
    }

    /// SIGTERM, and waits for the end. What is in the store stays there, as in a restart.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a daemon");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("it is there");
        let Some(status) = wait_within(LIFE_TIMEOUT, || child.try_wait().expect("a child")) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("dbufd does not stop within {LIFE_TIMEOUT:?}: {}", self.log());
        };
        // A signal that comes before it listens to signals ends it at once, which is an end like any other.
        let is_early = !self.is_ready() && status.signal() == Some(Signal::SIGTERM as i32);
        assert!(status.success() || is_early, "dbufd ended with {status}: {}", self.log());
        status
    }

    /// As `systemctl stop`: SIGTERM, and then nothing is kept.
    pub(crate) fn stop_for_good(&mut self) {
        self.stop();
        let mut state = self.shared.state();
        self.shared.read_the_rest(&mut state);
        state.store.clear();
    }

    pub(crate) fn set_pace(&self, pace: Pace) {
        self.shared.state().pace = pace;
        self.shared.is_changed.notify_all();
    }

    /// Reads nothing from here on, and fills its socket with notes that mean nothing, so that the next that the
    /// daemon sends has to wait in the daemon.
    pub(crate) fn refuse_all(&self) {
        self.set_pace(Pace::Clogged);
        self.clog();
    }

    /// Fills the socket.
    pub(crate) fn clog(&self) {
        let path = self.home.path("notify.sock");
        loop {
            let sender = UnixDatagram::unbound().expect("a socket");
            sender.set_nonblocking(true).expect("an option");
            let sent = (0..).take_while(|_| sender.send_to(b"CLOG=1", &path).is_ok()).count();
            // Not the sender's own buffer but the manager's queue is full.
            if sent == 0 {
                return;
            }
        }
    }

    /// The names of what is in the store, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.shared.state().store.iter().map(|stored| stored.name.clone()).collect()
    }

    /// Whether a descriptor of this client's connection has ever come; see [`connect_named`].
    pub(crate) fn has_taken(&self, client: &str) -> bool {
        self.shared.state().taken.contains_key(client)
    }

    /// Whether it has come as a part of a ring.
    pub(crate) fn has_taken_ring(&self, client: &str) -> bool {
        let state = self.shared.state();
        state.taken.get(client).is_some_and(|names| names.iter().any(|name| name.starts_with("ring")))
    }

    /// How many of these clients' connections have ever come.
    pub(crate) fn count_taken(&self, is_meant: impl Fn(&str) -> bool) -> usize {
        self.shared.state().taken.keys().filter(|client| is_meant(client)).count()
    }

    /// A way for other threads to ask [`Manager::has_taken`].
    pub(crate) fn view(&self) -> View {
        View(Arc::clone(&self.shared))
    }

    /// What the daemons have said on standard error.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.home.path("stderr")).unwrap_or_default()).into_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a daemon").id()
    }
}

/// What the manager has taken, for threads that do not have it.
#[derive(Clone)]
pub(crate) struct View(Arc<Shared>);

impl View {
    /// As [`Manager::has_taken`].
    pub(crate) fn has_taken(&self, client: &str) -> bool {
        self.0.state().taken.contains_key(client)
    }

    /// As [`Manager::set_pace`].
    pub(crate) fn set_pace(&self, pace: Pace) {
        self.0.state().pace = pace;
        self.0.is_changed.notify_all();
    }

    /// As [`Manager::has_taken_ring`].
    pub(crate) fn has_taken_ring(&self, client: &str) -> bool {
        let state = self.0.state();
        state.taken.get(client).is_some_and(|names| names.iter().any(|name| name.starts_with("ring")))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.shared.state().is_over = true;
        self.shared.is_changed.notify_all();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read_notes(&self) {
        loop {
            let refuses = |state: &mut State| matches!(state.pace, Pace::Refusing | Pace::Clogged) && !state.is_over;
            let mut state = self.is_changed.wait_while(self.state(), refuses).expect("no thread panics with it");
            if state.is_over {
                return;
            }
            let (got, pace) = (self.read_one(&mut state), state.pace);
            drop(state);
            match (got, pace) {
                (false, _) => {
                    let _ = poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&LOOK_EVERY));
                }
                (true, Pace::Slow(pause)) => thread::sleep(pause),
                (true, _) => {}
            }
        }
    }

    fn read_the_rest(&self, state: &mut State) {
        while self.read_one(state) {}
    }

    /// False if there is none.
    fn read_one(&self, state: &mut State) -> bool {
        let mut bytes = [0; NOTE_BYTES];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(NOTE_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let Ok(got) = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) else {
            return false;
        };
        let descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let descriptors: Vec<OwnedFd> = descriptors.collect();
        state.take(&String::from_utf8_lossy(&bytes[..got.bytes]), descriptors);
        true
    }
}

impl State {
    fn take(&mut self, note: &str, descriptors: Vec<OwnedFd>) {
        let says = |wanted: &str| note.lines().any(|line| line == wanted);
        let name = note.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored");
        if says("READY=1") {
            self.is_ready = true;
        }
        if says("FDSTOREREMOVE=1") {
            self.store.retain(|stored| stored.name != name);
        }
        if says("FDSTORE=1") {
            // Without it the real one drops a connection when its client leaves, with what it said before.
            assert!(says("FDPOLL=0"), "not to be dropped on hang-up: {note:?}");
            for descriptor in descriptors {
                self.put(name, descriptor);
            }
        }
    }

    fn put(&mut self, name: &str, descriptor: OwnedFd) {
        let file = identity_of(&descriptor);
        if file.is_some() && self.store.iter().any(|stored| stored.file == file) {
            return;
        }
        if self.store.len() >= self.room {
            self.overflowed += 1;
            return;
        }
        if let Some(client) = name_of_peer(&descriptor) {
            self.taken.entry(client).or_default().insert(name.to_owned());
        }
        self.store.push(Stored { name: name.to_owned(), descriptor, file });
    }
}

fn identity_of(descriptor: &OwnedFd) -> Option<(u64, u64)> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).ok()?;
    let link = link.to_string_lossy();
    let stat = rustix::fs::fstat(descriptor).ok()?;
    (link.starts_with("socket:") || link.starts_with("/memfd:")).then_some((stat.st_dev, stat.st_ino))
}

fn name_of_peer(descriptor: &OwnedFd) -> Option<String> {
    let peer = getpeername::<UnixAddr>(descriptor.as_raw_fd()).ok()?;
    peer.as_abstract().map(|name| String::from_utf8_lossy(name).into_owned())
}

/// A name for [`connect_named`] that no other socket on the machine has.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Relaxed: of two callers each gets a number of its own in any order.
    format!("dbufd-test-{}-{}-{name}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}
