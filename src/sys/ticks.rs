//! Reads the processor's time-stamp counter and converts it to wall-clock time.
//!
//! Input: ticks that a program read. Output: nanoseconds since 1970. Thread: any. Failure: the counter is not reliable
//! ([`are_reliable`]); then it must not be used.
//!
//! Ticks are converted backwards from now. An event is usually a few milliseconds old, and an error of the rate counts
//! only for that age. The rate is measured against the clock since this process began.

#![allow(unsafe_code, reason = "an instruction of the processor")]

use std::arch::x86_64::{__cpuid, _rdtsc, CpuidResult};
use std::fs;
use std::time::{Duration, Instant, SystemTime};

/// Rates are measured over at least this time.
const MEASURE_MIN: Duration = Duration::from_millis(20);

/// Whether ticks advance at one constant rate, the same on all cores. The processor must say so (CPUID 8000_0007h,
/// Intel's manual, 2A), and the kernel, which watches them, must use them for its own clock.
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

/// The rate of ticks and time.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    began: Instant,
    began_ticks: u64,
}

/// One moment, in ticks and in time.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    ticks: u64,
    time_ns: u64,
    /// Nanoseconds of one tick, times 2^32.
    scale: u64,
}

impl Rate {
    /// Starts to measure.
    #[must_use]
    pub fn begin() -> Self {
        Self { began: Instant::now(), began_ticks: now() }
    }

    /// The current moment. The first call waits until the rate is known.
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
    /// The time of these ticks, in nanoseconds since 1970. Any number gives some time, because a program may write any
    /// number.
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
        // The rate may be off by some microseconds over 20 ms.
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
