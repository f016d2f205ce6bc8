//! Lists every key that can be configured: its name, default, bounds, meaning, and when a change takes effect.
//!
//! Reading, checking, printing, reloading and `etc/dbufd.toml` all use this one table, so they cannot disagree.
//!
//! Input: a value from a file or a flag. Output: a field of [`Config`], or text for people. Any thread. Failures:
//! [`Key::set`], with a sentence that says what is allowed.

mod file;

use std::path::PathBuf;

pub use file::{documented, render};

use super::settings::{Config, Cpus, Level};
use super::units::{format_amount, format_duration, format_size, quoted};
use super::value::{Bounds, Given, Value};
use crate::options::{EVENT_BYTES_MAX, RINGS_MAX, SyncPolicy, WhenFull};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// The most writer threads. The buffer's own limit is 254; more threads than this gain nothing on any machine.
pub const WRITERS_MAX: usize = 64;
/// A half holds at least this many of the largest events, so that one producer cannot fill it alone.
pub const EVENTS_IN_HALF_MIN: usize = 4;

/// When a change in the file takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At a reload.
    Reload,
    /// At the next start.
    Restart,
}

impl Applies {
    /// The words that follow "takes effect".
    #[must_use]
    pub fn when(self) -> &'static str {
        match self {
            Self::Reload => "at a reload",
            Self::Restart => "at the next start",
        }
    }
}

/// How sizes and durations are written. The lines fit a comment.
pub const UNITS: &str = "Sizes: KiB MiB GiB TiB (or K M G T), kB MB GB TB, or plain bytes. \
                         Durations: ns us ms s min h d w, also \"1h30min\".";

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Section and name, with a point between them.
    pub name: &'static str,
    /// The default as the file would have it; an example for a key without a default.
    pub shown: &'static str,
    /// Whether `shown` is the default.
    pub has_default: bool,
    /// What is allowed.
    pub bounds: Bounds,
    /// What it means, in lines that fit a comment.
    pub meaning: &'static [&'static str],
    /// When a change takes effect.
    pub applies: Applies,
    set: fn(&mut Config, Given<'_>) -> Option<()>,
    get: fn(&Config) -> String,
}

impl Key {
    /// The key with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The key that was probably meant by the unknown name `wrong`.
    #[must_use]
    pub fn nearest(wrong: &str) -> Option<&'static Self> {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let likeness = |key: &Self| {
            // The right name in the wrong section is almost as likely as a typing error.
            let short = 0.9 * strsim::normalized_damerau_levenshtein(&last(wrong), &last(key.name));
            short.max(strsim::normalized_damerau_levenshtein(wrong, key.name))
        };
        let best = KEYS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        (likeness(best) >= 0.5).then_some(best)
    }

    /// The section's name and the name within it.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').expect("every name in the table has a point; a test looks")
    }

    /// Stores `value` in `config`.
    ///
    /// # Errors
    /// A sentence that names the value and says what is allowed.
    pub fn set(&self, config: &mut Config, value: &Value) -> Result<(), String> {
        let given = Given { value, bounds: self.bounds };
        (self.set)(config, given)
            .ok_or_else(|| format!("{}: {value} is not allowed; allowed: {}", self.name, self.bounds))
    }

    /// The value in `config`, as a file would have it.
    #[must_use]
    pub fn get(&self, config: &Config) -> String {
        (self.get)(config)
    }
}

/// The keys whose values differ.
pub fn changed<'a>(old: &'a Config, new: &'a Config) -> impl Iterator<Item = &'static Key> + 'a {
    KEYS.iter().filter(|key| key.get(old) != key.get(new))
}

fn or_none<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| quoted("none"), |value| quoted(&show(value)))
}

fn cores(cpus: &Cpus) -> String {
    match cpus {
        Cpus::Auto => quoted("auto"),
        Cpus::None => quoted("none"),
        Cpus::List(list) => format!("{list:?}"),
    }
}

/// The table, in the order of the file.
pub static KEYS: &[Key] = &[
    Key {
        name: "buffer.capacity",
        shown: r#""8MiB""#,
        has_default: true,
        bounds: Bounds::Size { min: 256 << 10, max: 4 << 30, none: false },
        meaning: &[
            "Memory for events that are not yet written: two halves of this size. When both are full, a sender's",
            "write() blocks until the disk catches up. At least 4 times ingest.max_event.",
        ],
        applies: Applies::Restart,
        set: |config, given| {
            config.buffer.capacity_bytes = usize::try_from(given.size()?).ok()?;
            Some(())
        },
        get: |config| quoted(&format_size(config.buffer.capacity_bytes as u64)),
    },
    Key {
        name: "buffer.linger",
        shown: r#""2ms""#,
        has_default: true,
        bounds: Bounds::Duration { min_ns: 0, max_ns: 10 * SECOND, none: false },
        meaning: &[
            "How long events are collected before they are written as one batch. A longer time makes fewer, larger",
            "writes. 0 writes at once.",
        ],
        applies: Applies::Reload,
        set: |config, given| given.duration().map(|value| config.buffer.linger = value),
        get: |config| quoted(&format_duration(config.buffer.linger)),
    },
    Key {
        name: "writers.count",
        shown: r#""auto""#,
        has_default: true,
        bounds: Bounds::Count { min: 1, max: WRITERS_MAX },
        meaning: &["Threads that read sockets and rings. \"auto\": 4, but at most one for each allowed core."],
        applies: Applies::Restart,
        set: |config, given| given.count().map(|value| config.writers.count = value),
        get: |config| config.writers.count.map_or_else(|| quoted("auto"), |count| count.to_string()),
    },
    Key {
        name: "writers.cpus",
        shown: r#""auto""#,
        has_default: true,
        bounds: Bounds::Cores,
        meaning: &[
            "Cores that the writers are pinned to, in turn. \"auto\": spread over the cores that dbufd may use;",
            "\"none\": not pinned. A core that dbufd may not use is left out, with a warning.",
        ],
        applies: Applies::Restart,
        set: |config, given| given.cores().map(|value| config.writers.cpus = value),
        get: |config| cores(&config.writers.cpus),
    },
    Key {
        name: "reader.cpu",
        shown: r#""auto""#,
        has_default: true,
        bounds: Bounds::Core,
        meaning: &[
            "Core that the reader, the thread that writes to disk, is pinned to. \"auto\": a core without a writer,",
            "if there is one; \"none\": not pinned.",
        ],
        applies: Applies::Restart,
        set: |config, given| given.cores().map(|value| config.reader.cpu = value),
        get: |config| match &config.reader.cpu {
            Cpus::List(list) if list.len() == 1 => list[0].to_string(),
            other => cores(other),
        },
    },
    Key {
        name: "ingest.max_event",
        shown: r#""64KiB""#,
        has_default: true,
        bounds: Bounds::Size { min: 1 << 10, max: EVENT_BYTES_MAX as u64, none: false },
        meaning: &[
            "Size of the largest frame or datagram: a larger one is refused and counted as lost. A longer text line",
            "is stored in pieces of this size, which readers join again to one event.",
        ],
        applies: Applies::Reload,
        set: |config, given| {
            config.ingest.max_event_bytes = usize::try_from(given.size()?).ok()?;
            Some(())
        },
        get: |config| quoted(&format_size(config.ingest.max_event_bytes as u64)),
    },
    Key {
        name: "ingest.socket_mode",
        shown: r#""0666""#,
        has_default: true,
        bounds: Bounds::Mode,
        meaning: &[
            "Who may send: the mode of stream.sock and dgram.sock. Without systemd only: with dbufd.socket this key",
            "has no effect; set SocketMode= by `systemctl edit dbufd.socket`, and chmod the sockets that exist.",
        ],
        applies: Applies::Reload,
        set: |config, given| given.mode().map(|value| config.ingest.socket_mode = value),
        get: |config| quoted(&format!("{:04o}", config.ingest.socket_mode)),
    },
    Key {
        name: "ingest.socket_group",
        shown: r#""adm""#,
        has_default: false,
        bounds: Bounds::Group,
        meaning: &[
            "Group of stream.sock and dgram.sock, by name or number. Without systemd only: with dbufd.socket this key",
            "has no effect; set SocketGroup= by `systemctl edit dbufd.socket`, and chgrp the sockets that exist.",
        ],
        applies: Applies::Reload,
        set: |config, given| given.name().map(|value| config.ingest.socket_group = value),
        get: |config| or_none(config.ingest.socket_group.clone(), |group| group),
    },
    Key {
        name: "ingest.rings",
        shown: "256",
        has_default: true,
        bounds: Bounds::Number { min: 0, max: RINGS_MAX, none: false },
        meaning: &[
            "Maximum number of rings, the shared memory of producers; see limits.shares. A producer without a ring",
            "sends over its socket.",
        ],
        applies: Applies::Restart,
        set: |config, given| given.number_within().map(|value| config.ingest.rings = value),
        get: |config| config.ingest.rings.to_string(),
    },
    Key {
        name: "ingest.ring_bytes",
        shown: r#""512MiB""#,
        has_default: true,
        bounds: Bounds::Size { min: 64 << 10, max: 64 << 30, none: false },
        meaning: &["Maximum memory of all rings together; see limits.shares."],
        applies: Applies::Restart,
        set: |config, given| given.size().map(|value| config.ingest.ring_bytes = value),
        get: |config| quoted(&format_size(config.ingest.ring_bytes)),
    },
    Key {
        name: "limits.shares",
        shown: "true",
        has_default: true,
        bounds: Bounds::Bool,
        meaning: &[
            "Whether users share connections, places in systemd's store, sessions, rings, and rows of the account: a",
            "user gets at most a quarter of what the others leave, and the last quarter is for root and the user that",
            "dbufd runs as. In the long run a user's connections and rings take at most 4 % of a core of systemd's",
            "time. While the buffer is always full, users share it, too: one who has its share waits for the next.",
        ],
        applies: Applies::Reload,
        set: |config, given| given.bool().map(|value| config.limits.shares = value),
        get: |config| config.limits.shares.to_string(),
    },
    Key {
        name: "limits.events_per_second",
        shown: r#""none""#,
        has_default: true,
        bounds: Bounds::Number { min: 1, max: 1_000_000_000, none: true },
        meaning: &[
            "Events in a second that each user may send on average, with bursts of one second. Beyond this rate dbufd",
            "does not read streams and rings of that user, so the sender waits; datagrams are lost and counted",
            "(limited). Root and the user that dbufd runs as have no limit.",
        ],
        applies: Applies::Reload,
        set: |config, given| given.or_none(Given::number_within).map(|value| config.limits.events_per_second = value),
        get: |config| config.limits.events_per_second.map_or_else(|| quoted("none"), |number| number.to_string()),
    },
    Key {
        name: "limits.bytes_per_second",
        shown: r#""none""#,
        has_default: true,
        bounds: Bounds::Size { min: 1 << 10, max: 1 << 40, none: true },
        meaning: &["The same for the bytes of payload in a second."],
        applies: Applies::Reload,
        set: |config, given| given.or_none(Given::size).map(|value| config.limits.bytes_per_second = value),
        get: |config| or_none(config.limits.bytes_per_second, format_size),
    },
    Key {
        name: "storage.directory",
        shown: r#""/var/log/dbufd""#,
        has_default: false,
        bounds: Bounds::Path,
        meaning: &[
            "Directory of the segments. Without this key: systemd's LogsDirectory=, else /var/log/dbufd for root,",
            "else $XDG_STATE_HOME/dbufd (~/.local/state/dbufd).",
        ],
        applies: Applies::Restart,
        set: |config, given| given.path().map(|value| config.storage.directory = value),
        get: |config| quoted(&config.storage.directory.to_string_lossy()),
    },
    Key {
        name: "storage.segment_size",
        shown: r#""256MiB""#,
        has_default: true,
        bounds: Bounds::Size { min: 64 << 10, max: 1 << 40, none: false },
        meaning: &[
            "Maximum size of a segment, or a quarter of retain_bytes if that is less. Before a segment would grow",
            "beyond this size, it is sealed and the next segment begins.",
        ],
        applies: Applies::Reload,
        set: |config, given| given.size().map(|value| config.storage.segment_bytes = value),
        get: |config| quoted(&format_size(config.storage.segment_bytes)),
    },
    Key {
        name: "storage.segment_age",
        shown: r#""1d""#,
        has_default: true,
        bounds: Bounds::Duration { min_ns: SECOND, max_ns: 3650 * DAY, none: false },
        meaning: &["Maximum age of a segment. It is sealed when its first event is this old."],
        applies: Applies::Reload,
        set: |config, given| given.duration().map(|value| config.storage.segment_age = value),
        get: |config| quoted(&format_duration(config.storage.segment_age)),
    },
    Key {
        name: "storage.retain_bytes",
        shown: r#""10%""#,
        has_default: true,
        bounds: Bounds::Amount { min_bytes: 1 << 20, min_percent: 0.1 },
        meaning: &[
            "Maximum size of all segments, the active one included: a size, or a share of the file system. Beyond",
            "this limit the OLDEST EVENTS ARE DELETED, and not counted as lost.",
        ],
        applies: Applies::Reload,
        set: |config, given| given.amount().map(|value| config.storage.retain = value),
        get: |config| or_none(config.storage.retain, format_amount),
    },
    Key {
        name: "storage.retain_age",
        shown: r#""30d""#,
        has_default: false,
        bounds: Bounds::Duration { min_ns: SECOND, max_ns: 36_500 * DAY, none: true },
        meaning: &["Segments whose newest event is older than this are deleted."],
        applies: Applies::Reload,
        set: |config, given| given.or_none(Given::duration).map(|value| config.storage.retain_age = value),
        get: |config| or_none(config.storage.retain_age, format_duration),
    },
    Key {
        name: "storage.keep_at_least",
        shown: r#""none""#,
        has_default: true,
        bounds: Bounds::Duration { min_ns: 60 * SECOND, max_ns: 3650 * DAY, none: true },
        meaning: &[
            "No user's flood pushes events of others that are younger than this out of the segments: a user who has",
            "stored its share within this time waits, and its datagrams are lost and counted (limited). Root and the",
            "user that dbufd runs as never wait. The count begins anew when dbufd starts. At most retain_age.",
        ],
        applies: Applies::Reload,
        set: |config, given| given.or_none(Given::duration).map(|value| config.storage.keep_at_least = value),
        get: |config| or_none(config.storage.keep_at_least, format_duration),
    },
    Key {
        name: "storage.min_free",
        shown: r#""5%""#,
        has_default: true,
        bounds: Bounds::Amount { min_bytes: 0, min_percent: 0.0 },
        meaning: &[
            "Space that stays free on the file system: a size, or a share of the file system. dbufd deletes the",
            "oldest segments to keep this space free.",
        ],
        applies: Applies::Reload,
        set: |config, given| given.amount().map(|value| config.storage.min_free = value),
        get: |config| or_none(config.storage.min_free, format_amount),
    },
    Key {
        name: "storage.sync",
        shown: r#""1s""#,
        has_default: true,
        bounds: Bounds::Sync { min_ns: MS, max_ns: HOUR },
        meaning: &[
            "When written events become durable. An interval: at most this long after they are written, plus the",
            "time that the disk takes; \"batch\": before the next batch is taken; \"never\": only on request, and for",
            "closed segments when more than 16 of them wait; the kernel writes back when it likes, often after 30 s.",
        ],
        applies: Applies::Reload,
        set: |config, given| {
            config.storage.sync = match given.text() {
                Some("never") => SyncPolicy::Never,
                Some("batch") => SyncPolicy::Batch,
                _ => SyncPolicy::Interval(given.duration()?),
            };
            Some(())
        },
        get: |config| quoted(&sync_name(config.storage.sync)),
    },
    Key {
        name: "storage.when_full",
        shown: r#""delete-oldest""#,
        has_default: true,
        bounds: Bounds::Choice(&["delete-oldest", "wait", "drop"]),
        meaning: &[
            "What happens when the disk is full. \"delete-oldest\": the oldest segments are deleted; \"wait\": senders",
            "wait and nothing is lost; \"drop\": new events are lost and counted. When the disk fails, \"drop\" does",
            "the same, and with the other two senders wait.",
        ],
        applies: Applies::Reload,
        set: |config, given| {
            config.storage.when_full = match given.choice()? {
                "delete-oldest" => WhenFull::DeleteOldest,
                "wait" => WhenFull::Wait,
                _ => WhenFull::Drop,
            };
            Some(())
        },
        get: |config| {
            quoted(match config.storage.when_full {
                WhenFull::DeleteOldest => "delete-oldest",
                WhenFull::Wait => "wait",
                WhenFull::Drop => "drop",
            })
        },
    },
    Key {
        name: "stats.enabled",
        shown: "true",
        has_default: true,
        bounds: Bounds::Bool,
        meaning: &["Whether sizes and latencies are measured. Counters are always kept."],
        applies: Applies::Reload,
        set: |config, given| given.bool().map(|value| config.stats.enabled = value),
        get: |config| config.stats.enabled.to_string(),
    },
    Key {
        name: "log.level",
        shown: r#""info""#,
        has_default: true,
        bounds: Bounds::Choice(&["error", "warn", "info", "debug", "trace"]),
        meaning: &[
            "Least important level of dbufd's own log. It goes to journald if standard error is the journal, else to",
            "standard error.",
        ],
        applies: Applies::Reload,
        set: |config, given| {
            config.log.level = match given.choice()? {
                "error" => Level::Error,
                "warn" => Level::Warn,
                "debug" => Level::Debug,
                "trace" => Level::Trace,
                _ => Level::Info,
            };
            Some(())
        },
        get: |config| {
            quoted(match config.log.level {
                Level::Error => "error",
                Level::Warn => "warn",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            })
        },
    },
];

/// A sync policy as the file and `stats` write it.
#[must_use]
pub fn sync_name(sync: SyncPolicy) -> String {
    match sync {
        SyncPolicy::Never => "never".to_owned(),
        SyncPolicy::Batch => "batch".to_owned(),
        SyncPolicy::Interval(interval) => format_duration(interval),
    }
}

/// The default configuration with this directory of segments.
#[must_use]
pub fn default_config(directory: PathBuf) -> Config {
    let mut config = Config::default();
    config.storage.directory = directory;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_settings_agree_on_every_default() {
        for key in KEYS {
            let (section, name) = key.parts();
            assert!(!section.is_empty() && !name.is_empty());
            let mut set = default_config("/d".into());
            let value = Value::from_toml(key.shown).unwrap();
            key.set(&mut set, &value).unwrap_or_else(|error| panic!("{error}"));
            if key.has_default {
                assert_eq!(set, default_config("/d".into()), "{}", key.name);
                assert_eq!(key.get(&set), key.shown, "{}", key.name);
            }
        }
    }

    #[test]
    fn keys_stand_together_by_section_and_each_once() {
        let mut sections: Vec<&str> = KEYS.iter().map(|key| key.parts().0).collect();
        sections.dedup();
        let mut unique = sections.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(sections.len(), unique.len());
        assert!(KEYS.iter().all(|key| KEYS.iter().filter(|other| other.name == key.name).count() == 1));
    }

    #[test]
    fn the_file_that_is_installed_shows_every_key_with_its_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/dbufd.toml");
        let installed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            installed == documented(),
            "etc/dbufd.toml is not what the table says; it should be:\n{}",
            documented()
        );
    }

    #[test]
    fn a_wrong_name_is_led_to_the_nearest_right_one() {
        let nearest = |wrong| Key::nearest(wrong).map(|key| key.name);
        assert_eq!(nearest("storage.snyc"), Some("storage.sync"));
        assert_eq!(nearest("storage.capacity"), Some("buffer.capacity"));
        assert_eq!(nearest("capacity"), Some("buffer.capacity"));
        assert_eq!(nearest("bufer.linger"), Some("buffer.linger"));
        assert_eq!(nearest("storage.retain_size"), Some("storage.retain_age"));
        assert_eq!(nearest("x.y"), None);
    }
}
