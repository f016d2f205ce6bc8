//! Measures how long a send takes: 100 bytes, in batches of 1000, median and 99th percentile of the batches' means.
//!
//! ```sh
//! cargo run --release -p dbuf-client --example bench
//! ```
//!
//! The daemon is a thread of this program that grants one ring and, as asked, empties it or not. Figures hold for one
//! machine at one moment: compare those of one run.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dbuf_client::wire::{Frame, HEAD_BYTES, Head, MAGIC, Welcome, feature};
use dbuf_client::{LinkKind, Producer, ProducerOptions};
use dbuf_wire::ring::{Memory, Position, RingConsumer, flag};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

const BATCH: usize = 1000;
/// Without a daemon to empty it, all must fit.
const CAPACITY_BYTES: u64 = 64 << 20;
/// Where somebody does, most of it is in a cache.
const CAPACITY_BYTES_EMPTIED: u64 = 4 << 20;

fn main() {
    let directory = std::env::temp_dir().join(format!("dbuf-bench-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a new directory");
    let path = directory.join("stream.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    for consumes in [true, false] {
        for stamp in [true, false] {
            for claims in [false, true] {
                let done = Arc::new(AtomicBool::new(false));
                let daemon = std::thread::spawn({
                    let (listener, done) = (listener.try_clone().expect("a descriptor"), Arc::clone(&done));
                    move || serve(&listener, consumes, &done)
                });
                let options = ProducerOptions {
                    path: Some(path.clone()),
                    capacity_bytes: if consumes { CAPACITY_BYTES_EMPTIED } else { CAPACITY_BYTES },
                    populate: true,
                    stamp,
                    ..ProducerOptions::default()
                };
                measure(Producer::open(options).expect("a producer"), consumes, stamp, claims);
                done.store(true, Ordering::Relaxed);
                daemon.join().expect("the daemon's thread");
            }
        }
    }
    std::fs::remove_dir_all(&directory).expect("the directory is ours");
}

fn measure(mut producer: Producer, consumes: bool, stamp: bool, claims: bool) {
    assert_eq!(producer.statistics().link, LinkKind::Ring, "a ring");
    let payload = [b'x'; 100];
    // A record takes 128 bytes here.
    let batches = if consumes { 5000 } else { CAPACITY_BYTES as usize / 128 / BATCH - 1 };
    let mut times: Vec<f64> = (0..batches)
        .map(|_| {
            // What a full ring costs is another question.
            while consumes && producer.statistics().waiting_bytes > CAPACITY_BYTES_EMPTIED / 2 {
                std::thread::yield_now();
            }
            let begun = Instant::now();
            for _ in 0..BATCH {
                if claims {
                    let mut claim = producer.claim(6, payload.len()).expect("room");
                    claim.write_all(std::hint::black_box(&payload)).expect("room");
                    claim.publish().expect("an event");
                } else {
                    producer.send(6, std::hint::black_box(&payload)).expect("room");
                }
            }
            begun.elapsed().as_nanos() as f64 / BATCH as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let of = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{:>5} {:>9} {:>9}: median {:5.1} ns, 99 % {:5.1} ns, of {} events",
        if claims { "claim" } else { "send" },
        if stamp { "stamped" } else { "unstamped" },
        if consumes { "emptied" } else { "left" },
        of(0.5),
        of(0.99),
        batches * BATCH,
    );
}

fn serve(listener: &UnixListener, consumes: bool, done: &AtomicBool) {
    let (mut stream, _) = listener.accept().expect("a client");
    let mut magic = [0; MAGIC.len()];
    stream.read_exact(&mut magic).expect("the magic");
    read_frame(&mut stream);
    let granted = feature::FIELDS | feature::RING;
    let mut bytes = Vec::new();
    Frame::Welcome(Welcome { version: 1, max_event: 65536, compatible: granted, incompatible: 0, last: 0 })
        .encode(&mut bytes);
    stream.write_all(&bytes).expect("a client");
    read_frame(&mut stream);
    let capacity = if consumes { CAPACITY_BYTES_EMPTIED } else { CAPACITY_BYTES };
    let (memory, file) = Memory::create(capacity, flag::TICKS).expect("memory");
    grant(&stream, capacity, &file);
    let mut consumer = RingConsumer::new(memory, &Position::default());
    let mut copy = vec![0; 256 << 10];
    while !done.load(Ordering::Relaxed) {
        let waiting = if consumes { consumer.look().expect("an honest producer").min(copy.len() as u64) } else { 0 };
        if waiting == 0 {
            std::thread::sleep(std::time::Duration::from_micros(200));
            continue;
        }
        consumer.copy(0, &mut copy[..waiting as usize]);
        consumer.take(waiting, 0);
    }
}

fn read_frame(stream: &mut UnixStream) {
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head).expect("a head");
    let head = Head::decode(&head).expect("a head").expect("a whole one");
    stream.read_exact(&mut vec![0; head.length as usize]).expect("a body");
}

fn grant(stream: &UnixStream, capacity: u64, memory: &OwnedFd) {
    let mut bytes = Vec::new();
    Frame::Grant { capacity }.encode(&mut bytes);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [memory.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is space");
    rustix::net::sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).expect("a client");
}
