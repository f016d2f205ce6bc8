//! Connects each writer with the other writers and their owner: new clients, the order to stop, signs of life.
//!
//! Input: clients that one writer hands to another, and the deadline to stop. Output: the same, for the writer's
//! thread. Thread: any, under a lock for each inbox that is held for a few instructions. Nothing here can fail.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::sys::eventfd::EventFd;

use super::first_bytes::Shared;
use super::listeners::ListenerKind;
use crate::pipeline::accept::connection::protocol::Protocol;
use crate::pipeline::accept::connection::stored::{InheritedConnection, StoredConnection, StoredConnections};
use crate::pipeline::accept::publish::receive_buffer::ReceiveBuffers;
use crate::pipeline::accept::ring::Ring;
use crate::pipeline::account::Identity;
use crate::pipeline::counters::Counters;
use crate::pipeline::pulse::Pulse;
use crate::pipeline::shares::{Held, Shares};
use crate::sync::atomic::AtomicUsize;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Arc, Mutex, MutexGuard, lock};
use crate::sys::fdstore::FdStore;

/// What all writers share.
#[derive(Debug)]
pub(crate) struct Writers {
    pub(crate) handles: Box<[WriterHandle]>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) max_event_bytes: AtomicUsize,
    /// What the protocols of their connections share.
    pub(crate) shared: Arc<Shared>,
    /// What users share.
    pub(crate) shares: Arc<Shares>,
    /// Stores connections for the next process.
    pub(crate) stored: Option<Arc<StoredConnections>>,
    /// Stores receive buffers.
    pub(crate) store: Option<Arc<FdStore>>,
}

/// One writer as others see it.
#[derive(Debug)]
pub(crate) struct WriterHandle {
    inbox: Mutex<Inbox>,
    pub(crate) bell: EventFd,
    pub(crate) pulse: Arc<Pulse>,
}

#[derive(Debug, Default)]
struct Inbox {
    newcomers: Vec<Newcomer>,
    /// The deadline to stop; None while there is no order to stop.
    stop_by: Option<Instant>,
    is_closed: bool,
}

/// What previous processes left for one writer, and its own receive buffer.
#[derive(Debug)]
pub(crate) struct InheritedWork {
    pub(crate) receive_buffers: ReceiveBuffers,
    pub(crate) connections: Vec<InheritedConnection>,
    /// Each ring with its connection.
    pub(crate) rings: Vec<(OwnedFd, Ring)>,
}

/// A client that one writer accepted for another.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) held: Held,
    pub(crate) stored: StoredConnection,
    pub(crate) identity: Identity,
    pub(crate) protocol: Box<dyn Protocol>,
}

impl WriterHandle {
    pub(crate) fn new(bell: EventFd) -> Self {
        Self { inbox: Mutex::default(), bell, pulse: Arc::default() }
    }
}

impl Writers {
    fn inbox(&self, index: usize) -> MutexGuard<'_, Inbox> {
        lock(&self.handles[index].inbox)
    }

    fn ring(&self, index: usize) {
        // It can only fail if the bell's count would overflow. Then the bell rings already.
        let _ = self.handles[index].bell.write(1);
    }

    /// Orders a writer to stop by this time.
    pub(crate) fn stop_by(&self, index: usize, stop_by: Instant) {
        self.inbox(index).stop_by = Some(stop_by);
        self.ring(index);
    }

    pub(crate) fn count_connection(&self, index: usize) {
        // Relaxed: a plain counter.
        self.counters.writers[index].0.connections.fetch_add(1, Relaxed);
    }

    /// Stores a new connection for the next process, if that could resume it and if there is a store.
    pub(crate) fn keep(&self, kind: ListenerKind, socket: OwnedFd, identity: &Identity) -> StoredConnection {
        match &self.stored {
            Some(stored) if kind.is_resumable(&socket) => stored.keep(kind as u16, socket, identity),
            _ => StoredConnection::unstored(socket),
        }
    }

    /// Notes the peer of a new connection that has sent everything, if there is a store.
    pub(crate) fn note(&self, kind: ListenerKind, socket: OwnedFd, identity: &Identity) -> StoredConnection {
        match &self.stored {
            Some(stored) => stored.note(kind as u16, socket, identity),
            None => StoredConnection::unstored(socket),
        }
    }

    /// Gives a client to another writer. Returns it if that writer is stopping.
    pub(crate) fn hand_over(&self, index: usize, newcomer: Newcomer) -> Option<Newcomer> {
        let mut inbox = self.inbox(index);
        if inbox.is_closed {
            return Some(newcomer);
        }
        // Counted now, so that the next client does not go the same way before the writer has looked.
        self.count_connection(index);
        inbox.newcomers.push(newcomer);
        drop(inbox);
        self.ring(index);
        None
    }

    /// Silences the bell and takes what is in the inbox: clients, and the deadline to stop.
    pub(crate) fn take_inbox(&self, index: usize) -> (Vec<Newcomer>, Option<Instant>) {
        // The bell first: what comes into the inbox after this rings it again. Nothing to read is no error.
        let _ = self.handles[index].bell.read();
        let mut inbox = self.inbox(index);
        (std::mem::take(&mut inbox.newcomers), inbox.stop_by)
    }

    /// Closes the inbox, and takes what was in it.
    pub(crate) fn close_inbox(&self, index: usize) -> Vec<Newcomer> {
        let mut inbox = self.inbox(index);
        inbox.is_closed = true;
        std::mem::take(&mut inbox.newcomers)
    }
}
