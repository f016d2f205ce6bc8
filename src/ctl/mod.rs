//! Implements `dbufctl`, the command that people type.
//!
//! Input: a command line. Output: text on standard output, one line on standard error if something is wrong, and an
//! exit code. One thread. Failures: those of a command. The exit code is that of a [`failure::Failure`], else 1.
//!
//! [`args`] lists the commands; [`completions`] and [`pages`] print that table for shells and for man. The commands
//! that read ([`cat`], [`segments`], [`verify`]) work on the files alone; the others ask the daemon over its control
//! socket ([`daemon`]).

mod access;
mod account;
pub mod args;
mod bench;
mod cat;
mod command;
mod completions;
pub mod context;
mod daemon;
mod directory;
mod failure;
mod findings;
mod output;
mod pages;
mod print;
mod segments;
mod select;
mod send;
mod stats;
mod values;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueHint};

use args::Command;
pub use context::Context;
use context::{Needs, When};
use failure::print_error;

/// The heading of the options that every command has.
const COMMON: &str = "Common options";

/// dbufctl
#[derive(Debug, Parser)]
#[command(
    name = "dbufctl",
    version,
    about = "Read the events that dbufd stored, and talk to the daemon",
    after_help = "Examples:\n  dbufctl tail                        the last events, then new ones\n  \
                  dbufctl cat --since -1h -p warning  warnings and worse, last hour\n  \
                  dbufctl stats                       counters and latencies of the daemon\n\n\
                  Under systemd, a request to a stopped daemon starts it. With --directory, cat, tail, segments and \
                  verify make no request; nor do cat FILE and verify FILE.\n\n\
                  Exit codes: 0 success, 1 failure, 2 wrong usage, 3 damage or loss in the data read, 4 no daemon \
                  answers.",
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Directory of the daemon's sockets [default: that of your own daemon ($XDG_RUNTIME_DIR/dbufd, else
    /// dbufd-UID in $TMPDIR or /tmp), else /run/dbufd]
    #[arg(long, global = true, help_heading = COMMON, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub runtime: Option<PathBuf>,
    /// Directory of the segments [default: that of the running daemon, else ~/.local/state/dbufd, else /var/log/dbufd]
    #[arg(long, global = true, help_heading = COMMON, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
    /// Whether to use colors
    #[arg(long, global = true, help_heading = COMMON, value_name = "WHEN", value_enum, default_value_t)]
    pub color: When,
    /// The command
    #[command(subcommand)]
    pub command: Command,
}

/// Runs dbufctl with the words of a command line; the first is the program's name.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match parse(words) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    run(cli).unwrap_or_else(|error| failure::report(&error))
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { runtime, directory, color, command } = cli;
    let context = Context::resolve(runtime, directory.clone(), color, command.needs())?;
    match command {
        Command::Cat(args) => cat::run(&args, &context),
        Command::Tail(args) => cat::run(&args.into(), &context),
        Command::Segments(args) => segments::run(args, &context),
        Command::Verify(args) => verify::run(&args, &context),
        Command::Account(args) => account::run(args, &context),
        Command::Stats(args) => stats::run(&args, &context),
        Command::Send(args) => send::run(&args, &context),
        Command::Bench(args) => bench::run(&args, &context, directory.as_deref()),
        Command::Rotate => command::run_command("rotate", &context),
        Command::Sync => command::run_command("sync", &context),
        Command::Reload => command::reload(&context),
        Command::Ping => command::ping(&context),
        Command::Config(args) => command::config(args, &context),
        Command::Completions(args) => completions::run(args, Cli::command()),
        Command::Man(args) => pages::run(&args, Cli::command()),
    }
}

impl Command {
    /// What has to be found before the command runs.
    fn needs(&self) -> Needs {
        match self {
            Self::Cat(args) if !args.files.is_empty() => Needs::Nothing,
            Self::Verify(args) if !args.files.is_empty() => Needs::Nothing,
            Self::Config(args) if args.defaults => Needs::Nothing,
            Self::Completions(_) | Self::Man(_) => Needs::Nothing,
            Self::Bench(args) if args.via == bench::Via::Buffer => Needs::Nothing,
            Self::Cat(_) | Self::Bench(_) | Self::Tail(_) | Self::Segments(_) | Self::Verify(_) | Self::Account(_) => {
                Needs::Segments
            }
            Self::Send(_)
            | Self::Stats(_)
            | Self::Rotate
            | Self::Sync
            | Self::Reload
            | Self::Ping
            | Self::Config(_) => Needs::Daemon,
        }
    }
}

/// Parses a command line. Prints what is wrong with it, or the help that it asks for.
///
/// # Errors
/// The exit code to end with.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let words: Vec<OsString> = words.into_iter().collect();
    let parsed = Cli::try_parse_from(&words).map(|mut cli| {
        if let Command::Cat(args) = &mut cli.command {
            args.sort_out();
        }
        cli
    });
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone (`dbufctl --help | head`) is no error.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            print_error(&one_line(&error.render().to_string(), command_in(&words)));
            ExitCode::from(2)
        }
    })
}

/// The command among the words of a command line; None if there is none, or if what comes before it is wrong.
fn command_in(words: &[OsString]) -> Option<String> {
    let table = Cli::command();
    let mut words = words.iter().skip(1).map(|word| word.to_str());
    loop {
        let word = words.next()??;
        let Some(option) = word.strip_prefix("--") else {
            return table.find_subcommand(word).map(|command| command.get_name().to_owned());
        };
        let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        table.get_arguments().find(|arg| arg.get_long() == Some(name))?;
        if value.is_none() {
            words.next();
        }
    }
}

/// Puts clap's text, which has several lines, in one: what, why, and whose help to read.
fn one_line(rendered: &str, command: Option<String>) -> String {
    let mut parts = Vec::new();
    for line in rendered.lines().map(str::trim) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        // No command takes an unknown option as a value, so this advice leads nowhere.
        if line.starts_with("tip: to pass ") {
            continue;
        }
        let line = line.strip_prefix("error: ").or_else(|| line.strip_prefix("tip: ")).unwrap_or(line);
        if !line.is_empty() {
            parts.push(line);
        }
    }
    let help = command.map_or_else(|| "see 'dbufctl --help'".to_owned(), |name| format!("see 'dbufctl {name} --help'"));
    parts.push(&help);
    parts.join("; ").replace(":;", ":")
}

#[cfg(test)]
mod tests {
    use super::values::Boot;
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(format!("dbufctl {line}").split_whitespace())
    }

    #[test]
    fn the_table_is_sound_and_every_command_has_an_example() {
        let table = Cli::command();
        table.clone().debug_assert();
        for command in table.get_subcommands() {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example") && after.contains("dbufctl"), "{}", command.get_name());
        }
    }

    #[test]
    fn an_unknown_option_gets_no_advice_to_pass_it_as_a_value() {
        let refused = parsed("cat --list-boots").unwrap_err().render().to_string();
        assert!(refused.contains("tip: to pass"), "clap no longer gives this advice: {refused}");
        let line = one_line(&refused, Some("cat".to_owned()));
        assert_eq!(line, "unexpected argument '--list-boots' found; see 'dbufctl cat --help'");
    }

    #[test]
    fn filters_are_read_as_journalctl_reads_them() {
        let cli = parsed("cat -n 5 -r -S -10min --until=-5min -p warning..err -t a -t b -u x -g foo --boot x.segment")
            .unwrap();
        let Command::Cat(cat) = cli.command else { panic!("not cat") };
        assert_eq!((cat.lines, cat.reverse, cat.files.len()), (Some(5), true, 1));
        let selection = cat.selection;
        assert_eq!((selection.since.as_deref(), selection.until.as_deref()), (Some("-10min"), Some("-5min")));
        assert_eq!((selection.priority, selection.tag.len(), selection.boot), (Some(3..=4), 2, Some(Boot::Current)));
        assert!(parsed("cat -f -r").is_err() && parsed("cat -f x.segment").is_err());
        assert!(parsed("tail -f -n 3 -t x").is_ok());
        assert!(parsed("tail -n all").is_ok() && parsed("cat -n all -b").is_ok());
        assert!(parsed("cat --boot=xyz").is_err());
        let id = "0123456789abcdef0123456789abcdef";
        assert!(parsed(&format!("cat --boot={id}")).is_ok());
    }

    #[test]
    fn a_wrong_option_is_sent_to_the_help_of_its_command() {
        let found = |line: &str| command_in(&format!("dbufctl {line}").split(' ').map(Into::into).collect::<Vec<_>>());
        for (line, command) in [
            ("cat --folow", Some("cat")),
            ("--runtime stats cat --folow", Some("cat")),
            ("--runtime=/r --color always stats --x", Some("stats")),
            ("nonsense cat", None),
            ("--folow cat", None),
            ("-x cat", None),
            ("--runtime", None),
            ("--nonsense", None),
        ] {
            assert_eq!(found(line).as_deref(), command, "{line}");
        }
        assert!(one_line("error: x", found("cat")).ends_with("; see 'dbufctl cat --help'"));
        assert!(one_line("error: x", None).ends_with("; see 'dbufctl --help'"));
    }

    #[test]
    fn a_wrong_command_line_is_answered_in_one_line() {
        for (line, has) in [
            ("cat --folow", "--follow"),
            ("cat -p loud", "emerg"),
            ("stats --json --prometheus", "--prometheus"),
            ("nonsense", "nonsense"),
            ("stats --watch=0", "0.1"),
            ("cat -n some", "or all"),
        ] {
            let text = one_line(&parsed(line).unwrap_err().render().to_string(), None);
            assert!(text.contains(has) && !text.contains('\n') && !text.contains("error:"), "{line}: {text}");
        }
    }
}
