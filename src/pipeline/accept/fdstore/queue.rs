//! Notes about the store, in order.
//!
//! Enters: names and descriptors, from any writer. Leaves: datagrams to systemd. While systemd keeps up, the caller's own
//! thread sends; what it cannot take at once is sent by the thread `dbufd-fdstore`, which sleeps otherwise. What can
//! fail: a systemd that takes nothing for long; the queue is bounded, and connections that it has no room for are not
//! kept.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sync::{Arc, Condvar, Mutex, MutexGuard, thread};
use crate::sys::notify::{Notifier, Patience};

/// Connections that wait to be put into the store, at most; each of them is one more descriptor.
const WAITING_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Queue(Arc<Shared>);

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

impl Queue {
    /// Starts the thread, which ends with the process.
    pub(super) fn start(notifier: Notifier) -> io::Result<Self> {
        let shared = Arc::new(Shared { notifier, waiting: Mutex::default(), is_not_empty: Condvar::new() });
        let worker = Arc::clone(&shared);
        thread::Builder::new().name("dbufd-fdstore".into()).spawn(move || worker.send_what_waits())?;
        Ok(Self(shared))
    }

    /// Asks systemd to keep a descriptor under a name that it has not given to another. False if it cannot be asked.
    pub(super) fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> bool {
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
    pub(super) fn is_empty(&self) -> bool {
        self.0.waiting().is_empty()
    }

    /// Asks systemd to let go of what it keeps under a name. There are no more of these than of names.
    pub(super) fn remove(&self, name: &str) {
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
