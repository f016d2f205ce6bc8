//! Tells a person at a terminal where the daemon listens, how to send a first event, and how to look at it.
//!
//! Input: paths. Output: text whose commands can be pasted. It reads the environment and changes nothing. Nothing can
//! fail.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::console::print_out;
use crate::config::Config;
use crate::config::paths::{self, DATAGRAM_SOCKET, STREAM_SOCKET};
use crate::pipeline::store::Recovery;

/// What the text names.
pub(super) struct Banner<'a> {
    /// Where the sockets are.
    pub(super) runtime: &'a Path,
    /// Where the segments are.
    pub(super) directory: &'a Path,
    /// The number of existing segments, and the next sequence.
    pub(super) found: (usize, u64),
}

impl Banner<'_> {
    /// The text.
    pub(super) fn text(&self) -> String {
        let dbufctl = dbufctl();
        let mut at = String::new();
        if paths::runtime_dir().ok().as_deref() != Some(self.runtime) {
            let _ = write!(at, " --runtime {}", quoted(self.runtime));
        }
        self.render(&format!("{dbufctl}{at}"))
    }

    /// dbufctl asks the daemon where its segments are, so it needs no `--directory`.
    fn render(&self, dbufctl: &str) -> String {
        let socket = |name| quoted(&self.runtime.join(name));
        let (stream, datagram) = (socket(STREAM_SOCKET), socket(DATAGRAM_SOCKET));
        let (segments, next) = self.found;
        let mut text = String::new();
        let mut row = |label: &str, content: &str| {
            let _ = writeln!(text, "  {label:<12}{content}");
        };
        row("listens on", &stream);
        row("", &datagram);
        row("writes to", &format!("{} ({segments} segments, next event is number {next})", quoted(self.directory)));
        row("send", &format!("echo hello | nc -UN {stream}"));
        row("", &format!("logger -u {datagram} hello"));
        row("", &format!("{dbufctl} send hello"));
        row("look", &format!("{dbufctl} tail"));
        row("", &format!("{dbufctl} stats"));
        row("stop", "Ctrl-C");
        format!("dbufd {} runs, pid {}\n{text}", env!("CARGO_PKG_VERSION"), std::process::id())
    }
}

/// Announces the start to a person or to the log, with what recovery found.
pub(super) fn announce(recovery: &Recovery, config: &Config, runtime: &Path) {
    for note in &recovery.notes {
        tracing::warn!("{note}");
    }
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            bytes = recovery.torn_bytes,
            segments = recovery.torn_files,
            "truncated torn bytes that a previous process had not finished writing"
        );
    }
    if recovery.damaged_ranges > 0 {
        tracing::warn!(places = recovery.damaged_ranges, "segments are damaged; 'dbufctl verify' shows where");
    }
    let directory = &config.storage.directory;
    if std::io::stdout().is_terminal() {
        let found = (recovery.segments, recovery.next_sequence);
        print_out(&Banner { runtime, directory, found }.text());
    } else {
        tracing::info!(
            runtime = %runtime.display(),
            directory = %directory.display(),
            segments = recovery.segments,
            next_sequence = recovery.next_sequence,
            "dbufd {} runs: sockets in {}, segments in {}",
            env!("CARGO_PKG_VERSION"),
            runtime.display(),
            directory.display()
        );
    }
}

/// How a person calls dbufctl: by name if the shell finds it, otherwise by the path next to this program.
fn dbufctl() -> String {
    let neighbor = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("dbufctl")));
    let found_by = |dir: PathBuf| dir.join("dbufctl").is_file();
    let on_path = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(found_by));
    match neighbor {
        Some(neighbor) if !on_path && neighbor.is_file() => quoted(&neighbor),
        _ => "dbufctl".to_owned(),
    }
}

/// Quoted for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+,:@%".contains(&byte));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_can_be_pasted_even_with_odd_paths() {
        let banner = Banner { runtime: Path::new("/run/it's here"), directory: Path::new("/d"), found: (2, 41) };
        let text = banner.render("dbufctl --runtime X");
        for part in [
            "echo hello | nc -UN '/run/it'\\''s here/stream.sock'\n",
            "logger -u '/run/it'\\''s here/dgram.sock' hello\n",
            "dbufctl --runtime X send hello\n",
            "writes to   /d (2 segments, next event is number 41)",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }
}
