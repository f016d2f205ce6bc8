//! Holds the account's memory: a memfd that systemd's store may keep, so that no count is lost when the daemon dies.
//!
//! Input: figures of one thread, for one producer, and what they depend on: a publish, or a batch in a file. Output:
//! the figures that count, also for the next process. Thread: each cell has one thread that writes it; any thread may
//! look. Failure: there is no memory; or the previous process left another version, which is then replaced.
//!
//! ```text
//! words    0..32    0..3 unused; 3 serial; from 4 on what is counted once for all
//!         32..552   notes of each cell: number, position (2 words)
//!        552..3648  losses that no batch has reported: two copies of 256 rows, one of which counts
//!       3648..3670  what retention deleted: a note of number, first sequence, state and copy; then a cell of 6 figures
//!       4096..      producers, 1026 rows: bytes of the source record, the record (54 words); a cell of 2 figures for
//!                   what retention deleted (10 words); then the other cells
//! a cell: which slot counts; two slots of a number and 12 figures each; 32 words
//! ```
//! These are the user's words of `takeover::memory`, behind its head of magic, version and extent. The 12 figures are
//! [`Tally::FIGURES`], which has one for each cause of loss: a new cause changes the layout, so the version must rise.
//!
//! A cell has two slots (`cell`). The figures of a publish or a batch are prepared in one slot, under a number, and
//! count once the publish or batch of that number has come. The writers' numbers follow their publishes by the steps of
//! `takeover::note`: once a publish has come, its number is committed in all rows, and this step may be repeated. The
//! reader's number is the batch's generation, and the files say whether the batch has come. If a batch is given up, a
//! word says so before its number is committed.

mod deletions;
mod pending_losses;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::cell::{self, Cell, SeqLock, get, set};
use super::figures::Tally;
use super::identity::Identity;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::SOURCE_BYTES_MAX;
use crate::pipeline::takeover::memory::{Layout, PersistentMemory};
use crate::pipeline::takeover::names::Name;
use crate::pipeline::takeover::note::{self, PublishNote};
use crate::sync::atomic::AtomicU64;
use crate::sys::fdstore::FdStore;

const fn layout(cells: usize) -> Layout {
    let (extent, words) = (cells as u64, words_of(cells));
    Layout { label: "dbufd-account", magic: *b"dbufacct", version: 3, extent, words, bytes: 0 }
}

/// Producers that have their own row, at most. All others share one row.
pub const PRODUCERS_MAX: usize = 1024;
/// Rows: [`UNNAMED`], [`FOLDED`], and the producers with their own row.
pub(super) const ROWS: usize = PRODUCERS_MAX + 2;
/// The row of producers that are not told apart.
pub(super) const UNNAMED: u32 = 0;
/// The row of producers that have made room for others.
pub(super) const FOLDED: u32 = 1;
/// The reader's cell. The writers' cells follow.
pub(super) const READER: usize = 0;
/// Cells at most: 64 writers and the reader.
const CELLS_MAX: usize = 65;
/// Pending losses at most.
pub(super) const PENDING_LOSSES_MAX: usize = 256;

// Words of the head.
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
const BUFFER_GONE: usize = 16;

const NOTES_AT: usize = 32;
const NOTE_WORDS: usize = 8;
const _: () = assert!(note::words(1) <= NOTE_WORDS);

const PENDING_LOSSES_AT: usize = NOTES_AT + CELLS_MAX * NOTE_WORDS;
const LOSS_WORDS: usize = 6;
const PENDING_LOSSES_WORDS: usize = 2 + PENDING_LOSSES_MAX * LOSS_WORDS + 10;
const ROWS_AT: usize = 4096;
const _: () = assert!(PENDING_LOSSES_AT + 2 * PENDING_LOSSES_WORDS <= ROWS_AT);

const IDENTITY_WORDS: usize = 54;
const _: () = assert!(SOURCE_BYTES_MAX <= (IDENTITY_WORDS - 1) * 8);
/// Figures for what retention deleted: events and payload bytes.
const DELETED_FIGURES: usize = 2;
const DELETED_WORDS: usize = cell::words(DELETED_FIGURES);
/// Where a row's other cells begin.
const CELLS_AT: usize = IDENTITY_WORDS + DELETED_WORDS;

const CELL_WORDS: usize = 32;
const _: () = assert!(cell::words(Tally::FIGURES) <= CELL_WORDS);

/// The memory of the account.
#[derive(Debug)]
pub(super) struct Memory {
    memory: PersistentMemory,
    cells: usize,
}

impl Memory {
    /// Creates memory for `cells` cells.
    pub(super) fn new(cells: usize, serial: u64) -> io::Result<Self> {
        debug_assert!((2..=CELLS_MAX).contains(&cells), "the configuration bounds the writers");
        let this = Self { memory: PersistentMemory::create(&layout(cells))?, cells };
        set(this.head(AT_SERIAL), serial);
        set(this.head(SINCE_SEQUENCE), u64::MAX);
        for row in [UNNAMED, FOLDED] {
            this.begin(row, &Identity::unnamed());
        }
        Ok(this)
    }

    /// Opens the memory that the previous process left. None if it has another version or makes no sense.
    pub(super) fn inherit(memory: OwnedFd) -> Option<Self> {
        let cells = usize::try_from(PersistentMemory::extent_of(memory.as_fd(), &layout(2))?).ok()?;
        if !(2..=CELLS_MAX).contains(&cells) {
            return None;
        }
        let this = Self { memory: PersistentMemory::inherit(memory, &layout(cells))?, cells };
        [UNNAMED, FOLDED].iter().all(|row| this.identity(*row) == Some(Identity::unnamed())).then_some(this)
    }

    /// Stores the memory in `store` under this name.
    pub(super) fn keep(&self, store: &FdStore, name: Name) {
        self.memory.keep(store, &name.to_string());
    }

    /// The memory, for a test that acts as the next process.
    #[cfg(test)]
    pub(super) fn descriptor(&self) -> OwnedFd {
        self.memory.descriptor().try_clone_to_owned().expect("a descriptor")
    }

    fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// The number of cells in each row.
    pub(super) fn cells(&self) -> usize {
        self.cells
    }

    /// A number that is higher in newer memory.
    pub(super) fn serial(&self) -> u64 {
        get(self.head(AT_SERIAL))
    }

    fn head(&self, at: usize) -> &AtomicU64 {
        &self.words()[at]
    }

    fn note(&self, cell: usize) -> PublishNote<'_, 1> {
        PublishNote::new(&self.words()[NOTES_AT + cell * NOTE_WORDS..][..note::words(1)])
    }

    fn row(&self, row: u32) -> &[AtomicU64] {
        let stride = CELLS_AT + self.cells * CELL_WORDS;
        &self.words()[ROWS_AT + row as usize * stride..][..stride]
    }

    #[inline]
    fn cell(&self, row: u32, cell: usize) -> Cell<'_, { Tally::FIGURES }> {
        let at = ROWS_AT + row as usize * (CELLS_AT + self.cells * CELL_WORDS) + CELLS_AT;
        Cell(&self.words()[at + cell * CELL_WORDS..][..CELL_WORDS])
    }

    fn deleted_words(&self, row: u32) -> &[AtomicU64] {
        &self.row(row)[IDENTITY_WORDS..CELLS_AT]
    }

    // ---- figures ----

    /// See [`Cell::prepare`].
    #[inline]
    pub(super) fn prepare(&self, row: u32, cell: usize, number: u64, is_first: bool, add: &Tally) {
        self.cell(row, cell).prepare(number, is_first, add.to_words());
    }

    /// See [`Cell::commit`].
    #[inline]
    pub(super) fn commit(&self, row: u32, cell: usize, number: u64) {
        self.cell(row, cell).commit(number);
    }

    /// The figures that count.
    pub(super) fn looked(&self, row: u32, cell: usize) -> Tally {
        Tally::from_words(self.cell(row, cell).look())
    }

    fn clear(&self, row: u32) {
        for word in &self.row(row)[IDENTITY_WORDS..] {
            set(word, 0);
        }
    }

    // ---- producers ----

    /// The producer of the row; None if the row is free or cannot be read.
    pub(super) fn identity(&self, row: u32) -> Option<Identity> {
        let words = &self.row(row)[..IDENTITY_WORDS];
        let len = usize::try_from(get(&words[0])).ok().filter(|len| (1..=SOURCE_BYTES_MAX).contains(len))?;
        let bytes: Vec<u8> = words[1..].iter().flat_map(|word| get(word).to_le_bytes()).take(len).collect();
        Identity::from_record(&bytes)
    }

    /// Gives a free row to a producer.
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

    /// Adds a row's figures to those of [`FOLDED`] and frees the row. No other thread may write either of them
    /// meanwhile.
    pub(super) fn fold(&self, row: u32) {
        self.begin_fold(row);
        self.finish_fold();
    }

    /// From here on the row is folded, by this process or the next one.
    pub(super) fn begin_fold(&self, row: u32) {
        let number = get(self.head(FOLD_NUMBER)) + 1;
        for cell in 0..self.cells {
            self.prepare(FOLDED, cell, number, true, &self.looked(row, cell));
        }
        self.begin_fold_deleted(row, number);
        set(self.head(FOLD_NUMBER), number);
        set(self.head(FOLD_ROW), u64::from(row));
    }

    fn finish_fold(&self) {
        let row = get(self.head(FOLD_ROW));
        if row > u64::from(FOLDED) && row < ROWS as u64 {
            let number = get(self.head(FOLD_NUMBER));
            for cell in 0..self.cells {
                self.commit(FOLDED, cell, number);
            }
            self.finish_fold_deleted(number);
            set(&self.row(row as u32)[0], 0);
        }
        set(self.head(FOLD_ROW), 0);
    }

    // ---- notes ----

    /// The highest number of a cell that was noted.
    pub(super) fn number(&self, cell: usize) -> u64 {
        let note = self.note(cell);
        note.values()[0].max(note.prepared()[0])
    }

    /// Notes that `number` has come, without a publish.
    pub(super) fn set_number(&self, cell: usize, number: u64) {
        self.note(cell).commit([number]);
    }

    /// Notes that what is prepared under `number` is about to be published at `position`.
    #[inline]
    pub(super) fn before_publish(&self, cell: usize, number: u64, position: PublishPosition) {
        self.note(cell).prepare(position, [number]);
    }

    /// Notes that `number` is published and holds in all rows.
    #[inline]
    pub(super) fn published(&self, cell: usize, number: u64) {
        self.note(cell).commit([number]);
    }

    /// Notes that the publish has failed.
    #[inline]
    pub(super) fn abort(&self, cell: usize) {
        self.note(cell).abort();
    }

    /// Notes that the batch of this generation will not be in a file.
    pub(super) fn give_up(&self, generation: u64) {
        set(self.head(GIVEN_UP), generation);
    }

    /// Whether the previous process has given up the batch of this generation.
    pub(super) fn was_given_up(&self, generation: u64) -> bool {
        get(self.head(GIVEN_UP)) == generation
    }

    /// Commits what was prepared for the last batch that was given up, if no number is newer.
    pub(super) fn commit_given_up(&self) {
        let number = get(self.head(GIVEN_UP));
        let rows = (0..ROWS as u32).filter(|row| *row != FOLDED);
        // A slot under an older number must not count again.
        if number > 0 && rows.map(|row| self.cell(row, READER).newest_number()).max() == Some(number) {
            self.commit_all(READER, number);
            self.commit_pending_losses(number);
        }
    }

    /// Whether nothing is left of what the previous process had in memory, and that is not counted yet.
    pub(super) fn is_buffer_gone(&self) -> bool {
        get(self.head(BUFFER_GONE)) != 0
    }

    /// See [`Memory::is_buffer_gone`].
    pub(super) fn set_buffer_gone(&self, is_gone: bool) {
        set(self.head(BUFFER_GONE), u64::from(is_gone));
    }

    /// Resolves the notes of the previous process's writers, and finishes a row that was being folded.
    pub(super) fn resolve(&self, was_published: &dyn Fn(PublishPosition) -> bool) {
        self.finish_fold();
        for cell in READER + 1..self.cells {
            self.note(cell).resolve(was_published, |[number]| self.commit_all(cell, *number));
        }
    }

    /// Commits what is prepared under `number` in all rows.
    pub(super) fn commit_all(&self, cell: usize, number: u64) {
        for row in (0..ROWS as u32).filter(|row| *row != FOLDED) {
            self.commit(row, cell, number);
        }
    }

    /// Forgets the reader's numbers: generations start again.
    pub(super) fn forget_generations(&self) {
        for row in 0..ROWS as u32 {
            self.cell(row, READER).forget_numbers();
        }
        self.give_up(0);
        for copy in 0..2 {
            set(&self.pending_losses_copy(copy)[0], 0);
        }
    }

    // ---- what is counted once for all ----

    /// The turn of what the reader changes with each batch.
    pub(super) fn turn(&self) -> SeqLock<'_> {
        SeqLock(self.head(TURN))
    }

    pub(super) fn since(&self) -> Option<(u64, u64)> {
        let sequence = get(self.head(SINCE_SEQUENCE));
        (sequence != u64::MAX).then(|| (get(self.head(SINCE)), sequence))
    }

    /// Begins the account: at this time, with this sequence, for this stream of segments.
    pub(super) fn begin_account(&self, time_ns: u64, sequence: u64, stream_id: u128) {
        set(self.head(SINCE), time_ns);
        set(self.head(STREAM_LOW), stream_id as u64);
        set(self.head(STREAM_HIGH), (stream_id >> 64) as u64);
        set(self.head(NEXT_SEQUENCE), sequence);
        set(self.head(SINCE_SEQUENCE), sequence);
    }

    /// Forgets everything, because the files are other ones.
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
        self.forget_deletions();
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

    /// Adds to them. Only the syncer may call this.
    pub(super) fn add_withdrawn(&self, events: u64) {
        set(self.head(WITHDRAWN), self.withdrawn().wrapping_add(events));
    }

    /// Bytes written to files. After a death of the process, exact to within one batch.
    pub(super) fn written(&self) -> u64 {
        get(self.head(WRITTEN))
    }

    /// Adds to them. Only the reader may call this.
    pub(super) fn add_written(&self, bytes: u64) {
        set(self.head(WRITTEN), self.written().wrapping_add(bytes));
    }

    /// Takes over all figures of memory that has fewer cells. The figures of all its writers go to the first writer.
    pub(super) fn take_over(&self, old: &Self) {
        let once =
            [SINCE, STREAM_LOW, STREAM_HIGH, NEXT_SEQUENCE, WITHDRAWN, WRITTEN, GIVEN_UP, BUFFER_GONE, SINCE_SEQUENCE];
        for at in once {
            set(self.head(at), get(old.head(at)));
        }
        for row in 0..ROWS as u32 {
            let Some(identity) = old.identity(row) else { continue };
            self.begin(row, &identity);
            let sum = (READER + 1..old.cells).map(|cell| old.looked(row, cell)).fold(Tally::default(), Tally::plus);
            let number = (READER + 1..old.cells).map(|cell| old.number(cell)).max().unwrap_or(0) + 1;
            self.prepare(row, READER + 1, number, true, &sum);
            self.commit(row, READER + 1, number);
            self.set_number(READER + 1, number);
            for (word, old) in self.cell(row, READER).0.iter().zip(old.cell(row, READER).0) {
                set(word, get(old));
            }
        }
        // Its numbers count folds, and these start again.
        (0..self.cells).for_each(|cell| self.cell(FOLDED, cell).forget_numbers());
        for at in PENDING_LOSSES_AT..PENDING_LOSSES_AT + 2 * PENDING_LOSSES_WORDS {
            set(&self.words()[at], get(&old.words()[at]));
        }
        set(self.head(PENDING_LOSSES), get(old.head(PENDING_LOSSES)));
        self.take_over_deletions(old);
    }
}

const fn words_of(cells: usize) -> usize {
    ROWS_AT + ROWS * (CELLS_AT + cells * CELL_WORDS)
}
