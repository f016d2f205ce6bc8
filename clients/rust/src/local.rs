//! Gives each thread a producer of its own, opened when the thread sends its first event and closed when it ends.
//!
//! Input: options, once; events of any thread. Output: what [`crate::Producer`] makes of them. Failures: a thread that
//! sends while it is sending has no producer ([`SendError::NoProducer`]).
//!
//! ```no_run
//! use dbuf_client::{ProducerOptions, local};
//!
//! local::configure(ProducerOptions { name: "shop".into(), ..Default::default() });
//! dbuf_client::log(6, b"order 17 accepted").ok();
//! std::thread::spawn(|| dbuf_client::log(6, b"order 18 accepted"));
//! ```

use std::cell::RefCell;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::wire::Event;
use crate::{Producer, ProducerOptions, SendError, reason};
use dbuf_sync::Arc;
use dbuf_sync::atomic::Ordering::Relaxed;
use dbuf_sync::atomic::{AtomicBool, AtomicU64};

/// How long after an opening that failed the next is tried.
const RETRY: Duration = Duration::from_secs(1);

thread_local! {
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

/// What a thread has for one set of options.
#[derive(Debug)]
struct Held {
    id: u64,
    /// False once the [`Handles`] are dropped.
    is_wanted: Arc<AtomicBool>,
    /// Or when it could not be opened.
    producer: Result<Box<Producer>, Instant>,
}

/// Options of which each thread has a producer, for programs that need more than one set: [`with`] and [`log()`] have
/// their own.
///
/// Dropping them closes the producers: that of the thread that drops them at once, those of other threads when such a
/// thread sends its next event, with any options, or ends.
///
/// ```no_run
/// use dbuf_client::{ProducerOptions, local::Handles, wire::Event};
///
/// let audit = Handles::new(ProducerOptions { name: "audit".into(), ..Default::default() });
/// audit.send(&Event { pri: 5, payload: b"user 7 logged in", ..Event::default() }).ok();
/// ```
#[derive(Debug)]
pub struct Handles {
    id: u64,
    is_wanted: Arc<AtomicBool>,
    options: ProducerOptions,
    missed: AtomicU64,
    /// Of those missed, how many no event and no line has reported.
    unreported: AtomicU64,
    /// Shared with the producers, so that not each thread says that the daemon cannot be reached.
    has_complained: Arc<AtomicBool>,
}

impl Handles {
    /// Handles with these options. Nothing is opened yet.
    ///
    /// ```
    /// use dbuf_client::{ProducerOptions, local::Handles};
    ///
    /// let handles = Handles::new(ProducerOptions::default());
    /// assert_eq!(handles.missed(), 0);
    /// ```
    #[must_use]
    pub fn new(options: ProducerOptions) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Self {
            // Relaxed: numbers that differ.
            id: IDS.fetch_add(1, Relaxed),
            is_wanted: Arc::new(AtomicBool::new(true)),
            options,
            missed: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            has_complained: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Calls `work` with this thread's producer. None if there is none: the thread is within such a call already, or
    /// the producer cannot be opened.
    ///
    /// A thread that ends closes its producers before its last destructors run, and a program before its atexit(3)
    /// handlers. A call from there gets a producer that is opened for it and closed behind it.
    ///
    /// ```no_run
    /// use dbuf_client::{ProducerOptions, local::Handles};
    ///
    /// let handles = Handles::new(ProducerOptions::default());
    /// let statistics = handles.with(|producer| producer.statistics());
    /// ```
    pub fn with<R>(&self, work: impl FnOnce(&mut Producer) -> R) -> Option<R> {
        let mut work = Some(work);
        let done = HELD.try_with(|held| {
            let mut held = held.try_borrow_mut().ok()?;
            let producer = self.find(&mut held)?;
            self.report_missed(producer);
            work.take().map(|work| work(producer))
        });
        match (done, work) {
            (Ok(done), _) => done,
            (Err(_), Some(work)) => self.open().ok().map(|mut producer| work(&mut producer)),
            (Err(_), None) => None,
        }
    }

    /// Sends an event of this thread.
    ///
    /// # Errors
    /// [`SendError`]; [`SendError::NoProducer`] where [`Handles::with`] returns None.
    ///
    /// ```no_run
    /// use dbuf_client::{ProducerOptions, local::Handles, wire::Event};
    ///
    /// let handles = Handles::new(ProducerOptions::default());
    /// handles.send(&Event { pri: 6, payload: b"order 17 accepted", ..Event::default() })?;
    /// # Ok::<(), dbuf_client::SendError>(())
    /// ```
    pub fn send(&self, event: &Event<'_>) -> Result<(), SendError> {
        self.with(|producer| producer.send_event(event)).unwrap_or(Err(SendError::NoProducer))
    }

    /// Events that a backend for `log` or `tracing` could not send, for another reason than a full ring, which the
    /// producers themselves count. The next event of any thread reports them.
    ///
    /// ```
    /// let handles = dbuf_client::local::Handles::new(dbuf_client::ProducerOptions::default());
    /// assert_eq!(handles.missed(), 0);
    /// ```
    #[must_use]
    pub fn missed(&self) -> u64 {
        // Relaxed: a count for people.
        self.missed.load(Relaxed)
    }

    #[cfg(any(feature = "log", feature = "tracing"))]
    pub(crate) fn miss(&self) {
        // Relaxed: counts.
        self.missed.fetch_add(1, Relaxed);
        self.unreported.fetch_add(1, Relaxed);
    }

    /// Tells them apart.
    #[cfg(feature = "tracing")]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Has this producer report what was missed.
    fn report_missed(&self, producer: &mut Producer) {
        // Relaxed, both: counts, of which each is taken by one thread.
        if self.unreported.load(Relaxed) > 0 {
            producer.report_lost(self.unreported.swap(0, Relaxed));
        }
    }

    fn find<'a>(&self, held: &'a mut Vec<Held>) -> Option<&'a mut Producer> {
        close_unwanted(held);
        let at = match held.iter().position(|held| held.id == self.id) {
            Some(at) => at,
            None => {
                held.push(Held { id: self.id, is_wanted: Arc::clone(&self.is_wanted), producer: self.open() });
                held.len() - 1
            }
        };
        let place = &mut held[at].producer;
        if let Err(since) = place
            && since.elapsed() >= RETRY
        {
            *place = self.open();
        }
        place.as_deref_mut().ok()
    }

    fn open(&self) -> Result<Box<Producer>, Instant> {
        Producer::open_among(self.options.clone(), Arc::clone(&self.has_complained)).map(Box::new).map_err(|why| {
            // The producer itself has said that there is no daemon. Relaxed: one line, whichever thread writes it.
            if !self.options.quiet && !self.has_complained.swap(true, Relaxed) {
                reason::complain_of_connection(&why.to_string(), "are dropped");
            }
            Instant::now()
        })
    }
}

/// Closes the producers of [`Handles`] that were dropped.
#[inline]
fn close_unwanted(held: &mut Vec<Held>) {
    // Relaxed: a thread that misses it closes with a later event.
    held.retain(|held| held.is_wanted.load(Relaxed));
}

impl Drop for Handles {
    fn drop(&mut self) {
        // Relaxed: as above.
        self.is_wanted.store(false, Relaxed);
        // Within a call of `with`, the next event closes it.
        let _ = HELD.try_with(|held| held.try_borrow_mut().map(|mut held| close_unwanted(&mut held)));
        // Relaxed: a count, and this is its last owner.
        let unreported = self.unreported.load(Relaxed);
        if !self.options.quiet {
            reason::complain_of_loss(unreported, "no producer could be had for them");
        }
    }
}

static ALL: OnceLock<Handles> = OnceLock::new();

fn all() -> &'static Handles {
    ALL.get_or_init(|| Handles::new(ProducerOptions::default()))
}

/// Sets the options of the producers of [`with`] and [`log()`]. Returns false, and has no effect, if they are in use
/// already.
///
/// ```
/// use dbuf_client::{ProducerOptions, local};
///
/// let is_first = local::configure(ProducerOptions { name: "shop".into(), ..ProducerOptions::default() });
/// assert!(is_first && !local::configure(ProducerOptions::default()));
/// ```
pub fn configure(options: ProducerOptions) -> bool {
    ALL.set(Handles::new(options)).is_ok()
}

/// Calls `work` with this thread's producer. None if there is none: the thread is within such a call already, or the
/// producer cannot be opened.
///
/// ```no_run
/// use std::io::Write;
///
/// dbuf_client::local::with(|producer| {
///     let mut claim = producer.claim(6, 100)?;
///     write!(claim, "{} orders", 17).ok();
///     claim.publish()
/// });
/// ```
pub fn with<R>(work: impl FnOnce(&mut Producer) -> R) -> Option<R> {
    all().with(work)
}

/// Sends an event by this thread's producer: its priority, 0 to 7, plus 8 times a syslog facility if there is one; and
/// what happened.
///
/// # Errors
/// As [`Producer::send`]; and [`SendError::NoProducer`].
///
/// ```no_run
/// dbuf_client::log(6, b"order 17 accepted")?;
/// # Ok::<(), dbuf_client::SendError>(())
/// ```
#[inline]
pub fn log(pri: u8, payload: &[u8]) -> Result<(), SendError> {
    with(|producer| producer.send(pri, payload)).unwrap_or(Err(SendError::NoProducer))
}
