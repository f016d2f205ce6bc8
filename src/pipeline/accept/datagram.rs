//! The datagram socket. It belongs to one writer alone, so that the order of each sender is kept.
//!
//! Enters: datagrams with the credentials of their senders. Leaves: events in the layer. One writer thread. What can
//! fail: only that the reader is gone; a datagram too large is refused whole, counted, and its sender named.

use std::os::fd::OwnedFd;

use super::intake::Intake;
use super::layer::{Closed, Extra, Nobody};
use super::meaning::meaning;
use super::senders::{Senders, Watch};
use crate::pipeline::record::{Cause, Transport};
use crate::sys::recvmmsg::{COUNT_MAX, Credentials, Receiver};

/// The most memory for datagrams that are received at a time.
const ARENA_BYTES_MAX: usize = 4 << 20;
/// What the kernel itself says where it knows nobody: no process, the overflow user and group.
const NOBODY: Credentials = Credentials { pid: 0, uid: 65_534, gid: 65_534 };

/// The datagram socket and its senders.
#[derive(Debug)]
pub(super) struct Datagrams {
    socket: OwnedFd,
    receiver: Receiver,
    senders: Senders,
}

fn receiver(max_event_bytes: usize) -> Receiver {
    Receiver::new((ARENA_BYTES_MAX / max_event_bytes).min(COUNT_MAX), max_event_bytes)
}

impl Datagrams {
    pub(super) fn new(socket: OwnedFd, max_event_bytes: usize) -> Self {
        Self { socket, receiver: receiver(max_event_bytes), senders: Senders::default() }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The process has ended that was watched under this number.
    pub(super) fn process_ended(&mut self, pid: u32) {
        self.senders.ended(pid);
    }

    /// Receives once and lays down what came. False if that was all there is.
    pub(super) fn receive(&mut self, intake: &mut Intake, watch: &mut Watch<'_>) -> Result<bool, Closed> {
        if self.receiver.datagram_bytes_max() != intake.max_event_bytes {
            self.receiver = receiver(intake.max_event_bytes);
        }
        // An error is nothing to read: the next round asks again.
        let received = self.receiver.receive(&self.socket).unwrap_or(0);
        intake.begin();
        for index in 0..received {
            self.take(index, intake, watch);
            if intake.layer.is_full() {
                intake.layer.lay_down(self.receiver.arena(), &mut Nobody)?;
            }
        }
        intake.layer.lay_down(self.receiver.arena(), &mut Nobody)?;
        let is_more = received == self.receiver.count();
        self.senders.end_read(!is_more);
        Ok(is_more)
    }

    fn take(&mut self, index: usize, intake: &mut Intake, watch: &mut Watch<'_>) {
        let datagram = self.receiver.datagram(index);
        if datagram.bytes == 0 {
            return;
        }
        let peer = self.senders.peer(datagram.sender.unwrap_or(NOBODY), intake, watch);
        if datagram.bytes > self.receiver.datagram_bytes_max() {
            let slot = intake.layer.slot(peer, Transport::Datagram, 0, b"");
            return intake.layer.lose(slot, Cause::TooBig, datagram.bytes as u64);
        }
        let bytes = &self.receiver.arena()[datagram.start..][..datagram.bytes];
        intake.fields.clear();
        let now_ns = intake.layer.time_ns();
        let meaning = meaning(Transport::Datagram, bytes, now_ns, &mut intake.parser, &mut intake.fields);
        if meaning.text.is_empty() {
            return;
        }
        let start = datagram.start + meaning.text_start;
        let range = start..start + meaning.text.len();
        let slot = intake.layer.slot(peer, meaning.transport, meaning.claimed_pid, meaning.tag);
        let extra = Extra { source_time_ns: meaning.source_time_ns, ..Extra::default() };
        intake.layer.add_with(slot, meaning.pri, range, extra, &intake.fields);
    }
}
