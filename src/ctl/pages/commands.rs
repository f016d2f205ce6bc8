//! Writes dbufctl(1) and a page for each of its commands, from the table that the command line is parsed by.
//!
//! Input: the table. Output: pages. Pure. Nothing can fail.
//!
//! The text below the help of a command goes to the usual sections of a manual page: its examples to EXAMPLES, the rest
//! to DESCRIPTION.

use clap::{Arg, Command};
use clap_mangen::Man;

use super::page::Page;
use crate::config::paths::{SYSTEM_RUNTIME_DIR, SYSTEM_SEGMENTS_DIR};
use crate::ctl::failure::DAMAGE_EXIT;

/// The commands that read segments.
const READS_SEGMENTS: [&str; 5] = ["cat", "tail", "segments", "verify", "account"];
/// The commands that end with [`DAMAGE_EXIT`].
const FINDS_DAMAGE: [&str; 4] = ["cat", "tail", "verify", "account"];

/// dbufctl(1).
pub(super) fn dbufctl(table: &Command) -> Page {
    let mut page = Page::new("dbufctl", 1, &about(table));
    head(&mut page, table);
    page.paragraph(
        "The commands `cat`, `tail`, `segments`, `verify` and `account` read files: they need read access to them, \
         and no daemon. Root and members of the group `dbufd` have that access. Most other commands connect to the \
         sockets of dbufd(8).",
    );
    notes(table).iter().for_each(|text| note(&mut page, text));
    page.paragraph("Each command has a page of its own; `dbufctl COMMAND --help` is a summary.");
    options(&mut page, table);
    page.of_clap(|to| Man::new(table.clone().subcommand_help_heading("COMMANDS")).render_subcommands_section(to));
    exit_status(&mut page, true);
    environment(&mut page);
    page.section("FILES");
    segments(&mut page);
    page.item(
        &format!("`{SYSTEM_RUNTIME_DIR}/control.sock`, `$XDG_RUNTIME_DIR/dbufd/control.sock`"),
        "The control socket of the system's daemon, and that of an ordinary user's daemon.",
    );
    examples(&mut page, table);
    let pages = table.get_subcommands().map(|command| format!("dbufctl-{}(1)", command.get_name()));
    see_also(&mut page, pages.collect::<Vec<_>>().iter().map(String::as_str).chain(["dbuf-format(5)"]));
    page
}

/// The page of each command.
pub(super) fn each(table: &Command) -> Vec<Page> {
    table.get_subcommands().filter(|command| !command.is_hide_set()).map(one).collect()
}

fn one(command: &Command) -> Page {
    let reads = READS_SEGMENTS.contains(&command.get_name());
    let mut page = Page::new(&format!("dbufctl-{}", command.get_name()), 1, &about(command));
    head(&mut page, command);
    notes(command).iter().for_each(|text| note(&mut page, text));
    options(&mut page, command);
    exit_status(&mut page, FINDS_DAMAGE.contains(&command.get_name()));
    if reads {
        page.section("FILES");
        segments(&mut page);
    }
    examples(&mut page, command);
    see_also(&mut page, ["dbufctl(1)"].into_iter().chain(reads.then_some("dbuf-format(5)")));
    page
}

/// The table after each command has got its common options and its full name.
pub(super) fn built(mut table: Command) -> Command {
    table.build();
    table
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// SYNOPSIS, and the first sentence of DESCRIPTION.
pub(super) fn head(page: &mut Page, command: &Command) {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_owned();
    page.of_clap(|to| Man::new(command.clone().override_usage(usage)).render_synopsis_section(to));
    page.section("DESCRIPTION").paragraph(&format!("{}.", about(command).trim_end_matches('.')));
}

/// OPTIONS, and a section for each heading of the help.
pub(super) fn options(page: &mut Page, command: &Command) {
    page.of_clap(|to| Man::new(command.clone().mut_args(with_aliases)).render_options_section(to));
}

/// The other names of an option, which clap's pages leave out.
fn with_aliases(arg: Arg) -> Arg {
    let aliases: Vec<String> =
        arg.get_visible_aliases().unwrap_or_default().iter().map(|alias| format!("--{alias}")).collect();
    match arg.get_help() {
        Some(help) if !aliases.is_empty() => {
            let help = format!("{help}; also called {}", aliases.join(", "));
            arg.help(help)
        }
        _ => arg,
    }
}

/// Paragraphs below the help, except those that have a section of their own.
fn after(command: &Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    text.split("\n\n").map(str::to_owned).collect()
}

fn is_example(paragraph: &str) -> bool {
    paragraph.starts_with("Example")
}

fn notes(command: &Command) -> Vec<String> {
    after(command).into_iter().filter(|text| !is_example(text) && !text.starts_with("Exit codes:")).collect()
}

/// A paragraph, or a list: a line, and below it indented lines, each of a term and its meaning.
fn note(page: &mut Page, text: &str) {
    let terms =
        |line: &str| Some(line.strip_prefix("  ")?.split_once("  ")?).map(|(a, b)| (a.to_owned(), b.to_owned()));
    match text.split_once('\n') {
        Some((head, list)) if list.lines().all(|line| terms(line).is_some()) => {
            page.paragraph(head);
            for (term, meaning) in list.lines().filter_map(terms) {
                page.item(&format!("`{term}`"), &meaning);
            }
        }
        _ => {
            page.paragraph(text);
        }
    }
}

/// EXAMPLES.
pub(super) fn examples(page: &mut Page, command: &Command) {
    page.section("EXAMPLES");
    for paragraph in after(command).iter().filter(|text| is_example(text)) {
        page.example(paragraph.lines().skip(1).map(|line| line.strip_prefix("  ").unwrap_or(line)));
    }
}

fn exit_status(page: &mut Page, finds_damage: bool) {
    page.section("EXIT STATUS");
    page.item("`0`", "Success, also if the reader of the output ends early, as `head` does.");
    page.item("`1`", "Failure; one line on standard error says what failed, why, and what to do.");
    page.item("`2`", "Wrong usage.");
    if finds_damage {
        let text = "Damage or loss was found in the data that was read. Everything that could be read was printed.";
        page.item(&format!("`{DAMAGE_EXIT}`"), text);
    }
    page.item("`4`", "No daemon answers.");
}

fn environment(page: &mut Page) {
    page.section("ENVIRONMENT");
    page.item(
        "`RUNTIME_DIRECTORY`, `XDG_RUNTIME_DIR`",
        "Where dbufctl looks for the daemon's sockets, by the rule in dbufd(8). `--runtime` overrides it.",
    );
    page.item(
        "`LOGS_DIRECTORY`, `XDG_STATE_HOME`, `HOME`",
        "Where dbufctl looks for the segments if no daemon answers, by the rule in dbufd(8). `--directory` overrides \
         it.",
    );
    page.item("`NO_COLOR`, `TERM`", "No colors if the first is set, or the second is `dumb`.");
    page.item("`TZ`", "Time zone of printed times, and of `--since` and `--until`; without it, that of the machine.");
    page.item("`TMPDIR`", "Directory in which `bench` keeps its segments while it runs.");
}

fn segments(page: &mut Page) {
    page.item(
        &format!("`{SYSTEM_SEGMENTS_DIR}`, `$XDG_STATE_HOME/dbufd` (`~/.local/state/dbufd`)"),
        "The segments of the system's daemon, and those of an ordinary user's daemon; see dbuf-format(5).",
    );
}

/// SEE ALSO: these pages, and those of general interest.
pub(super) fn see_also<'a>(page: &mut Page, pages: impl IntoIterator<Item = &'a str>) {
    let also = ["dbufd(8)", "dbufd.toml(5)", "journalctl(1)"];
    page.section("SEE ALSO").paragraph(&pages.into_iter().chain(also).collect::<Vec<_>>().join(", "));
}
