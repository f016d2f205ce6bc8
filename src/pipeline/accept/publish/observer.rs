//! Tells the owner of events the result of each publish.
//!
//! Input: the position of a publish, and what it contains. Output: calls of a [`PublishObserver`]. Thread: the writer.
//! Nothing here can fail.

use crate::pipeline::buffer::PublishPosition;

/// Follows each publish. [`PublishObserver::prepare`] comes first, then either `abort` or `commit`.
pub(crate) trait PublishObserver {
    /// The events are about to be published at `position`.
    fn prepare(&mut self, _position: PublishPosition, _published: Published) {}

    /// The publish has failed, and the same events come again. Called before another claim can get the position.
    fn abort(&mut self) {}

    /// The events are published in this generation.
    fn commit(&mut self, _generation: u64, _published: Published) {}

    /// Whether the next process finds the events that this process can no longer publish.
    fn outlives(&self) -> bool {
        false
    }
}

/// What a publish contains of a producer that numbers its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The producer's own sequence of the last event that has one; None if none of them has.
    pub sequence: Option<u64>,
    /// Nothing of the read is left: no event, and no record of a refused one.
    pub is_all: bool,
}

/// The observer of producers without sequence numbers, which need none.
pub(crate) struct NoObserver;

impl PublishObserver for NoObserver {}
