//! Numbers in a memfd: memory that outlives the process, as atomics.
//!
//! Enters: a memfd and how many numbers. Leaves: the numbers. Any thread. What can fail: there is no memory, or the memfd is
//! not of that size.

use std::io;
use std::os::fd::BorrowedFd;

use super::mapping::{Mapping, fix_size, fixed_size};
use crate::sync::atomic::AtomicU64;

/// A row of numbers.
#[derive(Debug)]
pub struct Words {
    mapping: Mapping,
    count: usize,
}

impl Words {
    /// `count` zeros in an empty memfd that allows seals.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(memory: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        fix_size(memory, count * size_of::<AtomicU64>())?;
        Self::map(memory, count)
    }

    /// The `count` numbers that a predecessor left in a memfd; None if it is not one of that size.
    #[must_use]
    pub fn of_predecessor(memory: BorrowedFd<'_>, count: usize) -> Option<Self> {
        let is_right = fixed_size(memory)? == count * size_of::<AtomicU64>();
        is_right.then(|| Self::map(memory, count).ok())?
    }

    fn map(memory: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let mapping = Mapping::of_memory(memory, count * size_of::<AtomicU64>())?;
        mapping.populate()?;
        Ok(Self { mapping, count })
    }

    /// The numbers.
    #[inline]
    #[must_use]
    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has that many words, is aligned for them (mmap(2)) and lives as long as `self`, which gives
        // them out as atomics only; any bytes are a value.
        unsafe { std::slice::from_raw_parts(self.mapping.base().cast(), self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::Ordering::Relaxed;
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::os::fd::AsFd;

    #[test]
    fn numbers_are_found_again_and_only_as_many() {
        let memory = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(Words::of_predecessor(memory.as_fd(), 9).is_none());
        let words = Words::new(memory.as_fd(), 9).unwrap();
        words.all()[8].store(7, Relaxed);
        drop(words);
        assert_eq!(Words::of_predecessor(memory.as_fd(), 9).unwrap().all()[8].load(Relaxed), 7);
        assert!(Words::of_predecessor(memory.as_fd(), 8).is_none());
    }
}
