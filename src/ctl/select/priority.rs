//! Parses priorities by name or number, alone or as a range, as journalctl does.

use std::ops::RangeInclusive;

/// The names of the priorities in order, each with its other names.
const NAMES: [(&str, &[&str]); 8] = [
    ("emerg", &["emergency", "panic"]),
    ("alert", &[]),
    ("crit", &["critical"]),
    ("err", &["error"]),
    ("warning", &["warn"]),
    ("notice", &[]),
    ("info", &["information"]),
    ("debug", &[]),
];

/// The names, the most important first.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

/// The priority that `text` names.
///
/// # Errors
/// One line with what is allowed.
pub(crate) fn parse(text: &str) -> Result<u8, String> {
    let by_name = NAMES.iter().position(|(name, others)| {
        name.eq_ignore_ascii_case(text) || others.iter().any(|other| other.eq_ignore_ascii_case(text))
    });
    let number = || text.parse::<u8>().ok().filter(|number| *number < 8);
    by_name.map(|index| index as u8).or_else(number).ok_or_else(|| {
        format!(
            "'{}' is not a priority; allowed: 0..7 or emerg, alert, crit, err, warning, notice, info, debug",
            text.escape_default()
        )
    })
}

/// The priorities that `text` names: `A..B` in either order, or one priority for itself and all more important ones.
///
/// # Errors
/// One line with what is allowed.
pub(crate) fn parse_range(text: &str) -> Result<RangeInclusive<u8>, String> {
    match text.split_once("..") {
        None => Ok(0..=parse(text)?),
        Some((a, b)) => {
            let (a, b) = (parse(a)?, parse(b)?);
            Ok(a.min(b)..=a.max(b))
        }
    }
}

/// The number of `warning`.
pub(crate) const WARNING: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_priority_stands_for_all_that_are_more_important_and_a_range_for_itself() {
        assert_eq!(parse_range("err"), Ok(0..=3));
        assert_eq!(parse_range("7"), Ok(0..=7));
        assert_eq!(parse_range("warning..emerg"), Ok(0..=4));
        assert_eq!(parse_range("crit..5"), Ok(2..=5));
        assert_eq!(parse_range("Error..WARN"), Ok(3..=4));
        for wrong in ["8", "-1", "", "loud", "err..", "..", "1..9"] {
            assert!(parse_range(wrong).unwrap_err().contains("emerg"), "{wrong}");
        }
    }

    #[test]
    fn every_priority_is_read_back_from_its_name() {
        for priority in 0..8 {
            assert_eq!(parse(NAMES[usize::from(priority)].0), Ok(priority));
        }
    }
}
