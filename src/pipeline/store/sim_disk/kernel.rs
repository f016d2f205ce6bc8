//! Simulates the kernel of the simulated disk: files and names as programs see them, and what the platter has of them.
//!
//! Input: each change. Output: what a loss of power leaves, by the rules at the head of [`super`].

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use super::choices::Choices;
use crate::pipeline::store::name::Name;
use crate::sync::Arc;

/// A file's content at one time since its last sync.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) bytes: Arc<Vec<u8>>,
    /// Where it was truncated to get this content.
    pub(super) cut: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// The content on the platter, then after each change (rule 1).
    pub(super) since_sync: Vec<Content>,
    /// A sync has failed (rule 5).
    pub(super) sync_failed: bool,
}

impl Inode {
    pub(super) fn now(&self) -> &Arc<Vec<u8>> {
        &self.since_sync.last().expect("a file has a content").bytes
    }

    pub(super) fn change(&mut self, cut: Option<usize>, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::clone(self.now());
        change(&mut bytes);
        self.since_sync.push(Content { bytes: Arc::new(bytes), cut });
    }

    /// Rules 1 and 2.
    fn left(&self, block_bytes: usize, choices: &mut Choices) -> Vec<u8> {
        let states = &self.since_sync;
        let mut lengths: Vec<(usize, usize)> = Vec::new();
        for (at, state) in states.iter().enumerate() {
            match lengths.iter_mut().find(|(_, length)| *length == state.bytes.len()) {
                Some(known) => known.0 = at,
                None => lengths.push((at, state.bytes.len())),
            }
        }
        let (length_at, length) = lengths[choices.choose(lengths.len())];
        let mut left = vec![0; length];
        for (number, block) in left.chunks_mut(block_bytes).enumerate() {
            let start = number * block_bytes;
            let cuts = states[..=length_at].iter().rposition(|state| state.cut.is_some_and(|cut| cut <= start));
            let mut held: Vec<&[u8]> = Vec::new();
            for state in &states[cuts.unwrap_or(0)..] {
                let end = state.bytes.len().min(start + block.len());
                let bytes = state.bytes.get(start..end).unwrap_or_default();
                if !held.iter().any(|known| same(known, bytes)) {
                    held.push(bytes);
                }
            }
            let bytes = held[choices.choose(held.len())];
            block[..bytes.len()].copy_from_slice(bytes);
        }
        left
    }
}

/// Whether two blocks are the same, with zeros after the shorter one.
fn same(a: &[u8], b: &[u8]) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    const ZEROS: [u8; 4096] = [0; 4096];
    long[..short.len()] == *short && long[short.len()..] == ZEROS[..long.len() - short.len()]
}

/// A change of names since the directory was synced.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Made(String, usize),
    Renamed(String, String, usize),
    Removed(String, usize),
}

impl Change {
    fn concerns(&self) -> (Vec<&String>, usize) {
        match self {
            Self::Made(name, inode) | Self::Removed(name, inode) => (vec![name], *inode),
            Self::Renamed(from, to, inode) => (vec![from, to], *inode),
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Made(name, inode) => drop(names.insert(name.clone(), *inode)),
            Self::Removed(name, _) => drop(names.remove(name)),
            Self::Renamed(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

/// What the kernel knows, and what the platter has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(super) inodes: Vec<Inode>,
    pub(super) names: BTreeMap<String, usize>,
    pub(super) synced_names: BTreeMap<String, usize>,
    pub(super) changes: Vec<Change>,
    /// The sequences in the segments that retention removed.
    pub(crate) removed: Vec<Range<u64>>,
}

impl Kernel {
    /// What is left when the power fails, as `choices` decide.
    pub(crate) fn lose_power(&self, block_bytes: usize, choices: &mut Choices) -> Self {
        let mut names = self.synced_names.clone();
        let mut lost: Vec<&Change> = Vec::new();
        for change in &self.changes {
            let (about, inode) = change.concerns();
            let depends = lost.iter().any(|lost| {
                let (lost_about, lost_inode) = lost.concerns();
                lost_inode == inode || about.iter().any(|name| lost_about.contains(name))
            });
            if !depends && choices.choose(2) == 1 {
                change.apply(&mut names);
            } else {
                lost.push(change);
            }
        }
        let mut left = Self { removed: self.removed.clone(), ..Self::default() };
        for (name, inode) in names {
            let bytes = Arc::new(self.inodes[inode].left(block_bytes, choices));
            left.names.insert(name, left.inodes.len());
            left.inodes.push(Inode { since_sync: vec![Content { bytes, cut: None }], sync_failed: false });
        }
        left.synced_names = left.names.clone();
        left
    }

    /// Notes that retention removes the segment with that sequence.
    pub(crate) fn retire(&mut self, first_sequence: u64) {
        let others = self.names.keys().filter_map(|other| Name::parse(other)).map(|other| other.first_sequence);
        let next = others.filter(|other| *other > first_sequence).min();
        self.removed.push(first_sequence..next.unwrap_or(u64::MAX));
    }

    /// Writes the files, as programs see them, to a real directory for programs that read them there.
    pub(crate) fn export(&self, directory: &Path) {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let name = entry.file_name().into_string().expect("a name of ours");
            if !self.names.contains_key(&name) && name != ".lock" {
                fs::remove_file(entry.path()).expect("a file of ours");
            }
        }
        for (name, bytes) in self.files() {
            fs::write(directory.join(name), bytes).expect("room for a test's files");
        }
    }

    /// The files as programs see them.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.names.iter().map(|(name, inode)| (&name[..], &self.inodes[*inode].now()[..]))
    }
}
