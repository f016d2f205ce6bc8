//! Prints the result of a run, for people and as JSON.
//!
//! Input: the shares of all writers, times and the verdict. Output: text. Nothing can fail.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::Share;
use super::proof::Verdict;
use crate::pipeline::histogram::Histogram;
use crate::stats::format::{bytes, count, nanos};
use crate::stats::{EventSize, Quantiles, table};

/// All figures of a run.
pub(super) struct Report {
    /// The name of `--via`.
    pub(super) via: &'static str,
    /// How many writers there were.
    pub(super) writers: usize,
    /// The seed of the blocks.
    pub(super) seed: u64,
    /// All writers together.
    pub(super) total: Share,
    /// Until the last writer was done.
    pub(super) sent_in: Duration,
    /// Until everything was in the files, and durable if that can be asked for.
    pub(super) stored_in: Duration,
    /// Of a local run: microseconds from acceptance to the file, swaps, and waits for room.
    pub(super) local: Option<(Histogram, u64, u64)>,
    /// What the files prove, or why they prove nothing.
    pub(super) verdict: Result<Verdict, String>,
}

impl Report {
    fn events_per_second(&self) -> f64 {
        per_second(self.total.events, self.stored_in)
    }

    fn bytes_per_second(&self) -> f64 {
        per_second(self.total.bytes, self.stored_in)
    }

    /// Whether each event arrived once.
    pub(super) fn is_proven(&self) -> bool {
        self.verdict.as_ref().is_ok_and(Verdict::is_proven)
    }

    /// One object.
    pub(super) fn json(&self) -> Value {
        let Share { events, bytes, sizes, calls_ns } = &self.total;
        let mut report = json!({
            "via": self.via,
            "writers": self.writers,
            "seed": self.seed,
            "events": events,
            "bytes": bytes,
            "sent_seconds": self.sent_in.as_secs_f64(),
            "stored_seconds": self.stored_in.as_secs_f64(),
            "events_per_second": self.events_per_second(),
            "bytes_per_second": self.bytes_per_second(),
            "event_size": distribution(sizes),
            "call_ns": Quantiles::of(calls_ns),
        });
        if let Some((persist_us, swaps, full_waits)) = &self.local {
            report["persist_us"] = json!(Quantiles::of(persist_us));
            report["swaps"] = (*swaps).into();
            report["full_waits"] = (*full_waits).into();
        }
        report["proof"] = match &self.verdict {
            Ok(Verdict { found, missing, again, wrong, lost, damage }) => json!({
                "proven": self.is_proven(), "found": found, "missing": missing, "again": again, "wrong": wrong,
                "lost": lost, "damage": damage,
            }),
            Err(why) => json!({ "proven": false, "why": why }),
        };
        report
    }

    /// A few lines for people.
    pub(super) fn text(&self) -> String {
        let Share { events, bytes: payload, sizes, calls_ns } = &self.total;
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "{} events, {}, from {} writers via {} (seed {})",
            count(*events),
            bytes(*payload),
            self.writers,
            self.via,
            self.seed
        );
        let _ = writeln!(
            text,
            "sent in {:.3} s, stored in {:.3} s: {} events/s, {}/s",
            self.sent_in.as_secs_f64(),
            self.stored_in.as_secs_f64(),
            count(self.events_per_second() as u64),
            bytes(self.bytes_per_second().round() as u64)
        );
        if let Some((_, swaps, full_waits)) = &self.local {
            let (swaps, full_waits) = (count(*swaps), count(*full_waits));
            let _ = writeln!(text, "{swaps} swaps, {full_waits} waits for room");
        }
        text.push('\n');
        let _ = writeln!(text, "{:<18} {:>10} {:>10} {:>10} {:>10}", "", "p50", "p99", "p99.9", "max");
        let _ = writeln!(text, "{}", row("each call", calls_ns, 1));
        if let Some((persist_us, ..)) = &self.local {
            let _ = writeln!(text, "{}", row("call to file", persist_us, 1000));
        }
        text.push_str("\nsizes\n");
        for line in table::sizes(&distribution(sizes)) {
            let _ = writeln!(text, "  {line}");
        }
        let _ = writeln!(text, "\n{}", self.verdict_text());
        text
    }

    fn verdict_text(&self) -> String {
        match &self.verdict {
            Ok(verdict) if verdict.is_proven() => {
                format!("proof: each of {} events is in the files once, in order, unchanged", count(verdict.found))
            }
            Ok(Verdict { found, missing, again, wrong, lost, damage }) => format!(
                "PROOF FAILED: {found} found, {missing} missing, {again} again or late, {wrong} wrong, {lost} named as \
                 lost, {damage} damaged places"
            ),
            Err(why) => format!("NOT PROVEN: {why}"),
        }
    }
}

fn per_second(amount: u64, time: Duration) -> f64 {
    amount as f64 / time.as_secs_f64().max(1e-9)
}

fn row(name: &str, values: &Histogram, ns_each: u64) -> String {
    let [p50, p99, p999, max] = [values.quantile(0.5), values.quantile(0.99), values.quantile(0.999), values.max()]
        .map(|value| nanos(value.saturating_mul(ns_each)));
    format!("{name:<18} {p50:>10} {p99:>10} {p999:>10} {max:>10}")
}

/// The sizes in buckets as far as they reach. The names mean the same as in `stats --json`.
fn distribution(sizes: &Histogram) -> EventSize {
    let [first, last] = [sizes.min(), sizes.max()].map(|size| u64::BITS - size.leading_zeros());
    EventSize::of(sizes, first.max(1)..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Bucket;

    fn report(verdict: Result<Verdict, String>) -> Report {
        let mut total = Share { events: 3, bytes: 1060, ..Share::default() };
        for size in [10, 50, 1000] {
            total.sizes.record(size, 1);
            total.calls_ns.record(size * 7, 1);
        }
        Report {
            via: "lines",
            writers: 2,
            seed: 9,
            total,
            sent_in: Duration::from_millis(500),
            stored_in: Duration::from_secs(1),
            local: None,
            verdict,
        }
    }

    #[test]
    fn the_distribution_counts_every_event_once() {
        let report = report(Ok(Verdict { found: 3, ..Verdict::default() }));
        let buckets = distribution(&report.total.sizes).buckets;
        assert_eq!(buckets.first(), Some(&Bucket { le: 15, count: 1 }));
        assert_eq!(buckets.last(), Some(&Bucket { le: 1023, count: 1 }));
        assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 3);
        let json = report.json();
        assert_eq!((json["events"].as_u64(), json["proof"]["proven"].as_bool()), (Some(3), Some(true)));
        assert_eq!(json["events_per_second"].as_f64(), Some(3.0));
        assert!(report.text().ends_with("proof: each of 3 events is in the files once, in order, unchanged\n"));
    }

    #[test]
    fn a_proof_that_failed_or_was_not_made_is_not_to_be_overlooked() {
        let failed = report(Ok(Verdict { found: 2, missing: 1, ..Verdict::default() }));
        assert!(!failed.is_proven() && failed.text().contains("PROOF FAILED: 2 found, 1 missing"));
        let unread = report(Err("permission denied".into()));
        assert!(!unread.is_proven() && unread.text().contains("NOT PROVEN: permission denied"));
        assert_eq!(unread.json()["proof"]["proven"].as_bool(), Some(false));
    }

    #[test]
    fn a_run_without_events_divides_by_nothing() {
        let mut report = report(Ok(Verdict::default()));
        report.total = Share::default();
        report.stored_in = Duration::ZERO;
        assert!(report.text().contains("0 events"));
    }
}
