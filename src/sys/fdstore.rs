//! systemd's file-descriptor store: descriptors that outlive this process, by name.
//!
//! Enters: names and descriptors, from any thread. Leaves: notes to systemd (`FDSTORE=1`, `FDSTOREREMOVE=1`); what it
//! keeps comes back to a successor with the sockets of the units (see [`super::listen_fds`]). While systemd keeps up, the
//! caller's own thread sends; what it cannot take at once (a daemon-reload takes seconds) is sent by the thread
//! `dbufd-fdstore`, and all later notes queue behind it, so that a name is always given back before it is given away again.
//! What can fail: a systemd that takes nothing for long; the queue is bounded, and what it has no room for is not kept.
//!
//! Facts of the store, tried with systemd 252:
//! - it is kept over a crash, `kill -9` and `systemctl restart`, and emptied by a stop;
//! - the names come back in one environment variable, of which the kernel allows 128 KiB: names are short;
//! - an overflow is silent, so whoever puts many things in has to count them ([`room_from_environment`]);
//! - descriptors vanish on hang-up unless `FDPOLL=0`: what a peer sent before it left would go with them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::notify::{Notifier, Patience};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, thread};

/// Notes that wait, at most, before nothing more is put in; each may hold one more descriptor.
const WAITING_MAX: usize = 1024;

/// The store, from this side.
#[derive(Debug)]
pub struct FdStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    notifier: Notifier,
    waiting: Mutex<VecDeque<Note>>,
    is_not_empty: Condvar,
}

#[derive(Debug)]
struct Note {
    text: String,
    descriptor: Option<OwnedFd>,
}

/// How many descriptors the store takes: what systemd 254 and later say in `FDSTORE`, and the unit for older ones.
#[must_use]
pub fn room_from_environment() -> usize {
    std::env::var("FDSTORE").ok().and_then(|room| room.parse().ok()).unwrap_or(0)
}

impl FdStore {
    /// Starts the thread, which ends with the process.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(notifier: Notifier) -> io::Result<Self> {
        let shared = Arc::new(Shared { notifier, waiting: Mutex::default(), is_not_empty: Condvar::new() });
        let worker = Arc::clone(&shared);
        thread::Builder::new().name("dbufd-fdstore".into()).spawn(move || worker.send_what_waits())?;
        Ok(Self(shared))
    }

    /// Asks systemd to keep a descriptor under a name that it has not given to another. False if it cannot be asked.
    #[must_use]
    pub fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> bool {
        // Without FDPOLL=0 a connection would be dropped when its peer leaves, with all that it sent before.
        let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        let mut waiting = self.0.waiting();
        if waiting.is_empty() && self.0.send_now(&text, Some(descriptor)) {
            return true;
        }
        if waiting.len() >= WAITING_MAX {
            return false;
        }
        let Ok(descriptor) = descriptor.try_clone_to_owned() else { return false };
        waiting.push_back(Note { text, descriptor: Some(descriptor) });
        self.0.is_not_empty.notify_one();
        true
    }

    /// Whether systemd has been told everything.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        self.0.waiting().is_empty()
    }

    /// Asks systemd to let go of what it keeps under a name. There are no more of these than of names.
    pub fn remove(&self, name: &str) {
        let text = format!("FDSTOREREMOVE=1\nFDNAME={name}");
        let mut waiting = self.0.waiting();
        if waiting.is_empty() && self.0.send_now(&text, None) {
            return;
        }
        waiting.push_back(Note { text, descriptor: None });
        self.0.is_not_empty.notify_one();
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Note>> {
        self.waiting.lock().expect("no thread panics while it holds the notes")
    }

    fn send_now(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> bool {
        self.notifier.send(text, descriptor, Patience::None).is_ok()
    }

    fn send_what_waits(&self) {
        loop {
            let waiting = self.is_not_empty.wait_while(self.waiting(), |waiting| waiting.is_empty());
            let mut waiting = waiting.expect("no thread panics while it holds the notes");
            // It stays in front until it is sent, so that others queue behind it.
            let Some(note) = waiting.front_mut() else { continue };
            let (text, descriptor) = (note.text.clone(), note.descriptor.take());
            drop(waiting);
            loop {
                match self.notifier.send(&text, descriptor.as_ref().map(AsFd::as_fd), Patience::Some) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // A manager that is gone takes nothing, and then there is nothing that it could keep.
                    Ok(()) | Err(_) => break,
                }
            }
            self.waiting().pop_front();
        }
    }
}
