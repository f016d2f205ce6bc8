use super::fixture::*;
use dbufd::pipeline::record::{Cause, Loss};
use serde_json::Value;
use std::os::unix::fs::FileExt as _;

fn verified(fixture: &Fixture, code: i32) -> Value {
    let ran = fixture.run("verify --json");
    assert_eq!(ran.code, code, "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

fn two_files() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.texts("one", 0, &["a", "b", "c"]).rotate().texts("two", 10, &["d", "e"]).close();
    fixture
}

#[test]
fn whole_files_are_well() {
    let fixture = two_files();
    let object = verified(&fixture, 0);
    assert_eq!((&object["ok"], &object["events"], &object["damaged_places"]), (&true.into(), &5.into(), &0.into()));
    let files = object["files"].as_array().unwrap();
    assert_eq!((&files[1]["first_sequence"], &files[1]["last_sequence"]), (&4.into(), &5.into()));
    let text = fixture.run("verify").fine();
    assert!(text.lines().last().unwrap().starts_with("files are whole: 2 files, 5 events"), "{text}");
    assert!(text.lines().next().unwrap().contains(" 3 events in 1 batch, "), "{text}");
}

#[test]
fn a_flipped_bit_is_told_with_its_place_and_its_extent() {
    let fixture = two_files();
    let path = &fixture.files()[0];
    let middle = std::fs::metadata(path).unwrap().len() / 2;
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
    let object = verified(&fixture, 3);
    assert_eq!(object["damaged_places"], 1, "{object}");
    let damage = &object["files"][0]["damage"][0];
    let (offset, bytes) = (damage["offset"].as_u64().unwrap(), damage["bytes"].as_u64().unwrap());
    assert!((offset..offset + bytes).contains(&middle), "{damage}");
    assert_eq!(object["files"][1]["ok"], true);
    let ran = fixture.run("verify");
    assert!(ran.code == 3 && ran.out.contains("DAMAGED") && ran.out.contains("offset"), "{ran:?}");
}

#[test]
fn a_missing_file_is_a_gap() {
    let mut fixture = Fixture::new();
    fixture.texts("one", 0, &["a"]).rotate().texts("one", 1, &["b", "c"]).rotate().texts("one", 3, &["d"]).close();
    std::fs::remove_file(&fixture.files()[1]).unwrap();
    let object = verified(&fixture, 3);
    assert_eq!((&object["missing_events"], &object["gaps"][0]["first_sequence"]), (&2.into(), &2.into()));
}

#[test]
fn an_end_that_nobody_writes_any_more_is_torn() {
    let mut fixture = Fixture::new();
    fixture.texts("one", 0, &["a"]).texts("one", 1, &["a longer text that will be cut off"]);
    let path = fixture.files().pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    fixture.close();
    let sealed = fixture.files().pop().unwrap();
    std::fs::remove_file(sealed).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
    let object = verified(&fixture, 3);
    assert!(object["torn_bytes"].as_u64().unwrap() > 0, "{object}");
    // While a daemon holds the directory, the same end may be a batch on its way.
    let lock = std::fs::File::open(fixture.directory().join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(verified(&fixture, 0)["torn_bytes"], 0);
}

#[test]
fn a_loss_that_the_files_tell_of_is_said_though_no_byte_is_wrong() {
    let mut fixture = Fixture::new();
    let loss = Loss { cause: Cause::TooBig, events: 3, bytes: 99, first_ns: START_NS, last_ns: START_NS };
    fixture.batch(&source("app", 7), |run| {
        run.text(0, "before").loss(1, &loss);
    });
    let object = verified(&fixture, 3);
    assert_eq!(
        (&object["ok"], &object["lost_events"], &object["files"][0]["ok"]),
        (&true.into(), &3.into(), &true.into())
    );
    let ran = fixture.run("verify");
    assert_eq!(ran.code, 3);
    assert!(ran.out.contains("3 events never reached a file; "), "{}", ran.out);
}
