//! A ring, as the writer that empties it sees it: memory that a program fills without calling anybody.
//!
//! Enters: what the program has published. Leaves: events in the layer, and words that tell the program how far they are. The
//! writer's thread. What can fail: the reader can go; and what the program has written cannot be true, and then it is cut off
//! with its ring, by name ([`Taken::Broken`]).
//!
//! The other end may be hostile. So bytes are copied out first, and only the copy is looked at; no number is read twice; what
//! is copied at a time is bounded by the writer's desk. What a program can reach is its own ring and nobody else's.
//!
//! The way through the files: [`rings`] gives a ring and keeps it, `book` says how far it was taken.

mod book;
pub mod rings;
#[cfg(any(test, fuzzing))]
pub mod tap;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use dbuf_client::ring::record::{self, HEAD_BYTES, Head, Malformed, Stamp, kind};
use dbuf_client::ring::{Broken, Position, RingConsumer, want};
use dbuf_client::wire::Level;

use self::rings::Row;
use super::frames::{Acks, Span};
use super::intake::Intake;
use super::layer::{Brought, Closed, Extra, Witness};
use super::source::Peer;
use super::writer::READ_BYTES;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::Spot;
use crate::pipeline::progress;
use crate::pipeline::record::{Cause, Transport};
use crate::sys::ticks::Moment;

/// The most rings that a daemon can have.
pub const RINGS_MAX: usize = 1024;

/// Bytes that are copied at a time: what a desk holds.
const DESK_BYTES: u64 = READ_BYTES as u64;

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
    /// Refusals, and losses of the program's own, that wait in the layer.
    refusing: u64,
    losing: (u64, u64),
    /// Where each event that waits in the layer ends.
    ends: Vec<u64>,
}

/// What a stretch of bytes ended with.
enum Stretch {
    /// All of it is done with, or the rest is no whole record.
    End,
    /// The layer is to be laid down before more is added.
    Full,
    /// This record alone is larger than the stretch.
    Large(u64),
    /// It cannot be true.
    Broken(&'static str),
}

/// What the layer says of the ring's events while it lays them down.
struct Told<'a> {
    row: &'a Row,
    acks: &'a mut Acks,
    ends: &'a [u64],
    /// How far it was before, and how far it is when all is published.
    before: Position,
    after: Position,
    /// Events that were told of in this.
    events: u64,
}

impl Told<'_> {
    fn position(&self, brought: Brought) -> Position {
        match brought.events.checked_sub(1) {
            _ if brought.is_all => self.after,
            None => self.before,
            Some(last) => Position {
                tail: self.ends[last],
                events: self.before.events + brought.events as u64,
                lost: self.before.lost,
            },
        }
    }
}

impl Witness for Told<'_> {
    fn about_to_publish(&mut self, spot: Spot, brought: Brought) {
        self.row.about_to(spot, &self.position(brought));
    }

    fn take_back(&mut self) {
        self.row.take_back();
    }

    fn published(&mut self, generation: u64, brought: Brought) {
        let position = self.position(brought);
        self.row.settle(&position);
        if position.events > self.events {
            self.acks.published(generation, (self.events + 1, position.events));
            self.events = position.events;
        }
    }

    fn outlives(&self) -> bool {
        self.row.is_kept
    }
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
            refusing: 0,
            losing: (0, 0),
            ends: Vec::new(),
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

    /// Looks that see all of it, also where each ends before a record that did not fit.
    pub(super) fn looks_max(&self) -> u64 {
        2 * (self.consumer.memory().capacity() / DESK_BYTES) + 2
    }

    /// Copies and lays down what waits, as much as the desk holds.
    pub(super) fn take(&mut self, desk: &mut [u8], peer: &Peer, intake: &mut Intake) -> Result<Taken, Closed> {
        let max_event = intake.max_event_bytes as u64;
        if self.max_event_told != max_event {
            self.max_event_told = max_event;
            self.consumer.tell_max_event(max_event);
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
        let copy = &mut desk[..waiting.min(DESK_BYTES) as usize];
        self.consumer.copy(0, copy);
        let mut pass = Pass { peer, moment: intake.moment(), intake, waiting, done: 0 };
        let why = loop {
            match self.stretch(copy, &mut pass) {
                Stretch::Full => self.lay_down(copy, &mut pass)?,
                Stretch::End => break None,
                Stretch::Broken(why) => break Some(why),
                Stretch::Large(record_bytes) => {
                    self.take_large(record_bytes, &mut pass)?;
                    break None;
                }
            }
        };
        if lost.0 > 0 {
            let slot = pass.intake.layer.slot(peer, Transport::Ring, 0, &self.name);
            pass.intake.layer.lose_many(slot, Cause::Full, lost);
            self.losing = lost;
        }
        self.lay_down(copy, &mut pass)?;
        let taken = pass.done;
        self.consumer.take(taken, self.position.events);
        self.row.say(waiting, self.consumer.high_water_bytes(), &self.position, self.refused);
        Ok(why.map_or(Taken::Bytes(taken), Taken::Broken))
    }

    /// Adds what is whole in `copy`, from where the pass is, to the layer.
    fn stretch(&mut self, copy: &[u8], pass: &mut Pass<'_>) -> Stretch {
        loop {
            let at = pass.done as usize;
            let Some(head) = copy.get(at..at + HEAD_BYTES) else { return Stretch::End };
            let head = Head::of_bytes(head.try_into().expect("so many bytes"));
            let record_bytes = head.record_bytes();
            let memory = self.consumer.memory();
            let to_end = memory.capacity() - memory.offset(self.consumer.tail() + pass.done) as u64;
            if record_bytes > to_end.min(pass.waiting - pass.done) {
                return Stretch::Broken("a record reaches beyond the ring's end or head");
            }
            match head.kind {
                kind::PAD if record_bytes == to_end => {
                    pass.done += record_bytes;
                    continue;
                }
                kind::EVENT | kind::EVENT_WITH_FIELDS => {}
                _ => return Stretch::Broken("a record of a type that there is not"),
            }
            if head.length as usize > pass.intake.max_event_bytes + record::OVERHEAD_BYTES_MAX {
                pass.done += record_bytes;
                self.refuse(Cause::TooBig, u64::from(head.length), pass);
                return Stretch::Full;
            }
            let start = at + HEAD_BYTES;
            let Some(body) = copy.get(start..start + head.length as usize) else {
                let is_large = at == 0 && record_bytes > copy.len() as u64;
                return if is_large { Stretch::Large(record_bytes) } else { Stretch::End };
            };
            pass.done += record_bytes;
            if !self.add(&head, body, start, pass) || pass.intake.layer.is_full() {
                return Stretch::Full;
            }
        }
    }

    /// Adds one event, whose body is at `start` of what will be laid down. False if it was refused.
    #[inline]
    fn add(&mut self, head: &Head, body: &[u8], start: usize, pass: &mut Pass<'_>) -> bool {
        let event = match record::event(head, body) {
            Ok(event) if event.payload.len() <= pass.intake.max_event_bytes => event,
            Ok(event) => return self.refuse(Cause::TooBig, event.payload.len() as u64, pass),
            Err(Malformed(_)) => return self.refuse(Cause::Malformed, u64::from(head.length), pass),
        };
        let tag = if event.tag.is_empty() { &self.name } else { event.tag };
        let layer = &mut pass.intake.layer;
        let slot = layer.slot(pass.peer, Transport::Ring, 0, tag);
        let end = start + body.len();
        let range = end - event.payload.len()..end;
        let source_time_ns = match head.stamp {
            Stamp::None => None,
            Stamp::Nanoseconds(time_ns) => Some(time_ns),
            Stamp::Ticks(ticks) => pass.moment.as_ref().map(|moment| moment.time_ns(ticks)),
        };
        if source_time_ns.is_none() && event.fields.is_empty() {
            layer.add(slot, event.pri, range);
        } else {
            layer.add_with(slot, event.pri, range, Extra { source_time_ns, ..Extra::default() }, event.fields);
        }
        self.ends.push(self.consumer.tail() + pass.done);
        true
    }

    /// It ends what is laid down together, so that the record which tells of it is published with the last of that.
    fn refuse(&mut self, cause: Cause, bytes: u64, pass: &mut Pass<'_>) -> bool {
        let slot = pass.intake.layer.slot(pass.peer, Transport::Ring, 0, &self.name);
        pass.intake.layer.lose(slot, cause, bytes);
        self.refused = self.refused.saturating_add(1);
        self.refusing += 1;
        false
    }

    /// An event larger than the desk: copied by itself, into memory that goes again.
    fn take_large(&mut self, record_bytes: u64, pass: &mut Pass<'_>) -> Result<(), Closed> {
        let mut large = vec![0; record_bytes as usize];
        self.consumer.copy(pass.done, &mut large);
        pass.done += record_bytes;
        // The head again, from this copy: it may be another by now.
        let head = Head::of_bytes(large[..HEAD_BYTES].try_into().expect("so many bytes"));
        match large.get(HEAD_BYTES..HEAD_BYTES + head.length as usize) {
            Some(body) if matches!(head.kind, kind::EVENT | kind::EVENT_WITH_FIELDS) => {
                self.add(&head, body, HEAD_BYTES, pass);
            }
            _ => {
                self.refuse(Cause::Malformed, record_bytes, pass);
            }
        }
        self.lay_down(&large, pass)
    }

    /// Publishes what waits in the layer: all up to where the pass is.
    fn lay_down(&mut self, input: &[u8], pass: &mut Pass<'_>) -> Result<(), Closed> {
        let before = self.position;
        let (refusing, losing) = (std::mem::take(&mut self.refusing), std::mem::take(&mut self.losing));
        let after = Position {
            tail: self.consumer.tail() + pass.done,
            events: before.events + self.ends.len() as u64 + refusing,
            lost: (before.lost.0.wrapping_add(losing.0), before.lost.1.wrapping_add(losing.1)),
        };
        let (row, acks, ends) = (&self.row, &mut self.acks, &self.ends[..]);
        let mut told = Told { row, acks, ends, before, after, events: before.events };
        pass.intake.layer.lay_down(input, &mut told)?;
        self.ends.clear();
        if before.tail != after.tail {
            // Also where nothing was published: a pad alone.
            self.row.settle(&after);
        }
        self.consumer.take_losses(losing);
        self.position = after;
        Ok(())
    }

    /// Its program is gone, or has said that it is done: an event in the middle of which it was is lost.
    pub(super) fn end(&mut self, peer: &Peer, intake: &mut Intake) -> Result<(), Closed> {
        if self.consumer.is_torn() {
            intake.begin();
            let mut pass = Pass { peer, moment: None, intake, waiting: 0, done: 0 };
            self.lose_one(Cause::Abandoned, &mut pass)?;
        }
        Ok(())
    }

    /// It is cut off: whatever it had still written is not to be understood.
    pub(super) fn cut_off(&mut self, why: &str, peer: &Peer, intake: &mut Intake) -> Result<(), Closed> {
        let identity = &peer.identity;
        tracing::warn!(pid = identity.pid, uid = identity.uid, why, "a program is cut off with its ring");
        intake.begin();
        let mut pass = Pass { peer, moment: None, intake, waiting: 0, done: 0 };
        self.lose_one(Cause::Malformed, &mut pass)
    }

    fn lose_one(&mut self, cause: Cause, pass: &mut Pass<'_>) -> Result<(), Closed> {
        let slot = pass.intake.layer.slot(pass.peer, Transport::Ring, 0, &self.name);
        pass.intake.layer.lose(slot, cause, 0);
        self.lay_down(&[], pass)
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

/// One pass over what lies in a ring.
struct Pass<'a> {
    peer: &'a Peer,
    /// What ticks mean; None where nobody is to use them.
    moment: Option<Moment>,
    intake: &'a mut Intake,
    /// Bytes that were published when it began.
    waiting: u64,
    /// Bytes that are done with.
    done: u64,
}
