//! Tests users who send more than they may: they wait, or lose datagrams, and nothing else changes.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbuf_wire::frames::Level;
use nix::sys::socket::{setsockopt, sockopt::PassCred};

use super::manager::Manager;
use super::rig::{Plan, Rig, Seen, TIMEOUT};
use super::rings::Client;
use super::{event, hello, is_durable, replies};
use crate::pipeline::accept::datagram::Datagrams;
use crate::pipeline::accept::publish::receive_buffer::ReceiveBuffers;
use crate::pipeline::accept::publish::{Publisher, WriterContext};
use crate::pipeline::buffer::{DoubleBuffer, Options};
use crate::pipeline::counters::Counters;
use crate::pipeline::progress::Progress;
use crate::pipeline::record::Cause;
use crate::pipeline::shares::Shares;
use crate::pipeline::shares::throttle::{Taken, UserLimits};
use crate::sync::atomic::Ordering::Relaxed;

/// One event a second: a read of two brings the user into debt for longer than a test lasts.
const SLOW: UserLimits = UserLimits { events_per_second: Some(1), bytes_per_second: None, keep_at_least: None };
const MANY: usize = 1000;

fn slow() -> Plan {
    Plan { writers: 1, limits: SLOW, ..Plan::default() }
}

/// How often users were made to wait for their rate, or lost datagrams.
fn refused(rig: &Rig) -> u64 {
    refused_of(rig, "rate")
}

fn refused_of(rig: &Rig, limit: &str) -> u64 {
    let status = rig.shares.status();
    let of_limit = status.iter().find(|status| status.name == limit).unwrap();
    of_limit.refused.iter().map(|(_, refused)| refused).sum()
}

fn wait_refused(rig: &Rig, count: u64) {
    rig.wait_until("a user must wait", |_| refused(rig) >= count);
}

fn lines() -> Vec<u8> {
    (0..MANY).flat_map(|n| format!("{n}\n").into_bytes()).collect()
}

#[test]
fn a_connection_waits_while_its_user_is_in_debt_and_goes_on_where_it_was() {
    let rig = Rig::new(&slow());
    let mut client = rig.connect();
    client.write_all(&lines()).unwrap();
    rig.wait_for_events(MANY);
    client.write_all(b"after\n").unwrap();
    drop(client);
    wait_refused(&rig, 1);
    assert_eq!(rig.wait_for_events(MANY).len(), MANY, "what came after the debt is not read");
    rig.shares.throttle().set(UserLimits::default());
    let events = rig.wait_for_events(MANY + 1);
    assert_eq!(events[MANY].text(), "after");
    rig.wait_until("it is closed", |counters| counters.writers[0].0.connections.load(Relaxed) == 0);
    let seen = rig.stop();
    assert_eq!((seen.events.len(), seen.losses.len()), (MANY + 1, 0));
}

#[test]
fn a_client_that_sends_and_leaves_waits_like_any_other() {
    // Under a service manager, where such a client is read when it is accepted.
    let early = vec![lines(), b"short\n".to_vec(), b"short\n".to_vec(), b"short\n".to_vec()];
    let rig = Rig::under(&mut Manager::new(), &Plan { early, ..slow() }, Seen::default());
    wait_refused(&rig, 3);
    assert_eq!(rig.wait_for_events(MANY).len(), MANY);
    rig.shares.throttle().set(UserLimits::default());
    rig.wait_for_events(MANY + 3);
    assert_eq!(rig.stop().losses.len(), 0);
}

#[test]
fn a_writer_does_not_spin_for_connections_that_wait() {
    let rig = Rig::new(&slow());
    rig.send(&lines());
    rig.wait_for_events(MANY);
    (0..100).for_each(|_| rig.send(b"short\n"));
    wait_refused(&rig, 100);
    let rounds = || rig.accept.as_ref().unwrap().pulses()[0].look().rounds;
    let (began, before) = (Instant::now(), rounds());
    // Time is what is tested: a writer that spins makes thousands of rounds in it.
    std::thread::sleep(Duration::from_millis(100));
    let (made, ms) = (rounds() - before, began.elapsed().as_millis() as u64);
    assert!(made < 30 + 3 * ms, "{made} rounds in {ms} ms for nothing");
    assert_eq!(rig.stop().events.len(), MANY + 100, "a stop takes what the kernel holds");
}

#[test]
fn frames_wait_and_are_acknowledged_when_their_time_has_come() {
    let rig = Rig::new(&slow());
    let mut client = rig.connect();
    let events: Vec<u8> = (1..=100).flat_map(|sequence| event(sequence, b"framed")).collect();
    client.write_all(&[hello(1, Level::Durable), events].concat()).unwrap();
    replies(&mut client, is_durable(100));
    client.write_all(&event(101, b"later")).unwrap();
    wait_refused(&rig, 1);
    assert_eq!(rig.wait_for_events(100).len(), 100);
    rig.shares.throttle().set(UserLimits::default());
    replies(&mut client, is_durable(101));
    assert_eq!(rig.stop().texts()[100], "later");
}

#[test]
fn datagrams_beyond_the_limit_are_lost_with_their_cause_and_their_sender() {
    let rig = Rig::new(&slow());
    let (began, socket) = (Instant::now(), rig.datagrams());
    // The bucket holds one event, so the first one is taken, and perhaps the second; and one more in each second.
    (0..9).for_each(|n| assert_eq!(socket.send(format!("datagram {n}").as_bytes()).unwrap(), 10));
    let lost = rig.totals_of(9).lost[Cause::Limited as usize];
    let least = 7_u64.saturating_sub(began.elapsed().as_secs());
    assert!((least..=8).contains(&lost), "{lost}");
    let (sender, loss) = rig.wait_for_loss();
    assert_eq!((sender.pid, loss.cause), (std::process::id(), Cause::Limited));
    let seen = rig.stop();
    let recorded = seen.losses.iter().fold((0, 0), |sum, (_, loss)| (sum.0 + loss.events, sum.1 + loss.bytes));
    assert_eq!((seen.events.len() as u64, recorded), (9 - lost, (lost, 10 * lost)));
}

#[test]
fn the_next_process_loses_the_same_datagrams_and_no_others() {
    let options = Options { capacity_bytes: 1 << 20, chunk_bytes: 64 << 10, writers_max: 1 };
    let (buffer, _reader) = DoubleBuffer::new(&options).unwrap();
    let counters = Arc::new(Counters::new(1).unwrap());
    let publisher = Publisher::new(buffer.writer().unwrap(), 0, Arc::clone(&counters), Arc::default());
    let progress = Arc::new(Progress::new(1).unwrap());
    let mut context = WriterContext::new(publisher, 0, 1024, progress, buffer.waker());
    let mut receive_buffer = ReceiveBuffers::take_over(1, None, Vec::new()).unwrap().remove(0).own;
    let shares = Shares::even(64);
    shares.throttle().limit_everyone();
    shares.throttle().set(SLOW);
    let (from, to) = UnixDatagram::pair().unwrap();
    setsockopt(&to, PassCred, &true).unwrap();
    let mut datagrams = Datagrams::new(to.into(), Arc::clone(&shares));
    (0..5).for_each(|_| assert_eq!(from.send(b"datagram").unwrap(), 8));
    assert_eq!(datagrams.receive(&mut receive_buffer, &mut context, &mut |_, _| true), Ok(false));
    let figures = || {
        let totals = counters.account.totals();
        (totals.received_events, totals.lost[Cause::Limited as usize])
    };
    let (received, lost) = figures();
    assert!(received == 5 && (3..=4).contains(&lost), "{lost} of {received}");
    // As the next process would, if this one had died before it published any of them; with other limits.
    shares.throttle().set(UserLimits::default());
    context.publisher.begin_read(0);
    assert_eq!(datagrams.replay(&mut receive_buffer, &mut context, &mut |_, _| true), Ok(()));
    assert_eq!(figures(), (10, 2 * lost));
}

#[test]
fn a_ring_is_not_looked_into_while_its_user_is_in_debt() {
    let rig = Rig::new(&slow());
    let mut client = Client::open(&rig);
    (0..100).for_each(|_| client.send("event"));
    rig.wait_for_events(2);
    (0..100).for_each(|_| client.send("event"));
    wait_refused(&rig, 1);
    rig.shares.throttle().set(UserLimits::default());
    assert_eq!(rig.wait_for_events(200).len(), 200);
    assert_eq!(refused(&rig), 1, "the writer has not asked again and again");
    client.send("one more");
    assert_eq!(rig.wait_for_events(201)[200].text(), "one more", "its doorbell is heard again");
    assert_eq!(rig.stop().losses.len(), 0);
}

#[test]
fn a_user_who_has_its_share_of_the_front_half_waits_and_loses_nothing() {
    let rig = Rig::new(&Plan { writers: 1, ..Plan::default() });
    let budget = rig.shares.throttle().front_budget();
    budget.set(1, Some(4096));
    let (mut client, mut sent) = (rig.connect(), 0);
    let deadline = Instant::now() + TIMEOUT;
    // Until two reads come within the time after which a share is there again. Another user sends as well.
    while refused_of(&rig, "buffer_bytes") == 0 {
        rig.shares.throttle().charge(1, Taken { events: 1, ..Taken::default() });
        client.write_all(&lines()).unwrap();
        sent += MANY;
        assert!(Instant::now() < deadline, "it never waits");
    }
    let datagrams = rig.datagrams();
    (0..100).for_each(|_| assert_eq!(datagrams.send(b"datagram").unwrap(), 8));
    budget.set(2, None);
    rig.wait_for_events(sent + 100);
    assert_eq!(rig.stop().losses.len(), 0);
}

#[test]
fn a_stop_reads_what_waiting_connections_have_sent() {
    let mut manager = Manager::new();
    let rig = Rig::under(&mut manager, &slow(), Seen::default());
    let mut client = rig.connect();
    client.write_all(&lines()).unwrap();
    rig.wait_for_events(MANY);
    client.write_all(b"before the stop\n").unwrap();
    wait_refused(&rig, 1);
    let seen = rig.stop();
    assert_eq!(seen.texts()[MANY], "before the stop");
    client.write_all(b"after the stop\n").unwrap();
    drop(client);
    let next = Rig::under(&mut manager, &Plan { limits: UserLimits::default(), ..slow() }, seen);
    assert_eq!(next.wait_for_events(MANY + 2)[MANY + 1].text(), "after the stop");
}
