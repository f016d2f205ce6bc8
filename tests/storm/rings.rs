//! Programs with rings: some ask for one after the other, others have one throughout.

use std::sync::atomic::Ordering::Acquire;
use std::time::{Duration, Instant};

use dbuf_client::{LinkKind, Producer, ProducerOptions, WhenFull};
use dbuf_wire::frames::{Frame, Level};
use dbuf_wire::ring::want;

use crate::clients::{ANSWER_TIMEOUT, BLACK_HOLE, Place, rest};
use crate::event::{self, Random};
use crate::framed::{Framed, Heard, Ring, Waited};
use crate::manager::unique;
use crate::promise::Promise;

const RING_BYTES: u64 = 64 << 10;
const NOISE_MAX: usize = 200;
const EVENTS_MAX: u64 = 40;
const REST: Duration = Duration::from_millis(4);
/// A ring is had after some tries, or never.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);
const TOLD_TO_BREAK: &str = "a ring that the manager had has ended";

/// What a program does when it has sent what it had to send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    /// As soon as all is taken. If the manager has the ring, it need not even wait for that.
    Taken,
    Durable,
    /// When the storm is over.
    Never,
}

/// A ring, and under which name the manager knows it.
struct Open {
    ring: Ring,
    connection: String,
}

/// Rings one after the other, each a sender of its own.
pub(crate) fn again(place: &Place, name: &str, mut random: Random) {
    for number in 0.. {
        if place.is_over() {
            return;
        }
        place.book.count("rings");
        let sender = format!("{name}.{number}");
        let leaves = random.of(&[Leaves::Taken, Leaves::Taken, Leaves::Durable]);
        let events = random.below(EVENTS_MAX) + 1;
        program(place, sender, events, leaves, &mut random);
        rest(&mut random, REST);
    }
}

/// One ring throughout.
pub(crate) fn stays(place: &Place, name: &str, mut random: Random) {
    program(place, name.to_owned(), u64::MAX, Leaves::Never, &mut random);
}

/// Sends this many events. Where a ring ends, the rest goes into another.
fn program(place: &Place, sender: String, events: u64, leaves: Leaves, random: &mut Random) {
    let mut promise = Promise { sender, transport: "ring", ..Promise::default() };
    // What earlier rings have taken.
    let mut taken = 0;
    loop {
        let Some(mut open) = open(place, &promise.sender, random) else {
            place.book.wrong("no ring is to be had", promise.sender.clone());
            promise.sent = taken;
            break;
        };
        let waited = fill(place, &mut open, &mut promise, (taken, events), leaves, random);
        match waited {
            Waited::Done => break,
            Waited::InVain => {
                let told = (open.ring.taken(), open.ring.durable());
                place.book.wrong(BLACK_HOLE, format!("{}: {told:?} of {}", promise.sender, promise.sent - taken));
                // What was not taken is nowhere.
                promise.may_miss = Some(taken + open.ring.taken() + 1..=promise.sent);
                break;
            }
            Waited::Ended => {
                place.book.count("rings ended by the daemon");
                let before = taken;
                taken += open.ring.taken();
                if place.taken.has_taken_ring(&open.connection) {
                    let what = format!("{} at {taken} of {}", promise.sender, promise.sent);
                    place.book.wrong(TOLD_TO_BREAK, what);
                }
                // The daemon may have died between a publish and saying so.
                let from = promise.may_repeat.as_ref().map_or(before + 1, |may| (*may.start()).min(before + 1));
                promise.may_repeat = Some(from..=promise.sent);
            }
        }
    }
    place.book.promise(promise);
}

/// Fills a ring from the first event that no ring has taken.
fn fill(
    place: &Place,
    open: &mut Open,
    promise: &mut Promise,
    (taken, events): (u64, u64),
    leaves: Leaves,
    random: &mut Random,
) -> Waited {
    let mut next = taken + 1;
    while next <= events && (leaves != Leaves::Never || next <= promise.sent || !place.is_over()) {
        let text = event::text(&promise.sender, next, NOISE_MAX);
        while open.ring.try_send(&text).is_none() {
            let bytes = text.len();
            let waited = open.ring.wait(want::ROOM, ANSWER_TIMEOUT, |producer| producer.has_room(bytes));
            if waited != Waited::Done {
                return waited;
            }
        }
        promise.sent = promise.sent.max(next);
        next += 1;
        if leaves == Leaves::Never {
            if open.ring.line.has_ended() {
                return Waited::Ended;
            }
            rest(random, REST);
        }
    }
    // The manager has it: whatever becomes of the daemon, another takes what lies in it.
    if leaves == Leaves::Taken && place.taken.has_taken_ring(&open.connection) {
        place.book.count("rings left behind with what lay in them");
        return Waited::Done;
    }
    if leaves == Leaves::Taken {
        return open.ring.wait_until_taken(ANSWER_TIMEOUT);
    }
    open.ring.ask_sync();
    open.ring.wait(want::DURABLE, ANSWER_TIMEOUT, |producer| {
        producer.memory().words().durable.load(Acquire) >= producer.events()
    })
}

/// Asks for a ring until there is one.
fn open(place: &Place, sender: &str, random: &mut Random) -> Option<Open> {
    let until = Instant::now() + OPEN_TIMEOUT;
    while Instant::now() < until {
        let connection = unique(sender);
        match ask(place, &connection, sender) {
            Ok(ring) => return Some(Open { ring, connection }),
            Err(Heard::Silence) => place.book.wrong(BLACK_HOLE, format!("{connection} asks for a ring")),
            Err(Heard::End) => place.book.count("rings that ended before they began"),
            Err(other) => place.book.wrong("no ring", format!("{connection}: {other:?}")),
        }
        rest(random, REST);
    }
    None
}

fn ask(place: &Place, connection: &str, tag: &str) -> Result<Ring, Heard> {
    let mut line = Framed::connect(&place.stream, connection).map_err(|_| Heard::End)?;
    line.send(&Framed::greeting(tag, 0, Level::None)).map_err(|_| Heard::End)?;
    match line.hear(ANSWER_TIMEOUT) {
        Heard::Welcome { .. } => {}
        other => return Err(other),
    }
    line.send(&Framed::frame(&Frame::Ring { capacity: RING_BYTES })).map_err(|_| Heard::End)?;
    match line.hear(ANSWER_TIMEOUT) {
        Heard::Granted => Ok(line.into_ring()),
        other => Err(other),
    }
}

/// The library's producer, which is to notice nothing: its ring is in the store before the storm begins.
pub(crate) fn producer(place: &Place, name: &str, mut random: Random, producer: Producer) {
    let mut producer = producer;
    let mut promise = Promise { sender: name.to_owned(), transport: "ring", ..Promise::default() };
    while !place.is_over() {
        match producer.send(6, &event::text(name, promise.sent + 1, NOISE_MAX)) {
            Ok(()) => promise.sent += 1,
            Err(error) => place.book.wrong("a producer sees an error", format!("{name}: {error}")),
        }
        rest(&mut random, REST);
    }
    if let Err(error) = producer.sync(OPEN_TIMEOUT) {
        place.book.wrong(BLACK_HOLE, format!("{name}: {error}: {:?}", producer.statistics()));
    }
    let told = producer.statistics();
    if (told.link, told.links, told.lost_full, told.lost, told.unconfirmed) != (LinkKind::Ring, 1, 0, 0, 0) {
        place.book.wrong(TOLD_TO_BREAK, format!("{name}: {told:?}"));
    }
    place.book.promise(promise);
}

/// A producer with a ring; None while there is none.
pub(crate) fn open_producer(place: &Place, name: &str) -> Producer {
    let when_full = WhenFull::Wait(ANSWER_TIMEOUT);
    let options =
        ProducerOptions { name: name.into(), path: Some(place.stream.clone()), when_full, ..Default::default() };
    let mut producer = Producer::open(options).expect("a producer");
    crate::support::wait_for("a ring", || {
        producer.tend();
        (producer.statistics().link == LinkKind::Ring).then_some(())
    });
    producer
}
