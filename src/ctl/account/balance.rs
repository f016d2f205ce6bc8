//! Compares what the daemon claims with what the files hold.

use std::collections::HashMap;

use super::claims::{Claim, Claims};
use super::files::{Files, Held};
use crate::escape::visible;
use crate::pipeline::account::{Identity, sum};
use crate::pipeline::record::{Cause, Loss};

/// The account of one producer.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// None for all producers that have no row of their own.
    pub(super) identity: Option<Identity>,
    pub(super) sent: u64,
    pub(super) stored: u64,
    /// Stored events that are in the files.
    pub(super) in_files: u64,
    /// Stored events that retention has deleted, and their payload bytes.
    pub(super) deleted: u64,
    pub(super) deleted_bytes: u64,
    pub(super) lost: [u64; Cause::COUNT],
    /// What loss records in the files say.
    pub(super) reported: [Option<Loss>; Cause::COUNT],
}

impl Row {
    /// The producer's name, for people.
    pub(super) fn name(&self) -> String {
        let Some(identity) = &self.identity else { return "(all others)".to_owned() };
        let named = [&identity.tag, &identity.comm, &identity.unit].into_iter().find(|name| !name.is_empty());
        let name = named.map_or_else(|| "unknown".into(), |name| String::from_utf8_lossy(name));
        if identity.pid == 0 { visible(&name) } else { format!("{}[{}]", visible(&name), identity.pid) }
    }

    pub(super) fn lost_total(&self) -> u64 {
        sum(self.lost)
    }

    /// Stored or lost.
    fn accounted(&self) -> u64 {
        sum([self.stored, self.lost_total()])
    }

    /// Sent, but neither stored nor lost yet.
    pub(super) fn in_memory(&self) -> u64 {
        self.sent.saturating_sub(self.accounted())
    }

    /// Stored, but no longer in the files.
    pub(super) fn gone(&self) -> u64 {
        self.stored.saturating_sub(self.in_files)
    }

    fn reported(&self, cause: Cause) -> u64 {
        self.reported[cause as usize].map_or(0, |loss| loss.events)
    }

    fn add_reported(&mut self, held: &Held) {
        for (sum, loss) in self.reported.iter_mut().zip(held.losses) {
            match (sum.as_mut(), loss) {
                (Some(sum), Some(loss)) => sum.merge(&loss),
                (None, loss) => *sum = loss,
                (Some(_), None) => {}
            }
        }
    }
}

/// The account of all producers, and what does not add up in it.
#[derive(Debug)]
pub(super) struct Balance {
    /// Whether a daemon has claimed anything.
    pub(super) has_claims: bool,
    pub(super) since_ns: Option<u64>,
    /// The sequences that it covers: the first, and the one after the last.
    pub(super) sequences: (u64, u64),
    pub(super) rows: Vec<Row>,
    pub(super) files: Files,
    /// Events that were stored and are older than the oldest file: retention, or another program, has deleted them.
    pub(super) deleted: u64,
    /// Events that retention has deleted: those of unknown producers, and those that are older than the account.
    pub(super) deleted_unknown: u64,
    pub(super) deleted_older: u64,
    pub(super) withdrawn: u64,
    losses_are_late: bool,
}

impl Balance {
    pub(super) fn new(claims: Option<&Claims>, files: Files) -> Self {
        let Some(claims) = claims else { return Self::of_files(files) };
        let claimed = |claim: &Claim| Row {
            identity: claim.identity.clone(),
            sent: claim.sent,
            stored: claim.stored,
            deleted: claim.deleted,
            deleted_bytes: claim.deleted_bytes,
            lost: claim.lost,
            ..Row::default()
        };
        let mut rows: Vec<Row> = claims.rows.iter().filter(|claim| claim.identity.is_some()).map(claimed).collect();
        let mut others = claims.rows.iter().find(|claim| claim.identity.is_none()).map(claimed).unwrap_or_default();
        let by_identity: HashMap<Identity, usize> =
            rows.iter().enumerate().filter_map(|(at, row)| Some((row.identity.clone()?, at))).collect();
        for held in &files.rows {
            let Some(row) = by_identity.get(&held.identity).map(|at| &mut rows[*at]) else {
                others.in_files += held.events;
                others.add_reported(held);
                continue;
            };
            // A producer that lost its row to others and came back has older events in the files.
            row.in_files = held.events.min(row.stored);
            others.in_files += held.events - row.in_files;
            row.add_reported(held);
        }
        if others.sent > 0 || others.in_files > 0 || others.reported.iter().any(Option::is_some) {
            rows.push(others);
        }
        let first_in_files = files.sequences.map_or(claims.next_sequence, |(first, _)| first);
        let mut balance = Self {
            has_claims: true,
            since_ns: Some(claims.since_ns),
            sequences: (claims.first_sequence, claims.next_sequence),
            deleted: first_in_files.saturating_sub(claims.first_sequence),
            deleted_unknown: claims.deleted_unknown,
            deleted_older: claims.deleted_older,
            withdrawn: claims.withdrawn,
            rows,
            files,
            losses_are_late: false,
        };
        balance.losses_are_late = balance.uncounted_losses(&balance.lost()) > 0;
        balance
    }

    /// Without claims, the files are the only source.
    fn of_files(files: Files) -> Self {
        let row = |held: &Held| {
            let lost: [u64; Cause::COUNT] = held.losses.map(|loss| loss.map_or(0, |loss| loss.events));
            let (stored, identity) = (held.events, Some(held.identity.clone()));
            let sent = sum([stored, sum(lost)]);
            Row { identity, sent, stored, in_files: stored, lost, reported: held.losses, ..Row::default() }
        };
        Self {
            has_claims: false,
            since_ns: None,
            sequences: files.sequences.unwrap_or((0, 0)),
            rows: files.rows.iter().map(row).collect(),
            deleted: 0,
            deleted_unknown: 0,
            deleted_older: 0,
            withdrawn: 0,
            losses_are_late: false,
            files,
        }
    }

    fn sum(&self, of: impl Fn(&Row) -> u64) -> u64 {
        sum(self.rows.iter().map(of))
    }

    pub(super) fn sent(&self) -> u64 {
        self.sum(|row| row.sent)
    }

    pub(super) fn stored(&self) -> u64 {
        self.sum(|row| row.stored)
    }

    pub(super) fn in_files(&self) -> u64 {
        self.sum(|row| row.in_files)
    }

    /// What retention has deleted of the events that the account covers.
    pub(super) fn deleted_by_retention(&self) -> u64 {
        self.sum(|row| row.deleted) + self.deleted_unknown
    }

    pub(super) fn in_memory(&self) -> u64 {
        self.sum(Row::in_memory)
    }

    pub(super) fn lost(&self) -> [u64; Cause::COUNT] {
        let mut lost = Cause::ALL.map(|cause| self.sum(|row| row.lost[cause as usize]));
        lost[Cause::Disk as usize] = sum([lost[Cause::Disk as usize], self.withdrawn]);
        lost
    }

    pub(super) fn lost_total(&self) -> u64 {
        sum(self.lost())
    }

    /// Losses in the files beyond those that were counted.
    fn uncounted_losses(&self, lost: &[u64; Cause::COUNT]) -> u64 {
        let reported = Cause::ALL.map(|cause| self.sum(|row| row.reported(cause)));
        sum(reported.iter().zip(lost).map(|(reported, lost)| reported.saturating_sub(*lost)))
    }

    pub(super) fn has_late_losses(&self) -> bool {
        self.losses_are_late
    }

    /// Takes a later answer into account: it has the losses that came while the files were read.
    pub(super) fn excuse_late_losses(&mut self, later: &Claims) {
        let mut lost = Cause::ALL.map(|cause| sum(later.rows.iter().map(|row| row.lost[cause as usize])));
        lost[Cause::Disk as usize] = sum([lost[Cause::Disk as usize], later.withdrawn]);
        self.losses_are_late = self.uncounted_losses(&lost) > 0;
    }

    /// What does not add up or is damaged, one sentence each.
    pub(super) fn findings(&self) -> Vec<String> {
        let mut found = Vec::new();
        // Sequences that a failed sync has withdrawn are not used again.
        let is_missing = self.files.missing_events > self.withdrawn;
        if self.files.damaged_places > 0 || is_missing {
            found.extend(self.files.findings.sentence());
        }
        if self.files.foreign_events > 0 {
            found.push(format!("{} events belong to other segments than the daemon's", self.files.foreign_events));
        }
        if !self.has_claims {
            return found;
        }
        for row in self.rows.iter().filter(|row| row.sent < row.accounted()) {
            let (name, more) = (row.name(), row.accounted() - row.sent);
            found.push(format!("{name}: {more} more events are stored or lost than were accepted"));
        }
        let given_out = self.sequences.1.saturating_sub(self.sequences.0);
        if self.stored() != given_out {
            found.push(format!(
                "{} events are counted as stored, and {given_out} sequences were assigned",
                self.stored()
            ));
        }
        let expected = self.stored().saturating_sub(self.deleted + self.withdrawn);
        if self.in_files() > expected {
            found.push(format!("{} events are in the files, and only {expected} should be", self.in_files()));
        } else if self.in_files() < expected && self.files.damaged_places == 0 && !is_missing {
            found.push(format!("{} events that were stored are in no file", expected - self.in_files()));
        }
        if self.losses_are_late {
            found.push("the files report more losses than were counted".to_owned());
        }
        found
    }
}
