//! Holds what all sockets of one writer share: its publisher, limits and counters.
//!
//! Input: none. Output: ids, peers and times for the protocols. Thread: the writer that owns it. Nothing here can fail.

use jiff::tz::TimeZone;

use super::processes::Processes;
use super::publisher::Publisher;
use super::sources::Peer;
use crate::pipeline::account::Identity;
use crate::pipeline::buffer::Waker;
use crate::pipeline::progress::Progress;
use crate::sync::Arc;
use crate::sys::clock;
use crate::sys::local_time::LocalTime;
use crate::sys::ticks::{self, Moment, Rate};

/// The writer's index is in the upper bits of each piece id, so ids of two writers never collide.
const PIECE_ID_BITS: u32 = 48;
const PIECE_COUNT_MASK: u64 = (1 << PIECE_ID_BITS) - 1;

/// What all sockets of one writer share.
#[derive(Debug)]
pub(crate) struct WriterContext {
    pub(crate) publisher: Publisher,
    /// Converts the times of senders that send no year.
    pub(crate) local_time: LocalTime,
    /// Fields of the current event. Kept to reuse its memory.
    pub(crate) fields: Vec<u8>,
    pub(crate) max_event_bytes: usize,
    /// Bytes that connections hold for events that have not arrived completely.
    pub(crate) carried_bytes: usize,
    /// The processes that send.
    pub(crate) processes: Processes,
    pub(crate) progress: Arc<Progress>,
    pub(crate) waker: Waker,
    /// Converts ticks of the processor; None where ticks are not used.
    rate: Option<Rate>,
    pub(crate) index: usize,
    peers: u64,
    /// The id of the next event that is stored in pieces.
    pub(crate) next_piece: u64,
}

impl WriterContext {
    /// Creates the context of writer thread `index`. `waker` wakes the reader.
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
            processes: Processes::default(),
            progress,
            waker,
            rate: ticks::are_reliable().then(Rate::begin),
            index,
            peers: 0,
            // Starts at the clock: the next process may continue a line of which this process has published pieces, and
            // their ids must not collide.
            next_piece: ((index as u64) << PIECE_ID_BITS) | ((clock::now_ns() / 1000) & PIECE_COUNT_MASK),
        }
    }

    /// Sets the acceptance time of everything that is read from here on to now.
    pub(crate) fn accept_now(&mut self) {
        self.publisher.set_time(clock::now_ns());
    }

    /// The current relation of ticks to the clock.
    pub(crate) fn moment(&self) -> Option<Moment> {
        self.rate.map(|rate| rate.moment())
    }

    /// Numbers a new peer of this writer.
    pub(crate) fn peer(&mut self, identity: Identity) -> Peer {
        self.peers += 1;
        Peer { number: self.peers, identity }
    }

    /// An id for the pieces of one event. No other event of this process or of the previous one has it.
    pub(crate) fn piece_id(&mut self) -> u64 {
        let id = self.next_piece;
        self.next_piece = (id & !PIECE_COUNT_MASK) | ((id + 1) & PIECE_COUNT_MASK);
        id
    }
}
