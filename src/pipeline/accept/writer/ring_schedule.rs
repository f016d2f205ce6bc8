//! Decides how long a writer may rest between two looks into its rings.
//!
//! Input: what the last look has brought. Output: [`Rest`]. Thread: the writer. Nothing can fail.
//!
//! A wake-up costs 40 us of a core and a system call of the producer, so neither is to come often:
//! - While looks bring much the writer does not rest, and producers see it awake.
//! - While they bring little it dozes, [`DOZE`] at a time. Only a producer whose ring becomes half full meanwhile rings
//!   the doorbell. At a steady rate no producer ever calls the kernel.
//! - After [`DOZES_MAX`] looks in vain it sleeps, and the producer of the next event rings. Idle rings cost nothing.

use std::time::Duration;

/// How long a writer rests at a time while little comes: half the buffer's linger by default.
pub(super) const DOZE: Duration = Duration::from_millis(1);
/// Looks in vain before it sleeps.
const DOZES_MAX: u32 = 20;
/// A round that brought this much is followed by another at once.
const MUCH_BYTES: u64 = 64 << 10;

/// What a writer may do before its next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Sleep until something happens: there are no rings, or their producers know that they have to ring.
    UntilEvent,
    /// Look again at once.
    LookAgain,
    /// Doze, once producers are told so.
    Doze,
    /// Sleep, once producers are told so and nothing has come meanwhile.
    Sleep,
}

/// The rings of one writer.
#[derive(Debug, Default)]
pub(super) struct RingSchedule {
    /// Indices of the connections that have them.
    indices: Vec<u32>,
    /// Bytes that the last look has brought.
    brought_bytes: u64,
    /// Looks in vain, one after the other.
    in_vain: u32,
    /// Producers know that the writer does not look; until one rings, it does not have to.
    pub(super) are_asleep: bool,
}

impl RingSchedule {
    pub(super) fn add(&mut self, index: u32) {
        self.indices.push(index);
        self.in_vain = 0;
        self.are_asleep = false;
    }

    pub(super) fn forget(&mut self, index: u32) {
        self.indices.retain(|known| *known != index);
    }

    pub(super) fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// One look into each ring has brought this much.
    pub(super) fn looked(&mut self, brought_bytes: u64) {
        self.brought_bytes = brought_bytes;
        self.in_vain = if brought_bytes == 0 { self.in_vain.saturating_add(1) } else { 0 };
    }

    pub(super) fn rest(&self) -> Rest {
        if self.indices.is_empty() || self.are_asleep {
            Rest::UntilEvent
        } else if self.brought_bytes >= MUCH_BYTES {
            Rest::LookAgain
        } else if self.in_vain < DOZES_MAX {
            Rest::Doze
        } else {
            Rest::Sleep
        }
    }
}
