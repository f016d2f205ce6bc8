//! Numbers the sources of a writer's events in the run that it writes.
//!
//! Input: a peer, and the tag, transport and claimed pid of one event. Output: a slot, which later gives the source
//! record, its id in the run, and the row in which the producer is counted. Thread: the writer that owns the table.
//! Nothing can fail.
//!
//! Invariants, cited by number:
//! 1. A slot is not given to another source while a pending event names it: such a slot was used in this round, and
//!    fewer events and losses wait in a round than there are slots.
//! 2. A source gets its id at its first use in a generation. So no id stands for two sources in one run, even if slots
//!    do. Ids begin at 0 again in each generation, because runs stand alone.

use std::collections::HashMap;

use crate::pipeline::account::{Account, Identity, Producer};
use crate::pipeline::record::{Sink, TAG_BYTES_MAX, Transport, encode_source};
use crate::sync::Arc;
use crate::sys::recvmmsg::Credentials;

/// Sources that one writer remembers at most.
pub(crate) const SLOTS_MAX: usize = 1024;

/// A sender: one connection, or one process that sends datagrams.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Different for every peer that this writer has ever had.
    pub(crate) number: u64,
    /// What the kernel says. Tag, transport and claimed pid belong to each event and are unused here.
    pub(crate) identity: Identity,
}

impl Peer {
    /// Whether the kernel names it by these numbers.
    #[inline]
    pub(crate) fn is(&self, sender: Credentials) -> bool {
        let Identity { pid, uid, gid, .. } = self.identity;
        (pid, uid, gid) == (sender.pid, sender.uid, sender.gid)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    peer: u64,
    claimed_pid: u32,
    transport: Transport,
    tag_bytes: u8,
    tag: [u8; TAG_BYTES_MAX],
}

#[derive(Debug)]
struct Slot {
    key: Key,
    producer: Arc<Producer>,
    /// The last round in which an event named it.
    used: u64,
    /// The same when the hand last passed it.
    passed: u64,
    /// The last generation in which it was introduced, and its id there.
    generation: u64,
    id: u32,
}

/// A writer's sources.
#[derive(Debug)]
pub(crate) struct Sources {
    account: Arc<Account>,
    slots: Vec<Slot>,
    by_key: HashMap<Key, u32>,
    /// The slot of the previous event, which is usually the slot of the next one.
    last: u32,
    /// The slot at which the next look for a free one begins.
    hand: usize,
    round: u64,
    generation: u64,
    next_id: u32,
}

impl Sources {
    pub(crate) fn new(account: Arc<Account>) -> Self {
        let (slots, by_key) = (Vec::new(), HashMap::new());
        Self { account, slots, by_key, last: 0, hand: 0, round: 1, generation: 0, next_id: 0 }
    }

    /// The slot for events of `peer` by `transport` under `tag` with `claimed_pid`. The tag has at most
    /// [`TAG_BYTES_MAX`] bytes.
    #[inline]
    pub(crate) fn slot(&mut self, peer: &Peer, transport: Transport, claimed_pid: u32, tag: &[u8]) -> u32 {
        if let Some(slot) = self.slots.get_mut(self.last as usize) {
            let key = &slot.key;
            let same = key.peer == peer.number && key.transport == transport && key.claimed_pid == claimed_pid;
            // An empty tag is not compared. The address of an empty slice is no real address, and the C library's
            // comparison of zero bytes there took 70 ns in a measurement (a masked load that the processor has to sort
            // out).
            if same && usize::from(key.tag_bytes) == tag.len() && (tag.is_empty() || key.tag[..tag.len()] == *tag) {
                slot.used = self.round;
                return self.last;
            }
        }
        self.other_slot(peer, transport, claimed_pid, tag)
    }

    fn other_slot(&mut self, peer: &Peer, transport: Transport, claimed_pid: u32, tag: &[u8]) -> u32 {
        let mut key =
            Key { peer: peer.number, claimed_pid, transport, tag_bytes: tag.len() as u8, tag: [0; TAG_BYTES_MAX] };
        key.tag[..tag.len()].copy_from_slice(tag);
        let index = match self.by_key.get(&key) {
            Some(index) => *index,
            None => self.new_slot(key, peer),
        };
        self.slots[index as usize].used = self.round;
        self.last = index;
        index
    }

    fn new_slot(&mut self, key: Key, peer: &Peer) -> u32 {
        let free = if self.slots.len() < SLOTS_MAX { self.slots.len() } else { self.unused_slot() };
        let producer = self.account.producer(&Identity {
            transport: key.transport,
            claimed_pid: key.claimed_pid,
            tag: key.tag[..usize::from(key.tag_bytes)].into(),
            ..peer.identity.clone()
        });
        // Generation 0 is never in front, so the slot is introduced before its first event.
        let slot = Slot { key, producer, used: self.round, passed: self.round, generation: 0, id: 0 };
        match self.slots.get_mut(free) {
            Some(old) => {
                self.by_key.remove(&old.key);
                *old = slot;
            }
            None => self.slots.push(slot),
        }
        self.by_key.insert(key, free as u32);
        free as u32
    }

    /// A slot that was not used since the hand last passed it (the clock algorithm). A look for the least recently used
    /// of all would cost the writer several microseconds for each event of a sender that uses a new tag for each.
    fn unused_slot(&mut self) -> usize {
        // In the first turn all may have been used since. No slot is used again meanwhile.
        for _ in 0..=2 * self.slots.len() {
            let index = self.hand % self.slots.len();
            self.hand = index + 1;
            let slot = &mut self.slots[index];
            if slot.passed == slot.used && slot.used != self.round {
                return index;
            }
            slot.passed = slot.used;
        }
        unreachable!("invariant 1")
    }

    /// Ends the round: all events that named slots are published.
    pub(crate) fn end_round(&mut self) {
        self.round += 1;
    }

    /// Enters `generation`: a claim is open in it.
    #[inline]
    pub(crate) fn enter(&mut self, generation: u64) {
        if self.generation != generation {
            self.generation = generation;
            self.next_id = 0;
        }
    }

    /// Bytes of the source record that must come before the next record that names `slot`; 0 if it is there already.
    #[inline]
    pub(crate) fn introduction_bytes(&self, slot: u32) -> usize {
        let slot = &self.slots[slot as usize];
        if slot.generation == self.generation { 0 } else { slot.producer.identity.as_source().record_bytes() }
    }

    /// The id of `slot` in the current generation. Writes the source record first if it has none yet.
    #[inline]
    pub(crate) fn introduce(&mut self, slot: u32, time_ns: u64, to: &mut impl Sink) -> u32 {
        let slot = &mut self.slots[slot as usize];
        if slot.generation != self.generation {
            // Invariant 2.
            slot.generation = self.generation;
            slot.id = self.next_id;
            self.next_id += 1;
            encode_source(to, slot.id, time_ns, &slot.producer.identity.as_source());
        }
        slot.id
    }

    /// The producer in whose row this source is counted.
    #[inline]
    pub(crate) fn producer(&self, slot: u32) -> &Producer {
        &self.slots[slot as usize].producer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::record::Record;

    fn peer(number: u64) -> Peer {
        Peer { number, identity: Identity { pid: number as u32, ..Identity::default() } }
    }

    fn table() -> Sources {
        let mut sources = Sources::new(Arc::new(Account::new(1).unwrap()));
        sources.enter(1);
        sources
    }

    #[test]
    fn a_source_is_introduced_once_a_generation_and_numbered_from_zero() {
        let mut sources = table();
        let a = sources.slot(&peer(1), Transport::Lines, 0, b"");
        let b = sources.slot(&peer(1), Transport::Syslog, 7, b"app");
        assert_eq!(sources.slot(&peer(1), Transport::Lines, 0, b""), a);
        for generation in 1..4 {
            sources.enter(generation);
            let mut run = Vec::new();
            assert!(sources.introduction_bytes(b) > 0);
            assert_eq!((sources.introduce(b, 1, &mut run), sources.introduce(a, 1, &mut run)), (0, 1));
            let introduced = run.len();
            assert_eq!((sources.introduce(b, 1, &mut run), sources.introduction_bytes(a)), (0, 0));
            assert_eq!(run.len(), introduced);
            let (record, _) = Record::decode(&run).unwrap();
            assert_eq!((record.as_source().unwrap().tag, record.as_source().unwrap().claimed_pid), (&b"app"[..], 7));
        }
    }

    #[test]
    fn the_least_recently_used_slot_changes_hands_and_never_one_of_this_round() {
        let mut sources = table();
        let slots: Vec<u32> = (0..SLOTS_MAX as u64).map(|n| sources.slot(&peer(n), Transport::Lines, 0, b"")).collect();
        sources.end_round();
        for (number, slot) in slots.iter().enumerate().filter(|(number, _)| *number != 5) {
            assert_eq!(
                sources.slot(&peer(number as u64), Transport::Lines, 0, b""),
                *slot,
                "known ones are still known"
            );
        }
        assert_eq!(sources.slot(&peer(9999), Transport::Lines, 0, b""), slots[5]);
    }

    #[test]
    fn a_source_that_is_used_keeps_its_slot_while_another_sender_uses_a_new_tag_for_each_event() {
        let mut sources = table();
        let quiet: Vec<u32> = (0..100).map(|n| sources.slot(&peer(n), Transport::Lines, 0, b"")).collect();
        for number in 0..20 * SLOTS_MAX as u64 {
            sources.end_round();
            let tag = number.to_string();
            let hostile = sources.slot(&peer(9999), Transport::Syslog, 0, tag.as_bytes());
            // Each of the others has an event in one of a hundred rounds.
            let other = number % 100;
            assert_eq!(sources.slot(&peer(other), Transport::Lines, 0, b""), quiet[other as usize], "event {number}");
            assert!(!quiet.contains(&hostile));
        }
    }

    #[test]
    fn a_slot_that_changed_hands_gets_a_number_of_its_own_in_the_same_generation() {
        let mut sources = table();
        let mut run = Vec::new();
        for number in 0..SLOTS_MAX as u64 + 1 {
            let slot = sources.slot(&peer(number), Transport::Lines, 0, b"");
            assert_eq!(sources.introduce(slot, 1, &mut run), number as u32);
            sources.end_round();
        }
    }
}
