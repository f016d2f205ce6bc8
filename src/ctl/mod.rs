//! `dbufctl`, the command that people type.
//!
//! Enters: a command line. Leaves: text on standard output, one line on standard error where something is wrong, and an
//! exit code. One thread. What can fail: whatever a command does; it ends with a [`failure::Failure`]'s code or 1.
//!
//! [`args`] is the one table of commands; [`completions`] and [`pages`] print it for shells and for man. Those that read ([`cat`], [`segments`], [`verify`]) work on the files alone;
//! the others ask the daemon over its control socket ([`daemon`]).

mod account;
pub mod args;
mod bench;
mod cat;
mod command;
mod completions;
pub mod context;
mod daemon;
mod failure;
mod findings;
mod output;
mod pages;
mod print;
mod segments;
mod select;
mod send;
mod stats;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Cli, Command};
pub use context::Context;
use context::Needs;

/// Runs dbufctl with the words of a command line, the program's name first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match args::parse(words) {
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
        Command::Stats(args) => stats::run(args, &context),
        Command::Send(args) => send::run(&args, &context),
        Command::Bench(args) => bench::run(&args, &context, directory.as_deref()),
        Command::Rotate => command::obey("rotate", &context),
        Command::Sync => command::obey("sync", &context),
        Command::Reload => command::reload(&context),
        Command::Ping => command::ping(&context),
        Command::Config(args) => command::config(args, &context),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => pages::run(&args),
    }
}

impl Command {
    /// What has to be found out before the command runs.
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
