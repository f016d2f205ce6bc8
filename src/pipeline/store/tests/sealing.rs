//! Tests how a segment ends: which thread does which part, and what happens if its footer finds no room.

use super::*;

impl Bench {
    /// What was reported last.
    fn durable_before(&self) -> Option<u64> {
        self.told.0.lock().unwrap().last().map(|durable| durable.before_generation)
    }

    /// Does the syncer's jobs until the first segment has its final name. Returns the segment's state then.
    fn end_first(&self, store: &Store) -> State {
        while self.names()[0].state == State::Active && syncer::perform(&store.shared, store.shared.job_now()) {}
        self.names()[0].state
    }
}

#[test]
fn a_segment_is_finished_by_the_syncer_and_not_by_the_reader() {
    let bench = Bench::new(SyncPolicy::Never);
    let mut store = bench.still();
    append(&mut store, &batch(1)).unwrap();
    let writes = bench.disk.faults().writes;
    store.rotate().unwrap();
    assert_eq!(bench.disk.faults().writes, writes + 1, "the next segment's header");
    assert_eq!(bench.names()[0].state, State::Active);
    assert_eq!(bench.end_first(&store), State::Sealed);
    drop(store);
    assert_whole(bench.path());
}

#[test]
fn a_segment_without_room_for_its_footer_is_kept_as_torn_and_whole() {
    let bench = Bench::new(SyncPolicy::Never);
    let mut store = bench.still();
    append(&mut store, &batch(1)).unwrap();
    store.rotate().unwrap();
    bench.disk.faults().room_bytes = Some(0);
    assert_eq!(bench.end_first(&store), State::Torn);
    bench.disk.faults().room_bytes = None;
    append(&mut store, &batch(2)).unwrap();
    drop(store);
    assert_eq!(read(bench.path()), expected(2));
    assert_whole(bench.path());
}

#[test]
fn a_full_segment_keeps_no_space_that_it_does_not_need() {
    let mut bench = Bench::new(SyncPolicy::Never);
    bench.storage.segment_bytes = 2000;
    let (mut store, _) = bench.open();
    append(&mut store, &batch(1)).unwrap();
    assert_eq!(bench.disk.faults().allocated_bytes, 2000);
    store.close().unwrap();
}

#[test]
fn what_was_sealed_without_a_sync_becomes_durable_when_the_settings_require_syncs() {
    for sync in [SyncPolicy::Interval(Duration::from_secs(3600)), SyncPolicy::Batch] {
        let bench = Bench::new(SyncPolicy::Never);
        let mut store = bench.still();
        append(&mut store, &batch(1)).unwrap();
        store.rotate().unwrap();
        append(&mut store, &batch(2)).unwrap();
        work(&store, Shared::job_now);
        assert_eq!(bench.disk.faults().syncs, 0, "not before the settings change");
        store.reconfigure(&Storage { sync, ..bench.storage.clone() });
        work(&store, Shared::job_now);
        // The active segment waits for its interval.
        let expected = if sync == SyncPolicy::Batch { 3 } else { 2 };
        assert_eq!(bench.durable_before(), Some(expected), "{sync:?}");
        append(&mut store, &batch(3)).unwrap();
        assert_eq!(bench.durable_before(), Some(if sync == SyncPolicy::Batch { 4 } else { 2 }), "{sync:?}");
    }
}
