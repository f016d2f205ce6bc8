//! Encodes and decodes an event as it lies in a ring.
//!
//! Input: the parts of an event, or bytes that were copied out of a ring. Output: the head's bytes, or the event.
//! Thread: any; it touches no memory that others can change. Failure: everything in bytes that another process wrote.

use crate::frames::{self as wire, Event};

/// What the place of each record is a multiple of, so that the rest before the end of the data always holds a head.
pub const ALIGN: usize = 16;
/// Bytes before the tag.
pub const HEAD_BYTES: usize = 16;
/// The most bytes that an event takes in addition to its payload.
pub const OVERHEAD_BYTES_MAX: usize =
    HEAD_BYTES + wire::TAG_BYTES_MAX + wire::FIELDS_LENGTH_BYTES + wire::FIELDS_BYTES_MAX + ALIGN;

/// Types of records.
pub mod kind {
    /// An event.
    pub const EVENT: u8 = 1;
    /// An event with fields.
    pub const EVENT_WITH_FIELDS: u8 = 2;
    /// The rest before the end of the data, which holds nothing.
    pub const PAD: u8 = 3;
}

/// When an event happened, by its producer's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stamp {
    /// It does not say.
    #[default]
    None,
    /// Nanoseconds since 1970, UTC.
    Nanoseconds(u64),
    /// Ticks of the processor's time-stamp counter.
    Ticks(u64),
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Bytes after the head, without what fills the record up.
    pub length: u32,
    /// One of [`kind`].
    pub kind: u8,
    /// Facility times 8 plus priority.
    pub pri: u8,
    /// Bytes of the tag.
    pub tag_length: u8,
    /// When it happened.
    pub stamp: Stamp,
}

impl RecordHead {
    /// Its two words.
    #[inline]
    #[must_use]
    pub fn to_words(self) -> [u64; 2] {
        let (clock, time) = match self.stamp {
            Stamp::None => (0, 0),
            Stamp::Nanoseconds(time) => (1, time),
            Stamp::Ticks(time) => (2, time),
        };
        let [l0, l1, l2, l3] = self.length.to_le_bytes();
        [u64::from_le_bytes([l0, l1, l2, l3, self.kind, self.pri, self.tag_length, clock]), time]
    }

    /// From its bytes; a clock of a later version says nothing.
    #[inline]
    #[must_use]
    pub fn of_bytes(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, l3, kind, pri, tag_length, clock, ref time @ ..] = *bytes;
        let time = u64::from_le_bytes(*time);
        let stamp = match clock {
            1 => Stamp::Nanoseconds(time),
            2 => Stamp::Ticks(time),
            _ => Stamp::None,
        };
        Self { length: u32::from_le_bytes([l0, l1, l2, l3]), kind, pri, tag_length, stamp }
    }

    /// Bytes of the whole record.
    #[inline]
    #[must_use]
    pub fn record_bytes(self) -> u64 {
        record_bytes(self.length as usize) as u64
    }
}

/// Bytes of a record with `length` bytes after its head.
#[inline]
#[must_use]
pub const fn record_bytes(length: usize) -> usize {
    (HEAD_BYTES + length).next_multiple_of(ALIGN)
}

/// Why a record is no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(
    /// What is wrong with it.
    pub &'static str,
);

/// Bytes of the payload of an event without fields: all but the tag.
///
/// # Errors
/// [`Malformed`]; it concerns this event alone.
#[inline]
pub fn payload_bytes(head: &RecordHead) -> Result<usize, Malformed> {
    check(head)?;
    match (head.length as usize).checked_sub(usize::from(head.tag_length)) {
        None => Err(Malformed("the tag is longer than the event")),
        Some(0) => Err(Malformed("an event without payload")),
        Some(bytes) => Ok(bytes),
    }
}

#[inline]
fn check(head: &RecordHead) -> Result<(), Malformed> {
    if usize::from(head.tag_length) > wire::TAG_BYTES_MAX {
        return Err(Malformed("the tag is longer than 64 bytes"));
    }
    if head.pri > wire::PRI_MAX {
        return Err(Malformed("pri is above 191"));
    }
    Ok(())
}

/// The event of a record: its head, and the bytes after that. The sequence is 0 and the time is the head's own
/// business.
///
/// # Errors
/// [`Malformed`]; it concerns this event alone.
pub fn event<'a>(head: &RecordHead, body: &'a [u8]) -> Result<Event<'a>, Malformed> {
    check(head)?;
    let (tag, rest) =
        body.split_at_checked(usize::from(head.tag_length)).ok_or(Malformed("the tag is longer than the event"))?;
    let (fields, payload) = if head.kind == kind::EVENT_WITH_FIELDS {
        wire::split_fields(rest).map_err(|error| Malformed(error.0))?
    } else {
        (&[][..], rest)
    };
    if payload.is_empty() {
        return Err(Malformed("an event without payload"));
    }
    Ok(Event { pri: head.pri, tag, time_ns: 0, sequence: 0, fields, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_the_bytes_that_the_protocol_draws() {
        let head = RecordHead { length: 100, kind: kind::EVENT, pri: 6, tag_length: 3, stamp: Stamp::Ticks(0x0102) };
        let bytes: Vec<u8> = head.to_words().iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes, [100, 0, 0, 0, 1, 6, 3, 2, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(RecordHead::of_bytes(bytes[..].try_into().unwrap()), head);
        assert_eq!(head.record_bytes(), 128);
    }

    #[test]
    fn bytes_that_are_no_event_are_refused_by_name() {
        let head = RecordHead { length: 3, kind: kind::EVENT, pri: 6, tag_length: 0, stamp: Stamp::None };
        let why = |head: RecordHead, body: &[u8]| event(&head, body).unwrap_err().0;
        assert_eq!(why(RecordHead { tag_length: 65, ..head }, &[0; 70]), "the tag is longer than 64 bytes");
        assert_eq!(why(RecordHead { pri: 192, ..head }, b"abc"), "pri is above 191");
        assert_eq!(why(RecordHead { tag_length: 4, ..head }, b"abc"), "the tag is longer than the event");
        assert_eq!(why(RecordHead { tag_length: 3, ..head }, b"abc"), "an event without payload");
        for wrong in [
            RecordHead { tag_length: 65, ..head },
            RecordHead { pri: 192, ..head },
            RecordHead { tag_length: 4, ..head },
        ] {
            assert_eq!(payload_bytes(&wrong).unwrap_err().0, why(wrong, b"abc"));
        }
        assert_eq!(payload_bytes(&RecordHead { tag_length: 3, ..head }).unwrap_err().0, "an event without payload");
        assert_eq!(payload_bytes(&RecordHead { tag_length: 1, ..head }), Ok(2));
        let with_fields = RecordHead { kind: kind::EVENT_WITH_FIELDS, ..head };
        assert_eq!(why(with_fields, b"abc"), "an event whose fields are cut off");
        assert_eq!(event(&head, b"abc").unwrap().payload, b"abc");
    }
}
