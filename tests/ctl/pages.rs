use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use dbufd::config::keys::KEYS;
use dbufd::ctl::Cli;
use dbufd::pipeline::record::Cause;

use super::fixture::*;

/// Each page by its file's name, as roff.
fn pages(home: &Path) -> BTreeMap<String, String> {
    let into = home.join("not/there/yet");
    Ran::of(command(home, "man").arg(&into).output().unwrap()).fine();
    let files = std::fs::read_dir(into).unwrap().map(|file| file.unwrap().path());
    files
        .map(|file| (file.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&file).unwrap()))
        .collect()
}

/// Roff as a person reads it.
fn read(roff: &str) -> String {
    let mut text = roff.to_owned();
    for (escape, character) in [
        (r"\fB", ""),
        (r"\fI", ""),
        (r"\fR", ""),
        (r"\&", ""),
        (r"\-", "-"),
        (r"\(aq", "'"),
        (r"\(ga", "`"),
        (r"\(ha", "^"),
        (r"\(ti", "~"),
    ] {
        text = text.replace(escape, character);
    }
    text
}

/// The commands as the parser has them, with what they have in common.
fn commands() -> Vec<clap::Command> {
    let mut table = Cli::command();
    table.build();
    table.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect()
}

fn examples(command: &clap::Command) -> Vec<String> {
    let after = command.get_after_help().unwrap().to_string();
    let lines = after.lines().skip_while(|line| !line.starts_with("Example"));
    lines.skip(1).take_while(|line| !line.is_empty()).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn man_with_a_directory_writes_exactly_these_pages_and_the_same_each_time() {
    let home = tempfile::tempdir().unwrap();
    let first = pages(home.path());
    let mut expected: Vec<String> = commands().iter().map(|c| format!("dbufctl-{}.1", c.get_name())).collect();
    expected.extend(["dbufctl.1", "dbufd.8", "dbufd.toml.5", "dbuf-format.5"].map(str::to_owned));
    expected.sort();
    assert_eq!(first.keys().cloned().collect::<Vec<_>>(), expected);
    assert!(first == pages(home.path()), "a second time they are not the same");
    assert_eq!(Ran::of(command(home.path(), "man").output().unwrap()).fine(), first["dbufctl.1"]);
}

#[test]
fn every_command_has_a_page_with_its_options_and_its_examples() {
    let home = tempfile::tempdir().unwrap();
    let pages = pages(home.path());
    for command in commands() {
        let name = format!("dbufctl-{}", command.get_name());
        assert!(pages["dbufctl.1"].contains(&name.replace('-', r"\-")), "dbufctl(1) does not name {name}");
        let text = read(&pages[&format!("{name}.1")]);
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let terms = || text.lines().filter(|line| line.starts_with(['-', '[', '<']));
            let long = arg.get_long().map(|long| format!("--{long}"));
            let short = arg.get_short().map(|short| format!("-{short}"));
            let value =
                arg.get_value_names().filter(|_| arg.get_action().takes_values()).map(|names| names[0].to_string());
            for part in [long, short, value].into_iter().flatten() {
                assert!(terms().any(|term| term.contains(&part)), "{name}(1) has no entry for {part}");
            }
            for alias in arg.get_visible_aliases().unwrap_or_default() {
                assert!(text.contains(&format!("--{alias}")), "{name}(1) does not tell of --{alias}");
            }
            for value in arg.get_possible_values().iter().filter(|value| !value.is_hide_set()) {
                assert!(text.contains(value.get_name()), "{name}(1) does not tell of {}", value.get_name());
            }
        }
        let lines = examples(&command);
        assert!(!lines.is_empty(), "{name} has no example");
        for line in lines {
            assert!(text.lines().any(|shown| shown == line), "{name}(1) does not show {line}");
        }
    }
}

#[test]
fn the_page_of_the_daemon_tells_of_what_its_help_does_and_of_its_surroundings() {
    let home = tempfile::tempdir().unwrap();
    let text = read(&pages(home.path())["dbufd.8"]);
    let help = Ran::of(Command::new(env!("CARGO_BIN_EXE_dbufd")).arg("--help").output().unwrap()).fine();
    let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let options: Vec<&str> = words.filter(|word| word.starts_with("--")).collect();
    assert!(options.len() > 5, "{help}");
    let surroundings = "SIGTERM SIGINT SIGHUP SIGUSR1 SIGUSR2 RUNTIME_DIRECTORY LOGS_DIRECTORY CONFIGURATION_DIRECTORY \
                        NOTIFY_SOCKET WATCHDOG_USEC LISTEN_FDS FDSTORE /etc/dbufd/dbufd.toml /run/dbufd/stream.sock";
    for word in options.into_iter().chain(surroundings.split_whitespace()) {
        assert!(text.contains(word), "dbufd(8) does not tell of {word}");
    }
}

#[test]
fn every_key_is_in_the_page_of_the_configuration_with_its_default_and_its_bounds() {
    let home = tempfile::tempdir().unwrap();
    let text = read(&pages(home.path())["dbufd.toml.5"]);
    let mut from = 0;
    for key in KEYS {
        let (_, name) = key.parts();
        let default = match key.name {
            "ingest.socket_group" | "storage.retain_age" => "Default: \"none\"; example:",
            "storage.directory" => "No default; example:",
            _ => "Default:",
        };
        let (meaning, when) = (key.meaning.join(" ").replace('`', ""), key.applies.when());
        let said = format!(
            "\n.TP\n{name}\n{meaning}\n.IP\n{default} {}. Allowed: {}. A change takes effect {when}.\n",
            key.shown, key.bounds
        );
        let at = text[from..].find(&said).unwrap_or_else(|| panic!("not there, or not in order: {said}"));
        from += at;
    }
}

/// The page on a terminal 80 characters wide; None where there is no groff.
fn rendered(roff: &Path) -> Option<(String, String)> {
    let mut groff = Command::new("groff");
    groff.args(["-t", "-K", "utf8", "-man", "-Tutf8", "-P-cbou", "-rLL=78n", "-ww"]).arg(roff);
    let ran = groff.output().ok()?;
    Some((String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap()))
}

#[test]
fn pages_render_without_a_warning_and_examples_come_out_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    for page in pages(home.path()).keys() {
        let Some((text, warnings)) = rendered(&home.path().join("not/there/yet").join(page)) else {
            eprintln!("skipped: there is no groff to render the pages with");
            return;
        };
        assert_eq!(warnings, "", "{page}");
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{page}: wider than a terminal: {line}");
            assert!(
                !line.chars().any(|c| "\u{2010}\u{2212}\u{2019}\u{2018}\u{2dc}\u{2c6}".contains(c)),
                "{page}: not as typed: {line}"
            );
        }
        for command in commands().iter().filter(|c| *page == format!("dbufctl-{}.1", c.get_name())) {
            for example in examples(command) {
                assert!(text.lines().any(|line| line.trim() == example), "{page}: {example}\n{text}");
            }
        }
    }
}

#[test]
fn a_page_that_cannot_be_written_is_named() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("a file");
    std::fs::write(&file, "").unwrap();
    let ran = Ran::of(command(home.path(), "man").arg(&file).output().unwrap());
    assert!(ran.failed(1).contains("a file"));
}

#[test]
fn every_cause_of_loss_is_explained_where_its_figure_is_shown() {
    let home = tempfile::tempdir().unwrap();
    let page = read(&pages(home.path())["dbufctl-stats.1"]);
    let help = Ran::of(command(home.path(), "stats --help").output().unwrap()).fine();
    for cause in Cause::ALL.map(Cause::name) {
        let line = help.lines().find(|line| line.starts_with(&format!("  {cause} "))).unwrap_or_default();
        let meaning = line.trim().trim_start_matches(cause).trim();
        assert!(meaning.len() > 10, "stats --help does not explain {cause}: {help}");
        assert!(page.contains(&format!("\n.TP\n{cause}\n{meaning}\n")), "dbufctl-stats(1) does not: {page}");
    }
}

#[test]
fn an_option_whose_default_is_not_a_fixed_value_tells_its_default() {
    let home = tempfile::tempdir().unwrap();
    let dbufd = Ran::of(Command::new(env!("CARGO_BIN_EXE_dbufd")).arg("--help").output().unwrap()).fine();
    let stats = Ran::of(command(home.path(), "stats --help").output().unwrap()).fine();
    let default = |help: &str, option: &str| {
        let from = help.find(&format!("{option} ")).or_else(|| help.find(&format!("{option}["))).unwrap();
        let text = help[from..].split_whitespace().collect::<Vec<_>>().join(" ");
        let default = text[text.find("[default: ").unwrap()..].split(']').next().unwrap().to_owned();
        assert!(!default.contains(" --"), "{option} has none: {text}");
        default
    };
    assert!(default(&stats, "--watch").ends_with(": 2"));
    for help in [&stats, &dbufd] {
        assert!(default(help, "--runtime").contains("$XDG_RUNTIME_DIR/dbufd, else dbufd-UID in $TMPDIR"));
        assert!(default(help, "--directory").contains("/.local/state/dbufd"));
    }
    assert!(default(&dbufd, "--config").contains("/etc/dbufd/dbufd.toml"));
}

#[test]
fn a_wrong_option_leads_to_the_help_of_its_command() {
    let home = tempfile::tempdir().unwrap();
    let said = |line: &str| Ran::of(command(home.path(), line).output().unwrap()).failed(2);
    assert!(said("cat --folow").ends_with("; see 'dbufctl cat --help'\n"));
    assert!(said("--folow cat").ends_with("; see 'dbufctl --help'\n"));
}
