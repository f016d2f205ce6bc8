//! The framed protocol: whatever a client sends, a session stays bounded, consumes no byte twice, and a round that is
//! taken back and redone brings the same.
#![no_main]

use dbuf_client::wire::Frame;
use dbufd::pipeline::accept::frames::{FrameSession, Greeting, OUTBOX_BYTES_MAX, Sessions, Step, frame_bytes_max, greet};
use libfuzzer_sys::fuzz_target;

const MAX_EVENT: usize = 4096;

/// Takes steps until the session wants more or ends; returns the bytes consumed and a trace, and whether it ended.
fn round(session: &mut FrameSession, bytes: &[u8]) -> (usize, Vec<u64>, bool) {
    let mut at = 0;
    let mut trace = Vec::new();
    loop {
        let (done, what) = match session.next(&bytes[at..]) {
            Step::Event { event, consumed } => {
                assert!((1..=MAX_EVENT).contains(&event.payload.len()) && event.tag.len() <= 64 && event.pri <= 191);
                (consumed, event.sequence)
            }
            Step::Refused { cause, consumed, .. } => (consumed, cause as u64),
            Step::Duplicate { consumed } => (consumed, 1 << 40),
            Step::Passed { consumed } => (consumed, 1 << 41),
            Step::More { frame_bytes } => {
                assert!(frame_bytes > bytes.len() - at && frame_bytes <= frame_bytes_max(MAX_EVENT));
                return (at, trace, false);
            }
            Step::Bye | Step::Broken { .. } => return (at, trace, true),
        };
        assert!(done > 0 && done <= bytes.len() - at);
        at += done;
        trace.push(what);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Frame::decode(bytes);
    let sessions = Sessions::new();
    let Greeting::Open { mut session, consumed } = greet(bytes, MAX_EVENT, 0, &sessions) else { return };
    let mut rest = &bytes[consumed..];
    for generation in 1.. {
        let given = &rest[..rest.len().min(1 + 97 * generation as usize)];
        let mark = session.mark();
        let first = round(&mut session, given);
        session.rewind(&mark);
        let again = round(&mut session, given);
        assert_eq!(first, again);
        session.published(generation);
        let _ = session.take_sync();
        session.progress(generation, generation / 2, |range| range.contains(&3));
        assert!(session.outgoing().len() <= OUTBOX_BYTES_MAX + 8192);
        let (consumed, _, ended) = again;
        if ended || given.len() == rest.len() {
            break;
        }
        rest = &rest[consumed..];
    }
    let _ = session.at_end(rest);
});
