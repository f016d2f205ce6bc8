//! Attacks by text lines, datagrams and bare connections.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::cmsg_space;
use rustix::net::sockopt::{set_socket_linger, set_socket_send_buffer_size};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, sendmsg};

use super::{Held, SLICE, Target, connect};

/// The largest event that the daemon takes by default.
const MAX_EVENT: usize = 64 << 10;
/// Half lines that a process holds.
const HALVES_MAX: usize = 256;
/// Descriptors of one message; the kernel allows 253.
const DESCRIPTORS: usize = 250;
/// Sockets that a process keeps open as the other ends of those whose close blocks.
const BLOCKING_MAX: usize = 128;

pub(super) fn lines(target: &Target) -> u64 {
    let mut line = [b'x'; 100];
    line[99] = b'\n';
    write_all_the_time(target, &line.repeat(650), 650)
}

pub(super) fn bytes(target: &Target) -> u64 {
    write_all_the_time(target, b"x", 1)
}

/// Writes the same block again and again.
fn write_all_the_time(target: &Target, block: &[u8], times: u64) -> u64 {
    let mut done = 0;
    while target.is_on() {
        let Ok(mut stream) = target.stream() else { continue };
        while target.is_on() && stream.write_all(block).is_ok() {
            done += times;
        }
    }
    done
}

pub(super) fn datagrams(target: &Target) -> u64 {
    let mut done = 0;
    while target.is_on() {
        let Ok(socket) = connect(&target.socket("dgram.sock"), SocketType::DGRAM) else { continue };
        while target.is_on() && rustix::net::send(&socket, &[b'x'; 100], SendFlags::NOSIGNAL).is_ok() {
            done += 1;
        }
    }
    done
}

/// Starts a process for each datagram. It has ended before the daemon can ask who it was.
pub(super) fn processes(target: &Target) -> u64 {
    let mut done = 0;
    while target.is_on() {
        let Ok(socket) = connect(&target.socket("dgram.sock"), SocketType::DGRAM) else { continue };
        let mut process = Command::new("printf");
        process.arg("x").stdin(Stdio::null()).stdout(socket).stderr(Stdio::null());
        done += u64::from(process.status().is_ok_and(|status| status.success()));
    }
    done
}

pub(super) fn idle(target: &Target) -> u64 {
    hold(target, "stream.sock")
}

pub(super) fn control(target: &Target) -> u64 {
    hold(target, "control.sock")
}

fn hold(target: &Target, socket: &str) -> u64 {
    let (mut held, mut done) = (Held::new(target.descriptors_max), 0);
    while target.is_on() {
        done += held.push(|| connect(&target.socket(socket), SocketType::STREAM));
    }
    done
}

pub(super) fn connects(target: &Target) -> u64 {
    let mut done = 0;
    while target.is_on() {
        done += u64::from(target.stream().is_ok());
    }
    done
}

pub(super) fn halves(target: &Target) -> u64 {
    let (mut held, mut done) = (Held::renewing(HALVES_MAX), 0);
    while target.is_on() {
        done += held.push(|| {
            let mut stream = target.stream()?;
            stream.write_all(&[b'x'; MAX_EVENT - 1])?;
            Ok(stream)
        });
    }
    done
}

/// Sends a socket whose close blocks with each line and each datagram, next to many that do not.
pub(super) fn descriptors(target: &Target) -> u64 {
    let null = std::fs::File::open("/dev/null").expect("a device");
    let mut blocking = Blocking::new();
    let mut done = 0;
    while target.is_on() {
        let (stream, datagrams) = (target.stream(), connect(&target.socket("dgram.sock"), SocketType::DGRAM));
        let (Ok(stream), Ok(datagrams)) = (stream, datagrams) else { continue };
        while target.is_on() {
            let own = blocking.one();
            let mut descriptors = vec![null.as_fd(); DESCRIPTORS];
            descriptors[0] = own.as_fd();
            // Either may be refused: the kernel can keep descriptors away from the daemon.
            let sent = [send(stream.as_fd(), &descriptors), send(datagrams.as_fd(), &descriptors)];
            done += sent.iter().filter(|sent| **sent).count() as u64;
            if sent == [false; 2] {
                std::thread::sleep(SLICE);
                break;
            }
        }
    }
    done
}

fn send(socket: BorrowedFd<'_>, descriptors: &[BorrowedFd<'_>]) -> bool {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(socket, &[IoSlice::new(b"with descriptors\n")], &mut control, SendFlags::NOSIGNAL).is_ok()
}

/// Makes sockets whose close waits for a peer that never reads.
struct Blocking {
    listener: TcpListener,
    peers: Held<TcpStream>,
}

impl Blocking {
    fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("a port"), peers: Held::renewing(BLOCKING_MAX) }
    }

    fn one(&mut self) -> OwnedFd {
        let stream = TcpStream::connect(self.listener.local_addr().expect("an address")).expect("the listener");
        self.peers.push(|| Ok(self.listener.accept()?.0));
        set_socket_send_buffer_size(&stream, 4096).expect("an option");
        set_socket_linger(&stream, Some(std::time::Duration::from_secs(60))).expect("an option");
        stream.set_nonblocking(true).expect("an option");
        while (&stream).write(&[0; 64 << 10]).is_ok() {}
        stream.into()
    }
}
