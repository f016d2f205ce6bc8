//! A datagram: whatever it holds, it is one event at most, and one without a priority is stored byte for byte.
#![no_main]

use std::cell::RefCell;

use dbufd::pipeline::harness::{INPUT_BYTES_MAX, WriterHarness};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static HARNESS: RefCell<WriterHarness> = RefCell::new(WriterHarness::new(INPUT_BYTES_MAX));
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(INPUT_BYTES_MAX)];
    let events = HARNESS.with_borrow_mut(|harness| harness.datagram(bytes));
    assert!(events.len() <= 1);
    if bytes.first().is_some_and(|first| *first != b'<') {
        assert_eq!(events[0].payload, bytes);
    }
});
