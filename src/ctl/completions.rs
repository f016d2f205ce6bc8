//! Prints what a shell needs to complete the command lines of dbufctl and of dbufd.
//!
//! Input: a shell, a program, and the table of dbufctl's commands. Output: a script on standard output. clap generates
//! it from the programs' own tables, to which [`with_values`] adds values that a table does not list. One thread.
//! Failures: standard output cannot be written.

use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::{Args, Command, ValueEnum, ValueHint};
use clap_complete::{Shell as Generator, generate};

use super::output::print_out;
use super::select::priority;
use crate::config::keys::KEYS;
use crate::daemon_args;

/// `completions`
#[derive(Clone, Copy, Debug, Args)]
pub struct CompletionsArgs {
    /// The shell to write the script for
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
    /// The program to complete the command line of
    #[arg(long, value_name = "PROGRAM", value_enum, default_value_t)]
    pub program: Program,
}

/// The shells that the scripts are tested in. clap generates for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

impl Shell {
    fn generator(self) -> Generator {
        match self {
            Self::Bash => Generator::Bash,
            Self::Zsh => Generator::Zsh,
            Self::Fish => Generator::Fish,
        }
    }
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

/// Runs `completions`. `dbufctl` is the table of dbufctl's commands.
///
/// # Errors
/// Standard output could not be written.
pub(super) fn run(args: CompletionsArgs, dbufctl: Command) -> anyhow::Result<ExitCode> {
    print_out(&script(args.shell, args.program, dbufctl))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell, program: Program, dbufctl: Command) -> String {
    let (name, table) = match program {
        Program::Dbufctl => ("dbufctl", dbufctl),
        Program::Dbufd => ("dbufd", daemon_args::command()),
    };
    let mut table = with_values(table);
    let mut script = Vec::new();
    generate(shell.generator(), &mut table, name, &mut script);
    let mut script = String::from_utf8(script).expect("the tables and clap's own text are UTF-8");
    if shell == Shell::Bash {
        script.push_str(&bash_wrapper(name, &table));
    }
    script
}

/// Adds values to offer. Only the completions see them; the parsers accept more than these.
fn with_values(table: Command) -> Command {
    let table = table.mut_args(|arg| match arg.get_id().as_str() {
        "priority" => arg.value_parser(PossibleValuesParser::new(priority::names())),
        // The hint keeps bash from adding a space behind the `=`.
        "set" => arg.value_parser(PossibleValuesParser::new(keys())).value_hint(ValueHint::Other),
        _ => {
            let free = arg.get_action().takes_values() && arg.get_possible_values().is_empty();
            // Without a hint, shells would offer files for a number.
            if free && arg.get_value_hint() == ValueHint::Unknown { arg.value_hint(ValueHint::Other) } else { arg }
        }
    });
    table.mut_subcommands(with_values)
}

fn keys() -> impl Iterator<Item = String> {
    KEYS.iter().map(|key| format!("{}=", key.name))
}

/// A function that calls clap's function for bash and corrects its offers, registered in its place. clap's text itself
/// stays as generated. Three things are corrected:
///
/// 1. bash splits `--option=value` into three words, so clap's function does not see the option.
/// 2. clap's function offers options where the word does not begin with `-`.
/// 3. It leaves no room for the names of files and directories there.
fn bash_wrapper(name: &str, table: &Command) -> String {
    let with_hint = |hint| {
        let takes = |command: &&Command| command.get_positionals().any(|arg| arg.get_value_hint() == hint);
        let names: Vec<&str> = table.get_subcommands().filter(takes).map(Command::get_name).collect();
        if names.is_empty() { "-".to_owned() } else { names.join("|") }
    };
    let (files, directories) = (with_hint(ValueHint::FilePath), with_hint(ValueHint::DirPath));
    format!(
        r#"
_{name}_words() {{
    local word_typed="$2" before="$3" place="" word kept=()
    if [[ $before == "=" ]]; then
        before="${{COMP_WORDS[COMP_CWORD-2]}}"
    fi
    _{name} "$1" "$word_typed" "$before"
    if [[ $word_typed == -* ]]; then
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

complete -F _{name}_words -o bashdefault -o default {name}
if [[ "${{BASH_VERSINFO[0]}}" -gt 4 || "${{BASH_VERSINFO[0]}}" -eq 4 && "${{BASH_VERSINFO[1]}}" -ge 4 ]]; then
    complete -F _{name}_words -o nosort -o bashdefault -o default {name}
fi
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::Cli;
    use clap::CommandFactory;

    #[test]
    fn every_shell_gets_a_script_for_each_program() {
        for program in [Program::Dbufctl, Program::Dbufd] {
            for shell in Shell::value_variants() {
                let script = script(*shell, program, Cli::command());
                assert!(script.contains("--runtime") || script.contains("-l runtime"), "{shell:?} {program:?}");
            }
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
            assert!(daemon_args::command().try_get_matches_from(["dbufd", "--set", &set]).is_ok());
        }
    }
}
