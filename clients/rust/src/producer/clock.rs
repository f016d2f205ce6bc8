//! Stamps events with the time at which they happened: in ticks where a daemon converts them, else in nanoseconds.
//!
//! Input: ticks. Output: stamps; nanoseconds of ticks that no daemon will see. The producer's thread. Failures: none:
//! any number is some time.

use std::time::{Instant, SystemTime};

use crate::sys;
use dbuf_wire::ring::record::Stamp;

/// How a producer's events are stamped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamping {
    /// Not at all.
    None,
    /// By the wall clock.
    Nanoseconds,
    /// By the processor's counter.
    Ticks,
}

/// The wall clock, in nanoseconds since 1970.
pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(0)
}

/// A moment in ticks and in time; with another one it says what ticks between them mean.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    at: Instant,
    ticks: u64,
    time_ns: u64,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), ticks: sys::ticks(), time_ns: now_ns() }
    }

    /// This stamp without ticks. `since` is a moment before: the rate is measured from there, and what it is off by
    /// counts for the age of the event alone.
    pub(super) fn without_ticks(&self, since: &Self, stamp: Stamp) -> Stamp {
        let Stamp::Ticks(ticks) = stamp else { return stamp };
        let age_ticks = i128::from(self.ticks.wrapping_sub(ticks) as i64);
        let between_ns = self.at.saturating_duration_since(since.at).as_nanos() as i128;
        let between_ticks = i128::from(self.ticks.wrapping_sub(since.ticks) as i64).max(1);
        let age_ns = age_ticks * between_ns / between_ticks;
        Stamp::Nanoseconds(u64::try_from(i128::from(self.time_ns) - age_ns).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ticks_become_the_time_at_which_they_were_read() {
        let at = Instant::now();
        let open = Moment { at, ticks: 1_000_000, time_ns: 5_000_000_000 };
        // Two ticks a nanosecond, and the wall clock was set forward by an hour in between.
        let hour = 3_600_000_000_000;
        let end = Moment { at: at + Duration::from_secs(1), ticks: 2_001_000_000, time_ns: 6_000_000_000 + hour };
        let converted = |ticks| end.without_ticks(&open, Stamp::Ticks(ticks));
        assert_eq!(converted(2_001_000_000), Stamp::Nanoseconds(6_000_000_000 + hour));
        assert_eq!(converted(1_001_000_000), Stamp::Nanoseconds(5_500_000_000 + hour));
        assert_eq!(end.without_ticks(&open, Stamp::Nanoseconds(7)), Stamp::Nanoseconds(7));
        assert_eq!(end.without_ticks(&open, Stamp::None), Stamp::None);
    }

    #[test]
    fn any_ticks_are_some_time() {
        let now = Moment::now();
        for ticks in [0, 1, u64::MAX, 1 << 63, now.ticks.wrapping_add(1 << 63)] {
            assert!(matches!(now.without_ticks(&now, Stamp::Ticks(ticks)), Stamp::Nanoseconds(_)));
        }
    }
}
