//! Speaks the framed protocol.
//!
//! Input: bytes of a connection that begin with the magic. Output: events in the publisher, and replies. Thread: the
//! connection's writer. Failure: a client's fault ends its own connection at most.
//!
//! `handshake` opens a `session`. `connection` drives the session over the bytes of its socket. `acks` decides which
//! acknowledgements are due. `sessions` remembers a closed session, and `session_table` keeps it for the next process.

mod acks;
pub(crate) mod connection;
mod handshake;
mod session;
mod session_table;
mod sessions;
#[cfg(test)]
mod tests;

pub(crate) use self::acks::Acks;
pub use self::acks::SPANS_MAX;
pub(crate) use self::handshake::HANDSHAKE_BYTES_MAX;
pub use self::handshake::{Handshake, handshake};
pub use self::session::{FrameSession, OUTBOX_BYTES_MAX, Step, frame_bytes_max};
pub use self::session_table::SessionTable;
pub use self::sessions::Sessions;
pub use super::limits::SESSIONS_MAX;
pub use super::publish::Published;
