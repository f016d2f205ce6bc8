//! Accepts clients, and gives each to a writer.
//!
//! Input: listening sockets that are ready. Output: connections of this writer or of another one. Thread: the writer.
//! Failure: only that the reader is gone. While no client can be accepted, clients wait in the queue of the socket.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;

use super::handle::Newcomer;
use super::listeners::{ListenerKind, StreamListener};
use super::thread::WriterThread;
use crate::pipeline::accept::connection::acceptor::Accepted;
use crate::pipeline::accept::connection::peer;
use crate::pipeline::accept::limits::READ_BYTES;
use crate::pipeline::accept::publish::Closed;
use crate::pipeline::shares::{Held, Refusal, Resource};
use crate::sync::atomic::Ordering::Relaxed;

const READ_BYTES_MAX: u64 = READ_BYTES as u64;
/// How long clients are accepted from one socket in one round, so that many new clients do not delay other connections.
const ACCEPT_FOR: Duration = Duration::from_millis(1);
/// How long listening sockets are left alone when there is no descriptor to accept with.
const EXHAUSTED_FOR: Duration = Duration::from_millis(100);

impl WriterThread {
    /// Accepts clients from a listening socket, for as long as one round allows.
    pub(super) fn accept(&mut self, listener: usize) -> Result<(), Closed> {
        let until = Instant::now() + ACCEPT_FOR;
        while Instant::now() < until {
            if self.writers.shares.is_used_up(Resource::Connections) {
                // The descriptors that are left are for the store and the control socket.
                self.pause_listening();
                break;
            }
            let StreamListener { kind, acceptor, .. } = &self.listeners.streams[listener];
            let kind = *kind;
            match acceptor.accept() {
                Accepted::Client(socket) => self.receive_client(kind, socket)?,
                Accepted::NoClient => break,
                Accepted::Exhausted => {
                    self.pause_listening();
                    break;
                }
            }
        }
        Ok(())
    }

    /// Leaves the listening sockets alone for a while: a level-triggered socket from which no client can be accepted
    /// would spin. Clients wait in the queue.
    fn pause_listening(&mut self) {
        if !std::mem::replace(&mut self.has_told_exhausted, true) {
            tracing::warn!("clients wait: no descriptor is left for more connections; raise LimitNOFILE=");
        }
        self.stop_listening();
        self.exhausted_until = Some(Instant::now() + EXHAUSTED_FOR);
    }

    /// Admits an accepted client, unless its user has its share of connections. If it has already sent everything, and
    /// one read is enough for that, it is read at once and not given to systemd. Any other connection that the next
    /// process could resume is stored before anything is read from it.
    fn receive_client(&mut self, kind: ListenerKind, socket: OwnedFd) -> Result<(), Closed> {
        let protocol = kind.first_protocol(&self.writers.shared);
        // Names are looked up later, to keep this short. If this process dies before systemd has the connection, or
        // before it has read a client that has sent everything, the connection is gone. In the second case the sender
        // does not even notice.
        let identity = peer::by_credentials(&socket);
        let Some(held) = self.take_place(identity.uid) else { return Ok(()) };
        let is_short = matches!(ioctl_fionread(&socket), Ok(0..=READ_BYTES_MAX))
            && self.writers.shares.throttle().wait(identity.uid).is_none();
        if !is_short || self.writers.stored.is_none() || !has_sent_all(&socket) {
            let stored = self.writers.keep(kind, socket, &identity);
            let identity = peer::named(identity, &stored.socket, &mut self.context.processes);
            stored.note_names(&identity);
            self.assign(Newcomer { held, stored, identity, protocol });
            return Ok(());
        }
        let stored = self.writers.note(kind, socket, &identity);
        self.writers.count_connection(self.index);
        if let Some(index) = self.admit(Newcomer { held, stored, identity, protocol }) {
            if let Some(connection) = &mut self.connections[index as usize] {
                connection.is_unnamed = true;
            }
            while self.read_once(index)? {}
        }
        Ok(())
    }

    /// Takes a place for a connection of a user. None if the user has its share: then the client sees the end.
    pub(super) fn take_place(&self, uid: u32) -> Option<Held> {
        let shares = &self.writers.shares;
        match shares.try_take(Resource::Connections, uid, 1) {
            Ok(held) => Some(held),
            // Another writer has taken the last place since this one looked. What the client has sent would be lost.
            Err(Refusal::NoneLeft(_)) => Some(shares.take_over(Resource::Connections, uid, 1)),
            Err(refusal) => {
                shares.count_refusal(refusal, uid);
                self.turned_away();
                None
            }
        }
    }

    /// Watches the listening sockets again, if it is time for that.
    pub(super) fn listen_again(&mut self) {
        if self.exhausted_until.is_some_and(|until| Instant::now() >= until) {
            self.exhausted_until = match self.listen() {
                Ok(()) => None,
                Err(_) => Some(Instant::now() + EXHAUSTED_FOR),
            };
        }
    }

    /// Gives a newcomer to the writer with the fewest connections.
    fn assign(&mut self, newcomer: Newcomer) {
        // Relaxed: an old count only makes the distribution slightly less even.
        let count = |index: usize| self.writers.counters.writers[index].0.connections.load(Relaxed);
        let others = (0..self.writers.handles.len()).filter(|index| *index != self.index);
        let fewest = others.map(|index| (count(index), index)).min();
        let newcomer = match fewest {
            Some((fewest, target)) if fewest < count(self.index) => self.writers.hand_over(target, newcomer),
            _ => Some(newcomer),
        };
        // A writer that is stopping takes no more.
        let Some(newcomer) = newcomer else { return };
        self.writers.count_connection(self.index);
        self.admit(newcomer);
    }
}

/// Whether the peer has closed its sending side, so that everything it will ever send is there.
fn has_sent_all(socket: &OwnedFd) -> bool {
    let flags = PollFlags::RDHUP | PollFlags::HUP;
    let mut asked = [PollFd::new(socket, flags)];
    poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
