//! Begins a writer thread: finishes what the previous process left, before anything new is read.
//!
//! Input: connections with their read positions, rings, and receive buffers that are not finished. Output: connections that are
//! watched, and events in the buffer. Thread: the writer. Failure: the reader is gone.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::handle::Newcomer;
use super::listeners::ListenerKind;
use super::receive_buffer::{ReceiveBuffer, Subject};
use super::thread::WriterThread;
use super::token::Token;
use crate::pipeline::accept::connection::protocol::Next;
use crate::pipeline::accept::connection::stored::{InheritedConnection, StoredConnection};
use crate::pipeline::accept::connection::{Connection, peer};
use crate::pipeline::accept::publish::Closed;
use crate::pipeline::accept::ring::Ring;
use crate::pipeline::accept::ring::connection::RingConnection;

impl WriterThread {
    /// Goes on with what previous processes left.
    pub(crate) fn resume(&mut self) -> Result<(), Closed> {
        let mut reads = HashMap::new();
        for inherited in std::mem::take(&mut self.inherited) {
            if let Some(place) = inherited.stored.slot() {
                reads.insert(place, inherited.read);
            }
            self.take_in(inherited)?;
        }
        for (socket, ring) in std::mem::take(&mut self.inherited_rings) {
            self.take_in_ring(socket, ring);
        }
        let mut receive_buffers = std::mem::take(&mut self.receive_buffers);
        for receive_buffer in &mut receive_buffers {
            self.finish(receive_buffer, &reads)?;
        }
        for receive_buffer in receive_buffers.drain(1..) {
            if let Some(store) = &self.writers.store {
                receive_buffer.let_go(store);
            }
        }
        self.context.publisher.set_read_progress(&receive_buffers[0].read_progress);
        self.receive_buffers = receive_buffers;
        self.look_into_rings()
    }

    /// Watches the ring of the previous process.
    fn take_in_ring(&mut self, socket: OwnedFd, ring: Ring) {
        let noted = ring.identity();
        let mut identity = peer::of_stream(&socket);
        if identity.comm.is_empty() {
            (identity.comm, identity.unit) = (noted.comm, noted.unit);
        }
        self.writers.count_connection(self.index);
        let connection = {
            let stored = StoredConnection::unstored(socket);
            Connection::new(stored, self.context.peer(identity), Box::new(RingConnection(ring)))
        };
        if let Some(index) = self.watch(connection) {
            self.after(index, Next::Open);
        }
    }

    /// Watches a connection of the previous process, from where it stood.
    fn take_in(&mut self, inherited: InheritedConnection) -> Result<(), Closed> {
        let InheritedConnection { stored, identity: noted, position, .. } = inherited;
        // The kernel still knows who connected; command and unit only as long as that process lives. Of a connection that
        // was only noted, it knows nothing any more.
        let mut identity = peer::of_stream(&stored.socket);
        let is_silent = identity.comm.is_empty() && (identity.pid, identity.uid) == (noted.pid, noted.uid);
        if stored.is_noted() || is_silent {
            identity = noted;
        }
        self.writers.count_connection(self.index);
        // What is stored had been accepted from a stream socket.
        let protocol = ListenerKind::Stream.first_protocol(&self.writers.shared);
        let Some(index) = self.admit(Newcomer { stored, identity, protocol }) else { return Ok(()) };
        if let Some(connection) = &mut self.connections[index as usize] {
            let next = connection.resume(position, &mut self.context)?;
            self.after(index, next);
        }
        Ok(())
    }

    /// Lays down what lies in a receive buffer and is not published. `reads` says which read each bookmark includes.
    fn finish(&mut self, receive_buffer: &mut ReceiveBuffer, reads: &HashMap<u32, u64>) -> Result<(), Closed> {
        let Some(unfinished) = receive_buffer.unfinished.take() else { return Ok(()) };
        // As it was when the read began, so that the same bytes give the same events.
        let now = (self.context.max_event_bytes, self.context.next_piece);
        (self.context.max_event_bytes, self.context.next_piece) = (unfinished.max_event_bytes, unfinished.piece);
        self.context.publisher.set_read_progress(&receive_buffer.read_progress);
        self.context.publisher.begin_read(unfinished.count);
        match unfinished.subject {
            Subject::Stream(place) if reads.get(&place) == Some(&unfinished.read) => {}
            Subject::Stream(place) => {
                let of_slot = |connection: &Option<_>| connection.as_ref().and_then(Connection::slot) == Some(place);
                if let Some(index) = self.connections.iter().position(of_slot)
                    && let Some(connection) = &mut self.connections[index]
                {
                    let next = connection.replay(receive_buffer, unfinished.read, &mut self.context)?;
                    self.after(index as u32, next);
                }
            }
            Subject::Datagrams => {
                let epoll = &self.epoll;
                let mut watch = |pid: u32, process: &OwnedFd| {
                    epoll.add(process, EpollEvent::new(EpollFlags::EPOLLIN, Token::Process(pid).number())).is_ok()
                };
                // One socket takes datagrams by now, so they are its.
                if let Some(listener) = self.listeners.datagrams.first_mut() {
                    listener.datagrams.replay(receive_buffer, &mut self.context, &mut watch)?;
                }
            }
        }
        receive_buffer.read_progress.end();
        self.context.publisher.begin_read(0);
        (self.context.max_event_bytes, self.context.next_piece) = now;
        Ok(())
    }
}
