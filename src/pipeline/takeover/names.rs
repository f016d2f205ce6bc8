//! Names everything that outlives the process, and sorts what the previous process left.
//!
//! Input: descriptors and names from the service manager. Output: each in its place ([`Inherited`]). Thread: the main
//! thread, at the start. Nothing can fail: a descriptor that another version kept and this one does not know is
//! removed.
//!
//! | name | what |
//! |---|---|
//! | `halves`, `halves-2`, `halves-3` ... | memory of the double buffer; several after changes of its capacity |
//! | `progress` | what is durable, and which generations lost something |
//! | `sessions` | how far each framed session is published |
//! | `account`, `account-2` ... | what became of each producer's events |
//! | `desk0`, `desk1` ... | receive buffers, one a writer; the name is that of the first version |
//! | `bookmarks`, `c0`, `c1` ... | read positions of connections, and the connections |
//! | `rings`, `ring0`, `ring0-line` ... | how far each ring is published; its memory and its connection |
//!
//! A name is not used again before the manager has removed it (see [`crate::sys::fdstore`]).

use std::collections::HashSet;
use std::fmt;
use std::os::fd::OwnedFd;

use nix::sys::socket::{Shutdown, SockType, getsockopt, shutdown, sockopt};
use rustix::fs::fstat;

/// The store's name of something that outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// Memory of the double buffer; numbers count from 1.
    Halves(u32),
    /// What is durable, and which generations lost something.
    Progress,
    /// How far each framed session is published.
    Sessions,
    /// The account; numbers count from 1.
    Account(u32),
    /// The receive buffer of the writer with this index.
    ReceiveBuffer(u32),
    /// The read positions of connections.
    ReadPositions,
    /// The connection in this slot.
    Connection(u32),
    /// How far each ring is published.
    Rings,
    /// The memory of the ring in this row.
    Ring(u32),
    /// Its connection.
    RingLine(u32),
}

impl Name {
    /// Parses a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let known = match text {
            "progress" => Self::Progress,
            "sessions" => Self::Sessions,
            "bookmarks" => Self::ReadPositions,
            "rings" => Self::Rings,
            "halves" => Self::Halves(1),
            "account" => Self::Account(1),
            _ => Self::numbered(text)?,
        };
        // There is one spelling for each name, so that what is removed under a name is what was found.
        (known.to_string() == text).then_some(known)
    }

    fn numbered(text: &str) -> Option<Self> {
        /// What comes before the number, what comes after it, and the kind of name.
        type Kind = (&'static str, &'static str, fn(u32) -> Name);
        let number = |prefix: &str, suffix: &str| text.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
        let kinds: [Kind; 6] = [
            ("halves-", "", Self::Halves),
            ("account-", "", Self::Account),
            ("desk", "", Self::ReceiveBuffer),
            ("c", "", Self::Connection),
            ("ring", "-line", Self::RingLine),
            ("ring", "", Self::Ring),
        ];
        kinds.into_iter().find_map(|(prefix, suffix, kind)| number(prefix, suffix).map(kind))
    }

    /// The first name of a kind that is not among `used`.
    pub fn fresh<'a>(kind: fn(u32) -> Self, used: impl IntoIterator<Item = &'a Self>) -> Self {
        let used: HashSet<Self> = used.into_iter().copied().collect();
        (1..=u32::MAX).map(kind).find(|name| !used.contains(name)).expect("fewer names are in use than there are")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halves(1) => f.write_str("halves"),
            Self::Halves(number) => write!(f, "halves-{number}"),
            Self::Progress => f.write_str("progress"),
            Self::Sessions => f.write_str("sessions"),
            Self::Account(1) => f.write_str("account"),
            Self::Account(number) => write!(f, "account-{number}"),
            Self::ReceiveBuffer(index) => write!(f, "desk{index}"),
            Self::ReadPositions => f.write_str("bookmarks"),
            Self::Connection(slot) => write!(f, "c{slot}"),
            Self::Rings => f.write_str("rings"),
            Self::Ring(row) => write!(f, "ring{row}"),
            Self::RingLine(row) => write!(f, "ring{row}-line"),
        }
    }
}

/// Everything that the previous process left.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Sockets of the socket units, which listen or receive datagrams, with the names of the units.
    pub sockets: Vec<(OwnedFd, String)>,
    /// Everything that the store kept.
    pub kept: Vec<(Name, OwnedFd)>,
    /// Names that this version does not know.
    pub unknown: Vec<String>,
}

impl Inherited {
    /// Sorts by names and by the types of the descriptors, because a socket unit may have any name.
    #[must_use]
    pub fn sort(passed: Vec<(OwnedFd, String)>) -> Self {
        let mut sorted = Self::default();
        for (descriptor, text) in passed {
            let kind = getsockopt(&descriptor, sockopt::SockType).ok();
            let is_connected =
                kind == Some(SockType::Stream) && getsockopt(&descriptor, sockopt::AcceptConn) == Ok(false);
            match (Name::parse(&text), kind) {
                (Some(name @ (Name::Connection(_) | Name::RingLine(_))), _) if is_connected => {
                    sorted.kept.push((name, descriptor));
                }
                (Some(Name::Connection(_) | Name::RingLine(_)), None) => sorted.unknown.push(text),
                (Some(name), None) => sorted.kept.push((name, descriptor)),
                (_, Some(_)) if !is_connected => sorted.sockets.push((descriptor, text)),
                _ => sorted.unknown.push(text),
            }
        }
        sorted
    }

    /// Whether the store kept anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.unknown.is_empty()
    }

    /// All names that the store kept.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.kept.iter().map(|(name, _)| name.to_string()).chain(self.unknown.iter().cloned())
    }

    /// Removes and returns the entries whose names `wanted` accepts.
    pub fn take<T>(&mut self, wanted: impl Fn(Name) -> Option<T>) -> Vec<(T, OwnedFd)> {
        let mut taken = Vec::new();
        for (name, descriptor) in std::mem::take(&mut self.kept) {
            match wanted(name) {
                Some(what) => taken.push((what, descriptor)),
                None => self.kept.push((name, descriptor)),
            }
        }
        taken
    }

    /// Removes and returns the entry with this name.
    pub fn take_one(&mut self, wanted: Name) -> Option<OwnedFd> {
        self.take(|name| (name == wanted).then_some(())).pop().map(|(_, descriptor)| descriptor)
    }

    /// Removes the connections that are also kept as a ring's, and returns their slots. They are there because the
    /// previous process died before the manager had removed them.
    pub fn take_lines_kept_twice(&mut self) -> Vec<u32> {
        let socket = |descriptor: &OwnedFd| fstat(descriptor).ok().map(|stat| (stat.st_dev, stat.st_ino));
        let lines = self.kept.iter().filter(|(name, _)| matches!(name, Name::RingLine(_)));
        let lines: HashSet<_> = lines.filter_map(|(_, descriptor)| socket(descriptor)).collect();
        let mut slots = Vec::new();
        self.kept.retain(|(name, descriptor)| match name {
            Name::Connection(slot) if socket(descriptor).is_some_and(|socket| lines.contains(&socket)) => {
                slots.push(*slot);
                false
            }
            _ => true,
        });
        slots
    }
}

/// Ends a connection for its peer, even if the service manager still holds it.
pub fn end_for_peer(socket: &OwnedFd) {
    use std::os::fd::AsRawFd;
    // A peer that has already left is no error.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    #[test]
    fn each_name_is_spelled_in_one_way() {
        for name in [
            Name::Halves(1),
            Name::Halves(2),
            Name::Progress,
            Name::Sessions,
            Name::Account(1),
            Name::Account(7),
            Name::ReceiveBuffer(12),
            Name::ReadPositions,
            Name::Connection(0),
            Name::Rings,
            Name::Ring(5),
            Name::RingLine(1023),
        ] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for text in ["", "ring", "ring-5", "ring5-other", "ring5-bell", "c", "c01", "c+1", "c-1", "halves-1", "desk"] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_fresh_name_is_one_that_is_not_in_use() {
        let used = [Name::Halves(1), Name::Halves(3), Name::Account(2)];
        assert_eq!(Name::fresh(Name::Halves, &used), Name::Halves(2));
        assert_eq!(Name::fresh(Name::Account, &used), Name::Account(1));
    }

    #[test]
    fn sockets_of_a_unit_are_told_from_what_the_store_kept() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let datagram = UnixDatagram::bind(dir.path().join("d")).unwrap();
        let connection = || UnixStream::pair().unwrap().0.into();
        let memory = || tempfile::tempfile().unwrap().into();
        let mut sorted = Inherited::sort(vec![
            (listener.into(), "c1".into()),
            (datagram.into(), "ingest".into()),
            (connection(), "c7".into()),
            (memory(), "bookmarks".into()),
            (memory(), "halves-3".into()),
            (memory(), "desk12".into()),
            (connection(), "c99999999999".into()),
            (connection(), "halves".into()),
            (memory(), "ring-5".into()),
            (memory(), "c3".into()),
        ]);
        assert_eq!(sorted.sockets.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["c1", "ingest"]);
        assert_eq!(sorted.unknown, ["c99999999999", "halves", "ring-5", "c3"]);
        let slots = sorted.take(|name| if let Name::Connection(slot) = name { Some(slot) } else { None });
        assert_eq!(slots.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [7]);
        assert!(sorted.take_one(Name::Halves(3)).is_some() && sorted.take_one(Name::Halves(3)).is_none());
        assert_eq!(sorted.kept.len(), 2);
    }

    #[test]
    fn a_connection_that_is_a_rings_too_is_only_the_rings() {
        let (line, _program) = UnixStream::pair().unwrap();
        let line = OwnedFd::from(line);
        let other = UnixStream::pair().unwrap().0;
        let mut sorted = Inherited::sort(vec![
            (line.try_clone().unwrap(), "c4".into()),
            (other.into(), "c5".into()),
            (line, "ring0-line".into()),
        ]);
        assert_eq!(sorted.take_lines_kept_twice(), [4]);
        let left: Vec<_> = sorted.kept.iter().map(|(name, _)| *name).collect();
        assert_eq!(left, [Name::Connection(5), Name::RingLine(0)]);
    }
}
