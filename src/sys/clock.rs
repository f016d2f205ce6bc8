//! Reads the wall clock.

use std::time::SystemTime;

/// Nanoseconds since 1970. A clock that shows an earlier time is read as 1970, because no time that it shows is a reason to end.
#[must_use]
pub fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
