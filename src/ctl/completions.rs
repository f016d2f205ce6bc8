//! `dbufctl completions`: what a shell needs to complete the command lines of dbufctl and of dbufd.
//!
//! Enters: a shell and a program. Leaves: a script on standard output, from the programs' own tables, to which values are
//! added that a table does not name because more than them is allowed. One thread. What can fail: the output.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Args, Command, CommandFactory, ValueEnum, ValueHint};
use clap_complete::{Shell, generate};

use super::args::Cli;
use super::output::say;
use super::select::priority;
use crate::config::keys::KEYS;
use crate::daemon;

/// `completions`
#[derive(Clone, Copy, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell that is to complete
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
    /// The program whose command line is to be completed
    #[arg(long, value_name = "PROGRAM", value_enum, default_value_t)]
    pub program: Program,
}

/// The programs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Program {
    /// The command that people type
    #[default]
    Dbufctl,
    /// The daemon
    Dbufd,
}

/// Runs `completions`.
///
/// # Errors
/// Standard output could not be written.
pub(super) fn run(args: CompletionsArgs) -> anyhow::Result<ExitCode> {
    say(&script(args.shell, args.program))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell, program: Program) -> String {
    let (name, table) = match program {
        Program::Dbufctl => ("dbufctl", Cli::command()),
        Program::Dbufd => ("dbufd", daemon::command()),
    };
    let mut table = with_values(table);
    let mut script = Vec::new();
    generate(shell, &mut table, name, &mut script);
    let script = String::from_utf8(script).expect("what the tables hold is UTF-8, and so is the rest");
    if shell == Shell::Bash { mended_for_bash(&script, name, &table) } else { script }
}

/// The table with values to offer. Only the completions see it: the parsers go on taking more than these.
fn with_values(table: Command) -> Command {
    let table = table.mut_args(|arg| match arg.get_id().as_str() {
        "priority" => arg.value_parser(PossibleValuesParser::new(priority::names())),
        // The hint keeps bash from putting a space behind the `=`.
        "set" => arg.value_parser(PossibleValuesParser::new(keys())).value_hint(ValueHint::Other),
        _ => {
            let free = arg.get_action().takes_values() && arg.get_possible_values().is_empty();
            // What is not said to be a file is none; without this, shells would offer files for a number.
            if free && arg.get_value_hint() == ValueHint::Unknown { arg.value_hint(ValueHint::Other) } else { arg }
        }
    });
    table.mut_subcommands(with_values)
}

fn keys() -> impl Iterator<Item = String> {
    KEYS.iter().map(|key| format!("{}=", key.name))
}

/// Three things that clap's script for bash leaves to be wished: bash hands `--option=value` over in three words, so that
/// the value is not completed; options are offered where nobody has begun one; and before them no place is left for a file.
fn mended_for_bash(script: &str, name: &str, table: &Command) -> String {
    let with_hint = |hint| {
        let takes = |command: &&Command| command.get_positionals().any(|arg| arg.get_value_hint() == hint);
        let names: Vec<&str> = table.get_subcommands().filter(takes).map(Command::get_name).collect();
        if names.is_empty() { "-".to_owned() } else { names.join("|") }
    };
    let (files, directories) = (with_hint(ValueHint::FilePath), with_hint(ValueHint::DirPath));
    let script = script.replace(&format!("complete -F _{name} "), &format!("complete -F _{name}_words "));
    format!(
        r#"_{name}_words() {{
    local begun="$2" before="$3" place="" word kept=()
    if [[ $before == "=" ]]; then
        before="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    _{name} "$1" "$begun" "$before"
    if [[ $begun == -* ]]; then
        return 0
    fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in
            {files}) place=files ;;
            {directories}) place=directories ;;
        esac
    done
    for word in "${{COMPREPLY[@]}}"; do
        if [[ $word != -* ]]; then
            kept+=("$word")
        fi
    done
    if [[ ${{#kept[@]}} -gt 0 || -n $place ]]; then
        COMPREPLY=("${{kept[@]}}")
    fi
    if [[ ${{#kept[@]}} -eq 0 && $place == directories ]]; then
        compopt -o dirnames 2>/dev/null
    fi
    return 0
}}

{script}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_for_each_program_and_bash_the_mended_one() {
        for program in [Program::Dbufctl, Program::Dbufd] {
            for shell in Shell::value_variants() {
                let script = script(*shell, program);
                assert!(script.contains("--runtime") || script.contains("-l runtime"), "{shell} {program:?}");
            }
            let (bash, name) = (script(Shell::Bash, program), program.to_possible_value().unwrap());
            let calls = |function: String| bash.matches(&function).count();
            assert_eq!(calls(format!("complete -F _{}_words ", name.get_name())), 2);
            assert_eq!(calls(format!("complete -F _{} ", name.get_name())), 0);
        }
    }

    #[test]
    fn a_value_that_is_offered_is_one_that_the_parser_takes() {
        for name in priority::names() {
            for command in ["cat", "tail", "send"] {
                assert!(Cli::command().try_get_matches_from(["dbufctl", command, "-p", name]).is_ok());
            }
        }
        for key in KEYS {
            let set = format!("{}={}", key.name, key.shown);
            assert!(daemon::command().try_get_matches_from(["dbufd", "--set", &set]).is_ok());
        }
    }
}
