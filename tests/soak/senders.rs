//! Producers of lines and datagrams, each of which does a little at a time and knows what it has sent.

use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;

use crate::payload::{self, MAX_EVENT, Random};

/// What one producer has sent: these numbers, each to be there once.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) name: String,
    pub(crate) numbers: Range<u64>,
    /// Further events that the daemon has to refuse and count.
    pub(crate) too_big: u64,
}

/// A producer that a thread drives together with others.
pub(crate) trait Sender: Send {
    fn name(&self) -> String;

    /// Sends a little.
    fn step(&mut self) -> io::Result<()>;

    /// Ends what has begun, so that nothing is half sent.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What was sent since this was asked last.
    fn sent(&mut self) -> Vec<Sent>;
}

/// Numbers that go on from one epoch to the next.
pub(crate) struct Count {
    pub(crate) name: String,
    asked: u64,
    pub(crate) next: u64,
}

impl Count {
    pub(crate) fn new(name: String) -> Self {
        Self { name, asked: 0, next: 0 }
    }

    pub(crate) fn text(&self) -> Vec<u8> {
        payload::text(&self.name, self.next)
    }

    pub(crate) fn sent(&mut self, too_big: u64) -> Vec<Sent> {
        let numbers = std::mem::replace(&mut self.asked, self.next)..self.next;
        vec![Sent { name: self.name.clone(), numbers, too_big }]
    }
}

/// A connection that stays open throughout: no death of the daemon may break it.
pub(crate) struct Lines {
    count: Count,
    stream: UnixStream,
    is_torn: bool,
    /// Of the last line, what is still to be written.
    rest: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(name: String, stream: UnixStream) -> Self {
        Self { count: Count::new(name), stream, is_torn: false, rest: Vec::new() }
    }

    /// Writes the second part of each line with the first of the next, so that half a line is always on its way.
    pub(crate) fn torn(name: String, stream: UnixStream) -> Self {
        Self { is_torn: true, ..Self::new(name, stream) }
    }
}

impl Sender for Lines {
    fn name(&self) -> String {
        self.count.name.clone()
    }

    fn step(&mut self) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.rest);
        let begin = line.len();
        line.append(&mut self.count.text());
        line.push(b'\n');
        if self.is_torn {
            // At any place of the line, its very ends included.
            let cut = begin + self.count.next as usize % (line.len() - begin + 1);
            self.rest = line.split_off(cut);
        }
        self.stream.write_all(&line)?;
        self.count.next += 1;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.stream.write_all(&std::mem::take(&mut self.rest))
    }

    fn sent(&mut self) -> Vec<Sent> {
        self.count.sent(0)
    }
}

/// Short connections, one after the other. Each is a producer of its own: two writers may read two of them.
pub(crate) struct Short {
    name: String,
    socket: PathBuf,
    random: Random,
    connections: u64,
    sent: Vec<Sent>,
}

impl Short {
    const LINES_MAX: u64 = 8;

    pub(crate) fn new(name: String, socket: PathBuf, seed: u64) -> Self {
        Self { name, socket, random: Random::new(seed), connections: 0, sent: Vec::new() }
    }
}

impl Sender for Short {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn step(&mut self) -> io::Result<()> {
        let name = format!("{}.{}", self.name, self.connections);
        self.connections += 1;
        let lines = 1 + self.random.below(Self::LINES_MAX);
        let mut text = Vec::new();
        for number in 0..lines {
            payload::put(&mut text, &name, number);
            text.push(b'\n');
        }
        // The last line of a connection counts without its newline, too.
        text.truncate(text.len() - self.random.below(2) as usize);
        let mut stream = UnixStream::connect(&self.socket)?;
        let (first, second) = text.split_at(self.random.below(text.len() as u64) as usize);
        let written = stream.write_all(first).and_then(|()| stream.write_all(second));
        self.sent.push(Sent { name, numbers: 0..lines, too_big: 0 });
        match written {
            // A kill has met it before systemd had it. Then nothing of it may be there, which is seen when all is
            // compared.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
            written => written,
        }
    }

    fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }
}

/// What is put before an event in a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Envelope {
    Plain,
    Rfc3164,
    Rfc5424,
}

/// A sender of datagrams.
pub(crate) struct Datagrams {
    count: Count,
    socket: UnixDatagram,
    envelope: Envelope,
    /// Sends one that is too large with each that is not, and has sent this many since it was asked.
    too_big: Option<u64>,
}

impl Datagrams {
    pub(crate) fn new(name: String, socket: UnixDatagram, envelope: Envelope) -> Self {
        Self { count: Count::new(name), socket, envelope, too_big: None }
    }

    pub(crate) fn refused(name: String, socket: UnixDatagram) -> Self {
        Self { too_big: Some(0), ..Self::new(name, socket, Envelope::Plain) }
    }
}

impl Sender for Datagrams {
    fn name(&self) -> String {
        self.count.name.clone()
    }

    fn step(&mut self) -> io::Result<()> {
        if let Some(too_big) = &mut self.too_big {
            self.socket.send(&vec![b'x'; MAX_EVENT + 1 + self.count.next as usize % 1000])?;
            *too_big += 1;
        }
        let mut datagram = match self.envelope {
            Envelope::Plain => Vec::new(),
            Envelope::Rfc3164 => b"<13>Jan  1 00:00:00 soak[77]: ".to_vec(),
            Envelope::Rfc5424 => b"<165>1 2026-01-01T00:00:00Z - soak 77 - - ".to_vec(),
        };
        datagram.append(&mut self.count.text());
        self.socket.send(&datagram)?;
        self.count.next += 1;
        Ok(())
    }

    fn sent(&mut self) -> Vec<Sent> {
        let too_big = self.too_big.as_mut().map_or(0, std::mem::take);
        self.count.sent(too_big)
    }
}
