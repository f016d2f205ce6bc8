use std::path::Path;
use std::process::Command;

use clap::CommandFactory;
use dbufd::config::keys::KEYS;
use dbufd::ctl::Cli;

use super::fixture::*;

fn script(home: &Path, shell: &str, program: &str) -> String {
    Ran::of(command(home, &format!("completions {shell} --program {program}")).output().unwrap()).fine()
}

#[test]
fn completions_name_every_command_and_every_option() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = script(home.path(), shell, "dbufctl");
        let dashes = if shell == "fish" { "-l " } else { "--" };
        for command in Cli::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            for long in command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(clap::Arg::get_long) {
                assert!(script.contains(&format!("{dashes}{long}")), "{shell}: {} --{long}", command.get_name());
            }
        }
        let default = Ran::of(command(home.path(), &format!("completions {shell}")).output().unwrap()).fine();
        assert!(script == default, "{shell}: without --program it is not dbufctl's");
    }
}

#[test]
fn the_daemon_has_completions_of_its_own_with_the_keys_of_its_configuration() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = script(home.path(), shell, "dbufd");
        for word in KEYS.iter().map(|key| key.name).chain(["check-config", "print-config", "runtime"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
        assert!(!script.contains("rotate"), "{shell}: a command of dbufctl");
    }
}

/// What bash offers for the last of these words; None where there is no bash.
fn offered(home: &Path, words: &[&str]) -> Option<Vec<String>> {
    let file = home.join("script");
    std::fs::write(&file, script(home, "bash", words[0])).unwrap();
    let ask = r#"
        source "$0" || exit 1
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        set -- "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        # `--option=` before the cursor: bash gives no word to complete.
        if [[ $2 == "=" ]]; then set -- "$1" "" "$3"; fi
        function=$(complete -p "$1") function=${function#*-F } function=${function%% *}
        "$function" "$@" 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let ran = Command::new("bash").args(["--norc", "-c", ask]).arg(&file).args(words).output().ok()?;
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    Some(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[test]
fn bash_offers_what_fits_where_the_cursor_is() {
    let home = tempfile::tempdir().unwrap();
    for (words, expected) in [
        (&["dbufctl", "se"][..], &["segments", "send"][..]),
        (&["dbufctl", "--color", ""], &["auto", "always", "never"]),
        (&["dbufctl", "cat", "-o", "sh"], &["short", "short-iso", "short-precise"]),
        (&["dbufctl", "cat", "--output", "=", "js"], &["json"]),
        (
            &["dbufctl", "cat", "--output", "="][..],
            &["short", "short-iso", "short-precise", "cat", "raw", "json", "verbose", "export"],
        ),
        (&["dbufctl", "tail", "-p", "e"], &["emerg", "err"]),
        (&["dbufctl", "bench", "--via", ""], &["buffer", "ring", "frames", "lines", "dgram"]),
        (&["dbufctl", "cat", "--fo"], &["--follow", "--format"]),
        // Nothing of its own: bash then offers files.
        (&["dbufctl", "cat", ""], &[]),
        (&["dbufctl", "verify", "one"], &[]),
        (&["dbufctl", "completions", "f"], &["fish"]),
        (&["dbufd", "--set", "storage.re"], &["storage.retain_bytes=", "storage.retain_age="]),
        (&["dbufd", "--ch"], &["--check-config"]),
    ] {
        let Some(offered) = offered(home.path(), words) else {
            eprintln!("skipped: there is no bash to complete with");
            return;
        };
        assert_eq!(offered, expected, "{words:?}");
    }
    let commands: Vec<_> = Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    assert_eq!(offered(home.path(), &["dbufctl", ""]), Some(commands));
}

#[test]
fn a_shell_that_is_not_known_is_wrong_usage() {
    let home = tempfile::tempdir().unwrap();
    let ran = Ran::of(command(home.path(), "completions csh").output().unwrap());
    assert!(ran.failed(2).contains("bash"));
}
