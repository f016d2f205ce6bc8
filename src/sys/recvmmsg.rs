//! recvmmsg(2): many datagrams of a Unix socket by one call, each with the credentials of its sender.
//!
//! Enters: a socket with SO_PASSCRED. Leaves: datagrams in one arena. One thread. What can fail: the call itself.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// The most datagrams of one call.
pub const COUNT_MAX: usize = 64;
/// Words of the control buffer: a cmsghdr (16 bytes), a ucred (12 bytes) and its padding. With no room for more, the
/// kernel closes descriptors that a sender attaches.
const CONTROL_WORDS: usize = 4;
/// The sum of cmsghdr and ucred, which is what cmsg_len says.
const CREDENTIALS_LEN: u64 = 28;

/// Who sent a datagram, as the kernel vouches (SCM_CREDENTIALS of unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Process id.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// One datagram that was received.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// Where it begins in [`Receiver::arena`].
    pub start: usize,
    /// How long it was when it was sent; more than [`Receiver::datagram_bytes_max`] if it was cut.
    pub bytes: usize,
    /// Its sender, if the kernel said so.
    pub sender: Option<Credentials>,
}

/// Memory for a batch of datagrams.
#[derive(Debug)]
pub struct Receiver {
    arena: Box<[u8]>,
    datagram_bytes_max: usize,
    control: Box<[[u64; CONTROL_WORDS]]>,
    /// Length of each datagram that the last call brought.
    lengths: Box<[u32]>,
}

impl Receiver {
    /// For `count` datagrams of `datagram_bytes_max` at a time; at most [`COUNT_MAX`].
    #[must_use]
    pub fn new(count: usize, datagram_bytes_max: usize) -> Self {
        let count = count.clamp(1, COUNT_MAX);
        Self {
            arena: vec![0; count * datagram_bytes_max].into(),
            datagram_bytes_max,
            control: vec![[0; CONTROL_WORDS]; count].into(),
            lengths: vec![0; count].into(),
        }
    }

    /// The bytes of all datagrams.
    #[must_use]
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// The largest datagram that is not cut.
    #[must_use]
    pub fn datagram_bytes_max(&self) -> usize {
        self.datagram_bytes_max
    }

    /// The most datagrams that one call brings.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lengths.len()
    }

    /// Receives what is there, without waiting. Returns how many.
    ///
    /// # Errors
    /// What recvmmsg(2) says; `WouldBlock` if nothing is there.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let mut iovecs = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; COUNT_MAX];
        // SAFETY: recvmmsg(2): an mmsghdr is integers and pointers, for which all bits zero is a value.
        let mut headers: [libc::mmsghdr; COUNT_MAX] = unsafe { std::mem::zeroed() };
        let buffers = self.arena.chunks_exact_mut(self.datagram_bytes_max);
        for (((buffer, control), iovec), header) in buffers.zip(&mut self.control).zip(&mut iovecs).zip(&mut headers) {
            *control = [0; CONTROL_WORDS];
            *iovec = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of_val(control);
        }
        // MSG_TRUNC among the flags makes the kernel say how long a datagram was that it had to cut.
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
        let count = self.lengths.len() as libc::c_uint;
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: recvmmsg(2) writes to `count` headers and to what they point at: above, each of the first `count` was
        // pointed at a buffer and a control block of its own, with their true lengths, and all outlive the call.
        let received = unsafe { libc::recvmmsg(socket, headers.as_mut_ptr(), count, flags, ptr::null_mut()) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..received]) {
            *length = header.msg_len;
        }
        Ok(received)
    }

    /// The datagram with this index among those that the last call brought.
    #[must_use]
    pub fn datagram(&self, index: usize) -> Datagram {
        Datagram {
            start: index * self.datagram_bytes_max,
            bytes: self.lengths[index] as usize,
            sender: credentials(&self.control[index]),
        }
    }
}

/// Reads a control block as cmsg(3) lays it out on 64-bit Linux: length, level and type, then the ucred.
fn credentials(control: &[u64; CONTROL_WORDS]) -> Option<Credentials> {
    let halves = |word: u64| (word as u32, (word >> 32) as u32);
    let is_credentials = halves(control[1]) == (libc::SOL_SOCKET as u32, libc::SCM_CREDENTIALS as u32);
    if control[0] != CREDENTIALS_LEN || !is_credentials {
        return None;
    }
    let (pid, uid) = halves(control[2]);
    let (gid, _) = halves(control[3]);
    Some(Credentials { pid, uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{setsockopt, sockopt::PassCred};
    use std::os::unix::net::UnixDatagram;

    fn pair() -> (UnixDatagram, UnixDatagram) {
        let (from, to) = UnixDatagram::pair().unwrap();
        setsockopt(&to, PassCred, &true).unwrap();
        (from, to)
    }

    #[test]
    fn datagrams_come_in_order_with_their_sender() {
        let (from, to) = pair();
        let mut receiver = Receiver::new(4, 16);
        assert_eq!(receiver.receive(&to).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for text in ["one", "two", ""] {
            from.send(text.as_bytes()).unwrap();
        }
        assert_eq!(receiver.receive(&to).unwrap(), 3);
        let me = Credentials {
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
        };
        for (index, text) in ["one", "two", ""].iter().enumerate() {
            let datagram = receiver.datagram(index);
            assert_eq!(&receiver.arena()[datagram.start..][..datagram.bytes], text.as_bytes());
            assert_eq!(datagram.sender, Some(me));
        }
    }

    #[test]
    fn a_datagram_that_was_cut_says_how_long_it_was() {
        let (from, to) = pair();
        let mut receiver = Receiver::new(2, 16);
        from.send(&[b'x'; 100]).unwrap();
        from.send(b"next").unwrap();
        assert_eq!(receiver.receive(&to).unwrap(), 2);
        assert_eq!((receiver.datagram(0).bytes, receiver.datagram(1).bytes), (100, 4));
        assert_eq!(&receiver.arena()[16..20], b"next");
    }
}
