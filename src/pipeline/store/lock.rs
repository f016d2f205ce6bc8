//! Holds the directory of segments: allows only one daemon for it, and keeps it open so that its names can be synced.
//!
//! Input: the directory's path. Output: a lock that lasts as long as the value, and ends with the process however that
//! ends; and syncs of the directory. Thread: any. Failure: another daemon holds the lock, and then its pid is known if
//! possible; or the disk fails.
//!
//! Two things are locked. A file in the directory, which contains the pid: earlier versions lock nothing else. And the
//! directory itself, because that file can be deleted, and another daemon would then lock a file of its own.
//!
//! The directory stays open. A sync of its names needs no new descriptor, so that a process without a free one never
//! takes that for a sync that failed. If another program replaces the directory, the next segment is created in the new
//! one, which is locked and opened before that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use rustix::fs::{FlockOperation, flock};

use super::disk::Disk;
use crate::sync::{Arc, Mutex, lock};

/// The name of the locked file.
const LOCK: &str = ".lock";

/// The directory, locked and open.
#[derive(Debug)]
pub(super) struct HeldDirectory {
    path: PathBuf,
    locks: Mutex<Locks>,
}

#[derive(Debug)]
struct Locks {
    directory: Arc<LockedDirectory>,
    /// Held because closing it releases the lock.
    _file: Flock<File>,
}

/// The open directory. It is locked, too, unless this process has already locked it for its sockets. Dropping it
/// releases the lock, also if a child that was just forked has a copy of the descriptor.
#[derive(Debug)]
struct LockedDirectory(File);

impl Drop for LockedDirectory {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Why the lock was refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// The process with this pid holds it; 0 if the pid is not known.
    Held(u32),
    /// The disk refused.
    Disk(io::Error),
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Held(pid) => Self::other(format!("another dbufd (pid {pid}) holds the directory of segments")),
            Refused::Disk(error) => error,
        }
    }
}

impl HeldDirectory {
    /// Locks the directory at `path`, and opens it.
    ///
    /// # Errors
    /// [`Refused`].
    pub(super) fn lock(path: &Path) -> Result<Self, Refused> {
        Ok(Self { path: path.to_path_buf(), locks: Mutex::new(lock_both(path)?) })
    }

    /// Holds the directory that is at the path now, if another program has replaced the one that was held.
    ///
    /// # Errors
    /// There is none, it cannot be opened, or another daemon holds it.
    pub(super) fn renew(&self) -> io::Result<()> {
        let mut locks = lock(&self.locks);
        if !is_at(&locks.directory.0, &self.path)? {
            *locks = lock_both(&self.path)?;
        }
        Ok(())
    }

    /// Makes the names in the directory durable. Opens nothing.
    ///
    /// # Errors
    /// Those of the disk; and if the directory at the path is no longer the one that is held.
    pub(super) fn sync(&self, disk: &dyn Disk) -> io::Result<()> {
        let directory = Arc::clone(&lock(&self.locks).directory);
        if !is_at(&directory.0, &self.path)? {
            return Err(io::Error::new(io::ErrorKind::NotFound, "another program replaced the directory of segments"));
        }
        disk.sync_directory(&directory.0)
    }
}

/// Whether an open directory is the one at `path`.
fn is_at(directory: &File, path: &Path) -> io::Result<bool> {
    let (held, there) = (directory.metadata()?, std::fs::metadata(path)?);
    Ok((held.dev(), held.ino()) == (there.dev(), there.ino()))
}

fn lock_both(path: &Path) -> Result<Locks, Refused> {
    let mut file = lock_file(path)?;
    let directory = lock_directory(path)?;
    // The pid is for display. The lock holds without it.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Locks { directory: Arc::new(LockedDirectory(directory)), _file: file })
}

fn lock_file(directory: &Path) -> Result<Flock<File>, Refused> {
    let mut options = OpenOptions::new();
    // A link could lead to a file that is not dbufd's.
    options.read(true).write(true).create(true).truncate(false).mode(0o640).custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = options.open(directory.join(LOCK)).map_err(|e| {
        let is_link = e.raw_os_error() == Some(Errno::ELOOP as i32);
        let link = || io::Error::new(e.kind(), format!("{LOCK} in it is a symbolic link, which must be removed"));
        Refused::Disk(if is_link { link() } else { e })
    })?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(file),
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut pid);
            Err(Refused::Held(pid.trim().parse().unwrap_or(0)))
        }
        Err((_, e)) => Err(Refused::Disk(e.into())),
    }
}

fn lock_directory(path: &Path) -> Result<File, Refused> {
    let directory = File::open(path).map_err(Refused::Disk)?;
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        // The directory of the sockets is the same one, and it is locked as long as the process lives.
        Err(rustix::io::Errno::WOULDBLOCK) if is_locked_here(&directory) => Ok(directory),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Refused::Held(holder(&directory).unwrap_or(0))),
        // A file system without such locks still has the lock of the file.
        _ => Ok(directory),
    }
}

/// Whether this process has locked the directory through another descriptor, by proc_pid_fdinfo(5).
fn is_locked_here(directory: &File) -> bool {
    let (Ok(about), Ok(open)) = (directory.metadata(), std::fs::read_dir("/proc/self/fd")) else { return false };
    open.flatten().any(|fd| {
        let info = Path::new("/proc/self/fdinfo").join(fd.file_name());
        std::fs::metadata(fd.path()).is_ok_and(|other| (other.dev(), other.ino()) == (about.dev(), about.ino()))
            && std::fs::read_to_string(info).is_ok_and(|info| info.contains("FLOCK"))
    })
}

/// The process that has locked this directory, by proc_locks(5), which names it by its inode. For display: another file
/// system may have the same inode.
fn holder(directory: &File) -> Option<u32> {
    let inode = format!(":{}", directory.metadata().ok()?.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let held = locks.lines().map(words).find(|words| {
        words.get(1).is_some_and(|kind| kind == "FLOCK") && words.get(5).is_some_and(|file| file.ends_with(&inode))
    })?;
    held.get(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::disk::RealDisk;
    use super::*;

    fn refused(directory: &Path) -> u32 {
        match HeldDirectory::lock(directory) {
            Err(Refused::Held(pid)) => pid,
            other => panic!("two locks: {other:?}"),
        }
    }

    #[test]
    fn a_second_lock_is_refused_and_names_the_holder() {
        let directory = tempfile::tempdir().unwrap();
        let first = HeldDirectory::lock(directory.path()).unwrap();
        assert_eq!(refused(directory.path()), std::process::id());
        // A child has the descriptor, as one that was forked and has not executed its program yet.
        let copy = lock(&first.locks).directory.0.try_clone().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").stdin(copy).spawn().unwrap();
        drop(first);
        let next = HeldDirectory::lock(directory.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(next.is_ok(), "{next:?}");
    }

    #[test]
    fn an_earlier_version_that_locks_the_file_alone_is_seen_and_sees_this_one() {
        let directory = tempfile::tempdir().unwrap();
        let earlier = || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(directory.path().join(LOCK));
            let file = file.unwrap();
            Flock::lock(file, FlockArg::LockExclusiveNonblock)
        };
        let first = earlier().unwrap();
        std::fs::write(directory.path().join(LOCK), "4711\n").unwrap();
        assert_eq!(refused(directory.path()), 4711);
        drop(first);
        let _now = HeldDirectory::lock(directory.path()).unwrap();
        assert!(earlier().is_err());
    }

    #[test]
    fn a_lock_file_that_is_a_link_is_refused_and_what_it_leads_to_stays() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("precious");
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, directory.path().join(LOCK)).unwrap();
        let Err(Refused::Disk(error)) = HeldDirectory::lock(directory.path()) else { panic!("it followed the link") };
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn a_directory_that_is_replaced_is_not_synced_in_place_of_the_new_one_and_the_new_one_is_locked() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("segments");
        std::fs::create_dir(&path).unwrap();
        let held = HeldDirectory::lock(&path).unwrap();
        held.sync(&RealDisk).unwrap();
        std::fs::rename(&path, root.path().join("moved")).unwrap();
        assert!(held.sync(&RealDisk).is_err() && held.renew().is_err(), "there is none");
        std::fs::create_dir(&path).unwrap();
        assert!(held.sync(&RealDisk).is_err());
        held.renew().unwrap();
        held.sync(&RealDisk).unwrap();
        refused(&path);
        assert!(HeldDirectory::lock(&root.path().join("moved")).is_ok(), "the old one is free");
    }

    /// Locks the directory for another process, which says so and waits for the end of its input.
    fn locked_by_another(directory: &Path) -> std::process::Child {
        let mut flock = std::process::Command::new("flock");
        flock.arg("--nonblock").arg(directory).args(["sh", "-c", "echo locked; read end"]);
        flock.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = flock.spawn().expect("util-linux is there");
        let mut said = [0; 7];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        child
    }

    #[test]
    fn a_daemon_whose_lock_file_was_deleted_still_holds_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let mut other = locked_by_another(directory.path());
        assert!(!directory.path().join(LOCK).exists());
        let pid = refused(directory.path());
        assert!(pid == 0 || pid != std::process::id(), "{pid}");
        drop(other.stdin.take());
        other.wait().unwrap();
        assert!(HeldDirectory::lock(directory.path()).is_ok());
    }

    #[test]
    fn a_directory_that_this_process_has_locked_for_its_sockets_can_have_its_segments_too() {
        let directory = tempfile::tempdir().unwrap();
        let sockets = File::open(directory.path()).unwrap();
        let _sockets = Flock::lock(sockets, FlockArg::LockExclusiveNonblock).unwrap();
        let held = HeldDirectory::lock(directory.path()).unwrap();
        held.sync(&RealDisk).unwrap();
        assert_eq!(refused(directory.path()), std::process::id(), "once");
    }
}
