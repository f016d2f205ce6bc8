//! Writes the table of keys as a file.
//!
//! Input: a [`Config`], or nothing. Output: text. Any thread. Nothing can fail.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{KEYS, Key, UNITS, default_config};
use crate::config::settings::Config;
use crate::config::units::quoted;

impl Key {
    /// The words before `shown`: whether it is the default, or an example for a key without a default or with "none".
    #[must_use]
    pub fn default_or_example(&self) -> &'static str {
        let is_none = || self.get(&default_config(PathBuf::from("/"))) == quoted("none");
        match self.has_default {
            true => "Default:",
            false if is_none() => "Default: \"none\"; example:",
            false => "No default; example:",
        }
    }
}

/// `config` as a file that reads back as the same configuration.
#[must_use]
pub fn render(config: &Config) -> String {
    by_section(|text, key| {
        let _ = writeln!(text, "{} = {}", key.parts().1, key.get(config));
    })
}

/// The file that shows every key with its default, unit and bounds: `etc/dbufd.toml`.
#[must_use]
pub fn documented() -> String {
    let head = format!(
        "\
# The configuration of dbufd. No key is needed. Lines `#key = value` show the default (an example where there is none).
# Remove the # to change a key. Files in dbufd.toml.d/ next to this file are read after it, in the order of their names;
# `--set section.key=value` comes last.
#
# {UNITS}
# `dbufd --check-config` checks without starting anything, `dbufctl config` shows the configuration in force,
# `systemctl reload dbufd` or `dbufctl reload` applies every change that needs no restart.
"
    );
    let body = by_section(|text, key| {
        for line in key.meaning {
            let _ = writeln!(text, "# {line}");
        }
        let _ = writeln!(text, "# Allowed: {}.", key.bounds);
        let default = if key.has_default { String::new() } else { format!(" {}", key.default_or_example()) };
        let _ = writeln!(text, "# Takes effect {}.{default}", key.applies.when());
        let _ = writeln!(text, "#{} = {}\n", key.parts().1, key.shown);
    });
    format!("{head}\n{}\n", body.trim_end())
}

fn by_section(mut each: impl FnMut(&mut String, &Key)) -> String {
    let mut text = String::new();
    let mut open = "";
    for key in KEYS {
        let (section, _) = key.parts();
        if section != open {
            let gap = if text.is_empty() || text.ends_with("\n\n") { "" } else { "\n" };
            let _ = writeln!(text, "{gap}[{section}]");
            open = section;
        }
        each(&mut text, key);
    }
    text
}
