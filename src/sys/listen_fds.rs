//! Takes the descriptors that systemd passes to a service: sd_listen_fds(3).
//!
//! Input: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`. Output: owned descriptors and their names. Thread: the main
//! thread, once, before anything else is opened. Failure: the variables are wrong.

#![allow(unsafe_code, reason = "descriptors by their numbers")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::sync::atomic::{AtomicBool, Ordering};

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the descriptors that were passed to this process. A second call finds none.
///
/// # Errors
/// If the variables do not parse, or name descriptors that are not open.
pub fn take() -> io::Result<Vec<(OwnedFd, String)>> {
    // Relaxed: the flag only guards against a second caller, and one of two exchanges comes first in any order.
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // This sets close-on-exec on each of them, and so fails for one that is not open.
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
