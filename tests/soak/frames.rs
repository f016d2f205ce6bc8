//! Producers of frames: they number their events, and resend what a daemon that died had not accepted.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dbuf_client::{Client, ClientOptions, Error};
use dbuf_wire::frames::{self as wire, Code, Event, Frame, Hello, Level};

use crate::payload::{self, MAX_EVENT};
use crate::senders::{Sender, Sent};
use crate::support::TIMEOUT;

/// Frames that a client sends before it looks what the daemon says.
const BURST: u64 = 200;
/// What a client sends in an epoch as fast as it can. The disk is finite, so it goes on slowly then.
const FULL_SPEED_BYTES: u64 = 48 << 20;
const SLOW: Duration = Duration::from_millis(100);
/// Spares the machine while the daemon is away, or still reads the connection before this one.
const RETRY: Duration = Duration::from_millis(5);

/// A client as fast as it can.
pub(crate) struct Framed {
    socket: PathBuf,
    name: String,
    session: u128,
    /// The last sequence of the epoch before.
    before: u64,
}

impl Framed {
    pub(crate) fn new(socket: PathBuf, name: String, session: u128) -> Self {
        Self { socket, name, session, before: 0 }
    }

    /// Sends until it is told to stop, and all is durable. Gives what was sent, or what the daemon has broken.
    pub(crate) fn run(&mut self, stop: &AtomicBool) -> Result<Sent, String> {
        let (mut acknowledged, mut bytes) = (self.before, 0);
        let options = ClientOptions { name: "soak", session: self.session, ack: Level::Persisted, quiet: true };
        loop {
            let mut client = self.connect(&options)?;
            let last = client.sequence();
            if last < acknowledged {
                return Err(format!("{}: {acknowledged} was acknowledged, and the daemon knows of {last}", self.name));
            }
            let sent = self.send(&mut client, stop, &mut bytes);
            acknowledged = client.acknowledged().unwrap_or(0).max(acknowledged);
            match sent {
                Ok(()) => {
                    let numbers = self.before + 1..client.sequence() + 1;
                    self.before = client.sequence();
                    return Ok(Sent { name: self.name.clone(), numbers, too_big: 0 });
                }
                Err(error @ (Error::Refused(_) | Error::TooBig { .. } | Error::Invalid(_) | Error::Timeout(_))) => {
                    return Err(format!("{}: {error}", self.name));
                }
                Err(_) => {}
            }
        }
    }

    fn connect(&self, options: &ClientOptions<'_>) -> Result<Client, String> {
        let until = Instant::now() + TIMEOUT;
        loop {
            match Client::connect(&self.socket, options) {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > until => return Err(format!("{}: {error}", self.name)),
                Err(_) => thread::sleep(RETRY),
            }
        }
    }

    fn send(&self, client: &mut Client, stop: &AtomicBool, bytes: &mut u64) -> Result<(), Error> {
        let mut text = Vec::new();
        // Relaxed: a flag, and nothing that it would publish.
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..BURST {
                text.clear();
                payload::put(&mut text, &self.name, client.sequence() + 1);
                client.send(6, b"", 0, &text)?;
                *bytes += text.len() as u64;
            }
            client.push()?;
            if *bytes > FULL_SPEED_BYTES {
                thread::sleep(SLOW);
            }
        }
        client.sync(TIMEOUT)
    }
}

/// A client that sends one frame too large with each that is not, and waits for what the daemon says of both.
pub(crate) struct RefusedFrames {
    name: String,
    socket: PathBuf,
    session: u128,
    stream: Option<UnixStream>,
    /// All up to this sequence is answered for. Odd sequences are too large.
    done: u64,
    asked: u64,
}

impl RefusedFrames {
    pub(crate) fn new(name: String, socket: PathBuf, session: u128) -> Self {
        Self { name, socket, session, stream: None, done: 0, asked: 0 }
    }

    /// Sends what the daemon does not know of the next two sequences, and waits until it has answered for both.
    fn exchange(&mut self) -> io::Result<()> {
        let (last, mut stream) = match self.stream.take() {
            Some(stream) => (self.done, stream),
            None => open(&self.socket, self.session)?,
        };
        let too_big = vec![b'x'; MAX_EVENT + 1 + self.done as usize % 1000];
        let fits = payload::text(&self.name, (self.done + 2) / 2);
        let mut bytes = Vec::new();
        for (sequence, payload) in (self.done + 1..).zip([&too_big, &fits]).filter(|(sequence, _)| *sequence > last) {
            Event { pri: 6, sequence, payload, ..Event::default() }.encode(&mut bytes);
        }
        Frame::Sync.encode(&mut bytes);
        stream.write_all(&bytes)?;
        let answered = self.done + 2;
        answers(&mut stream, |frame| match frame {
            Frame::Error(fault) if fault.code != Code::TooBig as u8 => {
                Some(Err(io::Error::other(String::from_utf8_lossy(fault.text).into_owned())))
            }
            Frame::Ack { level: Level::Durable, sequence } if *sequence >= answered => Some(Ok(())),
            _ => None,
        })??;
        self.done = answered;
        self.stream = Some(stream);
        Ok(())
    }
}

impl Sender for RefusedFrames {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn step(&mut self) -> io::Result<()> {
        // A daemon that dies breaks framed connections: their clients have to come again.
        let until = Instant::now() + TIMEOUT;
        while let Err(error) = self.exchange() {
            if Instant::now() > until {
                return Err(error);
            }
            thread::sleep(RETRY);
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.stream = None;
        Ok(())
    }

    fn sent(&mut self) -> Vec<Sent> {
        let pairs = std::mem::replace(&mut self.asked, self.done / 2)..self.done / 2;
        let too_big = pairs.end - pairs.start;
        vec![Sent { name: self.name.clone(), numbers: pairs.start + 1..pairs.end + 1, too_big }]
    }
}

/// Connects, and gives the last sequence that the daemon knows of.
fn open(socket: &Path, session: u128) -> io::Result<(u64, UnixStream)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut bytes = wire::MAGIC.to_vec();
    Frame::Hello(Hello { session, ack: Level::Persisted, ..Hello::new(b"soak") }).encode(&mut bytes);
    stream.write_all(&bytes)?;
    let last = answers(&mut stream, |frame| match frame {
        Frame::Welcome(welcome) => Some(Ok(welcome.last)),
        Frame::Error(_) => Some(Err(io::Error::other("not welcome"))),
        _ => None,
    })??;
    Ok((last, stream))
}

/// Reads frames until one answers. What came behind it is of no interest: nothing was asked that it could answer.
fn answers<T>(stream: &mut UnixStream, mut take: impl FnMut(&Frame<'_>) -> Option<T>) -> io::Result<T> {
    let (mut bytes, mut block) = (Vec::new(), [0; 4096]);
    loop {
        let mut at = 0;
        while let Some((frame, consumed)) = Frame::decode(&bytes[at..]).map_err(io::Error::other)? {
            at += consumed;
            if let Some(answer) = take(&frame) {
                return Ok(answer);
            }
        }
        bytes.drain(..at);
        match stream.read(&mut block)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&block[..count]),
        }
    }
}
