//! Grants rings: how many there may be, who owns them, and how they outlive the process.
//!
//! Input: requests of clients, and the rings that the previous process left. Output: [`Ring`]s for their writers;
//! figures for display. Thread: any, under one lock that is taken when a ring begins, ends, or is displayed, never for
//! an event. Failure: a limit is reached, or there is no memory; then the client continues without a ring.
//!
//! A ring is two descriptors, each with its own name in the store: memory and connection. What the previous process
//! left of a ring counts only if both are there. A ring is first passed to its client and then stored, before anything
//! is taken from it. A death in between ends the connection, and the client still has everything that it wrote.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use dbuf_wire::ring::{CAPACITY_BYTES, Memory, RingConsumer, flag};

use super::loss_budget::LossBudgets;
pub use super::row::{DESCRIPTORS, RingFigures, RingStatus};
use super::row::{RingEntry, RingRow, RingRows, StoredRings};
use super::table::{FoundRing, RingTable};
use super::take::Ring;
use crate::pipeline::accept::limits::RINGS_MAX;
use crate::pipeline::account::Identity;
use crate::pipeline::shares::{Refusal, Resource, Shares, StoreFor};
use crate::pipeline::takeover::names::{Name, end_for_peer};
use crate::sync::{Arc, Mutex, lock};
use crate::sys::fdstore::FdStore;
use crate::sys::{membarrier, ticks};

/// The rings that the previous process left.
#[derive(Debug, Default)]
pub struct InheritedRings {
    /// How far each is published. Its notes are resolved.
    pub ring_table: Option<RingTable>,
    /// The descriptors of rings, by their names: [`Name::Ring`] and [`Name::RingLine`].
    pub parts: Vec<(Name, OwnedFd)>,
}

fn part_of(name: Name) -> Option<(u32, usize)> {
    match name {
        Name::Ring(row) => Some((row, 0)),
        Name::RingLine(row) => Some((row, 1)),
        _ => None,
    }
}

/// All rings.
#[derive(Debug)]
pub struct Rings {
    shares: Arc<Shares>,
    rows: Arc<RingRows>,
    /// What the previous process left, each ring with its connection, until a writer takes it.
    inherited: Mutex<Vec<(OwnedFd, Ring)>>,
    /// Bits of `flag` for new rings.
    flags: u64,
}

impl Rings {
    /// Creates a registry whose rings end with the process.
    #[must_use]
    pub fn new(shares: Arc<Shares>) -> Arc<Self> {
        Self::with(shares, None)
    }

    /// Creates a registry that stores rings in `store`, as many as `room` descriptors allow, and takes over the rings
    /// of the previous process.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn stored(
        shares: Arc<Shares>,
        store: &Arc<FdStore>,
        room: usize,
        left: InheritedRings,
    ) -> io::Result<Arc<Self>> {
        let ring_table = left.ring_table.map_or_else(|| RingTable::create(store), Ok)?;
        let room = (room.saturating_sub(1) / DESCRIPTORS).min(RINGS_MAX);
        let stored = StoredRings { store: Arc::clone(store), ring_table, room };
        let this = Self::with(shares, Some(stored));
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

    fn with(shares: Arc<Shares>, stored: Option<StoredRings>) -> Arc<Self> {
        let rows = Arc::new(RingRows { table: Mutex::default(), stored, loss_budgets: LossBudgets::default() });
        Arc::new(Self { shares, rows, inherited: Mutex::default(), flags: flags() })
    }

    /// Takes over a ring of the previous process, or ends what is left of it: the ring had ended, or the manager had
    /// not taken all of its parts when the process died.
    fn inherit(&self, row: u32, [memory, line]: [Option<OwnedFd>; DESCRIPTORS]) {
        let Some(StoredRings { ring_table, .. }) = &self.rows.stored else { return };
        let is_row = (row as usize) < RINGS_MAX;
        let found = is_row.then(|| ring_table.find(row)).flatten().filter(|found| !found.state.has_ended);
        let memory = memory.and_then(|memory| Memory::of_file(&memory).ok()).filter(Memory::is_known);
        match (found, memory, line) {
            (Some(found), Some(memory), Some(line)) => {
                let take_over = |resource, amount| self.shares.take_over(resource, found.identity.uid, amount);
                let capacity = memory.capacity();
                let held = [take_over(Resource::Rings, 1), take_over(Resource::RingBytes, capacity)];
                self.rows.table().rings.insert(row, RingEntry::new(found.identity.clone(), capacity, held));
                let mut ring = self.ring(row, true, memory, found);
                ring.wake_after_takeover();
                lock(&self.inherited).push((line, ring));
            }
            (_, _, line) => {
                // The program sees the end, still has everything that was not taken, and asks for another ring.
                if let Some(line) = line {
                    end_for_peer(&line);
                }
                self.rows.let_go(row);
            }
        }
    }

    /// The ring of a row that is taken.
    fn ring(&self, row: u32, is_stored: bool, memory: Memory, found: FoundRing) -> Ring {
        let FoundRing { state, pending, known, .. } = found;
        let RingStatus { identity, figures, .. } = self.rows.table().rings[&row].status.clone();
        let row = RingRow { all: Arc::clone(&self.rows), row, is_stored, figures, identity };
        Ring::new(RingConsumer::new(memory, &state.position), row, state, (pending, known))
    }

    /// Takes the rings that the previous process left, each with its connection. A second call finds none.
    pub(crate) fn take_inherited(&self) -> Vec<(OwnedFd, Ring)> {
        std::mem::take(&mut *lock(&self.inherited))
    }

    /// Creates a ring of `capacity` bytes for `identity`, whose tag is the ring's name. Also returns its memory, to be
    /// passed to the client.
    ///
    /// # Errors
    /// Why there is no ring, as a text for the client.
    pub(crate) fn grant(&self, identity: Identity, capacity: u64) -> Result<(Ring, OwnedFd), String> {
        if !capacity.is_power_of_two() || !CAPACITY_BYTES.contains(&capacity) {
            return Err("the size of a ring must be a power of two from 64 KiB to 64 MiB".into());
        }
        let take = |resource, amount| self.shares.take(resource, identity.uid, amount);
        let held = take(Resource::Rings, 1).and_then(|ring| Ok([ring, take(Resource::RingBytes, capacity)?]));
        let held = held.and_then(|held| self.take_systemd_time(identity.uid).map(|()| held));
        let held = held.map_err(|refusal| refusal.to_string())?;
        let row = self.reserve(RingEntry::new(identity, capacity, held))?;
        match Memory::create(capacity, self.flags) {
            Ok((memory, file)) => Ok((self.ring(row, false, memory, FoundRing::default()), file)),
            Err(error) => {
                self.rows.table().rings.remove(&row);
                Err(format!("no memory for a ring: {error}"))
            }
        }
    }

    /// Takes the time that systemd needs to store a ring. A user who has used it up gets no ring and sends frames: a
    /// ring that is not stored would not keep what its program expects of it.
    fn take_systemd_time(&self, uid: u32) -> Result<(), Refusal> {
        let Some(StoredRings { store, .. }) = &self.rows.stored else { return Ok(()) };
        let taken = self.shares.try_take_systemd_time(uid, DESCRIPTORS as u64 * store.cost_us(), StoreFor::Resident);
        taken.inspect_err(|refusal| self.shares.count_refusal(*refusal, uid))
    }

    /// Takes a free row.
    fn reserve(&self, entry: RingEntry) -> Result<u32, String> {
        let mut table = self.rows.table();
        let is_free = |row: &u32| !table.rings.contains_key(row) && !table.leaving.contains(row);
        let row = (0..RINGS_MAX as u32).find(is_free).ok_or("the daemon has as many rings as it can have")?;
        table.rings.insert(row, entry);
        Ok(row)
    }

    /// All rings, for display, in the order of their rows.
    #[must_use]
    pub fn all(&self) -> Vec<RingStatus> {
        let table = self.rows.table();
        let mut all: Vec<_> = table.rings.iter().map(|(row, entry)| (*row, entry.status.clone())).collect();
        all.sort_by_key(|(row, _)| *row);
        all.into_iter().map(|(_, seen)| seen).collect()
    }
}

/// What producers must know about this machine.
fn flags() -> u64 {
    let ticks = if ticks::are_reliable() { flag::TICKS } else { 0 };
    ticks | if membarrier::reaches_others() { 0 } else { flag::FENCE }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 990;

    fn of_user(uid: u32) -> Identity {
        Identity { uid, ..Identity::default() }
    }

    #[test]
    fn each_limit_is_named_when_it_is_reached_and_a_ring_that_ends_makes_room() {
        let mut capacities = [u64::MAX; Resource::ALL.len()];
        capacities[Resource::Rings as usize] = 8;
        capacities[Resource::RingBytes as usize] = 1 << 20;
        let rings = Rings::new(Shares::new(capacities, OWN));
        let ask = |uid, capacity| rings.grant(of_user(uid), capacity).map(|(ring, _)| ring);
        let why = |asked: Result<Ring, String>| asked.unwrap_err();
        assert!(why(ask(1, 100_000)).contains("power of two"));
        let first = ask(1, 64 << 10).unwrap();
        let second = ask(1, 64 << 10).unwrap();
        assert!(why(ask(1, 64 << 10)).starts_with("this user may have 2 rings (ingest.rings)"));
        assert!(why(ask(2, 512 << 10)).starts_with("this user may have 229376 bytes of rings (ingest.ring_bytes)"));
        assert!(why(ask(0, 1 << 20)).ends_with("has no bytes of rings (ingest.ring_bytes) left"));
        let others: Vec<_> = [0, 0, 0, OWN, OWN, OWN].map(|uid| ask(uid, 64 << 10).unwrap()).into();
        assert!(why(ask(4, 64 << 10)).ends_with("has no rings (ingest.rings) left"));
        assert_eq!(rings.all().len(), 8);
        first.close();
        second.close();
        assert!(why(ask(4, 64 << 10)).starts_with("this user may have 0 rings"), "the last quarter");
        others.into_iter().take(3).for_each(Ring::close);
        assert!(ask(4, 64 << 10).is_ok());
    }
}
