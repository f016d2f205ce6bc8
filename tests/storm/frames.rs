//! Clients of frames that connect again all the time: a few events a connection, and again what was not acknowledged.

use std::time::{Duration, Instant};

use dbuf_wire::frames::{Code, Frame, Level};

use crate::clients::{ANSWER_TIMEOUT, BLACK_HOLE, Place, rest};
use crate::event::{self, Random};
use crate::framed::{Framed, Heard};
use crate::manager::unique;
use crate::promise::Promise;

const NOISE_MAX: usize = 200;
const EVENTS_MAX: u64 = 8;
/// A session may be open on the connection before for as long as that is still read.
const BUSY_TIMEOUT: Duration = Duration::from_secs(120);
const BUSY_REST: Duration = Duration::from_millis(3);
/// Between two connections, and now and then within a greeting.
const REST: Duration = Duration::from_millis(3);
/// In the end all has to be durable.
const LAST_TIMEOUT: Duration = Duration::from_secs(120);

/// What a client does when it has sent what it had to send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    AtOnce,
    /// After a BYE.
    Politely,
    /// When all is acknowledged at its level.
    Acknowledged,
    /// When all is durable, for which it asks.
    Synced,
}

/// One session.
struct Session<'a> {
    place: &'a Place,
    promise: Promise,
    number: u128,
    acknowledged: u64,
    durable: u64,
}

/// How a connection ended.
enum Ended {
    AsWanted,
    /// By the daemon or its death.
    Broken,
    Busy,
    /// This is wrong.
    Wrong(&'static str, String),
}

/// Sends until the storm is over, and then until all is durable.
pub(crate) fn run(place: &Place, name: &str, mut random: Random) {
    let promise = Promise { sender: name.to_owned(), transport: "frames", ..Promise::default() };
    let number = u128::from(random.next()) << 64 | u128::from(random.next() | 1);
    let mut session = Session { place, promise, number, acknowledged: 0, durable: 0 };
    let mut busy_since = None;
    let mut until = None;
    loop {
        let is_last = place.is_over();
        if is_last && session.durable == session.promise.sent {
            break;
        }
        if is_last && Instant::now() > *until.get_or_insert_with(|| Instant::now() + LAST_TIMEOUT) {
            let what = format!("{name}: {} of {}", session.durable, session.promise.sent);
            place.book.wrong("not durable in the end", what);
            break;
        }
        let leaves =
            random.of(&[Leaves::AtOnce, Leaves::Politely, Leaves::Acknowledged, Leaves::Acknowledged, Leaves::Synced]);
        let (leaves, events) = if is_last { (Leaves::Synced, 0) } else { (leaves, random.below(EVENTS_MAX) + 1) };
        place.book.count("framed connections");
        match session.connection(events, leaves, &mut random) {
            Ended::AsWanted => busy_since = None,
            Ended::Broken => {
                place.book.count("framed connections ended by the daemon");
                busy_since = None;
            }
            Ended::Busy => {
                place.book.count("framed connections turned away as busy");
                let since = *busy_since.get_or_insert_with(Instant::now);
                if since.elapsed() > BUSY_TIMEOUT {
                    place.book.wrong("a session is busy for good", name.to_owned());
                    busy_since = None;
                }
                rest(&mut random, BUSY_REST);
            }
            Ended::Wrong(kind, what) => place.book.wrong(kind, format!("{name}: {what}")),
        }
        rest(&mut random, REST);
    }
    place.book.promise(session.promise);
}

impl Session<'_> {
    /// One connection: a greeting, what the daemon does not know of, some new events, and perhaps an answer.
    fn connection(&mut self, events: u64, leaves: Leaves, random: &mut Random) -> Ended {
        let connection = unique(&self.promise.sender);
        let Ok(mut line) = Framed::connect(&self.place.stream, &connection) else { return Ended::Broken };
        let level = random.of(&[Level::Persisted, Level::Durable]);
        let greeting = Framed::greeting(&self.promise.sender, self.number, level);
        // Now and then in two parts, so that the first one does not say what it is.
        let cut = if random.percent(25) { random.below(greeting.len() as u64) as usize } else { 0 };
        if line.send(&greeting[..cut]).is_err() {
            return Ended::Broken;
        }
        if cut > 0 {
            rest(random, REST);
        }
        if line.send(&greeting[cut..]).is_err() {
            return Ended::Broken;
        }
        let last = loop {
            match line.hear(ANSWER_TIMEOUT) {
                Heard::Welcome { last } => break last,
                Heard::Silence => return Ended::Wrong(BLACK_HOLE, format!("{connection} gets no WELCOME")),
                heard => match self.take(&heard) {
                    None => {}
                    Some(ended) => return ended,
                },
            }
        };
        if last < self.acknowledged || last > self.promise.sent {
            let Self { acknowledged, promise, .. } = self;
            let what = format!("{acknowledged} acknowledged, {last} in WELCOME, {} sent", promise.sent);
            return Ended::Wrong("a session is forgotten", what);
        }
        let all = self.promise.sent + events;
        let mut bytes = Vec::new();
        for sequence in last + 1..=all {
            bytes.extend(Framed::event(sequence, &event::text(&self.promise.sender, sequence, NOISE_MAX)));
        }
        self.promise.sent = all;
        self.leave(line, &bytes, leaves, random)
    }

    fn leave(&mut self, mut line: Framed, bytes: &[u8], leaves: Leaves, random: &mut Random) -> Ended {
        // Now and then in two parts, so that the first one ends within a frame.
        let cut = if random.percent(25) { random.below(bytes.len() as u64 + 1) as usize } else { bytes.len() };
        let end = match leaves {
            Leaves::AtOnce | Leaves::Acknowledged => Vec::new(),
            Leaves::Politely => Framed::frame(&Frame::Bye),
            Leaves::Synced => Framed::frame(&Frame::Sync),
        };
        for part in [&bytes[..cut], &bytes[cut..], &end] {
            if line.send(part).is_err() {
                return Ended::Broken;
            }
        }
        loop {
            let is_done = match leaves {
                Leaves::AtOnce | Leaves::Politely => true,
                Leaves::Acknowledged => self.acknowledged >= self.promise.sent,
                Leaves::Synced => self.durable >= self.promise.sent,
            };
            if is_done {
                return Ended::AsWanted;
            }
            match line.hear(ANSWER_TIMEOUT) {
                Heard::Silence => {
                    let what = format!("{} acknowledged of {} sent", self.acknowledged, self.promise.sent);
                    return Ended::Wrong(BLACK_HOLE, what);
                }
                heard => {
                    if let Some(ended) = self.take(&heard) {
                        return ended;
                    }
                }
            }
        }
    }

    /// None if the connection goes on.
    fn take(&mut self, heard: &Heard) -> Option<Ended> {
        match *heard {
            Heard::Ack { sequence, .. } if sequence > self.promise.sent => {
                Some(Ended::Wrong("acknowledged and never sent", format!("{sequence} of {}", self.promise.sent)))
            }
            Heard::Ack { level, sequence } => {
                self.acknowledged = self.acknowledged.max(sequence);
                if level == Level::Durable {
                    self.durable = self.durable.max(sequence);
                }
                None
            }
            Heard::Error { code, .. } if code == Code::Busy as u8 => Some(Ended::Busy),
            Heard::Error { .. } => Some(Ended::Wrong("refused or lost", format!("{heard:?}"))),
            Heard::End => Some(Ended::Broken),
            Heard::Welcome { .. } | Heard::Granted | Heard::Silence => {
                Some(Ended::Wrong("an answer that nobody asked for", format!("{heard:?}")))
            }
        }
    }
}
