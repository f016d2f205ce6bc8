//! Adds up producers that differ only in their process. Monitoring uses these sums, because a series for each process
//! would grow without bound.
//!
//! Input: rows of the account, and rows that are about to make room for others. Output: one row for each group. Thread:
//! any, under the lock of the table of rows. Nothing can fail.
//!
//! The sum of a group must not fall while the daemon runs: Prometheus takes a counter that falls for one that was
//! reset. So the figures of a producer that leaves the table stay with its group. They do not outlive the process: the
//! next process counts them among the producers that are not told apart.

use std::collections::HashMap;

use super::figures::Row;
use super::identity::Identity;
use super::memory::PRODUCERS_MAX;

/// Groups at most whose figures are kept. The figures of further groups count among the producers that are not told
/// apart.
const GROUPS_MAX: usize = PRODUCERS_MAX;

/// The figures of producers that have made room, by group.
#[derive(Debug, Default)]
pub(super) struct Groups {
    folded: HashMap<Identity, Row>,
    /// Deleted events that are older than the account: no row has them.
    older: HashMap<Identity, Row>,
}

impl Groups {
    /// Adds the figures of a producer that makes room.
    pub(super) fn fold(&mut self, producer: &Identity, row: &Row) {
        keep(&mut self.folded, producer, row);
    }

    /// Adds deleted events of a producer that are older than the account.
    pub(super) fn add_older(&mut self, producer: &Identity, row: &Row) {
        keep(&mut self.older, producer, row);
    }

    /// The sum of each group, from the `rows` of the table and the figures kept here. The row without an identity comes
    /// last. It holds the figures of all producers that have made room, so the figures kept here are subtracted from
    /// it. `older` is the number of deleted events that are older than the account; those of groups that are not kept
    /// count there as well.
    pub(super) fn sums(&self, rows: Vec<Row>, older: u64) -> Vec<Row> {
        let mut groups = self.folded.clone();
        let named: u64 = self.older.values().map(|row| row.deleted).sum();
        let mut others = Row { deleted: older.saturating_sub(named), ..Row::default() };
        self.older.iter().for_each(|(group, row)| groups.entry(group.clone()).or_default().add(row));
        for row in rows {
            match &row.identity {
                Some(identity) => groups.entry(identity.group()).or_default().add(&row),
                None => others.add(&row),
            }
        }
        self.folded.values().for_each(|row| others.subtract(row));
        let named = groups.into_iter().map(|(group, row)| Row { identity: Some(group), ..row });
        named.chain(Some(others)).filter(|row| !row.is_empty()).collect()
    }
}

fn keep(kept: &mut HashMap<Identity, Row>, producer: &Identity, row: &Row) {
    let group = producer.group();
    if kept.len() < GROUPS_MAX || kept.contains_key(&group) {
        kept.entry(group).or_default().add(row);
    }
}

impl Identity {
    /// What producers that differ only in their process have in common. A tag replaces the command's name.
    fn group(&self) -> Self {
        let comm = if self.tag.is_empty() { self.comm.clone() } else { Box::default() };
        Self { pid: 0, gid: 0, claimed_pid: 0, session: 0, comm, ..self.clone() }
    }
}
