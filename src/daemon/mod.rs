//! The control plane: one thread, one tokio runtime, and the only folder that names tokio.
//!
//! Enters: the command line, signals, dbufctl's requests, systemd's sockets. Leaves: a daemon that is put together in
//! order and taken apart in order, answers, notes to systemd, the report. What can fail: starting, with one sentence.
//! Once it serves, nothing here ends the daemon but a wish to.

mod account;
mod args;
mod buffer_memory;
mod cores;
mod greeting;
mod lifecycle;
mod log;
mod reload;
mod report;
mod run;
pub mod server;
mod service;
mod signals;
mod sockets;
mod stats;
mod takeover;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::config::{Config, Sources, keys, paths};
use crate::pipeline::store::Recovery;
use crate::sync::thread;
use crate::sys::listen_fds;
use args::Args;
pub(crate) use args::command;
use greeting::Greeting;
use lifecycle::Daemon;
use run::Serving;

/// Exit code for a wrong command line or configuration.
const WRONG_USAGE: u8 = 2;
/// How long a failed start waits under systemd before it ends.
const FAILED_START_PAUSE: Duration = Duration::from_secs(1);

/// `dbufd`.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    let sources = args.sources();
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => return fail(&error.into(), ExitCode::from(WRONG_USAGE)),
    };
    if args.print_config {
        say(&keys::render(&config));
    } else if args.check_config {
        say("the configuration is right\n");
    } else if let Err(error) = run(config, sources, args.runtime) {
        return fail(&error, ExitCode::FAILURE);
    }
    ExitCode::SUCCESS
}

fn fail(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    complain(error);
    // The unit starts it again at once, so that a crash costs no time; a start that fails must not become a spin.
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        thread::sleep(FAILED_START_PAUSE);
    }
    code
}

fn run(config: Config, sources: Sources, runtime: Option<PathBuf>) -> Result<()> {
    // Before anything else is opened: their numbers were given by someone else.
    let passed = listen_fds::take().context("systemd passed descriptors that cannot be used")?;
    let signals = signals::install().context("cannot take over the signals")?;
    let log = log::start(config.log.level);
    let runtime = match runtime {
        Some(runtime) => std::path::absolute(runtime)?,
        None => paths::runtime_dir()?,
    };
    let group = config.ingest.group().map_err(anyhow::Error::msg)?;
    let (daemon, parts) = Daemon::start(&config, &runtime, group, passed)?;
    let journald = log.journald;
    let (ended, report) = run::serve(Serving { daemon, parts, config, sources, runtime, log, signals })?;
    if journald {
        tracing::info!("stopped\n{report}");
    } else {
        say(&format!("dbufd stopped\n{report}"));
    }
    match ended.error {
        Some(error) => anyhow::bail!("{error}"),
        None => Ok(()),
    }
}

/// Says that it runs, to a person or to the log, and what was found at the start.
fn announce(recovery: &Recovery, config: &Config, runtime: &Path) {
    for note in &recovery.notes {
        tracing::warn!("{note}");
    }
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            bytes = recovery.torn_bytes,
            segments = recovery.torn_files,
            "cut torn bytes that an earlier life had not finished writing"
        );
    }
    if recovery.damaged_ranges > 0 {
        tracing::warn!(places = recovery.damaged_ranges, "segments are damaged; dbufctl verify says where");
    }
    let directory = &config.storage.directory;
    if std::io::stdout().is_terminal() {
        let found = (recovery.segments, recovery.next_sequence);
        say(&Greeting { runtime, directory, found }.text());
    } else {
        tracing::info!(
            runtime = %runtime.display(),
            directory = %directory.display(),
            segments = recovery.segments,
            next_sequence = recovery.next_sequence,
            "dbufd {} runs", env!("CARGO_PKG_VERSION")
        );
    }
}

/// To standard output. `println!` would panic over a closed terminal, and that must not cost the daemon its life.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// One line to standard error.
fn complain(error: &anyhow::Error) {
    let line = format!("{error:#}").replace('\n', " ");
    // sd-daemon(3): the journal takes the priority from the front of a line.
    let priority = if log::stderr_is_the_journal() { "<3>" } else { "" };
    let _ = writeln!(std::io::stderr(), "{priority}dbufd: {line}");
}
