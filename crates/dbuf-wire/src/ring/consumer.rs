//! Takes events out of a ring: the daemon's end. The program at the other end may be broken or hostile: everything that
//! it writes is copied first, and the copy is checked.
//!
//! Input: the words and bytes of a ring. Output: copies of published bytes, and what the producer is told. One thread.
//! Failures: what the producer has written cannot be true ([`Broken`]); then the ring cannot be used any more.

use super::layout::{state, want};
use super::memory::Memory;
use super::record::ALIGN;
use super::{ASLEEP, HEAD, LOSSES, ROOM, TOLD, TURN};
use dbuf_sync::atomic::Ordering::Relaxed;

/// What the producer has written cannot be true.
///
/// ```
/// # let (producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
/// use std::sync::atomic::Ordering::Relaxed;
///
/// producer.memory().words().head.store(8, Relaxed); // no record ends there
/// assert!(consumer.look().is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(
    /// What is wrong with it.
    pub &'static str,
);

/// The daemon's end.
///
/// ```
/// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
/// use dbuf_wire::frames::Event;
/// use dbuf_wire::ring::record::Stamp;
///
/// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
/// let waiting = consumer.look().unwrap();
/// let mut copy = vec![0; waiting as usize];
/// consumer.copy(0, &mut copy);
/// consumer.take(waiting, 1);
/// assert_eq!((copy[16], consumer.tail()), (b'x', 32));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct RingConsumer {
    memory: Memory,
    tail: u64,
    /// The head as it was seen last.
    head: u64,
    state: u64,
    turn: u32,
    high_water_bytes: u64,
    /// Losses that were taken.
    lost: (u64, u64),
}

/// How far an earlier daemon has come with a ring.
///
/// ```
/// let position = dbuf_wire::ring::Position { tail: 32, events: 1, lost: (0, 0) };
/// assert_eq!(position.events, 1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Bytes taken.
    pub tail: u64,
    /// Events taken.
    pub events: u64,
    /// Losses taken: events, and their bytes.
    pub lost: (u64, u64),
}

impl RingConsumer {
    /// The daemon's end of a ring, from this position on. It begins awake.
    ///
    /// ```
    /// # let (_producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert_eq!(consumer.tail(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn new(memory: Memory, position: &Position) -> Self {
        let words = memory.words();
        // Relaxed: the count of states continues, or begins anywhere: it only has to differ from the one before.
        let state = (words.state.load(Relaxed) & !state::MASK).wrapping_add(state::COUNT_ONE);
        let turn = words.turn.load(Relaxed);
        let (tail, lost) = (position.tail, position.lost);
        let this = Self { memory, tail, head: tail, state, turn, high_water_bytes: 0, lost };
        this.memory.words().state.store(state, Relaxed);
        this.tell_taken(position.events);
        this
    }

    /// The memory.
    ///
    /// ```
    /// # let (_producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert_eq!(consumer.memory().capacity(), 64 << 10);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Bytes taken.
    ///
    /// ```
    /// # let (_producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert_eq!(consumer.tail(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Looks how many bytes are published and not taken.
    ///
    /// # Errors
    /// [`Broken`].
    ///
    /// ```
    /// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// assert_eq!(consumer.look(), Ok(32));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn look(&mut self) -> Result<u64, Broken> {
        // edge `head`, acquiring: the bytes before it are there.
        let head = self.memory.words().head.load(HEAD.acquire());
        let waiting = head.wrapping_sub(self.tail);
        if head < self.head || waiting > self.memory.capacity() || !head.is_multiple_of(ALIGN as u64) {
            return Err(Broken("the ring's head is where it cannot be"));
        }
        self.head = head;
        if waiting > self.high_water_bytes {
            self.high_water_bytes = waiting;
            // Relaxed: for people.
            self.memory.words().high_water_bytes.store(waiting, Relaxed);
        }
        Ok(waiting)
    }

    /// The most bytes that were found waiting.
    ///
    /// ```
    /// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// consumer.look().unwrap();
    /// assert_eq!(consumer.high_water_bytes(), 32);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn high_water_bytes(&self) -> u64 {
        self.high_water_bytes
    }

    /// Copies published bytes, beginning `skip` bytes behind what was taken.
    ///
    /// # Panics
    /// When it asks for more than [`RingConsumer::look`] has found.
    ///
    /// ```
    /// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// consumer.look().unwrap();
    /// let mut copy = [0; 1];
    /// consumer.copy(16, &mut copy);
    /// assert_eq!(&copy, b"x");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn copy(&self, skip: u64, into: &mut [u8]) {
        assert!(skip + into.len() as u64 <= self.head - self.tail, "more than was published");
        self.memory.copy(self.tail + skip, into);
    }

    /// Takes `bytes` bytes; `events` is how many events were taken in all. The producer may write there from now on.
    ///
    /// # Panics
    /// When that is more than [`RingConsumer::look`] has found.
    ///
    /// ```
    /// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// let waiting = consumer.look().unwrap();
    /// consumer.take(waiting, 1);
    /// assert_eq!(consumer.look(), Ok(0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn take(&mut self, bytes: u64, events: u64) {
        assert!(bytes <= self.head - self.tail, "more than was published");
        self.tail += bytes;
        self.tell_taken(events);
    }

    fn tell_taken(&self, events: u64) {
        let words = self.memory.words();
        // Relaxed: for people, and for a producer that has lost its daemon.
        words.taken.store(events, Relaxed);
        // edge `room`, releasing: the copies are over. Relaxed would let the producer write over what is being copied.
        words.tail.store(self.tail, ROOM.release());
    }

    /// The events, and their bytes, that found no room and were not taken yet, as the producer counts them. Nothing
    /// vouches for these numbers.
    ///
    /// # Errors
    /// [`Broken`].
    ///
    /// ```
    /// # let (mut producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// producer.lose(100);
    /// assert_eq!(consumer.losses(), Ok((1, 100)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn losses(&self) -> Result<(u64, u64), Broken> {
        let words = self.memory.words();
        // edge `losses`, acquiring: the bytes of these events are there.
        let events = words.lost_events.load(LOSSES.acquire()).wrapping_sub(self.lost.0);
        // Relaxed: those of later events may be there already.
        let bytes = words.lost_bytes.load(Relaxed).wrapping_sub(self.lost.1);
        // What was taken is subtracted, so a count that has decreased looks like one that has come round.
        if events > u64::MAX / 2 || bytes > u64::MAX / 2 {
            return Err(Broken("the ring's count of losses has decreased"));
        }
        Ok(if events == 0 { (0, 0) } else { (events, bytes) })
    }

    /// These losses are counted. They may be fewer than [`RingConsumer::losses`] has found; the rest is found again.
    ///
    /// ```
    /// # let (mut producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// producer.lose(100);
    /// consumer.take_losses((1, 100));
    /// assert_eq!(consumer.losses(), Ok((0, 0)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn take_losses(&mut self, (events, bytes): (u64, u64)) {
        self.lost = (self.lost.0.wrapping_add(events), self.lost.1.wrapping_add(bytes));
        let words = self.memory.words();
        // Relaxed: for a producer that has lost its daemon.
        words.lost_bytes_told.store(self.lost.1, Relaxed);
        words.lost_events_told.store(self.lost.0, Relaxed);
    }

    /// Whether the producer was in the middle of an event. Only meaningful once the producer has ended.
    ///
    /// ```
    /// # let (mut producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// let place = producer.claim(100).unwrap();
    /// assert!(consumer.is_torn());
    /// producer.give_back(place);
    /// assert!(!consumer.is_torn());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_torn(&self) -> bool {
        // Relaxed: the producer is gone, and the kernel says so after all that it did.
        self.memory.words().writing.load(Relaxed) != self.head
    }

    /// Sets the state that the producer sees, one of [`state`]: whether this side looks by itself, will do so soon, or
    /// sleeps. After `ASLEEP` the caller passes a barrier ([`RingConsumer::after_barrier`]) before its last look.
    ///
    /// ```
    /// # let (_producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::ring::state;
    /// use dbuf_wire::ring::RingConsumer;
    ///
    /// consumer.set_state(state::ASLEEP);
    /// RingConsumer::after_barrier();
    /// if consumer.look() == Ok(0) {
    ///     // Nothing is there: sleep until the doorbell rings.
    /// }
    /// consumer.set_state(state::AWAKE);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_state(&mut self, kind: u64) {
        if self.state & state::MASK == kind {
            return;
        }
        self.state = (self.state & !state::MASK).wrapping_add(state::COUNT_ONE) | kind;
        // Relaxed: the barrier that follows does it. A producer that sees `AWAKE` late rings once in vain.
        self.memory.words().state.store(self.state, Relaxed);
    }

    /// Passes the barrier between [`RingConsumer::set_state`] and the last look before sleeping. membarrier(2)
    /// is called before it, where it is to reach the producers; one call is good for all rings.
    ///
    /// ```
    /// # let (_producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::ring::RingConsumer;
    ///
    /// consumer.set_state(dbuf_wire::ring::state::ASLEEP);
    /// RingConsumer::after_barrier();
    /// assert_eq!(consumer.look(), Ok(0));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn after_barrier() {
        // edge `asleep`, acquiring: a producer that has not seen that this side sleeps has published before, and is
        // seen now.
        ASLEEP.full_acquiring();
    }

    /// What the producer wants to be told, as bits of [`want`].
    ///
    /// ```
    /// # let (producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::ring::want;
    ///
    /// producer.want(want::ROOM);
    /// assert_eq!(consumer.wants(), want::ROOM);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn wants(&self) -> u32 {
        // edge `turn`, acquiring: what was stored before this call is seen by a producer whose wish is not seen here.
        TURN.full_acquiring();
        // Relaxed: the barrier does it.
        self.memory.words().wants.load(Relaxed) & (want::ROOM | want::PERSISTED | want::DURABLE)
    }

    /// The event up to which the producer wants everything durable now; 0 if none.
    ///
    /// ```
    /// # let (_producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert_eq!(consumer.sync_wanted(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn sync_wanted(&self) -> u64 {
        // Relaxed: a wish. The bell, rung next, brings another look.
        self.memory.words().sync.load(Relaxed)
    }

    /// Tells how far events are persisted, or durable, and how many of them could not be stored.
    ///
    /// ```
    /// # let (producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// consumer.tell(5, 3, 1, 0);
    /// assert_eq!((producer.persisted(), producer.durable(), producer.failures()), (5, 3, (0, 1)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn tell(&self, persisted: u64, durable: u64, lost: u64, refused: u64) {
        let words = self.memory.words();
        // Relaxed: the stores behind them release them.
        words.lost.store(lost, Relaxed);
        words.refused.store(refused, Relaxed);
        // edge `told`, releasing, both: a producer that sees how far events have come sees which of them were lost.
        words.durable.store(durable, TOLD.release());
        words.persisted.store(persisted, TOLD.release());
    }

    /// The numbers of the last [`RingConsumer::tell`]: persisted, durable, lost, refused. An earlier daemon may have
    /// written them. The producer may have changed them, which misleads only the producer.
    ///
    /// ```
    /// # let (_producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// consumer.tell(5, 3, 1, 0);
    /// assert_eq!(consumer.last_told(), [5, 3, 1, 0]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn last_told(&self) -> [u64; 4] {
        let words = self.memory.words();
        // Relaxed: this side wrote them, or a process that is dead.
        [&words.persisted, &words.durable, &words.lost, &words.refused].map(|word| word.load(Relaxed))
    }

    /// Tells the producer the largest payload, in bytes.
    ///
    /// ```
    /// # let (_producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// consumer.tell_max_event(65536);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn tell_max_event(&self, bytes: u64) {
        // Relaxed: a limit hands nothing over.
        self.memory.words().max_event_bytes.store(bytes, Relaxed);
    }

    /// Wakes the producer that sleeps on the turn. To be called when something has been done that
    /// [`RingConsumer::wants`] says is wanted.
    ///
    /// ```
    /// # let (_producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// if consumer.wants() & dbuf_wire::ring::want::ROOM != 0 {
    ///     consumer.wake();
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wake(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        let words = self.memory.words();
        // Relaxed: the barrier of edge `turn`, passed in `wants`, has released what was done. The kernel's own lock
        // orders this against a sleeper's look (futex(2)).
        words.turn.store(self.turn, Relaxed);
        #[cfg(not(dbuf_loom))]
        {
            use rustix::thread::futex;
            // It fails only for a bad address. A producer is one thread; more that sleep there are not woken at once.
            let _ = futex::wake(&words.turn, futex::Flags::empty(), 1);
        }
    }
}
