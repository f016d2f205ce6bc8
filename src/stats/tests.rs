//! The schema and its renderings against an example that a daemon gave before the schema was one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::escape::json_line;

const JSON: &str = include_str!("../../tests/golden/stats.json");
const PROMETHEUS: &str = include_str!("../../tests/golden/stats.prom");
const PROMETHEUS_WITH_PID: &str = include_str!("../../tests/golden/stats-with-pid.prom");
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
    assert_eq!(prometheus::render(&sample(), false), PROMETHEUS);
    assert_eq!(prometheus::render(&sample(), true), PROMETHEUS_WITH_PID);
}

fn values<'a>(text: &'a str, family: &str) -> Vec<(&'a str, &'a str)> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(family));
    lines.filter(|rest| rest.starts_with(['{', ' '])).filter_map(|rest| rest.rsplit_once(' ')).collect()
}

#[test]
fn without_a_request_no_process_has_series_of_its_own() {
    assert!(!PROMETHEUS.contains("pid=") && PROMETHEUS_WITH_PID.contains("pid=\"19207\""));
    let ring = |pid, high_water_bytes| Ring { pid, high_water_bytes, waiting_bytes: 5, ..sample().rings[0].clone() };
    let now = Snapshot { rings: vec![ring(1, 7), ring(2, 9), ring(3, 8)], ..sample() };
    let text = prometheus::render(&now, false);
    let labels = "{tag=\"bench\",uid=\"0\",unit=\"bench.service\"}";
    assert_eq!(values(&text, "dbufd_rings"), [(labels, "3")]);
    assert_eq!(values(&text, "dbufd_ring_waiting_bytes"), [(labels, "15")]);
    assert_eq!(values(&text, "dbufd_ring_high_water_bytes"), [(labels, "9")], "not the sum: it is of one ring");
    assert_eq!(values(&text, "dbufd_ring_events_total"), [], "the sum would fall when a ring ends");
    assert_eq!(values(&prometheus::render(&now, true), "dbufd_ring_events_total").len(), 3);
}

#[test]
fn producers_of_a_daemon_that_does_not_add_them_up_are_added_up_here() {
    let older = Snapshot { producer_groups: Vec::new(), ..sample() };
    let text = prometheus::render(&older, false);
    assert_eq!(values(&text, "dbufd_producer_events_total"), values(PROMETHEUS, "dbufd_producer_events_total"));
    let mut twice = older.clone();
    twice.producers.push(Producer { pid: Some(1), ..older.producers[0].clone() });
    let labels = "{tag=\"bench\",uid=\"0\",unit=\"bench.service\",transport=\"frames\"}";
    assert!(values(&prometheus::render(&twice, false), "dbufd_producer_events_total").contains(&(labels, "6000")));
}

#[test]
fn each_state_of_the_storage_has_a_series_at_all_times() {
    let series = |state: &str| {
        let storage = Storage { state: state.to_owned(), ..sample().storage };
        let text = prometheus::render(&Snapshot { storage, ..sample() }, false);
        let of = |family| values(&text, family).into_iter().map(|(labels, value)| format!("{labels}{value}")).collect();
        let [healthy, states]: [Vec<String>; 2] = ["dbufd_storage_healthy", "dbufd_storage_state"].map(of);
        (healthy.join(" "), states.join(" ").replace("{state=", "").replace(['"', '}'], ""))
    };
    assert_eq!(series("ok"), ("1".into(), "ok1 full0 failing0 stalled0".into()));
    assert_eq!(series("full"), ("0".into(), "ok0 full1 failing0 stalled0".into()));
    assert_eq!(series("novel"), ("0".into(), "ok0 full0 failing0 stalled0 novel1".into()));
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
    assert!(!prometheus::render(&Snapshot::default(), false).contains("event_size"));
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
    for text in [PROMETHEUS, PROMETHEUS_WITH_PID] {
        assert_families_and_series(text);
    }
}

fn assert_families_and_series(text: &str) {
    let (mut families, mut series) = (BTreeSet::new(), BTreeSet::new());
    let mut current = (String::new(), String::new());
    for line in text.lines() {
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
