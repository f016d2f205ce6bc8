//! A client of the framed protocol over a blocking stream.
//!
//! Enters: events of one thread of an application. Leaves: frames on the daemon's `stream.sock`, and what the daemon
//! says of them. The caller's thread does all the work: no thread, no signal, no global state. What can fail: the
//! connection, with [`Error`]; a single event, with [`Error::TooBig`] before it is sent, or as a [`Refusal`] after.
//!
//! When the daemon has no room, it stops reading and a send waits: pressure goes back to who makes the events.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::wire::{self, Code, Event, Fault, Frame, Hello, Level, Welcome, feature};

/// Frames are gathered up to this many bytes before they are written.
const GATHER_BYTES: usize = 64 << 10;
/// The most refusals that are kept for [`Client::refusals`]; more are only counted.
const REFUSALS_MAX: usize = 1024;
/// The longest that [`Client::connect`] waits for the daemon's answer.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions<'a> {
    /// The tag of events that have none; at most [`wire::TAG_BYTES_MAX`] bytes.
    pub name: &'a str,
    /// Ties connections of one producer together, so that an event that is sent again lands once; 0 for none. Choose it
    /// at random, and keep it for as long as sequences go on.
    pub session: u128,
    /// What the daemon acknowledges unasked. [`Client::sync`] works with each.
    pub ack: Level,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there, or not for this user.
    #[error("cannot connect to {path}: {source}; is dbufd running?")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The connection failed. Events after [`Client::acknowledged`] may not have arrived.
    #[error("the connection to dbufd failed: {0}")]
    Io(#[from] io::Error),
    /// The daemon closed the connection.
    #[error("dbufd closed the connection")]
    Closed,
    /// The daemon ended the connection with a reason.
    #[error("dbufd ended the connection: {text} ({code})")]
    Ended {
        /// The code's name, or its number if it is of a later version.
        code: String,
        /// The daemon's words.
        text: String,
    },
    /// The daemon's bytes are no frames that this client knows.
    #[error("dbufd sent something that this client does not understand: {0}")]
    Wire(#[from] wire::WireError),
    /// No answer in time.
    #[error("no answer from dbufd within {0:?}")]
    Timeout(Duration),
    /// Not sent: larger than the daemon takes.
    #[error("the event has {bytes} bytes, and dbufd takes {max_event} (ingest.max_event)")]
    TooBig {
        /// Bytes of its payload.
        bytes: usize,
        /// The most that the daemon takes.
        max_event: usize,
    },
    /// Not sent: it breaks a rule of the protocol.
    #[error("not a valid event: {0}")]
    Invalid(&'static str),
    /// Events that were sent are not stored; [`Client::refusals`] names them.
    #[error("{0} events were not stored")]
    Refused(u64),
}

/// Events that the daemon did not store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The first sequence.
    pub first: u64,
    /// The last sequence.
    pub last: u64,
    /// Why; a number that [`Code::from_number`] may not know.
    pub code: u8,
    /// The daemon's words.
    pub text: String,
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    welcome: Welcome,
    sequence: u64,
    gathered: Vec<u8>,
    replies: Vec<u8>,
    level: Level,
    acknowledged: u64,
    durable: u64,
    refusals: VecDeque<Refusal>,
    refused: u64,
    /// Set once the connection is of no use any more: nothing that was gathered may follow half a frame.
    failed: bool,
}

impl Client {
    /// Connects to the daemon's `stream.sock` and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Connect`] when nobody listens; [`Error::Ended`] when the daemon does not want this connection.
    pub fn connect(path: impl AsRef<Path>, options: &ClientOptions<'_>) -> Result<Self, Error> {
        let path = path.as_ref();
        if options.name.len() > wire::TAG_BYTES_MAX {
            return Err(Error::Invalid("the name is longer than 64 bytes"));
        }
        let stream = UnixStream::connect(path).map_err(|source| Error::Connect { path: path.to_path_buf(), source })?;
        let mut opening = wire::MAGIC.to_vec();
        let (session, ack, compatible) = (options.session, options.ack, feature::FIELDS);
        let hello = Hello { session, ack, compatible, ..Hello::new(options.name.as_bytes()) };
        Frame::Hello(hello).encode(&mut opening);
        let mut client = Self {
            stream,
            welcome: Welcome { version: 0, max_event: 0, compatible: 0, incompatible: 0, last: 0 },
            sequence: 0,
            gathered: Vec::with_capacity(GATHER_BYTES),
            replies: Vec::new(),
            level: options.ack,
            acknowledged: 0,
            durable: 0,
            refusals: VecDeque::new(),
            refused: 0,
            failed: false,
        };
        client.write(&opening)?;
        let deadline = Instant::now() + WELCOME_TIMEOUT;
        while client.welcome.version == 0 {
            client.wait_reply(deadline, WELCOME_TIMEOUT)?;
        }
        client.sequence = client.welcome.last;
        Ok(client)
    }

    /// The largest payload that the daemon takes, in bytes.
    #[must_use]
    pub fn max_event(&self) -> usize {
        self.welcome.max_event as usize
    }

    /// The sequence of the last event: that was sent on this connection, or, before any was, that the daemon has
    /// accepted of this session.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Sends one event and returns its sequence. It is gathered with others; [`Client::push`] and [`Client::sync`]
    /// see to it that it goes out.
    ///
    /// `pri` is the priority, 0 to 7, plus 8 times a syslog facility if there is one. An empty `tag` stands for the
    /// connection's name. `time_ns` is the sender's own time in nanoseconds of the wall clock, or 0.
    ///
    /// # Errors
    /// [`Error::TooBig`] and [`Error::Invalid`] concern this event alone; all others the connection.
    pub fn send(&mut self, pri: u8, tag: &[u8], time_ns: u64, payload: &[u8]) -> Result<u64, Error> {
        self.send_with_fields(pri, tag, time_ns, &[], payload)
    }

    /// Whether the daemon takes fields beside the payload; those before version 0.2 do not.
    #[must_use]
    pub fn takes_fields(&self) -> bool {
        self.welcome.compatible & feature::FIELDS != 0
    }

    /// As [`Client::send`], with fields beside the payload: made by [`wire::put_field`], shown by `dbufctl cat -o json`
    /// under their names, found by `dbufctl cat NAME=VALUE`. Names are best of capital letters, digits and underscores.
    ///
    /// # Errors
    /// As [`Client::send`]; [`Error::Invalid`] also if the daemon takes no fields.
    pub fn send_with_fields(
        &mut self,
        pri: u8,
        tag: &[u8],
        time_ns: u64,
        fields: &[u8],
        payload: &[u8],
    ) -> Result<u64, Error> {
        if !fields.is_empty() && !self.takes_fields() {
            return Err(Error::Invalid("this dbufd takes no fields"));
        }
        if fields.len() > wire::FIELDS_BYTES_MAX {
            return Err(Error::Invalid("the fields are longer than 16 KiB"));
        }
        if payload.len() > self.max_event() {
            return Err(Error::TooBig { bytes: payload.len(), max_event: self.max_event() });
        }
        if payload.is_empty() {
            return Err(Error::Invalid("the payload is empty"));
        }
        if tag.len() > wire::TAG_BYTES_MAX {
            return Err(Error::Invalid("the tag is longer than 64 bytes"));
        }
        if pri > wire::PRI_MAX {
            return Err(Error::Invalid("pri is above 191"));
        }
        let fields_bytes = if fields.is_empty() { 0 } else { wire::FIELDS_LENGTH_BYTES + fields.len() };
        if self.gathered.len() + wire::HEAD_BYTES + tag.len() + fields_bytes + payload.len() > GATHER_BYTES {
            self.push()?;
        }
        self.sequence += 1;
        Event { pri, tag, time_ns, sequence: self.sequence, fields, payload }.encode(&mut self.gathered);
        Ok(self.sequence)
    }

    /// Writes what is gathered, and takes in what the daemon has said, without waiting for it.
    ///
    /// # Errors
    /// The connection failed, or the daemon ended it.
    pub fn push(&mut self) -> Result<(), Error> {
        self.write_gathered()?;
        self.poll()
    }

    /// Waits until every event so far is durable. A refused event does not hold it up, but makes it an error.
    ///
    /// # Errors
    /// [`Error::Timeout`]: not yet, a later call may succeed. [`Error::Refused`]: the others are durable. Else the
    /// connection failed.
    pub fn sync(&mut self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        if self.durable < self.sequence {
            Frame::Sync.encode(&mut self.gathered);
            self.write_gathered()?;
            while self.durable < self.sequence {
                self.wait_reply(deadline, timeout)?;
            }
        }
        match std::mem::take(&mut self.refused) {
            0 => Ok(()),
            refused => Err(Error::Refused(refused)),
        }
    }

    /// Every event up to this sequence has reached the level that was asked for, or is named in a refusal. Takes in
    /// what the daemon has said so far.
    ///
    /// # Errors
    /// The connection failed, or the daemon ended it.
    pub fn acknowledged(&mut self) -> Result<u64, Error> {
        self.poll()?;
        Ok(self.acknowledged)
    }

    /// Takes what is known of events that the daemon did not store: at most the latest 1024.
    pub fn refusals(&mut self) -> impl Iterator<Item = Refusal> + '_ {
        self.refusals.drain(..)
    }

    /// Writes what is gathered and says goodbye. Dropping the client does the same, but cannot say if it failed.
    ///
    /// # Errors
    /// The connection failed.
    pub fn close(mut self) -> Result<(), Error> {
        self.goodbye()
    }

    fn goodbye(&mut self) -> Result<(), Error> {
        if self.failed {
            return Ok(());
        }
        Frame::Bye.encode(&mut self.gathered);
        let written = self.write_gathered();
        self.failed = true;
        written
    }

    fn write_gathered(&mut self) -> Result<(), Error> {
        let gathered = std::mem::take(&mut self.gathered);
        let written = self.write(&gathered);
        self.gathered = gathered;
        self.gathered.clear();
        written
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Closed);
        }
        match self.stream.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.why_closed(error)),
        }
    }

    /// A daemon that ends a connection says why before it closes, and that is worth more than "broken pipe".
    fn why_closed(&mut self, error: io::Error) -> Error {
        let said = self.poll();
        self.failed = true;
        match said {
            Err(ended @ Error::Ended { .. }) => ended,
            _ if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Error::Closed,
            _ => Error::Io(error),
        }
    }

    /// Takes in what has come, without waiting.
    fn poll(&mut self) -> Result<(), Error> {
        self.stream.set_nonblocking(true)?;
        let result = loop {
            match self.read() {
                Ok(()) => (),
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.stream.set_nonblocking(false)?;
        result
    }

    fn wait_reply(&mut self, deadline: Instant, timeout: Duration) -> Result<(), Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Timeout(timeout));
        }
        self.stream.set_read_timeout(Some(left))?;
        match self.read() {
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Error::Timeout(timeout))
            }
            result => result,
        }
    }

    /// One read, and the frames that it completes.
    fn read(&mut self) -> Result<(), Error> {
        let mut bytes = [0; 4096];
        let n = match self.stream.read(&mut bytes) {
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(Error::Io(error)),
        };
        if n == 0 {
            self.failed = true;
            return Err(Error::Closed);
        }
        let mut replies = std::mem::take(&mut self.replies);
        replies.extend_from_slice(&bytes[..n]);
        let taken = self.take_frames(&replies);
        if let Ok(consumed) = taken {
            replies.drain(..consumed);
            self.replies = replies;
        } else {
            self.failed = true;
        }
        taken.map(|_| ())
    }

    fn take_frames(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let mut at = 0;
        while let Some((frame, consumed)) = Frame::decode(&bytes[at..])? {
            at += consumed;
            match frame {
                Frame::Welcome(welcome) => self.welcome = welcome,
                Frame::Ack { level, sequence } => self.take_ack(level, sequence),
                Frame::Error(fault) => self.take_fault(&fault)?,
                Frame::Ignored { .. } => (),
                Frame::Grant { .. } => return Err(Error::Wire(wire::WireError("a ring that nobody asked for"))),
                Frame::Hello(_) | Frame::Event(_) | Frame::Sync | Frame::Bye | Frame::Ring { .. } => {
                    return Err(Error::Wire(wire::WireError("a frame that only clients send")));
                }
            }
        }
        Ok(at)
    }

    fn take_ack(&mut self, level: Level, sequence: u64) {
        if level == Level::Durable {
            self.durable = self.durable.max(sequence);
        }
        if level >= self.level {
            self.acknowledged = self.acknowledged.max(sequence);
        }
    }

    fn take_fault(&mut self, fault: &Fault<'_>) -> Result<(), Error> {
        let text = String::from_utf8_lossy(fault.text).into_owned();
        let known = Code::from_number(fault.code);
        if fault.code >= Code::Broken as u8 {
            let code = known.map_or_else(|| format!("code {}", fault.code), |code| code.name().to_string());
            return Err(Error::Ended { code, text });
        }
        self.refused = self.refused.saturating_add(fault.last.saturating_sub(fault.first).saturating_add(1));
        if self.refusals.len() == REFUSALS_MAX {
            self.refusals.pop_front();
        }
        self.refusals.push_back(Refusal { first: fault.first, last: fault.last, code: fault.code, text });
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Nobody is left to tell: who wants to know calls `close` or `sync`.
        let _ = self.goodbye();
    }
}

#[cfg(test)]
mod tests;
