//! The house rules: what a reviewer would have to look for by hand.
//!
//! The wall between the planes, the places where `unsafe` may stand, both ends of each named edge, the words, the
//! sizes, the reasons beside the dependencies, and that every test which the documents name exists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a file may have, tests in it not counted.
const FILE_LINES_MAX: usize = 500;
/// Lines that a function may have.
const FUNCTION_LINES_MAX: usize = 70;
/// Files that are longer all the same. This list may only shrink.
const LONG_FILES: &[&str] = &[];
/// Functions that are longer all the same. This list may only shrink.
const LONG_FUNCTIONS: &[&str] = &[];
/// Where `unsafe` may stand.
const UNSAFE_PLACES: &[&str] = &[
    "crates/dbuf-buffer/src/half.rs",
    "crates/dbuf-buffer/src/mapping.rs",
    "crates/dbuf-segment/src/vector.rs",
    "crates/dbuf-wire/src/ring/memory.rs",
    "clients/rust/src/sys.rs",
    "src/sys/",
];
/// The door to atomics and threads.
const DOOR: &str = "crates/dbuf-sync/";
/// Words that have a rival with one meaning, and the rival.
const WRONG_WORDS: &[(&str, &str)] = &[
    ("log line", "event"),
    ("log lines", "events"),
    ("log entry", "event"),
    ("log entries", "events"),
    ("journal entry", "event"),
    ("log message", "event"),
    ("log messages", "events"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &str, ending: &str) -> Vec<(String, String)> {
    fn walk(at: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(at) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_some_and(|n| n != "target") {
                walk(&path, ending, found);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), ending, &mut found);
    found.sort();
    let name = |p: &Path| p.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
    found.iter().map(|p| (name(p), fs::read_to_string(p).expect("readable source"))).collect()
}

fn sources() -> Vec<(String, String)> {
    let mut all = files_below("src", ".rs");
    all.extend(files_below("clients/rust/src", ".rs"));
    all.extend(files_below("crates", ".rs").into_iter().filter(|(name, _)| name.contains("/src/")));
    assert!(all.len() > 20, "the sources were not found");
    all
}

/// The manifest of each package of the workspace.
fn manifests() -> Vec<(String, String)> {
    let mut all = files_below("crates", "Cargo.toml");
    for file in ["Cargo.toml", "clients/rust/Cargo.toml"] {
        all.push((file.into(), fs::read_to_string(root().join(file)).expect("a manifest")));
    }
    assert!(all.len() > 2, "the manifests were not found");
    all
}

fn is_test_file(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/") || name.ends_with("_tests.rs")
}

/// The part of a file before its unit tests.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at])
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn complain(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn only_the_control_plane_names_tokio() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().enumerate().filter(|(_, l)| !is_comment(l) && l.contains("tokio"));
        if !name.starts_with("src/daemon/") {
            found.extend(lines.map(|(at, _)| format!("{name}:{}", at + 1)));
        }
    }
    complain("tokio is named outside src/daemon", &found);
}

#[test]
fn the_schema_of_the_figures_knows_neither_the_daemon_nor_dbufctl() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().enumerate().filter(|(_, l)| l.contains("crate::ctl") || l.contains("crate::daemon"));
        if name.starts_with("src/stats/") || name == "src/escape.rs" {
            found.extend(lines.map(|(at, _)| format!("{name}:{}", at + 1)));
        }
    }
    complain("src/stats is below src/daemon and src/ctl", &found);
}

#[test]
fn unsafe_stands_only_where_it_may_and_always_with_its_reason() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens = code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn");
            if !opens {
                continue;
            }
            if !UNSAFE_PLACES.iter().any(|place| name.starts_with(place)) {
                found.push(format!("{name}:{}: unsafe may not stand here", at + 1));
            }
            let before = &lines[at.saturating_sub(12)..at];
            if !before.iter().any(|l| l.contains("SAFETY:") || l.contains("# Safety")) {
                found.push(format!("{name}:{}: no SAFETY note above", at + 1));
            }
        }
    }
    complain("unsafe", &found);
}

#[test]
fn atomics_and_threads_come_through_one_door() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if name.starts_with(DOOR) || name.starts_with("clients/") || is_test_file(&name) {
            continue;
        }
        for (at, line) in without_tests(&text).lines().enumerate() {
            let door = ["std::sync::atomic", "std::thread", "std::sync::Mutex", "std::sync::Arc", "loom::"];
            if !is_comment(line) && door.iter().any(|path| line.contains(path)) {
                found.push(format!("{name}:{}: {}", at + 1, line.trim()));
            }
        }
    }
    complain("use dbuf_sync, which is crate::sync in the daemon", &found);
}

#[test]
fn every_package_denies_unsafe_and_takes_the_workspace_lints() {
    let mut found = Vec::new();
    for (manifest, text) in manifests() {
        let folder = manifest.trim_end_matches("Cargo.toml");
        let library = fs::read_to_string(root().join(format!("{folder}src/lib.rs"))).expect("a library");
        if !library.contains("\n#![deny(unsafe_code)]\n") {
            found.push(format!("{folder}src/lib.rs: no #![deny(unsafe_code)]"));
        }
        if !text.contains("\n[lints]\nworkspace = true\n") {
            found.push(format!("{manifest}: no lints of the workspace"));
        }
    }
    complain("lints", &found);
}

/// The crates from the ground up, each with those that it may depend on. The daemon may depend on all of them.
const CRATES: &[(&str, &[&str])] = &[
    ("crates/dbuf-sync/", &[]),
    ("crates/dbuf-buffer/", &["dbuf-sync"]),
    ("crates/dbuf-wire/", &["dbuf-sync"]),
    ("crates/dbuf-segment/", &["dbuf-sync", "dbuf-buffer", "dbuf-wire"]),
    ("clients/rust/", &["dbuf-sync", "dbuf-wire"]),
];

#[test]
fn crates_depend_on_those_below_them_alone() {
    let mut found = Vec::new();
    for (manifest, text) in manifests() {
        let Some(folder) = manifest.strip_suffix("Cargo.toml").filter(|folder| !folder.is_empty()) else { continue };
        let Some((_, below)) = CRATES.iter().find(|(name, _)| *name == folder) else {
            found.push(format!("{manifest}: its place among the crates is not known"));
            continue;
        };
        let dependencies = text.lines().filter_map(|line| line.split_once(" = {")).map(|(name, _)| name);
        let others = dependencies.filter(|name| name.starts_with("dbuf") && !below.contains(name));
        found.extend(others.map(|name| format!("{manifest}: {name}")));
    }
    complain("a crate depends on one that is not below it", &found);
}

/// Edges of a file's table: the first cell of each row below the head `| edge |`.
fn edges_of(text: &str) -> Vec<String> {
    let mut edges = Vec::new();
    let mut in_table = false;
    for line in text.lines().filter_map(|l| l.trim_start().strip_prefix("//!")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        in_table = (in_table || cells.get(1) == Some(&"edge")) && cells.len() > 2;
        if in_table && cells[1].starts_with('`') {
            edges.push(cells[1].trim_matches('`').to_string());
        }
    }
    edges
}

#[test]
fn every_named_edge_has_both_its_ends_and_every_ordering_names_its_edge() {
    let mut found = Vec::new();
    let mut by_folder: BTreeMap<String, (Vec<String>, String)> = BTreeMap::new();
    for (name, text) in sources() {
        if name.starts_with(DOOR) || is_test_file(&name) || name.ends_with("/models.rs") {
            continue;
        }
        let text = without_tests(&text);
        let folder = name.rsplit_once('/').expect("a folder").0.to_string();
        let is_root = folder == "src/pipeline" || folder == "clients/rust/src";
        let key = if is_root { name.clone() } else { folder };
        let (edges, all) = by_folder.entry(key).or_default();
        edges.extend(edges_of(text));
        all.push_str(text);
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let strong = ["Acquire", "Release", "AcqRel", "SeqCst"].iter().any(|o| {
                line.contains(&format!("Ordering::{o}"))
                    || line.contains(&format!(", {o})"))
                    || line.contains(&format!("({o})"))
            });
            let named = lines[at.saturating_sub(8)..=at].iter().any(|l| l.contains("edge `"));
            if strong && !is_comment(line) && !named {
                found.push(format!("{name}:{}: an ordering without its edge: {}", at + 1, line.trim()));
            }
        }
    }
    let mut edges_seen = 0;
    for (folder, (edges, text)) in by_folder {
        for edge in edges {
            edges_seen += 1;
            let sites: Vec<&str> = text
                .lines()
                .filter(|l| l.contains(&format!("edge `{edge}`")) && !l.trim_start().starts_with("//!"))
                .collect();
            for end in ["releasing", "acquiring"] {
                if !sites.iter().any(|l| l.contains(end)) {
                    found.push(format!("{folder}: edge `{edge}` has no {end} site"));
                }
            }
        }
    }
    assert!(edges_seen > 5, "the tables of edges were not found");
    complain("edges", &found);
}

#[test]
fn one_word_has_one_meaning() {
    let mut found = Vec::new();
    let mut texts = sources();
    texts.extend(files_below("docs", ".md"));
    texts.extend(files_below("etc", ".toml"));
    for file in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"] {
        texts.push((file.into(), fs::read_to_string(root().join(file)).expect("readable document")));
    }
    for (name, text) in texts {
        for (at, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            for (wrong, right) in WRONG_WORDS {
                if lower.contains(wrong) {
                    found.push(format!("{name}:{}: \"{wrong}\" is called \"{right}\" here", at + 1));
                }
            }
        }
    }
    complain("words", &found);
}

#[test]
fn files_and_functions_stay_small() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if is_test_file(&name) {
            continue;
        }
        let text = without_tests(&text);
        let count = text.lines().count();
        if count > FILE_LINES_MAX && !LONG_FILES.contains(&name.as_str()) {
            found.push(format!("{name} has {count} lines"));
        }
        let mut start: Option<(usize, usize, String)> = None;
        for (at, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            let is_function = code.contains("fn ")
                && !is_comment(line)
                && code.split("fn ").next().is_some_and(|before| {
                    before.split_whitespace().all(|w| {
                        w.starts_with("pub")
                            || ["const", "unsafe", "async", "in", "super)", "extern", "\"C\""].contains(&w)
                    })
                });
            if is_function && !code.ends_with(';') {
                let function = code.split("fn ").nth(1).unwrap_or_default();
                start = Some((at, indent, function.split(['(', '<']).next().unwrap_or_default().to_string()));
            } else if let Some((from, depth, function)) = &start
                && indent == *depth
                && code == "}"
            {
                let lines = at - from + 1;
                let place = format!("{name}: {function}");
                if lines > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.contains(&place.as_str()) {
                    found.push(format!("{place} has {lines} lines"));
                }
                start = None;
            }
        }
    }
    complain("too long", &found);
}

#[test]
fn every_dependency_has_its_reason_beside_it() {
    let mut found = Vec::new();
    for (file, text) in manifests() {
        let mut in_dependencies = false;
        let mut above = "";
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && line.contains('=') && !line.starts_with('#') && !above.starts_with('#') {
                found.push(format!("{file}: {line}"));
            }
            above = line;
        }
    }
    complain("a dependency without a reason", &found);
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let mut code = String::new();
    for folder in ["src", "tests", "clients", "crates"] {
        code.extend(files_below(folder, ".rs").into_iter().map(|(_, text)| text));
    }
    let mut found = Vec::new();
    let mut named = 0;
    let mut documents = files_below("docs", ".md");
    documents.push(("README.md".into(), fs::read_to_string(root().join("README.md")).expect("a README")));
    for (name, text) in documents {
        for word in text.split('`').skip(1).step_by(2) {
            // A test's name is a sentence: four words or more.
            let is_name = word.matches('_').count() >= 3
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_name {
                named += 1;
                if !code.contains(&format!("fn {word}(")) {
                    found.push(format!("{name}: {word}"));
                }
            }
        }
    }
    assert!(named > 10, "the documents name no tests");
    complain("a document names a test that does not exist", &found);
}
