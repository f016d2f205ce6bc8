//! Looks into one ring: publishes what waits in it, and tells its program how far its events are.
//!
//! Input: what the program has published. Output: events in the publisher; words in the ring. Thread: the ring's
//! writer. Failure: the reader is gone; or the ring's content is impossible ([`Taken::Broken`]).

use std::os::fd::OwnedFd;

use dbuf_wire::frames::Level;
use dbuf_wire::ring::{Broken, Position, RingConsumer, want};

use super::pass::Pass;
use super::row::RingRow;
use super::table::RingState;
use crate::pipeline::accept::frames::Acks;
use crate::pipeline::accept::publish::{Closed, Peer, WriterContext};
use crate::pipeline::account::Identity;
use crate::pipeline::progress;
use crate::pipeline::record::Cause;
use crate::pipeline::takeover::spans::{Known, Span};

/// Bytes that one look takes at most.
const LOOK_BYTES_MAX: u64 = 1 << 20;

/// What was in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// This many bytes were taken.
    Bytes(u64),
    /// What the program has written is impossible.
    Broken(&'static str),
}

/// A ring.
#[derive(Debug)]
pub(crate) struct Ring {
    consumer: RingConsumer,
    row: RingRow,
    name: Box<[u8]>,
    position: Position,
    /// The generation of its latest event.
    generation: u64,
    /// It needs no level: the program reads how far its events are.
    acks: Acks,
    /// Events that could not be stored, and events that break a rule.
    lost: u64,
    refused: u64,
    /// The event up to which a sync was last requested.
    sync_asked: u64,
    /// What the program was last told: persisted, durable.
    reported: (u64, u64),
    wants: u32,
    /// Nothing more is taken. The ring stays until everything that was taken is durable and reported.
    is_over: bool,
    max_event_reported: u64,
}

impl Ring {
    /// Creates a ring that is published as far as `state` says. The program does not know yet whether the events in
    /// `pending` are durable.
    pub(crate) fn new(
        consumer: RingConsumer,
        row: RingRow,
        state: RingState,
        (pending, known): (Vec<Span>, Known),
    ) -> Self {
        let position = state.position;
        let [.., refused] = consumer.last_told();
        // The previous process may have died after it noted what the program knows, and before it told the program.
        consumer.tell(known.losses_known_to, known.fate_known_to, known.lost_count, refused);
        let name = row.identity().tag;
        Self {
            consumer,
            row,
            name,
            position,
            generation: state.generation,
            acks: Acks::resumed(Level::None, pending, known.losses_known_to),
            lost: known.lost_count,
            refused,
            sync_asked: 0,
            reported: (known.losses_known_to, known.fate_known_to),
            wants: 0,
            is_over: false,
            max_event_reported: 0,
        }
    }

    /// Tells the program the largest payload, before it has the ring. If that changes later, a look tells it.
    pub(crate) fn tell_max_event(&mut self, bytes: usize) {
        self.max_event_reported = bytes as u64;
        self.consumer.tell_max_event(self.max_event_reported);
    }

    /// Wakes a program that waits for something that the previous process has done. That process may have died before
    /// it woke the program, or before it noticed that its publish had come.
    pub(crate) fn wake_after_takeover(&mut self) {
        if self.consumer.wants() != 0 {
            self.consumer.wake();
        }
    }

    /// Whether the next process would resume it.
    pub(crate) fn is_stored(&self) -> bool {
        self.row.is_stored
    }

    /// The program that fills it. The tag is the ring's name.
    pub(crate) fn identity(&self) -> Identity {
        self.row.identity()
    }

    /// Stores the ring for the next process. The program has it already, and nothing is taken yet.
    pub(crate) fn keep(&mut self, identity: &Identity, memory: &OwnedFd, line: &OwnedFd) {
        let identity = Identity { tag: self.name.clone(), ..identity.clone() };
        self.row.keep(&identity, [memory, line]);
    }

    /// Tells the program, before the writer sleeps, whether the writer will look on its own.
    pub(crate) fn set_state(&mut self, kind: u64) {
        self.consumer.set_state(kind);
    }

    /// Whether something waits in it. Also true if its content is impossible, which the next look finds.
    pub(crate) fn has_something(&mut self) -> bool {
        self.consumer.look() != Ok(0)
    }

    /// Bytes that wait in it; 0 if its content is impossible.
    pub(crate) fn waiting_bytes(&mut self) -> u64 {
        self.consumer.look().unwrap_or(0)
    }

    /// Number of looks that see all of it.
    pub(crate) fn looks_max(&self) -> u64 {
        self.consumer.memory().capacity() / self.look_bytes() + 1
    }

    /// Bytes after which a look stops. Half of the ring, so that a program that waits for room continues while the
    /// writer takes the other half; and no more than is fair to others.
    fn look_bytes(&self) -> u64 {
        (self.consumer.memory().capacity() / 2).min(LOOK_BYTES_MAX)
    }

    /// Publishes what waits, up to a bound.
    pub(crate) fn take(
        &mut self,
        scratch: &mut [u8],
        peer: &Peer,
        context: &mut WriterContext,
    ) -> Result<Taken, Closed> {
        if self.max_event_reported != context.max_event_bytes as u64 {
            self.tell_max_event(context.max_event_bytes);
        }
        let waiting = match self.consumer.look() {
            Ok(waiting) => waiting,
            Err(Broken(why)) => return Ok(Taken::Broken(why)),
        };
        let lost = match self.consumer.losses() {
            Ok(none @ (0, _)) => none,
            Ok(claimed) => self.row.take_losses(claimed),
            Err(Broken(why)) => return Ok(Taken::Broken(why)),
        };
        if waiting == 0 && lost.0 == 0 {
            return Ok(Taken::Bytes(0));
        }
        context.accept_now();
        let look_bytes = self.look_bytes();
        let before = self.position.tail;
        let mut pass = self.pass(scratch, peer, context, waiting);
        let why = pass.run(look_bytes, &mut context.publisher)?;
        if lost.0 > 0 {
            pass.lose(lost, &mut context.publisher)?;
        }
        (self.position, self.generation, self.refused) = (pass.position, pass.generation, pass.refused);
        self.row.set_figures(waiting, self.consumer.high_water_bytes(), &self.position, self.refused);
        Ok(why.map_or(Taken::Bytes(self.position.tail - before), Taken::Broken))
    }

    fn pass<'a>(
        &'a mut self,
        scratch: &'a mut [u8],
        peer: &'a Peer,
        context: &WriterContext,
        waiting: u64,
    ) -> Pass<'a> {
        Pass {
            end: self.consumer.tail() + waiting,
            consumer: &mut self.consumer,
            row: &self.row,
            acks: &mut self.acks,
            name: &self.name,
            peer,
            moment: context.moment(),
            max_event_bytes: context.max_event_bytes,
            scratch,
            position: self.position,
            next: self.position,
            generation: self.generation,
            ends: false,
            refused: self.refused,
        }
    }

    /// Ends the ring: its program is gone, or has said that it is done. An event that it was writing is lost.
    pub(crate) fn end(&mut self, peer: &Peer, context: &mut WriterContext) -> Result<(), Closed> {
        if self.consumer.is_torn() {
            context.accept_now();
            self.pass(&mut [], peer, context, 0).end_with_loss(Cause::Abandoned, &mut context.publisher)?;
        }
        Ok(())
    }

    /// Disconnects the program: what it had still written cannot be understood.
    pub(crate) fn cut_off(&mut self, why: &str, peer: &Peer, context: &mut WriterContext) -> Result<(), Closed> {
        let identity = &peer.identity;
        tracing::warn!(pid = identity.pid, uid = identity.uid, why, "a program is cut off with its ring");
        context.accept_now();
        self.pass(&mut [], peer, context, 0).end_with_loss(Cause::Malformed, &mut context.publisher)
    }

    /// Tells the program how far its events are, as far as it wants to know. Wakes it if it sleeps for that.
    pub(crate) fn answer(&mut self, took: bool, context: &WriterContext) {
        let progress = &context.progress;
        self.wants = self.consumer.wants();
        let sync = self.consumer.sync_wanted();
        if sync > self.sync_asked && self.position.events >= sync {
            self.sync_asked = sync;
            progress.ask_sync();
            context.waker.wake();
        }
        // First set what is wanted, then look: the bell does not ring for progress that was made before.
        let wanted = self.wanted_progress();
        if wanted != 0 {
            progress.want(context.index, wanted);
        }
        let before = (progress.persisted_before(), progress.durable_before());
        let mut lost = 0;
        let was_lost = |generations, in_file| progress.was_lost_among(&generations, in_file);
        let count = |span: Span| span.sequences.1 - span.sequences.0 + 1;
        self.acks.progress(before, self.position.events, was_lost, |span| lost += count(span));
        self.lost = self.lost.saturating_add(lost);
        let (persisted, durable) = self.acks.reached(self.position.events);
        let reached = (persisted.max(self.reported.0), durable.max(self.reported.1));
        let is_news = self.reported != reached || lost > 0;
        if is_news || took {
            self.reported = reached;
            // Noted before it is told. So no loss is counted twice, and the next process tells it if this one cannot.
            self.row.known(Known { fate_known_to: reached.1, losses_known_to: reached.0, lost_count: self.lost });
            self.consumer.tell(reached.0, reached.1, self.lost, self.refused);
        }
        let waits_for_progress = self.wants & (want::PERSISTED | want::DURABLE) != 0;
        if (took && self.wants & want::ROOM != 0) || (is_news && waits_for_progress) {
            self.consumer.wake();
        }
    }

    /// Takes nothing more, because the daemon ends. The program must learn what became of everything that was taken,
    /// because it is not known whether a next process resumes the ring.
    pub(crate) fn finish(&mut self) {
        self.is_over = true;
    }

    /// Whether the program has been told that everything that was taken is durable or lost.
    pub(crate) fn is_reported(&self) -> bool {
        self.reported.1 >= self.position.events
    }

    /// The progress that the program waits for, as bits of `progress::want`.
    pub(crate) fn wanted_progress(&self) -> u32 {
        let (in_buffer, in_file) = self.acks.pending_kinds();
        if self.is_over && (in_buffer || in_file) {
            return progress::want::DURABLE;
        }
        let persisted = self.wants & want::PERSISTED != 0 && in_buffer;
        let durable = self.wants & want::DURABLE != 0 && (in_buffer || in_file);
        (if persisted { progress::want::PERSISTED } else { 0 }) | (if durable { progress::want::DURABLE } else { 0 })
    }

    /// Ends the ring, here and for the next process.
    pub(crate) fn close(self) {
        self.row.give_back();
    }
}
