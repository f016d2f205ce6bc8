//! Models the buffer with loom: the same code, under every order of steps within the preemption bound.
//!
//! Loom reports a thread that uses a byte without an edge to the thread that used it before, a wake-up that is lost
//! (every thread is parked), and an assertion that fails. `.ci/weaken` weakens each edge in turn.
//!
//! `RUSTFLAGS='--cfg dbuf_loom' LOOM_MAX_PREEMPTIONS=2 cargo test -p dbuf-buffer --profile model --target-dir
//! target/loom`

use std::time::Duration;

use super::*;
use dbuf_sync::Arc;
use dbuf_sync::atomic::{AtomicBool, Ordering::Relaxed};
use dbuf_sync::thread;

const CHUNK: usize = 8;

fn small(chunks: usize) -> (DoubleBuffer, Reader) {
    DoubleBuffer::new(&Options { capacity_bytes: chunks * CHUNK, chunk_bytes: CHUNK, writers_max: 2 })
        .expect("sizes fit")
}

/// What the reader has seen of each writer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen([Vec<u8>; 2]);

impl Seen {
    fn swap(&mut self, reader: &mut Reader) {
        for run in reader.swap().runs() {
            let of_writer = &mut self.0[usize::from(run.writer())];
            run.chunks().for_each(|bytes| of_writer.extend(bytes));
        }
    }

    fn count(&self) -> usize {
        self.0[0].len() + self.0[1].len()
    }
}

/// Appends each event by its own claim. Returns the writer, so that it ends on the thread that joins.
fn append(mut writer: Writer, events: &'static [u8]) -> thread::JoinHandle<Writer> {
    thread::spawn(move || {
        for event in events {
            writer.append(&[*event]).expect("the reader lives");
        }
        writer
    })
}

#[test]
fn every_event_is_in_one_batch_and_in_its_writers_order() {
    dbuf_sync::model(|| {
        let (buffer, mut reader) = small(2);
        let first = append(buffer.writer().expect("free"), &[1, 2]);
        let second = append(buffer.writer().expect("free"), &[3, 4]);
        let mut seen = Seen::default();
        seen.swap(&mut reader);
        seen.swap(&mut reader);
        let _writers = (first.join().expect("no panic"), second.join().expect("no panic"));
        seen.swap(&mut reader);
        seen.swap(&mut reader);
        assert_eq!(seen, Seen([vec![1, 2], vec![3, 4]]));
    });
}

#[test]
fn a_half_is_not_handed_out_again_while_a_late_writer_copies() {
    dbuf_sync::model(|| {
        let (buffer, mut reader) = small(2);
        let mut late = buffer.writer().expect("free");
        let late = thread::spawn(move || {
            let mut claim = late.claim(1).expect("the reader lives");
            claim.put(&[1]);
            // A yield uses none of the preemptions that the bound allows.
            thread::yield_now();
            if claim.publish().is_err() {
                thread::yield_now();
                late.append(&[1]).expect("the reader lives");
            }
            late
        });
        let mut seen = Seen::default();
        for _ in 0..2 {
            thread::yield_now();
            seen.swap(&mut reader);
        }
        // The third generation uses the first one's half, and perhaps the chunk that the late writer copied into.
        let mut next = buffer.writer().expect("free");
        next.append(&[2]).expect("the reader lives");
        seen.swap(&mut reader);
        let _writer = late.join().expect("no panic");
        seen.swap(&mut reader);
        assert_eq!(seen, Seen([vec![1], vec![2]]));
    });
}

#[test]
fn a_sleeping_reader_is_woken_by_the_first_writer_that_publishes() {
    dbuf_sync::model(|| {
        let (buffer, mut reader) = small(2);
        let first = append(buffer.writer().expect("free"), &[1]);
        let second = append(buffer.writer().expect("free"), &[2]);
        let mut seen = Seen::default();
        while seen.count() < 2 {
            assert_ne!(reader.wait(Duration::ZERO, None), Reason::Woken);
            seen.swap(&mut reader);
        }
        assert_eq!(seen, Seen([vec![1], vec![2]]));
        let _writers = (first.join().expect("no panic"), second.join().expect("no panic"));
    });
}

#[test]
fn a_claim_that_is_let_go_does_not_swallow_the_wake_up() {
    dbuf_sync::model(|| {
        let (buffer, mut reader) = small(2);
        let mut writer = buffer.writer().expect("free");
        let thread = thread::spawn(move || {
            drop(writer.claim(1));
            writer.append(&[1]).expect("the reader lives");
            writer
        });
        let mut seen = Seen::default();
        while seen.count() < 1 {
            reader.wait(Duration::ZERO, None);
            seen.swap(&mut reader);
        }
        let _writer = thread.join().expect("no panic");
    });
}

#[test]
fn a_lingering_reader_is_woken_by_the_take_that_crosses_half() {
    dbuf_sync::model(|| {
        let (buffer, mut reader) = small(2);
        let first = append(buffer.writer().expect("free"), &[1]);
        let second = append(buffer.writer().expect("free"), &[2]);
        // In a model, lingering never ends by itself.
        assert_eq!(reader.wait(Duration::MAX, None), Reason::HalfFull);
        let _writers = (first.join().expect("no panic"), second.join().expect("no panic"));
    });
}

#[test]
fn writers_that_wait_for_room_are_woken_by_the_swap() {
    dbuf_sync::model(|| {
        let (buffer, mut reader) = small(2);
        let mut writers = [buffer.writer().expect("free"), buffer.writer().expect("free")];
        for (writer, event) in writers.iter_mut().zip([1, 2]) {
            writer.append(&[event; CHUNK]).expect("the reader lives");
        }
        let [first, second] = writers;
        let (first, second) = (append(first, &[3]), append(second, &[4]));
        let mut seen = Seen::default();
        while seen.count() < 2 * CHUNK + 2 {
            reader.wait(Duration::ZERO, None);
            seen.swap(&mut reader);
        }
        let _writers = (first.join().expect("no panic"), second.join().expect("no panic"));
    });
}

#[test]
fn a_writer_that_finds_room_at_last_does_not_look_like_one_that_waits() {
    dbuf_sync::model(|| {
        let (buffer, mut reader) = small(2);
        let mut first = buffer.writer().expect("free");
        let mut second = buffer.writer().expect("free");
        second.append(&[1; 2 * CHUNK]).expect("the reader lives");
        let thread = thread::spawn(move || {
            // It may see a full half, and find room in the next one. Then it takes all of that, and publishes nothing.
            drop(first.claim(2 * CHUNK));
            second.append(&[2]).expect("the reader lives");
            (first, second)
        });
        let mut seen = Seen::default();
        while seen.count() < 2 * CHUNK + 1 {
            reader.wait(Duration::ZERO, None);
            seen.swap(&mut reader);
        }
        let _writers = thread.join().expect("no panic");
    });
}

#[test]
fn a_writer_that_waits_for_a_group_wakes_a_reader_that_lingers() {
    dbuf_sync::model(|| {
        let (buffer, mut reader) = small(3);
        let mut writer = buffer.writer().expect("free");
        writer.append(&[1]).expect("the reader lives");
        let thread = thread::spawn(move || {
            writer.append(&[2; 3 * CHUNK]).expect("the reader lives");
            writer
        });
        let mut seen = Seen::default();
        while seen.count() < 1 + 3 * CHUNK {
            assert_eq!(reader.wait(Duration::MAX, None), Reason::HalfFull);
            seen.swap(&mut reader);
        }
        let _writer = thread.join().expect("no panic");
    });
}

#[test]
fn a_reader_that_ends_refuses_and_wakes_every_writer() {
    dbuf_sync::model(|| {
        let (buffer, reader) = small(2);
        let spawn = |mut writer: Writer| {
            thread::spawn(move || {
                // The second append parks, or finds the reader gone.
                while writer.append(&[1; CHUNK]).is_ok() {}
                writer
            })
        };
        let first = spawn(buffer.writer().expect("free"));
        let second = spawn(buffer.writer().expect("free"));
        drop(reader);
        let _writers = (first.join().expect("no panic"), second.join().expect("no panic"));
    });
}

#[test]
fn a_reader_that_is_woken_sees_why() {
    dbuf_sync::model(|| {
        let (buffer, mut reader) = small(2);
        let (waker, asked) = (buffer.waker(), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                // Relaxed: edge `bell` publishes it.
                asked.store(true, Relaxed);
                waker.wake();
            }
        });
        assert_eq!(reader.wait(Duration::ZERO, None), Reason::Woken);
        // Relaxed: as above.
        assert!(asked.load(Relaxed));
        thread.join().expect("no panic");
    });
}
