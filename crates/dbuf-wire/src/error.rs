//! Says why bytes are not of this protocol. Input: a reason. Output: its text. Any thread. Failures: none.

use std::error::Error;
use std::fmt;

/// The bytes are not frames of this protocol; what follows them cannot be trusted.
///
/// ```
/// use dbuf_wire::frames::{Frame, Head};
///
/// let mut bytes = Vec::new();
/// Head { kind: 0x7F, ..Head::default() }.encode(&mut bytes);
/// assert_eq!(Frame::decode(&bytes).unwrap_err().to_string(), "a frame of unknown type");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireError(
    /// What is wrong with them.
    pub &'static str,
);

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for WireError {}
