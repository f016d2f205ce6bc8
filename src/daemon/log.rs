//! The daemon's own log: journald where the process writes to it anyway, else standard error. Never its own sockets.
//!
//! Enters: tracing's events, a line for each turn in the daemon's life, never one for each event of a producer. Leaves:
//! journald's socket or standard error. Any thread. What can fail: nothing that the caller would hear of; a log that
//! cannot be written is no reason to stop taking events.

use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

use crate::config::settings::Level;

/// Changes the level while the daemon runs.
#[derive(Clone, Debug)]
pub(super) struct Log {
    level: reload::Handle<LevelFilter, Registry>,
    /// Whether the log goes to journald.
    pub(super) journald: bool,
}

/// Begins the log. Called once, before the first thread is started.
pub(super) fn start(level: Level) -> Log {
    let (filter, level) = reload::Layer::new(filter(level));
    let journald = stderr_is_the_journal().then(tracing_journald::layer).and_then(Result::ok);
    let log = Log { level, journald: journald.is_some() };
    let layer: Box<dyn Layer<_> + Send + Sync> = match journald {
        Some(layer) => Box::new(
            layer
                .with_field_prefix(Some("DBUFD".to_owned()))
                // The default makes every line of level info a notice, which `journalctl -p notice` is not meant for.
                .with_priority_mappings(PriorityMappings {
                    info: Priority::Informational,
                    debug: Priority::Debug,
                    ..PriorityMappings::new()
                }),
        ),
        None => Box::new(
            fmt::layer()
                .with_writer(io::stderr)
                .with_ansi(io::stderr().is_terminal())
                .with_target(false)
                // It would complain on standard error, which has just failed, and panic over that.
                .log_internal_errors(false),
        ),
    };
    // A second start in one process happens in tests alone; the first log then stays.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    log
}

impl Log {
    /// The least important level from now on.
    pub(super) fn set_level(&self, level: Level) {
        // It fails only when the subscriber is gone, and then nobody logs.
        let _ = self.level.reload(filter(level));
    }
}

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

/// Whether standard error is the stream that systemd connected to the journal. The variable alone says too little: every
/// program that is started from such a service inherits it, also where its output goes to a terminal or a file.
pub(super) fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_filter_in_the_same_order() {
        let levels = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
        assert!(levels.windows(2).all(|pair| filter(pair[0]) < filter(pair[1])));
    }
}
