//! Decides when a repair that failed is tried again.
//!
//! Input: how a try ended and how long it took, and signs that the disk may work again. Output: the time of the next
//! try. Thread: any, under the queue's lock. Nothing can fail.
//!
//! Without a sign the pauses grow. A sign is an append or a sync that succeeds, or a request: then the next try comes
//! at once, so that events become durable as soon as the disk has healed. But appends also succeed on a disk on which
//! only syncs fail. So the time that a try takes bounds the rate: tries take at most a fifth of the time, however many
//! signs there are, unless a try takes longer than a quarter of the greatest pause.

use std::time::{Duration, Instant};

/// The pause after a failure, without a sign: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The pause after a failure even with a sign: at least, and in durations of the try that failed.
const SIGN_PAUSE_MIN: Duration = Duration::from_millis(100);
const SIGN_PAUSE_TRIES: u32 = 4;

/// When the next try is due.
#[derive(Debug)]
pub(super) struct Backoff {
    pause: Duration,
    /// None: at once.
    at: Option<Instant>,
    /// The earliest time to which a sign moves it.
    earliest: Option<Instant>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { pause: PAUSE_MIN, at: None, earliest: None }
    }
}

impl Backoff {
    /// Notes a try that failed.
    pub(super) fn failed(&mut self, now: Instant, took: Duration) {
        let least = (took * SIGN_PAUSE_TRIES).clamp(SIGN_PAUSE_MIN, PAUSE_MAX);
        self.earliest = Some(now + least);
        self.at = Some(now + self.pause.max(least));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Notes a sign that the disk may work again. Returns whether the next try comes earlier because of it.
    pub(super) fn sign(&mut self) -> bool {
        let (Some(at), Some(earliest)) = (self.at, self.earliest) else { return false };
        let is_earlier = earliest < at;
        self.at = Some(at.min(earliest));
        is_earlier
    }

    /// Makes the next try due.
    pub(super) fn skip(&mut self) {
        self.at = None;
    }

    /// Whether the next try is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| at <= now)
    }

    /// When the next try is due; None: now.
    pub(super) fn at(&self) -> Option<Instant> {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_sign_ends_them() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        assert!(backoff.is_due(now) && !backoff.sign());
        for pause in [PAUSE_MIN, PAUSE_MIN * 2, PAUSE_MIN * 4] {
            backoff.failed(now, Duration::ZERO);
            assert_eq!(backoff.at(), Some(now + pause));
            now += pause;
            assert!(backoff.is_due(now));
        }
        for _ in 0..10 {
            backoff.failed(now, Duration::ZERO);
        }
        assert_eq!(backoff.at(), Some(now + PAUSE_MAX));
        assert!(backoff.sign());
        assert_eq!(backoff.at(), Some(now + SIGN_PAUSE_MIN));
        assert!(!backoff.sign(), "more signs change nothing");
    }

    #[test]
    fn tries_take_no_more_than_a_fifth_of_the_time_however_many_signs_there_are() {
        let (mut backoff, began) = (Backoff::default(), Instant::now());
        let (mut now, took) = (began, Duration::from_secs(7));
        for _ in 0..100 {
            now += took;
            backoff.failed(now, took);
            backoff.sign();
            now = backoff.at().unwrap();
        }
        assert_eq!(now - began, took * 500);
    }

    #[test]
    fn no_pause_is_longer_than_the_greatest_however_long_a_try_takes() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        backoff.failed(now, Duration::from_secs(60));
        assert!(!backoff.sign());
        assert_eq!(backoff.at(), Some(now + PAUSE_MAX));
    }
}
