//! The report for people: what the daemon did, in about 25 lines.
//!
//! Enters: the figures of one moment, the same that `stats` shows. Leaves: text. Pure. What can fail: nothing.

use std::fmt::Write as _;

use super::stats::Stats;

/// Buckets of the size distribution that get a line.
const BAR_COLUMNS: f64 = 30.0;

/// Writes the report.
pub(super) fn report(stats: &Stats) -> String {
    let mut text = String::new();
    let mut row = |label: &str, content: &str| {
        let _ = writeln!(text, "  {label:<11}{content}");
    };
    let events = &stats.events;
    row("events", &format!("received {}", number(events.received)));
    row("", &format!("persisted {}   durable {}", number(events.persisted), number(events.durable)));
    row("", &format!("lost {}{}{}", number(events.lost_total), causes(stats), in_memory(stats)));
    let bytes = &stats.bytes;
    let (received, written) = (size(bytes.received), size(bytes.written));
    row("payload", &format!("received {received}   persisted {}   written {written}", size(bytes.persisted)));
    let rate = |amount: u64| amount as f64 / stats.counting_seconds.max(0.001);
    let per_second = size(rate(bytes.received) as u64);
    row(
        "rate",
        &format!(
            "{} events/s   {per_second}/s   over {}",
            number(rate(events.received) as u64),
            time(stats.counting_seconds)
        ),
    );
    let sizes = &stats.event_size;
    if sizes.max > 0 {
        row(
            "event size",
            &format!("min {}   mean {}   max {}", size(sizes.min), size(sizes.mean.round() as u64), size(sizes.max)),
        );
        row("", &format!("p50 {}   p90 {}   p99 {}", size(sizes.p50), size(sizes.p90), size(sizes.p99)));
        for line in distribution(stats) {
            row("", &line);
        }
    }
    let buffer = &stats.buffer;
    row("buffer", &format!("2 halves of {}   swaps {}", size(buffer.capacity_bytes), number(buffer.swaps)));
    let waited = micros(buffer.full_wait_us);
    row(
        "",
        &format!(
            "full {} times, waited {waited}   late writers {}",
            number(buffer.full_waits),
            number(buffer.late_writers)
        ),
    );
    let persist = &stats.latency_us.publish_to_persist;
    if persist.max > 0 {
        let parts = [("p50", persist.p50), ("p99", persist.p99), ("p99.9", persist.p999), ("max", persist.max)];
        row("to file", &latencies(&parts));
    }
    let sync = &stats.latency_us.sync;
    if sync.max > 0 {
        row("sync", &latencies(&[("p50", sync.p50), ("p99", sync.p99), ("max", sync.max)]));
    }
    let writers: Vec<String> = stats.writers.iter().map(|writer| number(writer.events)).collect();
    row("writers", &format!("{} with {} events", writers.len(), writers.join(" + ")));
    let storage = &stats.storage;
    row("segments", &format!("{} with {} in {}", number(storage.segments), size(storage.bytes), storage.directory));
    if storage.state != "ok" {
        row("", &format!("{}: {}", storage.state, storage.last_error.as_deref().unwrap_or("no reason known")));
    }
    let cpu = stats.cpu_seconds;
    row(
        "process",
        &format!("cpu {:.2} s user, {:.2} s system   memory {}", cpu.user, cpu.system, size(stats.rss_bytes)),
    );
    text
}

/// What a stop leaves there, because the disk refuses it, is taken up by the next start where systemd keeps it.
fn in_memory(stats: &Stats) -> String {
    let events = &stats.events;
    let left = events.received.saturating_sub(events.persisted + events.lost_total);
    if left == 0 { String::new() } else { format!("   in memory {}", number(left)) }
}

fn causes(stats: &Stats) -> String {
    let causes = stats.events.lost.iter().filter(|(_, n)| **n > 0);
    let causes: Vec<String> = causes.map(|(cause, n)| format!("{cause} {}", number(*n))).collect();
    if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) }
}

/// One line for each bucket that holds anything.
fn distribution(stats: &Stats) -> Vec<String> {
    let buckets = &stats.event_size.buckets;
    let total: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0).max(1);
    let held = buckets.iter().filter(|bucket| bucket.count > 0);
    held.map(|bucket| {
        let share = bucket.count as f64 * 100.0 / total.max(1) as f64;
        let bar = "#".repeat((bucket.count as f64 / most as f64 * BAR_COLUMNS).ceil() as usize);
        format!("up to {:>9} {share:>5.1} % {bar}", size(bucket.le))
    })
    .collect()
}

fn latencies(parts: &[(&str, u64)]) -> String {
    let parts: Vec<String> = parts.iter().map(|(name, us)| format!("{name} {}", micros(*us))).collect();
    parts.join("   ")
}

/// With a comma at each thousand.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Three significant digits in the unit that fits.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ if value < 10.0 => format!("{value:.2} {unit}"),
        _ if value < 100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => time(us as f64 / 1e6),
    }
}

fn time(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let minutes = seconds as u64 / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min {} s", seconds as u64 % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::stats::{
        Bucket, Buffer, Bytes, Connections, Cpu, EventSize, Events, Latency, PersistLatency, Storage, Writer,
    };
    use super::*;

    fn sample() -> Stats {
        Stats {
            version: "1",
            uptime_seconds: 100.0,
            counting_seconds: 100.0,
            events: Events {
                received: 1_234_567,
                persisted: 1_234_560,
                durable: 1_234_560,
                lost_total: 7,
                lost: [("too_big", 5), ("malformed", 2), ("disk", 0)].into(),
            },
            bytes: Bytes { received: 200 << 20, persisted: 200 << 20, written: 230 << 20 },
            buffer: Buffer { capacity_bytes: 8 << 20, swaps: 4711, ..Buffer::default() },
            event_size: EventSize {
                min: 1,
                max: 9000,
                mean: 178.4,
                p50: 90,
                p90: 200,
                p99: 4000,
                buckets: vec![
                    Bucket { le: 127, count: 900_000 },
                    Bucket { le: 255, count: 0 },
                    Bucket { le: 16_383, count: 334_560 },
                ],
            },
            latency_us: Latency {
                publish_to_persist: PersistLatency { p50: 850, p99: 2100, p999: 9000, max: 1_200_000 },
                ..Latency::default()
            },
            connections: Connections::default(),
            writers: vec![Writer { index: 0, cpu: Some(0), connections: 0, events: 1_234_560, bytes: 0 }],
            producers: Vec::new(),
            rings: Vec::new(),
            storage: Storage {
                directory: "/d".into(),
                segments: 3,
                bytes: 230 << 20,
                state: "ok".into(),
                ..Storage::default()
            },
            cpu_seconds: Cpu { user: 1.0, system: 2.0 },
            rss_bytes: 30 << 20,
        }
    }

    #[test]
    fn the_report_says_what_came_in_what_was_kept_and_what_was_lost_and_why() {
        let text = report(&sample());
        for part in [
            "received 1,234,567",
            "persisted 1,234,560   durable 1,234,560",
            "lost 7 (malformed 2, too_big 5)",
            "12,345 events/s   2.00 MiB/s   over 1 min 40 s",
            "up to     127 B  72.9 % ##############################",
            "2 halves of 8.00 MiB   swaps 4,711",
            "p50 850 us   p99 2.1 ms   p99.9 9.0 ms   max 1.2 s",
            "3 with 230 MiB in /d",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(text.lines().count() <= 30 && text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn a_daemon_that_received_nothing_has_a_short_report() {
        let mut idle = sample();
        idle.event_size = EventSize::default();
        idle.latency_us = Latency::default();
        assert!(report(&idle).lines().count() <= 12);
    }
}
