//! Receives datagrams. One writer owns the datagram socket, so that each sender's order is kept.
//!
//! Input: datagrams with the credentials of their senders. Output: events in the publisher. Thread: the socket's
//! writer. Failure: only that the reader is gone. A datagram that is too large is refused as a whole and counted under
//! its sender's name.

mod senders;

use std::os::fd::OwnedFd;

use self::senders::{Senders, Watch};
use crate::pipeline::accept::connection::peer::vouched;
use crate::pipeline::accept::publish::receive_buffer::{ReceiveBuffer, Subject};
use crate::pipeline::accept::publish::{Closed, Extra, Handle, NoObserver, WriterContext};
use crate::pipeline::accept::text::classify::classify;
use crate::pipeline::record::{Cause, HEAD_BYTES, Transport, padded};
use crate::pipeline::shares::Shares;
use crate::pipeline::shares::throttle::Taken;
use crate::sync::Arc;
use crate::sys::recvmmsg::COUNT_MAX;

/// A read that brings so few datagrams is none of a flood.
const FEW: usize = 2;
/// How long reads of a flood do without the pidfds of the senders.
const ASK_AGAIN_NS: u64 = 2_000_000;

/// The datagram socket and its senders.
#[derive(Debug)]
pub(crate) struct Datagrams {
    socket: OwnedFd,
    senders: Senders,
    shares: Arc<Shares>,
    /// When the kernel was last asked for the pidfds of the senders.
    asked_ns: u64,
    /// How many datagrams the last read brought.
    brought: usize,
}

impl Datagrams {
    pub(crate) fn new(socket: OwnedFd, shares: Arc<Shares>) -> Self {
        Self { socket, senders: Senders::new(Arc::clone(&shares)), shares, asked_ns: 0, brought: 0 }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The watched process with this number has ended.
    pub(crate) fn process_ended(&mut self, pid: u32) {
        self.senders.ended(pid);
    }

    /// Receives once and publishes what came. False if the socket is empty now.
    pub(crate) fn receive(
        &mut self,
        receive_buffer: &mut ReceiveBuffer,
        context: &mut WriterContext,
        watch: &mut Watch<'_>,
    ) -> Result<bool, Closed> {
        receive_buffer.headers.ask_for_pidfds(self.wants_pidfds(context));
        let bytes_max = context.max_event_bytes;
        let begin = || {
            context.publisher.begin_read(0);
            receive_buffer.read_progress.begin(Subject::Datagrams, context.next_piece, bytes_max);
        };
        let count = (receive_buffer.arena.len() / bytes_max).min(COUNT_MAX);
        // On an error there is nothing to read; the next round tries again.
        let received = receive_buffer
            .headers
            .receive_datagrams(&self.socket, &mut receive_buffer.arena, bytes_max, begin)
            .unwrap_or(0);
        self.brought = received;
        self.mark_limited(receive_buffer, received, bytes_max);
        self.publish_received(receive_buffer, received, false, context, watch)?;
        let is_more = received == count;
        self.senders.end_read(!is_more);
        Ok(is_more)
    }

    /// Marks the datagrams of users who send more than they may. Must be done before any of them is published: the next
    /// process must find the same ones lost.
    fn mark_limited(&self, receive_buffer: &mut ReceiveBuffer, received: usize, bytes_max: usize) {
        let throttle = self.shares.throttle();
        if !throttle.may_limit() {
            return;
        }
        let headers = &mut receive_buffer.headers;
        for index in 0..received {
            let bytes = headers.received(index).unwrap_or(0);
            let uid = vouched(headers.sender(index)).uid;
            let record_bytes = (HEAD_BYTES + padded(bytes)) as u64;
            let taken = Taken { events: 1, payload_bytes: bytes as u64, record_bytes };
            if bytes > 0 && bytes <= bytes_max && !throttle.admit(uid, taken) {
                headers.mark(index);
            }
        }
    }

    /// Whether the next read should bring a pidfd of each sender. That doubles the time of receiving a datagram. So in
    /// a flood only some reads do, and a sender that is met in another one stays without names until then.
    fn wants_pidfds(&mut self, context: &WriterContext) -> bool {
        let now_ns = context.publisher.time_ns();
        let is_due = self.brought <= FEW || now_ns.abs_diff(self.asked_ns) >= ASK_AGAIN_NS;
        let wants = context.processes.has_pidfds && is_due;
        if wants {
            self.asked_ns = now_ns;
        }
        wants
    }

    /// Publishes what the previous process has received, except the events that it had already published.
    pub(crate) fn replay(
        &mut self,
        receive_buffer: &mut ReceiveBuffer,
        context: &mut WriterContext,
        watch: &mut Watch<'_>,
    ) -> Result<(), Closed> {
        let received = (0..COUNT_MAX).take_while(|index| receive_buffer.headers.received(*index).is_some()).count();
        self.publish_received(
            receive_buffer,
            received.min(receive_buffer.arena.len() / context.max_event_bytes),
            true,
            context,
            watch,
        )
    }

    fn publish_received(
        &mut self,
        receive_buffer: &mut ReceiveBuffer,
        received: usize,
        is_replay: bool,
        context: &mut WriterContext,
        watch: &mut Watch<'_>,
    ) -> Result<(), Closed> {
        context.accept_now();
        for index in 0..received {
            self.take(index, receive_buffer, is_replay, context, watch);
            if context.publisher.is_full() {
                context.publisher.publish_pending(&receive_buffer.arena, &mut NoObserver)?;
            }
        }
        context.publisher.publish_pending(&receive_buffer.arena, &mut NoObserver)?;
        receive_buffer.read_progress.end();
        Ok(())
    }

    fn take(
        &mut self,
        index: usize,
        receive_buffer: &mut ReceiveBuffer,
        is_replay: bool,
        context: &mut WriterContext,
        watch: &mut Watch<'_>,
    ) {
        let (start, bytes_max) = (index * context.max_event_bytes, context.max_event_bytes);
        let bytes = receive_buffer.headers.received(index).unwrap_or(0);
        let process = receive_buffer.headers.take_pidfd(index);
        if bytes == 0 {
            return;
        }
        let sender = vouched(receive_buffer.headers.sender(index));
        // The senders of the previous process's datagrams may have ended since, and others may have their numbers.
        let handle = if is_replay { Handle::None } else { context.processes.handle(process) };
        let peer = self.senders.peer(sender, handle, context, watch);
        let is_limited = receive_buffer.headers.is_marked(index);
        if is_limited || bytes > bytes_max {
            let slot = context.publisher.slot(peer, Transport::Datagram, 0, b"");
            let cause = if is_limited { Cause::Limited } else { Cause::TooBig };
            return context.publisher.lose(slot, cause, bytes as u64);
        }
        let bytes = &receive_buffer.arena[start..][..bytes];
        context.fields.clear();
        let now_ns = context.publisher.time_ns();
        let line = classify(Transport::Datagram, bytes, now_ns, &mut context.local_time, &mut context.fields);
        if line.text.is_empty() {
            return;
        }
        let start = start + line.text_start;
        let range = start..start + line.text.len();
        let slot = context.publisher.slot(peer, line.transport, line.claimed_pid, line.tag);
        let extra = Extra { source_time_ns: line.source_time_ns, ..Extra::default() };
        context.publisher.add_with(slot, line.pri, range, extra, &context.fields);
    }
}
