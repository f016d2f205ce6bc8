//! Parses values of the command line that have no type of their own elsewhere.
//!
//! Input: one word. Output: a value, or one line that says what is allowed, which clap prints. Nothing else can fail.

use std::time::Duration;

use super::select::when;

/// Parses a field as journalctl does: a name of capital letters, digits and underscores, and its value.
pub(crate) fn field(text: &str) -> Result<(String, Vec<u8>), String> {
    as_field(text.as_bytes()).ok_or_else(|| {
        format!("'{}' is not FIELD=VALUE; a field's name has capitals, digits and _", text.escape_default())
    })
}

/// The field in `text`; None if it is not a field.
pub(crate) fn as_field(text: &[u8]) -> Option<(String, Vec<u8>)> {
    let equals = memchr::memchr(b'=', text)?;
    let is_plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    let name = std::str::from_utf8(&text[..equals])
        .ok()
        .filter(|name| !name.is_empty() && name.bytes().all(|b| is_plain(&b)))?;
    Some((name.to_owned(), text[equals + 1..].to_vec()))
}

/// A boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The running one.
    Current,
    /// The one with this id.
    Id(u128),
}

/// Parses a number of events, or `all`, as journalctl does.
pub(crate) fn lines(text: &str) -> Result<u64, String> {
    let all = (text == "all").then_some(u64::MAX);
    all.or_else(|| text.parse().ok()).ok_or_else(|| "allowed: a number of events, or all".to_owned())
}

pub(crate) fn boot(text: &str) -> Result<Boot, String> {
    if text.is_empty() || text == "0" {
        return Ok(Boot::Current);
    }
    parse_id(text).map(Boot::Id).ok_or_else(|| format!("'{}' is not a boot id of 32 hex digits", text.escape_default()))
}

/// An id of 128 bits in hexadecimal, with or without hyphens.
pub(crate) fn parse_id(text: &str) -> Option<u128> {
    let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
    let right = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    right.then(|| u128::from_str_radix(&digits, 16).ok()).flatten()
}

/// How often `--watch` prints.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    let span = when::parse_span(text).and_then(|span| Duration::try_from(span).ok());
    span.filter(|span| (Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(span))
        .ok_or_else(|| format!("'{}' is not a period from 0.1 to 86400 seconds", text.escape_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_read_with_and_without_hyphens() {
        let id = parse_id("0123456789abcdef0123456789abcdef");
        assert_eq!(parse_id("01234567-89ab-cdef-0123-456789abcdef"), id);
        assert_eq!(boot(""), Ok(Boot::Current));
        assert!(id.is_some() && boot("xyz").is_err());
    }
}
