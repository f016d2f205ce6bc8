//! Parses and writes sizes, durations and shares: `"8MiB"`, `"1h30min"`, `"10%"`.
//!
//! Input: text from a file, a flag or dbufctl's command line. Output: numbers in base units, and text that reads back
//! as the same number. Any thread. Failures: None for text that cannot be parsed; the caller words the error.

use std::time::Duration;

use crate::options::Amount;

/// Binary units come first, so that a size that fits both kinds is written in the one that people use for memory. A
/// single letter is binary, as in systemd's own files.
const SIZES: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("KB", 1_000),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
    ("K", 1 << 10),
    ("B", 1),
    ("", 1),
];

/// In nanoseconds. If a unit has several names, the first is the one that is written.
const DURATIONS: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("days", 86_400_000_000_000),
    ("day", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("sec", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a size: a number, with a unit or in bytes.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text.trim())?;
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit.trim())?;
    scale(number, *factor)
}

/// Writes a size in the largest unit that leaves no remainder.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let fits = |(name, factor): &&(&str, u64)| bytes != 0 && !name.is_empty() && bytes.is_multiple_of(*factor);
    match SIZES.iter().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// Reads a duration: one or more numbers, each with a unit. Zero needs no unit.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u64 = 0;
    while !rest.is_empty() || text.trim().is_empty() {
        let (number, after) = split_number(rest)?;
        let after = after.trim_start();
        let unit_len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (_, factor) = DURATIONS.iter().find(|(name, _)| *name == &after[..unit_len])?;
        total = total.checked_add(scale(number, *factor)?)?;
        rest = after[unit_len..].trim_start();
    }
    Some(Duration::from_nanos(total))
}

/// Writes a duration in the largest unit that leaves no remainder.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let plain = ["d", "h", "min", "s", "ms", "us", "ns"];
    let fits = |(name, factor): &&(&str, u64)| ns != 0 && plain.contains(name) && ns.is_multiple_of(*factor);
    match DURATIONS.iter().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", ns / factor),
        None => "0s".to_owned(),
    }
}

/// Reads a share of a file system or a size.
#[must_use]
pub fn parse_amount(text: &str) -> Option<Amount> {
    match text.trim().strip_suffix('%') {
        // Only digits are passed on: Rust parses `nan` and `inf` as floats, but they are no shares.
        Some(share) => match split_number(share.trim())? {
            (number, "") => number.parse().ok().map(Amount::Percent),
            _ => None,
        },
        None => parse_size(text).map(Amount::Bytes),
    }
}

/// Writes a share of a file system or a size.
#[must_use]
pub fn format_amount(amount: Amount) -> String {
    match amount {
        Amount::Bytes(bytes) => format_size(bytes),
        Amount::Percent(percent) => format!("{percent}%"),
    }
}

/// `text` as a TOML string. Nothing in it can end the line or reach a terminal as a control byte.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The number at the start of `text`, digits with at most one point between them, and what follows it.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let points = number.bytes().filter(|&byte| byte == b'.').count();
    let edges_are_digits = !number.is_empty() && !number.starts_with('.') && !number.ends_with('.');
    (edges_are_digits && points <= 1).then_some((number, rest))
}

/// `number`, which may have a fraction, times `factor`; None if that is beyond 64 bits.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    // Nine digits are exact in 128 bits for every unit above. Further digits are below one nanosecond or byte.
    let digits = &fraction[..fraction.len().min(9)];
    let part = if digits.is_empty() {
        0
    } else {
        digits.parse::<u128>().ok()? * u128::from(factor) / 10u128.pow(u32::try_from(digits.len()).ok()?)
    };
    whole.checked_mul(factor)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let good = [
            ("8MiB", 8 << 20),
            ("8 MiB", 8 << 20),
            ("64KiB", 64 << 10),
            ("1.5GiB", 3 << 29),
            ("10kB", 10_000),
            ("2G", 2 << 30),
            ("100", 100),
            ("100B", 100),
            ("0", 0),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "MiB", "8mib", "8 XB", "-1", "1.2.3MB", ".5MB", "5.MB", "99999999999TiB", "8MiB8", "1e3"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        let ms = Duration::from_millis;
        let good = [
            ("2ms", ms(2)),
            ("1s", ms(1000)),
            ("5min", ms(300_000)),
            ("1d", ms(86_400_000)),
            ("1h30min", ms(5_400_000)),
            ("1h 30min", ms(5_400_000)),
            ("0.5s", ms(500)),
            ("0", ms(0)),
            ("2w", ms(14 * 86_400_000)),
        ];
        for (text, duration) in good {
            assert_eq!(parse_duration(text), Some(duration), "{text}");
        }
        for bad in ["", " ", "5", "s", "1 s s", "-1s", "1y", "often", "99999999999d"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn shares_are_numbers_and_nothing_else() {
        assert_eq!(parse_amount("10%"), Some(Amount::Percent(10.0)));
        assert_eq!(parse_amount("2.5 %"), Some(Amount::Percent(2.5)));
        assert_eq!(parse_amount("1GiB"), Some(Amount::Bytes(1 << 30)));
        for bad in ["%", "nan%", "inf%", "-1%", "1e9%", "10%%"] {
            assert_eq!(parse_amount(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_the_same_number(bytes: u64, ns: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn no_text_makes_the_readers_panic(text: String) {
            let _ = (parse_size(&text), parse_duration(&text), parse_amount(&text));
        }
    }
}
