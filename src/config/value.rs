//! Holds a value as written in a file or a flag, and checks it against its bounds.
//!
//! Input: TOML. Output: numbers and names within bounds, and the sentence that states the bounds. Any thread. Failures:
//! None for a value out of bounds; [`Key::set`](super::keys::Key::set) words the error.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::settings::Cpus;
use super::units::{format_duration, format_size, parse_amount, parse_duration, parse_size, quoted};
use crate::options::Amount;

/// The highest core number that is accepted: the kernel's own limit.
const CORE_MAX: usize = 8191;

/// A value before its key is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer's digits and their base.
    Integer(String, u32),
    /// A boolean.
    Bool(bool),
    /// A list.
    List(Vec<Self>),
    /// A kind that no key takes, by its name.
    Other(&'static str),
}

impl Value {
    /// What the TOML parser found.
    #[must_use]
    pub fn new(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.clone().into_owned()),
            DeValue::Integer(integer) => Self::Integer(integer.as_str().to_owned(), integer.radix()),
            DeValue::Boolean(value) => Self::Bool(*value),
            DeValue::Array(list) => Self::List(list.iter().map(|value| Self::new(value.get_ref())).collect()),
            DeValue::Float(_) => Self::Other("a number with a fraction"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    /// Parses TOML; None if it is invalid.
    #[must_use]
    pub fn from_toml(text: &str) -> Option<Self> {
        DeValue::parse(text).ok().map(|value| Self::new(value.get_ref()))
    }

    /// Parses a flag: as TOML if it begins like a list or a string, otherwise as plain text. A shell then needs no
    /// second pair of quotes.
    #[must_use]
    pub fn from_flag(text: &str) -> Self {
        let toml = text.starts_with(['[', '"', '\'']).then(|| Self::from_toml(text)).flatten();
        toml.unwrap_or_else(|| match text {
            "true" => Self::Bool(true),
            "false" => Self::Bool(false),
            _ => Self::Text(text.to_owned()),
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&quoted(&shortened(text))),
            Self::Integer(digits, 8) => write!(f, "0o{}", shortened(digits)),
            Self::Integer(digits, 16) => write!(f, "0x{}", shortened(digits)),
            Self::Integer(digits, 2) => write!(f, "0b{}", shortened(digits)),
            Self::Integer(digits, _) => f.write_str(&shortened(digits)),
            Self::Bool(value) => write!(f, "{value}"),
            Self::List(list) => write!(f, "a list of {}", list.len()),
            Self::Other(kind) => f.write_str(kind),
        }
    }
}

fn shortened(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bounds {
    /// Bytes.
    Size {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// Whether "none" is allowed too.
        none: bool,
    },
    /// Nanoseconds.
    Duration {
        /// The shortest.
        min_ns: u64,
        /// The longest.
        max_ns: u64,
        /// Whether "none" is allowed too.
        none: bool,
    },
    /// Bytes, or percent up to 100, or "none".
    Amount {
        /// The least, as bytes.
        min_bytes: u64,
        /// The least, in percent.
        min_percent: f64,
    },
    /// A number.
    Number {
        /// The least.
        min: usize,
        /// The most.
        max: usize,
        /// Whether "none" is allowed too.
        none: bool,
    },
    /// "auto" or a number.
    Count {
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// "auto", "none", a core or a list of cores.
    Cores,
    /// "auto", "none" or a core.
    Core,
    /// Permission bits.
    Mode,
    /// A group, or "none".
    Group,
    /// An absolute path.
    Path,
    /// One of these.
    Choice(&'static [&'static str]),
    /// "never", "batch" or an interval in nanoseconds.
    Sync {
        /// The shortest interval.
        min_ns: u64,
        /// The longest interval.
        max_ns: u64,
    },
    /// true or false.
    Bool,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ns| format_duration(Duration::from_nanos(ns));
        let or = |none| if none { "\"none\" or " } else { "" };
        match *self {
            Self::Size { min, max, none } => {
                write!(f, "{}a size from \"{}\" to \"{}\"", or(none), format_size(min), format_size(max))
            }
            Self::Duration { min_ns, max_ns, none } => {
                write!(f, "{}a duration from \"{}\" to \"{}\"", or(none), time(min_ns), time(max_ns))
            }
            Self::Amount { min_bytes, min_percent } => {
                let bytes = format_size(min_bytes);
                write!(f, "\"none\", a share from \"{min_percent}%\" to \"100%\" or a size from \"{bytes}\"")
            }
            Self::Number { min, max, none } => write!(f, "{}a number from {min} to {max}", or(none)),
            Self::Count { min, max } => write!(f, "\"auto\" or a number from {min} to {max}"),
            Self::Cores => f.write_str("\"auto\", \"none\", a core such as 0 or a list of cores such as [0, 1]"),
            Self::Core => f.write_str("\"auto\", \"none\" or a core such as 0"),
            Self::Mode => f.write_str("octal permission bits from \"0000\" to \"0777\""),
            Self::Group => f.write_str("\"none\", or a group's name or number in quotes"),
            Self::Path => f.write_str("an absolute path"),
            Self::Choice(names) => {
                let (last, first) = names.split_last().unwrap_or((&"", &[]));
                let first: Vec<String> = first.iter().map(|name| quoted(name)).collect();
                write!(f, "{} or {}", first.join(", "), quoted(last))
            }
            Self::Sync { min_ns, max_ns } => {
                let (min, max) = (time(min_ns), time(max_ns));
                write!(f, "\"never\", \"batch\" or an interval such as \"1s\" (from \"{min}\" to \"{max}\")")
            }
            Self::Bool => f.write_str("true or false"),
        }
    }
}

/// A value on its way into a key. Each method returns None for a value outside the bounds.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    pub(super) value: &'a Value,
    pub(super) bounds: Bounds,
}

impl Given<'_> {
    /// The text of a string.
    pub(super) fn text(&self) -> Option<&str> {
        match self.value {
            Value::Text(text) => Some(text.trim()),
            _ => None,
        }
    }

    fn is(&self, word: &str) -> bool {
        self.text() == Some(word)
    }

    pub(super) fn size(&self) -> Option<u64> {
        let Bounds::Size { min, max, .. } = self.bounds else { return None };
        let bytes = match self.value {
            Value::Integer(digits, radix) => u64::from_str_radix(digits, *radix).ok()?,
            _ => parse_size(self.text()?)?,
        };
        (min..=max).contains(&bytes).then_some(bytes)
    }

    pub(super) fn duration(&self) -> Option<Duration> {
        let (Bounds::Duration { min_ns, max_ns, .. } | Bounds::Sync { min_ns, max_ns }) = self.bounds else {
            return None;
        };
        let duration = match self.value {
            // Zero needs no unit, with or without quotes.
            Value::Integer(digits, _) if digits == "0" => Duration::ZERO,
            _ => parse_duration(self.text()?)?,
        };
        let bounds = Duration::from_nanos(min_ns)..=Duration::from_nanos(max_ns);
        bounds.contains(&duration).then_some(duration)
    }

    /// None if the value is "none", else what `read` reads.
    pub(super) fn or_none<T>(&self, read: impl FnOnce(&Self) -> Option<T>) -> Option<Option<T>> {
        if self.is("none") { Some(None) } else { read(self).map(Some) }
    }

    pub(super) fn amount(&self) -> Option<Option<Amount>> {
        let Bounds::Amount { min_bytes, min_percent } = self.bounds else { return None };
        if self.is("none") {
            return Some(None);
        }
        let amount = match self.value {
            Value::Integer(digits, radix) => Amount::Bytes(u64::from_str_radix(digits, *radix).ok()?),
            _ => parse_amount(self.text()?)?,
        };
        let allowed = match amount {
            Amount::Bytes(bytes) => bytes >= min_bytes,
            Amount::Percent(percent) => (min_percent..=100.0).contains(&percent),
        };
        allowed.then_some(Some(amount))
    }

    /// A plain number, with or without quotes.
    fn number(value: &Value) -> Option<usize> {
        match value {
            Value::Integer(digits, radix) => usize::from_str_radix(digits, *radix).ok(),
            Value::Text(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        }
    }

    pub(super) fn number_within(&self) -> Option<usize> {
        let Bounds::Number { min, max, .. } = self.bounds else { return None };
        Self::number(self.value).filter(|number| (min..=max).contains(number))
    }

    pub(super) fn count(&self) -> Option<Option<usize>> {
        let Bounds::Count { min, max } = self.bounds else { return None };
        if self.is("auto") {
            return Some(None);
        }
        let count = Self::number(self.value)?;
        (min..=max).contains(&count).then_some(Some(count))
    }

    pub(super) fn cores(&self) -> Option<Cpus> {
        let core = |value: &Value| Self::number(value).filter(|&core| core <= CORE_MAX);
        match self.value {
            Value::List(list) if self.bounds == Bounds::Cores && !list.is_empty() => {
                list.iter().map(core).collect::<Option<Vec<_>>>().map(Cpus::List)
            }
            _ if self.is("auto") => Some(Cpus::Auto),
            _ if self.is("none") => Some(Cpus::None),
            one => core(one).map(|core| Cpus::List(vec![core])),
        }
    }

    pub(super) fn mode(&self) -> Option<u32> {
        let mode = match self.value {
            Value::Integer(digits, 8) => u32::from_str_radix(digits, 8).ok()?,
            // A decimal integer is refused: 666 without quotes would not mean octal 666.
            _ => {
                let text = self.text()?;
                let octal = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
                u32::from_str_radix(text, 8).ok().filter(|_| octal)?
            }
        };
        (mode <= 0o777).then_some(mode)
    }

    pub(super) fn name(&self) -> Option<Option<String>> {
        let text = self.text()?;
        let sane = !text.is_empty() && text.len() <= 64 && !text.contains(['\0', ':', '/', '\n']);
        if self.is("none") { Some(None) } else { sane.then(|| Some(text.to_owned())) }
    }

    pub(super) fn path(&self) -> Option<PathBuf> {
        match self.value {
            Value::Text(text) if text.starts_with('/') && !text.contains('\0') => Some(PathBuf::from(text)),
            _ => None,
        }
    }

    pub(super) fn choice(&self) -> Option<&'static str> {
        let Bounds::Choice(names) = self.bounds else { return None };
        names.iter().copied().find(|name| self.is(name))
    }

    pub(super) fn bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(value: &Value, bounds: Bounds) -> Given<'_> {
        Given { value, bounds }
    }

    #[test]
    fn permission_bits_are_octal_and_a_decimal_number_is_not_taken_for_them() {
        let mode = |value: Value| given(&value, Bounds::Mode).mode();
        assert_eq!(mode(Value::Text("0660".into())), Some(0o660));
        assert_eq!(mode(Value::Text("660".into())), Some(0o660));
        assert_eq!(mode(Value::from_toml("0o660").unwrap()), Some(0o660));
        assert_eq!(mode(Value::from_toml("660").unwrap()), None);
        assert_eq!(mode(Value::Text("1777".into())), None);
        assert_eq!(mode(Value::Text("+7".into())), None);
    }

    #[test]
    fn cores_are_a_word_a_number_or_a_list() {
        let cores = |text: &str| given(&Value::from_flag(text), Bounds::Cores).cores();
        assert_eq!(cores("auto"), Some(Cpus::Auto));
        assert_eq!(cores("none"), Some(Cpus::None));
        assert_eq!(cores("3"), Some(Cpus::List(vec![3])));
        assert_eq!(cores("[0, 2]"), Some(Cpus::List(vec![0, 2])));
        assert_eq!(cores("[]"), None);
        assert_eq!(cores("[0, \"x\"]"), None);
        assert_eq!(cores("99999"), None);
        let one = given(&Value::from_flag("[0, 1]"), Bounds::Core).cores();
        assert_eq!(one, None, "the reader has one core");
    }

    #[test]
    fn bounds_hold_at_their_edges() {
        let bounds = Bounds::Size { min: 10, max: 20, none: false };
        let size = |n: u32| given(&Value::Integer(n.to_string(), 10), bounds).size();
        assert_eq!([size(9), size(10), size(20), size(21)], [None, Some(10), Some(20), None]);
        let bounds = Bounds::Duration { min_ns: 0, max_ns: 1000, none: false };
        let duration = |text: &str| given(&Value::from_flag(text), bounds).duration();
        assert_eq!(duration("0"), Some(Duration::ZERO));
        assert_eq!(duration("1us"), Some(Duration::from_micros(1)));
        assert_eq!(duration("1001ns"), None);
    }

    #[test]
    fn a_value_in_an_error_is_short_and_has_no_control_bytes() {
        let shown = Value::Text(format!("a\n\u{1b}{}", "x".repeat(500))).to_string();
        assert!(shown.len() < 100 && !shown.contains(char::is_control), "{shown}");
    }
}
