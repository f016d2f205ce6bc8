//! Remembers the processes that send datagrams.
//!
//! Input: the credentials of a datagram. Output: the peer that sent it. Thread: the socket's writer. Nothing can fail:
//! a process that cannot be looked up is known by its credentials alone.
//!
//! Command and unit are looked up once a second for each process, not for each datagram. The process is known until its
//! pidfd says that it has ended, and a little longer, because its last datagrams are still in the queue. Then it is
//! forgotten, long before the kernel can reuse its number.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use crate::pipeline::accept::connection::peer::numbers;
use crate::pipeline::accept::publish::{Handle, Names, Peer, Processes, WriterContext, open};
use crate::pipeline::account::Identity;
use crate::pipeline::shares::{Held, Resource, Shares};
use crate::sync::Arc;
use crate::sys::pidfd;
use crate::sys::recvmmsg::Credentials;

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
    /// When its names were looked up.
    looked_up_ns: u64,
    /// Its pidfd. Dropping it removes it from the epoll set.
    process: Option<OwnedFd>,
    /// The part of its user's share.
    _held: Held,
}

/// The known senders.
#[derive(Debug)]
pub(crate) struct Senders {
    shares: Arc<Shares>,
    known: HashMap<Credentials, Sender>,
    /// The last sender that could not be remembered.
    unknown: Option<Peer>,
    reads: u64,
    any_ended: bool,
}

impl Sender {
    /// Follows a process that has executed another program, has another name, or is in another unit.
    #[cold]
    fn look_up_again(&mut self, context: &mut WriterContext) {
        let now_ns = context.publisher.time_ns();
        let identity = &self.peer.identity;
        let Some(process) = &self.process else { return };
        let Some(names) = context.processes.look_up_again(identity.pid, process, now_ns) else { return };
        self.looked_up_ns = now_ns;
        // A process that has ended keeps the names that it had.
        if !names.has_ended && (&names.comm, &names.unit) != (&identity.comm, &identity.unit) {
            let Names { comm, unit, .. } = names;
            self.peer = context.peer(Identity { comm, unit, ..identity.clone() });
        }
    }
}

impl Senders {
    pub(crate) fn new(shares: Arc<Shares>) -> Self {
        Self { shares, known: HashMap::new(), unknown: None, reads: 0, any_ended: false }
    }

    /// The peer with these credentials.
    pub(crate) fn peer(
        &mut self,
        credentials: Credentials,
        handle: Handle,
        context: &mut WriterContext,
        watch: &mut Watch<'_>,
    ) -> &Peer {
        self.forget_if_replaced(credentials, &handle);
        if !self.known.contains_key(&credentials)
            && let Some(peer) = self.meet(credentials, handle, context, watch)
        {
            return self.unknown.insert(peer);
        }
        let sender = self.known.get_mut(&credentials).expect("the sender was known or has just been added");
        sender.used = self.reads;
        if !Processes::are_fresh(sender.looked_up_ns, context.publisher.time_ns()) {
            sender.look_up_again(context);
        }
        &sender.peer
    }

    /// Looks up a process whose first datagram this is. Returns the peer if it cannot be remembered.
    #[cold]
    fn meet(
        &mut self,
        credentials: Credentials,
        handle: Handle,
        context: &mut WriterContext,
        watch: &mut Watch<'_>,
    ) -> Option<Peer> {
        let process = match handle {
            Handle::Process(process) => Some(process),
            Handle::Number => open(credentials.pid),
            Handle::None => None,
        };
        let now_ns = context.publisher.time_ns();
        let names =
            process.as_ref().and_then(|process| context.processes.look_up_again(credentials.pid, process, now_ns));
        let Names { comm, unit, has_ended } = names.unwrap_or_default();
        let identity = Identity { comm, unit, ..numbers(credentials) };
        let process = process.filter(|process| !has_ended && watch(credentials.pid, process));
        if process.is_none()
            && let Some(last) = self.unknown.take_if(|last| last.identity == identity)
        {
            return Some(last);
        }
        let peer = context.peer(identity);
        self.keep(credentials, peer, process, context.publisher.time_ns()).err()
    }

    /// Forgets a process that has ended if another one has its number now and sends as the same user.
    fn forget_if_replaced(&mut self, credentials: Credentials, handle: &Handle) {
        if let Handle::Process(process) = handle
            && self.any_ended
            && self.known.get(&credentials).is_some_and(|sender| sender.ended.is_some())
            && pidfd::info(process).is_some_and(|info| info.pid == Some(credentials.pid))
        {
            self.known.remove(&credentials);
        }
    }

    /// Remembers a sender that lives. A user who has its share loses its own quietest sender. Returns the peer if it
    /// cannot be remembered.
    fn keep(
        &mut self,
        credentials: Credentials,
        peer: Peer,
        process: Option<OwnedFd>,
        looked_up_ns: u64,
    ) -> Result<(), Peer> {
        let Some(process) = process else { return Err(peer) };
        let Self { shares, known, .. } = self;
        let uid = credentials.uid;
        let mut make_room = || {
            let may_go = |of: &Credentials| of.uid == uid || !shares.limits(uid);
            let quietest = known.iter().filter(|(of, _)| may_go(of)).min_by_key(|(_, sender)| sender.used);
            let quietest = quietest.map(|(credentials, _)| *credentials);
            quietest.is_some_and(|quietest| known.remove(&quietest).is_some())
        };
        let Ok(held) = shares.take_or(Resource::Senders, uid, 1, &mut make_room) else { return Err(peer) };
        let sender = Sender { peer, used: self.reads, ended: None, looked_up_ns, process: Some(process), _held: held };
        self.known.insert(credentials, sender);
        Ok(())
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
