//! Wraps recvmmsg(2): receives what a Unix socket holds in one call, which also leaves in memory how much it received.
//!
//! Input: a stream or a datagram socket, with SO_PASSCRED. Output: bytes in the caller's memory, with the credentials
//! of their senders. All bytes of one read of a stream are of one sender. Thread: one. Failure: the call itself.
//!
//! With SO_PASSPIDFD, the kernel makes a pidfd of the sender for each datagram or read with room for it. That doubles
//! the time of receiving a datagram, so there is room only if the caller asks for it.
//!
//! The headers are in memory that outlives the process. The kernel writes into them how much it has received, before
//! the call returns, and a process does not die inside a call that does not wait. So the next process can tell whether
//! a read was made, and what it received. One exception: if a page that the kernel writes to is swapped out, a process
//! that is killed does not wait for it, and the call fails after it has taken a datagram from the queue. So this memory
//! is locked ([`Headers::lock`]). With read(2), the bytes of a call whose process dies before it notes the
//! result would be lost without a trace.

#![allow(unsafe_code, reason = "a system call without a wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::words::Region;

/// Datagrams of one call, at most.
pub const COUNT_MAX: usize = 64;
/// Bytes of memory for the headers of one call.
pub const HEADER_BYTES: usize = COUNT_MAX * size_of::<libc::mmsghdr>();
/// Bytes of memory for the credentials of one call.
pub const CONTROL_BYTES: usize = COUNT_MAX * size_of::<[u64; CONTROL_WORDS]>();
/// Words of the control buffer: a cmsghdr (16 bytes), a ucred (12 bytes) and its padding; then a cmsghdr, a pidfd (4
/// bytes) and its padding. With no room for more, the kernel closes descriptors that a sender attaches.
const CONTROL_WORDS: usize = 7;
/// Those of the credentials.
const CREDENTIALS_WORDS: usize = 4;
/// The size of cmsghdr and ucred together, which is the value of cmsg_len.
const CREDENTIALS_LEN: u64 = 28;
/// The same for cmsghdr and a descriptor, or two.
const ONE_DESCRIPTOR_LEN: u64 = 20;
const TWO_DESCRIPTORS_LEN: u64 = 24;
/// Level and type of a control message that has a pidfd (linux/socket.h), or descriptors that the sender attached.
const SCM_PIDFD: u64 = (4 << 32) | libc::SOL_SOCKET as u64;
const SCM_RIGHTS: u64 = ((libc::SCM_RIGHTS as u64) << 32) | libc::SOL_SOCKET as u64;
/// The length in a header until the kernel has received into it.
const NOTHING: u32 = u32::MAX;
/// A bit of the length in a header, which no datagram is long enough for: the caller has marked the datagram.
const MARK: u32 = 1 << 31;

/// The sender of a datagram, as the kernel vouches for it (SCM_CREDENTIALS of unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// Process id.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The headers of a call.
#[derive(Debug)]
pub struct Headers {
    headers: Region,
    control: Region,
    /// The next call has room for pidfds.
    asks_for_pidfds: bool,
    /// The last call was this process's, and had room for pidfds: their numbers are those of this process.
    has_pidfds: bool,
}

impl Headers {
    /// Places the headers in memory of [`HEADER_BYTES`] and [`CONTROL_BYTES`], which may hold those of the previous
    /// process.
    ///
    /// # Panics
    /// If the memory has other sizes.
    #[must_use]
    pub fn new(headers: Region, control: Region) -> Self {
        assert!(headers.len() == HEADER_BYTES && control.len() == CONTROL_BYTES, "the sizes of headers are fixed");
        Self { headers, control, asks_for_pidfds: false, has_pidfds: false }
    }

    /// Places the headers in memory of this process alone.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn anonymous() -> io::Result<Self> {
        Ok(Self::new(Region::anonymous(HEADER_BYTES)?, Region::anonymous(CONTROL_BYTES)?))
    }

    /// Sets whether the next calls have room for a pidfd of each sender. Each must be taken ([`Headers::take_pidfd`]).
    /// The socket must refuse other descriptors, because these would take the room.
    pub fn ask_for_pidfds(&mut self, asks: bool) {
        self.asks_for_pidfds = asks;
    }

    /// Locks the headers in memory.
    ///
    /// # Errors
    /// As [`Region::lock`].
    pub fn lock(&self) -> io::Result<()> {
        self.headers.lock()?;
        self.control.lock()
    }

    /// Receives what a stream holds, without waiting. Calls `begin` once the header says that nothing was received.
    ///
    /// # Errors
    /// Those of recvmsg(2); `WouldBlock` if nothing is there. 0 bytes mean the end.
    pub fn receive_stream(&mut self, socket: impl AsFd, into: &mut [u8], begin: impl FnOnce()) -> io::Result<usize> {
        let mut iovec = [libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() }];
        self.prepare(&mut iovec);
        begin();
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        let received = match self.receive(&socket, 1, flags) {
            // The peer left without reading our replies. Unlike recvmsg(2), recvmmsg(2) reports this once, before it
            // looks into the queue. What the peer had sent is still there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.receive(&socket, 1, flags),
            received => received,
        };
        received?;
        Ok(self.received(0).unwrap_or(0))
    }

    /// Receives datagrams, without waiting. Each goes into `bytes_max` bytes of `into`, one after the other, at most
    /// [`COUNT_MAX`] of them. Returns how many. Calls `begin` once the headers say that nothing was received.
    ///
    /// # Errors
    /// Those of recvmmsg(2); `WouldBlock` if nothing is there.
    pub fn receive_datagrams(
        &mut self,
        socket: impl AsFd,
        into: &mut [u8],
        bytes_max: usize,
        begin: impl FnOnce(),
    ) -> io::Result<usize> {
        let mut iovecs = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; COUNT_MAX];
        let buffers = into.chunks_exact_mut(bytes_max);
        let count = buffers.len().min(COUNT_MAX);
        for (buffer, iovec) in buffers.zip(&mut iovecs) {
            *iovec = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        }
        self.prepare(&mut iovecs[..count]);
        begin();
        // MSG_TRUNC among the flags makes the kernel report the full length of a datagram that it had to truncate.
        self.receive(socket, count, libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC)
    }

    /// Points the headers at the buffers, and sets all of them to "nothing received".
    fn prepare(&mut self, iovecs: &mut [libc::iovec]) {
        let words = if self.asks_for_pidfds { CONTROL_WORDS } else { CREDENTIALS_WORDS };
        self.has_pidfds = false;
        let controls = self.control.as_mut_ptr().cast::<[u64; CONTROL_WORDS]>();
        for (index, iovec) in iovecs.iter_mut().enumerate() {
            // SAFETY: there are COUNT_MAX control blocks, and at most as many buffers.
            let control = unsafe { controls.add(index) };
            // SAFETY: the block is inside the region, which is aligned for it (a mapping's start) and borrowed for
            // writing.
            unsafe { control.write([0; CONTROL_WORDS]) };
            // SAFETY: recvmmsg(2): an mmsghdr is integers and pointers, for which all bits zero is a value.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = iovec;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.cast();
            header.msg_hdr.msg_controllen = words * size_of::<u64>();
            header.msg_len = NOTHING;
            let to = self.header(index);
            // SAFETY: `header` points into the region, which is aligned and borrowed for writing.
            unsafe { to.write(header) };
        }
    }

    fn receive(&mut self, socket: impl AsFd, count: usize, flags: libc::c_int) -> io::Result<usize> {
        let (socket, count) = (socket.as_fd().as_raw_fd(), count as libc::c_uint);
        let headers = self.header(0);
        // SAFETY: recvmmsg(2) writes to `count` headers and to what they point at: `prepare` has pointed each of them
        // at a buffer and a control block of its own, with their true lengths, and all outlive the call.
        let received = unsafe { libc::recvmmsg(socket, headers, count, flags, ptr::null_mut()) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        self.has_pidfds = self.asks_for_pidfds;
        Ok(received)
    }

    fn header(&mut self, index: usize) -> *mut libc::mmsghdr {
        debug_assert!(index < COUNT_MAX, "there is a header for each");
        // SAFETY: the region holds COUNT_MAX headers, and every caller asks for one of these.
        unsafe { self.headers.as_mut_ptr().cast::<libc::mmsghdr>().add(index) }
    }

    /// Bytes that the last call has received into the buffer with this index; more than the buffer has if the datagram
    /// was truncated; None if nothing was received. The last call may be the previous process's.
    #[must_use]
    pub fn received(&self, index: usize) -> Option<usize> {
        let bytes = self.length(index);
        (bytes != NOTHING).then_some((bytes & !MARK) as usize)
    }

    /// Marks a datagram that was received, for this process and the next one.
    pub fn mark(&mut self, index: usize) {
        let bytes = self.length(index);
        debug_assert_ne!(bytes, NOTHING, "only what was received is marked");
        let header = self.header(index);
        // SAFETY: `header` points into the region, so the field is inside as well; no reference is made.
        let length = unsafe { &raw mut (*header).msg_len };
        // SAFETY: as above; aligned and borrowed for writing. Volatile: the next process reads it.
        unsafe { length.write_volatile(bytes | MARK) };
    }

    /// Whether the datagram with this index is marked.
    #[must_use]
    pub fn is_marked(&self, index: usize) -> bool {
        let bytes = self.length(index);
        bytes != NOTHING && bytes & MARK != 0
    }

    fn length(&self, index: usize) -> u32 {
        let headers = self.headers.as_ptr().cast::<libc::mmsghdr>();
        assert!(index < COUNT_MAX, "there is a header for each");
        // SAFETY: inside the region (asserted).
        let header = unsafe { headers.add(index) };
        // SAFETY: as above, so the field is inside as well; no reference is made.
        let length = unsafe { &raw const (*header).msg_len };
        // SAFETY: as above; aligned, and any bytes are a length. Volatile, for the kernel has written it.
        unsafe { length.read_volatile() }
    }

    /// The sender of the datagram with this index, or of what a stream brought, if the kernel has reported it.
    #[must_use]
    pub fn sender(&self, index: usize) -> Option<Credentials> {
        credentials(&self.control(index))
    }

    /// Takes the pidfd of that sender, if there was room for it. None for the previous process's calls: a number in its
    /// memory is another descriptor here.
    pub fn take_pidfd(&mut self, index: usize) -> Option<OwnedFd> {
        if !self.has_pidfds || self.received(index).is_none() {
            return None;
        }
        let [len, kind, value] = self.control(index)[CREDENTIALS_WORDS..] else { return None };
        let at = (index * CONTROL_WORDS + CREDENTIALS_WORDS) * size_of::<u64>();
        self.control[at..at + size_of::<u64>()].fill(0);
        let own = |number: u32| {
            // SAFETY: unix(7), SCM_PIDFD and SCM_RIGHTS: a new descriptor, which belongs to the process that received
            // it. The control block is that of this process's last call, and does not name it any more.
            unsafe { OwnedFd::from_raw_fd(number as RawFd) }
        };
        let (first, second) = halves(value);
        match (len, kind == SCM_PIDFD, kind == SCM_RIGHTS) {
            // The kernel puts an error there if the process has no descriptor left.
            (ONE_DESCRIPTOR_LEN, true, _) => (first as RawFd >= 0).then(|| own(first)),
            // They were sent before the socket refused them.
            (ONE_DESCRIPTOR_LEN, _, true) => {
                drop(own(first));
                None
            }
            (TWO_DESCRIPTORS_LEN, _, true) => {
                drop([own(first), own(second)]);
                None
            }
            _ => None,
        }
    }

    fn control(&self, index: usize) -> [u64; CONTROL_WORDS] {
        let bytes = &self.control[index * size_of::<[u64; CONTROL_WORDS]>()..][..size_of::<[u64; CONTROL_WORDS]>()];
        let word = |at: usize| u64::from_ne_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("eight bytes"));
        std::array::from_fn(word)
    }
}

fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// Reads a control block as cmsg(3) lays it out on 64-bit Linux: length, level and type, then the ucred.
fn credentials(control: &[u64; CONTROL_WORDS]) -> Option<Credentials> {
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
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use nix::sys::socket::{setsockopt, sockopt::PassCred};
    use std::io::{IoSlice, Write};
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn pair() -> (UnixDatagram, UnixDatagram) {
        let (from, to) = UnixDatagram::pair().unwrap();
        setsockopt(&to, PassCred, &true).unwrap();
        (from, to)
    }

    #[test]
    fn datagrams_come_in_order_with_their_sender() {
        let (from, to) = pair();
        let (mut headers, mut arena) = (Headers::anonymous().unwrap(), [0; 4 * 16]);
        let nothing = headers.receive_datagrams(&to, &mut arena, 16, || ()).unwrap_err();
        assert_eq!((nothing.kind(), headers.received(0)), (io::ErrorKind::WouldBlock, None));
        for text in ["one", "two", ""] {
            from.send(text.as_bytes()).unwrap();
        }
        assert_eq!(headers.receive_datagrams(&to, &mut arena, 16, || ()).unwrap(), 3);
        let me = Credentials {
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
        };
        for (index, text) in ["one", "two", ""].iter().enumerate() {
            assert_eq!(headers.received(index), Some(text.len()));
            assert_eq!(&arena[index * 16..][..text.len()], text.as_bytes());
            assert_eq!(headers.sender(index), Some(me));
        }
        assert_eq!(headers.received(3), None);
    }

    #[test]
    fn a_datagram_that_was_cut_says_how_long_it_was() {
        let (from, to) = pair();
        let (mut headers, mut arena) = (Headers::anonymous().unwrap(), [0; 2 * 16]);
        from.send(&[b'x'; 100]).unwrap();
        from.send(b"next").unwrap();
        assert_eq!(headers.receive_datagrams(&to, &mut arena, 16, || ()).unwrap(), 2);
        assert_eq!((headers.received(0), headers.received(1)), (Some(100), Some(4)));
        assert_eq!(&arena[16..20], b"next");
    }

    #[test]
    fn a_mark_stays_with_its_datagram_and_changes_nothing_else_of_it() {
        let (from, to) = pair();
        let (mut headers, mut arena) = (Headers::anonymous().unwrap(), [0; 4 * 16]);
        for text in ["one", "two"] {
            from.send(text.as_bytes()).unwrap();
        }
        assert_eq!(headers.receive_datagrams(&to, &mut arena, 16, || ()).unwrap(), 2);
        headers.mark(1);
        assert_eq!([0, 1, 2].map(|index| headers.is_marked(index)), [false, true, false]);
        assert_eq!([0, 1, 2].map(|index| headers.received(index)), [Some(3), Some(3), None]);
        from.send(b"three").unwrap();
        assert_eq!(headers.receive_datagrams(&to, &mut arena, 16, || ()).unwrap(), 1);
        assert!((0..4).all(|index| !headers.is_marked(index)), "the next call begins without marks");
    }

    #[test]
    fn a_stream_leaves_in_memory_how_much_was_read() {
        let (mut from, to) = UnixStream::pair().unwrap();
        let (mut headers, mut into) = (Headers::anonymous().unwrap(), [0; 16]);
        assert!(headers.receive_stream(&to, &mut into, || ()).is_err());
        assert_eq!(headers.received(0), None, "nothing was read");
        from.write_all(b"0123456789abcdefghi").unwrap();
        let mut was_called = false;
        assert_eq!(headers.receive_stream(&to, &mut into, || was_called = true).unwrap(), 16);
        assert!(was_called);
        assert_eq!((headers.received(0), &into), (Some(16), b"0123456789abcdef"));
        assert_eq!(headers.receive_stream(&to, &mut into, || ()).unwrap(), 3);
        // Not by a drop: a child that another test has just forked may hold a copy of it.
        from.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(headers.receive_stream(&to, &mut into, || ()).unwrap(), 0);
        assert_eq!(headers.received(0), Some(0), "the end");
    }

    #[test]
    fn one_read_of_a_stream_is_of_one_sender() {
        let (mut from, to) = UnixStream::pair().unwrap();
        setsockopt(&to, PassCred, &true).unwrap();
        let (mut headers, mut into) = (Headers::anonymous().unwrap(), [0; 64]);
        from.write_all(b"one").unwrap();
        let inherited = OwnedFd::from(from.try_clone().unwrap());
        let mut child = std::process::Command::new("printf").arg("two").stdout(inherited).spawn().unwrap();
        child.wait().unwrap();
        from.write_all(b"three").unwrap();
        for (pid, text) in [(std::process::id(), "one"), (child.id(), "two"), (std::process::id(), "three")] {
            assert_eq!(headers.receive_stream(&to, &mut into, || ()).unwrap(), text.len());
            assert_eq!((headers.sender(0).unwrap().pid, &into[..text.len()]), (pid, text.as_bytes()));
        }
    }

    #[test]
    fn a_pidfd_is_given_once_and_only_if_it_was_asked_for() {
        let (from, to) = pair();
        if !crate::sys::socket_options::identify_senders(&to).unwrap() {
            return eprintln!("skipped: this kernel is older than 6.16");
        }
        let (mut headers, mut arena) = (Headers::anonymous().unwrap(), [0; 4 * 16]);
        for asks in [false, true, false] {
            headers.ask_for_pidfds(asks);
            from.send(b"one").unwrap();
            from.send(b"two").unwrap();
            assert_eq!(headers.receive_datagrams(&to, &mut arena, 16, || ()).unwrap(), 2);
            for index in [0, 1] {
                assert_eq!(headers.sender(index).unwrap().pid, std::process::id());
                assert_eq!(headers.take_pidfd(index).is_some(), asks);
                assert!(headers.take_pidfd(index).is_none());
            }
        }
    }

    #[test]
    fn descriptors_that_were_sent_before_they_were_refused_are_closed() {
        let (from, to) = pair();
        let (read, write) = std::io::pipe().unwrap();
        for count in [1, 2, 3] {
            let attached = [write.as_raw_fd(); 3];
            let control = [ControlMessage::ScmRights(&attached[..count])];
            sendmsg::<()>(from.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None).unwrap();
        }
        let (mut headers, mut arena) = (Headers::anonymous().unwrap(), [0; 4 * 16]);
        headers.ask_for_pidfds(true);
        assert_eq!(headers.receive_datagrams(&to, &mut arena, 16, || ()).unwrap(), 3);
        assert!((0..3).all(|index| headers.take_pidfd(index).is_none() && headers.sender(index).is_some()));
        drop(write);
        assert_eq!(std::io::read_to_string(read).unwrap(), "", "no other descriptor of it is left");
    }

    #[test]
    fn what_a_peer_sent_is_there_although_it_left_without_reading_its_replies() {
        let (mut from, mut to) = UnixStream::pair().unwrap();
        let (mut headers, mut into) = (Headers::anonymous().unwrap(), [0; 16]);
        from.write_all(b"sent").unwrap();
        to.write_all(b"a reply").unwrap();
        drop(from);
        assert_eq!(headers.receive_stream(&to, &mut into, || ()).unwrap(), 4);
        // Not at once if a child that another test has just forked holds a copy of what was dropped.
        let mut reads = std::iter::repeat_with(|| headers.receive_stream(&to, &mut into, || ()));
        let end = reads.find(|end| !end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        assert_eq!(end.unwrap().unwrap(), 0);
    }
}
