//! Parses and formats the names of the files in a directory of segments.
//!
//! Input: a name, or its parts. Output: its parts, or a name. Thread: any. Failure: None for a name that is not a
//! segment's.
//!
//! A name is `{first sequence, 20 digits}.active`; `.segment` when sealed; `.torn` when its sync failed, its footer
//! found no room, or its header could not be read. After the digits comes `-1`, `-2` ... if the name was taken. So a
//! listing by name is a listing by sequence, and the state is known without opening the file. `.lock` belongs to the
//! daemon. `.repair` is a segment that is still being made, which no reader opens.

use std::fmt;
use std::path::{Path, PathBuf};

/// The state of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Its disk failed. What is durable of it counts.
    Torn,
    /// Complete, with a footer.
    Sealed,
    /// Batches are appended to it.
    Active,
}

impl State {
    /// The name in the output of `dbufctl segments`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::Sealed => "sealed",
            Self::Active => "active",
        }
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Torn => "torn",
            Self::Sealed => "segment",
            Self::Active => "active",
        }
    }
}

/// The extension of a segment that is still being made.
pub const REPAIR: &str = "repair";

/// The name of a segment's file. Sorts by sequence, then torn before sealed before active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The sequence of its first event.
    pub first_sequence: u64,
    /// Its state.
    pub state: State,
    /// 0, or a number that distinguishes it from others with the same sequence and state.
    pub copy: u32,
}

impl Name {
    /// The name without a copy number.
    #[must_use]
    pub const fn new(first_sequence: u64, state: State) -> Self {
        Self { first_sequence, state, copy: 0 }
    }

    /// Parses a file's name; None if it is not a segment's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, extension) = name.split_once('.')?;
        let state = [State::Torn, State::Sealed, State::Active].into_iter().find(|s| s.extension() == extension)?;
        let (digits, copy) = match stem.split_once('-') {
            Some((digits, copy)) => (digits, copy.parse().ok()?),
            None => (stem, 0),
        };
        if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self { first_sequence: digits.parse().ok()?, state, copy })
    }

    /// Parses the name of the file at `path`.
    #[must_use]
    pub fn of_path(path: &Path) -> Option<Self> {
        Self::parse(path.file_name()?.to_str()?)
    }

    /// The path of the file with this name in `directory`.
    #[must_use]
    pub fn in_directory(&self, directory: &Path) -> PathBuf {
        directory.join(self.to_string())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.first_sequence)?;
        if self.copy > 0 {
            write!(f, "-{}", self.copy)?;
        }
        write!(f, ".{}", self.state.extension())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written_and_sorts_by_sequence() {
        let mut names = Vec::new();
        for first_sequence in [1, 9, 10, u64::MAX] {
            for state in [State::Torn, State::Sealed, State::Active] {
                names.push(Name::new(first_sequence, state));
            }
        }
        let copied = Name { copy: 3, ..Name::new(7, State::Torn) };
        assert_eq!(copied.to_string(), "00000000000000000007-3.torn");
        names.push(copied);
        for name in &names {
            assert_eq!(Name::parse(&name.to_string()), Some(*name));
        }
        names.sort();
        assert!(names.is_sorted_by_key(|name| name.first_sequence));
    }

    #[test]
    fn a_foreign_name_is_no_segment() {
        for name in [".lock", "x.segment", "1.segment", "00000000000000000001.repair", "+0000000000000000001.torn", ""]
        {
            assert_eq!(Name::parse(name), None, "{name}");
        }
    }
}
