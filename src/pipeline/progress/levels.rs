//! Holds the two numbers that say how far the reader has come, and what each writer waits for.
//!
//! Input: numbers from the reader and the syncer, and the wants of the writers. Output: the numbers for the writers,
//! and whom to wake for the reader. Thread: any. Nothing here can fail, and nothing waits.
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `progress` | [`Levels::set_persisted`], [`Levels::set_durable`] | [`Levels::persisted_before`], [`Levels::durable_before`] | the file's bytes are written (or synced), and losses are noted | an acknowledgement could overtake the note that its events were lost |
//! | `want` | [`Wants::take`], by the reader | [`Wants::want`], by a writer | the number that was set before | a writer that comes too late to be woken sees an old number, and sleeps although what it waits for is done |

use dbuf_sync::atomic::{AtomicU32, AtomicU64};
use dbuf_sync::{CacheLine, Edge};

const PROGRESS: Edge = Edge::new("progress");
const WANT: Edge = Edge::new("want");

/// How far the reader has come.
#[derive(Debug)]
pub(super) struct Levels {
    persisted_before: CacheLine<AtomicU64>,
    durable_before: CacheLine<AtomicU64>,
}

impl Levels {
    /// Nothing is persisted, and everything below `durable_before` is durable.
    pub(super) fn new(durable_before: u64) -> Self {
        Self {
            persisted_before: CacheLine(AtomicU64::new(durable_before)),
            durable_before: CacheLine(AtomicU64::new(durable_before)),
        }
    }

    pub(super) fn persisted_before(&self) -> u64 {
        // edge `progress`, acquiring: a thread that sees the number also sees the losses that were noted before it.
        // Relaxed could show the number first.
        self.persisted_before.0.load(PROGRESS.acquire())
    }

    pub(super) fn durable_before(&self) -> u64 {
        // edge `progress`, acquiring: as above.
        self.durable_before.0.load(PROGRESS.acquire())
    }

    pub(super) fn set_persisted(&self, generation: u64) {
        // edge `progress`, releasing: the losses noted before become visible with the number. Only the reader writes
        // it.
        self.persisted_before.0.store(generation, PROGRESS.release());
    }

    /// Raises the number. Returns the number that holds now.
    pub(super) fn set_durable(&self, generation: u64) -> u64 {
        // edge `progress`, releasing: as above. The reader and the syncer may both set it, so the number only grows.
        self.durable_before.0.fetch_max(generation, PROGRESS.release()).max(generation)
    }
}

/// What one writer waits for: bits of [`super::want`].
#[derive(Debug, Default)]
pub(super) struct Wants(CacheLine<AtomicU32>);

impl Wants {
    /// Notes that the writer waits for these. It must look at the numbers again after this call: progress that was made
    /// before rings no bell.
    pub(super) fn want(&self, wants: u32) {
        // edge `want`, acquiring and releasing: either this read-modify-write or the reader's comes first. If this one
        // does, the reader sees it and rings. If the reader's does, this thread sees the number that the reader set
        // before. Relaxed would lose both.
        self.0.0.fetch_or(wants, WANT.acquire_and_release(WANT));
    }

    /// Whether the writer waits for a number of this kind, which the reader has just set. Clears it, so it is true
    /// once.
    pub(super) fn take(&self, kind: u32) -> bool {
        // edge `want`, acquiring and releasing: see `want`.
        self.0.0.fetch_and(!kind, WANT.acquire_and_release(WANT)) & kind != 0
    }
}

#[cfg(all(test, dbuf_loom))]
mod models {
    use dbuf_sync::atomic::Ordering::Relaxed;
    use dbuf_sync::{Arc, thread};

    use super::*;

    #[test]
    fn a_loss_is_seen_with_the_number_that_passes_it() {
        dbuf_sync::model(|| {
            let shared = Arc::new((Levels::new(0), AtomicU32::new(0)));
            let its = Arc::clone(&shared);
            let reader = thread::spawn(move || {
                its.1.store(1, Relaxed);
                its.0.set_persisted(5);
                its.0.set_durable(5);
            });
            if shared.0.durable_before() == 5 || shared.0.persisted_before() == 5 {
                assert_eq!(shared.1.load(Relaxed), 1, "an acknowledgement without its loss");
            }
            reader.join().unwrap();
        });
    }

    #[test]
    fn a_writer_that_waits_is_woken_or_sees_the_number() {
        dbuf_sync::model(|| {
            let shared = Arc::new((Levels::new(0), Wants::default()));
            let its = Arc::clone(&shared);
            let reader = thread::spawn(move || {
                its.0.set_persisted(5);
                its.1.take(1)
            });
            shared.1.want(1);
            let seen = shared.0.persisted_before() == 5;
            let rung = reader.join().unwrap();
            assert!(seen || rung, "the writer sleeps on");
        });
    }
}
