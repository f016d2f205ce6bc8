//! A producer for each thread, opened when the thread sends its first event and closed when it ends.
//!
//! Enters: options, once; events of any thread. Leaves: what [`crate::Producer`] makes of them. What can fail: a thread
//! that is about to end, or that sends while it is sending, has no producer ([`SendError::NoProducer`]).
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
use crate::{Producer, ProducerOptions, SendError};
use dbuf_sync::atomic::AtomicU64;
use dbuf_sync::atomic::Ordering::Relaxed;

/// How long after an opening that failed the next is tried.
const RETRY: Duration = Duration::from_secs(1);

thread_local! {
    static HELD: RefCell<Vec<(u64, Held)>> = const { RefCell::new(Vec::new()) };
}

/// What a thread has for one set of options.
#[derive(Debug)]
enum Held {
    Open(Box<Producer>),
    /// It could not be opened, at this time.
    Failed(Instant),
}

/// Options of which each thread has a producer. For who needs more than one set; [`with`] and [`log()`] have their own.
#[derive(Debug)]
pub struct Handles {
    id: u64,
    options: ProducerOptions,
    missed: AtomicU64,
}

impl Handles {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(options: ProducerOptions) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        // Relaxed: numbers that differ.
        Self { id: IDS.fetch_add(1, Relaxed), options, missed: AtomicU64::new(0) }
    }

    /// Calls `work` with this thread's producer. None if there is none: the thread is about to end, or is within such a
    /// call, or the producer cannot be opened.
    pub fn with<R>(&self, work: impl FnOnce(&mut Producer) -> R) -> Option<R> {
        HELD.try_with(|held| {
            let mut held = held.try_borrow_mut().ok()?;
            self.find(&mut held).map(work)
        })
        .ok()
        .flatten()
    }

    /// Sends an event of this thread.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, event: &Event<'_>) -> Result<(), SendError> {
        self.with(|producer| producer.send_event(event)).unwrap_or(Err(SendError::NoProducer))
    }

    /// Events that a backend of [`mod@crate::local`] could not send for another reason than a full ring, which the
    /// producers themselves count.
    #[must_use]
    pub fn missed(&self) -> u64 {
        // Relaxed: a count for people.
        self.missed.load(Relaxed)
    }

    #[cfg(any(feature = "log", feature = "tracing"))]
    pub(crate) fn miss(&self) {
        // Relaxed: as above.
        self.missed.fetch_add(1, Relaxed);
    }

    /// Tells them apart.
    #[cfg(feature = "tracing")]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn find<'a>(&self, held: &'a mut Vec<(u64, Held)>) -> Option<&'a mut Producer> {
        let at = match held.iter().position(|(id, _)| *id == self.id) {
            Some(at) => at,
            None => {
                held.push((self.id, self.open()));
                held.len() - 1
            }
        };
        let place = &mut held[at].1;
        if let Held::Failed(since) = place
            && since.elapsed() >= RETRY
        {
            *place = self.open();
        }
        match place {
            Held::Open(producer) => Some(producer),
            Held::Failed(_) => None,
        }
    }

    fn open(&self) -> Held {
        match Producer::open(self.options.clone()) {
            Ok(producer) => Held::Open(Box::new(producer)),
            Err(_) => Held::Failed(Instant::now()),
        }
    }
}

static ALL: OnceLock<Handles> = OnceLock::new();

fn all() -> &'static Handles {
    ALL.get_or_init(|| Handles::new(ProducerOptions::default()))
}

/// Says what the producers of [`with`] and [`log()`] are to be. False, and without effect, if they are in use already.
pub fn configure(options: ProducerOptions) -> bool {
    ALL.set(Handles::new(options)).is_ok()
}

/// Calls `work` with this thread's producer. None if there is none: the thread is about to end, or is within such a
/// call, or the producer cannot be opened.
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
#[inline]
pub fn log(pri: u8, payload: &[u8]) -> Result<(), SendError> {
    with(|producer| producer.send(pri, payload)).unwrap_or(Err(SendError::NoProducer))
}
