//! The boundaries of the code: which crate, which folder and which file may import which.
//!
//! Three rules, without an exception:
//! 1. Crates stand on floors, and a crate depends only on crates of lower floors.
//! 2. So do the folders of `src`. Two folders of one floor do not know each other.
//! 3. No two files of a crate import each other, directly or in a circle of files. A parent that declares `mod child`
//!    imports nothing by that; a child that takes something which the parent defines does.
//!
//! The reason: a file can be understood, tested and moved with what stands below it, and with nothing else.

mod graph;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use graph::{Arrow, Crate, cycles, place_of, upward};

/// The crates from the top down.
const CRATE_FLOORS: &[&[&str]] =
    &[&["dbufd"], &["dbuf-client", "dbuf-segment"], &["dbuf-buffer", "dbuf-wire"], &["dbuf-sync"]];

/// The folders and single files of `src` from the top down. Above them is `bin/`, from which nothing can import.
const FLOORS: &[&[&str]] = &[
    &["ctl/", "daemon/"],
    &["stats/", "daemon_args.rs"],
    // What users write and read in their words: the data plane knows nothing of either.
    &["config/", "escape.rs"],
    // What assembles the pipeline is above all that it assembles.
    &["pipeline/assembly.rs"],
    &["pipeline/accept/"],
    &["pipeline/drain/"],
    &["pipeline/counters.rs"],
    &["pipeline/account/", "pipeline/store/"],
    &["pipeline/progress/"],
    &["pipeline/takeover/"],
    &["pipeline/histogram.rs", "pipeline/pulse.rs", "pipeline/shares.rs"],
    &["pipeline/shares/"],
    &["options.rs"],
    &["sys/"],
];
/// They declare modules, and define nothing.
const MAPS: &[&str] = &["lib.rs", "pipeline/mod.rs"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The folders of all crates that are published or built from here, by the crate's name.
fn crates() -> BTreeMap<String, PathBuf> {
    let mut folders = vec![root()];
    for parent in ["clients", "crates"] {
        let entries = fs::read_dir(root().join(parent)).into_iter().flatten().flatten();
        folders.extend(entries.map(|entry| entry.path()).filter(|path| path.join("Cargo.toml").exists()));
    }
    let name = |folder: &PathBuf| {
        let manifest = manifest(folder);
        let package = manifest["package"]["name"].as_str().expect("a name");
        package.to_owned()
    };
    folders.into_iter().map(|folder| (name(&folder), folder)).collect()
}

fn manifest(folder: &Path) -> toml::Table {
    fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest").parse().expect("a manifest is TOML")
}

/// The Rust files below `folder/src`, with their names relative to it.
fn sources(folder: &Path) -> Vec<(String, String)> {
    fn walk(at: &Path, base: &Path, found: &mut Vec<(String, String)>) {
        for path in fs::read_dir(at).expect("a folder of sources").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                walk(&path, base, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(base).expect("below the base").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("a readable source")));
            }
        }
    }
    let mut found = Vec::new();
    walk(&folder.join("src"), &folder.join("src"), &mut found);
    found
}

fn parsed(folder: &Path) -> Crate {
    let files = sources(folder);
    Crate::new(files.iter().map(|(name, text)| (name.as_str(), text.as_str())))
}

fn shown(arrow: &Arrow) -> String {
    format!("{}:{} imports {} ({})", arrow.from, arrow.line, arrow.to, arrow.path)
}

fn report(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn no_crate_depends_on_one_that_is_not_below_it() {
    let crates = crates();
    let floor = |name: &str| CRATE_FLOORS.iter().position(|floor| floor.contains(&name));
    let mut found = Vec::new();
    for (name, folder) in &crates {
        let Some(own) = floor(name) else {
            found.push(format!("{name} is in no floor of CRATE_FLOORS"));
            continue;
        };
        // What only tests use is no part of what is published.
        let mut manifest = manifest(folder);
        let mut tables = vec![manifest.remove("dependencies"), manifest.remove("build-dependencies")];
        let targets = manifest.get("target").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        tables.extend(targets.values().map(|target| target.get("dependencies").cloned()));
        let names = tables.into_iter().flatten().flat_map(|table| table.as_table().cloned().unwrap_or_default());
        for dependency in names.map(|(name, _)| name).filter(|name| crates.contains_key(name)) {
            if floor(&dependency).is_none_or(|floor| floor <= own) {
                found.push(format!("{name} depends on {dependency}"));
            }
        }
    }
    assert!(crates.len() >= 2, "the manifests were not found");
    report("crates that are not below the one that depends on them", &found);
}

#[test]
fn no_folder_imports_from_one_that_is_not_below_it() {
    let source = parsed(&root());
    let unplaced = source.files().filter(|file| !MAPS.contains(file) && place_of(file, FLOORS).is_none());
    report("files that are in no floor of FLOORS", &unplaced.map(str::to_owned).collect::<Vec<_>>());
    let entries = FLOORS.iter().flat_map(|floor| floor.iter());
    let empty = entries.filter(|entry| !source.files().any(|file| file.starts_with(**entry)));
    report("entries of FLOORS that no file has", &empty.map(|entry| (*entry).to_owned()).collect::<Vec<_>>());
    let arrows = source.arrows();
    assert!(arrows.len() > 200, "the imports were not found");
    report("imports that go up", &upward(&arrows, FLOORS).into_iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn no_files_import_each_other_in_a_cycle() {
    let mut found = Vec::new();
    for (name, folder) in crates() {
        for cycle in cycles(&parsed(&folder).arrows()) {
            found.push(format!("{name}:\n    {}", cycle.iter().map(shown).collect::<Vec<_>>().join("\n    ")));
        }
    }
    report("cycles of files", &found);
}

/// The checker, tried on module trees that are made up.
mod the_checker {
    use super::*;

    fn arrows(files: &[(&str, &str)]) -> Vec<Arrow> {
        Crate::new(files.iter().copied()).arrows()
    }

    fn pairs(files: &[(&str, &str)]) -> BTreeSet<(String, String)> {
        arrows(files).into_iter().map(|arrow| (arrow.from, arrow.to)).collect()
    }

    fn expected(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
        pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    #[test]
    fn every_way_to_name_another_file_is_an_import() {
        let leaf = ("leaf.rs", "pub struct Leaf; pub fn is() {} pub mod inner { pub fn go() {} }");
        for text in [
            "use crate::leaf::Leaf;",
            "use crate::{leaf::Leaf};",
            "use crate::leaf::*;",
            "use crate::leaf::{self, inner}; fn f() { leaf::inner::go() }",
            "use crate::leaf as other; fn f() -> other::Leaf { todo() }",
            "use super::leaf::inner::go;",
            "fn f() { crate::leaf::inner::go() }",
            "use crate::leaf; #[arg(value_parser = leaf::inner::go)] struct Args;",
            "fn f() { assert!(super::leaf::inner::go() == ()) }",
            "mod nested { use super::super::leaf::Leaf; }",
            "fn f(c: char) -> bool { c == '\"' || c == '\\'' || crate::leaf::is(c) }",
        ] {
            let found = pairs(&[("lib.rs", "mod leaf; mod user;"), leaf, ("user.rs", text)]);
            assert_eq!(found, expected(&[("user.rs", "leaf.rs")]), "{text}");
        }
    }

    #[test]
    fn comments_texts_tests_and_other_crates_are_no_imports() {
        for text in [
            "// crate::leaf::Leaf",
            "/* use crate::leaf::Leaf; */",
            "const A: &str = \"crate::leaf::Leaf\"; const B: &str = r#\"\"crate::leaf::Leaf\"#;",
            "#[cfg(test)]\nmod tests { use crate::leaf::Leaf; }",
            "#[cfg(any(test, feature = \"harness\"))]\nfn f() -> crate::leaf::Leaf { loop {} }",
            "use std::leaf::Leaf; fn f() { leaf::go() }",
            "use crate::leaf;",
        ] {
            let found = pairs(&[("lib.rs", ""), ("leaf.rs", "pub struct Leaf;"), ("user.rs", text)]);
            assert!(found.is_empty(), "{text}: {found:?}");
        }
        let not_a_test = "#[cfg(not(test))]\nuse crate::leaf::Leaf;";
        assert_eq!(pairs(&[("lib.rs", ""), ("leaf.rs", "struct Leaf;"), ("user.rs", not_a_test)]).len(), 1);
        let files =
            [("lib.rs", "#[cfg(test)]\nmod rig;"), ("rig.rs", "use crate::leaf::Leaf;"), ("leaf.rs", "struct Leaf;")];
        assert!(pairs(&files).is_empty());
    }

    #[test]
    fn a_re_export_leads_to_the_file_that_defines_and_is_no_import_by_itself() {
        let user = ("user.rs", "use crate::store::Status;");
        let status = ("store/status.rs", "pub struct Status;");
        let files = [("lib.rs", ""), ("store/mod.rs", "mod status; pub use status::Status;"), status, user];
        assert_eq!(pairs(&files), expected(&[("user.rs", "store/status.rs")]));
        let used = "mod status; pub use status::Status; fn f() -> Status { loop {} }";
        let files = [("lib.rs", ""), ("store/mod.rs", used), status];
        assert_eq!(pairs(&files), expected(&[("store/mod.rs", "store/status.rs")]));
    }

    #[test]
    fn a_path_in_a_macro_is_taken_from_the_module_that_the_macro_makes() {
        let makes =
            "macro_rules! make { ($name:ident) => { mod $name { use super::Size; const A: Size = super::SIZE; } } }";
        let files = [("lib.rs", ""), ("a/mod.rs", "mod format;"), ("a/format.rs", makes)];
        assert!(pairs(&files).is_empty());
    }

    #[test]
    fn a_cycle_is_reported_with_its_files() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; mod d;"),
            ("a.rs", "use crate::b::B; struct A;"),
            ("b.rs", "struct B; fn f() { crate::c::go() }"),
            ("c.rs", "use super::{a::A, d::D}; fn go() {}"),
            ("d.rs", "struct D;"),
        ];
        let found = cycles(&arrows(&files));
        assert_eq!(found.len(), 1);
        let names: Vec<&str> = found[0].iter().map(|arrow| arrow.from.as_str()).collect();
        assert_eq!(names, ["a.rs", "b.rs", "c.rs"]);
    }

    #[test]
    fn a_child_that_takes_what_its_parent_defines_closes_a_cycle_and_a_declaration_does_not() {
        let child = ("store/child.rs", "use super::Thing; pub fn go() {}");
        let declares = ("store/mod.rs", "mod child; pub struct Thing;");
        assert!(cycles(&arrows(&[("lib.rs", ""), declares, child])).is_empty());
        for uses in ["fn f() { child::go() }", "use child::go;", "use self::child::go;", "pub use child::*;"] {
            let parent = format!("mod child; pub struct Thing; {uses}");
            let found = cycles(&arrows(&[("lib.rs", ""), ("store/mod.rs", &parent), child]));
            assert_eq!(found.len(), 1, "{uses}");
        }
    }

    #[test]
    fn an_import_that_goes_up_or_across_is_reported() {
        let floors: &[&[&str]] = &[&["top/", "beside/"], &["pipeline/"], &["pipeline/store/"]];
        for (from, to, is_wrong) in [
            ("top/a.rs", "pipeline/a.rs", false),
            ("top/a.rs", "top/b.rs", false),
            ("pipeline/a.rs", "pipeline/store/a.rs", false),
            ("pipeline/a.rs", "top/a.rs", true),
            ("pipeline/store/a.rs", "pipeline/a.rs", true),
            ("top/a.rs", "beside/a.rs", true),
        ] {
            let path = format!("use crate::{}::Name;", to.trim_end_matches(".rs").replace('/', "::"));
            let parents = ["lib.rs", "top/mod.rs", "beside/mod.rs", "pipeline/mod.rs", "pipeline/store/mod.rs"];
            let files: Vec<_> = parents
                .map(|name| (name, ""))
                .into_iter()
                .chain([(from, path.as_str()), (to, "struct Name;")])
                .collect();
            let found = arrows(&files);
            assert_eq!((found.len(), upward(&found, floors).len()), (1, usize::from(is_wrong)), "{from} -> {to}");
        }
        assert_eq!(place_of("elsewhere.rs", floors), None);
    }
}
