//! Accepts clients from a listening socket, for one writer.
//!
//! Input: clients that connect. Output: connected sockets. Thread: every writer, each with its own acceptor; the kernel
//! wakes one of them (EPOLLEXCLUSIVE). Failure: the process can run out of descriptors. Then the acceptor accepts the
//! first client of the queue with its spare descriptor and closes that connection. The queue moves on, the client sees
//! the end, and no writer spins.
//!
//! Another thread may take a descriptor that a writer frees before this writer can use it. So a writer without a spare
//! takes no client: the first descriptor that it gets becomes the spare. Otherwise all spares could turn into
//! connections, and waiting clients would be neither served nor turned away.

use std::fs::File;
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
    /// A client that was turned away.
    TurnedAway,
    /// No client is waiting.
    NoClient,
    /// No descriptor is left, not even to turn a client away. Leave the socket alone for a while.
    Exhausted,
}

/// A listening socket and the spare descriptor.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) socket: Arc<OwnedFd>,
    spare: Option<File>,
}

impl Acceptor {
    pub(crate) fn new(socket: Arc<OwnedFd>) -> Self {
        Self { socket, spare: spare() }
    }

    /// Takes one client from the queue.
    pub(crate) fn accept(&mut self) -> Accepted {
        self.spare = self.spare.take().or_else(spare);
        match self.accept_one() {
            Ok(client) if self.spare.is_some() => Accepted::Client(client),
            Ok(client) => {
                drop(client);
                self.spare = spare();
                Accepted::TurnedAway
            }
            Err(Errno::AGAIN) => Accepted::NoClient,
            Err(Errno::MFILE | Errno::NFILE) => {
                self.spare = None;
                let accepted = match self.accept_one() {
                    Ok(client) => {
                        drop(client);
                        Accepted::TurnedAway
                    }
                    // The kernel allocates a descriptor before it looks for a client.
                    Err(Errno::AGAIN) => Accepted::NoClient,
                    // Another thread took the descriptor that this call freed.
                    Err(_) => Accepted::Exhausted,
                };
                self.spare = spare();
                accepted
            }
            Err(_) => Accepted::Exhausted,
        }
    }

    fn accept_one(&self) -> Result<OwnedFd, Errno> {
        loop {
            match accept_with(&*self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                // The client left before it was accepted. There may be another one.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Ok(client) => {
                    // It has this from the listener, unless it connected before the listener had it.
                    let _ = identify_senders(&client);
                    return Ok(client);
                }
                error => return error,
            }
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_writer_without_its_spare_has_one_again_before_it_takes_a_client() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stream.sock");
        let socket = UnixListener::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut acceptor = Acceptor { socket: Arc::new(socket.into()), spare: None };
        let _client = UnixStream::connect(&path).unwrap();
        assert!(matches!(acceptor.accept(), Accepted::Client(_)));
        assert!(acceptor.spare.is_some(), "a client was taken while there was no spare");
        assert!(matches!(acceptor.accept(), Accepted::NoClient));
    }
}
