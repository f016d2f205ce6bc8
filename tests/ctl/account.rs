//! The account of a daemon, held against the files.

use super::fixture::*;
use dbufd::pipeline::account::Identity;
use dbufd::pipeline::record::{Cause, Loss};
use serde_json::{Value, json};

/// Three files: six events of `one`, two of which a later file has, three of `two`, and a loss of `one`.
struct Told {
    fixture: Fixture,
    answer: Value,
}

fn hexadecimal(tag: &str) -> String {
    Identity::of(&source(tag, 7)).to_record().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn claim(tag: &str, sent: u64, stored: u64, too_big: u64) -> Value {
    let lost = json!({ "full": 0, "too_big": too_big, "malformed": 0, "disk": 0, "abandoned": 0, "limited": 0 });
    json!({ "source": hexadecimal(tag), "sent": sent, "stored": stored, "lost": lost })
}

impl Told {
    fn new() -> Self {
        let mut fixture = Fixture::new();
        fixture.texts("one", 0, &["a", "b", "c", "d"]).rotate().texts("two", 10, &["e", "f", "g"]).rotate();
        let loss = Loss { cause: Cause::TooBig, events: 5, bytes: 9, first_ns: START_NS, last_ns: START_NS + 9 };
        fixture.batch(&source("one", 7), |run| {
            run.text(20, "h").text(21, "i").loss(21, &loss);
        });
        let stream = fixture.stream();
        fixture.close();
        let answer = json!({
            "since_ns": START_NS, "first_sequence": 1, "next_sequence": 10, "stream": stream, "withdrawn": 0,
            "producers": [claim("one", 11, 6, 5), claim("two", 4, 3, 0)],
        });
        Self { fixture, answer }
    }

    /// With the answer changed so.
    fn but(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.answer);
        self
    }

    fn json(self) -> Value {
        let reply = json!({ "ok": true, "data": self.answer }).to_string();
        serve(&self.fixture.runtime(), move |command| match command {
            "account" => reply.clone(),
            _ => r#"{"ok":false,"error":"no"}"#.into(),
        });
        let ran = self.fixture.run("account --json");
        assert_eq!(ran.code, 3, "losses are told by the exit code: {ran:?}");
        let object: Value = serde_json::from_str(&ran.out).unwrap();
        let text = self.fixture.run("account").out;
        assert_eq!(object["ok"] == true, text.contains("it adds up"), "{text}");
        assert_eq!(object["findings"].as_array().unwrap().len(), text.matches("DOES NOT ADD UP").count(), "{text}");
        object
    }
}

fn findings(told: Told) -> String {
    told.json()["findings"].to_string()
}

#[test]
fn what_agrees_adds_up_producer_by_producer() {
    let object = Told::new().json();
    assert_eq!(object["findings"], json!([]), "{object}");
    let figures = ["sent", "stored", "in_files", "lost_total", "in_memory", "deleted"].map(|name| &object[name]);
    assert_eq!(figures.map(|figure| figure.as_u64().unwrap()), [15, 9, 9, 5, 1, 0]);
    let rows = object["producers"].as_array().unwrap();
    let row = |at: usize| ["tag", "sent", "stored", "in_files", "in_memory"].map(|name| rows[at][name].clone());
    assert_eq!(row(0), [json!("one"), json!(11), json!(6), json!(6), json!(0)]);
    assert_eq!(row(1), [json!("two"), json!(4), json!(3), json!(3), json!(1)]);
    let told = &rows[0]["losses_in_files"][0];
    assert_eq!((&told["cause"], &told["events"], &told["bytes"]), (&json!("too_big"), &json!(5), &json!(9)));
    assert!(told["first_time"].is_string() && told["last_time"].is_string(), "{told}");
}

#[test]
fn an_account_without_losses_is_fine() {
    let mut fixture = Fixture::new();
    fixture.texts("one", 0, &["a", "b"]);
    let answer = json!({
        "since_ns": START_NS, "first_sequence": 1, "next_sequence": 3, "stream": fixture.stream(), "withdrawn": 0,
        "producers": [claim("one", 2, 2, 0)],
    });
    fixture.close();
    serve(&fixture.runtime(), move |_| json!({ "ok": true, "data": answer }).to_string());
    let text = fixture.run("account").fine();
    assert!(text.contains("it adds up: 2 sent = 2 stored + 0 lost + 0 in memory"), "{text}");
}

#[test]
fn whatever_does_not_agree_is_found() {
    let more_stored = Told::new().but(|answer| answer["producers"][0] = claim("one", 12, 7, 5));
    assert!(findings(more_stored).contains("10 events are counted as stored, and 9 sequences were assigned"));
    let more_than_came = Told::new().but(|answer| answer["producers"][1] = claim("two", 2, 3, 0));
    assert!(findings(more_than_came).contains("two[7]: 1 more events are stored or lost than were accepted"));
    let untold = Told::new().but(|answer| answer["producers"][0] = claim("one", 10, 6, 4));
    assert!(findings(untold).contains("the files report more losses than were counted"));
    let fewer = Told::new().but(|answer| {
        answer["producers"][0] = claim("one", 12, 7, 5);
        answer["next_sequence"] = json!(11);
    });
    assert!(findings(fewer).contains("1 events that were stored are in no file"));
    let more = Told::new().but(|answer| {
        answer["producers"][0] = claim("one", 10, 5, 5);
        answer["withdrawn"] = json!(0);
    });
    assert!(findings(more).contains("9 events are in the files, and only 8 should be"));
    let foreign = Told::new().but(|answer| answer["stream"] = json!("00000000000000000000000000000001"));
    assert!(findings(foreign).contains("9 events belong to other segments than the daemon's"));
    let missing = Told::new();
    std::fs::remove_file(&missing.fixture.files()[1]).unwrap();
    assert!(findings(missing).contains("missing: 3 events from sequence 5 on"));
}

#[test]
fn what_retention_has_deleted_is_no_damage() {
    let told = Told::new();
    std::fs::remove_file(&told.fixture.files()[0]).unwrap();
    let object = told.json();
    assert_eq!((&object["findings"], &object["deleted"], &object["in_files"]), (&json!([]), &json!(4), &json!(5)));
    assert_eq!(object["producers"][0]["gone"], 4);
}

#[test]
fn what_retention_has_deleted_of_each_producer_is_shown_beside_what_somebody_else_has_deleted() {
    let told = Told::new().but(|answer| {
        (answer["producers"][0]["deleted"], answer["producers"][0]["deleted_bytes"]) = (json!(2), json!(9));
        answer["deletions"] = json!({ "unknown_events": 1, "older_events": 6 });
    });
    std::fs::remove_file(&told.fixture.files()[0]).unwrap();
    let (fixture, answer) = (told.fixture, told.answer);
    let reply = json!({ "ok": true, "data": answer }).to_string();
    serve(&fixture.runtime(), move |_| reply.clone());
    let text = fixture.run("account").out;
    assert!(text.contains("deleted with the oldest files: 4 stored events, 3 of them by retention, 1 of"), "{text}");
    assert!(text.contains("deleted by retention, and older than the account: 6 events"), "{text}");
    let one = text.lines().find(|line| line.starts_with("one[7]")).unwrap();
    assert_eq!(one.split_whitespace().skip(2).collect::<Vec<_>>(), ["11", "6", "2", "2", "5", "0"], "{text}");
    let object: Value = serde_json::from_str(&fixture.run("account --json").out).unwrap();
    let figures = ["deleted", "deleted_by_retention", "deleted_unknown", "deleted_older"].map(|name| &object[name]);
    assert_eq!(figures.map(|figure| figure.as_u64().unwrap()), [4, 3, 1, 6]);
    let row = ["gone", "deleted", "deleted_bytes"].map(|name| object["producers"][0][name].as_u64().unwrap());
    assert_eq!(row, [4, 2, 9]);
}

#[test]
fn what_a_failed_sync_has_taken_back_is_lost() {
    // Its sequences are not assigned again, so they are missing, and known to be.
    let told = Told::new().but(|answer| {
        answer["producers"][0] = claim("one", 13, 8, 5);
        (answer["next_sequence"], answer["withdrawn"]) = (json!(12), json!(2));
    });
    let object = told.json();
    assert_eq!((&object["findings"], &object["lost"]["disk"]), (&json!([]), &json!(2)), "{object}");
}

#[test]
fn events_from_before_the_account_and_from_after_the_answer_are_left_out() {
    let told = Told::new().but(|answer| {
        (answer["first_sequence"], answer["next_sequence"]) = (json!(3), json!(9));
        answer["producers"] = json!([claim("one", 8, 3, 5), claim("two", 3, 3, 0)]);
    });
    let object = told.json();
    assert_eq!((&object["findings"], &object["older_events"], &object["in_files"]), (&json!([]), &json!(2), &json!(6)));
}

#[test]
fn producers_that_made_room_stand_among_all_others() {
    let told = Told::new().but(|answer| {
        let mut others = claim("", 9, 4, 5);
        others["source"] = Value::Null;
        // One of them came again.
        answer["producers"] = json!([claim("one", 2, 2, 0), claim("two", 3, 3, 0), others]);
    });
    let object = told.json();
    let rows = object["producers"].as_array().unwrap();
    assert_eq!(object["findings"], json!([]), "{object}");
    assert_eq!((&rows[0]["in_files"], &rows[2]["in_files"], &rows[2]["tag"]), (&json!(2), &json!(4), &Value::Null));
}

#[test]
fn without_a_daemon_the_files_speak_alone() {
    let Told { fixture, .. } = Told::new();
    let ran = fixture.run("account");
    assert!(ran.code == 3 && ran.out.contains("from the files alone (") && ran.out.contains("start dbufd"), "{ran:?}");
    assert!(ran.out.contains("no gap and no damage: 9 stored, 5 lost; no daemon to compare this with"), "{ran:?}");
    assert!(!ran.out.contains("it adds up"), "nothing says how many were sent: {ran:?}");
    let object: Value = serde_json::from_str(&fixture.run("account --json").out).unwrap();
    assert_eq!((&object["daemon"], &object["since"], &object["sent"]), (&json!(false), &Value::Null, &json!(14)));
}

#[test]
fn an_answer_that_is_no_account_is_not_believed() {
    let Told { fixture, .. } = Told::new();
    serve(&fixture.runtime(), |_| r#"{"ok":true,"data":{"producers":[{"source":"zz"}]}}"#.into());
    let ran = fixture.run("account");
    assert!(ran.out.contains("is not an account"), "{ran:?}");
}
