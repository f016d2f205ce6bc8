//! The account's memory: a memfd that systemd's store may keep, so that no count dies with the daemon.
//!
//! Enters: figures of one thread, for one producer, and what they depend on: a publish, or a batch in a file. Leaves: the
//! figures that hold; for the next process, too. Each cell has one thread that writes it; anyone may look. What can fail: there
//! is no memory; or what the previous process left is of another version, and says nothing then.
//!
//! ```text
//! words    0..32    head: magic, version, cells, serial, and what is counted once for all
//!         32..552   notes of each cell: number, spot (2 words)
//!        552..3648  losses that no batch has told of: two copies of 256 rows, one of which holds
//!       4096..      producers, 1026 rows: bytes of the source record, the record; then the cells
//! a cell: which slot holds; two slots of a number and 11 figures each; 32 words
//! ```
//!
//! A cell has two slots. What a publish (or a batch) will bring is added up in the one that does not hold, under the
//! publish's number; when it has come, one store makes that slot the one that holds. So a process that dies leaves either
//! sum whole, and the next process can tell which is right:
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 | the other slots of all rows that the publish concerns, with its number | nothing: no note has that number |
//! | 2 | the note: the number, and the publish's spot | the next process looks at the spot (see `buffer::PublishPosition`): not published, the slots stay |
//! | 3 | the publish | the next process looks at the spot: published, so it does step 4 |
//! | 4 | which slot holds, row by row | it does the rest of step 4 |
//! | 5 | no spot | nothing |
//!
//! The reader's cells work alike. Their number is the batch's generation, and the files say whether the batch has come;
//! where a batch is given up, a word says so, before step 4.
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `account` | every store here | the next process, after this process is dead; [`Memory::looked`] | each step is in memory before the next | the next process counts a publish twice or never; a look sees half a batch |

mod pending_losses;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};

use super::Tally;
use super::identity::Identity;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::SOURCE_BYTES_MAX;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sys::mapping::fix_size;
use crate::sys::words::Words;

const MAGIC: u64 = u64::from_le_bytes(*b"dbufacct");
const VERSION: u64 = 1;

/// Rows: [`UNNAMED`], [`FOLDED`], and so many producers that are told apart.
pub(super) const ROWS: usize = super::PRODUCERS_MAX + 2;
/// The row of whoever is not told apart.
pub(super) const UNNAMED: u32 = 0;
/// The row of producers that have made room for others.
pub(super) const FOLDED: u32 = 1;
/// The reader's cell; those of the writers follow.
pub(super) const READER: usize = 0;
/// The most cells: as many writers as there can be, and the reader.
const CELLS_MAX: usize = 65;
/// Losses that can wait to be told of.
pub(super) const PENDING_LOSSES_MAX: usize = 256;

// Words of the head.
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_CELLS: usize = 2;
const AT_SERIAL: usize = 3;
const SINCE: usize = 4;
const SINCE_SEQUENCE: usize = 5;
const STREAM_LOW: usize = 6;
const STREAM_HIGH: usize = 7;
const NEXT_SEQUENCE: usize = 8;
const WITHDRAWN: usize = 9;
const WRITTEN: usize = 10;
const GIVEN_UP: usize = 11;
const TURN: usize = 12;
const PENDING_LOSSES: usize = 13;
const FOLD_NUMBER: usize = 14;
const FOLD_ROW: usize = 15;

const NOTES_AT: usize = 32;
const NOTE_WORDS: usize = 8;
const NUMBER: usize = 0;
const SPOT: usize = 1;
const SPOT_PLACE: usize = 2;

const PENDING_LOSSES_AT: usize = NOTES_AT + CELLS_MAX * NOTE_WORDS;
const LOSS_WORDS: usize = 6;
const PENDING_LOSSES_WORDS: usize = 2 + PENDING_LOSSES_MAX * LOSS_WORDS + 10;
const ROWS_AT: usize = 4096;
const _: () = assert!(PENDING_LOSSES_AT + 2 * PENDING_LOSSES_WORDS <= ROWS_AT);

const IDENTITY_WORDS: usize = 64;
const _: () = assert!(SOURCE_BYTES_MAX <= (IDENTITY_WORDS - 1) * 8);

const CELL_WORDS: usize = 32;
const SLOTS_AT: usize = 4;
/// A number, and the figures.
const SLOT_WORDS: usize = 1 + Tally::FIGURES;
const _: () = assert!(SLOTS_AT + 2 * SLOT_WORDS <= CELL_WORDS);

/// The memory.
#[derive(Debug)]
pub(super) struct Memory {
    words: Words,
    cells: usize,
}

fn set(word: &AtomicU64, value: u64) {
    // edge `account`, releasing: whoever sees this step sees the ones before it. Nothing weaker keeps steps in order.
    word.store(value, Ordering::Release);
}

fn get(word: &AtomicU64) -> u64 {
    // edge `account`, acquiring: what belongs to this step is there. For a thread's own cell Relaxed would do.
    word.load(Ordering::Acquire)
}

impl Memory {
    /// New memory for so many cells.
    pub(super) fn new(cells: usize, serial: u64) -> io::Result<(Self, OwnedFd)> {
        debug_assert!((2..=CELLS_MAX).contains(&cells), "the configuration bounds the writers");
        let memory = memfd_create("dbufd-account", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        fix_size(memory.as_fd(), words_of(cells) * size_of::<u64>())?;
        let this = Self { words: Words::of_sparse_memory(memory.as_fd(), words_of(cells))?, cells };
        let head = [(AT_MAGIC, MAGIC), (AT_VERSION, VERSION), (AT_CELLS, cells as u64), (AT_SERIAL, serial)];
        for (at, value) in head.into_iter().chain([(SINCE_SEQUENCE, u64::MAX)]) {
            set(this.head(at), value);
        }
        for row in [UNNAMED, FOLDED] {
            this.begin(row, &Identity::unnamed());
        }
        Ok((this, memory))
    }

    /// What the previous process left; None if it is of another version or makes no sense.
    pub(super) fn from_previous(memory: &OwnedFd) -> Option<Self> {
        let head = Words::of_sparse_memory(memory.as_fd(), NOTES_AT).ok()?;
        let cells = usize::try_from(get(&head.all()[AT_CELLS])).ok()?;
        let is_ours = [AT_MAGIC, AT_VERSION].map(|at| get(&head.all()[at])) == [MAGIC, VERSION];
        if !is_ours || !(2..=CELLS_MAX).contains(&cells) {
            return None;
        }
        drop(head);
        let this = Self { words: Words::of_sparse_memory(memory.as_fd(), words_of(cells)).ok()?, cells };
        [UNNAMED, FOLDED].iter().all(|row| this.identity(*row) == Some(Identity::unnamed())).then_some(this)
    }

    /// The cells of each row.
    pub(super) fn cells(&self) -> usize {
        self.cells
    }

    /// Which of several memories is the newest.
    pub(super) fn serial(&self) -> u64 {
        get(self.head(AT_SERIAL))
    }

    fn head(&self, at: usize) -> &AtomicU64 {
        &self.words.all()[at]
    }

    fn note(&self, cell: usize) -> &[AtomicU64] {
        &self.words.all()[NOTES_AT + cell * NOTE_WORDS..][..NOTE_WORDS]
    }

    fn row(&self, row: u32) -> &[AtomicU64] {
        let stride = IDENTITY_WORDS + self.cells * CELL_WORDS;
        &self.words.all()[ROWS_AT + row as usize * stride..][..stride]
    }

    #[inline]
    fn cell(&self, row: u32, cell: usize) -> &[AtomicU64] {
        let at = ROWS_AT + row as usize * (IDENTITY_WORDS + self.cells * CELL_WORDS) + IDENTITY_WORDS;
        &self.words.all()[at + cell * CELL_WORDS..][..CELL_WORDS]
    }

    // ---- figures ----

    /// Adds to what holds once `number` has come; what was prepared before stays only if it is not `first`. Changes nothing
    /// if that number has come already.
    #[inline]
    pub(super) fn prepare(&self, row: u32, cell: usize, number: u64, is_first: bool, add: &Tally) {
        let cell = self.cell(row, cell);
        let (holds, other) = slots(cell);
        if get(&holds[0]) == number {
            return;
        }
        let base = if is_first { holds } else { other };
        for ((word, base), add) in other[1..].iter().zip(&base[1..]).zip(add.to_words()) {
            // Wrapping: what the previous process left may be anything, and is no reason to end.
            set(word, get(base).wrapping_add(add));
        }
        set(&other[0], number);
    }

    /// `number` has come: what was prepared under it holds.
    #[inline]
    pub(super) fn hold(&self, row: u32, cell: usize, number: u64) {
        let cell = self.cell(row, cell);
        let (_, other) = slots(cell);
        if get(&other[0]) == number {
            set(&cell[0], 1 - get(&cell[0]) % 2);
        }
    }

    /// What holds.
    pub(super) fn looked(&self, row: u32, cell: usize) -> Tally {
        let (holds, _) = slots(self.cell(row, cell));
        Tally::from_words(std::array::from_fn(|at| get(&holds[1 + at])))
    }

    /// The number under which a row is counted in a cell no more.
    fn forget_numbers(&self, row: u32, cell: usize) {
        let (holds, other) = slots(self.cell(row, cell));
        set(&other[0], 0);
        set(&holds[0], 0);
    }

    fn clear(&self, row: u32) {
        for word in &self.row(row)[IDENTITY_WORDS..] {
            set(word, 0);
        }
    }

    // ---- producers ----

    /// Whose row it is; None if it is nobody's, or cannot be read.
    pub(super) fn identity(&self, row: u32) -> Option<Identity> {
        let words = &self.row(row)[..IDENTITY_WORDS];
        let len = usize::try_from(get(&words[0])).ok().filter(|len| (1..=SOURCE_BYTES_MAX).contains(len))?;
        let bytes: Vec<u8> = words[1..].iter().flat_map(|word| get(word).to_le_bytes()).take(len).collect();
        Identity::from_record(&bytes)
    }

    /// Gives a row that nobody has to a producer.
    pub(super) fn begin(&self, row: u32, identity: &Identity) {
        self.clear(row);
        let record = identity.to_record();
        let words = &self.row(row)[..IDENTITY_WORDS];
        for (word, bytes) in words[1..].iter().zip(record.chunks(8)) {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            set(word, u64::from_le_bytes(value));
        }
        set(&words[0], record.len() as u64);
    }

    /// Adds a row's figures to those of [`FOLDED`] and frees it. Nobody else writes either of them meanwhile.
    pub(super) fn fold(&self, row: u32) {
        self.begin_fold(row);
        self.finish_fold();
    }

    /// From here on the row is folded, whoever finishes it.
    pub(super) fn begin_fold(&self, row: u32) {
        let number = get(self.head(FOLD_NUMBER)) + 1;
        for cell in 0..self.cells {
            self.prepare(FOLDED, cell, number, true, &self.looked(row, cell));
        }
        set(self.head(FOLD_NUMBER), number);
        set(self.head(FOLD_ROW), u64::from(row));
    }

    fn finish_fold(&self) {
        let row = get(self.head(FOLD_ROW));
        if row > u64::from(FOLDED) && row < ROWS as u64 {
            for cell in 0..self.cells {
                self.hold(FOLDED, cell, get(self.head(FOLD_NUMBER)));
            }
            set(&self.row(row as u32)[0], 0);
        }
        set(self.head(FOLD_ROW), 0);
    }

    // ---- notes ----

    /// The last number of a cell that was noted.
    pub(super) fn number(&self, cell: usize) -> u64 {
        get(&self.note(cell)[NUMBER])
    }

    pub(super) fn set_number(&self, cell: usize, number: u64) {
        set(&self.note(cell)[NUMBER], number);
    }

    /// What is prepared under `number` is about to be published at `spot`.
    #[inline]
    pub(super) fn about_to(&self, cell: usize, number: u64, spot: PublishPosition) {
        let [generation, place] = spot.to_words();
        let note = self.note(cell);
        set(&note[NUMBER], number);
        set(&note[SPOT_PLACE], place);
        set(&note[SPOT], generation);
    }

    /// What became of the publish is settled.
    #[inline]
    pub(super) fn end_note(&self, cell: usize) {
        set(&self.note(cell)[SPOT], 0);
    }

    /// The batch of this generation is not going to be in a file.
    pub(super) fn give_up(&self, generation: u64) {
        set(self.head(GIVEN_UP), generation);
    }

    /// Whether the previous process has given up the batch of this generation.
    pub(super) fn was_given_up(&self, generation: u64) -> bool {
        get(self.head(GIVEN_UP)) == generation
    }

    /// Settles what writers of the previous process have left, and a row that was being folded.
    pub(super) fn settle(&self, was_published: &dyn Fn(PublishPosition) -> bool) {
        self.finish_fold();
        for cell in READER + 1..self.cells {
            let [number, generation, place] = [NUMBER, SPOT, SPOT_PLACE].map(|at| get(&self.note(cell)[at]));
            if PublishPosition::from_words([generation, place]).is_some_and(was_published) {
                self.hold_all(cell, number);
            }
            self.end_note(cell);
        }
    }

    /// What is prepared under `number` holds, in all rows.
    pub(super) fn hold_all(&self, cell: usize, number: u64) {
        for row in (0..ROWS as u32).filter(|row| *row != FOLDED) {
            self.hold(row, cell, number);
        }
    }

    /// Generations begin anew: no number of the reader's means anything any more.
    pub(super) fn forget_generations(&self) {
        for row in 0..ROWS as u32 {
            self.forget_numbers(row, READER);
        }
        self.give_up(0);
        for copy in 0..2 {
            set(&self.pending_losses_copy(copy)[0], 0);
        }
    }

    // ---- what is counted once for all ----

    /// Runs `change`, of which a [`Memory::consistent`] look sees all or nothing. The reader only.
    pub(super) fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        // edge `account`, acquiring and releasing: nothing of the change is seen before the turn is odd.
        self.head(TURN).fetch_add(1, Ordering::AcqRel);
        let done = change();
        // edge `account`, releasing: all of it is there once the turn is even again.
        self.head(TURN).fetch_add(1, Ordering::AcqRel);
        done
    }

    /// Looks until nothing has changed meanwhile, so often; what it saw last, if it never came to that.
    pub(super) fn consistent<T>(&self, tries: usize, look: impl Fn() -> T) -> T {
        for _ in 0..tries {
            let before = get(self.head(TURN));
            let seen = look();
            if before.is_multiple_of(2) && get(self.head(TURN)) == before {
                return seen;
            }
        }
        look()
    }

    pub(super) fn since(&self) -> Option<(u64, u64)> {
        let sequence = get(self.head(SINCE_SEQUENCE));
        (sequence != u64::MAX).then(|| (get(self.head(SINCE)), sequence))
    }

    /// The account begins: at this time, with this sequence, for this stream of segments.
    pub(super) fn begin_account(&self, time_ns: u64, sequence: u64, stream_id: u128) {
        set(self.head(SINCE), time_ns);
        set(self.head(STREAM_LOW), stream_id as u64);
        set(self.head(STREAM_HIGH), (stream_id >> 64) as u64);
        set(self.head(NEXT_SEQUENCE), sequence);
        set(self.head(SINCE_SEQUENCE), sequence);
    }

    /// Forgets everything, for the files are others.
    pub(super) fn restart(&self) {
        set(self.head(SINCE_SEQUENCE), u64::MAX);
        for row in 0..ROWS as u32 {
            self.clear(row);
        }
        for at in [WITHDRAWN, WRITTEN, GIVEN_UP] {
            set(self.head(at), 0);
        }
        for copy in 0..2 {
            set(&self.pending_losses_copy(copy)[1], 0);
        }
    }

    pub(super) fn stream_id(&self) -> u128 {
        u128::from(get(self.head(STREAM_HIGH))) << 64 | u128::from(get(self.head(STREAM_LOW)))
    }

    /// The sequence of the next event.
    pub(super) fn next_sequence(&self) -> u64 {
        get(self.head(NEXT_SEQUENCE))
    }

    pub(super) fn set_next_sequence(&self, sequence: u64) {
        set(self.head(NEXT_SEQUENCE), sequence);
    }

    /// Events that were persisted and that a failed sync has taken back.
    pub(super) fn withdrawn(&self) -> u64 {
        get(self.head(WITHDRAWN))
    }

    /// The syncer only.
    pub(super) fn add_withdrawn(&self, events: u64) {
        set(self.head(WITHDRAWN), self.withdrawn().wrapping_add(events));
    }

    /// Bytes written to files, within one batch of the truth after a death.
    pub(super) fn written(&self) -> u64 {
        get(self.head(WRITTEN))
    }

    /// The reader only.
    pub(super) fn add_written(&self, bytes: u64) {
        set(self.head(WRITTEN), self.written().wrapping_add(bytes));
    }

    /// Takes over all figures of memory that has fewer cells: those of its writers come to the first.
    pub(super) fn take_over(&self, old: &Self) {
        for at in [SINCE, STREAM_LOW, STREAM_HIGH, NEXT_SEQUENCE, WITHDRAWN, WRITTEN, GIVEN_UP, SINCE_SEQUENCE] {
            set(self.head(at), get(old.head(at)));
        }
        for row in 0..ROWS as u32 {
            let Some(identity) = old.identity(row) else { continue };
            self.begin(row, &identity);
            let sum = (READER + 1..old.cells).map(|cell| old.looked(row, cell)).fold(Tally::default(), Tally::plus);
            let number = (READER + 1..old.cells).map(|cell| old.number(cell)).max().unwrap_or(0) + 1;
            self.prepare(row, READER + 1, number, true, &sum);
            self.hold(row, READER + 1, number);
            self.set_number(READER + 1, number);
            for (word, old) in self.cell(row, READER).iter().zip(old.cell(row, READER)) {
                set(word, get(old));
            }
        }
        // Its numbers are those of folds, which begin anew.
        (0..self.cells).for_each(|cell| self.forget_numbers(FOLDED, cell));
        for at in PENDING_LOSSES_AT..PENDING_LOSSES_AT + 2 * PENDING_LOSSES_WORDS {
            set(&self.words.all()[at], get(&old.words.all()[at]));
        }
        set(self.head(PENDING_LOSSES), get(old.head(PENDING_LOSSES)));
    }
}

fn words_of(cells: usize) -> usize {
    ROWS_AT + ROWS * (IDENTITY_WORDS + cells * CELL_WORDS)
}

/// The slot of a cell that holds, and the other.
#[inline]
fn slots(cell: &[AtomicU64]) -> (&[AtomicU64], &[AtomicU64]) {
    let first = &cell[SLOTS_AT..][..SLOT_WORDS];
    let second = &cell[SLOTS_AT + SLOT_WORDS..][..SLOT_WORDS];
    if get(&cell[0]).is_multiple_of(2) { (first, second) } else { (second, first) }
}
