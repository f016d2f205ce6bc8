//! Maps the memory of a ring: words that both sides see, and bytes that only ever are copied.
//!
//! Input: a memfd, or a size. Output: the words as atomics; bytes are copied in and out, by position. Any thread.
//! Failures: there is no memory, or the memfd is not that of a ring.
//!
//! Invariants, cited by number:
//! 1. The mapping is [`HEADER_BYTES`] and the capacity long, writable, and as old as `self`. The memfd cannot lose
//!    bytes: it is sealed against that before it is mapped.
//! 2. No reference to the data is ever made, for another process can change it: bytes are copied through raw pointers.
//!    A copy that races with that process may hold anything; its reader checks the copy.
//! 3. The capacity is that of the file, which no process can change. What the header says of it is for people.

#![allow(unsafe_code, reason = "memory that two processes share")]

use dbuf_sync::compiler_fence;
use std::io;
use std::os::fd::BorrowedFd;
#[cfg(not(dbuf_loom))]
use std::os::fd::OwnedFd;

use super::layout::{CAPACITY_BYTES, HEADER_BYTES, MAGIC, VERSION, Words};
use dbuf_sync::atomic::Ordering::{Relaxed, SeqCst};

#[cfg(not(dbuf_loom))]
use mapped::Mapping;
#[cfg(dbuf_loom)]
use modelled::Mapping;

/// The memory of a ring.
///
/// ```
/// use dbuf_wire::ring::Memory;
///
/// let (memory, file) = Memory::create(64 << 10, 0)?;
/// let same = Memory::of_file(&file)?; // as another process maps it
/// assert!(memory.is_known() && same.capacity() == 64 << 10);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Memory {
    mapping: Mapping,
    /// A power of two.
    capacity: u64,
}

impl Memory {
    /// Makes a memory to be shared by its memfd. The kernel provides the pages of the data when they are touched, so
    /// they count as memory of the program that fills the ring.
    ///
    /// # Errors
    /// When there is no memory, or the capacity is none that a ring can have.
    ///
    /// ```
    /// let (memory, _file) = dbuf_wire::ring::Memory::create(64 << 10, dbuf_wire::ring::flag::TICKS)?;
    /// assert_eq!(memory.capacity(), 64 << 10);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(not(dbuf_loom))]
    pub fn create(capacity: u64, flags: u64) -> io::Result<(Self, OwnedFd)> {
        use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create};
        let len = length_of(capacity)?;
        let memory = memfd_create("dbufd-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memory, len as u64)?;
        // The header is written here: without a page for it, that would be a SIGBUS and no error.
        fallocate(&memory, FallocateFlags::empty(), 0, HEADER_BYTES as u64)?;
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let this = Self::of_file(&memory)?;
        this.begin(flags);
        Ok((this, memory))
    }

    /// Maps the memory of a memfd, which another process can write at any time.
    ///
    /// # Errors
    /// When it could lose bytes, or has a size that no ring has; or when there is no memory.
    ///
    /// ```
    /// use dbuf_wire::ring::Memory;
    ///
    /// let (_memory, file) = Memory::create(64 << 10, 0)?;
    /// assert!(Memory::of_file(&file)?.is_known());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[cfg(not(dbuf_loom))]
    pub fn of_file(memory: &impl std::os::fd::AsFd) -> io::Result<Self> {
        use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
        let memory = memory.as_fd();
        let seals = fcntl_get_seals(memory)?;
        let bytes = u64::try_from(fstat(memory)?.st_size).unwrap_or(0);
        if !seals.contains(SealFlags::SHRINK) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the memory of a ring that could shrink"));
        }
        let capacity = bytes.saturating_sub(HEADER_BYTES as u64);
        let len = length_of(capacity)?;
        Ok(Self { mapping: Mapping::new(len, Some(memory))?, capacity })
    }

    /// Makes a memory of this process alone.
    ///
    /// # Errors
    /// When there is no memory, or the capacity is none that a ring can have.
    ///
    /// ```
    /// use dbuf_wire::ring::Memory;
    ///
    /// assert!(Memory::private(64 << 10).is_ok() && Memory::private(100_000).is_err());
    /// ```
    pub fn private(capacity: u64) -> io::Result<Self> {
        let this = Self { mapping: Mapping::new(length_of(capacity)?, None)?, capacity };
        this.begin(0);
        Ok(this)
    }

    /// One that is too small for anything but a model.
    #[cfg(dbuf_loom)]
    pub fn modelled(capacity: u64) -> Self {
        let mapping = Mapping::new(HEADER_BYTES + capacity as usize, None).expect("no memory is asked for");
        Self { mapping, capacity }
    }

    /// The same memory, as another process would map it.
    #[cfg(dbuf_loom)]
    pub fn twin(&self) -> Self {
        Self { mapping: self.mapping.clone(), capacity: self.capacity }
    }

    fn begin(&self, flags: u64) {
        let words = self.words();
        // Relaxed, all of them: no other process has the memory yet.
        words.version.store(VERSION, Relaxed);
        words.header_bytes.store(HEADER_BYTES as u32, Relaxed);
        words.capacity_bytes.store(self.capacity, Relaxed);
        words.flags.store(flags, Relaxed);
        words.magic.store(MAGIC, Relaxed);
    }

    /// Whether its header is one that this version knows.
    ///
    /// ```
    /// assert!(dbuf_wire::ring::Memory::private(64 << 10)?.is_known());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn is_known(&self) -> bool {
        let words = self.words();
        // Relaxed: written before the memory was handed over.
        words.magic.load(Relaxed) == MAGIC
            && words.version.load(Relaxed) == VERSION
            && words.header_bytes.load(Relaxed) as usize == HEADER_BYTES
    }

    /// Has the kernel provide all of it now.
    ///
    /// # Errors
    /// When there is not that much memory.
    ///
    /// ```
    /// dbuf_wire::ring::Memory::private(64 << 10)?.populate()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn populate(&self) -> io::Result<()> {
        self.mapping.populate()
    }

    /// The words that both sides see.
    ///
    /// ```
    /// use std::sync::atomic::Ordering::Relaxed;
    ///
    /// let memory = dbuf_wire::ring::Memory::private(64 << 10)?;
    /// assert_eq!(memory.words().head.load(Relaxed), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn words(&self) -> &Words {
        self.mapping.words()
    }

    /// Bytes of data.
    ///
    /// ```
    /// assert_eq!(dbuf_wire::ring::Memory::private(64 << 10)?.capacity(), 64 << 10);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Where in the data a position is.
    ///
    /// ```
    /// assert_eq!(dbuf_wire::ring::Memory::private(64 << 10)?.offset((64 << 10) + 48), 48);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    #[must_use]
    pub fn offset(&self, position: u64) -> usize {
        (position & (self.capacity - 1)) as usize
    }

    /// Copies `bytes` to a position from which on they do not reach the end of the data.
    ///
    /// # Panics
    /// When they would.
    ///
    /// ```
    /// let memory = dbuf_wire::ring::Memory::private(64 << 10)?;
    /// memory.put(16, b"abc");
    /// let mut copy = [0; 3];
    /// memory.copy(16, &mut copy);
    /// assert_eq!(&copy, b"abc");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn put(&self, position: u64, bytes: &[u8]) {
        let at = self.offset(position);
        assert!(bytes.len() <= self.capacity as usize - at, "a record reaches beyond the end of the ring");
        self.mapping.write(at, bytes);
    }

    /// Copies as many bytes as `into` has, from a position on and around the end.
    ///
    /// # Panics
    /// When that is more than there is.
    ///
    /// ```
    /// let memory = dbuf_wire::ring::Memory::private(64 << 10)?;
    /// let mut copy = [1; 3];
    /// memory.copy((64 << 10) - 2, &mut copy); // around the end
    /// assert_eq!(copy, [0; 3]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[inline]
    pub fn copy(&self, position: u64, into: &mut [u8]) {
        assert!(into.len() as u64 <= self.capacity, "more bytes than the ring has");
        let at = self.offset(position);
        let to_end = self.capacity as usize - at;
        if into.len() <= to_end {
            self.mapping.read(at, into);
        } else {
            let (first, second) = into.split_at_mut(to_end);
            self.mapping.read(at, first);
            self.mapping.read(0, second);
        }
        // Every later look is at the copy. A compiler that knew both to be the same could go back to the
        // ring for them, where they may be others by now; behind this, which is for it alone, it does not know that.
        // What makes the bytes visible is edge `head`.
        compiler_fence(SeqCst);
    }
}

/// Bytes of a ring's file.
fn length_of(capacity: u64) -> io::Result<usize> {
    if !capacity.is_power_of_two() || !CAPACITY_BYTES.contains(&capacity) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a ring has a power of two of bytes, from 64 KiB to 64 MiB",
        ));
    }
    Ok(HEADER_BYTES + capacity as usize)
}

#[cfg(not(dbuf_loom))]
mod mapped {
    use super::{BorrowedFd, HEADER_BYTES, Words, io};
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

    /// Header and data.
    #[derive(Debug)]
    pub(super) struct Mapping {
        base: *mut u8,
        len: usize,
    }

    // SAFETY: plain memory that is not tied to the thread that made it; words are atomics, bytes are only copied.
    unsafe impl Send for Mapping {}
    // SAFETY: as above. Two threads that copy into the same bytes would mix them up, as another process can anyway.
    unsafe impl Sync for Mapping {}

    impl Mapping {
        pub(super) fn new(len: usize, file: Option<BorrowedFd<'_>>) -> io::Result<Self> {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let base = match file {
                // SAFETY: a new mapping touches nothing that exists, and the file has that many bytes (invariant 1).
                Some(file) => unsafe { mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, file, 0) }?,
                // SAFETY: as above.
                None => unsafe { mmap_anonymous(std::ptr::null_mut(), len, access, MapFlags::PRIVATE) }?,
            };
            Ok(Self { base: base.cast(), len })
        }

        pub(super) fn populate(&self) -> io::Result<()> {
            // SAFETY: advice on a mapping that is ours; it leaves the contents as they are (madvise(2)).
            match unsafe { madvise(self.base.cast(), self.len, Advice::LinuxPopulateWrite) } {
                // Kernels before 5.14 do not know this advice; then pages come when they are touched.
                Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }

        #[inline]
        pub(super) fn words(&self) -> &Words {
            const { assert!(align_of::<Words>() <= 4096 && size_of::<Words>() <= HEADER_BYTES) };
            // SAFETY: invariant 1: the header is there and a page's begin is aligned for it; its fields are atomics, of
            // which any bytes are a value, and gaps that are never read.
            unsafe { &*self.base.cast::<Words>() }
        }

        #[inline]
        pub(super) fn write(&self, at: usize, bytes: &[u8]) {
            debug_assert!(at + bytes.len() <= self.len - HEADER_BYTES, "inside the mapping");
            // SAFETY: invariant 1; the caller has checked that `at` is inside the data.
            let to = unsafe { self.base.add(HEADER_BYTES + at) };
            // SAFETY: invariants 1 and 2; the caller has checked that the bytes are there. `bytes` is memory of
            // this process, which is no part of a ring.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }

        #[inline]
        pub(super) fn read(&self, at: usize, into: &mut [u8]) {
            debug_assert!(at + into.len() <= self.len - HEADER_BYTES, "inside the mapping");
            // SAFETY: as above.
            let from = unsafe { self.base.add(HEADER_BYTES + at) };
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the mapping is ours, and all that uses it borrows from this value.
            let result = unsafe { munmap(self.base.cast(), self.len) };
            debug_assert!(result.is_ok(), "munmap fails only for a range that is no mapping");
        }
    }
}

#[cfg(dbuf_loom)]
mod modelled {
    use std::cell::UnsafeCell;

    use super::{BorrowedFd, HEADER_BYTES, Words, io};

    /// The same on the heap, with a loom cell for each byte.
    #[derive(Clone, Debug)]
    pub(super) struct Mapping(dbuf_sync::Arc<Parts>);

    #[derive(Debug)]
    struct Parts {
        words: Words,
        bytes: Box<[UnsafeCell<u8>]>,
        watches: Vec<dbuf_sync::cell::UnsafeCell<()>>,
    }

    // SAFETY: loom runs all threads of a model on one thread, one at a time.
    unsafe impl Send for Parts {}
    // SAFETY: as above; what would be a race outside the model is reported by `watches`.
    unsafe impl Sync for Parts {}

    impl Mapping {
        #[allow(clippy::unnecessary_wraps, reason = "the mapping that this stands for can fail")]
        pub(super) fn new(len: usize, _file: Option<BorrowedFd<'_>>) -> io::Result<Self> {
            let bytes = len - HEADER_BYTES;
            let watches = (0..bytes).map(|_| dbuf_sync::cell::UnsafeCell::new(())).collect();
            let bytes = (0..bytes).map(|_| UnsafeCell::new(0)).collect();
            Ok(Self(dbuf_sync::Arc::new(Parts { words: Words::default(), bytes, watches })))
        }

        #[allow(clippy::unnecessary_wraps, reason = "as above")]
        pub(super) fn populate(&self) -> io::Result<()> {
            Ok(())
        }

        pub(super) fn words(&self) -> &Words {
            &self.0.words
        }

        pub(super) fn write(&self, at: usize, bytes: &[u8]) {
            for (offset, byte) in bytes.iter().enumerate() {
                // SAFETY: loom has checked that no other thread uses the byte without an edge between.
                self.0.watches[at + offset].with_mut(|_| unsafe { *self.0.bytes[at + offset].get() = *byte });
            }
        }

        pub(super) fn read(&self, at: usize, into: &mut [u8]) {
            for (offset, byte) in into.iter_mut().enumerate() {
                // SAFETY: as above.
                self.0.watches[at + offset].with(|_| *byte = unsafe { *self.0.bytes[at + offset].get() });
            }
        }
    }
}
