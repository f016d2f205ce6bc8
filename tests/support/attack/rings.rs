//! Attacks by rings.

use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use dbuf_wire::frames::{Frame, Level};
use dbuf_wire::ring::Memory;

use super::Target;
use super::frames::{hello, session};
use crate::framed::{Framed, Heard, Ring};

const RING_BYTES: u64 = 64 << 10;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Words of garbage among the records, each time.
const GARBAGE_WORDS: usize = 16;
/// What a program may claim to have lost between two looks.
const CLAIMED: (u64, u64) = (1 << 31, 1 << 43);

/// Asks for a ring, and waits for the answer.
fn open(target: &Target, number: u64) -> Option<Ring> {
    let mut line = Framed::over(target.stream().ok()?);
    let mut bytes = hello(session(target, number), Level::None);
    Frame::Ring { capacity: RING_BYTES }.encode(&mut bytes);
    line.stream.write_all(&bytes).ok()?;
    loop {
        match line.hear(ANSWER_TIMEOUT) {
            Heard::Welcome { .. } => {}
            Heard::Granted => return Some(line.into_ring()),
            _ => return None,
        }
    }
}

/// Numbers without a pattern (xorshift).
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

fn scribble(memory: &Memory, random: &mut u64) {
    let words = memory.words();
    for _ in 0..GARBAGE_WORDS {
        let (at, garbage) = (next(random) % RING_BYTES, next(random));
        memory.put(at & !7, &garbage.to_le_bytes());
    }
    // Now and then what could be true, so that the daemon looks at the bytes as well.
    let garbage = next(random);
    let head = if garbage.is_multiple_of(4) { garbage } else { (garbage % RING_BYTES) & !7 };
    words.writing.store(next(random), Relaxed);
    words.wants.store(next(random) as u32, Relaxed);
    words.sync.store(next(random), Relaxed);
    words.head.store(head, Relaxed);
}

pub(super) fn corrupted(target: &Target) -> u64 {
    let (mut done, mut random) = (0, u64::from(std::process::id()) << 8 | 1);
    while target.is_on() {
        let Some(ring) = open(target, done) else { continue };
        done += 1;
        scribble(ring.producer.memory(), &mut random);
        ring.ring_bell();
    }
    done
}

pub(super) fn losses(target: &Target) -> u64 {
    let mut done = 0;
    while target.is_on() {
        let Some(mut ring) = open(target, done) else { continue };
        while target.is_on() && !ring.line.has_ended() {
            let words = ring.producer.memory().words();
            words.lost_events.fetch_add(CLAIMED.0, Relaxed);
            words.lost_bytes.fetch_add(CLAIMED.1, Relaxed);
            ring.ring_bell();
            done += 1;
        }
    }
    done
}
