//! Tells the owner of what is published, step by step, what becomes of it.
//!
//! Input: the position of a publish and what it brings. Output: calls of a [`PublishObserver`], on the writer's thread. Nothing here can fail.

use crate::pipeline::buffer::PublishPosition;

/// Who has to know what becomes of each publish.
pub(crate) trait PublishObserver {
    /// This is about to be published at `spot`.
    fn about_to_publish(&mut self, _spot: PublishPosition, _brought: Published) {}

    /// That has failed; it comes again. Called before the spot can become another's.
    fn take_back(&mut self) {}

    /// It is published in this generation.
    fn published(&mut self, _generation: u64, _brought: Published) {}

    /// Whether the next process would find what cannot be published any more.
    fn outlives(&self) -> bool {
        false
    }
}

/// What a publish brings of a producer that numbers its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The producer's own sequence of the last event that has one; None if there is none among them.
    pub sequence: Option<u64>,
    /// Nothing of what was read waits any more: neither an event nor the record of one that was refused.
    pub is_all: bool,
}

/// Producers without sequences of their own need no witness.
pub(crate) struct NoObserver;

impl PublishObserver for NoObserver {}
