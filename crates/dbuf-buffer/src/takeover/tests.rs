//! Lets a process die at each step, and the next process find its memory. A process that dies drops nothing.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::{Claim, Options, Refused, Writer};

const OPTIONS: Options = Options { capacity_bytes: 4 * 64, chunk_bytes: 64, writers_max: 2 };

/// One life. What it leaves is its memory.
struct Life {
    memory: OwnedFd,
    buffer: ManuallyDrop<DoubleBuffer>,
    reader: ManuallyDrop<Reader>,
    writers: [ManuallyDrop<Writer>; 2],
}

fn memfd() -> OwnedFd {
    memfd_create("dbufd-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap()
}

impl Life {
    fn first() -> Self {
        Self::beginning_with(7)
    }

    fn beginning_with(generation: u64) -> Self {
        let memory = memfd();
        let (buffer, reader) = DoubleBuffer::in_memory(&OPTIONS, generation, &memory).unwrap();
        Self::of(memory, buffer, reader)
    }

    fn of(memory: OwnedFd, buffer: DoubleBuffer, reader: Reader) -> Self {
        let writer = || ManuallyDrop::new(buffer.writer().unwrap());
        let writers = [writer(), writer()];
        Self { memory, buffer: ManuallyDrop::new(buffer), reader: ManuallyDrop::new(reader), writers }
    }

    fn append(&mut self, writer: usize, bytes: &[u8]) {
        self.writers[writer].append(bytes).unwrap();
    }

    /// It dies, and the next life begins. Also returns the number of copies that were cut.
    fn die(self) -> (Self, usize) {
        let inherited = DoubleBuffer::of_previous(&self.memory, 2).unwrap();
        (Self::of(self.memory, inherited.buffer, inherited.reader), inherited.cut_copies)
    }

    /// What a new life finds, in the order of a daemon's start: the generation and the text of each batch.
    fn all(&mut self) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        while let Some(batch) = self.reader.inherited() {
            all.push((batch.generation(), text(&batch)));
            let generation = batch.generation();
            self.reader.done_with(generation);
        }
        if !self.reader.front_is_empty() {
            let batch = self.reader.swap();
            all.push((batch.generation(), text(&batch)));
            let generation = batch.generation();
            self.reader.done_with(generation);
        }
        all.retain(|(_, text)| !text.is_empty());
        all
    }
}

fn text(batch: &crate::Batch<'_>) -> String {
    let runs = batch
        .runs()
        .map(|run| format!("{}:{}", run.writer(), String::from_utf8_lossy(&run.chunks().collect::<Vec<_>>().concat())));
    runs.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_was_published_is_found_and_what_was_being_copied_is_not() {
    let mut life = Life::first();
    life.append(0, b"one ");
    life.append(1, b"two");
    life.append(0, b"three");
    let mut claim = ManuallyDrop::new(life.writers[1].claim(4).unwrap());
    claim.put(b"four");
    let (mut next, cut_copies) = life.die();
    assert_eq!(cut_copies, 1);
    assert_eq!(next.all(), [(7, "0:one three 1:two".to_owned())]);
    next.append(1, b"five");
    assert_eq!(next.all(), [(8, "1:five".to_owned())], "generations go on");
}

#[test]
fn a_batch_not_marked_as_done_is_found_before_the_front_half() {
    let mut life = Life::first();
    life.append(0, b"back");
    assert!(!life.reader.swap().is_empty());
    life.append(1, b"front");
    let (mut next, _) = life.die();
    let found = [(7, "0:back".to_owned()), (8, "1:front".to_owned())];
    assert_eq!(next.all(), found);
    // The same again, if that life died before it had done anything with it.
    let mut life = Life::first();
    life.append(0, b"back");
    assert!(!life.reader.swap().is_empty());
    life.append(1, b"front");
    assert_eq!(life.die().0.die().0.all(), found);
}

#[test]
fn a_batch_that_is_done_with_is_not_found_again() {
    let mut life = Life::first();
    life.append(0, b"back");
    let generation = life.reader.swap().generation();
    life.reader.done_with(generation);
    life.append(1, b"front");
    let (mut next, _) = life.die();
    assert_eq!(next.all(), [(8, "1:front".to_owned())]);
}

#[test]
fn a_swap_that_was_cut_at_any_step_loses_nothing() {
    let half_way = |step: usize| {
        let mut life = Life::first();
        life.append(0, b"older");
        let generation = life.reader.swap().generation();
        life.reader.done_with(generation);
        life.append(0, b"new");
        let memory = &life.buffer.shared.memory;
        match step {
            0 => {}
            // One word recycled, then all of them, then the gate exchanged, and no chunk sealed.
            1 => memory.word(memory.word_index(half_of(9), 0)).store(Word::recycled(9).0, Relaxed),
            2 => life.reader.recycle(9),
            _ => {
                life.reader.recycle(9);
                memory.gate().swap(Gate::opening(9).0, Relaxed);
            }
        }
        if step == 3 {
            life.append(1, b"newest");
        }
        life.die().0.all()
    };
    for step in 0..3 {
        assert_eq!(half_way(step), [(8, "0:new".to_owned())], "step {step}");
    }
    assert_eq!(half_way(3), [(8, "0:new".to_owned()), (9, "1:newest".to_owned())]);
}

#[test]
fn writers_wait_until_what_was_left_is_a_batch_so_that_no_run_is_of_two_processes() {
    let mut life = Life::first();
    life.append(0, b"left");
    let (mut next, _) = life.die();
    assert_eq!(next.writers[0].try_append(b"new"), Err(Refused::Full));
    assert_eq!(next.reader.wait(std::time::Duration::MAX, None), crate::Reason::HalfFull);
    assert_eq!(next.all(), [(7, "0:left".to_owned())]);
    next.append(0, b"new");
    assert_eq!(next.all(), [(8, "0:new".to_owned())]);
}

#[test]
fn a_note_of_where_a_claim_was_tells_whether_it_was_published() {
    let asked = |after: fn(Claim<'_>, &mut Reader)| {
        let mut life = Life::first();
        life.append(0, b"before");
        let Life { memory, writers, reader, .. } = &mut life;
        let mut claim = writers[0].claim(4).unwrap();
        claim.put(b"text");
        let position = claim.publish_position();
        assert_eq!(PublishPosition::from_words(position.to_words()), Some(position));
        after(claim, reader);
        DoubleBuffer::of_previous(memory, 2).unwrap().buffer.was_published(position)
    };
    assert!(!asked(|claim, _| _ = ManuallyDrop::new(claim)), "it died before");
    assert!(asked(|claim, _| claim.publish().unwrap()), "just after");
    let long_after = |claim: Claim<'_>, reader: &mut Reader| {
        claim.publish().unwrap();
        for _ in 0..2 {
            let generation = reader.swap().generation();
            reader.done_with(generation);
        }
    };
    assert!(asked(long_after), "long after, when the chunk is used again");
    let too_late = |claim: Claim<'_>, reader: &mut Reader| {
        let _ = reader.swap();
        let _ = ManuallyDrop::new(claim);
    };
    assert!(!asked(too_late), "the swap was faster");
    assert_eq!(PublishPosition::from_words([0, 7]), None);
}

#[test]
fn where_a_publish_fails_the_note_can_be_taken_back_before_the_chunk_is_let_go() {
    let mut life = Life::first();
    life.append(0, b"before");
    let memory = &life.buffer.shared.memory;
    let mut claim = life.writers[0].claim(4).unwrap();
    claim.put(b"text");
    let index = claim.publish_position().word_index;
    let _ = life.reader.swap();
    let mut was_busy = false;
    assert!(claim.publish_or(|| was_busy = Word(memory.word(index).load(Relaxed)).is_busy()).is_err());
    assert!(was_busy && !Word(memory.word(index).load(Relaxed)).is_busy());
}

#[test]
fn generations_go_on_beyond_the_bits_that_the_gate_has_for_them() {
    let last = (1 << 40) - 1;
    for was_swapped in [false, true] {
        let mut life = Life::beginning_with(last - 2);
        while life.reader.generation() < last + 4 {
            let generation = life.reader.generation();
            assert_eq!(life.buffer.generation(), generation);
            let mut claim = life.writers[0].claim(4).unwrap();
            claim.put(b"text");
            let position = claim.publish_position();
            assert_eq!((claim.generation(), position.generation()), (generation, generation));
            claim.publish().unwrap();
            if was_swapped {
                assert_eq!(life.reader.swap().generation(), generation);
            }
            assert!(life.buffer.stats().swaps <= 3, "of this life");
            let previous = ManuallyDrop::new(DoubleBuffer::of_previous(&life.memory, 2).unwrap());
            assert!(previous.buffer.was_published(position));
            assert_eq!(previous.last_generation, generation);
            life = life.die().0;
            assert_eq!(life.all(), [(generation, "0:text".to_owned())], "swapped: {was_swapped}");
        }
    }
}

#[test]
fn a_group_is_found_whole() {
    let mut life = Life::first();
    life.append(0, &[b'x'; 150]);
    life.append(1, b"y");
    assert_eq!(life.die().0.all(), [(7, format!("0:{} 1:y", "x".repeat(150)))]);
}

#[test]
fn memory_that_is_not_a_buffer_or_has_another_version_is_refused() {
    let refused = |memory: &OwnedFd| DoubleBuffer::of_previous(memory, 2).unwrap_err().0;
    assert_eq!(refused(&tempfile::tempfile().unwrap().into()), "it is not a buffer");
    assert_eq!(refused(&memfd()), "it is not a buffer");
    let wrong = |at: u64, bytes: &[u8]| {
        let life = Life::first();
        File::from(life.memory.try_clone().unwrap()).write_all_at(bytes, at).unwrap();
        refused(&life.memory)
    };
    assert_eq!(wrong(0, b"D"), "it is not a buffer");
    assert_eq!(wrong(8, &[2]), "it has another version");
    assert_eq!(wrong(16, &[0; 8]), "its sizes are out of bounds");
    assert_eq!(wrong(24, &[200]), "its sizes do not match its length");
    assert_eq!(wrong(512, &[1]), "its generations contradict each other");
    assert_eq!(wrong(4096, &[0xff; 4]), "the word of a chunk is not possible");
}

#[test]
fn no_byte_of_header_or_words_can_be_changed_so_that_the_next_process_fails_or_hangs() {
    for at in (0..1024).chain(4096..4096 + 8 * 128) {
        let mut life = Life::first();
        life.append(0, b"back");
        let _ = life.reader.swap();
        life.append(1, b"front");
        let file = File::from(life.memory.try_clone().unwrap());
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x21], at).unwrap();
        if DoubleBuffer::of_previous(&life.memory, 2).is_ok() {
            // Whatever it says now: the next life ends, and each batch lies in its half.
            assert!(life.die().0.all().len() <= 2, "byte {at}");
        }
    }
}
