//! The store as the reader thread and dbufctl see it.

use std::path::Path;

use super::testing::{TestBatch, read, storage};
use super::*;

fn open(path: &Path) -> Store {
    let options = Options { storage: storage(path), on_durable: Box::new(|_| {}) };
    Store::open(options, Arc::new(RealDisk)).unwrap().0
}

#[test]
fn what_was_appended_is_read_back_in_the_order_of_acceptance() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut batch = TestBatch::new(1);
    batch.run("a", &[(10, "a1"), (30, "a2"), (20, "a3")]).run("b", &[(10, "b1"), (25, "b2"), (40, "b3")]);
    let first = batch.lend(1, |view| store.append(view)).unwrap();
    assert_eq!(first.first_sequence, 1);
    let second = TestBatch::of(2, &[(5, "late")]).lend(4096, |view| store.append(view)).unwrap();
    assert_eq!(second.first_sequence, 7);
    let all = ["1 a a1", "2 b b1", "3 b b2", "4 a a2", "5 a a3", "6 b b3", "7 app late"];
    assert_eq!(read(directory.path()), all, "while the segment is active");
    store.close().unwrap();
    assert_eq!(read(directory.path()), all, "when it is sealed");
}
