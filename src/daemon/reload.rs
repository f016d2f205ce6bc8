//! Decides which keys of a changed configuration take effect now, and which at the next start.
//!
//! Input: the configuration in force and a checked new one. Output: the next configuration in force. Pure; any thread.
//! Nothing can fail, because the new one has been checked.

use serde_json::{Value as Json, json};

use crate::config::keys::{Applies, EVENTS_IN_HALF_MIN, Key, changed};
use crate::config::settings::Config;
use crate::config::value::Value;

/// The outcome of a reload.
#[derive(Debug)]
pub(super) struct Change {
    /// What is in force from now on.
    pub(super) config: Config,
    /// Keys that took effect.
    pub(super) applied: Vec<&'static str>,
    /// Keys that will, after a restart.
    pub(super) needs_restart: Vec<&'static str>,
}

impl Change {
    /// From `old`, which is in force, to the part of `new` that a running daemon can apply.
    pub(super) fn between(old: &Config, new: &Config) -> Self {
        let mut change = Self { config: new.clone(), applied: Vec::new(), needs_restart: Vec::new() };
        for key in changed(old, new) {
            // The two were checked together for the half that comes with the restart. The present half counts now.
            let too_large_now = key.name == "ingest.max_event"
                && new.ingest.max_event_bytes * EVENTS_IN_HALF_MIN > old.buffer.capacity_bytes;
            if key.applies == Applies::Reload && !too_large_now {
                change.applied.push(key.name);
            } else {
                change.needs_restart.push(key.name);
                keep(key, old, &mut change.config);
            }
        }
        change
    }

    /// For people: one line.
    pub(super) fn summary(&self) -> String {
        let applied = match self.applied.as_slice() {
            [] => "nothing changed".to_owned(),
            keys => format!("changed {}", keys.join(", ")),
        };
        match self.needs_restart.as_slice() {
            [] => applied,
            keys => format!("{applied}; needs a restart: {}", keys.join(", ")),
        }
    }

    /// For dbufctl.
    pub(super) fn to_json(&self) -> Json {
        json!({"changed": self.applied, "needs_restart": self.needs_restart})
    }
}

/// Restores the old value of one key.
fn keep(key: &Key, old: &Config, config: &mut Config) {
    let value = Value::from_toml(&key.get(old)).expect("every key prints TOML; a test reads all of it back");
    key.set(config, &value).expect("a value in force is within the bounds that it was checked against");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{KEYS, default_config};
    use std::time::Duration;

    #[test]
    fn what_can_change_now_does_and_the_rest_waits_for_a_restart() {
        let old = default_config("/d".into());
        let mut new = old.clone();
        new.buffer.capacity_bytes = 16 << 20;
        new.buffer.linger = Duration::ZERO;
        new.storage.directory = "/e".into();
        new.storage.retain_age = Some(Duration::from_secs(60));
        let change = Change::between(&old, &new);
        assert_eq!(change.applied, ["buffer.linger", "storage.retain_age"]);
        assert_eq!(change.needs_restart, ["buffer.capacity", "storage.directory"]);
        let mut expected = new;
        expected.buffer.capacity_bytes = old.buffer.capacity_bytes;
        expected.storage.directory = "/d".into();
        assert_eq!(change.config, expected);
        assert_eq!(
            change.summary(),
            "changed buffer.linger, storage.retain_age; needs a restart: buffer.capacity, storage.directory"
        );
    }

    #[test]
    fn an_event_that_the_present_half_cannot_hold_waits_for_the_larger_half() {
        let old = default_config("/d".into());
        let mut new = old.clone();
        new.buffer.capacity_bytes = 1 << 20;
        let small = Change::between(&old, &new).config;
        assert_eq!(small.buffer.capacity_bytes, 8 << 20);
        let mut now = old;
        now.buffer.capacity_bytes = 1 << 20;
        new.buffer.capacity_bytes = 8 << 20;
        new.ingest.max_event_bytes = 1 << 20;
        let change = Change::between(&now, &new);
        assert_eq!(change.needs_restart, ["buffer.capacity", "ingest.max_event"]);
        assert_eq!(change.config, now);
    }

    #[test]
    fn every_value_in_force_can_be_kept() {
        let old = default_config("/with \"quotes\" and \\".into());
        for key in KEYS {
            let mut config = default_config("/other".into());
            keep(key, &old, &mut config);
            assert_eq!(key.get(&config), key.get(&old));
        }
    }

    #[test]
    fn an_unchanged_file_changes_nothing() {
        let config = default_config("/d".into());
        let change = Change::between(&config, &config);
        assert_eq!((change.config.clone(), change.summary().as_str()), (config, "nothing changed"));
    }
}
