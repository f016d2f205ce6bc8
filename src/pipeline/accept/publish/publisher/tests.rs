//! Tests that what the previous process has published is skipped, even in the middle of a block of lines, and that what
//! the reader swaps away is encoded again.

use super::*;
use crate::pipeline::accept::publish::NoObserver;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::{DoubleBuffer, Options, Reader};
use crate::pipeline::record::{Event, Kind, Record};

#[test]
fn what_the_previous_process_has_published_of_a_read_is_left_out_line_by_line() {
    const INPUT: &[u8] = b"one\ntwo\nthree\nfour\nfive\nsix\n";
    for published in 0..=6 {
        let options = Options { capacity_bytes: 1 << 20, chunk_bytes: 1 << 16, writers_max: 1 };
        let (buffer, mut reader) = DoubleBuffer::new(&options).unwrap();
        let counters = Arc::new(Counters::new(1).unwrap());
        let mut publisher = Publisher::new(buffer.writer().unwrap(), 0, Arc::clone(&counters), Arc::default());
        publisher.begin_read(published);
        publisher.set_time(1);
        let peer = Peer { number: 1, identity: Identity::default() };
        let slot = publisher.slot(&peer, Transport::Lines, 0, b"");
        publisher.add(slot, 6, 0..3);
        publisher.add_lines(slot, 6, 4..19, 3);
        publisher.add_lines(slot, 6, 19..28, 2);
        publisher.publish_pending(INPUT, &mut NoObserver).unwrap();
        assert_eq!(publisher.count, 6, "all of it is published now");

        let mut texts = Vec::new();
        for mut bytes in reader.swap().runs().flat_map(|run| run.chunks()) {
            while !bytes.is_empty() {
                let (record, taken) = Record::decode(bytes).unwrap();
                bytes = &bytes[taken..];
                let events = record.singles().filter(|record| record.kind == Kind::Event);
                texts.extend(events.map(|event| String::from_utf8_lossy(event.payload()).into_owned()));
            }
        }
        let all = ["one", "two", "three", "four", "five", "six"];
        assert_eq!(texts, all[published as usize..], "{published} were published");
        let counted = counters.account.totals();
        let bytes: usize = texts.iter().map(String::len).sum();
        assert_eq!((counted.received_events, counted.received_bytes), (6 - published, bytes as u64));
    }
}

/// Events with a tag each, and a reader that swaps this many times while the first of them is encoded.
struct Tags<'a> {
    reader: &'a mut Reader,
    peer: Peer,
    swaps: usize,
    /// Each try finds other tags, as a program that writes to its ring meanwhile can make them.
    changes: bool,
    next: usize,
    put: usize,
    end: usize,
    /// The calls of the publisher, in order.
    said: Vec<&'static str>,
}

impl EventSource for Tags<'_> {
    fn encode(&mut self, encoder: &mut ClaimEncoder<'_, '_>) {
        self.put = 0;
        while self.next + self.put < self.end {
            let turn = if self.changes { self.swaps } else { 0 };
            let tag = format!("t{}", self.next + self.put + 100_000 * turn);
            let slot = encoder.slot(&self.peer, Transport::Ring, tag.as_bytes());
            if !encoder.encode(slot, &Event { payload: tag.as_bytes(), ..Event::default() }) {
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
    fn prepare(&mut self, _position: PublishPosition, _published: Published) {
        self.said.push("prepare");
    }

    fn abort(&mut self) {
        self.said.push("abort");
    }

    fn commit(&mut self, _generation: u64, _published: Published) {
        self.said.push("commit");
        self.next += self.put;
    }
}

fn publish_from(events: usize, swaps: usize, changes: bool) -> (Vec<&'static str>, Vec<String>, u64) {
    let options = Options { capacity_bytes: 4 << 20, chunk_bytes: 1 << 20, writers_max: 1 };
    let (buffer, mut reader) = DoubleBuffer::new(&options).unwrap();
    let counters = Arc::new(Counters::new(1).unwrap());
    let mut publisher = Publisher::new(buffer.writer().unwrap(), 0, Arc::clone(&counters), Arc::default());
    publisher.set_time(1);
    let peer = Peer { number: 1, identity: Identity::default() };
    let mut tags = Tags { reader: &mut reader, peer, swaps, changes, next: 0, put: 0, end: events, said: Vec::new() };
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
fn what_the_reader_swaps_away_is_rolled_back_and_published_again() {
    let (said, texts, counted) = publish_from(3, 2, false);
    assert_eq!(said, ["prepare", "abort", "prepare", "abort", "prepare", "commit"]);
    assert_eq!((texts, counted), (vec!["t0".to_owned(), "t1".to_owned(), "t2".to_owned()], 3));
}

#[test]
fn a_program_that_changes_all_tags_between_the_tries_of_a_claim_does_not_use_up_the_sources() {
    let (said, texts, counted) = publish_from(3000, 10, true);
    assert_eq!((said.iter().filter(|said| **said == "abort").count(), texts.len(), counted), (10, 3000, 3000));
}

#[test]
fn a_claim_ends_before_it_names_more_sources_than_the_writer_remembers() {
    let (said, texts, counted) = publish_from(3000, 0, false);
    assert!(said.len() >= 2 * 3000 / EVENTS_MAX, "{}", said.len());
    assert!(texts.iter().enumerate().all(|(number, text)| *text == format!("t{number}")));
    assert_eq!((texts.len(), counted), (3000, 3000));
}
