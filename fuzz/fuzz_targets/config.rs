//! A configuration file: whatever the text is, there is a configuration that prints and reads back as the same, or one
//! line that says what is wrong.
#![no_main]

use dbufd::config::{keys::render, load::check_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| match check_text("F", text) {
    Ok(config) => assert_eq!(check_text("PRINTED", &render(&config)).as_ref(), Ok(&config)),
    Err(error) => assert!(!error.to_string().contains(char::is_control)),
});
