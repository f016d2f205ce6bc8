//! Speaks text: lines, priorities, syslog.
//!
//! Input: bytes of one connection, in order. Output: events in the publisher. Thread: the connection's writer. Failure:
//! only that the reader is gone.
//!
//! Whole events are published straight from the receive buffer. Only an incomplete event is copied, into the
//! connection's carry, and completed there when the rest comes. Consecutive lines of plain text stay together: a block
//! of them is one record.

pub(crate) mod classify;
pub(crate) mod cut;
pub(crate) mod syslog;

use std::ops::Range;

use memchr::memchr;

use self::classify::{LineFields, PRI_DEFAULT, classify};
use self::cut::{Block, Cut, block, cut, cut_at_end, cut_early};
use crate::pipeline::accept::connection::protocol::{AfterBytes, Link, Next, Protocol};
use crate::pipeline::accept::connection::read_position::{OpenLine, ReadPosition, Until};
use crate::pipeline::accept::publish::{Closed, Extra, NoObserver, Peer, WriterContext};
use crate::pipeline::record::{Cause, Piece, Transport};

/// Bytes that may come before an event in the carry: an octet count and its space.
const OCTET_COUNT_BYTES: usize = 8;
/// Bytes of lines in one record at most. A record that does not fit leaves the rest of its chunk empty, so this is one
/// eighth of a chunk.
const BLOCK_BYTES_MAX: usize = 8 << 10;

/// The state of a text connection.
#[derive(Debug, Default)]
pub(crate) struct Text {
    /// The open event of which pieces were published. Boxed, because few connections ever have one.
    open_line: Option<Box<OpenLine>>,
}

impl Protocol for Text {
    fn take(&mut self, bytes: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<AfterBytes, Closed> {
        self.take_bytes(bytes, link, context).map(|()| AfterBytes::Stay)
    }

    /// Publishes the rest as if a newline had come.
    fn end(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        while let Some(cut) = cut_at_end(&link.carry, self.until(), context.max_event_bytes) {
            self.add(&link.carry, 0, &cut, &link.peer, context);
            context.publisher.publish_pending(&link.carry, &mut NoObserver)?;
            link.carry.drain(..cut.next);
        }
        Ok(Next::Close)
    }

    fn change_sender(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<bool, Closed> {
        self.end(link, context).map(|_| true)
    }

    /// Publishes the carry as a piece.
    fn shed(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        self.add(&link.carry, 0, &cut_early(&link.carry, self.until()), &link.peer, context);
        context.publisher.publish_pending(&link.carry, &mut NoObserver)?;
        link.carry.clear();
        Ok(Next::Open)
    }

    fn lose_rest(&mut self, link: &mut Link, context: &mut WriterContext) -> Result<Next, Closed> {
        let slot = context.publisher.slot(&link.peer, Transport::Lines, 0, b"");
        context.publisher.lose(slot, Cause::Abandoned, 0);
        context.publisher.publish_pending(&[], &mut NoObserver).map(|()| Next::Open)
    }

    fn position<'a>(&'a self, carry: &'a [u8]) -> Option<ReadPosition<'a>> {
        Some(ReadPosition::Text { open_line: self.open_line.as_deref(), carry })
    }
}

impl Text {
    /// Resumes at the previous process's position.
    pub(crate) fn resume(open_line: Option<OpenLine>) -> Self {
        Self { open_line: open_line.map(Box::new) }
    }

    fn take_bytes(&mut self, mut data: &[u8], link: &mut Link, context: &mut WriterContext) -> Result<(), Closed> {
        let Link { carry, peer, .. } = link;
        let max_bytes = context.max_event_bytes;
        while !carry.is_empty() {
            if let Some(cut) = cut(carry, self.until(), max_bytes) {
                self.add(carry, 0, &cut, peer, context);
                context.publisher.publish_pending(carry, &mut NoObserver)?;
                carry.drain(..cut.next);
            } else if data.is_empty() {
                return Ok(());
            } else {
                // Copies up to the next newline, so that the carry ends with the event and the rest is parsed where it
                // lies.
                let room = (max_bytes + 1 + OCTET_COUNT_BYTES).saturating_sub(carry.len()).clamp(1, data.len());
                let part = memchr(b'\n', &data[..room]).map_or(room, |newline| newline + 1);
                carry.extend_from_slice(&data[..part]);
                data = &data[part..];
            }
        }
        let mut at = 0;
        loop {
            if let Some(bytes) = self.add_block(&data[at..], at, peer, context) {
                at += bytes;
            } else if let Some(cut) = cut(&data[at..], self.until(), max_bytes) {
                self.add(data, at, &cut, peer, context);
                at += cut.next;
            } else {
                break;
            }
            if context.publisher.is_full() {
                context.publisher.publish_pending(data, &mut NoObserver)?;
            }
        }
        context.publisher.publish_pending(data, &mut NoObserver)?;
        carry.extend_from_slice(&data[at..]);
        Ok(())
    }

    fn until(&self) -> Option<Until> {
        self.open_line.as_ref().map(|open_line| open_line.until)
    }

    /// Adds the plain lines that begin at `at`. Returns their number of bytes; None if there are none.
    #[inline]
    fn add_block(&self, bytes: &[u8], at: usize, peer: &Peer, context: &mut WriterContext) -> Option<usize> {
        if self.open_line.is_some() {
            return None;
        }
        // Not longer than an event may be, so that it fits into a claim.
        let Block { bytes, lines } = block(bytes, BLOCK_BYTES_MAX.min(context.max_event_bytes));
        if lines == 0 {
            return None;
        }
        let slot = context.publisher.slot(peer, Transport::Lines, 0, b"");
        if lines == 1 {
            context.publisher.add(slot, PRI_DEFAULT, at..at + bytes - 1);
        } else {
            context.publisher.add_lines(slot, PRI_DEFAULT, at..at + bytes, lines);
        }
        Some(bytes)
    }

    /// Adds the event or piece that was cut from `input` at `at`.
    #[inline]
    fn add(&mut self, input: &[u8], at: usize, cut: &Cut, peer: &Peer, context: &mut WriterContext) {
        let range = at + cut.start..at + cut.end;
        if self.open_line.is_some() {
            return self.add_piece(range, cut.rest, peer, context);
        }
        context.fields.clear();
        let bytes = &input[range.clone()];
        let now_ns = context.publisher.time_ns();
        let line = classify(Transport::Lines, bytes, now_ns, &mut context.local_time, &mut context.fields);
        let start = range.start + line.text_start;
        if let Some(until) = cut.rest {
            // Up to the end of the piece. The trailing bytes that are removed from syslog cannot have come yet.
            return self.add_first_piece(start..range.end, until, &line, peer, context);
        }
        let range = start..start + line.text.len();
        if range.is_empty() {
            return;
        }
        let slot = context.publisher.slot(peer, line.transport, line.claimed_pid, line.tag);
        if line.source_time_ns.is_none() && context.fields.is_empty() {
            context.publisher.add(slot, line.pri, range);
        } else {
            let extra = Extra { source_time_ns: line.source_time_ns, ..Extra::default() };
            context.publisher.add_with(slot, line.pri, range, extra, &context.fields);
        }
    }

    #[cold]
    fn add_first_piece(
        &mut self,
        range: Range<usize>,
        until: Until,
        line: &LineFields<'_>,
        peer: &Peer,
        context: &mut WriterContext,
    ) {
        let &LineFields { transport, pri, tag, claimed_pid, source_time_ns, .. } = line;
        let id = context.piece_id();
        let piece = Some(Piece { id, continued: false, continues: true });
        let slot = context.publisher.slot(peer, transport, claimed_pid, tag);
        let extra = Extra { source_time_ns, piece, ..Extra::default() };
        context.publisher.add_with(slot, pri, range, extra, &context.fields);
        self.open_line = Some(Box::new(OpenLine { id, until, pri, transport, claimed_pid, tag: tag.into() }));
    }

    #[cold]
    fn add_piece(&mut self, range: Range<usize>, rest: Option<Until>, peer: &Peer, context: &mut WriterContext) {
        let Some(mut open_line) = self.open_line.take() else { return };
        let slot = context.publisher.slot(peer, open_line.transport, open_line.claimed_pid, &open_line.tag);
        let piece = Some(Piece { id: open_line.id, continued: true, continues: rest.is_some() });
        context.publisher.add_with(slot, open_line.pri, range, Extra { piece, ..Extra::default() }, &[]);
        if let Some(until) = rest {
            open_line.until = until;
            self.open_line = Some(open_line);
        }
    }
}
