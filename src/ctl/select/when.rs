//! Parses points in time as `systemd.time(7)` and journalctl do.
//!
//! Input: text and the present time in a time zone. Output: nanoseconds of the wall clock. Failures: the text.
//!
//! `now` `today` `yesterday` `tomorrow` · `@SECONDS` · `-10min` `+3h30min` `2 days ago` · `2026-11-23` `11:12`
//! `2026-11-23 11:12:13.5` `Mon 2026-11-23 11:12` · any of the absolute forms with a zone: `UTC`, `Europe/Berlin`, or
//! an offset as in `2026-11-23T11:12:13+01:00`.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

const EXAMPLES: &str =
    "try '2026-11-23 11:12', '11:12', '-10min', '2 days ago', today, yesterday, now or '@1395716396'";

/// The point in time that `text` names, relative to `now`, in nanoseconds of the wall clock. Times before 1970 become
/// 1970.
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub(crate) fn parse(text: &str, now: &Zoned) -> Result<u64, String> {
    let found = relative(text, now).or_else(|| absolute(text, now));
    let time = found.ok_or_else(|| format!("'{}' is not a point in time; {EXAMPLES}", text.escape_default()))?;
    Ok(u64::try_from(time.as_nanosecond()).unwrap_or(0))
}

/// The length of time that `text` names, such as `10min` or `1h 30s`; a bare number is seconds.
#[must_use]
pub(crate) fn parse_span(text: &str) -> Option<SignedDuration> {
    let mut rest = text.trim();
    let mut total = 0i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let tail = tail.trim_start();
        let unit_end = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total = total.checked_add(scaled(number, unit_ns(unit)?)?)?;
        rest = tail.trim_start();
    }
    let seconds = i64::try_from(total / 1_000_000_000).ok()?;
    Some(SignedDuration::new(seconds, (total % 1_000_000_000) as i32))
}

/// The units of `systemd.time(7)`; a month is 30.44 days and a year 365.25, as there.
fn unit_ns(unit: &str) -> Option<i128> {
    const SECOND: i128 = 1_000_000_000;
    Some(match unit {
        "ns" | "nsec" => 1,
        "us" | "usec" | "µs" | "μs" => 1_000,
        "ms" | "msec" => 1_000_000,
        "" | "s" | "sec" | "second" | "seconds" => SECOND,
        "m" | "min" | "minute" | "minutes" => 60 * SECOND,
        "h" | "hr" | "hour" | "hours" => 3600 * SECOND,
        "d" | "day" | "days" => 86_400 * SECOND,
        "w" | "week" | "weeks" => 7 * 86_400 * SECOND,
        "M" | "month" | "months" => 2_629_800 * SECOND,
        "y" | "year" | "years" => 31_557_600 * SECOND,
        _ => return None,
    })
}

/// A decimal number times `unit`, without the rounding of a float.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    let mut digit_unit = unit;
    for digit in fraction.chars() {
        digit_unit /= 10;
        total = total.checked_add(i128::from(digit.to_digit(10)?) * digit_unit)?;
    }
    Some(total)
}

fn relative(text: &str, now: &Zoned) -> Option<Timestamp> {
    let text = text.trim();
    let (span, past) = if let Some(span) = text.strip_prefix('-') {
        (span, true)
    } else if let Some(span) = text.strip_prefix('+') {
        (span, false)
    } else if let Some(span) = text.strip_suffix(" ago") {
        (span, true)
    } else if let Some(seconds) = text.strip_prefix('@') {
        return Timestamp::UNIX_EPOCH.checked_add(parse_seconds(seconds)?).ok();
    } else {
        (text.strip_suffix(" left")?, false)
    };
    let span = parse_span(span)?;
    let now = now.timestamp();
    // Beyond the calendar's range, the earliest or latest time is used.
    Some(if past { now.saturating_sub(span).ok()? } else { now.saturating_add(span).ok()? })
}

fn parse_seconds(text: &str) -> Option<SignedDuration> {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then(|| parse_span(text))?
}

fn absolute(text: &str, now: &Zoned) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    match text.rsplit_once(' ') {
        Some((rest, name)) if name.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            civil(rest, &now.with_time_zone(TimeZone::get(name).ok()?))
        }
        _ => civil(text, now),
    }
}

fn civil(text: &str, now: &Zoned) -> Option<Timestamp> {
    let today = now.date();
    let (weekday, text) = match text.split_once(' ') {
        Some((word, rest)) if word.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            (Some(weekday(word)?), rest.trim())
        }
        _ => (None, text),
    };
    let date_time = match text {
        "now" => return Some(now.timestamp()),
        "today" => today.into(),
        "yesterday" => today.checked_sub(1.day()).ok()?.into(),
        "tomorrow" => today.checked_add(1.day()).ok()?.into(),
        _ => date_time(text, today)?,
    };
    if weekday.is_some_and(|day| day != date_time.weekday()) {
        return None;
    }
    now.time_zone().to_timestamp(date_time).ok()
}

fn date_time(text: &str, today: Date) -> Option<DateTime> {
    // The time parser would also extract the time from a text with a date.
    if !text.contains('-') {
        return text.parse::<Time>().ok().map(|time| today.to_datetime(time));
    }
    // A year of two digits is in this century.
    let long = text.as_bytes().get(2).filter(|&&byte| byte == b'-').map(|_| format!("20{text}"));
    let text = long.as_deref().unwrap_or(text);
    text.parse::<DateTime>().ok().or_else(|| text.parse::<Date>().ok().map(DateTime::from))
}

fn weekday(word: &str) -> Option<Weekday> {
    const DAYS: [(&str, Weekday); 7] = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let word = word.to_ascii_lowercase();
    DAYS.iter().find(|(name, _)| word == *name || word == name[..3]).map(|&(_, day)| day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday noon in Berlin, one hour ahead of UTC.
    fn now() -> Zoned {
        "2026-11-23T12:00:00+01:00[Europe/Berlin]".parse().unwrap()
    }

    fn shown(text: &str) -> String {
        let ns = parse(text, &now()).unwrap_or_else(|error| panic!("{error}"));
        Timestamp::from_nanosecond(i128::from(ns)).unwrap().to_string()
    }

    #[test]
    fn every_form_of_systemd_time_is_read() {
        for (text, expected) in [
            ("now", "2026-11-23T11:00:00Z"),
            ("today", "2026-11-22T23:00:00Z"),
            ("yesterday", "2026-11-21T23:00:00Z"),
            ("tomorrow", "2026-11-23T23:00:00Z"),
            ("today UTC", "2026-11-23T00:00:00Z"),
            ("2012-11-23", "2012-11-22T23:00:00Z"),
            ("12-11-23", "2012-11-22T23:00:00Z"),
            ("2012-11-23 11:12", "2012-11-23T10:12:00Z"),
            ("2012-11-23 11:12:13", "2012-11-23T10:12:13Z"),
            ("2012-11-23 11:12:13.9900009", "2012-11-23T10:12:13.9900009Z"),
            ("Fri 2012-11-23 11:12:13", "2012-11-23T10:12:13Z"),
            ("2012-11-23 11:12:13 UTC", "2012-11-23T11:12:13Z"),
            ("2012-11-23 11:12 America/New_York", "2012-11-23T16:12:00Z"),
            ("2012-11-23T11:12:13Z", "2012-11-23T11:12:13Z"),
            ("2012-11-23T11:12:13+02:00", "2012-11-23T09:12:13Z"),
            ("11:12", "2026-11-23T10:12:00Z"),
            ("11:12:13", "2026-11-23T10:12:13Z"),
            ("-10min", "2026-11-23T10:50:00Z"),
            ("-10", "2026-11-23T10:59:50Z"),
            ("+3h30min", "2026-11-23T14:30:00Z"),
            ("11min ago", "2026-11-23T10:49:00Z"),
            ("2 days ago", "2026-11-21T11:00:00Z"),
            ("2 h left", "2026-11-23T13:00:00Z"),
            ("-1.5h", "2026-11-23T09:30:00Z"),
            ("-300ms20s 5day", "2026-11-18T10:59:39.7Z"),
            ("@1395716396", "2014-03-25T02:59:56Z"),
            ("@1395716396.000000001", "2014-03-25T02:59:56.000000001Z"),
            ("-100y", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_examples() {
        for text in
            ["", "soon", "-", "+", "@", "-10parsecs", "2012-13-01", "25:00", "Mon 2012-11-23", "1 2 3", "@-5", "-."]
        {
            let error = parse(text, &now()).unwrap_err();
            assert!(error.contains("-10min"), "{text}: {error}");
        }
    }

    #[test]
    fn a_number_too_large_for_the_calendar_is_no_panic() {
        let _ = parse("-99999999999999999999999999999999999999y", &now());
        let _ = parse("@9999999999999999", &now());
        assert_eq!(shown("-9000000000000"), "1970-01-01T00:00:00Z");
    }
}
