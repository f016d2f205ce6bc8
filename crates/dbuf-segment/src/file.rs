//! Reads bytes at an offset: of a file, or of memory that stands for one.
//!
//! Input: an offset. Output: bytes. Thread: any. Failures: those of the disk; every read may take as long as the device
//! takes.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that can be read at any offset. Readers never map a file, because it may shrink under them.
pub trait ReadAt: Send + Sync {
    /// Reads up to `to.len()` bytes at `offset`. Returns 0 at the end.
    ///
    /// # Errors
    /// Those of the disk.
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The size in bytes.
    ///
    /// # Errors
    /// Those of the disk.
    fn bytes(&self) -> io::Result<u64>;
}

/// Fills `to` as far as there are bytes at `offset`. Returns the number of bytes read.
///
/// # Errors
/// Those of the disk.
pub fn read_full(from: &(impl ReadAt + ?Sized), to: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < to.len() {
        match from.read_at(&mut to[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

impl ReadAt for fs::File {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, to, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Memory that is read like a file, so that fuzzing and tests need no disk.
impl ReadAt for Vec<u8> {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let n = rest.len().min(to.len());
        to[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}
