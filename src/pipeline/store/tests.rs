//! Tests the store as the reader thread sees it: on a good disk, on a bad one, and after a crash at any step.

mod crash;
mod power;
mod reading;
mod recovery;
mod sealing;
mod trouble;
mod world;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tempfile::TempDir;

use super::disk::Space;
use super::fault_disk::FaultDisk;
use super::name::{Name, State};
use super::scan::{Directory, Follower, Wanted, verify};
use super::sync_queue::Job;
use super::testing::{TestBatch, directory, read, storage, text};
use super::*;
use crate::options::Amount;
use crate::sync::{Condvar, Mutex};

/// What the store has reported about durability.
#[derive(Default)]
struct Told(Mutex<Vec<Durable>>, Condvar);

impl Told {
    fn wait_for(&self, before_generation: u64) -> Vec<Durable> {
        let told = self.0.lock().unwrap();
        let is_there = |told: &mut Vec<Durable>| !told.iter().any(|d| d.before_generation >= before_generation);
        self.1.wait_while(told, is_there).unwrap().clone()
    }
}

/// A store in its own directory.
struct Bench {
    directory: TempDir,
    disk: FaultDisk,
    storage: Storage,
    told: Arc<Told>,
}

impl Bench {
    fn new(sync: SyncPolicy) -> Self {
        let directory = directory();
        let storage = Storage { sync, ..storage(directory.path()) };
        Self { directory, disk: FaultDisk::default(), storage, told: Arc::default() }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn options(&self) -> StoreOptions {
        let told = Arc::clone(&self.told);
        let on_durable = Box::new(move |durable| {
            told.0.lock().unwrap().push(durable);
            told.1.notify_all();
        });
        StoreOptions {
            storage: self.storage.clone(),
            on_durable,
            on_broken: Box::new(|_| ()),
            on_delete: Box::new(|_| ()),
        }
    }

    fn open(&self) -> (Store, Recovery) {
        Store::open(self.options(), Arc::new(self.disk.clone())).unwrap()
    }

    /// A store whose syncer works only when a test does its jobs.
    fn still(&self) -> Store {
        Store::recover(self.options(), Arc::new(self.disk.clone())).unwrap().0
    }

    fn names(&self) -> Vec<Name> {
        Directory::open(self.path()).unwrap().files.into_iter().filter_map(|file| file.name).collect()
    }
}

fn batch(generation: u64) -> TestBatch {
    let mut batch = TestBatch::new(generation);
    let time = generation * 10;
    batch.run("a", &[(time, "even"), (time + 2, "odd")]).run("b", &[(time + 1, &"x".repeat(200))]);
    batch
}

fn append(store: &mut Store, batch: &TestBatch) -> Result<Appended, WriteError> {
    batch.lend(100, |view| store.append(view))
}

/// Appends until it succeeds, as a caller does that must not lose anything. Returns how often it failed.
fn append_at_last(store: &mut Store, batch: &TestBatch) -> u32 {
    (0..10).find(|_| append(store, batch).is_ok()).expect("a disk that fails once works the next time")
}

/// Does the syncer's jobs, until `next` has none.
fn work(store: &Store, next: impl Fn(&Shared) -> Job) {
    loop {
        match next(&store.shared) {
            Job::Wait(_) | Job::End => return,
            job => assert!(syncer::perform(&store.shared, job)),
        }
    }
}

/// What is read when the batches up to `last` are there.
fn expected(last: u64) -> Vec<String> {
    let of = |g: u64| {
        [format!("{} a even", 3 * g - 2), format!("{} b {}", 3 * g - 1, "x".repeat(200)), format!("{} a odd", 3 * g)]
    };
    (1..=last).flat_map(of).collect()
}

fn assert_whole(path: &Path) {
    let mut damage = Vec::new();
    let gaps = verify(&Directory::open(path).unwrap(), |report| {
        damage.extend(report.damage.clone());
        ControlFlow::Continue(())
    });
    assert_eq!((damage, gaps), (Vec::new(), Vec::new()));
}

const POLICIES: [SyncPolicy; 3] =
    [SyncPolicy::Never, SyncPolicy::Batch, SyncPolicy::Interval(Duration::from_secs(3600))];

#[test]
fn what_was_appended_is_read_back_in_the_order_of_acceptance() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    let mut batch = TestBatch::new(1);
    batch.run("a", &[(10, "a1"), (30, "a2"), (20, "a3")]).run("b", &[(10, "b1"), (25, "b2"), (40, "b3")]);
    let first = batch.lend(1, |view| store.append(view)).unwrap();
    assert_eq!(first.first_sequence, 1);
    let second = TestBatch::of(2, &[(5, "the clock jumped back")]).lend(4096, |view| store.append(view)).unwrap();
    assert_eq!(second.first_sequence, 7);
    let all = ["1 a a1", "2 b b1", "3 b b2", "4 a a2", "5 a a3", "6 b b3", "7 app the clock jumped back"];
    assert_eq!(read(bench.path()), all, "while the segment is active");
    store.close().unwrap();
    assert_eq!(read(bench.path()), all, "when it is sealed");
    assert_whole(bench.path());
}

#[test]
fn a_second_store_on_the_same_directory_is_refused_and_names_the_first() {
    let bench = Bench::new(SyncPolicy::Never);
    let (_store, _) = bench.open();
    let options = StoreOptions {
        storage: storage(bench.path()),
        on_durable: Box::new(|_| {}),
        on_broken: Box::new(|_| ()),
        on_delete: Box::new(|_| ()),
    };
    let Err(OpenError::Held { pid, .. }) = Store::open(options, Arc::new(RealDisk)) else { panic!("two stores") };
    assert_eq!(pid, std::process::id());
}

#[test]
fn the_sequence_goes_on_after_a_restart_even_if_nothing_is_left_but_an_empty_segment() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    append(&mut store, &batch(1)).unwrap();
    store.rotate().unwrap();
    store.close().unwrap();
    let (store, recovery) = bench.open();
    assert_eq!(recovery.next_sequence, 4);
    drop(store);
    for name in bench.names().iter().filter(|name| name.state != State::Active) {
        fs::remove_file(name.in_directory(bench.path())).unwrap();
    }
    let (store, recovery) = bench.open();
    assert_eq!((recovery.next_sequence, store.next_sequence()), (4, 4));
}

#[test]
fn segments_rotate_by_size_and_a_batch_that_is_larger_than_a_segment_is_still_stored() {
    let mut bench = Bench::new(SyncPolicy::Never);
    bench.storage.segment_bytes = 1;
    let (mut store, _) = bench.open();
    for generation in 1..=3 {
        append(&mut store, &batch(generation)).unwrap();
    }
    store.close().unwrap();
    assert_eq!(bench.names().iter().map(|name| name.first_sequence).collect::<Vec<_>>(), [1, 4, 7]);
    assert_eq!(read(bench.path()), expected(3));
}

#[test]
fn segments_rotate_by_age_counted_from_their_first_batch() {
    let mut bench = Bench::new(SyncPolicy::Never);
    bench.storage.segment_age = Duration::ZERO;
    let (mut store, _) = bench.open();
    assert_eq!(store.next_deadline(), None, "an empty segment does not age");
    store.rotate_if_due();
    append(&mut store, &batch(1)).unwrap();
    assert!(store.next_deadline().unwrap() <= Instant::now());
    store.rotate_if_due();
    assert_eq!(store.next_deadline(), None);
    store.close().unwrap();
    assert_eq!(read(bench.path()), expected(1));
}

#[test]
fn short_writes_are_continued() {
    for short_bytes in [1, 7, 100] {
        let bench = Bench::new(SyncPolicy::Batch);
        bench.disk.faults().short_bytes = Some(short_bytes);
        let (mut store, _) = bench.open();
        append(&mut store, &batch(1)).unwrap();
        store.close().unwrap();
        assert_eq!(read(bench.path()), expected(1));
        assert_whole(bench.path());
    }
}

#[test]
fn a_write_that_fails_once_leaves_nothing_behind_and_succeeds_the_next_time() {
    for (errno, short_bytes) in [(Errno::ENOSPC, usize::MAX), (Errno::EIO, usize::MAX), (Errno::ENOSPC, 50)] {
        for sync in POLICIES {
            for number in 1.. {
                let bench = Bench::new(sync);
                bench.disk.faults().fail_write = Some((number, errno));
                bench.disk.faults().short_bytes = Some(short_bytes);
                let (mut store, _) = bench.open();
                for generation in 1..=4 {
                    append_at_last(&mut store, &batch(generation));
                }
                assert_eq!(store.status().snapshot().state, Condition::Ok);
                let writes = bench.disk.faults().writes;
                store.close().unwrap();
                assert_eq!(read(bench.path()), expected(4), "{errno} at write {number}, {sync:?}");
                if errno != Errno::EIO {
                    assert_whole(bench.path());
                }
                if number > writes {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_full_disk_is_reported_as_full_and_recovers_when_there_is_room() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    append(&mut store, &batch(1)).unwrap();
    bench.disk.faults().room_bytes = Some(600);
    for _ in 0..3 {
        assert!(matches!(append(&mut store, &batch(2)), Err(WriteError::Full(_))));
    }
    assert_eq!(store.status().snapshot().state, Condition::Full);
    bench.disk.faults().room_bytes = None;
    append(&mut store, &batch(2)).unwrap();
    assert_eq!(store.status().snapshot().state, Condition::Ok);
    assert_eq!(read(bench.path()), expected(2));
}

#[test]
fn a_full_disk_makes_the_oldest_segments_go_and_never_the_active_one() {
    let mut bench = Bench::new(SyncPolicy::Never);
    bench.storage.when_full = WhenFull::DeleteOldest;
    bench.storage.segment_bytes = 1500;
    bench.disk.faults().room_bytes = Some(5000);
    let (mut store, _) = bench.open();
    for generation in 1..=50 {
        // A segment can be deleted once the syncer has given it the name of a sealed one.
        while append(&mut store, &batch(generation)).is_err() {
            std::thread::yield_now();
        }
    }
    let all = read(bench.path());
    assert!(all.len() > 12, "{}", all.len());
    assert_eq!(all[..], expected(50)[150 - all.len()..], "the newest, without a gap");
}

#[test]
fn the_notice_of_a_deletion_wakes_the_syncer_which_may_have_to_log_it() {
    let store = Bench::new(SyncPolicy::Never).still();
    work(&store, Shared::job_now);
    let shared = Arc::clone(&store.shared);
    let syncer = std::thread::spawn(move || shared.next_job());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !syncer.is_finished() {
        assert!(Instant::now() < deadline, "it sleeps on");
        store.shared.deleted();
        std::thread::yield_now();
    }
}

#[test]
fn a_full_disk_with_nothing_but_the_active_segment_keeps_it() {
    let mut bench = Bench::new(SyncPolicy::Never);
    bench.storage.when_full = WhenFull::DeleteOldest;
    let (mut store, _) = bench.open();
    append(&mut store, &batch(1)).unwrap();
    bench.disk.faults().room_bytes = Some(100);
    assert!(matches!(append(&mut store, &batch(2)), Err(WriteError::Full(_))));
    assert_eq!(read(bench.path()), expected(1));
}

#[test]
fn with_sync_batch_each_batch_is_durable_on_return() {
    let bench = Bench::new(SyncPolicy::Batch);
    let (mut store, _) = bench.open();
    for generation in 1..=3 {
        append(&mut store, &batch(generation)).unwrap();
        let told = bench.told.0.lock().unwrap();
        let last = told.last().unwrap();
        assert_eq!((last.before_generation, last.events, told.len() as u64), (generation + 1, 3, generation));
    }
}

#[test]
fn with_an_interval_what_was_appended_becomes_durable_by_itself() {
    let bench = Bench::new(SyncPolicy::Interval(Duration::from_millis(1)));
    let (mut store, _) = bench.open();
    append(&mut store, &batch(1)).unwrap();
    append(&mut store, &batch(2)).unwrap();
    let told = bench.told.wait_for(3);
    assert_eq!(told.iter().map(|durable| durable.events).sum::<u64>(), 6);
}

#[test]
fn a_sync_is_done_when_it_is_asked_for_whatever_the_policy() {
    for sync in POLICIES {
        let bench = Bench::new(sync);
        let (mut store, _) = bench.open();
        append(&mut store, &batch(1)).unwrap();
        store.rotate().unwrap();
        append(&mut store, &batch(2)).unwrap();
        // Generation 3 was empty.
        store.request_sync(4, 1);
        let told = bench.told.wait_for(4);
        assert_eq!(told.iter().map(|durable| durable.events).sum::<u64>(), 6, "{sync:?}");
        store.request_sync(5, 1);
        bench.told.wait_for(5);
    }
}

#[test]
fn with_sync_never_nothing_is_synced_unless_it_is_asked_for() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    for generation in 1..=20 {
        append(&mut store, &batch(generation)).unwrap();
    }
    store.close().unwrap();
    assert_eq!(bench.disk.faults().syncs, 0);
    assert!(bench.names().iter().all(|name| name.state == State::Sealed));
}

#[test]
fn a_sync_that_does_not_come_back_holds_no_append_up() {
    let bench = Bench::new(SyncPolicy::Interval(Duration::ZERO));
    let (mut store, _) = bench.open();
    bench.disk.faults().holds_syncs = true;
    for generation in 1..=20 {
        append(&mut store, &batch(generation)).unwrap();
    }
    assert!(bench.told.0.lock().unwrap().is_empty());
    bench.disk.release();
    bench.told.wait_for(21);
    store.close().unwrap();
    assert_eq!(read(bench.path()), expected(20));
    assert_whole(bench.path());
}

#[test]
fn after_a_failed_sync_each_batch_is_in_the_files_once_and_becomes_durable() {
    for sync in [SyncPolicy::Batch, SyncPolicy::Interval(Duration::from_secs(3600))] {
        for number in 1..=8 {
            let bench = Bench::new(sync);
            bench.disk.faults().fail_syncs = vec![number];
            let (mut store, _) = bench.open();
            let mut follower = Follower::open(bench.path(), 0, false).unwrap();
            let mut followed = Vec::new();
            for generation in 1..=24 {
                append_at_last(&mut store, &batch(generation));
                if generation % 5 == 0 {
                    store.request_sync(generation + 1, 1);
                }
                follow(&mut follower, &mut followed);
            }
            store.request_sync(25, 1);
            let told = bench.told.wait_for(25);
            assert_eq!(told.iter().map(|durable| durable.lost_events).sum::<u64>(), 0);
            assert_eq!(told.iter().map(|durable| durable.events).sum::<u64>(), 72, "sync {number}, {sync:?}");
            assert!(told.is_sorted_by_key(|durable| durable.before_generation));
            store.close().unwrap();
            assert_eq!(read(bench.path()), expected(24), "sync {number}, {sync:?}");
            assert!(!bench.disk.faults().trusts_a_failed_sync(), "sync {number}, {sync:?}");
            follow(&mut follower, &mut followed);
            assert_eq!(followed, expected(24), "followed, sync {number}, {sync:?}");
            assert_whole(bench.path());
            assert_eq!(bench.open().1.next_sequence, 73);
        }
    }
}

fn follow(follower: &mut Follower, to: &mut Vec<String>) {
    let polled = follower.poll(&Wanted::default(), |item| {
        to.push(text(&item));
        ControlFlow::Continue(())
    });
    assert!(polled.unwrap().is_continue());
}

#[test]
fn what_a_failed_sync_has_forgotten_is_counted_as_lost_and_its_sequences_are_not_given_out_again() {
    let bench = Bench::new(SyncPolicy::Interval(Duration::from_secs(3600)));
    let (mut store, _) = bench.open();
    append(&mut store, &batch(1)).unwrap();
    store.request_sync(2, 1);
    bench.told.wait_for(2);
    bench.disk.faults().forgets = true;
    bench.disk.faults().fail_syncs = vec![2];
    append(&mut store, &batch(2)).unwrap();
    append(&mut store, &batch(3)).unwrap();
    store.request_sync(4, 1);
    let lost = bench.told.wait_for(4).pop().unwrap();
    assert_eq!((lost.events, lost.lost_events, lost.lost_generations), (0, 6, vec![2..=3]));
    assert_eq!(store.status().snapshot().state, Condition::Ok);
    append(&mut store, &batch(4)).unwrap();
    store.close().unwrap();
    let all = read(bench.path());
    assert_eq!(all[..3], expected(1));
    assert_eq!(all[3], "gap 4..9");
    assert_eq!(all[4..], expected(4)[9..]);
}

#[test]
fn a_failed_sync_is_reported_at_once_and_settled_when_its_batches_are_in_another_file_or_lost() {
    for (sync, forgets) in [SyncPolicy::Interval(Duration::from_secs(3600)), SyncPolicy::Batch]
        .into_iter()
        .flat_map(|sync| [(sync, false), (sync, true)])
    {
        let bench = Bench::new(sync);
        let (steps, its) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&bench.told));
        let on_broken = Box::new({
            let steps = Arc::clone(&steps);
            // With the number of losses that were reported by then.
            move |from| {
                steps.lock().unwrap().push((from, its.0.lock().unwrap().iter().filter(|d| d.lost_events > 0).count()))
            }
        });
        let told = Arc::clone(&bench.told);
        let on_durable = Box::new(move |durable| {
            told.0.lock().unwrap().push(durable);
            told.1.notify_all();
        });
        let options =
            StoreOptions { storage: bench.storage.clone(), on_durable, on_broken, on_delete: Box::new(|_| ()) };
        let (mut store, _) = Store::open(options, Arc::new(bench.disk.clone())).unwrap();
        append(&mut store, &batch(1)).unwrap();
        store.request_sync(2, 1);
        bench.told.wait_for(2);
        bench.disk.faults().forgets = forgets;
        bench.disk.faults().fail_syncs = vec![2];
        append_at_last(&mut store, &batch(2));
        store.request_sync(3, 1);
        bench.told.wait_for(3);
        store.close().unwrap();
        let losses = usize::from(forgets && sync != SyncPolicy::Batch);
        assert_eq!(*steps.lock().unwrap(), [(Some(2), 0), (None, losses)], "{sync:?}, {forgets}");
    }
}

#[test]
fn each_generation_that_a_failed_sync_has_forgotten_is_named_however_many_there_are() {
    let mut bench = Bench::new(SyncPolicy::Interval(Duration::from_secs(3600)));
    bench.storage.segment_bytes = 64 << 20;
    let (mut store, _) = bench.open();
    bench.disk.faults().forgets = true;
    bench.disk.faults().fail_syncs = vec![1];
    let last = 5_000;
    for generation in 1..=last {
        append(&mut store, &batch(generation)).unwrap();
    }
    store.request_sync(last + 1, 1);
    let told = bench.told.wait_for(last + 1);
    assert_eq!(told.iter().map(|durable| durable.lost_events).sum::<u64>(), 3 * last);
    let lost: Vec<_> = told.into_iter().flat_map(|durable| durable.lost_generations).collect();
    assert_eq!(lost, [1..=last]);
    store.close().unwrap();
}

#[test]
fn a_batch_that_cannot_be_synced_may_come_again_and_another_gets_no_sequence_that_it_had() {
    for gives_up in [false, true] {
        let bench = Bench::new(SyncPolicy::Batch);
        bench.disk.faults().fail_syncs = vec![2, 3];
        let (mut store, _) = bench.open();
        append(&mut store, &batch(1)).unwrap();
        assert!(matches!(append(&mut store, &batch(2)), Err(WriteError::Failed(_))));
        let next = if gives_up { 3 } else { 2 };
        let appended = append(&mut store, &batch(next)).unwrap();
        assert_eq!(appended.first_sequence, if gives_up { 7 } else { 4 });
        store.close().unwrap();
        let all = read(bench.path());
        if gives_up {
            assert_eq!((&all[..3], &all[3][..], &all[4..]), (&expected(1)[..], "gap 4..6", &expected(3)[6..]));
        } else {
            assert_eq!(all, expected(2));
        }
    }
}

#[test]
fn a_repair_that_fails_is_tried_again_until_it_succeeds() {
    let bench = Bench::new(SyncPolicy::Interval(Duration::from_secs(3600)));
    let (mut store, _) = bench.open();
    append(&mut store, &batch(1)).unwrap();
    bench.disk.faults().fail_syncs = vec![1];
    let writes = bench.disk.faults().writes;
    bench.disk.faults().fail_write = Some((writes + 1, Errno::ENOSPC));
    store.request_sync(2, 1);
    let told = bench.told.wait_for(2);
    assert_eq!(told.last().unwrap().events, 3);
    store.close().unwrap();
    assert_eq!(read(bench.path()), expected(1));
}

#[test]
fn opening_a_directory_of_a_thousand_segments_looks_into_a_few_of_them() {
    let mut bench = Bench::new(SyncPolicy::Never);
    bench.storage.segment_bytes = 1;
    let (mut store, _) = bench.open();
    for generation in 1..=1000 {
        append(&mut store, &batch(generation)).unwrap();
    }
    store.close().unwrap();
    bench.disk.faults().opens = 0;
    // Without the syncer, which counts what is in them.
    let (store, recovery) = Store::recover(bench.options(), Arc::new(bench.disk.clone())).unwrap();
    assert_eq!((recovery.segments, recovery.next_sequence), (1000, 3001));
    drop(store);
    let opens = bench.disk.faults().opens;
    assert!(opens < 10, "{opens} files were opened");
}

#[test]
fn segments_beyond_the_limits_go_oldest_first() {
    let mut bench = Bench::new(SyncPolicy::Never);
    bench.storage.retain = Some(Amount::Bytes(16 << 10));
    let (mut store, _) = bench.open();
    for generation in 1..=200 {
        append(&mut store, &batch(generation)).unwrap();
    }
    store.close().unwrap();
    let bytes: u64 = disk::segments(&RealDisk, bench.path()).unwrap().iter().map(|(_, bytes)| bytes).sum();
    assert!((8 << 10..=16 << 10).contains(&bytes), "{bytes}");
    let all = read(bench.path());
    assert_eq!(all[..], expected(200)[600 - all.len()..], "the newest, without a gap");
}

#[test]
fn percentages_are_of_the_size_of_the_file_system() {
    let mut bench = Bench::new(SyncPolicy::Never);
    bench.storage.retain = Some(Amount::Percent(1.0));
    bench.disk.faults().space = Some(Space { total_bytes: 1600 << 10, free_bytes: 1 << 40 });
    let limits = retain::limits(&(Arc::new(bench.disk.clone()) as Arc<dyn Disk>), &bench.storage);
    assert_eq!((limits.retain_bytes, limits.segment_bytes), (Some(16 << 10), 4 << 10));
}

#[test]
fn users_share_what_retention_leaves_without_the_segment_that_it_would_delete() {
    let mut bench = Bench::new(SyncPolicy::Never);
    (bench.storage.segment_bytes, bench.storage.retain) = (4 << 10, Some(Amount::Bytes(100 << 10)));
    let room = |bench: &Bench, free_bytes| {
        bench.disk.faults().space = Some(Space { total_bytes: 1 << 20, free_bytes });
        let (store, _) = bench.open();
        let room_bytes = store.status().room_bytes();
        store.close().unwrap();
        room_bytes.load(crate::sync::atomic::Ordering::Relaxed)
    };
    assert_eq!(room(&bench, 1 << 40), 94 << 10, "a segment, and twice the quarter of one");
    let in_files: u64 = disk::segments(&RealDisk, bench.path()).unwrap().iter().map(|(_, bytes)| bytes).sum();
    bench.storage.min_free = Some(Amount::Bytes(20 << 10));
    assert_eq!(room(&bench, 50 << 10), (24 << 10) + in_files, "what is free, without what stays free");
    assert_eq!(room(&bench, 0), u64::MAX, "nobody waits where nothing can be promised");
    (bench.storage.retain, bench.storage.min_free) = (None, None);
    assert_eq!(room(&bench, 1 << 20), (1 << 20) - (6 << 10) + in_files, "the disk is a limit as well");
}

#[test]
fn room_is_kept_free_and_what_is_too_old_goes() {
    for (min_free, retain_age) in [(Some(Amount::Percent(10.0)), None), (None, Some(Duration::from_secs(60)))] {
        let mut bench = Bench::new(SyncPolicy::Never);
        let (mut store, _) = bench.open();
        for generation in 1..=40 {
            append(&mut store, &batch(generation)).unwrap();
        }
        store.close().unwrap();
        (bench.storage.min_free, bench.storage.retain_age) = (min_free, retain_age);
        bench.disk.faults().space = Some(Space { total_bytes: 1 << 20, free_bytes: 0 });
        let (store, recovery) = bench.open();
        assert!(recovery.segments > 2);
        store.close().unwrap();
        assert_eq!(read(bench.path()), Vec::<String>::new(), "all of them: the test's clock starts in 1970");
        assert_eq!(bench.open().1.next_sequence, 121);
    }
}

#[test]
fn a_directory_that_cannot_be_listed_for_a_moment_is_not_taken_for_an_empty_one() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    for generation in 1..=3 {
        append(&mut store, &batch(generation)).unwrap();
        store.rotate().unwrap();
    }
    store.close().unwrap();
    let mut store = bench.still();
    work(&store, Shared::job_now);
    assert_eq!(store.status().snapshot().segments, 4);
    // Retention lists the directory, and then again for the status.
    let lists = bench.disk.faults().lists;
    bench.disk.faults().fail_list = Some(lists + 2);
    store.reconfigure(&bench.storage);
    work(&store, Shared::job_now);
    assert_eq!((bench.disk.faults().lists, store.status().snapshot().segments), (lists + 2, 4));
    store.close().unwrap();
    assert!(bench.names().iter().all(|name| name.state == State::Sealed), "{:?}", bench.names());
}

#[test]
fn the_status_says_what_is_there() {
    let bench = Bench::new(SyncPolicy::Never);
    let mut store = bench.still();
    work(&store, Shared::job_now);
    let status = store.status();
    for generation in 1..=3 {
        append(&mut store, &batch(generation)).unwrap();
    }
    let snapshot = status.snapshot();
    let bytes: u64 = disk::segments(&RealDisk, bench.path()).unwrap().iter().map(|(_, bytes)| bytes).sum();
    assert_eq!((snapshot.segments, snapshot.bytes, snapshot.oldest_time_ns), (1, bytes, Some(10)));
    assert_eq!(snapshot.active.as_deref(), Some("00000000000000000001.active"));
    store.rotate().unwrap();
    store.close().unwrap();
    let bytes: u64 = disk::segments(&RealDisk, bench.path()).unwrap().iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(status.snapshot().bytes, bytes);
}
