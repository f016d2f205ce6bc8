//! Reads the magic and the HELLO of a framed connection, and opens its session.
//!
//! Input: the first bytes of a connection. Output: a [`FrameSession`] with its WELCOME in the outbox, or a refusal.
//! Thread: the connection's writer. Failure: everything that a client sends wrong, as [`Handshake::Refused`].

use dbuf_wire::frames::{self as wire, CONTROL_BYTES_MAX, Code, Fault, Frame, HEAD_BYTES, Head, MAGIC, kind};

use super::session::{FEATURES, FrameSession};
use super::sessions::Sessions;
use crate::sync::Arc;

/// Bytes of a handshake at most: the magic and the longest HELLO.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = MAGIC.len() + HEAD_BYTES + CONTROL_BYTES_MAX as usize;

/// What [`handshake`] found in a connection's first bytes.
#[derive(Debug)]
pub enum Handshake {
    /// The magic and the HELLO are not complete. They never take more than [`super::session::frame_bytes_max`] and the
    /// magic.
    More,
    /// The session, with its WELCOME in the outbox.
    Open {
        /// The session.
        session: Box<FrameSession>,
        /// Bytes of the magic and the HELLO.
        consumed: usize,
    },
    /// The connection must end after this reply.
    Refused {
        /// The reply to send.
        reply: Vec<u8>,
        /// The reason, for the daemon's own log.
        why: String,
        /// Whether to count the connection as malformed. False if the client did nothing wrong and may try again.
        malformed: bool,
    },
}

/// Reads the magic and the HELLO of a framed connection of user `uid`.
///
/// A session belongs to a user, so that no user can occupy or silence another user's session.
#[must_use]
pub fn handshake(bytes: &[u8], max_event_bytes: usize, uid: u32, sessions: &Arc<Sessions>) -> Handshake {
    let refused = |code: Code, why: &str| {
        let mut reply = Vec::new();
        Frame::Error(Fault { code: code as u8, first: 0, last: 0, text: why.as_bytes() }).encode(&mut reply);
        Handshake::Refused { reply, why: why.to_owned(), malformed: code == Code::Broken }
    };
    let frame = match wire::is_framed(bytes) {
        None => return Handshake::More,
        Some(false) => return refused(Code::Broken, "the connection does not begin with the magic"),
        Some(true) => &bytes[wire::MAGIC.len()..],
    };
    match Head::decode(frame) {
        Ok(None) => return Handshake::More,
        Ok(Some(head)) if head.kind != kind::HELLO => return refused(Code::Broken, "the first frame is not a HELLO"),
        Ok(Some(_)) => (),
        Err(error) => return refused(Code::Broken, error.0),
    }
    let (hello, consumed) = match Frame::decode(frame) {
        Ok(Some((Frame::Hello(hello), consumed))) => (hello, consumed),
        Ok(_) => return Handshake::More,
        Err(error) => return refused(Code::Broken, error.0),
    };
    if hello.version < wire::VERSION_MIN || hello.version_min > wire::VERSION {
        return refused(Code::Version, "client and daemon have no version of the protocol in common");
    }
    if hello.incompatible & !FEATURES != 0 {
        return refused(Code::Version, "the client requires a feature that this daemon does not have");
    }
    let (guard, known) = match Sessions::attach(sessions, uid, hello.session) {
        Ok(attached) => attached,
        Err(why) => return refused(Code::Busy, &why),
    };
    let session = Box::new(FrameSession::new(&hello, max_event_bytes, guard, known));
    Handshake::Open { session, consumed: wire::MAGIC.len() + consumed }
}
