//! A machine of a test's own, with dbufd installed and nothing started.

use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::{TIMEOUT, wait_for};

/// What `box` ends with where it cannot work.
const CANNOT_WORK: i32 = 77;
/// What timeout(1) ends with.
const TIMED_OUT: i32 = 124;
/// The files of the project, and where a package puts them.
const INSTALLED: &[(&str, &str)] = &[
    ("dbufd.service", "/usr/lib/systemd/system/dbufd.service"),
    ("dbufd.socket", "/usr/lib/systemd/system/dbufd.socket"),
    ("dbufd-control.socket", "/usr/lib/systemd/system/dbufd-control.socket"),
    ("dbufd-metrics.service", "/usr/lib/systemd/system/dbufd-metrics.service"),
    ("dbufd-metrics.timer", "/usr/lib/systemd/system/dbufd-metrics.timer"),
    ("dbufd.sysusers.conf", "/usr/lib/sysusers.d/dbufd.conf"),
    ("dbufd.tmpfiles.conf", "/usr/lib/tmpfiles.d/dbufd.conf"),
];

/// A booted systemd. Everything of it is gone when this is dropped, or when the test's process ends.
pub(crate) struct Machine {
    name: String,
    /// Of its systemd, outside.
    pub(crate) pid: u32,
}

impl Machine {
    /// Boots one and installs dbufd in it. None where that cannot work, which has then been said.
    pub(crate) fn boot() -> Option<Self> {
        Self::boot_with(&[])
    }

    /// As [`Machine::boot`], with a small disk of its own at this path, which fsfreeze(8) can block.
    pub(crate) fn boot_with_disk(path: &str) -> Option<Self> {
        Self::boot_with(&["--disk", path])
    }

    /// As [`Machine::boot`], with more options of `box up`.
    pub(crate) fn boot_with(options: &[&str]) -> Option<Self> {
        let programs = [
            concat!(env!("CARGO_BIN_EXE_dbufd"), ":/usr/bin/dbufd"),
            concat!(env!("CARGO_BIN_EXE_dbufctl"), ":/usr/bin/dbufctl"),
        ];
        let programs: Vec<&str> = programs.into_iter().flat_map(|bind| ["--bind-ro", bind]).collect();
        let machine = Self::boot_bare(&[options, &programs].concat())?;
        machine.install();
        Some(machine)
    }

    /// Boots one in which nothing of dbufd is installed.
    pub(crate) fn boot_bare(options: &[&str]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static ANY: OnceLock<bool> = OnceLock::new();
        static WITH_DISK: OnceLock<bool> = OnceLock::new();
        let fits = *ANY.get_or_init(|| can_work(&[], "the tests of the service"))
            && (!options.contains(&"--disk")
                || *WITH_DISK.get_or_init(|| can_work(&["--disk"], "the tests that block a disk")));
        if !fits {
            return None;
        }
        let owner = std::process::id();
        let name = format!("{owner}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut up = the_box();
        up.args(["up", &name, "--owner", &owner.to_string()]).args(options);
        let pid = succeed("box up", &up.output().expect("bash runs"));
        Some(Self { name, pid: pid.trim().parse().expect("a pid") })
    }

    fn install(&self) {
        // What the real machine may have of its own.
        self.run(&["sh", "-c", "rm -rf /etc/dbufd /etc/*/dbufd* /etc/systemd/system/dbufd* /var/log/dbufd/*"]);
        for (file, at) in INSTALLED {
            let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(file));
            self.write(at, &text.expect("a file of the project"));
        }
        self.run(&["systemd-sysusers", "dbufd.conf"]);
        self.run(&["systemd-tmpfiles", "--create", "dbufd.conf"]);
        self.run(&["systemctl", "daemon-reload"]);
    }

    /// A path of the machine, as this process reaches it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    /// Writes a file of the machine, and makes its directory where it is missing.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a directory");
        fs::write(&path, text).expect("a file");
    }

    /// Runs a command as root.
    pub(crate) fn exec(&self, command: &[&str]) -> Output {
        // systemctl would wait for a start as long as the unit allows it; and apt-get syncs each file that it writes.
        self.exec_within(4 * TIMEOUT, command)
    }

    /// As [`Machine::exec`], for what takes longer.
    pub(crate) fn exec_within(&self, timeout: Duration, command: &[&str]) -> Output {
        let timeout = timeout.as_secs().to_string();
        let output = the_box().args(["exec", &self.name, "timeout", &timeout]).args(command).output();
        let output = output.expect("bash runs");
        assert_ne!(output.status.code(), Some(TIMED_OUT), "{command:?} takes longer than {timeout} s");
        output
    }

    /// Runs a command as root, which must succeed, and returns what it printed.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        succeed(&format!("{command:?}"), &self.exec(command))
    }

    /// The number that a process of the machine has for this one.
    pub(crate) fn pid_outside(&self, inside: &str) -> u32 {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(&self.pid.to_string());
        let is_it = |pid: &String| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            numbers.split_whitespace().last() == Some(inside) && namespace(pid) == own
        };
        let all = fs::read_dir("/proc").expect("/proc").flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        all.into_iter().find(is_it).and_then(|pid| pid.parse().ok()).expect("it runs")
    }

    /// The number of the main process of a unit.
    pub(crate) fn main_pid(&self, unit: &str) -> String {
        self.run(&["systemctl", "show", "-P", "MainPID", unit]).trim().to_owned()
    }

    /// A property of the service.
    pub(crate) fn property(&self, name: &str) -> String {
        self.run(&["systemctl", "show", "-P", name, "dbufd.service"]).trim().to_owned()
    }

    /// Waits until a property of the service has a value.
    pub(crate) fn wait_for_property(&self, name: &str, value: &str) {
        wait_for(&format!("{name}={value}"), || (self.property(name) == value).then_some(()));
    }

    /// What dbufctl says of the daemon; None while none answers.
    pub(crate) fn try_stats(&self) -> Option<Value> {
        let output = self.exec(&["dbufctl", "stats", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("stats are JSON"))
    }

    /// Waits until `stats` satisfies the condition, asking again and again.
    pub(crate) fn wait_for_stats(&self, what: &str, mut condition: impl FnMut(&Value) -> bool) -> Value {
        wait_for(what, || self.try_stats().filter(&mut condition))
    }

    /// Every event in the segments, as `dbufctl cat -o json` shows it.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.run(&["dbufctl", "cat", "-o", "json"]);
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    }

    /// Waits for an event with this text.
    pub(crate) fn wait_for_event(&self, text: &str) -> Value {
        wait_for(text, || self.events().into_iter().find(|event| event["MESSAGE"] == text))
    }

    /// A connection of this process, which the machine's own processes cannot see.
    pub(crate) fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("/run/dbufd/stream.sock")).expect("somebody listens");
        stream.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
        stream
    }

    /// A datagram socket that is connected to dbufd's.
    pub(crate) fn datagrams(&self) -> UnixDatagram {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.connect(self.path("/run/dbufd/dgram.sock")).expect("somebody listens");
        socket.set_write_timeout(Some(TIMEOUT)).expect("a timeout");
        socket
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A test that failed has said something worth more than this could.
        let _ = the_box().args(["down", &self.name]).status();
    }
}

fn the_box() -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/box"));
    command.stdin(Stdio::null());
    command
}

fn can_work(options: &[&str], skipped: &str) -> bool {
    let output = the_box().arg("check").args(options).output().expect("bash runs");
    if output.status.code() != Some(CANNOT_WORK) {
        succeed("box check", &output);
        return true;
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().replace("box: ", "");
    // Past the harness, which keeps what a test that passes prints.
    let _ = writeln!(std::io::stderr(), "skipped: {skipped}, for {why}");
    false
}

pub(crate) fn succeed(what: &str, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{what}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}
