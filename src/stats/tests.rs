//! The schema and its renderings against an example that a daemon gave before the schema was one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::escape::json_line;

const JSON: &str = include_str!("../../tests/golden/stats.json");
const PROMETHEUS: &str = include_str!("../../tests/golden/stats.prom");
const TABLE: &str = include_str!("../../tests/golden/stats.txt");

fn sample() -> Snapshot {
    serde_json::from_str(JSON).unwrap()
}

#[test]
fn json_keeps_its_names_types_and_order() {
    assert_eq!(json_line(&serde_json::to_value(sample()).unwrap()), JSON);
}

#[test]
fn prometheus_text_keeps_its_names_labels_and_values() {
    assert_eq!(prometheus::render(&sample()), PROMETHEUS);
}

#[test]
fn the_table_keeps_its_rows_fits_a_terminal_and_has_no_control_byte() {
    assert_eq!(table::render(&sample(), None, false), TABLE);
    for line in TABLE.lines() {
        assert!(line.chars().count() <= 80 && !line.chars().any(char::is_control), "{line}");
    }
    let colored = table::render(&sample(), None, true);
    assert!(colored.contains("\x1b[1mevents    \x1b[0m") && colored.contains("\x1b[1;31mstalled: "), "{colored}");
}

#[test]
fn a_daemon_of_another_version_may_lack_fields_and_have_new_ones() {
    let older = r#"{"events":{"received":5},"writers":[{"index":3}]}"#;
    let older: Snapshot = serde_json::from_str(older).unwrap();
    assert_eq!((older.events.received, older.events.lost_total, older.writers[0].index), (5, 0, 3));
    let newer = JSON.replacen('{', r#"{"new":[1],"#, 1).replace(r#""lost":{"#, r#""more":null,"lost":{"new_cause":9,"#);
    let newer: Snapshot = serde_json::from_str(&newer).unwrap();
    assert_eq!((newer.events.lost["new_cause"], &newer.storage), (9, &sample().storage));
}

#[test]
fn a_snapshot_without_figures_renders() {
    let text = table::render(&Snapshot::default(), None, false);
    assert!(text.contains("events") && !text.contains("size") && !text.contains("persist "), "{text}");
    assert!(table::report(&Snapshot::default()).lines().count() <= 16);
    assert!(!prometheus::render(&Snapshot::default()).contains("event_size"));
}

#[test]
fn rates_are_over_the_time_since_the_snapshot_before() {
    let (now, mut before) = (sample(), sample());
    before.events.received -= 200;
    let text = table::render(&now, Some((Duration::from_secs(2), &before)), false);
    let row = text.lines().find(|line| line.contains("a second")).unwrap();
    assert_eq!(row.split_whitespace().nth(2), Some("100"), "{row}");
}

#[test]
fn the_report_is_the_table_with_the_rate_and_what_the_disk_refused() {
    let mut last = sample();
    let report = table::report(&last);
    let tail = report.strip_prefix(TABLE).expect("the table first");
    assert_eq!(tail, "rate       165 B of payload a second over 2 d 02 h\nin memory  1 event that no file holds\n");
    last.events.persisted += 1;
    assert!(!table::report(&last).contains("in memory"));
}

#[test]
fn each_family_is_declared_once_before_its_samples_and_no_series_appears_twice() {
    let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
    let mut current = (String::new(), String::new());
    for line in PROMETHEUS.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()) && help.ends_with('.'), "{line}");
            current.0 = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!((name, kind == "counter"), (&*current.0, name.ends_with("_total")), "{line}");
            current.1 = kind.to_owned();
        } else {
            let (labelled, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
            assert!(series.insert(labelled.to_owned()), "{line}");
            let name = labelled.split('{').next().unwrap();
            assert!(name == current.0 || current.1 == "histogram" && name.starts_with(&current.0), "{line}");
        }
    }
    assert!(families.len() > 25, "{families:?}");
}

#[test]
fn every_event_is_in_one_bucket() {
    let mut sizes = Histogram::default();
    for (size, n) in [(1, 5), (15, 1), (16, 2), (1 << 20, 3), (5 << 20, 4)] {
        sizes.record(size, n);
    }
    let buckets = EventSize::of(&sizes, 4..=20).buckets;
    assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), 15);
    assert_eq!((buckets[0].le, buckets[0].count, buckets[1].count), (15, 6, 2));
    assert_eq!(buckets.last(), Some(&Bucket { le: 5 << 20, count: 7 }));
    assert!(buckets.windows(2).all(|pair| pair[0].le < pair[1].le));
}

#[test]
fn the_sum_of_all_sizes_follows_from_the_mean() {
    let mut sizes = Histogram::default();
    sizes.record(7, 1);
    sizes.record(5000, 2_000_000);
    let shown = EventSize::of(&sizes, 4..=20);
    let count: u64 = shown.buckets.iter().map(|bucket| bucket.count).sum();
    assert_eq!((shown.mean * count as f64).round() as u64, 7 + 5000 * 2_000_000);
}
