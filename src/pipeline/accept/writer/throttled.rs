//! Leaves connections alone while their users must wait, and returns to them.
//!
//! Input: connections that are ready, or whose rings are due. Output: connections that the writer does not watch, until
//! their time has come. Thread: the writer. Failure: none; a connection that can no longer be watched is closed.
//!
//! A connection that waits is not in the epoll set: the kernel reports the end of a peer whatever a set asks for, and
//! the writer would spin. Its ring is not looked into. Nothing of it is lost: the socket's queue or the ring is full at
//! some time, and then the sender waits as well.
//!
//! The connections of a user are read in turn. The first one whose time has come may be read, and brings its user into
//! debt again; the others go back to wait, and are before it then.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollEvent;

use super::thread::WriterThread;
use super::token::Token;
use crate::pipeline::accept::connection::protocol::Next;
use crate::pipeline::shares::throttle::{Taken, Wait};

/// Connections that are looked at in one round, and those of one user. A user may have very many, and the first one
/// that is read brings it into debt again.
const RETURNS_A_ROUND: usize = 256;
const RETURNS_OF_USER: u32 = 16;
/// How long the others of that user wait then.
const AGAIN: Duration = Duration::from_millis(10);

impl WriterThread {
    /// Whether a connection must not be read now. From then on it waits.
    pub(super) fn is_throttled(&mut self, index: u32) -> bool {
        if !self.writers.shares.throttle().may_limit() {
            return false;
        }
        let Some(connection) =
            self.connections[index as usize].as_mut().filter(|connection| !connection.is_lingering())
        else {
            return false;
        };
        let Some(Wait { limit, time }) = self.writers.shares.throttle().wait(connection.sender_uid()) else {
            return false;
        };
        self.writers.shares.throttle().refuse(connection.sender_uid(), limit);
        connection.is_throttled = true;
        let _ = self.epoll.delete(connection.socket());
        self.rings.forget(index);
        self.throttled.add(index, time);
        true
    }

    /// Watches the connections again whose users need not wait any more.
    pub(super) fn return_to_throttled(&mut self) {
        if self.throttled.next().is_none() {
            return;
        }
        let now = Instant::now();
        let mut watched: HashMap<u32, u32> = HashMap::new();
        for _ in 0..RETURNS_A_ROUND {
            let Some(index) = self.throttled.take_due(now) else { break };
            let connection = self.connections[index as usize].as_mut();
            let Some(connection) = connection.filter(|connection| connection.is_throttled) else { continue };
            let of_user = watched.entry(connection.sender_uid()).or_default();
            if *of_user >= RETURNS_OF_USER {
                self.throttled.add(index, AGAIN);
                continue;
            }
            *of_user += 1;
            if let Some(Wait { time, .. }) = self.writers.shares.throttle().wait(connection.sender_uid()) {
                self.throttled.add(index, time);
                continue;
            }
            connection.is_throttled = false;
            connection.interest = connection.wanted_interest();
            let event = EpollEvent::new(connection.interest, Token::Connection(index).number());
            let is_watched = self.epoll.add(connection.socket(), event).is_ok();
            if is_watched && connection.is_polled {
                self.rings.add(index);
            }
            self.after(index, if is_watched { Next::Open } else { Next::Close });
        }
    }

    /// Counts what was published of a user since the publisher had taken `before`.
    pub(super) fn charge(&self, uid: u32, before: Taken) {
        self.writers.shares.throttle().charge(uid, self.context.publisher.taken().since(before));
    }
}
