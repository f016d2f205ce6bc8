//! Counts the events and losses of each producer in the files.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::claims::Claims;
use crate::ctl::findings::Findings;
use crate::pipeline::account::Identity;
use crate::pipeline::record::{Cause, Loss, Source};
use crate::pipeline::store::scan::{self, Directory, Item, StoredEvent, Wanted};

/// What the files hold.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// One row a producer, in the order in which they first appear.
    pub(super) rows: Vec<Held>,
    by_identity: HashMap<Identity, usize>,
    /// The row of the last event. The next event usually has the same.
    last: usize,
    /// Of the events that the account covers: the first sequence, and the one after the last.
    pub(super) sequences: Option<(u64, u64)>,
    /// Events that are older than the account.
    pub(super) older_events: u64,
    /// Events of another stream of segments than the daemon's.
    pub(super) foreign_events: u64,
    pub(super) missing_events: u64,
    pub(super) damaged_places: u64,
    /// What is wrong, in words.
    pub(super) findings: Findings,
}

/// What the files hold of one producer.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) identity: Identity,
    pub(super) events: u64,
    pub(super) losses: [Option<Loss>; Cause::COUNT],
}

impl Files {
    /// Reads every event. Events that came after `claims` was made are not counted.
    pub(super) fn count(directory: &Directory, claims: Option<&Claims>) -> Self {
        let mut files = Self::default();
        // The position of the reading, for losses: they have no sequence.
        let mut next = 0;
        let _ = scan::forward(directory, &Wanted::default(), |item| {
            files.item(&item, claims, &mut next);
            ControlFlow::Continue(())
        });
        files
    }

    fn item(&mut self, item: &Item<'_>, claims: Option<&Claims>, next: &mut u64) {
        match item {
            Item::Event(event) => {
                if let Some(sequence) = event.sequence {
                    *next = sequence + 1;
                    self.event(event, sequence, claims);
                }
            }
            Item::Loss { loss, source, time_ns } => {
                if claims.is_none_or(|claims| *time_ns >= claims.since_ns && *next >= claims.first_sequence) {
                    let row = self.row(source);
                    match &mut self.rows[row].losses[loss.cause as usize] {
                        Some(known) => known.merge(loss),
                        none => *none = Some(*loss),
                    }
                }
            }
            Item::Damage { path, damage } => {
                self.damaged_places += 1;
                self.findings.damage(path, damage);
            }
            Item::Gap { from, to } => {
                self.missing_events += to - from + 1;
                self.findings.gap(*from, *to);
            }
        }
    }

    fn event(&mut self, event: &StoredEvent<'_>, sequence: u64, claims: Option<&Claims>) {
        if let Some(claims) = claims {
            if event.stream_id != claims.stream_id {
                self.foreign_events += 1;
                return;
            }
            if sequence < claims.first_sequence {
                self.older_events += 1;
                return;
            }
            if sequence >= claims.next_sequence {
                return;
            }
        }
        let (first, next) = self.sequences.unwrap_or((sequence, sequence));
        self.sequences = Some((first, next.max(sequence + 1)));
        let row = self.row(&event.source);
        self.rows[row].events += 1;
    }

    fn row(&mut self, source: &Source<'_>) -> usize {
        if self.rows.get(self.last).is_some_and(|row| row.identity.as_source() == *source) {
            return self.last;
        }
        let identity = Identity::of(source);
        self.last = *self.by_identity.entry(identity.clone()).or_insert_with(|| {
            self.rows.push(Held { identity, ..Held::default() });
            self.rows.len() - 1
        });
        self.last
    }
}
