//! Keeps the producers of the account, each with its row.
//!
//! Input: identities of senders, and what the previous process left. Output: rows, sums and statements. Thread: any;
//! the table of rows has a lock. Failure: there is no memory at the start.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::figures::{Row, Statement, Tally, Totals, sum};
use super::groups::Groups;
use super::identity::Identity;
use super::memory::{FOLDED, Memory, PENDING_LOSSES_MAX, PRODUCERS_MAX, READER, ROWS, UNNAMED};
use super::unnamed::Unnamed;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::{Cause, Record};
use crate::pipeline::shares::{Held, Resource, Shares};
use crate::pipeline::takeover::names::Name;
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::sys::fdstore::FdStore;

/// Pending losses at most. Further losses are reported as dbufd's own.
pub const LOSSES_PENDING_MAX: usize = PENDING_LOSSES_MAX;
/// How often room is made at most for users who have their share: it looks at every row.
const MAKE_ROOM_INTERVAL: Duration = Duration::from_millis(10);
/// How often a look is repeated at most because a batch came in between.
const LOOKS_MAX: usize = 100;

/// A producer, and the row that it is counted in.
#[derive(Debug)]
pub struct Producer {
    /// Its identity.
    pub identity: Identity,
    pub(super) row: u32,
    /// Held while it is counted with others, because it got no row of its own.
    _unnamed: Option<Arc<()>>,
}

impl Producer {
    fn unnamed(identity: &Identity, group: Option<Arc<()>>) -> Arc<Self> {
        Arc::new(Self { identity: identity.clone(), row: UNNAMED, _unnamed: group })
    }
}

/// The deletion of a segment that is under way.
#[derive(Debug, Default)]
pub(super) struct Deleting {
    /// The producers of the segment. Their rows must not change hands until it is counted.
    pub(super) held: Vec<Arc<Producer>>,
    /// Producers without a row, and the events and bytes that the segment holds of them.
    pub(super) without_row: Vec<(Identity, u64, u64)>,
    /// The segment is older than the account.
    pub(super) is_older: bool,
}

/// The account of a daemon, or of a benchmark in one process.
#[derive(Debug)]
pub struct Account {
    pub(super) memory: Memory,
    shares: Arc<Shares>,
    table: Mutex<Table>,
    deleting: Mutex<Deleting>,
    /// The previous process's account is missing, although its events in the buffer are there.
    pub(super) adopts: AtomicBool,
}

/// The account that the previous process left, if it can be read.
#[derive(Debug, Default)]
pub struct InheritedAccount {
    newest: Option<(Memory, Name)>,
    /// All names that were in use.
    names: Vec<Name>,
}

impl InheritedAccount {
    /// Finds the newest of these memories, each with its name. There are two only if the previous process died while
    /// one replaced the other.
    #[must_use]
    pub fn find(left: Vec<(Name, OwnedFd)>) -> Self {
        let names = left.iter().map(|(name, _)| *name).collect();
        let found = left.into_iter().filter_map(|(name, memory)| Some((Memory::inherit(memory)?, name)));
        Self { newest: found.max_by_key(|(memory, _)| memory.serial()), names }
    }

    /// Resolves the notes of the previous process.
    pub fn resolve(&self, was_published: &dyn Fn(PublishPosition) -> bool) {
        if let Some((memory, _)) = &self.newest {
            memory.resolve(was_published);
        }
    }
}

/// A producer that has a row of its own.
#[derive(Debug)]
struct Entry {
    producer: Arc<Producer>,
    /// The part of its user's share.
    _held: Held,
}

#[derive(Debug, Default)]
struct Table {
    /// By the content of the source record.
    known: HashMap<Box<[u8]>, Entry>,
    free: Vec<u32>,
    unnamed: Unnamed,
    /// When room was last made for a user who has its share.
    made_room_at: Option<Instant>,
    groups: Groups,
}

impl Table {
    /// Producers that have rows of their own.
    fn named(&self) -> impl Iterator<Item = &Arc<Producer>> {
        self.known.values().map(|entry| &entry.producer)
    }

    fn enter(&mut self, key: Box<[u8]>, identity: Identity, row: u32, held: Held) -> Arc<Producer> {
        let producer = Arc::new(Producer { identity, row, _unnamed: None });
        self.known.insert(key, Entry { producer: Arc::clone(&producer), _held: held });
        producer
    }
}

impl Account {
    /// Creates an account at zero for `writers` writers, which ends with the process.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn new(writers: usize) -> io::Result<Self> {
        Self::sharing(Shares::new([PRODUCERS_MAX as u64; Resource::ALL.len()], geteuid().as_raw()), writers)
    }

    /// The same with the shares of a daemon.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn sharing(shares: Arc<Shares>, writers: usize) -> io::Result<Self> {
        Ok(Self::over(shares, Memory::new(writers + 1, 0)?))
    }

    pub(super) fn over(shares: Arc<Shares>, memory: Memory) -> Self {
        let mut table = Table::default();
        for row in (FOLDED + 1..ROWS as u32).rev() {
            match memory.identity(row) {
                Some(identity) => {
                    let held = shares.take_over(Resource::Producers, identity.uid, 1);
                    table.enter(key(&identity), identity, row, held);
                }
                None => table.free.push(row),
            }
        }
        let (table, deleting, adopts) = (Mutex::new(table), Mutex::default(), AtomicBool::new(false));
        let this = Self { memory, shares, table, deleting, adopts };
        if this.row_of(UNNAMED, None).in_memory() > 0 {
            this.table().unnamed.begin_busy();
        }
        this
    }

    /// Creates an account that `store` keeps for the next process and that continues with what is `inherited`.
    /// `has_buffer` says whether the buffer of the previous process is there as well.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn take_over(
        writers: usize,
        shares: Arc<Shares>,
        store: &FdStore,
        inherited: InheritedAccount,
        has_buffer: bool,
    ) -> io::Result<Self> {
        let InheritedAccount { newest, names } = inherited;
        let let_go = |kept: Option<Name>| {
            let others = names.iter().filter(|name| Some(**name) != kept);
            others.for_each(|name| store.remove(&name.to_string()));
        };
        if let Some((memory, _)) = newest.as_ref().filter(|_| !has_buffer) {
            memory.set_buffer_gone(true);
        }
        if newest.is_none() && !names.is_empty() {
            tracing::warn!("the account of the previous process cannot be read; dbufd starts a new account");
        }
        match newest {
            Some((memory, name)) if memory.cells() > writers => {
                let_go(Some(name));
                Ok(Self::over(shares, memory))
            }
            newest => {
                let serial = newest.as_ref().map_or(0, |(old, _)| old.serial() + 1);
                let memory = Memory::new(writers + 1, serial)?;
                if let Some((old, _)) = &newest {
                    memory.take_over(old);
                }
                memory.keep(store, Name::fresh(Name::Account, &names));
                let_go(None);
                let this = Self::over(shares, memory);
                // Relaxed: no other thread has it yet.
                this.adopts.store(newest.is_none() && has_buffer, Relaxed);
                Ok(this)
            }
        }
    }

    /// Ties the account to the stream of segments, whose next event has this sequence. An account of another stream
    /// starts again. Must be called before any thread counts.
    pub fn belongs_to(&self, stream_id: u128, next_sequence: u64, now_ns: u64) {
        let is_other = self.memory.since().is_some() && self.memory.stream_id() != stream_id;
        if is_other {
            self.memory.restart();
            // Relaxed: no other thread counts yet.
            self.adopts.store(true, Relaxed);
        }
        if self.memory.since().is_none() {
            self.memory.begin_account(now_ns, next_sequence, stream_id);
        }
    }

    /// The row that events of `identity` are counted in, new or known. The row is kept while the returned value is
    /// held. A user who has its share of rows loses the quietest of its own. If there are none, its new producers are
    /// counted together, in the row of the unnamed, and stay there as long as [`Unnamed`] says.
    ///
    /// Takes a lock, so it is called when a sender is first seen, never for each event.
    pub fn producer(&self, identity: &Identity) -> Arc<Producer> {
        if *identity == Identity::unnamed() {
            return Producer::unnamed(identity, None);
        }
        let key = key(identity);
        let mut table = self.table();
        if let Some(known) = table.known.get(&key) {
            return Arc::clone(&known.producer);
        }
        let group = Unnamed::group(identity.uid, &key);
        let is_none_in_memory = || self.row_of(UNNAMED, None).in_memory() == 0;
        if let Some(held) = table.unnamed.hold_if_busy(group, is_none_in_memory) {
            return Producer::unnamed(identity, Some(held));
        }
        let make_room = || self.make_room(&mut table, identity.uid);
        let held = self.shares.take_or(Resource::Producers, identity.uid, 1, make_room).ok();
        let row = held.as_ref().and_then(|_| table.free.pop());
        match (row, held) {
            (Some(row), Some(held)) => {
                self.memory.begin(row, identity);
                table.enter(key, identity.clone(), row, held)
            }
            _ => Producer::unnamed(identity, Some(table.unnamed.hold(group, is_none_in_memory))),
        }
    }

    /// Lets room be made at once, as if the interval had passed.
    #[cfg(test)]
    pub(super) fn may_make_room(&self) {
        self.table().made_room_at = None;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    pub(super) fn deleting(&self) -> MutexGuard<'_, Deleting> {
        lock(&self.deleting)
    }

    pub(super) fn with_groups(&self, change: impl FnOnce(&mut Groups)) {
        change(&mut self.table().groups);
    }

    /// Makes room for a quarter of what a user may have at once, so that a flood of new senders pays for the search
    /// only rarely. Only rows without a holder and with nothing in memory can go; a user who is limited makes room by
    /// its own. Returns whether there is room now.
    fn make_room(&self, table: &mut Table, uid: u32) -> bool {
        let is_limited = self.shares.limits(uid);
        if is_limited && table.made_room_at.is_some_and(|at| at.elapsed() < MAKE_ROOM_INTERVAL) {
            return false;
        }
        table.made_room_at = Some(Instant::now());
        let may_go = |producer: &Producer| !is_limited || producer.identity.uid == uid;
        let quiet = table.named();
        let quiet = quiet.filter(|producer| Arc::strong_count(producer) == 1 && may_go(producer));
        let quiet = quiet.map(|producer| (self.row_of(producer.row, None), producer.row));
        let mut quiet: Vec<(u64, u32)> =
            quiet.filter(|(row, _)| row.in_memory() == 0).map(|(row, index)| (row.sent, index)).collect();
        quiet.sort_unstable();
        quiet.truncate(PRODUCERS_MAX / if is_limited { 16 } else { 4 });
        let quiet: std::collections::HashSet<u32> = quiet.into_iter().map(|(_, row)| row).collect();
        let Table { known, groups, .. } = table;
        known.retain(|_, Entry { producer, .. }| {
            let stays = !quiet.contains(&producer.row);
            if !stays {
                groups.fold(&producer.identity, &self.row_of(producer.row, None));
            }
            stays
        });
        let has_room = !quiet.is_empty();
        for row in quiet {
            self.memory.fold(row);
            table.free.push(row);
        }
        has_room
    }

    /// The row in which a writer has counted `identity`. If there was no room for one, that is the row of the unnamed.
    /// So the sent and the stored figures of each row are about the same events.
    pub(super) fn counted_as(&self, identity: &Identity) -> Arc<Producer> {
        let known = self.table().known.get(&key(identity)).map(|entry| Arc::clone(&entry.producer));
        known.unwrap_or_else(|| Producer::unnamed(identity, None))
    }

    /// The same for a source record; None for the unnamed. If `adopts` is set, an unknown source gets its own row.
    pub(super) fn producer_of(&self, record: &Record<'_>, adopts: bool) -> Option<Arc<Producer>> {
        let known = self.table().known.get(record.payload()).map(|entry| Arc::clone(&entry.producer));
        if known.is_some() || !adopts {
            return known;
        }
        record.as_source().ok().map(|source| self.producer(&Identity::of(&source)))
    }

    pub(super) fn row_of(&self, row: u32, identity: Option<Identity>) -> Row {
        let writers = (READER + 1..self.memory.cells()).map(|cell| self.memory.looked(row, cell));
        let writers = writers.fold(Tally::default(), Tally::plus);
        let reader = self.memory.looked(row, READER);
        let lost = std::array::from_fn(|at| sum([writers.lost[at], reader.lost[at]]));
        let (deleted, deleted_bytes) = self.memory.deleted(row);
        Row {
            identity,
            sent: sum([writers.events, writers.lost_total(), reader.adopted_events]),
            sent_bytes: sum([writers.bytes, writers.lost_bytes, reader.adopted_bytes]),
            stored: reader.events,
            stored_bytes: reader.bytes,
            deleted,
            deleted_bytes,
            lost,
        }
    }

    /// All rows that hold anything. Producers that are not told apart come last, in one row.
    pub(super) fn rows(&self) -> Vec<Row> {
        // Held throughout, so that no row changes hands meanwhile.
        self.rows_of(&self.table())
    }

    fn rows_of(&self, table: &Table) -> Vec<Row> {
        let mut known: Vec<&Arc<Producer>> = table.named().collect();
        known.sort_unstable_by_key(|producer| producer.row);
        let row = |producer: &Arc<Producer>| self.row_of(producer.row, Some(producer.identity.clone()));
        let mut rows: Vec<Row> = known.into_iter().map(row).collect();
        let mut others = self.row_of(UNNAMED, None);
        others.add(&self.row_of(FOLDED, None));
        rows.push(others);
        rows.retain(|row| !row.is_empty());
        rows
    }

    /// The `most` busiest producers, busiest first, then the row of all others if it holds anything.
    pub fn busiest(&self, most: usize) -> Vec<Row> {
        busiest(self.rows(), most)
    }

    /// As [`Account::busiest`], for groups: producers that differ only in their process are one group.
    pub fn busiest_groups(&self, most: usize) -> Vec<Row> {
        let table = self.table();
        let older = self.memory.deletions().older_events;
        busiest(table.groups.sums(self.rows_of(&table), older), most)
    }

    /// Sums over all producers, now.
    pub fn totals(&self) -> Totals {
        let (rows, withdrawn) = (self.rows(), self.memory.withdrawn());
        let mut all = Row::default();
        rows.iter().for_each(|row| all.add(row));
        let mut all = all.not_behind();
        all.lost[Cause::Disk as usize] = sum([all.lost[Cause::Disk as usize], withdrawn]);
        Totals {
            received_events: all.sent,
            received_bytes: all.sent_bytes,
            persisted_events: all.stored.saturating_sub(withdrawn),
            persisted_bytes: all.stored_bytes,
            written_bytes: self.memory.written(),
            lost: all.lost,
        }
    }

    /// Events and payload bytes that one writer has published, while their producers had their own rows.
    pub fn of_writer(&self, writer: usize) -> (u64, u64) {
        let cell = READER + 1 + writer;
        if cell >= self.memory.cells() {
            return (0, 0);
        }
        let table = self.table();
        let rows = table.named().map(|producer| producer.row).chain([UNNAMED, FOLDED]);
        let all = rows.map(|row| self.memory.looked(row, cell)).fold(Tally::default(), Tally::plus);
        (all.events, all.bytes)
    }

    /// When the account began, in nanoseconds of the wall clock; None until it has begun.
    pub fn since_ns(&self) -> Option<u64> {
        self.memory.since().map(|(time_ns, _)| time_ns)
    }

    /// The whole account as of the end of one batch, if possible: see `LOOKS_MAX`.
    pub fn statement(&self) -> Statement {
        self.memory.turn().consistent(LOOKS_MAX, || Statement {
            since: self.memory.since(),
            stream_id: self.memory.stream_id(),
            next_sequence: self.memory.next_sequence(),
            withdrawn: self.memory.withdrawn(),
            deletions: self.memory.deletions(),
            rows: self.rows(),
        })
    }

    /// Takes back `events` events that were persisted, because a sync failed. Only the syncer's thread may call this.
    pub fn withdraw(&self, events: u64) {
        self.memory.add_withdrawn(events);
    }
}

fn busiest(rows: Vec<Row>, most: usize) -> Vec<Row> {
    let rows = rows.into_iter().map(Row::not_behind);
    let (mut rows, mut others): (Vec<Row>, Vec<Row>) = rows.partition(|row| row.identity.is_some());
    rows.sort_by_key(|row| std::cmp::Reverse((row.sent, row.lost_total())));
    let mut rest = others.pop().unwrap_or_default();
    for row in rows.drain(most.min(rows.len())..) {
        rest.add(&row);
    }
    if rest.sent > 0 || rest.deleted > 0 {
        rows.push(rest);
    }
    rows
}

fn key(identity: &Identity) -> Box<[u8]> {
    let record = identity.to_record();
    // It was just written, so it is whole.
    Record::decode(&record).map_or_else(|_| Box::default(), |(record, _)| record.payload().into())
}
