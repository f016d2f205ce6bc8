//! Composes a manual page: the only file that knows man(7).
//!
//! Input: text, in which `` `this` `` and `**this**` become bold. Output: roff that groff and mandoc accept without a
//! warning, and whose hyphens, quotes and tildes can be pasted. Pure. Nothing can fail.

use std::io::{self, Write};

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// The version in the foot of each page.
const SOURCE: &str = concat!("dbufd ", env!("CARGO_PKG_VERSION"));

/// A page.
#[derive(Debug)]
pub(super) struct Page {
    name: String,
    section: u8,
    roff: String,
}

impl Page {
    /// An empty page: its name in man, a description in one line, and its section of the manual.
    pub(super) fn new(name: &str, section: u8, about: &str) -> Self {
        let manual = match section {
            1 => "User commands",
            5 => "File formats",
            _ => "System administration",
        };
        // The first line asks man for tbl(1), the second turns hyphenation off. No date: pages of one version are
        // always the same bytes.
        let title =
            format!("'\\\" t\n.nr HY 0\n.TH {} {section} \"\" \"{SOURCE}\" \"{manual}\"\n", name.to_uppercase());
        let mut page = Self { name: name.to_owned(), section, roff: title };
        // Spaces are not stretched, which would change text that is to be pasted.
        page.control("ad", &["l"]);
        page.section("NAME");
        page.add(|roff| roff.text([roman(format!("{name} - {}", lower_first(about)))]));
        page
    }

    /// `name.section`, as the file is called.
    pub(super) fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }

    /// The roff of the whole.
    pub(super) fn text(self) -> String {
        self.roff
    }

    /// Begins a section.
    pub(super) fn section(&mut self, title: &str) -> &mut Self {
        self.control("SH", &[title])
    }

    /// Begins a part of a section.
    pub(super) fn subsection(&mut self, title: &str) -> &mut Self {
        self.control("SS", &[title])
    }

    /// A paragraph.
    pub(super) fn paragraph(&mut self, text: &str) -> &mut Self {
        self.apart().line(text)
    }

    /// A gap before the next paragraph, unless a heading has made one.
    fn apart(&mut self) -> &mut Self {
        let last = self.roff.lines().next_back().unwrap_or_default();
        if last.starts_with(".SH") || last.starts_with(".SS") { self } else { self.control("PP", &[]) }
    }

    /// A term and its meaning. An empty line separates paragraphs.
    pub(super) fn item(&mut self, term: &str, text: &str) -> &mut Self {
        self.control("TP", &[]).line(term);
        for (index, paragraph) in text.split("\n\n").enumerate() {
            if index > 0 {
                self.control("IP", &[]);
            }
            self.line(paragraph);
        }
        self
    }

    /// An item of a list, after its number or after a bullet.
    pub(super) fn listed(&mut self, number: Option<&str>, text: &str) -> &mut Self {
        let mark = number.unwrap_or("\\(bu");
        self.control("IP", &[mark, "4"]).line(text)
    }

    /// Lines that are not filled.
    pub(super) fn example<'a>(&mut self, lines: impl IntoIterator<Item = &'a str>) -> &mut Self {
        self.apart().control("EX", &[]);
        for line in lines {
            if line.is_empty() {
                self.control("sp", &[]);
            } else {
                self.add(|roff| roff.text([roman(line)]));
            }
        }
        self.control("EE", &[])
    }

    /// A table. The last column takes the remaining width, and its text is filled.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<&str>]) -> &mut Self {
        self.apart().control("TS", &[]);
        self.roff.push_str("nokeep;\n");
        let columns = "l ".repeat(head.len().saturating_sub(1));
        self.roff.push_str(&format!("{columns}lx.\n"));
        let marked: Vec<String> = head.iter().map(|name| format!("**{name}**")).collect();
        self.row(&marked.iter().map(String::as_str).collect::<Vec<_>>());
        self.roff.push_str("_\n");
        for row in rows {
            self.row(row);
        }
        self.control("TE", &[])
    }

    fn row(&mut self, cells: &[&str]) {
        for (index, cell) in cells.iter().enumerate() {
            let text = clean(&Roff::new().text(marked(cell)).to_roff());
            let text = text.trim_end();
            if index + 1 == cells.len() {
                self.roff.push_str(&format!("T{{\n{text}\nT}}\n"));
            } else {
                self.roff.push_str(&format!("{text}\t"));
            }
        }
    }

    /// The text that clap writes of a table of commands.
    pub(super) fn of_clap(&mut self, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> &mut Self {
        let mut written = Vec::new();
        render(&mut written).expect("writing to a vector does not fail");
        let text = String::from_utf8(written).expect("what the tables hold is UTF-8, and so is the rest");
        self.roff.push_str(&clean(&text));
        self
    }

    fn control(&mut self, name: &str, words: &[&str]) -> &mut Self {
        self.add(|roff| roff.control(name, words.iter().copied()))
    }

    fn line(&mut self, text: &str) -> &mut Self {
        self.add(|roff| roff.text(marked(text)))
    }

    fn add(&mut self, fill: impl FnOnce(&mut Roff) -> &mut Roff) -> &mut Self {
        let mut roff = Roff::new();
        self.roff.push_str(&clean(&fill(&mut roff).to_roff()));
        self
    }
}

/// Text with its marks: the text within `` ` `` or `**` becomes bold. A mark within the other is text.
fn marked(text: &str) -> Vec<Inline> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some((at, mark)) = first_mark(rest) {
        let (before, from) = (&rest[..at], &rest[at + mark.len()..]);
        let Some(end) = from.find(mark) else { break };
        parts.push(roman(before));
        parts.push(bold(&from[..end]));
        rest = &from[end + mark.len()..];
    }
    parts.push(roman(rest));
    parts
}

fn first_mark(text: &str) -> Option<(usize, &'static str)> {
    ["`", "**"].into_iter().filter_map(|mark| Some((text.find(mark)?, mark))).min()
}

/// Corrects what the library leaves: characters that roff would replace with typographic ones, and empty lines, which
/// become a blank line on paper if a break is set twice.
fn clean(roff: &str) -> String {
    let mut text = String::new();
    let mut before = "";
    for line in roff.lines() {
        let preamble = line.starts_with(".ie ") || line.starts_with(".el ");
        if line.is_empty() || preamble || (line == ".br" && before == ".br") {
            continue;
        }
        before = line;
        if line.starts_with('.') {
            text.push_str(line);
        } else {
            let line = line.replace(r"\\", r"\e").replace(r"\*(Aq", r"\(aq");
            for character in line.chars() {
                match character {
                    '\'' => text.push_str(r"\(aq"),
                    '`' => text.push_str(r"\(ga"),
                    '^' => text.push_str(r"\(ha"),
                    '~' => text.push_str(r"\(ti"),
                    other => text.push(other),
                }
            }
        }
        text.push('\n');
    }
    text
}

/// As a sentence begins in the middle of a line; a name in capitals stays as it is.
fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    match (characters.next(), text.chars().nth(1)) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        clean(&Roff::new().text(marked(text)).to_roff())
    }

    #[test]
    fn what_a_person_may_paste_comes_out_as_it_went_in() {
        assert_eq!(line("a-b 'c' ~/d ^e \\f"), "a\\-b \\(aqc\\(aq \\(ti/d \\(hae \\ef\n");
        assert_eq!(line("'first"), "\\&\\(aqfirst\n");
        assert_eq!(line(".first"), "\\&.first\n");
    }

    #[test]
    fn marks_become_bold_and_a_mark_without_its_end_stays() {
        assert_eq!(line("see `a b` and **c**."), "see \\fBa b\\fR and \\fBc\\fR.\n");
        assert_eq!(line("`**` is two stars, ` is one tick"), "\\fB**\\fR is two stars, \\(ga is one tick\n");
    }

    #[test]
    fn a_blank_line_is_left_out_and_of_two_breaks_one_stays() {
        assert_eq!(clean("a\n.br\n\n.br\nb\n"), "a\n.br\nb\n");
    }
}
