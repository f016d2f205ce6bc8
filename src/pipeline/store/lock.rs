//! One daemon for a directory of segments.
//!
//! Enters: the directory. Leaves: a lock that lasts as long as the value, and is gone with the process however it ends.
//! What can fail: another daemon has it, and then its pid is known; or the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The name of the locked file.
const LOCK: &str = ".lock";

/// The lock.
#[derive(Debug)]
pub(super) struct Lock {
    /// Held for what happens when it is let go.
    _file: Flock<File>,
}

/// Why the lock was not had.
#[derive(Debug)]
pub(super) enum Refused {
    /// This process has it; 0 if it has not said so yet.
    Held(u32),
    /// The disk says no.
    Disk(io::Error),
}

/// Locks `directory`.
///
/// # Errors
/// [`Refused`].
pub(super) fn lock(directory: &Path) -> Result<Lock, Refused> {
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o640).open(path);
    match Flock::lock(file.map_err(Refused::Disk)?, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            // The pid is for people. Without it the lock still holds.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(Lock { _file: file })
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut pid);
            Err(Refused::Held(pid.trim().parse().unwrap_or(0)))
        }
        Err((_, e)) => Err(Refused::Disk(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_holder() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path()).unwrap();
        let Err(Refused::Held(pid)) = lock(directory.path()) else { panic!("two locks") };
        assert_eq!(pid, std::process::id());
        drop(first);
        assert!(lock(directory.path()).is_ok());
    }
}
