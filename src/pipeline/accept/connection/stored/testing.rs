//! A service manager for tests: it keeps descriptors as systemd 252 does, and hands them back to the next process.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{InheritedConnection, InheritedConnections, READ_POSITIONS_NAME, StoredConnections, slot_of};
use crate::pipeline::accept::ring::registry::{self, InheritedRings, RINGS_NAME};
use crate::sync::{Arc, thread};
use crate::sys::fdstore::FdStore;
use crate::sys::notify::Notifier;

/// A manager, and what it keeps.
#[derive(Debug)]
pub(crate) struct Manager {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
    stored: Vec<(String, OwnedFd)>,
    /// How often it was given something.
    pub(crate) puts: usize,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { directory, socket, stored: Vec::new(), puts: 0 }
    }

    /// The way to it.
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

    /// What it keeps, sorted by name.
    pub(crate) fn names(&mut self) -> Vec<String> {
        self.read_notes();
        let mut names: Vec<String> = self.stored.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Waits until it keeps this and nothing else.
    pub(crate) fn wait_for(&mut self, names: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.names() != names {
            assert!(Instant::now() < deadline, "{:?} instead of {names:?}", self.names());
            thread::yield_now();
        }
    }

    /// A copy of what it keeps under this name.
    pub(crate) fn copy_of(&mut self, name: &str) -> OwnedFd {
        self.read_notes();
        let stored = self.stored.iter().find(|(stored, _)| stored == name);
        stored.expect("it is kept").1.try_clone().unwrap()
    }

    /// The store that it is.
    pub(crate) fn store(&self) -> Arc<FdStore> {
        Arc::new(FdStore::start(self.notifier()).unwrap())
    }

    /// The next process's start: it is given copies, for the manager goes on keeping them; the latest first.
    pub(crate) fn next_process(&mut self, room: usize) -> (Arc<StoredConnections>, Vec<InheritedConnection>) {
        self.next_process_with(room, Vec::new())
    }

    /// What it keeps of rings.
    pub(crate) fn left_rings(&mut self) -> InheritedRings {
        self.read_notes();
        let mut left = InheritedRings::default();
        for (name, stored) in &self.stored {
            let copy = stored.try_clone().unwrap();
            if name == RINGS_NAME {
                left.ring_table = Some(copy);
            } else if registry::is_name(name) {
                left.parts.push((copy, name.clone()));
            }
        }
        left
    }

    /// The same, where bytes of connections at these places lie in receive buffers.
    pub(crate) fn next_process_with(
        &mut self,
        room: usize,
        in_receive_buffers: Vec<u32>,
    ) -> (Arc<StoredConnections>, Vec<InheritedConnection>) {
        self.read_notes();
        let mut left = InheritedConnections { in_receive_buffers, ..InheritedConnections::default() };
        for (name, stored) in self.stored.iter().rev() {
            let copy = stored.try_clone().unwrap();
            match slot_of(name) {
                Some(slot) => left.connections.push((slot, copy)),
                None if name == READ_POSITIONS_NAME => left.read_positions = Some(copy),
                None => {}
            }
        }
        StoredConnections::open(self.store(), room, left).unwrap()
    }
}
