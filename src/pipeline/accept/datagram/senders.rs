//! Remembers the processes that send datagrams.
//!
//! Input: the credentials of a datagram. Output: the peer that sent it. Thread: the socket's writer. Nothing can fail:
//! a process that cannot be looked up is known by its credentials alone.
//!
//! Command and unit are looked up in /proc once for each process, not for each datagram. The answer holds until the
//! process's pidfd says that it has ended, and a little longer, because its last datagrams are still in the queue. Then
//! the process is forgotten, long before the kernel can reuse its number.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use crate::pipeline::accept::connection::peer::of_datagram;
use crate::pipeline::accept::publish::{Peer, WriterContext};
use crate::sys::recvmmsg::Credentials;

/// Senders that are remembered at a time, each with a descriptor.
const SENDERS_MAX: usize = 256;
/// After this many reads of a queue that is never seen empty, everything that was in it when a process ended has been
/// read.
const READS_UNTIL_FORGOTTEN: u64 = 64;

/// Adds a pidfd to the writer's epoll set, under the process's number. False if that fails.
pub(crate) type Watch<'a> = dyn FnMut(u32, &OwnedFd) -> bool + 'a;

#[derive(Debug)]
struct Sender {
    peer: Peer,
    /// The read of its last datagram.
    used: u64,
    /// The read after which it ended; None while it lives.
    ended: Option<u64>,
    /// Its pidfd. Dropping it removes it from the epoll set.
    process: Option<OwnedFd>,
}

/// The known senders.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    known: HashMap<Credentials, Sender>,
    /// The last sender that could not be remembered.
    unknown: Option<Peer>,
    reads: u64,
    any_ended: bool,
}

impl Senders {
    /// The peer with these credentials.
    pub(crate) fn peer(
        &mut self,
        credentials: Credentials,
        context: &mut WriterContext,
        watch: &mut Watch<'_>,
    ) -> &Peer {
        if !self.known.contains_key(&credentials) {
            let (identity, process) = of_datagram(credentials);
            let peer = context.peer(identity);
            match process {
                Some(process) if watch(credentials.pid, &process) => self.keep(credentials, peer, process),
                _ => return self.unknown.insert(peer),
            }
        }
        let sender = self.known.get_mut(&credentials).expect("the sender was known or has just been added");
        sender.used = self.reads;
        &sender.peer
    }

    fn keep(&mut self, credentials: Credentials, peer: Peer, process: OwnedFd) {
        if self.known.len() >= SENDERS_MAX
            && let Some((&quietest, _)) = self.known.iter().min_by_key(|(_, sender)| sender.used)
        {
            self.known.remove(&quietest);
        }
        let sender = Sender { peer, used: self.reads, ended: None, process: Some(process) };
        self.known.insert(credentials, sender);
    }

    /// Marks a process as ended. What it sent before that is still attributed to it.
    pub(crate) fn ended(&mut self, pid: u32) {
        for (_, sender) in self.known.iter_mut().filter(|(known, _)| known.pid == pid) {
            sender.ended = Some(self.reads);
            sender.process = None;
            self.any_ended = true;
        }
    }

    /// Ends one read of the queue, which was seen empty or not.
    pub(crate) fn end_read(&mut self, seen_empty: bool) {
        self.reads += 1;
        if self.any_ended {
            let reads = self.reads;
            let is_due = |ended: u64| seen_empty || reads - ended > READS_UNTIL_FORGOTTEN;
            self.known.retain(|_, sender| !sender.ended.is_some_and(is_due));
            self.any_ended = self.known.values().any(|sender| sender.ended.is_some());
        }
    }
}
