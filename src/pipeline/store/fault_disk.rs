//! Simulates a disk that fails on request, for tests: short writes, no room, errors, syncs that fail and forget, syncs
//! that do not return. Crashes and loss of power are the [simulated disk](super::sim_disk)'s part.

use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::disk::{Disk, DiskFile, Found, ReadAt, RealDisk, Space};
use crate::sync::atomic::{AtomicBool, Ordering::Relaxed};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard};

/// The faults.
#[derive(Default)]
pub(crate) struct Faults {
    /// The write with this number, counted from 1, fails with this error.
    pub(crate) fail_write: Option<(u64, Errno)>,
    /// Writes so far.
    pub(crate) writes: u64,
    /// Bytes at most that one write takes.
    pub(crate) short_bytes: Option<usize>,
    /// Bytes that all files of the directory may have together.
    pub(crate) room_bytes: Option<u64>,
    /// The syncs with these numbers, counted from 1, fail.
    pub(crate) fail_syncs: Vec<u64>,
    /// Syncs so far.
    pub(crate) syncs: u64,
    /// Syncs of a file after a sync of it had failed. The kernel reports success then, and that is wrong.
    trusted_again: u64,
    /// The files of which a sync failed, and the end of the bytes that an earlier sync had covered.
    failed: Vec<(fs::File, u64)>,
    /// A sync that fails loses what it should have made durable.
    pub(crate) forgets: bool,
    /// Syncs do not return.
    pub(crate) holds_syncs: bool,
    /// Listings of the directory so far, and the number, counted from 1, of the one that fails: as it does without a
    /// descriptor.
    pub(crate) lists: u64,
    pub(crate) fail_list: Option<u64>,
    /// Files opened so far.
    pub(crate) opens: u64,
    /// Files that are open, the most at one time, and how many may be: as a limit of descriptors.
    pub(crate) open_files: usize,
    pub(crate) open_files_most: usize,
    pub(crate) open_files_max: Option<usize>,
    /// Each sync of a file fails.
    pub(crate) fail_all_syncs: bool,
    /// How far a file was allocated ahead at most, in bytes.
    pub(crate) allocated_bytes: u64,
    /// The answer of [`Disk::space`].
    pub(crate) space: Option<Space>,
}

impl Faults {
    /// Whether a file was synced again after a sync of it had failed, or still has the bytes that the failed sync lost.
    pub(crate) fn trusts_a_failed_sync(&self) -> bool {
        let has_more = |(file, synced): &(fs::File, u64)| {
            let about = file.metadata().unwrap();
            about.nlink() > 0 && about.len() > *synced
        };
        self.trusted_again > 0 || self.failed.iter().any(has_more)
    }
}

#[derive(Clone, Default)]
pub(crate) struct FaultDisk(Arc<(Mutex<Faults>, Condvar)>);

struct FaultyFile {
    file: fs::File,
    directory: PathBuf,
    disk: FaultDisk,
    /// The end of the bytes that a sync has covered.
    synced: Mutex<u64>,
    has_failed: AtomicBool,
}

impl FaultDisk {
    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        self.0.0.lock().unwrap()
    }

    /// Lets held syncs continue.
    pub(crate) fn release(&self) {
        self.faults().holds_syncs = false;
        self.0.1.notify_all();
    }

    /// Refuses a descriptor if there is none left.
    fn take_descriptor(&self) -> io::Result<()> {
        let mut faults = self.faults();
        if faults.open_files_max.is_some_and(|max| faults.open_files >= max) {
            return Err(Errno::EMFILE.into());
        }
        faults.open_files += 1;
        faults.open_files_most = faults.open_files_most.max(faults.open_files);
        Ok(())
    }

    /// Opens a file if there is a descriptor for it.
    fn open_with(&self, path: &Path, options: &fs::OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        self.take_descriptor()?;
        match options.open(path) {
            Ok(file) => Ok(self.wrap(path, file)),
            Err(e) => {
                self.faults().open_files -= 1;
                Err(e)
            }
        }
    }

    fn wrap(&self, path: &Path, file: fs::File) -> Arc<dyn DiskFile> {
        self.faults().opens += 1;
        let directory = path.parent().unwrap().to_path_buf();
        let synced = Mutex::new(file.metadata().unwrap().len());
        Arc::new(FaultyFile { file, directory, disk: self.clone(), synced, has_failed: AtomicBool::new(false) })
    }
}

impl Disk for FaultDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.make_directory(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Found>> {
        let mut faults = self.faults();
        faults.lists += 1;
        if faults.fail_list == Some(faults.lists) {
            return Err(Errno::EMFILE.into());
        }
        drop(faults);
        RealDisk.list(directory)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(path, fs::OpenOptions::new().read(true).write(true).create_new(true))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_with(path, fs::OpenOptions::new().read(true).write(true))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_directory(&self, _: &fs::File) -> io::Result<()> {
        // A test's machine does not lose power.
        Ok(())
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        self.faults().space.map_or_else(|| RealDisk.space(directory), Ok)
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        self.disk.faults().open_files -= 1;
    }
}

impl ReadAt for FaultyFile {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(to, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut faults = self.disk.faults();
        faults.writes += 1;
        if let Some((_, errno)) = faults.fail_write.filter(|(number, _)| *number == faults.writes) {
            return Err(errno.into());
        }
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        bytes.truncate(faults.short_bytes.unwrap_or(usize::MAX));
        if let Some(room) = faults.room_bytes {
            let used: u64 = RealDisk.list(&self.directory)?.iter().map(|found| found.bytes).sum();
            let new = (offset + bytes.len() as u64).saturating_sub(self.bytes()?);
            let fits = new.min(room.saturating_sub(used));
            if fits == 0 && new > 0 {
                return Err(Errno::ENOSPC.into());
            }
            bytes.truncate(bytes.len() - (new - fits) as usize);
        }
        drop(faults);
        self.file.write_at(&[IoSlice::new(&bytes)], offset)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let mut faults = self.disk.faults();
        while faults.holds_syncs {
            faults = self.disk.0.1.wait(faults).unwrap();
        }
        faults.syncs += 1;
        faults.trusted_again += u64::from(self.has_failed.load(Relaxed));
        let mut synced = self.synced.lock().unwrap();
        let end = self.bytes()?;
        if faults.fail_all_syncs || faults.fail_syncs.contains(&faults.syncs) {
            self.has_failed.store(true, Relaxed);
            faults.failed.push((self.file.try_clone()?, *synced));
            if faults.forgets {
                self.file.truncate(*synced)?;
                self.file.truncate(end)?;
            }
            return Err(Errno::EIO.into());
        }
        *synced = end;
        Ok(())
    }

    fn has_name(&self) -> io::Result<bool> {
        DiskFile::has_name(&self.file)
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let mut faults = self.disk.faults();
        faults.allocated_bytes = faults.allocated_bytes.max(offset + bytes);
        Err(Errno::EOPNOTSUPP.into())
    }

    fn start_write_back(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}
