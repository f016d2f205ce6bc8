//! Runs pinned writers against one checking reader, in halves so small that every path is taken all the time.

use std::time::{Duration, Instant};

use super::*;
use dbuf_sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use dbuf_sync::thread;

const WRITERS: usize = 4;
const CHUNK_BYTES: usize = 256;
const CHUNKS: usize = 6;
const EVENT_BYTES_MAX: usize = 3 * CHUNK_BYTES;
/// Every event starts with its sequence in its writer and with its length.
const HEAD_BYTES: usize = 16;
/// Events of each writer, at least.
const EVENTS_MIN: u64 = 20_000;
/// The run ends after this time, whatever has been seen.
const DURATION_MAX: Duration = Duration::from_millis(1500);

/// A small generator that gives the same numbers every time (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn stamp(writer: u8, sequence: u64, at: usize) -> u8 {
    (sequence as u8).wrapping_mul(31) ^ writer ^ at as u8
}

/// Writes until `stop` is set. Returns the number of events that it has published.
fn write(mut writer: Writer, stop: &AtomicBool, sealed: &AtomicU64) -> u64 {
    let mut numbers = Numbers(u64::from(writer.index()) + 1);
    let mut sequence = 0u64;
    // Relaxed: only a request to stop; the join orders everything else.
    while !stop.load(Relaxed) {
        let payload_bytes_max = if numbers.below(8) == 0 { EVENT_BYTES_MAX - HEAD_BYTES } else { 100 };
        let len = HEAD_BYTES + numbers.below(payload_bytes_max);
        let mut event = [sequence.to_le_bytes(), (len as u64).to_le_bytes()].concat();
        event.extend((HEAD_BYTES..len).map(|at| stamp(writer.index(), sequence, at)));
        let linger_in_claim = numbers.below(64) == 0;
        loop {
            // If a check of the reader fails, the reader is gone. Then the writers end too, and the test with them.
            let Ok(mut claim) = writer.claim(len) else { return sequence };
            let (first, rest) = event.split_at(len / 2);
            claim.put(first);
            if linger_in_claim {
                thread::yield_now();
            }
            claim.put(rest);
            match claim.publish() {
                Ok(()) => break,
                // Relaxed: a plain counter.
                Err(Sealed) => sealed.fetch_add(1, Relaxed),
            };
        }
        sequence += 1;
    }
    sequence
}

/// What the reader has checked.
#[derive(Default)]
struct Checked {
    next: [u64; WRITERS],
    groups: u64,
}

impl Checked {
    fn batch(&mut self, batch: Batch<'_>) {
        let mut last_writer = None;
        for run in batch.runs() {
            assert!(last_writer < Some(run.writer()), "runs come by ascending writer, each once");
            last_writer = Some(run.writer());
            for mut slice in run.chunks() {
                self.groups += u64::from(slice.len() > CHUNK_BYTES);
                while !slice.is_empty() {
                    slice = self.event(run.writer(), slice);
                }
            }
        }
    }

    fn event<'a>(&mut self, writer: u8, bytes: &'a [u8]) -> &'a [u8] {
        let word = |at| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let (sequence, len) = (word(0), word(8) as usize);
        let next = &mut self.next[usize::from(writer)];
        assert_eq!(sequence, *next, "each event of writer {writer} once and in order");
        *next += 1;
        let (event, rest) = bytes.split_at(len);
        for (at, byte) in event.iter().enumerate().skip(HEAD_BYTES) {
            assert_eq!(*byte, stamp(writer, sequence, at), "byte {at} of event {sequence} of writer {writer}");
        }
        rest
    }
}

#[test]
fn pinned_writers_lose_nothing_and_reorder_nothing_on_any_path() {
    let options = Options { capacity_bytes: CHUNKS * CHUNK_BYTES, chunk_bytes: CHUNK_BYTES, writers_max: WRITERS };
    let (buffer, reader) = DoubleBuffer::new(&options).unwrap();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let (stop, sealed) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    let (published, checked) = thread::scope(|scope| {
        // Moved in here, so that a failing check ends the reader before the writers are joined.
        let (mut reader, mut checked) = (reader, Checked::default());
        let spawn = |index: usize| {
            let (writer, core) = (buffer.writer().unwrap(), cores.get(index % cores.len().max(1)).copied());
            let (stop, sealed) = (&stop, &sealed);
            scope.spawn(move || {
                core.map(core_affinity::set_for_current);
                write(writer, stop, sealed)
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(spawn).collect();
        // Relaxed, here and below: plain counters and a request.
        let all_seen = |checked: &Checked| {
            let stats = buffer.stats();
            checked.next.iter().all(|next| *next >= EVENTS_MIN)
                && checked.groups > 0
                && stats.full_waits > 0
                && stats.late_writers > 0
                && sealed.load(Relaxed) > 0
        };
        while !writers.iter().all(thread::ScopedJoinHandle::is_finished) || !reader.front_is_empty() {
            // A writer that stops wakes no reader, so the wait has a deadline.
            reader.wait(Duration::ZERO, Some(Instant::now() + Duration::from_millis(1)));
            checked.batch(reader.swap());
            if all_seen(&checked) || began.elapsed() > DURATION_MAX {
                stop.store(true, Relaxed);
            }
        }
        let published: Vec<u64> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        (published, checked)
    });
    assert_eq!(checked.next.as_slice(), published);
    let stats = buffer.stats();
    assert!(checked.groups > 0, "no event took adjacent chunks");
    assert!(stats.full_waits > 0 && stats.full_wait_us > 0, "no writer found the half full");
    assert!(sealed.load(Relaxed) > 0, "no swap overtook a claim");
    assert!(stats.late_writers > 0, "no swap had to wait for a copy");
    println!("{published:?} events, {stats:?}, {} groups, {sealed:?} sealed, {:?}", checked.groups, began.elapsed());
}
