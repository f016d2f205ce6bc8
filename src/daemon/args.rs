//! The command line of `dbufd`.
//!
//! Enters: arguments. Leaves: what was asked for, and the table itself for those that print it. clap answers a wrong one
//! with exit code 2.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, ValueHint};

use crate::config::Sources;

/// A logging daemon: events from Unix sockets, through a lock-free double buffer, into rotated, checksummed segments.
#[derive(Debug, Parser)]
#[command(
    name = "dbufd",
    version,
    args_override_self = true,
    after_help = "Example:\n  dbufd --directory /tmp/events --set storage.sync=batch\n\n\
                  No configuration is needed. `dbufd --print-config` shows every key and its value in force.\n\n\
                  Signals: TERM, INT stop (twice: at once), HUP reloads, USR1 rotates, USR2 logs a report."
)]
pub(super) struct Args {
    /// Read this file, which must exist, instead of the one in the usual place
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Where the segments are
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: Option<PathBuf>,
    /// Where the sockets are
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) runtime: Option<PathBuf>,
    /// Set one key; wins over every file
    #[arg(long, value_name = "section.key=value")]
    set: Vec<String>,
    /// Check the configuration and end
    #[arg(long)]
    pub(super) check_config: bool,
    /// Print the configuration that would be in force and end
    #[arg(long)]
    pub(super) print_config: bool,
}

/// The table that the command line is read by, for the man page and the completions.
pub(crate) fn command() -> clap::Command {
    Args::command()
}

impl Args {
    /// Where the configuration comes from, now and at every reload.
    pub(super) fn sources(&self) -> Sources {
        // A reload must not depend on where the process stands by then.
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Sources {
            file: self.config.as_ref().map(absolute),
            directory: self.directory.as_ref().map(absolute),
            set: self.set.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
        let args = Args::try_parse_from(["dbufd", "--set", "a.b=c", "--set", "d.e=f=g", "--directory", "/d"]).unwrap();
        let sources = args.sources();
        assert_eq!(sources.set, ["a.b=c", "d.e=f=g"]);
        assert_eq!(sources.directory, Some(PathBuf::from("/d")));
        assert!(Args::try_parse_from(["dbufd", "extra"]).is_err());
    }
}
