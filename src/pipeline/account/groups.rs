//! Adds up producers that differ only in their process: the figures for monitoring, where a series for each process
//! would grow without bound.
//!
//! Input: rows of the account, and rows that are about to make room for others. Output: one row for each group. Any
//! thread; the lock of the table of rows guards what is kept here. Nothing can fail.
//!
//! A sum of a group must not fall while the daemon runs: Prometheus takes a counter that falls for one that was reset.
//! So figures that leave the table with their producer stay with the group. They do not outlive the process: then they
//! are among the producers that are not told apart.

use std::collections::HashMap;

use super::figures::Row;
use super::identity::Identity;
use super::memory::PRODUCERS_MAX;

/// The most groups of which figures are kept. Those of more groups count as figures of producers that are not told
/// apart.
const GROUPS_MAX: usize = PRODUCERS_MAX;

/// What is left of producers that have made room, by group.
#[derive(Debug, Default)]
pub(super) struct Groups {
    folded: HashMap<Identity, Row>,
}

impl Groups {
    /// Takes the figures of a producer that makes room.
    pub(super) fn fold(&mut self, producer: &Identity, row: &Row) {
        let group = producer.group();
        if self.folded.len() < GROUPS_MAX || self.folded.contains_key(&group) {
            self.folded.entry(group).or_default().add(row);
        }
    }

    /// The sum of each group, of the `rows` of the table and of what is kept here. The row without an identity comes
    /// last and loses what is kept here, because it holds the figures of all who have made room.
    pub(super) fn sums(&self, rows: Vec<Row>) -> Vec<Row> {
        let mut groups = self.folded.clone();
        let mut others = Row::default();
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

impl Identity {
    /// What producers that differ only in their process have in common. A tag stands for the command's name.
    fn group(&self) -> Self {
        let comm = if self.tag.is_empty() { self.comm.clone() } else { Box::default() };
        Self { pid: 0, gid: 0, claimed_pid: 0, session: 0, comm, ..self.clone() }
    }
}
