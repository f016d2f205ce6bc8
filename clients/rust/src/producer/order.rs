//! Lets the daemon order this process's steps from afar, so that a publish needs no barrier of its own.
//!
//! Input: none. Output: whether it can. Any thread. Failures: a kernel without the call, and then it cannot.

use std::sync::OnceLock;

use rustix::thread::{MembarrierCommand, membarrier};

use crate::sys;

/// Whether the daemon can order this process's steps from afar; registers for it, once for each process.
pub(super) fn is_ordered() -> bool {
    static REGISTERED: OnceLock<(u64, bool)> = OnceLock::new();
    let register = || membarrier(MembarrierCommand::RegisterGlobalExpedited).is_ok();
    let forks = sys::forks();
    match *REGISTERED.get_or_init(|| (forks, register())) {
        (of, is_ordered) if of == forks => is_ordered,
        // A child; to register again does no harm.
        _ => register(),
    }
}
