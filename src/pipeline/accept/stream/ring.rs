//! A connection that has a ring: it carries nothing more, and its end is the ring's.
//!
//! Enters: the request for a ring, and the client's end. Leaves: the ring's descriptors for the client; events in the layer. The
//! connection's writer thread. What can fail: only that the reader is gone; a client's faults end its ring at most.

use std::io::IoSlice;
use std::os::fd::AsRawFd;

use dbuf_wire::frames::{Code, Fault, Frame};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Closed, Connection, Desk, Fate, Intake, Line, Protocol, Read};
use crate::pipeline::accept::ring::Taken;
use crate::pipeline::account::Identity;

impl Connection {
    /// Looks whether its client has left, and lays down what lies in its ring.
    pub(super) fn read_ring(&mut self, desk: &mut Desk, intake: &mut Intake) -> Result<Read, Closed> {
        let mut byte = [0];
        let is_over = match recv(&self.kept.socket, &mut byte, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => false,
            Ok((1.., _)) => {
                return self.cut_off_ring("there are bytes on the connection of a ring", intake).map(Read::End);
            }
            // The end, or a reset, which is one as well.
            Ok(_) | Err(_) => true,
        };
        // A program that is gone adds nothing; one that has passed its ring on to another is not waited for.
        let mut looks = if is_over { self.ring().map_or(0, |ring| ring.looks_max()) } else { 1 };
        loop {
            let (fate, bytes) = self.look(desk, intake)?;
            if fate == Fate::Close {
                return Ok(Read::End(fate));
            }
            looks -= 1;
            match (is_over, bytes) {
                (true, 1..) if looks > 0 => {}
                (true, _) => break,
                (false, 0) => return Ok(Read::Nothing),
                (false, _) => return Ok(Read::Some(Fate::Open)),
            }
        }
        let Self { protocol, peer, .. } = self;
        if let Protocol::Ring(ring) = protocol {
            ring.end(peer, intake)?;
        }
        Ok(Read::End(Fate::Close))
    }

    /// Lays down what lies in its ring, up to a measure, and says how many bytes that were.
    pub(in crate::pipeline::accept) fn look(
        &mut self,
        desk: &mut Desk,
        intake: &mut Intake,
    ) -> Result<(Fate, u64), Closed> {
        let Self { protocol, peer, .. } = self;
        let Protocol::Ring(ring) = protocol else { return Ok((Fate::Open, 0)) };
        match ring.take(&mut desk.stream, peer, intake)? {
            Taken::Bytes(bytes) => {
                ring.answer(bytes > 0, intake);
                Ok((Fate::Open, bytes))
            }
            Taken::Broken(why) => Ok((self.cut_off_ring(why, intake)?, 0)),
        }
    }

    /// Ends a ring whose client does what none may do, and says why.
    pub(super) fn cut_off_ring(&mut self, why: &'static str, intake: &mut Intake) -> Result<Fate, Closed> {
        let Self { protocol, peer, kept, .. } = self;
        if let Protocol::Ring(ring) = protocol {
            ring.cut_off(why, peer, intake)?;
        }
        let mut reply = Vec::new();
        Frame::Error(Fault { code: Code::Broken as u8, first: 0, last: 0, text: why.as_bytes() }).encode(&mut reply);
        // A client that does not read has no room for it, and does not want to know.
        let _ = send(&kept.socket, &reply, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        Ok(Fate::Close)
    }

    /// Gives its client a ring, or says why there is none.
    pub(super) fn grant(&mut self, capacity: u64, intake: &mut Intake) -> Fate {
        // WELCOME comes first.
        let fate = self.answer(intake);
        let Protocol::Frames(session) = &mut self.protocol else { return fate };
        let identity = Identity { tag: session.name().into(), session: 0, ..self.peer.identity.clone() };
        let (mut ring, memory) = match intake.rings.grant(identity.clone(), capacity) {
            Ok(granted) => granted,
            Err(why) => {
                tracing::debug!(pid = identity.pid, uid = identity.uid, why, "a ring is refused");
                session.no_ring(&why);
                return self.answer(intake);
            }
        };
        ring.tell_max_event(intake.max_event_bytes);
        let mut reply = Vec::new();
        Frame::Grant { capacity }.encode(&mut reply);
        let descriptors = [memory.as_raw_fd(), ring.bell().as_raw_fd()];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let message = [ControlMessage::ScmRights(&descriptors)];
        let socket = &self.kept.socket;
        let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&reply)], &message, flags, None);
        if self.line != Line::Clear || sent != Ok(reply.len()) {
            ring.close();
            return Fate::Close;
        }
        ring.keep(&identity, &memory, socket);
        self.peer.identity.session = 0;
        self.protocol = Protocol::Ring(Box::new(ring));
        Fate::Open
    }
}
