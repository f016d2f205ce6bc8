//! Publishes a writer's bytes: take a chunk, claim its rest, copy, publish.
//!
//! Input: bytes. Output: bytes in the front half. Thread: one for each [`Writer`]. Failure: there is no room (the
//! writer parks, or gets [`Refused::Full`]), the reader is gone, or it swapped while a claim was open ([`Sealed`]).
//!
//! A claim is the whole rest of the writer's chunk, so that one claim can carry everything that one read of a socket
//! brought. What a publish leaves of the chunk stays with the writer. If the rest is too small, the writer takes a new
//! chunk and leaves the rest unused. That costs memory in this half, and no bytes in the file.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::time::Instant;

use super::chunk::{BUSY, Word};
use super::edges::{PUBLISH, RECYCLE, SEAL, SWAP};
use super::error::{Refused, Sealed};
use super::gate::{Gate, WAIT};
use super::half::Window;
use super::shared::Shared;
use dbuf_sync::Arc;
use dbuf_sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One writer. It may move between threads, but belongs to one thread at a time. Dropping it frees its index.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    index: u8,
    held: Held,
}

/// The chunk, or group of chunks, that a writer took last.
#[derive(Debug)]
struct Held {
    /// The generation in which it was taken.
    generation: u64,
    /// The index of the first chunk's word.
    word_index: usize,
    /// The first chunk's word as the writer left it: without the current claim, if there is one.
    left: Word,
    /// All of its bytes; empty if the writer holds nothing.
    window: Window,
    /// The take found the reader asleep, and nothing was published since. So the next publish must wake it.
    must_ring: bool,
}

/// Whether a claim may park.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    Park,
    Refuse,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, index: u8) -> Self {
        let (left, window) = (Word::recycled(0), Window::default());
        Self { shared, index, held: Held { generation: 0, word_index: 0, left, window, must_ring: false } }
    }

    /// This writer's index, as [`Run::writer`](super::Run::writer) gives it.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Claims room for at least `need` bytes. Parks while the front half is full.
    ///
    /// # Errors
    /// [`Refused::Closed`] if the reader is gone, [`Refused::TooLarge`] if `need` is above
    /// [`DoubleBuffer::largest_claim`](super::DoubleBuffer::largest_claim).
    #[inline]
    pub fn claim(&mut self, need: usize) -> Result<Claim<'_>, Refused> {
        self.claim_with(need, WhenFull::Park)
    }

    /// Claims room for at least `need` bytes, or returns [`Refused::Full`] at once.
    ///
    /// # Errors
    /// [`Refused`].
    #[inline]
    pub fn try_claim(&mut self, need: usize) -> Result<Claim<'_>, Refused> {
        self.claim_with(need, WhenFull::Refuse)
    }

    /// Claims, copies and publishes `bytes`, and repeats that if the reader swaps meanwhile. Parks while the front half
    /// is full.
    ///
    /// # Errors
    /// As [`Writer::claim`].
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.append_with(bytes, WhenFull::Park)
    }

    /// Claims, copies and publishes `bytes`, or publishes nothing if there is no room.
    ///
    /// # Errors
    /// [`Refused`].
    #[inline]
    pub fn try_append(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.append_with(bytes, WhenFull::Refuse)
    }

    #[inline]
    fn append_with(&mut self, bytes: &[u8], when_full: WhenFull) -> Result<(), Refused> {
        loop {
            let mut claim = self.claim_with(bytes.len(), when_full)?;
            claim.put(bytes);
            if claim.publish().is_ok() {
                return Ok(());
            }
        }
    }

    #[inline]
    fn claim_with(&mut self, need: usize, when_full: WhenFull) -> Result<Claim<'_>, Refused> {
        if !self.claim_held(need) {
            self.claim_elsewhere(need, when_full)?;
        }
        let filled = self.held.left.bytes();
        Ok(Claim { writer: self, filled, stays: PhantomData })
    }

    #[cold]
    fn claim_elsewhere(&mut self, need: usize, when_full: WhenFull) -> Result<(), Refused> {
        loop {
            self.take(need, when_full)?;
            if self.claim_held(need) {
                return Ok(());
            }
        }
    }

    /// Sets BUSY in what the writer holds. False if that has no room for `need`, or if the reader has sealed it.
    #[inline]
    fn claim_held(&mut self, need: usize) -> bool {
        let Held { left, window, .. } = &self.held;
        if need > window.len() - left.bytes() || window.is_empty() {
            return false;
        }
        let (left, busy) = (left.0, left.claimed(self.index).0);
        // Relaxed: a claim publishes nothing. The take has acquired the chunk (edge `swap`), and since then only this
        // writer wrote to it. edge `seal`, acquiring, if it fails: the gate's new generation is visible from here on.
        let is_claimed = self.word().compare_exchange(left, busy, Relaxed, SEAL.acquire()).is_ok();
        if !is_claimed {
            self.lose();
        }
        is_claimed
    }

    /// Takes as many chunks as `need` bytes need. If there is no room, the writer keeps what it held.
    fn take(&mut self, need: usize, when_full: WhenFull) -> Result<(), Refused> {
        let Self { shared, held, .. } = self;
        if need > shared.claim_bytes_max {
            return Err(Refused::TooLarge);
        }
        let wanted = need.div_ceil(shared.chunk_bytes).max(1);
        loop {
            // Relaxed: this look only keeps failed takes from adding up in the count. It decides nothing: the addition
            // below does, and so does setting WAIT.
            let seen = Gate(shared.memory.gate().load(Relaxed));
            if seen.is_closed() {
                return Err(Refused::Closed);
            }
            if !seen.has_room(wanted, shared.chunks) {
                shared.wait_for_room(seen, when_full)?;
                continue;
            }
            // edge `swap`, acquiring: the chunk's word is recycled, and all earlier use of its bytes is over. Relaxed
            // would let this writer's copy run into the reader's use of the same bytes two generations ago.
            let got = Gate(shared.memory.gate().fetch_add(wanted as u64, SWAP.acquire()));
            if got.is_closed() {
                return Err(Refused::Closed);
            }
            if got.is_lingering() && got.count() < shared.half_full && got.count() + wanted >= shared.half_full {
                shared.wake_reader();
            }
            if got.has_room(wanted, shared.chunks) {
                let generation = shared.generation_of(got);
                *held = Held {
                    generation,
                    word_index: shared.memory.word_index(got.half(), got.count()),
                    left: Word::recycled(generation),
                    window: shared.memory.window(got.half(), got.count(), wanted * shared.chunk_bytes),
                    must_ring: got.is_sleeping(),
                };
                return Ok(());
            }
        }
    }

    /// The word of what the writer holds.
    #[inline]
    fn word(&self) -> &AtomicU64 {
        self.shared.memory.word(self.held.word_index)
    }

    /// Ends a claim that does not count, which clears BUSY.
    #[cold]
    fn let_go(&mut self) {
        // edge `recycle`, releasing: the next owner of these bytes comes after this copy. Relaxed would let the copy
        // run into the next owner's. edge `seal`, acquiring: as in `claim_held`.
        let prior = Word(self.word().fetch_and(!BUSY, SEAL.acquire_and_release(RECYCLE)));
        // The word names the owner now, even after a first claim.
        self.held.left = Word(self.held.left.claimed(self.index).0 & !BUSY);
        if prior.is_awaited() {
            self.shared.wake_reader();
        }
        if prior.is_sealed() {
            self.lose();
        }
    }

    /// Drops what the writer held, because the reader has sealed it.
    #[cold]
    fn lose(&mut self) {
        // Relaxed: edge `seal` was acquired with the value that showed the seal. This checks that it was.
        debug_assert!(
            {
                let gate = Gate(self.shared.memory.gate().load(Relaxed));
                gate.generation(self.held.generation) > self.held.generation || gate.is_closed()
            },
            "the next take must find a higher generation"
        );
        self.held.window = Window::default();
        self.held.left = Word::recycled(0);
        self.held.must_ring = false;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.give_back(self.index);
    }
}

impl Shared {
    /// Sets WAIT where the gate was `prior`, without room, and parks the writer until the reader has swapped. The
    /// caller then looks again.
    #[cold]
    fn wait_for_room(&self, prior: Gate, when_full: WhenFull) -> Result<(), Refused> {
        // WAIT is set only where there is no room. A WAIT without a writer that waits would tell the next writer that
        // the reader has been woken already.
        //
        // Relaxed: either this exchange or the reader's comes first in the gate's order. If this does, the reader's
        // returns WAIT and the reader wakes the writer. If the reader's does, this one fails. Nothing else is
        // published.
        if self.memory.gate().compare_exchange(prior.0, prior.0 | WAIT, Relaxed, Relaxed).is_err() {
            return Ok(());
        }
        if !prior.is_waited_for() && (prior.is_sleeping() || prior.is_lingering()) {
            self.wake_reader();
        }
        if when_full == WhenFull::Refuse {
            return Err(Refused::Full);
        }
        // Relaxed: the value only says whether the swap that this writer waits for is over. It may even be the value
        // before (the reader stores it after its exchange): then the wake that counts comes with the next change.
        let turn = self.memory.turn().load(Relaxed);
        if (turn.wrapping_sub(prior.generation_low() as u32) as i32) <= 0 {
            let since = Instant::now();
            self.memory.turn().wait(turn, None);
            // Relaxed: plain counters, for display.
            self.full_waits.fetch_add(1, Relaxed);
            self.full_wait_us.fetch_add(since.elapsed().as_micros() as u64, Relaxed);
        }
        Ok(())
    }
}

/// The exclusive right to write into the rest of a writer's chunk. If it is dropped without [`Claim::publish`], it
/// leaves no trace.
///
/// While a claim lives, the reader cannot use this half again. So write and publish without waiting for anything, and
/// never leak a claim: the reader would wait for it forever.
// Two words, which stay in registers. Rejected: a structure with all of the claim's state. It was copied at each
// publish, in wider loads than the stores just before, which cost 7 of 21 ns.
#[derive(Debug)]
pub struct Claim<'a> {
    writer: &'a mut Writer,
    /// Bytes of the window that are published or put.
    filled: usize,
    /// A raw pointer keeps the claim on its thread: between claim and publish the reader may wait for that thread.
    stays: PhantomData<*mut ()>,
}

impl Claim<'_> {
    /// The generation of the bytes in this claim. After [`Sealed`], the generation of the next claim is higher.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.writer.held.generation
    }

    /// Bytes that still fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.writer.held.window.len() - self.filled
    }

    /// Bytes that were put.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled - self.writer.held.left.bytes()
    }

    /// Whether nothing was put yet.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `bytes` after what was put before.
    ///
    /// # Panics
    /// If there are more of them than [`Claim::room`].
    #[inline(always)]
    pub fn put(&mut self, bytes: &[u8]) {
        self.writer.shared.memory.put(&self.writer.held.window, self.filled, bytes);
        self.filled += bytes.len();
    }

    /// Returns the next `len` bytes for the caller to write. They count as put. Their previous content has no meaning.
    ///
    /// # Panics
    /// If `len` is more than [`Claim::room`].
    #[inline(always)]
    pub fn open(&mut self, len: usize) -> &mut [u8] {
        let filled = self.filled;
        self.filled += len;
        self.writer.shared.memory.open(&self.writer.held.window, filled, len)
    }

    /// The position of the bytes that were put, for a note that outlives this process; see [`PublishPosition`].
    #[inline]
    #[must_use]
    pub fn publish_position(&self) -> PublishPosition {
        let Held { generation, word_index, left, .. } = &self.writer.held;
        PublishPosition { generation: *generation, word_index: *word_index, before_bytes: left.bytes() }
    }

    /// Makes everything that was put part of the front half, in one step. An empty claim is simply ended.
    ///
    /// # Errors
    /// [`Sealed`] if the reader has swapped since the claim. Then nothing of it counts.
    #[inline]
    pub fn publish(self) -> Result<(), Sealed> {
        self.publish_or(|| ())
    }

    /// As [`Claim::publish`]. If it fails, calls `sealed` before the reader can use the chunk again.
    ///
    /// # Errors
    /// As [`Claim::publish`].
    #[inline]
    pub fn publish_or(self, sealed: impl FnOnce()) -> Result<(), Sealed> {
        let len = self.len();
        if len == 0 {
            return Ok(());
        }
        // From here on the claim ends with the publish.
        let writer = &mut *ManuallyDrop::new(self).writer;
        let busy = writer.held.left.claimed(writer.index);
        let published = busy.published(len);
        // edge `publish`, releasing: the reader that seals the chunk and counts these bytes sees them. Relaxed would
        // let it read what was there before. edge `seal`, acquiring, if it fails: as in `Writer::claim_held`.
        if writer.word().compare_exchange(busy.0, published.0, PUBLISH.release(), SEAL.acquire()).is_err() {
            sealed();
            writer.let_go();
            return Err(Sealed);
        }
        writer.held.left = published;
        if writer.held.must_ring {
            writer.held.must_ring = false;
            writer.shared.wake_reader();
        }
        Ok(())
    }
}

/// The position of a claim in the memory of the buffer. It is noted before the publish, in memory that outlives the
/// process. It lets the next process find out whether the process died before the publish or after it
/// (`DoubleBuffer::was_published`). If the publish fails, the note must be withdrawn before the chunk is released: in
/// [`Claim::publish_or`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishPosition {
    pub(super) generation: u64,
    pub(super) word_index: usize,
    /// Bytes of the chunk that count without the claim.
    pub(super) before_bytes: usize,
}

impl PublishPosition {
    /// The generation of the claim.
    #[inline]
    #[must_use]
    pub fn generation(self) -> u64 {
        self.generation
    }

    /// As two numbers, the first of which is never 0.
    #[inline]
    #[must_use]
    pub fn to_words(self) -> [u64; 2] {
        [self.generation, (self.word_index as u64) << 32 | self.before_bytes as u64]
    }

    /// From these numbers; None if the first is 0.
    #[must_use]
    pub fn from_words([generation, place]: [u64; 2]) -> Option<Self> {
        let (word_index, before_bytes) = ((place >> 32) as usize, place as u32 as usize);
        (generation != 0).then_some(Self { generation, word_index, before_bytes })
    }
}

impl Drop for Claim<'_> {
    #[inline]
    fn drop(&mut self) {
        self.writer.let_go();
    }
}
