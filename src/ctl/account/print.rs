//! Prints the account, for people and for programs.

use std::fmt::Write as _;

use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use super::balance::{Balance, Row};
use crate::ctl::context::Context;
use crate::ctl::print::clock::timestamp;
use crate::escape::visible;
use crate::pipeline::account::Identity;
use crate::pipeline::record::{Cause, Loss};
use crate::stats::format::{count, plural};

/// Columns of a producer's name.
const NAME_COLUMNS: usize = 28;

fn clipped(text: String) -> String {
    if text.chars().count() <= NAME_COLUMNS {
        return text;
    }
    text.chars().take(NAME_COLUMNS - 1).chain(['…']).collect()
}

/// The table, and the verdict under it.
pub(super) fn table(balance: &Balance, context: &Context, silence: Option<&str>, zone: &TimeZone) -> String {
    let time = |ns| timestamp(ns).to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let mut text = format!("account of {}", visible(&context.directory.to_string_lossy()));
    let _ = match (balance.since_ns, silence) {
        (Some(since), _) => writeln!(text, ", counted by the daemon since {}", time(since)),
        (None, Some(why)) => writeln!(text, ", from the files alone ({})", visible(why)),
        (None, None) => writeln!(text, ", from the files alone"),
    };
    let heads = ["SENT", "STORED", "IN FILES", "DELETED", "LOST", "IN MEMORY"];
    let _ = write!(text, "\n{:<NAME_COLUMNS$} {:<8}", "PRODUCER", "VIA");
    heads.iter().for_each(|head| {
        let _ = write!(text, " {head:>13}");
    });
    let mut rows: Vec<&Row> = balance.rows.iter().collect();
    // The row of all other producers comes last.
    rows.sort_by_key(|row| (row.identity.is_none(), std::cmp::Reverse((row.lost_total(), row.sent))));
    for row in rows {
        let via = row.identity.as_ref().map_or("", |identity| identity.transport.name());
        let figures = [row.sent, row.stored, row.in_files, row.deleted, row.lost_total(), row.in_memory()];
        line(&mut text, &clipped(row.name()), via, figures);
    }
    let all = [
        balance.sent(),
        balance.stored(),
        balance.in_files(),
        balance.deleted_by_retention(),
        balance.lost_total(),
        balance.in_memory(),
    ];
    line(&mut text, "all", "", all);
    text.push_str("\n\n");
    for row in &balance.rows {
        for (cause, events) in Cause::ALL.iter().zip(row.lost).filter(|(_, events)| *events > 0) {
            let reported = row.reported[*cause as usize].map(|loss| reported_at(&loss, &time)).unwrap_or_default();
            let _ = writeln!(text, "lost by {}: {} {}{reported}", row.name(), count(events as f64), cause.name());
        }
    }
    verdict(&mut text, balance);
    text
}

fn line(text: &mut String, name: &str, via: &str, figures: [u64; 6]) {
    let _ = write!(text, "\n{name:<NAME_COLUMNS$} {via:<8}");
    for figure in figures {
        let _ = write!(text, " {:>13}", count(figure as f64));
    }
}

fn reported_at(loss: &Loss, time: &dyn Fn(u64) -> String) -> String {
    let (first, last) = (time(loss.first_ns), time(loss.last_ns));
    let when = if first == last { format!("at {first}") } else { format!("from {first} to {last}") };
    format!("; the files report {}, {when}", count(loss.events as f64))
}

fn verdict(text: &mut String, balance: &Balance) {
    let number = |events: u64| count(events as f64);
    if balance.withdrawn > 0 {
        let _ = writeln!(text, "lost after they were stored, because a sync failed: {}", number(balance.withdrawn));
    }
    if balance.deleted > 0 {
        let _ = write!(text, "deleted with the oldest files: {} stored events", number(balance.deleted));
        let by_retention = balance.deleted_by_retention();
        if by_retention < balance.deleted {
            let _ = write!(text, ", {} of them by retention", number(by_retention));
        }
        if balance.deleted_unknown > 0 {
            let _ = write!(text, ", {} of unknown producers", number(balance.deleted_unknown));
        }
        text.push('\n');
    }
    if balance.deleted_older > 0 {
        let events = plural(balance.deleted_older, "event");
        let older = number(balance.deleted_older);
        let _ = writeln!(text, "deleted by retention, and older than the account: {older} {events}");
    }
    if balance.files.older_events > 0 {
        let events = plural(balance.files.older_events, "event");
        let _ = writeln!(text, "older than the account: {} {events} in the files", number(balance.files.older_events));
    }
    let findings = balance.findings();
    for finding in &findings {
        let _ = writeln!(text, "DOES NOT ADD UP: {}", visible(finding));
    }
    if findings.is_empty() && !balance.has_claims {
        // What was sent is not known then, so nothing can add up or fail to.
        let (stored, lost) = (number(balance.stored()), number(balance.lost_total()));
        let _ = writeln!(text, "no gap and no damage: {stored} stored, {lost} lost; no daemon to compare this with");
    } else if findings.is_empty() {
        let _ = writeln!(
            text,
            "it adds up: {} sent = {} stored + {} lost + {} in memory",
            number(balance.sent()),
            number(balance.stored() - balance.withdrawn.min(balance.stored())),
            number(balance.lost_total()),
            number(balance.in_memory())
        );
    }
}

/// One object.
pub(super) fn as_json(balance: &Balance, context: &Context, silence: Option<&str>) -> Value {
    let findings = balance.findings();
    let time = |ns: u64| timestamp(ns).to_string();
    json!({
        "ok": findings.is_empty(),
        "directory": context.directory.to_string_lossy(),
        "daemon": balance.has_claims,
        "daemon_silent": silence,
        "since": balance.since_ns.map(time),
        "first_sequence": balance.sequences.0,
        "next_sequence": balance.sequences.1,
        "sent": balance.sent(),
        "stored": balance.stored(),
        "in_files": balance.in_files(),
        "deleted": balance.deleted,
        "deleted_by_retention": balance.deleted_by_retention(),
        "deleted_unknown": balance.deleted_unknown,
        "deleted_older": balance.deleted_older,
        "withdrawn": balance.withdrawn,
        "in_memory": balance.in_memory(),
        "lost_total": balance.lost_total(),
        "lost": by_cause(balance.lost()),
        "older_events": balance.files.older_events,
        "missing_events": balance.files.missing_events,
        "damaged_places": balance.files.damaged_places,
        "findings": findings,
        "producers": balance.rows.iter().map(row_as_json).collect::<Value>(),
    })
}

fn by_cause(lost: [u64; Cause::COUNT]) -> Value {
    Cause::ALL
        .iter()
        .zip(lost)
        .map(|(cause, events)| (cause.name().to_owned(), events.into()))
        .collect::<Map<_, _>>()
        .into()
}

fn row_as_json(row: &Row) -> Value {
    let mut object = row.identity.as_ref().map_or_else(Map::new, identity_as_json);
    let time = |ns: u64| timestamp(ns).to_string();
    let loss = |loss: &Loss| {
        json!({
            "cause": loss.cause.name(),
            "events": loss.events,
            "bytes": loss.bytes,
            "first_time": time(loss.first_ns),
            "last_time": time(loss.last_ns),
        })
    };
    let figures = [
        ("sent", row.sent),
        ("stored", row.stored),
        ("in_files", row.in_files),
        ("gone", row.gone()),
        ("deleted", row.deleted),
        ("deleted_bytes", row.deleted_bytes),
        ("in_memory", row.in_memory()),
        ("lost_total", row.lost_total()),
    ];
    object.extend(figures.map(|(name, figure)| (name.to_owned(), figure.into())));
    object.insert("lost".to_owned(), by_cause(row.lost));
    object.insert("losses_in_files".to_owned(), row.reported.iter().flatten().map(loss).collect());
    Value::Object(object)
}

fn identity_as_json(identity: &Identity) -> Map<String, Value> {
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
    let session = (identity.session != 0).then(|| format!("{:032x}", identity.session));
    [
        ("tag", text(&identity.tag)),
        ("comm", text(&identity.comm)),
        ("unit", text(&identity.unit)),
        ("pid", identity.pid.into()),
        ("uid", identity.uid.into()),
        ("gid", identity.gid.into()),
        ("claimed_pid", identity.claimed_pid.into()),
        ("transport", identity.transport.name().into()),
        ("session", session.into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}
