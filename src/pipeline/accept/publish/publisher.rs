//! Publishes the events of one read to the front half, as many per claim as fit.
//!
//! Input: events as ranges of the bytes that were read, losses, or an [`EventSource`]. Output: published records,
//! counted in the account. Thread: the writer that owns the publisher. Failure: the reader is gone ([`Closed`]); then
//! the writer ends.
//!
//! Every publish takes the same steps, in [`Publisher::publish_claim`] and nowhere else.
//!
//! Reading and publishing are separate, because a publish fails when the reader swaps in the meantime. Then the same
//! events are encoded again, and nothing is parsed, decided or counted twice. Rejected: parsing straight into the
//! claim, and rolling back the parser's state when the claim is sealed. That saves the list, but every parser would
//! have to be able to roll back. A ring keeps its bytes until they are published, so it is encoded straight into the
//! claim: [`Publisher::publish_from`].

use std::ops::Range;

use super::encoder::{ClaimEncoder, ClaimTally, EventSource};
use super::losses::{LOSSES_MAX, Losses, SlotLoss};
use super::observer::{PublishObserver, Published};
use super::pending::{EVENTS_MAX, Extra, PendingEvents};
use super::receive_buffer::ReadProgress;
use super::sources::{Peer, SLOTS_MAX, Sources};
use crate::pipeline::account::{Recorder, Tally};
use crate::pipeline::buffer::{PublishPosition, Refused, Writer};
use crate::pipeline::counters::{Counters, WriterCounters};
use crate::pipeline::pulse::{Activity, Pulse};
use crate::pipeline::record::{Cause, Transport};
use crate::pipeline::shares::throttle::Taken;
use crate::sync::Arc;

const _: () = assert!(EVENTS_MAX + LOSSES_MAX < SLOTS_MAX, "invariant 1 of the sources");

/// The reader is gone: nothing that is published would ever be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// Publishes what one writer thread has read.
#[derive(Debug)]
pub(crate) struct Publisher {
    writer: Writer,
    index: usize,
    sources: Sources,
    pending: Pending,
    tally: ClaimTally,
    recorder: Recorder,
    counters: Arc<Counters>,
    pulse: Arc<Pulse>,
    /// Tells the next process how much of the receive buffer is published. Counts events, pieces, and the events of
    /// loss records. It does not count records, because another version may put the same bytes into other records.
    read_progress: Arc<ReadProgress>,
    count: u64,
    /// How many of the next events the previous process has already published.
    skip: u64,
    time_ns: u64,
    publishes: u64,
    taken: Taken,
}

/// The events and losses that wait to be published.
#[derive(Debug, Default)]
struct Pending {
    events: PendingEvents,
    losses: Losses,
}

/// What was put into a claim.
#[derive(Clone, Copy, Debug)]
struct Filled {
    published: Published,
    /// How much of the read is published with this claim; None if its events do not come from the receive buffer.
    count: Option<u64>,
    /// Number of loss records.
    losses: usize,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug)]
enum Claimed {
    Published(Filled),
    /// Nothing was put into it.
    Empty,
    /// The reader sealed it first. Its content does not count, and the same events go into the next generation.
    Sealed,
}

/// All observers of a publish: the account, the progress of the read, and the session or ring that the events come
/// from.
struct Observers<'a, O> {
    recorder: &'a mut Recorder,
    read: Option<(&'a ReadProgress, u64)>,
    owner: &'a mut O,
}

impl<O: PublishObserver> Observers<'_, O> {
    #[inline]
    fn prepare(&mut self, position: PublishPosition, published: Published) {
        self.recorder.before_publish(position);
        if let Some((progress, count)) = self.read {
            progress.prepare(position, count);
        }
        self.owner.prepare(position, published);
    }

    #[cold]
    fn abort(&mut self) {
        self.recorder.abort();
        if let Some((progress, _)) = self.read {
            progress.abort();
        }
        self.owner.abort();
    }

    #[inline]
    fn commit(&mut self, generation: u64, published: Published) {
        self.recorder.published();
        if let Some((progress, count)) = self.read {
            progress.commit(count);
        }
        self.owner.commit(generation, published);
    }
}

impl Publisher {
    /// Creates the publisher of writer thread `index`, whose counters it uses.
    pub(crate) fn new(writer: Writer, index: usize, counters: Arc<Counters>, pulse: Arc<Pulse>) -> Self {
        let sources = Sources::new(Arc::clone(&counters.account));
        let recorder = counters.account.recorder(index);
        Self {
            writer,
            index,
            sources,
            pending: Pending::default(),
            tally: ClaimTally::default(),
            recorder,
            counters,
            pulse,
            read_progress: Arc::default(),
            count: 0,
            skip: 0,
            time_ns: 0,
            publishes: 0,
            taken: Taken::default(),
        }
    }

    /// Sets the receive buffer that holds all later reads, by its record of what is published.
    pub(crate) fn set_read_progress(&mut self, read_progress: &Arc<ReadProgress>) {
        self.read_progress = Arc::clone(read_progress);
    }

    /// Begins a read, of which the previous process has published `published`; see [`ReadProgress::commit`].
    pub(crate) fn begin_read(&mut self, published: u64) {
        (self.count, self.skip) = (0, published);
    }

    /// This writer's counters.
    pub(crate) fn counters(&self) -> &WriterCounters {
        &self.counters.writers[self.index].0
    }

    /// Sets the acceptance time of everything that is added from here on. Nothing may be pending.
    pub(crate) fn set_time(&mut self, time_ns: u64) {
        debug_assert!(self.pending.events.all().is_empty(), "events that are published together share their time");
        self.time_ns = time_ns;
    }

    /// The acceptance time of what is added now, in nanoseconds since 1970 (UTC).
    pub(crate) fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// Number of publishes.
    pub(crate) fn publishes(&self) -> u64 {
        self.publishes
    }

    /// What was published so far.
    pub(crate) fn taken(&self) -> Taken {
        self.taken
    }

    /// See [`Sources::slot`]. Valid until the next [`Publisher::publish_pending`].
    #[inline]
    pub(crate) fn slot(&mut self, peer: &Peer, transport: Transport, claimed_pid: u32, tag: &[u8]) -> u32 {
        self.sources.slot(peer, transport, claimed_pid, tag)
    }

    /// Whether the pending events must be published before more are added.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.pending.events.is_full() || self.pending.losses.is_full()
    }

    /// Adds an event whose payload is `range` of the later `input` of [`Publisher::publish_pending`].
    #[inline]
    pub(crate) fn add(&mut self, slot: u32, pri: u8, range: Range<usize>) {
        self.pending.events.add(slot, pri, range);
    }

    /// Adds `lines` events that came as lines. `range` covers all of them, each with its newline. None of them is
    /// empty.
    #[inline]
    pub(crate) fn add_lines(&mut self, slot: u32, pri: u8, range: Range<usize>, lines: usize) {
        self.pending.events.add_lines(slot, pri, range, lines);
    }

    /// Adds an event with fields, a sequence or other extras.
    pub(crate) fn add_with(&mut self, slot: u32, pri: u8, range: Range<usize>, extra: Extra, fields: &[u8]) {
        self.pending.events.add_with(slot, pri, range, extra, fields);
    }

    /// Adds an event that was lost before it could be added. It is counted with its loss record.
    pub(crate) fn lose(&mut self, slot: u32, cause: Cause, bytes: u64) {
        self.lose_many(slot, cause, 1, bytes);
    }

    /// Adds `events` lost events of `bytes` bytes in all.
    pub(crate) fn lose_many(&mut self, slot: u32, cause: Cause, events: u64, bytes: u64) {
        self.pending.losses.add(slot, cause, events, bytes, self.time_ns);
    }

    /// Publishes everything that is pending and waits for room if necessary. The payloads are ranges of `input`.
    /// `observer` sees each publish.
    ///
    /// # Errors
    /// [`Closed`]. Events that could not be published are counted as lost, unless the next process finds them.
    pub(crate) fn publish_pending(&mut self, input: &[u8], observer: &mut impl PublishObserver) -> Result<(), Closed> {
        let mut done = self.skip_published(input);
        while let Some(need) = self.need(done) {
            let (count, mut to) = (self.count, done);
            let claimed = self.publish_claim(need, observer, |encoder, pending, _| {
                let events = pending.events.all();
                to = pending.events.encode(done, input, encoder);
                let has_all_events = to == events.len();
                let losses = if has_all_events { pending.losses.encode(encoder) } else { 0 };
                let lost: u64 = pending.losses.all()[..losses].iter().map(|lost| lost.loss.events).sum();
                let count = count + events[done..to].iter().map(|event| event.count()).sum::<u64>() + lost;
                let is_all = has_all_events && losses == pending.losses.all().len();
                let published = Published { sequence: encoder.tally.sequence, is_all };
                Filled { published, count: Some(count), losses }
            });
            match claimed {
                Ok(Claimed::Published(filled)) => {
                    done = to;
                    self.count = filled.count.unwrap_or(count);
                    self.pending.losses.published(filled.losses);
                }
                // Try again with the same events in a higher generation.
                Ok(Claimed::Sealed | Claimed::Empty) => {}
                Err(Refused::TooLarge) if done < self.pending.events.all().len() => {
                    let event = self.pending.events.all()[done];
                    debug_assert!(
                        !event.is_block(),
                        "a block is no longer than an event may be, for which there is room"
                    );
                    self.lose(event.slot, Cause::TooBig, event.payload_bytes());
                    self.count += 1;
                    done += 1;
                }
                Err(_) => {
                    self.abandon(done, observer);
                    return Err(Closed);
                }
            }
        }
        self.pending.events.clear();
        self.sources.end_round();
        Ok(())
    }

    /// Publishes what `source` encodes into one claim of at least `need` bytes, and waits for room if necessary. False
    /// if no claim can be that large. Nothing may be pending in the publisher.
    ///
    /// # Errors
    /// [`Closed`]. The events stay in the source.
    pub(crate) fn publish_from(&mut self, need: usize, source: &mut impl EventSource) -> Result<bool, Closed> {
        let is_empty = self.pending.events.all().is_empty() && self.pending.losses.all().is_empty();
        debug_assert!(is_empty, "nothing is overtaken");
        let published = Published { sequence: None, is_all: true };
        loop {
            let claimed = self.publish_claim(need, source, |encoder, _, source| {
                source.encode(encoder);
                Filled { published, count: None, losses: 0 }
            });
            match claimed {
                // Nothing that was encoded counts, so it names no slot any more. The source encodes anew, and a program
                // may have changed its memory: together, the tries could name more slots than there are.
                Ok(Claimed::Sealed) => self.sources.end_round(),
                Ok(Claimed::Published(_) | Claimed::Empty) => break,
                Err(Refused::TooLarge) => return Ok(false),
                Err(_) => return Err(Closed),
            }
        }
        self.sources.end_round();
        Ok(true)
    }

    /// Takes one claim of at least `need` bytes, has `fill` encode into it, and publishes it.
    #[inline]
    fn publish_claim<O: PublishObserver>(
        &mut self,
        need: usize,
        observer: &mut O,
        fill: impl FnOnce(&mut ClaimEncoder<'_, '_>, &Pending, &mut O) -> Filled,
    ) -> Result<Claimed, Refused> {
        self.pulse.beat(Activity::WaitsForRoom);
        let claim = self.writer.claim(need);
        self.pulse.beat(Activity::Running);
        let mut claim = claim?;
        let generation = claim.generation();
        self.sources.enter(generation);
        self.tally.clear();
        let (sources, tally, time_ns) = (&mut self.sources, &mut self.tally, self.time_ns);
        let filled =
            fill(&mut ClaimEncoder { claim: &mut claim, sources, tally, time_ns }, &self.pending, &mut *observer);
        if claim.is_empty() {
            return Ok(Claimed::Empty);
        }
        let record_bytes = claim.len() as u64;
        let losses = &self.pending.losses.all()[..filled.losses];
        prepare(&mut self.recorder, &self.sources, &self.tally, losses);
        let read = filled.count.map(|count| (&*self.read_progress, count));
        let mut observers = Observers { recorder: &mut self.recorder, read, owner: observer };
        observers.prepare(claim.publish_position(), filled.published);
        if claim.publish_or(|| observers.abort()).is_err() {
            return Ok(Claimed::Sealed);
        }
        observers.commit(generation, filled.published);
        self.publishes += 1;
        self.taken.record_bytes += record_bytes;
        for carried in &self.tally.by_slot {
            self.taken.events += carried.events;
            self.taken.payload_bytes += carried.bytes;
        }
        Ok(Claimed::Published(filled))
    }

    /// Skips what the previous process has published of this read. Returns the first event that it has not.
    fn skip_published(&mut self, input: &[u8]) -> usize {
        let skipped = self.pending.events.skip(self.skip, input);
        let lost = self.pending.losses.skip(self.skip - skipped.count);
        self.skip -= skipped.count + lost;
        self.count += skipped.count + lost;
        skipped.next
    }

    /// Bytes of the first record that is not published, including its source record.
    fn need(&self, done: usize) -> Option<usize> {
        let (slot, bytes) = match self.pending.events.all().get(done) {
            Some(event) => (event.slot, self.pending.events.record_bytes(event)),
            None => self.pending.losses.first()?,
        };
        Some(bytes + self.sources.producer(slot).identity.as_source().record_bytes())
    }

    /// Counts as lost what can never be published. What the next process finds in the receive buffer or in a ring is
    /// not lost.
    fn abandon(&mut self, done: usize, observer: &impl PublishObserver) {
        if !self.read_progress.outlive() && !observer.outlives() {
            let Pending { events, losses } = &self.pending;
            for event in events.all().iter().skip(done).filter(|event| events.takes_sequence(event)) {
                let lost = Tally::lost(Cause::Abandoned, event.count(), event.payload_bytes());
                self.recorder.prepare(self.sources.producer(event.slot), &lost);
            }
            prepare(&mut self.recorder, &self.sources, &ClaimTally::default(), losses.all());
            self.recorder.count_now();
        }
        self.pending.losses.published(self.pending.losses.all().len());
        self.pending.events.clear();
    }
}

/// Prepares the account for the content of a claim.
fn prepare(recorder: &mut Recorder, sources: &Sources, tally: &ClaimTally, losses: &[SlotLoss]) {
    for carried in &tally.by_slot {
        let brought = Tally { events: carried.events, bytes: carried.bytes, ..Tally::default() };
        recorder.prepare(sources.producer(carried.slot), &brought);
    }
    for SlotLoss { slot, loss } in losses {
        recorder.prepare(sources.producer(*slot), &Tally::lost(loss.cause, loss.events, loss.bytes));
    }
}

#[cfg(test)]
mod tests;
