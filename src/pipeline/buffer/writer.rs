//! A writer's side: take a chunk, claim its rest, copy, publish.
//!
//! Enters: bytes. Leaves: bytes in the front half. One thread a [`Writer`]. What can fail: there is no room (park, or
//! [`Refused::Full`]), the reader is gone, or it swapped while a claim was open ([`Sealed`]).
//!
//! A claim is the whole rest of the writer's chunk, so that one claim can carry all that one read of a socket brought.
//! What a publish leaves free of the chunk stays with the writer. Where the rest is too small, the writer takes a new
//! chunk and leaves that rest unused, which costs memory in this half and nothing in the file.

use std::time::Instant;

use super::chunk::{BUSY, Word};
use super::gate::{Gate, WAIT, half_of};
use super::half::Window;
use super::{Arc, PUBLISH, RECYCLE, SEAL, SWAP, Shared};
use crate::pipeline::record::Sink;
use crate::sync::atomic::Ordering::Relaxed;

/// Why there is no claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The front half has no room, and the caller does not want to wait.
    #[error("the front half is full: the reader has not swapped yet")]
    Full,
    /// The reader is gone, so nothing that is written would ever be read.
    #[error("the reader of this buffer is gone")]
    Closed,
    /// More than [`DoubleBuffer::largest_claim`](super::DoubleBuffer::largest_claim), so it would never fit.
    #[error("more bytes than the largest claim of this buffer")]
    TooLarge,
}

/// The reader swapped while the claim was open: nothing of the claim counts, and all of it is to be laid down again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reader swapped while the claim was open; lay it down again in a new claim")]
pub struct Sealed;

/// One writer. It may move between threads, but is one thread's at a time. Its index is given back when it ends.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    index: u8,
    held: Held,
}

/// The chunk, or span of chunks, that a writer took last.
#[derive(Debug)]
struct Held {
    /// The generation that it was taken in.
    generation: u64,
    /// The first chunk.
    chunk: usize,
    /// Bytes in all; 0 if nothing is held.
    capacity: usize,
    /// The first chunk's word as the writer left it. `left.bytes()` is at most `capacity`.
    left: Word,
    /// The take found the reader asleep, and nothing was published since: the next publish wakes it.
    must_ring: bool,
}

/// Whether a claim may park.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    Park,
    Refuse,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, index: u8) -> Self {
        let held = Held { generation: 0, chunk: 0, capacity: 0, left: Word::recycled(0), must_ring: false };
        Self { shared, index, held }
    }

    /// This writer's index, as [`Run::writer`](super::Run::writer) will say it.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Room for at least `need` bytes. Parks while the front half is full.
    ///
    /// # Errors
    /// [`Refused::Closed`], [`Refused::TooLarge`].
    #[inline]
    pub fn claim(&mut self, need: usize) -> Result<Claim<'_>, Refused> {
        self.claim_with(need, Patience::Park)
    }

    /// Room for at least `need` bytes, or [`Refused::Full`] at once.
    ///
    /// # Errors
    /// [`Refused`].
    #[inline]
    pub fn try_claim(&mut self, need: usize) -> Result<Claim<'_>, Refused> {
        self.claim_with(need, Patience::Refuse)
    }

    /// Claims, copies and publishes `bytes`, again if the reader swaps meanwhile. Parks while the front half is full.
    ///
    /// # Errors
    /// [`Refused::Closed`], [`Refused::TooLarge`].
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.append_with(bytes, Patience::Park)
    }

    /// Claims, copies and publishes `bytes`, or nothing if there is no room.
    ///
    /// # Errors
    /// [`Refused`].
    #[inline]
    pub fn try_append(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.append_with(bytes, Patience::Refuse)
    }

    #[inline]
    fn append_with(&mut self, bytes: &[u8], patience: Patience) -> Result<(), Refused> {
        loop {
            let mut claim = self.claim_with(bytes.len(), patience)?;
            claim.put(bytes);
            if claim.publish().is_ok() {
                return Ok(());
            }
        }
    }

    #[inline]
    fn claim_with(&mut self, need: usize, patience: Patience) -> Result<Claim<'_>, Refused> {
        let busy = match self.held.claim(&self.shared, self.index, need) {
            Some(busy) => busy,
            None => self.claim_elsewhere(need, patience)?,
        };
        let Held { generation, chunk, capacity, left, .. } = self.held;
        let room = capacity - left.bytes();
        let window = self.shared.memory.window(half_of(generation), chunk, left.bytes(), room);
        Ok(Claim { shared: &self.shared, held: &mut self.held, busy, window, is_open: true })
    }

    #[cold]
    fn claim_elsewhere(&mut self, need: usize, patience: Patience) -> Result<Word, Refused> {
        loop {
            self.held.take(&self.shared, need, patience)?;
            if let Some(busy) = self.held.claim(&self.shared, self.index, need) {
                return Ok(busy);
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.give_back(self.index);
    }
}

impl Held {
    /// Sets BUSY in what is held. None if it has no room for `need`, or if the reader has sealed it.
    #[inline]
    fn claim(&mut self, shared: &Shared, index: u8, need: usize) -> Option<Word> {
        if self.capacity == 0 || need > self.capacity - self.left.bytes() {
            return None;
        }
        let busy = self.left.claimed(index);
        let word = shared.memory.word(half_of(self.generation), self.chunk);
        // Relaxed: a claim hands nothing over; the take has acquired the chunk (edge `swap`), and since then only this
        // writer wrote to it. edge `seal`, acquiring, where it fails: the gate's new generation is visible from here on.
        match word.compare_exchange(self.left.0, busy.0, Relaxed, SEAL.acquire()) {
            Ok(_) => Some(busy),
            Err(_) => {
                self.lose(shared);
                None
            }
        }
    }

    /// Takes as many chunks as `need` takes. What was held before stays held if there is no room.
    fn take(&mut self, shared: &Shared, need: usize, patience: Patience) -> Result<(), Refused> {
        if need > shared.claim_bytes_max {
            return Err(Refused::TooLarge);
        }
        let wanted = need.div_ceil(shared.chunk_bytes).max(1);
        loop {
            // Relaxed: the look only keeps takes in vain from adding up in the count. It decides nothing: the addition
            // below does, and so does the one to WAIT.
            let seen = Gate(shared.memory.gate().load(Relaxed));
            if seen.is_closed() {
                return Err(Refused::Closed);
            }
            if !seen.has_room(wanted, shared.chunks) {
                shared.wait_for_room(wanted, patience)?;
                continue;
            }
            // edge `swap`, acquiring: the chunk's word is recycled, and all that others did with its bytes is over.
            // Relaxed would let this writer's copy run into the reader's use of the same bytes two generations ago.
            let got = Gate(shared.memory.gate().fetch_add(wanted as u64, SWAP.acquire()));
            if got.is_closed() {
                return Err(Refused::Closed);
            }
            if got.is_lingering() && got.count() < shared.half_full && got.count() + wanted >= shared.half_full {
                shared.ring();
            }
            if got.has_room(wanted, shared.chunks) {
                *self = Self {
                    generation: got.generation(),
                    chunk: got.count(),
                    capacity: wanted * shared.chunk_bytes,
                    left: Word::recycled(got.generation()),
                    must_ring: got.is_sleeping(),
                };
                return Ok(());
            }
        }
    }

    /// The reader has sealed what was held.
    #[cold]
    fn lose(&mut self, shared: &Shared) {
        // Relaxed: edge `seal` was acquired with the value that showed the seal; this checks that it was.
        debug_assert!(
            {
                let gate = Gate(shared.memory.gate().load(Relaxed));
                gate.generation() > self.generation || gate.is_closed()
            },
            "the next take must find a higher generation"
        );
        self.capacity = 0;
        self.must_ring = false;
    }
}

impl Shared {
    /// Says that a writer waits, and parks it until the reader has swapped. Returns for another look.
    #[cold]
    fn wait_for_room(&self, wanted: usize, patience: Patience) -> Result<(), Refused> {
        // Relaxed: of this and the reader's exchange one comes first in the gate's order. If this, the exchange returns
        // WAIT and the reader wakes; if the exchange, the value returned has room. Nothing else is handed over.
        let prior = Gate(self.memory.gate().fetch_or(WAIT, Relaxed));
        if prior.is_closed() || prior.has_room(wanted, self.chunks) {
            return Ok(());
        }
        if !prior.is_waited_for() && (prior.is_sleeping() || prior.is_lingering()) {
            self.ring();
        }
        if patience == Patience::Refuse {
            return Err(Refused::Full);
        }
        // Relaxed: the value only says whether the swap that this writer waits for is over. It may even be the one
        // before (the reader stores it after its exchange): the wake that counts comes with the next change.
        let turn = self.memory.turn().load(Relaxed);
        if (turn.wrapping_sub(prior.generation() as u32) as i32) <= 0 {
            let since = Instant::now();
            self.memory.turn().wait(turn, None);
            // Relaxed: plain counters, read by people.
            self.full_waits.fetch_add(1, Relaxed);
            self.full_wait_us.fetch_add(since.elapsed().as_micros() as u64, Relaxed);
        }
        Ok(())
    }
}

/// The exclusive right to write into the rest of a writer's chunk. Ended without [`Claim::publish`], it leaves no trace.
///
/// A claim that lives on keeps the reader from using this half again, so write and publish without waiting for anything;
/// and a claim must not be leaked, for the reader would wait for it for ever.
#[derive(Debug)]
pub struct Claim<'a> {
    shared: &'a Shared,
    held: &'a mut Held,
    busy: Word,
    window: Window<'a>,
    is_open: bool,
}

impl Claim<'_> {
    /// The generation that the bytes will be part of. After [`Sealed`], the next claim's is higher.
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.held.generation
    }

    /// How many bytes still fit.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.window.room()
    }

    /// How many bytes were put.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.window.filled()
    }

    /// Whether nothing was put yet.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `bytes` behind what was put before.
    ///
    /// # Panics
    /// When they are more than [`Claim::room`].
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.window.put(bytes);
    }

    /// Makes all that was put part of the front half, in one step.
    ///
    /// # Errors
    /// [`Sealed`] if the reader has swapped since the claim: then nothing of it counts.
    #[inline]
    pub fn publish(mut self) -> Result<(), Sealed> {
        if self.is_empty() {
            // Ends as if it were let go: a claim of nothing wakes nobody.
            return Ok(());
        }
        let published = self.busy.published(self.len());
        // edge `publish`, releasing: the reader that seals the chunk and counts these bytes sees them. Relaxed would
        // let it read what was there before. edge `seal`, acquiring, where it fails: as in `Held::claim`.
        if self.word().compare_exchange(self.busy.0, published.0, PUBLISH.release(), SEAL.acquire()).is_err() {
            // Ends as every claim that is not published; `drop` finds the seal.
            return Err(Sealed);
        }
        self.is_open = false;
        self.held.left = published;
        if self.held.must_ring {
            self.held.must_ring = false;
            self.shared.ring();
        }
        Ok(())
    }

    #[inline]
    fn word(&self) -> &crate::sync::atomic::AtomicU64 {
        self.shared.memory.word(half_of(self.held.generation), self.held.chunk)
    }

    #[cold]
    fn let_go(&mut self) {
        // edge `recycle`, releasing: the next owner of these bytes comes after this copy. Relaxed would let the copy
        // run into the next owner's. edge `seal`, acquiring: as in `Held::claim`.
        let prior = Word(self.word().fetch_and(!BUSY, SEAL.acquire_and_release(RECYCLE)));
        self.held.left = Word(self.busy.0 & !BUSY);
        if prior.is_awaited() {
            self.shared.ring();
        }
        if prior.is_sealed() {
            self.held.lose(self.shared);
        }
    }
}

impl Drop for Claim<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_open {
            self.let_go();
        }
    }
}

impl Sink for Claim<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.window.put(bytes);
    }
}
