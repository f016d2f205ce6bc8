//! Names the numbers of the protocol; `docs/PROTOCOL.md` has the same tables.

/// What a framed connection opens with. The first byte is never the start of ASCII text, and the rest shows a transfer
/// that changes line ends or cuts zeros.
pub const MAGIC: [u8; 8] = [0xDB, b'u', b'f', b'd', 0x0D, 0x0A, 0x1A, 0x00];
/// Bytes of every frame's head.
pub const HEAD_BYTES: usize = 24;
/// The version of the protocol that this code speaks best.
pub const VERSION: u16 = 1;
/// The oldest version that this code still speaks.
pub const VERSION_MIN: u16 = 1;
/// The longest tag or producer name, in bytes.
pub const TAG_BYTES_MAX: usize = 64;
/// The largest length that a head may state, in bytes: a larger one is an error or another protocol.
pub const LENGTH_MAX: u32 = 64 << 20;
/// The largest length of a frame that is neither an event nor ignorable, in bytes.
pub const CONTROL_BYTES_MAX: u32 = 4 << 10;
/// The bit of a frame type that lets a receiver skip it unread.
pub const IGNORABLE: u8 = 0x80;
/// The most bytes that the fields of one event may take, all names and values together.
pub const FIELDS_BYTES_MAX: usize = 16 << 10;
/// The longest name of a field, in bytes.
pub const FIELD_NAME_BYTES_MAX: usize = 64;
/// The highest value of an event's `pri`: facility 23, priority 7.
pub const PRI_MAX: u8 = 191;

/// Frame types; the byte at 4 of a head.
pub mod kind {
    /// Client: who it is and what it wants. The first frame, once.
    pub const HELLO: u8 = 0x01;
    /// Client: one event.
    pub const EVENT: u8 = 0x02;
    /// Client: make everything before this durable now, and acknowledge it.
    pub const SYNC: u8 = 0x03;
    /// Client: nothing more will come.
    pub const BYE: u8 = 0x04;
    /// Client: one event with fields next to its payload; only where [`feature::FIELDS`](super::feature::FIELDS) is
    /// granted.
    pub const EVENT_WITH_FIELDS: u8 = 0x05;
    /// Client: asks for a ring; only where [`feature::RING`](super::feature::RING) is granted, and before any event.
    pub const RING: u8 = 0x06;
    /// Daemon: the answer to HELLO.
    pub const WELCOME: u8 = 0x41;
    /// Daemon: how far events are persisted or durable.
    pub const ACK: u8 = 0x42;
    /// Daemon: events that are not and will not be stored, or why the connection ends.
    pub const ERROR: u8 = 0x43;
    /// Daemon: here is the ring; its memory comes with the first byte.
    pub const GRANT: u8 = 0x44;
}

/// Features; bits of HELLO and WELCOME.
pub mod feature {
    /// Compatible: events may have fields next to the payload.
    pub const FIELDS: u64 = 1 << 0;
    /// Compatible: the client may ask for a ring. Bit 1 stood for rings with a doorbell of their own; it stays unused.
    pub const RING: u64 = 1 << 2;
}

/// What an acknowledgement promises.
///
/// ```
/// use dbuf_wire::numbers::Level;
///
/// assert!(Level::Durable > Level::Persisted && Level::Persisted > Level::None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Level {
    /// No acknowledgements, except those that SYNC asks for.
    #[default]
    None = 0,
    /// The event is in a file: it survives the daemon, not a loss of power.
    Persisted = 1,
    /// A sync has covered the event: it survives a loss of power.
    Durable = 2,
}

impl Level {
    /// The level with this number.
    ///
    /// ```
    /// use dbuf_wire::numbers::Level;
    ///
    /// assert_eq!((Level::from_number(2), Level::from_number(9)), (Some(Level::Durable), None));
    /// ```
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Persisted),
            2 => Some(Self::Durable),
            _ => None,
        }
    }
}

/// The reason of an ERROR. Codes from 0x80 end the connection.
///
/// ```
/// use dbuf_wire::numbers::Code;
///
/// assert_eq!(Code::Lost as u8, 0x03);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// The event is larger than the daemon's `max_event`.
    TooBig = 0x01,
    /// The event breaks a rule; the frames after it are understood.
    Malformed = 0x02,
    /// Events that were accepted could not be stored.
    Lost = 0x03,
    /// There is no ring for this client now.
    NoRing = 0x04,
    /// The bytes are no frames.
    Broken = 0x80,
    /// No common version, or a feature that the daemon does not have.
    Version = 0x81,
    /// The session is open on another connection, or the daemon has no room for one more.
    Busy = 0x82,
}

impl Code {
    /// The code with this number.
    ///
    /// ```
    /// use dbuf_wire::numbers::Code;
    ///
    /// assert_eq!((Code::from_number(0x82), Code::from_number(0xFF)), (Some(Code::Busy), None));
    /// ```
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0x01 => Self::TooBig,
            0x02 => Self::Malformed,
            0x03 => Self::Lost,
            0x04 => Self::NoRing,
            0x80 => Self::Broken,
            0x81 => Self::Version,
            0x82 => Self::Busy,
            _ => return None,
        })
    }

    /// The name in `docs/PROTOCOL.md` and in what people read.
    ///
    /// ```
    /// assert_eq!(dbuf_wire::numbers::Code::TooBig.name(), "too_big");
    /// ```
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooBig => "too_big",
            Self::Malformed => "malformed",
            Self::Lost => "lost",
            Self::NoRing => "no_ring",
            Self::Broken => "broken",
            Self::Version => "version",
            Self::Busy => "busy",
        }
    }

    /// Whether the connection ends with it.
    ///
    /// ```
    /// use dbuf_wire::numbers::Code;
    ///
    /// assert!(Code::Broken.is_final() && !Code::Lost.is_final());
    /// ```
    #[must_use]
    pub const fn is_final(self) -> bool {
        self as u8 >= 0x80
    }
}
