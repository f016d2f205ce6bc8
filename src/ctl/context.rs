//! Finds what every command of dbufctl needs: the daemon's sockets, the segments, and whether to use colors.
//!
//! For each place the first rule that applies:
//! 1. the option, `--runtime` or `--directory`;
//! 2. for segments: the directory that the running daemon names, so that dbufctl reads what the daemon writes;
//! 3. the rule of [`crate::config::paths`];
//! 4. if there is nothing, the place of the daemon that serves the whole machine: an ordinary user without a daemon of
//!    their own means that one.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::daemon::{self, COURTESY_TIMEOUT};
use crate::config::paths::{self, CONTROL_SOCKET, SYSTEM_RUNTIME_DIR, SYSTEM_SEGMENTS_DIR};

/// Places and settings that all commands share.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where the daemon's sockets are.
    pub runtime: PathBuf,
    /// Where the segments are.
    pub directory: PathBuf,
    /// Whether standard output gets colors.
    pub color: bool,
}

/// When to use colors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a command needs before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Only the daemon.
    Daemon,
    /// Only the segments; a daemon is not needed.
    Segments,
    /// Neither.
    Nothing,
}

impl Context {
    /// Finds the places.
    ///
    /// # Errors
    /// A command needs the daemon, and the only place where it could be cannot be trusted.
    pub fn resolve(
        runtime: Option<PathBuf>,
        directory: Option<PathBuf>,
        color: When,
        needs: Needs,
    ) -> anyhow::Result<Self> {
        let runtime = match runtime.map_or_else(default_runtime, Ok) {
            Ok(path) => path,
            Err(error) if needs == Needs::Daemon => return Err(error.into()),
            Err(_) => PathBuf::from(SYSTEM_RUNTIME_DIR),
        };
        let directory = directory.unwrap_or_else(|| {
            let named = (needs == Needs::Segments).then(|| directory_of_daemon(&runtime)).flatten();
            named.unwrap_or_else(default_directory)
        });
        Ok(Self { runtime, directory, color: wants_color(color) })
    }
}

fn default_runtime() -> std::io::Result<PathBuf> {
    let system = Path::new(SYSTEM_RUNTIME_DIR);
    let there = |dir: &Path| dir.join(CONTROL_SOCKET).exists();
    match paths::runtime_dir() {
        Ok(own) if there(&own) || !there(system) => Ok(own),
        Err(error) if !there(system) => Err(error),
        _ => Ok(system.to_owned()),
    }
}

fn default_directory() -> PathBuf {
    let own = paths::segments_dir();
    let system = PathBuf::from(SYSTEM_SEGMENTS_DIR);
    if own.is_dir() || !system.is_dir() { own } else { system }
}

fn directory_of_daemon(runtime: &Path) -> Option<PathBuf> {
    let data = daemon::ask(runtime, "ping", COURTESY_TIMEOUT).ok()?;
    Some(PathBuf::from(data.get("directory")?.as_str()?)).filter(|path| path.is_absolute())
}

fn wants_color(when: When) -> bool {
    match when {
        When::Always => true,
        When::Never => false,
        When::Auto => {
            std::io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
        }
    }
}
