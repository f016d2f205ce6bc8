//! Says who sent an event, and how it came in.
//!
//! Input: what the kernel and the sender say. Output: plain data. Thread: any. Failures: none.

use super::layout::{HEAD_BYTES, SOURCE_FIXED_BYTES, padded};

/// How an event came in. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Transport {
    /// A text line of a stream.
    #[default]
    Lines = 1,
    /// A plain datagram.
    Datagram = 2,
    /// Syslog (RFC 3164 or RFC 5424), by datagram or stream.
    Syslog = 3,
    /// An event of the framed protocol.
    Frames = 4,
    /// A shared-memory ring.
    Ring = 5,
    /// dbufd itself, or a program that embeds its buffer.
    Internal = 6,
}

impl Transport {
    /// The name in `_TRANSPORT` and in `stats`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Datagram => "dgram",
            Self::Syslog => "syslog",
            Self::Frames => "frames",
            Self::Ring => "ring",
            Self::Internal => "internal",
        }
    }

    /// The transport with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Lines,
            2 => Self::Datagram,
            3 => Self::Syslog,
            4 => Self::Frames,
            5 => Self::Ring,
            6 => Self::Internal,
            _ => return None,
        })
    }
}

/// The sender of an event. What the kernel vouches for is separate from what the sender only claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Source<'a> {
    /// Process id, from the kernel; 0 if unknown, or in another pid namespace.
    pub pid: u32,
    /// User id, from the kernel; [`USER_UNKNOWN`] if unknown.
    pub uid: u32,
    /// Group id, from the kernel; says nothing if the user is unknown.
    pub gid: u32,
    /// The pid that a syslog header claims; 0 if there is none.
    pub claimed_pid: u32,
    /// Session of the framed protocol; 0 if there is none.
    pub session: u128,
    /// How its events come in.
    pub transport: Transport,
    /// The sender's tag; empty if there is none. At most [`TAG_BYTES_MAX`](super::TAG_BYTES_MAX) bytes.
    pub tag: &'a [u8],
    /// The command's name, from the kernel; empty if unknown. At most [`COMM_BYTES_MAX`](super::COMM_BYTES_MAX) bytes.
    pub comm: &'a [u8],
    /// The systemd unit, from the kernel's cgroup; empty if there is none. At most
    /// [`UNIT_BYTES_MAX`](super::UNIT_BYTES_MAX) bytes.
    pub unit: &'a [u8],
}

/// The user and group of a sender of whom the kernel says nothing. The kernel gives this id to no user.
pub const USER_UNKNOWN: u32 = u32::MAX;

impl Source<'_> {
    /// The user and the group, if the kernel has named them. It names them also if the process is in another pid
    /// namespace, and has no number here.
    #[must_use]
    pub fn user(&self) -> Option<(u32, u32)> {
        let is_named = self.uid != USER_UNKNOWN && (self.pid != 0 || self.transport != Transport::Internal);
        is_named.then_some((self.uid, self.gid))
    }

    /// Bytes of this source's record, including head and padding.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        padded(HEAD_BYTES + SOURCE_FIXED_BYTES + self.tag.len() + self.comm.len() + self.unit.len())
    }
}
