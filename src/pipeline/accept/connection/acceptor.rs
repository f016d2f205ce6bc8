//! Accepts clients from a listening socket, for one writer.
//!
//! Input: clients that connect. Output: connected sockets. Thread: every writer, each with its own acceptor; the
//! kernel wakes one of them (EPOLLEXCLUSIVE). Failure: descriptors can run out. Then the acceptor takes the client at
//! the head of the queue with its spare descriptor and turns it away, so that the queue moves, the client learns of
//! it, and no writer spins.
//!
//! A descriptor that a writer frees may be taken by another thread before it is used here. So a writer without its
//! spare takes no client: the first descriptor that it gets becomes the spare again. Else all spares could end up as
//! connections, and those who wait would neither be served nor turned away.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::sync::Arc;

/// What one accept brought.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// A client.
    Client(OwnedFd),
    /// A client that was turned away.
    TurnedAway,
    /// No client is waiting.
    NoClient,
    /// There is not even a descriptor to turn anybody away with: leave the socket alone for a while.
    Exhausted,
}

/// The listening socket and the spare descriptor.
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
                    // The kernel looks for a descriptor first, and only then whether anybody is waiting.
                    Err(Errno::AGAIN) => Accepted::NoClient,
                    // Another thread has taken the descriptor that this freed.
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
                // The client left before it was accepted; the next may be there.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                other => return other,
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
