//! A text connection: whatever a client sends and in whatever parts, the events are the same, memory is bounded, and
//! every event that was begun is ended.
#![no_main]

use std::cell::RefCell;

use dbufd::pipeline::harness::{INPUT_BYTES_MAX, WriterHarness};
use libfuzzer_sys::fuzz_target;

thread_local! {
    // Small, so that many events are cut into pieces.
    static HARNESS: RefCell<WriterHarness> = RefCell::new(WriterHarness::new(100));
}

fuzz_target!(|bytes: &[u8]| {
    // The first byte says in what parts the others arrive.
    let Some((step, bytes)) = bytes.split_first() else { return };
    let bytes = &bytes[..bytes.len().min(INPUT_BYTES_MAX)];
    HARNESS.with_borrow_mut(|harness| {
        let whole = harness.text(std::iter::once(bytes));
        assert_eq!(harness.text(bytes.chunks(usize::from(*step) + 1)), whole);
        assert!(whole.iter().map(|event| event.payload.len()).sum::<usize>() <= bytes.len());
    });
});
