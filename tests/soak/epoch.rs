//! An epoch: all producers send, disturbances happen, the files are compared with what was sent, and then deleted.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::account::Account;
use crate::check::{Figures, Found};
use crate::daemon::Usage;
use crate::disturb::{Card, Disturber, used_bytes};
use crate::loads::Loads;
use crate::machine::Machine;
use crate::senders::Sent;
use crate::support::{wait_for, wait_within};
use crate::table;

/// The longest epoch of a long run.
const EPOCH: Duration = Duration::from_secs(90);
/// Longer than it takes until all that was sent is in the files; what is not there then is missing.
const SETTLED: Duration = Duration::from_secs(20);
/// Each of this many writers may have a connection in its hands that was accepted and is not kept yet.
const WRITERS_MAX: u64 = 4;
/// An epoch ends when so much of the disk is in use.
const USED_BYTES_MAX: u64 = 500 << 20;
/// What a process of the daemon may have in memory at any time, with the largest halves that the settings have.
const RSS_BYTES_MAX: u64 = 96 << 20;
/// How many descriptors more than after the first epoch the daemon may have, or systemd may keep for it. Some belong to
/// one connection for a moment longer than it lives.
const DESCRIPTORS_MORE: u64 = 8;

/// How long an epoch lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    /// One round of disturbances.
    OneRound,
    /// As many as there is time and room for, up to this moment.
    Until(Instant),
}

/// The whole of it.
pub(crate) struct Soak<'m> {
    machine: &'m Machine,
    disturber: Disturber<'m>,
    loads: Option<Loads>,
    /// The last sequence of the epoch before.
    last_sequence: u64,
    account: Account,
    epochs: u64,
    first_usage: Option<Usage>,
    kinds: BTreeMap<String, Figures>,
    lost: BTreeMap<String, u64>,
    altered: u64,
    /// Short connections that a kill met between their acceptance and their first read.
    unaccepted: u64,
    pub(crate) wrong: Vec<String>,
}

impl<'m> Soak<'m> {
    pub(crate) fn new(machine: &'m Machine, disturber: Disturber<'m>) -> Self {
        // One event, after which the sequences are known.
        machine.ctl_ok(&["send", "--sync", "soak"]);
        let this = Self {
            machine,
            disturber,
            loads: Some(Loads::new(machine)),
            last_sequence: machine.last_sequence(),
            account: Account::new(machine),
            epochs: 0,
            first_usage: None,
            kinds: BTreeMap::new(),
            lost: BTreeMap::new(),
            altered: 0,
            unaccepted: 0,
            wrong: Vec::new(),
        };
        this.delete_by_hand();
        this
    }

    /// One epoch. What is wrong is kept for the end: the next one begins afresh.
    pub(crate) fn epoch(&mut self, length: Length) {
        let begun = Instant::now();
        let kills = self.disturber.counts.kills;
        self.disturber.begin_epoch();
        let loads = self.loads.take().expect("the producers rest between epochs");
        let running = loads.start(self.machine, self.epochs);
        self.disturb(length, begun);
        let (loads, sent, mut wrong) = running.stop();
        self.loads = Some(loads);
        let kills = self.disturber.counts.kills - kills;
        let absent = self.settle(&sent);
        let sent_for = begun.elapsed();
        let mut found = self.read(&sent);
        wrong.append(&mut found.wrong);
        let known: u64 = found.kinds.values().map(|kind| kind.missing + kind.unaccepted).sum();
        if absent != known.cast_signed() {
            wrong.push(format!("{known} events are missing, and by the sequences {absent}"));
        }
        if found.unaccepted > kills * WRITERS_MAX {
            wrong.push(format!("{} connections are gone after {kills} kills", found.unaccepted));
        }
        self.unaccepted += found.unaccepted;
        wrong.extend(self.quiet());
        let sum = |of: fn(&Figures) -> u64| found.kinds.values().map(of).sum::<u64>();
        wrong.extend(self.account.is_wrong(self.machine, sum(|kind| kind.stored), sum(|kind| kind.refused)));
        self.add(&found);
        println!(
            "epoch {}: {} events in {:.0} s, compared in {:.0} s: {}",
            self.epochs,
            Found::due(&sent),
            sent_for.as_secs_f64(),
            (begun.elapsed() - sent_for).as_secs_f64(),
            if wrong.is_empty() { "all well" } else { "NOT WELL" }
        );
        if !wrong.is_empty() {
            let what_happened = self.disturber.log.join("; ");
            let wrong = format!("epoch {}: {}\n  {what_happened}", self.epochs, wrong.join("\n  "));
            println!("{wrong}");
            self.wrong.push(wrong);
        }
        self.last_sequence = self.machine.last_sequence();
        if self.machine.segments("active").len() > 1 {
            // What could not be renamed on the full disk is at the next start, and cannot be deleted before.
            self.disturber.play(Card::Restart);
        }
        if self.epochs.is_multiple_of(2) {
            self.delete_by_retention()
        } else {
            self.delete_by_hand()
        }
        self.epochs += 1;
    }

    fn disturb(&mut self, length: Length, begun: Instant) {
        loop {
            for card in self.disturber.shuffle() {
                self.disturber.play(card);
                if let Length::Until(end) = length
                    && (begun.elapsed() > EPOCH || Instant::now() > end || used_bytes(self.machine) > USED_BYTES_MAX)
                {
                    return;
                }
            }
            if matches!(length, Length::OneRound) {
                return;
            }
        }
    }

    /// Waits until all that was sent is durable. What a producer has sent may be the kernel's for a while yet, and a
    /// sync covers only what was accepted; but sequences are dense, so the last one tells. Gives how many events are
    /// not there.
    fn settle(&self, sent: &[Sent]) -> i64 {
        let due = self.last_sequence + Found::due(sent);
        let mut last = 0;
        wait_within(SETTLED, || {
            last = self.machine.last_sequence();
            (last >= due).then_some(())
        });
        self.machine.ctl_ok(&["sync"]);
        due.cast_signed() - last.cast_signed()
    }

    fn read(&self, sent: &[Sent]) -> Found {
        let mut found = Found::default();
        let mut command = self.machine.ctl_command(&["cat", "-o", "cat"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("dbufctl runs");
        found.events(sent, child.stdout.take().expect("its output"));
        let output = child.wait_with_output().expect("a child");
        // 3 says that there were losses, which are looked at next.
        if !matches!(output.status.code(), Some(0 | 3)) {
            found.wrong.push(format!("cat: {}", String::from_utf8_lossy(&output.stderr)));
        }
        // What is lost has no text, so no pattern keeps it out; no event has this one.
        let losses = self.machine.ctl(&["cat", "-o", "json", "-g", "^NO EVENT SAYS THIS$"]);
        found.losses(sent, &String::from_utf8_lossy(&losses.stdout));
        let verified = self.machine.ctl(&["verify"]);
        let said = String::from_utf8_lossy(&verified.stdout);
        if !matches!(verified.status.code(), Some(0 | 3)) || !said.contains("files are whole") {
            let what = said.lines().filter(|line| !line.contains(": ok, "));
            found.wrong.push(format!("verify: {}", what.collect::<Vec<_>>().join("; ")));
        }
        found
    }

    /// What must hold in a quiet moment.
    fn quiet(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        let stats = self.machine.stats();
        let events = &stats["events"];
        let count = |name: &str| events[name].as_u64().expect("a count");
        if count("received") != count("persisted") + count("lost_total") {
            wrong.push(format!("received is not persisted and lost: {events}"));
        }
        if events["lost"]["too_big"] != events["lost_total"] {
            wrong.push(format!("something is lost by another cause: {events}"));
        }
        let usage = self.disturber.quiet_usage();
        let first = *self.first_usage.get_or_insert(usage);
        for (what, now, then) in
            [("descriptors", usage.descriptors, first.descriptors), ("kept descriptors", usage.kept, first.kept)]
        {
            if now > then + DESCRIPTORS_MORE {
                wrong.push(format!("{what} have grown from {then} to {now}"));
            }
        }
        if self.disturber.counts.peak_rss_bytes > RSS_BYTES_MAX {
            wrong.push(format!("the daemon had {} bytes in memory", self.disturber.counts.peak_rss_bytes));
        }
        wrong
    }

    fn add(&mut self, found: &Found) {
        for (kind, figures) in &found.kinds {
            self.kinds.entry(kind.clone()).or_default().add(figures);
        }
        for ((cause, _), events) in &found.lost {
            *self.lost.entry(cause.clone()).or_default() += events;
        }
        self.altered += found.altered;
    }

    /// Removes all sealed segments, as a person does who needs the room.
    fn delete_by_hand(&self) {
        self.machine.ctl_ok(&["rotate"]);
        wait_for("all events to be gone", || {
            // Torn are those whose footer found no room on the full disk.
            for path in ["segment", "torn"].into_iter().flat_map(|state| self.machine.segments(state)) {
                fs::remove_file(path).expect("what is not active stays until it is removed");
            }
            self.is_empty().then_some(())
        });
    }

    /// Retention takes all that is sealed.
    fn delete_by_retention(&mut self) {
        self.disturber.retain("1s");
        wait_for("all events to be gone", || {
            self.machine.ctl_ok(&["rotate"]);
            self.is_empty().then_some(())
        });
        self.disturber.retain("none");
    }

    fn is_empty(&self) -> bool {
        self.machine.last_sequence() == 0
    }

    pub(crate) fn table(&self, lasted: Duration) -> String {
        table::table(
            lasted,
            self.epochs,
            &self.disturber.counts,
            &self.kinds,
            &self.lost,
            (self.altered, self.unaccepted),
        )
    }
}
