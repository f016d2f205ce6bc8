//! Shares, among all sockets of one writer, its publisher, limits and numbers.
//!
//! Thread: the writer that owns it. Nothing here can fail.

use jiff::tz::TimeZone;

use super::publisher::Publisher;
use super::sources::Peer;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::Waker;
use crate::pipeline::progress::Progress;
use crate::sync::Arc;
use crate::sys::clock;
use crate::sys::local_time::LocalTime;
use crate::sys::ticks::{self, Moment, Rate};

/// The writer's index is in the upper bits of every piece's id, so that ids of two writers never meet.
const PIECE_ID_BITS: u32 = 48;
const PIECE_COUNT_MASK: u64 = (1 << PIECE_ID_BITS) - 1;

/// What the bytes of a writer's sockets go through.
#[derive(Debug)]
pub(crate) struct WriterContext {
    pub(crate) publisher: Publisher,
    /// Converts times of senders that write no year.
    pub(crate) local_time: LocalTime,
    /// Fields of the event at hand; kept for its memory.
    pub(crate) fields: Vec<u8>,
    pub(crate) max_event_bytes: usize,
    /// Memory that connections hold for events that have not come whole.
    pub(crate) carried_bytes: usize,
    pub(crate) progress: Arc<Progress>,
    pub(crate) waker: Waker,
    /// Converts ticks of the processor; None where they are not to be used.
    rate: Option<Rate>,
    pub(crate) index: usize,
    peers: u64,
    /// The id of the next event that is stored in pieces.
    pub(crate) next_piece: u64,
}

impl WriterContext {
    /// For the writer thread `index`. `waker` wakes the reader.
    pub(crate) fn new(
        publisher: Publisher,
        index: usize,
        max_event_bytes: usize,
        progress: Arc<Progress>,
        waker: Waker,
    ) -> Self {
        Self {
            publisher,
            local_time: LocalTime::new(TimeZone::system()),
            fields: Vec::new(),
            max_event_bytes,
            carried_bytes: 0,
            progress,
            waker,
            rate: ticks::are_reliable().then(Rate::begin),
            index,
            peers: 0,
            // The next process may go on with a line of which this one has published pieces: their ids must not meet.
            next_piece: ((index as u64) << PIECE_ID_BITS) | ((clock::now_ns() / 1000) & PIECE_COUNT_MASK),
        }
    }

    /// What is read from here on is accepted now.
    pub(crate) fn accept_now(&mut self) {
        self.publisher.set_time(clock::now_ns());
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

    /// An id for the pieces of one event, which no other event of this process or of the previous one has.
    pub(crate) fn piece_id(&mut self) -> u64 {
        let id = self.next_piece;
        self.next_piece = (id & !PIECE_COUNT_MASK) | ((id + 1) & PIECE_COUNT_MASK);
        id
    }
}
