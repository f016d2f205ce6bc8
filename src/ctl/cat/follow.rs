//! Shows events as they arrive, until Ctrl-C, SIGTERM, or until the reader of the output has gone: `--follow`.
//!
//! It sleeps until the directory changes, a signal comes or the reader of the output goes. It polls only a directory
//! that cannot be watched.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::show::Show;
use crate::pipeline::record::Source;
use crate::pipeline::store::scan::Follower;

/// How often a directory that cannot be watched is read, in milliseconds.
const LOOK_EVERY_MS: u16 = 200;

/// Shows the existing events from the sequence `read_from` on that are wanted, and then new ones.
pub(super) fn run(directory: &Path, read_from: u64, mut show: Show<'_>) -> anyhow::Result<ExitCode> {
    let selection = show.selection();
    let source = |source: &Source<'_>| selection.wants_source(source);
    let wanted = selection.wanted(read_from, &source);
    let failed = || format!("{}: cannot be followed", directory.display());
    let mut signals = signals().context("cannot register the signals")?;
    let mut follower = Follower::open(directory, read_from, false).with_context(failed)?;
    loop {
        let _ = follower.poll(&wanted, |item| show.forward(&item)).with_context(failed)?;
        show.write_now()?;
        match wait(follower.as_fd(), &mut signals).context("waiting failed")? {
            Why::Changed => {}
            Why::Signal | Why::ReaderGone => return show.finish(),
        }
    }
}

enum Why {
    Changed,
    Signal,
    ReaderGone,
}

/// A socket that becomes readable on a signal to end.
fn signals() -> std::io::Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGINT, write.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGTERM, write)?;
    Ok(read)
}

fn wait(directory: Option<BorrowedFd<'_>>, signals: &mut UnixStream) -> nix::Result<Why> {
    let stdout = std::io::stdout();
    let timeout = if directory.is_some() { PollTimeout::NONE } else { PollTimeout::from(LOOK_EVERY_MS) };
    loop {
        // No event is requested for standard output: poll always reports POLLERR when a pipe has no reader.
        let mut fds =
            vec![PollFd::new(stdout.as_fd(), PollFlags::empty()), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(directory.map(|directory| PollFd::new(directory, PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno),
            Ok(_) => {}
        }
        let reader_gone = fds[0].revents().is_some_and(|flags| flags.contains(PollFlags::POLLERR));
        drop(fds);
        return Ok(match signals.read(&mut [0; 16]) {
            Ok(_) => Why::Signal,
            Err(_) if reader_gone => Why::ReaderGone,
            Err(_) => Why::Changed,
        });
    }
}
