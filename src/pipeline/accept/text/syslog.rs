//! Parses syslog: RFC 3164 as libc and `logger` send it, and RFC 5424.
//!
//! Input: the bytes of one line or datagram, and the time now. Output: a [`Parsed`] that borrows from them, or None.
//! What does not parse as a whole is not syslog, and the caller keeps every byte of it as text. Nothing is lost either
//! way: parts without a place of their own in an event (host, msgid, structured data, a process id that is not a
//! number) become fields. Thread: any. Nothing can fail.
//!
//! Accepted beyond the letter of the RFCs: a day of one digit with or without its space, and a missing host (a local
//! sender omits it). Refused because accepting would lose something: a tag longer than an event can carry, a leap
//! second, more than nine digits of a second.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::pipeline::record::{self, TAG_BYTES_MAX};
use crate::sys::local_time::{LocalTime, Stamp};

const NS_A_SECOND: i128 = 1_000_000_000;
/// Facility 23, severity 7.
const PRI_MAX: u8 = 191;
/// The longest time of RFC 5424, with nine digits of a second and an offset.
const TIME_BYTES_MAX: usize = 35;
/// The longest token of an RFC 5424 header: a host of 255 bytes.
const TOKEN_BYTES_MAX: usize = 255;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What a syslog header says. Borrows from the bytes that it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed<'a> {
    /// Facility times 8 plus severity.
    pub(crate) pri: u8,
    /// The program's name; empty if there is none.
    pub(crate) tag: &'a [u8],
    /// The process id that the header claims; 0 if there is none.
    pub(crate) claimed_pid: u32,
    /// The time that the header states.
    pub(crate) source_time_ns: Option<u64>,
    /// The text without the header.
    pub(crate) text: &'a [u8],
    host: &'a [u8],
    procid: &'a [u8],
    msgid: &'a [u8],
    structured: &'a [u8],
}

impl Parsed<'_> {
    /// Writes the parts that are fields into `fields`, which must be empty. False if they take more than fields may
    /// take.
    pub(crate) fn put_fields(&self, fields: &mut Vec<u8>) -> bool {
        let all: [(&[u8], &[u8]); 4] = [
            (b"SYSLOG_HOSTNAME", self.host),
            (b"SYSLOG_PROCID", self.procid),
            (b"SYSLOG_MSGID", self.msgid),
            (b"SYSLOG_STRUCTURED_DATA", self.structured),
        ];
        all.iter().all(|(name, value)| value.is_empty() || record::put_field(fields, name, value))
    }
}

/// Whether bytes are the beginning of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// They are.
    Yes,
    /// They are not.
    No,
    /// They end too early to decide.
    Unsure,
}

/// Splits `<N>` with N from 0 to 191 from the front of `bytes`.
pub(crate) fn split_pri(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut cursor = Cursor { bytes, at: 0 };
    let pri = cursor.pri().ok()?;
    Some((pri, &bytes[cursor.at..]))
}

/// Whether `bytes` begin with `<N>` and a header of either RFC, up to and including its time.
pub(crate) fn looks_like_syslog(bytes: &[u8]) -> Look {
    let mut cursor = Cursor { bytes, at: 0 };
    match cursor.pri().and_then(|_| cursor.header()) {
        Ok(_) => Look::Yes,
        Err(Stop::No) => Look::No,
        Err(Stop::End) => Look::Unsure,
    }
}

/// Parses `bytes` as syslog, from `<` to their end. `local` converts the times of senders that send no year.
pub(crate) fn parse<'a>(bytes: &'a [u8], now_ns: u64, local: &mut LocalTime) -> Option<Parsed<'a>> {
    let mut cursor = Cursor { bytes, at: 0 };
    let pri = cursor.pri().ok()?;
    match cursor.header().ok()? {
        Header::Rfc3164(stamp) => {
            let source_time_ns = Some(local.nearest_ns(stamp, now_ns)?);
            Some(Parsed { pri, source_time_ns, ..after_local_time(&bytes[cursor.at..])? })
        }
        Header::Rfc5424(time) => {
            let source_time_ns = if time == b"-" { None } else { Some(utc_time(time)?) };
            Some(Parsed { pri, source_time_ns, ..cursor.rest_of_rfc5424().ok()? })
        }
    }
}

enum Header<'a> {
    Rfc3164(Stamp),
    Rfc5424(&'a [u8]),
}

/// Why parsing stopped.
enum Stop {
    /// These bytes are something else.
    No,
    /// There are no more bytes.
    End,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn next(&mut self) -> Result<u8, Stop> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::End)?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Stop> {
        if self.next()? == wanted { Ok(()) } else { Err(Stop::No) }
    }

    fn digit(&mut self) -> Result<i8, Stop> {
        let byte = self.next()?;
        if byte.is_ascii_digit() { Ok((byte - b'0') as i8) } else { Err(Stop::No) }
    }

    fn two_digits(&mut self) -> Result<i8, Stop> {
        Ok(self.digit()? * 10 + self.digit()?)
    }

    fn pri(&mut self) -> Result<u8, Stop> {
        self.expect(b'<')?;
        let first = self.digit()?;
        let mut pri = first as u16;
        for _ in 0..3 {
            match self.next()? {
                b'>' => return u8::try_from(pri).ok().filter(|pri| *pri <= PRI_MAX).ok_or(Stop::No),
                byte @ b'0'..=b'9' if first != 0 => pri = pri * 10 + u16::from(byte - b'0'),
                _ => return Err(Stop::No),
            }
        }
        Err(Stop::No)
    }

    /// Reads what stands between `<N>` and the host, including the space after it.
    fn header(&mut self) -> Result<Header<'a>, Stop> {
        if self.bytes.get(self.at) == Some(&b'1') {
            self.at += 1;
            self.expect(b' ')?;
            return self.time().map(Header::Rfc5424);
        }
        let month = self.month()?;
        self.expect(b' ')?;
        let day = match self.next()? {
            b' ' => self.digit()?,
            byte @ b'0'..=b'9' => {
                let first = (byte - b'0') as i8;
                match self.next()? {
                    b' ' => {
                        self.at -= 1;
                        first
                    }
                    byte @ b'0'..=b'9' => first * 10 + (byte - b'0') as i8,
                    _ => return Err(Stop::No),
                }
            }
            _ => return Err(Stop::No),
        };
        self.expect(b' ')?;
        let hour = self.two_digits()?;
        self.expect(b':')?;
        let minute = self.two_digits()?;
        self.expect(b':')?;
        let second = self.two_digits()?;
        self.expect(b' ')?;
        Ok(Header::Rfc3164(Stamp { month, day, hour, minute, second }))
    }

    fn month(&mut self) -> Result<i8, Stop> {
        const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
        let here = &self.bytes[self.at..];
        let known = &here[..here.len().min(3)];
        let found = MONTHS.chunks_exact(3).position(|name| name.starts_with(known)).ok_or(Stop::No)?;
        if known.len() < 3 {
            return Err(Stop::End);
        }
        self.at += 3;
        Ok(found as i8 + 1)
    }

    /// Reads the characters of a time of RFC 5424 and the space after it. Decides early, because a stream waits for
    /// this.
    fn time(&mut self) -> Result<&'a [u8], Stop> {
        let start = self.at;
        loop {
            match self.next()? {
                b' ' if self.at - start > 1 => return Ok(&self.bytes[start..self.at - 1]),
                b'0'..=b'9' | b'-' | b':' | b'.' | b'+' | b'T' | b'Z' if self.at - start <= TIME_BYTES_MAX => {}
                _ => return Err(Stop::No),
            }
        }
    }

    /// Reads printable bytes, at least one, and the space after them.
    fn token(&mut self) -> Result<&'a [u8], Stop> {
        let start = self.at;
        loop {
            match self.next()? {
                b' ' if self.at - start > 1 => return Ok(&self.bytes[start..self.at - 1]),
                0x21..=0x7E if self.at - start <= TOKEN_BYTES_MAX => {}
                _ => return Err(Stop::No),
            }
        }
    }

    /// Reads from the host to the text, after the time.
    fn rest_of_rfc5424(mut self) -> Result<Parsed<'a>, Stop> {
        fn or_nil(token: &[u8]) -> &[u8] {
            if token == b"-" { b"" } else { token }
        }
        let host = or_nil(self.token()?);
        let tag = or_nil(self.token()?);
        if tag.len() > TAG_BYTES_MAX {
            return Err(Stop::No);
        }
        let procid = or_nil(self.token()?);
        let claimed_pid = process_id(procid);
        let msgid = or_nil(self.token()?);
        let structured = or_nil(self.structured_data()?);
        let text = match self.next() {
            Ok(b' ') => &self.bytes[self.at..],
            Ok(_) => return Err(Stop::No),
            Err(_) => &[],
        };
        Ok(Parsed {
            tag,
            claimed_pid: claimed_pid.unwrap_or(0),
            text: text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text),
            host,
            procid: if claimed_pid.is_some() { b"" } else { procid },
            msgid,
            structured,
            ..Parsed::default()
        })
    }

    /// Reads `-`, or elements in brackets. Their values are in quotes and escape `"`, `\` and `]`.
    fn structured_data(&mut self) -> Result<&'a [u8], Stop> {
        let start = self.at;
        if self.next()? == b'-' {
            return Ok(&self.bytes[start..self.at]);
        }
        self.at = start;
        while self.bytes.get(self.at) == Some(&b'[') {
            self.at += 1;
            loop {
                match self.next()? {
                    b'"' => self.quoted()?,
                    b']' => break,
                    b'[' | b'\n' => return Err(Stop::No),
                    _ => {}
                }
            }
        }
        if self.at == start { Err(Stop::No) } else { Ok(&self.bytes[start..self.at]) }
    }

    fn quoted(&mut self) -> Result<(), Stop> {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => {
                    self.next()?;
                }
                _ => {}
            }
        }
    }
}

/// A process id as a header writes it; None if it is not a number that a process can have.
fn process_id(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || digits[0] == b'0' || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Splits `tag: ` or `tag[pid]: ` from the front.
fn split_tag(bytes: &[u8]) -> Option<Parsed<'_>> {
    let word = &bytes[..bytes.iter().position(|b| *b == b' ').unwrap_or(bytes.len())];
    let name = word.strip_suffix(b":")?;
    let (tag, claimed_pid) = match name.iter().position(|b| *b == b'[') {
        Some(open) => (&name[..open], process_id(name[open + 1..].strip_suffix(b"]")?)?),
        None => (name, 0),
    };
    let good = !tag.is_empty() && tag.iter().all(|b| b.is_ascii_graphic() && !b"[]:".contains(b));
    let text = &bytes[word.len()..];
    let text = text.strip_prefix(b" ").unwrap_or(text);
    good.then_some(Parsed { tag, claimed_pid, text, ..Parsed::default() })
}

/// Splits `[host ]tag[pid]: text`, or text alone. None if there is a tag that an event cannot carry.
fn after_local_time(rest: &[u8]) -> Option<Parsed<'_>> {
    let with_host = || {
        let space = rest.iter().take(TOKEN_BYTES_MAX + 1).position(|b| *b == b' ')?;
        let host = &rest[..space];
        let good = !host.is_empty() && host.iter().all(|b| b.is_ascii_alphanumeric() || b".:_-".contains(b));
        good.then(|| split_tag(&rest[space + 1..]))?.map(|parsed| Parsed { host, ..parsed })
    };
    match split_tag(rest).or_else(with_host) {
        Some(parsed) if parsed.tag.len() > TAG_BYTES_MAX => None,
        Some(parsed) => Some(parsed),
        None => Some(Parsed { text: rest, ..Parsed::default() }),
    }
}

/// Converts an RFC 3339 time with its offset.
fn utc_time(time: &[u8]) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| -> Option<i16> {
        let digits = time.get(range)?;
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |n, d| n * 10 + i16::from(d - b'0')))
    };
    let small = |at: usize| number(at..at + 2).map(|n| n as i8);
    let positions = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !positions.iter().all(|(at, position)| time.get(*at) == Some(position)) {
        return None;
    }
    let civil = DateTime::new(number(0..4)?, small(5)?, small(8)?, small(11)?, small(14)?, small(17)?, 0).ok()?;
    let mut at = 19;
    let mut fraction_ns = 0;
    if time.get(at) == Some(&b'.') {
        let digits = time[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 || digits > 9 {
            return None;
        }
        let value = time[at + 1..][..digits].iter().fold(0, |n, d| n * 10 + i128::from(d - b'0'));
        fraction_ns = value * 10_i128.pow(9 - digits as u32);
        at += 1 + digits;
    }
    let east_seconds = match time.get(at)? {
        b'Z' if time.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if time.len() == at + 6 && time[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i128::from(hours) * 3600 + i128::from(minutes) * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let as_if_utc = TimeZone::UTC.to_timestamp(civil).ok()?.as_nanosecond();
    u64::try_from(as_if_utc + fraction_ns - east_seconds * NS_A_SECOND).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_nanosecond() as u64
    }

    fn parse<'a>(bytes: &'a [u8], now: &str) -> Option<Parsed<'a>> {
        super::parse(bytes, at(now), &mut LocalTime::new(TimeZone::UTC))
    }

    #[test]
    fn what_libc_sends_is_parsed() {
        let parsed = parse(b"<13>Nov 23 05:26:32 root: hi", "2026-11-23T05:26:33Z").unwrap();
        assert_eq!((parsed.pri, parsed.tag, parsed.claimed_pid, parsed.text), (13, &b"root"[..], 0, &b"hi"[..]));
        assert_eq!(parsed.source_time_ns, Some(at("2026-11-23T05:26:32Z")));
        let parsed = parse(b"<156>Nov  3 05:26:32 postfix/smtpd[15273]: hi  there ", "2026-11-23T05:26:33Z").unwrap();
        assert_eq!((parsed.tag, parsed.claimed_pid, parsed.text), (&b"postfix/smtpd"[..], 15273, &b"hi  there "[..]));
        assert_eq!(parsed.source_time_ns, Some(at("2026-11-03T05:26:32Z")));
    }

    #[test]
    fn what_logger_sends_is_parsed() {
        let now = "2026-11-23T05:26:33Z";
        let parsed = parse(b"<13>Nov 23 05:26:32 vm root: hi", now).unwrap();
        assert_eq!((parsed.host, parsed.tag, parsed.text), (&b"vm"[..], &b"root"[..], &b"hi"[..]));
        let parsed = parse(
            b"<13>1 2026-11-23T05:26:32.341195+00:00 vm root - M1 \
              [timeQuality tzKnown=\"1\" isSynced=\"0\"][x@1 a=\"b\"] hi",
            now,
        )
        .unwrap();
        assert_eq!((parsed.tag, parsed.msgid, parsed.text), (&b"root"[..], &b"M1"[..], &b"hi"[..]));
        assert_eq!(parsed.source_time_ns, Some(at("2026-11-23T05:26:32.341195Z")));
        assert_eq!(parsed.structured, b"[timeQuality tzKnown=\"1\" isSynced=\"0\"][x@1 a=\"b\"]");
        let parsed = parse(b"<13>Nov 23 05:26:32 :  lead", now).unwrap();
        assert_eq!((parsed.tag, parsed.text), (&b""[..], &b":  lead"[..]));
    }

    #[test]
    fn the_examples_of_the_rfcs_are_parsed() {
        let now = "2003-10-12T00:00:00Z";
        let parsed = parse(
            b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \
              \xEF\xBB\xBF'su root' failed for lonvick on /dev/pts/8",
            now,
        )
        .unwrap();
        assert_eq!((parsed.pri, parsed.tag, parsed.msgid), (34, &b"su"[..], &b"ID47"[..]));
        assert_eq!(parsed.text, b"'su root' failed for lonvick on /dev/pts/8");
        let parsed = parse(
            b"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.",
            now,
        )
        .unwrap();
        assert_eq!((parsed.claimed_pid, parsed.procid), (8710, &b""[..]));
        assert_eq!(parsed.source_time_ns, Some(at("2003-08-24T12:14:15.000003Z")));
        let parsed = parse(
            b"<165>1 2003-10-11T22:14:15.003Z host evntslog w-3 ID47 \
              [exampleSDID@32473 iut=\"3\" eventSource=\"App \\\"l\\\" \\] \" \
              eventID=\"1011\"][examplePriority@32473 class=\"high\"]",
            now,
        )
        .unwrap();
        assert_eq!((parsed.text, parsed.procid), (&b""[..], &b"w-3"[..]));
        assert!(parsed.structured.ends_with(b"class=\"high\"]"));
        let parsed = parse(b"<0>1 - - - - - -", now).unwrap();
        assert_eq!(parsed, Parsed::default());
        let parsed = parse(b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed", now).unwrap();
        assert_eq!((parsed.host, parsed.tag, parsed.text), (&b"mymachine"[..], &b"su"[..], &b"'su root' failed"[..]));
    }

    #[test]
    fn a_stamp_without_a_year_means_the_moment_nearest_to_now() {
        for (stamp, now, meant) in [
            ("Dec 31 23:59:59", "2027-01-01T00:00:01Z", "2026-12-31T23:59:59Z"),
            ("Jan  1 00:00:01", "2026-12-31T23:59:59Z", "2027-01-01T00:00:01Z"),
            ("Jan 1 00:00:01", "2027-01-01T00:00:00Z", "2027-01-01T00:00:01Z"),
            ("Feb 29 12:00:00", "2028-03-01T00:00:00Z", "2028-02-29T12:00:00Z"),
            ("Feb 29 12:00:00", "2029-01-01T00:00:00Z", "2028-02-29T12:00:00Z"),
        ] {
            let bytes = format!("<13>{stamp} a: b");
            let parsed = parse(bytes.as_bytes(), now).unwrap();
            assert_eq!(parsed.source_time_ns, Some(at(meant)), "{stamp} at {now}");
        }
    }

    #[test]
    fn a_remembered_stamp_is_worked_out_again_when_the_clock_has_gone_on() {
        let mut local = LocalTime::new(TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::UTC));
        let bytes = b"<13>Dec 31 12:00:00 a: b";
        let before = super::parse(bytes, at("2026-03-01T00:00:00Z"), &mut local).unwrap().source_time_ns.unwrap();
        let after = super::parse(bytes, at("2026-11-01T00:00:00Z"), &mut local).unwrap().source_time_ns.unwrap();
        assert_eq!(after - before, 365 * 24 * 3600 * SECOND);
    }

    #[test]
    fn what_is_not_wholly_syslog_is_left_alone() {
        let now = "2026-11-23T05:26:33Z";
        let long_tag = format!("<13>Nov 23 05:26:32 {}: x", "t".repeat(65));
        let long_app = format!("<13>1 - h {} - - - x", "t".repeat(65));
        for bytes in [
            &b""[..],
            b"<",
            b"<>",
            b"<13",
            b"<13>",
            b"<192>Nov 23 05:26:32 a: b",
            b"<013>Nov 23 05:26:32 a: b",
            b"<13>hello",
            b"<13>Nov 31 05:26:32 a: b",
            b"<13>Nov 23 05:26:60 a: b",
            b"<13>Nov 23 05:26:32",
            b"<13>1 2026-11-23T05:26:60Z h a - - - x",
            b"<13>1 2026-11-23T05:26:32.1234567890Z h a - - - x",
            b"<13>1 2026-11-23T05:26:32+25:00 h a - - - x",
            b"<13>1 2026-11-23 h a - - - x",
            b"<13>1 0001-01-01T00:00:00Z h a - - - x",
            b"<13>1 - h a - - [open x",
            b"<13>1 - h a - - [x]y z",
            b"<13>1 - h a - -",
            b"<13>2 - h a - - - x",
            long_tag.as_bytes(),
            long_app.as_bytes(),
        ] {
            assert_eq!(parse(bytes, now), None, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_beginning_that_is_cut_off_leaves_the_question_open() {
        for whole in [&b"<13>Nov 23 05:26:32 "[..], b"<13>Nov  3 05:26:32 ", b"<13>Nov 3 05:26:32 ", b"<0>1 - "] {
            for cut in 0..whole.len() {
                assert_eq!(looks_like_syslog(&whole[..cut]), Look::Unsure, "{}", whole[..cut].escape_ascii());
            }
            assert_eq!(looks_like_syslog(whole), Look::Yes);
        }
        assert_eq!(looks_like_syslog(b"<13>No\n"), Look::No);
        assert_eq!(looks_like_syslog(b"<13>x"), Look::No);
        assert_eq!(looks_like_syslog(b"<13>1 -yy"), Look::No);
        assert_eq!(looks_like_syslog(&[&b"<13>1 "[..], &[b'1'; 36]].concat()), Look::No);
    }

    proptest! {
        #[test]
        fn no_byte_of_the_text_is_lost_or_invented(bytes in "<[0-9]{1,3}>(1 |Nov 23 05:26:32 |)[ -~]{0,80}") {
            if let Some(parsed) = parse(bytes.as_bytes(), "2026-11-23T05:26:33Z") {
                prop_assert!(bytes.as_bytes().ends_with(parsed.text));
                prop_assert!(parsed.pri <= PRI_MAX);
                prop_assert!(parsed.tag.len() <= TAG_BYTES_MAX);
                prop_assert_eq!(looks_like_syslog(bytes.as_bytes()), Look::Yes);
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, "2026-11-23T05:26:33Z");
            let _ = looks_like_syslog(&bytes);
        }

        #[test]
        fn a_header_that_was_composed_is_parsed(
            pri in 0..=191u8, tag in "[a-zA-Z0-9_./-]{1,64}", pid in 1..u32::MAX, text in "[ -~]{0,100}",
        ) {
            let now = "2026-11-23T05:26:33Z";
            let old = format!("<{pri}>Nov 23 05:26:32 {tag}[{pid}]: {text}");
            let new = format!("<{pri}>1 2026-11-23T05:26:32Z h {tag} {pid} - - {text}");
            for bytes in [&old, &new] {
                let parsed = parse(bytes.as_bytes(), now).unwrap();
                if tag != "-" {
                    prop_assert_eq!(parsed.tag, tag.as_bytes());
                }
                prop_assert_eq!((parsed.pri, parsed.claimed_pid, parsed.text), (pri, pid, text.as_bytes()));
                prop_assert_eq!(parsed.source_time_ns, Some(at("2026-11-23T05:26:32Z")));
            }
        }
    }
}
