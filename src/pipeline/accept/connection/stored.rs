//! Connections that outlive this process: each is kept twice, here and in systemd's file-descriptor store.
//!
//! Enters: accepted connections, and how far each has been read. Leaves: names in the store ([`crate::sys::fdstore`]), and
//! after a restart or a `kill -9` the same connections for the next process, each with its [`InheritedPosition`]. Any writer thread,
//! when a connection comes, when it goes, and after a read that ended within a line. What can fail: the store has room for
//! so many; a connection beyond that is served like any other and ends with this process.
//!
//! A connection that is kept is one of the kernel's objects with two holders. So closing it here does not end it: its
//! peer sees the end when it is shut down, and systemd lets go of it when it is told to. A [`Slot`] that is dropped
//! without [`StoredConnection::close`] stays in the store, which is what a crash and an orderly stop have in common.
//!
//! A connection whose peer has said all and left is only noted: it has a place, so that the next process can tell whose bytes
//! lie in a receive buffer, and systemd does not hear of it. What is left of it after a death is those bytes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{Shutdown, shutdown};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::read_position::{FoundPosition, InheritedPosition, PAGES_UNKNOWN, ReadPosition, ReadPositions, SLOTS_MAX};
use crate::pipeline::account::Identity;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard};
use crate::sys::fdstore::FdStore;

/// The name, in the store, of the memory that says how far each connection has been read.
pub const READ_POSITIONS_NAME: &str = "bookmarks";
/// What a connection's name begins with; its place follows in decimal.
const CONNECTION_PREFIX: char = 'c';

/// The connections in the store.
#[derive(Debug)]
pub struct StoredConnections {
    store: Arc<FdStore>,
    read_positions: ReadPositions,
    slots: Mutex<Slots>,
    /// The most connections that the store takes.
    slots_max: usize,
    /// Connections that found no room.
    unkept: AtomicU64,
}

#[derive(Debug, Default)]
struct Slots {
    /// Slots below this have been used.
    used: u32,
    /// Those of them that nobody has.
    free: Vec<u32>,
}

/// What the previous process left in the store.
#[derive(Debug, Default)]
pub struct InheritedConnections {
    /// Connections, each with its place ([`slot_of`]).
    pub connections: Vec<(u32, OwnedFd)>,
    /// What was kept as [`READ_POSITIONS_NAME`].
    pub read_positions: Option<OwnedFd>,
    /// The places of connections whose bytes lie in a receive buffer (`ReceiveBuffers::slots`).
    pub in_receive_buffers: Vec<u32>,
}

/// A connection that the previous process left.
#[derive(Debug)]
pub struct InheritedConnection {
    pub(crate) stored: StoredConnection,
    pub(crate) identity: Identity,
    pub(crate) position: InheritedPosition,
    /// The read that the bookmark includes.
    pub(crate) read: u64,
}

/// A connection, and its place in the store if it has one.
#[derive(Debug)]
pub(crate) struct StoredConnection {
    pub(crate) socket: OwnedFd,
    slot: Option<Slot>,
}

/// A place in the store, and what is written in its bookmark.
#[derive(Debug)]
struct Slot {
    all: Arc<StoredConnections>,
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

impl StoredConnections {
    /// Takes over what the previous process left, and keeps connections for the next process from here on: as many as there is `room`
    /// for in the store, the bookmarks included.
    ///
    /// # Errors
    /// When there is no memory for the bookmarks.
    pub fn open(
        store: Arc<FdStore>,
        room: usize,
        left: InheritedConnections,
    ) -> io::Result<(Arc<Self>, Vec<InheritedConnection>)> {
        // Those of another version say nothing that could be relied on.
        let read_positions = match left.read_positions.and_then(ReadPositions::open) {
            Some(read_positions) => read_positions,
            None => {
                let read_positions = ReadPositions::new()?;
                store.remove(READ_POSITIONS_NAME);
                if !store.put(READ_POSITIONS_NAME, read_positions.memory()) {
                    tracing::warn!("systemd takes no descriptors; after a restart half a line may be taken for one");
                }
                read_positions
            }
        };
        let mut connections: Vec<_> = left.connections.into_iter().map(|(slot, socket)| (slot, socket, true)).collect();
        for slot in left.in_receive_buffers {
            if connections.iter().all(|(known, ..)| *known != slot) && (slot as usize) < SLOTS_MAX {
                connections.push((slot, ended_socket()?, false));
            }
        }
        connections.sort_by_key(|(slot, ..)| *slot);
        let used = connections.last().map_or(0, |(slot, ..)| slot + 1);
        let free = (0..used).rev().filter(|index| connections.iter().all(|(slot, ..)| slot != index));
        let slots = Mutex::new(Slots { used, free: free.collect() });
        let slots_max = room.saturating_sub(1).min(SLOTS_MAX);
        let all = Arc::new(Self { store, read_positions, slots, slots_max, unkept: AtomicU64::new(0) });
        let inherit = |(index, socket, is_in_store): (u32, OwnedFd, bool)| {
            let FoundPosition { peer, position, read, turn } = all.read_positions.read(index);
            let slot = Slot { all: Arc::clone(&all), index, is_in_store, pages: PAGES_UNKNOWN, says: true, turn };
            InheritedConnection {
                stored: StoredConnection { socket, slot: Some(slot) },
                identity: peer,
                position,
                read,
            }
        };
        let inherited = connections.into_iter().map(inherit).collect();
        Ok((all, inherited))
    }

    /// Keeps a new connection. One that finds no room is served all the same, and ends with this process.
    pub(crate) fn keep(self: &Arc<Self>, socket: OwnedFd, identity: &Identity) -> StoredConnection {
        let slot = self.take_slot().and_then(|index| {
            // Before systemd has it: the next process must never find what an earlier connection left here.
            if self.read_positions.begin(index, identity).is_err() || !self.store.put(&name_of(index), socket.as_fd()) {
                self.slots().free.push(index);
                return None;
            }
            Some(Slot { all: Arc::clone(self), index, is_in_store: true, pages: 0, says: false, turn: 0 })
        });
        if slot.is_none() {
            self.warn_not_stored();
        }
        StoredConnection { socket, slot }
    }

    /// Notes whose a new connection is whose peer has said all. Of one that finds no place, what is read ends with this
    /// process.
    pub(crate) fn note(self: &Arc<Self>, socket: OwnedFd, identity: &Identity) -> StoredConnection {
        let slot = self.take_slot().and_then(|index| {
            if self.read_positions.begin(index, identity).is_err() {
                self.slots().free.push(index);
                return None;
            }
            Some(Slot { all: Arc::clone(self), index, is_in_store: false, pages: 0, says: false, turn: 0 })
        });
        StoredConnection { socket, slot }
    }

    /// Said at the first and then ever more rarely, for there may be thousands.
    fn warn_not_stored(&self) {
        // Relaxed: a plain counter.
        let unkept = self.unkept.fetch_add(1, Relaxed) + 1;
        if unkept.is_power_of_two() {
            tracing::warn!(
                unkept,
                room = self.slots_max,
                "connections are not kept over a restart, for systemd's store has no room; raise FileDescriptorStoreMax= and FDSTORE"
            );
        }
    }

    /// Connections that are kept now.
    #[must_use]
    pub fn stored(&self) -> u64 {
        let slots = self.slots();
        u64::from(slots.used) - slots.free.len() as u64
    }

    /// Connections that were not kept, since the daemon began.
    #[must_use]
    pub fn unkept(&self) -> u64 {
        self.unkept.load(Relaxed)
    }

    fn take_slot(&self) -> Option<u32> {
        let mut slots = self.slots();
        if let Some(index) = slots.free.pop() {
            return Some(index);
        }
        let index = slots.used;
        ((index as usize) < self.slots_max).then(|| {
            slots.used += 1;
            index
        })
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().expect("no thread panics while it holds the places")
    }
}

/// The place of the connection that is kept under this name; None if it is not the name of one.
#[must_use]
pub fn slot_of(name: &str) -> Option<u32> {
    let slot = name.strip_prefix(CONNECTION_PREFIX)?.parse().ok()?;
    ((slot as usize) < SLOTS_MAX).then_some(slot)
}

/// In the place of a socket that has gone with its process: nothing more will come from it.
fn ended_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?.0)
}

fn name_of(index: u32) -> String {
    format!("{CONNECTION_PREFIX}{index}")
}

impl Slot {
    fn give_back(self) {
        self.all.read_positions.clear(self.index);
        if self.is_in_store {
            self.all.store.remove(&name_of(self.index));
        }
        self.all.slots().free.push(self.index);
    }
}

impl StoredConnection {
    /// A connection that ends with this process.
    pub(crate) fn unstored(socket: OwnedFd) -> Self {
        Self { socket, slot: None }
    }

    /// Its peer's names, learned since it was kept; nothing has been read of it yet. Without them the next process knows the numbers.
    pub(crate) fn note_names(&self, identity: &Identity) {
        if let Some(Slot { all, index, .. }) = &self.slot {
            let _ = all.read_positions.begin(*index, identity);
        }
    }

    /// Whether the next process would go on with it.
    pub(crate) fn is_stored(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.is_in_store)
    }

    /// Whether its peer had said all when it came, and it is noted; or that is all that the previous process has left of it.
    pub(crate) fn is_noted(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| !slot.is_in_store)
    }

    /// Its place, if it has one.
    pub(crate) fn slot(&self) -> Option<u32> {
        self.slot.as_ref().map(|slot| slot.index)
    }

    /// It was read as far as `position` says, the read of this number included. Costs nothing where that is the beginning of a
    /// line, as it was before. False if there is no memory for it: the next process that read on in the middle of a line would
    /// bend it, so the connection is to be let go.
    pub(crate) fn note_position(&mut self, position: &ReadPosition<'_>, read: u64) -> bool {
        let Some(slot) = &mut self.slot else { return true };
        let says = !position.is_line_start();
        if !says && !slot.says {
            return true;
        }
        slot.turn += 1;
        match slot.all.read_positions.write(slot.index, position, read, slot.turn, slot.pages) {
            Ok(pages) => (slot.says, slot.pages) = (says, pages),
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be kept over a restart");
                return false;
            }
        }
        true
    }

    /// Serves it on, but it is nothing for the next process any more.
    pub(crate) fn let_go(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.give_back();
        }
    }

    /// Ends it, here and for its peer.
    pub(crate) fn close(mut self) {
        if self.is_stored() {
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
