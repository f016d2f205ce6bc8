//! Identifies the process at the other end by what the kernel vouches for.
//!
//! Input: a connected socket, or the credentials of a datagram. Output: an [`Identity`] without tag. Thread: writers,
//! once for each connection or for each process that sends datagrams, never for each event. Failure: none that matters.
//! What cannot be learned stays empty, because a guess would be a forgery.

use std::os::fd::OwnedFd;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};

use crate::pipeline::accept::publish::{Names, Processes, open};
use crate::pipeline::account::Identity;
use crate::pipeline::record::USER_UNKNOWN;
use crate::sys::recvmmsg::Credentials;

/// What the kernel says when it knows no sender: no process, and the overflow user and group.
pub(crate) const NO_SENDER: Credentials = Credentials { pid: 0, uid: 65_534, gid: 65_534 };
const UNKNOWN: Credentials = Credentials { pid: 0, uid: USER_UNKNOWN, gid: USER_UNKNOWN };

/// Identifies the process that connected this socket.
pub(crate) fn of_stream(socket: &OwnedFd, processes: &mut Processes) -> Identity {
    named(by_credentials(socket), socket, processes)
}

/// Identifies the process that sends by a connection that the previous process has left. `noted` is what that process
/// knew. It may be another process than the one that connected.
///
/// The names that were noted were right, and stay. The process may have ended since, and another one may have its
/// number. So the number is not looked up: the kernel is asked for the process itself, which it has since 6.5. What was
/// not noted and cannot be asked for stays empty.
pub(crate) fn taken_over(socket: &OwnedFd, noted: Identity, processes: &mut Processes) -> Identity {
    let kernel = by_credentials(socket);
    let has_connected = (kernel.pid, kernel.uid, kernel.gid) == (noted.pid, noted.uid, noted.gid);
    if has_connected && noted.comm.is_empty() && noted.unit.is_empty() {
        return with_names(noted, getsockopt(socket, PeerPidfd).ok(), processes);
    }
    noted
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

/// Identifies a process by numbers alone.
pub(crate) fn numbers(Credentials { pid, uid, gid }: Credentials) -> Identity {
    Identity { pid, uid, gid, ..Identity::default() }
}

/// Adds the names to an identity, right after its connection was accepted.
pub(crate) fn named(identity: Identity, socket: &OwnedFd, processes: &mut Processes) -> Identity {
    let pid = identity.pid;
    // Kernels before 6.5 give no pidfd for the peer. Opening one by number leaves a short time between connect and
    // accept in which the number can pass to another process. That is better than no names at all.
    with_names(identity, getsockopt(socket, PeerPidfd).ok().or_else(|| open(pid)), processes)
}

fn with_names(identity: Identity, process: Option<OwnedFd>, processes: &mut Processes) -> Identity {
    let Some(process) = process else { return identity };
    let Names { comm, unit, .. } = processes.names_of(identity.pid, &process);
    Identity { comm, unit, ..identity }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_connection_names_the_process_that_made_it() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let identity = of_stream(&OwnedFd::from(ours), &mut Processes::default());
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
        let noted = noted(&socket, b"shop");
        assert_eq!(taken_over(&socket, noted.clone(), &mut Processes::default()), noted);
    }

    #[test]
    fn the_process_that_sent_last_stays_known_although_another_one_connected() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let socket = OwnedFd::from(ours);
        for comm in [&b"shop"[..], b""] {
            let noted = Identity { pid: 1, uid: 4711, gid: 4711, ..noted(&socket, comm) };
            assert_eq!(taken_over(&socket, noted.clone(), &mut Processes::default()), noted);
        }
    }

    #[test]
    fn a_number_is_never_looked_up_again_after_a_take_over() {
        // As on a kernel without SO_PEERPIDFD, or one that says nothing of a process that has ended.
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let identity = noted(&OwnedFd::from(ours), b"");
        assert_eq!(with_names(identity.clone(), None, &mut Processes::default()), identity, "its names stay empty");
    }
}
