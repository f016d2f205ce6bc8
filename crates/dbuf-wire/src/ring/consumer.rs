//! Takes events out of a ring: the daemon's end. The other end is a program that may be broken or hostile: nothing that
//! it writes is believed before it is checked, and what is checked is a copy.
//!
//! Input: the words and bytes of a ring. Output: copies of published bytes, and progress for the producer. Thread: one.
//! Failure: what the producer has written cannot be true ([`Broken`]); then the ring is unusable.

use super::layout::{state, want};
use super::memory::Memory;
use super::record::ALIGN;
use super::{ASLEEP, HEAD, ROOM, TURN};
use dbuf_sync::atomic::Ordering::Relaxed;

/// What the producer has written cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(
    /// What is wrong with it.
    pub &'static str,
);

/// More losses than this between two looks are no losses.
const LOST_EVENTS_MAX: u64 = 1 << 32;
const LOST_BYTES_MAX: u64 = 1 << 44;

/// The daemon's end.
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
    /// The end of a ring from this position on. It begins awake.
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
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Bytes taken.
    #[inline]
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Looks how many bytes are published and not taken.
    ///
    /// # Errors
    /// [`Broken`].
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
    #[must_use]
    pub fn high_water_bytes(&self) -> u64 {
        self.high_water_bytes
    }

    /// Copies published bytes, beginning `skip` bytes behind what was taken.
    ///
    /// # Panics
    /// When it asks for more than [`RingConsumer::look`] has found.
    #[inline]
    pub fn copy(&self, skip: u64, into: &mut [u8]) {
        assert!(skip + into.len() as u64 <= self.head - self.tail, "more than was published");
        self.memory.copy(self.tail + skip, into);
    }

    /// Takes `bytes` bytes; `events` is how many events were taken in all. The producer may write there from now on.
    ///
    /// # Panics
    /// When that is more than [`RingConsumer::look`] has found.
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

    /// The events, and their bytes, that found no room since the last call.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn losses(&self) -> Result<(u64, u64), Broken> {
        let words = self.memory.words();
        // Relaxed: plain counters. The events first: their bytes were there before.
        let events = words.lost_events.load(Relaxed).wrapping_sub(self.lost.0);
        let bytes = words.lost_bytes.load(Relaxed).wrapping_sub(self.lost.1);
        if events > LOST_EVENTS_MAX || bytes > LOST_BYTES_MAX {
            return Err(Broken("the ring's count of losses cannot be true"));
        }
        Ok(if events == 0 { (0, 0) } else { (events, bytes) })
    }

    /// These losses are counted.
    pub fn take_losses(&mut self, (events, bytes): (u64, u64)) {
        self.lost = (self.lost.0.wrapping_add(events), self.lost.1.wrapping_add(bytes));
        let words = self.memory.words();
        // Relaxed: for a producer that has lost its daemon.
        words.lost_bytes_told.store(self.lost.1, Relaxed);
        words.lost_events_told.store(self.lost.0, Relaxed);
    }

    /// Whether the producer was in the middle of an event. It means something once the producer is gone.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        // Relaxed: the producer is gone, and the kernel says so after all that it did.
        self.memory.words().writing.load(Relaxed) != self.head
    }

    /// Says whether it will look by itself, soon, or not at all: one of [`state`]'s. After `ASLEEP` a barrier is to be
    /// passed ([`RingConsumer::after_barrier`]) before the last look.
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
    pub fn after_barrier() {
        // edge `asleep`, acquiring: a producer that has not seen that this side sleeps has published before, and is
        // seen now.
        ASLEEP.full_acquiring();
    }

    /// What the producer wants to be told, as bits of [`want`].
    #[must_use]
    pub fn wants(&self) -> u32 {
        // edge `turn`, acquiring: what was stored before this call is seen by a producer whose wish is not seen here.
        TURN.full_acquiring();
        // Relaxed: the barrier does it.
        self.memory.words().wants.load(Relaxed) & (want::ROOM | want::PERSISTED | want::DURABLE)
    }

    /// The event up to which the producer wants everything durable now; 0 if none.
    #[must_use]
    pub fn sync_wanted(&self) -> u64 {
        // Relaxed: a wish. The bell, rung next, brings another look.
        self.memory.words().sync.load(Relaxed)
    }

    /// Tells how far events are persisted, or durable, and how many of them could not be stored.
    pub fn tell(&self, persisted: u64, durable: u64, lost: u64, refused: u64) {
        let words = self.memory.words();
        // Relaxed: what is lost comes first, and x86-64 keeps stores in order; a producer that waits comes through
        // `turn`.
        words.lost.store(lost, Relaxed);
        words.refused.store(refused, Relaxed);
        words.durable.store(durable, Relaxed);
        words.persisted.store(persisted, Relaxed);
    }

    /// What [`RingConsumer::tell`] said last: persisted, durable, lost, refused. An earlier daemon may have said it.
    /// The producer may have changed it, which misleads only the producer.
    #[must_use]
    pub fn last_told(&self) -> [u64; 4] {
        let words = self.memory.words();
        // Relaxed: this side wrote them, or a process that is dead.
        [&words.persisted, &words.durable, &words.lost, &words.refused].map(|word| word.load(Relaxed))
    }

    /// Says how large a payload may be.
    pub fn tell_max_event(&self, bytes: u64) {
        // Relaxed: a limit hands nothing over.
        self.memory.words().max_event_bytes.store(bytes, Relaxed);
    }

    /// Wakes the producer that sleeps on the turn. To be called when something has been done that
    /// [`RingConsumer::wants`] says is wanted.
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
