//! Reports to the owner of what is published what becomes of each publish.
//!
//! Input: the position of a publish, and what it brings. Output: calls of a [`PublishObserver`]. Thread: the writer.
//! Nothing here can fail.

use crate::pipeline::buffer::PublishPosition;

/// What follows each publish. Of the calls of one publish, [`PublishObserver::prepare`] comes first, then one of the
/// others.
pub(crate) trait PublishObserver {
    /// This is about to be published at `position`.
    fn prepare(&mut self, _position: PublishPosition, _published: Published) {}

    /// The publish has failed; the same events come again. Called before the position can become another claim's.
    fn abort(&mut self) {}

    /// It is published in this generation.
    fn commit(&mut self, _generation: u64, _published: Published) {}

    /// Whether the next process finds what cannot be published any more.
    fn outlives(&self) -> bool {
        false
    }
}

/// What a publish brings of a producer that numbers its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The producer's own sequence of the last event that has one; None if none of them has.
    pub sequence: Option<u64>,
    /// Nothing of what was read waits any more: neither an event nor the record of one that was refused.
    pub is_all: bool,
}

/// The observer of producers without sequences of their own: they need none.
pub(crate) struct NoObserver;

impl PublishObserver for NoObserver {}
