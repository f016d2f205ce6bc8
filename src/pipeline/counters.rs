//! The account of events: what came in, what is in the files, what was lost and why.
//!
//! Enters: increments from the writers and the reader. Leaves: a [`Totals`] for the control plane. Each counter has one
//! thread that adds to it; anyone may read. Nothing here can fail.
//!
//! All of them are Relaxed: a counter publishes nothing but itself. The equation *received = persisted + lost* holds
//! whenever nothing is on its way, not at every instant.

use std::collections::HashMap;

use super::record::{Cause, Source, Transport};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use crate::sync::{Arc, CacheLine, Mutex};

/// The most producers that are told apart; more come under one row that names them all.
pub const PRODUCERS_MAX: usize = 1024;

/// Counts by cause of loss.
#[derive(Debug, Default)]
pub struct LostCounters([AtomicU64; Cause::COUNT]);

impl LostCounters {
    /// Adds `events` lost to `cause`.
    pub fn add(&self, cause: Cause, events: u64) {
        self.0[cause as usize].fetch_add(events, Relaxed);
    }

    /// The counts in the order of [`Cause::ALL`].
    pub fn load(&self) -> [u64; Cause::COUNT] {
        std::array::from_fn(|i| self.0[i].load(Relaxed))
    }
}

/// What one writer thread has seen.
#[derive(Debug, Default)]
pub struct WriterCounters {
    /// Events that it published into the buffer.
    pub events: AtomicU64,
    /// Payload bytes of these.
    pub bytes: AtomicU64,
    /// Events that were offered or accepted and did not get into the buffer.
    pub lost: LostCounters,
    /// Payload bytes of these, as far as they are known.
    pub lost_bytes: AtomicU64,
    /// Events that a producer sent again after they had been accepted: neither received nor lost.
    pub duplicates: AtomicU64,
    /// Connections that are open now.
    pub connections: AtomicU64,
    /// Connections that were turned away because a limit was reached.
    pub refused_connections: AtomicU64,
    /// The core that the thread is pinned to, plus one; 0 if it is not pinned.
    pub cpu_plus_one: AtomicU32,
}

/// What the reader thread has done.
#[derive(Debug, Default)]
pub struct ReaderCounters {
    /// Batches that it took from the buffer and that held something.
    pub batches: AtomicU64,
    /// Events that are in a file.
    pub persisted_events: AtomicU64,
    /// Payload bytes of these.
    pub persisted_bytes: AtomicU64,
    /// Bytes written to files, heads and all.
    pub written_bytes: AtomicU64,
    /// Events that a sync has covered.
    pub durable_events: AtomicU64,
    /// Events that were in the buffer and could not be persisted.
    pub lost: LostCounters,
    /// Events that a predecessor had received, and left in the buffer.
    pub inherited_events: AtomicU64,
    /// Payload bytes of these.
    pub inherited_bytes: AtomicU64,
}

/// One sender, as `stats` shows it.
#[derive(Debug)]
pub struct Producer {
    /// Who it is.
    pub identity: Identity,
    /// Events received from it.
    pub events: AtomicU64,
    /// Payload bytes of these.
    pub bytes: AtomicU64,
    /// Events of it that were lost.
    pub lost: AtomicU64,
}

/// Who a producer is: a [`Source`] that owns its strings, without what changes from one event to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// Process id, from the kernel; 0 if unknown.
    pub pid: u32,
    /// User id, from the kernel.
    pub uid: u32,
    /// Group id, from the kernel.
    pub gid: u32,
    /// The pid that a syslog header claims; 0 if none.
    pub claimed_pid: u32,
    /// Session of the framed protocol; 0 if none.
    pub session: u128,
    /// How its events come in.
    pub transport: Transport,
    /// Its tag; empty if none.
    pub tag: Box<[u8]>,
    /// Its command's name; empty if unknown.
    pub comm: Box<[u8]>,
    /// Its systemd unit; empty if none.
    pub unit: Box<[u8]>,
}

impl Identity {
    /// The same as a borrowed source.
    #[must_use]
    pub fn of(source: &Source<'_>) -> Self {
        Self {
            pid: source.pid,
            uid: source.uid,
            gid: source.gid,
            claimed_pid: source.claimed_pid,
            session: source.session,
            transport: source.transport,
            tag: source.tag.into(),
            comm: source.comm.into(),
            unit: source.unit.into(),
        }
    }

    /// Borrows it as a source.
    #[must_use]
    pub fn as_source(&self) -> Source<'_> {
        Source {
            pid: self.pid,
            uid: self.uid,
            gid: self.gid,
            claimed_pid: self.claimed_pid,
            session: self.session,
            transport: self.transport,
            tag: &self.tag,
            comm: &self.comm,
            unit: &self.unit,
        }
    }
}

/// All counters of a daemon, or of a benchmark in one process.
#[derive(Debug)]
pub struct Counters {
    /// One for each writer thread, each on a line of its own.
    pub writers: Box<[CacheLine<WriterCounters>]>,
    /// The reader's.
    pub reader: CacheLine<ReaderCounters>,
    producers: Mutex<Producers>,
}

#[derive(Debug, Default)]
struct Producers {
    known: HashMap<Identity, Arc<Producer>>,
    others: Row,
}

/// A producer's row in `stats`.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Who it is; None for all that the table had no room for.
    pub identity: Option<Identity>,
    /// Events received.
    pub events: u64,
    /// Payload bytes of these.
    pub bytes: u64,
    /// Events lost.
    pub lost: u64,
}

impl Row {
    fn of(producer: &Producer) -> Self {
        Self {
            identity: Some(producer.identity.clone()),
            events: producer.events.load(Relaxed),
            bytes: producer.bytes.load(Relaxed),
            lost: producer.lost.load(Relaxed),
        }
    }
}

/// Sums over all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events that came in: published, by this process or by the one before, or lost before that.
    pub received_events: u64,
    /// Payload bytes of these.
    pub received_bytes: u64,
    /// Events in files.
    pub persisted_events: u64,
    /// Payload bytes of these.
    pub persisted_bytes: u64,
    /// Bytes written to files.
    pub written_bytes: u64,
    /// Events that a sync has covered.
    pub durable_events: u64,
    /// Lost events by cause, in the order of [`Cause::ALL`].
    pub lost: [u64; Cause::COUNT],
}

impl Totals {
    /// Lost events of all causes.
    #[must_use]
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().sum()
    }
}

impl Counters {
    /// Counters at zero for so many writers.
    #[must_use]
    pub fn new(writers: usize) -> Self {
        Self {
            writers: (0..writers).map(|_| CacheLine::default()).collect(),
            reader: CacheLine::default(),
            producers: Mutex::default(),
        }
    }

    /// The row that events of `identity` are counted in, new or known. Bounded by [`PRODUCERS_MAX`]: the quietest
    /// producer that nobody holds any more makes room, and its counts go to the row of all others.
    ///
    /// Takes a lock; called when a sender is first seen, never for each event.
    pub fn producer(&self, identity: &Identity) -> Arc<Producer> {
        let mut table = self.producers.lock().expect("no thread panics while it holds the producers");
        if let Some(known) = table.known.get(identity) {
            return Arc::clone(known);
        }
        if table.known.len() >= PRODUCERS_MAX {
            table.make_room();
        }
        let new = Arc::new(Producer {
            identity: identity.clone(),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        table.known.insert(identity.clone(), Arc::clone(&new));
        new
    }

    /// The `most` busiest producers, busiest first, and the row of all others if it holds anything.
    pub fn busiest(&self, most: usize) -> Vec<Row> {
        let table = self.producers.lock().expect("no thread panics while it holds the producers");
        let mut rows: Vec<Row> = table.known.values().map(|p| Row::of(p)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.events, row.lost)));
        let mut others = table.others.clone();
        for row in rows.drain(most.min(rows.len())..) {
            others.add(&row);
        }
        if others.events + others.lost > 0 {
            rows.push(others);
        }
        rows
    }

    /// Sums over all threads, now.
    pub fn totals(&self) -> Totals {
        let mut t = Totals::default();
        let reader = &self.reader.0;
        // The later stages first: an event that moves on while this runs is then counted as received, never as
        // persisted without having been received.
        t.durable_events = reader.durable_events.load(Relaxed);
        t.persisted_events = reader.persisted_events.load(Relaxed);
        t.persisted_bytes = reader.persisted_bytes.load(Relaxed);
        t.written_bytes = reader.written_bytes.load(Relaxed);
        t.lost = reader.lost.load();
        t.received_events = reader.inherited_events.load(Relaxed);
        t.received_bytes = reader.inherited_bytes.load(Relaxed);
        for CacheLine(writer) in &self.writers {
            let lost = writer.lost.load();
            t.received_events += writer.events.load(Relaxed) + lost.iter().sum::<u64>();
            t.received_bytes += writer.bytes.load(Relaxed) + writer.lost_bytes.load(Relaxed);
            for (sum, n) in t.lost.iter_mut().zip(lost) {
                *sum += n;
            }
        }
        t
    }
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.bytes += other.bytes;
        self.lost += other.lost;
    }
}

impl Producers {
    /// Makes room for a quarter of the table at once, so that a flood of new senders pays for the search only now and
    /// then. Only rows that no connection holds can go: a producer that still counts must not vanish under its counter.
    fn make_room(&mut self) {
        let quiet = self.known.values().filter(|p| Arc::strong_count(p) == 1);
        let mut quiet: Vec<(u64, Identity)> = quiet.map(|p| (p.events.load(Relaxed), p.identity.clone())).collect();
        quiet.sort_by_key(|(events, _)| *events);
        quiet.truncate(PRODUCERS_MAX / 4);
        for (_, identity) in quiet {
            if let Some(gone) = self.known.remove(&identity) {
                self.others.add(&Row::of(&gone));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pid: u32) -> Identity {
        Identity { pid, ..Identity::default() }
    }

    #[test]
    fn the_table_of_producers_is_bounded_and_forgets_no_count() {
        let counters = Counters::new(1);
        let total = PRODUCERS_MAX as u32 * 3;
        for pid in 0..total {
            counters.producer(&identity(pid)).events.fetch_add(1, Relaxed);
        }
        let rows = counters.busiest(usize::MAX);
        assert!(rows.len() <= PRODUCERS_MAX + 1);
        assert_eq!(rows.iter().map(|row| row.events).sum::<u64>(), u64::from(total));
    }

    #[test]
    fn a_known_producer_is_counted_in_one_row() {
        let counters = Counters::new(1);
        counters.producer(&identity(1)).events.fetch_add(2, Relaxed);
        counters.producer(&identity(1)).events.fetch_add(3, Relaxed);
        let rows = counters.busiest(10);
        assert_eq!((rows.len(), rows[0].events), (1, 5));
    }
}
