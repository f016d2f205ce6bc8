//! Holds the state of a producer: its memory, its link, and what is known of its events.
//!
//! Input: options, and what the other files of this folder write into it. Output: numbers, and stamps by the clock. The
//! producer's thread. Failures: there is no memory for the ring; there is no daemon, where the options ask for one.
//! The invariants are those of the folder (`mod.rs`).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::book::Book;
use super::clock::{self, Moment, Stamping};
use super::link::{Link, RETRY_MIN};
use super::options::{OpenError, ProducerOptions, SendError, Statistics};
use super::order::is_ordered;
use super::paths;
use crate::sys;
use dbuf_sync::Arc;
use dbuf_sync::atomic::AtomicBool;
use dbuf_sync::atomic::Ordering::Relaxed;
use dbuf_wire::ring::record::Stamp;
use dbuf_wire::ring::{CAPACITY_BYTES, Memory, RingProducer};

/// The largest payload, until a daemon has said its limit.
const PAYLOAD_BYTES_ASSUMED: usize = 64 << 10;
/// In `fast_for`: no process may take the fast path.
pub(super) const CLOSED: u64 = u64::MAX;
/// This many ticks after the last look, a send looks whether the daemon is still there: about a second.
pub(super) const LOOK_TICKS: u64 = 1 << 31;
/// The least time that a send waits for the daemon's answer to a connection that it has begun, with any policy.
pub(super) const ANSWER_WAIT_MIN: Duration = Duration::from_millis(10);
/// The same, at most.
pub(super) const ANSWER_WAIT_MAX: Duration = Duration::from_millis(250);

/// Sends events to dbufd: through a ring of shared memory, in some 20 ns and without a system call; without a ring, by
/// frames. While there is no daemon it keeps events in memory.
///
/// One thread uses a producer at a time; it may be moved to another thread. There is no background thread: the calls
/// do what the connection needs. A program that sends rarely should call [`Producer::tend`] in between.
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
    pub(super) ring: RingProducer,
    /// What `sys::forks` says in the process that may take the fast path; invariant 3.
    pub(super) fast_for: u64,
    pub(super) payload_bytes_max: usize,
    pub(super) stamping: Stamping,
    pub(super) looked_ticks: u64,
    pub(super) bytes: u64,

    pub(super) forks: u64,
    pub(super) link: Link,
    pub(super) book: Book,
    /// With the moment at which a ring is lost it says what the ticks in it mean.
    pub(super) opened: Moment,
    pub(super) session: u128,
    /// The event up to which the last sync wants everything durable.
    pub(super) sync_goal: u64,
    pub(super) retry_at: Instant,
    pub(super) retry: Duration,
    pub(super) looked_at: Instant,
    /// The socket that was connected to last.
    pub(super) path: PathBuf,
    /// The line about a daemon that cannot be reached was written, or there has been a link. The producers of a
    /// [`crate::local::Handles`] share it. A forked child inherits it.
    pub(super) has_complained: Arc<AtomicBool>,
    /// This is a forked child, of which no send has waited for the daemon's first answer yet.
    pub(super) is_new: bool,
    pub(super) options: ProducerOptions,
}

impl Producer {
    /// Opens a producer. It connects if there is a daemon, and waits at most 250 ms for the daemon's answer.
    ///
    /// # Errors
    /// [`OpenError`]. A daemon that cannot be reached is an error only with [`WithoutDaemon::Fail`].
    ///
    /// [`WithoutDaemon::Fail`]: crate::WithoutDaemon::Fail
    ///
    /// ```no_run
    /// use dbuf_client::{Producer, ProducerOptions};
    ///
    /// let producer = Producer::open(ProducerOptions { name: "shop".into(), ..Default::default() })?;
    /// # Ok::<(), dbuf_client::OpenError>(())
    /// ```
    pub fn open(options: ProducerOptions) -> Result<Self, OpenError> {
        Self::open_among(options, Arc::new(AtomicBool::new(false)))
    }

    /// Opens one of several producers that share whether the line about a daemon that cannot be reached is due.
    pub(crate) fn open_among(mut options: ProducerOptions, has_complained: Arc<AtomicBool>) -> Result<Self, OpenError> {
        if !options.capacity_bytes.is_power_of_two() || !CAPACITY_BYTES.contains(&options.capacity_bytes) {
            return Err(OpenError::Capacity(options.capacity_bytes));
        }
        if options.name.is_empty() {
            options.name = paths::program_name();
        }
        sys::watch_forks()?;
        let now = Instant::now();
        let mut this = Self {
            ring: RingProducer::new(Memory::private(options.capacity_bytes)?, is_ordered()),
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
            retry: RETRY_MIN,
            looked_at: now,
            path: PathBuf::new(),
            has_complained,
            is_new: false,
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

    /// What became of this producer's events.
    ///
    /// ```no_run
    /// # let producer = dbuf_client::Producer::open(Default::default())?;
    /// let statistics = producer.statistics();
    /// eprintln!("{} sent, {} dropped, link: {:?}", statistics.events, statistics.lost_full, statistics.link);
    /// # Ok::<(), dbuf_client::OpenError>(())
    /// ```
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let capacity_bytes = self.options.capacity_bytes;
        if self.forks != sys::forks() {
            return Statistics { capacity_bytes, ..Statistics::default() };
        }
        let (book, words) = (&self.book, self.ring.memory().words());
        let (head, tail) = self.ring.positions();
        let waiting_bytes = head - tail;
        let (persisted, durable) = (self.persisted(), self.durable());
        let (refused, lost) = self.failures();
        Statistics {
            events: self.number(),
            bytes: self.bytes,
            lost_full: book.lost_full.0,
            lost_full_bytes: book.lost_full.1,
            refused,
            lost,
            unconfirmed: book.unconfirmed,
            persisted,
            durable,
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

    /// The largest payload that can be sent, in bytes, as far as is known: 64 KiB until a daemon has said its limit,
    /// and never more than half of the ring.
    ///
    /// ```no_run
    /// # let producer = dbuf_client::Producer::open(Default::default())?;
    /// assert!("order 17 accepted".len() <= producer.payload_bytes_max());
    /// # Ok::<(), dbuf_client::OpenError>(())
    /// ```
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    /// Ends this producer. The daemon takes what is in its ring. What waits elsewhere, or in the ring of a daemon that
    /// has ended, is delivered if that can be done within `close_wait`. Dropping the producer does the same, but cannot
    /// return how many events are left.
    ///
    /// # Errors
    /// The number of events that no daemon was given.
    ///
    /// ```no_run
    /// # let mut producer = dbuf_client::Producer::open(Default::default())?;
    /// producer.send(6, b"order 17 accepted").ok();
    /// if let Err(left) = producer.close() {
    ///     eprintln!("{left} events were not delivered");
    /// }
    /// # Ok::<(), dbuf_client::OpenError>(())
    /// ```
    pub fn close(mut self) -> Result<(), u64> {
        match self.say_goodbye() {
            0 => Ok(()),
            left => Err(left),
        }
    }

    /// Has events that were lost before they reached this producer counted in the data, as its own are.
    pub(crate) fn report_lost(&mut self, events: u64) {
        if self.forks == sys::forks() {
            self.ring.carry_losses((events, 0));
        }
    }

    pub(super) fn stamp_slow(&self) -> Stamp {
        match self.stamping {
            Stamping::None => Stamp::None,
            Stamping::Nanoseconds => Stamp::Nanoseconds(clock::now_ns()),
            Stamping::Ticks => Stamp::Ticks(sys::ticks()),
        }
    }

    /// Stamps are nanoseconds from here on, or none.
    pub(super) fn stamp_by_clock(&mut self) {
        self.stamping = if self.options.stamp { Stamping::Nanoseconds } else { Stamping::None };
    }

    /// The number of the last event.
    pub(super) fn number(&self) -> u64 {
        self.book.base + self.ring.events()
    }

    pub(super) fn persisted(&self) -> u64 {
        self.book.persisted.max(self.reached(self.ring.persisted()))
    }

    pub(super) fn durable(&self) -> u64 {
        self.book.durable.max(self.reached(self.ring.durable()))
    }

    /// The number of the event that a word of the ring names; 0 without a ring.
    fn reached(&self, word: u64) -> u64 {
        match self.link {
            Link::Ring(_) => self.book.base + word.min(self.ring.events()),
            Link::None | Link::Framed(_) => 0,
        }
    }

    /// Events that were refused, and that were lost. To be read after how far events have come.
    pub(super) fn failures(&self) -> (u64, u64) {
        let Book { refused, lost, .. } = self.book;
        match self.link {
            Link::None | Link::Framed(_) => (refused, lost),
            Link::Ring(_) => {
                let (by_ring, lost_by_ring) = self.ring.failures();
                (refused + by_ring, lost + lost_by_ring)
            }
        }
    }

    /// In a forked child: begins anew, without what belongs to the parent.
    pub(super) fn renew_after_fork(&mut self) -> Result<(), SendError> {
        let forks = sys::forks();
        if self.forks == forks {
            return Ok(());
        }
        let memory = Memory::private(self.options.capacity_bytes).map_err(|_| SendError::NoMemory)?;
        self.ring = RingProducer::new(memory, is_ordered());
        // Its descriptors were closed at the fork; nothing is said on the connection, which is the parent's.
        self.link = Link::None;
        self.fast_for = CLOSED;
        self.book = Book::default();
        self.bytes = 0;
        self.sync_goal = 0;
        self.session = new_session();
        self.forks = forks;
        self.opened = Moment::now();
        self.retry_at = Instant::now();
        self.retry = RETRY_MIN;
        self.is_new = true;
        self.stamp_by_clock();
        Ok(())
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // There is no caller to tell: a program that wants to know calls `close`.
        let _ = self.say_goodbye();
    }
}

/// A number that no other producer has.
pub(super) fn new_session() -> u128 {
    use rustix::rand::{GetRandomFlags, getrandom};
    let mut bytes = [0; 16];
    let got = getrandom(&mut bytes, GetRandomFlags::NONBLOCK);
    if got != Ok(bytes.len()) {
        // A machine that has just started: two clocks and a process number make it unique enough.
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        return u128::from(clock::now_ns()) << 64 | u128::from(sys::ticks() as u32) << 32 | pid as u128;
    }
    u128::from_le_bytes(bytes).max(1)
}
