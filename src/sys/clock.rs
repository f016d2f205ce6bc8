//! Reads the wall clock.
//!
//! Input: none. Output: nanoseconds since 1970. Thread: any. Nothing here can fail: a clock before 1970 gives 0,
//! because a wrong clock is no reason to stop.

use std::time::SystemTime;

/// The time now, in nanoseconds since 1970 (UTC).
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
