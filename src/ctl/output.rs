//! Writes standard output: collected in one buffer, written in large pieces, and without an error if the reader has
//! gone. Or writes a file that is replaced as a whole.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context as _;
use nix::fcntl::OFlag;

use super::failure::Failure;

/// The buffer is written out when it holds this many bytes.
const WRITE_BYTES: usize = 128 << 10;

/// Standard output, or its substitute in a test.
#[derive(Debug)]
pub(crate) struct Output<W = File> {
    /// Bytes that are not yet written. Formats append to it.
    pub(crate) buffer: Vec<u8>,
    to: W,
}

impl Output<File> {
    /// Standard output without the standard library's line buffer.
    pub(crate) fn stdout() -> io::Result<Self> {
        Ok(Self::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.to.is_terminal()
    }
}

impl<W: Write> Output<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { buffer: Vec::with_capacity(WRITE_BYTES + (16 << 10)), to }
    }

    /// Writes the buffer if there is enough in it for a system call.
    #[inline]
    pub(crate) fn write_if_large(&mut self) -> anyhow::Result<()> {
        if self.buffer.len() < WRITE_BYTES { Ok(()) } else { self.write_now() }
    }

    /// Writes everything in the buffer.
    pub(crate) fn write_now(&mut self) -> anyhow::Result<()> {
        let result = self.to.write_all(&self.buffer);
        self.buffer.clear();
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::OutputClosed.into()),
            Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
        }
    }
}

/// Writes `text` to standard output.
pub(crate) fn print_out(text: &str) -> anyhow::Result<()> {
    let mut output = Output::stdout()?;
    output.buffer.extend_from_slice(text.as_bytes());
    output.write_now()
}

/// Makes `content` the content of the file at `path`, in one step: a reader finds the old content or the new, never a
/// part of it. The new file is written next to the old one, as `FILE.PID.tmp`, and renamed.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    // The process id keeps two commands apart. The ending keeps the node exporter, which reads *.prom, from reading it.
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = Path::new(&beside);
    let written = (|| {
        // Not through a link: in a directory of other users it could lead anywhere.
        let no_link = OFlag::O_NOFOLLOW.bits();
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(no_link)
            .mode(0o644)
            .open(beside)?;
        file.write_all(content)?;
        // Not synced: after a loss of power the next run replaces the file.
        std::fs::rename(beside, path)
    })();
    written
        .inspect_err(|_| {
            let _ = std::fs::remove_file(beside);
        })
        .with_context(|| format!("{}: cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_by_another_and_never_written_into() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("dbufd.prom");
        replace_file(&file, b"a longer first one\n").unwrap();
        let reader = File::open(&file).unwrap();
        replace_file(&file, b"second\n").unwrap();
        // A reader in the middle of the first keeps the first.
        assert_eq!(io::read_to_string(reader).unwrap(), "a longer first one\n");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "second\n");
        assert_eq!(names(directory.path()), ["dbufd.prom"]);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_leaves_nothing_behind_and_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let taken = directory.path().join("taken");
        std::fs::create_dir_all(taken.join("inside")).unwrap();
        let error = format!("{:#}", replace_file(&taken, b"x").unwrap_err());
        assert!(error.starts_with(&format!("{}: cannot be written: ", taken.display())), "{error}");
        assert_eq!(names(directory.path()), ["taken"]);
        assert!(replace_file(&directory.path().join("not/there"), b"x").is_err());
    }

    #[test]
    fn a_link_in_the_place_of_the_new_file_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let link = directory.path().join(format!("file.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert!(replace_file(&directory.path().join("file"), b"x").is_err());
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(names(directory.path()), ["victim"], "the next run does not find the link");
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut output = Output::new(writer);
        output.buffer.extend_from_slice(b"anyone?");
        let error = output.write_now().unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Failure::OutputClosed)));
    }

    #[test]
    fn little_is_held_back_until_it_is_asked_for() {
        let mut output = Output::new(Vec::new());
        output.buffer.extend_from_slice(b"a");
        output.write_if_large().unwrap();
        assert_eq!(output.to, b"");
        output.write_now().unwrap();
        assert_eq!(output.to, b"a");
        output.buffer.resize(WRITE_BYTES, b'b');
        output.write_if_large().unwrap();
        assert_eq!((output.to.len(), output.buffer.len()), (1 + WRITE_BYTES, 0));
    }
}
