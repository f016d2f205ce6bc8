//! Sends events that each matter over a framed connection, and waits where the daemon does.
//!
//! Input: events of one thread of an application. Output: frames on the daemon's `stream.sock`, and what the daemon
//! says of them. The caller's thread does all the work: no other thread, no signal. Failures: the connection, with
//! [`Error`]; a single event, with [`Error::TooBig`] before it is sent, or as a [`Refusal`] after.
//!
//! When the daemon has no room, it stops reading and a send waits: the pressure reaches the code that makes the events.

mod error;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

pub use self::error::Error;

use crate::connection::{Connection, End, GATHER_BYTES, Refusal, Said};
use crate::wire::{self, Event, Frame, Hello, Level, Welcome, feature};
use crate::{reason, rules, sys};

/// The most refusals that are kept for [`Client::refusals`]; more are only counted.
const REFUSALS_MAX: usize = 1024;
/// The longest that [`Client::connect`] waits for a place in the daemon's queue, and then for its answer.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that dropping a [`Client`] waits for room with the daemon.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection is to be.
///
/// ```
/// use dbuf_client::{ClientOptions, wire::Level};
///
/// let options = ClientOptions { name: "shop", ack: Level::Persisted, ..ClientOptions::default() };
/// assert_eq!((options.session, options.quiet), (0, false));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions<'a> {
    /// The tag of events that have none; at most [`wire::TAG_BYTES_MAX`] bytes.
    pub name: &'a str,
    /// Ties connections of one producer together, so that an event that is sent again is stored once; 0 for none.
    /// Choose it at random, and keep it for as long as sequences continue.
    pub session: u128,
    /// What the daemon acknowledges without being asked. [`Client::sync`] works with each.
    pub ack: Level,
    /// Nothing is written to standard error. Otherwise a client that is dropped with events that it could not write
    /// says how many.
    pub quiet: bool,
}

/// A connection to the daemon: for few events that each matter. A send waits while the daemon has no room.
///
/// The connection is not made again when it ends. A program that connects again with the same
/// [session](ClientOptions::session) learns from [`Client::sequence`] what has arrived, and sends the rest. A forked
/// child has to connect for itself: its parent's connection is closed there.
///
/// ```no_run
/// use dbuf_client::{Client, ClientOptions};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), dbuf_client::Error> {
/// let options = ClientOptions { name: "shop", ..Default::default() };
/// let mut client = Client::connect("/run/dbufd/stream.sock", &options)?;
/// client.send(6, b"", 0, b"order 17 accepted")?;
/// client.sync(Duration::from_secs(5))?; // it is on the disk now
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    welcome: Welcome,
    sequence: u64,
    level: Level,
    acknowledged: u64,
    durable: u64,
    refusals: VecDeque<Refusal>,
    refused: u64,
    /// The last event that a SYNC covers.
    sync_asked: u64,
    /// Set once the connection has failed: nothing that is queued may follow half a frame.
    failed: bool,
    quiet: bool,
    /// What [`sys::forks`] says in the process whose connection it is.
    forks: u64,
}

impl Client {
    /// Connects to the daemon's `stream.sock`. Waits at most 10 s for a place in the daemon's queue, and then at most
    /// 10 s for its answer.
    ///
    /// # Errors
    /// [`Error::Connect`] when the daemon does not listen there; [`Error::Ended`] when it refuses this connection, and
    /// [`Error::Timeout`] when it does not answer; [`Error::Invalid`] when the name is too long. Otherwise the
    /// connection failed.
    ///
    /// ```no_run
    /// # use dbuf_client::{Client, ClientOptions};
    /// let client = Client::connect("/run/dbufd/stream.sock", &ClientOptions::default())?;
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    pub fn connect(path: impl AsRef<Path>, options: &ClientOptions<'_>) -> Result<Self, Error> {
        let path = path.as_ref();
        if options.name.len() > wire::TAG_BYTES_MAX {
            return Err(Error::Invalid("the name is longer than 64 bytes"));
        }
        sys::watch_forks()?;
        let connection = Connection::open(path, WELCOME_TIMEOUT)
            .map_err(|source| Error::Connect { path: path.to_path_buf(), source })?;
        let mut client = Self {
            connection,
            welcome: Welcome { version: 0, max_event: 0, compatible: 0, incompatible: 0, last: 0 },
            sequence: 0,
            level: options.ack,
            acknowledged: 0,
            durable: 0,
            refusals: VecDeque::new(),
            refused: 0,
            sync_asked: 0,
            failed: false,
            quiet: options.quiet,
            forks: sys::forks(),
        };
        let (session, ack, compatible) = (options.session, options.ack, feature::FIELDS);
        let hello = Hello { session, ack, compatible, ..Hello::new(options.name.as_bytes()) };
        client.connection.queue_hello(hello);
        let deadline = Instant::now() + WELCOME_TIMEOUT;
        client.write_until(deadline, WELCOME_TIMEOUT)?;
        while client.welcome.version == 0 {
            client.wait_reply(deadline, WELCOME_TIMEOUT)?;
        }
        client.sequence = client.welcome.last;
        Ok(client)
    }

    /// The largest payload that the daemon takes, in bytes (`ingest.max_event`).
    ///
    /// ```no_run
    /// # let client = dbuf_client::Client::connect("/run/dbufd/stream.sock", &Default::default())?;
    /// assert!("order 17 accepted".len() <= client.max_event());
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    #[must_use]
    pub fn max_event(&self) -> usize {
        self.welcome.max_event as usize
    }

    /// The sequence of the last event that was sent on this connection. Before any was: of the last event of this
    /// session that the daemon has accepted.
    ///
    /// ```no_run
    /// use dbuf_client::{Client, ClientOptions};
    ///
    /// # let events: [&[u8]; 3] = [b"one", b"two", b"three"];
    /// let options = ClientOptions { session: 0x5EED, ..ClientOptions::default() };
    /// let mut client = Client::connect("/run/dbufd/stream.sock", &options)?;
    /// for event in events.iter().skip(client.sequence() as usize) {
    ///     client.send(6, b"", 0, event)?; // what the daemon does not have yet
    /// }
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Sends one event and returns its sequence. It is gathered with others, up to 64 KiB; [`Client::push`] and
    /// [`Client::sync`] write what is gathered.
    ///
    /// `pri` is the priority, 0 to 7, plus 8 times a syslog facility if there is one. An empty `tag` stands for the
    /// connection's name. `time_ns` is the sender's own time in nanoseconds since 1970, UTC, or 0.
    ///
    /// # Errors
    /// [`Error::TooBig`] and [`Error::Invalid`] concern this event alone; all others the connection.
    ///
    /// ```no_run
    /// # let mut client = dbuf_client::Client::connect("/run/dbufd/stream.sock", &Default::default())?;
    /// let sequence = client.send(3, b"billing", 0, b"card refused")?;
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    pub fn send(&mut self, pri: u8, tag: &[u8], time_ns: u64, payload: &[u8]) -> Result<u64, Error> {
        self.send_with_fields(pri, tag, time_ns, &[], payload)
    }

    /// Whether the daemon takes fields next to the payload. A daemon that does not know them stores the payload alone.
    ///
    /// ```no_run
    /// # let client = dbuf_client::Client::connect("/run/dbufd/stream.sock", &Default::default())?;
    /// assert!(client.takes_fields());
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    #[must_use]
    pub fn takes_fields(&self) -> bool {
        self.welcome.compatible & feature::FIELDS != 0
    }

    /// As [`Client::send`], with fields next to the payload: [`wire::put_field`] makes them, `dbufctl cat -o json`
    /// shows them under their names, and `dbufctl cat NAME=VALUE` finds them. A name should have capital letters,
    /// digits and underscores.
    ///
    /// # Errors
    /// As [`Client::send`]; [`Error::Invalid`] also if the daemon takes no fields.
    ///
    /// ```no_run
    /// use dbuf_client::wire::put_field;
    ///
    /// # let mut client = dbuf_client::Client::connect("/run/dbufd/stream.sock", &Default::default())?;
    /// let mut fields = Vec::new();
    /// assert!(put_field(&mut fields, b"ORDER", b"17"));
    /// client.send_with_fields(4, b"billing", 0, &fields, b"card refused")?;
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
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
        if payload.len() > self.max_event() {
            return Err(Error::TooBig { bytes: payload.len(), max_event: self.max_event() });
        }
        let event = Event { pri, tag, time_ns, sequence: self.sequence + 1, fields, payload };
        if let Some(rule) = rules::broken(&event, payload.len()) {
            return Err(Error::Invalid(rule));
        }
        let bytes = wire::HEAD_BYTES + tag.len() + wire::FIELDS_LENGTH_BYTES + fields.len() + payload.len();
        if self.connection.queued_bytes() + bytes > GATHER_BYTES {
            self.push()?;
        }
        self.sequence += 1;
        self.connection.queue(&Frame::Event(event));
        Ok(self.sequence)
    }

    /// Writes what is gathered, and takes in what the daemon has said. It waits until the daemon has room, but not for
    /// an answer.
    ///
    /// # Errors
    /// The connection failed, or the daemon ended it.
    ///
    /// ```no_run
    /// # let mut client = dbuf_client::Client::connect("/run/dbufd/stream.sock", &Default::default())?;
    /// client.send(6, b"", 0, b"order 17 accepted")?;
    /// client.push()?; // the next event may be hours away
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    pub fn push(&mut self) -> Result<(), Error> {
        self.write()?;
        self.take_replies()
    }

    /// Waits until every event so far is durable: a loss of power does not take it. A refused event does not delay it,
    /// but makes it an error. Waits at most `timeout`, for room with the daemon and for its answer.
    ///
    /// # Errors
    /// [`Error::Timeout`]: not yet; a later call may succeed. [`Error::Refused`]: the others are durable. Otherwise
    /// the connection failed.
    ///
    /// ```no_run
    /// # let mut client = dbuf_client::Client::connect("/run/dbufd/stream.sock", &Default::default())?;
    /// client.send(6, b"", 0, b"order 17 accepted")?;
    /// client.sync(std::time::Duration::from_secs(5))?;
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    pub fn sync(&mut self, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        if self.durable < self.sequence {
            if self.sync_asked < self.sequence {
                self.connection.queue(&Frame::Sync);
                self.sync_asked = self.sequence;
            }
            self.write_until(deadline, timeout)?;
            while self.durable < self.sequence {
                self.wait_reply(deadline, timeout)?;
            }
        }
        match std::mem::take(&mut self.refused) {
            0 => Ok(()),
            refused => Err(Error::Refused(refused)),
        }
    }

    /// Takes in what the daemon has said so far. Every event up to the sequence that is returned has reached
    /// [the level that was asked for](ClientOptions::ack), or is named in a refusal.
    ///
    /// # Errors
    /// The connection failed, or the daemon ended it.
    ///
    /// ```no_run
    /// use dbuf_client::{Client, ClientOptions, wire::Level};
    ///
    /// let options = ClientOptions { ack: Level::Persisted, ..ClientOptions::default() };
    /// let mut client = Client::connect("/run/dbufd/stream.sock", &options)?;
    /// let sequence = client.send(6, b"", 0, b"order 17 accepted")?;
    /// client.push()?;
    /// let is_in_a_file = client.acknowledged()? >= sequence;
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    pub fn acknowledged(&mut self) -> Result<u64, Error> {
        self.take_replies()?;
        Ok(self.acknowledged)
    }

    /// Takes what is known of events that the daemon did not store: at most the latest 1,024 refusals.
    ///
    /// ```no_run
    /// # let mut client = dbuf_client::Client::connect("/run/dbufd/stream.sock", &Default::default())?;
    /// for refusal in client.refusals() {
    ///     eprintln!("events {} to {}: {}", refusal.first, refusal.last, refusal.text);
    /// }
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    pub fn refusals(&mut self) -> impl Iterator<Item = Refusal> + '_ {
        self.refusals.drain(..)
    }

    /// Writes what is gathered and ends the connection. It waits until the daemon has room. Dropping the client does
    /// the same, but waits at most 10 s and cannot return an error.
    ///
    /// # Errors
    /// The connection failed, now or before, and events were not written.
    ///
    /// ```no_run
    /// # let mut client = dbuf_client::Client::connect("/run/dbufd/stream.sock", &Default::default())?;
    /// client.send(6, b"", 0, b"order 17 accepted")?;
    /// client.close()?;
    /// # Ok::<(), dbuf_client::Error>(())
    /// ```
    pub fn close(mut self) -> Result<(), Error> {
        if self.failed && self.connection.unwritten_events() > 0 {
            return Err(Error::Closed);
        }
        self.goodbye(Self::write)
    }

    fn goodbye(&mut self, write: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        if self.failed {
            return Ok(());
        }
        self.connection.queue(&Frame::Bye);
        let written = write(self);
        self.failed = true;
        written
    }

    /// Writes all that is queued, however long that takes.
    fn write(&mut self) -> Result<(), Error> {
        while !self.write_some()? {
            self.connection.wait(None);
        }
        Ok(())
    }

    /// The same, until the deadline, which is `timeout` after the call began.
    fn write_until(&mut self, deadline: Instant, timeout: Duration) -> Result<(), Error> {
        while !self.write_some()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout(timeout));
            }
            self.connection.wait(Some(left));
        }
        Ok(())
    }

    /// Writes what the daemon has room for, and says whether that was all. If not, takes in what the daemon has said.
    fn write_some(&mut self) -> Result<bool, Error> {
        if self.failed {
            return Err(Error::Closed);
        }
        match self.connection.flush() {
            Ok(true) => Ok(true),
            Ok(false) => self.take_replies().map(|()| false),
            Err(error) => Err(self.why_closed(error)),
        }
    }

    /// A daemon that ends a connection says why before it closes, and that is worth more than "broken pipe".
    fn why_closed(&mut self, error: io::Error) -> Error {
        let said = self.take_replies();
        self.failed = true;
        match said {
            Err(ended @ Error::Ended { .. }) => ended,
            _ if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Error::Closed,
            _ => End::Failed(error).into(),
        }
    }

    /// Takes in what has come, without waiting.
    fn take_replies(&mut self) -> Result<(), Error> {
        while let Some(said) = self.connection.hear() {
            self.take(said).inspect_err(|_| self.failed = true)?;
        }
        Ok(())
    }

    /// Waits for one thing that the daemon says. What it says before it closes the connection is taken first, and may
    /// be all that the caller waits for.
    fn wait_reply(&mut self, deadline: Instant, timeout: Duration) -> Result<(), Error> {
        loop {
            if let Some(said) = self.connection.hear() {
                return self.take(said).inspect_err(|_| self.failed = true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout(timeout));
            }
            self.connection.wait(Some(left));
        }
    }

    fn take(&mut self, said: Said) -> Result<(), Error> {
        match said {
            Said::Welcome(welcome) => self.welcome = welcome,
            Said::Ack { level, sequence } => {
                if level == Level::Durable {
                    self.durable = self.durable.max(sequence);
                }
                if level >= self.level {
                    self.acknowledged = self.acknowledged.max(sequence);
                }
            }
            Said::Refusal(refusal) => {
                self.refused = self.refused.saturating_add(refusal.events());
                if self.refusals.len() == REFUSALS_MAX {
                    self.refusals.pop_front();
                }
                self.refusals.push_back(refusal);
            }
            Said::Grant { .. } => return Err(Error::Wire(wire::WireError("a ring that was not asked for"))),
            Said::End(end) => return Err(end.into()),
        }
        Ok(())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let until = Instant::now() + DROP_TIMEOUT;
        let why = match self.goodbye(|client| client.write_until(until, DROP_TIMEOUT)) {
            Ok(()) => "the connection had ended".to_string(),
            Err(error) => error.to_string(),
        };
        if !self.quiet && self.forks == sys::forks() {
            reason::complain_of_loss(self.connection.unwritten_events(), &why);
        }
    }
}

#[cfg(test)]
mod tests;
