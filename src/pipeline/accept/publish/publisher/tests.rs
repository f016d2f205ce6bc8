//! What the previous process has published is not laid down again, also in the middle of a block of lines.

use super::*;
use crate::pipeline::accept::publish::NoObserver;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::{DoubleBuffer, Options};
use crate::pipeline::record::{Kind, Record};

#[test]
fn what_a_predecessor_has_published_of_a_read_is_left_out_line_by_line() {
    const INPUT: &[u8] = b"one\ntwo\nthree\nfour\nfive\nsix\n";
    for published in 0..=6 {
        let options = Options { capacity_bytes: 1 << 20, chunk_bytes: 1 << 16, writers_max: 1 };
        let (buffer, mut reader) = DoubleBuffer::new(&options).unwrap();
        let counters = Arc::new(Counters::new(1).unwrap());
        let mut publisher = Publisher::new(buffer.writer().unwrap(), 0, Arc::clone(&counters), Arc::default());
        publisher.begin_read(published);
        publisher.begin(1);
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
