//! Counts what retention deletes, for each producer, once: also if the process dies between a deletion and its count.
//!
//! Input: a segment that is about to be deleted, with its footer, and whether that succeeded. Output: figures in the
//! account's memory. Thread: the syncer or the reader, one deletion at a time; at the start the main thread. Nothing
//! can fail.
//!
//! | step | does | if the process dies after it |
//! |---|---|---|
//! | 1 | prepares the figures of all rows under a number | they do not count; the next deletion replaces them |
//! | 2 | notes the number and the name of the file | the next start finds the file: the same |
//! | 3 | the store deletes the file | the next start does not find the file, and does step 4 |
//! | 4 | commits the figures of all rows under that number | the next start does it again, which changes nothing |
//! | 5 | clears the note | nothing is left to do |
//!
//! Deleted events stay counted as stored. In each row, at most what is stored is deleted: a producer that has lost its
//! row to others and came back has older events in the files, and these count in the row of all others.

use std::collections::HashMap;

use dbuf_segment::footer::Footer;
use dbuf_segment::name::Name;

use super::figures::{Deletions, Row};
use super::identity::Identity;
use super::memory::UNNAMED;
use super::producers::{Account, Deleting};

impl Account {
    /// A segment of `file_bytes` bytes is about to be deleted. Its footer is None if it cannot be read. Must be
    /// followed by [`Account::end_deletion`] before the next one begins.
    pub fn begin_deletion(&self, name: Name, file_bytes: u64, footer: Option<&Footer>) {
        let (memory, number) = (&self.memory, self.memory.next_deletion());
        let first = memory.since().map_or(u64::MAX, |(_, first)| first);
        let mut deleting =
            Deleting { is_older: footer.is_none_or(|f| f.next_sequence <= first), ..Deleting::default() };
        let mut all = Deletions { segments: 1, file_bytes, ..Deletions::default() };
        let mut rows: HashMap<u32, (u64, u64)> = HashMap::new();
        if let Some(footer) = footer {
            (all.events, all.bytes) = (footer.events, footer.payload_bytes);
            all.older_events = if deleting.is_older { footer.events } else { 0 };
            all.unknown_events = self.count_footer(footer, &mut deleting, &mut rows);
        }
        // Comes first: from here on no other deletion gets the number, whatever happens.
        memory.prepare_deletions(number, all);
        for (row, add) in rows {
            memory.prepare_deleted(row, number, add);
        }
        memory.note_deletion(number, name);
        *self.deleting() = deleting;
    }

    /// Adds what the footer says to the rows. Returns the events whose producer it does not say.
    fn count_footer(&self, footer: &Footer, deleting: &mut Deleting, rows: &mut HashMap<u32, (u64, u64)>) -> u64 {
        let mut add = |row: u32, events: u64, bytes: u64| {
            let sum = rows.entry(row).or_default();
            (sum.0, sum.1) = (sum.0 + events, sum.1 + bytes);
        };
        let Some((named, others)) = footer.counts() else {
            return if deleting.is_older { 0 } else { footer.events };
        };
        for (record, count) in named.filter(|(_, count)| count.events + count.payload_bytes > 0) {
            let (events, bytes) = (count.events, count.payload_bytes);
            let producer = self.producer_of(&record, false).filter(|producer| producer.row != UNNAMED);
            match producer.filter(|_| !deleting.is_older) {
                Some(producer) => {
                    let (row, (gone, gone_bytes)) =
                        (self.row_of(producer.row, None), self.memory.deleted(producer.row));
                    let own = (
                        events.min(row.stored.saturating_sub(gone)),
                        bytes.min(row.stored_bytes.saturating_sub(gone_bytes)),
                    );
                    add(producer.row, own.0, own.1);
                    add(UNNAMED, events - own.0, bytes - own.1);
                    deleting.held.push(producer);
                }
                None => {
                    if !deleting.is_older {
                        add(UNNAMED, events, bytes);
                    }
                    let identity = record.as_source().map(|source| Identity::of(&source)).unwrap_or_default();
                    deleting.without_row.push((identity, events, bytes));
                }
            }
        }
        if !deleting.is_older {
            add(UNNAMED, others.events, others.payload_bytes);
        }
        0
    }

    /// Ends the deletion: if the file is gone, what it held counts as deleted.
    pub fn end_deletion(&self, is_gone: bool) {
        let Deleting { held, without_row, is_older } = std::mem::take(&mut *self.deleting());
        self.memory.settle_deletion(is_gone);
        drop(held);
        if is_gone {
            self.with_groups(|groups| {
                for (producer, deleted, deleted_bytes) in &without_row {
                    let row = Row { deleted: *deleted, deleted_bytes: *deleted_bytes, ..Row::default() };
                    if is_older { groups.add_older(producer, &row) } else { groups.fold(producer, &row) }
                }
            });
        }
    }

    /// Settles the deletion in which the previous process died, if there was one. `is_there` says whether a file is
    /// still there. Must be called before the first deletion.
    pub fn settle_deletion(&self, is_there: impl FnOnce(Name) -> bool) {
        if let Some((_, name)) = self.memory.noted_deletion() {
            self.memory.settle_deletion(!is_there(name));
        }
    }

    /// What was deleted since the account began.
    pub fn deletions(&self) -> Deletions {
        self.memory.deletions()
    }
}
