//! Tests the reader, the syncer and a disk that fails at each of its calls in turn, for each policy. What was accepted
//! is in the files once and in order, or it is counted as lost with a cause, and the data says so.

use nix::errno::Errno;

use super::*;
use crate::pipeline::store::sim_disk::{Call, Kind, Operation, SimDisk, Verdict, Watch};
use crate::pipeline::store::{Condition, status::STALL_AFTER};
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::sync::{Condvar, Mutex};
use std::time::Instant;

const POLICIES: [WhenFull; 3] = [WhenFull::DeleteOldest, WhenFull::Wait, WhenFull::Drop];
const SYNCS: [SyncPolicy; 3] = [SyncPolicy::Never, SyncPolicy::Batch, SyncPolicy::Interval(Duration::ZERO)];

/// Which calls fail, and how.
struct Trouble {
    wrong: Box<dyn Fn(&Call) -> bool + Send + Sync>,
    verdict: Verdict,
    /// Only the matching call with this number; 0: all of them.
    number: u64,
    met: AtomicU64,
    is_over: AtomicBool,
}

impl Trouble {
    fn new(verdict: Verdict, number: u64, wrong: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Arc<Self> {
        let (met, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { wrong: Box::new(wrong), verdict, number, met, is_over })
    }
}

impl Watch for Trouble {
    fn before(&self, call: &Call) -> Verdict {
        if self.is_over.load(Relaxed) || !(self.wrong)(call) {
            return Verdict::Go;
        }
        let number = self.met.fetch_add(1, Relaxed) + 1;
        if self.number == 0 || number == self.number { self.verdict } else { Verdict::Go }
    }
}

fn rig(disk: &SimDisk, when_full: WhenFull, sync: SyncPolicy) -> Rig {
    Rig::on(Arc::new(disk.clone()), |settings| {
        settings.storage.when_full = when_full;
        settings.storage.sync = sync;
        settings.storage.segment_bytes = 700;
    })
}

/// Ends everything and compares what is there with what was published.
fn settle(rig: Rig, disk: &SimDisk, published: u64, case: &str) -> u64 {
    let counters = Arc::clone(&rig.counters);
    let deletes = rig.settings.storage.when_full == WhenFull::DeleteOldest;
    let (events, losses, _) = rig.finish_on(|to| {
        disk.watch(None);
        disk.kernel().export(to);
    });
    let totals = counters.account.totals();
    let (persisted, lost) = (totals.persisted_events, totals.lost_total());
    assert_eq!(persisted + lost, published, "{case}: persisted and lost");
    let numbers: Vec<u64> = events.iter().map(|event| event.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{case}: once and in order: {numbers:?}");
    if deletes {
        // Segments that were deleted to make room were the oldest.
        let first = published - numbers.len() as u64;
        assert!(numbers.iter().copied().eq(first..published), "{case}: the newest are there: {numbers:?}");
    } else {
        assert_eq!(numbers.len() as u64, persisted, "{case}: {numbers:?}");
    }
    assert_eq!(losses.iter().map(|(_, events)| events).sum::<u64>(), lost, "{case}: loss records");
    lost
}

/// One run with the fault at the call with this number. Returns whether there was such a call.
fn one_fault(operation: Operation, verdict: Verdict, number: u64, when_full: WhenFull, sync: SyncPolicy) -> bool {
    let case = format!("{operation:?} {number} {verdict:?}, {when_full:?}, {sync:?}");
    println!("{case}");
    let disk = SimDisk::default();
    let mut rig = rig(&disk, when_full, sync);
    let trouble = Trouble::new(verdict, number, move |call| call.operation == operation);
    disk.watch(Some(Arc::clone(&trouble) as Arc<dyn Watch>));
    for event in 0..6 {
        let generation = rig.publish(event.to_string().as_bytes());
        rig.wait_persisted(generation);
    }
    rig.ask(ReaderCommand::Sync).unwrap();
    let was_met = trouble.met.load(Relaxed) >= number;
    trouble.is_over.store(true, Relaxed);
    // Anything lost is reported with the next batch that goes into a file.
    let last = rig.publish(b"6");
    rig.wait_persisted(last);
    assert_eq!(rig.drain.handle().store_status().snapshot().state, Condition::Ok, "{case}: it has healed");
    let lost = settle(rig, &disk, 7, &case);
    assert!(lost == 0 || when_full == WhenFull::Drop, "{case}: {lost} lost");
    was_met
}

#[test]
fn one_fault_at_any_call_costs_nothing_but_what_the_policy_gives_up() {
    let faults = [
        (Operation::Write, Verdict::Fail(Errno::ENOSPC)),
        (Operation::Write, Verdict::Fail(Errno::EIO)),
        (Operation::Write, Verdict::Short(50)),
        (Operation::Sync, Verdict::Fail(Errno::EIO)),
        (Operation::SyncDirectory, Verdict::Fail(Errno::EIO)),
        (Operation::Create, Verdict::Fail(Errno::ENOSPC)),
        (Operation::Allocate, Verdict::Fail(Errno::ENOSPC)),
        (Operation::Rename, Verdict::Fail(Errno::EIO)),
        (Operation::Truncate, Verdict::Fail(Errno::EIO)),
        (Operation::Remove, Verdict::Fail(Errno::EIO)),
    ];
    for (operation, verdict) in faults {
        for when_full in POLICIES {
            for sync in SYNCS {
                let last = (1..).find(|number| !one_fault(operation, verdict, *number, when_full, sync));
                assert!(last < Some(100), "{operation:?}");
            }
        }
    }
}

#[test]
fn a_disk_that_takes_nothing_for_a_while_is_used_again_as_soon_as_it_does() {
    for errno in [Errno::ENOSPC, Errno::EIO, Errno::EROFS] {
        for when_full in POLICIES {
            for sync in SYNCS {
                let case = format!("{errno}, {when_full:?}, {sync:?}");
                let disk = SimDisk::default();
                let mut rig = rig(&disk, when_full, sync);
                let before = rig.publish(b"0");
                rig.wait_persisted(before);
                let trouble = Trouble::new(Verdict::Fail(errno), 0, |call| call.operation.changes());
                disk.watch(Some(Arc::clone(&trouble) as Arc<dyn Watch>));
                let healer = thread::spawn({
                    let (buffer, trouble) = (rig.buffer.clone(), Arc::clone(&trouble));
                    move || {
                        // With a policy that waits, writers fill both halves. With the policy to drop, they do not.
                        while buffer.stats().front_bytes < 2000 && trouble.met.load(Relaxed) < 200 {
                            thread::yield_now();
                        }
                        trouble.is_over.store(true, Relaxed);
                    }
                });
                let mut published = 1;
                while !trouble.is_over.load(Relaxed) || published < 100 {
                    rig.publish(published.to_string().as_bytes());
                    published += 1;
                }
                healer.join().unwrap();
                let last = rig.publish(published.to_string().as_bytes());
                rig.wait_persisted(last);
                rig.ask(ReaderCommand::Sync).unwrap();
                let lost = settle(rig, &disk, published + 1, &case);
                assert!(lost == 0 || when_full == WhenFull::Drop, "{case}: {lost} lost");
            }
        }
    }
}

#[test]
fn a_request_to_rotate_is_refused_at_once_while_the_disk_is_full() {
    let disk = SimDisk::default();
    let mut rig = rig(&disk, WhenFull::Wait, SyncPolicy::Never);
    let is_write = |call: &Call| matches!(call.operation, Operation::Write | Operation::Create);
    let trouble = Trouble::new(Verdict::Fail(Errno::ENOSPC), 0, is_write);
    disk.watch(Some(Arc::clone(&trouble) as Arc<dyn Watch>));
    rig.publish(b"0");
    while trouble.met.load(Relaxed) == 0 {
        thread::yield_now();
    }
    let (send, answer) = std::sync::mpsc::channel();
    rig.drain.handle().command(ReaderCommand::Rotate(Box::new(move |result| send.send(result).unwrap())));
    let answered = answer.recv_timeout(Duration::from_secs(60));
    trouble.is_over.store(true, Relaxed);
    let refusal = answered.expect("an answer while the disk is full").unwrap_err();
    assert!(refusal.contains("cannot rotate") && refusal.contains("full"), "{refusal}");
    let last = rig.publish(b"1");
    rig.wait_persisted(last);
    rig.ask(ReaderCommand::Rotate).unwrap();
    assert_eq!(settle(rig, &disk, 2, "rotated later"), 0);
}

/// Holds a call back until it is released.
#[derive(Default)]
struct Held {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Held {
    fn hold(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 = true;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(is_open, _)| !*is_open).unwrap());
    }

    fn wait_until_there(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |(_, is_there)| !*is_there).unwrap());
    }

    fn let_go(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }
}

impl Watch for Held {
    fn before(&self, call: &Call) -> Verdict {
        if call.operation == Operation::Write {
            self.hold();
        }
        Verdict::Go
    }
}

/// Holds the first sync back until it is released, and refuses writes meanwhile.
#[derive(Default)]
struct HeldSync {
    held: Held,
    refuses: AtomicBool,
}

impl Watch for HeldSync {
    fn before(&self, call: &Call) -> Verdict {
        match call.operation {
            Operation::Sync => self.held.hold(),
            Operation::Write | Operation::Allocate if self.refuses.load(Relaxed) => {
                return Verdict::Fail(Errno::ENOSPC);
            }
            _ => {}
        }
        Verdict::Go
    }
}

#[test]
fn a_batch_that_is_given_up_while_a_sync_is_under_way_is_done_with_that_sync() {
    let disk = SimDisk::default();
    let mut rig = rig(&disk, WhenFull::Drop, SyncPolicy::Interval(Duration::ZERO));
    let watch = Arc::new(HeldSync::default());
    disk.watch(Some(Arc::clone(&watch) as Arc<dyn Watch>));
    let stored = rig.publish(b"0");
    rig.wait_persisted(stored);
    watch.held.wait_until_there();
    watch.refuses.store(true, Relaxed);
    let lost = rig.publish(b"1");
    rig.wait_persisted(lost);
    assert!(rig.progress.was_lost(lost) && rig.progress.durable_before() <= stored);
    watch.held.let_go();
    // Nothing comes after it that could report it.
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.progress.durable_before() <= lost {
        assert!(Instant::now() < deadline, "a client that waits for the event hears nothing");
        thread::yield_now();
    }
    watch.refuses.store(false, Relaxed);
    let last = rig.publish(b"2");
    rig.wait_persisted(last);
    assert_eq!(settle(rig, &disk, 3, "held sync"), 1);
}

#[test]
fn clients_are_told_at_once_that_writes_of_the_previous_process_cannot_be_synced() {
    let disk = SimDisk::default();
    let trouble = Trouble::new(Verdict::Fail(Errno::EIO), 1, |call| call.operation == Operation::SyncDirectory);
    disk.watch(Some(Arc::clone(&trouble) as Arc<dyn Watch>));
    // After a year of a version that did not record what was durable.
    let first = 1 << 34;
    let counters = Arc::new(Counters::new(1).unwrap());
    let progress = Progress::new(1).unwrap();
    let rig = Rig::going_on(Arc::new(disk.clone()), counters, progress, first, |_| ());
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.progress.durable_before() < first {
        assert!(Instant::now() < deadline, "a client that waits hears nothing");
        thread::yield_now();
    }
    assert_eq!(trouble.met.load(Relaxed), 1);
    assert!([1, 1 << 30, first - 1].into_iter().all(|generation| rig.progress.was_lost(generation)));
    assert!(!rig.progress.was_lost(first));
    settle(rig, &disk, 0, "sync of what was before");
}

#[test]
fn a_failed_sync_is_noted_until_its_batches_are_in_another_file() {
    let disk = SimDisk::default();
    let mut rig = rig(&disk, WhenFull::Wait, SyncPolicy::Interval(Duration::ZERO));
    let trouble = Trouble::new(Verdict::Fail(Errno::EIO), 0, |call| call.operation == Operation::Sync);
    disk.watch(Some(Arc::clone(&trouble) as Arc<dyn Watch>));
    let first = rig.publish(b"0");
    let wait_until = |broken: Option<u64>| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while rig.progress.broken() != broken {
            assert!(Instant::now() < deadline, "{:?}", rig.progress.broken());
            thread::yield_now();
        }
    };
    wait_until(Some(first));
    trouble.is_over.store(true, Relaxed);
    rig.ask(ReaderCommand::Sync).unwrap();
    wait_until(None);
    assert_eq!(settle(rig, &disk, 1, "a broken file"), 0);
}

#[test]
fn a_write_that_blocks_for_a_minute_shows_as_a_stall_and_loses_nothing() {
    let disk = SimDisk::default();
    let mut rig = rig(&disk, WhenFull::Drop, SyncPolicy::Never);
    let held = Arc::new(Held::default());
    disk.watch(Some(Arc::clone(&held) as Arc<dyn Watch>));
    rig.publish(b"0");
    held.wait_until_there();
    let calls = disk.calls();
    // The other half still takes events.
    for event in 1..20 {
        rig.publish(event.to_string().as_bytes());
    }
    let status = rig.drain.handle().store_status();
    assert_eq!(status.snapshot().state, Condition::Ok);
    let later = |time| status.snapshot_at(Instant::now() + time).state;
    assert_eq!(later(STALL_AFTER * 2), Condition::Stalled);
    assert_eq!(later(Duration::from_secs(60)), Condition::Stalled);
    assert_eq!(disk.calls(), calls, "no thread calls the disk meanwhile");
    held.let_go();
    let last = rig.publish(b"20");
    rig.wait_persisted(last);
    assert_eq!(status.snapshot().state, Condition::Ok);
    assert_eq!(settle(rig, &disk, 21, "held"), 0);
}

#[test]
fn an_active_segment_that_is_deleted_under_the_store_takes_nothing_that_was_not_durable() {
    for sync in SYNCS {
        let disk = SimDisk::default();
        let mut rig = rig(&disk, WhenFull::Wait, sync);
        let mut published = 0;
        // At each length of the active segment.
        for length in 0..6 {
            for _ in 0..length {
                let generation = rig.publish(published.to_string().as_bytes());
                rig.wait_persisted(generation);
                published += 1;
            }
            // What is durable and deleted is gone; without a sync, nothing is durable.
            if sync == SyncPolicy::Never {
                disk.delete(Kind::Active);
                let generation = rig.publish(published.to_string().as_bytes());
                rig.wait_persisted(generation);
                published += 1;
                let files = disk.kernel();
                let has = |(_, bytes): (&str, &[u8])| bytes.len() > 128;
                let names: Vec<_> = files.files().map(|(name, bytes)| format!("{name} {}", bytes.len())).collect();
                assert!(files.files().any(has), "the next batch is in a file that has a name: {names:?}, {published}");
            }
        }
        rig.ask(ReaderCommand::Sync).unwrap();
        assert_eq!(settle(rig, &disk, published, &format!("{sync:?}")), 0);
    }
}
