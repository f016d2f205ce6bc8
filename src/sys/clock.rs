//! Reads the wall clock.
//!
//! Output: nanoseconds since 1970. Any thread. Nothing here can fail: a clock before 1970 shows 1970, because what a
//! clock shows is no reason to end.

use std::time::SystemTime;

/// The time now, in nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
