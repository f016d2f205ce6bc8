//! Tests what the next process finds of the account, whatever step the previous process died at.

mod deletions;

use std::os::fd::OwnedFd;

use super::memory::{Memory, READER, UNNAMED};
use super::*;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::{Cause, Loss, Record, Transport};
use crate::pipeline::shares::Shares;
use crate::sync::Arc;
use crate::sync::atomic::Ordering::Relaxed;

fn identity(pid: u32) -> Identity {
    Identity { pid, ..Identity::default() }
}

fn events(events: u64) -> Tally {
    Tally { events, bytes: 10 * events, ..Tally::default() }
}

fn position() -> PublishPosition {
    PublishPosition::from_words([9, 3 << 32 | 64]).unwrap()
}

/// An account, and the memory that outlives it.
fn account() -> (Arc<Account>, OwnedFd) {
    let memory = Memory::new(3, 0).unwrap();
    let descriptor = memory.descriptor();
    let account = Account::over(Shares::even(1024), memory);
    account.belongs_to(7, 100, 1);
    (Arc::new(account), descriptor)
}

fn inherit(memory: &OwnedFd) -> Option<Memory> {
    Memory::inherit(memory.try_clone().unwrap())
}

/// What the next process finds, and the one after it, which asks no one any more.
fn next_process(memory: &OwnedFd, was_published: bool) -> Arc<Account> {
    let found = inherit(memory).unwrap();
    found.resolve(&|asked| {
        assert_eq!(asked.to_words(), position().to_words());
        was_published
    });
    let rows = Account::over(Shares::even(1024), found).rows();
    let again = inherit(memory).unwrap();
    again.resolve(&|_| panic!("asked again"));
    let account = Account::over(Shares::even(1024), again);
    assert_eq!(account.rows(), rows);
    Arc::new(account)
}

fn sent(account: &Account) -> u64 {
    account.totals().received_events
}

#[test]
fn figures_that_become_too_large_stay_at_the_largest_number() {
    let (account, _memory) = account();
    let mut recorder = account.recorder(0);
    for pid in [1, 2] {
        let producer = account.producer(&identity(pid));
        for _ in 0..3 {
            recorder.prepare(&producer, &Tally::lost(Cause::Full, u64::MAX / 2, u64::MAX / 2));
            recorder.before_publish(position());
            recorder.published();
        }
    }
    account.withdraw(1);
    let (totals, all) = (account.totals(), u64::MAX);
    assert_eq!((totals.received_events, totals.received_bytes, totals.lost_total()), (all, all, all));
    let (statement, busiest) = (account.statement(), account.busiest_groups(1));
    let mut rows = statement.rows.iter().chain(&busiest);
    assert!(rows.all(|row| (row.sent, row.lost_total(), row.in_memory()) == (all, all, 0)));
    assert_eq!((statement.rows.len(), busiest.len()), (2, 1));
}

#[test]
fn a_writer_that_dies_at_any_step_leaves_what_is_published_counted_and_nothing_else() {
    type Step = fn(&mut Recorder);
    let steps: [(Step, bool, u64); 6] = [
        (|_| (), false, 5),
        (|recorder| recorder.before_publish(position()), false, 5),
        (|recorder| recorder.before_publish(position()), true, 8),
        // The publish came. One of the two rows is marked as holding.
        (
            |recorder| {
                recorder.before_publish(position());
                recorder.account.memory.commit(recorder.touched[1], recorder.cell, recorder.number);
            },
            true,
            8,
        ),
        (
            |recorder| {
                recorder.before_publish(position());
                recorder.published();
            },
            true,
            8,
        ),
        (
            |recorder| {
                recorder.before_publish(position());
                recorder.abort();
            },
            true,
            5,
        ),
    ];
    for (number, (step, was_published, expected)) in steps.into_iter().enumerate() {
        let (account, memory) = account();
        let mut recorder = account.recorder(1);
        let (a, b) = (account.producer(&identity(1)), account.producer(&identity(2)));
        recorder.prepare(&a, &events(5));
        recorder.before_publish(PublishPosition::from_words([1, 0]).unwrap());
        recorder.published();
        recorder.prepare(&a, &events(1));
        recorder.prepare(&b, &events(1));
        recorder.prepare(&a, &events(1));
        step(&mut recorder);
        drop((recorder, account));
        let account = next_process(&memory, was_published);
        assert_eq!(sent(&account), expected, "step {number}");
        // It continues with the same producers, and nothing that was prepared comes back.
        let mut recorder = account.recorder(1);
        recorder.prepare(&account.producer(&identity(1)), &events(10));
        recorder.before_publish(position());
        drop((recorder, account));
        assert_eq!(sent(&next_process(&memory, true)), expected + 10, "step {number}");
    }
}

fn record_of(identity: &Identity) -> Vec<u8> {
    identity.to_record()
}

/// A batch of four events of one producer, prepared by the reader.
fn prepare(recorder: &mut ReaderRecorder, generation: u64, stored: bool) {
    let record = record_of(&identity(1));
    let record = Record::decode(&record).unwrap().0;
    recorder.begin(generation);
    let tally = if stored { events(4) } else { Tally::lost(Cause::Disk, 4, 40) };
    recorder.prepare(Some(&record), &tally);
}

#[test]
fn a_reader_that_dies_at_any_step_leaves_a_batch_counted_once() {
    let states: [(bool, bool); 3] = [(false, false), (false, true), (true, true)];
    for (is_said, is_in_file) in states {
        let (account, memory) = account();
        let mut writer = account.recorder(0);
        writer.prepare(&account.producer(&identity(1)), &events(4));
        writer.before_publish(PublishPosition::from_words([1, 0]).unwrap());
        writer.published();
        let mut recorder = account.reader_recorder();
        prepare(&mut recorder, 6, true);
        if is_said {
            recorder.persisted(104, 1);
        }
        drop((recorder, writer, account));
        let account = next_process(&memory, false);
        let mut recorder = account.reader_recorder();
        if is_in_file {
            recorder.settle_persisted(6, 104);
        } else {
            assert!(!recorder.settle_given_up(6));
            assert_eq!(account.totals().persisted_events, 0);
            prepare(&mut recorder, 6, true);
            recorder.persisted(104, 1);
        }
        let (totals, statement) = (account.totals(), account.statement());
        assert_eq!((totals.received_events, totals.persisted_events, statement.next_sequence), (4, 4, 104));
    }
}

#[test]
fn a_batch_that_was_given_up_is_lost_once_and_its_report_waits_for_the_next_process() {
    for has_come in [false, true] {
        let (account, memory) = account();
        let mut recorder = account.reader_recorder();
        // A try to write it, which failed.
        recorder.begin(6);
        recorder.prepare(None, &Tally { withdrawn: 3, ..Tally::default() });
        recorder.prepare_pending_losses(&[]);
        prepare(&mut recorder, 6, false);
        let loss = Loss { cause: Cause::Disk, events: 4, bytes: 40, first_ns: 1, last_ns: 2 };
        recorder.prepare_pending_losses(&[(account.producer(&identity(1)), loss)]);
        if has_come {
            recorder.given_up();
        } else {
            account.memory.give_up(6);
        }
        drop((recorder, account));
        let account = next_process(&memory, false);
        let mut recorder = account.reader_recorder();
        assert!(recorder.settle_given_up(6));
        assert_eq!(account.totals().lost[Cause::Disk as usize], 4);
        let pending_losses = recorder.pending_losses();
        assert_eq!(
            pending_losses.iter().map(|(producer, loss)| (producer.identity.pid, *loss)).collect::<Vec<_>>(),
            [(1, loss)]
        );
        assert_eq!(account.memory.looked(UNNAMED, READER).withdrawn, 0, "of the failed try nothing is left");
        // A batch that reports it. Once that is in a file, nothing is pending.
        prepare(&mut recorder, 7, true);
        recorder.prepare_pending_losses(&[]);
        drop((recorder, account));
        let account = next_process(&memory, false);
        let recorder = account.reader_recorder();
        assert_eq!(recorder.pending_losses().len(), 1);
        recorder.settle_persisted(7, 108);
        assert_eq!(recorder.pending_losses().len(), 0);
    }
}

#[test]
fn what_was_in_memory_that_is_gone_is_lost_once_whatever_step_it_was_counted_in() {
    // The newest batch: not written, written, given up; each of them counted or not.
    for (batch, is_counted) in [0, 1, 2].into_iter().flat_map(|batch| [(batch, false), (batch, true)]) {
        let (account, memory) = account();
        let mut writer = account.recorder(0);
        writer.prepare(&account.producer(&identity(1)), &events(12));
        writer.prepare(&account.producer(&identity(2)), &events(1));
        writer.published();
        let mut recorder = account.reader_recorder();
        // Given up long ago.
        prepare(&mut recorder, 5, false);
        recorder.given_up();
        prepare(&mut recorder, 6, batch < 2);
        match (batch, is_counted) {
            (2, false) => account.memory.give_up(6),
            (2, true) => recorder.given_up(),
            (_, true) => recorder.persisted(104, 1),
            (_, false) => {}
        }
        let is_in_file = batch == 1 || (batch == 0 && is_counted);
        drop((recorder, writer, account));
        inherit(&memory).unwrap().set_buffer_gone(true);
        for _ in 0..2 {
            let account = next_process(&memory, false);
            account.lose_what_is_gone(Some(if is_in_file { 6 } else { 4 }), if is_in_file { 104 } else { 100 }, 9);
            let case = format!("{batch} {is_counted}");
            assert!(account.rows().iter().all(|row| row.in_memory() == 0), "{case}: {:?}", account.rows());
            let totals = account.totals();
            let expected = (13, if is_in_file { 4 } else { 0 }, if batch == 2 { 8 } else { 4 });
            let disk = totals.lost[Cause::Disk as usize];
            assert_eq!((totals.received_events, totals.persisted_events, disk), expected, "{case}");
            let abandoned = 13 - expected.1 - expected.2;
            assert_eq!(totals.lost[Cause::Abandoned as usize], abandoned, "{case}");
            let pending = account.reader_recorder().pending_losses();
            let pending = pending.iter().filter(|(_, loss)| loss.cause == Cause::Abandoned);
            assert_eq!(pending.map(|(_, loss)| loss.events).sum::<u64>(), abandoned, "{case}");
            // It dies after everything was counted and before it said so.
            account.memory.set_buffer_gone(true);
        }
    }
}

#[test]
fn what_a_sync_took_back_is_lost_and_no_longer_stored_and_reported_once() {
    let (account, _memory) = account();
    let mut recorder = account.reader_recorder();
    prepare(&mut recorder, 6, true);
    recorder.persisted(104, 1);
    account.withdraw(3);
    let totals = account.totals();
    assert_eq!((totals.received_events, totals.persisted_events, totals.lost[Cause::Disk as usize]), (4, 1, 3));
    assert_eq!(recorder.withdrawn(), 3);
    prepare(&mut recorder, 7, true);
    recorder.prepare(None, &Tally { withdrawn: 3, ..Tally::default() });
    recorder.persisted(108, 1);
    assert_eq!((recorder.withdrawn(), account.totals().lost_total()), (0, 3));
}

#[test]
fn the_table_of_producers_is_bounded_and_forgets_no_count() {
    let (account, memory) = account();
    let mut recorder = account.recorder(0);
    let held = account.producer(&identity(u32::MAX));
    recorder.prepare(&held, &events(1));
    recorder.published();
    let total = PRODUCERS_MAX as u32 * 3;
    let mut reader = account.reader_recorder();
    for pid in 0..total {
        recorder.prepare(&account.producer(&identity(pid)), &events(1));
        recorder.published();
        let record = record_of(&identity(pid));
        reader.begin(u64::from(pid) + 2);
        reader.prepare(Some(&Record::decode(&record).unwrap().0), &events(1));
        reader.persisted(101 + u64::from(pid), 1);
    }
    let rows = account.rows();
    assert!(rows.len() <= PRODUCERS_MAX + 1);
    assert!(rows.iter().any(|row| row.identity == Some(identity(u32::MAX))), "a producer that is held stays");
    assert!(rows.iter().all(|row| row.in_memory() <= 1), "both sides of a row go together");
    assert_eq!((sent(&account), account.totals().persisted_events), (u64::from(total) + 1, u64::from(total)));
    drop((recorder, reader, account));
    assert_eq!(sent(&next_process(&memory, false)), u64::from(total) + 1);
}

#[test]
fn the_figures_of_a_group_never_fall_while_its_producers_come_and_make_room() {
    let (account, _memory) = account();
    let (mut recorder, mut reader) = (account.recorder(0), account.reader_recorder());
    let of_group = |pid| Identity { session: u128::from(pid), ..identity(pid) };
    for pid in 1..PRODUCERS_MAX as u32 * 3 {
        recorder.prepare(&account.producer(&of_group(pid)), &events(1));
        recorder.published();
        let record = record_of(&of_group(pid));
        reader.begin(u64::from(pid) + 1);
        reader.prepare(Some(&Record::decode(&record).unwrap().0), &events(1));
        reader.persisted(100 + u64::from(pid), 1);
        if !pid.is_multiple_of(PRODUCERS_MAX as u32 / 16) {
            continue;
        }
        let rows = account.busiest_groups(9);
        assert_eq!(rows.len(), 1, "they are one group, and nothing is left for the others: {rows:?}");
        assert_eq!((rows[0].sent, rows[0].stored), (u64::from(pid), u64::from(pid)));
    }
    assert!(account.busiest(usize::MAX).last().unwrap().identity.is_none(), "producers have made room");
}

#[test]
fn groups_differ_in_user_unit_transport_and_tag_and_the_busiest_are_shown() {
    let (account, _memory) = account();
    let mut recorder = account.recorder(0);
    let base = || Identity { tag: (*b"app").into(), ..identity(7) };
    let alike = [base(), Identity { pid: 8, ..base() }, Identity { comm: (*b"other").into(), ..base() }];
    let others = [
        Identity { uid: 4, ..base() },
        Identity { unit: (*b"app.service").into(), ..base() },
        Identity { transport: Transport::Ring, ..base() },
        Identity { tag: (*b"web").into(), ..base() },
    ];
    for identity in alike.iter().chain(&others) {
        recorder.prepare(&account.producer(identity), &events(1));
        recorder.published();
    }
    let sent = |rows: Vec<Row>| rows.into_iter().map(|row| row.sent).collect::<Vec<_>>();
    assert_eq!(sent(account.busiest_groups(usize::MAX)), [3, 1, 1, 1, 1]);
    assert_eq!(sent(account.busiest_groups(2)), [3, 1, 3], "the last row is that of all others");
}

#[test]
fn a_user_with_a_tag_for_each_event_takes_the_row_of_no_other_user() {
    let (account, _memory) = account();
    let (mut recorder, mut reader) = (account.recorder(0), account.reader_recorder());
    let mut generation = 1;
    let mut send = |identity: &Identity| {
        recorder.prepare(&account.producer(identity), &events(1));
        recorder.published();
        let record = record_of(identity);
        generation += 1;
        reader.begin(generation);
        reader.prepare(Some(&Record::decode(&record).unwrap().0), &events(1));
        reader.persisted(99 + generation, 1);
    };
    let quiet: Vec<Identity> = (1..=10).map(|pid| Identity { uid: 1001, ..identity(pid) }).collect();
    quiet.iter().for_each(&mut send);
    let tags = PRODUCERS_MAX * 3;
    for number in 0..tags {
        send(&Identity { uid: 1000, tag: format!("tag{number}").into_bytes().into(), ..identity(1) });
    }
    let rows = account.rows();
    assert!(quiet.iter().all(|quiet| rows.iter().any(|row| row.identity.as_ref() == Some(quiet))));
    let of_user = |row: &&Row| row.identity.as_ref().is_some_and(|identity| identity.uid == 1000);
    assert!(rows.iter().filter(of_user).count() <= PRODUCERS_MAX / 4);
    assert_eq!((sent(&account), account.totals().persisted_events), (tags as u64 + 10, tags as u64 + 10));
}

#[test]
fn a_producer_that_was_counted_with_others_gets_a_row_only_when_nothing_of_it_is_left() {
    let memory = Memory::new(3, 0).unwrap();
    let account = Arc::new(Account::over(Shares::even(8), memory));
    account.belongs_to(7, 100, 1);
    let (mut recorder, mut reader) = (account.recorder(0), account.reader_recorder());
    let of_user = |pid| Identity { uid: 1000, ..identity(pid) };
    let send = |recorder: &mut Recorder, producer: &Producer| {
        recorder.prepare(producer, &events(1));
        recorder.published();
    };
    let mut persist = |pid, generation: u64| {
        let record = record_of(&of_user(pid));
        reader.begin(generation);
        reader.prepare(Some(&Record::decode(&record).unwrap().0), &events(1));
        reader.persisted(99 + generation, 1);
        // A batch holds its producers until the next.
        reader.begin(generation + 1);
    };
    // Two rows are a quarter of eight.
    let rows = [1, 2].map(|pid| account.producer(&of_user(pid)));
    let third = account.producer(&of_user(3));
    send(&mut recorder, &third);
    // There would be room now, but its event is in memory; and a writer may send more of it as it has begun.
    drop(rows);
    account.may_make_room();
    let again = account.producer(&of_user(3));
    persist(3, 1);
    send(&mut recorder, &third);
    send(&mut recorder, &again);
    persist(3, 2);
    persist(3, 3);
    assert!(account.rows().iter().all(|row| row.identity.is_none()), "{:?}", account.rows());
    assert_eq!(account.rows().iter().map(|row| (row.sent, row.stored)).collect::<Vec<_>>(), [(3, 3)]);
    drop((third, again));
    account.may_make_room();
    let row = account.producer(&of_user(3));
    send(&mut recorder, &row);
    persist(3, 4);
    let named: Vec<_> = account.rows().into_iter().filter(|row| row.identity.is_some()).collect();
    assert_eq!(named.iter().map(|row| (row.sent, row.stored)).collect::<Vec<_>>(), [(1, 1)]);
}

#[test]
fn producers_of_whom_something_is_in_memory_do_not_make_room() {
    let (account, _memory) = account();
    let mut recorder = account.recorder(0);
    for pid in 0..PRODUCERS_MAX as u32 {
        recorder.prepare(&account.producer(&identity(pid)), &events(1));
        recorder.published();
    }
    recorder.prepare(&account.producer(&identity(9999)), &events(1));
    recorder.published();
    let rows = account.busiest(usize::MAX);
    assert_eq!((rows.len(), sent(&account)), (PRODUCERS_MAX + 1, PRODUCERS_MAX as u64 + 1));
    assert_eq!(rows.last().unwrap().identity, None);
}

#[test]
fn producers_beyond_the_table_are_counted_together_on_both_sides() {
    let (account, _memory) = account();
    let (mut writer, mut reader) = (account.recorder(0), account.reader_recorder());
    let held: Vec<_> = (0..PRODUCERS_MAX as u32 + 9).map(|pid| account.producer(&identity(pid))).collect();
    for producer in &held {
        writer.prepare(producer, &events(1));
    }
    writer.published();
    // Room comes before the reader has counted them.
    let (named, _) = held.split_at(PRODUCERS_MAX);
    let unnamed: Vec<Identity> = held[PRODUCERS_MAX..].iter().map(|producer| producer.identity.clone()).collect();
    reader.begin(6);
    for producer in named {
        reader.prepare(Some(&Record::decode(&record_of(&producer.identity)).unwrap().0), &events(1));
    }
    reader.persisted(100, 1);
    drop(held);
    account.producer(&identity(9999));
    reader.begin(7);
    for identity in &unnamed {
        reader.prepare(Some(&Record::decode(&record_of(identity)).unwrap().0), &events(1));
    }
    reader.persisted(109, 1);
    let rows = account.rows();
    assert!(rows.iter().all(|row| row.sent == row.stored), "{:?}", rows.iter().find(|row| row.sent != row.stored));
    assert_eq!(sent(&account), PRODUCERS_MAX as u64 + 9);
}

#[test]
fn a_death_while_a_row_is_folded_counts_it_once() {
    for steps in 0..3 {
        let (account, memory) = account();
        let mut recorder = account.recorder(1);
        let producer = account.producer(&identity(1));
        recorder.prepare(&producer, &events(5));
        recorder.published();
        let row = producer.row;
        match steps {
            0 => {}
            1 => account.memory.begin_fold(row),
            _ => account.memory.fold(row),
        }
        drop((recorder, producer, account));
        let account = next_process(&memory, false);
        assert_eq!(sent(&account), 5, "after {steps} steps");
        assert_eq!(account.rows()[0].identity.is_some(), steps == 0);
    }
}

#[test]
fn more_writers_than_before_take_over_all_figures() {
    let (account, old) = account();
    for writer in 0..2 {
        let mut recorder = account.recorder(writer);
        recorder.prepare(&account.producer(&identity(1)), &events(5));
        recorder.published();
    }
    let mut reader = account.reader_recorder();
    prepare(&mut reader, 6, true);
    reader.persisted(104, 77);
    let (rows, totals) = (account.rows(), account.totals());
    drop((reader, account));
    let memory = Memory::new(9, 1).unwrap();
    memory.take_over(&inherit(&old).unwrap());
    let account = Arc::new(Account::over(Shares::even(1024), memory));
    assert_eq!((account.rows(), account.totals()), (rows, totals));
    assert_eq!(account.statement().since, Some((1, 100)));
    let mut recorder = account.recorder(0);
    recorder.prepare(&account.producer(&identity(1)), &events(1));
    recorder.before_publish(position());
    recorder.published();
    assert_eq!(sent(&account), 11);
}

#[test]
fn an_account_of_other_segments_begins_anew() {
    let (account, memory) = account();
    let mut recorder = account.recorder(0);
    recorder.prepare(&account.producer(&identity(1)), &events(5));
    recorder.published();
    drop((recorder, account));
    let account = next_process(&memory, false);
    account.belongs_to(7, 105, 9);
    assert_eq!((sent(&account), account.statement().since), (5, Some((1, 100))));
    account.belongs_to(8, 1, 9);
    assert_eq!((sent(&account), account.statement().since), (0, Some((9, 1))));
    assert!(account.adopts.load(Relaxed), "what is in memory was counted in the other one");
}

#[test]
fn what_is_found_in_memory_without_its_account_is_counted_as_received_and_nothing_else_is() {
    let (account, _memory) = account();
    account.belongs_to(8, 100, 1);
    let mut recorder = account.reader_recorder();
    for (generation, is_inherited, expected) in [(6, true, 4), (7, false, 4)] {
        recorder.set_inherited(is_inherited);
        prepare(&mut recorder, generation, true);
        recorder.persisted(104, 1);
        assert_eq!(account.rows().iter().map(|row| row.sent).sum::<u64>(), expected, "generation {generation}");
    }
}

#[test]
fn memory_of_another_version_or_without_sense_is_refused() {
    let memory = Memory::new(3, 0).unwrap().descriptor();
    let damaged = |at: usize, value: u64| {
        let words = crate::sys::words::Words::of_sparse_memory(std::os::fd::AsFd::as_fd(&memory), 16).unwrap();
        // Relaxed: no other thread has it.
        let before = words.all()[at].swap(value, Relaxed);
        let is_refused = inherit(&memory).is_none();
        words.all()[at].store(before, Relaxed);
        is_refused
    };
    for (at, value) in [(0, 1), (1, 2), (1, 4), (2, 0), (2, 1), (2, 66), (2, 65), (2, u64::MAX)] {
        assert!(damaged(at, value), "word {at} is {value}");
    }
    assert!(!damaged(3, 9));
    let empty = tempfile::tempfile().unwrap().into();
    assert!(inherit(&empty).is_none());
}

#[test]
fn identities_are_kept_whole() {
    let (account, memory) = account();
    let identity = Identity {
        pid: 1,
        uid: 2,
        gid: 3,
        claimed_pid: 4,
        session: 5 << 70,
        transport: Transport::Syslog,
        tag: vec![b't'; 64].into(),
        comm: vec![b'c'; 32].into(),
        unit: vec![b'u'; 255].into(),
    };
    let mut recorder = account.recorder(0);
    recorder.prepare(&account.producer(&identity), &events(1));
    recorder.published();
    drop((recorder, account));
    assert_eq!(next_process(&memory, false).rows()[0].identity, Some(identity));
}
