//! Follows a directory: gives out what is new, as it comes, from file to file.
//!
//! Input: a directory in which a daemon writes, or will write. Output: items, oldest first, each once. Thread: any.
//! Failure: the directory cannot be listed. Without inotify it is checked every 200 ms.
//!
//! A batch that is only partly written is waited for. A file that was truncated after a failed sync has no more: the
//! next file holds what was removed, and what was already given out is skipped there.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::forward::Forward;
use super::segment::Segment;
use super::{Directory, Item, SegmentFile, Wanted, unreadable};
use dbuf_sync::{Arc, thread};

/// How often a directory is checked if it cannot be watched.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Follows a directory.
pub struct Follower {
    directory: PathBuf,
    inotify: Option<Inotify>,
    forward: Forward,
    current: Option<Current>,
    /// Whether files may have come, gone or been renamed since the last listing.
    is_stale: bool,
}

/// The file that is being read.
struct Current {
    path: PathBuf,
    /// The identity of that file, whatever its name is now.
    inode: (u64, u64),
    /// None if it cannot be read.
    segment: Option<Segment>,
    at: u64,
}

/// The result of moving to another file.
enum Advanced {
    /// There is something to read.
    Yes,
    /// There is nothing new.
    No,
    /// The caller has stopped.
    Stopped,
}

impl Follower {
    /// Follows `directory` from the sequence `from_sequence` on. With `expect_all`, a jump at the start is a gap: set
    /// it when everything before it was read.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(directory: &Path, from_sequence: u64, expect_all: bool) -> io::Result<Self> {
        fs::metadata(directory)?;
        let mut forward = Forward::new(from_sequence);
        if expect_all {
            forward.expect_all();
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            inotify: watch(directory).ok(),
            forward,
            current: None,
            is_stale: true,
        })
    }

    /// Becomes readable when [`Follower::poll`] may have something; None if the directory cannot be watched.
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Waits until something has changed, or until `timeout` has passed.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let Some(inotify) = &self.inotify else {
            thread::sleep(timeout.map_or(LOOK_EVERY, |timeout| timeout.min(LOOK_EVERY)));
            return Ok(());
        };
        let until = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // Rounded up: a wait that ends early would spin.
            let left = left.map(|left| left.as_millis() + u128::from(!left.subsec_nanos().is_multiple_of(1_000_000)));
            let left = left.map_or(PollTimeout::NONE, |ms| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX));
            match poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], left) {
                Err(Errno::EINTR) => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }

    /// Gives out what is new, until `each` breaks.
    ///
    /// # Errors
    /// Those of the disk when the directory is listed.
    pub fn poll(
        &mut self,
        wanted: &Wanted<'_>,
        mut each: impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        self.drain();
        loop {
            // Listed before the last look into the current file: if a later file is listed, the current one is
            // complete.
            let files = if self.is_stale { Some(Directory::open(&self.directory)?.files) } else { None };
            self.is_stale = false;
            if self.read(wanted, &mut each).is_break() {
                self.is_stale = true;
                return Ok(ControlFlow::Break(()));
            }
            let Some(files) = files else { return Ok(ControlFlow::Continue(())) };
            match self.advance(&files, &mut each)? {
                Advanced::No => return Ok(ControlFlow::Continue(())),
                Advanced::Stopped => return Ok(ControlFlow::Break(())),
                Advanced::Yes => {}
            }
        }
    }

    /// Takes the events of inotify.
    fn drain(&mut self) {
        let Some(inotify) = &self.inotify else {
            self.is_stale = true;
            return;
        };
        let current = self.current.as_ref().and_then(|current| current.path.file_name());
        while let Ok(events) = inotify.read_events() {
            // Growth of another file is news too: it was not listed while it had no header.
            let is_news = |mask, name: Option<&OsStr>| mask != AddWatchFlags::IN_MODIFY || name != current;
            self.is_stale |= events.iter().any(|event| is_news(event.mask, event.name.as_deref()));
        }
    }

    /// Continues to read the current file.
    fn read(&mut self, wanted: &Wanted<'_>, each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let Some(current) = &mut self.current else { return ControlFlow::Continue(()) };
        let Some(segment) = &mut current.segment else { return ControlFlow::Continue(()) };
        if segment.refresh().is_err() {
            // What it has not given by now, it will not give.
            current.segment = None;
            return ControlFlow::Continue(());
        }
        match self.forward.segment(segment, &current.path, current.at, wanted, each) {
            ControlFlow::Continue(reached) => {
                current.at = reached.at;
                ControlFlow::Continue(())
            }
            ControlFlow::Break(()) => ControlFlow::Break(()),
        }
    }

    /// Moves to the file where the sequence continues, if that is another one.
    fn advance(
        &mut self,
        files: &[SegmentFile],
        each: &mut impl FnMut(Item<'_>) -> ControlFlow<()>,
    ) -> io::Result<Advanced> {
        let seen = self.forward.seen;
        let at = files.iter().rposition(|file| file.name.is_some_and(|name| name.first_sequence <= seen)).unwrap_or(0);
        let Some(mut file) = files.get(at) else { return Ok(Advanced::No) };
        if self.is_current(file) {
            // All of it was read, and there is another file: the sequence continues there, with a gap.
            let Some(next) = files.get(at + 1) else { return Ok(Advanced::No) };
            file = next;
        }
        self.is_stale = true;
        let opened = fs::File::open(&file.path).and_then(|opened| Ok((opened.metadata()?, opened)));
        let (about, opened) = match opened {
            Ok(opened) => opened,
            // It was renamed or removed since it was listed. The next listing tells.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Advanced::Yes),
            Err(e) => return Err(e),
        };
        let inode = (about.dev(), about.ino());
        let segment = Segment::open(Arc::new(opened), self.forward.stream_id);
        let mut current = Current { path: file.path.clone(), inode, segment: None, at: Segment::FIRST };
        let advanced = match segment {
            Ok(segment) => {
                self.forward.stream_id = Some(segment.stream_id);
                current.segment = Some(segment);
                Advanced::Yes
            }
            Err(e) => match each(Item::Damage { path: &file.path, damage: unreadable(file, &e) }) {
                ControlFlow::Continue(()) => Advanced::Yes,
                ControlFlow::Break(()) => Advanced::Stopped,
            },
        };
        self.current = Some(current);
        Ok(advanced)
    }

    fn is_current(&self, file: &SegmentFile) -> bool {
        let Some(current) = &self.current else { return false };
        fs::metadata(&file.path).is_ok_and(|about| (about.dev(), about.ino()) == current.inode)
    }
}

fn watch(directory: &Path) -> nix::Result<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let of_interest = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM;
    inotify.add_watch(directory, of_interest)?;
    Ok(inotify)
}
