//! Runs a store on the simulated disk and checks the promises that it must keep however it ends.
//!
//! Everything runs on the test's thread. The syncer's jobs are done when the history says so, or in the middle of a
//! call of the other side to the disk, where a seed says so. So each history can be repeated call by call.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use super::super::sim_disk::{Call, Choices, Kernel, Kind, Operation, SimDisk, Verdict, Watch, random};
use super::super::sync_queue::{Job, Shared};
use super::super::syncer;
use super::*;
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Events of each batch.
const EVENTS: u64 = 3;

/// How often, in one history, one side does something in the middle of a call of the other.
const MIXED_MAX: usize = 12;

/// A batch that differs from every other in its bytes.
pub(super) fn stamped(generation: u64) -> TestBatch {
    let mut batch = TestBatch::new(generation);
    let (time, [first, second, third]) = (generation * 10, [0, 1, 2].map(|index| payload(generation, index)));
    batch.run("a", &[(time, &first), (time + 2, &third)]).run("b", &[(time + 1, &second)]);
    batch
}

fn payload(generation: u64, index: u64) -> String {
    let filler = if index == 1 { (generation * 211 % 700) as usize } else { 0 };
    format!("{generation}.{index}{}", "x".repeat(filler))
}

/// What the outside was told, or has given.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The generations whose append has returned, and their first sequences.
    pub(super) kept: Vec<(u64, u64)>,
    /// The newest generation that was given to an append.
    pub(super) tried: u64,
    /// Generations that were given up after their append had failed.
    pub(super) given_up: Vec<u64>,
    /// As reported.
    pub(super) durable_before: u64,
    /// As reported.
    pub(super) lost: Vec<u64>,
    /// A sync has failed and lost what it should have made durable.
    pub(super) forgot: bool,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The process is gone, the kernel is not.
    Killed,
    /// Both are gone.
    PowerLost,
}

/// A moment just before a call: what a crash then leaves, and what was promised by then.
#[derive(Clone)]
pub(super) struct Moment {
    pub(super) call: Call,
    pub(super) kernel: Kernel,
    pub(super) facts: Facts,
}

/// What the history does next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Append,
    Rotate,
    /// Requests a sync of everything that was appended.
    Ask,
    /// The syncer does one job.
    Job,
    /// The syncer does all its jobs.
    Jobs,
    /// Retention keeps this many bytes from now on.
    Retain(u64),
    /// The reader thread appends right after the syncer's next sync is done, before the syncer knows.
    Meanwhile,
    /// The next call of this kind fails.
    Wrong(Operation, Verdict),
}

pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) storage: Storage,
    store: Mutex<Option<Store>>,
    shared: Arc<Shared>,
    facts: Arc<Mutex<Facts>>,
    moments: Mutex<Vec<Moment>>,
    wrong: Mutex<Vec<(Operation, Verdict)>>,
    plan: Plan,
    /// At which calls a seed mixes the two sides, and how many times more it may.
    mix: Mutex<Option<(u64, usize)>>,
    syncing: AtomicBool,
    /// Whether retention is what removes files now.
    retaining: AtomicBool,
    mixing: AtomicBool,
    meanwhile: AtomicBool,
    _home: TempDir,
}

/// What differs from world to world.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) sync: SyncPolicy,
    pub(super) when_full: WhenFull,
    pub(super) segment_bytes: u64,
    /// Calls that are never done, although the disk reports success.
    pub(super) lies: Vec<(Operation, Kind)>,
    /// Whether a batch that fails is given up or comes again.
    pub(super) gives_up: bool,
    /// The seed by which each side interrupts the other.
    pub(super) mix: Option<u64>,
    /// Bytes that a write takes at most.
    pub(super) short_bytes: Option<usize>,
}

impl Default for Plan {
    /// Syncs on request.
    fn default() -> Self {
        Self {
            sync: POLICIES[2],
            when_full: WhenFull::Wait,
            segment_bytes: 1600,
            lies: Vec::new(),
            gives_up: false,
            mix: None,
            short_bytes: None,
        }
    }
}

impl World {
    pub(super) fn new(plan: &Plan) -> Arc<Self> {
        let home = directory();
        let mut storage = storage(home.path());
        (storage.sync, storage.when_full, storage.segment_bytes) = (plan.sync, plan.when_full, plan.segment_bytes);
        let disk = SimDisk::default();
        let facts = Arc::new(Mutex::new(Facts::default()));
        let on_durable = Box::new({
            let facts = Arc::clone(&facts);
            move |durable: Durable| {
                let mut facts = facts.lock().unwrap();
                facts.durable_before = facts.durable_before.max(durable.before_generation);
                facts.lost.extend(durable.lost_generations.into_iter().flatten());
            }
        });
        let options = StoreOptions {
            storage: storage.clone(),
            on_durable,
            on_broken: Box::new(|_| ()),
            on_delete: Box::new(|_| ()),
        };
        let (store, _) = Store::recover(options, Arc::new(disk.clone())).unwrap();
        let world = Arc::new(Self {
            shared: Arc::clone(&store.shared),
            store: Mutex::new(Some(store)),
            moments: Mutex::default(),
            wrong: Mutex::default(),
            mix: Mutex::new(plan.mix.map(|seed| (seed, MIXED_MAX))),
            plan: plan.clone(),
            syncing: AtomicBool::new(false),
            retaining: AtomicBool::new(false),
            mixing: AtomicBool::new(false),
            meanwhile: AtomicBool::new(false),
            _home: home,
            disk,
            storage,
            facts,
        });
        world.disk.watch(Some(Arc::clone(&world) as Arc<dyn Watch>));
        world
    }

    pub(super) fn play(&self, acts: &[Act]) {
        for act in acts {
            self.act(*act);
        }
    }

    pub(super) fn act(&self, act: Act) {
        match act {
            Act::Append => self.append(),
            Act::Rotate => self.with(|store| drop(store.rotate())),
            Act::Ask => {
                let before = self.facts.lock().unwrap().tried + 1;
                self.with(|store| store.request_sync(before, 1));
            }
            Act::Job => drop(self.job()),
            Act::Jobs => drop((0..200).take_while(|_| self.job()).count()),
            Act::Retain(bytes) => {
                let storage = Storage { retain: Some(Amount::Bytes(bytes)), ..self.storage.clone() };
                self.with(|store| store.reconfigure(&storage));
            }
            Act::Meanwhile => self.meanwhile.store(true, Relaxed),
            Act::Wrong(operation, verdict) => self.wrong.lock().unwrap().push((operation, verdict)),
        }
    }

    fn with(&self, act: impl FnOnce(&mut Store)) {
        act(self.store.lock().unwrap().as_mut().expect("the store is open"));
    }

    fn append(&self) {
        let generation = {
            let mut facts = self.facts.lock().unwrap();
            facts.tried += 1;
            facts.tried
        };
        let batch = stamped(generation);
        self.with(|store| {
            for attempt in 0.. {
                match append(store, &batch) {
                    Ok(appended) => {
                        self.facts.lock().unwrap().kept.push((generation, appended.first_sequence));
                        return;
                    }
                    Err(_) if self.plan.gives_up => {
                        self.facts.lock().unwrap().given_up.push(generation);
                        return;
                    }
                    Err(e) => assert!(attempt < 10, "{e}"),
                }
            }
        });
    }

    /// The syncer does a job. Returns whether it had one.
    fn job(&self) -> bool {
        let syncing = self.syncing.swap(true, Relaxed);
        let job = self.shared.job_now();
        let had = !matches!(job, Job::Wait(_) | Job::End);
        let retaining = self.retaining.swap(matches!(job, Job::Retain(_)), Relaxed);
        syncer::perform(&self.shared, job);
        self.retaining.store(retaining, Relaxed);
        self.syncing.store(syncing, Relaxed);
        had
    }

    /// Closes the store. Returns all moments, the last one after the end.
    pub(super) fn finish(&self) -> Vec<Moment> {
        self.act(Act::Jobs);
        // The remaining jobs come without a request, and only retention removes sealed segments.
        self.syncing.store(true, Relaxed);
        self.retaining.store(true, Relaxed);
        let store = self.store.lock().unwrap().take();
        drop(store.map(Store::close));
        self.disk.watch(None);
        let mut moments = std::mem::take(&mut *self.moments.lock().unwrap());
        let number = self.disk.calls() + 1;
        let call = Call { number, operation: Operation::List, kind: Kind::Directory, first_sequence: None };
        moments.push(Moment { call, kernel: self.disk.kernel(), facts: self.facts() });
        moments
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts.lock().unwrap().clone()
    }

    /// In the middle of a call of one side, the other may do something.
    fn mix(&self) {
        let mut mix = self.mix.lock().unwrap();
        let Some((seed, left)) = mix.as_mut() else { return };
        if *left == 0 || random(seed, 6) != 0 || self.mixing.swap(true, Relaxed) {
            return;
        }
        *left -= 1;
        drop(mix);
        if !self.syncing.load(Relaxed) {
            self.job();
        } else if self.store.try_lock().is_ok_and(|store| store.is_some()) {
            self.append();
        }
        self.mixing.store(false, Relaxed);
    }
}

impl Watch for World {
    fn after(&self, call: &Call) {
        let is_syncers = call.operation == Operation::Sync && self.syncing.load(Relaxed);
        if is_syncers && self.store.try_lock().is_ok_and(|store| store.is_some()) && self.meanwhile.swap(false, Relaxed)
        {
            self.append();
        } else if call.operation.changes() {
            self.mix();
        }
    }

    fn before(&self, call: &Call) -> Verdict {
        if call.operation.changes() {
            let moment = Moment { call: *call, kernel: self.disk.kernel(), facts: self.facts() };
            self.moments.lock().unwrap().push(moment);
            self.mix();
            // The reader thread removes segments only to make room.
            let makes_room = !self.syncing.load(Relaxed) && self.storage.when_full == WhenFull::DeleteOldest;
            let is_segment = matches!(call.kind, Kind::Sealed | Kind::Torn);
            if call.operation == Operation::Remove && is_segment && (makes_room || self.retaining.load(Relaxed)) {
                call.first_sequence.into_iter().for_each(|first| self.disk.change(|kernel| kernel.retire(first)));
            }
        }
        let mut wrong = self.wrong.lock().unwrap();
        if let Some(at) = wrong.iter().position(|(operation, _)| *operation == call.operation) {
            let verdict = wrong.remove(at).1;
            self.facts.lock().unwrap().forgot |= verdict == Verdict::Forget;
            return verdict;
        }
        match self.plan.short_bytes {
            _ if self.plan.lies.contains(&(call.operation, call.kind)) => Verdict::Lie,
            Some(bytes) if call.operation == Operation::Write => Verdict::Short(bytes),
            _ => Verdict::Go,
        }
    }
}

/// Opens a store on the disk, without threads.
pub(super) fn reopen(disk: &SimDisk, home: &Path) -> (Store, Recovery) {
    let options = StoreOptions {
        storage: storage(home),
        on_durable: Box::new(|_| {}),
        on_broken: Box::new(|_| ()),
        on_delete: Box::new(|_| ()),
    };
    Store::recover(options, Arc::new(disk.clone())).expect("recovery never refuses")
}

/// Compares what crashes leave with what was promised; each different state once.
pub(super) struct Judge {
    home: TempDir,
    known: HashSet<u64>,
    pub(super) checked: usize,
}

impl Judge {
    pub(super) fn new() -> Self {
        Self { home: directory(), known: HashSet::new(), checked: 0 }
    }

    pub(super) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(super) fn check(&mut self, moment: &Moment, end: End) -> Result<(), String> {
        let facts = &moment.facts;
        let mut hasher = DefaultHasher::new();
        (facts.kept.len(), facts.tried, facts.durable_before, &facts.lost, end as u8).hash(&mut hasher);
        moment.kernel.files().for_each(|file| file.hash(&mut hasher));
        if !self.known.insert(hasher.finish()) {
            return Ok(());
        }
        self.checked += 1;
        check(moment, end, self.home.path())
    }

    /// Checks ways in which the power may fail at a moment: all, if they are few, otherwise the two extremes and some
    /// that `seed` chooses.
    pub(super) fn check_power(&mut self, moment: &Moment, block: usize, few: usize, seed: u64) -> Result<(), String> {
        let mut try_one = |choices: &mut Choices| {
            let left = Moment { kernel: moment.kernel.lose_power(block, choices), ..moment.clone() };
            self.check(&left, End::PowerLost).map_err(|e| format!("{e}; {choices:?}"))
        };
        let mut choices = Choices::default();
        try_one(&mut choices)?;
        if choices.ways() <= few {
            while choices.turn() {
                try_one(&mut choices)?;
            }
            return Ok(());
        }
        try_one(&mut Choices::newest(&choices))?;
        (0..few as u64 / 2).try_for_each(|number| try_one(&mut Choices::seeded(seed.wrapping_add(number << 32))))
    }
}

/// Starts again after a crash at that moment, and compares what is there with what was promised.
fn check(moment: &Moment, end: End, home: &Path) -> Result<(), String> {
    let facts = &moment.facts;
    let disk = SimDisk::of(moment.kernel.clone());
    let shown = (end == End::Killed).then(|| {
        moment.kernel.export(home);
        read(home)
    });
    let (mut store, recovery) = reopen(&disk, home);
    disk.kernel().export(home);
    let items = read(home);
    if let Some(shown) = shown.filter(|shown| *shown != items) {
        return Err(format!("recovery changed what was read: {}, then {}", brief(&shown), brief(&items)));
    }
    let there = events(&items)?;
    let told = |(generation, _): &&(u64, u64)| match end {
        _ if facts.lost.contains(generation) => false,
        End::Killed if !facts.forgot => true,
        _ => *generation < facts.durable_before,
    };
    for (generation, sequence) in facts.kept.iter().filter(told) {
        let removed = moment.kernel.removed.iter().any(|range| range.contains(sequence));
        if !removed && !there.contains(&(*generation, *sequence)) {
            let files: Vec<_> = moment.kernel.files().map(|(name, bytes)| format!("{name} {}", bytes.len())).collect();
            return Err(format!("generation {generation} at {sequence} is gone: {}; {files:?}", brief(&items)));
        }
        if recovery.next_sequence < sequence + EVENTS {
            return Err(format!("{sequence} was reported, and the next is {}", recovery.next_sequence));
        }
    }
    for (generation, sequence) in &there {
        if *generation > facts.tried || facts.kept.iter().any(|kept| kept.0 == *generation && kept.1 != *sequence) {
            return Err(format!("generation {generation} at {sequence} was not appended there: {}", brief(&items)));
        }
    }
    if end == End::Killed && items.iter().any(|item| item.starts_with("damage")) {
        return Err(format!("damage after a mere kill: {}", brief(&items)));
    }
    goes_on(&mut store, facts, &there)?;
    store.close().map_err(|e| e.to_string())?;
    disk.kernel().export(home);
    let after = events(&read(home))?;
    let more = after.last().filter(|last| last.0 == facts.tried + 1);
    if more.is_none() || after[..after.len() - 1] != there {
        return Err(format!("what came before or after is not what it was: {there:?}, then {after:?}"));
    }
    Ok(())
}

/// The next batch gets sequences that no batch had.
fn goes_on(store: &mut Store, facts: &Facts, there: &[(u64, u64)]) -> Result<(), String> {
    let appended = append(store, &stamped(facts.tried + 1)).map_err(|e| e.to_string())?;
    match there.last() {
        Some((_, last)) if appended.first_sequence < last + EVENTS => Err(format!("{last} was given out twice")),
        _ => Ok(()),
    }
}

/// Items for a failure message, without filler.
fn brief(items: &[String]) -> String {
    items.iter().map(|item| item.trim_end_matches('x')).collect::<Vec<_>>().join(", ")
}

/// The batches that were read, each whole, byte for byte, once, and in order, with their first sequences.
fn events(items: &[String]) -> Result<Vec<(u64, u64)>, String> {
    let wrong = |what: &str| Err(format!("{what}: {}", brief(items)));
    let mut there: Vec<(u64, u64)> = Vec::new();
    let mut index = 0;
    for item in items {
        let mut words = item.split(' ');
        let (first, tag, text) = (words.next(), words.next(), words.next().unwrap_or_default());
        // Gaps, damage and losses are not events.
        let Some(sequence) = first.and_then(|first| first.parse::<u64>().ok()) else { continue };
        let generation = text.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        if index == 0 {
            if there.last().is_some_and(|last| last.0 >= generation || last.1 + EVENTS > sequence) {
                return wrong("twice, or out of order");
            }
            there.push((generation, sequence));
        }
        let (expected, first_sequence) = there[there.len() - 1];
        let right = text == payload(expected, index) && sequence == first_sequence + index;
        if !right || tag != Some(["a", "b", "a"][index as usize]) {
            return wrong("an event that was never appended so");
        }
        index = (index + 1) % EVENTS;
    }
    if index == 0 { Ok(there) } else { wrong("half a batch") }
}
