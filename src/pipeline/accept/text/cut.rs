//! Cuts a stream of text into events.
//!
//! Input: bytes of a text connection. Output: a [`Cut`], or None while the bytes hold no whole event. Thread: any.
//! Nothing can fail.
//!
//! - An event ends at a newline. Only the newline is removed: a carriage return, a NUL or a trailing space belongs to
//!   the sender's bytes, as in journald and rsyslog.
//! - Octet counting (RFC 6587) holds for one event at a time, and only where an event begins with `LEN SP <PRI>` and a
//!   syslog header. So a line of prose that begins with a number is still a line.
//! - An event longer than the limit is cut into pieces of exactly the limit and a rest, so that memory stays bounded.

use memchr::memchr;

use super::syslog::{Look, looks_like_syslog};
use crate::pipeline::accept::connection::read_position::Until;
use crate::pipeline::record::Newlines;

/// Digits of the longest octet count that is accepted.
const COUNT_DIGITS_MAX: usize = 7;

/// One event, or a piece of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Where it begins: after the octet count if there is one.
    pub(crate) start: usize,
    /// Where it ends.
    pub(crate) end: usize,
    /// Where the next one begins.
    pub(crate) next: usize,
    /// Where the rest of the event ends, if this is only a piece.
    pub(crate) rest: Option<Until>,
}

impl Cut {
    fn whole(start: usize, end: usize, next: usize) -> Option<Self> {
        Some(Self { start, end, next, rest: None })
    }
}

/// Consecutive whole lines of plain text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Bytes from the front, newlines included.
    pub(crate) bytes: usize,
    /// Number of lines.
    pub(crate) lines: usize,
}

/// The longest block at the front of `bytes`, of at most `bytes_max` bytes. It ends before the first line that is
/// empty, has a priority, or is (or may turn out to be) counted in octets.
#[inline]
pub(crate) fn block(bytes: &[u8], bytes_max: usize) -> Block {
    let mut block = Block::default();
    for newline in Newlines::new(&bytes[..bytes.len().min(bytes_max)]) {
        let is_plain = match bytes[block.bytes] {
            b'\n' | b'<' => false,
            b'0'..=b'9' => octet_count(&bytes[block.bytes..]).0 == Look::No,
            _ => true,
        };
        if !is_plain {
            break;
        }
        block = Block { bytes: newline + 1, lines: block.lines + 1 };
    }
    block
}

/// Cuts the next event from the front of `bytes`, or the next piece of the open event that ends at `until`. Cuts at
/// most `max_bytes` at a time. None if bytes are missing.
#[inline]
pub(crate) fn cut(bytes: &[u8], until: Option<Until>, max_bytes: usize) -> Option<Cut> {
    match until {
        None if bytes.first().is_some_and(u8::is_ascii_digit) => match octet_count(bytes) {
            (Look::Yes, start, count) => cut_octets(bytes, start, count, max_bytes),
            (Look::No, ..) => cut_line(bytes, max_bytes),
            (Look::Unsure, ..) => None,
        },
        None | Some(Until::Newline) => cut_line(bytes, max_bytes),
        Some(Until::Octets(count)) => cut_octets(bytes, 0, count, max_bytes),
    }
}

/// Cuts the rest when a connection ends, in pieces if necessary. None when nothing is left.
pub(crate) fn cut_at_end(bytes: &[u8], until: Option<Until>, max_bytes: usize) -> Option<Cut> {
    match cut(bytes, until, max_bytes) {
        // A piece was cut before. Its event must still end, if necessary with a piece of no bytes.
        None if !bytes.is_empty() || until.is_some() => {
            // An undecided octet count, or one that promised more than came, adds a few bytes to the limit.
            let end = bytes.len().min(max_bytes);
            let rest = (end < bytes.len()).then_some(Until::Newline);
            Some(Cut { start: 0, end, next: end, rest })
        }
        cut => cut,
    }
}

/// Cuts all of `bytes`, which hold no whole event, as one piece, so that nothing must be kept of it.
pub(crate) fn cut_early(bytes: &[u8], until: Option<Until>) -> Cut {
    let (start, rest) = match until {
        None if bytes.first().is_some_and(u8::is_ascii_digit) => match octet_count(bytes) {
            (Look::Yes, start, count) => (start, Until::Octets(count - (bytes.len() - start))),
            _ => (0, Until::Newline),
        },
        None | Some(Until::Newline) => (0, Until::Newline),
        Some(Until::Octets(count)) => (0, Until::Octets(count - bytes.len())),
    };
    Cut { start, end: bytes.len(), next: bytes.len(), rest: Some(rest) }
}

#[inline]
fn cut_line(bytes: &[u8], max_bytes: usize) -> Option<Cut> {
    // One byte beyond the limit, because a line of exactly the limit may be followed by its newline.
    let searched = &bytes[..bytes.len().min(max_bytes + 1)];
    match memchr(b'\n', searched) {
        Some(end) => Cut::whole(0, end, end + 1),
        None if searched.len() > max_bytes => {
            Some(Cut { start: 0, end: max_bytes, next: max_bytes, rest: Some(Until::Newline) })
        }
        None => None,
    }
}

fn cut_octets(bytes: &[u8], start: usize, count: usize, max_bytes: usize) -> Option<Cut> {
    let end = start + count.min(max_bytes);
    if bytes.len() < end {
        return None;
    }
    let left = count - (end - start);
    if left == 0 {
        Cut::whole(start, end, end)
    } else {
        Some(Cut { start, end, next: end, rest: Some(Until::Octets(left)) })
    }
}

/// Whether `bytes` begin with an octet count and syslog, where the syslog begins, and its length in bytes.
fn octet_count(bytes: &[u8]) -> (Look, usize, usize) {
    if bytes[0] == b'0' {
        return (Look::No, 0, 0);
    }
    let digits = bytes.iter().take(COUNT_DIGITS_MAX + 1).take_while(|b| b.is_ascii_digit()).count();
    if digits > COUNT_DIGITS_MAX {
        return (Look::No, 0, 0);
    }
    match bytes.get(digits) {
        None => return (Look::Unsure, 0, 0),
        Some(b' ') => {}
        Some(_) => return (Look::No, 0, 0),
    }
    let count = bytes[..digits].iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0'));
    let start = digits + 1;
    let counted = &bytes[start..bytes.len().min(start + count)];
    match looks_like_syslog(counted) {
        // All counted bytes are there, and they end before the header does.
        Look::Unsure if counted.len() == count => (Look::No, 0, 0),
        look => (look, start, count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Cuts all of `input`, which arrives in parts of `step` bytes, as on a connection.
    fn events(input: &[u8], step: usize, max_bytes: usize) -> Vec<Vec<u8>> {
        let (mut held, mut until, mut event, mut events) = (Vec::new(), None, Vec::new(), Vec::new());
        let mut keep = |cut: Cut, held: &mut Vec<u8>| {
            assert!(cut.end - cut.start <= max_bytes);
            event.extend_from_slice(&held[cut.start..cut.end]);
            held.drain(..cut.next);
            if cut.rest.is_none() {
                events.push(std::mem::take(&mut event));
            }
            cut.rest
        };
        for part in input.chunks(step) {
            held.extend_from_slice(part);
            while let Some(cut) = cut(&held, until, max_bytes) {
                until = keep(cut, &mut held);
            }
            assert!(held.len() <= max_bytes + COUNT_DIGITS_MAX + 1, "memory stays flat");
        }
        while let Some(cut) = cut_at_end(&held, until, max_bytes) {
            until = keep(cut, &mut held);
        }
        events.retain(|event| !event.is_empty());
        events
    }

    fn strings(input: &[u8], step: usize, max_bytes: usize) -> Vec<String> {
        events(input, step, max_bytes).iter().map(|event| event.escape_ascii().to_string()).collect()
    }

    #[test]
    fn a_block_ends_before_what_is_more_than_a_line_of_text() {
        for (input, bytes, lines) in [
            (&b"one\ntwo\nhalf"[..], 8, 2),
            (b"one\n\ntwo\n", 4, 1),
            (b"one\n<3>two\n", 4, 1),
            (b"one\n29 <13>Nov 23 05:26:33 root: hi", 4, 1),
            (b"one\n29 <1", 4, 1),
            (b"one\n29\n", 7, 2),
            (b"2026-11-27 one\n12 monkeys\n0123456789\n", 37, 3),
            (b"29 <13>Nov 23 05:26:33 root: hi", 0, 0),
            (b"\none\n", 0, 0),
            (b"half", 0, 0),
            (b"", 0, 0),
        ] {
            assert_eq!(block(input, 100), Block { bytes, lines }, "{}", input.escape_ascii());
        }
        assert_eq!(block(b"one\ntwo\nthree\n", 8), Block { bytes: 8, lines: 2 }, "no more than may be");
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let input = b"one\n\ntwo\r\n\0three \nlast without newline";
        for step in 1..=input.len() {
            assert_eq!(strings(input, step, 100), ["one", "two\\r", "\\x00three ", "last without newline"]);
        }
    }

    #[test]
    fn a_line_longer_than_the_limit_comes_whole_in_pieces() {
        for len in [99, 100, 101, 199, 200, 201, 1000] {
            let input = [vec![b'x'; len], b"\nafter\n".to_vec()].concat();
            for step in [1, 7, 100, 101, 5000] {
                let events = events(&input, step, 100);
                assert_eq!((events[0].len(), &events[1][..], events.len()), (len, &b"after"[..], 2), "{len} by {step}");
            }
        }
    }

    #[test]
    fn octet_counting_is_believed_only_before_syslog() {
        let input = b"28 <13>Nov 23 05:26:33 root: hi29 <13>Nov 23 05:26:33 root: a\nb\n12 monkeys\n5 <b>\n99 bottles";
        let expected =
            ["<13>Nov 23 05:26:33 root: hi", "<13>Nov 23 05:26:33 root: a\\nb", "12 monkeys", "5 <b>", "99 bottles"];
        for step in 1..=input.len() {
            assert_eq!(strings(input, step, 100), expected, "by {step}");
        }
    }

    #[test]
    fn a_count_that_ends_inside_its_own_header_is_a_line() {
        assert_eq!(strings(b"9 <13>Nov 23 05:26:33 root: hi\n", 40, 100), ["9 <13>Nov 23 05:26:33 root: hi"]);
        assert_eq!(strings(b"99999999 <13>1 - a\n", 40, 100), ["99999999 <13>1 - a"]);
    }

    #[test]
    fn a_counted_event_longer_than_the_limit_comes_whole_in_pieces() {
        let text = format!("<13>Nov 23 05:26:33 root: {}", "y\n".repeat(200));
        let input = format!("{} {text}after\n", text.len());
        for step in [1, 50, 99, 1000] {
            let events = events(input.as_bytes(), step, 100);
            assert_eq!(events[0], text.as_bytes(), "by {step}");
            assert_eq!(events[1], b"after");
        }
    }

    #[test]
    fn a_count_that_promised_more_than_came_still_gives_what_came() {
        assert_eq!(strings(b"500 <13>Nov 23 05:26:33 root: hi", 40, 100), ["500 <13>Nov 23 05:26:33 root: hi"]);
    }

    proptest! {
        #[test]
        fn no_byte_of_any_line_is_lost(
            lines in proptest::collection::vec("[a-z<> 0-9]{0,60}", 0..10),
            step in 1..80_usize,
            max_bytes in 8..64_usize,
        ) {
            let input = lines.join("\n");
            let wanted: Vec<&[u8]> = lines.iter().filter(|line| !line.is_empty()).map(|line| line.as_bytes()).collect();
            prop_assert_eq!(events(input.as_bytes(), step, max_bytes), wanted);
        }

        #[test]
        fn any_bytes_are_cut_without_harm(
            input in proptest::collection::vec(any::<u8>(), 0..300), step in 1..80_usize, max_bytes in 8..64_usize,
        ) {
            events(&input, step, max_bytes);
        }
    }
}
