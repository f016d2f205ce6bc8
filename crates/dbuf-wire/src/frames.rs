//! Encodes and decodes the framed protocol: every frame, both directions, as `docs/PROTOCOL.md` draws them.
//!
//! Input: bytes of a connection, or the parts of a frame. Output: borrowed [`Frame`]s, or bytes in a vector. Thread:
//! any; it makes no system call. Failure: decoding, with [`WireError`]. The start of the next frame is then unknown, so
//! the connection has to end.
//!
//! A connection opens with [`MAGIC`]; frames follow. Each is a head of [`HEAD_BYTES`] with the length of the rest, so
//! that a decoder can refuse or skip a body without holding it. Numbers are little-endian.
//!
//! How the protocol grows, so that old and new understand each other:
//! - a frame type with [`IGNORABLE`] set is skipped by a receiver that does not know it; any other unknown type ends
//!   the connection;
//! - bytes after the known part of a HELLO or a WELCOME are ignored;
//! - features are asked for in HELLO and granted in WELCOME: one that may be refused is *compatible*, one without
//!   which the client cannot go on is *incompatible*.

pub use crate::WireError;
pub use crate::fields::{FIELDS_LENGTH_BYTES, fields, put_field, split_fields};
pub use crate::numbers::{
    CONTROL_BYTES_MAX, Code, FIELD_NAME_BYTES_MAX, FIELDS_BYTES_MAX, HEAD_BYTES, IGNORABLE, LENGTH_MAX, Level, MAGIC,
    PRI_MAX, TAG_BYTES_MAX, VERSION, VERSION_MIN, feature, kind,
};

const HELLO_BYTES: usize = 40;
const WELCOME_BYTES: usize = 24;
const ERROR_FIXED_BYTES: usize = 8;
const CAPACITY_BYTES: usize = 8;

/// The fixed part of a frame.
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
    #[must_use]
    pub const fn is_event(&self) -> bool {
        matches!(self.kind, kind::EVENT | kind::EVENT_WITH_FIELDS)
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.length as usize
    }

    /// Bytes of the payload; of an event with fields, those and their length as well.
    #[must_use]
    pub const fn payload_bytes(&self) -> usize {
        self.length as usize - self.tag_length as usize
    }
}

/// What a client says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The newest version that it speaks.
    pub version: u16,
    /// The oldest version that it speaks.
    pub version_min: u16,
    /// Features that it would like.
    pub compatible: u64,
    /// Features that it cannot do without.
    pub incompatible: u64,
    /// Ties its connections together, so that a resend lands once; 0 if it needs none.
    pub session: u128,
    /// Which acknowledgements it wants.
    pub ack: Level,
    /// The producer's name: the tag of its events that have none.
    pub name: &'a [u8],
}

/// One event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// Facility times 8 plus priority, at most [`PRI_MAX`].
    pub pri: u8,
    /// At most [`TAG_BYTES_MAX`] bytes; empty for the name in HELLO.
    pub tag: &'a [u8],
    /// The sender's time, nanoseconds of the wall clock; 0 lets the daemon's clock stand alone.
    pub time_ns: u64,
    /// The producer's sequence: from 1, rising within a session.
    pub sequence: u64,
    /// Names and values next to the payload, as [`put_field`] encodes them; empty if there are none.
    pub fields: &'a [u8],
    /// At least one byte.
    pub payload: &'a [u8],
}

/// The daemon's answer to HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both speak from here.
    pub version: u16,
    /// The largest payload, in bytes.
    pub max_event: u32,
    /// The compatible features that are granted.
    pub compatible: u64,
    /// The incompatible features that are granted: all that were asked for.
    pub incompatible: u64,
    /// The last sequence of this session that was accepted; 0 if the daemon knows of none.
    pub last: u64,
}

/// What the daemon will not store, or why it ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// What it is about; a number that [`Code::from_number`] may not know.
    pub code: u8,
    /// The first sequence that it is about; 0 if it is about the connection.
    pub first: u64,
    /// The last sequence that it is about.
    pub last: u64,
    /// For people.
    pub text: &'a [u8],
}

/// A frame over borrowed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Client: who it is and what it wants.
    Hello(Hello<'a>),
    /// Client: one event.
    Event(Event<'a>),
    /// Client: make everything before this durable now, and acknowledge it.
    Sync,
    /// Client: nothing more will come.
    Bye,
    /// Client: asks for a ring.
    Ring {
        /// Bytes of data.
        capacity: u64,
    },
    /// Daemon: the answer to HELLO.
    Welcome(Welcome),
    /// Daemon: every event up to `sequence` has reached `level`, or was named by an ERROR before this.
    Ack {
        /// What is promised.
        level: Level,
        /// The last event that it is promised of.
        sequence: u64,
    },
    /// Daemon: what is not stored, or why the connection ends.
    Error(Fault<'a>),
    /// Daemon: here is the ring.
    Grant {
        /// Bytes of data.
        capacity: u64,
    },
    /// A frame of a later version that may be skipped.
    Ignored {
        /// Its type.
        kind: u8,
    },
}

impl<'a> Frame<'a> {
    /// Decodes the frame at the start of `bytes` and says how many of them it takes; None if it is not whole yet.
    ///
    /// # Errors
    /// [`WireError`] when the bytes are no frame. A length that cannot be true is refused from the head alone.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some(head) = Head::decode(bytes)? else { return Ok(None) };
        let total = head.frame_bytes();
        match bytes.get(HEAD_BYTES..total) {
            Some(body) => Ok(Some((Self::from_parts(&head, body)?, total))),
            None => Ok(None),
        }
    }

    /// The frame with this head and body. `body` has the length that the head states.
    ///
    /// # Errors
    /// [`WireError`] when the type is unknown and not ignorable, or the body lacks a part.
    pub fn from_parts(head: &Head, body: &'a [u8]) -> Result<Self, WireError> {
        let (tag, payload) = body
            .split_at_checked(usize::from(head.tag_length))
            .ok_or(WireError("a frame's tag is longer than the frame"))?;
        Ok(match head.kind {
            kind::EVENT | kind::EVENT_WITH_FIELDS => {
                let (fields, payload) =
                    if head.kind == kind::EVENT { (&[][..], payload) } else { split_fields(payload)? };
                let (pri, time_ns, sequence) = (head.detail, head.time_ns, head.sequence);
                Self::Event(Event { pri, tag, time_ns, sequence, fields, payload })
            }
            kind::HELLO => Self::Hello(Hello::from_parts(head, tag, payload)?),
            kind::SYNC => Self::Sync,
            kind::BYE => Self::Bye,
            kind::RING => Self::Ring { capacity: capacity(payload)? },
            kind::GRANT => Self::Grant { capacity: capacity(payload)? },
            kind::WELCOME => Self::Welcome(Welcome::from_parts(head, payload)?),
            kind::ACK => Self::Ack {
                level: Level::from_number(head.detail).ok_or(WireError("an ACK of unknown level"))?,
                sequence: head.sequence,
            },
            kind::ERROR => {
                let (fixed, text) =
                    payload.split_at_checked(ERROR_FIXED_BYTES).ok_or(WireError("an ERROR cut short"))?;
                Self::Error(Fault { code: head.detail, first: head.sequence, last: u64_at(fixed, 0), text })
            }
            kind if kind & IGNORABLE != 0 => Self::Ignored { kind },
            _ => return Err(WireError("a frame of unknown type")),
        })
    }

    /// Appends the frame to `to`. Tags and names are cut to [`TAG_BYTES_MAX`].
    ///
    /// An [`Frame::Ignored`] becomes an empty frame of its type.
    pub fn encode(&self, to: &mut Vec<u8>) {
        match self {
            Self::Event(event) => event.encode(to),
            Self::Hello(hello) => hello.encode(to),
            Self::Sync => Head { kind: kind::SYNC, ..Head::default() }.encode(to),
            Self::Bye => Head { kind: kind::BYE, ..Head::default() }.encode(to),
            Self::Ring { capacity } => encode_capacity(kind::RING, *capacity, to),
            Self::Welcome(welcome) => welcome.encode(to),
            Self::Ack { level, sequence } => {
                Head { kind: kind::ACK, detail: *level as u8, sequence: *sequence, ..Head::default() }.encode(to);
            }
            Self::Error(fault) => fault.encode(to),
            Self::Grant { capacity } => encode_capacity(kind::GRANT, *capacity, to),
            Self::Ignored { kind } => Head { kind: *kind, ..Head::default() }.encode(to),
        }
    }
}

impl Event<'_> {
    /// Appends the event's frame to `to`. The tag is cut to [`TAG_BYTES_MAX`].
    pub fn encode(&self, to: &mut Vec<u8>) {
        let tag = cut(self.tag);
        let has_fields = !self.fields.is_empty();
        let fields_bytes = if has_fields { FIELDS_LENGTH_BYTES + self.fields.len() } else { 0 };
        Head {
            length: (tag.len() + fields_bytes + self.payload.len()) as u32,
            kind: if has_fields { kind::EVENT_WITH_FIELDS } else { kind::EVENT },
            detail: self.pri,
            tag_length: tag.len() as u16,
            sequence: self.sequence,
            time_ns: self.time_ns,
        }
        .encode(to);
        to.extend_from_slice(tag);
        if has_fields {
            to.extend_from_slice(&(self.fields.len() as u32).to_le_bytes());
            to.extend_from_slice(self.fields);
        }
        to.extend_from_slice(self.payload);
    }
}

impl Default for Hello<'_> {
    /// The HELLO of this version, without a name.
    fn default() -> Self {
        Hello::new(b"")
    }
}

impl<'a> Hello<'a> {
    /// The HELLO of this version: no features, no session, no acknowledgements.
    #[must_use]
    pub const fn new(name: &'a [u8]) -> Self {
        Self {
            version: VERSION,
            version_min: VERSION_MIN,
            compatible: 0,
            incompatible: 0,
            session: 0,
            ack: Level::None,
            name,
        }
    }

    fn from_parts(head: &Head, name: &'a [u8], payload: &[u8]) -> Result<Self, WireError> {
        let fixed = payload.get(..HELLO_BYTES).ok_or(WireError("a HELLO cut short"))?;
        if name.len() > TAG_BYTES_MAX {
            return Err(WireError("a HELLO with too long a name"));
        }
        Ok(Self {
            version: u16_at(fixed, 0),
            version_min: u16_at(fixed, 2),
            compatible: u64_at(fixed, 8),
            incompatible: u64_at(fixed, 16),
            session: u128::from(u64_at(fixed, 24)) | u128::from(u64_at(fixed, 32)) << 64,
            ack: Level::from_number(head.detail).ok_or(WireError("a HELLO that asks for an unknown level"))?,
            name,
        })
    }

    /// Appends the frame to `to`. The name is cut to [`TAG_BYTES_MAX`].
    pub fn encode(&self, to: &mut Vec<u8>) {
        let name = cut(self.name);
        Head {
            length: (name.len() + HELLO_BYTES) as u32,
            kind: kind::HELLO,
            detail: self.ack as u8,
            tag_length: name.len() as u16,
            ..Head::default()
        }
        .encode(to);
        to.extend_from_slice(name);
        to.extend_from_slice(&self.version.to_le_bytes());
        to.extend_from_slice(&self.version_min.to_le_bytes());
        to.extend_from_slice(&[0; 4]);
        to.extend_from_slice(&self.compatible.to_le_bytes());
        to.extend_from_slice(&self.incompatible.to_le_bytes());
        to.extend_from_slice(&self.session.to_le_bytes());
    }
}

impl Welcome {
    fn from_parts(head: &Head, payload: &[u8]) -> Result<Self, WireError> {
        let fixed = payload.get(..WELCOME_BYTES).ok_or(WireError("a WELCOME cut short"))?;
        Ok(Self {
            version: u16_at(fixed, 0),
            max_event: u32_at(fixed, 4),
            compatible: u64_at(fixed, 8),
            incompatible: u64_at(fixed, 16),
            last: head.sequence,
        })
    }

    fn encode(&self, to: &mut Vec<u8>) {
        Head { length: WELCOME_BYTES as u32, kind: kind::WELCOME, sequence: self.last, ..Head::default() }.encode(to);
        to.extend_from_slice(&self.version.to_le_bytes());
        to.extend_from_slice(&[0; 2]);
        to.extend_from_slice(&self.max_event.to_le_bytes());
        to.extend_from_slice(&self.compatible.to_le_bytes());
        to.extend_from_slice(&self.incompatible.to_le_bytes());
    }
}

impl Fault<'_> {
    fn encode(&self, to: &mut Vec<u8>) {
        let text = &self.text[..self.text.len().min(CONTROL_BYTES_MAX as usize - ERROR_FIXED_BYTES)];
        Head {
            length: (ERROR_FIXED_BYTES + text.len()) as u32,
            kind: kind::ERROR,
            detail: self.code,
            sequence: self.first,
            ..Head::default()
        }
        .encode(to);
        to.extend_from_slice(&self.last.to_le_bytes());
        to.extend_from_slice(text);
    }
}

/// The payload of RING and of GRANT.
fn capacity(payload: &[u8]) -> Result<u64, WireError> {
    let fixed = payload.get(..CAPACITY_BYTES).ok_or(WireError("a RING or a GRANT cut short"))?;
    Ok(u64_at(fixed, 0))
}

fn encode_capacity(kind: u8, capacity: u64, to: &mut Vec<u8>) {
    Head { length: CAPACITY_BYTES as u32, kind, ..Head::default() }.encode(to);
    to.extend_from_slice(&capacity.to_le_bytes());
}

/// Whether a connection that begins with `bytes` is framed: None while they could still become [`MAGIC`].
#[must_use]
pub fn is_framed(bytes: &[u8]) -> Option<bool> {
    let n = bytes.len().min(MAGIC.len());
    if bytes[..n] != MAGIC[..n] {
        Some(false)
    } else if n == MAGIC.len() {
        Some(true)
    } else {
        None
    }
}

fn cut(tag: &[u8]) -> &[u8] {
    &tag[..tag.len().min(TAG_BYTES_MAX)]
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests;
