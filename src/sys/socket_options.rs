//! Wraps options of Unix sockets that are newer than nix and rustix.
//!
//! Input: a socket. Output: none. Thread: any. Failure: the kernel does not know the option.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{PassCred, SetBool};

/// asm-generic/socket.h, since Linux 6.5.
const SO_PASSPIDFD: libc::c_int = 76;
/// The same, since Linux 6.16.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Whether peers may send descriptors to this socket.
#[derive(Clone, Copy, Debug)]
struct PassRights;

/// Whether the kernel attaches the sender's pidfd to what this socket receives.
#[derive(Clone, Copy, Debug)]
struct PassPidfd;

nix::setsockopt_impl!(PassPidfd, libc::SOL_SOCKET, SO_PASSPIDFD, bool, SetBool);
nix::setsockopt_impl!(PassRights, libc::SOL_SOCKET, SO_PASSRIGHTS, bool, SetBool);

/// Refuses descriptors that peers send to this socket: their call fails with EPERM. A listening socket passes this on
/// to connections that are made later.
///
/// Otherwise the kernel closes a descriptor that is sent and not asked for in the thread that receives, and a close can
/// take as long as its sender wishes.
///
/// # Errors
/// Before Linux 6.16 the kernel does not know the option.
pub fn refuse_descriptors(socket: impl AsFd) -> io::Result<()> {
    Ok(setsockopt(&socket, PassRights, &false)?)
}

/// Has the kernel name the sender of everything that this socket receives, and refuse descriptors. A listening socket
/// passes this on to its connections. True if the kernel also attaches the sender's pidfd.
///
/// # Errors
/// If the kernel cannot name the sender.
pub fn identify_senders(socket: impl AsFd) -> io::Result<bool> {
    setsockopt(&socket, PassCred, &true)?;
    // A pidfd comes after the descriptors of the sender. So there is only room for it where there can be none.
    Ok(refuse_descriptors(&socket).is_ok() && setsockopt(&socket, PassPidfd, &true).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::errno::Errno;
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    #[test]
    fn no_descriptor_comes_by_a_connection_of_a_socket_that_refuses_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        if refuse_descriptors(&listener).is_err() {
            return eprintln!("skipped: this kernel is older than 6.16");
        }
        let client = UnixStream::connect(&path).unwrap();
        let send = || {
            let descriptors = [listener.as_raw_fd()];
            let control = [ControlMessage::ScmRights(&descriptors)];
            sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None)
        };
        assert_eq!(send(), Err(Errno::EPERM), "while it waits to be accepted");
        let _accepted = listener.accept().unwrap();
        assert_eq!(send(), Err(Errno::EPERM), "and later");
    }
}
