//! Tests that records are read back as they were written, and that nothing else is read.

use super::*;

#[test]
fn a_plain_event_is_read_back_as_it_was_written() {
    let mut bytes = Vec::new();
    let event = Event { time_ns: 7, source: 3, pri: 14, payload: b"hello", ..Event::default() };
    event.encode(&mut bytes);
    assert_eq!(bytes.len(), event.record_bytes());
    let (record, total) = Record::decode(&bytes).unwrap();
    assert_eq!(total, bytes.len());
    assert_eq!((record.time_ns, record.source, record.priority(), record.facility()), (7, 3, 6, 1));
    assert_eq!(record.payload(), b"hello");
    assert_eq!((record.event_count(), record.payload_bytes()), (1, 5));
}

#[test]
fn a_payload_of_any_length_is_padded_with_zeros() {
    let payload = [0xff; 3 * ALIGN];
    for length in 0..=payload.len() {
        let event = Event { payload: &payload[..length], ..Event::default() };
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        assert_eq!(bytes.len(), event.record_bytes());
        assert_eq!(bytes[HEAD_BYTES..][..length], payload[..length]);
        assert!(bytes[HEAD_BYTES + length..].iter().all(|byte| *byte == 0), "after {length} bytes");
    }
}

#[test]
fn a_record_of_lines_is_read_back_as_one_event_a_line() {
    let mut bytes = Vec::new();
    encode_lines(&mut bytes, 3, 7, 14, b"one\ntwo and more\n3\n");
    assert_eq!(bytes.len(), lines_record_bytes(19));
    let (record, total) = Record::decode(&bytes).unwrap();
    assert_eq!((total, record.event_count(), record.payload_bytes()), (bytes.len(), 3, 16));
    let mut backward: Vec<_> = record.lines_backward().collect();
    backward.reverse();
    assert_eq!(backward, record.lines().collect::<Vec<_>>());
    let singles: Vec<_> = record.singles().collect();
    let payloads: Vec<_> = singles.iter().map(Record::payload).collect();
    assert_eq!(payloads, [&b"one"[..], b"two and more", b"3"]);
    for single in singles {
        assert_eq!((single.time_ns, single.source, single.pri, single.event_count()), (7, 3, 14, 1));
        let mut copy = Vec::new();
        single.encode(&mut copy);
        assert_eq!(Record::decode(&copy).unwrap().0.payload(), single.payload(), "it stands by itself");
    }
    let mut event = Vec::new();
    Event { payload: b"a\nb\n", ..Event::default() }.encode(&mut event);
    let (event, _) = Record::decode(&event).unwrap();
    assert_eq!(
        (event.event_count(), event.lines().chain(event.lines_backward()).count(), event.singles().count()),
        (1, 0, 1)
    );
}

#[test]
fn a_record_of_lines_that_does_not_end_with_one_is_refused() {
    let mut whole = Vec::new();
    encode_lines(&mut whole, 3, 7, 14, b"one\ntwo\n");
    let mut cut = whole.clone();
    cut[0] -= 1;
    let mut empty = whole.clone();
    empty[0] = 0;
    let mut in_pieces = whole.clone();
    in_pieces[6] |= flag::CONTINUED as u8;
    for (what, bytes) in [("cut off", cut), ("empty", empty), ("in pieces", in_pieces)] {
        assert!(Record::decode(&bytes).is_err(), "{what}");
    }
    assert!(Record::decode(&whole).is_ok());
}

#[test]
fn every_extension_is_read_back_together_with_every_other() {
    let mut fields = Vec::new();
    assert!(put_field(&mut fields, b"SYSLOG_MSGID", b"ID47"));
    assert!(put_field(&mut fields, b"EMPTY", b""));
    for bits in 0..16u32 {
        let event = Event {
            source_time_ns: (bits & 1 != 0).then_some(11),
            producer_sequence: (bits & 2 != 0).then_some(22),
            piece: (bits & 4 != 0).then_some(Piece { id: 33, continued: true, continues: true }),
            fields: if bits & 8 != 0 { &fields } else { &[] },
            payload: b"payload",
            ..Event::default()
        };
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        assert_eq!(bytes.len(), event.record_bytes());
        let (record, _) = Record::decode(&bytes).unwrap();
        assert_eq!(record.source_time_ns(), event.source_time_ns);
        assert_eq!(record.producer_sequence(), event.producer_sequence);
        assert_eq!(record.piece(), event.piece);
        assert_eq!(record.payload(), b"payload");
        assert_eq!(record.event_count(), usize::from(event.piece.is_none()));
        let read: Vec<_> = record.fields().collect();
        if bits & 8 != 0 {
            assert_eq!(read, [(&b"SYSLOG_MSGID"[..], &b"ID47"[..]), (b"EMPTY", b"")]);
        } else {
            assert!(read.is_empty());
        }
    }
}

#[test]
fn sources_and_losses_are_read_back() {
    let source = Source {
        pid: 1,
        uid: 2,
        gid: 3,
        claimed_pid: 4,
        session: 5 << 100,
        transport: Transport::Frames,
        tag: b"app",
        comm: b"cat",
        unit: b"x.service",
    };
    let loss = Loss { cause: Cause::TooBig, events: 1, bytes: 2, first_ns: 3, last_ns: 4 };
    let mut bytes = Vec::new();
    encode_source(&mut bytes, 9, 1, &source);
    assert_eq!(bytes.len(), source.record_bytes());
    encode_loss(&mut bytes, 9, 1, &loss);
    let (first, total) = Record::decode(&bytes).unwrap();
    assert_eq!(first.as_source().unwrap(), source);
    assert_eq!(first.source, 9);
    let (second, rest) = Record::decode(&bytes[total..]).unwrap();
    assert_eq!(second.as_loss().unwrap(), loss);
    assert_eq!(total + rest, bytes.len());
    assert!(first.as_loss().is_err() && second.as_source().is_err());
}

#[test]
fn a_record_cut_at_any_byte_is_refused_and_never_read_past() {
    let mut fields = Vec::new();
    put_field(&mut fields, b"A", b"b");
    let event = Event { source_time_ns: Some(1), fields: &fields, payload: b"0123456789", ..Event::default() };
    let mut bytes = Vec::new();
    event.encode(&mut bytes);
    for cut in 0..bytes.len() {
        assert!(Record::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    for length in 0..bytes.len() as u32 {
        let mut lying = bytes.clone();
        lying[0..4].copy_from_slice(&length.to_le_bytes());
        if let Ok((record, _)) = Record::decode(&lying) {
            let _ = (record.payload(), record.fields().count(), record.source_time_ns());
        }
    }
}

#[test]
fn a_source_and_a_loss_with_a_flag_are_refused_and_no_extension_of_theirs_is_read() {
    let mut source = Vec::new();
    encode_source(&mut source, 9, 1, &Source { tag: &[0x7f; 8], ..Source::default() });
    let mut loss = Vec::new();
    encode_loss(&mut loss, 9, 1, &Loss { cause: Cause::TooBig, events: !0, bytes: !0, first_ns: !0, last_ns: !0 });
    for mut bytes in [source, loss] {
        assert!(Record::decode(&bytes).is_ok());
        for bit in 0..16 {
            bytes[6..8].copy_from_slice(&(1_u16 << bit).to_le_bytes());
            let refused = Record::decode(&bytes).map(|(record, _)| record.payload().len());
            assert_eq!(refused.unwrap_err().to_string(), "a record with unknown flags", "bit {bit}");
        }
    }
}
