//! Sends notes to the service manager: sd_notify(3) with descriptors, and without blocking for long.
//!
//! Input: lines such as `READY=1`, and descriptors for the manager to keep. Output: datagrams on `NOTIFY_SOCKET`.
//! Thread: any. Failure: the manager does not read. Then the caller decides whether to try again.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sendmsg_addr, socket_with,
};

/// How long a note waits for the manager to take it, at most.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// Whether a note waits for a busy manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBusy {
    /// Fails with `WouldBlock` if it would have to wait.
    Fail,
    /// Waits for one second at most, then fails with `WouldBlock`.
    Wait,
}

/// The connection to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: OwnedFd,
    address: SocketAddrUnix,
}

impl Notifier {
    /// Connects to `NOTIFY_SOCKET`; None if no manager wants notes.
    ///
    /// # Errors
    /// If the address is not valid, or the kernel gives no socket.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return Ok(None) };
        Self::to(path.as_bytes()).map(Some)
    }

    /// Connects to the socket at `path`. A path that begins with `@` is abstract.
    ///
    /// # Errors
    /// As [`Notifier::from_environment`].
    pub fn to(path: &[u8]) -> io::Result<Self> {
        let address = match path {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            _ => SocketAddrUnix::new(path)?,
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(TAKEN_WITHIN))?;
        Ok(Self { socket, address })
    }

    /// Sends `note`, lines of `NAME=value`, and a descriptor if there is one. Once this returns, the manager has both,
    /// even if this process ends at once.
    ///
    /// # Errors
    /// `WouldBlock` if the manager does not take it in time; otherwise those of sendmsg(2).
    pub fn send(&self, note: &str, descriptor: Option<BorrowedFd<'_>>, when_busy: WhenBusy) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let descriptors = descriptor.as_slice();
        let flags = match when_busy {
            WhenBusy::Fail => SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            WhenBusy::Wait => SendFlags::NOSIGNAL,
        };
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                // There is room for one, and there is one.
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            let sent =
                sendmsg_addr(self.socket.as_fd(), &self.address, &[IoSlice::new(note.as_bytes())], &mut control, flags);
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[test]
    fn a_note_arrives_by_path_and_by_abstract_name_and_a_full_queue_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("dbufd-notify-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut buffer = [0; 64];
        for (address, manager) in [(path.to_str().unwrap().to_owned(), by_path), (format!("@{name}"), by_name)] {
            let notifier = Notifier::to(address.as_bytes()).unwrap();
            notifier.send("READY=1", None, WhenBusy::Wait).unwrap();
            let bytes = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..bytes], b"READY=1");
            let full = (0..100_000).find_map(|_| notifier.send("STATUS=x", None, WhenBusy::Fail).err());
            assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        }
    }
}
