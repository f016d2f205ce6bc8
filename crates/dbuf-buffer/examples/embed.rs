//! The double buffer inside another program: some writer threads, one reader, no daemon.
//!
//! `cargo run --release -p dbuf-buffer --example embed`

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dbuf_buffer::{DoubleBuffer, Options, Reason};

const WRITERS: u64 = 4;
const EVENTS: u64 = 250_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (buffer, mut reader) = DoubleBuffer::new(&Options::default())?;
    let waker = buffer.waker();
    let ended = AtomicBool::new(false);
    let began = Instant::now();

    let (events, bytes) = thread::scope(|scope| {
        // One writer a thread. Each appends its events in order; `append` waits only while the buffer is full.
        let writers: Vec<_> = (0..WRITERS)
            .map(|_| {
                let mut writer = buffer.writer().expect("fewer writers than the options allow");
                scope.spawn(move || {
                    for number in 0..EVENTS {
                        writer.append(format!("event {number} of writer {}\n", writer.index()).as_bytes())?;
                    }
                    Ok::<(), dbuf_buffer::Refused>(())
                })
            })
            .collect();

        // One reader. It sleeps until there is a reason, then takes away all that is published, in one swap.
        let draining = scope.spawn(|| {
            let (mut events, mut bytes) = (0, 0);
            loop {
                let reason = reader.wait(Duration::from_millis(2), None);
                let batch = reader.swap();
                for slice in batch.runs().flat_map(|run| run.chunks()) {
                    // Here a program would write the slice to a file.
                    events += slice.iter().filter(|byte| **byte == b'\n').count() as u64;
                }
                bytes += batch.bytes();
                // The writers have ended before the wake-up, so this swap has brought the last of their events.
                if reason == Reason::Woken && ended.load(Ordering::Relaxed) {
                    return (events, bytes);
                }
            }
        });

        for writer in writers {
            writer.join().expect("no writer panics").expect("the reader outlives the writers");
        }
        // The wake-up carries the store: a reader that wakes by it sees it.
        ended.store(true, Ordering::Relaxed);
        waker.wake();
        draining.join().expect("the reader does not panic")
    });

    assert_eq!(events, WRITERS * EVENTS);
    let stats = buffer.stats();
    println!("{events} events, {bytes} bytes, each read once, in {:.1?}", began.elapsed());
    println!("{} swaps; writers waited for room {} times", stats.swaps, stats.full_waits);
    Ok(())
}
