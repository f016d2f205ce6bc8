//! Reads one Rust file as a list of words, and finds the paths by which it names other modules.
//!
//! This is no compiler: it knows `use` declarations, `mod` declarations, `cfg(test)` and paths. That is enough, because
//! a file can name another file of its crate only through one of them.

use std::collections::BTreeSet;

/// A word of the source: an identifier, a number, `::`, `=>` or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A path as it stands in the source, such as `super::store::Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    /// The inline modules of the file that it stands in.
    pub(crate) inline: Vec<String>,
}

/// One name that a `use` declaration brings into the file.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    /// The name in this file; `*` for a glob.
    pub(crate) name: String,
    pub(crate) path: NamedPath,
    /// `pub use`, with or without a restriction.
    pub(crate) is_public: bool,
}

/// What a file says about other modules, its tests left out.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) imports: Vec<Import>,
    /// Paths of two or more segments outside of `use` declarations.
    pub(crate) paths: Vec<NamedPath>,
    /// Modules that stand in files of their own.
    pub(crate) children: BTreeSet<String>,
    /// Of those, the ones that only tests have.
    pub(crate) test_children: BTreeSet<String>,
    /// Every identifier that stands outside of `use` declarations, and of a path only the first.
    pub(crate) mentions: BTreeSet<String>,
}

impl Source {
    pub(crate) fn parse(text: &str) -> Self {
        let words = without_tests(&words(text));
        let mut source = Self::default();
        let mut inline: Vec<(String, usize)> = Vec::new();
        let mut depth = 0;
        let mut at = 0;
        while at < words.len() {
            let word = words[at].text.as_str();
            let modules = || inline.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            match word {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    inline.pop_if(|(_, opened)| *opened == depth);
                }
                "mod" => {
                    // In a macro the name is `$name`.
                    at += 1 + usize::from(words.get(at + 1).is_some_and(|word| word.text == "$"));
                    let name = words.get(at).map_or_else(String::new, |word| word.text.clone());
                    at += 1;
                    match words.get(at).map(|word| word.text.as_str()) {
                        Some("{") => {
                            source.mentions.insert(name.clone());
                            inline.push((name, depth));
                        }
                        Some(";") => _ = source.children.insert(name),
                        _ => {}
                    }
                    continue;
                }
                "use" if words.get(at + 1).is_some_and(|word| word.text != "<") => {
                    let is_public = is_public(&words, at);
                    at += 1;
                    read_use(&words, &mut at, &[], is_public, &modules(), &mut source.imports);
                    continue;
                }
                _ if is_identifier(&words, at) => {
                    let path = read_path(&words, &mut at, modules());
                    source.mentions.insert(path.segments[0].clone());
                    if path.segments.len() > 1 {
                        source.paths.push(path);
                    }
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
        source.test_children = test_children(text);
        source
    }
}

/// The names of the modules that stand behind `cfg(test)`.
fn test_children(text: &str) -> BTreeSet<String> {
    let all = words(text);
    let declared = |words: &[Word]| -> BTreeSet<String> {
        let module = |three: &[Word]| three[0].text == "mod" && three[2].text == ";";
        words.windows(3).filter(|three| module(three)).map(|three| three[1].text.clone()).collect()
    };
    declared(&all).difference(&declared(&without_tests(&all))).cloned().collect()
}

fn is_identifier(words: &[Word], at: usize) -> bool {
    words.get(at).is_some_and(|word| word.text.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

/// Whether `pub` or `pub(...)` stands before the word at `at`.
fn is_public(words: &[Word], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|at| words[at].text.as_str());
    let is_restricted = || (2..12).any(|back| before(back) == Some("(") && before(back + 1) == Some("pub"));
    before(1) == Some("pub") || (before(1) == Some(")") && is_restricted())
}

fn read_path(words: &[Word], at: &mut usize, inline: Vec<String>) -> NamedPath {
    let line = words[*at].line;
    let mut segments = vec![words[*at].text.clone()];
    *at += 1;
    while words.get(*at).is_some_and(|word| word.text == "::") && is_identifier(words, *at + 1) {
        segments.push(words[*at + 1].text.clone());
        *at += 2;
    }
    NamedPath { segments, line, inline }
}

/// Reads one tree of a `use` declaration: a path that ends in a name, in `*`, in `as NAME` or in more trees.
fn read_use(
    words: &[Word],
    at: &mut usize,
    prefix: &[String],
    is_public: bool,
    inline: &[String],
    found: &mut Vec<Import>,
) {
    let line = words[*at].line;
    let mut segments = prefix.to_vec();
    let import = |name: String, segments: Vec<String>| Import {
        name,
        path: NamedPath { segments, line, inline: inline.to_vec() },
        is_public,
    };
    while let Some(word) = words.get(*at) {
        *at += 1;
        match word.text.as_str() {
            "::" => continue,
            "*" => return found.push(import("*".to_owned(), segments)),
            "{" => {
                while words.get(*at).is_some_and(|word| word.text != "}") {
                    read_use(words, at, &segments, is_public, inline, found);
                    if words.get(*at).is_some_and(|word| word.text == ",") {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            "self" if !segments.is_empty() => {}
            text => segments.push(text.to_owned()),
        }
        match words.get(*at).map(|word| word.text.as_str()) {
            Some("as") => {
                let name = words.get(*at + 1).map_or_else(String::new, |word| word.text.clone());
                *at += 2;
                return found.push(import(name, segments));
            }
            Some("::" | "{") => {}
            _ => {
                let name = segments.last().cloned().unwrap_or_default();
                return found.push(import(name, segments));
            }
        }
    }
}

/// Leaves out every item behind an attribute `cfg(test)`, also one such as `cfg(any(test, feature = "harness"))`.
fn without_tests(words: &[Word]) -> Vec<Word> {
    let text = |at: usize| words.get(at).map_or("", |word| word.text.as_str());
    let mut kept = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        if text(at) != "#" || text(at + 1) != "[" {
            kept.push(words[at].clone());
            at += 1;
            continue;
        }
        let end = closing(words, at + 1);
        let is_test = text(at + 2) == "cfg"
            && (at + 3..end).any(|at| text(at) == "test" && !(text(at - 1) == "(" && text(at - 2) == "not"));
        if is_test {
            at = end_of_item(words, end + 1);
        } else {
            // Attributes hold paths, too: `#[arg(value_parser = values::lines)]`.
            kept.extend_from_slice(words.get(at..=end).unwrap_or_default());
            at = end + 1;
        }
    }
    kept
}

/// Where the bracket that opens at `at` closes.
fn closing(words: &[Word], at: usize) -> usize {
    let mut depth = 0;
    for (index, word) in words.iter().enumerate().skip(at) {
        match word.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    words.len()
}

/// Where what follows the item at `at` begins: behind its `;`, its block, or the `,` of a field or an arm.
fn end_of_item(words: &[Word], mut at: usize) -> usize {
    while let Some(word) = words.get(at) {
        match word.text.as_str() {
            ";" | "," => return at + 1,
            "{" => return closing(words, at) + 1,
            "(" | "[" => at = closing(words, at) + 1,
            "}" => return at,
            _ => at += 1,
        }
    }
    at
}

/// The words of a file, comments and literals left out.
fn words(text: &str) -> Vec<Word> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest).unwrap_or_else(|| {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let length = match first {
                c if is_part(c) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            found.push(Word { text: rest[..length].to_owned(), line });
            length
        });
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    found
}

/// The length of what stands at the start of `rest` and is no word: white space, a comment, a literal, a lifetime.
fn skipped(rest: &str) -> Option<usize> {
    let until = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    let first = rest.chars().next()?;
    if first.is_whitespace() {
        return Some(first.len_utf8());
    }
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(until("*/", 2));
    }
    let body = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - body.len();
    if prefix <= 1
        && let Some(raw) = body.strip_prefix('r')
    {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            return Some(until(&format!("\"{}", "#".repeat(hashes)), prefix + 1 + hashes + 1));
        }
    }
    if prefix <= 1 && body.starts_with('"') {
        return Some(prefix + quoted(body, '"'));
    }
    if prefix <= 1 && body.starts_with('\'') {
        let mut inside = body[1..].chars();
        let is_character = match inside.next()? {
            '\\' => true,
            _ => inside.next() == Some('\''),
        };
        return Some(prefix + if is_character { quoted(body, '\'') } else { 1 });
    }
    None
}

/// The length of a literal between two `quote`, both included.
fn quoted(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}
