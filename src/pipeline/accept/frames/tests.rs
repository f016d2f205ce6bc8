use std::ops::RangeInclusive;

use dbuf_wire::frames::{self as wire, Code, Event, Frame, HEAD_BYTES, Head, Hello, Level, Welcome, feature, kind};
use proptest::prelude::*;

use super::session::OUTBOX_BYTES_FOR_ACKS;
use super::*;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::Cause;
use crate::pipeline::shares::Shares;
use crate::sync::Arc;

const MAX_EVENT: usize = 1000;

fn hello(session: u128, ack: Level) -> Vec<u8> {
    let mut bytes = wire::MAGIC.to_vec();
    Frame::Hello(Hello { session, ack, ..Hello::new(b"app") }).encode(&mut bytes);
    bytes
}

fn open(sessions: &Arc<Sessions>, id: u128, ack: Level) -> FrameSession {
    let bytes = hello(id, ack);
    match handshake(&bytes, MAX_EVENT, 1000, sessions) {
        Handshake::Open { session, consumed } => {
            assert_eq!(consumed, bytes.len());
            *session
        }
        other => panic!("not opened: {other:?}"),
    }
}

fn opened(ack: Level) -> FrameSession {
    let mut session = open(&Sessions::new(Shares::even(4096)), 0, ack);
    let welcome = session.outgoing().len();
    session.sent(welcome);
    session
}

fn up_to(sequence: u64) -> Published {
    Published { sequence: Some(sequence), is_all: false }
}

fn event(sequence: u64, payload: &[u8]) -> Vec<u8> {
    encoded(&Frame::Event(Event { pri: 6, sequence, payload, ..Event::default() }))
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    bytes
}

/// What a session finds in bytes, in a form that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Event(u64, Vec<u8>),
    Refused(Cause, u64),
    Duplicate,
    Ring(u64),
    Bye,
    Broken(Option<Cause>),
}

/// Runs all steps over `bytes`. Returns what was seen and the number of bytes that were not consumed.
fn run(session: &mut FrameSession, bytes: &[u8]) -> (Vec<Seen>, usize) {
    let mut seen = Vec::new();
    let mut at = 0;
    loop {
        match session.next(&bytes[at..]) {
            Step::Event { event, consumed } => {
                seen.push(Seen::Event(event.sequence, event.payload.to_vec()));
                at += consumed;
            }
            Step::Refused { cause, payload_bytes, consumed } => {
                seen.push(Seen::Refused(cause, payload_bytes));
                at += consumed;
            }
            Step::Ring { capacity, consumed } => {
                seen.push(Seen::Ring(capacity));
                at += consumed;
            }
            Step::Duplicate { consumed } => {
                seen.push(Seen::Duplicate);
                at += consumed;
            }
            Step::Passed { consumed } => at += consumed,
            Step::More { frame_bytes } => {
                assert!(frame_bytes > bytes.len() - at && frame_bytes <= frame_bytes_max(MAX_EVENT));
                return (seen, bytes.len() - at);
            }
            Step::Bye => {
                seen.push(Seen::Bye);
                return (seen, bytes.len() - at);
            }
            Step::Broken { cause, .. } => {
                seen.push(Seen::Broken(cause));
                return (seen, bytes.len() - at);
            }
        }
    }
}

/// Takes everything from the outbox: acknowledgements as (level, sequence, 0), errors as (None, first, last).
fn replies(session: &mut FrameSession) -> Vec<(Option<Level>, u64, u64)> {
    let bytes = session.outgoing().to_vec();
    session.sent(bytes.len());
    let mut rest = &bytes[..];
    let mut replies = Vec::new();
    while let Some((frame, consumed)) = Frame::decode(rest).unwrap() {
        rest = &rest[consumed..];
        match frame {
            Frame::Ack { level, sequence } => replies.push((Some(level), sequence, 0)),
            Frame::Error(fault) => replies.push((None, fault.first, fault.last)),
            other => panic!("{other:?}"),
        }
    }
    assert!(rest.is_empty());
    replies
}

fn nothing_lost(_: RangeInclusive<u64>, _: bool) -> bool {
    false
}

#[test]
fn a_hello_cut_at_any_byte_is_waited_for_and_then_answered() {
    let sessions = Sessions::new(Shares::even(4096));
    let bytes = hello(7, Level::Durable);
    for cut in 0..bytes.len() {
        assert!(matches!(handshake(&bytes[..cut], MAX_EVENT, 0, &sessions), Handshake::More), "cut at {cut}");
    }
    let mut session = open(&sessions, 7, Level::Durable);
    assert_eq!((session.name(), session.session()), (&b"app"[..], 7));
    let welcome = Frame::decode(session.outgoing()).unwrap().unwrap().0;
    assert_eq!(
        welcome,
        Frame::Welcome(Welcome { version: 1, max_event: 1000, compatible: 0, incompatible: 0, last: 0 })
    );
}

#[test]
fn a_client_that_cannot_be_understood_is_told_why_and_refused() {
    let refusal = |frame: Vec<u8>| match handshake(
        &[&wire::MAGIC[..], &frame].concat(),
        MAX_EVENT,
        0,
        &Sessions::new(Shares::even(4096)),
    ) {
        Handshake::Refused { reply, malformed, .. } => match Frame::decode(&reply).unwrap().unwrap().0 {
            Frame::Error(fault) => (Code::from_number(fault.code).unwrap(), malformed),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    let say = |hello: Hello<'_>| encoded(&Frame::Hello(hello));
    let mine = Hello::new(b"");
    assert_eq!(refusal(say(Hello { version: 9, version_min: 2, ..mine })), (Code::Version, false));
    assert_eq!(refusal(say(Hello { version: 0, version_min: 0, ..mine })), (Code::Version, false));
    assert_eq!(refusal(say(Hello { incompatible: 1 << 40, ..mine })), (Code::Version, false));
    assert_eq!(refusal(event(1, b"x")), (Code::Broken, true));
    assert_eq!(refusal(vec![0xFF; 24]), (Code::Broken, true));
    let mut short = say(mine);
    short[0] -= 1;
    assert_eq!(refusal(short), (Code::Broken, true));
    let text = handshake(b"hello\nworld\n", MAX_EVENT, 0, &Sessions::new(Shares::even(4096)));
    assert!(matches!(text, Handshake::Refused { malformed: true, .. }));
}

#[test]
fn a_client_of_a_later_version_gets_our_version() {
    let mut bytes = wire::MAGIC.to_vec();
    Frame::Hello(Hello { version: 9, compatible: 0b11000, ..Hello::new(b"") }).encode(&mut bytes);
    let Handshake::Open { mut session, .. } = handshake(&bytes, MAX_EVENT, 0, &Sessions::new(Shares::even(4096)))
    else {
        panic!()
    };
    let Frame::Welcome(welcome) = Frame::decode(session.outgoing()).unwrap().unwrap().0 else { panic!() };
    assert_eq!((welcome.version, welcome.compatible), (1, 0));
}

#[test]
fn events_come_out_as_they_were_sent() {
    let mut session = opened(Level::None);
    let full = Event { pri: 191, tag: b"tag", time_ns: 5, sequence: 9, fields: b"", payload: b"payload" };
    let bytes = encoded(&Frame::Event(full));
    assert_eq!(session.next(&bytes), Step::Event { event: full, consumed: bytes.len() });
}

/// A session whose events may have fields.
fn with_fields() -> FrameSession {
    let mut bytes = wire::MAGIC.to_vec();
    Frame::Hello(Hello { compatible: feature::FIELDS, ..Hello::new(b"app") }).encode(&mut bytes);
    let Handshake::Open { mut session, .. } = handshake(&bytes, MAX_EVENT, 0, &Sessions::new(Shares::even(4096)))
    else {
        panic!()
    };
    let Frame::Welcome(welcome) = Frame::decode(session.outgoing()).unwrap().unwrap().0 else { panic!() };
    assert_eq!(welcome.compatible, feature::FIELDS);
    let welcome = session.outgoing().len();
    session.sent(welcome);
    *session
}

#[test]
fn events_have_fields_where_they_were_asked_for_and_nowhere_else() {
    let mut fields = Vec::new();
    assert!(wire::put_field(&mut fields, b"ORDER", b"17"));
    let event = Event { pri: 6, tag: b"tag", time_ns: 5, sequence: 9, fields: &fields, payload: b"payload" };
    let bytes = encoded(&Frame::Event(event));
    for cut in 0..bytes.len() {
        assert!(matches!(with_fields().next(&bytes[..cut]), Step::More { .. }), "cut at {cut}");
    }
    assert_eq!(with_fields().next(&bytes), Step::Event { event, consumed: bytes.len() });
    let (seen, _) = run(&mut opened(Level::None), &bytes);
    assert_eq!(seen, [Seen::Broken(Some(Cause::Malformed))]);
}

#[test]
fn an_event_with_malformed_fields_is_refused_alone_and_named() {
    let framed = |fields: &[u8], payload: &[u8]| {
        encoded(&Frame::Event(Event { sequence: 1, fields, payload, ..Event::default() }))
    };
    let mut good = Vec::new();
    assert!(wire::put_field(&mut good, b"ORDER", b"17"));
    let mut cut_off = framed(&good, b"x");
    cut_off[HEAD_BYTES] = 200;
    for (bad, cause) in [
        (framed(b"no fields at all", b"x"), Cause::Malformed),
        (framed(&good, b""), Cause::Malformed),
        (cut_off, Cause::Malformed),
        (framed(&good, &[1; MAX_EVENT + 1]), Cause::TooBig),
        (framed(&[0; wire::FIELDS_BYTES_MAX + 1], &[1; MAX_EVENT]), Cause::TooBig),
    ] {
        let mut session = with_fields();
        let (seen, rest) = run(&mut session, &[bad, event(2, b"good")].concat());
        assert!(matches!(seen[0], Seen::Refused(refused, _) if refused == cause), "{seen:?}");
        assert_eq!((&seen[1..], rest), (&[Seen::Event(2, b"good".to_vec())][..], 0));
        assert_eq!(replies(&mut session), [(None, 1, 1)]);
    }
    // The longest event possible.
    let payload = [1; MAX_EVENT];
    let mut longest = Vec::new();
    assert!(wire::put_field(&mut longest, b"N", &[b'x'; wire::FIELDS_BYTES_MAX - 6]));
    let (seen, _) = run(&mut with_fields(), &framed(&longest, &payload));
    assert_eq!(seen, [Seen::Event(1, payload.to_vec())]);
}

#[test]
fn too_large_a_frame_is_refused_from_its_head_and_the_next_one_is_read() {
    let mut session = opened(Level::None);
    let bytes = [event(1, &[1; MAX_EVENT]), event(2, &[2; MAX_EVENT + 1]), event(3, b"three")].concat();
    let head = event(1, &[1; MAX_EVENT]).len() + HEAD_BYTES;
    let (seen, rest) = run(&mut session, &bytes[..head]);
    assert_eq!(seen, [Seen::Event(1, vec![1; MAX_EVENT]), Seen::Refused(Cause::TooBig, MAX_EVENT as u64 + 1)]);
    assert_eq!(rest, 0, "nothing of its body is waited for");
    let (seen, rest) = run(&mut session, &bytes[head..]);
    assert_eq!((seen, rest), (vec![Seen::Event(3, b"three".to_vec())], 0));
    assert_eq!(replies(&mut session), [(None, 2, 2)]);
}

#[test]
fn an_event_that_breaks_a_rule_is_refused_alone_and_named() {
    for (bad, named) in [
        (event(1, b""), 1),
        (event(0, b"x"), 0),
        (encoded(&Frame::Event(Event { pri: 192, sequence: 1, payload: b"x", ..Event::default() })), 1),
        (
            {
                let mut bytes = Vec::new();
                let length = 70;
                Head { length, kind: kind::EVENT, tag_length: 65, sequence: 1, ..Head::default() }.encode(&mut bytes);
                bytes.extend_from_slice(&[b't'; 70]);
                bytes
            },
            1,
        ),
    ] {
        let mut session = opened(Level::None);
        let (seen, rest) = run(&mut session, &[bad, event(2, b"good")].concat());
        assert!(matches!(seen[0], Seen::Refused(Cause::Malformed, _)), "{seen:?}");
        assert_eq!((&seen[1..], rest), (&[Seen::Event(2, b"good".to_vec())][..], 0));
        assert_eq!(replies(&mut session), [(None, named, named)]);
    }
}

#[test]
fn bytes_that_are_no_frames_end_the_connection_at_once() {
    let lie = {
        let mut bytes = Vec::new();
        Head { length: 2 << 30, kind: kind::EVENT, sequence: 1, ..Head::default() }.encode(&mut bytes);
        bytes
    };
    let not_for_us = encoded(&Frame::Ack { level: Level::None, sequence: 1 });
    let second_hello = encoded(&Frame::Hello(Hello::new(b"")));
    for bad in [lie, not_for_us, second_hello, vec![b'A'; 30], encoded(&Frame::Ignored { kind: 0x33 })] {
        let mut session = opened(Level::None);
        let (seen, _) = run(&mut session, &bad);
        assert_eq!(seen, [Seen::Broken(Some(Cause::Malformed))]);
        assert_eq!(replies(&mut session), [(None, 0, 0)]);
    }
}

#[test]
fn a_frame_of_a_later_version_is_passed_over() {
    let mut session = opened(Level::None);
    let mut bytes = Vec::new();
    Head { length: 5000, kind: 0x90, ..Head::default() }.encode(&mut bytes);
    bytes.extend_from_slice(&[0xAA; 5000]);
    bytes.extend(event(1, b"x"));
    assert_eq!(run(&mut session, &bytes), (vec![Seen::Event(1, b"x".to_vec())], 0));
}

#[test]
fn what_was_accepted_before_is_a_duplicate_and_not_stored_again() {
    let sessions = Sessions::new(Shares::even(4096));
    let mut session = open(&sessions, 9, Level::Durable);
    let bytes = [event(1, b"a"), event(5, b"b"), event(5, b"b"), event(4, b"late")].concat();
    let (seen, _) = run(&mut session, &bytes);
    let stored = [Seen::Event(1, b"a".to_vec()), Seen::Event(5, b"b".to_vec())];
    assert_eq!(seen, [&stored[..], &[Seen::Duplicate, Seen::Duplicate]].concat());
    session.commit(3, up_to(5));
    drop(session);

    let mut again = open(&sessions, 9, Level::Durable);
    let Frame::Welcome(welcome) = Frame::decode(again.outgoing()).unwrap().unwrap().0 else { panic!() };
    assert_eq!(welcome.last, 5);
    let sent = again.outgoing().len();
    again.sent(sent);
    let (seen, _) = run(&mut again, &[event(5, b"b"), event(6, b"c")].concat());
    assert_eq!(seen, [Seen::Duplicate, Seen::Event(6, b"c".to_vec())]);
    again.commit(8, up_to(6));
    again.progress(4, 4, nothing_lost);
    assert_eq!(replies(&mut again), [(Some(Level::Durable), 5, 0)], "acknowledged although it came twice");
}

#[test]
fn a_refused_event_is_remembered_once_the_record_that_names_it_is_published() {
    let too_big = event(3, &[b'x'; MAX_EVENT + 1]);
    let refused = Seen::Refused(Cause::TooBig, MAX_EVENT as u64 + 1);
    // A table that the next process would find.
    let session_table = SessionTable::new().unwrap();
    let memory = session_table.descriptor();
    let sessions = Sessions::with_session_table(Shares::even(4096), session_table);
    let known = || {
        let next = SessionTable::inherit(memory.try_clone().unwrap()).unwrap();
        next.resolve(&|_| true);
        next.found()[0].last
    };
    let mut session = open(&sessions, 9, Level::None);
    let (seen, _) = run(&mut session, &[event(1, b"a"), too_big].concat());
    assert_eq!(seen, [Seen::Event(1, b"a".to_vec()), refused]);
    let position = PublishPosition::from_words([1, 0]).unwrap();
    session.prepare(position, up_to(1));
    assert_eq!(known(), 1, "the record of the refusal had no room in that claim");
    session.commit(1, up_to(1));
    let rest = Published { sequence: None, is_all: true };
    session.prepare(position, rest);
    assert_eq!(known(), 3);
    session.commit(1, rest);
    assert_eq!(known(), 3);
}

#[test]
fn what_was_parsed_but_never_published_may_be_sent_again() {
    let sessions = Sessions::new(Shares::even(4096));
    let mut session = open(&sessions, 9, Level::None);
    run(&mut session, &[event(1, b"a"), event(2, b"b"), event(3, b"c")].concat());
    session.commit(1, up_to(2));
    drop(session);
    let mut again = open(&sessions, 9, Level::None);
    assert_eq!(run(&mut again, &event(3, b"c")).0, [Seen::Event(3, b"c".to_vec())]);
}

#[test]
fn a_sync_waits_for_the_publish_of_what_came_before_it() {
    let mut session = opened(Level::Durable);
    let sync = encoded(&Frame::Sync);
    let bytes = [event(1, b"a"), event(2, &[0; MAX_EVENT + 1]), event(3, b"c"), sync].concat();
    run(&mut session, &bytes);
    assert!(!session.take_sync());
    session.commit(4, up_to(1));
    session.progress(5, 5, nothing_lost);
    assert_eq!(replies(&mut session), [(None, 2, 2), (Some(Level::Durable), 1, 0)], "3 is not published");
    session.commit(5, up_to(3));
    assert!(session.take_sync());
    assert!(!session.take_sync(), "asked once");
    session.progress(6, 6, nothing_lost);
    assert_eq!(replies(&mut session), [(Some(Level::Durable), 3, 0)]);
}

#[test]
fn the_highest_sequence_possible_ends_a_session_and_harms_no_other() {
    let mut session = opened(Level::Durable);
    let bytes = [event(u64::MAX, b"a"), event(u64::MAX, b"b"), event(1, b"c"), encoded(&Frame::Sync)].concat();
    let (seen, _) = run(&mut session, &bytes);
    assert_eq!(seen, [Seen::Event(u64::MAX, b"a".to_vec()), Seen::Duplicate, Seen::Duplicate]);
    session.commit(1, up_to(u64::MAX));
    assert!(session.take_sync());
    session.progress(2, 2, nothing_lost);
    assert_eq!(replies(&mut session), [(Some(Level::Durable), u64::MAX, 0)]);
}

#[test]
fn a_loss_is_reported_before_the_acknowledgement_that_passes_it() {
    let mut session = opened(Level::Persisted);
    run(&mut session, &[event(1, b"a"), event(2, b"b"), event(3, b"c")].concat());
    session.commit(1, up_to(2));
    session.commit(2, up_to(3));
    assert_ne!(session.wants(), 0);
    session.progress(3, 1, |range, _| range.contains(&1));
    assert_eq!(replies(&mut session), [(None, 1, 2), (Some(Level::Persisted), 3, 0)]);
    assert_eq!(session.wants(), 0);

    // A failed sync loses events that were persisted.
    let mut session = opened(Level::Durable);
    run(&mut session, &[event(1, b"a"), event(2, b"b")].concat());
    session.commit(1, up_to(1));
    session.commit(2, up_to(2));
    session.progress(3, 1, nothing_lost);
    assert_eq!(replies(&mut session), []);
    session.progress(3, 3, |range, _| range.contains(&1));
    assert_eq!(replies(&mut session), [(None, 1, 1), (Some(Level::Durable), 2, 0)]);
}

/// A session whose client was told that 6 to 9 are lost, while 1 to 5 wait for a sync. The client then comes back, to
/// the next process or to this one.
fn back_after_a_known_loss(to_next: bool) -> FrameSession {
    let session_table = SessionTable::new().unwrap();
    let memory = session_table.descriptor();
    let sessions = Sessions::with_session_table(Shares::even(4096), session_table);
    let mut session = open(&sessions, 9, Level::Durable);
    let welcome = session.outgoing().len();
    session.sent(welcome);
    for (generation, sequences) in [(10, 1..=5), (11, 6..=9)] {
        let last = *sequences.end();
        run(&mut session, &sequences.flat_map(|n| event(n, b"x")).collect::<Vec<_>>());
        session.prepare(PublishPosition::from_words([generation, 0]).unwrap(), up_to(last));
        session.commit(generation, up_to(last));
    }
    session.progress(12, 10, given_up);
    assert_eq!(replies(&mut session), [(None, 6, 9)]);
    session.all_sent();
    let next = Sessions::with_session_table(Shares::even(4096), SessionTable::inherit(memory).unwrap());
    drop(session);
    let mut again = open(if to_next { &next } else { &sessions }, 9, Level::Durable);
    let welcome = again.outgoing().len();
    again.sent(welcome);
    again
}

fn given_up(generations: RangeInclusive<u64>, in_file: bool) -> bool {
    !in_file && generations.contains(&11)
}

#[test]
fn a_reported_loss_is_not_reported_again_and_one_by_a_sync_is_reported_alone() {
    for to_next in [false, true] {
        let mut again = back_after_a_known_loss(to_next);
        again.progress(12, 12, given_up);
        assert_eq!(replies(&mut again), [(Some(Level::Durable), 9, 0)]);
        let mut again = back_after_a_known_loss(to_next);
        again.progress(12, 12, |range, in_file| given_up(range.clone(), in_file) || range.contains(&10));
        assert_eq!(replies(&mut again), [(None, 1, 5), (Some(Level::Durable), 9, 0)]);
    }
}

#[test]
fn a_client_that_reads_slowly_gets_fewer_acknowledgements_and_the_latest() {
    let mut session = opened(Level::Persisted);
    let mut most = 0;
    for n in 1..=10_000 {
        run(&mut session, &event(n, b"x"));
        session.commit(n, up_to(n));
        session.progress(n + 1, 0, nothing_lost);
        most = most.max(session.outgoing().len());
    }
    assert!(most <= OUTBOX_BYTES_FOR_ACKS + 2 * HEAD_BYTES, "{most} bytes wait");
    assert!(!session.reads_no_replies());
    let told = replies(&mut session);
    assert!(told.len() < 1000);
    assert_eq!(replies(&mut session), [(Some(Level::Persisted), 10_000, 0)]);
}

#[test]
fn a_client_that_gets_errors_and_never_reads_is_cut_off() {
    let mut session = opened(Level::Persisted);
    let mut rounds = 0;
    let end = loop {
        rounds += 1;
        let (seen, _) = run(&mut session, &event(rounds, b""));
        if let Some(Seen::Broken(cause)) = seen.last() {
            break *cause;
        }
        assert!(rounds < 10_000, "bounded");
    };
    assert_eq!(end, None, "its events were counted one by one");
    assert!(session.reads_no_replies() && session.outgoing().len() <= OUTBOX_BYTES_MAX + 200);
}

#[test]
fn a_loss_that_found_no_room_among_unread_replies_is_reported_when_the_client_comes_back() {
    let sessions = Sessions::new(Shares::even(4096));
    let mut session = open(&sessions, 9, Level::Durable);
    run(&mut session, &event(1, b"a"));
    session.commit(5, up_to(1));
    let refused = (2..).take_while(|n| {
        run(&mut session, &event(*n, b""));
        session.outgoing().len() <= OUTBOX_BYTES_MAX
    });
    let last = 2 + refused.count() as u64;
    let lost = |range: RangeInclusive<u64>, _| range.contains(&5);
    session.progress(6, 6, lost);
    assert!(session.reads_no_replies());
    // The socket has room again before its writer closes it.
    let waiting = session.outgoing().len();
    session.sent(waiting);
    session.all_sent();
    drop(session);

    let mut again = open(&sessions, 9, Level::Durable);
    let welcome = again.outgoing().len();
    again.sent(welcome);
    again.progress(6, 6, lost);
    assert_eq!(replies(&mut again), [(None, 1, 1), (Some(Level::Durable), last, 0)]);
}

#[test]
fn an_event_cut_by_the_end_of_its_sender_is_abandoned_and_nothing_else_is() {
    let bytes = event(1, b"payload");
    for cut in 0..bytes.len() {
        let mut session = opened(Level::None);
        let (_, rest) = run(&mut session, &bytes[..cut]);
        let end = session.at_end(&bytes[cut - rest..cut]);
        assert_eq!(end, (cut > 0).then_some(Cause::Abandoned), "cut at {cut}");
    }
    let mut session = opened(Level::None);
    let bytes = event(1, &[0; 2 * MAX_EVENT]);
    run(&mut session, &bytes[..MAX_EVENT]);
    assert_eq!(session.at_end(&[]), None, "counted as too big already");
    assert_eq!(opened(Level::None).at_end(&encoded(&Frame::Sync)[..9]), None);
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        5 => (1..60u64, 0..50usize).prop_map(|(sequence, size)| event(sequence, &vec![7; size])),
        1 => (1..60u64).prop_map(|sequence| event(sequence, &[7; MAX_EVENT + 10])),
        1 => Just(encoded(&Frame::Sync)),
        1 => Just({
            let mut bytes = Vec::new();
            Head { length: 9, kind: 0xEE, ..Head::default() }.encode(&mut bytes);
            [bytes, vec![0; 9]].concat()
        }),
    ]
}

proptest! {
    /// The same events come out, however the kernel cuts the bytes, and whenever their events are published.
    #[test]
    fn neither_cuts_nor_publishes_change_what_is_seen(
        frames in prop::collection::vec(any_frame(), 0..40),
        cuts in prop::collection::vec(1..200usize, 1..30),
    ) {
        let bytes = frames.concat();
        let mut whole = opened(Level::Durable);
        let (expected, _) = run(&mut whole, &bytes);

        let mut session = opened(Level::Durable);
        let mut seen = Vec::new();
        let mut start = 0;
        let mut end = 0;
        for (round, cut) in cuts.iter().cycle().enumerate() {
            end = (end + cut).min(bytes.len());
            let (steps, rest) = run(&mut session, &bytes[start..end]);
            let last = steps.iter().rev().find_map(|step| if let Seen::Event(n, _) = step { Some(*n) } else { None });
            if let Some(last) = last {
                session.commit(round as u64, up_to(last));
            }
            seen.extend(steps);
            start = end - rest;
            if end == bytes.len() {
                break;
            }
        }
        prop_assert_eq!(seen, expected);
        prop_assert_eq!(replies(&mut session), replies(&mut whole));
    }

    #[test]
    fn arbitrary_bytes_never_harm_a_session(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut session = opened(Level::Durable);
        run(&mut session, &bytes);
        let _ = handshake(&bytes, MAX_EVENT, 0, &Sessions::new(Shares::even(4096)));
    }
}

#[test]
fn a_ring_is_asked_for_before_any_event_and_only_where_it_was_granted() {
    let ask = |compatible: u64, first: &[u8]| {
        let sessions = Sessions::new(Shares::even(4096));
        let mut opening = wire::MAGIC.to_vec();
        Frame::Hello(Hello { compatible, ..Hello::new(b"app") }).encode(&mut opening);
        let Handshake::Open { mut session, .. } = handshake(&opening, 1000, 0, &sessions) else {
            panic!("it is let in")
        };
        let mut bytes = first.to_vec();
        Frame::Ring { capacity: 65_536 }.encode(&mut bytes);
        run(&mut session, &bytes).0.pop()
    };
    let mut event = Vec::new();
    Event { sequence: 1, payload: b"x", ..Event::default() }.encode(&mut event);
    let broken = Some(Seen::Broken(Some(Cause::Malformed)));
    assert_eq!(ask(feature::RING, &[]), Some(Seen::Ring(65_536)));
    assert_eq!(ask(feature::RING, &event), broken);
    assert_eq!(ask(0, &[]), broken);
}
