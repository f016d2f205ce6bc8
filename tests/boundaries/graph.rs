//! The files of a crate, and which of them import which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::source::{Import, NamedPath, Source};

/// A module's path within its crate, without `crate`.
type Module = Vec<String>;

/// At most this many re-exports are followed, one after the other.
const DEPTH_MAX: usize = 12;

/// One import: the file that imports, the file that it imports from, and the line and the path that say so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrow {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) line: usize,
    pub(crate) path: String,
}

/// All files of one crate.
#[derive(Debug, Default)]
pub(crate) struct Crate {
    /// By module: the file's name and what it says.
    modules: BTreeMap<Module, (String, Source)>,
}

impl Crate {
    /// From pairs of a file's name, below the crate's `src/`, and its text. Files that only tests have are left out.
    pub(crate) fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let parsed = files.into_iter().filter(|(name, _)| !is_binary(name));
        let mut all = Self {
            modules: parsed.map(|(name, text)| (module_of(name), (name.to_owned(), Source::parse(text)))).collect(),
        };
        let declared = |(module, (_, source)): (&Module, &(String, Source))| {
            let child = |name: &String| [module.as_slice(), std::slice::from_ref(name)].concat();
            source.test_children.iter().map(child).collect::<Vec<_>>()
        };
        let tests: Vec<Module> = all.modules.iter().flat_map(declared).collect();
        all.modules.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        all
    }

    /// The names of the files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.modules.values().map(|(name, _)| name.as_str())
    }

    /// Every import of one file from another, each pair of files once.
    pub(crate) fn arrows(&self) -> Vec<Arrow> {
        let mut by_pair = BTreeMap::new();
        for (module, (name, source)) in &self.modules {
            // A re-export alone is a sign at the door and no import: it counts when the file uses the name, too.
            let is_used = |name: &str| name == "*" || source.mentions.contains(name);
            let imports = source.imports.iter().filter(|import| !import.is_public || is_used(&import.name));
            let named = imports.map(|import| (&import.path, import.name == "*"));
            for (path, is_glob) in named.chain(source.paths.iter().map(|path| (path, false))) {
                let to = match self.resolve(module, path, 0) {
                    Some(Target::Item(file)) => file,
                    Some(Target::Module(module)) if is_glob => self.modules[&module].0.clone(),
                    _ => continue,
                };
                if to != *name {
                    let pair = (name.clone(), to.clone());
                    by_pair.entry(pair).or_insert_with(|| Arrow {
                        from: name.clone(),
                        to,
                        line: path.line,
                        path: path.segments.join("::"),
                    });
                }
            }
        }
        by_pair.into_values().collect()
    }

    /// What `path` in `module` leads to; None if that is in another crate.
    fn resolve(&self, module: &Module, path: &NamedPath, depth: usize) -> Option<Target> {
        let mut at = [module.as_slice(), &path.inline].concat();
        let mut segments = path.segments.as_slice();
        match segments.first()?.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
            }
            first => {
                let source = &self.modules.get(module)?.1;
                if !source.children.contains(first) {
                    let import = source.imports.iter().find(|import| import.name == first)?;
                    if import.path == *path {
                        return None;
                    }
                    let Target::Module(named) = self.resolve(module, &import.path, depth + 1)? else { return None };
                    at = named;
                } else {
                    at = [module.as_slice(), &segments[..1]].concat();
                }
            }
        }
        segments = &segments[1..];
        while segments.first().is_some_and(|segment| segment == "super") {
            at.pop();
            segments = &segments[1..];
        }
        self.follow(at, segments, depth)
    }

    /// Goes down from the module `at` along `segments`.
    fn follow(&self, mut at: Module, segments: &[String], depth: usize) -> Option<Target> {
        // Globs may name each other in a circle.
        if depth > DEPTH_MAX {
            return None;
        }
        for (index, segment) in segments.iter().enumerate() {
            let child = [at.as_slice(), std::slice::from_ref(segment)].concat();
            if self.modules.contains_key(&child) {
                at = child;
                continue;
            }
            // An inline module stands in the file of its nearest parent.
            let (owner, (file, source)) =
                (0..=at.len()).rev().find_map(|length| self.modules.get_key_value(&at[..length]))?;
            // A file defines no name that it does not mention: such a path stands in a macro, or leads through a glob.
            if source.mentions.contains(segment) && source.imports.iter().all(|import| import.name != *segment) {
                return Some(Target::Item(file.clone()));
            }
            let through = |import: &Import, rest: &[String]| match self.resolve(owner, &import.path, depth + 1) {
                Some(Target::Module(named)) => self.follow(named, rest, depth + 1),
                target => target,
            };
            return match source.imports.iter().find(|import| import.name == *segment) {
                Some(import) => through(import, &segments[index + 1..]),
                None => {
                    let mut globs = source.imports.iter().filter(|import| import.name == "*");
                    globs.find_map(|glob| through(glob, &segments[index..]))
                }
            };
        }
        Some(Target::Module(at))
    }
}

/// What a path names.
#[derive(Debug)]
enum Target {
    /// A whole module. To name it is no import; what is then taken from it is.
    Module(Module),
    /// Something in this file.
    Item(String),
}

fn is_binary(name: &str) -> bool {
    name == "main.rs" || name.starts_with("bin/")
}

/// `ctl/cat/mod.rs` is the module `ctl::cat`, `ctl/args.rs` is `ctl::args`, and `lib.rs` the root.
fn module_of(name: &str) -> Module {
    let stem = name.trim_end_matches(".rs").trim_end_matches("/mod");
    if stem == "lib" { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

/// Files that import each other in a circle, each circle once, as the shortest way round.
pub(crate) fn cycles(arrows: &[Arrow]) -> Vec<Vec<Arrow>> {
    let mut by_file: BTreeMap<&str, Vec<&Arrow>> = BTreeMap::new();
    for arrow in arrows {
        by_file.entry(&arrow.from).or_default().push(arrow);
    }
    let mut reported = BTreeSet::new();
    let mut found = Vec::new();
    for &start in by_file.keys() {
        if reported.contains(start) {
            continue;
        }
        if let Some(circle) = way_back(&by_file, start) {
            reported.extend(circle.iter().map(|arrow| arrow.from.clone()));
            found.push(circle.into_iter().cloned().collect());
        }
    }
    found
}

/// The shortest way from `start` along imports back to `start`.
fn way_back<'a>(by_file: &BTreeMap<&'a str, Vec<&'a Arrow>>, start: &'a str) -> Option<Vec<&'a Arrow>> {
    let mut came_by: BTreeMap<&str, &Arrow> = BTreeMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(file) = waiting.pop_front() {
        for &arrow in by_file.get(file).into_iter().flatten() {
            if came_by.contains_key(arrow.to.as_str()) {
                continue;
            }
            came_by.insert(&arrow.to, arrow);
            if arrow.to == start {
                let mut circle = vec![arrow];
                while circle[0].from != start {
                    circle.insert(0, came_by[circle[0].from.as_str()]);
                }
                return Some(circle);
            }
            waiting.push_back(&arrow.to);
        }
    }
    None
}

/// Imports that go up, or across between two folders of one floor.
///
/// `floors` lists the folders from the top down; the longest entry that a file's name begins with is its own.
pub(crate) fn upward<'a>(arrows: &'a [Arrow], floors: &[&[&str]]) -> Vec<&'a Arrow> {
    let is_wrong = |arrow: &&Arrow| {
        let (Some(from), Some(to)) = (place_of(&arrow.from, floors), place_of(&arrow.to, floors)) else { return false };
        from.1 != to.1 && from.0 >= to.0
    };
    arrows.iter().filter(is_wrong).collect()
}

/// The floor of a file, counted from the top, and the entry that it belongs to.
pub(crate) fn place_of<'f>(file: &str, floors: &[&[&'f str]]) -> Option<(usize, &'f str)> {
    let entries = floors.iter().enumerate().flat_map(|(floor, folders)| folders.iter().map(move |f| (floor, *f)));
    entries.filter(|(_, folder)| file.starts_with(folder)).max_by_key(|(_, folder)| folder.len())
}
