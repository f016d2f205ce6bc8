//! Wakes the reader: it sleeps on one word, the bell, and writers and wakers end its sleep by changing the word.
//!
//! ```text
//!  31                 1     0
//! [ rings of writers   | RUNG ]
//! ```
//! The reader first reads the bell, then looks for a reason to stay awake, then sleeps unless the bell has changed. A
//! writer rings after it has made the reason visible. So either the look finds the reason, or the sleep does not begin.
//!
//! Input: rings. Output: the reader wakes. Thread: any. Nothing here can fail.

use super::edges::BELL;
use super::shared::Shared;
use dbuf_sync::Arc;

/// A waker has rung, not a writer.
const RUNG: u32 = 1;
/// What a ring of a writer adds.
const RING: u32 = 2;

/// Wakes the reader from any thread, for the caller's own reasons.
#[derive(Clone, Debug)]
pub struct Waker {
    pub(super) shared: Arc<Shared>,
}

impl Waker {
    /// Ends the reader's wait with [`Reason::Rung`](super::Reason::Rung), now or at its next wait. The reader then sees
    /// what the caller wrote before. Several rings may count as one.
    pub fn ring(&self) {
        let bell = self.shared.memory.bell();
        // edge `bell`, releasing: the reader that finds RUNG sees what the caller did before it rang. Relaxed could
        // wake it and show it an old state, and then no thread rings again.
        bell.fetch_or(RUNG, BELL.release());
        bell.wake(1);
    }
}

impl Shared {
    /// Wakes the reader. A writer calls this after it has made the reason visible in the gate or in a word.
    pub(super) fn ring(&self) {
        let bell = self.memory.bell();
        // edge `bell`, releasing: as above. The count wraps, because the sleeper only compares for change.
        bell.fetch_add(RING, BELL.release());
        bell.wake(1);
    }

    /// The bell's value now. The reader sleeps on it after it has looked for reasons.
    pub(super) fn listen(&self) -> Heard {
        // edge `bell`, acquiring: looks after this see the reasons of all rings in this value. Relaxed could let the
        // reader look, see nothing, and sleep on a bell that has rung already.
        Heard(self.memory.bell().load(BELL.acquire()))
    }

    /// Takes the ring of a waker.
    pub(super) fn take_ring(&self) {
        // edge `bell`, acquiring: includes rings since the load, because they will not be reported again.
        self.memory.bell().fetch_and(!RUNG, BELL.acquire());
    }
}

/// A value of the bell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard(pub(super) u32);

impl Heard {
    /// Whether a waker has rung.
    pub(super) fn is_rung(self) -> bool {
        self.0 & RUNG != 0
    }
}
