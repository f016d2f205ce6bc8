//! Says why a buffer cannot be built, inherited or written to, and what to do then.
//!
//! Input: what went wrong. Output: its text. Thread: any. Failures: none. Written by hand, so that the crate needs no
//! macros.

use std::error::Error;
use std::{fmt, io};

use crate::chunk::GROUP_BYTES_MAX;
use crate::gate::CHUNKS_MAX;
use crate::limits::{CHUNK_ALIGN, WRITERS_MAX};

/// Why a double buffer cannot be built.
#[derive(Debug)]
pub enum BuildError {
    /// The chunk's size is out of bounds.
    Chunk(usize),
    /// The size of a half is out of bounds, or not a multiple of the chunk's size.
    Capacity {
        /// Bytes of a half, as given.
        capacity_bytes: usize,
        /// Bytes of a chunk, as given.
        chunk_bytes: usize,
    },
    /// The number of writers is out of bounds.
    Writers(usize),
    /// The kernel has no memory for the halves.
    Memory(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunk(bytes) => write!(
                f,
                "a chunk cannot have {bytes} bytes: choose a multiple of {CHUNK_ALIGN} up to {GROUP_BYTES_MAX}"
            ),
            Self::Capacity { capacity_bytes, chunk_bytes } => write!(
                f,
                "a half cannot have {capacity_bytes} bytes: choose 2 to {CHUNKS_MAX} times the chunk's {chunk_bytes}"
            ),
            Self::Writers(count) => write!(f, "a buffer cannot have {count} writers: choose 1 to {WRITERS_MAX}"),
            Self::Memory(error) => write!(f, "no memory for the halves: {error}; choose a smaller capacity"),
        }
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Memory(error) => Some(error),
            Self::Chunk(_) | Self::Capacity { .. } | Self::Writers(_) => None,
        }
    }
}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        Self::Memory(error)
    }
}

/// Every writer index is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyWriters(
    /// Number of writers at a time, at most.
    pub usize,
);

impl fmt::Display for TooManyWriters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all {} writers of this buffer are in use", self.0)
    }
}

impl Error for TooManyWriters {}

/// Why a claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The front half has no room, and the caller does not want to wait.
    Full,
    /// The reader is gone, so nothing that is written would ever be read.
    Closed,
    /// More bytes than [`DoubleBuffer::largest_claim`](crate::DoubleBuffer::largest_claim), so it would never fit.
    TooLarge,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the front half is full: the reader has not swapped yet",
            Self::Closed => "the reader of this buffer is gone",
            Self::TooLarge => "more bytes than the largest claim of this buffer",
        })
    }
}

impl Error for Refused {}

/// The reader swapped while the claim was open. Nothing of the claim counts, and all of it must be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed;

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader swapped while the claim was open; encode it again in a new claim")
    }
}

impl Error for Sealed {}

/// Why the buffer of the previous process cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable(pub(crate) &'static str);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the buffer of the previous process cannot be read: {}", self.0)
    }
}

impl Error for Unreadable {}

#[cfg(all(test, not(dbuf_loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_is_wrong_and_what_to_choose() {
        let capacity = BuildError::Capacity { capacity_bytes: 10, chunk_bytes: 8 };
        assert_eq!(capacity.to_string(), "a half cannot have 10 bytes: choose 2 to 918527 times the chunk's 8");
        let chunk = BuildError::Chunk(7).to_string();
        assert_eq!(chunk, "a chunk cannot have 7 bytes: choose a multiple of 8 up to 2097151");
        let memory = BuildError::from(io::Error::from(io::ErrorKind::OutOfMemory));
        assert!(memory.to_string().starts_with("no memory for the halves: ") && memory.source().is_some());
        let unreadable = Unreadable("it is not a buffer").to_string();
        assert_eq!(unreadable, "the buffer of the previous process cannot be read: it is not a buffer");
    }
}
