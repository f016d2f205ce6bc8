//! Grants rings: how many there may be, whose they are, and how they outlive the process.
//!
//! Enters: requests of clients, and the rings that the previous process left. Leaves: [`RingParts`] for their writers;
//! figures for people. One lock, taken when a ring begins, ends, or is looked at by people; never for an event. What
//! can fail: a limit is reached, or there is no memory; then the client goes on without a ring.
//!
//! A ring is three descriptors, each with a name of its own in the store: memory, doorbell and connection. What the
//! previous process left of one counts only if all three are there. A ring is passed to its client first and kept
//! after that, before anything is taken from it: a death in between ends the connection, and the client still has all
//! that it wrote.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use dbuf_wire::ring::{CAPACITY_BYTES, Memory, Position, RingConsumer, flag};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::table::{FoundRing, RingState, RingTable};
use crate::pipeline::accept::limits::RINGS_MAX;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::takeover::names::{Name, end_for_peer};
use crate::pipeline::takeover::spans::Span;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::sys::fdstore::FdStore;
use crate::sys::{membarrier, ticks};

/// Descriptors of a ring.
pub const DESCRIPTORS: usize = 3;

/// How many rings there may be, and how large together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLimits {
    /// Of all users.
    pub rings: usize,
    /// Bytes of data of all.
    pub bytes: u64,
}

/// A user other than root has at most this part of what there may be.
const SHARE_OF_USER: usize = 4;
const ROOT: u32 = 0;

/// What a ring's writer says of it, for people.
#[derive(Debug, Default)]
pub struct RingFigures {
    /// Bytes published and not taken, at the last look.
    pub waiting_bytes: AtomicU64,
    /// The most that this ever was.
    pub high_water_bytes: AtomicU64,
    /// Events taken.
    pub events: AtomicU64,
    /// Events that found no room.
    pub lost: AtomicU64,
    /// Events refused.
    pub refused: AtomicU64,
}

/// A ring, as people see it.
#[derive(Clone, Debug)]
pub struct RingStatus {
    /// Whose it is; the tag is its name.
    pub identity: Arc<Identity>,
    /// Bytes of data.
    pub capacity_bytes: u64,
    /// What its writer says.
    pub figures: Arc<RingFigures>,
}

/// What the previous process left of its rings.
#[derive(Debug, Default)]
pub struct InheritedRings {
    /// How far each is published; its notes are resolved.
    pub ring_table: Option<RingTable>,
    /// The descriptors of rings, by their names: [`Name::Ring`], [`Name::RingBell`] and [`Name::RingLine`].
    pub parts: Vec<(Name, OwnedFd)>,
}

fn part_of(name: Name) -> Option<(u32, usize)> {
    match name {
        Name::Ring(row) => Some((row, 0)),
        Name::RingBell(row) => Some((row, 1)),
        Name::RingLine(row) => Some((row, 2)),
        _ => None,
    }
}

fn names(row: u32) -> [String; DESCRIPTORS] {
    [Name::Ring(row), Name::RingBell(row), Name::RingLine(row)].map(|name| name.to_string())
}

/// All rings.
#[derive(Debug)]
pub struct Rings {
    limits: RingLimits,
    table: Mutex<Table>,
    stored: Option<StoredRings>,
    /// Bits of `flag` for new rings.
    flags: u64,
}

#[derive(Debug)]
struct StoredRings {
    store: Arc<FdStore>,
    ring_table: RingTable,
    /// Rows below this have a place in the store.
    room: usize,
}

#[derive(Debug, Default)]
struct Table {
    rings: HashMap<u32, RingStatus>,
    /// Rows whose names the manager has not let go of.
    leaving: HashSet<u32>,
    inherited: Vec<(OwnedFd, RingParts)>,
}

/// A row in the table; dropping it leaves the ring to the next process, if it is kept.
#[derive(Debug)]
pub(crate) struct RingRow {
    all: Arc<Rings>,
    row: u32,
    pub(crate) is_stored: bool,
    figures: Arc<RingFigures>,
    identity: Arc<Identity>,
}

/// What a ring is made of, for the writer that serves it.
#[derive(Debug)]
pub(crate) struct RingParts {
    pub(super) consumer: RingConsumer,
    pub(super) bell: OwnedFd,
    pub(super) row: RingRow,
    pub(super) state: RingState,
    /// Events of which the program does not know yet whether they are durable.
    pub(super) pending: Vec<Span>,
}

impl RingParts {
    /// Wakes a program that waits for what the previous process has done: it may have died after that and before the
    /// wake-up, or left it to be noticed here that it had published what it took.
    fn wake_after_takeover(&mut self) {
        if self.consumer.wants() != 0 {
            self.consumer.wake();
        }
    }
}

impl Rings {
    /// Rings that end with the process.
    #[must_use]
    pub fn new(limits: RingLimits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default(), stored: None, flags: flags() })
    }

    /// Rings of which as many are stored as `room` descriptors in `store` allow, and those of the previous process.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn stored(
        limits: RingLimits,
        store: &Arc<FdStore>,
        room: usize,
        left: InheritedRings,
    ) -> io::Result<Arc<Self>> {
        let ring_table = left.ring_table.map_or_else(|| RingTable::create(store), Ok)?;
        let room = (room.saturating_sub(1) / DESCRIPTORS).min(RINGS_MAX);
        let stored = StoredRings { store: Arc::clone(store), ring_table, room };
        let this = Arc::new(Self { limits, table: Mutex::default(), stored: Some(stored), flags: flags() });
        let mut parts: HashMap<u32, [Option<OwnedFd>; DESCRIPTORS]> = HashMap::new();
        for (name, descriptor) in left.parts {
            if let Some((row, part)) = part_of(name) {
                parts.entry(row).or_default()[part] = Some(descriptor);
            }
        }
        for (row, parts) in parts {
            this.inherit(row, parts);
        }
        Ok(this)
    }

    /// Goes on with the previous process's ring, or ends what is left of it: a ring that has ended, or one of which the
    /// manager had not taken all parts when the process died.
    fn inherit(self: &Arc<Self>, row: u32, [memory, bell, line]: [Option<OwnedFd>; DESCRIPTORS]) {
        let Some(StoredRings { ring_table, .. }) = &self.stored else { return };
        let is_row = (row as usize) < RINGS_MAX;
        let found = is_row.then(|| ring_table.find(row)).flatten().filter(|found| !found.state.has_ended);
        let memory = memory.and_then(|memory| Memory::of_file(&memory).ok());
        match (found, memory, bell, line) {
            (Some(found), Some(memory), Some(bell), Some(line)) => {
                let mut parts = self.enter(row, true, memory, bell, found);
                parts.wake_after_takeover();
                self.table().inherited.push((line, parts));
            }
            (_, _, _, line) => {
                // Its program sees the end, has all that was not taken, and asks for another.
                if let Some(line) = line {
                    end_for_peer(&line);
                }
                self.let_go(row);
            }
        }
    }

    /// Ends a stored ring for the next process. Its row is free when the manager has let go of its names.
    fn let_go(self: &Arc<Self>, row: u32) {
        let Some(StoredRings { store, ring_table, .. }) = &self.stored else { return };
        if (row as usize) < RINGS_MAX {
            ring_table.forget(row);
        }
        self.table().leaving.insert(row);
        let leaving = Arc::new(LeavingRow { all: Arc::clone(self), row });
        for name in names(row) {
            let leaving = Arc::clone(&leaving);
            store.remove_then(&name, move || drop(leaving));
        }
    }

    fn enter(
        self: &Arc<Self>,
        row: u32,
        is_stored: bool,
        memory: Memory,
        bell: OwnedFd,
        found: FoundRing,
    ) -> RingParts {
        let FoundRing { identity, state, pending } = found;
        let figures: Arc<RingFigures> = Arc::default();
        let capacity_bytes = memory.capacity();
        let identity = Arc::new(identity);
        let seen = RingStatus { identity: Arc::clone(&identity), capacity_bytes, figures: Arc::clone(&figures) };
        self.table().rings.insert(row, seen);
        let row = RingRow { all: Arc::clone(self), row, is_stored, figures, identity: Arc::clone(&identity) };
        RingParts { consumer: RingConsumer::new(memory, &state.position), bell, row, state, pending }
    }

    /// The rings that the previous process left, each with its connection. Once.
    pub(crate) fn take_inherited(&self) -> Vec<(OwnedFd, RingParts)> {
        std::mem::take(&mut self.table().inherited)
    }

    /// A new ring of `capacity` bytes for `identity`, whose tag is its name; and its memory and doorbell, to be
    /// passed on.
    ///
    /// # Errors
    /// Why there is none, for its client.
    pub(crate) fn grant(self: &Arc<Self>, identity: Identity, capacity: u64) -> Result<(RingParts, OwnedFd), String> {
        if !capacity.is_power_of_two() || !CAPACITY_BYTES.contains(&capacity) {
            return Err("a ring has a power of two of bytes, from 64 KiB to 64 MiB".into());
        }
        let row = self.reserve(&identity, capacity)?;
        let made = Memory::create(capacity, self.flags).and_then(|(memory, file)| {
            let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
            Ok((memory, file, EventFd::from_flags(flags)?))
        });
        match made {
            Ok((memory, file, bell)) => {
                let found = FoundRing { identity, state: RingState::default(), pending: Vec::new() };
                Ok((self.enter(row, false, memory, bell.into(), found), file))
            }
            Err(error) => {
                self.table().rings.remove(&row);
                Err(format!("there is no memory for a ring: {error}"))
            }
        }
    }

    /// A row for a ring that the limits allow.
    fn reserve(&self, identity: &Identity, capacity: u64) -> Result<u32, String> {
        let mut table = self.table();
        let of_user = || table.rings.values().filter(|seen| seen.identity.uid == identity.uid);
        let (all, user) = (table.rings.len(), of_user().count());
        let bytes: u64 = table.rings.values().map(|seen| seen.capacity_bytes).sum();
        let user_bytes: u64 = of_user().map(|seen| seen.capacity_bytes).sum();
        let limits = &self.limits;
        let share = if identity.uid == ROOT { 1 } else { SHARE_OF_USER };
        let over = [
            (all >= limits.rings, "there are as many rings as ingest.rings allows"),
            (user >= limits.rings.div_ceil(share), "this user has as many rings as ingest.rings allows one"),
            (bytes + capacity > limits.bytes, "the rings would take more than ingest.ring_bytes allows"),
            (
                user_bytes + capacity > limits.bytes / share as u64,
                "the rings of this user would take more than ingest.ring_bytes allows one",
            ),
        ];
        if let Some((_, why)) = over.iter().find(|(is_over, _)| *is_over) {
            return Err((*why).to_owned());
        }
        let is_free = |row: &u32| !table.rings.contains_key(row) && !table.leaving.contains(row);
        let row = (0..RINGS_MAX as u32).find(is_free).ok_or("there are too many rings")?;
        let (identity, figures) = (Arc::new(identity.clone()), Arc::default());
        table.rings.insert(row, RingStatus { identity, capacity_bytes: capacity, figures });
        Ok(row)
    }

    /// All rings, for people, in the order of their rows.
    #[must_use]
    pub fn all(&self) -> Vec<RingStatus> {
        let mut all: Vec<_> = self.table().rings.iter().map(|(row, seen)| (*row, seen.clone())).collect();
        all.sort_by_key(|(row, _)| *row);
        all.into_iter().map(|(_, seen)| seen).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// What producers have to know of this machine.
fn flags() -> u64 {
    let ticks = if ticks::are_reliable() { flag::TICKS } else { 0 };
    ticks | if membarrier::reaches_others() { 0 } else { flag::FENCE }
}

impl RingRow {
    fn ring_table(&self) -> Option<&RingTable> {
        self.all.stored.as_ref().filter(|_| self.is_stored).map(|stored| &stored.ring_table)
    }

    pub(crate) fn identity(&self) -> Identity {
        (*self.identity).clone()
    }

    /// Keeps the ring for the next process, where there is a store with room for it.
    pub(crate) fn keep(&mut self, identity: &Identity, descriptors: [&OwnedFd; DESCRIPTORS]) {
        let Some(StoredRings { store, ring_table, room }) = &self.all.stored else { return };
        if self.row as usize >= *room {
            tracing::warn!(
                "a ring is not kept over a restart, for systemd's store has no room; raise FileDescriptorStoreMax="
            );
            return;
        }
        ring_table.begin(self.row, identity);
        let names = names(self.row);
        for (at, (name, descriptor)) in names.iter().zip(descriptors).enumerate() {
            if let Err(error) = store.put(name, descriptor.as_fd()) {
                tracing::warn!(%error, "a ring will not survive a restart");
                ring_table.forget(self.row);
                names[..at].iter().for_each(|name| store.remove(name));
                return;
            }
        }
        self.is_stored = true;
    }

    pub(crate) fn prepare(&self, position: PublishPosition, state: &RingState) {
        if let Some(ring_table) = self.ring_table() {
            ring_table.prepare(self.row, position, state);
        }
    }

    pub(crate) fn abort(&self) {
        if let Some(ring_table) = self.ring_table() {
            ring_table.abort(self.row);
        }
    }

    pub(crate) fn commit(&self, state: &RingState) {
        if let Some(ring_table) = self.ring_table() {
            ring_table.commit(self.row, state);
        }
    }

    /// The program knows the fate of all events up to `known`.
    pub(crate) fn known(&self, known: u64) {
        if let Some(ring_table) = self.ring_table() {
            ring_table.known(self.row, known);
        }
    }

    pub(crate) fn say(&self, waiting_bytes: u64, high_water_bytes: u64, position: &Position, refused: u64) {
        let figures = &self.figures;
        // Relaxed, all of them: numbers for people.
        figures.waiting_bytes.store(waiting_bytes, Relaxed);
        figures.high_water_bytes.store(high_water_bytes, Relaxed);
        figures.events.store(position.events, Relaxed);
        figures.lost.store(position.lost.0, Relaxed);
        figures.refused.store(refused, Relaxed);
    }

    /// The ring has ended.
    pub(crate) fn give_back(self) {
        if self.is_stored {
            self.all.let_go(self.row);
        }
        self.all.table().rings.remove(&self.row);
    }
}

/// A row that is free when this is dropped.
struct LeavingRow {
    all: Arc<Rings>,
    row: u32,
}

impl Drop for LeavingRow {
    fn drop(&mut self) {
        self.all.table().leaving.remove(&self.row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> RingLimits {
        RingLimits { rings: 8, bytes: 1 << 20 }
    }

    fn of_user(uid: u32) -> Identity {
        Identity { uid, ..Identity::default() }
    }

    #[test]
    fn each_limit_is_named_when_it_is_reached_and_a_ring_that_ends_makes_room() {
        let rings = Rings::new(limits());
        let ask = |uid, capacity| rings.grant(of_user(uid), capacity).map(|(ring, _)| ring);
        let why = |asked: Result<RingParts, String>| asked.unwrap_err();
        assert!(why(ask(1, 100_000)).contains("power of two"));
        let first = ask(1, 64 << 10).unwrap();
        let second = ask(1, 64 << 10).unwrap();
        assert!(why(ask(1, 64 << 10)).contains("as ingest.rings allows one"));
        assert!(why(ask(2, 512 << 10)).contains("than ingest.ring_bytes allows one"));
        assert!(why(ask(ROOT, 1 << 20)).ends_with("than ingest.ring_bytes allows"));
        let others: Vec<_> = [ROOT; 6].map(|uid| ask(uid, 64 << 10).unwrap()).into();
        assert!(why(ask(4, 64 << 10)).ends_with("as ingest.rings allows"));
        assert_eq!(rings.all().len(), 8);
        first.row.give_back();
        second.row.give_back();
        assert!(ask(4, 64 << 10).is_ok());
        drop(others);
    }
}
