//! Grants rings: how many there may be, whose they are, and how they outlive the process.
//!
//! Input: requests of clients, and the rings that the previous process left. Output: [`Ring`]s for their writers;
//! figures for people. Thread: any, under one lock that is taken when a ring begins, ends, or is looked at by people;
//! never for an event. Failure: a limit is reached, or there is no memory; then the client continues without a ring.
//!
//! A ring is two descriptors, each with a name of its own in the store: memory and connection. What the previous
//! process left of a ring counts only if both are there. A ring is passed to its client first and stored after that,
//! before anything is taken from it: a death in between ends the connection, and the client still has everything it
//! wrote.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use dbuf_wire::ring::{CAPACITY_BYTES, Memory, RingConsumer, flag};

pub use super::row::{DESCRIPTORS, RingFigures, RingStatus};
use super::row::{RingRow, RingRows, StoredRings};
use super::table::{FoundRing, RingTable};
use super::take::Ring;
use crate::pipeline::accept::limits::RINGS_MAX;
use crate::pipeline::account::Identity;
use crate::pipeline::takeover::names::{Name, end_for_peer};
use crate::sync::{Arc, Mutex, lock};
use crate::sys::fdstore::FdStore;
use crate::sys::{membarrier, ticks};

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

/// What the previous process left of its rings.
#[derive(Debug, Default)]
pub struct InheritedRings {
    /// How far each is published; its notes are resolved.
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
    limits: RingLimits,
    rows: Arc<RingRows>,
    /// What the previous process left, each ring with its connection, until a writer takes it.
    inherited: Mutex<Vec<(OwnedFd, Ring)>>,
    /// Bits of `flag` for new rings.
    flags: u64,
}

impl Rings {
    /// Rings that end with the process.
    #[must_use]
    pub fn new(limits: RingLimits) -> Arc<Self> {
        Self::with(limits, None)
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
        let this = Self::with(limits, Some(stored));
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

    fn with(limits: RingLimits, stored: Option<StoredRings>) -> Arc<Self> {
        let rows = Arc::new(RingRows { table: Mutex::default(), stored });
        Arc::new(Self { limits, rows, inherited: Mutex::default(), flags: flags() })
    }

    /// Resumes the previous process's ring, or ends what is left of it: a ring that has ended, or one of which the
    /// manager had not taken all parts when the process died.
    fn inherit(&self, row: u32, [memory, line]: [Option<OwnedFd>; DESCRIPTORS]) {
        let Some(StoredRings { ring_table, .. }) = &self.rows.stored else { return };
        let is_row = (row as usize) < RINGS_MAX;
        let found = is_row.then(|| ring_table.find(row)).flatten().filter(|found| !found.state.has_ended);
        let memory = memory.and_then(|memory| Memory::of_file(&memory).ok()).filter(Memory::is_known);
        match (found, memory, line) {
            (Some(found), Some(memory), Some(line)) => {
                let mut ring = self.enter(row, true, memory, found);
                ring.wake_after_takeover();
                lock(&self.inherited).push((line, ring));
            }
            (_, _, line) => {
                // Its program sees the end, has all that was not taken, and asks for another.
                if let Some(line) = line {
                    end_for_peer(&line);
                }
                self.rows.let_go(row);
            }
        }
    }

    fn enter(&self, row: u32, is_stored: bool, memory: Memory, found: FoundRing) -> Ring {
        let FoundRing { identity, state, pending, known } = found;
        let figures: Arc<RingFigures> = Arc::default();
        let capacity_bytes = memory.capacity();
        let identity = Arc::new(identity);
        let seen = RingStatus { identity: Arc::clone(&identity), capacity_bytes, figures: Arc::clone(&figures) };
        self.rows.table().rings.insert(row, seen);
        let row = RingRow { all: Arc::clone(&self.rows), row, is_stored, figures, identity: Arc::clone(&identity) };
        Ring::new(RingConsumer::new(memory, &state.position), row, state, (pending, known))
    }

    /// The rings that the previous process left, each with its connection. Once.
    pub(crate) fn take_inherited(&self) -> Vec<(OwnedFd, Ring)> {
        std::mem::take(&mut *lock(&self.inherited))
    }

    /// A new ring of `capacity` bytes for `identity`, whose tag is its name; and its memory, to be passed
    /// on.
    ///
    /// # Errors
    /// Why there is none, for its client.
    pub(crate) fn grant(&self, identity: Identity, capacity: u64) -> Result<(Ring, OwnedFd), String> {
        if !capacity.is_power_of_two() || !CAPACITY_BYTES.contains(&capacity) {
            return Err("a ring has a power of two of bytes, from 64 KiB to 64 MiB".into());
        }
        let row = self.reserve(&identity, capacity)?;
        match Memory::create(capacity, self.flags) {
            Ok((memory, file)) => {
                let found = FoundRing { identity, ..FoundRing::default() };
                let ring = self.enter(row, false, memory, found);
                Ok((ring, file))
            }
            Err(error) => {
                self.rows.table().rings.remove(&row);
                Err(format!("there is no memory for a ring: {error}"))
            }
        }
    }

    /// A row for a ring that the limits allow.
    fn reserve(&self, identity: &Identity, capacity: u64) -> Result<u32, String> {
        let mut table = self.rows.table();
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
        let mut all: Vec<_> = self.rows.table().rings.iter().map(|(row, seen)| (*row, seen.clone())).collect();
        all.sort_by_key(|(row, _)| *row);
        all.into_iter().map(|(_, seen)| seen).collect()
    }
}

/// What producers have to know of this machine.
fn flags() -> u64 {
    let ticks = if ticks::are_reliable() { flag::TICKS } else { 0 };
    ticks | if membarrier::reaches_others() { 0 } else { flag::FENCE }
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
        let why = |asked: Result<Ring, String>| asked.unwrap_err();
        assert!(why(ask(1, 100_000)).contains("power of two"));
        let first = ask(1, 64 << 10).unwrap();
        let second = ask(1, 64 << 10).unwrap();
        assert!(why(ask(1, 64 << 10)).contains("as ingest.rings allows one"));
        assert!(why(ask(2, 512 << 10)).contains("than ingest.ring_bytes allows one"));
        assert!(why(ask(ROOT, 1 << 20)).ends_with("than ingest.ring_bytes allows"));
        let others: Vec<_> = [ROOT; 6].map(|uid| ask(uid, 64 << 10).unwrap()).into();
        assert!(why(ask(4, 64 << 10)).ends_with("as ingest.rings allows"));
        assert_eq!(rings.all().len(), 8);
        first.close();
        second.close();
        assert!(ask(4, 64 << 10).is_ok());
        drop(others);
    }
}
