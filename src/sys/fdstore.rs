//! Keeps descriptors in systemd's file-descriptor store, by name, so that they outlive this process.
//!
//! Input: names and descriptors. Output: notifications to systemd (`FDSTORE=1`, `FDSTOREREMOVE=1`). The next process
//! gets the descriptors back together with the sockets of the units (see [`super::listen_fds`]). Thread: any. While
//! systemd keeps up, the calling thread sends. What systemd cannot take at once (a daemon-reload takes seconds) waits
//! in a queue, and the thread `dbufd-fdstore` sends it. Failure: there is no second descriptor for one that must wait
//! ([`NotKept`]).
//!
//! Invariants:
//! 1. Notifications are sent in the order in which they were made.
//! 2. A name is not given to a second descriptor before systemd has taken the removal of the first. systemd removes all
//!    descriptors of a name at once, and the next process could not tell two of one name apart.
//! 3. The queue holds at most one addition and one removal for each name in use, so it is bounded by the names.
//! 4. What systemd has taken stays taken: its socket holds notifications also after the death of their sender.
//!
//! Facts of the store, tested with systemd 252:
//! - It survives a crash, `kill -9` and `systemctl restart`. A stop empties it.
//! - The names come back in one environment variable, which the kernel limits to 128 KiB. So names are short.
//! - An overflow is silent, so the caller counts what it puts in ([`room_from_environment`]).
//! - Descriptors vanish on hang-up unless `FDPOLL=0` is given, and with them what a peer sent before it left.
//! - systemd compares a new descriptor with all that it stores for the unit, one kcmp(2) each ([`FdStore::cost_us`]).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::notify::{Notifier, WhenBusy};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, thread};

/// Microseconds of PID 1 for an addition to an empty store and the removal after it: 147 measured, on a slow core.
const COST_US: u64 = 150;
/// Microseconds of PID 1 for the comparison with one stored descriptor: 0.98 measured there.
const COMPARISON_US: u64 = 1;
/// Waiting notifications that the log reports. It reports them again each time their number has doubled.
const WAITING_NOTABLE: usize = 1024;

/// This process's view of the store.
#[derive(Debug)]
pub struct FdStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    notifier: Notifier,
    state: Mutex<State>,
    has_changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Names that may not be used again, and the latest request for each.
    names: HashMap<Box<str>, Stage>,
    /// By number, in the order in which they are sent. The first one stays here until it is sent.
    waiting: BTreeMap<u64, Note>,
    /// The number of the next notification that must wait.
    next_number: u64,
    /// How many must wait for the next warning.
    notable: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The addition with this number waits, or is being sent.
    Waits(u64),
    /// systemd has it.
    Kept,
    /// The removal waits, or is being sent.
    Leaves,
}

struct Note {
    name: Box<str>,
    /// The descriptor to keep; None for a removal.
    descriptor: Option<OwnedFd>,
    then: Option<Box<dyn FnOnce() + Send>>,
}

/// Why a descriptor is not kept.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// The name is in use (invariant 2).
    #[error("its name is still in use in systemd's store")]
    InUse,
    /// The notification would have to wait, and the descriptor for that cannot be duplicated.
    #[error("systemd is slow to take notifications, and no descriptor is free to wait with: {0}; raise LimitNOFILE=")]
    Descriptors(io::Error),
}

/// Number of descriptors that the store takes. systemd 254 and later set `FDSTORE`; the unit sets it for older
/// versions.
#[must_use]
pub fn room_from_environment() -> usize {
    std::env::var("FDSTORE").ok().and_then(|room| room.parse().ok()).unwrap_or(0)
}

impl FdStore {
    /// Starts the thread, which ends with the process. `inherited` are the names of what the store kept for this
    /// process.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub fn start<'a>(notifier: Notifier, inherited: impl IntoIterator<Item = &'a str>) -> io::Result<Self> {
        let names = inherited.into_iter().map(|name| (name.into(), Stage::Kept)).collect();
        let state = Mutex::new(State { names, notable: WAITING_NOTABLE, ..State::default() });
        let shared = Arc::new(Shared { notifier, state, has_changed: Condvar::new() });
        let worker = Arc::clone(&shared);
        thread::Builder::new().name("dbufd-fdstore".into()).spawn(move || worker.send_what_waits())?;
        Ok(Self(shared))
    }

    /// Asks systemd to keep a descriptor under a name that is not in use.
    ///
    /// # Errors
    /// [`NotKept`]. With `NotKept::Descriptors` the name stays free.
    pub fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<(), NotKept> {
        let mut state = self.0.state();
        if state.names.contains_key(name) {
            return Err(NotKept::InUse);
        }
        if state.waiting.is_empty() && self.0.send(name, Some(descriptor), WhenBusy::Fail).is_ok() {
            state.names.insert(name.into(), Stage::Kept);
            return Ok(());
        }
        let descriptor = descriptor.try_clone_to_owned().map_err(NotKept::Descriptors)?;
        let number = state.wait(Note { name: name.into(), descriptor: Some(descriptor), then: None });
        state.names.insert(name.into(), Stage::Waits(number));
        self.0.has_changed.notify_all();
        Ok(())
    }

    /// Asks systemd to keep a descriptor in place of the one that it keeps under this name, if any. This is for memory
    /// of another version, which the next process can tell from this one.
    ///
    /// # Errors
    /// [`NotKept::Descriptors`].
    pub fn replace(&self, name: &str, descriptor: BorrowedFd<'_>) -> Result<(), NotKept> {
        let mut state = self.0.state();
        if !state.names.contains_key(name) {
            drop(state);
            return self.put(name, descriptor);
        }
        let descriptor = descriptor.try_clone_to_owned().map_err(NotKept::Descriptors)?;
        state.wait(Note { name: name.into(), descriptor: None, then: None });
        let number = state.wait(Note { name: name.into(), descriptor: Some(descriptor), then: None });
        state.names.insert(name.into(), Stage::Waits(number));
        self.0.has_changed.notify_all();
        Ok(())
    }

    /// Asks systemd to remove what it keeps under a name, if anything.
    pub fn remove(&self, name: &str) {
        self.remove_then(name, || ());
    }

    /// As [`FdStore::remove`]. Calls `then` when the name may be used again, which is when systemd has taken the
    /// removal. `then` runs on the calling thread or on `dbufd-fdstore`.
    pub fn remove_then(&self, name: &str, then: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state();
        let is_free = match state.names.get(name).copied() {
            None => true,
            Some(Stage::Waits(number)) if state.cancel(number) => true,
            Some(Stage::Leaves) => {
                debug_assert!(false, "a name is removed once: {name}");
                return;
            }
            Some(Stage::Waits(_) | Stage::Kept) => {
                state.waiting.is_empty() && self.0.send(name, None, WhenBusy::Fail).is_ok()
            }
        };
        if is_free {
            state.names.remove(name);
            drop(state);
            then();
            return;
        }
        state.names.insert(name.into(), Stage::Leaves);
        state.wait(Note { name: name.into(), descriptor: None, then: Some(Box::new(then)) });
        self.0.has_changed.notify_all();
    }

    /// What it costs systemd to store one more descriptor now, and to remove it later, in microseconds.
    #[must_use]
    pub fn cost_us(&self) -> u64 {
        COST_US + COMPARISON_US * self.0.state().names.len() as u64
    }

    /// Number of notifications that systemd has not taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.state().waiting.len()
    }

    /// Waits until systemd has taken all notifications, at most for `timeout`. Returns how many it has not taken.
    pub fn wait_taken(&self, timeout: Duration) -> usize {
        let is_busy = |state: &mut State| !state.waiting.is_empty();
        let waited = self.0.has_changed.wait_timeout_while(self.0.state(), timeout, is_busy);
        let (state, _) = waited.expect("no thread panics while it holds the notifications");
        state.waiting.len()
    }

    /// As [`FdStore::wait_taken`]. Then also waits until systemd has acted on them, if it can report that (`BARRIER=1`,
    /// sd_notify_barrier(3)).
    pub fn settle(&self, timeout: Duration) -> usize {
        let until = Instant::now() + timeout;
        let waiting = self.wait_taken(timeout);
        if waiting == 0 {
            self.0.await_barrier(until);
        }
        waiting
    }
}

impl State {
    fn wait(&mut self, note: Note) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.insert(number, note);
        if self.waiting.len() >= self.notable {
            self.notable *= 2;
            tracing::warn!(
                waiting = self.waiting.len(),
                "the service manager is slow to take notifications; until it has, a crash would break new connections"
            );
        }
        number
    }

    /// Cancels an addition unless it is being sent.
    fn cancel(&mut self, number: u64) -> bool {
        // The first one may be under way.
        let is_first = self.waiting.keys().next() == Some(&number);
        !is_first && self.waiting.remove(&number).is_some()
    }

    /// Removes the first notification: it is sent.
    fn pop(&mut self) -> Option<Note> {
        let note = self.waiting.pop_first().map(|(_, note)| note);
        if self.waiting.is_empty() {
            self.notable = WAITING_NOTABLE;
        }
        note
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the notifications")
    }

    fn send(&self, name: &str, descriptor: Option<BorrowedFd<'_>>, when_busy: WhenBusy) -> io::Result<()> {
        let text = match descriptor {
            // Without FDPOLL=0 systemd would drop a connection when its peer leaves, with everything that the peer sent
            // before.
            Some(_) => format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"),
            None => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
        };
        self.notifier.send(&text, descriptor, when_busy)
    }

    fn send_what_waits(&self) {
        loop {
            let waiting = self.has_changed.wait_while(self.state(), |state| state.waiting.is_empty());
            let mut state = waiting.expect("no thread panics while it holds the notifications");
            // It stays in front until it is sent, so that others queue after it.
            let Some(mut first) = state.waiting.first_entry() else { continue };
            let first = first.get_mut();
            let (name, descriptor) = (first.name.clone(), first.descriptor.take());
            drop(state);
            loop {
                match self.send(&name, descriptor.as_ref().map(AsFd::as_fd), WhenBusy::Wait) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // If the manager is gone, it takes nothing and keeps nothing.
                    Ok(()) | Err(_) => break,
                }
            }
            let mut state = self.state();
            let sent = state.pop();
            match (&sent, descriptor.is_some()) {
                // A removal may have been requested meanwhile. It waits after this one.
                (Some(_), true) if state.names.get(&name) == Some(&Stage::Leaves) => {}
                (Some(_), true) => drop(state.names.insert(name, Stage::Kept)),
                (_, false) if state.names.get(&name) == Some(&Stage::Leaves) => drop(state.names.remove(&name)),
                // A removal whose name has been given to another descriptor, which waits after it.
                _ => {}
            }
            drop(state);
            self.has_changed.notify_all();
            if let Some(then) = sent.and_then(|note| note.then) {
                then();
            }
        }
    }

    /// Waits until systemd closes a descriptor that it gets after all earlier notifications.
    fn await_barrier(&self, until: Instant) {
        let Ok((ours, theirs)) = io::pipe() else { return };
        if self.notifier.send("BARRIER=1", Some(theirs.as_fd()), WhenBusy::Wait).is_err() {
            return;
        }
        drop(theirs);
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        let _ = poll(&mut [PollFd::new(&ours, PollFlags::HUP)], Some(&left));
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("names", &self.names.len()).field("waiting", &self.waiting.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::mpsc;
    use std::fs::File;
    use std::os::unix::net::UnixDatagram;

    struct Manager {
        socket: UnixDatagram,
        notifier: Option<Notifier>,
        _dir: tempfile::TempDir,
    }

    impl Manager {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            let notifier = Notifier::to(path.to_str().unwrap().as_bytes()).unwrap();
            Self { socket, notifier: Some(notifier), _dir: dir }
        }

        fn store(&mut self, inherited: &[&str]) -> FdStore {
            FdStore::start(self.notifier.take().unwrap(), inherited.iter().copied()).unwrap()
        }

        /// Fills the socket, so that the next notification must wait.
        fn fill(&self, store: &FdStore) -> usize {
            (0..).take_while(|_| store.0.notifier.send("STATUS=x", None, WhenBusy::Fail).is_ok()).count()
        }

        fn next(&self) -> String {
            let mut bytes = [0; 256];
            let count = self.socket.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..count]).replace('\n', " ")
        }
    }

    fn descriptor() -> File {
        File::open("/dev/null").unwrap()
    }

    #[test]
    fn a_name_is_free_again_only_when_the_manager_has_taken_its_removal() {
        let mut manager = Manager::new();
        let store = manager.store(&["c9"]);
        assert!(matches!(store.put("c9", descriptor().as_fd()), Err(NotKept::InUse)), "it is inherited");
        store.put("c1", descriptor().as_fd()).unwrap();
        assert_eq!(manager.next(), "FDSTORE=1 FDNAME=c1 FDPOLL=0");
        let filled = manager.fill(&store);
        let (free, is_free) = mpsc::channel();
        store.remove_then("c1", move || free.send(()).unwrap());
        assert!(is_free.try_recv().is_err(), "the manager has not taken it");
        assert!(matches!(store.put("c1", descriptor().as_fd()), Err(NotKept::InUse)));
        (0..filled).for_each(|_| assert_eq!(manager.next(), "STATUS=x"));
        assert_eq!(manager.next(), "FDSTOREREMOVE=1 FDNAME=c1");
        is_free.recv().unwrap();
        store.put("c1", descriptor().as_fd()).unwrap();
    }

    #[test]
    fn memory_of_another_version_is_replaced_in_order() {
        let mut manager = Manager::new();
        let store = manager.store(&["sessions"]);
        store.replace("sessions", descriptor().as_fd()).unwrap();
        assert_eq!(manager.next(), "FDSTOREREMOVE=1 FDNAME=sessions");
        assert_eq!(manager.next(), "FDSTORE=1 FDNAME=sessions FDPOLL=0");
        assert_eq!(store.wait_taken(Duration::from_secs(60)), 0);
        assert_eq!(store.settle(Duration::from_millis(1)), 0);
        assert!(matches!(store.put("sessions", descriptor().as_fd()), Err(NotKept::InUse)));
        store.replace("rings", descriptor().as_fd()).unwrap();
        let next = [manager.next(), manager.next()];
        assert!(next.contains(&"FDSTORE=1 FDNAME=rings FDPOLL=0".to_owned()), "{next:?}");
    }

    #[test]
    fn what_comes_and_goes_while_the_manager_is_busy_is_no_work_for_it() {
        let mut manager = Manager::new();
        let store = manager.store(&[]);
        let filled = manager.fill(&store);
        for name in ["c0", "c1", "c2"] {
            store.put(name, descriptor().as_fd()).unwrap();
        }
        store.remove("c1");
        for _ in 0..1000 {
            store.put("c1", descriptor().as_fd()).unwrap();
            store.remove("c1");
        }
        assert_eq!((store.waiting(), store.0.state().waiting.len()), (2, 2), "nor does it take memory");
        (0..filled).for_each(|_| assert_eq!(manager.next(), "STATUS=x"));
        assert_eq!(manager.next(), "FDSTORE=1 FDNAME=c0 FDPOLL=0");
        assert_eq!(manager.next(), "FDSTORE=1 FDNAME=c2 FDPOLL=0");
        store.remove("c2");
        assert_eq!(manager.next(), "FDSTOREREMOVE=1 FDNAME=c2");
    }

    #[test]
    fn a_burst_of_thousands_waits_for_the_manager_and_none_is_refused() {
        let mut manager = Manager::new();
        let store = manager.store(&[]);
        manager.fill(&store);
        let one = descriptor();
        (0..3000).for_each(|number| store.put(&format!("c{number}"), one.as_fd()).unwrap());
        assert_eq!(store.waiting(), 3000);
        let reader = thread::spawn(move || while manager.next() != "FDSTORE=1 FDNAME=c2999 FDPOLL=0" {});
        reader.join().unwrap();
    }

    #[test]
    fn the_end_waits_until_the_manager_has_taken_everything_or_the_time_is_over() {
        let mut manager = Manager::new();
        let store = manager.store(&[]);
        let filled = manager.fill(&store);
        store.put("c1", descriptor().as_fd()).unwrap();
        assert_eq!(store.settle(Duration::from_millis(20)), 1, "a manager that takes nothing");
        // It reads everything, including the barrier, and closes what came with it.
        let reader = thread::spawn(move || {
            (0..=filled).for_each(|_| drop(manager.next()));
            manager.next()
        });
        assert_eq!(store.settle(Duration::from_secs(30)), 0);
        assert_eq!(reader.join().unwrap(), "BARRIER=1");
    }
}
