//! Holds what retention deleted: a cell in each producer's row, one for everything, and a note of the file that is
//! being deleted.
//!
//! Input: figures, under a number that rises with each deletion. Output: the figures that count. Thread: one at a time,
//! under a lock of the account. Nothing can fail.

use dbuf_segment::name::{Name, State};

use super::{DELETED_FIGURES, FOLDED, Memory, PENDING_LOSSES_AT, PENDING_LOSSES_WORDS, ROWS, ROWS_AT};
use crate::pipeline::account::cell::{self, Cell, get, set};
use crate::pipeline::account::figures::Deletions;
use crate::sync::atomic::AtomicU64;

const DELETIONS_AT: usize = PENDING_LOSSES_AT + 2 * PENDING_LOSSES_WORDS;
/// The number, and the name of the file.
const NOTE_WORDS: usize = 4;
const ALL_AT: usize = DELETIONS_AT + NOTE_WORDS;
const DELETIONS_WORDS: usize = NOTE_WORDS + cell::words(Deletions::FIGURES);
const _: () = assert!(DELETIONS_AT + DELETIONS_WORDS <= ROWS_AT);

impl Memory {
    fn deleted_cell(&self, row: u32) -> Cell<'_, DELETED_FIGURES> {
        Cell(self.deleted_words(row))
    }

    fn deletions_cell(&self) -> Cell<'_, { Deletions::FIGURES }> {
        Cell(&self.words()[ALL_AT..][..cell::words(Deletions::FIGURES)])
    }

    fn deletion_note(&self) -> &[AtomicU64] {
        &self.words()[DELETIONS_AT..ALL_AT]
    }

    /// Events of the row that were deleted, and their payload bytes.
    pub(in super::super) fn deleted(&self, row: u32) -> (u64, u64) {
        let [events, bytes] = self.deleted_cell(row).look();
        (events, bytes)
    }

    /// What was deleted in all.
    pub(in super::super) fn deletions(&self) -> Deletions {
        Deletions::from_words(self.deletions_cell().look())
    }

    /// The number of the next deletion. What an earlier one has prepared and not committed does not count.
    pub(in super::super) fn next_deletion(&self) -> u64 {
        self.deletions_cell().newest_number() + 1
    }

    /// Adds to what the deletion `number` brings. Must be called once for each row.
    pub(in super::super) fn prepare_deleted(&self, row: u32, number: u64, (events, bytes): (u64, u64)) {
        self.deleted_cell(row).prepare(number, true, [events, bytes]);
    }

    /// What the deletion `number` brings in all.
    pub(in super::super) fn prepare_deletions(&self, number: u64, add: Deletions) {
        self.deletions_cell().prepare(number, true, add.to_words());
    }

    /// Notes that the file is about to be deleted: if it is gone, what is prepared under `number` counts.
    pub(in super::super) fn note_deletion(&self, number: u64, name: Name) {
        let [noted, words @ ..] = self.deletion_note() else { unreachable!("a note has four words") };
        for (word, value) in words.iter().zip([name.first_sequence, name.state as u64, u64::from(name.copy)]) {
            set(word, value);
        }
        set(noted, number);
    }

    /// The deletion that was noted and not settled, and its file.
    pub(in super::super) fn noted_deletion(&self) -> Option<(u64, Name)> {
        let [number, first_sequence, state, copy] = self.deletion_note() else { return None };
        let states = [State::Torn, State::Sealed, State::Active];
        let state = states.into_iter().find(|known| *known as u64 == get(state))?;
        let name = Name { copy: u32::try_from(get(copy)).ok()?, ..Name::new(get(first_sequence), state) };
        Some((get(number), name)).filter(|(number, _)| *number > 0)
    }

    /// Ends the deletion that was noted. If the file is gone, its figures count from now on.
    pub(in super::super) fn settle_deletion(&self, is_gone: bool) {
        let [noted, ..] = self.deletion_note() else { unreachable!("a note has four words") };
        let number = get(noted);
        if is_gone && number > 0 {
            (0..ROWS as u32).filter(|row| *row != FOLDED).for_each(|row| self.deleted_cell(row).commit(number));
            self.deletions_cell().commit(number);
        }
        set(noted, 0);
    }

    /// See [`Memory::begin_fold`]: the same for what was deleted.
    pub(super) fn begin_fold_deleted(&self, row: u32, number: u64) {
        let (events, bytes) = self.deleted(row);
        self.prepare_deleted(FOLDED, number, (events, bytes));
    }

    pub(super) fn finish_fold_deleted(&self, number: u64) {
        self.deleted_cell(FOLDED).commit(number);
    }

    /// Forgets everything that was deleted, except in the rows.
    pub(super) fn forget_deletions(&self) {
        self.words()[DELETIONS_AT..][..DELETIONS_WORDS].iter().for_each(|word| set(word, 0));
    }

    /// Takes over what was deleted from older memory, in which every row has the same producer.
    pub(super) fn take_over_deletions(&self, old: &Self) {
        let copy = |to: &[AtomicU64], from: &[AtomicU64]| to.iter().zip(from).for_each(|(to, from)| set(to, get(from)));
        (0..ROWS as u32).for_each(|row| copy(self.deleted_words(row), old.deleted_words(row)));
        // Its numbers count folds, and these start again.
        self.deleted_cell(FOLDED).forget_numbers();
        copy(&self.words()[DELETIONS_AT..][..DELETIONS_WORDS], &old.words()[DELETIONS_AT..][..DELETIONS_WORDS]);
    }
}
