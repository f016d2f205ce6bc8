//! Tests how a segment ends: which thread does which part, and what happens if its footer finds no room.

use super::*;

impl Bench {
    /// A store whose syncer works only in [`Bench::end_first`].
    fn open_without_syncer(&self) -> Store {
        let options =
            StoreOptions { storage: self.storage.clone(), on_durable: Box::new(|_| {}), on_broken: Box::new(|_| ()) };
        Store::open_without_syncer(options, Arc::new(self.disk.clone())).unwrap().0
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
    let mut store = bench.open_without_syncer();
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
    let mut store = bench.open_without_syncer();
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
