use super::*;
use proptest::prelude::*;

fn any_level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::None), Just(Level::Persisted), Just(Level::Durable)]
}

fn any_field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (prop::collection::vec(any::<u8>(), 1..=64), prop::collection::vec(any::<u8>(), 0..99))
}

fn round_trip(frame: &Frame<'_>) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let whole = bytes.len();
    bytes.extend_from_slice(b"next");
    for cut in 0..whole {
        assert_eq!(Frame::decode(&bytes[..cut]), Ok(None), "cut at {cut} of {whole}");
    }
    assert_eq!(Frame::decode(&bytes), Ok(Some((*frame, whole))));
}

proptest! {
    #[test]
    fn every_event_is_read_back(
        pri: u8, time_ns: u64, sequence: u64,
        tag in prop::collection::vec(any::<u8>(), 0..=TAG_BYTES_MAX),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        named in prop::collection::vec(any_field(), 0..4),
    ) {
        let mut fields = Vec::new();
        assert!(named.iter().all(|(name, value)| put_field(&mut fields, name, value)));
        round_trip(&Frame::Event(Event { pri, tag: &tag, time_ns, sequence, fields: &fields, payload: &payload }));
    }

    #[test]
    fn every_hello_is_read_back(
        version: u16, version_min: u16, compatible: u64, incompatible: u64, session: u128, ack in any_level(),
        name in prop::collection::vec(any::<u8>(), 0..=TAG_BYTES_MAX),
    ) {
        round_trip(&Frame::Hello(Hello { version, version_min, compatible, incompatible, session, ack, name: &name }));
    }

    #[test]
    fn every_reply_is_read_back(
        version: u16, max_event: u32, compatible: u64, incompatible: u64, last: u64, level in any_level(),
        code: u8, first: u64, text in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        round_trip(&Frame::Welcome(Welcome { version, max_event, compatible, incompatible, last }));
        round_trip(&Frame::Ack { level, sequence: last });
        round_trip(&Frame::Error(Fault { code, first, last, text: &text }));
    }

    #[test]
    fn arbitrary_bytes_never_harm_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(Some((_, consumed))) = Frame::decode(&bytes) {
            prop_assert!((HEAD_BYTES..=bytes.len()).contains(&consumed));
        }
    }
}

#[test]
fn frames_without_a_body_are_read_back() {
    round_trip(&Frame::Sync);
    round_trip(&Frame::Bye);
    round_trip(&Frame::Ignored { kind: 0xFF });
}

#[test]
fn a_lying_length_is_refused_from_the_head_alone() {
    let head = |length, kind, tag_length| {
        let mut bytes = Vec::new();
        Head { length, kind, tag_length, ..Head::default() }.encode(&mut bytes);
        Frame::decode(&bytes).map(|frame| frame.is_some())
    };
    assert!(head(2 << 30, kind::EVENT, 0).is_err());
    assert!(head(LENGTH_MAX + 1, 0xFF, 0).is_err());
    assert_eq!(head(LENGTH_MAX, kind::EVENT, 0), Ok(false), "the largest that may be true waits for its body");
    assert!(head(CONTROL_BYTES_MAX + 1, kind::HELLO, 0).is_err());
    assert!(head(3, kind::EVENT, 4).is_err(), "a tag beyond the frame");
}

#[test]
fn a_frame_of_unknown_type_is_skipped_only_if_it_says_so() {
    for kind in 0..=u8::MAX {
        let mut bytes = Vec::new();
        Head { length: 40, kind, ..Head::default() }.encode(&mut bytes);
        bytes.extend_from_slice(&[0; 40]);
        let known = [
            kind::HELLO,
            kind::EVENT,
            kind::EVENT_WITH_FIELDS,
            kind::SYNC,
            kind::BYE,
            kind::RING,
            kind::GRANT,
            kind::WELCOME,
            kind::ACK,
            kind::ERROR,
        ];
        let understood = matches!(Frame::decode(&bytes), Ok(Some((_, 64))));
        assert_eq!(understood, known.contains(&kind) || kind >= IGNORABLE, "type {kind:#04x}");
    }
}

#[test]
fn a_longer_hello_of_a_later_version_is_understood() {
    let hello = Hello::new(b"app");
    let mut bytes = Vec::new();
    Frame::Hello(hello).encode(&mut bytes);
    bytes.extend_from_slice(b"more");
    let length = (bytes.len() - HEAD_BYTES) as u32;
    bytes[0..4].copy_from_slice(&length.to_le_bytes());
    assert_eq!(Frame::decode(&bytes), Ok(Some((Frame::Hello(hello), bytes.len()))));
}

#[test]
fn text_and_frames_are_told_apart_at_the_first_byte_that_differs() {
    assert_eq!(is_framed(b""), None);
    assert_eq!(is_framed(&MAGIC[..7]), None);
    assert_eq!(is_framed(&MAGIC), Some(true));
    assert_eq!(is_framed(b"hello"), Some(false));
    assert_eq!(is_framed(&[0xDB, b'u', b'x']), Some(false));
    assert!(!MAGIC[0].is_ascii());
}
