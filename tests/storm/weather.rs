//! What befalls the daemon: deaths, restarts, a manager that is slow or busy, other sizes, a full disk. A seed decides.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::disk::Disk;
use crate::event::{MAX_EVENT, Random};
use crate::manager::{Manager, Pace};

const CAPACITIES: [&str; 5] = ["256KiB", "320KiB", "512KiB", "1MiB", "2MiB"];
const WRITERS: [&str; 3] = ["1", "2", "3"];
/// Of a hundred lives, this many end by SIGTERM.
const STOPS: u64 = 12;
/// Of a hundred, this many have other sizes than the one before.
const RESIZES: u64 = 30;
/// Of a hundred, this many begin with a disk that gets full.
const FILLS: u64 = 8;
/// Lives that a full disk lasts, at most.
const FULL_LIVES_MAX: u64 = 4;
/// Of a hundred stops, this many meet a manager that takes nothing until the daemon has ended.
const REFUSED_STOPS: u64 = 15;

/// The weather, and what it was.
pub(crate) struct Weather {
    random: Random,
    capacity: &'static str,
    writers: &'static str,
    /// Lives until a full disk is healed.
    full_for: u64,
    /// What there is to be none of.
    without: String,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Weather {
    pub(crate) fn new(seed: u64) -> Self {
        let random = Random::new(seed, "weather");
        let without = std::env::var("DBUF_STORM_WITHOUT").unwrap_or_default();
        Self { random, capacity: "2MiB", writers: "2", full_for: 0, without, counts: BTreeMap::new() }
    }

    /// What the next daemon is started with.
    pub(crate) fn settings(&self) -> Vec<String> {
        let own = [
            ("buffer.capacity", self.capacity.to_owned()),
            ("writers.count", self.writers.to_owned()),
            ("ingest.max_event", MAX_EVENT.to_string()),
            ("storage.when_full", "wait".to_owned()),
            ("storage.retain_bytes", "none".to_owned()),
            ("storage.min_free", "none".to_owned()),
            ("storage.segment_size", "4MiB".to_owned()),
            ("storage.sync", "50ms".to_owned()),
        ];
        own.into_iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Whether this befalls, of a hundred times so often, and is not left out by name.
    fn befalls(&mut self, what: &'static str, times: u64) -> bool {
        // The same numbers are drawn whatever is left out, so that the rest is as it was.
        let is_drawn = self.random.percent(times);
        is_drawn && !self.without.split(',').any(|left_out| left_out == what)
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// One life: its daemon runs already, and the next one runs after it.
    pub(crate) fn life(&mut self, manager: &mut Manager, disk: Option<&Disk>) {
        self.live(manager);
        if self.befalls("stops", STOPS) {
            self.stop(manager, disk);
        } else {
            self.count("kills");
            manager.kill();
        }
        self.between(disk);
        self.choose_pace(manager);
        let settings = self.settings();
        manager.launch(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Lets the daemon live for a while. The seed decides how long, so that the end meets it in each of its states.
    fn live(&mut self, manager: &mut Manager) {
        let before = self.random.below(40_000);
        thread::sleep(Duration::from_micros(before));
        match self.random.below(10) {
            // It dies while it starts, or just after.
            0..4 => return self.count("lives of 40 ms at most"),
            4..8 => thread::sleep(Duration::from_micros(self.random.below(150_000))),
            _ => {
                // Whether it is ready cannot be seen while the manager does not read.
                manager.set_pace(Pace::Prompt);
                manager.wait_until_ready();
                thread::sleep(Duration::from_micros(self.random.below(50_000)));
            }
        }
        if self.random.percent(50) {
            self.count("reloads of the manager that end within a life");
            manager.set_pace(Pace::Prompt);
            thread::sleep(Duration::from_micros(self.random.below(20_000)));
        }
    }

    /// How the manager reads from here on.
    fn choose_pace(&mut self, manager: &Manager) {
        let drawn = self.random.below(20);
        match drawn {
            _ if !self.befalls("managers", 100) => manager.set_pace(Pace::Prompt),
            0..10 => manager.set_pace(Pace::Prompt),
            10..13 => {
                self.count("slow managers");
                manager.set_pace(Pace::Slow(Duration::from_micros(500 + self.random.below(10_000))));
            }
            13..16 => {
                self.count("managers that read nothing");
                manager.set_pace(Pace::Refusing);
            }
            _ => {
                self.count("managers that take nothing");
                manager.refuse_all();
            }
        }
    }

    /// A daemon that stops tries a disk that refuses for half a minute, in which no client hears anything; so the
    /// disk is healed while it stops.
    fn stop(&mut self, manager: &mut Manager, disk: Option<&Disk>) {
        self.count("stops");
        let full = disk.filter(|_| std::mem::take(&mut self.full_for) > 0);
        let after = Duration::from_micros(self.random.below(200_000));
        let is_refused = self.befalls("refused", REFUSED_STOPS);
        if is_refused {
            self.count("stops of which the manager takes nothing");
            manager.refuse_all();
        }
        let view = manager.view();
        thread::scope(|scope| {
            scope.spawn(move || {
                // The seed decides when, during the stop, everything goes well again.
                thread::sleep(after);
                if let Some(disk) = full {
                    disk.heal();
                }
                if !is_refused {
                    view.set_pace(Pace::Prompt);
                }
            });
            manager.stop();
        });
    }

    /// While no daemon runs.
    fn between(&mut self, disk: Option<&Disk>) {
        if self.befalls("sizes", RESIZES) {
            self.count("other sizes");
            self.capacity = self.random.of(&CAPACITIES);
            self.writers = self.random.of(&WRITERS);
        }
        let Some(disk) = disk else { return };
        if self.full_for > 0 {
            self.full_for -= 1;
            if self.full_for == 0 {
                disk.heal();
            }
        } else if self.befalls("full", FILLS) {
            self.count("full disks");
            disk.fill();
            self.full_for = self.random.below(FULL_LIVES_MAX) + 1;
        }
    }

    /// Quiet: the daemon that runs is to stay, and has all that it needs.
    pub(crate) fn calm_down(&mut self, manager: &mut Manager, disk: Option<&Disk>) {
        manager.set_pace(Pace::Prompt);
        if self.full_for > 0
            && let Some(disk) = disk
        {
            self.full_for = 0;
            disk.heal();
        }
        manager.wait_until_ready();
    }
}
