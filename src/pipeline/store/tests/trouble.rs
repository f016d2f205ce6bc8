//! Tests what the store does when a disk is slow or fails for a while, or descriptors run out: it holds a bounded
//! number of files open, and goes on as soon as the trouble is over.

use super::super::sync_queue::BROKEN_MAX;
use super::*;

/// Files that are open next to those that wait: the active one, the next one, one that retention or a repair opens.
const OTHERS: usize = 4;

impl Bench {
    fn durable_events(&self) -> u64 {
        self.told.0.lock().unwrap().iter().map(|durable| durable.events).sum()
    }

    fn most_open(&self) -> usize {
        self.disk.faults().open_files_most
    }
}

/// The next job that is due.
fn due(shared: &Shared) -> Job {
    shared.job_at(Instant::now())
}

#[test]
fn the_reader_waits_for_a_slow_disk_before_too_many_segments_are_open() {
    for sync in [SyncPolicy::Never, SyncPolicy::Interval(Duration::ZERO)] {
        let mut bench = Bench::new(sync);
        bench.storage.segment_bytes = 1;
        let (mut store, _) = bench.open();
        bench.disk.faults().holds_syncs = true;
        let shared = Arc::clone(&store.shared);
        let last = 3 * COMPLETE_MAX as u64;
        let reader = std::thread::spawn(move || {
            for generation in 1..=last {
                append(&mut store, &batch(generation)).unwrap();
            }
            store
        });
        while !shared.reader_waits() && !reader.is_finished() {
            std::thread::yield_now();
        }
        let (waits, most_open) = (shared.reader_waits(), bench.most_open());
        bench.disk.release();
        assert!(waits, "it went on without the disk: {most_open} files, {sync:?}");
        drop(shared);
        reader.join().unwrap().close().unwrap();
        assert!(bench.most_open() <= COMPLETE_MAX + OTHERS, "{}, {sync:?}", bench.most_open());
        assert_eq!(read(bench.path()), expected(last), "{sync:?}");
    }
}

#[test]
fn a_store_with_few_descriptors_closes_what_it_keeps_open_and_refuses_no_batch() {
    for sync in POLICIES {
        let mut bench = Bench::new(sync);
        bench.storage.segment_bytes = 1;
        let (mut store, _) = bench.open();
        bench.disk.faults().open_files_max = Some(OTHERS + 4);
        for generation in 1..=100 {
            append(&mut store, &batch(generation)).unwrap();
        }
        store.close().unwrap();
        assert_eq!(read(bench.path()), expected(100), "{sync:?}");
        assert!(bench.names().iter().all(|name| name.state == State::Sealed), "no file was taken for broken");
    }
}

#[test]
fn a_repair_that_has_failed_for_long_is_tried_again_as_soon_as_an_append_succeeds_or_a_sync_is_asked_for() {
    let soon = Duration::from_secs(20);
    for asks in [false, true] {
        let bench = Bench::new(SyncPolicy::Interval(Duration::from_secs(3600)));
        let mut store = bench.still();
        append(&mut store, &batch(1)).unwrap();
        bench.disk.faults().fail_syncs = vec![1];
        store.request_sync(2, 1);
        bench.disk.faults().room_bytes = Some(0);
        // The sync, and repairs that find no room.
        for _ in 0..12 {
            syncer::perform(&store.shared, store.shared.job_now());
        }
        let is_repair = |store: &Store| matches!(store.shared.job_at(Instant::now() + soon), Job::Repair(_));
        assert!(!is_repair(&store), "the pauses have grown");
        bench.disk.faults().room_bytes = None;
        if asks {
            store.request_sync(2, 1);
        } else {
            append(&mut store, &batch(2)).unwrap();
        }
        assert!(is_repair(&store), "asks: {asks}");
        syncer::perform(&store.shared, store.shared.job_now());
        assert_eq!(bench.durable_events(), 3);
        assert_eq!(store.status().snapshot().state, Condition::Ok);
        drop(store);
        assert_eq!(read(bench.path()), expected(if asks { 1 } else { 2 }));
    }
}

#[test]
fn a_disk_on_which_each_sync_fails_breaks_a_bounded_number_of_files_and_all_become_durable_when_it_heals() {
    for sync in [SyncPolicy::Batch, SyncPolicy::Interval(Duration::ZERO)] {
        let bench = Bench::new(sync);
        let mut store = bench.still();
        bench.disk.faults().fail_all_syncs = true;
        let mut last = 0;
        for _ in 0..1000 {
            // A batch that is refused comes again.
            last += u64::from(append(&mut store, &batch(last + 1)).is_ok());
            store.request_sync(last + 1, 1);
            work(&store, due);
        }
        assert!(append(&mut store, &batch(last + 1)).is_err(), "the caller's policy decides what becomes of it");
        let most = COMPLETE_MAX + BROKEN_MAX + OTHERS;
        assert!(bench.most_open() <= most, "{} files, {sync:?}", bench.most_open());
        assert!(bench.names().len() <= most, "{sync:?}");
        bench.disk.faults().fail_all_syncs = false;
        let is_repair = matches!(store.shared.job_at(Instant::now() + Duration::from_secs(20)), Job::Repair(_));
        assert!(is_repair, "the append that was refused is reason enough");
        work(&store, Shared::job_now);
        last += 1;
        append(&mut store, &batch(last)).unwrap();
        store.request_sync(last + 1, 1);
        work(&store, due);
        assert_eq!(bench.durable_events(), 3 * last, "{sync:?}");
        store.close().unwrap();
        assert_eq!(read(bench.path()), expected(last), "{sync:?}");
        assert_whole(bench.path());
    }
}
