//! What programs read, held against docs/JSON.md: no field is printed that is not there, and none is there in vain.

use std::collections::{BTreeMap, BTreeSet};

use super::fixture::*;
use dbufd::pipeline::record::{Cause, Event, Loss, Source, Transport, put_field};
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/JSON.md");
const STATS: &str = include_str!("../golden/stats.json");

/// Fields, each with its types.
type Fields = BTreeMap<String, BTreeSet<String>>;

/// The rows of the section with this number: the names, and the second cell.
fn rows(section: usize) -> impl Iterator<Item = (&'static str, &'static str)> {
    let begin = format!("\n## {section}. ");
    let (_, text) = PAGE.split_once(&begin).expect("the section");
    let text = text.split("\n## ").next().unwrap_or(text);
    text.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(str::trim);
        (cells.next().unwrap(), cells.next().unwrap())
    })
}

fn documented(section: usize) -> Fields {
    let types = |cell: &str| cell.split(" or ").map(str::to_owned).collect();
    rows(section).map(|(name, cell)| (name.trim_matches('`').to_owned(), types(cell))).collect()
}

/// Adds all fields of a document. The causes of loss are one field.
fn collect(path: &str, value: &Value, into: &mut Fields) {
    let kind = match value {
        Value::Object(members) => {
            for (name, value) in members {
                let name = if path.ends_with("lost") { "CAUSE" } else { name };
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                collect(&path, value, into);
            }
            return;
        }
        Value::Array(elements) => {
            return elements.iter().for_each(|element| collect(&format!("{path}[]"), element, into));
        }
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    into.entry(path.to_owned()).or_default().insert(kind.to_owned());
}

/// Holds documents, which have every field among them, against a section.
fn assert_documented(section: usize, documents: &[Value]) {
    let (mut printed, page) = (Fields::new(), documented(section));
    documents.iter().for_each(|document| collect("", document, &mut printed));
    let names = |fields: &Fields| fields.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&printed), names(&page));
    for (name, kinds) in &printed {
        // A number without a fraction looks like an integer.
        let is_right = |kind: &str| page[name].contains(kind) || (kind == "integer" && page[name].contains("number"));
        let wrong: Vec<_> = kinds.iter().filter(|kind| !is_right(kind)).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_figures_are_those_of_the_page() {
    assert_documented(2, &[parsed(STATS)]);
}

/// Files with a loss: the first is damaged, and one is not there.
fn damaged() -> Fixture {
    let mut fixture = Fixture::new();
    let loss = Loss { cause: Cause::TooBig, events: 5, bytes: 9, first_ns: START_NS, last_ns: START_NS + 9 };
    for (second, tag) in [(0, "one"), (3, "two"), (6, "three")] {
        fixture.texts(tag, second, &["a", "b", "c"]).rotate();
    }
    fixture.batch(&Source { session: 1, ..source("one", 7) }, |run| {
        run.text(20, "f").loss(21, &loss);
    });
    fixture.close();
    let files = fixture.files();
    std::fs::remove_file(&files[2]).unwrap();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&files[0], bytes).unwrap();
    fixture
}

#[test]
fn the_account_is_that_of_the_page() {
    let fixture = damaged();
    let alone = parsed(&fixture.run("account --json").out);
    let lost = json!({ "full": 0, "too_big": 0, "malformed": 0, "disk": 0, "abandoned": 0, "limited": 0 });
    let others = json!({ "source": null, "sent": 1, "stored": 1, "lost": lost });
    let data = json!({
        "since_ns": START_NS, "first_sequence": 1, "next_sequence": 11, "stream": "1", "withdrawn": 0,
        "producers": [others],
    });
    let answer = json!({ "ok": true, "data": data }).to_string();
    serve(&fixture.runtime(), move |_| answer.clone());
    let told = parsed(&fixture.run("account --json").out);
    assert_eq!((&alone["daemon"], &told["daemon"]), (&json!(false), &json!(true)));
    assert_documented(3, &[alone, told]);
}

#[test]
fn a_check_of_all_bytes_is_that_of_the_page() {
    assert_documented(4, &[parsed(&damaged().run("verify --json").out)]);
}

#[test]
fn the_list_of_files_is_that_of_the_page() {
    let mut fixture = Fixture::new();
    fixture.texts("one", 0, &["a"]).rotate();
    std::fs::write(fixture.directory().join("00000000000000000009.segment"), [7; 200]).unwrap();
    assert_documented(5, &[parsed(&fixture.run("segments --json").out)]);
}

/// The names that the tables of events name.
fn event_names() -> BTreeSet<String> {
    let names = |(cell, _): (&str, _)| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    rows(1).flat_map(names).collect()
}

#[test]
fn events_and_losses_have_the_names_of_the_page() {
    let mut fixture = Fixture::new();
    let loss = Loss { cause: Cause::TooBig, events: 5, bytes: 9, first_ns: START_NS, last_ns: START_NS + 9 };
    let mut fields = Vec::new();
    // "OWN" is a client's; the others are what a syslog header brings.
    for name in ["OWN", "SYSLOG_HOSTNAME", "SYSLOG_MSGID", "SYSLOG_STRUCTURED_DATA"] {
        assert!(put_field(&mut fields, name.as_bytes(), b"1"));
    }
    let from = Source { claimed_pid: 9, session: 1, transport: Transport::Syslog, ..source("one", 7) };
    fixture.batch(&from, |run| {
        // Facility 1, priority 6.
        let event = Event { time_ns: START_NS, source_time_ns: Some(1), pri: 14, ..Event::default() };
        let event = Event { producer_sequence: Some(2), fields: &fields, payload: b"a", ..event };
        run.event(&event).loss(1, &loss);
    });
    fixture.close();
    let lines = fixture.run("cat -o json").out;
    let objects: Vec<Value> = lines.lines().map(parsed).collect();
    assert_eq!(objects.len(), 2, "an event and a loss");
    let printed = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<BTreeSet<String>>();
    let all: BTreeSet<String> = objects.iter().flat_map(printed).filter(|name| name != "OWN").collect();
    assert_eq!(all, event_names());
    assert!(!printed(&objects[1]).contains("MESSAGE") && !printed(&objects[1]).contains("__SEQNUM"));
}
