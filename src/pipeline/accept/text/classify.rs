//! Classifies the bytes of one line or datagram: priority, tag, time, and the remaining text.
//!
//! Input: the bytes, without the newline or octet count that framed them. Output: [`LineFields`]. Thread: any. Nothing
//! can fail: bytes that are not understood are text.
//!
//! | begins with | in a line | in a datagram |
//! |---|---|---|
//! | `<N>` and a syslog header | syslog | syslog |
//! | `<0>` to `<7>` | that priority, the rest is text (sd-daemon(3)) | that priority, the rest is text |
//! | `<8>` to `<191>` | all of it is text | that facility and priority, the rest is text (syslog without a header) |
//! | anything else | text | text, to the last byte: a datagram may be binary |
//!
//! The facility 0 is the kernel's, and no client is the kernel. Syslog that claims it gets the facility 1 (user), as in
//! journald: so does `<0>` to `<7>` in a datagram, which is usually a priority alone.
//!
//! Syslog senders may end with NUL (glibc on a stream) or newline; both are removed. If syslog has no text left, all of
//! its bytes are the text, because an event has at least one byte and nothing may be lost.

use super::syslog::{parse, split_pri};
use crate::pipeline::record::Transport;
use crate::sys::local_time::LocalTime;

/// Facility 0, priority 6 (info). The user-level facility would be a claim that no sender made.
pub(crate) const PRI_DEFAULT: u8 = 6;
/// The highest `<N>` that is a priority without a facility.
const PRIORITY_MAX: u8 = 7;

/// The facility of user programs.
const FACILITY_USER: u8 = 1 << 3;

/// What the bytes mean. Borrows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineFields<'a> {
    /// Syslog, or the transport that the caller named.
    pub(crate) transport: Transport,
    /// Facility times 8 plus priority.
    pub(crate) pri: u8,
    /// The tag; empty if there is none.
    pub(crate) tag: &'a [u8],
    /// The pid that a header claims; 0 if there is none.
    pub(crate) claimed_pid: u32,
    /// The time that a header states.
    pub(crate) source_time_ns: Option<u64>,
    /// The text; empty if these bytes hold no event.
    pub(crate) text: &'a [u8],
    /// Where the text begins in the bytes.
    pub(crate) text_start: usize,
}

impl<'a> LineFields<'a> {
    #[inline]
    fn plain(transport: Transport, text: &'a [u8]) -> Self {
        let (pri, source_time_ns) = (PRI_DEFAULT, None);
        Self { transport, pri, tag: &[], claimed_pid: 0, source_time_ns, text, text_start: 0 }
    }
}

/// Classifies `bytes` that came by `transport`, which is lines or datagrams. Puts fields besides the text into
/// `fields`, which must be empty.
#[inline]
pub(crate) fn classify<'a>(
    transport: Transport,
    bytes: &'a [u8],
    now_ns: u64,
    local: &mut LocalTime,
    fields: &mut Vec<u8>,
) -> LineFields<'a> {
    if bytes.first() == Some(&b'<') {
        classify_with_pri(transport, bytes, now_ns, local, fields)
    } else {
        LineFields::plain(transport, bytes)
    }
}

fn classify_with_pri<'a>(
    transport: Transport,
    bytes: &'a [u8],
    now_ns: u64,
    local: &mut LocalTime,
    fields: &mut Vec<u8>,
) -> LineFields<'a> {
    let Some((pri, rest)) = split_pri(bytes) else { return LineFields::plain(transport, bytes) };
    let trimmed = trim_end(bytes);
    if let Some(parsed) = parse(trimmed, now_ns, local) {
        if parsed.put_fields(fields) {
            let text = if parsed.text.is_empty() { trimmed } else { parsed.text };
            return LineFields {
                transport: Transport::Syslog,
                pri: without_kernel(pri),
                tag: parsed.tag,
                claimed_pid: parsed.claimed_pid,
                source_time_ns: parsed.source_time_ns,
                text,
                text_start: trimmed.len() - text.len(),
            };
        }
        fields.clear();
    }
    let plain = match transport {
        Transport::Datagram => {
            let plain = LineFields::plain(Transport::Syslog, trim_end(rest));
            LineFields { pri: without_kernel(pri), ..plain }
        }
        _ if pri <= PRIORITY_MAX => LineFields { pri, ..LineFields::plain(transport, rest) },
        _ => return LineFields::plain(transport, bytes),
    };
    LineFields { text_start: bytes.len() - rest.len(), ..plain }
}

/// A facility and priority that a client may claim.
fn without_kernel(pri: u8) -> u8 {
    if pri <= PRIORITY_MAX { FACILITY_USER | pri } else { pri }
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|b| *b != 0 && *b != b'\n').map_or(0, |last| last + 1);
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    const NOW_NS: u64 = 1_795_411_593_000_000_000;

    fn read(transport: Transport, bytes: &[u8]) -> (Transport, u8, String, String) {
        let mut fields = Vec::new();
        let m = classify(transport, bytes, NOW_NS, &mut LocalTime::new(TimeZone::UTC), &mut fields);
        assert_eq!(m.text, &bytes[m.text_start..][..m.text.len()]);
        (m.transport, m.pri, m.tag.escape_ascii().to_string(), m.text.escape_ascii().to_string())
    }

    #[test]
    fn a_line_is_text_unless_it_says_otherwise() {
        for (bytes, pri, text) in [
            (&b"hello"[..], 6, "hello"),
            (b"<3>disk on fire", 3, "disk on fire"),
            (b"<0>", 0, ""),
            (b"<8>x", 6, "<8>x"),
            (b"<7>x", 7, "x"),
            (b"<13>x", 6, "<13>x"),
            (b"<192>x", 6, "<192>x"),
            (b"<b>bold</b>", 6, "<b>bold</b>"),
            (b"<", 6, "<"),
            (b"x\0", 6, "x\\x00"),
            (b"<3>x\0", 3, "x\\x00"),
        ] {
            let expected = (Transport::Lines, pri, String::new(), text.to_owned());
            assert_eq!(read(Transport::Lines, bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_datagram_without_a_priority_keeps_its_last_byte() {
        let expected = (Transport::Datagram, 6, String::new(), "any\\x00\\n".to_owned());
        assert_eq!(read(Transport::Datagram, b"any\0\n"), expected);
    }

    #[test]
    fn a_datagram_with_a_priority_is_syslog_with_or_without_a_header() {
        for (bytes, pri, tag, text) in [
            (&b"<13>hello\n\0"[..], 13, "", "hello"),
            (b"<3>hello", 8 | 3, "", "hello"),
            (b"<0>Kernel panic", 8, "", "Kernel panic"),
            (b"<7>Nov 23 05:26:32 kernel: hi", 8 | 7, "kernel", "hi"),
            (b"<7>1 - - kernel - - - hi", 8 | 7, "kernel", "hi"),
            (b"<13>Nov 23 05:26:32 root: hi\0", 13, "root", "hi"),
            (b"<13>1 - - app - - - hi\n", 13, "app", "hi"),
        ] {
            let expected = (Transport::Syslog, pri, tag.to_owned(), text.to_owned());
            assert_eq!(read(Transport::Datagram, bytes), expected);
        }
        assert_eq!(read(Transport::Datagram, b"<13>\n").3, "");
    }

    #[test]
    fn a_line_of_syslog_cannot_claim_to_be_the_kernels() {
        for pri in 0..=7 {
            let line = format!("<{pri}>Nov 23 05:26:32 kernel: hi");
            let expected = (Transport::Syslog, 8 | pri, "kernel".to_owned(), "hi".to_owned());
            assert_eq!(read(Transport::Lines, line.as_bytes()), expected);
        }
    }

    #[test]
    fn syslog_without_text_keeps_all_of_its_bytes() {
        for bytes in [&b"<13>Nov 23 05:26:32 root: "[..], b"<13>1 - - root - - [a b=\"c\"]"] {
            let expected = (Transport::Syslog, 13, "root".to_owned(), bytes.escape_ascii().to_string());
            assert_eq!(read(Transport::Lines, bytes), expected);
        }
    }

    #[test]
    fn fields_too_large_to_keep_leave_the_bytes_as_they_are() {
        let bytes = format!("<13>1 - - app - - [a b=\"{}\"] hi", "c".repeat(20 << 10));
        let mut fields = Vec::new();
        let mut local = LocalTime::new(TimeZone::UTC);
        let line = classify(Transport::Lines, bytes.as_bytes(), NOW_NS, &mut local, &mut fields);
        assert!(line.text == bytes.as_bytes() && fields.is_empty());
    }
}
