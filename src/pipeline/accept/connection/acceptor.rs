//! Accepts clients from a listening socket, for one writer.
//!
//! Input: clients that connect. Output: connected sockets. Thread: every writer, each with its own acceptor; the kernel
//! wakes one of them (EPOLLEXCLUSIVE). Failure: the process can run out of descriptors. Then clients wait in the queue
//! of the socket, with what they have sent, until there are descriptors again. Rejected: to turn them away. What they
//! have sent would be lost, and many of them would not notice.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::sync::Arc;
use crate::sys::socket_options::identify_senders;

/// The result of one accept.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A client.
    Client(OwnedFd),
    /// No client is waiting.
    NoClient,
    /// No descriptor is left. Leave the socket alone for a while.
    Exhausted,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) socket: Arc<OwnedFd>,
}

impl Acceptor {
    pub(crate) fn new(socket: Arc<OwnedFd>) -> Self {
        Self { socket }
    }

    /// Takes one client from the queue.
    pub(crate) fn accept(&self) -> Accepted {
        loop {
            match accept_with(&*self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                // The client left before it was accepted. There may be another one.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return Accepted::NoClient,
                Err(_) => return Accepted::Exhausted,
                Ok(client) => {
                    // It has this from the listener, unless it connected before the listener had it.
                    let _ = identify_senders(&client);
                    return Accepted::Client(client);
                }
            }
        }
    }
}
