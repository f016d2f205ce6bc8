//! Serves a connection that has a ring: grants the ring, looks into it, answers its program, and ends it.
//!
//! After the grant the connection carries the ring's doorbell and nothing else. Its end is the ring's end.
//!
//! Input: the request for a ring, doorbells, and the client's end. Output: the ring's memory for the client; events in
//! the publisher. Thread: the connection's writer. Failure: only that the reader is gone. A client's fault ends its own
//! ring at most.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

use dbuf_wire::frames::{Code, Fault, Frame};
use dbuf_wire::ring::DOORBELL;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::registry::Rings;
use super::{Ring, Taken};
use crate::pipeline::accept::connection::protocol::{
    AfterBytes, Link, LookResult, Next, Polled, Protocol, ReadResult, ReplyState,
};
use crate::pipeline::accept::frames::connection::{Granted, RingGrants};
use crate::pipeline::accept::publish::{Closed, WriterContext};
use crate::pipeline::account::Identity;
use crate::pipeline::takeover::names::end_for_peer;
use crate::sync::Arc;

const BYTES_ON_CONNECTION: &str = "the connection of a ring carries bytes that are not doorbells";
/// Bytes read at a time. A client that rings once for each sleep of the writer has one byte waiting.
const READ_BYTES: usize = 256;

/// A connection that has a ring.
#[derive(Debug)]
pub(crate) struct RingConnection(pub(crate) Ring);

impl RingGrants for Rings {
    fn grant(self: Arc<Self>, identity: &Identity, capacity: u64, link: &Link, context: &WriterContext) -> Granted {
        let (mut ring, memory) = match Rings::grant(&self, identity.clone(), capacity) {
            Ok(granted) => granted,
            Err(why) => return Granted::Refused(why),
        };
        ring.tell_max_event(context.max_event_bytes);
        let mut reply = Vec::new();
        Frame::Grant { capacity }.encode(&mut reply);
        let descriptors = [memory.as_raw_fd()];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let message = [ControlMessage::ScmRights(&descriptors)];
        let sent = sendmsg::<()>(link.socket().as_raw_fd(), &[IoSlice::new(&reply)], &message, flags, None);
        if link.reply_state != ReplyState::Clear || sent != Ok(reply.len()) {
            ring.close();
            return Granted::Failed;
        }
        ring.keep(identity, &memory, link.socket());
        Granted::Ring(Box::new(RingConnection(ring)))
    }
}

impl Protocol for RingConnection {
    fn take(&mut self, _bytes: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed> {
        self.refuse(BYTES_ON_CONNECTION, link, context).map(|_| AfterBytes::Close)
    }

    fn end(&mut self, _link: &mut Link, _context: &mut WriterContext) -> Result<Next, Closed> {
        Ok(Next::Close)
    }

    /// What the program publishes from here on it must send again. No later process can tell it what became of the
    /// events that were taken, so this one stays until it has.
    fn cut_off(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        self.0.finish();
        link.is_lingering = true;
        Ok(self.answer(link, context))
    }

    fn answer(&mut self, link: &mut Link, context: &WriterContext) -> Next {
        self.0.answer(false, context);
        if link.is_lingering && self.0.is_reported() { Next::Close } else { Next::Open }
    }

    /// The next process may resume the ring, but the program should know what is durable now.
    fn finish(&mut self, link: &mut Link, context: &WriterContext) -> Next {
        self.0.finish();
        self.answer(link, context)
    }

    fn waits_for_progress(&self, _link: &Link) -> bool {
        self.0.wanted_progress() != 0
    }

    fn polled(&mut self) -> Option<&mut dyn Polled> {
        Some(self)
    }

    fn is_stored(&self) -> bool {
        self.0.is_stored()
    }

    fn close(self: Box<Self>, socket: &OwnedFd) {
        // systemd may still hold the connection, but the client must see the end now.
        end_for_peer(socket);
        self.0.close();
    }
}

impl Polled for RingConnection {
    fn set_state(&mut self, state: u64) {
        self.0.set_state(state);
    }

    fn has_something(&mut self) -> bool {
        self.0.has_something()
    }

    fn waiting_bytes(&mut self) -> u64 {
        self.0.waiting_bytes()
    }

    fn read(&mut self, link: &mut Link, scratch: &mut [u8], context: &mut WriterContext) -> Result<ReadResult, Closed> {
        let mut bytes = [0; READ_BYTES];
        let is_over = match recv(link.socket(), &mut bytes, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => false,
            Ok((1.., read)) if bytes[..read].iter().all(|byte| *byte == DOORBELL) => false,
            Ok((1.., _)) => return self.refuse(BYTES_ON_CONNECTION, link, context).map(ReadResult::End),
            // The end, or a reset, which is an end as well.
            Ok(_) | Err(_) => true,
        };
        // A program that is gone adds nothing. If it has passed its ring to another one, that one is not waited for.
        let mut looks = if is_over { self.0.looks_max() } else { 1 };
        loop {
            let LookResult { next, bytes } = self.look(link, scratch, context)?;
            if next == Next::Close {
                return Ok(ReadResult::End(next));
            }
            looks -= 1;
            match (is_over, bytes) {
                (true, 1..) if looks > 0 => {}
                (true, _) => break,
                (false, 0) => return Ok(ReadResult::Nothing),
                (false, _) => return Ok(ReadResult::Some(Next::Open)),
            }
        }
        self.0.end(&link.peer, context)?;
        Ok(ReadResult::End(Next::Close))
    }

    fn look(&mut self, link: &mut Link, scratch: &mut [u8], context: &mut WriterContext) -> Result<LookResult, Closed> {
        match self.0.take(scratch, &link.peer, context)? {
            Taken::Bytes(bytes) => {
                self.0.answer(bytes > 0, context);
                Ok(LookResult { next: Next::Open, bytes })
            }
            Taken::Broken(why) => Ok(LookResult { next: self.refuse(why, link, context)?, bytes: 0 }),
        }
    }
}

impl RingConnection {
    /// Ends a ring whose client does something that no client may do, and reports why.
    fn refuse(&mut self, why: &'static str, link: &Link, context: &mut WriterContext) -> Result<Next, Closed> {
        self.0.cut_off(why, &link.peer, context)?;
        let mut reply = Vec::new();
        Frame::Error(Fault { code: Code::Broken as u8, first: 0, last: 0, text: why.as_bytes() }).encode(&mut reply);
        link.send_last(&reply);
        Ok(Next::Close)
    }
}
