//! Lets a producer wait for the daemon: what it wants to be told, what it has been told, and its sleep.
//!
//! Input: wishes. Output: numbers, and a wake-up. The producer's thread. Failures: none; the caller has a timeout.

use super::layout::want;
use super::producer::RingProducer;
use super::record::record_bytes;
use super::{TOLD, TURN};

use dbuf_sync::atomic::Ordering::Relaxed;

impl RingProducer {
    /// The event up to which the daemon calls everything persisted, or names it among [`RingProducer::failures`]: to be
    /// read after this.
    ///
    /// ```
    /// # let (producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// consumer.tell(3, 1, 0, 0);
    /// assert_eq!((producer.persisted(), producer.durable()), (3, 1));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn persisted(&self) -> u64 {
        // edge `told`, acquiring: what was lost of those events is there.
        self.memory.words().persisted.load(TOLD.acquire())
    }

    /// The same, for durable.
    ///
    /// ```
    /// # let (producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// consumer.tell(3, 1, 0, 0);
    /// assert_eq!(producer.durable(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn durable(&self) -> u64 {
        // edge `told`, acquiring: as above.
        self.memory.words().durable.load(TOLD.acquire())
    }

    /// Events that the daemon has refused, and events that it took and lost.
    ///
    /// ```
    /// # let (producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// consumer.tell(3, 3, 2, 1);
    /// assert_eq!((producer.durable(), producer.failures()), (3, (1, 2)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn failures(&self) -> (u64, u64) {
        let words = self.memory.words();
        // Relaxed: edge `told` has brought those that matter.
        (words.refused.load(Relaxed), words.lost.load(Relaxed))
    }

    /// Asks for wake-ups, as bits of [`want`], and returns the value of the turn to sleep on. After this call the
    /// caller looks again at what it waits for; if that has not come, it rings the doorbell and sleeps.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::ring::want;
    ///
    /// let turn = producer.want(want::ROOM);
    /// if !producer.has_room(100) {
    ///     producer.sleep(turn, std::time::Duration::from_millis(100));
    /// }
    /// producer.want_no_more(want::ROOM);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn want(&self, wants: u32) -> u32 {
        let words = self.memory.words();
        // Relaxed: the barrier does it. Only this side writes it.
        words.wants.store(words.wants.load(Relaxed) | wants, Relaxed);
        // edge `turn`, releasing: the wish is there before the caller looks. Either the daemon sees it after what it
        // did, or the caller sees what that was.
        TURN.full_releasing();
        // edge `turn`, acquiring, as well: a caller that sees this turn sees what it was changed for. Relaxed would let
        // the caller see the new turn, miss what has come, and sleep on.
        words.turn.load(TURN.acquire())
    }

    /// Takes wishes back.
    ///
    /// ```
    /// # let (producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::ring::want;
    ///
    /// producer.want(want::ROOM | want::DURABLE);
    /// producer.want_no_more(want::ROOM);
    /// assert_eq!(consumer.wants(), want::DURABLE);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn want_no_more(&self, wants: u32) {
        let words = self.memory.words();
        // Relaxed: being woken once more does no harm.
        words.wants.store(words.wants.load(Relaxed) & !wants, Relaxed);
    }

    /// Asks that all events so far become durable now. After it the caller asks for [`want::DURABLE`] and rings the
    /// doorbell.
    ///
    /// ```
    /// # let (mut producer, consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// use dbuf_wire::frames::Event;
    /// use dbuf_wire::ring::record::Stamp;
    ///
    /// let _ = producer.push(&Event { pri: 6, payload: b"x", ..Event::default() }, Stamp::None).unwrap();
    /// producer.ask_sync();
    /// assert_eq!(consumer.sync_wanted(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn ask_sync(&self) {
        // Relaxed: the barrier of the wish that follows orders it.
        self.memory.words().sync.store(self.events(), Relaxed);
    }

    /// Whether an event with `length` bytes after its head would find room now.
    ///
    /// ```
    /// # let (mut producer, _consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// assert!(producer.has_room(1000));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn has_room(&mut self, length: usize) -> bool {
        let bytes = record_bytes(length) as u64;
        let to_end = self.memory.capacity() - self.memory.offset(self.head) as u64;
        let pad = if bytes > to_end { to_end } else { 0 };
        self.tail = self.seen_tail();
        self.head + pad + bytes - self.tail <= self.memory.capacity()
    }

    /// Sleeps until the daemon changes the turn, or for `timeout`. It may also return earlier.
    ///
    /// ```
    /// # let (producer, mut consumer) = dbuf_wire::ring::pair(64 << 10)?;
    /// let turn = producer.want(dbuf_wire::ring::want::ROOM);
    /// consumer.wake(); // the turn is another one now, so this does not sleep
    /// producer.sleep(turn, std::time::Duration::from_secs(60));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(not(dbuf_loom))]
    pub fn sleep(&self, turn: u32, timeout: std::time::Duration) {
        use rustix::thread::futex;
        let timeout = futex::Timespec::try_from(timeout).ok();
        // Whatever it says (changed, interrupted, timed out), the caller looks again. The word is in memory that two
        // processes share, so the flag of private ones is not set.
        let _ = futex::wait(&self.memory.words().turn, futex::Flags::empty(), turn, timeout.as_ref());
    }
}

const _: () = assert!(want::ROOM | want::PERSISTED | want::DURABLE == 7, "three bits");
