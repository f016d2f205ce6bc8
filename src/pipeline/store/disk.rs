//! Defines what the store needs of a disk, as a trait: tests use disks that fail, stall and forget.
//!
//! Input: bytes and paths. Output: the kernel's answers. Thread: the reader and the syncer. Failure: every call can
//! fail, and may take as long as the device takes.

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::FallocateFlags;

use crate::sync::Arc;
pub use dbuf_segment::file::{ReadAt, read_full};

/// Permissions of a segment.
const FILE_MODE: u32 = 0o640;
/// Permissions of a directory of segments that the store creates.
const DIRECTORY_MODE: u32 = 0o750;

/// An open segment.
pub trait DiskFile: ReadAt {
    /// Writes some of `slices` at `offset`, at most [`IOV_MAX`] of them. Returns the number of bytes written.
    ///
    /// # Errors
    /// Those of the disk.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Truncates the file to `bytes`, and frees what was allocated beyond.
    ///
    /// # Errors
    /// Those of the disk.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Makes the content durable (fdatasync). After an error the kernel may have forgotten what it could not write, so
    /// it must never be called again on this file.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync(&self) -> io::Result<()>;

    /// Whether the file still has a name. A file that was deleted accepts everything that is written to it, and keeps
    /// nothing.
    ///
    /// # Errors
    /// Those of the disk.
    fn has_name(&self) -> io::Result<bool>;

    /// Allocates space beyond the end, without changing the length.
    ///
    /// # Errors
    /// Those of the disk.
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()>;

    /// Starts writing a range back, without waiting for it.
    ///
    /// # Errors
    /// Those of the disk.
    fn start_write_back(&self, offset: u64, bytes: u64) -> io::Result<()>;
}

/// Whether the process, or the machine, has no descriptor left.
pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Slices at most in one call of [`DiskFile::write_at`] (`IOV_MAX` of Linux).
pub const IOV_MAX: usize = 1024;

/// Writes all of `slices` at `offset`. Continues after short writes and interruptions.
///
/// # Errors
/// Those of the disk. Some of the bytes may be in the file then.
pub fn write_all(file: &dyn DiskFile, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_at(&slices[..slices.len().min(IOV_MAX)], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                IoSlice::advance_slices(&mut slices, n);
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A file in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// Bytes that dbufd may still use.
    pub free_bytes: u64,
}

/// A disk.
pub trait Disk: Send + Sync {
    /// Creates a directory and its missing parents.
    ///
    /// # Errors
    /// Those of the disk.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Regular files in a directory, in no particular order.
    ///
    /// # Errors
    /// Those of the disk.
    fn list(&self, directory: &Path) -> io::Result<Vec<Found>>;

    /// Creates a new file.
    ///
    /// # Errors
    /// Those of the disk; `AlreadyExists` if the file exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// Those of the disk.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file to a name that is free.
    ///
    /// # Errors
    /// Those of the disk; `AlreadyExists` if the name is taken.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Those of the disk.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in an open directory durable.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync_directory(&self, directory: &fs::File) -> io::Result<()>;

    /// The size of the file system and its free space.
    ///
    /// # Errors
    /// Those of the disk.
    fn space(&self, directory: &Path) -> io::Result<Space>;
}

/// The disk of this machine, through the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(about) if about.is_file() => found.push(Found { name, bytes: about.len() }),
                Ok(_) => {}
                // It was removed between the two calls.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(FILE_MODE).open(path)?;
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(fs::OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Not every file system knows the flag. Only this process creates names in its directory, because it holds
            // the lock.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !to.exists() => fs::rename(from, to),
            result => Ok(result?),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &fs::File) -> io::Result<()> {
        directory.sync_all()
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        let about = rustix::fs::statvfs(directory)?;
        Ok(Space {
            total_bytes: about.f_blocks.saturating_mul(about.f_frsize),
            free_bytes: about.f_bavail.saturating_mul(about.f_frsize),
        })
    }
}

impl DiskFile for fs::File {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EFBIG)?;
        Ok(nix::sys::uio::pwritev(self, slices, offset)?)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn has_name(&self) -> io::Result<bool> {
        Ok(self.metadata()?.nlink() > 0)
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self, FallocateFlags::KEEP_SIZE, offset, bytes)?)
    }

    fn start_write_back(&self, offset: u64, bytes: u64) -> io::Result<()> {
        crate::sys::sync_file_range::start_write_back(self.as_fd(), offset, bytes)
    }
}

/// The segments among the files of a directory, oldest first.
///
/// # Errors
/// Those of the disk.
pub fn segments(disk: &dyn Disk, directory: &Path) -> io::Result<Vec<(dbuf_segment::name::Name, u64)>> {
    let mut segments: Vec<_> = disk
        .list(directory)?
        .into_iter()
        .filter_map(|found| Some((dbuf_segment::name::Name::parse(&found.name)?, found.bytes)))
        .collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Renames `from` to the first free name like `to`.
///
/// # Errors
/// What the disk says.
pub fn rename_to_free(
    disk: &dyn Disk,
    directory: &Path,
    from: &Path,
    mut to: dbuf_segment::name::Name,
) -> io::Result<PathBuf> {
    loop {
        let path = to.in_directory(directory);
        match disk.rename(from, &path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && to.copy < COPIES_MAX => to.copy += 1,
            Err(e) => return Err(e),
        }
    }
}

/// Files at most with one sequence and state.
const COPIES_MAX: u32 = 10_000;
