//! Stands in for systemd in tests: keeps descriptors as systemd 252 does, and passes them to the next process.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::pipeline::accept::connection::stored::{InheritedConnection, InheritedConnections, StoredConnections};
use crate::pipeline::accept::ring::registry::InheritedRings;
use crate::pipeline::accept::ring::table::RingTable;
use crate::pipeline::shares::{Resource, Shares};
use crate::pipeline::takeover::names::{Inherited, Name};
use crate::sync::{Arc, thread};
use crate::sys::fdstore::FdStore;
use crate::sys::notify::Notifier;

/// The user of most connections of these tests, who is not limited.
const OWN_UID: u32 = 7;

/// A service manager, and what it keeps.
#[derive(Debug)]
pub(crate) struct Manager {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
    stored: Vec<(String, OwnedFd)>,
    /// How often it was given a descriptor.
    pub(crate) puts: usize,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { directory, socket, stored: Vec::new(), puts: 0 }
    }

    /// The path of its socket.
    fn notifier(&self) -> Notifier {
        Notifier::to(self.directory.path().join("notify").to_str().unwrap().as_bytes()).unwrap()
    }

    /// Reads the notes that have come, until there are none.
    pub(crate) fn read_notes(&mut self) {
        let mut bytes = [0; 512];
        loop {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let Ok(message) = recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) else { return };
            let descriptor = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                _ => None,
            });
            let note = String::from_utf8(bytes[..message.bytes].to_vec()).unwrap();
            self.take(&note, descriptor);
        }
    }

    fn take(&mut self, note: &str, descriptor: Option<OwnedFd>) {
        let name = note.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap().to_owned();
        if note.contains("FDSTOREREMOVE=1") {
            self.stored.retain(|(stored, _)| *stored != name);
        } else {
            assert!(note.contains("FDSTORE=1") && note.contains("FDPOLL=0"), "{note}");
            assert!(self.stored.iter().all(|(stored, _)| *stored != name), "{name} is given away twice");
            self.puts += 1;
            self.stored.push((name, descriptor.expect("there is something to keep")));
        }
    }

    /// The names that it keeps, sorted.
    pub(crate) fn names(&mut self) -> Vec<String> {
        self.read_notes();
        let mut names: Vec<String> = self.stored.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Waits until it keeps these names and no others.
    pub(crate) fn wait_for(&mut self, names: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.names() != names {
            assert!(Instant::now() < deadline, "{:?} instead of {names:?}", self.names());
            thread::yield_now();
        }
    }

    /// A copy of the descriptor that it keeps under this name.
    pub(crate) fn copy_of(&mut self, name: &str) -> OwnedFd {
        self.read_notes();
        let stored = self.stored.iter().find(|(stored, _)| stored == name);
        stored.expect("it is kept").1.try_clone().unwrap()
    }

    /// Its store, for a process that inherits everything in it.
    pub(crate) fn store(&mut self) -> Arc<FdStore> {
        let names = self.names();
        Arc::new(FdStore::start(self.notifier(), names.iter().map(String::as_str)).unwrap())
    }

    /// Copies of everything that it keeps, latest first, as the next process gets them. It still keeps its own.
    pub(crate) fn inherited(&mut self) -> Inherited {
        self.read_notes();
        let copy = |(name, stored): &(String, OwnedFd)| (stored.try_clone().unwrap(), name.clone());
        Inherited::sort(self.stored.iter().rev().map(copy).collect())
    }

    /// The start of the next process.
    pub(crate) fn next_process(&mut self, room: usize) -> (Arc<StoredConnections>, Vec<InheritedConnection>) {
        self.next_process_with(room, Vec::new())
    }

    /// What it keeps of rings.
    pub(crate) fn left_rings(&mut self) -> InheritedRings {
        let mut inherited = self.inherited();
        let is_part = |name| matches!(name, Name::Ring(_) | Name::RingLine(_));
        InheritedRings {
            ring_table: inherited.take_one(Name::Rings).and_then(RingTable::inherit),
            parts: inherited.take(|name| is_part(name).then_some(name)),
        }
    }

    /// As above, with something unfinished of the connections in these slots.
    pub(crate) fn next_process_with(
        &mut self,
        room: usize,
        in_receive_buffers: Vec<u32>,
    ) -> (Arc<StoredConnections>, Vec<InheritedConnection>) {
        let mut inherited = self.inherited();
        let kept_twice = inherited.take_lines_kept_twice();
        let slot = |name| if let Name::Connection(slot) = name { Some(slot) } else { None };
        let left = InheritedConnections {
            connections: inherited.take(slot),
            read_positions: inherited.take_one(Name::ReadPositions),
            in_receive_buffers,
            kept_twice,
        };
        let mut capacities = [u64::MAX; Resource::ALL.len()];
        capacities[Resource::StoredConnections as usize] = StoredConnections::capacity(room);
        StoredConnections::open(Shares::new(capacities, OWN_UID), self.store(), left).unwrap()
    }
}
