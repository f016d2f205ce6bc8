//! Disturbs the daemon while all producers send.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;

use crate::daemon::{CONFIGURATION, DISK, Settings, Usage};
use crate::machine::Machine;
use crate::payload::Random;
use crate::support::wait_for;

/// One disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Card {
    Kill,
    Restart,
    Reload,
    WrongReload,
    Rotate,
    Sync,
    FullDisk,
    Freeze,
}

/// How often each comes in a round. The seed decides in which order.
const DECK: &[(Card, usize)] = &[
    (Card::Kill, 4),
    (Card::Restart, 2),
    (Card::Reload, 2),
    (Card::WrongReload, 1),
    (Card::Rotate, 3),
    (Card::Sync, 2),
    (Card::FullDisk, 1),
    (Card::Freeze, 1),
];

/// How often what has happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) kills: u64,
    pub(crate) restarts: u64,
    pub(crate) reloads: u64,
    pub(crate) wrong_reloads: u64,
    pub(crate) rotations: u64,
    pub(crate) syncs: u64,
    pub(crate) full_disks: u64,
    pub(crate) freezes: u64,
    pub(crate) slowest_recovery: Duration,
    pub(crate) peak_rss_bytes: u64,
}

/// Disturbs.
pub(crate) struct Disturber<'m> {
    machine: &'m Machine,
    random: Random,
    pub(crate) settings: Settings,
    pub(crate) counts: Counts,
    /// What happened in this epoch, and when.
    pub(crate) log: Vec<String>,
    begun: Instant,
}

impl<'m> Disturber<'m> {
    pub(crate) fn new(machine: &'m Machine, seed: u64) -> Self {
        let (random, settings, begun) = (Random::new(seed), Settings::first(), Instant::now());
        Self { machine, random, settings, counts: Counts::default(), log: Vec::new(), begun }
    }

    /// The next disturbances, in the order that the seed decides.
    pub(crate) fn shuffle(&mut self) -> Vec<Card> {
        let mut deck: Vec<Card> = DECK.iter().flat_map(|(card, times)| std::iter::repeat_n(*card, *times)).collect();
        for at in (1..deck.len()).rev() {
            deck.swap(at, self.random.below(at as u64 + 1) as usize);
        }
        deck
    }

    /// Lets the daemon live for a while, and then disturbs it. When everything is back in order, this returns.
    pub(crate) fn play(&mut self, card: Card) {
        thread::sleep(Duration::from_micros(20_000 + self.random.below(280_000)));
        self.log.push(format!("{:.3} s: {card:?}", self.begun.elapsed().as_secs_f64()));
        match card {
            Card::Kill => self.kill(),
            Card::Restart => self.restart(),
            Card::Reload => self.reload(),
            Card::WrongReload => self.reload_wrongly(),
            Card::Rotate => self.rotate(),
            Card::Sync => {
                self.machine.ctl_ok(&["sync"]);
                self.counts.syncs += 1;
            }
            Card::FullDisk => self.fill(),
            Card::Freeze => self.freeze(),
        }
    }

    fn one_of(&mut self, all: &[&'static str]) -> &'static str {
        all[self.random.below(all.len() as u64) as usize]
    }

    fn say(&mut self, what: &str) {
        self.log.push(format!("{:.3} s: {what}", self.begun.elapsed().as_secs_f64()));
    }

    fn note_usage(&mut self, usage: Usage) {
        self.counts.peak_rss_bytes = self.counts.peak_rss_bytes.max(usage.peak_rss_bytes);
    }

    /// Waits for a process that is ready and another than this one.
    fn wait_for_next(&self, pid: &str) {
        wait_for("the next life", || {
            let shown = self.machine.run(&["systemctl", "show", "-P", "MainPID", "-P", "ActiveState", "dbufd"]);
            let (now, state) = shown.trim().split_once('\n')?;
            (now != pid && state == "active").then_some(())
        });
    }

    fn send_kill(&mut self) -> String {
        self.note_usage(self.machine.usage());
        let pid = self.machine.property("MainPID");
        self.machine.run(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "dbufd"]);
        self.counts.kills += 1;
        pid
    }

    fn kill(&mut self) {
        let pid = self.send_kill();
        self.wait_for_next(&pid);
        self.note_recovery();
    }

    fn restart(&mut self) {
        self.note_usage(self.machine.usage());
        self.machine.run(&["systemctl", "restart", "dbufd"]);
        self.counts.restarts += 1;
        self.note_recovery();
    }

    fn note_recovery(&mut self) {
        self.counts.slowest_recovery = self.counts.slowest_recovery.max(self.machine.recovery());
    }

    /// Other settings, of which some count now and some from the next start on.
    fn reload(&mut self) {
        let others = Settings::SYNCS.into_iter().filter(|sync| *sync != self.settings.sync).collect::<Vec<_>>();
        self.settings = Settings {
            sync: self.one_of(&others),
            linger: self.one_of(&Settings::LINGERS),
            capacity: self.one_of(&Settings::CAPACITIES),
            segment_size: self.one_of(&Settings::SEGMENT_SIZES),
            ..self.settings.clone()
        };
        self.machine.write_settings(&self.settings);
        let how: &[&str] =
            if self.random.below(2) == 0 { &["reload"] } else { &["kill", "-s", "HUP", "--kill-whom=main"] };
        self.machine.run(&[&["systemctl"], how, &["dbufd"]].concat());
        self.wait_for_sync_policy();
        self.counts.reloads += 1;
    }

    fn wait_for_sync_policy(&self) {
        let wanted = self.settings.sync;
        wait_for("the settings to count", || (self.machine.stats()["storage"]["sync_policy"] == wanted).then_some(()));
    }

    fn reload_wrongly(&mut self) {
        self.machine.write(CONFIGURATION, "[storage]\nsync = \"never\"\nsink = 1\n");
        let output = self.machine.exec(&["systemctl", "reload", "dbufd"]);
        assert!(!output.status.success(), "a wrong configuration was taken over");
        assert_eq!(self.machine.stats()["storage"]["sync_policy"], self.settings.sync, "the old one stays in force");
        self.machine.write_settings(&self.settings);
        self.counts.wrong_reloads += 1;
    }

    fn rotate(&mut self) {
        let active = || self.machine.stats()["storage"]["active"].clone();
        let before = active();
        if self.random.below(2) == 0 {
            self.machine.ctl_ok(&["rotate"]);
        } else {
            self.machine.run(&["systemctl", "kill", "--signal=USR1", "--kill-whom=main", "dbufd"]);
        }
        wait_for("another segment", || (active() != before).then_some(()));
        self.counts.rotations += 1;
    }

    /// The disk gets full, and there is room again after a while. Sometimes the daemon dies in between.
    fn fill(&mut self) {
        let ballast = Ballast::new(self.machine);
        self.machine.wait_for_storage("full");
        self.counts.full_disks += 1;
        self.while_the_disk_says_no(|| drop(ballast), 2000);
    }

    /// The file system takes nothing for a while. Sometimes the daemon dies in between.
    fn freeze(&mut self) {
        let frozen = Frozen::new(self.machine);
        self.counts.freezes += 1;
        // One in four is longer than it takes until a disk that does not answer is called stalled.
        let longest_ms = if self.random.below(4) == 0 { 7000 } else { 2000 };
        self.while_the_disk_says_no(|| drop(frozen), longest_ms);
    }

    fn while_the_disk_says_no(&mut self, end: impl FnOnce(), longest_ms: u64) {
        let killed = (self.random.below(2) == 0).then(|| {
            // The moment of the death is the seed's.
            thread::sleep(Duration::from_millis(self.random.below(500)));
            self.say("killed meanwhile");
            self.send_kill()
        });
        // How long the disk says no is the seed's, too, and what is tried.
        thread::sleep(Duration::from_millis(1000 + self.random.below(longest_ms - 1000)));
        end();
        self.say("over");
        if let Some(pid) = killed {
            self.wait_for_next(&pid);
        }
        self.machine.wait_for_storage("ok");
    }

    /// An epoch begins.
    pub(crate) fn begin_epoch(&mut self) {
        self.log.clear();
        self.begun = Instant::now();
    }

    /// All is quiet; gives what the daemon uses.
    pub(crate) fn quiet_usage(&mut self) -> Usage {
        let usage = self.machine.usage();
        self.note_usage(usage);
        usage
    }

    /// Changes for how long sealed segments are kept, by a reload.
    pub(crate) fn retain(&mut self, age: &'static str) {
        self.settings.retain_age = age;
        self.machine.write_settings(&self.settings);
        self.machine.run(&["systemctl", "reload", "dbufd"]);
    }
}

/// A file that takes all the room there is, also what is for root alone. It goes with this.
struct Ballast(PathBuf);

impl Ballast {
    fn new(machine: &Machine) -> Self {
        let this = Self(machine.path(&format!("{DISK}/.ballast")));
        let file = fs::File::create(&this.0).expect("room for a name");
        let mut step: i64 = 1 << 40;
        while step >= 4096 {
            let end = file.metadata().expect("a file").size() as i64;
            if posix_fallocate(&file, end, step).is_err() {
                step /= 2;
            }
        }
        this
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("it is still there");
    }
}

/// A frozen file system, which this thaws whatever happens: nothing that waits for it could be killed.
struct Frozen<'m>(&'m Machine);

impl<'m> Frozen<'m> {
    fn new(machine: &'m Machine) -> Self {
        machine.run(&["fsfreeze", "--freeze", DISK]);
        Self(machine)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let output = self.0.exec(&["fsfreeze", "--unfreeze", DISK]);
        assert!(output.status.success() || thread::panicking(), "it could not be thawed");
    }
}

/// Bytes of the disk that are in use.
pub(crate) fn used_bytes(machine: &Machine) -> u64 {
    let disk = statvfs(&machine.path(DISK)).expect("the disk");
    (disk.blocks() - disk.blocks_free()) * disk.fragment_size()
}
