//! A producer of events: what a program that logs a lot holds, one a thread.
//!
//! Enters: events of one thread. Leaves: records in memory, and by a link to the daemon from there. All of it happens on the
//! caller's thread: there is no other, and no signal. What can fail: there is no room, with a policy for that; a single event,
//! before it is written; the daemon, and then events are kept until there is one.
//!
//! Memory comes first, the link second. An event is written into ring memory, always; what changes is who empties it:
//!
//! | link | memory | who takes events out of it |
//! |---|---|---|
//! | ring | shared with the daemon | the daemon |
//! | frames | this process's, or what was left of a ring | the producer, after each send, without blocking; it takes them when they are persisted |
//! | none | the same | nobody, until there is a link |
//!
//! Invariants, cited by number:
//! 1. An event's number is its place among all of this producer's, from 1: `book.base` and its place in the memory. It is also
//!    its sequence in frames, so that the daemon knows it again on another connection.
//! 2. Where the link is no ring, `book.taken` is the number of the last event before the memory's tail.
//! 3. The fast path is open (`fast_for`) only while the link is a ring, in the process that made it. A forked child never
//!    touches a memory or a connection of its parent, except to let go of them.
//!
//! The way through the files: `link` connects and notices the end, `connection` reads and writes, `frames` sends what is in
//! the memory where no ring is, `moving` goes over to a ring, `waiting` has everything that takes time.

mod claim;
mod clock;
mod connection;
mod frames;
mod link;
mod moving;
mod options;
mod paths;
#[cfg(test)]
mod tests;
mod waiting;

use std::time::{Duration, Instant};

pub use claim::Claim;
pub use options::{LinkKind, OpenError, ProducerOptions, SendError, Statistics, SyncError, WhenFull, WithoutDaemon};

use self::clock::{Moment, Stamping};
use self::link::Link;
use crate::sys;
use crate::wire::{self, Event};
use dbuf_sync::atomic::Ordering::Relaxed;
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{Bell, CAPACITY_BYTES, Memory, NoRoom, RingProducer};

/// What the largest payload is taken to be before a daemon has said it.
const PAYLOAD_BYTES_ASSUMED: usize = 64 << 10;
/// In `fast_for`: no process may take the fast path.
const CLOSED: u64 = u64::MAX;
/// This many ticks after the last look, a send looks whether the daemon is still there: a second, about.
const LOOK_TICKS: u64 = 1 << 31;
/// How long a send may wait for the daemon's answer to a connection that it has begun, whatever its policy.
const ANSWER_WAIT_MIN: Duration = Duration::from_millis(10);
/// The same, at most.
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(250);

/// Sends events to dbufd: through a ring of shared memory, in some 20 ns and without a system call; where there is no ring, by
/// frames. While there is no daemon it keeps them.
///
/// One thread has one producer; it may be handed to another. Nothing is done behind its back: what a link needs is done by
/// the calls, and a program that sends rarely where there is no ring may call [`Producer::tend`] in between.
///
/// ```no_run
/// use dbuf_client::{Producer, ProducerOptions};
/// use std::io::Write;
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut producer = Producer::open(ProducerOptions { name: "shop".into(), ..Default::default() })?;
/// producer.send(6, b"order 17 accepted")?;
/// let mut claim = producer.claim(3, 200)?; // at most 200 bytes, written where the daemon reads them
/// write!(claim, "card of customer {} refused", 17)?;
/// claim.publish()?;
/// producer.sync(Duration::from_secs(5))?; // all are on the disk now
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Producer {
    ring: RingProducer,
    /// What `sys::forks` says in the process that may take the fast path; invariant 3.
    fast_for: u64,
    payload_bytes_max: usize,
    stamping: Stamping,
    looked_ticks: u64,
    bytes: u64,

    forks: u64,
    link: Link,
    book: Book,
    /// With the moment at which a ring is lost it says what the ticks in it mean.
    opened: Moment,
    session: u128,
    /// The event up to which the last sync wants everything durable.
    sync_goal: u64,
    retry_at: Instant,
    retry: Duration,
    looked_at: Instant,
    options: ProducerOptions,
}

/// What is known of events that are not in the memory, and counts.
#[derive(Debug, Default)]
struct Book {
    /// Events before the first that this memory has had.
    base: u64,
    /// Invariant 2.
    taken: u64,
    persisted: u64,
    durable: u64,
    refused: u64,
    lost: u64,
    unconfirmed: u64,
    /// Up to this event it is decided which are unconfirmed.
    doubted: u64,
    /// Of refused and lost, and of unconfirmed, what the last sync has told.
    told: (u64, u64),
    lost_full: (u64, u64),
    high_water_bytes: u64,
    doorbells: u64,
    waits: u64,
    links: u64,
    last_error: Option<String>,
}

impl Book {
    /// A daemon has everything up to this event, and can no longer be asked about it.
    fn doubt(&mut self, up_to: u64, known: u64) {
        let known = known.max(self.durable).max(self.doubted);
        self.unconfirmed += up_to.saturating_sub(known);
        self.doubted = self.doubted.max(up_to);
    }
}

impl Producer {
    /// A producer. It connects if there is a daemon, and waits at most a quarter of a second for its answer.
    ///
    /// # Errors
    /// [`OpenError`]. That there is no daemon is one only where the options say so.
    pub fn open(mut options: ProducerOptions) -> Result<Self, OpenError> {
        if !options.capacity_bytes.is_power_of_two() || !CAPACITY_BYTES.contains(&options.capacity_bytes) {
            return Err(OpenError::Capacity(options.capacity_bytes));
        }
        if options.name.is_empty() {
            options.name = paths::program_name();
        }
        sys::watch_forks()?;
        let now = Instant::now();
        let mut this = Self {
            ring: RingProducer::new(Memory::private(options.capacity_bytes)?, moving::is_ordered()),
            fast_for: CLOSED,
            payload_bytes_max: PAYLOAD_BYTES_ASSUMED,
            stamping: Stamping::None,
            looked_ticks: 0,
            bytes: 0,
            forks: sys::forks(),
            link: Link::None,
            book: Book::default(),
            opened: Moment::now(),
            session: new_session(),
            sync_goal: 0,
            retry_at: now,
            retry: link::RETRY_MIN,
            looked_at: now,
            options,
        };
        this.stamp_by_clock();
        this.tend_for(ANSWER_WAIT_MAX);
        if this.must_fail() {
            return Err(OpenError::NoDaemon(
                this.book.last_error.take().unwrap_or_else(|| "it does not say why".into()),
            ));
        }
        Ok(this)
    }

    /// Sends an event: its priority, 0 to 7, plus 8 times a syslog facility if there is one; and what happened.
    ///
    /// # Errors
    /// [`SendError`]. Of [`SendError::Full`] the event is given up and counted.
    #[inline]
    pub fn send(&mut self, pri: u8, payload: &[u8]) -> Result<(), SendError> {
        self.send_event(&Event { pri, payload, ..Event::default() })
    }

    /// Sends an event with all that it may have: a tag, fields, a time of its own. Its sequence is not looked at.
    ///
    /// # Errors
    /// As [`Producer::send`].
    #[inline]
    pub fn send_event(&mut self, event: &Event<'_>) -> Result<(), SendError> {
        if self.send_fast(event) {
            return Ok(());
        }
        let timeout = self.timeout();
        self.send_slowly(event, timeout, true)
    }

    /// Sends an event if there is room, and never waits. Where there is none, nothing is counted: the caller has the event.
    ///
    /// # Errors
    /// As [`Producer::send`].
    #[inline]
    pub fn try_send(&mut self, event: &Event<'_>) -> Result<(), SendError> {
        if self.send_fast(event) { Ok(()) } else { self.send_slowly(event, Duration::ZERO, false) }
    }

    /// As [`Producer::send_event`], but waits until this deadline for room, whatever the options say.
    ///
    /// # Errors
    /// As [`Producer::send`].
    #[inline]
    pub fn send_with_deadline(&mut self, event: &Event<'_>, deadline: Instant) -> Result<(), SendError> {
        if self.send_fast(event) {
            return Ok(());
        }
        self.send_slowly(event, deadline.saturating_duration_since(Instant::now()), true)
    }

    /// A place for an event of at most this many bytes, to be written into the memory itself: see [`Claim`].
    ///
    /// # Errors
    /// As [`Producer::send`]; the room that is sought is that for `payload_bytes_max`.
    #[inline]
    pub fn claim(&mut self, pri: u8, payload_bytes_max: usize) -> Result<Claim<'_>, SendError> {
        self.claim_event(&Event { pri, ..Event::default() }, payload_bytes_max)
    }

    /// The same with a tag, fields, or a time; the payload of `event` is not looked at.
    ///
    /// # Errors
    /// As [`Producer::claim`].
    #[inline]
    pub fn claim_event(&mut self, event: &Event<'_>, payload_bytes_max: usize) -> Result<Claim<'_>, SendError> {
        Claim::begin(self, event, payload_bytes_max)
    }

    /// What became of this producer's events.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let capacity_bytes = self.options.capacity_bytes;
        if self.forks != sys::forks() {
            return Statistics { capacity_bytes, ..Statistics::default() };
        }
        let (book, words) = (&self.book, self.ring.memory().words());
        let (head, tail) = self.ring.positions();
        let waiting_bytes = head - tail;
        let (refused, lost) = self.failures();
        Statistics {
            events: self.number(),
            bytes: self.bytes,
            lost_full: book.lost_full.0,
            lost_full_bytes: book.lost_full.1,
            refused,
            lost,
            unconfirmed: book.unconfirmed,
            persisted: self.persisted(),
            durable: self.durable(),
            capacity_bytes,
            waiting_bytes,
            // Relaxed: for people.
            high_water_bytes: waiting_bytes.max(book.high_water_bytes).max(words.high_water_bytes.load(Relaxed)),
            doorbells: book.doorbells,
            waits: book.waits,
            links: book.links,
            link: self.link.kind(),
            last_error: book.last_error.clone(),
        }
    }

    /// The largest payload that can be sent, as far as is known.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    /// Ends this producer. What lies in a ring is the daemon's by now; what waits elsewhere is written if that can be done
    /// within `close_wait`. Dropping it does the same, but cannot say how many events are left behind.
    ///
    /// # Errors
    /// The number of events that no daemon has been given.
    pub fn close(mut self) -> Result<(), u64> {
        match self.say_goodbye() {
            0 => Ok(()),
            left => Err(left),
        }
    }

    /// The way of nearly all events. False where something is in the way; then nothing has been done.
    #[inline]
    fn send_fast(&mut self, event: &Event<'_>) -> bool {
        if self.fast_for != sys::forks() || !self.is_fine(event, event.payload.len()) {
            return false;
        }
        let Some(stamp) = self.stamp_fast(event.time_ns) else { return false };
        match self.ring.push(event, stamp) {
            Ok(bell) => {
                self.bytes += event.payload.len() as u64;
                if bell == Bell::Ring {
                    self.ring_bell();
                }
                true
            }
            Err(NoRoom) => false,
        }
    }

    /// Whether such an event breaks no rule.
    #[inline]
    fn is_fine(&self, event: &Event<'_>, payload_bytes: usize) -> bool {
        payload_bytes.wrapping_sub(1) < self.payload_bytes_max
            && event.tag.len() <= wire::TAG_BYTES_MAX
            && event.pri <= wire::PRI_MAX
            && event.fields.len() <= wire::FIELDS_BYTES_MAX
    }

    /// The stamp of an event with this time of its own, or none; None if it is time for a look at the daemon.
    #[inline]
    fn stamp_fast(&self, time_ns: u64) -> Option<Stamp> {
        if time_ns != 0 {
            return Some(Stamp::Nanoseconds(time_ns));
        }
        if self.stamping != Stamping::Ticks {
            return Some(self.stamp_slow());
        }
        let ticks = sys::ticks();
        (ticks.wrapping_sub(self.looked_ticks) < LOOK_TICKS).then_some(Stamp::Ticks(ticks))
    }

    fn stamp_slow(&self) -> Stamp {
        match self.stamping {
            Stamping::None => Stamp::None,
            Stamping::Nanoseconds => Stamp::Nanoseconds(clock::now_ns()),
            Stamping::Ticks => Stamp::Ticks(sys::ticks()),
        }
    }

    /// Stamps are nanoseconds from here on, or none.
    fn stamp_by_clock(&mut self) {
        self.stamping = if self.options.stamp { Stamping::Nanoseconds } else { Stamping::None };
    }

    /// How long a send without a deadline of its own waits for room.
    fn timeout(&self) -> Duration {
        match self.options.when_full {
            WhenFull::Drop => Duration::ZERO,
            WhenFull::Wait(timeout) => timeout,
        }
    }

    /// The number of the last event.
    fn number(&self) -> u64 {
        self.book.base + self.ring.events()
    }

    fn persisted(&self) -> u64 {
        // Relaxed: a report. A thread that waits for it comes through the turn.
        let word = self.ring.memory().words().persisted.load(Relaxed);
        self.book.persisted.max(self.reached(word))
    }

    fn durable(&self) -> u64 {
        // Relaxed: as above.
        let word = self.ring.memory().words().durable.load(Relaxed);
        self.book.durable.max(self.reached(word))
    }

    /// The number of the event that a word of the ring names; 0 without a ring.
    fn reached(&self, word: u64) -> u64 {
        match self.link {
            Link::Ring(_) => self.book.base + word.min(self.ring.events()),
            Link::None | Link::Framed(_) => 0,
        }
    }

    /// Events that were refused, and that were lost.
    fn failures(&self) -> (u64, u64) {
        let Book { refused, lost, .. } = self.book;
        match self.link {
            Link::None | Link::Framed(_) => (refused, lost),
            Link::Ring(_) => {
                let words = self.ring.memory().words();
                // Relaxed: as above.
                (refused + words.refused.load(Relaxed), lost + words.lost.load(Relaxed))
            }
        }
    }

    /// In a forked child: begins anew, and lets go of what is the parent's.
    fn renew_after_fork(&mut self) -> Result<(), SendError> {
        let forks = sys::forks();
        if self.forks == forks {
            return Ok(());
        }
        let memory = Memory::private(self.options.capacity_bytes).map_err(|_| SendError::NoMemory)?;
        self.ring = RingProducer::new(memory, moving::is_ordered());
        // The descriptors are closed, and that is all: what is said on the connection is the parent's to say.
        self.link = Link::None;
        self.fast_for = CLOSED;
        self.book = Book::default();
        self.bytes = 0;
        self.sync_goal = 0;
        self.session = new_session();
        self.forks = forks;
        self.opened = Moment::now();
        self.retry_at = Instant::now();
        self.retry = link::RETRY_MIN;
        self.stamp_by_clock();
        Ok(())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // Nobody is left to tell: who wants to know calls `close`.
        let _ = self.say_goodbye();
    }
}

/// A number that no other producer has.
fn new_session() -> u128 {
    use rustix::rand::{GetRandomFlags, getrandom};
    let mut bytes = [0; 16];
    let got = getrandom(&mut bytes, GetRandomFlags::NONBLOCK);
    if got != Ok(bytes.len()) {
        // A machine that has just started: two clocks and a process are enough to be nobody else's.
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        return u128::from(clock::now_ns()) << 64 | u128::from(sys::ticks() as u32) << 32 | pid as u128;
    }
    u128::from_le_bytes(bytes).max(1)
}
