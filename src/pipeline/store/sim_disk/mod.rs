//! Simulates a disk in memory that forgets what was not synced, for tests: a kernel with its memory, and the platter
//! behind it.
//!
//! Input: the store's calls. Each has a number and a name (the operation, and the kind of file), and a [`Watch`] may
//! let it pass, fail, cut short, or answer without doing anything. Output: before each call, the state of the kernel. A
//! test may keep it and continue from it: as a killed process leaves it ([`Kernel::clone`]), or as a loss of power does
//! ([`Kernel::lose_power`]).
//!
//! What a loss of power leaves, as [`Choices`] decide. Real disks and file systems promise as much, and most more:
//! 1. Of each block of a file, what it held at the last sync that succeeded, or after any later write: blocks are
//!    written back in any order, at any time, and each of them whole. A block that was never written is zeros; never
//!    another file's bytes.
//! 2. A file is as long as it was at the last sync that succeeded, or at any later time. What a truncation had cut off
//!    does not come back once the file has grown again.
//! 3. Each name that was made, renamed or removed since the directory was synced is as it was before or as it is after.
//!    A rename is whole. Changes that concern the same name or the same file keep their order; others need not.
//! 4. A sync of a file makes its content and length durable, not its name. A sync of the directory does the reverse.
//! 5. A sync that fails has done nothing, and no later one does: the kernel takes what it could not write for clean.

mod choices;
mod kernel;

use std::fs;
use std::io::{self, IoSlice};
use std::path::Path;

use dbuf_segment::name::{Name, REPAIR, State};
use nix::errno::Errno;

use super::disk::{Disk, DiskFile, Found, ReadAt, Space};
use crate::sync::{Arc, Mutex, MutexGuard};
pub(crate) use choices::{Choices, random};
pub(crate) use kernel::Kernel;
use kernel::{Change, Content, Inode};

/// The operations of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    List,
    Create,
    Open,
    Read,
    Write,
    Truncate,
    Sync,
    Allocate,
    WriteBack,
    Rename,
    Remove,
    SyncDirectory,
}

impl Operation {
    /// Whether it changes what another thread, another process or the next start can see.
    pub(crate) fn changes(self) -> bool {
        !matches!(self, Self::List | Self::Open | Self::Read | Self::WriteBack)
    }
}

/// The name of the directory.
const DIRECTORY: &str = ".";

/// The kind of file that a call concerns, by the file's current name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Directory,
    Active,
    Sealed,
    Torn,
    Repair,
    /// It has no name any more, or a foreign one.
    Nameless,
}

impl Kind {
    fn of(name: &str) -> Self {
        match Name::parse(name).map(|name| name.state) {
            Some(State::Active) => Self::Active,
            Some(State::Sealed) => Self::Sealed,
            Some(State::Torn) => Self::Torn,
            None if name.ends_with(REPAIR) => Self::Repair,
            None if name == DIRECTORY => Self::Directory,
            None => Self::Nameless,
        }
    }
}

/// A call of the store, which names a crash point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) operation: Operation,
    pub(crate) kind: Kind,
    /// The first sequence of the segment, if the file has the name of one.
    pub(crate) first_sequence: Option<u64>,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Go,
    Fail(Errno),
    /// A write takes this many bytes at most.
    Short(usize),
    /// It reports success and does nothing.
    Lie,
    /// A sync fails, and what it should have made durable is gone from memory, too.
    Forget,
}

/// Watches the calls. It is called without a lock, so that it may call the disk itself.
pub(crate) trait Watch: Send + Sync {
    /// The call is about to be made. A crash now leaves what the calls before it have left.
    fn before(&self, call: &Call) -> Verdict;

    /// The call was made, and the caller does not know it yet.
    fn after(&self, _: &Call) {}
}

#[derive(Default)]
struct Inner {
    kernel: Kernel,
    calls: u64,
    watch: Option<Arc<dyn Watch>>,
}

#[derive(Clone, Default)]
pub(crate) struct SimDisk(Arc<Mutex<Inner>>);

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl SimDisk {
    /// A disk that continues from there.
    pub(crate) fn of(kernel: Kernel) -> Self {
        Self(Arc::new(Mutex::new(Inner { kernel, ..Inner::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(crate) fn watch(&self, watch: Option<Arc<dyn Watch>>) {
        self.lock().watch = watch;
    }

    pub(crate) fn kernel(&self) -> Kernel {
        self.lock().kernel.clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Kernel)) {
        change(&mut self.lock().kernel);
    }

    /// Another program removes the files of this kind.
    pub(crate) fn delete(&self, kind: Kind) {
        let kernel = &mut self.lock().kernel;
        let names: Vec<String> = kernel.names.keys().filter(|name| Kind::of(name) == kind).cloned().collect();
        for name in names {
            let inode = kernel.names.remove(&name).expect("it was there");
            kernel.changes.push(Change::Removed(name, inode));
        }
    }

    pub(crate) fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Makes a call, after asking the watch.
    fn call<T>(
        &self,
        operation: Operation,
        name: &str,
        lied: impl FnOnce() -> T,
        act: impl FnOnce(&mut Kernel, Verdict) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut inner = self.lock();
        inner.calls += 1;
        let first_sequence = Name::parse(name).map(|name| name.first_sequence);
        let call = Call { number: inner.calls, operation, kind: Kind::of(name), first_sequence };
        let watch = inner.watch.clone();
        drop(inner);
        let verdict = watch.as_ref().map_or(Verdict::Go, |watch| watch.before(&call));
        let result = match verdict {
            Verdict::Lie => Ok(lied()),
            // Only a failed sync leaves a trace.
            Verdict::Fail(errno) if operation != Operation::Sync => Err(errno.into()),
            verdict => act(&mut self.lock().kernel, verdict),
        };
        if let Some(watch) = watch {
            watch.after(&call);
        }
        result
    }

    fn file(&self, inode: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode })
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().and_then(|name| name.to_str()).expect("a name of ours").to_string()
}

impl Disk for SimDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        // The lock is there.
        fs::create_dir_all(path)
    }

    fn list(&self, _: &Path) -> io::Result<Vec<Found>> {
        self.call(Operation::List, DIRECTORY, Vec::new, |kernel, _| {
            let found = |(name, bytes): (&str, &[u8])| Found { name: name.into(), bytes: bytes.len() as u64 };
            Ok(kernel.files().map(found).collect())
        })
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let name = name_of(path);
        let inode = self.call(
            Operation::Create,
            &name,
            || 0,
            |kernel, _| {
                if kernel.names.contains_key(&name) {
                    return Err(Errno::EEXIST.into());
                }
                let inode = kernel.inodes.len();
                let empty = Content { bytes: Arc::default(), cut: None };
                kernel.inodes.push(Inode { since_sync: vec![empty], sync_failed: false });
                kernel.names.insert(name.clone(), inode);
                kernel.changes.push(Change::Made(name.clone(), inode));
                Ok(inode)
            },
        )?;
        Ok(self.file(inode))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let name = name_of(path);
        let find = |kernel: &mut Kernel, _| kernel.names.get(&name).copied().ok_or_else(|| Errno::ENOENT.into());
        Ok(self.file(self.call(Operation::Open, &name, || 0, find)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (name_of(from), name_of(to));
        self.call(
            Operation::Rename,
            &to.clone(),
            || (),
            |kernel, _| {
                if kernel.names.contains_key(&to) {
                    return Err(Errno::EEXIST.into());
                }
                let inode = kernel.names.remove(&from).ok_or(Errno::ENOENT)?;
                kernel.names.insert(to.clone(), inode);
                kernel.changes.push(Change::Renamed(from, to, inode));
                Ok(())
            },
        )
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let name = name_of(path);
        self.call(
            Operation::Remove,
            &name,
            || (),
            |kernel, _| {
                let inode = kernel.names.remove(&name).ok_or(Errno::ENOENT)?;
                kernel.changes.push(Change::Removed(name.clone(), inode));
                Ok(())
            },
        )
    }

    fn sync_directory(&self, _: &fs::File) -> io::Result<()> {
        self.call(
            Operation::SyncDirectory,
            DIRECTORY,
            || (),
            |kernel, _| {
                kernel.synced_names = kernel.names.clone();
                kernel.changes.clear();
                Ok(())
            },
        )
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        // Its size is not known, and it takes everything.
        Err(Errno::ENOSYS.into())
    }
}

impl SimFile {
    fn call<T>(
        &self,
        operation: Operation,
        lied: impl FnOnce() -> T,
        act: impl FnOnce(&mut Inode, Verdict) -> io::Result<T>,
    ) -> io::Result<T> {
        let named = self.disk.lock().kernel.names.iter().find(|(_, inode)| **inode == self.inode).map(|n| n.0.clone());
        self.disk.call(operation, &named.unwrap_or_default(), lied, |kernel, verdict| {
            act(&mut kernel.inodes[self.inode], verdict)
        })
    }
}

impl ReadAt for SimFile {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        self.call(Operation::Read, || 0, |inode, _| inode.now().read_at(to, offset))
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.lock().kernel.inodes[self.inode].now().len() as u64)
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut new: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let all = new.len();
        self.call(
            Operation::Write,
            || all,
            |inode, verdict| {
                if let Verdict::Short(bytes) = verdict {
                    new.truncate(bytes);
                }
                let (from, to) = (offset as usize, offset as usize + new.len());
                inode.change(None, |bytes| {
                    bytes.resize(bytes.len().max(to), 0);
                    bytes[from..to].copy_from_slice(&new);
                });
                Ok(new.len())
            },
        )
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let to = bytes as usize;
        self.call(
            Operation::Truncate,
            || (),
            |inode, _| {
                inode.change(Some(to), |bytes| bytes.resize(to, 0));
                Ok(())
            },
        )
    }

    fn sync(&self) -> io::Result<()> {
        self.call(
            Operation::Sync,
            || (),
            |inode, verdict| {
                if let Verdict::Fail(_) | Verdict::Forget = verdict {
                    inode.sync_failed = true;
                    if verdict == Verdict::Forget {
                        inode.since_sync.truncate(1);
                    }
                    return Err(Errno::EIO.into());
                }
                if !inode.sync_failed {
                    inode.since_sync.drain(..inode.since_sync.len() - 1);
                }
                Ok(())
            },
        )
    }

    fn has_name(&self) -> io::Result<bool> {
        Ok(self.disk.lock().kernel.names.values().any(|inode| *inode == self.inode))
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        // The length stays, and allocated bytes read as zeros, so nothing must be remembered.
        self.call(Operation::Allocate, || (), |_, _| Ok(()))
    }

    fn start_write_back(&self, _: u64, _: u64) -> io::Result<()> {
        self.call(Operation::WriteBack, || (), |_, _| Ok(()))
    }
}
