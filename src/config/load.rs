//! Reads the configuration: the file, then its `.d` folder in the order of names, then `--set`, then `--directory`.
//!
//! Input: [`Sources`]. Output: a checked [`Config`]. Control thread, and dbufctl; nothing is opened for writing and
//! nothing is changed. Failures: one [`ConfigError`] sentence, for a file that cannot be read and for every mistake in
//! it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::{EVENTS_IN_HALF_MIN, KEYS, Key, default_config};
use super::paths;
use super::settings::Config;
use super::units::{format_duration, format_size, quoted};
use super::value::Value;

/// The largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where the configuration comes from. The start and every reload use the same value.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`: this file, which must exist, instead of the usual one, which need not exist.
    pub file: Option<PathBuf>,
    /// `--directory`: overrides `storage.directory`.
    pub directory: Option<PathBuf>,
    /// `--set`, each `section.key=value`.
    pub set: Vec<String>,
}

/// Why a configuration is refused: one sentence with the place, the key, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.replace(char::is_control, " "))]
pub struct ConfigError(String);

impl Sources {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// The first mistake, in the order of reading.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let mut draft = Draft::new(paths::segments_dir());
        let file = self.file.clone().unwrap_or_else(|| paths::config_dir().join("dbufd.toml"));
        // Only a file that does not exist is skipped. One that cannot be read is a mistake, and is reported.
        let absent = std::fs::metadata(&file).is_err_and(|error| is_absent(&error));
        if self.file.is_some() || !absent {
            draft.file(&file)?;
        }
        for part in parts_of(&file)? {
            draft.file(&part)?;
        }
        for set in &self.set {
            draft.flag(set)?;
        }
        if let Some(directory) = &self.directory {
            let absolute = std::path::absolute(directory);
            draft.config.storage.directory =
                absolute.map_err(|error| ConfigError(format!("--directory {}: {error}", directory.display())))?;
        }
        draft.group_exists()?;
        draft.finish()
    }
}

/// Checks the text of one file on top of the defaults. The error begins with `name`.
///
/// # Errors
/// The first mistake, in the order of the text.
pub fn check_text(name: &str, text: &str) -> Result<Config, ConfigError> {
    let mut draft = Draft::new(PathBuf::from(paths::SYSTEM_SEGMENTS_DIR));
    draft.text(name, text)?;
    draft.finish()
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// The files of `FILE.d`, in the order of their names.
fn parts_of(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let wrong = |error: std::io::Error| ConfigError(format!("{}: cannot be read: {error}", folder.display()));
    let list = match std::fs::read_dir(&folder) {
        Ok(list) => list,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(wrong(error)),
    };
    let mut parts = Vec::new();
    for found in list {
        let path = found.map_err(wrong)?.path();
        // Files that begin with a point are skipped, as by a shell's `*.toml`: they may be an editor's copy.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension() == Some(OsStr::new("toml")) && !hidden && path.is_file() {
            parts.push(path);
        }
    }
    parts.sort();
    Ok(parts)
}

/// A configuration that is being read, and where each of its values came from.
struct Draft {
    config: Config,
    origins: HashMap<&'static str, String>,
}

impl Draft {
    fn new(directory: PathBuf) -> Self {
        Self { config: default_config(directory), origins: HashMap::new() }
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        let cannot = |error: std::io::Error| ConfigError(format!("{name}: cannot be read: {error}"));
        let mut bytes = Vec::new();
        let opened = std::fs::File::open(path).map_err(cannot)?;
        opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let most = format_size(FILE_BYTES_MAX);
            return Err(ConfigError(format!("{name}: is larger than {most}; is it a configuration?")));
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => self.text(&name, text),
            Err(error) => {
                let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let place = place(&name, &before, before.len());
                Err(ConfigError(format!("{place}: a byte that is not UTF-8; save the file as UTF-8")))
            }
        }
    }

    fn text(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| {
            let place = place(name, text, error.span().map_or(text.len(), |span| span.start));
            ConfigError(format!("{place}: not valid TOML: {}", error.message().replace(char::is_control, " ")))
        })?;
        for found in flatten(table.get_ref()) {
            let key = Key::named(&found.name).ok_or_else(|| {
                let place = place(name, text, found.key.start);
                ConfigError(format!("{place}: {}", unknown(&found.name)))
            })?;
            let place = place(name, text, found.value.start);
            key.set(&mut self.config, &found.content).map_err(|why| ConfigError(format!("{place}: {why}")))?;
            self.origins.insert(key.name, place);
        }
        Ok(())
    }

    fn flag(&mut self, set: &str) -> Result<(), ConfigError> {
        let Some((name, value)) = set.split_once('=') else {
            return Err(ConfigError(format!("--set: {} has no \"=\"; write --set section.key=value", quoted(set))));
        };
        let name = name.trim();
        let key = Key::named(name).ok_or_else(|| ConfigError(format!("--set: {}", unknown(name))))?;
        key.set(&mut self.config, &Value::from_flag(value.trim()))
            .map_err(|why| ConfigError(format!("--set: {why}")))?;
        self.origins.insert(key.name, "--set".to_owned());
        Ok(())
    }

    /// Asks this machine for the group. It is not part of [`check_text`], whose result must depend on the text alone.
    fn group_exists(&self) -> Result<(), ConfigError> {
        let place = self.place_of(&["ingest.socket_group"]);
        self.config.ingest.group().map(drop).map_err(|why| ConfigError(format!("{place}: {why}")))
    }

    /// Checks what only all values together can show.
    fn finish(self) -> Result<Config, ConfigError> {
        if let (Some(keep), Some(age)) = (self.config.storage.keep_at_least, self.config.storage.retain_age)
            && keep > age
        {
            return Err(ConfigError(format!(
                "{}: storage.keep_at_least: \"{}\" is longer than storage.retain_age = \"{age}\", after which events \
                 are deleted; allowed: \"{age}\" or less",
                self.place_of(&["storage.keep_at_least"]),
                format_duration(keep),
                age = format_duration(age),
            )));
        }
        let (capacity, event) = (self.config.buffer.capacity_bytes, self.config.ingest.max_event_bytes);
        let needed = event * EVENTS_IN_HALF_MIN;
        if capacity < needed {
            let place = self.place_of(&["buffer.capacity", "ingest.max_event"]);
            return Err(ConfigError(format!(
                "{place}: buffer.capacity: \"{}\" is too small for ingest.max_event = \"{}\"; allowed: \"{}\" or more",
                format_size(capacity as u64),
                format_size(event as u64),
                format_size(needed as u64),
            )));
        }
        Ok(self.config)
    }

    /// The place of the first of these keys that was set: the defaults alone satisfy every rule.
    fn place_of(&self, keys: &[&'static str]) -> &str {
        keys.iter().find_map(|key| self.origins.get(key)).map_or("configuration", String::as_str)
    }
}

fn unknown(name: &str) -> String {
    let name_shown = quoted(name);
    match Key::nearest(name) {
        Some(key) => format!("{name_shown} is not a key; the nearest is {}", key.name),
        None => {
            let mut sections: Vec<&str> = KEYS.iter().map(|key| key.parts().0).collect();
            sections.dedup();
            format!("{name_shown} is not a key; the sections are {}", sections.join(", "))
        }
    }
}

/// One value of a file, and its place.
struct Found {
    name: String,
    key: Range<usize>,
    value: Range<usize>,
    content: Value,
}

/// All values of a file in the order of its text, so that the first mistake is the one that is reported.
fn flatten(table: &DeTable<'_>) -> Vec<Found> {
    let mut all = Vec::new();
    for (section, content) in table {
        let DeValue::Table(inner) = content.get_ref() else {
            all.push(Found {
                name: section.get_ref().clone().into_owned(),
                key: section.span(),
                value: content.span(),
                content: Value::new(content.get_ref()),
            });
            continue;
        };
        let known = KEYS.iter().any(|key| key.parts().0 == section.get_ref());
        if inner.is_empty() && !known {
            // An unknown section is a mistake even if it is empty.
            let name = section.get_ref().clone().into_owned();
            all.push(Found { name, key: section.span(), value: content.span(), content: Value::Other("a table") });
        }
        all.extend(inner.iter().map(|(name, value)| Found {
            name: format!("{}.{}", section.get_ref(), name.get_ref()),
            key: if known { name.span() } else { section.span() },
            value: value.span(),
            content: Value::new(value.get_ref()),
        }));
    }
    all.sort_by_key(|found| found.key.start);
    all
}

/// `NAME:LINE:COLUMN`, counted from 1, columns in characters.
fn place(name: &str, text: &str, offset: usize) -> String {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    format!("{name}:{line}:{column}")
}

#[cfg(test)]
mod tests {
    use super::super::keys::{documented, render};
    use super::super::settings::SyncPolicy;
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn wrong(text: &str) -> String {
        check_text("FILE", text).expect_err("the text is wrong").to_string()
    }

    #[test]
    fn what_is_wrong_is_one_line_whatever_stands_in_the_file() {
        for text in ["buffer.capacity = 83886_a\0\0\0", "buffer.capacity = 1a\u{1}", "x = 1\u{7f}_"] {
            assert!(!wrong(text).contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place_and_what_is_allowed() {
        let said = wrong("[buffer]\ncapacity = \"4MiB\"\n[storage]\n  sync = \"often\"\n");
        assert_eq!(
            said,
            "FILE:4:10: storage.sync: \"often\" is not allowed; allowed: \"never\", \"batch\" or an interval such as \
             \"1s\" (from \"1ms\" to \"1h\")"
        );
    }

    #[test]
    fn an_unknown_key_leads_to_the_nearest_right_one() {
        assert_eq!(
            wrong("[storage]\nsnyc = \"1s\""),
            "FILE:2:1: \"storage.snyc\" is not a key; the nearest is storage.sync"
        );
        assert_eq!(
            wrong("[bufer]"),
            "FILE:1:2: \"bufer\" is not a key; the sections are buffer, writers, reader, ingest, limits, storage, \
             stats, log"
        );
        assert_eq!(wrong("capacity = 1"), "FILE:1:1: \"capacity\" is not a key; the nearest is buffer.capacity");
        assert!(wrong("[bufer]\nlinger=\"1s\"").starts_with("FILE:1:2: \"bufer.linger\""));
    }

    #[test]
    fn the_first_mistake_of_several_is_the_one_that_is_told() {
        assert!(wrong("[storage]\nzzz = 1\n[buffer]\naaa = 1\n").starts_with("FILE:2:1: \"storage.zzz\""));
    }

    #[test]
    fn text_that_is_not_toml_is_told_with_its_place_on_one_line() {
        let said = wrong("[buffer]\ncapacity = 8MiB\n");
        assert!(said.starts_with("FILE:2:12: not valid TOML: ") && !said.contains('\n'), "{said}");
    }

    #[test]
    fn a_half_must_have_room_for_several_of_the_largest_events() {
        let said = wrong("[ingest]\nmax_event = \"1MiB\"\n[buffer]\ncapacity = \"2MiB\"\n");
        assert_eq!(
            said,
            "FILE:4:12: buffer.capacity: \"2MiB\" is too small for ingest.max_event = \"1MiB\"; \
             allowed: \"4MiB\" or more"
        );
    }

    #[test]
    fn events_cannot_be_kept_longer_than_retention_keeps_them() {
        let said = wrong("[storage]\nkeep_at_least = \"2d\"\nretain_age = \"1d\"\n");
        assert_eq!(
            said,
            "FILE:2:17: storage.keep_at_least: \"2d\" is longer than storage.retain_age = \"1d\", after which events \
             are deleted; allowed: \"1d\" or less"
        );
        assert!(check_text("FILE", "storage = { keep_at_least = \"1d\", retain_age = \"1d\" }").is_ok());
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        let text = "[storage]\nsync=\"batch\"\nretain_age=\"1h30min\"\ndirectory=\"/a \\\"b\"\n[writers]\ncpus=[0,1]\n\
                    count=2\n[ingest]\nsocket_mode=\"0600\"\n[reader]\ncpu=1\n";
        let config = check_text("FILE", text).unwrap();
        assert_eq!(config.storage.retain_age, Some(Duration::from_secs(5400)));
        assert_eq!(check_text("PRINTED", &render(&config)).unwrap(), config);
        let default = check_text("FILE", "").unwrap();
        assert_eq!(check_text("PRINTED", &render(&default)).unwrap(), default);
        assert_eq!(check_text("DOCUMENTED", &documented()).unwrap(), default);
    }

    #[test]
    fn later_files_and_flags_win_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dbufd.toml");
        let folder = dir.path().join("dbufd.toml.d");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, "storage.sync=\"1s\"\nbuffer.linger=\"1ms\"\nlog.level=\"warn\"").unwrap();
        std::fs::write(folder.join("20.toml"), "storage.sync=\"3s\"").unwrap();
        std::fs::write(folder.join("10.toml"), "storage.sync=\"2s\"\nbuffer.linger=\"2ms\"").unwrap();
        std::fs::write(folder.join(".30.toml"), "is not read").unwrap();
        std::fs::write(folder.join("30.toml~"), "is not read").unwrap();
        let mut sources = Sources { file: Some(file), ..Sources::default() };
        let config = sources.load().unwrap();
        assert_eq!(config.storage.sync, SyncPolicy::Interval(Duration::from_secs(3)));
        assert_eq!(config.buffer.linger, Duration::from_millis(2));
        sources.set = vec!["storage.sync=batch".into(), "storage.sync = never".into()];
        sources.directory = Some("/elsewhere".into());
        let config = sources.load().unwrap();
        assert_eq!(config.storage.sync, SyncPolicy::Never);
        assert_eq!(config.storage.directory, Path::new("/elsewhere"));
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist_and_be_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("none.toml");
        let sources = Sources { file: Some(file.clone()), ..Sources::default() };
        let said = sources.load().unwrap_err().to_string();
        assert!(said.contains("none.toml: cannot be read: No such file"), "{said}");
        std::fs::write(&file, b"[log]\n# \xff").unwrap();
        let said = sources.load().unwrap_err().to_string();
        assert!(said.contains("none.toml:2:3: a byte that is not UTF-8"), "{said}");
    }

    #[test]
    fn a_group_that_does_not_exist_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dbufd.toml");
        std::fs::write(&file, "[ingest]\nsocket_group = \"no such group\"\n").unwrap();
        let said = Sources { file: Some(file), ..Sources::default() }.load().unwrap_err().to_string();
        assert!(
            said.ends_with(
                "dbufd.toml:2:16: ingest.socket_group: there is no group \"no such group\"; see getent group"
            ),
            "{said}"
        );
    }

    #[test]
    fn a_wrong_flag_is_told_as_a_flag() {
        let said = |set: &str| {
            let file = Some(PathBuf::from("/dev/null"));
            Sources { file, set: vec![set.into()], ..Sources::default() }.load().unwrap_err().to_string()
        };
        assert!(said("storage.sync=often").starts_with("--set: storage.sync: \"often\" is not allowed; allowed: "));
        assert_eq!(said("log.levl=info"), "--set: \"log.levl\" is not a key; the nearest is log.level");
        assert_eq!(said("log.level"), "--set: \"log.level\" has no \"=\"; write --set section.key=value");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_check_panic_and_every_error_is_one_line(text in "[\\[\\]a-z.=\"0-9\n #,]{0,80}") {
            if let Err(error) = check_text("F", &text) {
                prop_assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
