//! Keeps numbers and bytes in memory that outlives the process.
//!
//! Input: the layout of the memory, and the memory of the previous process if there is any. Output: mapped words and
//! bytes, which are checked before they are used. Thread: the main thread, at the start. Failure: there is no memory;
//! or the previous process left another version, which is then replaced.
//!
//! ```text
//! word 0   magic
//!      1   version
//!      2   extent: how many rows, cells or bytes there are; its meaning is the user's
//!      3   reserved, zero
//!      4.. the user's words, and behind them the user's bytes
//! ```
//!
//! The head is written before the service manager gets the memory, so memory without its head is not ours. A memory
//! never changes its size. The pages of its words are reserved when it is created, those of its bytes when they are
//! mapped. So missing memory is an error at that point, and not a SIGBUS later.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sys::fdstore::FdStore;
use crate::sys::mapping::fix_size;
use crate::sys::words::{Region, Words};

/// Words of the head.
pub const HEAD_WORDS: usize = 4;
const MAGIC: usize = 0;
const VERSION: usize = 1;
const EXTENT: usize = 2;

/// The layout of a memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The name of the memfd, as /proc shows it.
    pub label: &'static str,
    /// The first eight bytes.
    pub magic: [u8; 8],
    /// The version of the layout. A memory of another version is replaced.
    pub version: u64,
    /// See the head of this module.
    pub extent: u64,
    /// The user's words.
    pub words: usize,
    /// The size of the whole memory in bytes, if it is more than the words.
    pub bytes: usize,
}

impl Layout {
    fn all_words(&self) -> usize {
        HEAD_WORDS + self.words
    }

    fn all_bytes(&self) -> usize {
        self.bytes.max(self.all_words() * size_of::<u64>())
    }

    fn head(&self) -> [(usize, u64); 3] {
        [(MAGIC, u64::from_le_bytes(self.magic)), (VERSION, self.version), (EXTENT, self.extent)]
    }
}

/// A mapped memory.
#[derive(Debug)]
pub struct PersistentMemory {
    memory: OwnedFd,
    words: Words,
}

impl PersistentMemory {
    /// Creates memory, zero except for its head.
    ///
    /// # Errors
    /// Those of memfd_create(2), fallocate(2) and mmap(2).
    pub fn create(layout: &Layout) -> io::Result<Self> {
        let memory = memfd_create(layout.label, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        fix_size(memory.as_fd(), layout.all_bytes())?;
        // The user's bytes are allocated when they are mapped ([`Region`]), because some are never used.
        fallocate(&memory, FallocateFlags::empty(), 0, (layout.all_words() * size_of::<u64>()) as u64)?;
        let words = Words::of_sparse_memory(memory.as_fd(), layout.all_words())?;
        for (at, value) in layout.head() {
            // Relaxed: the manager gets the memory by a later system call, and no other thread has it.
            words.all()[at].store(value, Relaxed);
        }
        Ok(Self { memory, words })
    }

    /// Opens the memory that the previous process left. None if it has another layout.
    #[must_use]
    pub fn inherit(memory: OwnedFd, layout: &Layout) -> Option<Self> {
        let words = Words::of_sparse_memory(memory.as_fd(), layout.all_words()).ok()?;
        // Relaxed: the process that wrote it is dead.
        let is_ours = layout.head().into_iter().all(|(at, value)| words.all()[at].load(Relaxed) == value);
        is_ours.then_some(Self { memory, words })
    }

    /// The extent of any memory with this magic and version. None if the memory is another one.
    #[must_use]
    pub fn extent_of(memory: BorrowedFd<'_>, layout: &Layout) -> Option<u64> {
        let words = Words::of_sparse_memory(memory, HEAD_WORDS).ok()?;
        // Relaxed: the process that wrote it is dead.
        let get = |at: usize| words.all()[at].load(Relaxed);
        let [magic, version, _] = layout.head();
        ([magic, version].into_iter().all(|(at, value)| get(at) == value)).then(|| get(EXTENT))
    }

    /// Opens the memory of the previous process, or creates memory that `store` keeps from here on under `name`. The
    /// flag says whether it is inherited.
    ///
    /// # Errors
    /// As [`PersistentMemory::create`].
    pub fn take_over(
        store: &FdStore,
        name: &str,
        inherited: Option<OwnedFd>,
        layout: &Layout,
    ) -> io::Result<(Self, bool)> {
        if let Some(memory) = inherited.and_then(|memory| Self::inherit(memory, layout)) {
            return Ok((memory, true));
        }
        let memory = Self::create(layout)?;
        memory.keep(store, name);
        Ok((memory, false))
    }

    /// Stores the memory in `store` under this name, in place of a memory of another version.
    pub fn keep(&self, store: &FdStore, name: &str) {
        if let Err(error) = store.replace(name, self.memory.as_fd()) {
            tracing::warn!(name, %error, "the contents of this memory will not survive this process");
        }
    }

    /// The user's words.
    #[inline]
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        &self.words.all()[HEAD_WORDS..]
    }

    /// Bytes of the memory from `offset` on, which must be a multiple of the page size. No part may be mapped twice.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn region(&self, offset: usize, bytes: usize) -> io::Result<Region> {
        Region::of_memory(self.memory.as_fd(), offset, bytes)
    }

    /// The memfd.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout =
        Layout { label: "dbufd-test", magic: *b"dbuftest", version: 3, extent: 5, words: 8, bytes: 3 * 4096 };

    #[test]
    fn what_a_process_wrote_is_there_for_the_next_one() {
        let memory = PersistentMemory::create(&LAYOUT).unwrap();
        memory.words()[7].store(42, Relaxed);
        memory.region(4096, 4096).unwrap()[4095] = 9;
        let descriptor = memory.descriptor().try_clone_to_owned().unwrap();
        drop(memory);
        let memory = PersistentMemory::inherit(descriptor, &LAYOUT).unwrap();
        assert_eq!((memory.words().len(), memory.words()[7].load(Relaxed)), (8, 42));
        assert_eq!(memory.region(4096, 4096).unwrap()[4095], 9);
    }

    #[test]
    fn all_words_are_allocated_at_once_so_that_missing_memory_is_an_error_and_no_signal_later() {
        let layout = Layout { words: 1 << 16, bytes: 0, ..LAYOUT };
        let memory = PersistentMemory::create(&layout).unwrap();
        let allocated = rustix::fs::fstat(memory.descriptor()).unwrap().st_blocks * 512;
        assert!(allocated >= layout.all_bytes() as i64, "{allocated} bytes");
    }

    #[test]
    fn memory_of_another_kind_version_or_extent_is_not_believed() {
        let other = |layout: Layout| {
            let memory = PersistentMemory::create(&layout).unwrap();
            memory.descriptor().try_clone_to_owned().unwrap()
        };
        for layout in [
            Layout { magic: *b"dbufelse", ..LAYOUT },
            Layout { version: 4, ..LAYOUT },
            Layout { extent: 6, ..LAYOUT },
            Layout { words: 1, bytes: 0, ..LAYOUT },
        ] {
            let is_long_enough = layout.all_bytes() >= LAYOUT.all_words() * size_of::<u64>();
            let inherited = PersistentMemory::inherit(other(layout), &LAYOUT);
            assert!(inherited.is_none() || (is_long_enough && layout.head() == LAYOUT.head()), "{layout:?}");
        }
        assert!(PersistentMemory::inherit(tempfile::tempfile().unwrap().into(), &LAYOUT).is_none());
        assert_eq!(PersistentMemory::extent_of(other(LAYOUT).as_fd(), &Layout { extent: 0, ..LAYOUT }), Some(5));
        assert_eq!(PersistentMemory::extent_of(other(Layout { version: 4, ..LAYOUT }).as_fd(), &LAYOUT), None);
    }
}
