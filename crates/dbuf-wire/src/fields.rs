//! Encodes and decodes fields: names and values next to an event's payload, in frames, in rings and in files.
//!
//! Input: names and values, or bytes. Output: bytes, or names and values. Any thread. Failures: bytes that are not
//! fields, with [`WireError`]; a field that does not fit, which changes nothing.
//!
//! A field is the length of its name (u8), the length of its value (u32, little-endian), the name, the value.

use crate::WireError;
use crate::numbers::{FIELD_NAME_BYTES_MAX, FIELDS_BYTES_MAX};

/// The length before an event's fields.
pub const FIELDS_LENGTH_BYTES: usize = 4;
const FIELD_HEAD_BYTES: usize = 5;

/// Adds one field to an event's fields.
///
/// Returns false, and adds nothing, if the name is empty or longer than [`FIELD_NAME_BYTES_MAX`], or if the fields
/// would take more than [`FIELDS_BYTES_MAX`].
///
/// ```
/// let mut fields = Vec::new();
/// assert!(dbuf_wire::fields::put_field(&mut fields, b"ORDER", b"17"));
/// assert!(!dbuf_wire::fields::put_field(&mut fields, b"", b"a field without a name"));
/// ```
pub fn put_field(fields: &mut Vec<u8>, name: &[u8], value: &[u8]) -> bool {
    let bytes = FIELD_HEAD_BYTES + name.len() + value.len();
    if name.is_empty() || name.len() > FIELD_NAME_BYTES_MAX || fields.len() + bytes > FIELDS_BYTES_MAX {
        return false;
    }
    fields.push(name.len() as u8);
    fields.extend_from_slice(&(value.len() as u32).to_le_bytes());
    fields.extend_from_slice(name);
    fields.extend_from_slice(value);
    true
}

/// The fields in `bytes`: name and value. Ends early where they are cut off.
///
/// ```
/// use dbuf_wire::fields::{fields, put_field};
///
/// let mut bytes = Vec::new();
/// put_field(&mut bytes, b"ORDER", b"17");
/// assert_eq!(fields(&bytes).next(), Some((&b"ORDER"[..], &b"17"[..])));
/// ```
pub fn fields(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (field, behind) = first(rest)?;
        rest = behind;
        Some(field)
    })
}

type Field<'a> = (&'a [u8], &'a [u8]);

fn first(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<FIELD_HEAD_BYTES>()?;
    let (name, rest) = rest.split_at_checked(usize::from(head[0]))?;
    let value_bytes = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let (value, rest) = rest.split_at_checked(value_bytes as usize)?;
    (!name.is_empty() && name.len() <= FIELD_NAME_BYTES_MAX).then_some(((name, value), rest))
}

/// Splits what follows the tag of an event with fields into the fields and the payload.
///
/// # Errors
/// [`WireError`] if they are cut off, too long, or no fields.
///
/// ```
/// use dbuf_wire::fields::{put_field, split_fields};
///
/// let mut fields = Vec::new();
/// put_field(&mut fields, b"ORDER", b"17");
/// let bytes = [&(fields.len() as u32).to_le_bytes()[..], &fields, b"card refused"].concat();
/// assert_eq!(split_fields(&bytes)?, (&fields[..], &b"card refused"[..]));
/// # Ok::<(), dbuf_wire::WireError>(())
/// ```
pub fn split_fields(bytes: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let (length, rest) =
        bytes.split_first_chunk::<FIELDS_LENGTH_BYTES>().ok_or(WireError("an event whose fields are cut off"))?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > FIELDS_BYTES_MAX {
        return Err(WireError("an event whose fields are longer than 16 KiB"));
    }
    let (all, payload) = rest.split_at_checked(length).ok_or(WireError("an event whose fields are cut off"))?;
    let mut left = all;
    while !left.is_empty() {
        left = first(left).ok_or(WireError("an event whose fields are no fields"))?.1;
    }
    Ok((all, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<u8> {
        let mut all = Vec::new();
        assert!(put_field(&mut all, b"ORDER", b"17") && put_field(&mut all, b"EMPTY", b""));
        all
    }

    #[test]
    fn what_was_put_is_found_again() {
        let all = two();
        assert_eq!(fields(&all).collect::<Vec<_>>(), [(&b"ORDER"[..], &b"17"[..]), (b"EMPTY", b"")]);
        let bytes = [&(all.len() as u32).to_le_bytes()[..], &all, b"payload"].concat();
        assert_eq!(split_fields(&bytes), Ok((&all[..], &b"payload"[..])));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut all = two();
        let before = all.clone();
        for (name, value) in [(&b""[..], &b"x"[..]), (&[b'N'; 65], b"x"), (b"N", &[b'x'; FIELDS_BYTES_MAX])] {
            assert!(!put_field(&mut all, name, value));
        }
        assert_eq!(all, before);
    }

    #[test]
    fn fields_that_are_cut_anywhere_are_no_fields() {
        let all = two();
        for cut in 1..all.len() {
            let bytes = [&(cut as u32).to_le_bytes()[..], &all[..cut]].concat();
            // Between two fields there is nothing wrong.
            assert_eq!(split_fields(&bytes).is_ok(), cut == 5 + 5 + 2, "cut at {cut}");
        }
        assert!(split_fields(&[1, 0]).is_err() && split_fields(&[9, 0, 0, 0, 1]).is_err());
        assert!(split_fields(&(FIELDS_BYTES_MAX as u32 + 1).to_le_bytes()).is_err());
    }
}
