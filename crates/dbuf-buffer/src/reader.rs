//! Swaps the halves: waits for a reason, makes the other half the front, and hands out what was published.
//!
//! Input: the front half as the writers left it. Output: a [`Batch`] of [`Run`]s. Thread: one; the [`Reader`] is not
//! `Clone`, and a batch borrows it. Nothing here can fail. Only [`Reader::swap`] can wait for a writer: for one that
//! sleeps in the middle of a copy into the half that is about to be used again.

use std::time::{Duration, Instant};

use super::chunk::{AWAITED, SEALED, Word};
use super::edges::{PUBLISH, RECYCLE, SEAL, SWAP};
use super::gate::{CLOSED, Gate, LINGER, SLEEP, half_of};
use super::shared::Shared;
use dbuf_sync::Arc;
use dbuf_sync::atomic::Ordering::Relaxed;

/// Why [`Reader::wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Something was published, and `linger` has passed since.
    Published,
    /// The front half is half full, or a writer waits for room.
    HalfFull,
    /// A [`Waker`](super::Waker) has woken the reader.
    Woken,
    /// The deadline has passed.
    Deadline,
}

/// The one reader of a double buffer. After it is dropped, claims are refused as closed.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    generation: u64,
    /// SLEEP, LINGER or 0: the reader's flag that is set in the gate. Only the reader changes these flags.
    rest: u64,
    /// Since when the reader lingers over something in the front half.
    lingers_since: Option<Instant>,
    /// What the last seal counted. Kept, so that a swap allocates nothing.
    pieces: Vec<Piece>,
    left: Left,
}

/// What the previous process left and [`Reader::inherited`] has not given out yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing, or nothing more.
    Nothing,
    /// The half that was in front. Writers wait until it is swapped.
    Front,
    /// The other half as well: it was being persisted.
    #[cfg_attr(dbuf_loom, allow(dead_code, reason = "a model has no previous process"))]
    Both,
}

/// The part of one chunk or group that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    writer: u8,
    chunk: usize,
    bytes: usize,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, generation: u64, left: Left) -> Self {
        let pieces = Vec::with_capacity(shared.chunks);
        Self { shared, generation, rest: 0, lingers_since: None, pieces, left }
    }

    /// Whether no writer has taken a chunk of the front half, so that a swap would bring nothing.
    #[must_use]
    pub fn front_is_empty(&self) -> bool {
        // Relaxed: a look. A thread that has joined the writers sees their takes.
        Gate(self.shared.memory.gate().load(Relaxed)).count() == 0
    }

    /// What the previous process left, one batch at a time, oldest first; None when there is no more. Must be called
    /// until it returns None, before the first swap. The first batch may be in a file already: the previous process may
    /// have died just after the write.
    pub fn inherited(&mut self) -> Option<Batch<'_>> {
        match std::mem::replace(&mut self.left, Left::Nothing) {
            Left::Nothing => None,
            Left::Front => Some(self.swap()),
            Left::Both => {
                self.left = Left::Front;
                let before = self.generation - 1;
                self.pieces.clear();
                for (chunk, word) in self.shared.memory.words(half_of(before)).iter().enumerate() {
                    // Relaxed: the process that wrote it is dead. What counts of it is final (invariant 5).
                    let word = Word(word.0.load(Relaxed));
                    if let (true, Some(writer), bytes @ 1..) = (word.is_of(before), word.owner(), word.bytes()) {
                        self.pieces.push(Piece { writer, chunk, bytes });
                    }
                }
                self.pieces.sort_unstable();
                Some(Batch { shared: &self.shared, generation: before, pieces: &self.pieces })
            }
        }
    }

    /// Bytes of each half.
    #[must_use]
    pub fn half_bytes(&self) -> usize {
        self.shared.chunks * self.shared.chunk_bytes
    }

    /// The generation that is in front.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Notes that every generation up to this one is done: in a file, or counted as lost. The next process then ignores
    /// it.
    pub fn done_with(&self, generation: u64) {
        // Relaxed: the next process reads it when this process is dead. The write to the file was a system call, which
        // this store cannot pass.
        self.shared.memory.persisted().store(generation + 1, Relaxed);
    }

    /// Parks until there is a reason to look: something was published and `linger` has passed since the reader noticed
    /// it; or the front half is half full; or a waker wakes it; or the deadline has passed.
    ///
    /// The reader notices takes, not publishes. A writer may have taken a chunk and not published yet, so that the
    /// batch is empty.
    pub fn wait(&mut self, linger: Duration, deadline: Option<Instant>) -> Reason {
        loop {
            let heard = self.shared.listen();
            if heard.is_woken() {
                self.shared.take_wake();
                return Reason::Woken;
            }
            let gate = self.look_and_rest(linger);
            if gate.is_waited_for() || gate.count() >= self.shared.half_full {
                return Reason::HalfFull;
            }
            let lingers_until = match self.lingers_since {
                Some(since) => since.checked_add(linger),
                None => None,
            };
            if self.lingers_since.is_some() && (linger.is_zero() || is_past(lingers_until)) {
                return Reason::Published;
            }
            if is_past(deadline) {
                return Reason::Deadline;
            }
            let until = match (lingers_until, deadline) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
            self.shared.memory.bell().wait(heard.0, timeout);
        }
    }

    /// Looks at the gate, and in the same step sets how the reader rests: asleep if nothing is taken, lingering if
    /// something is. Notes since when.
    fn look_and_rest(&mut self, linger: Duration) -> Gate {
        // Relaxed: the value may be old only in that it shows an empty half, and then the step below corrects it.
        let mut gate = Gate(self.shared.memory.gate().load(Relaxed));
        if gate.count() == 0 {
            gate = self.rest(SLEEP);
        }
        if gate.count() > 0 {
            self.lingers_since.get_or_insert_with(Instant::now);
            if !linger.is_zero() && gate.count() < self.shared.half_full {
                gate = self.rest(LINGER);
            }
        }
        gate
    }

    fn rest(&mut self, how: u64) -> Gate {
        // Relaxed: either this or a take comes first in the gate's order. If the take does, its count is in the value
        // returned. If this does, the take's value has the flag, and that writer wakes the reader. Nothing else is
        // published.
        let prior = self.shared.memory.gate().fetch_xor(self.rest ^ how, Relaxed);
        self.rest = how;
        Gate(prior)
    }

    /// Makes the other half the front, and returns what was published in this one as a batch. Waits for no writer,
    /// except one that has been copying into the other half since before the previous swap.
    pub fn swap(&mut self) -> Batch<'_> {
        let next = self.generation + 1;
        self.recycle(next);
        // Relaxed: a writer needs no more than a number near to the generation that it finds in the gate.
        self.shared.generation.store(next, Relaxed);
        // edge `swap`, releasing: a take that finds the new generation finds its words recycled and its bytes unused.
        // Relaxed would open the half before the reader has left it.
        let gate = Gate(self.shared.memory.gate().swap(Gate::opening(next).0, SWAP.release()));
        debug_assert_eq!(gate.generation(next), self.generation, "only the reader changes the generation");
        self.open_turn(next, gate);
        self.seal(gate);
        let sealed = std::mem::replace(&mut self.generation, next);
        self.rest = 0;
        self.lingers_since = None;
        Batch { shared: &self.shared, generation: sealed, pieces: &self.pieces }
    }

    /// Prepares the back half to be the front of `generation`.
    pub(super) fn recycle(&self, generation: u64) {
        for word in self.shared.memory.words(half_of(generation)) {
            // Relaxed: only the word itself says whether BUSY is cleared; the exchange below acquires what that means.
            if Word(word.0.load(Relaxed)).is_busy() {
                self.await_writer(&word.0);
            }
            // edge `recycle`, acquiring: a late writer's copy is over before this chunk is handed out again. Relaxed
            // would let it run into the next owner's. The new word is released with the gate (edge `swap`).
            let prior = Word(word.0.swap(Word::recycled(generation).0, RECYCLE.acquire()));
            debug_assert!(!prior.is_busy(), "a sealed chunk cannot be claimed");
        }
    }

    /// Parks until the late writer has cleared BUSY.
    #[cold]
    fn await_writer(&self, word: &dbuf_sync::atomic::AtomicU64) {
        // Relaxed: a plain counter, for display.
        self.shared.late_writers.fetch_add(1, Relaxed);
        loop {
            let heard = self.shared.listen();
            // Relaxed: either this or the writer's clearing of BUSY comes first in the word's order. If this does, the
            // writer finds AWAITED and wakes the reader. If the other does, BUSY is missing from the value returned.
            if !Word(word.fetch_or(AWAITED, Relaxed)).is_busy() {
                return;
            }
            self.shared.memory.bell().wait(heard.0, None);
        }
    }

    /// Wakes the writers that wait for room, after the exchange that has made room.
    fn open_turn(&self, generation: u64, prior: Gate) {
        // Relaxed: the word is only for sleeping. A writer that wakes looks at the gate.
        self.shared.memory.turn().store(generation as u32, Relaxed);
        if prior.is_waited_for() {
            self.shared.memory.turn().wake(u32::MAX >> 1);
        }
    }

    /// Seals every chunk of this generation's half that was handed out, and notes what counts.
    fn seal(&mut self, gate: Gate) {
        self.pieces.clear();
        let handed_out = gate.count().min(self.shared.chunks);
        for (chunk, word) in self.shared.memory.words(half_of(self.generation))[..handed_out].iter().enumerate() {
            // edge `publish`, acquiring: the bytes of the count returned are visible. Relaxed would show older ones.
            // edge `seal`, releasing: a writer that finds the seal finds the new generation in the gate as well.
            let word = Word(word.0.fetch_or(SEALED, PUBLISH.acquire_and_release(SEAL)));
            if let (Some(writer), bytes @ 1..) = (word.owner(), word.bytes()) {
                self.pieces.push(Piece { writer, chunk, bytes });
            }
        }
        // One writer's chunks stay in the order in which it took them, because the gate hands them out in ascending
        // order.
        self.pieces.sort_unstable();
    }
}

fn is_past(time: Option<Instant>) -> bool {
    time.is_some_and(|time| Instant::now() >= time)
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Relaxed: either this or a take comes first in the gate's order. A take that comes later finds CLOSED. The
        // chunk of an earlier take is sealed below, so that no claim in it succeeds any more.
        let gate = Gate(self.shared.memory.gate().fetch_or(CLOSED, Relaxed));
        self.open_turn(self.generation + 1, gate);
        self.seal(gate);
    }
}

/// The content of one swap. The half is not used again before the next swap, which needs the reader that this borrows.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    shared: &'a Shared,
    generation: u64,
    pieces: &'a [Piece],
}

impl<'a> Batch<'a> {
    /// The generation in which this batch was the front half.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether nothing was published.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes that were published.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// One run for each writer that published something, by ascending writer index.
    pub fn runs(&self) -> impl Iterator<Item = Run<'a>> + use<'a> {
        let Self { shared, generation, pieces } = *self;
        pieces.chunk_by(|a, b| a.writer == b.writer).map(move |pieces| Run { shared, generation, pieces })
    }
}

/// What one writer published in a batch, in its order.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    shared: &'a Shared,
    generation: u64,
    pieces: &'a [Piece],
}

impl<'a> Run<'a> {
    /// The writer's index.
    #[must_use]
    pub fn writer(&self) -> u8 {
        self.pieces[0].writer
    }

    /// Bytes of the run.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.bytes).sum()
    }

    /// The bytes, chunk by chunk, in order. What was put in one claim never straddles two slices.
    pub fn chunks(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let Self { shared, generation, pieces } = *self;
        pieces.iter().map(move |piece| shared.memory.sealed(half_of(generation), piece.chunk, piece.bytes))
    }
}
