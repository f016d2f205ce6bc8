//! What systemd passed to this process, sorted: sockets of the socket units, and what its store kept of the previous process.
//!
//! Enters: descriptors and their names. Leaves: each in its place. Main thread, at start. What can fail: nothing; what is
//! not understood, because another version kept it, is let go of.

use std::os::fd::OwnedFd;

use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::buffer_memory;
use crate::pipeline::accept::connection::stored::{InheritedConnections, READ_POSITIONS_NAME, slot_of};
use crate::pipeline::accept::frames::SESSIONS_NAME;
use crate::pipeline::accept::ring::registry::{self, InheritedRings, RINGS_NAME};
use crate::pipeline::accept::writer::receive_buffer;
use crate::pipeline::account;
use crate::sync::Arc;
use crate::sys::fdstore::{FdStore, room_from_environment};
use crate::sys::notify::Notifier;

/// What systemd passed.
#[derive(Debug, Default)]
pub(super) struct InheritedFds {
    /// Sockets that listen or take datagrams, with their names.
    pub(super) sockets: Vec<(OwnedFd, String)>,
    /// The connections of the previous process.
    pub(super) left: InheritedConnections,
    /// The double buffers of previous processes, with their names.
    pub(super) halves: Vec<(OwnedFd, String)>,
    /// The receive buffers of the previous process's writers, with their names.
    pub(super) receive_buffers: Vec<(OwnedFd, String)>,
    /// The account of the previous process, with its names.
    pub(super) account: Vec<(OwnedFd, String)>,
    /// The sessions of the previous process.
    pub(super) sessions: Option<OwnedFd>,
    /// The rings of the previous process, with the names of their parts.
    pub(super) rings: InheritedRings,
    /// Names of what nothing can be done with.
    strange: Vec<String>,
}

impl InheritedFds {
    /// Sorts by names, and by what they are: a socket unit may have any name.
    pub(super) fn sort(passed: Vec<(OwnedFd, String)>) -> Self {
        let mut sorted = Self::default();
        for (descriptor, name) in passed {
            let kind = getsockopt(&descriptor, sockopt::SockType).ok();
            let is_connected =
                kind == Some(SockType::Stream) && getsockopt(&descriptor, sockopt::AcceptConn) == Ok(false);
            match (kind, name.as_str()) {
                (_, ring) if registry::is_name(ring) => sorted.rings.parts.push((descriptor, name)),
                (Some(_), name) if is_connected => match slot_of(name) {
                    Some(place) => sorted.left.connections.push((place, descriptor)),
                    None => sorted.strange.push(name.to_owned()),
                },
                (Some(_), _) => sorted.sockets.push((descriptor, name)),
                (None, READ_POSITIONS_NAME) => sorted.left.read_positions = Some(descriptor),
                (None, RINGS_NAME) => sorted.rings.ring_table = Some(descriptor),
                (None, SESSIONS_NAME) => sorted.sessions = Some(descriptor),
                (None, account) if account::NAMES.contains(&account) => sorted.account.push((descriptor, name)),
                (None, receive_buffer) if receive_buffer::is_name(receive_buffer) => {
                    sorted.receive_buffers.push((descriptor, name))
                }
                (None, halves) if buffer_memory::NAMES.contains(&halves) => sorted.halves.push((descriptor, name)),
                (None, _) => sorted.strange.push(name),
            }
        }
        sorted
    }

    /// The store, and how many descriptors it takes; None where no manager listens, or it has no room and kept nothing.
    pub(super) fn store(&self) -> std::io::Result<Option<(Arc<FdStore>, usize)>> {
        let Self { left, halves, sessions, receive_buffers, account, rings, strange, .. } = self;
        let room = room_from_environment();
        let no_memory = left.read_positions.is_none()
            && halves.is_empty()
            && sessions.is_none()
            && receive_buffers.is_empty()
            && account.is_empty()
            && rings.ring_table.is_none();
        let kept_nothing = left.connections.is_empty() && rings.parts.is_empty() && no_memory && strange.is_empty();
        // What is wrong with the variable is told where notes about the daemon's state are sent.
        let notifier = Notifier::from_environment().unwrap_or_default();
        let Some(notifier) = notifier.filter(|_| room > 0 || !kept_nothing) else { return Ok(None) };
        let store = FdStore::start(notifier)?;
        for name in strange {
            tracing::warn!(name, "systemd kept a descriptor that this version does not know; it is let go");
            store.remove(name);
        }
        Ok(Some((Arc::new(store), room)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    #[test]
    fn sockets_of_a_unit_are_told_from_what_the_store_kept() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let datagram = UnixDatagram::bind(dir.path().join("d")).unwrap();
        let connection = || UnixStream::pair().unwrap().0.into();
        let memory = || tempfile::tempfile().unwrap().into();
        let passed = InheritedFds::sort(vec![
            (listener.into(), "c1".into()),
            (datagram.into(), "ingest".into()),
            (connection(), "c7".into()),
            (memory(), "bookmarks".into()),
            (memory(), "halves".into()),
            (memory(), "sessions".into()),
            (memory(), "desk12".into()),
            (memory(), "account-2".into()),
            (connection(), "c99999999".into()),
            (connection(), "halves".into()),
            (memory(), "ring-5".into()),
        ]);
        assert_eq!(passed.sockets.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["c1", "ingest"]);
        assert_eq!(passed.left.connections.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [7]);
        assert!(
            passed.left.read_positions.is_some()
                && passed.halves.len() == 1
                && passed.sessions.is_some()
                && passed.receive_buffers.len() == 1
                && passed.account.len() == 1
        );
        assert_eq!(passed.strange, ["c99999999", "halves", "ring-5"]);
    }
}
