//! Kills the process at each point of a history, and again at each point of the recovery.

use std::collections::BTreeMap;

use super::super::sim_disk::{Call, Kind, Operation, SimDisk, Verdict, Watch};
use super::world::{Act, End, Judge, Moment, Plan, World, reopen};
use super::*;

/// Appends, rotation by size and by request, a sync that fails and its repair, retention.
pub(super) const HISTORY: &[Act] = &[
    Act::Append,
    Act::Meanwhile,
    Act::Ask,
    Act::Job,
    Act::Append,
    Act::Append,
    Act::Append,
    Act::Append,
    Act::Job,
    Act::Append,
    Act::Wrong(Operation::Sync, Verdict::Fail(Errno::EIO)),
    Act::Ask,
    Act::Jobs,
    Act::Append,
    Act::Rotate,
    Act::Append,
    Act::Jobs,
    Act::Wrong(Operation::Write, Verdict::Fail(Errno::ENOSPC)),
    Act::Append,
    Act::Wrong(Operation::Write, Verdict::Fail(Errno::EIO)),
    Act::Append,
    Act::Retain(9000),
    Act::Jobs,
    Act::Append,
    Act::Ask,
    Act::Jobs,
    Act::Append,
];

fn plans() -> impl Iterator<Item = Plan> {
    let ways = [(None, WhenFull::Wait), (Some(90), WhenFull::DeleteOldest)];
    POLICIES.into_iter().flat_map(move |sync| {
        ways.map(|(short_bytes, when_full)| Plan { sync, short_bytes, when_full, ..Plan::default() })
    })
}

#[test]
fn a_kill_at_any_point_of_a_history_loses_nothing_that_was_appended() {
    let mut judge = Judge::new();
    let mut points = BTreeMap::new();
    for plan in plans() {
        let world = World::new(&plan);
        world.play(HISTORY);
        for moment in world.finish() {
            *points.entry((moment.call.operation, moment.call.kind)).or_insert(0) += 1;
            if let Err(e) = judge.check(&moment, End::Killed) {
                panic!("killed before {:?} with {:?}: {e}; {:?}", moment.call, plan.sync, moment.facts);
            }
        }
    }
    // The history passes every kind of point that exists.
    for point in POINTS {
        assert!(points.contains_key(point), "{point:?} is not among {points:?}");
    }
}

/// The points: just before each of these calls, which is just after the previous one.
const POINTS: &[(Operation, Kind)] = &[
    (Operation::Create, Kind::Active),
    (Operation::Write, Kind::Active),
    (Operation::Allocate, Kind::Active),
    (Operation::Truncate, Kind::Active),
    (Operation::Sync, Kind::Active),
    (Operation::SyncDirectory, Kind::Directory),
    (Operation::Rename, Kind::Sealed),
    (Operation::Remove, Kind::Sealed),
    (Operation::Rename, Kind::Torn),
    (Operation::Create, Kind::Repair),
    (Operation::Write, Kind::Repair),
    (Operation::Sync, Kind::Repair),
    (Operation::Truncate, Kind::Torn),
];

/// Keeps the moments of a recovery.
struct Recovering {
    disk: SimDisk,
    before: Moment,
    moments: Mutex<Vec<Moment>>,
}

impl Watch for Recovering {
    fn before(&self, call: &Call) -> Verdict {
        if call.operation.changes() {
            let moment = Moment { call: *call, kernel: self.disk.kernel(), ..self.before.clone() };
            self.moments.lock().unwrap().push(moment);
        }
        Verdict::Go
    }
}

/// The moments of the recovery after a crash at `moment`.
pub(super) fn recovery_of(moment: &Moment, home: &Path) -> Vec<Moment> {
    let disk = SimDisk::of(moment.kernel.clone());
    let watch = Recovering { disk: disk.clone(), before: moment.clone(), moments: Mutex::default() };
    let watch = Arc::new(watch);
    disk.watch(Some(Arc::clone(&watch) as Arc<dyn Watch>));
    drop(reopen(&disk, home));
    disk.watch(None);
    std::mem::take(&mut *watch.moments.lock().unwrap())
}

#[test]
fn a_second_kill_at_any_point_of_the_recovery_changes_nothing() {
    let mut judge = Judge::new();
    for plan in plans().filter(|plan| plan.short_bytes.is_none()) {
        let world = World::new(&plan);
        world.play(HISTORY);
        for moment in world.finish() {
            for again in recovery_of(&moment, judge.home()) {
                if let Err(e) = judge.check(&again, End::Killed) {
                    panic!("killed before {:?}, then before {:?} of the recovery: {e}", moment.call, again.call);
                }
            }
        }
    }
    assert!(judge.checked > 100, "{}", judge.checked);
}

#[test]
fn the_repair_of_a_deleted_segment_leaves_the_new_one_of_its_name_alone() {
    let world = World::new(&Plan::default());
    // Without a batch, the next segment has the same first sequence.
    world.disk.delete(Kind::Active);
    world.play(&[Act::Append, Act::Jobs]);
    let mut judge = Judge::new();
    for moment in world.finish() {
        judge.check(&moment, End::Killed).unwrap();
    }
}

#[test]
fn an_empty_segment_that_alone_says_the_sequence_outlives_a_kill_in_the_recovery() {
    let world = World::new(&Plan::default());
    world.play(&[Act::Append, Act::Ask, Act::Jobs, Act::Rotate, Act::Jobs]);
    world.disk.change(|kernel| kernel.retire(1));
    world.disk.delete(Kind::Sealed);
    let mut judge = Judge::new();
    let (kernel, facts) = (world.disk.kernel(), world.facts());
    let moment = Moment { kernel, facts, ..world.finish().pop().unwrap() };
    judge.check(&moment, End::Killed).unwrap();
    for again in recovery_of(&moment, judge.home()) {
        judge.check(&again, End::Killed).unwrap_or_else(|e| panic!("killed before {:?}: {e}", again.call));
    }
}
