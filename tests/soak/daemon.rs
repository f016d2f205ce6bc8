//! The daemon in the machine: how it is set up, what it says of itself, and what it uses.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::machine::{Machine, succeed};
use crate::payload::MAX_EVENT;
use crate::support::wait_for;

/// A small disk of its own, where the segments are.
pub(crate) const DISK: &str = "/var/log/dbufd";
pub(crate) const CONFIGURATION: &str = "/etc/dbufd/dbufd.toml";

/// What a reload and a restart change from time to time.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) sync: &'static str,
    pub(crate) linger: &'static str,
    pub(crate) capacity: &'static str,
    pub(crate) segment_size: &'static str,
    /// Sealed segments whose newest event is older than this go; none while an epoch runs.
    pub(crate) retain_age: &'static str,
}

impl Settings {
    pub(crate) const SYNCS: [&str; 3] = ["50ms", "1s", "batch"];
    pub(crate) const LINGERS: [&str; 3] = ["0s", "2ms", "20ms"];
    pub(crate) const CAPACITIES: [&str; 3] = ["1MiB", "2MiB", "4MiB"];
    pub(crate) const SEGMENT_SIZES: [&str; 3] = ["4MiB", "8MiB", "16MiB"];

    pub(crate) fn first() -> Self {
        Self { sync: "50ms", linger: "2ms", capacity: "2MiB", segment_size: "8MiB", retain_age: "none" }
    }

    /// The file. A full disk makes producers wait, and retention takes nothing unasked, so that all has to be there.
    pub(crate) fn text(&self) -> String {
        let Self { sync, linger, capacity, segment_size, retain_age } = self;
        format!(
            "[buffer]\ncapacity = \"{capacity}\"\nlinger = \"{linger}\"\n\
             [ingest]\nmax_event = \"{}KiB\"\n\
             [storage]\nsync = \"{sync}\"\nsegment_size = \"{segment_size}\"\nretain_age = \"{retain_age}\"\n\
             retain_bytes = \"none\"\nmin_free = \"none\"\nwhen_full = \"wait\"\n",
            MAX_EVENT >> 10
        )
    }
}

/// What a process of the daemon uses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) peak_rss_bytes: u64,
    pub(crate) descriptors: u64,
    /// That systemd keeps for it.
    pub(crate) kept: u64,
}

impl Machine {
    /// dbufctl, run by this process: neither its time nor its output is bounded.
    pub(crate) fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbufctl"));
        command.arg("--runtime").arg(self.path("/run/dbufd")).arg("--directory").arg(self.path(DISK));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_command(arguments).output().expect("dbufctl runs")
    }

    /// As [`Machine::ctl`], which must succeed. Gives what it printed.
    pub(crate) fn ctl_ok(&self, arguments: &[&str]) -> String {
        succeed(&format!("dbufctl {arguments:?}"), &self.ctl(arguments))
    }

    /// What the daemon says of itself, once it answers.
    pub(crate) fn stats(&self) -> Value {
        wait_for("an answer to stats", || {
            let output = self.ctl(&["stats", "--json"]);
            output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("stats are JSON"))
        })
    }

    /// Waits for a state of the storage.
    pub(crate) fn wait_for_storage(&self, state: &str) {
        wait_for(&format!("the storage to be {state}"), || (self.stats()["storage"]["state"] == state).then_some(()));
    }

    /// The last sequence in the files; 0 where there is none.
    pub(crate) fn last_sequence(&self) -> u64 {
        let output = self.ctl(&["segments", "--json"]);
        let files: Value = serde_json::from_slice(&output.stdout).expect("segments are JSON");
        let files = files.as_array().expect("an array").iter();
        files.filter_map(|file| file["last_sequence"].as_u64()).max().unwrap_or(0)
    }

    /// The paths of the segments in this state.
    pub(crate) fn segments(&self, state: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(DISK)).expect("the disk").flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == state)).collect()
    }

    pub(crate) fn write_settings(&self, settings: &Settings) {
        self.write(CONFIGURATION, &settings.text());
    }

    /// What the present process has used up to now.
    pub(crate) fn usage(&self) -> Usage {
        let pid = self.pid_outside(&self.property("MainPID"));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak_kib: u64 = peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |entries| entries.count() as u64);
        let kept = self.property("NFileDescriptorStore").parse().unwrap_or(0);
        Usage { peak_rss_bytes: peak_kib << 10, descriptors, kept }
    }

    /// How long it was from the end of the life before until the present one was ready, as systemd measured it.
    pub(crate) fn recovery(&self) -> Duration {
        let time = |name: &str| self.property(name).parse().unwrap_or_else(|_| panic!("{name} is a time"));
        let (end, ready): (u64, u64) = (time("ActiveExitTimestampMonotonic"), time("ActiveEnterTimestampMonotonic"));
        Duration::from_micros(ready.saturating_sub(end))
    }
}
