//! Writes times as text, in the reader's time zone.
//!
//! Calendar arithmetic costs far more than a record, and successive events usually share their second, so the text of
//! the last second is cached.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const SECOND_NS: u64 = 1_000_000_000;

/// The style of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `Nov 23 05:13:16`
    Short,
    /// `Nov 23 05:13:16.123456`
    Precise,
    /// `2026-11-23T05:13:16+01:00`
    Iso,
    /// `Mon 2026-11-23 05:13:16.123456789 CET`
    Full,
}

impl Style {
    /// The text before the fraction of the second, the number of its digits, and the text after it.
    fn parts(self) -> (&'static str, usize, &'static str) {
        match self {
            Self::Short => ("%b %d %H:%M:%S", 0, ""),
            Self::Precise => ("%b %d %H:%M:%S.", 6, ""),
            Self::Iso => ("%Y-%m-%dT%H:%M:%S%:z", 0, ""),
            Self::Full => ("%a %Y-%m-%d %H:%M:%S.", 9, " %Z"),
        }
    }
}

/// A time as the calendar has it. Every 64-bit number of nanoseconds is in the calendar: the last is in 2554.
pub(crate) fn timestamp(ns: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default()
}

/// Turns times into text.
#[derive(Debug)]
pub(super) struct Clock {
    zone: TimeZone,
    style: Style,
    second: Option<u64>,
    before: String,
    after: String,
}

impl Clock {
    pub(super) fn new(zone: TimeZone, style: Style) -> Self {
        Self { zone, style, second: None, before: String::new(), after: String::new() }
    }

    /// Appends the time `ns`.
    pub(super) fn put(&mut self, out: &mut Vec<u8>, ns: u64) {
        let (before, digits, after) = self.style.parts();
        let second = ns / SECOND_NS;
        if self.second != Some(second) {
            let time = timestamp(second * SECOND_NS).to_zoned(self.zone.clone());
            self.before = time.strftime(before).to_string();
            self.after = time.strftime(after).to_string();
            self.second = Some(second);
        }
        out.extend_from_slice(self.before.as_bytes());
        if digits > 0 {
            let fraction = format!("{:09}", ns % SECOND_NS);
            out.extend_from_slice(&fraction.as_bytes()[..digits]);
        }
        out.extend_from_slice(self.after.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(style: Style, ns: &[u64]) -> Vec<String> {
        let mut clock = Clock::new(TimeZone::get("Europe/Berlin").unwrap(), style);
        let text = |&ns: &u64| {
            let mut out = Vec::new();
            clock.put(&mut out, ns);
            String::from_utf8(out).unwrap()
        };
        ns.iter().map(text).collect()
    }

    #[test]
    fn each_style_is_that_of_journalctl() {
        let ns = 1_795_410_796_000_000_000 + 23_456_789;
        assert_eq!(shown(Style::Short, &[ns]), ["Nov 23 06:13:16"]);
        assert_eq!(shown(Style::Precise, &[ns]), ["Nov 23 06:13:16.023456"]);
        assert_eq!(shown(Style::Iso, &[ns]), ["2026-11-23T06:13:16+01:00"]);
        assert_eq!(shown(Style::Full, &[ns]), ["Mon 2026-11-23 06:13:16.023456789 CET"]);
    }

    #[test]
    fn a_kept_second_is_not_shown_for_another() {
        let second = 1_795_410_796 * SECOND_NS;
        let times = [second, second + 999_999_999, second + SECOND_NS, second, 0, u64::MAX];
        let texts = shown(Style::Precise, &times);
        assert_eq!(texts[1], "Nov 23 06:13:16.999999");
        assert_eq!(texts[2], "Nov 23 06:13:17.000000");
        assert_eq!(texts[3], texts[0]);
        assert_eq!(texts[4], "Jan 01 01:00:00.000000");
    }
}
