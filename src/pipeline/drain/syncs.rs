//! Answers sync requests when the sync is done.
//!
//! Input: requests from the reader, and each sync that the store's syncer has done. Output: answers, progress, counts.
//! Thread: the reader adds and the syncer takes, under a lock that is taken once for each request and each sync.
//! Nothing can fail.

use super::handle::{Measured, Reply};
use crate::pipeline::counters::Counters;
use crate::pipeline::progress::Progress;
use crate::pipeline::record::Cause;
use crate::pipeline::store::Durable;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Arc, Mutex, lock};

/// The waiting requests, and where the result of a sync goes.
pub(super) struct Syncs {
    waiting: Mutex<Vec<(u64, Reply)>>,
    counters: Arc<Counters>,
    progress: Arc<Progress>,
    measured: Arc<Mutex<Measured>>,
}

impl Syncs {
    pub(super) fn new(counters: Arc<Counters>, progress: Arc<Progress>, measured: Arc<Mutex<Measured>>) -> Self {
        Self { waiting: Mutex::new(Vec::new()), counters, progress, measured }
    }

    /// Calls `reply` once every generation below `before` is durable.
    pub(super) fn wait(&self, before: u64, reply: Reply) {
        let mut waiting = lock(&self.waiting);
        waiting.push((before, reply));
        drop(waiting);
        // It may have become durable between the caller's check and the push.
        self.answer(self.progress.durable_before());
    }

    /// A sync has returned.
    pub(super) fn durable(&self, durable: &Durable) {
        self.withdraw_lost(durable);
        self.counters.durable_events.fetch_add(durable.events, Relaxed);
        let took_us = u64::try_from(durable.took.as_micros()).unwrap_or(u64::MAX);
        lock(&self.measured).sync_us.record(took_us, 1);
        self.progress.set_durable(durable.before_generation);
        self.answer(self.progress.durable_before());
    }

    /// Takes back what a failed sync has lost. It was counted as persisted. This is the one case in which that count
    /// falls: otherwise it would say that the events are in a file. The reader reports the loss in the data.
    fn withdraw_lost(&self, durable: &Durable) {
        if durable.lost_events == 0 {
            return;
        }
        self.counters.account.withdraw(durable.lost_events);
        for generations in &durable.lost_generations {
            self.progress.note_lost_in_file(generations);
        }
        tracing::error!(
            events = durable.lost_events,
            cause = Cause::Disk.name(),
            "events lost: a sync failed, and they cannot be read back; check the disk"
        );
    }

    pub(super) fn answer(&self, durable_before: u64) {
        let mut waiting = lock(&self.waiting);
        let ready: Vec<_> = waiting.extract_if(.., |(before, _)| *before <= durable_before).collect();
        drop(waiting);
        for (_, reply) in ready {
            reply(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_failed_sync_has_lost_is_noted_as_lost_in_a_file() {
        let counters = Arc::new(Counters::new(1).unwrap());
        let progress = Arc::new(Progress::new(1).unwrap());
        let syncs = Syncs::new(counters, Arc::clone(&progress), Arc::default());
        syncs.durable(&Durable {
            before_generation: 9,
            events: 0,
            took: Duration::ZERO,
            lost_events: 1,
            lost_generations: vec![7..=7],
        });
        let lost = |generation| progress.was_lost_among(&(generation..=generation), true);
        assert_eq!(([6, 7, 8].map(lost), progress.durable_before()), ([false, true, false], 9));
    }
}
