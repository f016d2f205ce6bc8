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
        let credentials = Credentials { pid: identity.pid, uid: identity.uid, gid: identity.gid };
        let Some(process) = &self.process else { return };
        let Some(names) = context.processes.look_up_again(credentials, process, now_ns) else { return };
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
        let names = process.as_ref().and_then(|process| context.processes.look_up_again(credentials, process, now_ns));
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

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::pipeline::accept::publish::Publisher;
    use crate::pipeline::buffer::{DoubleBuffer, Options};
    use crate::pipeline::counters::Counters;
    use crate::pipeline::progress::Progress;

    fn context() -> WriterContext {
        let options = Options { capacity_bytes: 1 << 20, chunk_bytes: 64 << 10, writers_max: 1 };
        let (buffer, _reader) = DoubleBuffer::new(&options).unwrap();
        let counters = Arc::new(Counters::new(1).unwrap());
        let publisher = Publisher::new(buffer.writer().unwrap(), 0, counters, Arc::default());
        WriterContext::new(publisher, 0, 1024, Arc::new(Progress::new(1).unwrap()), buffer.waker())
    }

    /// A process that lives until its input ends.
    fn process() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn end(mut process: Child) {
        drop(process.stdin.take());
        process.wait().unwrap();
    }

    #[test]
    fn a_user_who_has_its_share_loses_its_own_quietest_sender_and_that_of_another_stays() {
        let (mut context, shares) = (context(), Shares::even(16));
        let mut senders = Senders::new(Arc::clone(&shares));
        let process = open(std::process::id()).unwrap();
        let mut hear = |pid, uid| {
            let credentials = Credentials { pid, uid, gid: 1 };
            if senders.known.contains_key(&credentials) {
                senders.peer(credentials, Handle::None, &mut context, &mut |_, _| true);
            } else {
                let peer = context.peer(numbers(credentials));
                senders.keep(credentials, peer, Some(process.try_clone().unwrap()), 0).unwrap();
            }
            senders.end_read(true);
            let mut known: Vec<_> = senders.known.keys().map(|known| (known.uid, known.pid)).collect();
            known.sort_unstable();
            known
        };
        hear(1, 3000);
        (1..=3).for_each(|pid| drop(hear(pid, 2000)));
        hear(1, 2000);
        assert_eq!(hear(4, 2000), [(2000, 1), (2000, 3), (2000, 4), (3000, 1)], "its second was the quietest");
        (10..20).for_each(|pid| drop(hear(pid, 2000)));
        assert_eq!(hear(20, 2000), [(2000, 18), (2000, 19), (2000, 20), (3000, 1)]);
    }

    #[test]
    fn a_datagram_of_a_process_that_has_ended_gets_nothing_of_the_one_that_has_its_number_now() {
        let (mut context, mut senders) = (context(), Senders::new(Shares::even(16)));
        let (ended, lives) = (process(), process());
        let gone = open(ended.id()).unwrap();
        end(ended);
        // The number of a process that lives stands for one that has got it since.
        let credentials = Credentials { pid: lives.id(), uid: 2000, gid: 1 };
        let peer = senders.peer(credentials, Handle::Process(gone), &mut context, &mut |_, _| true);
        assert!(peer.identity.comm.is_empty() && peer.identity.unit.is_empty(), "{peer:?}");
        assert!(senders.known.is_empty(), "nor is it remembered");
        end(lives);
    }

    #[test]
    fn a_process_that_has_the_number_and_the_user_of_an_ended_one_is_another_sender() {
        if !pidfd::are_described() {
            return eprintln!("skipped: this needs a kernel that describes processes");
        }
        let (mut context, mut senders) = (context(), Senders::new(Shares::even(16)));
        let process = process();
        let credentials = Credentials { pid: process.id(), uid: 2000, gid: 1 };
        let mut peer = |senders: &mut Senders| {
            let handle = Handle::Process(open(credentials.pid).unwrap());
            senders.peer(credentials, handle, &mut context, &mut |_, _| true).number
        };
        let first = peer(&mut senders);
        assert_eq!(peer(&mut senders), first);
        // As epoll says when the first one has ended.
        senders.ended(credentials.pid);
        assert_ne!(peer(&mut senders), first);
        end(process);
    }
}
