//! A ring, as the writer that empties it sees it: memory that a program fills without calling anybody.
//!
//! Enters: what the program has published. Leaves: events in the layer, and words that tell the program how far they are. The
//! writer's thread. What can fail: the reader can go; and what the program has written cannot be true, and then it is cut off
//! with its ring, by name ([`Taken::Broken`]).
//!
//! The other end may be hostile. What a look believes of its bytes is said in `pass`; no number is read twice; what is taken at a
//! time is bounded. What a program can reach is its own ring and nobody else's.
//!
//! The way through the files: [`rings`] gives a ring and keeps it, `pass` takes what lies in it, `book` says how far it was taken.

mod book;
mod pass;
pub mod rings;
#[cfg(any(test, fuzzing, feature = "tap"))]
pub mod tap;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use dbuf_wire::frames::Level;
use dbuf_wire::ring::{Broken, Position, RingConsumer, want};

use self::pass::Pass;
use self::rings::Row;
use super::frames::{Acks, Span};
use super::intake::Intake;
use super::layer::Closed;
use super::source::Peer;
use crate::pipeline::account::Identity;
use crate::pipeline::progress;
use crate::pipeline::record::Cause;

/// The most rings that a daemon can have.
pub const RINGS_MAX: usize = 1024;

/// The most bytes that a look takes.
const LOOK_BYTES_MAX: u64 = 1 << 20;

/// What was in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// So many bytes were taken.
    Bytes(u64),
    /// What the program has written cannot be true.
    Broken(&'static str),
}

/// A ring.
#[derive(Debug)]
pub(super) struct Ring {
    consumer: RingConsumer,
    bell: OwnedFd,
    row: Row,
    name: Box<[u8]>,
    position: Position,
    /// Of levels it needs none: the program reads how far its events are.
    acks: Acks,
    /// Events that could not be stored, and events that break a rule.
    lost: u64,
    refused: u64,
    /// The event up to which a sync was asked for last.
    sync_asked: u64,
    /// What the program was told last: persisted, durable.
    told: (u64, u64),
    wants: u32,
    /// Nothing more is taken; it stays until everything that was is durable, and told.
    is_over: bool,
    max_event_told: u64,
}

impl Ring {
    /// `generation` is the last that may hold events of it which a predecessor has taken. Of these nobody knows yet whether they
    /// are persisted; what was told of them stays told.
    fn new(consumer: RingConsumer, bell: OwnedFd, row: Row, position: &Position, generation: u64) -> Self {
        let pending = (position.events > 0)
            .then_some(Span { generations: (generation, generation), sequences: (1, position.events) });
        let [persisted, durable, lost, refused] = consumer.told();
        let told = (persisted.min(position.events), durable.min(position.events));
        let name = row.identity().tag;
        Self {
            consumer,
            bell,
            row,
            name,
            position: *position,
            acks: Acks::resumed(Level::None, pending),
            lost,
            refused,
            sync_asked: 0,
            told,
            wants: 0,
            is_over: false,
            max_event_told: 0,
        }
    }

    /// Says how large a payload may be, before its program has it. If that changes later, a look says so.
    pub(super) fn tell_max_event(&mut self, bytes: usize) {
        self.max_event_told = bytes as u64;
        self.consumer.tell_max_event(self.max_event_told);
    }

    /// Wakes whoever waits for what a predecessor has done: it may have died after that and before the wake-up, or left it to
    /// be noticed here that it had published what it took.
    pub(super) fn wake_for_predecessor(&mut self) {
        if self.consumer.wants() != 0 {
            self.consumer.wake();
        }
    }

    /// The eventfd that its program rings. Nothing is ever read from it: the program could have made that wait.
    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Whether a successor would go on with it.
    pub(super) fn is_kept(&self) -> bool {
        self.row.is_kept
    }

    /// Who fills it; the tag is its name.
    pub(super) fn identity(&self) -> Identity {
        self.row.identity()
    }

    /// Keeps it for a successor. Its program has it by now, and nothing is taken yet.
    pub(super) fn keep(&mut self, identity: &Identity, memory: &OwnedFd, line: &OwnedFd) {
        let identity = Identity { tag: self.name.clone(), ..identity.clone() };
        self.row.keep(&identity, [memory, &self.bell, line]);
    }

    /// Says, before its writer sleeps, whether it will look by itself.
    pub(super) fn set_state(&mut self, kind: u64) {
        self.consumer.set_state(kind);
    }

    /// Whether something waits in it, or what is there cannot be true, which is for the next look to find.
    pub(super) fn has_something(&mut self) -> bool {
        self.consumer.look() != Ok(0)
    }

    /// Bytes that wait in it, as far as that can be true.
    pub(super) fn waiting_bytes(&mut self) -> u64 {
        self.consumer.look().unwrap_or(0)
    }

    /// Looks that see all of it.
    pub(super) fn looks_max(&self) -> u64 {
        self.consumer.memory().capacity() / self.look_bytes() + 1
    }

    /// Bytes with which a look is content: half of the ring, so that its program, which may wait for room, goes on while the writer
    /// takes the other half; and no more than is fair to others.
    fn look_bytes(&self) -> u64 {
        (self.consumer.memory().capacity() / 2).min(LOOK_BYTES_MAX)
    }

    /// Lays down what waits, up to a measure.
    pub(super) fn take(&mut self, desk: &mut [u8], peer: &Peer, intake: &mut Intake) -> Result<Taken, Closed> {
        if self.max_event_told != intake.max_event_bytes as u64 {
            self.tell_max_event(intake.max_event_bytes);
        }
        let waiting = match self.consumer.look() {
            Ok(waiting) => waiting,
            Err(Broken(why)) => return Ok(Taken::Broken(why)),
        };
        let lost = match self.consumer.losses() {
            Ok(lost) => lost,
            Err(Broken(why)) => return Ok(Taken::Broken(why)),
        };
        if waiting == 0 && lost.0 == 0 {
            return Ok(Taken::Bytes(0));
        }
        intake.begin();
        let look_bytes = self.look_bytes();
        let before = self.position.tail;
        let mut pass = self.pass(desk, peer, intake, waiting);
        let why = pass.run(look_bytes, &mut intake.layer)?;
        if lost.0 > 0 {
            pass.lose(lost, &mut intake.layer)?;
        }
        (self.position, self.refused) = (pass.position, pass.refused);
        self.row.say(waiting, self.consumer.high_water_bytes(), &self.position, self.refused);
        Ok(why.map_or(Taken::Bytes(self.position.tail - before), Taken::Broken))
    }

    fn pass<'a>(&'a mut self, desk: &'a mut [u8], peer: &'a Peer, intake: &Intake, waiting: u64) -> Pass<'a> {
        Pass {
            end: self.consumer.tail() + waiting,
            consumer: &mut self.consumer,
            row: &self.row,
            acks: &mut self.acks,
            name: &self.name,
            peer,
            moment: intake.moment(),
            max_event_bytes: intake.max_event_bytes,
            desk,
            position: self.position,
            next: self.position,
            refused: self.refused,
        }
    }

    /// Its program is gone, or has said that it is done: an event in the middle of which it was is lost.
    pub(super) fn end(&mut self, peer: &Peer, intake: &mut Intake) -> Result<(), Closed> {
        if self.consumer.is_torn() {
            intake.begin();
            self.pass(&mut [], peer, intake, 0).lose_one(Cause::Abandoned, &mut intake.layer)?;
        }
        Ok(())
    }

    /// It is cut off: whatever it had still written is not to be understood.
    pub(super) fn cut_off(&mut self, why: &str, peer: &Peer, intake: &mut Intake) -> Result<(), Closed> {
        let identity = &peer.identity;
        tracing::warn!(pid = identity.pid, uid = identity.uid, why, "a program is cut off with its ring");
        intake.begin();
        self.pass(&mut [], peer, intake, 0).lose_one(Cause::Malformed, &mut intake.layer)
    }

    /// Tells the program how far its events are, as far as it wants to know; wakes it if it sleeps for that.
    pub(super) fn answer(&mut self, took: bool, intake: &Intake) {
        let progress = &intake.progress;
        self.wants = self.consumer.wants();
        let sync = self.consumer.sync_wanted();
        if sync > self.sync_asked && self.position.events >= sync {
            self.sync_asked = sync;
            progress.ask_sync();
            intake.waker.ring();
        }
        // First say what is wanted, then look: progress made before that rings no bell.
        let wanted = self.wanted_progress();
        if wanted != 0 {
            progress.want(intake.index, wanted);
        }
        let before = (progress.persisted_before(), progress.durable_before());
        let mut lost = 0;
        let was_lost = |generations| progress.was_lost_among(&generations);
        self.acks.progress(before, self.position.events, was_lost, |first, last| lost += last - first + 1);
        self.lost = self.lost.saturating_add(lost);
        let (persisted, durable) = self.acks.reached(self.position.events);
        let reached = (persisted.max(self.told.0), durable.max(self.told.1));
        let is_news = self.told != reached || lost > 0;
        if is_news || took {
            self.told = reached;
            self.consumer.tell(reached.0, reached.1, self.lost, self.refused);
        }
        let waits_for_progress = self.wants & (want::PERSISTED | want::DURABLE) != 0;
        if (took && self.wants & want::ROOM != 0) || (is_news && waits_for_progress) {
            self.consumer.wake();
        }
    }

    /// The daemon ends, and no successor goes on with it: its program is to know of all that was taken.
    pub(super) fn finish(&mut self) {
        self.is_over = true;
    }

    /// Whether its program has been told that everything that was taken is durable, or lost.
    pub(super) fn is_told(&self) -> bool {
        self.told.1 >= self.position.events
    }

    /// Which progress its program waits for, as bits of `progress::want`.
    pub(super) fn wanted_progress(&self) -> u32 {
        let (in_buffer, in_file) = self.acks.pending_kinds();
        if self.is_over && (in_buffer || in_file) {
            return progress::want::DURABLE;
        }
        let persisted = self.wants & want::PERSISTED != 0 && in_buffer;
        let durable = self.wants & want::DURABLE != 0 && (in_buffer || in_file);
        (if persisted { progress::want::PERSISTED } else { 0 }) | (if durable { progress::want::DURABLE } else { 0 })
    }

    /// It has ended, here and for a successor.
    pub(super) fn close(self) {
        self.row.give_back();
    }
}
