//! Writes dbuf-format(5), which is `docs/FORMAT.md` as a manual page.
//!
//! Input: the document of the repository. Output: a page of the manual. Pure. Nothing can fail at run time; a test
//! checks that nothing in the document gets lost.
//!
//! It understands blocks with an empty line between them: headings of two levels, paragraphs, tables, numbered lists,
//! bullets, and indented code; and within them `` `code` `` and `**strong**`.

use super::page::Page;

/// The document as people read it in the repository.
const FORMAT: &str = include_str!("../../../docs/FORMAT.md");

/// dbuf-format(5).
pub(super) fn dbuf_format() -> Page {
    let mut blocks = FORMAT.split("\n\n").map(Block::of);
    let about = blocks.next().and_then(|block| block.heading()).unwrap_or_default();
    let mut page = Page::new("dbuf-format", 5, about);
    page.section("DESCRIPTION");
    for block in blocks {
        block.put(&mut page);
    }
    page.section("SEE ALSO").paragraph("dbufd(8), dbufctl(1), dbufctl-cat(1), dbufctl-segments(1), dbufctl-verify(1)");
    page
}

/// The text between two empty lines.
#[derive(Debug, PartialEq, Eq)]
enum Block<'a> {
    Heading(&'a str),
    Paragraph(&'a str),
    Code(Vec<&'a str>),
    Table(Vec<Vec<&'a str>>),
    /// Each item with its number, or without one for a bullet.
    List(Vec<(Option<&'a str>, String)>),
}

impl<'a> Block<'a> {
    fn of(text: &'a str) -> Self {
        let text = text.trim_matches('\n');
        if text.starts_with('#') {
            return Self::Heading(text.trim_start_matches('#').trim());
        }
        if text.starts_with("    ") {
            return Self::Code(text.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect());
        }
        if text.starts_with('|') {
            let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect();
            let is_rule = |line: &&str| line.chars().all(|character| "|-: ".contains(character));
            return Self::Table(text.lines().filter(|line| !is_rule(line)).map(cells).collect());
        }
        if mark(text).is_some() {
            return Self::List(list(text));
        }
        Self::Paragraph(text)
    }

    fn heading(self) -> Option<&'a str> {
        if let Self::Heading(text) = self { Some(text) } else { None }
    }

    fn put(&self, page: &mut Page) {
        match self {
            Self::Heading(text) => {
                // "2. Segment header": sections of a manual page have no numbers.
                let title = text.split_once(". ").map_or(*text, |(_, title)| title);
                page.section(&title.to_uppercase());
            }
            Self::Paragraph(text) => {
                page.paragraph(text);
            }
            Self::Code(lines) => {
                page.example(lines.iter().copied());
            }
            Self::Table(rows) => {
                if let Some((head, rows)) = rows.split_first() {
                    page.table(head, rows);
                }
            }
            Self::List(items) => {
                for (number, text) in items {
                    page.listed(*number, text);
                }
            }
        }
    }
}

/// The start of a list's line: its number, or None for a bullet; and the text after it.
fn mark(line: &str) -> Option<(Option<&str>, &str)> {
    if let Some(text) = line.strip_prefix("* ").or_else(|| line.strip_prefix("- ")) {
        return Some((None, text));
    }
    let (number, text) = line.split_once(". ")?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| (Some(&line[..=number.len()]), text))
}

fn list(text: &str) -> Vec<(Option<&str>, String)> {
    let mut items: Vec<(Option<&str>, String)> = Vec::new();
    for line in text.lines() {
        match (mark(line), items.last_mut()) {
            (Some((number, text)), _) => items.push((number, text.to_owned())),
            (None, Some((_, text))) => {
                text.push(' ');
                text.push_str(line.trim());
            }
            (None, None) => {}
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The letters and digits alone, which marks and line breaks do not change.
    fn letters(text: &str) -> String {
        text.chars().filter(char::is_ascii_alphanumeric).flat_map(char::to_lowercase).collect()
    }

    #[test]
    fn every_word_of_the_format_is_in_its_manual_page_in_the_same_order() {
        let escapes = ["\\fB", "\\fR", "\\(aq", "\\(ga", "\\(ha", "\\(ti"];
        let roff = letters(&escapes.iter().fold(dbuf_format().text(), |text, escape| text.replace(escape, "")));
        let mut from = 0;
        for word in FORMAT.split_whitespace().filter(|word| word.chars().any(|c| c.is_ascii_alphabetic())) {
            let word = letters(word);
            let at = roff[from..].find(&word).unwrap_or_else(|| panic!("{word:?} is not in the page, or not in order"));
            from += at + word.len();
        }
    }

    #[test]
    fn the_format_holds_nothing_that_the_page_cannot_show() {
        for (at, line) in FORMAT.lines().enumerate() {
            let strange =
                ["```", "###", "](", "<", "> ", "![", "\t", "\\"].into_iter().find(|mark| line.contains(mark));
            assert_eq!(strange, None, "docs/FORMAT.md:{}: {line}", at + 1);
        }
        let rows = FORMAT.split("\n\n").map(Block::of).filter_map(|block| match block {
            Block::Table(rows) => Some(rows),
            _ => None,
        });
        for rows in rows {
            assert!(rows.len() > 1 && rows.iter().all(|row| row.len() == rows[0].len()), "{rows:?}");
        }
    }

    #[test]
    fn a_block_is_known_by_how_it_begins() {
        assert_eq!(Block::of("## 2. Names"), Block::Heading("2. Names"));
        assert_eq!(Block::of("    a\n      b"), Block::Code(vec!["a", "  b"]));
        assert_eq!(Block::of("| a | b |\n|---|---|\n| 1 | |"), Block::Table(vec![vec!["a", "b"], vec!["1", ""]]));
        let list = |items: &[(Option<&'static str>, &str)]| {
            Block::List(items.iter().map(|(number, text)| (*number, (*text).to_owned())).collect())
        };
        assert_eq!(Block::of("1. one\n   goes on\n2. two"), list(&[(Some("1."), "one goes on"), (Some("2."), "two")]));
        assert_eq!(Block::of("* one\n- two"), list(&[(None, "one"), (None, "two")]));
        assert_eq!(Block::of("Only this. Nothing else."), Block::Paragraph("Only this. Nothing else."));
    }
}
