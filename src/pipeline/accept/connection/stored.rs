//! Connections that outlive this process: each is kept twice, here and in systemd's file-descriptor store.
//!
//! Enters: accepted connections, and how far each has been read. Leaves: names in the store ([`crate::sys::fdstore`]), and
//! after a restart or a `kill -9` the same connections for the successor, each with its [`Bookmark`]. Any writer thread,
//! when a connection comes, when it goes, and after a read that ended within a line. What can fail: the store has room for
//! so many; a connection beyond that is served like any other and ends with this process.
//!
//! A connection that is kept is one of the kernel's objects with two holders. So closing it here does not end it: its
//! peer sees the end when it is shut down, and systemd lets go of it when it is told to. A [`Place`] that is dropped
//! without [`Kept::close`] stays in the store, which is what a crash and an orderly stop have in common.
//!
//! A connection whose peer has said all and left is only noted: it has a place, so that a successor can tell whose bytes
//! lie in a receive buffer, and systemd does not hear of it. What is left of it after a death is those bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{Shutdown, shutdown};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::read_position::{Bookmark, Bookmarks, Found, Mark, PAGES_UNKNOWN, PLACES_MAX};
use crate::pipeline::account::Identity;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::sys::fdstore::FdStore;

/// The name, in the store, of the memory that says how far each connection has been read.
pub const BOOKMARKS_NAME: &str = "bookmarks";
/// What a connection's name begins with; its place follows in decimal.
const CONNECTION_PREFIX: char = 'c';

/// The connections in the store.
#[derive(Debug)]
pub struct KeptConnections {
    store: Arc<FdStore>,
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

/// What a predecessor left in the store.
#[derive(Debug, Default)]
pub struct Left {
    /// Connections, each with its place ([`place_of`]).
    pub connections: Vec<(u32, OwnedFd)>,
    /// What was kept as [`BOOKMARKS_NAME`].
    pub bookmarks: Option<OwnedFd>,
    /// The places of connections whose bytes lie in a receive buffer (`ReceiveBuffers::places`).
    pub in_receive_buffers: Vec<u32>,
}

/// A connection that a predecessor left.
#[derive(Debug)]
pub struct Inherited {
    pub(crate) kept: Kept,
    pub(crate) identity: Identity,
    pub(crate) bookmark: Bookmark,
    /// The read that the bookmark includes.
    pub(crate) read: u64,
}

/// A connection, and its place in the store if it has one.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) socket: OwnedFd,
    place: Option<Place>,
}

/// A place in the store, and what is written in its bookmark.
#[derive(Debug)]
struct Place {
    all: Arc<KeptConnections>,
    index: u32,
    /// systemd has the connection; else it is only noted.
    is_in_store: bool,
    /// Pages of the bookmark's memory that are taken.
    pages: u16,
    /// The bookmark says something, so that it has to be changed when that is no longer true.
    says: bool,
    /// How often the bookmark was written.
    turn: u64,
}

impl KeptConnections {
    /// Takes over what a predecessor left, and keeps connections for a successor from here on: as many as there is `room`
    /// for in the store, the bookmarks included.
    ///
    /// # Errors
    /// When there is no memory for the bookmarks.
    pub fn open(store: Arc<FdStore>, room: usize, left: Left) -> io::Result<(Arc<Self>, Vec<Inherited>)> {
        // Those of another version say nothing that could be relied on.
        let bookmarks = match left.bookmarks.and_then(Bookmarks::open) {
            Some(bookmarks) => bookmarks,
            None => {
                let bookmarks = Bookmarks::new()?;
                store.remove(BOOKMARKS_NAME);
                if !store.put(BOOKMARKS_NAME, bookmarks.memory()) {
                    tracing::warn!("systemd takes no descriptors; after a restart half a line may be taken for one");
                }
                bookmarks
            }
        };
        let mut connections: Vec<_> =
            left.connections.into_iter().map(|(place, socket)| (place, socket, true)).collect();
        for place in left.in_receive_buffers {
            if connections.iter().all(|(known, ..)| *known != place) && (place as usize) < PLACES_MAX {
                connections.push((place, ended_socket()?, false));
            }
        }
        connections.sort_by_key(|(place, ..)| *place);
        let used = connections.last().map_or(0, |(place, ..)| place + 1);
        let free = (0..used).rev().filter(|index| connections.iter().all(|(place, ..)| place != index));
        let places = Mutex::new(Places { used, free: free.collect() });
        let places_max = room.saturating_sub(1).min(PLACES_MAX);
        let all = Arc::new(Self { store, bookmarks, places, places_max, unkept: AtomicU64::new(0) });
        let inherit = |(index, socket, is_in_store): (u32, OwnedFd, bool)| {
            let Found { peer, bookmark, read, turn } = all.bookmarks.read(index);
            let place = Place { all: Arc::clone(&all), index, is_in_store, pages: PAGES_UNKNOWN, says: true, turn };
            Inherited { kept: Kept { socket, place: Some(place) }, identity: peer, bookmark, read }
        };
        let inherited = connections.into_iter().map(inherit).collect();
        Ok((all, inherited))
    }

    /// Keeps a new connection. One that finds no room is served all the same, and ends with this process.
    pub(crate) fn keep(self: &Arc<Self>, socket: OwnedFd, identity: &Identity) -> Kept {
        let place = self.take_place().and_then(|index| {
            // Before systemd has it: a successor must never find what an earlier connection left here.
            if self.bookmarks.begin(index, identity).is_err() || !self.store.put(&name_of(index), socket.as_fd()) {
                self.places().free.push(index);
                return None;
            }
            Some(Place { all: Arc::clone(self), index, is_in_store: true, pages: 0, says: false, turn: 0 })
        });
        if place.is_none() {
            self.tell_unkept();
        }
        Kept { socket, place }
    }

    /// Notes whose a new connection is whose peer has said all. Of one that finds no place, what is read ends with this
    /// process.
    pub(crate) fn note(self: &Arc<Self>, socket: OwnedFd, identity: &Identity) -> Kept {
        let place = self.take_place().and_then(|index| {
            if self.bookmarks.begin(index, identity).is_err() {
                self.places().free.push(index);
                return None;
            }
            Some(Place { all: Arc::clone(self), index, is_in_store: false, pages: 0, says: false, turn: 0 })
        });
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

/// The place of the connection that is kept under this name; None if it is not the name of one.
#[must_use]
pub fn place_of(name: &str) -> Option<u32> {
    let place = name.strip_prefix(CONNECTION_PREFIX)?.parse().ok()?;
    ((place as usize) < PLACES_MAX).then_some(place)
}

/// In the place of a socket that has gone with its process: nothing more will come from it.
fn ended_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?.0)
}

fn name_of(index: u32) -> String {
    format!("{CONNECTION_PREFIX}{index}")
}

impl Place {
    fn give_back(self) {
        self.all.bookmarks.clear(self.index);
        if self.is_in_store {
            self.all.store.remove(&name_of(self.index));
        }
        self.all.places().free.push(self.index);
    }
}

impl Kept {
    /// A connection that ends with this process.
    pub(crate) fn not(socket: OwnedFd) -> Self {
        Self { socket, place: None }
    }

    /// Its peer's names, learned since it was kept; nothing has been read of it yet. Without them a successor knows the numbers.
    pub(crate) fn note_names(&self, identity: &Identity) {
        if let Some(Place { all, index, .. }) = &self.place {
            let _ = all.bookmarks.begin(*index, identity);
        }
    }

    /// Whether a successor would go on with it.
    pub(crate) fn is_kept(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.is_in_store)
    }

    /// Whether its peer had said all when it came, and it is noted; or that is all that a predecessor has left of it.
    pub(crate) fn is_noted(&self) -> bool {
        self.place.as_ref().is_some_and(|place| !place.is_in_store)
    }

    /// Its place, if it has one.
    pub(crate) fn place(&self) -> Option<u32> {
        self.place.as_ref().map(|place| place.index)
    }

    /// It was read as far as `mark` says, the read of this number included. Costs nothing where that is the beginning of a
    /// line, as it was before. False if there is no memory for it: a successor that read on in the middle of a line would
    /// bend it, so the connection is to be let go.
    pub(crate) fn mark(&mut self, mark: &Mark<'_>, read: u64) -> bool {
        let Some(place) = &mut self.place else { return true };
        let says = !mark.is_line_start();
        if !says && !place.says {
            return true;
        }
        place.turn += 1;
        match place.all.bookmarks.write(place.index, mark, read, place.turn, place.pages) {
            Ok(pages) => (place.says, place.pages) = (says, pages),
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be kept over a restart");
                return false;
            }
        }
        true
    }

    /// Serves it on, but it is nothing for a successor any more.
    pub(crate) fn let_go(&mut self) {
        if let Some(place) = self.place.take() {
            place.give_back();
        }
    }

    /// Ends it, here and for its peer.
    pub(crate) fn close(mut self) {
        if self.is_kept() {
            // systemd may let go of it later; the peer is to see the end now. One that has left already is no error.
            let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        }
        self.let_go();
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
