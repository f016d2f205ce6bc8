//! Maps memory by mmap(2): of the process alone, or of a memfd that outlives it.
//!
//! Input: a length, and a memfd. Output: an address. Thread: any; the caller decides what is done with the bytes.
//! Failure: there is no memory, or the memfd could lose bytes under its mapping.
//!
//! Large memory is in huge pages where possible. The halves are larger than a processor's TLB covers with small pages:
//! writing events to them, walking over them and writing them out took a sixth longer. Anonymous memory gets huge pages
//! on request, as most systems are configured. A memfd does not (`shmem_enabled` is `never`), unless its pages are
//! collapsed on demand: MADV_COLLAPSE, from Linux 6.1 on, at a suitable address. This takes no more memory, because all
//! of it is touched anyway. Rejected: MFD_HUGETLB, which takes pages that an administrator has to reserve.

#![allow(unsafe_code, reason = "mappings of memory")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::fs::{SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, munmap};

const PAGE_BYTES: usize = 4096;
/// Bytes of a huge page on x86-64. Both its address and its offset in a memfd are multiples of this.
const HUGE_BYTES: usize = 2 << 20;

/// A mapping, readable and writable. Dropping it unmaps the memory.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain memory, owned by this value alone and not tied to the thread that made it. The user
// of its address decides what happens in it.
unsafe impl Send for Mapping {}
// SAFETY: as above; a shared reference gives out the address and nothing else.
unsafe impl Sync for Mapping {}

/// Sets the size of an empty memfd that allows seals, and seals that size: a file that shrank under its mapping would
/// kill the process that reads it.
///
/// # Errors
/// Those of ftruncate(2) and fcntl(2).
pub fn fix_size(memory: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    ftruncate(memory, len as u64)?;
    Ok(fcntl_add_seals(memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?)
}

/// The size in bytes of a memfd that cannot shrink; None for anything else.
#[must_use]
pub fn fixed_size(memory: BorrowedFd<'_>) -> Option<usize> {
    let seals = fcntl_get_seals(memory).ok()?;
    let bytes = usize::try_from(fstat(memory).ok()?.st_size).ok()?;
    seals.contains(SealFlags::SHRINK).then_some(bytes)
}

impl Mapping {
    /// Maps zeroed memory of this process alone.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::anonymous_at(address_for(0, len)?, len)
    }

    fn anonymous_at(wish: *mut u8, len: usize) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping touches nothing that exists: without MAP_FIXED the address is no more than a wish
        // (mmap(2)).
        let base = unsafe { mmap_anonymous(wish.cast(), len, access, MapFlags::PRIVATE) }?;
        Ok(Self { base: base.cast(), len })
    }

    /// Maps `len` bytes of a memfd from `offset` on, which must be a multiple of the page size.
    ///
    /// # Errors
    /// Those of mmap(2); `InvalidInput` if the memfd is shorter, or could become so.
    pub fn of_memory(memory: BorrowedFd<'_>, offset: usize, len: usize) -> io::Result<Self> {
        if fixed_size(memory).is_none_or(|bytes| bytes < offset + len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let wish = address_for(offset, len)?;
        // SAFETY: as above. The file has that many bytes and cannot lose them: it is sealed against that.
        let base = unsafe { mmap(wish.cast(), len, access, MapFlags::SHARED, memory, offset as u64) }?;
        Ok(Self { base: base.cast(), len })
    }

    /// Its address, a multiple of the page size.
    #[inline]
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Has the kernel allocate all of the memory now, in huge pages where it can. Contents stay as they are. Must be
    /// called before any other thread knows the mapping.
    ///
    /// # Errors
    /// If there is not that much memory.
    pub fn populate(&self) -> io::Result<()> {
        // SAFETY: advice on a mapping that is ours. Huge units are a wish: without them it works as well.
        let _ = unsafe { madvise(self.base.cast(), self.len, Advice::LinuxHugepage) };
        if self.len >= HUGE_BYTES {
            // A huge page is not collapsed if none of its small pages exist. Touching one is enough: the others then
            // come as zeros.
            for unit in (0..self.len).step_by(HUGE_BYTES) {
                self.provide(unit, PAGE_BYTES)?;
            }
            // SAFETY: as above; the contents stay as they are (madvise(2)). Where no huge unit is to be had, or the
            // kernel knows none of this, the small ones stay.
            let _ = unsafe { libc::madvise(self.base.cast(), self.len, libc::MADV_COLLAPSE) };
        }
        self.provide(0, self.len)
    }

    /// Has the kernel keep all of it in memory, so that no access waits for a page that was swapped out.
    ///
    /// # Errors
    /// Those of mlock(2): the process may not lock that much (RLIMIT_MEMLOCK).
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: a mapping that is ours; locking leaves the contents as they are (mlock(2)).
        Ok(unsafe { mlock(self.base.cast(), self.len) }?)
    }

    /// Has the kernel allocate `len` bytes from `at` on.
    fn provide(&self, at: usize, len: usize) -> io::Result<()> {
        debug_assert!(at < self.len && len <= (self.len - at).next_multiple_of(PAGE_BYTES), "inside the mapping");
        // SAFETY: inside the mapping, which is `self.len` bytes and whole pages.
        let from = unsafe { self.base.add(at) };
        // SAFETY: as above; populating leaves the contents as they are (madvise(2)).
        match unsafe { madvise(from.cast(), len, Advice::LinuxPopulateWrite) } {
            // Kernels before 5.14 do not know this advice.
            Err(rustix::io::Errno::INVAL) => {
                for page in (0..len).step_by(PAGE_BYTES) {
                    // SAFETY: inside the mapping, as above.
                    let byte = unsafe { from.add(page) };
                    // SAFETY: as above, and not known to any other thread.
                    let value = unsafe { byte.read_volatile() };
                    // SAFETY: as above, and writable. It keeps its value.
                    unsafe { byte.write_volatile(value) };
                }
                Ok(())
            }
            result => Ok(result?),
        }
    }
}

/// An address at which `len` bytes of a memfd from `offset` on can be in huge pages: as far after a multiple of their
/// size as the offset is. The address is free now. If another thread takes it before it is used, the pages are small.
/// Null if the memory is smaller than a huge page.
fn address_for(offset: usize, len: usize) -> io::Result<*mut u8> {
    if len < HUGE_BYTES {
        return Ok(ptr::null_mut());
    }
    let free = Mapping::anonymous_at(ptr::null_mut(), len + HUGE_BYTES)?;
    Ok(free.base.wrapping_add(offset.wrapping_sub(free.base as usize) % HUGE_BYTES))
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and every user of its address has borrowed or owns this value.
        let result = unsafe { munmap(self.base.cast(), self.len) };
        debug_assert!(result.is_ok(), "munmap fails only for a range that is no mapping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_memfd_is_mapped_with_its_contents_and_only_if_it_cannot_shrink() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
        file.set_len(8192).unwrap();
        assert!(Mapping::of_memory(file.as_fd(), 0, 8192).is_err());
        fix_size(file.as_fd(), 8192).unwrap();
        assert!(Mapping::of_memory(file.as_fd(), 4096, 4097).is_err());
        file.write_all_at(b"kept", 4096).unwrap();
        let mapping = Mapping::of_memory(file.as_fd(), 4096, 4096).unwrap();
        mapping.populate().unwrap();
        // SAFETY: inside the mapping, which nothing else uses.
        assert_eq!(unsafe { mapping.base().read() }, b'k');
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn contents_outlive_that_memory_is_put_together_in_huge_units() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
        let (offset, len) = (3 * PAGE_BYTES, 2 * HUGE_BYTES + 5 * PAGE_BYTES);
        fix_size(file.as_fd(), offset + len).unwrap();
        let bytes: Vec<u8> = (0..offset + len).map(|at| (at / 7) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        let mapping = Mapping::of_memory(file.as_fd(), offset, len).unwrap();
        mapping.populate().unwrap();
        // SAFETY: inside the mapping, which nothing writes.
        let found = unsafe { std::slice::from_raw_parts(mapping.base(), len) };
        assert!(found == &bytes[offset..]);
        assert_eq!(mapping.base() as usize % HUGE_BYTES, offset % HUGE_BYTES, "an address that units can be at");
        assert_eq!(Mapping::anonymous(len).unwrap().base() as usize % HUGE_BYTES, 0);
    }
}
