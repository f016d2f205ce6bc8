//! Events that a read brought are laid down in the front half, as many as fit with one claim.
//!
//! Enters: events as ranges of the bytes that were read, and losses. Leaves: published records, and counts. One publisher a
//! writer, on its thread. What can fail: the reader is gone ([`Closed`]), and then the writer ends.
//!
//! Reading and laying down are apart, because a publish can fail when the reader swaps: then the same events are laid
//! down again, and nothing that was read has to be read, decided or counted twice. What waits in between is a few words
//! an event, in a list that stays in the cache; the payload is copied once, from the socket's bytes into the claim.
//! (Rejected: to read straight into the claim and take back, on a seal, what the reading had changed. It saves the
//! list, and makes every parser carry its own way back. A ring, which keeps its bytes until they are published, goes that way:
//! [`Publisher::publish_from`].)

#[cfg(test)]
mod tests;

use std::ops::Range;

use super::losses::{LOSSES_MAX, Losses};
use super::observer::{PublishObserver, Published};
use super::sources::{Peer, SLOTS_MAX, Sources};
use crate::pipeline::accept::writer::receive_buffer::ReadProgress;
use crate::pipeline::account::{Recorder, Tally};
use crate::pipeline::buffer::{Claim, Refused, Writer};
use crate::pipeline::counters::{Counters, WriterCounters};
use crate::pipeline::pulse::{Activity, Pulse};
use crate::pipeline::record::{
    Cause, Event, Loss, Newlines, Piece, Transport, encode_lines, lines_record_bytes, padded,
};
use crate::sync::Arc;

/// Events that wait at a time: what a chunk holds of small ones.
pub(crate) const EVENTS_MAX: usize = 512;
/// Bytes of fields with which the publisher counts as full.
const FIELDS_BYTES_FULL: usize = 256 << 10;

const _: () = assert!(EVENTS_MAX + LOSSES_MAX < SLOTS_MAX, "invariant 1 of the sources");

/// The reader is gone: nothing that is written would ever be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// What an event has beside source, priority and payload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) source_time_ns: Option<u64>,
    pub(crate) producer_sequence: Option<u64>,
    pub(crate) piece: Option<Piece>,
}

/// An event that waits, or a block of lines, as a range of the bytes that were read.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingEvent {
    start: u32,
    bytes: u32,
    slot: u32,
    /// How many lines of a block; 0 if it is an event by itself.
    lines: u32,
    /// Index of its extra, plus one; 0 if it has none.
    extra: u32,
    pri: u8,
}

impl PendingEvent {
    /// What the next process is told of it: events and pieces.
    fn count(&self) -> u64 {
        u64::from(self.lines.max(1))
    }

    /// Bytes of its payloads.
    fn payload_bytes(&self) -> u64 {
        u64::from(self.bytes - self.lines)
    }

    /// Leaves out so many lines of a block at its front; some stay.
    fn skip_lines(&mut self, lines: u64, input: &[u8]) {
        let bytes = &input[self.start as usize..][..self.bytes as usize];
        let skipped = Newlines::new(bytes).nth(lines as usize - 1).map_or(0, |newline| newline as u32 + 1);
        self.start += skipped;
        self.bytes -= skipped;
        self.lines -= lines as u32;
    }
}

/// The events that wait.
#[derive(Debug, Default)]
pub(super) struct Events {
    pub(super) all: Vec<PendingEvent>,
    extras: Vec<(Extra, Range<usize>)>,
    fields: Vec<u8>,
}

/// The events that one claim carries, by source: how many, and their bytes.
#[derive(Debug, Default)]
pub(crate) struct ClaimTally {
    pub(super) by_slot: Vec<(u32, u64, u64)>,
    sequence: Option<u64>,
}

/// Lays down what one writer thread has read.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(super) writer: Writer,
    index: usize,
    pub(super) sources: Sources,
    pub(super) events: Events,
    pub(super) losses: Losses,
    pub(super) tally: ClaimTally,
    pub(super) recorder: Recorder,
    counters: Arc<Counters>,
    pub(super) pulse: Arc<Pulse>,
    /// For the next process: how much of what is in the receive buffer is published. Events and pieces count, and the events that losses tell of; not
    /// records, which another version may make otherwise of the same bytes.
    read_progress: Arc<ReadProgress>,
    count: u64,
    /// So much of what comes next is published already, by the previous process.
    skip: u64,
    pub(super) time_ns: u64,
    pub(super) publishes: u64,
}

impl Publisher {
    /// For the writer thread `index`, which counts there.
    pub(crate) fn new(writer: Writer, index: usize, counters: Arc<Counters>, pulse: Arc<Pulse>) -> Self {
        let sources = Sources::new(Arc::clone(&counters.account));
        let recorder = counters.account.recorder(index);
        let (events, losses, tally) = (Events::default(), Losses::default(), ClaimTally::default());
        let (read_progress, count, skip, time_ns, publishes) = (Arc::default(), 0, 0, 0, 0);
        Self {
            writer,
            index,
            sources,
            events,
            losses,
            tally,
            recorder,
            counters,
            pulse,
            read_progress,
            count,
            skip,
            time_ns,
            publishes,
        }
    }

    /// What is read from here on lies in the receive buffer with these notes.
    pub(crate) fn set_read_progress(&mut self, read_progress: &Arc<ReadProgress>) {
        self.read_progress = Arc::clone(read_progress);
    }

    /// A read begins, of which so much is published already, as [`ReadProgress::published`] says.
    pub(crate) fn begin_read(&mut self, published: u64) {
        (self.count, self.skip) = (0, published);
    }

    /// This writer's counters.
    pub(crate) fn counters(&self) -> &WriterCounters {
        &self.counters.writers[self.index].0
    }

    /// All that is added from here on was accepted at this time. Nothing waits at this moment.
    pub(crate) fn begin(&mut self, time_ns: u64) {
        debug_assert!(self.events.all.is_empty(), "events of one lay-down share their time");
        self.time_ns = time_ns;
    }

    /// The acceptance time of what is added now.
    pub(crate) fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// How often something was published.
    pub(crate) fn publishes(&self) -> u64 {
        self.publishes
    }

    /// See [`Sources::slot`]. Good until the next [`Publisher::publish_pending`].
    #[inline]
    pub(crate) fn slot(&mut self, peer: &Peer, transport: Transport, claimed_pid: u32, tag: &[u8]) -> u32 {
        self.sources.slot(peer, transport, claimed_pid, tag)
    }

    /// Whether what waits has to be laid down before more is added.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.events.all.len() >= EVENTS_MAX || self.losses.is_full() || self.events.fields.len() >= FIELDS_BYTES_FULL
    }

    /// Adds an event whose payload is `range` of the bytes that will be given to [`Publisher::publish_pending`].
    #[inline]
    pub(crate) fn add(&mut self, slot: u32, pri: u8, range: Range<usize>) {
        let (start, bytes) = (range.start as u32, range.len() as u32);
        self.events.all.push(PendingEvent { start, bytes, slot, lines: 0, extra: 0, pri });
    }

    /// Adds so many events that came as lines: `range` is all of them, each with its newline, and none of them is empty.
    #[inline]
    pub(crate) fn add_lines(&mut self, slot: u32, pri: u8, range: Range<usize>, lines: usize) {
        let (start, bytes, lines) = (range.start as u32, range.len() as u32, lines as u32);
        self.events.all.push(PendingEvent { start, bytes, slot, lines, extra: 0, pri });
    }

    /// Adds an event with more to it.
    pub(crate) fn add_with(&mut self, slot: u32, pri: u8, range: Range<usize>, extra: Extra, fields: &[u8]) {
        let begin = self.events.fields.len();
        self.events.fields.extend_from_slice(fields);
        self.events.extras.push((extra, begin..self.events.fields.len()));
        self.add(slot, pri, range);
        if let Some(last) = self.events.all.last_mut() {
            last.extra = self.events.extras.len() as u32;
        }
    }

    /// Adds an event that was lost before it could be added as one. It is counted with the record that says so.
    pub(crate) fn lose(&mut self, slot: u32, cause: Cause, bytes: u64) {
        self.lose_many(slot, cause, (1, bytes));
    }

    /// Adds so many of them, with so many bytes in all.
    pub(crate) fn lose_many(&mut self, slot: u32, cause: Cause, lost: (u64, u64)) {
        self.losses.add(slot, cause, lost, self.time_ns);
    }

    /// Publishes all that waits; waits for room if need be. The payloads are ranges of `input`. `observer` is told of each
    /// publish.
    ///
    /// # Errors
    /// [`Closed`]; what could not be published is counted as lost, unless the next process finds it.
    pub(crate) fn publish_pending(&mut self, input: &[u8], observer: &mut impl PublishObserver) -> Result<(), Closed> {
        let mut done = self.skip_published(input);
        while let Some(need) = self.need(done) {
            match self.publish_claim(done, need, input, observer) {
                Ok(Some(to)) => done = to,
                // Sealed: nothing of the claim counts. Round again, with the same events and a higher generation.
                Ok(None) => {}
                Err(Refused::TooLarge) if done < self.events.all.len() => {
                    let PendingEvent { slot, bytes, lines, .. } = self.events.all[done];
                    debug_assert_eq!(lines, 0, "a block is no longer than an event may be, for which there is room");
                    self.lose(slot, Cause::TooBig, u64::from(bytes));
                    self.count += 1;
                    done += 1;
                }
                Err(_) => {
                    self.abandon(done, observer);
                    return Err(Closed);
                }
            }
        }
        self.events.clear();
        self.sources.end_round();
        Ok(())
    }

    /// Leaves out what the previous process has published of this read. Returns the first event that it has not.
    fn skip_published(&mut self, input: &[u8]) -> usize {
        let mut done = 0;
        while self.skip > 0
            && let Some(pending) = self.events.all.get_mut(done)
        {
            let skipped = pending.count().min(self.skip);
            if skipped < pending.count() {
                pending.skip_lines(skipped, input);
            } else {
                done += 1;
            }
            self.skip -= skipped;
            self.count += skipped;
        }
        let lost = self.losses.skip(self.skip);
        self.skip -= lost;
        self.count += lost;
        done
    }

    /// One claim with as much as fits, from the event `done` on. Returns how far it went, or None if it was sealed.
    fn publish_claim(
        &mut self,
        done: usize,
        need: usize,
        input: &[u8],
        observer: &mut impl PublishObserver,
    ) -> Result<Option<usize>, Refused> {
        self.pulse.beat(Activity::WaitsForRoom);
        let claim = self.writer.claim(need);
        self.pulse.beat(Activity::Running);
        let mut claim = claim?;
        let generation = claim.generation();
        self.sources.enter(generation);
        self.tally.clear();
        let to = self.events.put(&mut claim, &mut self.sources, &mut self.tally, (done, self.time_ns, input));
        let all = to == self.events.all.len();
        let losses = if all { self.losses.put(&mut claim, &mut self.sources, self.time_ns) } else { 0 };
        prepare(&mut self.recorder, &self.sources, &self.tally, &self.losses.all()[..losses]);
        let lost: u64 = self.losses.all()[..losses].iter().map(|(_, loss)| loss.events).sum();
        let count = self.count + self.events.all[done..to].iter().map(PendingEvent::count).sum::<u64>() + lost;
        let is_all = all && losses == self.losses.all().len();
        let published = Published { sequence: self.tally.sequence, is_all };
        self.recorder.about_to(claim.position());
        self.read_progress.prepare(claim.position(), count);
        observer.about_to_publish(claim.position(), published);
        let sealed = || {
            self.recorder.take_back();
            self.read_progress.abort();
            observer.take_back();
        };
        if claim.publish_or(sealed).is_err() {
            return Ok(None);
        }
        self.recorder.published();
        self.read_progress.commit(count);
        self.count = count;
        observer.published(generation, published);
        self.publishes += 1;
        self.losses.published(losses);
        Ok(Some(to))
    }

    /// Bytes of the first record that is not laid down, and of its source record.
    fn need(&self, done: usize) -> Option<usize> {
        let (slot, bytes) = match self.events.all.get(done) {
            Some(pending) => (pending.slot, self.events.record_bytes(pending)),
            None => self.losses.first()?,
        };
        Some(bytes + self.sources.producer(slot).identity.as_source().record_bytes())
    }

    /// Counts as lost what can never be published; what the next process finds, in the receive buffer or in a ring, is not.
    fn abandon(&mut self, done: usize, observer: &impl PublishObserver) {
        if self.read_progress.outlive() || observer.outlives() {
            self.losses.published(self.losses.all().len());
            self.events.clear();
            return;
        }
        for pending in self.events.all.iter().skip(done).filter(|pending| self.events.ends(pending)) {
            let lost = Tally::lost(Cause::Abandoned, pending.count(), pending.payload_bytes());
            self.recorder.prepare(self.sources.producer(pending.slot), &lost);
        }
        prepare(&mut self.recorder, &self.sources, &ClaimTally::default(), self.losses.all());
        self.recorder.count_now();
        self.losses.published(self.losses.all().len());
        self.events.clear();
    }
}

/// Prepares the account of what a claim carries.
pub(crate) fn prepare(recorder: &mut Recorder, sources: &Sources, tally: &ClaimTally, losses: &[(u32, Loss)]) {
    for &(slot, events, bytes) in &tally.by_slot {
        recorder.prepare(sources.producer(slot), &Tally { events, bytes, ..Tally::default() });
    }
    for (slot, loss) in losses {
        recorder.prepare(sources.producer(*slot), &Tally::lost(loss.cause, loss.events, loss.bytes));
    }
}

impl ClaimTally {
    pub(super) fn clear(&mut self) {
        self.by_slot.clear();
        self.sequence = None;
    }

    #[inline]
    pub(super) fn add(&mut self, slot: u32, events: u64, bytes: u64) {
        match self.by_slot.last_mut() {
            Some(last) if last.0 == slot => {
                last.1 += events;
                last.2 += bytes;
            }
            _ => self.by_slot.push((slot, events, bytes)),
        }
    }
}

impl Events {
    fn clear(&mut self) {
        self.all.clear();
        self.extras.clear();
        self.fields.clear();
    }

    fn extra(&self, pending: &PendingEvent) -> Option<&(Extra, Range<usize>)> {
        pending.extra.checked_sub(1).map(|index| &self.extras[index as usize])
    }

    /// Whether this event takes a sequence: it is whole, or the last piece.
    fn ends(&self, pending: &PendingEvent) -> bool {
        self.extra(pending).and_then(|(extra, _)| extra.piece).is_none_or(|piece| !piece.continues)
    }

    fn record_bytes(&self, pending: &PendingEvent) -> usize {
        // The payload's bytes do not matter for the length, so any will do.
        self.event(pending, 0).record_bytes() + padded(pending.bytes as usize)
    }

    /// The event without its payload.
    #[inline]
    fn event(&self, pending: &PendingEvent, time_ns: u64) -> Event<'_> {
        let event = Event { time_ns, pri: pending.pri, ..Event::default() };
        match self.extra(pending) {
            None => event,
            Some((extra, fields)) => Event {
                source_time_ns: extra.source_time_ns,
                producer_sequence: extra.producer_sequence,
                piece: extra.piece,
                fields: &self.fields[fields.clone()],
                ..event
            },
        }
    }

    /// Lays down events from `first` on while they have room. Returns the first that had none.
    #[inline]
    fn put(
        &self,
        claim: &mut Claim<'_>,
        sources: &mut Sources,
        tally: &mut ClaimTally,
        (first, time_ns, input): (usize, u64, &[u8]),
    ) -> usize {
        for (index, pending) in self.all.iter().enumerate().skip(first) {
            let payload = &input[pending.start as usize..][..pending.bytes as usize];
            if pending.lines > 0 {
                if sources.introduction_bytes(pending.slot) + lines_record_bytes(payload.len()) > claim.room() {
                    return index;
                }
                let source = sources.introduce(pending.slot, time_ns, claim);
                encode_lines(claim, source, time_ns, pending.pri, payload);
                tally.add(pending.slot, u64::from(pending.lines), pending.payload_bytes());
                continue;
            }
            let mut event = Event { payload, ..self.event(pending, time_ns) };
            if sources.introduction_bytes(pending.slot) + event.record_bytes() > claim.room() {
                return index;
            }
            event.source = sources.introduce(pending.slot, time_ns, claim);
            event.encode(claim);
            let ends = event.piece.is_none_or(|piece| !piece.continues);
            tally.add(pending.slot, u64::from(ends), payload.len() as u64);
            tally.sequence = event.producer_sequence.or(tally.sequence);
        }
        self.all.len()
    }
}
