//! Writes the daemon's own log: to journald if standard error is the journal, otherwise to standard error. Never to the
//! daemon's own sockets.
//!
//! Input: tracing's events, one for each step of the daemon's life, never one for each event of a producer. Output:
//! journald's socket or standard error. Any thread. Failures: none that the caller sees. A log that cannot be written
//! is no reason to stop accepting events.

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

/// Starts the log. Called once, before the first thread starts.
pub(super) fn start(level: Level) -> Log {
    let (filter, level) = reload::Layer::new(filter(level));
    let journald = stderr_is_the_journal().then(tracing_journald::layer).and_then(Result::ok);
    let log = Log { level, journald: journald.is_some() };
    let layer: Box<dyn Layer<_> + Send + Sync> = match journald {
        Some(layer) => Box::new(
            layer
                .with_field_prefix(Some("DBUFD".to_owned()))
                // By default every line of level info is a notice, which `journalctl -p notice` is not meant to show.
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
                // It would report on standard error, which has just failed, and panic.
                .log_internal_errors(false),
        ),
    };
    // Only tests start it twice in one process. The first log then stays.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    log
}

impl Log {
    /// The least important level from now on.
    pub(super) fn set_level(&self, level: Level) {
        // It fails only after the subscriber has gone, and then nothing logs any more.
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

/// Whether standard error is the stream that systemd connected to the journal. The variable alone is not enough: every
/// program that such a service starts inherits it, even if its output goes to a terminal or a file.
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
