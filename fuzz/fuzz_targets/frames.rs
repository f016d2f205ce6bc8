//! The framed protocol: whatever a client sends, a session stays bounded, consumes no byte twice, and promises nothing
//! that it has not accepted.
#![no_main]

use dbuf_wire::frames::Frame;
use dbufd::pipeline::accept::frames::{
    FrameSession, Handshake, OUTBOX_BYTES_MAX, Published, Sessions, Step, frame_bytes_max, handshake,
};
use dbufd::pipeline::shares::Shares;
use libfuzzer_sys::fuzz_target;

const MAX_EVENT: usize = 4096;

/// Takes steps until the session wants more or ends; returns the bytes consumed, the last sequence, and whether it
/// ended.
fn round(session: &mut FrameSession, bytes: &[u8]) -> (usize, Option<u64>, bool) {
    let mut at = 0;
    let mut last = None;
    loop {
        let consumed = match session.next(&bytes[at..]) {
            Step::Event { event, consumed } => {
                assert!((1..=MAX_EVENT).contains(&event.payload.len()) && event.tag.len() <= 64 && event.pri <= 191);
                assert!(last.is_none_or(|last| event.sequence > last) && event.sequence > 0);
                last = Some(event.sequence);
                consumed
            }
            Step::Refused { consumed, .. }
            | Step::Ring { consumed, .. }
            | Step::Duplicate { consumed }
            | Step::Passed { consumed } => consumed,
            Step::More { frame_bytes } => {
                assert!(frame_bytes > bytes.len() - at && frame_bytes <= frame_bytes_max(MAX_EVENT));
                return (at, last, false);
            }
            Step::Bye | Step::Broken { .. } => return (at, last, true),
        };
        assert!(consumed > 0 && consumed <= bytes.len() - at);
        at += consumed;
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Frame::decode(bytes);
    let sessions = Sessions::new(Shares::even(64));
    let Handshake::Open { mut session, consumed } = handshake(bytes, MAX_EVENT, 0, &sessions) else { return };
    let mut rest = &bytes[consumed..];
    for generation in 1.. {
        let given = &rest[..rest.len().min(1 + 97 * generation as usize)];
        let (consumed, last, ended) = round(&mut session, given);
        if let Some(last) = last {
            session.commit(generation, Published { sequence: Some(last), is_all: false });
        }
        let _ = session.take_sync();
        session.progress(generation, generation / 2, |range, _| range.contains(&3));
        assert!(session.outgoing().len() <= OUTBOX_BYTES_MAX + 8192);
        if ended || given.len() == rest.len() {
            break;
        }
        rest = &rest[consumed..];
    }
    let _ = session.at_end(rest);
});
