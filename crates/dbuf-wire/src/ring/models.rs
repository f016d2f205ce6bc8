//! Models of the ring, run by loom: the same code, under every order of steps within the preemption bound.
//!
//! Loom sees a byte that is used without an edge to the thread that used it before, a wake-up that is lost, and an
//! assertion that fails. `.ci/weaken` weakens each edge in turn.

use dbuf_sync::thread;
use dbuf_sync::{Arc, Condvar, Mutex};

use super::*;
use crate::frames::Event;

const CAPACITY: u64 = 64;

/// Two ends of one memory: a model's memory is not mapped, so it is shared as it is.
fn ends() -> (RingProducer, RingConsumer) {
    let memory = Memory::modelled(CAPACITY);
    let twin = memory.twin();
    (RingProducer::new(memory, true), RingConsumer::new(twin, &Position::default()))
}

fn event(payload: &[u8]) -> Event<'_> {
    Event { payload, ..Event::default() }
}

/// Something to sleep on: an eventfd, or the kernel's queue of a futex.
#[derive(Default)]
struct Queue {
    rung: Mutex<bool>,
    sleepers: Condvar,
}

impl Queue {
    fn ring(&self) {
        *self.rung.lock().expect("no model panics while it holds a bell") = true;
        self.sleepers.notify_all();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no model panics while it holds a bell");
        while !*rung {
            rung = self.sleepers.wait(rung).expect("no model panics while it holds a bell");
        }
        *rung = false;
    }
}

fn taken(consumer: &mut RingConsumer, into: &mut Vec<u8>) {
    let waiting = consumer.look().expect("an honest producer");
    let mut bytes = vec![0; waiting as usize];
    consumer.copy(0, &mut bytes);
    for record in bytes.chunks(32) {
        assert_eq!(record[0], 1, "a whole record of one byte");
        into.push(record[16]);
    }
    let events = into.len() as u64;
    consumer.take(waiting, events);
}

#[test]
fn models_the_daemon_copies_whole_events_and_none_is_written_over_before() {
    dbuf_sync::model(|| {
        let (mut producer, mut consumer) = ends();
        let sender = thread::spawn(move || {
            let mut sent = Vec::new();
            for byte in [7, 8, 9] {
                if producer.push(&event(&[byte]), record::Stamp::None).is_ok() {
                    sent.push(byte);
                }
            }
            (producer, sent)
        });
        let mut seen = Vec::new();
        taken(&mut consumer, &mut seen);
        let (_producer, sent) = sender.join().expect("no panic");
        taken(&mut consumer, &mut seen);
        assert_eq!(seen, sent);
    });
}

#[test]
fn models_an_event_never_lies_in_the_ring_of_a_daemon_that_sleeps_unrung() {
    dbuf_sync::model(|| {
        let (mut producer, mut consumer) = ends();
        let bell = Arc::new(Queue::default());
        let rings = Arc::clone(&bell);
        let sender = thread::spawn(move || {
            let bell = producer.push(&event(&[7]), record::Stamp::None).expect("room");
            if bell == Bell::Ring {
                rings.ring();
            }
            producer
        });
        let mut seen = Vec::new();
        while seen.is_empty() {
            consumer.set_state(state::ASLEEP);
            RingConsumer::after_barrier();
            if consumer.look() == Ok(0) {
                bell.wait();
            }
            consumer.set_state(state::AWAKE);
            taken(&mut consumer, &mut seen);
        }
        let _producer = sender.join().expect("no panic");
    });
}

#[test]
fn models_a_producer_that_waits_for_room_is_woken() {
    dbuf_sync::model(|| {
        let (mut producer, mut consumer) = ends();
        for byte in [1, 2] {
            let _ = producer.push(&event(&[byte]), record::Stamp::None).expect("room for two");
        }
        // The kernel's queue: it compares the word and sleeps in one step.
        let queue = Arc::new((Mutex::new(()), Condvar::new()));
        let sleepers = Arc::clone(&queue);
        let sender = thread::spawn(move || {
            loop {
                let turn = producer.want(want::ROOM);
                if producer.has_room(1) {
                    return producer;
                }
                let bucket = sleepers.0.lock().expect("no model panics while it holds a bucket");
                // Relaxed: the bucket's lock orders it.
                if producer.memory().words().turn.load(dbuf_sync::atomic::Ordering::Relaxed) == turn {
                    drop(sleepers.1.wait(bucket));
                }
            }
        });
        taken(&mut consumer, &mut Vec::new());
        if consumer.wants() & want::ROOM != 0 {
            consumer.wake();
            let _bucket = queue.0.lock().expect("no model panics while it holds a bucket");
            queue.1.notify_all();
        }
        let _producer = sender.join().expect("no panic");
    });
}

#[test]
fn models_a_producer_that_sees_an_event_durable_sees_that_it_was_lost() {
    dbuf_sync::model(|| {
        let (producer, consumer) = ends();
        let daemon = thread::spawn(move || {
            consumer.tell(1, 1, 1, 0);
            consumer
        });
        if producer.durable() == 1 {
            assert_eq!(producer.failures(), (0, 1));
        }
        let _consumer = daemon.join().expect("no panic");
    });
}

#[test]
fn models_the_daemon_counts_no_lost_event_without_its_bytes() {
    dbuf_sync::model(|| {
        let (mut producer, consumer) = ends();
        let daemon = thread::spawn(move || {
            let losses = consumer.losses().expect("an honest producer");
            assert!(losses == (0, 0) || losses == (1, 7), "{losses:?}");
            consumer
        });
        producer.lose(7);
        let _consumer = daemon.join().expect("no panic");
    });
}
