//! What all sockets of one writer share: the publisher, the syslog reader, limits and numbers.
//!
//! One a writer, on its thread. Nothing here can fail.

use std::time::SystemTime;

use jiff::tz::TimeZone;

use crate::pipeline::accept::frames::Sessions;
use crate::pipeline::accept::publish::Peer;
use crate::pipeline::accept::publish::Publisher;
use crate::pipeline::accept::ring::registry::Rings;
use crate::pipeline::accept::text::syslog::Parser;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::Waker;
use crate::pipeline::progress::Progress;
use crate::sync::Arc;
use crate::sys::ticks::{self, Moment, Rate};

/// The writer's index is in the upper bits of every piece's id, so that ids of two writers never meet.
const PIECE_ID_BITS: u32 = 48;
const PIECE_COUNT_MASK: u64 = (1 << PIECE_ID_BITS) - 1;

/// What a socket's bytes go through.
#[derive(Debug)]
pub(crate) struct WriterContext {
    pub(crate) publisher: Publisher,
    pub(crate) parser: Parser,
    /// Fields of the event at hand; kept for its memory.
    pub(crate) fields: Vec<u8>,
    pub(crate) max_event_bytes: usize,
    /// Memory that connections keep for events that have not come whole.
    pub(crate) carried_bytes: usize,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) waker: Waker,
    pub(crate) rings: Arc<Rings>,
    /// What ticks mean; None where nobody is to use them.
    rate: Option<Rate>,
    pub(crate) index: usize,
    peers: u64,
    /// The id of the next event that is stored in pieces.
    pub(crate) next_piece: u64,
}

impl WriterContext {
    pub(crate) fn new(
        publisher: Publisher,
        index: usize,
        max_event_bytes: usize,
        sessions: Arc<Sessions>,
        progress: Arc<Progress>,
        waker: Waker,
        rings: Arc<Rings>,
    ) -> Self {
        Self {
            publisher,
            parser: Parser::new(TimeZone::system()),
            fields: Vec::new(),
            max_event_bytes,
            carried_bytes: 0,
            sessions,
            progress,
            waker,
            rings,
            rate: ticks::are_reliable().then(Rate::begin),
            index,
            peers: 0,
            // The next process goes on with a line of which the previous process laid down pieces: their ids must not meet.
            next_piece: ((index as u64) << PIECE_ID_BITS) | ((now_ns() / 1000) & PIECE_COUNT_MASK),
        }
    }

    /// What is read from here on is accepted now.
    pub(crate) fn begin(&mut self) {
        self.publisher.set_time(now_ns());
    }

    /// What ticks mean now.
    pub(crate) fn moment(&self) -> Option<Moment> {
        self.rate.map(|rate| rate.moment())
    }

    /// A peer that this writer has not had before.
    pub(crate) fn peer(&mut self, identity: Identity) -> Peer {
        self.peers += 1;
        Peer { number: self.peers, identity }
    }

    /// An id for the pieces of one event, which no other event of this life or the one before has.
    pub(crate) fn piece_id(&mut self) -> u64 {
        let id = self.next_piece;
        self.next_piece = (id & !PIECE_COUNT_MASK) | ((id + 1) & PIECE_COUNT_MASK);
        id
    }
}

fn now_ns() -> u64 {
    // A clock before 1970 shows 1970; what the clock shows is no reason to end.
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
