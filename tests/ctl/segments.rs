use super::fixture::*;
use serde_json::{Value, json};

fn listed(fixture: &Fixture) -> Vec<Value> {
    serde_json::from_str(&fixture.run("segments --json").fine()).unwrap()
}

#[test]
fn every_file_is_listed_with_its_ranges_and_its_state() {
    let mut fixture = Fixture::new();
    fixture.texts("one", 0, &["a", "b", "c"]).close();
    fixture.open();
    fixture.texts("two", 10, &["d", "e"]);
    let rows = listed(&fixture);
    assert_eq!(rows.len(), 2, "{rows:?}");
    for (row, expected) in rows.iter().zip([
        json!(["sealed", 1, 3, "2026-11-23T05:13:16Z", "2026-11-23T05:13:18Z", 3]),
        json!(["active", 4, 5, "2026-11-23T05:13:26Z", "2026-11-23T05:13:27Z", 2]),
    ]) {
        let names = ["state", "first_sequence", "last_sequence", "first_time", "last_time", "events"];
        assert_eq!(Value::from_iter(names.map(|name| row[name].clone())), expected);
        let file = fixture.directory().join(row["file"].as_str().unwrap());
        assert!(row["bytes"].as_u64().unwrap() > 0 && file.exists());
    }
    let table = fixture.run("segments").fine();
    assert_eq!(table.lines().count(), 3);
    assert!(table.contains("sealed") && table.contains("2026-11-23 05:13:18"), "{table}");
}

#[test]
fn a_file_without_events_has_no_ranges_and_an_empty_directory_no_files() {
    let mut fixture = Fixture::new();
    let rows = listed(&fixture);
    assert_eq!((rows.len(), &rows[0]["events"], &rows[0]["first_time"]), (1, &json!(0), &Value::Null));
    fixture.close();
    fixture.files().iter().for_each(|file| std::fs::remove_file(file).unwrap());
    assert_eq!(listed(&fixture), Vec::<Value>::new());
}

#[test]
fn a_file_that_is_no_segment_is_named_and_fails_the_command() {
    let mut fixture = Fixture::new();
    fixture.texts("one", 0, &["a"]).close();
    std::fs::write(fixture.directory().join("00000000000000000009.segment"), "nothing of the kind").unwrap();
    let ran = fixture.run("segments --json");
    let rows: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    assert!(rows[1]["error"].is_string() && rows[0]["error"].is_null());
    assert!(ran.failed(1).contains("dbufctl verify"));
}
