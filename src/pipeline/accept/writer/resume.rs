//! Resumes what the previous process left, before anything new is read.
//!
//! Input: connections with their read positions, and receive buffers with something unfinished. Output: watched
//! connections, and events in the buffer. Thread: the writer. Failure: the reader is gone.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt::PassCred};

use super::handle::Newcomer;
use super::listeners::ListenerKind;
use super::thread::WriterThread;
use super::token::Token;
use crate::pipeline::accept::connection::protocol::Next;
use crate::pipeline::accept::connection::read_position::InheritedPosition;
use crate::pipeline::accept::connection::stored::{InheritedConnection, StoredConnection};
use crate::pipeline::accept::connection::{Connection, peer};
use crate::pipeline::accept::publish::receive_buffer::{ReceiveBuffer, Subject, Unfinished};
use crate::pipeline::accept::publish::{Closed, WriterContext};
use crate::pipeline::accept::ring::Ring;
use crate::pipeline::accept::ring::connection::RingConnection;
use crate::pipeline::shares::Resource;
use crate::sync::Arc;
use crate::sys::socket_options::identify_senders;

impl WriterThread {
    /// Resumes what previous processes left.
    pub(crate) fn resume(&mut self) -> Result<(), Closed> {
        let mut reads = HashMap::new();
        let mut lost_lines = Vec::new();
        for inherited in std::mem::take(&mut self.inherited) {
            let slot = inherited.stored.slot();
            reads.extend(slot.map(|slot| (slot, inherited.read)));
            let is_lost = inherited.position == InheritedPosition::Lost;
            self.take_in(inherited);
            lost_lines.extend(slot.filter(|_| is_lost));
        }
        for (socket, ring) in std::mem::take(&mut self.inherited_rings) {
            self.take_in_ring(socket, ring);
        }
        let mut receive_buffers = std::mem::take(&mut self.receive_buffers);
        for receive_buffer in &mut receive_buffers {
            if let Some(unfinished) = receive_buffer.unfinished.take() {
                lost_lines.retain(|slot| unfinished.subject != Subject::LostLine(*slot));
                self.finish(receive_buffer, unfinished, &reads)?;
            }
        }
        for receive_buffer in receive_buffers.drain(1..) {
            if let Some(store) = &self.writers.store {
                receive_buffer.let_go(store);
            }
        }
        let read_progress = Arc::clone(&receive_buffers[0].read_progress);
        self.receive_buffers = receive_buffers;
        self.context.publisher.set_read_progress(&read_progress);
        for slot in lost_lines {
            self.with_connection(slot, |connection, context| connection.lose_rest(&read_progress, None, context))?;
        }
        self.look_into_rings()
    }

    /// Watches a ring of the previous process.
    fn take_in_ring(&mut self, socket: OwnedFd, ring: Ring) {
        // It may come from a version that did not ask for this.
        let _ = identify_senders(&socket);
        let owner = peer::by_credentials(&socket).uid;
        let identity = peer::taken_over(&socket, ring.identity(), &mut self.context.processes);
        let connection = Connection::new(
            self.writers.shares.take_over(Resource::Connections, owner, 1),
            StoredConnection::unstored(socket),
            self.context.peer(identity),
            Box::new(RingConnection(ring)),
        );
        if let Some(index) = self.watch(connection) {
            self.after(index, Next::Open);
        }
    }

    /// Watches a connection of the previous process, from its position on.
    fn take_in(&mut self, inherited: InheritedConnection) {
        let InheritedConnection { stored, kind, identity: noted, mut position, .. } = inherited;
        let is_older = getsockopt(&stored.socket, PassCred) == Ok(false);
        let _ = identify_senders(&stored.socket);
        // Of a connection that was only noted, the kernel knows nothing any more.
        let (owner, identity) = if stored.is_noted() {
            (noted.uid, noted)
        } else {
            let owner = peer::by_credentials(&stored.socket).uid;
            (owner, peer::taken_over(&stored.socket, noted, &mut self.context.processes))
        };
        let held = self.writers.shares.take_over(Resource::Connections, owner, 1);
        // A kind that this version does not know cannot be resumed, whatever the position says.
        let known = ListenerKind::of_stored(kind);
        if known.is_none() {
            position = InheritedPosition::Unknown;
        }
        let protocol = known.unwrap_or(ListenerKind::Stream).first_protocol(&self.writers.shared);
        let Some(index) = self.admit(Newcomer { held, stored, identity, protocol }) else { return };
        if let Some(connection) = &mut self.connections[index as usize] {
            (connection.is_inherited, connection.is_older) = (true, is_older);
            connection.looked_up_ns = 0;
            let next = connection.resume(position, &mut self.context);
            self.after(index, next);
        }
    }

    /// Calls `work` for the connection in this slot, if it is there.
    fn with_connection(
        &mut self,
        slot: u32,
        work: impl FnOnce(&mut Connection, &mut WriterContext) -> Result<Next, Closed>,
    ) -> Result<(), Closed> {
        let of_slot = |connection: &Option<_>| connection.as_ref().and_then(Connection::slot) == Some(slot);
        if let Some(index) = self.connections.iter().position(of_slot)
            && let Some(connection) = &mut self.connections[index]
        {
            let next = work(connection, &mut self.context)?;
            self.after(index as u32, next);
        }
        Ok(())
    }

    /// Publishes what is unfinished. `reads` says which read each position includes.
    fn finish(
        &mut self,
        receive_buffer: &mut ReceiveBuffer,
        unfinished: Unfinished,
        reads: &HashMap<u32, u64>,
    ) -> Result<(), Closed> {
        // As it was when the read began, so that the same bytes give the same events.
        let now = (self.context.max_event_bytes, self.context.next_piece);
        (self.context.max_event_bytes, self.context.next_piece) = (unfinished.max_event_bytes, unfinished.piece);
        self.context.publisher.set_read_progress(&receive_buffer.read_progress);
        self.context.publisher.begin_read(unfinished.count);
        let is_done = |slot: u32| reads.get(&slot) == Some(&unfinished.read);
        let (read_progress, number) = (&receive_buffer.read_progress, Some(unfinished.read));
        match unfinished.subject {
            // The position says how far it was read, but perhaps not yet by whom it was sent.
            Subject::Stream(slot) if is_done(slot) => self.with_connection(slot, |connection, context| {
                connection.was_sent_by(receive_buffer.headers.sender(0), context);
                Ok(Next::Open)
            })?,
            Subject::Carry(slot) | Subject::LostLine(slot) if is_done(slot) => {}
            Subject::Stream(slot) => self.with_connection(slot, |connection, context| {
                connection.replay(receive_buffer, unfinished.read, context)
            })?,
            Subject::Carry(slot) => {
                self.with_connection(slot, |connection, context| connection.shed(read_progress, number, context))?;
            }
            Subject::LostLine(slot) => {
                self.with_connection(slot, |connection, context| connection.lose_rest(read_progress, number, context))?;
            }
            Subject::Datagrams => {
                let epoll = &self.epoll;
                let mut watch = |pid: u32, process: &OwnedFd| {
                    epoll.add(process, EpollEvent::new(EpollFlags::EPOLLIN, Token::Process(pid).number())).is_ok()
                };
                // Only one socket receives datagrams now, so they belong to it.
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
