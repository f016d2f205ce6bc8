//! Owns all signals.
//!
//! Input: SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2. Output: one [`Signal`] at a time. Failures: registering them, at
//! the start. Rust's runtime ignores SIGPIPE, so a closed connection is an error of a call and does not end the
//! process.
//!
//! The handler itself decides two cases, because they must work whatever the control plane is doing:
//! - While the daemon starts, SIGTERM and SIGINT end it at once: nothing has been accepted yet.
//! - While it stops, a second one ends it at once, with exit code 1. The next start recovers what is in the segments.
//!   What is only in memory is lost, unless systemd stores the memory.

use std::io;
use std::os::unix::net::UnixStream as Pipe;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::{flag, low_level::pipe};
use tokio::net::UnixStream;

use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering};

/// A second request to stop counts only if it comes at least this long after the first. Programs such as `timeout` send
/// their signal to the process and then to its group, so that one request arrives twice.
const ECHO: Duration = Duration::from_millis(300);

/// What a person or systemd asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM or SIGINT: drain, persist, report, end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: begin a new segment.
    Rotate,
    /// SIGUSR2: a report into the log.
    Report,
}

const MEANINGS: [(i32, Signal); 5] = [
    (SIGTERM, Signal::Stop),
    (SIGINT, Signal::Stop),
    (SIGHUP, Signal::Reload),
    (SIGUSR1, Signal::Rotate),
    (SIGUSR2, Signal::Report),
];

/// Signals that are registered and not yet listened to.
#[derive(Debug)]
pub(super) struct Installed {
    pipes: Vec<(Pipe, Signal)>,
    starting: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
}

/// Signals that are listened to.
#[derive(Debug)]
pub(super) struct Signals {
    pipes: Vec<(UnixStream, Signal)>,
    stopping: Arc<AtomicBool>,
}

/// Registers the signals. From here on none is missed; they wait until [`Installed::listen`].
pub(super) fn install() -> io::Result<Installed> {
    let starting = Arc::new(AtomicBool::new(true));
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 0, Arc::clone(&starting))?;
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stopping))?;
    }
    let mut pipes = Vec::new();
    for (number, meaning) in MEANINGS {
        let (read, write) = Pipe::pair()?;
        read.set_nonblocking(true)?;
        pipe::register(number, write)?;
        pipes.push((read, meaning));
    }
    Ok(Installed { pipes, starting, stopping })
}

impl Installed {
    /// Ends the start-up phase: SIGTERM and SIGINT now mean a graceful stop. Called within the runtime.
    pub(super) fn listen(self) -> io::Result<Signals> {
        let pipes = self.pipes.into_iter().map(|(pipe, meaning)| Ok((UnixStream::from_std(pipe)?, meaning)));
        let pipes = pipes.collect::<io::Result<_>>()?;
        // Relaxed, here and below: the flags guard no other data, and the handler runs within this process.
        self.starting.store(false, Ordering::Relaxed);
        Ok(Signals { pipes, stopping: self.stopping })
    }
}

impl Signals {
    /// The next signal. Several of one kind that come at once may count as one.
    pub(super) async fn next(&self) -> Signal {
        std::future::poll_fn(|context| {
            for (pipe, meaning) in &self.pipes {
                while pipe.poll_read_ready(context).is_ready() {
                    match pipe.try_read(&mut [0; 64]) {
                        Ok(1..) => return std::task::Poll::Ready(*meaning),
                        // Empty: poll again, so that the next signal wakes this task.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        // The handler keeps the other end open, so this does not happen. It must not become a busy
                        // loop.
                        Ok(0) | Err(_) => break,
                    }
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// The daemon has begun to stop: a signal that is not an echo of the first one now ends it.
    pub(super) async fn arm_the_second(&self) {
        tokio::time::sleep(ECHO).await;
        self.stopping.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signal_arrives_with_its_meaning() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let signals = install().unwrap().listen().unwrap();
            for (number, meaning) in MEANINGS {
                signal_hook::low_level::raise(number).unwrap();
                assert_eq!(signals.next().await, meaning);
            }
        });
    }
}
