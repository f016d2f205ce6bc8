//! Formats counts, bytes, times and texts for people: the one place that decides how a number looks.
//!
//! Input: a number or a text. Output: a short text. No thread, no state, no failures.

use std::fmt::Display;

use crate::escape::visible;

/// A whole number with a comma between each three digits.
pub(crate) fn count(number: impl Display) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// An amount of bytes in the unit that leaves one to four digits before the point.
pub(crate) fn bytes(number: u64) -> String {
    if number < 1024 {
        return format!("{number} B");
    }
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let (mut scaled, mut unit) = (number as f64, "B");
    while scaled >= 1024.0 {
        // The last unit holds every u64.
        (scaled, unit) = (scaled / 1024.0, units.next().unwrap_or(unit));
    }
    format!("{scaled:.1} {unit}")
}

/// Nanoseconds in the unit that fits.
pub(crate) fn nanos(number: u64) -> String {
    match number {
        0..1_000 => format!("{number} ns"),
        1_000..1_000_000 => format!("{:.1} us", number as f64 / 1e3),
        _ => micros(number / 1_000),
    }
}

/// Microseconds in the unit that fits.
pub(crate) fn micros(number: u64) -> String {
    match number {
        0..1_000 => format!("{number} us"),
        1_000..1_000_000 => format!("{:.1} ms", number as f64 / 1e3),
        _ => seconds(number as f64 / 1e6),
    }
}

/// Seconds; from a minute on, in the two largest units.
pub(crate) fn seconds(number: f64) -> String {
    let whole = number as u64;
    match whole {
        0..60 => format!("{number:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// The noun for `count` things.
pub(crate) fn plural(count: u64, noun: &str) -> String {
    if count == 1 { noun.to_owned() } else { format!("{noun}s") }
}

/// `part` of `whole`; 0 of nothing.
pub(crate) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// A bar of at most `columns` columns; anything above zero gets one.
pub(crate) fn bar(part: u64, whole: u64, columns: usize) -> String {
    "#".repeat((ratio(part as f64, whole as f64) * columns as f64).ceil() as usize)
}

/// `text` without control bytes, in at most `columns` characters.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    let visible = visible(text);
    if visible.chars().count() <= columns {
        return visible;
    }
    visible.chars().take(columns - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_a_comma_at_each_thousand() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(count(1_234_567.0), "1,234,567");
        assert_eq!([plural(1, "file"), plural(2, "file")], ["file", "files"]);
    }

    #[test]
    fn bytes_have_the_unit_that_fits() {
        let shown = [0, 1023, 1536, 8 << 20, 5 << 40, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.5 KiB", "8.0 MiB", "5.0 TiB", "16.0 EiB"]);
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        assert_eq!([0, 999, 1500, 7_200_000].map(nanos), ["0 ns", "999 ns", "1.5 us", "7.2 ms"]);
        assert_eq!([320, 7200, 61_000_000].map(micros), ["320 us", "7.2 ms", "1 min 01 s"]);
        assert_eq!([1.25, 3700.0, 93784.0].map(seconds), ["1.2 s", "1 h 01 min", "1 d 02 h"]);
    }

    #[test]
    fn a_text_is_clipped_and_a_bar_is_never_longer_than_its_room() {
        assert_eq!([fit("abcde", 5), fit("abcdef", 5), fit("a\u{1b}b", 9)], ["abcde", "abcd…", "a\\x1bb"]);
        assert_eq!([bar(0, 9, 4), bar(1, 9, 4), bar(9, 9, 4), bar(0, 0, 4)], ["", "#", "####", ""]);
    }
}
