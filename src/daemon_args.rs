//! Defines the command line of `dbufd`.
//!
//! Input: arguments. Output: what was asked for. The daemon parses with it; dbufctl prints man pages and completions
//! from the same table, and must not import the daemon's folder and tokio for that. Failures: clap ends the process
//! with exit code 2.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, ValueHint};

use crate::config::Sources;

/// A logging daemon: collects the log events of local programs and writes them to rotated, checksummed files.
#[derive(Debug, Parser)]
#[command(
    name = "dbufd",
    version,
    args_override_self = true,
    after_help = "Example:\n  dbufd --directory /tmp/events --set storage.sync=batch\n\n\
                  No configuration is needed. `dbufd --print-config` shows every key and its value.\n\n\
                  Signals: TERM, INT stop (twice: at once), HUP reloads, USR1 rotates, USR2 logs a report."
)]
pub(crate) struct Args {
    /// Configuration file [default: /etc/dbufd/dbufd.toml; ordinary user: ~/.config/dbufd/dbufd.toml; either may be
    /// missing]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    /// Directory of the segments [default: /var/log/dbufd; ordinary user: ~/.local/state/dbufd]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    directory: Option<PathBuf>,
    /// Directory of the sockets [default: /run/dbufd; ordinary user: $XDG_RUNTIME_DIR/dbufd, else
    /// dbufd-UID in $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) runtime: Option<PathBuf>,
    /// Set one key; this value overrides every file
    #[arg(long, value_name = "section.key=value")]
    set: Vec<String>,
    /// Check the configuration and end
    #[arg(long)]
    pub(crate) check_config: bool,
    /// Print the configuration that would be in force and end
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// The table that the command line is parsed by, for the man page and the completions.
pub(crate) fn command() -> clap::Command {
    Args::command()
}

impl Args {
    /// Where the configuration comes from, now and at every reload.
    pub(crate) fn sources(&self) -> Sources {
        // A reload must not depend on the working directory at that time.
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
