//! Counts values on a logarithmic scale of 32 steps an octave, so a percentile is off by at most 3 % of its value. It
//! runs for every event and takes a few instructions, which is why this is not a library.
//!
//! Input: values. Output: percentiles and cumulative counts. Thread: its owner's, or any under the owner's lock.
//! Nothing here can fail.

/// Steps in each octave, as a power of two.
const STEP_BITS: u32 = 5;
const STEPS: usize = 1 << STEP_BITS;
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) * STEPS;

/// A histogram of u64 values.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), count: 0, sum: 0, min: u64::MAX, max: 0 }
    }
}

/// Below 64 every value has its own bucket. Above, the top six bits choose the bucket.
#[inline]
const fn bucket_of(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - STEP_BITS;
    (shift as usize + 1) * STEPS + ((value >> shift) as usize & (STEPS - 1))
}

/// The highest value of a bucket.
const fn upper_bound(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let shift = (bucket / STEPS - 1) as u32;
    let low = ((STEPS + bucket % STEPS) as u64) << shift;
    low + ((1 << shift) - 1)
}

impl Histogram {
    /// Adds `n` times `value`.
    #[inline]
    pub fn record(&mut self, value: u64, n: u64) {
        if n == 0 {
            return;
        }
        self.counts[bucket_of(value)] += n;
        self.count += n;
        self.sum = self.sum.saturating_add(value.saturating_mul(n));
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        if self.count > 0 {
            self.counts.fill(0);
            (self.count, self.sum, self.min, self.max) = (0, 0, u64::MAX, 0);
        }
    }

    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest value; 0 if there is none.
    #[must_use]
    pub fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    /// The largest value; 0 if there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean; 0 if there is no value.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// The value that a share of `quantile` (0 to 1) of all values does not exceed; 0 if there are none.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> u64 {
        let rank = ((quantile.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, &n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return upper_bound(bucket).clamp(self.min(), self.max);
            }
        }
        self.max
    }

    /// Number of values that are at most `bound`, to the precision of a bucket. Exact if `bound` is below 64 or one
    /// less than a power of two.
    #[must_use]
    pub fn at_most(&self, bound: u64) -> u64 {
        self.counts.iter().enumerate().take_while(|(bucket, _)| upper_bound(*bucket) <= bound).map(|(_, n)| n).sum()
    }

    /// Adds all values of another histogram.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_touch() {
        for bucket in 1..BUCKETS {
            let low = upper_bound(bucket - 1).wrapping_add(1);
            assert_eq!((bucket_of(low), bucket_of(upper_bound(bucket))), (bucket, bucket));
        }
        assert_eq!(upper_bound(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn a_percentile_is_off_by_at_most_three_percent() {
        let mut h = Histogram::default();
        for value in 1..=100_000 {
            h.record(value, 1);
        }
        for (q, exact) in [(0.5, 50_000.0), (0.9, 90_000.0), (0.99, 99_000.0), (1.0, 100_000.0)] {
            let off = h.quantile(q) as f64 / exact - 1.0;
            assert!((0.0..0.03125).contains(&off), "{q}: {off}");
        }
        assert_eq!((h.min(), h.max(), h.mean(), h.at_most(1023)), (1, 100_000, 50_000.5, 1023));
    }

    #[test]
    fn an_empty_histogram_says_zero() {
        let h = Histogram::default();
        assert_eq!((h.min(), h.max(), h.quantile(0.5), h.count()), (0, 0, 0, 0));
    }
}
