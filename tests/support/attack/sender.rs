//! A well-behaved sender: a thousand events a second, each with its sender's name, its number and its time.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dbuf_client::wire::Level;
use dbuf_client::{Client, ClientOptions, Producer, ProducerOptions, WhenFull};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use serde_json::{Value, json};

/// Between two events.
const PERIOD: Duration = Duration::from_millis(1);
/// The longest that anything here waits for the daemon. What takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(60);

/// By what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Frames that are acknowledged when they are in a file.
    Persisted,
    /// Frames that are acknowledged when they are durable, for which it asks each time.
    Durable,
    Lines,
    Datagrams,
    Ring,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Persisted => "persisted",
            Self::Durable => "durable",
            Self::Lines => "lines",
            Self::Datagrams => "datagrams",
            Self::Ring => "ring",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Persisted, Self::Durable, Self::Lines, Self::Datagrams, Self::Ring];
        all.into_iter().find(|kind| kind.name() == name).ok_or_else(|| format!("no kind {name}"))
    }
}

/// An event's payload: whose it is, its number from 1 on, and when it was sent, in nanoseconds since 1970.
fn text(name: &str, number: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos();
    let mut text = format!("{name} {number} {now} ");
    let _ = write!(text, "{:x<40}", "");
    text
}

/// The sender, number and time of a payload.
pub(crate) fn parse(payload: &str) -> Option<(&str, u64, u64)> {
    let mut parts = payload.split(' ');
    let (name, number, time) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((name, number, time))
}

/// A way to send. An error ends the sender and is in its report.
trait Way {
    fn send(&mut self, payload: &[u8]) -> Result<(), String>;

    /// Delivers what was sent. Gives the number of the last event that the daemon has confirmed, or that is out of the
    /// sender's hands where nothing is confirmed.
    fn confirmed(&mut self, sent: u64) -> Result<u64, String>;
}

struct Frames {
    client: Client,
    is_durable: bool,
}

impl Way for Frames {
    fn send(&mut self, payload: &[u8]) -> Result<(), String> {
        self.client.send(6, b"", 0, payload).map(drop).map_err(|error| error.to_string())
    }

    fn confirmed(&mut self, sent: u64) -> Result<u64, String> {
        let confirmed = if self.is_durable {
            self.client.sync(TIMEOUT).map(|()| sent)
        } else {
            self.client.push().and_then(|()| self.client.acknowledged())
        };
        match self.client.refusals().next() {
            Some(refusal) => Err(format!("events are refused: {}", refusal.text)),
            None => confirmed.map_err(|error| error.to_string()),
        }
    }
}

impl Way for std::os::unix::net::UnixStream {
    fn send(&mut self, payload: &[u8]) -> Result<(), String> {
        self.write_all(&[payload, b"\n"].concat()).map_err(|error| error.to_string())
    }

    fn confirmed(&mut self, sent: u64) -> Result<u64, String> {
        Ok(sent)
    }
}

impl Way for std::os::unix::net::UnixDatagram {
    fn send(&mut self, payload: &[u8]) -> Result<(), String> {
        Self::send(self, payload).map(drop).map_err(|error| error.to_string())
    }

    fn confirmed(&mut self, sent: u64) -> Result<u64, String> {
        Ok(sent)
    }
}

impl Way for Producer {
    fn send(&mut self, payload: &[u8]) -> Result<(), String> {
        Self::send(self, 6, payload).map_err(|error| error.to_string())
    }

    fn confirmed(&mut self, sent: u64) -> Result<u64, String> {
        let told = self.statistics();
        match told.lost_full + told.refused + told.lost + told.unconfirmed {
            0 => Ok(sent),
            bad => Err(format!("{bad} events are not stored: {told:?}")),
        }
    }
}

fn open(kind: Kind, name: &str, runtime: &Path) -> Result<Box<dyn Way>, String> {
    let stream = runtime.join("stream.sock");
    let of_io = |error: io::Error| error.to_string();
    let session = u128::from(std::process::id()) << 64 | 0x5EED;
    let frames = |ack, is_durable| {
        let options = ClientOptions { name, session, ack, quiet: true };
        let client = Client::connect(&stream, &options).map_err(|error| error.to_string())?;
        Ok::<_, String>(Box::new(Frames { client, is_durable }))
    };
    Ok(match kind {
        Kind::Persisted => frames(Level::Persisted, false)?,
        Kind::Durable => frames(Level::None, true)?,
        Kind::Lines => Box::new(std::os::unix::net::UnixStream::connect(&stream).map_err(of_io)?),
        Kind::Datagrams => {
            let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
            let socket = socket.map_err(|error| error.to_string())?;
            let path = SocketAddrUnix::new(runtime.join("dgram.sock")).map_err(|error| error.to_string())?;
            rustix::net::connect(&socket, &path).map_err(|error| error.to_string())?;
            Box::new(std::os::unix::net::UnixDatagram::from(socket))
        }
        Kind::Ring => {
            // The daemon notes the time, as it does for all others.
            let options = ProducerOptions {
                name: name.to_owned(),
                path: Some(stream),
                when_full: WhenFull::Wait(TIMEOUT),
                stamp: false,
                ..ProducerOptions::default()
            };
            Box::new(Producer::open(options).map_err(|error| error.to_string())?)
        }
    })
}

/// Sends until standard input ends, and until all is confirmed. The report says how many events, how long it was from
/// the moment that one was due until it was confirmed, to the millisecond, and what went wrong.
pub(super) fn run(kind: Kind, name: &str, runtime: &Path) -> Value {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    std::thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]);
        // Relaxed: nothing else depends on it.
        over.store(true, Relaxed);
    });
    let (mut sent, mut late) = (0, Vec::new());
    let wrong = send(kind, name, runtime, &is_over, (&mut sent, &mut late)).err();
    late.sort_unstable();
    let of = |share: f64| late.get((late.len() as f64 * share) as usize).map_or(0.0, |us| *us as f64 / 1000.0);
    json!({
        "sent": sent, "confirmed": late.len(), "wrong": wrong,
        "p50_ms": of(0.5), "p99_ms": of(0.99), "max_ms": late.last().map_or(0.0, |us| *us as f64 / 1000.0),
    })
}

fn send(
    kind: Kind,
    name: &str,
    runtime: &Path,
    is_over: &AtomicBool,
    (sent, late): (&mut u64, &mut Vec<u64>),
) -> Result<(), String> {
    let mut way = open(kind, name, runtime)?;
    let begun = Instant::now();
    let mut over_since = None;
    loop {
        let now = begun.elapsed();
        // Relaxed: as above.
        let is_over = is_over.load(Relaxed);
        let due = if is_over { *sent } else { (now.as_nanos() / PERIOD.as_nanos()) as u64 };
        while *sent < due {
            *sent += 1;
            way.send(text(name, *sent).as_bytes())?;
        }
        let confirmed = way.confirmed(*sent)?;
        let now = begun.elapsed();
        while (late.len() as u64) < confirmed {
            let due = PERIOD * (late.len() as u32 + 1);
            late.push(now.saturating_sub(due).as_micros() as u64);
        }
        if is_over && confirmed == *sent {
            return Ok(());
        }
        if is_over && over_since.get_or_insert_with(Instant::now).elapsed() > TIMEOUT {
            return Err(format!("only {confirmed} of {sent} events are confirmed after {TIMEOUT:?}"));
        }
        let next = PERIOD * (*sent as u32 + 1);
        std::thread::sleep(next.saturating_sub(begun.elapsed()).max(PERIOD / 4));
    }
}
