//! Connections that outlive this process: each is kept twice, here and in systemd's file-descriptor store.
//!
//! Enters: accepted connections, and how far each has been read. Leaves: notes to systemd (`FDSTORE=1`,
//! `FDSTOREREMOVE=1`), and after a restart or a `kill -9` the same connections for the successor, each with its
//! [`Bookmark`]. Any writer thread, once when a connection comes and once when it goes; never for an event. What can
//! fail: the store has room for so many; a connection beyond that is served like any other and ends with this process.
//!
//! A connection that is kept is one of the kernel's objects with two holders. So closing it here does not end it: its
//! peer sees the end when it is shut down, and systemd lets go of it when it is told to. A [`Place`] that is dropped
//! without [`Kept::close`] stays in the store, which is what a crash and an orderly stop have in common.
//!
//! Facts of the store, tried with systemd 252:
//! - it is kept over a crash, `kill -9` and `systemctl restart`, and emptied by a stop;
//! - the names come back in one environment variable, of which the kernel allows 128 KiB: names are short;
//! - an overflow is silent, so the number that fits is counted here (`FDSTORE`, see the unit);
//! - descriptors vanish on hang-up unless `FDPOLL=0`: what a peer sent before it left would go with them.
//!
//! systemd may be busy for seconds (a daemon-reload). A note that it does not take at once goes to a thread that waits,
//! and all later ones queue behind it, so that a name is always given back before it is given away again.

mod bookmarks;
mod queue;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{Shutdown, SockType, getsockopt, shutdown, sockopt};

pub(super) use self::bookmarks::{Bookmark, Mark, Ongoing};
use self::bookmarks::{Bookmarks, PAGES_UNKNOWN, PLACES_MAX};
use self::queue::Queue;
use crate::pipeline::counters::Identity;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::sys::notify::Notifier;

/// The name of the memory that says how far each connection has been read.
const BOOKMARKS_NAME: &str = "bookmarks";
/// What a connection's name begins with; its place follows in decimal.
const CONNECTION_PREFIX: char = 'c';

/// The daemon's side of the store.
#[derive(Debug)]
pub struct FdStore {
    queue: Queue,
    bookmarks: Bookmarks,
    places: Mutex<Places>,
    /// The most connections that the store takes.
    places_max: usize,
    /// Connections that found no room.
    unkept: AtomicU64,
}

#[derive(Debug, Default)]
struct Places {
    /// Places below this have been used.
    used: u32,
    /// Those of them that nobody has.
    free: Vec<u32>,
}

/// What a predecessor left, in the order of its places.
#[derive(Debug)]
pub struct Inherited {
    pub(super) kept: Kept,
    pub(super) identity: Identity,
    pub(super) bookmark: Bookmark,
}

/// A connection, and its place in the store if it has one.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) socket: OwnedFd,
    place: Option<Place>,
}

/// A place in the store, and what is written in its bookmark.
#[derive(Debug)]
struct Place {
    store: Arc<FdStore>,
    index: u32,
    /// Pages of the bookmark's memory that are taken.
    pages: u16,
    /// The bookmark says something, so that it has to be changed when that is no longer true.
    says: bool,
}

/// What systemd passed, sorted.
#[derive(Debug, Default)]
pub struct Passed {
    /// Sockets that listen or take datagrams, with their names.
    pub sockets: Vec<(OwnedFd, String)>,
    connections: Vec<(u32, OwnedFd)>,
    bookmarks: Option<OwnedFd>,
    /// Names of what nothing can be done with.
    strange: Vec<String>,
}

impl Passed {
    /// Sorts descriptors by their names. Whatever was put into the store by another version and is not understood is
    /// set aside, to be let go of.
    #[must_use]
    pub fn sort(passed: Vec<(OwnedFd, String)>) -> Self {
        let mut sorted = Self::default();
        for (descriptor, name) in passed {
            let place = name.strip_prefix(CONNECTION_PREFIX).and_then(|place| place.parse::<u32>().ok());
            let is_connection = getsockopt(&descriptor, sockopt::SockType) == Ok(SockType::Stream)
                && getsockopt(&descriptor, sockopt::AcceptConn) == Ok(false);
            let is_socket = getsockopt(&descriptor, sockopt::SockType).is_ok();
            match place {
                Some(place) if is_connection && (place as usize) < PLACES_MAX => {
                    sorted.connections.push((place, descriptor));
                }
                _ if is_socket && !is_connection => sorted.sockets.push((descriptor, name)),
                _ if !is_socket && name == BOOKMARKS_NAME => sorted.bookmarks = Some(descriptor),
                _ => sorted.strange.push(name),
            }
        }
        sorted.connections.sort_by_key(|(place, _)| *place);
        sorted
    }

    /// Whether a predecessor left anything.
    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.bookmarks.is_none() && self.strange.is_empty()
    }
}

/// How many descriptors the store takes: what systemd 254 and later say in `FDSTORE`, and the unit for older ones.
#[must_use]
pub fn room_from_environment() -> usize {
    std::env::var("FDSTORE").ok().and_then(|room| room.parse().ok()).unwrap_or(0)
}

impl FdStore {
    /// Takes over what a predecessor left, and keeps connections for a successor from here on. None where there is no
    /// store: no manager listens, or it has no room and left nothing.
    ///
    /// # Errors
    /// When there is no memory for the bookmarks, or no thread for the notes.
    pub fn open(
        notifier: Option<Notifier>,
        room: usize,
        passed: Passed,
    ) -> io::Result<Option<(Arc<Self>, Vec<Inherited>)>> {
        let Some(notifier) = notifier.filter(|_| room > 0 || !passed.is_empty()) else { return Ok(None) };
        let queue = Queue::start(notifier)?;
        for name in &passed.strange {
            tracing::warn!(name, "systemd kept a descriptor that this version does not know; it is let go");
            queue.remove(name);
        }
        // Those of another version say nothing that could be relied on.
        let (bookmarks, is_new) = match passed.bookmarks.and_then(Bookmarks::open) {
            Some(bookmarks) => (bookmarks, false),
            None => (Bookmarks::new()?, true),
        };
        if is_new {
            queue.remove(BOOKMARKS_NAME);
            queue.put(BOOKMARKS_NAME, bookmarks.memory());
        }
        let used = passed.connections.last().map_or(0, |(place, _)| place + 1);
        let free = (0..used).rev().filter(|index| passed.connections.iter().all(|(place, _)| place != index));
        let places = Mutex::new(Places { used, free: free.collect() });
        // One is for the bookmarks.
        let places_max = room.saturating_sub(1).min(PLACES_MAX);
        let store = Arc::new(Self { queue, bookmarks, places, places_max, unkept: AtomicU64::new(0) });
        let inherit = |(index, socket): (u32, OwnedFd)| {
            let (identity, bookmark) = store.bookmarks.read(index);
            let place = Place { store: Arc::clone(&store), index, pages: PAGES_UNKNOWN, says: true };
            Inherited { kept: Kept { socket, place: Some(place) }, identity, bookmark }
        };
        let inherited = passed.connections.into_iter().map(inherit).collect();
        Ok(Some((store, inherited)))
    }

    /// Keeps a new connection. One that finds no room is served all the same, and ends with this process.
    pub(super) fn keep(self: &Arc<Self>, socket: OwnedFd, identity: &Identity) -> Kept {
        let place = self.take_place().and_then(|index| {
            // Before systemd has it: a successor must never find what an earlier connection left here.
            if self.bookmarks.begin(index, identity).is_err() || !self.queue.put(&name_of(index), socket.as_fd()) {
                self.places().free.push(index);
                return None;
            }
            Some(Place { store: Arc::clone(self), index, pages: 0, says: false })
        });
        if place.is_none() {
            self.tell_unkept();
        }
        Kept { socket, place }
    }

    /// Said at the first and then ever more rarely, for there may be thousands.
    fn tell_unkept(&self) {
        // Relaxed: a plain counter.
        let unkept = self.unkept.fetch_add(1, Relaxed) + 1;
        if unkept.is_power_of_two() {
            tracing::warn!(
                unkept,
                room = self.places_max,
                "connections are not kept over a restart, for systemd's store has no room; raise FileDescriptorStoreMax= and FDSTORE"
            );
        }
    }

    /// Connections that are kept now.
    #[must_use]
    pub fn kept(&self) -> u64 {
        let places = self.places();
        u64::from(places.used) - places.free.len() as u64
    }

    /// Connections that were not kept, since the daemon began.
    #[must_use]
    pub fn unkept(&self) -> u64 {
        self.unkept.load(Relaxed)
    }

    fn take_place(&self) -> Option<u32> {
        let mut places = self.places();
        if let Some(index) = places.free.pop() {
            return Some(index);
        }
        let index = places.used;
        ((index as usize) < self.places_max).then(|| {
            places.used += 1;
            index
        })
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().expect("no thread panics while it holds the places")
    }
}

fn name_of(index: u32) -> String {
    format!("{CONNECTION_PREFIX}{index}")
}

impl Place {
    fn give_back(self) {
        self.store.bookmarks.clear(self.index);
        self.store.queue.remove(&name_of(self.index));
        self.store.places().free.push(self.index);
    }
}

impl Kept {
    /// A connection that ends with this process.
    pub(super) fn not(socket: OwnedFd) -> Self {
        Self { socket, place: None }
    }

    /// Whether a successor would go on with it.
    pub(super) fn is_kept(&self) -> bool {
        self.place.is_some()
    }

    /// It is about to be read: until the next [`Kept::mark`] its bookmark is not to be relied on.
    pub(super) fn open_book(&mut self) {
        if let Some(place) = &self.place
            && place.says
            && place.store.bookmarks.in_flux(place.index).is_err()
        {
            self.let_go();
        }
    }

    /// It was read as far as `mark` says. Costs nothing where that is the beginning of a line, as it was before.
    pub(super) fn mark(&mut self, mark: &Mark<'_>) {
        let Some(place) = &mut self.place else { return };
        let says = !mark.is_line_start();
        if !says && !place.says {
            return;
        }
        match place.store.bookmarks.write(place.index, mark, place.pages) {
            Ok(pages) => (place.says, place.pages) = (says, pages),
            // No memory: a successor that read on in the middle of a line would bend it.
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be kept over a restart");
                self.let_go();
            }
        }
    }

    /// Serves it on, but it is nothing for a successor any more.
    pub(super) fn let_go(&mut self) {
        if let Some(place) = self.place.take() {
            place.give_back();
        }
    }

    /// Ends it, here and for its peer.
    pub(super) fn close(mut self) {
        if self.is_kept() {
            // systemd may let go of it later; the peer is to see the end now. One that has left already is no error.
            let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
            self.let_go();
        }
    }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
