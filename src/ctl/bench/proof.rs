//! Proves that each block arrived once, in order and unchanged.
//!
//! Input: what the files hold, in the order of their sequences. Output: a [`Verdict`]. One thread; memory does not grow
//! with the number of blocks. Failures: reading the directory.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context as _;

use super::blocks::Blocks;
use crate::pipeline::store::scan::{self, Directory, Item, Wanted};

/// What the files say of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Blocks that are there, in order and unchanged.
    pub(super) found: u64,
    /// Blocks that are missing, or came too late to be in order.
    pub(super) missing: u64,
    /// Blocks that came again, or too late to be in order.
    pub(super) again: u64,
    /// Payloads of this sender that are not an unchanged block of this run.
    pub(super) wrong: u64,
    /// Events of this sender that the files report as lost.
    pub(super) lost: u64,
    /// Damaged places in the files.
    pub(super) damage: u64,
}

impl Verdict {
    /// Whether each block arrived once, in order and unchanged.
    pub(super) fn is_proven(&self) -> bool {
        let Self { found: _, missing, again, wrong, lost, damage } = *self;
        missing == 0 && again == 0 && wrong == 0 && lost == 0 && damage == 0
    }
}

/// Compares what is read with what was sent.
#[derive(Debug)]
pub(super) struct Proof<'a> {
    blocks: &'a Blocks,
    /// The process whose events count.
    pid: u32,
    /// Events that were accepted before belong to another run.
    started_ns: u64,
    /// For each writer, the index that comes next.
    next: Vec<u64>,
    /// The sequence that is read next.
    next_sequence: u64,
    verdict: Verdict,
}

impl<'a> Proof<'a> {
    /// For blocks that `writers` writers of process `pid` send from `started_ns` on.
    pub(super) fn new(blocks: &'a Blocks, pid: u32, started_ns: u64, writers: usize) -> Self {
        Self { blocks, pid, started_ns, next: vec![0; writers], next_sequence: 0, verdict: Verdict::default() }
    }

    /// Blocks that are found so far.
    pub(super) fn seen(&self) -> u64 {
        self.next.iter().sum()
    }

    /// Reads what `directory` holds beyond the last reading.
    pub(super) fn read(&mut self, directory: &Path) -> anyhow::Result<()> {
        let listed = Directory::open(directory)
            .with_context(|| format!("{}: cannot be read, so nothing is proven", directory.display()))?;
        let wanted = Wanted { from_sequence: self.next_sequence, from_ns: self.started_ns, ..Wanted::default() };
        self.verdict.damage = 0;
        // Only the closure could end it early, and it never does.
        let _ = scan::forward(&listed, &wanted, |item| {
            self.see(&item);
            ControlFlow::Continue(())
        });
        Ok(())
    }

    fn see(&mut self, item: &Item<'_>) {
        match item {
            Item::Event(event) => {
                let Some(sequence) = event.sequence else { return };
                if sequence < self.next_sequence {
                    return;
                }
                self.next_sequence = sequence + 1;
                if event.source.pid == self.pid && event.record.time_ns >= self.started_ns {
                    self.see_block(event.record.payload());
                }
            }
            Item::Loss { loss, time_ns, source } => {
                if source.pid == self.pid && *time_ns >= self.started_ns {
                    self.verdict.lost += loss.events;
                }
            }
            Item::Damage { .. } => self.verdict.damage += 1,
            // A block that is missing in a gap is missing in the count of its writer.
            Item::Gap { .. } => (),
        }
    }

    fn see_block(&mut self, payload: &[u8]) {
        let known = Blocks::identity(payload).filter(|(writer, _)| *writer < self.next.len());
        let (Some((writer, index)), true) = (known, self.blocks.is_right(payload)) else {
            self.verdict.wrong += 1;
            return;
        };
        let next = &mut self.next[writer];
        if index < *next {
            self.verdict.again += 1;
            return;
        }
        self.verdict.missing += index - *next;
        self.verdict.found += 1;
        *next = index + 1;
    }

    /// The verdict, given how many blocks each writer has sent.
    pub(super) fn verdict(&self, sent: &[u64]) -> Verdict {
        let mut verdict = self.verdict;
        for (sent, next) in sent.iter().zip(&self.next) {
            verdict.missing += sent.saturating_sub(*next);
            verdict.wrong += next.saturating_sub(*sent);
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_of(order: &[(usize, u64)], sent: &[u64]) -> Verdict {
        let blocks = Blocks::new(3, 10..=50);
        let mut proof = Proof::new(&blocks, 0, 0, sent.len());
        let mut block = Vec::new();
        for &(writer, index) in order {
            blocks.fill(writer, index, &mut block);
            proof.see_block(&block);
        }
        proof.verdict(sent)
    }

    #[test]
    fn all_blocks_once_in_order_are_proven_however_the_writers_mix() {
        let verdict = verdict_of(&[(0, 0), (1, 0), (1, 1), (0, 1), (1, 2)], &[2, 3]);
        assert_eq!(verdict, Verdict { found: 5, ..Verdict::default() });
        assert!(verdict.is_proven());
    }

    #[test]
    fn each_way_to_go_wrong_is_seen() {
        for (order, why) in [
            (&[(0, 0), (0, 1)][..], "the last is missing"),
            (&[(0, 0), (0, 2)], "one in the middle is missing"),
            (&[(0, 0), (0, 1), (0, 1), (0, 2)], "one came twice"),
            (&[(0, 0), (0, 2), (0, 1)], "two changed places"),
            (&[(0, 0), (0, 1), (0, 2), (0, 3)], "one was never sent"),
            (&[(0, 0), (0, 1), (1, 0), (0, 2)], "one is of a writer that there is not"),
        ] {
            assert!(!verdict_of(order, &[3]).is_proven(), "{why}");
        }
    }

    #[test]
    fn a_changed_block_is_wrong_and_missing() {
        let blocks = Blocks::new(3, 10..=50);
        let mut proof = Proof::new(&blocks, 0, 0, 1);
        let mut block = Vec::new();
        blocks.fill(0, 0, &mut block);
        block[9] ^= 1;
        proof.see_block(&block);
        let expected = Verdict { missing: 1, wrong: 1, ..Verdict::default() };
        assert_eq!(proof.verdict(&[1]), expected);
    }
}
