//! Runs a writer thread: sleeps in epoll, and reads what is ready.
//!
//! Input: ready sockets, clients from other writers, the order to stop. Output: events in the buffer. Thread: its own,
//! pinned. Failure: the reader is gone, and then the thread ends. A socket that fails is closed.
//!
//! `resume` is its beginning after another process, `stop` its end, and `poll_rings` looks into its rings.
//!
//! A round takes what epoll reports as ready, one bounded read for each. The kernel reports ready sockets in turn, so a
//! flood on one socket delays another by at most one round. Without work there is no timeout and no wake-up.
//!
//! Order of a round: processes that have ended come first, because their number must not stand for another process in
//! the datagrams after it (see `datagram::senders`).

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::carries::{Carry, to_go};
use super::handle::{InheritedWork, Newcomer, Writers};
use super::listeners::{Listeners, StreamListener};
use super::ring_schedule::RingSchedule;
use super::token::Token;
use super::turns::Turns;
use super::unkept::Unkept;
use super::wait_queue::WaitQueue;
use crate::pipeline::accept::connection::Connection;
use crate::pipeline::accept::connection::protocol::{Next, ReadResult};
use crate::pipeline::accept::connection::stored::{InheritedConnection, Retry};
use crate::pipeline::accept::publish::receive_buffer::ReceiveBuffer;
use crate::pipeline::accept::publish::{Closed, WriterContext};
use crate::pipeline::accept::ring::Ring;
use crate::pipeline::pulse::Activity;
use crate::sync::Arc;
use crate::sync::atomic::Ordering::Relaxed;

/// Epoll events of one round.
const READY_MAX: usize = 4096;
/// Reads of a datagram socket in one round.
pub(super) const RECEIVES_A_ROUND: usize = 4;
/// Bytes that the connections of one writer may hold for incomplete events.
const CARRIED_BYTES_MAX: usize = 32 << 20;
/// Bytes that they may hold after some have given theirs back. The difference pays for the look at all connections.
const CARRIED_BYTES_LEFT: usize = CARRIED_BYTES_MAX / 8 * 7;

/// The state of a writer thread.
#[derive(Debug)]
pub(crate) struct WriterThread {
    pub(super) index: usize,
    pub(super) writers: Arc<Writers>,
    pub(super) epoll: Epoll,
    pub(super) context: WriterContext,
    pub(super) listeners: Listeners,
    /// When the listening sockets are watched again; None while they are.
    pub(super) exhausted_until: Option<Instant>,
    /// Whether the log says that no descriptor was left.
    pub(super) has_told_exhausted: bool,
    pub(super) connections: Vec<Option<Connection>>,
    turns: Turns,
    /// Indices of `connections` that are free, and those that become free in the next round: an event of this round may
    /// still name them.
    pub(super) free: Vec<u32>,
    pub(super) freed: Vec<u32>,
    /// Connections whose clients wait for the reader's progress.
    pub(super) waiting: Vec<u32>,
    /// When to look into the rings.
    pub(super) rings: RingSchedule,
    /// Connections whose users must wait.
    pub(super) throttled: WaitQueue,
    /// Connections that are not stored for the next process, and should be.
    pub(super) unkept: Unkept,
    /// What previous processes left, until the thread runs.
    pub(super) inherited: Vec<InheritedConnection>,
    pub(super) inherited_rings: Vec<(OwnedFd, Ring)>,
    /// Its own receive buffer first; until the thread runs, also those that it must finish for other writers.
    pub(super) receive_buffers: Vec<ReceiveBuffer>,
    round: u64,
}

impl WriterThread {
    /// Creates the thread's state and watches the sockets.
    pub(crate) fn new(
        index: usize,
        writers: Arc<Writers>,
        context: WriterContext,
        listeners: Listeners,
        inherited: InheritedWork,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let input = |token: Token| EpollEvent::new(EpollFlags::EPOLLIN, token.number());
        epoll.add(&writers.handles[index].bell, input(Token::Bell))?;
        epoll.add(context.progress.bell(index), input(Token::Progress))?;
        for (at, listener) in (0..).zip(&listeners.datagrams) {
            epoll.add(listener.datagrams.socket(), input(Token::Datagrams(at)))?;
        }
        let InheritedWork { receive_buffers, connections: inherited, rings: inherited_rings } = inherited;
        // They are there, also before the thread comes to them.
        (0..inherited.len() + inherited_rings.len()).for_each(|_| writers.count_connection(index));
        let thread = Self {
            index,
            writers,
            epoll,
            context,
            listeners,
            exhausted_until: None,
            has_told_exhausted: false,
            connections: Vec::new(),
            turns: Turns::default(),
            free: Vec::new(),
            freed: Vec::new(),
            waiting: Vec::new(),
            rings: RingSchedule::default(),
            throttled: WaitQueue::default(),
            unkept: Unkept::default(),
            inherited,
            inherited_rings,
            receive_buffers: std::iter::once(receive_buffers.own).chain(receive_buffers.others).collect(),
            round: 0,
        };
        thread.listen()?;
        Ok(thread)
    }

    pub(super) fn listen(&self) -> io::Result<()> {
        // EPOLLEXCLUSIVE: a client wakes one writer, not all.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        for (at, listener) in (0..).zip(&self.listeners.streams) {
            let event = EpollEvent::new(flags, Token::Listener(at).number());
            self.epoll.add(&*listener.acceptor.socket, event)?;
        }
        Ok(())
    }

    /// Removes all listening sockets from the epoll set.
    pub(super) fn stop_listening(&self) {
        for StreamListener { acceptor, .. } in &self.listeners.streams {
            let _ = self.epoll.delete(&*acceptor.socket);
        }
    }

    /// Runs until it is ordered to stop and has then read what the kernel holds; or until the reader is gone.
    pub(crate) fn run(mut self) {
        self.writers.handles[self.index].pulse.begin();
        let Ok(stop_by) = self.resume().and_then(|()| self.rounds()) else { return };
        // The reader may end meanwhile. What is lost by that is counted.
        let _ = self.take_the_rest(stop_by);
    }

    fn rounds(&mut self) -> Result<Instant, Closed> {
        let mut ready = vec![EpollEvent::empty(); READY_MAX];
        loop {
            let rest = self.before_sleep();
            let count = self.wait(&mut ready, rest);
            self.context.max_event_bytes = self.writers.max_event_bytes.load(Relaxed);
            self.round += 1;
            // Before a read: it decides which names are still fresh.
            self.context.accept_now();
            self.return_to_throttled();
            let ready = &ready[..count];
            let tokens = || ready.iter().map(|event| (Token::of(event.data()), event.events()));
            let is_of_ring = |token| matches!(token, Token::Connection(index) if self.is_of_ring(index));
            self.after_sleep(tokens().any(|(token, _)| is_of_ring(token)));
            for (token, _) in tokens() {
                if let Token::Process(pid) = token {
                    self.listeners.datagrams.iter_mut().for_each(|listener| listener.datagrams.process_ended(pid));
                }
            }
            let mut is_rung = false;
            for (token, flags) in tokens() {
                match token {
                    Token::Listener(at) => self.accept(at as usize)?,
                    Token::Bell => is_rung = true,
                    Token::Progress => self.on_progress(),
                    Token::Datagrams(at) => {
                        self.receive(at as usize, RECEIVES_A_ROUND)?;
                    }
                    Token::Process(_) => {}
                    Token::Connection(index) if self.turns.sends_much(index) => self.turns.add(index, flags),
                    Token::Connection(index) => self.on_connection(index, flags)?,
                }
            }
            while let Some((index, flags)) = self.turns.next(Instant::now) {
                self.on_connection(index, flags)?;
            }
            self.look_into_rings()?;
            self.keep_later();
            self.free.append(&mut self.freed);
            if is_rung && let Some(stop_by) = self.on_bell() {
                return Ok(stop_by);
            }
            self.listen_again();
        }
    }

    /// Whether the connection with this index has a ring: its bytes are doorbells.
    fn is_of_ring(&self, index: u32) -> bool {
        self.connections[index as usize].as_ref().is_some_and(|connection| connection.is_polled)
    }

    /// Sleeps until something is ready, or for as long as `rest` says. Returns the number of ready sockets.
    fn wait(&self, ready: &mut [EpollEvent], rest: Option<Duration>) -> usize {
        let until =
            [self.exhausted_until, self.throttled.next(), self.unkept.due()].into_iter().flatten().min().map(|until| {
                // Rounded up, so that the thread does not wake too early and spin.
                until.saturating_duration_since(Instant::now()) + Duration::from_millis(1)
            });
        let timeout = match [rest, until].into_iter().flatten().min() {
            None => EpollTimeout::NONE,
            Some(time) => EpollTimeout::try_from(time).unwrap_or(EpollTimeout::MAX),
        };
        let pulse = &self.writers.handles[self.index].pulse;
        pulse.beat(Activity::Parked);
        // The only error possible with these parameters is EINTR (epoll_wait(2)): nothing is ready.
        let count = self.epoll.wait(ready, timeout).unwrap_or(0);
        pulse.beat(Activity::Running);
        count
    }

    // ---- newcomers ----

    pub(super) fn turned_away(&self) {
        self.context.publisher.counters().refused_connections.fetch_add(1, Relaxed);
    }

    /// Watches a newcomer, which is already counted, and returns its index.
    pub(super) fn admit(&mut self, newcomer: Newcomer) -> Option<u32> {
        let Newcomer { held, stored, identity, protocol } = newcomer;
        let mut connection = Connection::new(held, stored, self.context.peer(identity), protocol);
        connection.looked_up_ns = self.context.publisher.time_ns();
        self.watch(connection)
    }

    /// Watches a connection, which is already counted, and returns its index.
    pub(super) fn watch(&mut self, connection: Connection) -> Option<u32> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() as u32 - 1
        });
        let event = EpollEvent::new(connection.interest, Token::Connection(index).number());
        if self.epoll.add(connection.socket(), event).is_err() {
            // fs.epoll.max_user_watches is reached.
            self.free.push(index);
            self.context.publisher.counters().connections.fetch_sub(1, Relaxed);
            connection.close(&mut self.receive_buffers);
            self.turned_away();
            return None;
        }
        if connection.is_unkept() {
            self.unkept.add(connection.uid(), index);
            self.show_unkept();
        }
        self.connections[index as usize] = Some(connection);
        self.turns.begin(index);
        Some(index)
    }

    /// Tries again to store connections that are not stored, if that is due.
    fn keep_later(&mut self) {
        if self.unkept.due().is_some()
            && let Some(stored) = &self.writers.stored
        {
            let connections = &mut self.connections;
            self.unkept.try_again(Instant::now(), |index| {
                connections[index as usize].as_mut().map_or(Retry::Done, |connection| connection.keep_later(stored))
            });
            self.show_unkept();
        }
    }

    fn show_unkept(&self) {
        // Relaxed: a plain value for display.
        let shown = &self.context.publisher.counters().unkept_connections;
        shown.store(self.unkept.count() as u64, Relaxed);
    }

    /// Admits newcomers. Returns the deadline to stop, if there is an order to stop.
    fn on_bell(&mut self) -> Option<Instant> {
        let (newcomers, stop_by) = self.writers.take_inbox(self.index);
        for newcomer in newcomers {
            self.admit(newcomer);
        }
        stop_by
    }

    // ---- bytes ----

    /// Reads a datagram socket `times` times. False if it was seen empty.
    pub(super) fn receive(&mut self, listener: usize, times: usize) -> Result<bool, Closed> {
        let Some(listener) = self.listeners.datagrams.get_mut(listener) else { return Ok(false) };
        let epoll = &self.epoll;
        let mut watch = |pid: u32, process: &OwnedFd| {
            epoll.add(process, EpollEvent::new(EpollFlags::EPOLLIN, Token::Process(pid).number())).is_ok()
        };
        for _ in 0..times {
            if !listener.datagrams.receive(&mut self.receive_buffers[0], &mut self.context, &mut watch)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn on_connection(&mut self, index: u32, flags: EpollFlags) -> Result<(), Closed> {
        let mut next = Next::Open;
        if flags.contains(EpollFlags::EPOLLOUT)
            && let Some(connection) = &mut self.connections[index as usize]
        {
            next = connection.answer(&self.context);
        }
        if next == Next::Open && flags != EpollFlags::EPOLLOUT && self.is_throttled(index) {
            return Ok(());
        }
        let Some(connection) = &mut self.connections[index as usize] else { return Ok(()) };
        let has_left = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
        if connection.is_lingering() {
            if has_left {
                next = Next::Close;
            }
        } else if has_left || flags.contains(EpollFlags::EPOLLIN) {
            let before = (connection.carried_bytes(), self.context.publisher.publishes());
            let taken = self.context.publisher.taken();
            let read = connection.read(&mut self.receive_buffers[0], &mut self.context)?;
            let uid = connection.sender_uid();
            if connection.is_polled && matches!(read, ReadResult::Some(_)) {
                self.rings.read_some();
            }
            next = match read {
                ReadResult::Some(next) | ReadResult::End(next) => next,
                ReadResult::Nothing => next,
            };
            // This is a new carry if there was none before, or if something was published meanwhile.
            if before.0 == 0 || before.1 != self.context.publisher.publishes() {
                connection.carried_since = self.round;
            }
            let carried = connection.carried_bytes().saturating_sub(before.0);
            let published = self.context.publisher.taken().since(taken).payload_bytes;
            self.turns.note(index, carried + published as usize);
            self.charge(uid, taken);
        }
        self.after(index, next);
        if self.context.carried_bytes > CARRIED_BYTES_MAX { self.shed() } else { Ok(()) }
    }

    /// Follows up on anything that a connection did: closes it, or watches for what it wants now.
    pub(super) fn after(&mut self, index: u32, next: Next) {
        let slot = &mut self.connections[index as usize];
        let Some(connection) = slot else { return };
        let interest = connection.wanted_interest();
        let next = if next == Next::Open && interest != connection.interest && !connection.is_throttled {
            connection.interest = interest;
            let mut event = EpollEvent::new(interest, Token::Connection(index).number());
            if self.epoll.modify(connection.socket(), &mut event).is_ok() { Next::Open } else { Next::Close }
        } else {
            next
        };
        if next == Next::Open && !connection.is_polled && connection.polled().is_some() {
            connection.is_polled = true;
            self.rings.add(index);
        }
        if next == Next::Close {
            self.context.carried_bytes -= connection.carried_bytes();
            if let Some(connection) = slot.take() {
                self.rings.forget(index);
                if self.unkept.forget(connection.uid(), index) {
                    self.show_unkept();
                }
                // Explicitly: an epoll set forgets a socket when its last holder closes it, and systemd may still hold
                // this one.
                let _ = self.epoll.delete(connection.socket());
                connection.close(&mut self.receive_buffers);
            }
            self.freed.push(index);
            self.context.publisher.counters().connections.fetch_sub(1, Relaxed);
        } else if connection.waits_for_progress() && !connection.is_listed {
            connection.is_listed = true;
            self.waiting.push(index);
        }
    }

    pub(super) fn on_progress(&mut self) {
        self.context.progress.silence(self.index);
        for index in std::mem::take(&mut self.waiting) {
            if let Some(connection) = &mut self.connections[index as usize] {
                connection.is_listed = false;
                let next = connection.answer(&self.context);
                self.after(index, next);
            }
        }
    }

    /// Frees the memory of some carries.
    fn shed(&mut self) -> Result<(), Closed> {
        let carry = |(index, connection): (usize, &Option<Connection>)| {
            let connection = connection.as_ref().filter(|connection| connection.carried_bytes() > 0)?;
            let (bytes, since) = (connection.carried_bytes(), connection.carried_since);
            Some(Carry { index, uid: connection.uid(), bytes, since })
        };
        let carries: Vec<Carry> = self.connections.iter().enumerate().filter_map(carry).collect();
        let excess_bytes = self.context.carried_bytes.saturating_sub(CARRIED_BYTES_LEFT);
        for index in to_go(&carries, excess_bytes, |uid| self.writers.shares.limits(uid)) {
            if let Some(connection) = &mut self.connections[index] {
                let next = connection.shed(&self.receive_buffers[0].read_progress, None, &mut self.context)?;
                self.after(index as u32, next);
            }
        }
        Ok(())
    }

    /// Reads one connection once. Returns whether there may be more.
    pub(super) fn read_once(&mut self, index: u32) -> Result<bool, Closed> {
        let Some(connection) = &mut self.connections[index as usize] else { return Ok(false) };
        if connection.is_lingering() {
            return Ok(false);
        }
        let taken = self.context.publisher.taken();
        let read = connection.read(&mut self.receive_buffers[0], &mut self.context)?;
        let uid = connection.sender_uid();
        self.charge(uid, taken);
        if let ReadResult::Some(next) | ReadResult::End(next) = read {
            self.after(index, next);
        }
        Ok(matches!(read, ReadResult::Some(Next::Open)))
    }
}
