//! Events that go from where they lie straight into a claim, without waiting in the publisher's list.
//!
//! Enters: a [`EventSource`], which looks at events as it lays them down. Leaves: published records, and counts. The layer's thread. What
//! can fail: the reader is gone.
//!
//! It is for memory that keeps its events until they are published: a ring's. Where the reader swaps meanwhile, the feed looks at
//! the same events again. A socket's bytes cannot do that without taking back what the look has changed (see [`super`]).

use super::publisher::{ClaimTally, EVENTS_MAX, Publisher, prepare};
use super::{Closed, Peer, PublishObserver, Published, Sources};
use crate::pipeline::buffer::{Claim, Refused};
use crate::pipeline::pulse::Activity;
use crate::pipeline::record::{Event, Transport, padded};

/// Where events lie that are laid down as they are looked at.
pub(crate) trait EventSource: PublishObserver {
    /// Lays down as many as have room, one at least of what was asked for. It is called again, from the same event on, if what it
    /// has laid down does not count.
    fn put(&mut self, encoder: &mut ClaimEncoder<'_, '_>);
}

/// Room for a feed's events.
pub(crate) struct ClaimEncoder<'a, 'c> {
    claim: &'a mut Claim<'c>,
    sources: &'a mut Sources,
    tally: &'a mut ClaimTally,
    time_ns: u64,
}

impl ClaimEncoder<'_, '_> {
    /// See [`Publisher::slot`].
    #[inline]
    pub(crate) fn slot(&mut self, peer: &Peer, transport: Transport, tag: &[u8]) -> u32 {
        self.sources.slot(peer, transport, 0, tag)
    }

    /// Lays down a whole event. False if it has no room.
    pub(crate) fn add(&mut self, slot: u32, event: &Event<'_>) -> bool {
        if !self.has_room(slot, event.record_bytes()) {
            return false;
        }
        let event = Event { source: self.introduce(slot), time_ns: self.time_ns, ..*event };
        event.encode(self.claim);
        self.tally.add(slot, 1, event.payload.len() as u64);
        true
    }

    /// Lays down a whole event, whose payload of so many bytes `fill` copies to its place. False if it has no room.
    #[inline]
    pub(crate) fn add_around(
        &mut self,
        slot: u32,
        event: &Event<'_>,
        payload_bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        if !self.has_room(slot, event.record_bytes() + padded(payload_bytes)) {
            return false;
        }
        let event = Event { source: self.introduce(slot), time_ns: self.time_ns, ..*event };
        event.encode_around(payload_bytes, self.claim, fill);
        self.tally.add(slot, 1, payload_bytes as u64);
        true
    }

    #[inline]
    fn has_room(&self, slot: u32, record_bytes: usize) -> bool {
        // The slots of what a claim carries are looked up until it is published (invariant 1 of the sources).
        let has_slots = self.tally.by_slot.len() < EVENTS_MAX;
        has_slots && self.sources.introduction_bytes(slot) + record_bytes <= self.claim.room()
    }

    #[inline]
    fn introduce(&mut self, slot: u32) -> u32 {
        self.sources.introduce(slot, self.time_ns, self.claim)
    }
}

impl Publisher {
    /// Publishes what `feed` lays down into one claim of at least `need` bytes; waits for room if need be. False if no claim is as
    /// large. Nothing waits in the publisher at this moment.
    ///
    /// # Errors
    /// [`Closed`]; what lies in the feed stays there.
    pub(crate) fn publish_from(&mut self, need: usize, source: &mut impl EventSource) -> Result<bool, Closed> {
        debug_assert!(self.events.all.is_empty() && self.losses.all().is_empty(), "nothing is overtaken");
        loop {
            self.pulse.beat(Activity::WaitsForRoom);
            let claim = self.writer.claim(need);
            self.pulse.beat(Activity::Running);
            let mut claim = match claim {
                Ok(claim) => claim,
                Err(Refused::TooLarge) => return Ok(false),
                Err(_) => return Err(Closed),
            };
            let generation = claim.generation();
            self.sources.enter(generation);
            self.tally.clear();
            let (sources, tally, time_ns) = (&mut self.sources, &mut self.tally, self.time_ns);
            source.put(&mut ClaimEncoder { claim: &mut claim, sources, tally, time_ns });
            if claim.is_empty() {
                break;
            }
            prepare(&mut self.recorder, &self.sources, &self.tally, &[]);
            let published = Published { sequence: None, is_all: true };
            self.recorder.about_to(claim.position());
            source.about_to_publish(claim.position(), published);
            let sealed = || {
                self.recorder.take_back();
                source.take_back();
            };
            if claim.publish_or(sealed).is_ok() {
                self.recorder.published();
                source.published(generation, published);
                self.publishes += 1;
                break;
            }
        }
        self.sources.end_round();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::account::Identity;
    use crate::pipeline::buffer::{DoubleBuffer, Options, PublishPosition, Reader};
    use crate::pipeline::counters::Counters;
    use crate::pipeline::record::{Kind, Record};
    use crate::sync::Arc;

    /// Events with a tag each, and a reader that swaps under the first of them so many times.
    struct Tags<'a> {
        reader: &'a mut Reader,
        peer: Peer,
        swaps: usize,
        next: usize,
        put: usize,
        end: usize,
        /// What the publisher has said, in order.
        said: Vec<&'static str>,
    }

    impl EventSource for Tags<'_> {
        fn put(&mut self, encoder: &mut ClaimEncoder<'_, '_>) {
            self.put = 0;
            while self.next + self.put < self.end {
                let tag = format!("t{}", self.next + self.put);
                let slot = encoder.slot(&self.peer, Transport::Ring, tag.as_bytes());
                if !encoder.add(slot, &Event { payload: tag.as_bytes(), ..Event::default() }) {
                    break;
                }
                self.put += 1;
            }
            if self.swaps > 0 {
                self.swaps -= 1;
                assert!(self.reader.swap().is_empty(), "what is not published is not seen");
            }
        }
    }

    impl PublishObserver for Tags<'_> {
        fn about_to_publish(&mut self, _spot: PublishPosition, _brought: Published) {
            self.said.push("about to");
        }

        fn take_back(&mut self) {
            self.said.push("back");
        }

        fn published(&mut self, _generation: u64, _brought: Published) {
            self.said.push("published");
            self.next += self.put;
        }
    }

    fn publish_from(events: usize, swaps: usize) -> (Vec<&'static str>, Vec<String>, u64) {
        let options = Options { capacity_bytes: 4 << 20, chunk_bytes: 1 << 20, writers_max: 1 };
        let (buffer, mut reader) = DoubleBuffer::new(&options).unwrap();
        let counters = Arc::new(Counters::new(1).unwrap());
        let mut publisher = Publisher::new(buffer.writer().unwrap(), 0, Arc::clone(&counters), Arc::default());
        publisher.begin(1);
        let peer = Peer { number: 1, identity: Identity::default() };
        let mut tags = Tags { reader: &mut reader, peer, swaps, next: 0, put: 0, end: events, said: Vec::new() };
        while tags.next < events {
            assert_eq!(publisher.publish_from(1000, &mut tags), Ok(true));
        }
        assert_eq!(publisher.publish_from(8 << 20, &mut tags), Ok(false), "no claim is as large");
        let said = tags.said;
        let (mut texts, mut names) = (Vec::new(), Vec::new());
        for mut bytes in reader.swap().runs().flat_map(|run| run.chunks()) {
            while !bytes.is_empty() {
                let (record, taken) = Record::decode(bytes).unwrap();
                bytes = &bytes[taken..];
                match record.kind {
                    Kind::Source => names.push(String::from_utf8_lossy(record.as_source().unwrap().tag).into_owned()),
                    _ => {
                        let text = String::from_utf8_lossy(record.payload()).into_owned();
                        assert_eq!(text, names[record.source as usize]);
                        texts.push(text);
                    }
                }
            }
        }
        (said, texts, counters.account.totals().received_events)
    }

    #[test]
    fn what_the_reader_swaps_away_is_taken_back_and_laid_down_again() {
        let (said, texts, counted) = publish_from(3, 2);
        assert_eq!(said, ["about to", "back", "about to", "back", "about to", "published"]);
        assert_eq!((texts, counted), (vec!["t0".to_owned(), "t1".to_owned(), "t2".to_owned()], 3));
    }

    #[test]
    fn a_claim_ends_before_it_names_more_sources_than_are_kept_at_hand() {
        let (said, texts, counted) = publish_from(3000, 0);
        assert!(said.len() >= 2 * 3000 / EVENTS_MAX, "{}", said.len());
        assert!(texts.iter().enumerate().all(|(number, text)| *text == format!("t{number}")));
        assert_eq!((texts.len(), counted), (3000, 3000));
    }
}
