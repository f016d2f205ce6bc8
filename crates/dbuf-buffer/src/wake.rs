//! Wakes the reader: it sleeps on one word, the bell, and writers and wakers end its sleep by changing the word.
//!
//! ```text
//!  31                       1     0
//! [ wake-ups by writers      | WOKEN ]
//! ```
//! The reader first reads the bell, then looks for a reason to stay awake, then sleeps unless the bell has changed. A
//! writer changes it after it has made the reason visible. So either the look finds the reason, or the sleep does not
//! begin.
//!
//! Input: wake-ups. Output: the reader wakes. Thread: any. Nothing here can fail.

use super::edges::BELL;
use super::shared::Shared;
use dbuf_sync::Arc;

/// A waker has woken the reader, not a writer.
const WOKEN: u32 = 1;
/// What a wake-up by a writer adds.
const WAKE_UP: u32 = 2;

/// Wakes the reader from any thread, for the caller's own reasons.
#[derive(Clone, Debug)]
pub struct Waker {
    pub(super) shared: Arc<Shared>,
}

impl Waker {
    /// Ends the reader's wait with [`Reason::Woken`](super::Reason::Woken), now or at its next wait. The reader then
    /// sees what the caller wrote before. Several wake-ups may count as one.
    pub fn wake(&self) {
        let bell = self.shared.memory.bell();
        // edge `bell`, releasing: the reader that finds WOKEN sees what the caller did before. Relaxed could wake it
        // and show it an old state, and then no thread wakes it again.
        bell.fetch_or(WOKEN, BELL.release());
        bell.wake(1);
    }
}

impl Shared {
    /// Wakes the reader. A writer calls this after it has made the reason visible in the gate or in a word.
    pub(super) fn wake_reader(&self) {
        let bell = self.memory.bell();
        // edge `bell`, releasing: as above. The count wraps, because the sleeper only compares for change.
        bell.fetch_add(WAKE_UP, BELL.release());
        bell.wake(1);
    }

    /// The bell's value now. The reader sleeps on it after it has looked for reasons.
    pub(super) fn listen(&self) -> Heard {
        // edge `bell`, acquiring: looks after this see the reasons of all wake-ups in this value. Relaxed could let
        // the reader look, see nothing, and sleep on a bell that has changed already.
        Heard(self.memory.bell().load(BELL.acquire()))
    }

    /// Takes the wake-up by a waker.
    pub(super) fn take_wake(&self) {
        // edge `bell`, acquiring: includes wake-ups since the load, because they will not be reported again.
        self.memory.bell().fetch_and(!WOKEN, BELL.acquire());
    }
}

/// A value of the bell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard(pub(super) u32);

impl Heard {
    /// Whether a waker has woken the reader.
    pub(super) fn is_woken(self) -> bool {
        self.0 & WOKEN != 0
    }
}
