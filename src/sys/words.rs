//! Maps numbers and bytes of a memfd: memory that outlives the process.
//!
//! Input: a memfd of a fixed size, and a part of it. Output: numbers as atomics, or bytes. Thread: any for numbers, the
//! owner for bytes. Failure: there is no memory, or the memfd has another size.
//!
//! A process must not map a part twice: each mapping assumes that its bytes are its own.

#![allow(unsafe_code, reason = "memory that outlives the process")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;

use super::mapping::Mapping;
use crate::sync::atomic::AtomicU64;

/// An array of numbers.
#[derive(Debug)]
pub struct Words {
    mapping: Mapping,
    count: usize,
}

impl Words {
    /// Maps `count` numbers of a memfd from `offset` on, which must be a multiple of the page size.
    ///
    /// # Errors
    /// As [`Mapping::of_memory`].
    pub fn of_memory(memory: BorrowedFd<'_>, offset: usize, count: usize) -> io::Result<Self> {
        let mapping = Mapping::of_memory(memory, offset, count * size_of::<AtomicU64>())?;
        mapping.populate()?;
        Ok(Self { mapping, count })
    }

    /// Maps the first `count` numbers of a memfd of which most are never used. Each page is allocated when it is first
    /// touched.
    ///
    /// # Errors
    /// As [`Mapping::of_memory`].
    pub fn of_sparse_memory(memory: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        Ok(Self { mapping: Mapping::of_memory(memory, 0, count * size_of::<AtomicU64>())?, count })
    }

    /// The numbers.
    #[inline]
    #[must_use]
    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has that many words, is aligned for them (mmap(2)) and lives as long as `self`, which
        // gives them out as atomics only; any bytes are a value.
        unsafe { std::slice::from_raw_parts(self.mapping.base().cast(), self.count) }
    }
}

/// A range of bytes, of a memfd or of this process alone.
#[derive(Debug)]
pub struct Region {
    mapping: Mapping,
    len: usize,
}

impl Region {
    /// Maps zeroed bytes of this process alone.
    ///
    /// # Errors
    /// As [`Mapping::anonymous`].
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::of(Mapping::anonymous(len)?, len)
    }

    /// Maps `len` bytes of a memfd from `offset` on, which must be a multiple of the page size.
    ///
    /// # Errors
    /// As [`Mapping::of_memory`].
    pub fn of_memory(memory: BorrowedFd<'_>, offset: usize, len: usize) -> io::Result<Self> {
        Self::of(Mapping::of_memory(memory, offset, len)?, len)
    }

    /// See [`Mapping::lock`].
    ///
    /// # Errors
    /// As [`Mapping::lock`].
    pub fn lock(&self) -> io::Result<()> {
        self.mapping.lock()
    }

    fn of(mapping: Mapping, len: usize) -> io::Result<Self> {
        mapping.populate()?;
        Ok(Self { mapping, len })
    }
}

impl Deref for Region {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has that many bytes, all with a value, and lives as long as `self`. Nobody writes them
        // but through `self`: another process that has the memfd only keeps it, and no part is mapped twice (see the
        // head).
        unsafe { std::slice::from_raw_parts(self.mapping.base(), self.len) }
    }
}

impl DerefMut for Region {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; `self` is borrowed for writing, so nobody reads them meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.base(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::Ordering::Relaxed;
    use crate::sys::mapping::fix_size;
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::os::fd::AsFd;

    #[test]
    fn what_was_written_is_found_again_by_the_process_that_maps_it_next() {
        let memory = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        fix_size(memory.as_fd(), 8192).unwrap();
        {
            let words = Words::of_memory(memory.as_fd(), 0, 9).unwrap();
            let mut bytes = Region::of_memory(memory.as_fd(), 4096, 100).unwrap();
            words.all()[8].store(7, Relaxed);
            bytes[99] = 5;
        }
        assert_eq!(Words::of_memory(memory.as_fd(), 0, 9).unwrap().all()[8].load(Relaxed), 7);
        assert_eq!(Region::of_memory(memory.as_fd(), 4096, 100).unwrap()[99], 5);
        assert!(Region::of_memory(memory.as_fd(), 8192, 1).is_err());
        assert_eq!(*Region::anonymous(3).unwrap(), [0; 3]);
    }
}
