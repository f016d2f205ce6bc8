//! Producers that send through rings, as programs do that use `dbuf_client::Producer`.

use std::io::{self, Write};
use std::path::PathBuf;

use dbuf_client::{LinkKind, Producer, ProducerOptions, WhenFull};

use crate::payload::{self, Random};
use crate::senders::{Count, Sender, Sent};
use crate::support::{TIMEOUT, wait_for};

/// Events of a step.
const BURST: u64 = 5;

fn options(name: &str, socket: PathBuf, capacity_bytes: u64) -> ProducerOptions {
    let when_full = WhenFull::Wait(TIMEOUT);
    ProducerOptions { name: name.to_owned(), path: Some(socket), capacity_bytes, when_full, ..Default::default() }
}

/// Sends an event, every other one by a claim.
fn send(producer: &mut Producer, number: u64, text: &[u8]) -> io::Result<()> {
    if number.is_multiple_of(2) {
        return producer.send(6, text).map_err(io::Error::other);
    }
    let mut claim = producer.claim(6, text.len() + 100).map_err(io::Error::other)?;
    claim.write_all(text)?;
    claim.publish().map_err(io::Error::other)
}

/// Waits until all is durable, and sees whether the producer knows of anything but that.
fn settle(producer: &mut Producer) -> io::Result<()> {
    producer.sync(TIMEOUT).map_err(io::Error::other)?;
    let told = producer.statistics();
    let is_well = (told.lost_full, told.refused, told.lost, told.unconfirmed) == (0, 0, 0, 0)
        && (told.persisted, told.durable) == (told.events, told.events);
    if is_well { Ok(()) } else { Err(io::Error::other(format!("its own account is wrong: {told:?}"))) }
}

/// A ring that is there throughout: no death of the daemon may end it.
pub(crate) struct Ring {
    count: Count,
    producer: Producer,
}

impl Ring {
    pub(crate) fn new(name: String, socket: PathBuf, capacity_bytes: u64) -> Self {
        let mut producer = Producer::open(options(&name, socket, capacity_bytes)).expect("a producer");
        wait_for("a ring", || {
            producer.tend();
            (producer.statistics().link == LinkKind::Ring).then_some(())
        });
        Self { count: Count::new(name), producer }
    }
}

impl Sender for Ring {
    fn name(&self) -> String {
        self.count.name.clone()
    }

    fn step(&mut self) -> io::Result<()> {
        for _ in 0..BURST {
            send(&mut self.producer, self.count.next, &self.count.text())?;
            self.count.next += 1;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        settle(&mut self.producer)?;
        match self.producer.statistics().links {
            1 => Ok(()),
            links => Err(io::Error::other(format!("its ring has ended: it has had {links} links"))),
        }
    }

    fn sent(&mut self) -> Vec<Sent> {
        self.count.sent(0)
    }
}

/// Rings of short programs, one after the other. What they send before they have one, or when a kill met it before
/// systemd had it, is theirs to send again.
pub(crate) struct ShortRings {
    name: String,
    socket: PathBuf,
    random: Random,
    rings: u64,
    sent: Vec<Sent>,
}

impl ShortRings {
    const EVENTS_MAX: u64 = 8;

    pub(crate) fn new(name: String, socket: PathBuf, seed: u64) -> Self {
        Self { name, socket, random: Random::new(seed), rings: 0, sent: Vec::new() }
    }
}

impl Sender for ShortRings {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn step(&mut self) -> io::Result<()> {
        let name = format!("{}.{}", self.name, self.rings);
        self.rings += 1;
        let events = 1 + self.random.below(Self::EVENTS_MAX);
        let mut producer = Producer::open(options(&name, self.socket.clone(), 64 << 10)).map_err(io::Error::other)?;
        for number in 0..events {
            send(&mut producer, number, &payload::text(&name, number))?;
        }
        self.sent.push(Sent { name, numbers: 0..events, too_big: 0 });
        settle(&mut producer)?;
        producer.close().map_err(|left| io::Error::other(format!("{left} events are left behind")))
    }

    fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }
}
