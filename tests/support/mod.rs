//! A daemon of one's own for a test: its directories, its sockets, its end.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod c;
pub mod ring;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes on the slowest machine; a test that meets it has failed.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Longer than the daemon's threads pause within work that is not done.
const SETTLED_FOR: Duration = Duration::from_millis(200);

/// A folder with everything that a daemon needs; daemons come and go in it.
pub struct Home {
    folder: TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("dbufd-test-").tempdir().expect("a temporary folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn segments(&self) -> PathBuf {
        self.path("segments")
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.path("run").join(name)
    }

    pub fn stream(&self) -> UnixStream {
        UnixStream::connect(self.socket("stream.sock")).expect("the daemon listens")
    }

    /// Starts a daemon and returns when it says that it is ready.
    pub fn start(&self, settings: &[&str]) -> Daemon {
        self.start_wrapped(&[], settings)
    }

    /// As [`Home::start`], under another program such as `unshare`.
    pub fn start_wrapped(&self, wrapper: &[&str], settings: &[&str]) -> Daemon {
        self.start_adjusted(wrapper, settings, |_| {})
    }

    /// As [`Home::start_wrapped`], with more arguments or another environment.
    pub fn start_adjusted(&self, wrapper: &[&str], settings: &[&str], adjust: impl FnOnce(&mut Command)) -> Daemon {
        let notify_path = self.path("notify.sock");
        let _ = fs::remove_file(&notify_path);
        let notify = UnixDatagram::bind(&notify_path).expect("a socket for readiness");
        notify.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut command = match wrapper {
            [] => Command::new(env!("CARGO_BIN_EXE_dbufd")),
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(env!("CARGO_BIN_EXE_dbufd"));
                command
            }
        };
        command.arg("--directory").arg(self.segments()).arg("--runtime").arg(self.path("run"));
        command.args(["--config", "/dev/null"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.env("NOTIFY_SOCKET", &notify_path).env_remove("JOURNAL_STREAM").env_remove("INVOCATION_ID");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(fs::File::create(self.path("stderr")).expect("a file"));
        adjust(&mut command);
        let child = command.spawn().expect("dbufd starts");
        let mut daemon = Daemon { child, stderr: self.path("stderr"), notify };
        daemon.wait_for_notice("READY=1");
        daemon
    }

    /// Runs dbufctl against this home.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_command(arguments).output().expect("dbufctl runs")
    }

    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbufctl"));
        command.arg("--runtime").arg(self.path("run")).arg("--directory").arg(self.segments()).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs dbufctl, which must succeed, and returns what it printed.
    pub fn ctl_ok(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert!(output.status.success(), "dbufctl {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// What `stats --json` says. Asks again if the daemon has not answered in the time that dbufctl waits.
    pub fn stats(&self) -> Value {
        wait_for("the daemon's figures", || {
            let output = self.ctl(&["stats", "--json"]);
            output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("stats are JSON"))
        })
    }

    /// What `cat -o cat` prints. Its exit code may tell of losses.
    pub fn cat(&self) -> String {
        let output = self.ctl(&["cat", "-o", "cat"]);
        assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Every event as an object.
    pub fn json(&self) -> Vec<Value> {
        let text = String::from_utf8(self.ctl(&["cat", "-o", "json"]).stdout).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    }

    /// Waits until `stats` satisfies the condition, asking again and again.
    pub fn wait_for_stats(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || {
            let stats = self.stats();
            condition(&stats).then_some(stats)
        })
    }

    /// Waits until this many events are in files, and returns the stats.
    pub fn wait_persisted(&self, events: u64) -> Value {
        self.wait_for_stats(&format!("{events} persisted events"), |s| {
            s["events"]["persisted"].as_u64() >= Some(events)
        })
    }
}

/// Asks until there is an answer, and fails if none comes within [`TIMEOUT`].
#[track_caller]
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_within(TIMEOUT, ask).unwrap_or_else(|| panic!("waited too long for {what}"))
}

/// Asks until the condition holds, and fails if it does not within [`TIMEOUT`].
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || is_so().then_some(()));
}

/// Asks until there is an answer; None if none comes in time. The pause between two questions decides nothing: it
/// spares the machine.
pub fn wait_within<T>(timeout: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let until = Instant::now() + timeout;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= until {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The row `events` of the report: received, persisted, durable and lost.
pub fn events_of(report: &str) -> Option<[u64; 4]> {
    let row = report.lines().find_map(|line| line.strip_prefix("events "))?;
    let figures: Vec<u64> = row.split_whitespace().map(|n| n.replace(',', "").parse().expect("a count")).collect();
    figures.try_into().ok()
}

/// A running daemon; killed when it goes out of scope.
pub struct Daemon {
    child: Child,
    stderr: PathBuf,
    notify: UnixDatagram,
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub fn wait_for_notice(&mut self, wanted: &str) {
        let mut notice = [0; 4096];
        let until = Instant::now() + TIMEOUT;
        self.notify.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        loop {
            if let Ok(n) = self.notify.recv(&mut notice)
                && String::from_utf8_lossy(&notice[..n]).lines().any(|line| line == wanted)
            {
                return;
            }
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("dbufd ended with {status} before {wanted}: {}", self.log());
            }
            assert!(Instant::now() < until, "no {wanted} came: {}", self.log());
        }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("the daemon is there");
    }

    /// SIGTERM, then the final report.
    pub fn stop(self) -> String {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait_stopped()
    }

    /// The final report of a daemon that has got its signal.
    pub fn wait_stopped(mut self) -> String {
        let report = self.read_report();
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "dbufd ended with {status}: {}", self.log());
        report
    }

    /// Sends a signal again and again until the daemon ends. Gives its exit code.
    pub fn end_with(mut self, signal: nix::sys::signal::Signal) -> Option<i32> {
        wait_for("the end", || {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return Some(status.code());
            }
            self.signal(signal);
            None
        })
    }

    fn read_report(&mut self) -> String {
        let mut report = String::new();
        self.child.stdout.take().expect("its output").read_to_string(&mut report).expect("text");
        report
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("the daemon is there");
        self.child.wait().expect("a child");
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let statm = fs::read_to_string(format!("/proc/{}/statm", self.pid())).expect("a process");
        statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("statm") * 4096
    }

    /// Voluntary and involuntary context switches of each thread whose name passes the filter.
    pub fn switches(&self, wanted: impl Fn(&str) -> bool) -> Vec<(String, u64)> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a process");
        let mut found: Vec<(String, u64)> = tasks
            .flatten()
            .filter_map(|task| {
                let status = fs::read_to_string(task.path().join("status")).ok()?;
                let name = status.lines().next()?.strip_prefix("Name:")?.trim().to_string();
                let count = status.lines().filter(|l| l.contains("ctxt_switches")).filter_map(|l| l.split(':').nth(1));
                Some((name, count.filter_map(|n| n.trim().parse::<u64>().ok()).sum()))
            })
            .filter(|(name, _)| wanted(name))
            .collect();
        found.sort();
        found
    }

    /// Whether such a thread runs or waits for a processor. One that has waited for long looks as if it slept.
    pub fn any_runs(&self, wanted: impl Fn(&str) -> bool) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("a process").flatten();
        tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok()).any(|status| {
            let value = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
            wanted(value("Name:")) && value("State:").starts_with('R')
        })
    }

    /// Fails if a thread of the data plane wakes within the time, which is what is tested: nothing can be waited for
    /// where nothing happens. The last of the work before may still be under way, so this first waits until two looks
    /// agree.
    #[track_caller]
    pub fn assert_nobody_wakes(&self, during: Duration) {
        let switches = || self.switches(|name| name.starts_with("dbufd-"));
        let before = wait_for("the threads to settle", || {
            let first = switches();
            std::thread::sleep(SETTLED_FOR);
            (!self.any_runs(|name| name.starts_with("dbufd-")) && first == switches()).then_some(first)
        });
        assert!(before.len() >= 2, "writers and reader are there: {before:?}");
        std::thread::sleep(during);
        assert_eq!(switches(), before, "nobody wakes");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a program is on the machine. Tests that need one say so when it is missing.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|p| p.join(program).exists()))
}

/// Runs a shell command with the socket paths as `$STREAM` and `$DGRAM`.
pub fn shell(home: &Home, script: &str) -> Output {
    Command::new("sh")
        .args(["-ec", script])
        .env("STREAM", home.socket("stream.sock"))
        .env("DGRAM", home.socket("dgram.sock"))
        .stdin(Stdio::null())
        .output()
        .expect("a shell")
}

/// Sends numbered lines `PREFIX N` over a connection of its own.
pub fn send_numbered(path: &Path, prefix: &str, numbers: std::ops::Range<u64>) {
    let mut stream = UnixStream::connect(path).expect("the daemon listens");
    let mut block = String::new();
    for number in numbers {
        block.push_str(&format!("{prefix} {number}\n"));
        if block.len() > 60_000 {
            if stream.write_all(block.as_bytes()).is_err() {
                return;
            }
            block.clear();
        }
    }
    let _ = stream.write_all(block.as_bytes());
}
