//! Keeps the row of each ring: its figures for display, and what the next process finds.
//!
//! Input: what a ring's writer reports. Output: figures; descriptors in the store, and notes in memory that outlives
//! the process. Thread: any, under one lock that is taken when a ring begins, ends, or is displayed, never for an
//! event. Failure: the store has no room; then the ring ends with the process.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use dbuf_wire::ring::Position;

use super::loss_budget::LossBudgets;
use super::table::{RingState, RingTable};
use crate::pipeline::accept::limits::RINGS_MAX;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::shares::Held;
use crate::pipeline::takeover::names::Name;
use crate::pipeline::takeover::spans::Known;
use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::sys::fdstore::FdStore;

/// Descriptors of a ring.
pub const DESCRIPTORS: usize = 2;

/// The figures of a ring, for display. Its writer sets them.
#[derive(Debug, Default)]
pub struct RingFigures {
    /// Bytes published and not taken, at the last look.
    pub waiting_bytes: AtomicU64,
    /// The maximum of these bytes so far.
    pub high_water_bytes: AtomicU64,
    /// Events taken.
    pub events: AtomicU64,
    /// Events that found no room.
    pub lost: AtomicU64,
    /// Events refused.
    pub refused: AtomicU64,
}

/// A ring, for display.
#[derive(Clone, Debug)]
pub struct RingStatus {
    /// Its owner. The tag is the ring's name.
    pub identity: Arc<Identity>,
    /// Bytes of data.
    pub capacity_bytes: u64,
    /// Its figures.
    pub figures: Arc<RingFigures>,
}

/// A row that is taken.
#[derive(Debug)]
pub(super) struct RingEntry {
    pub(super) status: RingStatus,
    /// The parts of its owner's shares, given back with the row.
    _held: [Held; 2],
}

impl RingEntry {
    pub(super) fn new(identity: Identity, capacity_bytes: u64, held: [Held; 2]) -> Self {
        let status = RingStatus { identity: Arc::new(identity), capacity_bytes, figures: Arc::default() };
        Self { status, _held: held }
    }
}

fn names(row: u32) -> [String; DESCRIPTORS] {
    [Name::Ring(row), Name::RingLine(row)].map(|name| name.to_string())
}

/// The rows of all rings.
#[derive(Debug)]
pub(super) struct RingRows {
    pub(super) table: Mutex<Table>,
    pub(super) stored: Option<StoredRings>,
    pub(super) loss_budgets: LossBudgets,
}

#[derive(Debug)]
pub(super) struct StoredRings {
    pub(super) store: Arc<FdStore>,
    pub(super) ring_table: RingTable,
    /// Rows below this number have a place in the store.
    pub(super) room: usize,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) rings: HashMap<u32, RingEntry>,
    /// Rows whose names the manager has not removed yet.
    pub(super) leaving: HashSet<u32>,
}

/// A row in the table. Dropping it leaves the ring to the next process if it is stored.
#[derive(Debug)]
pub(crate) struct RingRow {
    pub(super) all: Arc<RingRows>,
    pub(super) row: u32,
    pub(crate) is_stored: bool,
    pub(super) figures: Arc<RingFigures>,
    pub(super) identity: Arc<Identity>,
}

impl RingRows {
    /// Removes a stored ring. Its row is free when the manager has removed its names.
    pub(super) fn let_go(self: &Arc<Self>, row: u32) {
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

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

impl RingRow {
    fn ring_table(&self) -> Option<&RingTable> {
        self.all.stored.as_ref().filter(|_| self.is_stored).map(|stored| &stored.ring_table)
    }

    pub(crate) fn identity(&self) -> Identity {
        (*self.identity).clone()
    }

    /// Stores the ring for the next process, if there is a store with room for it.
    pub(crate) fn keep(&mut self, identity: &Identity, descriptors: [&OwnedFd; DESCRIPTORS]) {
        let Some(StoredRings { store, ring_table, room }) = &self.all.stored else { return };
        if self.row as usize >= *room {
            tracing::warn!("a ring will not survive a restart: systemd's store is full; raise FileDescriptorStoreMax=");
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

    /// Notes what the program is about to learn about its events.
    pub(crate) fn known(&self, known: Known) {
        if let Some(ring_table) = self.ring_table() {
            ring_table.known(self.row, known);
        }
    }

    /// What counts now of the losses that the program claims.
    pub(crate) fn take_losses(&self, claimed: (u64, u64)) -> (u64, u64) {
        self.all.loss_budgets.take(self.identity.uid, Instant::now(), claimed)
    }

    pub(crate) fn set_figures(&self, waiting_bytes: u64, high_water_bytes: u64, position: &Position, refused: u64) {
        let figures = &self.figures;
        // Relaxed, all of them: numbers for display.
        figures.waiting_bytes.store(waiting_bytes, Relaxed);
        figures.high_water_bytes.store(high_water_bytes, Relaxed);
        figures.events.store(position.events, Relaxed);
        figures.lost.store(position.lost.0, Relaxed);
        figures.refused.store(refused, Relaxed);
    }

    /// Frees the row: the ring has ended.
    pub(crate) fn give_back(self) {
        if self.is_stored {
            self.all.let_go(self.row);
        }
        self.all.table().rings.remove(&self.row);
    }
}

/// A row that becomes free when this is dropped.
struct LeavingRow {
    all: Arc<RingRows>,
    row: u32,
}

impl Drop for LeavingRow {
    fn drop(&mut self) {
        self.all.table().leaving.remove(&self.row);
    }
}
