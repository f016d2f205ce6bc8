//! What is not Rust: how wide its lines are, and where the links of the documents lead.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{COLUMNS_MAX, complain, root, texts, texts_below};

/// Wider lines that a file may have: an inline table of TOML is one line. These numbers may only shrink.
const WIDE_LINES: &[(&str, usize)] = &[("Cargo.toml", 2)];

/// Files whose lines are given: data, the words of others, and Rust, which has a rule of its own.
const NOT_MEASURED: &[&str] = &[".rs", ".json", ".tsv", ".svg", ".segment", "LICENSE-APACHE", ".prom"];

/// The texts below the folders, those at the root, and the scripts of CI.
pub(super) fn all_texts() -> Vec<(String, String)> {
    let mut all = texts();
    all.retain(|(name, _)| name.contains('/'));
    for entry in fs::read_dir(root()).expect("the root").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() && name != "Cargo.lock" {
            all.extend(fs::read_to_string(entry.path()).map(|text| (name, text)));
        }
    }
    for hidden in [".ci", ".github"] {
        let texts = texts_below(&root().join(hidden)).into_iter();
        all.extend(texts.filter(|(name, _)| !name.starts_with(".ci/advisories/")));
    }
    all
}

#[test]
fn lines_of_every_language_fit_the_screen() {
    let mut found = Vec::new();
    for (name, text) in all_texts() {
        if NOT_MEASURED.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        let wide = text.lines().enumerate().filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
        let at: Vec<String> = wide.map(|(at, _)| (at + 1).to_string()).collect();
        let allowed = WIDE_LINES.iter().find(|(file, _)| *file == name).map_or(0, |(_, allowed)| *allowed);
        if at.len() > allowed {
            found.push(format!("{name}: {} lines, {allowed} allowed: {}", at.len(), at.join(" ")));
        }
    }
    complain(&format!("more than {COLUMNS_MAX} columns"), &found);
}

/// The lines of a document outside of its blocks of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// A line without what is quoted as code in it.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The anchors of a document: its headings, as the usual hosts make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |(_, line): (usize, &str)| {
        let kept = |letter: &char| letter.is_alphanumeric() || [' ', '-', '_'].contains(letter);
        let title: String = line.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect();
        let anchor = title.replace(' ', "-");
        let count = seen.entry(anchor.clone()).or_default();
        *count += 1;
        if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
    };
    headings.map(anchor).collect()
}

/// Where the links of a line lead: `[text](target)`, and `[name]: target`.
fn targets(line: &str) -> Vec<String> {
    let line = without_code(line);
    let inline = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target.trim());
    inline.chain(definition).map(str::to_owned).collect()
}

/// `docs/../README.md` is `README.md`.
fn resolved(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut all, component| {
        if component == Component::ParentDir {
            all.pop();
        } else {
            all.push(component);
        }
        all
    })
}

#[test]
fn every_link_of_a_document_leads_to_a_file_and_a_heading_that_are_there() {
    let documents: BTreeMap<String, String> =
        all_texts().into_iter().filter(|(name, _)| name.ends_with(".md")).collect();
    let mut found = Vec::new();
    let mut followed = 0;
    for (name, text) in &documents {
        for (at, line) in prose(text) {
            for target in
                targets(line).iter().filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
            {
                followed += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let folder = Path::new(name).parent().expect("a folder");
                let path = if file.is_empty() { PathBuf::from(name) } else { resolved(&folder.join(file)) };
                let heads = documents.get(&*path.to_string_lossy()).map(|text| anchors(text));
                let has_anchor = anchor.is_empty() || heads.is_some_and(|anchors| anchors.contains(anchor));
                if !root().join(&path).exists() || !has_anchor {
                    found.push(format!("{name}:{}: {target}", at + 1));
                }
            }
        }
    }
    assert!(followed > 10, "the links were not found");
    complain("a link leads nowhere", &found);
}

#[test]
fn links_and_anchors_are_read_as_they_are_written() {
    assert_eq!(
        targets("see [this](docs/A.md#the-gate) and [that](b.md), not `[x](y)`"),
        ["docs/A.md#the-gate", "b.md"]
    );
    assert_eq!(targets("[name]: ../c.md"), ["../c.md"]);
    let text = "# Two kinds: `words`, decide\n```sh\n# no heading\n```\n## A_b c-d\n## Again\n## Again\n";
    let wanted = ["a_b-c-d", "again", "again-1", "two-kinds-words-decide"];
    assert!(anchors(text).iter().eq(wanted), "{:?}", anchors(text));
    assert_eq!(resolved(Path::new("docs/../clients/c/README.md")), Path::new("clients/c/README.md"));
}

/// The number that follows `mark` in a file.
fn number_after(file: &str, mark: &str) -> u32 {
    let text = fs::read_to_string(root().join(file)).expect("a file of the repository");
    let (_, rest) = text.split_once(mark).unwrap_or_else(|| panic!("{file} has no {mark:?}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{file} has no number after {mark:?}"))
}

#[test]
fn the_protocol_states_the_version_of_a_ring_that_both_sides_check() {
    let stated = number_after("docs/PROTOCOL.md", "| version | daemon, once | ");
    assert_eq!(number_after("crates/dbuf-wire/src/ring/layout.rs", "VERSION: u32 = "), stated);
    assert_eq!(number_after("clients/c/src/memory.h", "DBUF__RING_VERSION = "), stated);
}
