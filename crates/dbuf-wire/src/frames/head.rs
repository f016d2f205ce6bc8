//! Encodes and decodes the fixed part of a frame.
//!
//! Input: the parts of a head, or bytes. Output: bytes, or the parts. Any thread. Failures: lengths that cannot be
//! true, with [`WireError`].

use crate::WireError;
use crate::numbers::{CONTROL_BYTES_MAX, HEAD_BYTES, IGNORABLE, LENGTH_MAX, kind};

/// The fixed part of a frame.
///
/// ```
/// use dbuf_wire::frames::{Head, kind};
///
/// let head = Head { length: 17, kind: kind::EVENT, detail: 6, sequence: 1, ..Head::default() };
/// assert_eq!((head.frame_bytes(), head.payload_bytes()), (24 + 17, 17));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Bytes after the head: tag and payload.
    pub length: u32,
    /// One of [`kind`], or unknown.
    pub kind: u8,
    /// EVENT: pri. HELLO, ACK: level. ERROR: code. Else 0.
    pub detail: u8,
    /// Bytes of the tag.
    pub tag_length: u16,
    /// EVENT: the producer's sequence. ACK, WELCOME, ERROR: what they speak of. Else 0.
    pub sequence: u64,
    /// EVENT: the sender's time, 0 if it states none. Else 0.
    pub time_ns: u64,
}

impl Head {
    /// Reads the head at the start of `bytes`; None if there are not enough. Only what would make the rest of the
    /// stream unreadable is an error, and it is seen here, before anything is done for the body.
    ///
    /// # Errors
    /// [`WireError`] when the lengths cannot be true.
    ///
    /// ```
    /// use dbuf_wire::frames::{Frame, Head, kind};
    ///
    /// let mut bytes = Vec::new();
    /// Frame::Sync.encode(&mut bytes);
    /// assert_eq!(Head::decode(&bytes[..10])?, None); // not whole yet
    /// assert_eq!(Head::decode(&bytes)?.unwrap().kind, kind::SYNC);
    /// # Ok::<(), dbuf_wire::WireError>(())
    /// ```
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let head = Self {
            length: u32_at(head, 0),
            kind: head[4],
            detail: head[5],
            tag_length: u16_at(head, 6),
            sequence: u64_at(head, 8),
            time_ns: u64_at(head, 16),
        };
        if head.length > LENGTH_MAX {
            return Err(WireError("a frame states a length beyond all bounds"));
        }
        if u32::from(head.tag_length) > head.length {
            return Err(WireError("a frame's tag is longer than the frame"));
        }
        if !head.is_event() && head.kind & IGNORABLE == 0 && head.length > CONTROL_BYTES_MAX {
            return Err(WireError("a frame that is no event is too long"));
        }
        Ok(Some(head))
    }

    /// Appends the head to `to`.
    ///
    /// ```
    /// let mut bytes = Vec::new();
    /// dbuf_wire::frames::Head::default().encode(&mut bytes);
    /// assert_eq!(bytes, [0; 24]);
    /// ```
    pub fn encode(&self, to: &mut Vec<u8>) {
        let mut head = [0; HEAD_BYTES];
        head[0..4].copy_from_slice(&self.length.to_le_bytes());
        head[4] = self.kind;
        head[5] = self.detail;
        head[6..8].copy_from_slice(&self.tag_length.to_le_bytes());
        head[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        head[16..24].copy_from_slice(&self.time_ns.to_le_bytes());
        to.extend_from_slice(&head);
    }

    /// Whether it is the head of an event, with fields or without.
    ///
    /// ```
    /// use dbuf_wire::frames::{Head, kind};
    ///
    /// assert!(Head { kind: kind::EVENT_WITH_FIELDS, ..Head::default() }.is_event());
    /// ```
    #[must_use]
    pub const fn is_event(&self) -> bool {
        matches!(self.kind, kind::EVENT | kind::EVENT_WITH_FIELDS)
    }

    /// Bytes of the whole frame.
    ///
    /// ```
    /// assert_eq!(dbuf_wire::frames::Head { length: 17, ..Default::default() }.frame_bytes(), 24 + 17);
    /// ```
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.length as usize
    }

    /// Bytes of the payload; of an event with fields, those and their length as well.
    ///
    /// ```
    /// assert_eq!(dbuf_wire::frames::Head { length: 17, tag_length: 4, ..Default::default() }.payload_bytes(), 13);
    /// ```
    #[must_use]
    pub const fn payload_bytes(&self) -> usize {
        self.length as usize - self.tag_length as usize
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
