//! Descriptors that systemd passes to a service: sd_listen_fds(3).
//!
//! Enters: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`. Leaves: owned descriptors and their names. Main thread, once,
//! before anything else is opened. What can fail: variables that lie.

#![allow(unsafe_code, reason = "descriptors by their numbers")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::sync::atomic::{AtomicBool, Ordering};

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes what was passed to this process. A second call finds nothing.
///
/// # Errors
/// When the variables do not parse, or name descriptors that are not open.
pub fn take() -> io::Result<Vec<(OwnedFd, String)>> {
    // Relaxed: the flag guards only against a second taker; of two exchanges one comes first in any order.
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // It sets close-on-exec on each of them, and so fails for one that is not open.
    let passed = sd_notify::listen_fds_with_names()?;
    Ok(passed
        .map(|(number, name)| {
            // SAFETY: sd_listen_fds(3): LISTEN_PID names this process, so the descriptors from 3 on were opened for it
            // and belong to it alone; each is open (above) and is owned once, since TAKEN lets one caller through.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            (descriptor, name)
        })
        .collect())
}
