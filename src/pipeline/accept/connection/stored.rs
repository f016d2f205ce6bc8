//! Keeps connections open across the death of the process: this process and systemd both hold each of them.
//!
//! Input: accepted connections, and how far each has been read. Output: names in the store ([`crate::sys::fdstore`]).
//! After a restart or a `kill -9` the next process gets the same connections, each with its [`InheritedPosition`].
//! Thread: any writer, when a connection comes, when it goes, and after a read that ended within a line. Failure: the
//! store can be full, or the user has its share of it or of systemd's time. Then a connection is served normally, but
//! does not survive the process. Its writer tries again later ([`StoredConnections::keep_later`]).
//!
//! A stored connection is one object of the kernel with two holders. Closing it here does not end it. Its peer sees the
//! end when the socket is shut down, and systemd closes its copy when dbufd removes the name. A [`Slot`] that is
//! dropped without [`StoredConnection::close`] stays in the store, as after a crash and after an orderly stop.
//!
//! The read position in a slot identifies the connection's peer and says how far it was read. It is written before
//! systemd gets the connection. It is removed before anything is read that the next process could not resume, which is
//! a connection that speaks frames. It is also removed when a read ends the connection, before that read is done. So
//! the next process ends a connection that has no read position, whatever systemd still holds.
//!
//! A slot is free for another connection only after systemd has closed the first one: otherwise the next process would
//! take the position of one for the other. By then no receive buffer names the slot, for the same reason
//! (`Connection::end_of_read` and `Connection::close`).
//!
//! A connection whose peer has already sent everything and closed is only *noted*: it has a slot but is not given to
//! systemd. The slot tells the next process whose bytes are in a receive buffer. Nothing else is left of the
//! connection.

mod unkept;

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use self::unkept::{REASONS, WhyUnkept};
use super::read_position::{FoundPosition, InheritedPosition, PAGES_UNKNOWN, ReadPosition, ReadPositions, SLOTS_MAX};
use crate::pipeline::account::Identity;
use crate::pipeline::shares::{Held, Refusal, Resource, Shares, StoreFor};
use crate::pipeline::takeover::names::{Name, end_for_peer};
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::sys::fdstore::FdStore;

/// Positions are written to two places in turn. The first one shares a page with the peer.
const TURN_FIRST: u64 = 1;

/// The connections in the store.
#[derive(Debug)]
pub struct StoredConnections {
    shares: Arc<Shares>,
    store: Arc<FdStore>,
    read_positions: ReadPositions,
    slots: Mutex<Slots>,
    /// Connections that were not stored when they came, by the reason ([`WhyUnkept::reason`]).
    unkept: [AtomicU64; REASONS],
}

#[derive(Debug, Default)]
struct Slots {
    /// Slots below this number have been used.
    used: u32,
    /// The free ones among them.
    free: Vec<u32>,
    /// Connections that systemd holds and this process serves.
    stored: u64,
}

/// The connections that the previous process left.
#[derive(Debug, Default)]
pub struct InheritedConnections {
    /// Connections, each with its slot.
    pub connections: Vec<(u32, OwnedFd)>,
    /// The memory that says how far each was read.
    pub read_positions: Option<OwnedFd>,
    /// The slots of connections with something unfinished in a receive buffer (`ReceiveBuffers::slots`).
    pub in_receive_buffers: Vec<u32>,
    /// The slots of connections that have become a ring's. The store still holds them under the old name as well.
    pub kept_twice: Vec<u32>,
}

/// A connection that the previous process left.
#[derive(Debug)]
pub struct InheritedConnection {
    pub(crate) stored: StoredConnection,
    /// The kind of listener that accepted it.
    pub(crate) kind: u16,
    pub(crate) identity: Identity,
    pub(crate) position: InheritedPosition,
    /// The last read that the position includes.
    pub(crate) read: u64,
}

/// A connection, and its slot if it has one.
#[derive(Debug)]
pub(crate) struct StoredConnection {
    pub(crate) socket: OwnedFd,
    /// systemd has had it, and may still hold it.
    was_stored: bool,
    slot: Option<Slot>,
    /// It is not stored, and should be.
    is_unkept: bool,
    /// The kind of listener that it is from, if it is unkept.
    kind: u16,
}

/// What came of another try to store a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It is stored, or must not be stored any more.
    Done,
    /// Not now.
    Later,
}

/// A slot, and what its read position says.
#[derive(Debug)]
struct Slot {
    all: Arc<StoredConnections>,
    index: u32,
    kind: u16,
    /// systemd has the connection. If not, it is only noted.
    is_in_store: bool,
    /// The position may exist.
    has_position: bool,
    /// Pages of memory that the slot takes.
    pages: u16,
    /// The position is not the start of a line, so it must be rewritten when that changes.
    must_rewrite: bool,
    /// The position says that the connection speaks text.
    is_noted_as_text: bool,
    /// How often the position was written.
    turn: u64,
    /// The part of its user's share. It is given back when another connection can have the slot.
    held: Held,
}

impl StoredConnections {
    /// Connections that a store with room for this many descriptors holds at most: the read positions take one.
    #[must_use]
    pub fn capacity(room: usize) -> u64 {
        room.saturating_sub(1).min(SLOTS_MAX) as u64
    }

    /// Takes over the connections that the previous process left, and stores connections for the next process from here
    /// on. How many those are is up to the shares, see [`StoredConnections::capacity`].
    ///
    /// # Errors
    /// If there is no memory for the read positions.
    pub fn open(
        shares: Arc<Shares>,
        store: Arc<FdStore>,
        left: InheritedConnections,
    ) -> io::Result<(Arc<Self>, Vec<InheritedConnection>)> {
        let read_positions = match left.read_positions.and_then(ReadPositions::open) {
            Some(read_positions) => read_positions,
            None => {
                let read_positions = ReadPositions::new()?;
                let name = Name::ReadPositions.to_string();
                if let Err(error) = store.replace(&name, read_positions.memory()) {
                    tracing::warn!(%error, "connections will not survive this process: read positions not stored");
                }
                read_positions
            }
        };
        let mut connections = Vec::new();
        for (slot, socket) in left.connections {
            if (slot as usize) < SLOTS_MAX {
                connections.push((slot, socket, true));
            } else {
                end_for_peer(&socket);
                store.remove(&name_of(slot));
            }
        }
        for slot in left.in_receive_buffers {
            if connections.iter().all(|(known, ..)| *known != slot) && (slot as usize) < SLOTS_MAX {
                // A connection that has become a ring's is in the store under this name as well.
                connections.push((slot, ended_socket()?, left.kept_twice.contains(&slot)));
            }
        }
        connections.sort_by_key(|(slot, ..)| *slot);
        let mut taken: HashSet<u32> = connections.iter().map(|(slot, ..)| *slot).collect();
        // A slot whose connection is in a receive buffer is freed with that connection.
        let kept_twice: Vec<u32> = left.kept_twice.into_iter().filter(|slot| taken.insert(*slot)).collect();
        let used = taken.iter().max().map_or(0, |slot| slot + 1);
        let free = (0..used).rev().filter(|index| !taken.contains(index));
        let stored = connections.iter().filter(|(.., is_in_store)| *is_in_store).count() as u64;
        let slots = Mutex::new(Slots { used, free: free.collect(), stored });
        let all = Arc::new(Self { shares, store, read_positions, slots, unkept: Default::default() });
        kept_twice.into_iter().for_each(|index| all.let_go(index, None));
        let inherit = |(index, socket, is_in_store): (u32, OwnedFd, bool)| {
            let FoundPosition { kind, peer, position, read, turn } = all.read_positions.read(index);
            let slot = Slot {
                all: Arc::clone(&all),
                index,
                kind,
                is_in_store,
                has_position: true,
                pages: PAGES_UNKNOWN,
                must_rewrite: true,
                is_noted_as_text: false,
                turn,
                held: all.shares.take_over(Resource::StoredConnections, peer.uid, 1),
            };
            let stored =
                StoredConnection { was_stored: is_in_store, slot: Some(slot), ..StoredConnection::unstored(socket) };
            InheritedConnection { stored, kind, identity: peer, position, read }
        };
        let inherited = connections.into_iter().map(inherit).collect();
        Ok((all, inherited))
    }

    /// Stores a new connection from a listener of this kind. If that is not possible now, the connection is served
    /// normally, and [`StoredConnections::keep_later`] tries again.
    pub(crate) fn keep(self: &Arc<Self>, kind: u16, socket: OwnedFd, identity: &Identity) -> StoredConnection {
        let mut stored = StoredConnection { is_unkept: true, kind, ..StoredConnection::unstored(socket) };
        if let Err(why) = self.store_for(StoreFor::Newcomer, &mut stored, identity.uid, identity, None) {
            if let WhyUnkept::Refused(refusal) = why {
                self.shares.count_refusal(refusal, identity.uid);
            }
            self.report_unkept(&why, identity.uid);
        }
        stored
    }

    /// Tries again to store a connection that was not stored when it came. It may have been read up to `position`. No
    /// read of it may be in progress.
    pub(crate) fn keep_later(
        self: &Arc<Self>,
        stored: &mut StoredConnection,
        owner: u32,
        identity: &Identity,
        position: &ReadPosition<'_>,
    ) -> Retry {
        let is_done =
            !stored.is_unkept || self.store_for(StoreFor::Resident, stored, owner, identity, Some(position)).is_ok();
        if is_done { Retry::Done } else { Retry::Later }
    }

    fn store_for(
        self: &Arc<Self>,
        store_for: StoreFor,
        stored: &mut StoredConnection,
        owner: u32,
        identity: &Identity,
        position: Option<&ReadPosition<'_>>,
    ) -> Result<(), WhyUnkept> {
        let kind = stored.kind;
        let (index, held) = self.take_slot(owner).map_err(WhyUnkept::Refused)?;
        let mut slot = self.slot(index, kind, true, held);
        let mut put = || {
            let taken = self.shares.try_take_systemd_time(owner, self.store.cost_us(), store_for);
            taken.map_err(WhyUnkept::Refused)?;
            // Before systemd has it: the next process must never find what an earlier connection left here, and must
            // find what this one has sent of a line. No receive buffer holds a read of a connection without a slot, so
            // the position includes none.
            self.read_positions.begin(index, kind, identity).map_err(WhyUnkept::NoMemory)?;
            position.map_or(Ok(()), |position| slot.note_position(position, 0)).map_err(WhyUnkept::NoMemory)?;
            Ok(self.store.put(&name_of(index), stored.socket.as_fd())?)
        };
        if let Err(why) = put() {
            slot.forget_position();
            self.slots().free.push(index);
            return Err(why);
        }
        self.slots().stored += 1;
        (stored.slot, stored.was_stored, stored.is_unkept) = (Some(slot), true, false);
        Ok(())
    }

    /// Notes the peer of a new connection that has already sent everything and closed. Without a free slot, bytes that
    /// are read and not published end with this process.
    pub(crate) fn note(self: &Arc<Self>, kind: u16, socket: OwnedFd, identity: &Identity) -> StoredConnection {
        let slot = self.take_slot(identity.uid).ok().and_then(|(index, held)| {
            if self.read_positions.begin(index, kind, identity).is_err() {
                self.slots().free.push(index);
                return None;
            }
            Some(self.slot(index, kind, false, held))
        });
        StoredConnection { slot, ..StoredConnection::unstored(socket) }
    }

    fn slot(self: &Arc<Self>, index: u32, kind: u16, is_in_store: bool, held: Held) -> Slot {
        Slot {
            all: Arc::clone(self),
            index,
            kind,
            is_in_store,
            has_position: true,
            pages: 0,
            must_rewrite: false,
            is_noted_as_text: false,
            turn: TURN_FIRST,
            held,
        }
    }

    /// Removes a connection from the store. Its slot is free once systemd has closed it.
    fn let_go(self: &Arc<Self>, index: u32, held: Option<Held>) {
        let all = Arc::clone(self);
        self.store.remove_then(&name_of(index), move || {
            all.slots().free.push(index);
            drop(held);
        });
    }

    /// Warns at the first and then at each power of two of each reason, because there may be thousands.
    fn report_unkept(&self, why: &WhyUnkept, uid: u32) {
        // Relaxed: a plain counter.
        let unkept = self.unkept[why.reason()].fetch_add(1, Relaxed) + 1;
        if unkept.is_power_of_two() {
            tracing::warn!(unkept, uid, "connections would not survive a restart now: {why}");
        }
    }

    /// Connections that systemd holds and this process serves: those that a restart does not break. Noted ones do not
    /// count, nor do closed ones whose slot waits for systemd.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.slots().stored
    }

    /// Connections that were not stored when they came, since the daemon started. Some may have been stored later.
    #[must_use]
    pub fn unkept(&self) -> u64 {
        // Relaxed: plain counters.
        self.unkept.iter().map(|unkept| unkept.load(Relaxed)).sum()
    }

    fn take_slot(&self, uid: u32) -> Result<(u32, Held), Refusal> {
        let held = self.shares.try_take(Resource::StoredConnections, uid, 1)?;
        let mut slots = self.slots();
        if let Some(index) = slots.free.pop() {
            return Ok((index, held));
        }
        // Those of the previous process can be more than there is room for now.
        if slots.used as usize >= SLOTS_MAX {
            return Err(Refusal::NoneLeft(Resource::StoredConnections));
        }
        slots.used += 1;
        Ok((slots.used - 1, held))
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }
}

/// Stands in for a socket that ended with its process. No byte will come from it.
fn ended_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?.0)
}

fn name_of(index: u32) -> String {
    Name::Connection(index).to_string()
}

impl Slot {
    /// Removes the position, so that the next process ends the connection. False if that fails.
    fn forget_position(&mut self) -> bool {
        self.has_position = self.has_position && self.all.read_positions.clear(self.index).is_err();
        !self.has_position
    }

    /// As [`StoredConnection::note_position`].
    fn note_position(&mut self, position: &ReadPosition<'_>, read: u64) -> io::Result<()> {
        let is_within_line = !position.is_line_start();
        // Once the connection is known to be text, the position says so. Otherwise the next process would have to
        // guess.
        let is_text = matches!(position, ReadPosition::Text { .. }) && self.is_in_store;
        if !is_within_line && !self.must_rewrite && (self.is_noted_as_text || !is_text) {
            return Ok(());
        }
        self.turn += 1;
        self.pages = self.all.read_positions.write(self.index, position, read, self.turn, self.pages)?;
        (self.must_rewrite, self.is_noted_as_text) = (is_within_line, is_text);
        Ok(())
    }

    fn give_back(mut self) {
        self.forget_position();
        if self.is_in_store {
            self.all.slots().stored -= 1;
            self.all.let_go(self.index, Some(self.held));
        } else {
            self.all.slots().free.push(self.index);
        }
    }
}

impl StoredConnection {
    /// A connection that ends with this process.
    pub(crate) fn unstored(socket: OwnedFd) -> Self {
        Self { socket, was_stored: false, slot: None, is_unkept: false, kind: 0 }
    }

    /// Whether it should be stored, and is not.
    pub(crate) fn is_unkept(&self) -> bool {
        self.is_unkept
    }

    /// Adds the peer's names, learned after the connection was stored and before anything was read. Without them the
    /// next process knows only the numbers.
    pub(crate) fn note_names(&self, identity: &Identity) {
        if let Some(Slot { all, index, kind, .. }) = &self.slot {
            let _ = all.read_positions.begin(*index, *kind, identity);
        }
    }

    /// Notes the process that sent last, and its names. The read position stays.
    pub(crate) fn note_sender(&self, identity: &Identity) {
        if let Some(Slot { all, index, kind, has_position: true, .. }) = &self.slot {
            // The page exists, so this takes no memory.
            let _ = all.read_positions.set_peer(*index, *kind, identity);
        }
    }

    /// Whether the next process would resume it.
    pub(crate) fn is_stored(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| slot.is_in_store)
    }

    /// Whether it is only noted: its peer had sent everything and closed when it came, or the previous process left
    /// only its bytes.
    pub(crate) fn is_noted(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| !slot.is_in_store)
    }

    /// Its slot, if it has one.
    pub(crate) fn slot(&self) -> Option<u32> {
        self.slot.as_ref().map(|slot| slot.index)
    }

    /// Records that the connection was read up to `position`, including read number `read`. Writes once that the
    /// connection speaks text; after that it costs nothing while the position stays at the start of a line. False if
    /// there is no memory: the next process would then resume in the middle of a line, so the connection must be
    /// removed from the store.
    pub(crate) fn note_position(&mut self, position: &ReadPosition<'_>, read: u64) -> bool {
        let Some(slot) = &mut self.slot else { return true };
        slot.note_position(position, read)
            .inspect_err(|error| {
                tracing::warn!(%error, "a connection will not survive a restart: its read position cannot be written");
            })
            .is_ok()
    }

    /// Makes the next process end the connection. Must be called while the receive buffer still holds what was read.
    /// False if the next process could misread it, so that it must end now.
    pub(crate) fn forget_position(&mut self) -> bool {
        self.slot.as_mut().is_none_or(Slot::forget_position)
    }

    /// Removes the connection from the store but continues to serve it.
    pub(crate) fn let_go(&mut self) {
        self.is_unkept = false;
        if let Some(slot) = self.slot.take() {
            slot.give_back();
        }
    }

    /// Ends the connection, here and for its peer.
    pub(crate) fn close(mut self) {
        if self.was_stored {
            // systemd may close its copy later, but the peer must see the end now.
            end_for_peer(&self.socket);
        }
        self.let_go();
    }
}

#[cfg(test)]
mod tests;
