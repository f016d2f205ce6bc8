//! Drives a writer or the reader without threads, sockets or a disk: for fuzzing, for property tests and for counting
//! instructions.
//!
//! Input: the bytes of a socket or a ring, in parts; or a batch. Output: the events that the reader finds, their pieces
//! joined. Thread: one. Failure: its assertions panic. Built for tests, for fuzzing and with the feature `harness`.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use dbuf_wire::ring::{Memory, RingProducer};

use crate::pipeline::accept::connection::protocol::{Link, Protocol};
use crate::pipeline::accept::connection::stored::StoredConnection;
use crate::pipeline::accept::limits::OVERHEAD_BYTES_MAX;
use crate::pipeline::accept::publish::{Extra, NoObserver, Peer, Publisher, WriterContext};
#[cfg(test)]
use crate::pipeline::accept::ring::registry::InheritedRings;
use crate::pipeline::accept::ring::registry::Rings;
use crate::pipeline::accept::ring::{Ring, Taken};
use crate::pipeline::accept::text::Text;
use crate::pipeline::accept::text::classify::classify;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::{Batch, DoubleBuffer, Options, Reader};
use crate::pipeline::counters::Counters;
use crate::pipeline::drain::batch_summary::{BatchSummary, Sizes};
use crate::pipeline::progress::Progress;
use crate::pipeline::record::{Cause, FIELDS_BYTES_MAX, Kind, Record, Transport};
use crate::pipeline::shares::Shares;
use crate::sync::Arc;
#[cfg(test)]
use crate::sys::fdstore::FdStore;

/// Bytes that are taken at a time, at most, so that all their events fit into one half.
pub const INPUT_BYTES_MAX: usize = 4 << 10;

/// An event as a file would hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HarnessEvent {
    /// Facility times 8 plus priority.
    pub pri: u8,
    /// Its tag; empty if there is none.
    pub tag: Vec<u8>,
    /// The time that its sender stated.
    pub source_time_ns: Option<u64>,
    /// Its payload, pieces joined.
    pub payload: Vec<u8>,
}

/// A writer and its reader.
#[derive(Debug)]
pub struct WriterHarness {
    context: WriterContext,
    reader: Reader,
    link: Link,
    counters: Arc<Counters>,
}

impl WriterHarness {
    /// For events of at most `max_event_bytes` bytes.
    ///
    /// # Panics
    /// If the kernel gives no memory.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        // Small chunks, so that reads of more than one claim are common.
        Self::over(max_event_bytes, &Options { capacity_bytes: 1 << 20, chunk_bytes: 1 << 10, writers_max: 1 })
    }

    /// The same over a buffer of these sizes.
    ///
    /// # Panics
    /// If the kernel gives no memory, or the buffer is too small for the events.
    #[must_use]
    pub fn over(max_event_bytes: usize, options: &Options) -> Self {
        let (buffer, reader) = DoubleBuffer::new(options).expect("a small buffer");
        assert!(max_event_bytes + OVERHEAD_BYTES_MAX < buffer.largest_claim());
        let writer = buffer.writer().expect("the only writer");
        let counters = Arc::new(Counters::new(1).expect("a little memory"));
        let publisher = Publisher::new(writer, 0, Arc::clone(&counters), Arc::default());
        let progress = Arc::new(Progress::new(1).expect("an eventfd"));
        let mut context = WriterContext::new(publisher, 0, max_event_bytes, progress, buffer.waker());
        // A connection whose socket is never used.
        let (socket, _) = UnixStream::pair().expect("two sockets");
        let link = Link::new(StoredConnection::unstored(socket.into()), context.peer(Identity::default()));
        Self { context, reader, link, counters }
    }

    /// The events of a text connection that sends these parts and ends.
    ///
    /// # Panics
    /// If a promise of the text path does not hold.
    pub fn text<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) -> Vec<HarnessEvent> {
        let Self { context, link, .. } = self;
        let mut text = Text::default();
        context.accept_now();
        for part in parts {
            text.take(part, link, context).expect("the reader is there");
            assert!(link.carry.len() <= context.max_event_bytes + 8, "memory is bounded");
        }
        text.end(link, context).expect("the reader is there");
        assert!(link.carry.is_empty());
        self.events()
    }

    /// The events of one datagram.
    ///
    /// # Panics
    /// If a promise of the datagram path does not hold.
    pub fn datagram(&mut self, bytes: &[u8]) -> Vec<HarnessEvent> {
        self.publish_datagram(bytes);
        self.events()
    }

    /// Publishes one datagram, and leaves it in the half.
    ///
    /// # Panics
    /// As [`WriterHarness::datagram`].
    pub fn publish_datagram(&mut self, bytes: &[u8]) {
        let Self { context, link, .. } = self;
        context.accept_now();
        context.fields.clear();
        let now_ns = context.publisher.time_ns();
        let line = classify(Transport::Datagram, bytes, now_ns, &mut context.local_time, &mut context.fields);
        assert!(context.fields.len() <= FIELDS_BYTES_MAX && line.pri <= 191);
        assert_eq!(&bytes[line.text_start..][..line.text.len()], line.text);
        if !line.text.is_empty() {
            let slot = context.publisher.slot(&link.peer, line.transport, line.claimed_pid, line.tag);
            let extra = Extra { source_time_ns: line.source_time_ns, ..Extra::default() };
            let range = line.text_start..line.text_start + line.text.len();
            context.publisher.add_with(slot, line.pri, range, extra, &context.fields);
        }
        context.publisher.publish_pending(bytes, &mut NoObserver).expect("the reader is there");
    }

    /// Publishes whole lines of a text connection, and leaves them in the half.
    ///
    /// # Panics
    /// If the reader is not there.
    pub fn publish_text(&mut self, lines: &[u8]) {
        self.context.accept_now();
        Text::default().take(lines, &mut self.link, &mut self.context).expect("the reader is there");
    }

    /// Swaps the halves. Returns what was published since the last swap.
    pub fn swap(&mut self) -> Batch<'_> {
        self.reader.swap()
    }

    /// Creates one more sender.
    pub(crate) fn another_peer(&mut self) -> Peer {
        self.context.peer(Identity::default())
    }

    /// The writer's context.
    pub(crate) fn context(&mut self) -> &mut WriterContext {
        &mut self.context
    }

    /// Events lost so far by this cause.
    pub(crate) fn lost(&self, cause: Cause) -> u64 {
        let totals = self.counters.account.totals();
        Cause::ALL.into_iter().zip(totals.lost).find(|(known, _)| *known == cause).map_or(0, |(_, lost)| lost)
    }

    /// The events that the reader finds now.
    pub(crate) fn events(&mut self) -> Vec<HarnessEvent> {
        let batch = self.reader.swap();
        let (mut tags, mut events) = (Vec::new(), Vec::<HarnessEvent>::new());
        let mut goes_on = false;
        for mut bytes in batch.runs().flat_map(|run| run.chunks()) {
            while !bytes.is_empty() {
                let (record, taken) = Record::decode(bytes).expect("what a writer publishes is whole");
                bytes = &bytes[taken..];
                if record.kind == Kind::Source {
                    assert_eq!(record.source as usize, tags.len(), "sources are numbered in order");
                    tags.push(record.as_source().expect("a source").tag.to_vec());
                    continue;
                }
                if record.kind == Kind::Loss {
                    continue;
                }
                assert_eq!(record.kind, Kind::Event);
                assert!(record.payload().len() <= self.context.max_event_bytes.max(INPUT_BYTES_MAX));
                for record in record.singles() {
                    let piece = record.piece();
                    assert_eq!(piece.is_some_and(|piece| piece.continued), goes_on, "pieces follow each other");
                    match events.last_mut().filter(|_| goes_on) {
                        Some(first) => first.payload.extend_from_slice(record.payload()),
                        None => events.push(HarnessEvent {
                            pri: record.pri,
                            tag: tags[record.source as usize].clone(),
                            source_time_ns: record.source_time_ns(),
                            payload: record.payload().to_vec(),
                        }),
                    }
                    goes_on = piece.is_some_and(|piece| piece.continues);
                }
            }
        }
        assert!(!goes_on, "every event is ended");
        events
    }
}

/// Bytes of data of the ring.
pub const CAPACITY: u64 = 64 << 10;

/// Less than a writer's own, so that some events with fields are larger.
const SCRATCH_BYTES: usize = 8 << 10;

/// A ring with its writer and its reader, and the client's memory.
#[derive(Debug)]
pub struct RingHarness {
    harness: WriterHarness,
    ring: Ring,
    peer: Peer,
    memory: OwnedFd,
    scratch: Vec<u8>,
}

impl RingHarness {
    /// Creates a ring for events of at most `max_event_bytes` bytes.
    ///
    /// # Panics
    /// If the kernel gives no memory.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self::over(WriterHarness::new(max_event_bytes))
    }

    /// The same with this writer and reader.
    ///
    /// # Panics
    /// As [`RingHarness::new`].
    #[must_use]
    pub fn over(mut harness: WriterHarness) -> Self {
        let rings = Rings::new(Shares::even(CAPACITY));
        let identity = Identity { tag: b"app"[..].into(), ..Identity::default() };
        let (ring, memory) = rings.grant(identity, CAPACITY).expect("one ring is allowed");
        let peer = harness.another_peer();
        Self { harness, ring, peer, memory, scratch: vec![0; SCRATCH_BYTES] }
    }

    /// The same with a ring that outlives the process.
    #[cfg(test)]
    pub(crate) fn stored(store: &Arc<FdStore>) -> Self {
        let mut this = Self::new(4096);
        let rings = Rings::stored(Shares::even(CAPACITY), store, 100, InheritedRings::default()).expect("memory");
        let (ring, memory) = rings.grant(Identity::default(), CAPACITY).expect("one ring is allowed");
        (this.ring, this.memory) = (ring, memory);
        let (line, _) = UnixStream::pair().expect("two sockets");
        this.ring.keep(&Identity::default(), &this.memory, &line.into());
        this
    }

    /// The process dies, and the next one resumes the ring.
    #[cfg(test)]
    pub(crate) fn die(&mut self, store: &Arc<FdStore>, left: InheritedRings) {
        let rings = Rings::stored(Shares::even(CAPACITY), store, 100, left).expect("memory");
        self.ring = rings.take_inherited().pop().expect("a stored ring").1;
    }

    /// Replaces this ring, which has ended, by a new one. The writer and its reader stay.
    ///
    /// # Panics
    /// If the kernel gives no memory.
    pub fn renew(&mut self) {
        let rings = Rings::new(Shares::even(CAPACITY));
        let identity = Identity { tag: b"app"[..].into(), ..Identity::default() };
        let (ring, memory) = rings.grant(identity, CAPACITY).expect("one ring is allowed");
        std::mem::replace(&mut self.ring, ring).close();
        self.memory = memory;
        self.peer = self.harness.another_peer();
        // What the last look has left in the half belongs to the old ring.
        self.harness.events();
    }

    /// The producer of an honest client.
    ///
    /// # Panics
    /// If the kernel gives no memory.
    #[must_use]
    pub fn producer(&self) -> RingProducer {
        RingProducer::new(self.client_memory(), true)
    }

    /// The memory as the client has it.
    ///
    /// # Panics
    /// If the kernel gives no memory.
    #[must_use]
    pub fn client_memory(&self) -> Memory {
        Memory::of_file(&self.memory).expect("a ring")
    }

    /// Takes one look as the writer does, and leaves what it publishes in the half. Returns the bytes taken.
    ///
    /// # Errors
    /// The reason why the client is cut off.
    ///
    /// # Panics
    /// If the reader is not there.
    pub fn publish_pending(&mut self) -> Result<u64, &'static str> {
        match self.ring.take(&mut self.scratch, &self.peer, self.harness.context()).expect("the reader is there") {
            Taken::Bytes(bytes) => Ok(bytes),
            Taken::Broken(why) => Err(why),
        }
    }

    /// Swaps the halves. Returns what was published since the last swap.
    pub fn swap(&mut self) -> Batch<'_> {
        self.harness.swap()
    }

    /// Takes one look as the writer does. Returns the events.
    ///
    /// # Errors
    /// The reason why the client is cut off.
    ///
    /// # Panics
    /// If a promise of the ring does not hold.
    pub fn take(&mut self) -> Result<Vec<HarnessEvent>, &'static str> {
        let taken = self.publish_pending();
        self.ring.answer(true, self.harness.context());
        let events = self.harness.events();
        taken.map(|bytes| {
            assert!(bytes <= CAPACITY);
            events
        })
    }

    /// Says that the reader has persisted every generation below this one.
    #[cfg(test)]
    pub(crate) fn persisted_before(&mut self, generation: u64) {
        self.harness.context().progress.set_persisted(generation);
    }

    /// Says that every generation below this one is durable.
    #[cfg(test)]
    pub(crate) fn durable_before(&mut self, generation: u64) {
        self.harness.context().progress.set_durable(generation);
    }

    /// How far the reader has come.
    #[cfg(test)]
    pub(crate) fn progress(&mut self) -> &Progress {
        &self.harness.context().progress
    }

    /// The client leaves.
    ///
    /// # Panics
    /// If the reader is not there.
    pub fn end(&mut self) {
        self.ring.end(&self.peer, self.harness.context()).expect("the reader is there");
        self.harness.events();
    }

    /// Events lost so far by this cause.
    #[must_use]
    pub fn lost(&mut self, cause: Cause) -> u64 {
        self.harness.lost(cause)
    }
}

/// Walks batches as the reader does, with its memory for sizes.
#[derive(Debug, Default)]
pub struct ReaderHarness(Sizes);

impl ReaderHarness {
    /// Walks a batch as the reader does with statistics on. Returns its number of events, and the checksum of its
    /// content.
    pub fn take(&mut self, batch: &Batch<'_>) -> (u64, u32) {
        let summary = BatchSummary::take(batch, Some(&mut self.0));
        (summary.events, summary.content_crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::pipeline::record::{Event, Source, encode_source};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn text_is_the_same_however_it_arrives(
            words in proptest::collection::vec(
                prop_oneof![
                    Just("\n".to_owned()),
                    Just("28 <13>Nov 23 05:26:33 root: hi".to_owned()),
                    Just("<13>Nov 23 05:26:33 root: ".to_owned()),
                    Just("<165>1 - - app 7 - [a b=\"c\"] ".to_owned()),
                    Just("<3>".to_owned()),
                    Just("\0".to_owned()),
                    "[a-z<>0-9 ]{0,90}",
                ],
                0..30,
            ),
            step in 1..200_usize,
        ) {
            let input = words.concat().into_bytes();
            let mut harness = WriterHarness::new(64);
            let whole = harness.text(std::iter::once(&input[..]));
            prop_assert_eq!(harness.text(input.chunks(step)), whole);
        }

        #[test]
        fn a_datagram_of_any_bytes_is_one_event_at_most(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let events = WriterHarness::new(4096).datagram(&bytes);
            prop_assert!(events.len() <= 1);
            if !bytes.is_empty() && bytes[0] != b'<' {
                prop_assert_eq!(&events[0].payload, &bytes);
            }
        }
    }

    #[test]
    fn a_batch_is_counted_and_its_checksum_is_that_of_its_bytes() {
        let options = Options { capacity_bytes: 4096, chunk_bytes: 1024, writers_max: 1 };
        let (buffer, mut reader) = DoubleBuffer::new(&options).unwrap();
        let mut writer = buffer.writer().unwrap();
        let mut all = Vec::new();
        encode_source(&mut all, 0, 1, &Source::default());
        writer.append(&all).unwrap();
        for _ in 0..20 {
            let mut bytes = Vec::new();
            Event { payload: b"a hundred bytes, or nearly as many", ..Event::default() }.encode(&mut bytes);
            writer.append(&bytes).unwrap();
            all.extend_from_slice(&bytes);
        }
        assert_eq!(ReaderHarness::default().take(&reader.swap()), (20, crc32c::crc32c(&all)));
    }
}
