//! Cuts the power at each point of a history: the disk keeps any part of what was not synced.

use super::super::sim_disk::{Choices, Kind, Operation, Verdict, random};
use super::crash::{HISTORY, recovery_of};
use super::world::{Act, Judge, Moment, Plan, World};
use super::*;

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// How thoroughly to test: `DBUF_DEPTH` multiplies the number of seeds, moments and ways.
fn depth() -> usize {
    number("DBUF_DEPTH").map_or(1, |depth| depth as usize)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// The last calls before a moment.
fn way_to(moments: &[Moment], moment: &Moment) -> String {
    let before = moments.iter().filter(|other| other.call.number <= moment.call.number);
    let calls: Vec<_> = before.map(|m| format!("{:?} {:?}", m.call.operation, m.call.kind)).collect();
    format!("call {}: {}", moment.call.number, calls[calls.len().saturating_sub(20)..].join(", "))
}

/// The first broken promise of a history, if the power is cut at each moment, or at one of `step`.
fn first_broken(plan: &Plan, acts: &[Act], few: usize, step: usize) -> Option<String> {
    let mut judge = Judge::new();
    let world = World::new(plan);
    world.play(acts);
    let moments = world.finish();
    let broken = |moment: &Moment| {
        let number = moment.call.number;
        let block_bytes = [SECTOR, PAGE][number as usize % 2];
        let checked = judge.check_power(moment, block_bytes, few, number);
        checked.err().map(|e| {
            let told = moment.facts.durable_before;
            format!("power lost at {}, blocks of {block_bytes}, durable before {told}: {e}", way_to(&moments, moment))
        })
    };
    // The last moment is that of an orderly end.
    moments.iter().rev().step_by(step).find_map(broken)
}

#[test]
fn a_loss_of_power_at_any_point_takes_nothing_that_was_reported_as_durable() {
    for sync in POLICIES {
        let plan = Plan { sync, ..Plan::default() };
        assert_eq!(first_broken(&plan, HISTORY, 4 * depth(), 1), None, "{sync:?}");
    }
}

/// Short, so that every possible outcome of the loss of power is tried.
#[test]
fn every_way_to_lose_power_is_tried_on_a_short_history() {
    for sync in POLICIES {
        let plan = Plan { sync, segment_bytes: 500, ..Plan::default() };
        let acts = [Act::Append, Act::Meanwhile, Act::Ask, Act::Jobs, Act::Append, Act::Ask, Act::Jobs];
        assert_eq!(first_broken(&plan, &acts, 100 * depth(), 1), None, "{sync:?}");
    }
}

#[test]
fn a_loss_of_power_in_the_recovery_from_one_takes_nothing_either() {
    let mut judge = Judge::new();
    let plan = Plan { sync: POLICIES[2], ..Plan::default() };
    let world = World::new(&plan);
    world.play(HISTORY);
    for (number, moment) in world.finish().iter().enumerate() {
        let mut choices = Choices::seeded(number as u64);
        let left = Moment { kernel: moment.kernel.lose_power(SECTOR, &mut choices), ..moment.clone() };
        for again in recovery_of(&left, judge.home()) {
            if let Err(e) = judge.check_power(&again, SECTOR, 4, number as u64) {
                panic!("power lost before {:?}, then before {:?}: {e}", moment.call, again.call);
            }
        }
    }
}

/// A history that a seed decides: which side does what, when it is interrupted, and what fails.
fn seeded(mut seed: u64) -> (Plan, Vec<Act>) {
    let next = &mut seed;
    let plan = Plan {
        sync: POLICIES[random(next, 3)],
        segment_bytes: [600, 1600, 5000][random(next, 3)],
        short_bytes: [None, None, Some(300)][random(next, 3)],
        gives_up: random(next, 4) == 0,
        when_full: [WhenFull::Wait, WhenFull::DeleteOldest][random(next, 2)],
        mix: Some(*next),
        ..Plan::default()
    };
    let act = |next: &mut u64| match random(next, 16) {
        0..=6 => Act::Append,
        7..=9 => Act::Job,
        10 => Act::Jobs,
        11 => Act::Ask,
        12 => Act::Meanwhile,
        13 => Act::Rotate,
        14 => Act::Retain([6000, 60_000][random(next, 2)]),
        _ => {
            let eio = Verdict::Fail(Errno::EIO);
            let wrongs = [
                (Operation::Sync, eio),
                (Operation::Sync, Verdict::Forget),
                (Operation::SyncDirectory, eio),
                (Operation::Write, eio),
                (Operation::Write, Verdict::Fail(Errno::ENOSPC)),
                (Operation::Create, Verdict::Fail(Errno::ENOSPC)),
                (Operation::Rename, eio),
                (Operation::Remove, eio),
                (Operation::Truncate, eio),
            ];
            let (operation, verdict) = wrongs[random(next, wrongs.len())];
            Act::Wrong(operation, verdict)
        }
    };
    let acts = (0..40).map(|_| act(next)).collect();
    (plan, acts)
}

/// `DBUF_SEED` repeats one.
#[test]
fn seeded_histories_keep_their_promises_when_the_power_goes() {
    let (seeds, step) = match number("DBUF_SEED") {
        Some(seed) => (seed..seed + 1, 1),
        None => (0..8 * depth() as u64, (5 / depth()).max(1)),
    };
    for seed in seeds {
        let (plan, acts) = seeded(seed);
        if let Some(broken) = first_broken(&plan, &acts, 4, step) {
            panic!("DBUF_SEED={seed}: {broken}; {acts:?}");
        }
    }
}

/// Leaving out each of these calls breaks a promise, and these tests notice it.
const DEFENCES: &[(Operation, Kind)] =
    &[(Operation::Sync, Kind::Active), (Operation::SyncDirectory, Kind::Directory), (Operation::Sync, Kind::Repair)];

#[test]
fn leaving_out_any_of_these_calls_breaks_a_promise() {
    for defence in DEFENCES {
        let missed = POLICIES.into_iter().any(|sync| {
            let plan = Plan { sync, lies: vec![*defence], ..Plan::default() };
            first_broken(&plan, HISTORY, 12, 1).is_some()
        });
        assert!(missed, "nothing is worse without {defence:?}");
    }
}
