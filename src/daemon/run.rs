//! Serves signals and requests, watches the threads, and stops the daemon.
//!
//! Input: signals, dbufctl's requests, time. Output: commands to the data plane, notifications to systemd, the report.
//! Main thread, one runtime. Failures: starting the runtime. After that, only a request to stop ends the loop.

use std::convert::Infallible;
use std::os::unix::net::UnixListener as Listener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::lifecycle::{Daemon, Ended, Live, Parts};
use super::log::Log;
use super::reload::Change;
use super::server::{self, Answer, Answers, ControlCommand};
use super::service::{Manager, STOP_STEP};
use super::signals::{Installed, Signal, Signals};
use super::{account, banner};
use crate::config::{Config, Sources, keys};
use crate::pipeline::drain;
use crate::stats::format::bytes;
use crate::stats::table::report;
use crate::sync::{Arc, Mutex, thread};

/// What the start hands over.
pub(super) struct Serving {
    pub(super) daemon: Daemon,
    pub(super) parts: Parts,
    pub(super) config: Config,
    pub(super) sources: Sources,
    pub(super) runtime: PathBuf,
    pub(super) log: Log,
    pub(super) signals: Installed,
}

/// What requests and signals share. Never locked across an await.
struct Shared {
    /// None while the daemon stops.
    daemon: Mutex<Option<Daemon>>,
    config: Mutex<Config>,
    reloading: Mutex<()>,
    manager: Mutex<Manager>,
    sources: Sources,
    runtime: PathBuf,
    live: Live,
    log: Log,
}

/// Serves until a signal asks for the end, and stops the daemon. Returns the last figures as a report.
pub(super) fn serve(serving: Serving) -> Result<(Ended, String)> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the control plane")?;
    let result = runtime.block_on(until_the_end(serving));
    // A reload that still reads a file on a dead mount must not delay the end.
    runtime.shutdown_background();
    result
}

async fn until_the_end(serving: Serving) -> Result<(Ended, String)> {
    let Serving { daemon, parts, config, sources, runtime, log, signals } = serving;
    let Parts { control, recovery, live } = parts;
    let signals = signals.listen().context("cannot listen to signals")?;
    // Announced only now: a reader of it may press Ctrl-C at once and expects a report.
    banner::announce(&recovery, &config, &runtime);
    let shares = daemon.shares();
    let shared = Arc::new(Shared {
        daemon: Mutex::new(Some(daemon)),
        config: Mutex::new(config),
        reloading: Mutex::new(()),
        manager: Mutex::new(Manager::from_environment()),
        sources,
        runtime,
        live,
        log,
    });
    let control = UnixListener::from_std(Listener::from(control)).context("cannot serve the control socket")?;
    tokio::spawn(server::serve(control, shares, answers(&shared)));
    shared.with_manager(|manager| manager.ready());
    loop {
        match shared.next(&signals).await {
            Signal::Stop => break,
            Signal::Reload => {
                // The log has the outcome.
                tokio::spawn(reload(Arc::clone(&shared)));
            }
            Signal::Rotate => shared.live.reader().command(drain::ReaderCommand::Rotate(Box::new(|done| match done {
                Ok(()) => tracing::info!("began a new segment"),
                Err(error) => tracing::error!("{error}"),
            }))),
            Signal::Report => shared.log_report("report"),
        }
    }
    shared.stop(&signals).await
}

impl Shared {
    fn with_manager<T>(&self, act: impl FnOnce(&mut Manager) -> T) -> T {
        act(&mut self.manager.lock().expect("no thread panics while it holds the manager"))
    }

    fn config(&self) -> Config {
        self.config.lock().expect("no thread panics while it holds the configuration").clone()
    }

    /// Waits for a signal. In between, checks the pulses if systemd wants to know.
    async fn next(&self, signals: &Signals) -> Signal {
        loop {
            let Some(pause) = self.with_manager(|manager| manager.look_after()) else {
                return signals.next().await;
            };
            tokio::select! {
                signal = signals.next() => return signal,
                () = sleep(pause) => self.look(),
            }
        }
    }

    fn look(&self) {
        let totals = self.live.figures.counters.account.totals();
        let storage = self.live.figures.storage_state();
        let status = format!(
            "{} events received, {} persisted, {} lost; {} payload; storage {}",
            totals.received_events,
            totals.persisted_events,
            totals.lost_total(),
            bytes(totals.received_bytes),
            storage.name(),
        );
        let work_waits = self.live.figures.buffer.stats().front_bytes > 0;
        let beats = self.live.beats();
        if !self.with_manager(|manager| manager.look(status, storage, beats, work_waits)) {
            tracing::error!(beats = ?self.live.beats(), "a thread makes no progress; the watchdog is not fed");
        }
    }

    fn log_report(&self, title: &str) {
        tracing::info!("{title}\n{}", report(&self.live.figures.take()));
    }

    async fn stop(&self, signals: &Signals) -> Result<(Ended, String)> {
        self.with_manager(|manager| manager.stopping());
        tracing::info!("stopping: persisting what was accepted; a second signal ends at once");
        let daemon = self.daemon.lock().expect("no thread panics while it holds the daemon").take();
        let daemon = daemon.context("the daemon is stopping already")?;
        let (done, ended) = oneshot::channel();
        // It blocks while the disk works.
        thread::Builder::new().name("dbufd-stop".into()).spawn(move || {
            // The receiver is gone only if the process is about to end anyway.
            let _ = done.send(daemon.stop());
        })?;
        let ended = tokio::select! {
            ended = ended => ended.context("the thread that stops the daemon failed; this is a bug in dbufd")?,
            never = self.while_stopping(signals) => match never {},
        };
        Ok((ended, report(&self.live.figures.take())))
    }

    async fn while_stopping(&self, signals: &Signals) -> Infallible {
        signals.arm_the_second().await;
        let mut before = self.progress();
        loop {
            sleep(STOP_STEP).await;
            let now = self.progress();
            // More time is requested only while there is progress.
            if std::mem::replace(&mut before, now) != now {
                self.with_manager(|manager| manager.needs_longer());
            }
        }
    }

    fn progress(&self) -> (u64, u64) {
        let totals = self.live.figures.counters.account.totals();
        // Only compared with what they were before.
        (totals.received_events, totals.persisted_events.wrapping_add(totals.lost_total()))
    }
}

/// Answers each request.
fn answers(shared: &Arc<Shared>) -> Answers {
    let shared = Arc::clone(shared);
    Arc::new(move |command| answer(Arc::clone(&shared), command))
}

fn answer(shared: Arc<Shared>, command: ControlCommand) -> Answer {
    Box::pin(async move {
        match command {
            ControlCommand::Ping => Ok(ping(&shared)),
            ControlCommand::Config => Ok(json!({"toml": keys::render(&shared.config())})),
            ControlCommand::Stats => {
                serde_json::to_value(shared.live.figures.take()).map_err(|error| error.to_string())
            }
            ControlCommand::Account => Ok(account::to_json(&shared.live.figures.counters.account.statement())),
            ControlCommand::Rotate => ask_reader(&shared, drain::ReaderCommand::Rotate).await,
            ControlCommand::Sync => ask_reader(&shared, drain::ReaderCommand::Sync).await,
            ControlCommand::Reload => reload(shared).await,
        }
    })
}

fn ping(shared: &Shared) -> Value {
    // As text, not as paths: the macro panics on a path that is not UTF-8, and a panic ends the daemon.
    let shown = |path: &Path| path.to_string_lossy().into_owned();
    json!({
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "runtime": shown(&shared.runtime),
        "directory": shown(&shared.config().storage.directory),
        "uptime_seconds": shared.live.figures.started.elapsed().as_secs(),
    })
}

async fn ask_reader(shared: &Shared, command: fn(drain::Reply) -> drain::ReaderCommand) -> Result<Value, String> {
    let (done, answer) = oneshot::channel();
    let reply = Box::new(move |result| {
        // The client may have gone. The reader has done its part all the same.
        let _ = done.send(result);
    });
    shared.live.reader().command(command(reply));
    match answer.await {
        Ok(result) => result.map(|()| Value::Null),
        Err(_) => Err("the daemon is stopping; try again when it has started".to_owned()),
    }
}

/// Reads the configuration again. A wrong one changes nothing; the log and the client get the error.
async fn reload(shared: Arc<Shared>) -> Result<Value, String> {
    shared.with_manager(|manager| manager.reloading());
    let worker = Arc::clone(&shared);
    // Files and user databases may be slow. Signals and requests are answered meanwhile.
    let outcome = tokio::task::spawn_blocking(move || worker.take_over()).await;
    shared.with_manager(|manager| manager.ready());
    let outcome = outcome.map_err(|_| "the reload failed; this is a bug in dbufd".to_owned()).and_then(|done| done);
    match &outcome {
        Ok(change) => tracing::info!("reloaded: {}", change.summary()),
        Err(error) => tracing::error!("the configuration stays as it was: {error}"),
    }
    outcome.map(|change| change.to_json()).map_err(|error| format!("{error}; the configuration stays as it was"))
}

impl Shared {
    /// One reload at a time. The daemon's lock is taken only after reading, so that a slow disk does not delay a stop.
    fn take_over(&self) -> Result<Change, String> {
        let _turn = self.reloading.lock().expect("no thread panics while it reloads");
        let new = self.sources.load().map_err(|error| error.to_string())?;
        let group = new.ingest.group()?;
        let daemon = self.daemon.lock().expect("no thread panics while it holds the daemon");
        let Some(daemon) = daemon.as_ref() else { return Err("the daemon is stopping".to_owned()) };
        let old = self.config();
        let change = Change::between(&old, &new);
        daemon.reconfigure(&old, &change.config, group).map_err(|error| format!("{error:#}"))?;
        self.log.set_level(change.config.log.level);
        *self.config.lock().expect("no thread panics while it holds the configuration") = change.config.clone();
        Ok(change)
    }
}
