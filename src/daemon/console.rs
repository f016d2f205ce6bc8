//! Writes to the terminal: text on standard output, errors as one line on standard error.
//!
//! Input: text. Output: the same on a descriptor. Any thread. Failures: none that the caller sees; a closed terminal
//! must not end the daemon.

use std::io::Write;

use super::log;

/// Prints to standard output. `println!` would panic if the terminal is closed.
pub(super) fn print_out(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints an error and its causes as one line on standard error.
pub(super) fn print_error(error: &anyhow::Error) {
    let line = format!("{error:#}").replace('\n', " ");
    // sd-daemon(3): the journal takes the priority from the start of a line.
    let priority = if log::stderr_is_the_journal() { "<3>" } else { "" };
    let _ = writeln!(std::io::stderr(), "{priority}dbufd: {line}");
}
