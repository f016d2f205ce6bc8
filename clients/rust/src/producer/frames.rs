//! Empties the memory where there is no ring: sends its events as frames.
//!
//! Input: events in the memory; acknowledgements. Output: frames; room, when events are persisted. The producer's
//! thread, which never waits here. Failures: the connection; then everything that is not acknowledged is still in the
//! memory, and the next WELCOME says what need not be sent again.

use std::io;
use std::time::Instant;

use super::book::Book;
use super::clock::Moment;
use crate::connection::{Connection, GATHER_BYTES};
use crate::wire::{Event, Frame, Level, Welcome, feature};
use dbuf_wire::ring::record::{self, Stamp};
use dbuf_wire::ring::{Found, RingProducer};

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// HELLO is sent, WELCOME has not come.
    Greeting,
    /// RING is sent, its answer has not come.
    Asking,
    /// The handshake is done: events may be sent.
    Open,
}

/// A connection that speaks frames.
#[derive(Debug)]
pub(super) struct Framed {
    pub(super) connection: Connection,
    pub(super) since: Instant,
    pub(super) phase: Phase,
    welcome: Option<Welcome>,
    /// Where the next event is of which a frame is to be made, and the number of the one before it.
    pub(super) at: u64,
    pub(super) number: u64,
    /// The last number that the daemon knows once it has read everything that is queued; 0 if it has forgotten the
    /// session.
    told: u64,
    /// SYNCs that are not answered: the number that each is for, and what its answer will say at least.
    syncs: Vec<(u64, u64)>,
    sync_made: u64,
    body: Vec<u8>,
}

impl Framed {
    pub(super) fn new(connection: Connection, since: Instant) -> Self {
        Self {
            connection,
            since,
            phase: Phase::Greeting,
            welcome: None,
            at: 0,
            number: 0,
            told: 0,
            syncs: Vec::new(),
            sync_made: 0,
            body: Vec::new(),
        }
    }

    /// WELCOME says what the daemon has of the session: what follows is to be sent.
    pub(super) fn begin(&mut self, ring: &RingProducer, book: &Book, welcome: Welcome) {
        self.welcome = Some(welcome);
        self.told = welcome.last;
        (self.at, self.number) = (ring.positions().1, book.taken);
        while self.number < welcome.last
            && let Ok(Some(found)) = ring.find(self.at)
        {
            self.at = found.end;
            self.number += 1;
        }
    }

    /// The largest payload that the daemon takes.
    pub(super) fn max_event(&self) -> u64 {
        self.welcome.map_or(0, |welcome| u64::from(welcome.max_event))
    }

    /// Of `number` events, of which the daemon took `taken`, how many it has not been given.
    pub(super) fn left(&self, number: u64, taken: u64) -> u64 {
        if self.phase == Phase::Greeting {
            return number.saturating_sub(taken);
        }
        number.saturating_sub(self.number) + self.connection.unwritten_events()
    }

    /// Every event up to this one has reached the level, or was named in an ERROR: its room is free.
    pub(super) fn acknowledged(&mut self, ring: &mut RingProducer, book: &mut Book, level: Level, sequence: u64) {
        let number = sequence.min(self.number);
        if level == Level::Durable {
            book.durable = book.durable.max(number);
            self.syncs.retain(|&(goal, told)| {
                if told <= sequence {
                    book.durable = book.durable.max(goal);
                }
                told > sequence
            });
        }
        if level == Level::None || number <= book.taken {
            return;
        }
        let mut at = ring.positions().1;
        while book.taken < number {
            match ring.find(at) {
                Ok(Some(found)) if found.end <= self.at => at = found.end,
                // Bytes that are no record were passed over when frames were made.
                _ => {
                    (at, book.taken) = (self.at, self.number);
                    break;
                }
            }
            book.taken += 1;
        }
        ring.take_to(at);
        book.reports.retain(|(report, _)| *report > number);
        book.persisted = book.persisted.max(number);
    }

    /// Queues frames of what waits, and a SYNC, if one is wanted for an event up to there.
    fn gather(&mut self, ring: &mut RingProducer, book: &mut Book, opened: &Moment, sync_goal: u64) {
        while self.connection.queued_bytes() < GATHER_BYTES {
            match ring.find(self.at) {
                Ok(None) => break,
                Ok(Some(found)) => self.add(ring, &found, book, opened),
                Err(_) => {
                    // A daemon that could write to this memory has damaged it.
                    let last = book.base + ring.events();
                    let lost = last.saturating_sub(self.number);
                    book.lost += lost;
                    ring.carry_losses((lost, 0));
                    (self.at, self.number) = (ring.positions().0, last);
                }
            }
        }
        if sync_goal > self.sync_made && self.number >= sync_goal {
            self.sync_made = sync_goal;
            self.syncs.push((sync_goal, self.told));
            self.connection.queue(&Frame::Sync);
        }
    }

    /// Writes as many frames as the connection takes without waiting; none before the handshake is done.
    pub(super) fn write(
        &mut self,
        ring: &mut RingProducer,
        book: &mut Book,
        opened: &Moment,
        sync_goal: u64,
    ) -> io::Result<()> {
        while self.phase == Phase::Open {
            if self.connection.is_written() {
                self.gather(ring, book, opened, sync_goal);
            }
            if self.connection.is_written() || !self.connection.flush()? {
                break;
            }
        }
        Ok(())
    }

    fn add(&mut self, ring: &RingProducer, found: &Found, book: &mut Book, opened: &Moment) {
        ring.copy_body(found, &mut self.body);
        self.at = found.end;
        self.number += 1;
        let Ok(event) = record::event(&found.head, &self.body) else {
            book.lost += 1;
            return;
        };
        let stamp = match found.head.stamp {
            Stamp::Ticks(_) => Moment::now().without_ticks(opened, found.head.stamp),
            stamp => stamp,
        };
        let time_ns = if let Stamp::Nanoseconds(time_ns) = stamp { time_ns } else { 0 };
        let takes_fields = self.welcome.is_some_and(|welcome| welcome.compatible & feature::FIELDS != 0);
        // The payload alone is better than an event that the daemon refuses.
        let fields = if takes_fields { event.fields } else { &[] };
        self.told = self.number;
        self.connection.queue(&Frame::Event(Event { time_ns, fields, sequence: self.number, ..event }));
    }
}
