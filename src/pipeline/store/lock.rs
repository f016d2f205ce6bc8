//! Allows only one daemon for each directory of segments.
//!
//! Input: the directory. Output: a lock that lasts as long as the value, and ends with the process however that ends.
//! Thread: any. Failure: another daemon holds the lock, and then its pid is known; or the disk fails.

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
    /// Held because closing it releases the lock.
    _file: Flock<File>,
}

/// Why the lock was refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// The process with this pid holds it; 0 if that process has not yet written its pid.
    Held(u32),
    /// The disk refused.
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
            // The pid is for display. The lock holds without it.
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
