//! Wraps `sync_file_range(2)`: asks the kernel to start writing back a range of a file, without waiting for it.
//!
//! Input: an open file and a range. Output: none. Thread: any. Failure: the system call; nothing depends on it.

#![allow(unsafe_code, reason = "a system call without a wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Starts write-back of `bytes` bytes at `offset`. Promises nothing about durability.
///
/// # Errors
/// Those of the system call.
pub fn start_write_back(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    let range = |n: u64| libc::off64_t::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
    let (offset, bytes) = (range(offset)?, range(bytes)?);
    // SAFETY: sync_file_range(2) takes numbers only and touches no memory of the caller; the descriptor is open, since
    // it is borrowed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn write_back_of_a_file_starts_and_an_impossible_range_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(start_write_back(file.as_fd(), 0, 4096).is_ok());
        assert!(start_write_back(file.as_fd(), u64::MAX, 1).is_err());
    }
}
