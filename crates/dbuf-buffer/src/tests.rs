//! Tests the buffer as its users see it, and under load.

use std::time::{Duration, Instant};

use super::*;

fn small(chunks: usize) -> (DoubleBuffer, Reader) {
    DoubleBuffer::new(&Options { capacity_bytes: chunks * 64, chunk_bytes: 64, writers_max: 3 }).unwrap()
}

/// Each run of a batch as its writer and its bytes.
fn content(batch: Batch<'_>) -> Vec<(u8, Vec<u8>)> {
    batch.runs().map(|run| (run.writer(), run.chunks().flatten().copied().collect())).collect()
}

#[test]
fn what_is_published_before_a_swap_is_in_its_batch_and_in_no_other() {
    let (buffer, mut reader) = small(4);
    let mut writer = buffer.writer().unwrap();
    writer.append(b"one").unwrap();
    writer.append(b"two").unwrap();
    let batch = reader.swap();
    assert_eq!((batch.generation(), batch.bytes(), batch.is_empty()), (1, 6, false));
    assert_eq!(content(batch), [(0, b"onetwo".to_vec())]);
    writer.append(b"three").unwrap();
    assert_eq!(content(reader.swap()), [(0, b"three".to_vec())]);
    let batch = reader.swap();
    assert!(batch.is_empty() && batch.generation() == 3 && batch.runs().next().is_none());
}

#[test]
fn runs_come_by_ascending_writer_each_in_its_own_order() {
    let (buffer, mut reader) = small(6);
    let mut writers: Vec<_> = (0..3).map(|_| buffer.writer().unwrap()).collect();
    for round in 0..2 {
        for writer in writers.iter_mut().rev() {
            writer.append(&[writer.index() * 16 + round; 40]).unwrap();
        }
    }
    let runs = content(reader.swap());
    assert_eq!(runs.iter().map(|run| run.0).collect::<Vec<_>>(), [0, 1, 2]);
    for (writer, bytes) in runs {
        assert_eq!(bytes, [[writer * 16; 40], [writer * 16 + 1; 40]].concat());
    }
}

#[test]
fn a_claim_is_the_whole_rest_of_the_chunk_and_publishes_what_was_put() {
    let (buffer, mut reader) = small(4);
    let mut writer = buffer.writer().unwrap();
    writer.append(&[1; 24]).unwrap();
    let mut claim = writer.claim(8).unwrap();
    assert_eq!((claim.generation(), claim.room(), claim.len()), (1, 40, 0));
    claim.put(&[2; 8]);
    claim.put(&[3; 8]);
    assert_eq!((claim.room(), claim.len()), (24, 16));
    claim.publish().unwrap();
    assert_eq!(buffer.stats().front_bytes, 40);
    assert_eq!(content(reader.swap()), [(0, [[1; 24].as_slice(), &[2; 8], &[3; 8]].concat())]);
}

#[test]
fn a_claim_that_is_let_go_leaves_no_trace() {
    let (buffer, mut reader) = small(4);
    let mut writer = buffer.writer().unwrap();
    writer.claim(8).unwrap().put(&[9; 8]);
    writer.append(&[1; 8]).unwrap();
    assert_eq!(content(reader.swap()), [(0, vec![1; 8])]);
}

#[test]
fn a_claim_that_the_swap_overtakes_is_repeated_in_a_higher_generation() {
    let (buffer, mut reader) = small(4);
    let mut writer = buffer.writer().unwrap();
    writer.append(b"before").unwrap();
    let mut claim = writer.claim(8).unwrap();
    claim.put(b"late");
    assert_eq!(content(reader.swap()), [(0, b"before".to_vec())]);
    assert_eq!(claim.publish(), Err(Sealed));
    let mut claim = writer.claim(8).unwrap();
    assert_eq!(claim.generation(), 2);
    claim.put(b"late");
    claim.publish().unwrap();
    assert_eq!(content(reader.swap()), [(0, b"late".to_vec())]);
}

#[test]
fn a_writer_that_slept_through_whole_swaps_does_not_find_its_chunk_open() {
    let (buffer, mut reader) = small(4);
    let mut writer = buffer.writer().unwrap();
    writer.append(b"old").unwrap();
    for _ in 0..4 {
        reader.swap();
    }
    writer.append(b"new").unwrap();
    let batch = reader.swap();
    assert_eq!((batch.generation(), content(batch)), (5, vec![(0, b"new".to_vec())]));
}

#[test]
fn a_group_of_chunks_is_one_slice() {
    let (buffer, mut reader) = small(4);
    let mut writer = buffer.writer().unwrap();
    writer.append(&[1; 8]).unwrap();
    let long: Vec<u8> = (0..150).collect();
    writer.append(&long).unwrap();
    let batch = reader.swap();
    let slices: Vec<_> = batch.runs().next().unwrap().chunks().collect();
    assert_eq!(slices, [&[1; 8][..], &long]);
}

#[test]
fn a_full_half_refuses_a_writer_that_does_not_wait() {
    let (buffer, mut reader) = small(2);
    let mut writer = buffer.writer().unwrap();
    let mut other = buffer.writer().unwrap();
    writer.append(&[1; 40]).unwrap();
    other.append(&[2; 40]).unwrap();
    assert_eq!(writer.try_append(&[3; 40]), Err(Refused::Full));
    assert_eq!(writer.try_append(&[4; 24]), Ok(()), "the rest of its chunk is still the writer's");
    assert_eq!(reader.wait(Duration::MAX, None), Reason::HalfFull);
    assert_eq!(reader.swap().bytes(), 104);
    assert_eq!(writer.try_append(&[3; 40]), Ok(()));
    assert_eq!(buffer.stats().full_waits, 0);
}

#[test]
fn a_full_half_parks_a_writer_until_the_swap() {
    let (buffer, mut reader) = small(2);
    let mut writer = buffer.writer().unwrap();
    let appended = 50;
    let thread = dbuf_sync::thread::spawn(move || (0..appended).for_each(|i| writer.append(&[i; 64]).unwrap()));
    let mut seen = Vec::new();
    while seen.len() < usize::from(appended) * 64 {
        reader.wait(Duration::ZERO, None);
        content(reader.swap()).into_iter().for_each(|(_, bytes)| seen.extend(bytes));
    }
    thread.join().unwrap();
    assert!(seen.chunks(64).enumerate().all(|(i, bytes)| bytes == [i as u8; 64]));
}

#[test]
fn a_claim_that_could_never_fit_is_refused_as_too_large() {
    let (buffer, _reader) = small(2);
    let mut writer = buffer.writer().unwrap();
    assert_eq!(buffer.largest_claim(), 128);
    assert_eq!(writer.claim(129).err(), Some(Refused::TooLarge));
    assert_eq!(writer.claim(128).unwrap().room(), 128);
    let (buffer, _reader) = DoubleBuffer::new(&Options::default()).unwrap();
    assert_eq!(buffer.largest_claim(), 31 * 65536, "bounded by the byte count of a word");
}

#[test]
fn a_group_larger_than_what_is_left_wakes_a_reader_that_lingers() {
    let (buffer, mut reader) = small(4);
    let mut small = buffer.writer().unwrap();
    let mut large = buffer.writer().unwrap();
    small.append(&[1; 8]).unwrap();
    let thread = dbuf_sync::thread::spawn(move || large.append(&[2; 256]));
    // Fewer than half of the chunks are handed out, and lingering never ends. So only the waiting writer is a reason.
    assert_eq!(reader.wait(Duration::MAX, None), Reason::HalfFull);
    assert_eq!(reader.swap().bytes(), 8);
    reader.wait(Duration::MAX, None);
    assert_eq!(reader.swap().bytes(), 256);
    thread.join().unwrap().unwrap();
}

#[test]
fn without_a_reader_every_claim_is_refused_as_closed() {
    let (buffer, reader) = small(2);
    let mut holder = buffer.writer().unwrap();
    let mut late = buffer.writer().unwrap();
    holder.append(&[1; 8]).unwrap();
    let mut claim = late.claim(8).unwrap();
    claim.put(&[2; 8]);
    drop(reader);
    assert_eq!(claim.publish(), Err(Sealed));
    assert_eq!(late.append(&[2; 8]), Err(Refused::Closed));
    assert_eq!(holder.append(&[1; 8]), Err(Refused::Closed), "also in the chunk that it held");
    assert_eq!(buffer.writer().unwrap().try_append(&[3; 8]), Err(Refused::Closed));
}

#[test]
fn a_reader_that_ends_wakes_the_writers_that_wait_for_room() {
    let (buffer, mut reader) = small(2);
    let mut writer = buffer.writer().unwrap();
    let thread = dbuf_sync::thread::spawn(move || while writer.append(&[1; 64]).is_ok() {});
    while reader.wait(Duration::MAX, None) != Reason::HalfFull {}
    drop(reader);
    thread.join().unwrap();
}

#[test]
fn a_first_event_wakes_a_reader_that_sleeps() {
    let (buffer, mut reader) = small(4);
    let mut writer = buffer.writer().unwrap();
    assert!(reader.front_is_empty());
    let thread = dbuf_sync::thread::spawn(move || writer.append(b"x"));
    assert_eq!(reader.wait(Duration::ZERO, None), Reason::Published);
    assert!(!reader.front_is_empty());
    thread.join().unwrap().unwrap();
    assert_eq!(reader.swap().bytes(), 1);
}

#[test]
fn a_waker_ends_the_wait_once_and_is_never_missed() {
    let (buffer, mut reader) = small(4);
    let waker = buffer.waker();
    waker.wake();
    waker.wake();
    assert_eq!(reader.wait(Duration::ZERO, None), Reason::Woken);
    assert_eq!(reader.wait(Duration::ZERO, Some(Instant::now())), Reason::Deadline);
    let thread = dbuf_sync::thread::spawn(move || waker.wake());
    assert_eq!(reader.wait(Duration::ZERO, None), Reason::Woken);
    thread.join().unwrap();
}

#[test]
fn a_deadline_ends_the_wait_for_an_event_and_for_more() {
    let (buffer, mut reader) = small(4);
    let soon = || Some(Instant::now() + Duration::from_millis(2));
    assert_eq!(reader.wait(Duration::MAX, soon()), Reason::Deadline);
    buffer.writer().unwrap().append(b"x").unwrap();
    assert_eq!(reader.wait(Duration::MAX, soon()), Reason::Deadline);
    assert_eq!(reader.wait(Duration::from_millis(1), None), Reason::Published);
}

#[test]
fn a_linger_is_not_begun_again_by_a_ring() {
    let (buffer, mut reader) = small(4);
    buffer.writer().unwrap().append(b"x").unwrap();
    let (linger, past) = (Duration::from_millis(5), Instant::now());
    assert_eq!(reader.wait(linger, Some(past)), Reason::Deadline);
    let noticed = Instant::now();
    while noticed.elapsed() < linger {
        buffer.waker().wake();
        assert_eq!(reader.wait(linger, None), Reason::Woken);
    }
    assert_eq!(reader.wait(linger, Some(past)), Reason::Published);
}

#[test]
fn writer_indexes_are_given_back_and_given_out_again() {
    let (buffer, mut reader) = small(6);
    let mut first = buffer.writer().unwrap();
    let _others = [buffer.writer().unwrap(), buffer.writer().unwrap()];
    assert_eq!(buffer.writer().err(), Some(TooManyWriters(3)));
    first.append(b"earlier").unwrap();
    drop(first);
    let mut again = buffer.writer().unwrap();
    assert_eq!(again.index(), 0);
    again.append(b"later").unwrap();
    let batch = reader.swap();
    let slices: Vec<_> = batch.runs().next().unwrap().chunks().collect();
    assert_eq!(slices, [&b"earlier"[..], b"later"], "one run, in order, in chunks of their own");
}

#[test]
fn sizes_that_do_not_fit_together_are_refused() {
    let build = |capacity_bytes, chunk_bytes, writers_max| {
        DoubleBuffer::new(&Options { capacity_bytes, chunk_bytes, writers_max }).map(|_| ())
    };
    assert!(matches!(build(128, 0, 1), Err(BuildError::Chunk(0))));
    assert!(matches!(build(200, 100, 1), Err(BuildError::Chunk(100))));
    assert!(matches!(build(8 << 20, 2 << 20, 1), Err(BuildError::Chunk(_))));
    assert!(matches!(build(64, 64, 1), Err(BuildError::Capacity { .. })));
    assert!(matches!(build(130, 64, 1), Err(BuildError::Capacity { .. })));
    assert!(matches!(build(1 << 40, 8, 1), Err(BuildError::Capacity { .. })));
    assert!(matches!(build(128, 64, 0), Err(BuildError::Writers(0))));
    assert!(matches!(build(128, 64, 255), Err(BuildError::Writers(255))));
    assert!(build(128, 64, 254).is_ok());
}
