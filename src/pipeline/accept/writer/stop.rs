//! Ends a writer thread: reads what the kernel holds, and sends clients the answers that they wait for.
//!
//! Input: the order to stop, and its deadline. Output: events in the buffer, answers, ended connections. Connections
//! that are stored for the next process stay as they are. Thread: the writer. Failure: the reader is gone; what is lost
//! by that is counted.
//!
//! A client that sends without pause must not delay the end. So what continues after this process (stored connections,
//! systemd's sockets) is read only as far as it had come when the end began. Programs with rings learn which of their
//! events are durable, even if the next process could resume the ring, because it is not known whether there will be
//! one.

use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::handle::Newcomer;
use super::listeners::StreamListener;
use super::thread::{RECEIVES_A_ROUND, WriterThread};
use crate::pipeline::accept::connection::acceptor::Accepted;
use crate::pipeline::accept::connection::{Connection, peer};
use crate::pipeline::accept::limits::READ_BYTES;
use crate::pipeline::accept::publish::Closed;
use crate::sync::Arc;

/// Clients that wait in the queue of one of systemd's sockets, at most; see `Backlog=` of its unit.
const BACKLOG_MAX: usize = 4096;
/// Rounds that receive more datagrams than the kernel queues (`net.unix.max_dgram_qlen`, 512 under systemd).
const RECEIVE_ROUNDS: usize = 8;

impl WriterThread {
    /// Takes what the kernel holds: clients that wait to be accepted, and what the sockets have. Stored connections and
    /// systemd's sockets are read only as far as they had come when the stop began; all others until a read finds
    /// nothing.
    pub(crate) fn take_the_rest(&mut self, stop_by: Instant) -> Result<(), Closed> {
        // No event of an earlier round names these any more.
        self.free.append(&mut self.freed);
        self.accept_the_last(stop_by);
        self.read_what_is_there(stop_by)?;
        for at in 0..self.listeners.datagrams.len() {
            let mut rounds = if self.listeners.datagrams[at].is_passed { RECEIVE_ROUNDS } else { usize::MAX };
            while rounds > 0 && Instant::now() < stop_by && self.receive(at, RECEIVES_A_ROUND)? {
                rounds -= 1;
            }
        }
        for index in 0..self.connections.len() as u32 {
            let Some(connection) = &mut self.connections[index as usize] else { continue };
            if connection.is_lingering() {
                continue;
            }
            let next = if connection.is_stored() {
                connection.finish(&self.context)
            } else {
                connection.cut_off(&mut self.context)?
            };
            self.after(index, next);
        }
        self.answer_until(stop_by);
        Ok(())
    }

    fn accept_the_last(&mut self, stop_by: Instant) {
        for at in 0..self.listeners.streams.len() {
            let StreamListener { kind, is_passed, .. } = self.listeners.streams[at];
            let mut clients = if is_passed { BACKLOG_MAX } else { usize::MAX };
            while clients > 0 && Instant::now() < stop_by {
                match self.listeners.streams[at].acceptor.accept() {
                    Accepted::Client(socket) => {
                        let identity = peer::of_stream(&socket, &mut self.context.processes);
                        let Some(held) = self.take_place(identity.uid) else { continue };
                        let stored = self.writers.keep(kind, socket, &identity);
                        self.writers.count_connection(self.index);
                        let protocol = kind.first_protocol(&self.writers.shared);
                        self.admit(Newcomer { held, stored, identity, protocol });
                    }
                    Accepted::NoClient | Accepted::Exhausted => break,
                }
                clients -= 1;
            }
        }
        self.stop_listening();
        // From here on the inbox is closed. Clients that were handed over before are admitted.
        for newcomer in self.writers.close_inbox(self.index) {
            self.admit(newcomer);
        }
    }

    /// Reads the connections in turn: stored ones as often as needed for what they held at first, the others until they
    /// are empty once.
    fn read_what_is_there(&mut self, stop_by: Instant) -> Result<(), Closed> {
        let reads = |connection: &mut Connection| {
            if connection.is_stored() { connection.waiting_bytes() / READ_BYTES as u64 + 1 } else { u64::MAX }
        };
        let connections = self.connections.iter_mut().enumerate();
        let mut unread: Vec<(u32, u64)> =
            connections.filter_map(|(index, connection)| Some((index as u32, reads(connection.as_mut()?)))).collect();
        while !unread.is_empty() && Instant::now() < stop_by {
            let mut still = Vec::new();
            for (index, reads) in unread {
                if self.read_once(index)? && reads > 1 {
                    still.push((index, reads - 1));
                }
            }
            unread = still;
        }
        Ok(())
    }

    /// Waits until clients have the answers that are due, or until `stop_by`.
    fn answer_until(&mut self, stop_by: Instant) {
        if !self.waiting.is_empty() {
            self.context.progress.ask_sync();
            self.context.waker.wake();
        }
        let progress = Arc::clone(&self.context.progress);
        while !self.waiting.is_empty() {
            let left = stop_by.saturating_duration_since(Instant::now());
            let mut bell = [PollFd::new(progress.bell(self.index), PollFlags::POLLIN)];
            // The deadline has passed, or a signal came that is not for this thread. Either way the clients see the
            // connection end.
            if left.is_zero() || poll(&mut bell, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).is_err() {
                return;
            }
            self.on_progress();
        }
    }
}
