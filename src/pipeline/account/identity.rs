//! Identifies a producer.
//!
//! Input: a source, or its record. Output: an [`Identity`]. Thread: any. Nothing here can fail.

use crate::pipeline::record::{Record, Source, Transport, encode_source};

/// A producer's identity: a [`Source`] that owns its strings, without what changes from one event to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// Process id, from the kernel; 0 if unknown, or in another pid namespace.
    pub pid: u32,
    /// User id, from the kernel; [`USER_UNKNOWN`](crate::pipeline::record::USER_UNKNOWN) if unknown.
    pub uid: u32,
    /// Group id, from the kernel.
    pub gid: u32,
    /// The pid that a syslog header claims; 0 if there is none.
    pub claimed_pid: u32,
    /// The session of the framed protocol; 0 if there is none.
    pub session: u128,
    /// How its events come in.
    pub transport: Transport,
    /// Its tag; empty if there is none.
    pub tag: Box<[u8]>,
    /// Its command's name; empty if unknown.
    pub comm: Box<[u8]>,
    /// Its systemd unit; empty if there is none.
    pub unit: Box<[u8]>,
}

impl Identity {
    /// The identity of a borrowed source.
    #[must_use]
    pub fn of(source: &Source<'_>) -> Self {
        Self {
            pid: source.pid,
            uid: source.uid,
            gid: source.gid,
            claimed_pid: source.claimed_pid,
            session: source.session,
            transport: source.transport,
            tag: source.tag.into(),
            comm: source.comm.into(),
            unit: source.unit.into(),
        }
    }

    /// Borrows the identity as a source.
    #[must_use]
    pub fn as_source(&self) -> Source<'_> {
        Source {
            pid: self.pid,
            uid: self.uid,
            gid: self.gid,
            claimed_pid: self.claimed_pid,
            session: self.session,
            transport: self.transport,
            tag: &self.tag,
            comm: &self.comm,
            unit: &self.unit,
        }
    }

    /// The identity of producers that are not told apart: dbufd itself.
    #[must_use]
    pub fn unnamed() -> Self {
        Self { transport: Transport::Internal, ..Self::default() }
    }

    /// Encodes the identity as a source record, the form in which the account keeps it.
    #[must_use]
    pub fn to_record(&self) -> Vec<u8> {
        let mut record = Vec::new();
        encode_source(&mut record, 0, 0, &self.as_source());
        record
    }

    /// Decodes a source record; None if it is not one.
    #[must_use]
    pub fn from_record(record: &[u8]) -> Option<Self> {
        Record::decode(record).ok()?.0.as_source().ok().map(|source| Self::of(&source))
    }
}
