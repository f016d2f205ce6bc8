//! Names the place of one event. It stays valid as long as the event exists, across rotation and copies of the files.
//!
//! `s=STREAM;n=SEQUENCE`, both hexadecimal. The stream is the random id that all segments of a directory share.

use std::fmt;
use std::str::FromStr;

/// The place of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The id of the stream of segments.
    pub stream: u128,
    /// The event's sequence.
    pub sequence: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s={:032x};n={:x}", self.stream, self.sequence)
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (stream, sequence) = text.trim().strip_prefix("s=")?.split_once(";n=")?;
            let hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if stream.len() != 32 || !hex(stream) || !hex(sequence) {
                return None;
            }
            Some(Self {
                stream: u128::from_str_radix(stream, 16).ok()?,
                sequence: u64::from_str_radix(sequence, 16).ok()?,
            })
        };
        let wrong = || format!("'{}' is not a cursor; take one from __CURSOR of '-o json'", text.escape_default());
        parts().ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_as_it_was_printed() {
        let cursor = Cursor { stream: 0xab << 92, sequence: 0x2a };
        assert_eq!(cursor.to_string(), "s=0000000ab00000000000000000000000;n=2a");
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let stream = "0000000ab00000000000000000000000";
        for wrong in
            ["", "s=1;n=2", "x", &format!("s={stream};n="), &format!("s={stream};n=g"), &format!("s={stream};n=+1")]
        {
            assert!(wrong.parse::<Cursor>().is_err(), "{wrong}");
        }
    }
}
