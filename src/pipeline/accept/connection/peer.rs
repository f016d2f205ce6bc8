//! Identifies the process at the other end by what the kernel vouches for.
//!
//! Input: a connected socket, or the credentials of a datagram. Output: an [`Identity`] without tag. Thread: writers,
//! once for each connection or for each process that sends datagrams, never for each event. Failure: none that matters.
//! What cannot be learned stays empty, because a guess would be a forgery.
//!
//! Command and unit come from /proc, by a process number. The kernel reuses the number when the process has ended. So
//! they count only if a pidfd shows that the process was alive *after* they were read.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::pipeline::account::Identity;
use crate::pipeline::record::{COMM_BYTES_MAX, UNIT_BYTES_MAX, USER_UNKNOWN};
use crate::sys::recvmmsg::Credentials;

/// What the kernel says when it knows no sender: no process, and the overflow user and group.
const NO_SENDER: Credentials = Credentials { pid: 0, uid: 65_534, gid: 65_534 };
const UNKNOWN: Credentials = Credentials { pid: 0, uid: USER_UNKNOWN, gid: USER_UNKNOWN };
/// The suffixes of those systemd units that can hold processes.
const UNIT_SUFFIXES: [&str; 6] = [".service", ".scope", ".socket", ".mount", ".swap", ".timer"];

/// Identifies the process that connected this socket.
pub(crate) fn of_stream(socket: &OwnedFd) -> Identity {
    named(by_credentials(socket), socket)
}

/// Identifies the process that connected the socket of a connection that the previous process has left. `noted` is what
/// that process knew.
///
/// The names that were noted were right, and stay. The process may have ended since, and another one may have its
/// number. So the number is not looked up: the kernel is asked for the process itself, which it has since 6.5. What was
/// not noted and cannot be asked for stays empty.
pub(crate) fn taken_over(socket: &OwnedFd, noted: Identity) -> Identity {
    let kernel = by_credentials(socket);
    if (kernel.pid, kernel.uid, kernel.gid) != (noted.pid, noted.uid, noted.gid) {
        return with_names_of(kernel, getsockopt(socket, PeerPidfd).ok());
    }
    if noted.comm.is_empty() && noted.unit.is_empty() {
        return with_names_of(noted, getsockopt(socket, PeerPidfd).ok());
    }
    noted
}

fn with_names_of(identity: Identity, process: Option<OwnedFd>) -> Identity {
    match process {
        Some(process) => with_names(identity, &process),
        None => identity,
    }
}

/// Identifies the process that connected this socket by numbers alone: one call. The names take several calls and about
/// 0.1 ms.
pub(crate) fn by_credentials(socket: &OwnedFd) -> Identity {
    let Ok(credentials) = getsockopt(socket, PeerCredentials) else { return numbers(UNKNOWN) };
    let pid = u32::try_from(credentials.pid()).unwrap_or(0);
    numbers(Credentials { pid, uid: credentials.uid(), gid: credentials.gid() })
}

/// What the kernel says of a sender, or that it says nothing.
pub(crate) fn vouched(sender: Option<Credentials>) -> Credentials {
    sender.filter(|sender| *sender != NO_SENDER).unwrap_or(UNKNOWN)
}

fn numbers(Credentials { pid, uid, gid }: Credentials) -> Identity {
    Identity { pid, uid, gid, ..Identity::default() }
}

/// Adds the names to an identity.
pub(crate) fn named(identity: Identity, socket: &OwnedFd) -> Identity {
    let pid = identity.pid;
    // Kernels before 6.5 give no pidfd for the peer. Opening one by number leaves a short time between connect and
    // accept in which the number can pass to another process. That is better than no names at all.
    with_names_of(identity, getsockopt(socket, PeerPidfd).ok().or_else(|| open(pid)))
}

/// Identifies the sender of a datagram. The pidfd tells when the process ends; None if it has ended already.
pub(crate) fn of_datagram(sender: Credentials) -> (Identity, Option<OwnedFd>) {
    let identity = numbers(sender);
    match open(sender.pid) {
        Some(process) => (with_names(identity, &process), Some(process)),
        None => (identity, None),
    }
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
}

fn with_names(identity: Identity, process: &OwnedFd) -> Identity {
    let pid = identity.pid;
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if is_gone(process) {
        return identity;
    }
    let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
    let comm = comm[..comm.len().min(COMM_BYTES_MAX)].into();
    let unit = unit_of(&cgroup).unwrap_or_default().as_bytes().into();
    Identity { comm, unit, ..identity }
}

/// A pidfd is readable when its process has ended (pidfd_open(2)).
fn is_gone(process: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// The system unit in the text of /proc/PID/cgroup: the first part of the path below its slices, as systemd reads it.
fn unit_of(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let (_, controllers_and_path) = line.split_once(':')?;
        let (controllers, path) = controllers_and_path.split_once(':')?;
        if !controllers.is_empty() && controllers != "name=systemd" {
            return None;
        }
        let unit = path.split('/').find(|part| !part.is_empty() && !part.ends_with(".slice"))?;
        // systemd puts an underscore before names that collide with the kernel's own files.
        let unit = unit.strip_prefix('_').unwrap_or(unit);
        let good = UNIT_SUFFIXES.iter().any(|suffix| unit.len() > suffix.len() && unit.ends_with(suffix));
        (good && unit.len() <= UNIT_BYTES_MAX).then_some(unit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    #[test]
    fn the_unit_is_the_one_that_systemd_would_name() {
        for (cgroup, unit) in [
            ("0::/system.slice/cron.service\n", Some("cron.service")),
            ("0::/system.slice/system-getty.slice/getty@tty1.service\n", Some("getty@tty1.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/foot.service\n", Some("user@1000.service")),
            ("0::/user.slice/user-1000.slice/session-2.scope\n", Some("session-2.scope")),
            ("4:memory:/a.service\n1:name=systemd:/system.slice/b.service\n0::/\n", Some("b.service")),
            ("0::/system.slice/_cpu.service\n", Some("cpu.service")),
            ("0::/\n", None),
            ("0::/docker/0123456789abcdef\n", None),
            ("0::/.service\n", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroup), unit, "{cgroup}");
        }
        assert_eq!(unit_of(&format!("0::/{}.service", "x".repeat(300))), None);
    }

    #[test]
    fn a_connection_names_the_process_that_made_it() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let identity = of_stream(&OwnedFd::from(ours));
        assert_eq!(identity.pid, std::process::id());
        assert_eq!(identity.uid, nix::unistd::getuid().as_raw());
        let comm = fs::read("/proc/self/comm").unwrap();
        assert_eq!(&*identity.comm, comm.strip_suffix(b"\n").unwrap());
    }

    fn noted(socket: &OwnedFd, comm: &[u8]) -> Identity {
        let unit = if comm.is_empty() { b"".as_slice() } else { b"shop.service" };
        Identity { comm: comm.into(), unit: unit.into(), ..by_credentials(socket) }
    }

    #[test]
    fn names_that_were_noted_stay_although_another_process_has_the_number_now() {
        // This process has the number, and another name.
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let socket = OwnedFd::from(ours);
        assert_eq!(taken_over(&socket, noted(&socket, b"shop")), noted(&socket, b"shop"));
    }

    #[test]
    fn what_was_noted_of_another_process_does_not_count() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let socket = OwnedFd::from(ours);
        for other in [
            Identity { pid: 1, ..noted(&socket, b"shop") },
            Identity { uid: 4711, ..noted(&socket, b"shop") },
            Identity { gid: 4711, ..noted(&socket, b"shop") },
        ] {
            let identity = taken_over(&socket, other);
            assert_eq!((identity.pid, identity.uid), (std::process::id(), nix::unistd::getuid().as_raw()));
            assert!(&*identity.comm != b"shop" && &*identity.unit != b"shop.service", "{identity:?}");
        }
    }

    #[test]
    fn a_number_is_never_looked_up_again_after_a_take_over() {
        // As on a kernel without SO_PEERPIDFD, or one that says nothing of a process that has ended.
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let identity = noted(&OwnedFd::from(ours), b"");
        assert_eq!(with_names_of(identity.clone(), None), identity, "its names stay empty");
    }

    #[test]
    fn a_process_that_is_gone_keeps_only_what_came_with_its_datagram() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let sender = Credentials { pid: child.id(), uid: 1, gid: 2 };
        let (identity, process) = of_datagram(sender);
        assert!(process.is_none() && identity.comm.is_empty());
        assert_eq!((identity.pid, identity.uid, identity.gid), (child.id(), 1, 2));
    }
}
