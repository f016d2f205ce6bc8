//! Writes standard output: collected in one buffer, written in large pieces, and without an error if the reader has
//! gone.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;

use super::failure::Failure;

/// The buffer is written out when it holds this many bytes.
const WRITE_BYTES: usize = 128 << 10;

/// Standard output, or its substitute in a test.
#[derive(Debug)]
pub(crate) struct Output<W = File> {
    /// What is to be written next. Formats append to it.
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

#[cfg(test)]
mod tests {
    use super::*;

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
