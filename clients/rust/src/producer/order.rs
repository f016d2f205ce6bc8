//! Lets the daemon order this process's steps from afar, so that a publish needs no barrier of its own.
//!
//! Input: none. Output: whether it can. Any thread. Failures: a kernel without the call, and then it cannot.

use rustix::thread::{MembarrierCommand, membarrier};

use crate::sys;
use dbuf_sync::atomic::AtomicU64;
use dbuf_sync::atomic::Ordering::Relaxed;

/// What is known of this process: of how many forks it is, and whether it is registered; 0 if nothing is known.
static KNOWN: AtomicU64 = AtomicU64::new(0);
const REGISTERED: u64 = 1;
const REFUSED: u64 = 2;

/// Whether the daemon can order this process's steps from afar; registers for it, once for each process. Two threads
/// may both do so, which does no harm. Rejected: `OnceLock`. A registration takes milliseconds, and a child that is
/// forked meanwhile would wait for ever for a thread that it does not have.
pub(super) fn is_ordered() -> bool {
    let of_process = (sys::forks() + 1) << 2;
    // Relaxed: a number that says all.
    let known = KNOWN.load(Relaxed);
    if known & !3 == of_process {
        return known & 3 == REGISTERED;
    }
    let is_ordered = membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok();
    // Relaxed: as above.
    KNOWN.store(of_process | if is_ordered { REGISTERED } else { REFUSED }, Relaxed);
    is_ordered
}
