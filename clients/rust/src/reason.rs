//! Puts failures into words: why there is no daemon, what to do about it, and the one line on standard error.
//!
//! Input: what the kernel or the daemon said. Output: text for people. Any thread. Failures: none; a line that cannot
//! be written is not written.

use std::fmt::Write;
use std::io::{self, ErrorKind};

use crate::sys;

/// Bytes of a line. Less than PIPE_BUF, so that a pipe takes it whole.
const LINE_BYTES_MAX: usize = 1024;

/// The kernel's words alone, without the number that the standard library adds.
pub(crate) fn kernel(error: &io::Error) -> String {
    let mut text = error.to_string();
    if error.raw_os_error().is_some()
        && let Some(at) = text.rfind(" (os error ")
    {
        text.truncate(at);
    }
    text
}

/// Why a socket cannot be connected to, with a remedy where one is certain.
pub(crate) fn connect(error: &io::Error) -> String {
    let remedy = match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => " (is dbufd running?)",
        ErrorKind::PermissionDenied => {
            " (the socket's mode does not let this user in: SocketMode= in dbufd.socket, or ingest.socket_mode)"
        }
        _ => "",
    };
    kernel(error) + remedy
}

/// Says on standard error that the daemon cannot be reached, and what that means for events.
pub(crate) fn complain_of_connection(why: &str, events: &str) {
    complain(&format!("{why}; events {events}"));
}

/// Says on standard error that events are lost, if any are.
pub(crate) fn complain_of_loss(events: u64, why: &str) {
    if events > 0 {
        let noun = if events == 1 { "event" } else { "events" };
        complain(&format!("{events} {noun} not delivered: {why}"));
    }
}

fn complain(text: &str) {
    let mut line = String::from("dbuf: ");
    for letter in text.chars() {
        // A path or the daemon's words may have anything in them.
        let letter = if letter.is_control() { '?' } else { letter };
        if line.len() + letter.len_utf8() < LINE_BYTES_MAX {
            line.push(letter);
        }
    }
    // A string takes everything.
    let _ = line.write_char('\n');
    sys::write_error_line(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_without_a_listener_makes_it_ask_whether_the_daemon_runs() {
        use rustix::io::Errno;
        let said = |errno: Errno| connect(&errno.into());
        assert_eq!(said(Errno::NOENT), "No such file or directory (is dbufd running?)");
        assert_eq!(said(Errno::CONNREFUSED), "Connection refused (is dbufd running?)");
        let denied = said(Errno::ACCESS);
        assert!(denied.starts_with("Permission denied (the socket's mode ") && !denied.contains("running"), "{denied}");
        assert_eq!(said(Errno::MFILE), "Too many open files");
        assert_eq!(kernel(&io::Error::other("no reason")), "no reason");
    }
}
