//! Creates the sockets, or takes them over from systemd. The accepting threads serve them.
//!
//! Input: the runtime directory, mode and group. Output: bound, non-blocking descriptors, and the duty to remove the
//! files. Control thread. Failures: every error of a path, and another process that serves it.
//!
//! Two guards keep two daemons apart:
//! 1. A lock on the runtime directory, held for the life of the process: of two that start together, one stops.
//! 2. A check whether a process answers on the path, which may be another program's or systemd's. Only a file without
//!    an answer is removed.
//!
//! A socket gets its mode before its path, so at no moment can more processes connect than allowed.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockname, getsockopt, listen, socket,
    sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::Gid;

use crate::config::paths::{CONTROL_SOCKET, DATAGRAM_SOCKET, STREAM_SOCKET, make_runtime_dir};
use crate::config::settings::Ingest;
use crate::pipeline::accept::{Listener, ListenerKind};
use crate::sys::socket_options::refuse_descriptors;

/// The longest path that the kernel accepts for a socket. One byte of its field is the terminator.
const PATH_BYTES_MAX: usize = 107;
/// Mode of the control socket: this user and this group. The server decides by the user what each may ask.
const CONTROL_MODE: u32 = 0o660;
/// Connections that may wait to be accepted, within the kernel's own limit.
const BACKLOG: i32 = 4096;

/// A socket that takes events: its file, its type, and what it carries. Each kind of source has a row.
struct EventSocket {
    file: &'static str,
    socket_type: SockType,
    kind: ListenerKind,
}

const EVENT_SOCKETS: [EventSocket; 2] = [
    EventSocket { file: STREAM_SOCKET, socket_type: SockType::Stream, kind: ListenerKind::Stream },
    EventSocket { file: DATAGRAM_SOCKET, socket_type: SockType::Datagram, kind: ListenerKind::Datagram },
];

/// The runtime directory, locked against other daemons.
#[derive(Debug)]
pub(super) struct Runtime {
    path: PathBuf,
    _lock: Flock<File>,
}

/// All sockets, ready to be served.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Those that take events.
    pub(super) listeners: Vec<Listener>,
    /// For dbufctl; it listens.
    pub(super) control: OwnedFd,
    /// The files of the sockets that were created here.
    pub(super) files: Files,
}

/// Socket files that this process made. They are removed when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Files {
    ingest: Vec<Made>,
    control: Option<Made>,
}

#[derive(Debug)]
struct Made {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Runtime {
    /// Creates the directory if it is missing, and locks it for this process.
    pub(super) fn take(path: &Path) -> Result<Self> {
        let shown = path.display();
        // Other processes see a socket's path, and may have another working directory.
        let path = std::path::absolute(path).with_context(|| format!("{shown}: not a usable path"))?;
        make_runtime_dir(&path)
            .with_context(|| format!("{shown}: cannot create the directory of the sockets (--runtime)"))?;
        let directory = File::open(&path)
            .with_context(|| format!("{shown}: cannot open the directory of the sockets (--runtime)"))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => {
                let holder = match answering(&path.join(CONTROL_SOCKET), SockType::Stream) {
                    Ok(Some(Holder { pid: Some(pid) })) => format!("another dbufd (pid {pid})"),
                    _ => "another dbufd".to_owned(),
                };
                bail!("{holder} uses {shown}; stop it, or name another directory with --runtime")
            }
            Err((_, error)) => bail!("{shown}: cannot be locked: {error}"),
        }
    }

    /// Takes the sockets that systemd passed, and creates the others.
    pub(super) fn open(&self, ingest: &Ingest, group: Option<Gid>, passed: Vec<(OwnedFd, String)>) -> Result<Sockets> {
        let passed = sort(passed).context("cannot take the sockets that systemd passed")?;
        let mut files = Files::default();
        let make = |name: &str, kind, mode, group| -> Result<(OwnedFd, Made)> {
            let path = self.path.join(name);
            make_way(&path, kind)?;
            make(&path, kind, mode, group).with_context(|| format!("{}: cannot create the socket", path.display()))
        };
        let mut listeners = Vec::new();
        for (EventSocket { file, socket_type, kind }, passed) in EVENT_SOCKETS.iter().zip(passed.events) {
            let is_passed = passed.is_some();
            let socket = match passed {
                Some(socket) => socket,
                None => {
                    let (socket, made) = make(file, *socket_type, ingest.socket_mode, group)?;
                    files.ingest.push(made);
                    socket
                }
            };
            listeners.push(Listener { kind: *kind, socket, is_passed });
        }
        let control = match passed.control {
            Some(socket) => socket,
            None => {
                let (socket, made) = make(CONTROL_SOCKET, SockType::Stream, CONTROL_MODE, None)?;
                files.control = Some(made);
                socket
            }
        };
        // The listeners of the pipeline do the same. An error means a kernel without this option.
        let _ = refuse_descriptors(&control);
        Ok(Sockets { listeners, control, files })
    }
}

impl Files {
    /// Removes the files: no new sender finds the sockets. Existing connections are served on.
    pub(super) fn remove_ingest(&mut self) {
        self.ingest.clear();
    }

    /// Changes the permissions of the sockets that take events.
    pub(super) fn set_access(&self, mode: u32, group: Option<Gid>) -> io::Result<()> {
        for made in &self.ingest {
            // The group first: changing it may clear mode bits.
            nix::unistd::chown(&made.path, None, Some(group.unwrap_or_else(Gid::effective)))?;
            std::fs::set_permissions(&made.path, PermissionsExt::from_mode(mode))?;
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Another process may have put its own file there.
        let still_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode));
        if still_ours {
            // If it cannot be removed, the next start finds it without an answer and removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn make(path: &Path, kind: SockType, mode: u32, group: Option<Gid>) -> Result<(OwnedFd, Made)> {
    let length = path.as_os_str().len();
    if length > PATH_BYTES_MAX {
        bail!(
            "the path has {length} bytes, and a socket's at most {PATH_BYTES_MAX}; choose a shorter one with --runtime"
        );
    }
    let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // unix(7): the file gets the socket's own mode without the bits of the umask, which are restored below.
    fchmod(&socket, Mode::from_bits_truncate(mode))?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let meta = std::fs::symlink_metadata(path)?;
    let made = Made { path: path.to_owned(), device: meta.dev(), inode: meta.ino() };
    if group.is_some() {
        nix::unistd::chown(path, None, group).context("cannot give it to the configured group")?;
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    if kind == SockType::Stream {
        // Last: nothing can connect before this.
        listen(&socket, Backlog::new(BACKLOG)?)?;
    }
    Ok((socket, made))
}

/// Removes a socket file that a dead process left behind.
fn make_way(path: &Path, kind: SockType) -> Result<()> {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => bail!("{shown}: cannot be read: {error}"),
        Ok(meta) if !meta.file_type().is_socket() => bail!("{shown} exists and is not a socket; remove it"),
        Ok(_) => {}
    }
    match answering(path, kind) {
        Ok(None) => std::fs::remove_file(path).with_context(|| format!("{shown}: a dead socket cannot be removed")),
        Ok(Some(Holder { pid: Some(1) })) => {
            bail!("systemd holds {shown}; start dbufd with 'systemctl start dbufd', or stop dbufd.socket first")
        }
        Ok(Some(Holder { pid: Some(pid) })) => bail!("another process (pid {pid}) holds {shown}; stop it first"),
        Ok(Some(Holder { pid: None })) => bail!("another process holds {shown}; stop it first (ss -xlp names it)"),
        Err(error) => bail!("{shown}: cannot find out whether it is in use: {error}"),
    }
}

/// The process that answers on a socket.
struct Holder {
    pid: Option<i32>,
}

/// Whether a process answers on a path, and which one, if the kernel says so.
fn answering(path: &Path, kind: SockType) -> nix::Result<Option<Holder>> {
    // Non-blocking: a listener with a full queue is alive, and must not block this start.
    let probe = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => {
            // For a stream, these are the credentials of the listener. A datagram socket has none.
            let peer = getsockopt(&probe, sockopt::PeerCredentials).ok().map(|peer| peer.pid());
            Ok(Some(Holder { pid: peer.filter(|&pid| pid > 0) }))
        }
        Err(Errno::EAGAIN) => Ok(Some(Holder { pid: None })),
        // EPROTOTYPE: alive, but of another type.
        Err(Errno::EPROTOTYPE) => Ok(Some(Holder { pid: None })),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sockets from a socket unit.
#[derive(Debug, Default)]
struct Passed {
    /// In the order of [`EVENT_SOCKETS`].
    events: [Option<OwnedFd>; EVENT_SOCKETS.len()],
    control: Option<OwnedFd>,
}

/// Recognised by `FileDescriptorName=` if a unit says "control", otherwise by their type. A socket unit has one name
/// for all of its sockets, so the name alone is not reliable.
fn sort(sockets: Vec<(OwnedFd, String)>) -> Result<Passed> {
    let mut passed = Passed::default();
    for (socket, name) in sockets {
        let kind = getsockopt(&socket, sockopt::SockType).context("a passed descriptor is not a socket")?;
        let path = path_of(&socket);
        let is_at = |file: &str| path.as_ref().is_some_and(|path| path.ends_with(file));
        let is_control = kind == SockType::Stream && (name == "control" || is_at(CONTROL_SOCKET));
        // By its file if that is one of ours, else the first of its type.
        let mut of_type = (0..).zip(&EVENT_SOCKETS).filter(|(_, socket)| socket.socket_type == kind);
        let at = of_type.clone().find(|(_, socket)| is_at(socket.file)).or_else(|| of_type.next());
        let place = match at {
            _ if is_control => &mut passed.control,
            Some((at, _)) => &mut passed.events[at],
            None => bail!("a passed socket is of type {kind:?}; dbufd accepts stream and datagram sockets"),
        };
        if place.is_some() {
            tracing::warn!(name, "systemd passed a second socket of one kind; it is not served");
            continue;
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        *place = Some(socket);
    }
    Ok(passed)
}

fn path_of(socket: &OwnedFd) -> Option<PathBuf> {
    getsockname::<UnixAddr>(socket.as_raw_fd()).ok()?.path().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn ingest(mode: u32) -> Ingest {
        Ingest { max_event_bytes: 1024, socket_mode: mode, socket_group: None, rings: 0, ring_bytes: 0 }
    }

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn sockets_have_their_modes_and_are_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::take(&dir.path().join("run")).unwrap();
        let sockets = runtime.open(&ingest(0o622), None, Vec::new()).unwrap();
        let [stream, datagram, control] =
            [STREAM_SOCKET, DATAGRAM_SOCKET, CONTROL_SOCKET].map(|name| runtime.path.join(name));
        assert_eq!([&stream, &datagram, &control].map(|path| mode_of(path)), [0o622, 0o622, 0o660]);
        UnixStream::connect(&stream).unwrap();
        UnixStream::connect(&control).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"x", &datagram).unwrap();
        sockets.files.set_access(0o600, None).unwrap();
        assert_eq!([&stream, &datagram, &control].map(|path| mode_of(path)), [0o600, 0o600, 0o660]);
        drop(sockets);
        assert_eq!(std::fs::read_dir(&runtime.path).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_that_a_dead_process_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(dir.path().join(STREAM_SOCKET)).unwrap());
        drop(UnixDatagram::bind(dir.path().join(DATAGRAM_SOCKET)).unwrap());
        let runtime = Runtime::take(dir.path()).unwrap();
        runtime.open(&ingest(0o666), None, Vec::new()).unwrap();
    }

    #[test]
    fn a_socket_in_use_is_left_alone_and_its_owner_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STREAM_SOCKET);
        let alive = UnixListener::bind(&path).unwrap();
        let runtime = Runtime::take(dir.path()).unwrap();
        let error = format!("{:#}", runtime.open(&ingest(0o666), None, Vec::new()).unwrap_err());
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(alive);
        let _alive = UnixDatagram::bind(dir.path().join(DATAGRAM_SOCKET)).unwrap();
        let error = format!("{:#}", runtime.open(&ingest(0o666), None, Vec::new()).unwrap_err());
        assert!(error.contains("holds") && error.contains(DATAGRAM_SOCKET), "{error}");
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(STREAM_SOCKET), "precious").unwrap();
        let runtime = Runtime::take(dir.path()).unwrap();
        let error = runtime.open(&ingest(0o666), None, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("is not a socket"), "{error}");
    }

    #[test]
    fn a_directory_serves_one_daemon_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Runtime::take(dir.path()).unwrap();
        let _sockets = first.open(&ingest(0o666), None, Vec::new()).unwrap();
        let error = Runtime::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("another dbufd (pid {})", std::process::id())), "{error}");
        drop(first);
        Runtime::take(dir.path()).unwrap();
    }

    #[test]
    fn the_error_of_a_path_that_is_too_long_gives_the_limit_in_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::take(&dir.path().join("x".repeat(120))).unwrap();
        let error = format!("{:#}", runtime.open(&ingest(0o666), None, Vec::new()).unwrap_err());
        assert!(error.contains("at most 107"), "{error}");
    }

    #[test]
    fn passed_sockets_are_told_apart_by_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let unit = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
        let passed = sort(vec![
            (unit("a.sock").into(), "dbufd.socket".into()),
            (UnixDatagram::bind(dir.path().join("b.sock")).unwrap().into(), "dbufd.socket".into()),
            (unit(CONTROL_SOCKET).into(), "dbufd.socket".into()),
        ])
        .unwrap();
        let [stream, datagram] = passed.events.map(Option::unwrap);
        assert_eq!(path_of(&stream), Some(dir.path().join("a.sock")));
        assert_eq!(path_of(&datagram), Some(dir.path().join("b.sock")));
        assert_eq!(path_of(&passed.control.unwrap()), Some(dir.path().join(CONTROL_SOCKET)));
        let named = sort(vec![(unit("d.sock").into(), "control".into())]).unwrap();
        assert!(named.control.is_some() && named.events.iter().all(Option::is_none));
    }
}
