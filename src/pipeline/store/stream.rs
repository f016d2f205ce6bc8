//! Creates the files of one daemon's segments, and makes them durable.
//!
//! Input: paths and first sequences. Output: files with a header. Thread: the reader and the syncer. Failure: the disk,
//! in every call.

use std::io::{self, IoSlice};
use std::path::PathBuf;

use dbuf_segment::format::SegmentHeader;

use super::disk::{Disk, DiskFile, write_all};
use super::lock::HeldDirectory;
use crate::sync::Arc;
use crate::sys::clock;

/// What all segments of one daemon have in common.
pub(super) struct Stream {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    /// Released with the stream, so after both threads have ended.
    pub(super) held: HeldDirectory,
    pub(super) stream_id: u128,
    pub(super) boot_id: u128,
}

impl Stream {
    /// Creates a file named `path` with a header.
    pub(super) fn make_file(&self, path: &std::path::Path, first_sequence: u64) -> io::Result<Arc<dyn DiskFile>> {
        let header = SegmentHeader {
            stream_id: self.stream_id,
            boot_id: self.boot_id,
            created_ns: clock::now_ns(),
            first_sequence,
        };
        self.held.renew()?;
        let file = self.disk.create(path)?;
        if let Err(e) = write_all(&*file, &mut [IoSlice::new(&header.encode())], 0) {
            // A file without a header is of no use. Recovery would remove it as well.
            let _ = self.disk.remove(path);
            return Err(e);
        }
        Ok(file)
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync_directory(&self) -> io::Result<()> {
        self.held.sync(&*self.disk)
    }

    /// Makes a file's content durable, and its name too unless that is durable already. Fails for a file that was
    /// deleted.
    pub(super) fn make_durable(&self, file: &dyn DiskFile, is_named: bool) -> io::Result<()> {
        file.sync()?;
        if !is_named {
            self.sync_directory()?;
        }
        if file.has_name()? { Ok(()) } else { Err(deleted()) }
    }
}

/// The error for a file that was deleted while it was being written.
pub(super) fn deleted() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "another program deleted the active segment")
}

/// 128 random bits. They must be unlikely to repeat, not secret.
pub(super) fn random_id() -> u128 {
    use std::hash::{BuildHasher, RandomState};
    let half = || u128::from(RandomState::new().hash_one(clock::now_ns()));
    half() << 64 | half()
}

/// The boot id of this machine; 0 if the kernel does not give one.
pub(super) fn boot_id() -> u128 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&id.trim().replace('-', ""), 16).unwrap_or(0)
}
