//! Runs the control plane: one thread, one tokio runtime, and the only folder that names tokio.
//!
//! Input: the command line, signals, dbufctl's requests, systemd's sockets. Output: a daemon that starts and stops in a
//! fixed order, answers to requests, notifications to systemd, the report. Failures: the start, with one sentence. Once
//! the daemon serves, only a request to stop ends it.

mod account;
mod banner;
mod buffer_memory;
mod console;
mod cores;
mod lifecycle;
mod log;
mod reload;
mod run;
pub mod server;
mod service;
mod signals;
mod sockets;
mod stats;
mod takeover;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::config::{Config, Sources, keys, paths};
use crate::daemon_args::Args;
use crate::sync::thread;
use crate::sys::listen_fds;
use console::{print_error, print_out};
use lifecycle::Daemon;
use run::Serving;

/// Exit code of a wrong command line or configuration.
const WRONG_USAGE: u8 = 2;
/// How long a failed start waits under systemd before it ends.
const FAILED_START_PAUSE: Duration = Duration::from_secs(1);

/// Runs `dbufd`.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    let sources = args.sources();
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => return fail(&error.into(), ExitCode::from(WRONG_USAGE)),
    };
    if args.print_config {
        print_out(&keys::render(&config));
    } else if args.check_config {
        print_out("the configuration is valid\n");
    } else if let Err(error) = run(config, sources, args.runtime) {
        return fail(&error, ExitCode::FAILURE);
    }
    ExitCode::SUCCESS
}

fn fail(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    print_error(error);
    // The unit restarts the daemon at once, so that a crash costs no time. A start that fails must not become a busy
    // loop.
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        thread::sleep(FAILED_START_PAUSE);
    }
    code
}

fn run(config: Config, sources: Sources, runtime: Option<PathBuf>) -> Result<()> {
    // Before any other file is opened: systemd has chosen the numbers of these descriptors.
    let passed = listen_fds::take().context("systemd passed descriptors that cannot be used")?;
    let signals = signals::install().context("cannot register the signals")?;
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
        print_out(&format!("dbufd stopped\n{report}"));
    }
    match ended.error {
        Some(error) => anyhow::bail!("{error}"),
        None => Ok(()),
    }
}
