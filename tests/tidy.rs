//! Checks the house rules: what a reviewer would have to look for by hand.
//!
//! The wall between the planes, the places where `unsafe` may stand, both ends of each named edge, the words and the
//! names, the sizes, the reasons for the dependencies, and the documents: their links, and that every test which they
//! name exists. What is not Rust is measured in `tidy/documents.rs`.

#[path = "tidy/documents.rs"]
mod documents;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines that a file may have, tests in it not counted.
const FILE_LINES_MAX: usize = 500;
/// Lines that a function may have.
const FUNCTION_LINES_MAX: usize = 70;
/// Characters that a line of Rust may have, code and comments alike. Only a row of a table of edges may have more.
const COLUMNS_MAX: usize = 120;
/// Words that docs/GLOSSARY.md may define: more than that is a private language.
const GLOSSARY_WORDS_MAX: usize = 40;
/// Parameters that a function may have, as clippy counts them.
const PARAMETERS_MAX: usize = 7;
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
    "src/sys/listen_fds.rs",
    "src/sys/pidfd.rs",
    "src/sys/recvmmsg.rs",
    "src/sys/sync_file_range.rs",
    "src/sys/ticks.rs",
    "src/sys/words.rs",
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

/// A word that may not come back.
struct Retired {
    /// Its forms, in lower case. Names are taken apart first: `LayDown` and `lay_down` are "lay down".
    forms: &'static [&'static str],
    /// What to write.
    instead: &'static str,
    /// Files whose names begin like this; everywhere if there are none.
    within: &'static [&'static str],
}

const fn retired(forms: &'static [&'static str], instead: &'static str) -> Retired {
    Retired { forms, instead, within: &[] }
}

/// What the daemon's own code and documents may not call by these names; clients use them in another sense.
const DAEMON: &[&str] = &["src/", "crates/", "docs/", "tests/", "benches/", "README.md", "CONTRIBUTING.md"];

/// Words that needed a dictionary, and those that replaced them (docs/GLOSSARY.md).
const RETIRED: &[Retired] = &[
    retired(&["desk", "desks"], "receive buffer; writer handle"),
    retired(&["lay down", "lays down", "laid down", "laying down", "lay it down", "lay them down"], "publish"),
    retired(&["pour", "pours", "poured", "pouring"], "publish from an event source"),
    retired(&["tray", "trays"], "claim encoder"),
    retired(&["teller", "tellers"], "recorder"),
    retired(&["census", "censuses"], "batch summary"),
    retired(&["heritage", "heritages"], "takeover; inherited buffer"),
    retired(&["bookmark", "bookmarks"], "read position"),
    retired(&["intake", "intakes"], "writer context"),
    retired(&["witness", "witnesses"], "publish observer"),
    retired(&["company"], "group commit; more events; others"),
    Retired { forms: &["ledger", "ledgers"], instead: "sync queue", within: DAEMON },
    Retired { forms: &["tap", "taps"], instead: "harness", within: DAEMON },
    retired(&["forgetful"], "simulated disk"),
    retired(&["predecessor", "predecessors"], "previous process"),
    retired(&["successor", "successors"], "next process"),
    retired(&["so many"], "a number, at most N, this many"),
    retired(&["whoever"], "the thing's name: the client, the process, the thread"),
    retired(&["told of"], "reported; learns of"),
    retired(&["gone on with"], "resumed"),
    retired(&["stranger", "strangers"], "unknown; another process"),
    retired(&["patience"], "timeout"),
    retired(&["for eyes"], "for people"),
    retired(&["bent"], "altered"),
];

/// Where a retired word may stand, as exact spellings.
const ALLOWED_SPELLINGS: &[&str] = &[
    // Names in systemd's store, as code and documents quote them. The store may hold them from an earlier version, so
    // they cannot change.
    "`desk0`",
    "`desk1`",
    "\"desk0\"",
    "\"desk1\"",
    "\"desk3\"",
    "\"desk12\"",
    "\"desk\"",
    "\"desk{index}\"",
    "`bookmarks`",
    "\"bookmarks\"",
    "\"bookmarks c0 c1\"",
    // The kernel's own word for a network device of a program's.
    "tap device",
    "tap interface",
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

/// The part of a file before its unit tests and models.
fn without_tests(text: &str) -> &str {
    let begins = [
        "#[cfg(test)]\nmod tests {",
        "#[cfg(all(test, not(dbuf_loom)))]\nmod tests {",
        "#[cfg(all(test, dbuf_loom))]\nmod ",
    ];
    let at = begins.iter().filter_map(|begin| text.find(begin)).min();
    at.map_or(text, |at| &text[..at])
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

#[test]
fn only_files_that_may_have_unsafe_allow_it_and_programs_deny_it_too() {
    let mut found = Vec::new();
    let mut allowed = 0;
    for (name, text) in sources() {
        let allows = text.lines().any(|line| !is_comment(line) && line.contains("allow(unsafe_code"));
        allowed += usize::from(allows);
        if allows != UNSAFE_PLACES.contains(&name.as_str()) {
            found.push(format!("{name}: allows unsafe: {allows}"));
        }
        if name.starts_with("src/bin/") && !text.contains("\n#![deny(unsafe_code)]\n") {
            found.push(format!("{name}: no #![deny(unsafe_code)]"));
        }
    }
    complain("unsafe", &found);
    assert_eq!(allowed, UNSAFE_PLACES.len());
}

#[test]
fn clippy_counts_parameters() {
    let settings = fs::read_to_string(root().join("clippy.toml")).expect("clippy's settings");
    let wanted = format!("too-many-arguments-threshold = {PARAMETERS_MAX}");
    assert!(settings.lines().any(|line| line == wanted), "clippy.toml: {wanted}");
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
    for file in ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"] {
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

/// A line in lower case, each word between two spaces, names taken apart. Punctuation is a word of its own, so that no
/// form reaches across it.
fn words_of(line: &str) -> String {
    let mut words = String::from(" ");
    let mut last = ' ';
    for letter in line.chars() {
        if letter.is_ascii_uppercase() && last.is_ascii_lowercase() {
            words.push(' ');
        }
        if letter.is_alphabetic() {
            words.push(letter.to_ascii_lowercase());
        } else if letter.is_whitespace() || letter.is_ascii_digit() || letter == '_' {
            words.push(' ');
        } else {
            words.push_str(" | ");
        }
        last = letter;
    }
    words.push(' ');
    words.split_whitespace().fold(String::from(" "), |all, word| all + word + " ")
}

/// Everything that people read: code of all languages, scripts, documents, units.
fn texts() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for folder in ["src", "crates", "clients", "tests", "benches", "fuzz", "docs", "etc", "systemd", "packaging"] {
        all.extend(texts_below(&root().join(folder)));
    }
    for file in ["README.md", "CONTRIBUTING.md", "SECURITY.md"] {
        all.push((file.into(), fs::read_to_string(root().join(file)).expect("readable document")));
    }
    all
}

fn texts_below(folder: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let is_made = ["target", "corpus", "artifacts", "__pycache__", "Cargo.lock"].iter().any(|made| name == *made);
        if is_made || name.to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            all.extend(texts_below(&path));
        } else if let Ok(text) = fs::read_to_string(&path) {
            // A golden file is no text, and fails here.
            all.push((path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned(), text));
        }
    }
    all
}

/// Each form between two spaces, as it stands in [`words_of`] a line.
fn retired_words() -> Vec<(String, &'static Retired)> {
    let forms = RETIRED.iter().flat_map(|retired| retired.forms.iter().map(move |form| (form, retired)));
    forms.map(|(form, retired)| (format!(" {form} "), retired)).collect()
}

fn has_any(words: &str, retired: &[(String, &Retired)]) -> bool {
    retired.iter().any(|(form, _)| words.contains(form))
}

#[test]
fn retired_words_do_not_come_back() {
    let mut found = Vec::new();
    let texts = documents::all_texts();
    assert!(texts.len() > 300, "the texts were not found");
    // This file has to name them.
    let retired = retired_words();
    // Taking lines apart is slow, and nearly all have no word to look for.
    let mut first_words: Vec<&str> = retired.iter().filter_map(|(form, _)| form.split_whitespace().next()).collect();
    first_words.sort_unstable();
    first_words.dedup();
    for (name, text) in texts.iter().filter(|(name, _)| name != "tests/tidy.rs") {
        for (at, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            if !first_words.iter().any(|word| lower.contains(word)) || !has_any(&words_of(line), &retired) {
                continue;
            }
            let line = ALLOWED_SPELLINGS.iter().fold(line.to_owned(), |line, spelling| line.replace(spelling, ""));
            let words = words_of(&line);
            for (form, Retired { instead, within, .. }) in &retired {
                let is_within = within.is_empty() || within.iter().any(|begin| name.starts_with(begin));
                if is_within && words.contains(form) {
                    found.push(format!("{name}:{}: \"{}\": write {instead}", at + 1, form.trim()));
                }
            }
        }
    }
    complain("retired words", &found);
}

#[test]
fn retired_words_are_found_in_every_spelling() {
    for line in ["a Desk", "lay_down(", "LayDown", "desk0", "is laid down.", "StreamTap", "SO MANY", "DESK_BYTES"] {
        assert!(has_any(&words_of(line), &retired_words()), "{line}");
    }
    for line in ["desktop", "tape", "accompany", "delay down", "absent", "someone"] {
        assert!(!has_any(&words_of(line), &retired_words()), "{line}");
    }
}

/// The most lines of the README: what a newcomer reads in five minutes.
const README_LINES_MAX: usize = 120;

#[test]
fn the_readme_can_be_read_in_five_minutes() {
    let lines = fs::read_to_string(root().join("README.md")).expect("a README").lines().count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines, at most {README_LINES_MAX} are allowed");
}

#[test]
fn every_metric_stands_in_the_page_on_monitoring_with_its_type() {
    let page = fs::read_to_string(root().join("docs/MONITORING.md")).expect("the page on monitoring");
    let mut found = Vec::new();
    let mut metrics = 0;
    for (_, text) in files_below("tests/golden", ".prom") {
        for declared in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            metrics += 1;
            let (name, kind) = declared.split_once(' ').expect("a name and a type");
            let has_both =
                |row: &str| row.split_whitespace().nth(1) == Some(name) && row.contains(&format!("| {kind} |"));
            if !page.lines().any(has_both) {
                found.push(declared.to_owned());
            }
        }
    }
    assert!(metrics > 30, "the golden files have {metrics} metrics");
    complain("a metric that is not in docs/MONITORING.md", &found);
}

#[test]
fn the_glossary_is_short_and_says_each_word_once() {
    let text = fs::read_to_string(root().join("docs/GLOSSARY.md")).expect("a glossary");
    let entries: Vec<&str> = text.lines().filter(|line| line.starts_with("* ")).collect();
    let mut words: Vec<&str> =
        entries.iter().filter_map(|line| line.strip_prefix("* **")?.split("**").next()).collect();
    assert_eq!(words.len(), entries.len(), "an entry begins with its word");
    assert!((20..=GLOSSARY_WORDS_MAX).contains(&words.len()), "{} words", words.len());
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), entries.len(), "a word is explained twice");
    let long = entries.iter().filter(|line| line.chars().count() > COLUMNS_MAX);
    complain("an entry is one line", &long.map(ToString::to_string).collect::<Vec<_>>());
}

/// The public types that a file declares, outside of its tests.
fn types_of(text: &str) -> impl Iterator<Item = &str> {
    without_tests(text).lines().filter(|line| !is_comment(line)).filter_map(|line| {
        let mut words = line.trim_start().strip_prefix("pub ")?.split_whitespace();
        let is_type = words.next().is_some_and(|word| ["struct", "enum", "trait", "union", "type"].contains(&word));
        let name = words.next().filter(|_| is_type)?;
        name.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next()
    })
}

#[test]
fn no_two_public_types_of_a_crate_have_one_name() {
    let mut by_crate: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for (name, text) in sources() {
        if is_test_file(&name) || name.ends_with("/models.rs") {
            continue;
        }
        let of_crate = by_crate.entry(name.split("src/").next().unwrap_or_default().to_string()).or_default();
        for declared in types_of(&text) {
            let files = of_crate.entry(declared.to_string()).or_default();
            // A file may declare one type twice, for the models and for everything else.
            if files.last() != Some(&name) {
                files.push(name.clone());
            }
        }
    }
    assert!(by_crate.len() > 4 && by_crate.values().all(|types| !types.is_empty()), "the types were not found");
    let types = by_crate.into_values().flatten();
    let found: Vec<String> = types
        .filter(|(_, files)| files.len() > 1)
        .map(|(declared, files)| format!("{declared}: {}", files.join(", ")))
        .collect();
    complain("two public types of one name", &found);
}

#[test]
fn lines_of_rust_fit_the_screen() {
    let mut found = Vec::new();
    let rust = texts().into_iter().filter(|(name, _)| name.ends_with(".rs"));
    for (name, text) in rust {
        let mut in_edges = false;
        for (at, line) in text.lines().enumerate() {
            let row = line.trim_start_matches(['/', '!', ' ']);
            in_edges = is_comment(line) && row.starts_with('|') && (in_edges || row.starts_with("| edge |"));
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !in_edges {
                found.push(format!("{name}:{}: {columns} columns", at + 1));
            }
        }
    }
    complain("long lines", &found);
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

/// The documents of the repository.
fn documents() -> Vec<(String, String)> {
    let mut all: Vec<_> = texts().into_iter().filter(|(name, _)| name.ends_with(".md")).collect();
    all.push(("CHANGELOG.md".into(), fs::read_to_string(root().join("CHANGELOG.md")).expect("a changelog")));
    assert!(all.len() > 10, "the documents were not found");
    all
}

/// A test's name is a sentence: four words or more.
fn is_test_name(word: &str) -> bool {
    word.matches('_').count() >= 3 && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A file of Rust that a document names: from the root, or from the pipeline.
fn named_file(name: &str) -> Option<PathBuf> {
    let places = [root().join(name), root().join("src/pipeline").join(name)];
    places.into_iter().find(|path| path.is_file())
}

#[test]
fn every_source_file_that_the_documents_name_exists() {
    let mut found = Vec::new();
    let mut named = 0;
    for (name, text) in documents().iter().filter(|(name, _)| name.starts_with("docs/")) {
        for path in quoted(text).filter(|word| word.contains('/') && word.ends_with(".rs")) {
            named += 1;
            if named_file(path).is_none() {
                found.push(format!("{name}: {path}"));
            }
        }
    }
    assert!(named > 50, "the documents name {named} files");
    complain("a document names a file that does not exist", &found);
}

#[test]
fn every_step_of_an_events_journey_is_in_the_function_that_is_named() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the architecture");
    let mut found = Vec::new();
    let mut named = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [.., path, functions] = cells[..] else { continue };
        let Some(path) = quoted(path).next().filter(|path| path.ends_with(".rs")) else { continue };
        let code = named_file(path).map(|path| fs::read_to_string(path).expect("a source")).unwrap_or_default();
        for function in quoted(functions) {
            named += 1;
            if ["(", "<"].iter().all(|after| !code.contains(&format!("fn {function}{after}"))) {
                found.push(format!("{path}: {function}"));
            }
        }
    }
    assert!(named > 50, "the tables name {named} functions");
    complain("a table names a function that is not in its file", &found);
}

#[test]
fn every_promise_names_the_tests_that_hold_it() {
    let text = fs::read_to_string(root().join("docs/RELIABILITY.md")).expect("the promises");
    let (_, promises) = text.split_once("\n## What it guarantees\n").expect("what it guarantees");
    let (promises, _) = promises.split_once("\n## ").expect("more than promises");
    let promises: Vec<&str> = promises.split("\n* ").skip(1).collect();
    assert!(promises.len() > 30, "{} promises", promises.len());
    let untested = promises.iter().filter(|promise| !quoted(promise).any(is_test_name));
    complain("a promise without a test", &untested.map(ToString::to_string).collect::<Vec<_>>());
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let mut code = String::new();
    for folder in ["src", "tests", "clients", "crates"] {
        code.extend(files_below(folder, ".rs").into_iter().map(|(_, text)| text));
    }
    code.extend(files_below("clients/python/tests", ".py").into_iter().map(|(_, text)| text));
    let mut found = Vec::new();
    let mut named = 0;
    for (name, text) in documents().iter().filter(|(name, _)| name.starts_with("docs/") || name == "README.md") {
        for word in quoted(text).filter(|word| is_test_name(word)) {
            named += 1;
            if !code.contains(&format!("fn {word}(")) && !code.contains(&format!("def {word}(")) {
                found.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(named > 100, "the documents name {named} tests");
    complain("a document names a test that does not exist", &found);
}
