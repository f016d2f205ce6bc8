//! Speaks the framed protocol.
//!
//! `handshake` opens a `session`, `connection` drives it over the bytes of its socket, `acks` decides what its client
//! is told, and `sessions` remembers it in the `session_table` when it is closed.

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
