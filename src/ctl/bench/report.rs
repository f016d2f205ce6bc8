//! Prints the result of a run, for people and as JSON.
//!
//! Input: the shares of all writers, times and the verdict. Output: text. Nothing can fail.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::Share;
use super::proof::Verdict;
use crate::ctl::stats::{bytes_for_eyes, count_for_eyes};
use crate::pipeline::histogram::Histogram;

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
        let buckets: Vec<Value> = buckets(sizes).map(|(le, count)| json!({ "le": le, "count": count })).collect();
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
            "event_size": {
                "min": sizes.min(), "max": sizes.max(), "mean": sizes.mean(),
                "p50": sizes.quantile(0.5), "p90": sizes.quantile(0.9), "p99": sizes.quantile(0.99),
                "buckets": buckets,
            },
            "call_ns": percentiles(calls_ns),
        });
        if let Some((persist_us, swaps, full_waits)) = &self.local {
            report["persist_us"] = percentiles(persist_us);
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
        let Share { events, bytes, sizes, calls_ns } = &self.total;
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "{} events, {}, from {} writers via {} (seed {})",
            count(*events),
            bytes_for_eyes(*bytes as f64),
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
            bytes_for_eyes(self.bytes_per_second())
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
        let _ = writeln!(
            text,
            "\nsizes: min {}, mean {:.0}, max {} bytes",
            count(sizes.min()),
            sizes.mean(),
            count(sizes.max())
        );
        distribution(&mut text, sizes);
        text.push('\n');
        text.push_str(&self.verdict_text());
        text.push('\n');
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

fn count(number: u64) -> String {
    count_for_eyes(number as f64)
}

fn percentiles(values: &Histogram) -> Value {
    json!({
        "p50": values.quantile(0.5), "p99": values.quantile(0.99), "p999": values.quantile(0.999), "max": values.max(),
    })
}

fn row(name: &str, values: &Histogram, ns_each: u64) -> String {
    let [p50, p99, p999, max] = [values.quantile(0.5), values.quantile(0.99), values.quantile(0.999), values.max()]
        .map(|value| duration(value.saturating_mul(ns_each)));
    format!("{name:<18} {p50:>10} {p99:>10} {p999:>10} {max:>10}")
}

fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// The number of sizes in each bucket: up to a power of two less one, above the bound before it. Buckets are not
/// cumulative, as in `stats --json`, because the same names must mean the same.
fn buckets(sizes: &Histogram) -> impl Iterator<Item = (u64, u64)> {
    let first = u64::BITS - sizes.min().leading_zeros();
    let last = u64::BITS - sizes.max().leading_zeros();
    let mut before = 0;
    (first.max(1)..=last).map(|bits| u64::MAX >> (u64::BITS - bits)).map(move |bound| {
        let up_to = sizes.at_most(bound);
        (bound, up_to - std::mem::replace(&mut before, up_to))
    })
}

fn distribution(text: &mut String, sizes: &Histogram) {
    for (bound, here) in buckets(sizes) {
        let share = here as f64 / sizes.count().max(1) as f64;
        let bar = "#".repeat((share * 40.0).round() as usize);
        let line = format!("  up to {:>9} {:>13}  {bar}", count(bound), count(here));
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(buckets(&report.total.sizes).collect::<Vec<_>>().first(), Some(&(15, 1)));
        assert_eq!(buckets(&report.total.sizes).last(), Some((1023, 1)));
        assert_eq!(buckets(&report.total.sizes).map(|(_, here)| here).sum::<u64>(), 3);
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
