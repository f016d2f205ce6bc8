//! A request on dbufctl's socket: whatever the bytes are, there is a command or one line that says what is wrong.
#![no_main]

use dbufd::daemon::server::parse_request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Err(error) = parse_request(line) {
        assert!(!error.contains(char::is_control));
    }
});
