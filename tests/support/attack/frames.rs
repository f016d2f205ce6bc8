//! Attacks by the framed protocol.

use std::io::Write;

use dbuf_wire::frames::{Event, Frame, Hello, Level, MAGIC, feature};

use super::{Held, Target};

/// Sessions, or silent clients, that a process holds.
const HELD_MAX: usize = 2048;
/// Events of one write.
const BLOCK_EVENTS: u64 = 500;
/// How a batch of a segment begins (docs/FORMAT.md), with a header of the largest size.
const BATCH: [u8; 8] = [0x64, 0x62, 0x42, 0xB1, 0x58, 0x00, 0x01, 0x00];

/// Magic and HELLO. `session` is 0 for none.
pub(super) fn hello(session: u128, ack: Level) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    Frame::Hello(Hello { session, ack, compatible: feature::RING, ..Hello::new(b"attack") }).encode(&mut bytes);
    bytes
}

/// A session that no other process of the attack has.
pub(super) fn session(target: &Target, number: u64) -> u128 {
    u128::from(std::process::id()) << 96 | u128::from(target.number) << 64 | u128::from(number) | 1 << 63
}

/// Greets, and then sends blocks of events on one connection, until it ends.
fn send_blocks(target: &Target, mut block: impl FnMut() -> (Vec<u8>, u64)) -> u64 {
    let mut done = 0;
    while target.is_on() {
        let Ok(mut stream) = target.stream() else { continue };
        if stream.write_all(&hello(0, Level::None)).is_err() {
            continue;
        }
        while target.is_on() {
            let (bytes, events) = block();
            if stream.write_all(&bytes).is_err() {
                break;
            }
            done += events;
        }
    }
    done
}

pub(super) fn tags(target: &Target) -> u64 {
    let mut number = 0;
    send_blocks(target, || {
        let mut bytes = Vec::new();
        for _ in 0..BLOCK_EVENTS {
            number += 1;
            let tag = format!("{}-{number}", target.number);
            Event { pri: 6, tag: tag.as_bytes(), sequence: number, payload: &[b'x'; 20], ..Event::default() }
                .encode(&mut bytes);
        }
        (bytes, BLOCK_EVENTS)
    })
}

pub(super) fn batches(target: &Target) -> u64 {
    let (payload, mut sequence) = (BATCH.repeat(8000), 0);
    send_blocks(target, || {
        sequence += 1;
        let mut bytes = Vec::new();
        Event { pri: 6, sequence, payload: &payload, ..Event::default() }.encode(&mut bytes);
        (bytes, 1)
    })
}

pub(super) fn hellos(target: &Target) -> u64 {
    let (mut held, mut done) = (Held::renewing(HELD_MAX), 0);
    while target.is_on() {
        done += held.push(|| {
            let mut stream = target.stream()?;
            stream.write_all(&hello(session(target, done), Level::Persisted))?;
            Ok(stream)
        });
    }
    done
}

pub(super) fn sessions(target: &Target) -> u64 {
    let mut done = 0;
    while target.is_on() {
        let mut bytes = hello(session(target, done), Level::None);
        Event { pri: 6, sequence: 1, payload: b"only one", ..Event::default() }.encode(&mut bytes);
        done += u64::from(target.stream().is_ok_and(|mut stream| stream.write_all(&bytes).is_ok()));
    }
    done
}

/// Sends what has to be answered, until the daemon reads no more.
pub(super) fn deaf(target: &Target) -> u64 {
    let (mut held, mut done) = (Held::renewing(HELD_MAX), 0);
    let block = |sent: u64| {
        let mut bytes = Vec::new();
        for sequence in sent + 1..=sent + BLOCK_EVENTS {
            Event { pri: 6, sequence, payload: b"x", ..Event::default() }.encode(&mut bytes);
            Frame::Sync.encode(&mut bytes);
        }
        bytes
    };
    while target.is_on() {
        held.push(|| {
            let mut stream = target.stream()?;
            stream.write_all(&hello(0, Level::Persisted))?;
            while target.is_on() && stream.write_all(&block(done)).is_ok() {
                done += BLOCK_EVENTS;
            }
            Ok(stream)
        });
    }
    done
}
