//! Wraps PIDFD_GET_INFO of ioctl(2): what the kernel knows of a process, also after it has ended.
//!
//! Input: a pidfd. Output: a [`ProcessInfo`]. Thread: any. Failure: the kernel is too old, or the process is in another
//! pid namespace.

#![allow(unsafe_code, reason = "a system call without a wrapper")]

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// `_IOWR(0xFF, 11, struct pidfd_info)` of linux/pidfd.h, in its first version of 64 bytes (Linux 6.13).
const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;
const PID: u64 = 1 << 0;
const CGROUP: u64 = 1 << 2;
/// Since Linux 6.15: the kernel also answers for a process that has been reaped.
const EXIT: u64 = 1 << 3;

/// `struct pidfd_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ids: [u32; 9],
    exit_code: i32,
}

const _: () = assert!(size_of::<Info>() == 64);

/// What the kernel knows of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its number; None once it has been reaped.
    pub pid: Option<u32>,
    /// The id of its cgroup in the unified hierarchy: the inode of the directory. Of a process that has been reaped,
    /// the last one.
    pub cgroup: Option<u64>,
}

/// Asks for a process by its pidfd. None if the kernel does not answer.
pub fn info(process: impl AsFd) -> Option<ProcessInfo> {
    let mut info = Info { mask: PID | CGROUP | EXIT, ..Info::default() };
    // SAFETY: ioctl(2): PIDFD_GET_INFO writes at most the 64 bytes that its number states, which are those of `info`.
    let answer = unsafe { libc::ioctl(process.as_fd().as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    let Info { mask, cgroup, tgid, .. } = info;
    let has = |bit| mask & bit != 0;
    (answer == 0).then(|| ProcessInfo { pid: has(PID).then_some(tgid), cgroup: has(CGROUP).then_some(cgroup) })
}

/// Whether this kernel describes processes.
#[must_use]
pub fn are_described() -> bool {
    let own = pidfd_open(getpid(), PidfdFlags::empty());
    own.is_ok_and(|own| info(own).is_some_and(|info| info.pid.is_some() && info.cgroup.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::Pid;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_its_cgroup_also_after_it_was_reaped() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let alive = info(&process);
        drop(child.stdin.take());
        child.wait().unwrap();
        let Some(alive) = alive else { return eprintln!("skipped: this kernel is older than 6.13") };
        assert_eq!(alive.pid, Some(child.id()));
        if let Some(reaped) = info(&process) {
            assert_eq!(reaped, ProcessInfo { pid: None, cgroup: alive.cgroup });
        }
    }
}
