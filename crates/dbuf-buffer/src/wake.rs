//! Wakes the reader: one word, the bell, on which it sleeps, and by which writers and wakers end its sleep.
//!
//! ```text
//!  31                 1     0
//! [ rings of writers   | RUNG ]
//! ```
//! The reader reads the bell first, then looks whether there is a reason to stay awake, then sleeps unless the bell has
//! changed. A writer rings after it has made the reason; so either the look sees the reason, or the sleep does not
//! begin.
//!
//! Enters: rings from any thread. Leaves: the reader wakes. Nothing here can fail.

use super::edges::BELL;
use super::shared::Shared;
use dbuf_sync::Arc;

/// A waker has rung, not a writer.
const RUNG: u32 = 1;
/// What a writer adds.
const RING: u32 = 2;

/// Wakes the reader from any thread, for reasons of the caller's own.
#[derive(Clone, Debug)]
pub struct Waker {
    pub(super) shared: Arc<Shared>,
}

impl Waker {
    /// Ends the reader's wait with [`Reason::Rung`](super::Reason::Rung), now or when it next waits. What the caller
    /// wrote before is visible to the reader then. Several rings may count as one.
    pub fn ring(&self) {
        let bell = self.shared.memory.bell();
        // edge `bell`, releasing: the reader that finds RUNG sees what the caller did before it rang.
        // Relaxed would wake it and show it an old state, and then no thread rings again.
        bell.fetch_or(RUNG, BELL.release());
        bell.wake(1);
    }
}

impl Shared {
    /// A writer wakes the reader. Called after the writer has made the reason visible in gate or word.
    pub(super) fn ring(&self) {
        let bell = self.memory.bell();
        // edge `bell`, releasing: as above. Wraps round; the sleeper compares for change only.
        bell.fetch_add(RING, BELL.release());
        bell.wake(1);
    }

    /// What the reader hears now, to sleep on after it has looked for reasons.
    pub(super) fn listen(&self) -> Heard {
        // edge `bell`, acquiring: reasons made before the rings that are in this value are seen by looks after it.
        // Relaxed would let the reader look, see nothing, and sleep on a bell that has rung already.
        Heard(self.memory.bell().load(BELL.acquire()))
    }

    /// The reader takes note that a waker has rung.
    pub(super) fn take_ring(&self) {
        // edge `bell`, acquiring: of the rings since the load, too: they will not be reported again.
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
