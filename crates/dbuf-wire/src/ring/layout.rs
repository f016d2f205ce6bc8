//! Lays out the words of a ring, as `docs/PROTOCOL.md` defines them.
//!
//! Words that one side writes share no cache line with words of the other side: a line that both write moves back and
//! forth between their cores. The other process may change everything here at any time.
//!
//! Input and output: plain memory. Any thread. Failures: none.

use dbuf_sync::atomic::{AtomicU32, AtomicU64};

/// The ring's first eight bytes.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"dbufring");
/// The version of this layout, and of how its doorbell is rung.
pub(super) const VERSION: u32 = 2;
/// The doorbell: the client sends this byte on the ring's connection to wake the daemon.
pub const DOORBELL: u8 = 0;
/// Bytes before the data.
pub const HEADER_BYTES: usize = 4096;
/// The smallest and the largest ring, in bytes of data.
pub const CAPACITY_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 20;

/// Bits of [`Words::flags`].
pub mod flag {
    /// The time of a record may be in ticks of the processor's time-stamp counter.
    pub const TICKS: u64 = 1;
    /// The daemon cannot order a producer's steps with membarrier(2): the producer uses a full fence.
    pub const FENCE: u64 = 2;
}

/// Bits of [`Words::wants`].
pub mod want {
    /// The producer wants to be woken when there is room.
    pub const ROOM: u32 = 1;
    /// The producer wants [`super::Words::persisted`] kept current, and to be woken when it changes.
    pub const PERSISTED: u32 = 2;
    /// The same of [`super::Words::durable`].
    pub const DURABLE: u32 = 4;
}

/// What [`Words::state`] says in its lower two bits; the others count how often it was changed.
pub mod state {
    /// The daemon looks into the ring by itself.
    pub const AWAKE: u64 = 0;
    /// It will do so soon; the bell only if the ring is half full.
    pub const DOZING: u64 = 1;
    /// It sleeps until the bell rings.
    pub const ASLEEP: u64 = 2;
    /// The bits of the above.
    pub const MASK: u64 = 3;
    /// What the count begins with.
    pub const COUNT_ONE: u64 = 4;
}

/// The header.
///
/// ```
/// use std::sync::atomic::Ordering::Relaxed;
///
/// let memory = dbuf_wire::ring::Memory::private(64 << 10)?;
/// assert_eq!(memory.words().capacity_bytes.load(Relaxed), 64 << 10);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Default)]
#[repr(C)]
pub struct Words {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// [`HEADER_BYTES`].
    pub header_bytes: AtomicU32,
    /// Bytes of data.
    pub capacity_bytes: AtomicU64,
    /// Bits of [`flag`].
    pub flags: AtomicU64,
    _gap: [u64; 12],

    /// Producer: bytes published, since the ring began.
    pub head: AtomicU64,
    /// Producer: what `head` will be when the event at hand is published.
    pub writing: AtomicU64,
    /// Producer: events that found no room.
    pub lost_events: AtomicU64,
    /// Producer: bytes of their payloads.
    pub lost_bytes: AtomicU64,
    _gap_of_producer: [u64; 12],

    /// Producer: bits of [`want`].
    pub wants: AtomicU32,
    /// Unused.
    pub unused: AtomicU32,
    /// Producer: everything up to this event, counted from 1, is to be durable now.
    pub sync: AtomicU64,
    _gap_of_waiter: [u64; 14],

    /// Daemon: bytes taken.
    pub tail: AtomicU64,
    /// Daemon: see [`state`].
    pub state: AtomicU64,
    _gap_of_daemon: [u64; 14],

    /// Daemon: changes when something has changed that was wanted; to be slept on by futex(2).
    pub turn: AtomicU32,
    /// Unused.
    pub unused_too: AtomicU32,
    /// Daemon: events taken.
    pub taken: AtomicU64,
    /// Daemon: events up to this one are in a file, or counted in `lost`.
    pub persisted: AtomicU64,
    /// Daemon: events up to this one are durable, or counted in `lost`.
    pub durable: AtomicU64,
    /// Daemon: events that were taken and could not be stored.
    pub lost: AtomicU64,
    /// Daemon: events that were refused.
    pub refused: AtomicU64,
    /// Daemon: the most bytes that it has found waiting.
    pub high_water_bytes: AtomicU64,
    /// Daemon: the largest payload that it takes.
    pub max_event_bytes: AtomicU64,
    /// Daemon: how many of `lost_events` it has counted.
    pub lost_events_told: AtomicU64,
    /// Daemon: how many of `lost_bytes` it has counted.
    pub lost_bytes_told: AtomicU64,
}

// The words of a model are no numbers alone.
#[cfg(not(dbuf_loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Words, flags) == 24 && offset_of!(Words, head) == 128 && offset_of!(Words, lost_bytes) == 152);
    assert!(offset_of!(Words, wants) == 256 && offset_of!(Words, sync) == 264);
    assert!(offset_of!(Words, tail) == 384 && offset_of!(Words, state) == 392);
    assert!(offset_of!(Words, turn) == 512 && offset_of!(Words, taken) == 520 && offset_of!(Words, refused) == 552);
    assert!(offset_of!(Words, lost_bytes_told) == 584 && size_of::<Words>() <= HEADER_BYTES);
};
