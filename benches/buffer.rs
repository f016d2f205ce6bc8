//! The double buffer compared with other ways to carry events from threads to a thread: events of 100 bytes, a reader
//! that throws them away. One table: medians of alternating runs, so that a noisy minute hits all of them alike.
//!
//! `cargo bench --bench buffer`            the table, and whether the bars are held
//! `cargo bench --bench buffer -- --quick` shorter runs, no bars
//!
//! All carry the same: a record of 24 bytes of head and 100 of payload. Ours takes the path of the daemon: claim,
//! encode the record into it, publish; once with a claim for each event, which is the worst case, and once with a claim
//! for 64, which is what the daemon does with what one read of a socket brought. The reader parks. The channel and the
//! queue carry a `Vec<u8>` an event, as a logger does that hands lines to a thread; their reader parks (channel) or
//! yields (queue). The disruptor has the record encoded into a slot, and its reader spins. All may hold about as many
//! bytes.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dbufd::pipeline::buffer::{DoubleBuffer, Options, Reason, Writer};
use dbufd::pipeline::record::{Event, HEAD_BYTES, Sink, padded};
use disruptor::{ProcessorSettings, Producer};
use rustix::fs::{MemfdFlags, memfd_create};

const PAYLOAD: [u8; 100] = [b'x'; 100];
const RECORD_BYTES: usize = padded(HEAD_BYTES + PAYLOAD.len());
/// What the bounded ones may hold, about as many events as a half of ours.
const SLOTS: usize = 1 << 16;
/// What a bounded channel is more often given.
const SLOTS_FEW: usize = 1 << 10;
/// What one read of a socket may well bring.
const EVENTS_A_CLAIM: usize = 64;
const ROUNDS: usize = 7;
/// How long a reader waits for more.
const LINGER: Duration = Duration::from_millis(2);

/// Runs this many writers with this many events each.
type Run = fn(writers: usize, events_each: usize) -> Duration;

/// One line of the table.
struct Case {
    name: &'static str,
    writers: usize,
    /// In all, divided among the writers.
    events: usize,
    run: Run,
    /// Nanoseconds an event, one a round.
    figures: Vec<f64>,
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let case = |name, writers, events, run| Case { name, writers, events, run, figures: Vec::new() };
    let mut cases = [
        case("double buffer", 1, 16_000_000, buffer::<1, false> as Run),
        case("double buffer", 2, 16_000_000, buffer::<1, false>),
        case("double buffer", 4, 16_000_000, buffer::<1, false>),
        case("double buffer", 8, 16_000_000, buffer::<1, false>),
        case("crossbeam channel", 1, 800_000, channel::<SLOTS>),
        case("crossbeam channel", 2, 800_000, channel::<SLOTS>),
        case("crossbeam ArrayQueue", 1, 800_000, queue),
        case("crossbeam ArrayQueue", 2, 800_000, queue),
        case("disruptor", 1, 4_000_000, disruptor_single),
        case("disruptor", 2, 2_000_000, disruptor_multi),
        case("channel, 1,024 slots", 1, 400_000, channel::<SLOTS_FEW>),
        case("channel, 1,024 slots", 2, 400_000, channel::<SLOTS_FEW>),
        case("64 events a claim", 1, 64_000_000, buffer::<EVENTS_A_CLAIM, false>),
        case("64 events a claim", 2, 64_000_000, buffer::<EVENTS_A_CLAIM, false>),
        case("64, in a memfd", 1, 64_000_000, buffer::<EVENTS_A_CLAIM, true>),
        case("64, in a memfd", 2, 64_000_000, buffer::<EVENTS_A_CLAIM, true>),
    ];
    let (rounds, share) = if quick { (3, 10) } else { (ROUNDS, 1) };
    // The first round warms caches, memory and the clock, and is not counted.
    for round in 0..=rounds {
        for case in &mut cases {
            let events_each = case.events / share / case.writers;
            let took = (case.run)(case.writers, events_each);
            if round > 0 {
                case.figures.push(took.as_nanos() as f64 / (events_each * case.writers) as f64);
            }
        }
    }
    let rates: Vec<f64> = cases.iter_mut().map(|case| 1e3 / median(&mut case.figures)).collect();
    println!(
        "{:<22}{:>8}{:>12}{:>14}{:>14}{:>12}",
        "", "writers", "ns/event", "M events/s", "to 1 writer", "to channel"
    );
    for (case, rate) in cases.iter().zip(&rates) {
        let of = |name, writers| {
            let at = cases.iter().position(|case| case.name == name && case.writers == writers);
            at.map_or(String::from("-"), |at| format!("{:.2}x", rate / rates[at]))
        };
        let (to_one, to_channel) = (of(case.name, 1), of("crossbeam channel", case.writers));
        println!("{:<22}{:>8}{:>12.1}{rate:>14.1}{to_one:>14}{to_channel:>12}", case.name, case.writers, 1e3 / rate);
    }
    if !quick {
        compare_with_bars(&rates);
    }
}

/// What the design promises; `rates` in the order of the cases.
fn compare_with_bars(rates: &[f64]) {
    let bars = [
        ("1 writer against a channel", rates[0] / rates[4], 20.0),
        ("2 writers against a channel", rates[1] / rates[5], 40.0),
        ("2 writers against 1", rates[1] / rates[0], 1.5),
        ("8 writers against 1", rates[3] / rates[0], 1.0),
    ];
    for (what, ratio, least) in bars {
        println!("{} {what}: {ratio:.2}x, at least {least:.1}x", if ratio >= least { "held  " } else { "MISSED" });
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Runs `write` on as many threads as there are `writers`, and says how long it took until `read` was through.
fn measure<W: Send>(writers: Vec<W>, write: impl Fn(W) + Sync, read: impl FnOnce(&AtomicBool) + Send) -> Duration {
    measure_ended(writers, write, read, || ())
}

/// As [`measure`], with something to do when all writers have ended.
fn measure_ended<W: Send>(
    writers: Vec<W>,
    write: impl Fn(W) + Sync,
    read: impl FnOnce(&AtomicBool) + Send,
    on_end: impl FnOnce(),
) -> Duration {
    let (ended, write) = (AtomicBool::new(false), &write);
    let ended = &ended;
    let cores = core_affinity::get_core_ids().expect("the kernel says which cores are allowed");
    let pin = |at: usize| core_affinity::set_for_current(cores[at % cores.len()]);
    let (began, pin, last) = (Instant::now(), &pin, cores.len() - 1);
    thread::scope(|scope| {
        // Writers from the first core up, and the reader on the last if no writer is there; left alone, all may share
        // one core for a whole run. Where there are as many writers as cores, the reader goes where the kernel sends
        // it.
        let has_own_core = writers.len() <= last;
        let reading = scope.spawn(move || {
            if has_own_core {
                pin(last);
            }
            read(ended);
        });
        let write = move |(at, writer)| {
            pin(at);
            write(writer);
        };
        let writing: Vec<_> = writers.into_iter().enumerate().map(|each| scope.spawn(move || write(each))).collect();
        for writer in writing {
            writer.join().expect("no writer panics");
        }
        ended.store(true, Ordering::Release);
        on_end();
        reading.join().expect("the reader does not panic");
    });
    began.elapsed()
}

/// The event that all send. The compiler may not know its payload.
fn event() -> Event<'static> {
    Event { payload: black_box(&PAYLOAD), time_ns: 1, ..Event::default() }
}

fn boxed(event: &Event<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RECORD_BYTES);
    event.encode(&mut bytes);
    bytes
}

/// `KEPT`: in a memfd, as under systemd, where the memory outlives the process.
fn buffer<const EVENTS_A_CLAIM: usize, const KEPT: bool>(writers: usize, events_each: usize) -> Duration {
    // Building it touches the memory, before the clock runs.
    let built = if KEPT {
        let memory = memfd_create("bench", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
        DoubleBuffer::in_memory(&Options::default(), 1, memory)
    } else {
        DoubleBuffer::new(&Options::default())
    };
    let (buffer, mut reader) = built.expect("memory for two halves");
    let writers: Vec<_> = (0..writers).map(|_| buffer.writer().expect("fewer than the options allow")).collect();
    let total = writers.len() * events_each * RECORD_BYTES;
    let write = |mut writer: Writer| {
        let event = event();
        let mut done = 0;
        while done < events_each {
            let events = EVENTS_A_CLAIM.min(events_each - done);
            let mut claim = writer.claim(events * event.record_bytes()).expect("the reader outlives the writers");
            for _ in 0..events {
                event.encode(&mut claim);
            }
            // Again, if the reader swaps meanwhile.
            if claim.publish().is_ok() {
                done += events;
            }
        }
    };
    let waker = buffer.waker();
    let read = |ended: &AtomicBool| {
        let mut bytes = 0;
        loop {
            let reason = reader.wait(LINGER, None);
            bytes += reader.swap().bytes();
            if reason == Reason::Woken && ended.load(Ordering::Acquire) {
                break;
            }
        }
        assert_eq!(bytes, total, "every event arrives");
    };
    measure_ended(writers, write, read, move || waker.wake())
}

fn channel<const SLOTS: usize>(writers: usize, events_each: usize) -> Duration {
    let (sender, receiver) = crossbeam::channel::bounded::<Vec<u8>>(SLOTS);
    let senders = vec![sender; writers];
    let write = |sender: crossbeam::channel::Sender<Vec<u8>>| {
        let event = event();
        for _ in 0..events_each {
            sender.send(boxed(&event)).expect("the receiver outlives the senders");
        }
    };
    let read = move |_: &AtomicBool| {
        let events = receiver.iter().map(black_box).count();
        assert_eq!(events, writers * events_each, "every event arrives");
    };
    measure(senders, write, read)
}

fn queue(writers: usize, events_each: usize) -> Duration {
    let queue = &crossbeam::queue::ArrayQueue::<Vec<u8>>::new(SLOTS);
    let write = |()| {
        let event = event();
        for _ in 0..events_each {
            let mut bytes = boxed(&event);
            while let Err(refused) = queue.push(bytes) {
                bytes = refused;
                thread::yield_now();
            }
        }
    };
    let read = move |_: &AtomicBool| {
        let mut events = 0;
        while events < writers * events_each {
            match queue.pop() {
                Some(event) => {
                    black_box(event);
                    events += 1;
                }
                None => thread::yield_now(),
            }
        }
    };
    measure(vec![(); writers], write, read)
}

/// What the disruptor's ring is made of.
struct Slot {
    bytes: [u8; RECORD_BYTES],
    filled: usize,
}

impl Slot {
    fn empty() -> Self {
        Self { bytes: [0; RECORD_BYTES], filled: 0 }
    }
}

impl Sink for Slot {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.filled..][..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    #[inline(always)]
    fn open(&mut self, len: usize) -> &mut [u8] {
        let at = self.filled;
        self.filled += len;
        &mut self.bytes[at..][..len]
    }
}

fn fill(mut producer: impl Producer<Slot>, events: usize) {
    let event = event();
    for _ in 0..events {
        producer.publish(|slot| {
            slot.filled = 0;
            event.encode(slot);
        });
    }
}

fn discard(slot: &Slot, _sequence: disruptor::Sequence, _last: bool) {
    black_box(slot.bytes[0]);
}

fn last_core() -> usize {
    core_affinity::get_core_ids().and_then(|cores| cores.last().map(|core| core.id)).unwrap_or(0)
}

fn disruptor_single(_writers: usize, events: usize) -> Duration {
    let producer = disruptor::build_single_producer(SLOTS, Slot::empty, disruptor::BusySpin)
        .pin_at_core(last_core())
        .handle_events_with(discard)
        .build();
    // When the last producer goes, it waits for the processor.
    measure(vec![producer], |producer| fill(producer, events), |_| ())
}

fn disruptor_multi(writers: usize, events_each: usize) -> Duration {
    let producer =
        disruptor::build_multi_producer(SLOTS, Slot::empty, disruptor::BusySpin).handle_events_with(discard).build();
    let mut producers: Vec<_> = (1..writers).map(|_| producer.clone()).collect();
    producers.push(producer);
    measure(producers, |producer| fill(producer, events_each), |_| ())
}
