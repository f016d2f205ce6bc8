//! The processor's time-stamp counter, and what it says of the wall clock.
//!
//! Enters: ticks that a program read. Leaves: nanoseconds since 1970. Any thread. What can fail: the counter is none
//! that can be relied on ([`are_reliable`]); then nobody is to use it.
//!
//! A tick is turned into a time backwards from now: the age of an event is a few milliseconds as a rule, and what the
//! rate is off by counts for that age alone. The rate is measured against the clock since this process began.

#![allow(unsafe_code, reason = "an instruction of the processor")]

use std::arch::x86_64::{__cpuid, _rdtsc, CpuidResult};
use std::fs;
use std::time::{Duration, Instant, SystemTime};

/// Rates are measured over at least this.
const MEASURE_MIN: Duration = Duration::from_millis(20);

/// Whether ticks go on at one rate, on all cores alike: the processor says that they do (CPUID 8000_0007h, Intel's
/// manual, 2A), and the kernel, which watches them, uses them for its own clock.
#[must_use]
pub fn are_reliable() -> bool {
    const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let is_invariant = cpuid(0x8000_0000).eax >= 0x8000_0007 && cpuid(0x8000_0007).edx & (1 << 8) != 0;
    let clock = fs::read_to_string(CLOCK).unwrap_or_default();
    is_invariant && matches!(clock.trim(), "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page")
}

#[allow(unused_unsafe, reason = "Rust 1.94 and later call it safe, and the oldest that we build with does not")]
fn cpuid(leaf: u32) -> CpuidResult {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { __cpuid(leaf) }
}

/// The counter now.
#[inline]
#[must_use]
pub fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and the kernel lets programs use it.
    unsafe { _rdtsc() }
}

/// How ticks and time go together.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    began: Instant,
    began_ticks: u64,
}

/// One moment, in both.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    ticks: u64,
    time_ns: u64,
    /// Nanoseconds of a tick, times 2^32.
    scale: u64,
}

impl Rate {
    /// Begins to measure.
    #[must_use]
    pub fn begin() -> Self {
        Self { began: Instant::now(), began_ticks: now() }
    }

    /// This moment. Waits, the first time, until the rate is known.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let mut since = self.began.elapsed();
        if since < MEASURE_MIN {
            crate::sync::thread::sleep(MEASURE_MIN - since);
            since = self.began.elapsed();
        }
        let ticks = now();
        let time_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let elapsed_ticks = ticks.wrapping_sub(self.began_ticks).max(1);
        let scale = (since.as_nanos() << 32) / u128::from(elapsed_ticks);
        Moment { ticks, time_ns, scale: u64::try_from(scale).unwrap_or(u64::MAX) }
    }
}

impl Moment {
    /// The time of these ticks. Whatever number a program has written there, it is some time.
    #[must_use]
    pub fn time_ns(&self, ticks: u64) -> u64 {
        let age = self.ticks.wrapping_sub(ticks) as i64;
        let age_ns = (i128::from(age) * i128::from(self.scale)) >> 32;
        u64::try_from(i128::from(self.time_ns) - age_ns).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_the_clock_tell_the_same_time() {
        if !are_reliable() {
            return;
        }
        let rate = Rate::begin();
        let before = SystemTime::now();
        let ticks = now();
        let after = SystemTime::now();
        let told = rate.moment().time_ns(ticks);
        let ns = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
        // Some microseconds of doubt about the rate, over 20 ms.
        let doubt = 200_000;
        assert!(ns(before) - doubt <= told && told <= ns(after) + doubt, "{} {told} {}", ns(before), ns(after));
    }

    #[test]
    fn any_number_is_some_time() {
        let moment = Moment { ticks: 1000, time_ns: 5_000, scale: 1 << 31 };
        assert_eq!(moment.time_ns(1000), 5_000);
        assert_eq!(moment.time_ns(0), 4_500);
        assert_eq!(moment.time_ns(3_000), 6_000);
        for ticks in [u64::MAX, 1 << 63, (1 << 63) + 1000] {
            let _ = moment.time_ns(ticks);
        }
    }
}
