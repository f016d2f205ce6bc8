//! What retention deletes, producer by producer.

use dbuf_segment::footer::Footer;
use dbuf_segment::name::{Name, State};
use dbuf_segment::record::SourceCount;

use super::*;
use crate::pipeline::account::figures::Deletions;

const FILE: Name = Name::new(100, State::Sealed);

/// Stores 10 events of each of the processes 1 and 2.
fn store(account: &Arc<Account>) {
    let (mut recorder, mut reader) = (account.recorder(0), account.reader_recorder());
    reader.begin(6);
    for pid in 1..=2 {
        recorder.prepare(&account.producer(&identity(pid)), &events(10));
        let record = identity(pid).to_record();
        reader.prepare(Some(&Record::decode(&record).unwrap().0), &events(10));
    }
    recorder.published();
    reader.persisted(120, 1);
}

/// The footer of a segment that ends before `next_sequence` and has `sources`: process and events.
fn footer(next_sequence: u64, sources: &[(u32, u64)], others: u64) -> Footer {
    let mut footer = Footer::new(7, 90);
    for (pid, events) in sources {
        let record = identity(*pid).to_record();
        let mut count = SourceCount::new(Record::decode(&record).unwrap().0);
        (count.events, count.bytes) = (*events, 10 * events);
        footer.add_source(&count);
        footer.events += events;
    }
    footer.events += others;
    footer.payload_bytes = 10 * footer.events;
    footer.next_sequence = next_sequence;
    footer
}

/// Deleted events of each process, and of all others.
fn deleted(account: &Account) -> Vec<(u32, u64, u64)> {
    let rows = account.rows();
    let row = |row: &Row| (row.identity.as_ref().map_or(0, |id| id.pid), row.deleted, row.deleted_bytes);
    rows.iter().map(row).collect()
}

#[test]
fn a_deletion_counts_once_for_each_producer_whatever_step_the_process_died_at() {
    type Step = fn(&Account);
    let begin = |account: &Account| account.begin_deletion(FILE, 500, Some(&footer(110, &[(1, 7), (2, 3)], 0)));
    // What the process did after it began, whether the file is there afterwards, and whether it counts.
    let steps: [(Step, bool, bool); 5] = [
        (|account| account.memory.settle_deletion(false), true, false),
        (|_| (), true, false),
        (|_| (), false, true),
        (|account| account.end_deletion(true), false, true),
        (|account| account.end_deletion(false), true, false),
    ];
    for (number, (step, is_there, counts)) in steps.into_iter().enumerate() {
        let (account, memory) = account();
        store(&account);
        begin(&account);
        step(&account);
        drop(account);
        let account = next_process(&memory, false);
        let mut asked = None;
        account.settle_deletion(|name| {
            asked = Some(name);
            is_there
        });
        assert!(asked.is_none_or(|asked| asked == FILE), "{asked:?}");
        let expected = if counts { vec![(1, 7, 70), (2, 3, 30)] } else { vec![(1, 0, 0), (2, 0, 0)] };
        assert_eq!(deleted(&account), expected, "step {number}");
        let all = Deletions { segments: 1, file_bytes: 500, events: 10, bytes: 100, ..Deletions::default() };
        assert_eq!(account.deletions(), if counts { all } else { Deletions::default() }, "step {number}");
        account.settle_deletion(|_| panic!("it is settled"));
        // Nothing of the first deletion counts with a later one.
        account.begin_deletion(FILE, 500, Some(&footer(120, &[(1, 2)], 0)));
        account.end_deletion(true);
        let (first, second) = (expected[0], expected[1]);
        assert_eq!(deleted(&account), [(1, first.1 + 2, first.2 + 20), second], "step {number}");
        assert_eq!(deleted(&next_process(&memory, false)), deleted(&account));
    }
}

#[test]
fn what_a_segment_does_not_say_is_of_unknown_producers_and_what_is_older_than_the_account_is_in_no_row() {
    let (account, _memory) = account();
    store(&account);
    let delete = |footer: Option<&Footer>| {
        account.begin_deletion(FILE, 500, footer);
        account.end_deletion(true);
    };
    let golden = include_bytes!("../../../../tests/golden/v1.segment").to_vec();
    let segment = dbuf_segment::scan::segment::Segment::open(Arc::new(golden), None).unwrap();
    let of_0_1_0 = segment.footer.unwrap();
    assert_eq!((of_0_1_0.next_sequence, of_0_1_0.events), (108, 7));
    delete(Some(&of_0_1_0));
    delete(None);
    delete(Some(&footer(100, &[(1, 4), (9, 6)], 0)));
    let bytes = of_0_1_0.payload_bytes + 100;
    let all = Deletions { segments: 3, file_bytes: 1500, events: 17, bytes, unknown_events: 7, older_events: 10 };
    assert_eq!(account.deletions(), all);
    assert_eq!(deleted(&account), [(1, 0, 0), (2, 0, 0)]);
    // Groups have no process, so they are known from one account to the next.
    let groups = account.busiest_groups(10);
    assert_eq!(groups.iter().map(|group| group.deleted).collect::<Vec<_>>(), [10]);
    assert_eq!(account.statement().deletions, all);
}

#[test]
fn a_row_never_has_more_deleted_than_stored_and_the_rest_is_of_all_others() {
    let (account, memory) = account();
    store(&account);
    let delete = |footer: &Footer| {
        account.begin_deletion(FILE, 500, Some(footer));
        account.end_deletion(true);
    };
    // 13 of process 1, of which 3 must be from before it had this row; 2 of one without a row; 5 of no named one.
    delete(&footer(120, &[(1, 13), (9, 2)], 5));
    assert_eq!(deleted(&account), [(1, 10, 100), (2, 0, 0), (0, 10, 100)]);
    let row = account.producer(&identity(1)).row;
    account.memory.fold(row);
    let folded = next_process(&memory, false);
    assert_eq!(deleted(&folded), [(2, 0, 0), (0, 20, 200)], "the figures stay when a producer makes room");
    let taken = Memory::new(9, 1).unwrap();
    taken.take_over(&inherit(&memory).unwrap());
    let account = Account::over(Shares::even(1024), taken);
    assert_eq!((deleted(&account), account.deletions()), (deleted(&folded), folded.deletions()));
    account.belongs_to(8, 1, 1);
    assert_eq!((account.rows(), account.deletions()), (Vec::new(), Deletions::default()));
}
