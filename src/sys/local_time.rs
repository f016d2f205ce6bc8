//! Converts a local time without a year, as RFC 3164 writes it, into a moment.
//!
//! Input: month to second, and the time now. Output: the nearest moment that shows this time. Thread: the owner's.
//! Failure: None for a time that does not exist.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const NS_AN_HOUR: u64 = 3_600_000_000_000;

/// A local time from month to second, without a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// From 1.
    pub month: i8,
    /// From 1.
    pub day: i8,
    /// From 0.
    pub hour: i8,
    /// From 0.
    pub minute: i8,
    /// From 0.
    pub second: i8,
}

/// Converts the local times of one time zone. Remembers the last one, because neighbours share it.
#[derive(Debug)]
pub struct LocalTime {
    zone: TimeZone,
    last: Option<Converted>,
}

#[derive(Debug)]
struct Converted {
    stamp: Stamp,
    /// The hour in which it was converted. In another hour, another year may be the nearest.
    hour: u64,
    time_ns: Option<u64>,
}

impl LocalTime {
    /// Creates a converter for the time of `zone`.
    #[must_use]
    pub fn new(zone: TimeZone) -> Self {
        Self { zone, last: None }
    }

    /// The moment nearest to now that this stamp can mean, in nanoseconds since 1970. It has no year, and a sender's
    /// clock may be behind at the turn of the year.
    pub fn nearest_ns(&mut self, stamp: Stamp, now_ns: u64) -> Option<u64> {
        let hour = now_ns / NS_AN_HOUR;
        if let Some(last) = &self.last
            && last.stamp == stamp
            && last.hour == hour
        {
            return last.time_ns;
        }
        let now = Timestamp::from_nanosecond(i128::from(now_ns)).ok()?;
        let this_year = self.zone.to_datetime(now).year();
        let moment = |year: i16| {
            let Stamp { month, day, hour, minute, second } = stamp;
            let civil = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
            u64::try_from(self.zone.to_timestamp(civil).ok()?.as_nanosecond()).ok()
        };
        let time_ns =
            (this_year - 1..=this_year + 1).filter_map(moment).min_by_key(|moment_ns| moment_ns.abs_diff(now_ns));
        self.last = Some(Converted { stamp, hour, time_ns });
        time_ns
    }
}
