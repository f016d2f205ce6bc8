//! Tests reading: forward, backward, in part, following, joined; whole files and damaged ones.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dbuf_segment::format::{BatchHeader, checksum};
use dbuf_segment::record::{Cause, Event as NewEvent, Loss, Piece};
use dbuf_segment::scan::segment::{self, Segment};
use dbuf_segment::scan::{self, Directory, Follower, Item, Joined, Joiner, Wanted, verify, verify_bytes};

use super::super::testing::{TestBatch, backward, directory, forward, read, storage, text};
use super::super::{RealDisk, Store, StoreOptions};
use crate::sync::Arc;

fn open(path: &Path) -> Store {
    let options = StoreOptions {
        storage: storage(path),
        on_durable: Box::new(|_| {}),
        on_broken: Box::new(|_| ()),
        on_delete: Box::new(|_| ()),
    };
    Store::open(options, Arc::new(RealDisk)).unwrap().0
}

fn append(store: &mut Store, batch: &TestBatch) {
    batch.lend(200, |view| store.append(view)).unwrap();
}

/// A batch of three events whose times contain `generation`.
fn three(generation: u64) -> TestBatch {
    let mut batch = TestBatch::new(generation);
    let time = generation * 1000;
    batch.run("a", &[(time, "a"), (time + 2, "c")]).run("b", &[(time + 1, &"b".repeat(300))]);
    batch
}

/// A directory with several segments of many batches. The last one is active until the store is dropped.
fn many(path: &Path) -> Store {
    let mut store = open(path);
    for generation in 1..=40 {
        append(&mut store, &three(generation));
    }
    settle(path);
    store
}

/// Waits until the syncer has given all complete files their names.
fn settle(path: &Path) {
    let is_settled = || paths(path).iter().filter(|path| path.extension().is_some_and(|e| e == "active")).count() == 1;
    while !is_settled() {
        std::thread::yield_now();
    }
}

fn paths(path: &Path) -> Vec<PathBuf> {
    Directory::open(path).unwrap().files.into_iter().map(|file| file.path).collect()
}

#[test]
fn reading_backward_is_reading_forward_from_the_other_end() {
    let directory = directory();
    let store = many(directory.path());
    let listed = Directory::open(directory.path()).unwrap();
    assert!(listed.files.len() > 3);
    let mut all = forward(&listed, &Wanted::default());
    assert_eq!(all.len(), 120);
    assert!(all.iter().enumerate().all(|(i, text)| text.starts_with(&format!("{} ", i + 1))));
    all.reverse();
    assert_eq!(backward(&listed, &Wanted::default()), all);
    drop(store);
}

#[test]
fn a_file_that_is_sealed_after_it_was_listed_is_read_all_the_same() {
    let directory = directory();
    let mut store = open(directory.path());
    append(&mut store, &TestBatch::of(1, &[(1, "one")]));
    let listed = Directory::open(directory.path()).unwrap();
    store.close().unwrap();
    assert!(!listed.files[0].path.exists());
    assert_eq!(forward(&listed, &Wanted::default()), ["1 app one"]);
    assert_eq!(backward(&listed, &Wanted::default()), ["1 app one"]);
}

#[test]
fn reading_from_a_sequence_gives_that_and_all_after_it_and_nothing_before() {
    let directory = directory();
    let _store = many(directory.path());
    let listed = Directory::open(directory.path()).unwrap();
    let all = forward(&listed, &Wanted::default());
    for from_sequence in 0..=122 {
        let wanted = Wanted { from_sequence, ..Wanted::default() };
        let mut expected = all[(from_sequence.max(1) as usize - 1).min(120)..].to_vec();
        assert_eq!(forward(&listed, &wanted), expected, "from {from_sequence}");
        expected.reverse();
        assert_eq!(backward(&listed, &wanted), expected, "back to {from_sequence}");
    }
}

#[test]
fn reading_a_time_range_gives_whole_batches_in_it_and_skips_the_rest() {
    let directory = directory();
    let _store = many(directory.path());
    let listed = Directory::open(directory.path()).unwrap();
    let wanted = Wanted { from_ns: 20_001, until_ns: Some(22_000), ..Wanted::default() };
    let mut expected = read(directory.path())[57..66].to_vec();
    assert_eq!(forward(&listed, &wanted), expected);
    expected.reverse();
    assert_eq!(backward(&listed, &wanted), expected);
}

#[test]
fn files_in_which_no_source_is_wanted_are_not_read() {
    let directory = directory();
    let mut store = open(directory.path());
    append(&mut store, &TestBatch::of(1, &[(1, "one")]));
    store.rotate().unwrap();
    let mut other = TestBatch::new(2);
    append(&mut store, other.run("other", &[(2, "two")]));
    store.close().unwrap();
    let listed = Directory::open(directory.path()).unwrap();
    let wanted = Wanted { source: Some(&|source| source.tag == b"other"), ..Wanted::default() };
    assert_eq!(forward(&listed, &wanted), ["2 other two"]);
    assert_eq!(backward(&listed, &wanted), ["2 other two"]);
}

#[test]
fn a_file_deleted_from_the_middle_is_a_gap_and_one_from_the_front_is_none() {
    let directory = directory();
    many(directory.path()).close().unwrap();
    let files = Directory::open(directory.path()).unwrap().files;
    let first = |i: usize| files[i].name.unwrap().first_sequence;
    fs::remove_file(&files[0].path).unwrap();
    fs::remove_file(&files[2].path).unwrap();
    let listed = Directory::open(directory.path()).unwrap();
    let mut all = forward(&listed, &Wanted::default());
    let gaps: Vec<_> = all.iter().filter(|text| text.starts_with("gap")).cloned().collect();
    assert_eq!(gaps, [format!("gap {}..{}", first(2), first(3) - 1)]);
    all.reverse();
    assert_eq!(backward(&listed, &Wanted::default()), all);
    assert_eq!(verify(&listed, |_| ControlFlow::Continue(())), [(first(2), first(3) - 1)]);
}

#[test]
fn losses_and_batches_without_events_are_read_both_ways() {
    let directory = directory();
    let mut store = open(directory.path());
    let loss = Loss { cause: Cause::Full, events: 9, bytes: 1, first_ns: 1, last_ns: 2 };
    append(&mut store, &TestBatch::of(1, &[(1, "one")]));
    append(&mut store, TestBatch::new(2).run("x", &[]).loss(2, &loss));
    append(&mut store, &TestBatch::of(3, &[(3, "two")]));
    let listed = Directory::open(directory.path()).unwrap();
    let mut all = vec!["1 app one", "lost 9 full", "2 app two"];
    assert_eq!(forward(&listed, &Wanted::default()), all);
    all.reverse();
    assert_eq!(backward(&listed, &Wanted::default()), all);
}

fn piece(id: u64, continued: bool, continues: bool) -> Option<Piece> {
    Some(Piece { id, continued, continues })
}

/// Two events whose pieces alternate, with whole events between them, over three batches.
fn in_pieces(path: &Path) {
    let mut store = open(path);
    let event = |time_ns, payload: &'static str, piece| NewEvent {
        time_ns,
        payload: payload.as_bytes(),
        piece,
        ..NewEvent::default()
    };
    let mut first = TestBatch::new(1);
    first.run("x", &[(1, "before")]).event(&event(2, "A", piece(1, false, true)));
    first.event(&event(3, "P", piece(2, false, true))).event(&event(4, "between", None));
    let mut second = TestBatch::new(2);
    second.run("x", &[]).event(&event(5, "B", piece(1, true, true))).event(&event(6, "Q", piece(2, true, false)));
    let mut third = TestBatch::new(3);
    third.run("x", &[(7, "later")]).event(&event(8, "C", piece(1, true, false))).event(&event(9, "after", None));
    for batch in [first, second, third] {
        append(&mut store, &batch);
    }
}

fn joined(path: &Path, joiner: &mut Joiner, is_forward: bool) -> Vec<String> {
    let listed = Directory::open(path).unwrap();
    let mut read = Vec::new();
    let mut give = |joined: Joined<'_>| {
        let sequence = joined.event.sequence.map_or("-".into(), |sequence| sequence.to_string());
        let cut = if joined.is_whole { "" } else { " (cut)" };
        read.push(format!("{sequence} {}{cut}", String::from_utf8_lossy(joined.payload)));
        ControlFlow::Continue(())
    };
    let mut each = |item: Item<'_>| {
        let Item::Event(event) = item else { panic!("{item:?}") };
        if is_forward { joiner.forward(&event, &mut give) } else { joiner.backward(&event, &mut give) }
    };
    let done = if is_forward {
        scan::forward(&listed, &Wanted::default(), &mut each)
    } else {
        scan::backward(&listed, &Wanted::default(), &mut each)
    };
    assert!(done.is_continue() && joiner.finish(&mut give).is_continue());
    read
}

#[test]
fn pieces_are_joined_in_both_directions_and_keep_the_order() {
    let directory = directory();
    in_pieces(directory.path());
    let mut all = vec!["1 before", "2 between", "3 PQ", "4 later", "5 ABC", "6 after"];
    assert_eq!(joined(directory.path(), &mut Joiner::default(), true), all);
    all.reverse();
    assert_eq!(joined(directory.path(), &mut Joiner::default(), false), all);
}

#[test]
fn an_event_that_takes_too_much_memory_is_given_out_in_parts_that_say_so() {
    let directory = directory();
    in_pieces(directory.path());
    let read = joined(directory.path(), &mut Joiner::new(1), true);
    assert_eq!(read, ["1 before", "2 between", "3 Q (cut)", "4 later", "5 BC (cut)", "6 after"]);
    let read = joined(directory.path(), &mut Joiner::new(1), false);
    assert_eq!(read.len(), 6);
    assert!(read.contains(&"5 C (cut)".to_string()) && read.contains(&"1 before".to_string()), "{read:?}");
}

fn poll(follower: &mut Follower) -> Vec<String> {
    let mut read = Vec::new();
    let polled = follower.poll(&Wanted::default(), |item| {
        read.push(text(&item));
        ControlFlow::Continue(())
    });
    assert!(polled.unwrap().is_continue());
    read
}

#[test]
fn a_follower_sees_each_event_once_across_rotation_and_restart() {
    let directory = directory();
    let mut store = open(directory.path());
    append(&mut store, &TestBatch::of(1, &[(1, "old")]));
    let mut follower = Follower::open(directory.path(), 2, true).unwrap();
    assert!(poll(&mut follower).is_empty());
    append(&mut store, &TestBatch::of(2, &[(2, "two")]));
    follower.wait(None).unwrap();
    assert_eq!(poll(&mut follower), ["2 app two"]);
    append(&mut store, &TestBatch::of(3, &[(3, "three")]));
    store.rotate().unwrap();
    append(&mut store, &TestBatch::of(4, &[(4, "four")]));
    store.rotate().unwrap();
    append(&mut store, &TestBatch::of(5, &[(5, "five")]));
    assert_eq!(poll(&mut follower), ["3 app three", "4 app four", "5 app five"]);
    store.close().unwrap();
    let mut store = open(directory.path());
    append(&mut store, &TestBatch::of(1, &[(6, "six")]));
    assert_eq!(poll(&mut follower), ["6 app six"]);
    assert!(poll(&mut follower).is_empty());
}

#[test]
fn a_follower_waits_for_the_rest_of_a_batch_that_is_half_written() {
    let directory = directory();
    let mut store = open(directory.path());
    append(&mut store, &TestBatch::of(1, &[(1, "one")]));
    let path = paths(directory.path()).pop().unwrap();
    let before = fs::read(&path).unwrap().len();
    append(&mut store, &TestBatch::of(2, &[(2, "two")]));
    drop(store);
    let whole = fs::read(&path).unwrap();
    for cut in before..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut follower = Follower::open(directory.path(), 0, false).unwrap();
        assert_eq!(poll(&mut follower), ["1 app one"], "cut at {cut}");
        fs::write(&path, &whole).unwrap();
        assert_eq!(poll(&mut follower), ["2 app two"], "cut at {cut}");
    }
}

#[test]
fn a_follower_continues_after_a_gap() {
    let directory = directory();
    let mut store = many(directory.path());
    let mut follower = Follower::open(directory.path(), 0, false).unwrap();
    let files = paths(directory.path());
    fs::remove_file(&files[1]).unwrap();
    let read = poll(&mut follower);
    assert!(read.iter().any(|text| text.starts_with("gap")) && read.last().unwrap().starts_with("120 "));
    append(&mut store, &three(41));
    follower.wait(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(poll(&mut follower).len(), 3);
}

#[test]
fn a_flipped_bit_at_any_byte_is_found_and_no_wrong_data_is_given_out() {
    let directory = directory();
    let mut store = open(directory.path());
    for generation in 1..=3 {
        append(&mut store, &three(generation));
    }
    store.close().unwrap();
    let path = paths(directory.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let right = read(directory.path());
    assert_eq!(verify_bytes(Arc::new(whole.clone())), []);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let found = verify_bytes(Arc::new(bytes.clone()));
        assert!(!found.is_empty(), "a flipped bit at {at} is not found");
        fs::write(&path, &bytes).unwrap();
        let listed = Directory::open(directory.path()).unwrap();
        for read in [forward(&listed, &Wanted::default()), backward(&listed, &Wanted::default())] {
            let wrong =
                |text: &&String| !right.contains(text) && !text.starts_with("gap") && !text.starts_with("damage");
            assert_eq!(read.iter().find(wrong), None, "flipped at {at}");
            assert!(read.len() + 4 >= right.len(), "one flipped bit costs one batch at most: {at} {read:?}");
        }
    }
}

#[test]
fn damage_in_the_middle_is_reported_in_both_directions_and_what_surrounds_it_is_read() {
    let directory = directory();
    let mut store = open(directory.path());
    for generation in 1..=4 {
        append(&mut store, &three(generation));
    }
    drop(store);
    let path = paths(directory.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let batch = (whole.len() - Segment::FIRST as usize) / 4;
    let second = Segment::FIRST as usize + batch;
    // Records of the second batch; then its header as well.
    for (at, gap) in [(second + 200, None), (second + 20, Some("gap 4..6"))] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).unwrap();
        let listed = Directory::open(directory.path()).unwrap();
        let mut all = forward(&listed, &Wanted::default());
        assert_eq!(all.len(), 10 + usize::from(gap.is_some()), "{all:?}");
        assert!(all[3].starts_with(&format!("damage {batch} bytes at offset {second}")), "{all:?}");
        assert!(gap.is_none_or(|gap| all[4] == gap));
        all.reverse();
        assert_eq!(backward(&listed, &Wanted::default()), all);
    }
}

/// Numbers that look random and are the same each time.
fn numbers() -> impl FnMut() -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    }
}

#[test]
fn records_that_make_no_sense_are_damage_even_if_their_checksum_is_right() {
    let directory = directory();
    let mut store = open(directory.path());
    append(&mut store, &three(1));
    drop(store);
    let path = paths(directory.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let segment = Segment::open(Arc::new(whole.clone()), None).unwrap();
    let mut batch = segment::Batch::default();
    segment.step(Segment::FIRST, &mut batch, &|_| true).unwrap();
    let content_at = Segment::FIRST as usize + batch.header.header_bytes as usize;
    let mut number = numbers();
    for _ in 0..3000 {
        let mut content = batch.content.clone();
        for _ in 0..=number() % 3 {
            let at = number() % content.len();
            content[at] = number() as u8;
        }
        let mut header = batch.header.clone();
        header.content_crc = checksum(&content);
        let mut bytes = whole.clone();
        let mut head = Vec::new();
        header.encode(segment.stream_id, &mut head);
        bytes[Segment::FIRST as usize..content_at].copy_from_slice(&head);
        bytes[content_at..].copy_from_slice(&content);
        fs::write(&path, &bytes).unwrap();
        let listed = Directory::open(directory.path()).unwrap();
        let mut all = forward(&listed, &Wanted::default());
        all.reverse();
        assert_eq!(backward(&listed, &Wanted::default()), all);
        let _ = verify_bytes(Arc::new(bytes));
    }
}

#[test]
fn a_payload_that_looks_like_a_batch_is_not_taken_for_one() {
    let directory = directory();
    let mut store = open(directory.path());
    append(&mut store, &TestBatch::of(1, &[(1, "one")]));
    append(&mut store, &TestBatch::of(2, &[(2, &"x".repeat(1000))]));
    append(&mut store, &TestBatch::of(3, &[(3, "three")]));
    drop(store);
    let path = paths(directory.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(8).position(|window| window == b"xxxxxxxx").unwrap().next_multiple_of(8);
    // All right except for the stream id, which a sender does not know.
    let header = BatchHeader { offset: at as u64, first_sequence: 2, header_bytes: 88, ..BatchHeader::default() };
    let mut forged = Vec::new();
    header.encode(0, &mut forged);
    bytes[at..at + forged.len()].copy_from_slice(&forged);
    fs::write(&path, &bytes).unwrap();
    let all = read(directory.path());
    assert_eq!(all.len(), 3, "{all:?}");
    assert!(all[1].starts_with("damage"), "{all:?}");
}

/// A torn file that has not been truncated yet, and the segment into which its last batches were written again.
#[test]
fn what_a_torn_file_has_beyond_its_end_hides_nothing_of_the_next_file() {
    let (whole, both) = (directory(), directory());
    let mut store = open(whole.path());
    (1..=3).for_each(|generation| append(&mut store, &three(generation)));
    store.close().unwrap();
    fs::write(both.path().join("00000000000000000004.active"), []).unwrap();
    let mut store = open(both.path());
    (2..=3).for_each(|generation| append(&mut store, &three(generation)));
    store.close().unwrap();
    let mut torn = fs::read(&paths(whole.path())[0]).unwrap();
    let all = read(whole.path());
    for damaged in [false, true] {
        if damaged {
            // In the records of the second batch.
            let at = torn.windows(300).position(|bytes| bytes == [b'b'; 300]).unwrap();
            let at = at + 300 + torn[at + 300..].windows(300).position(|bytes| bytes == [b'b'; 300]).unwrap();
            torn[at] = b'x';
        }
        fs::write(both.path().join("00000000000000000001.torn"), &torn).unwrap();
        let listed = Directory::open(both.path()).unwrap();
        let until = |until_ns| Wanted { until_ns, ..Wanted::default() };
        for (wanted, count) in [(until(None), 9), (until(Some(2500)), 6), (until(Some(1500)), 3)] {
            assert_eq!(forward(&listed, &wanted), all[..count], "forward, damaged: {damaged}");
            let mut back = backward(&listed, &wanted);
            back.reverse();
            assert_eq!(back, all[..count], "backward, damaged: {damaged}");
        }
    }
}
