//! The real daemon on real file systems that fail: a device that answers with errors, that does not answer,
//! that loses power; a directory that may not be written to; files that somebody deletes.
//!
//! Most need root, for a small file system of their own in a mount namespace that ends with the daemon. Without it they
//! say so in a line.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use support::{Daemon, Home, has, send_numbered, wait_for};

const NOBODY: u32 = 65534;

/// An ext4 in a file, and what a daemon on it needs. The mount is the daemon's own and ends with it.
struct Disk {
    home: Home,
}

impl Disk {
    /// None, with a line that says why, where the machine has not what it takes.
    fn new() -> Option<Self> {
        let tools = ["unshare", "mkfs.ext4", "mount", "losetup", "python3", "fsfreeze"];
        if !nix::unistd::geteuid().is_root() || !tools.into_iter().all(has) {
            eprintln!("skipped: a file system of its own needs root and {}", tools.join(", "));
            return None;
        }
        let home = Home::new();
        fs::create_dir_all(home.segments()).expect("a folder");
        let image = fs::File::create(home.path("image")).expect("a file");
        image.set_len(32 << 20).expect("room");
        let made = Command::new("mkfs.ext4").arg("-q").arg(home.path("image")).output().expect("mkfs.ext4 runs");
        assert!(made.status.success(), "{made:?}");
        Some(Self { home })
    }

    fn start(&self, settings: &[&str]) -> Daemon {
        let (image, at) = (self.home.path("image"), self.home.segments());
        let script = format!("mount -o loop {} {} && exec \"$0\" \"$@\"", image.display(), at.display());
        let mut all = vec!["storage.retain_bytes=none", "storage.min_free=none", "buffer.capacity=512KiB"];
        all.extend(settings);
        self.home.start_wrapped(&["unshare", "-m", "sh", "-c", &script], &all)
    }

    /// The directory of segments as the daemon sees it.
    fn inside(&self, daemon: &Daemon) -> PathBuf {
        format!("/proc/{}/root{}", daemon.pid(), self.home.segments().display()).into()
    }

    fn cat(&self, daemon: &Daemon) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbufctl"));
        command.arg("--directory").arg(self.inside(daemon)).args(["cat", "-o", "cat"]);
        command.output().expect("dbufctl runs")
    }

    fn lines(&self, daemon: &Daemon) -> Vec<String> {
        String::from_utf8(self.cat(daemon).stdout).expect("text").lines().map(str::to_string).collect()
    }

    /// The device is gone from one moment to the next (EXT4_IOC_SHUTDOWN without a flush of the journal): what was not
    /// synced will never be, and each call from now on fails with EIO.
    fn lose_power(&self, daemon: &Daemon) {
        let script = "import fcntl, os, struct, sys\n\
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        let done = Command::new("python3").args(["-c", script]).arg(self.inside(daemon)).output().expect("python3");
        assert!(done.status.success(), "{done:?}");
    }

    fn freeze(&self, daemon: &Daemon) -> Frozen {
        let at = self.inside(daemon);
        fsfreeze("--freeze", &at);
        Frozen { at }
    }
}

/// A file system that answers no write until this is dropped: also when a test fails, for a daemon that writes to it
/// cannot even be killed.
struct Frozen {
    at: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        fsfreeze("--unfreeze", &self.at);
    }
}

fn fsfreeze(how: &str, at: &Path) {
    let status = Command::new("fsfreeze").arg(how).arg(at).status().expect("fsfreeze runs");
    assert!(status.success());
}

fn numbered(prefix: &str, numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!("{prefix} {number}")).collect()
}

/// Sends this many lines, and has them made durable. What a client has sent is not accepted yet, so a sync alone would
/// cover whatever the daemon has read by then.
fn send_durably(home: &Home, numbers: std::ops::Range<u64>) {
    let events = numbers.end - numbers.start;
    let before = count(&home.stats(), "received");
    send_numbered(&home.socket("stream.sock"), "a", numbers);
    home.wait_for_stats("all to be received", |s| count(s, "received") == before + events);
    home.ctl_ok(&["sync"]);
}

fn count(stats: &serde_json::Value, name: &str) -> u64 {
    stats["events"][name].as_u64().expect("a count")
}

#[test]
fn after_a_real_loss_of_power_all_that_a_sync_returned_for_is_there_once() {
    let Some(disk) = Disk::new() else { return };
    let home = &disk.home;
    let mut told = 0;
    for round in 0..3 {
        // Nothing but what is asked for becomes durable.
        let mut daemon = disk.start(&["storage.sync=never", "storage.segment_size=64KiB", "storage.when_full=wait"]);
        for _ in 0..4 {
            send_durably(home, told..told + 500);
            told += 500;
        }
        send_numbered(&home.socket("stream.sock"), "unsynced", 0..500);
        home.wait_for_stats("all to be persisted", |s| count(s, "persisted") >= 2500);
        disk.lose_power(&daemon);
        // A disk that fails is a state, and no reason to end.
        home.stream().write_all(b"into the void\n").expect("the daemon reads");
        home.wait_for_stats("the disk to fail", |s| s["storage"]["state"] == "failing");
        assert!(daemon.is_alive());
        daemon.kill();
        let daemon = disk.start(&["storage.sync=never"]);
        let lines = disk.lines(&daemon);
        let there: Vec<_> = lines.iter().filter(|line| line.starts_with("a ")).cloned().collect();
        assert_eq!(there, numbered("a", 0..told), "round {round}");
        // Of the rest, what came through is whole, in order, and once.
        let rest: Vec<_> = lines.iter().filter(|line| line.starts_with("unsynced")).collect();
        assert!(rest.len() <= 500 * (round + 1), "{}", rest.len());
        daemon.stop();
    }
}

#[test]
fn a_device_that_fails_costs_counted_events_with_the_policy_to_drop() {
    let Some(disk) = Disk::new() else { return };
    let home = &disk.home;
    let mut daemon = disk.start(&["storage.sync=50ms", "storage.when_full=drop"]);
    send_durably(home, 0..100);
    disk.lose_power(&daemon);
    send_numbered(&home.socket("stream.sock"), "lost", 0..1000);
    let stats = home.wait_for_stats("each event to be accounted for", |s| {
        count(s, "received") == 1100 && count(s, "persisted") + count(s, "lost_total") == 1100
    });
    assert_eq!((count(&stats, "persisted"), stats["events"]["lost"]["disk"].as_u64()), (100, Some(1000)));
    assert_eq!(stats["storage"]["state"], "failing");
    assert!(daemon.is_alive());
    let report = daemon.stop();
    assert!(report.contains("1,000 disk"), "{report}");
}

#[test]
fn a_device_that_does_not_answer_is_a_stall_in_which_nobody_polls_and_nothing_is_lost() {
    let Some(disk) = Disk::new() else { return };
    let home = &disk.home;
    let mut daemon = disk.start(&["storage.sync=50ms", "storage.when_full=drop"]);
    send_durably(home, 0..100);
    let frozen = disk.freeze(&daemon);
    send_numbered(&home.socket("stream.sock"), "a", 100..200);
    home.wait_for_stats("all to be received", |s| count(s, "received") == 200);
    let stalled = home.wait_for_stats("the stall to show", |s| s["storage"]["state"] == "stalled");
    let on_data = |name: &str| name == "dbufd-reader" || name == "dbufd-syncer";
    let before = wait_for("both to sleep", || {
        let first = daemon.switches(on_data);
        std::thread::sleep(Duration::from_millis(200));
        (!daemon.any_runs(on_data) && daemon.switches(on_data) == first).then_some(first)
    });
    let uptime = |s: &serde_json::Value| s["uptime_seconds"].as_f64().expect("seconds");
    home.wait_for_stats("a second of it", |s| uptime(s) > uptime(&stalled) + 1.0);
    assert_eq!(daemon.switches(on_data), before, "reader and syncer sleep in the kernel");
    drop(frozen);
    let stats = home.wait_persisted(200);
    assert_eq!((count(&stats, "lost_total"), &stats["storage"]["state"]), (0, &"ok".into()));
    assert_eq!(disk.lines(&daemon), numbered("a", 0..200));
    assert!(daemon.is_alive());
}

#[test]
fn a_directory_that_may_not_be_written_to_for_a_while_costs_nothing() {
    if !nix::unistd::geteuid().is_root() || !has("setpriv") {
        eprintln!("skipped: to take a right away and give it back needs root and setpriv(1)");
        return;
    }
    let home = Home::new();
    let allow = |mode| fs::set_permissions(home.segments(), fs::Permissions::from_mode(mode)).expect("a folder");
    fs::create_dir_all(home.segments()).expect("a folder");
    for folder in [home.path(""), home.segments()] {
        chown(folder, Some(NOBODY), Some(NOBODY)).expect("root gives it away");
    }
    let become_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let settings = ["storage.segment_size=64KiB", "storage.sync=50ms"];
    let mut daemon = home.start_adjusted(&become_nobody, &settings, |_| {
        chown(home.path("notify.sock"), Some(NOBODY), Some(NOBODY)).expect("root gives it away");
    });
    send_durably(&home, 0..100);
    allow(0o500);
    let path = home.socket("stream.sock");
    let sender = std::thread::spawn(move || send_numbered(&path, "a", 100..50_000));
    home.wait_for_stats("the state to show", |s| s["storage"]["state"] == "failing");
    allow(0o700);
    sender.join().expect("the sender goes on");
    let stats = home.wait_persisted(50_000);
    assert_eq!(count(&stats, "lost_total"), 0);
    assert!(home.cat().lines().eq(numbered("a", 0..50_000)), "each once, in order");
    assert!(daemon.is_alive());
}

fn with_extension(home: &Home, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.segments()).expect("segments").flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

#[test]
fn what_was_not_durable_in_a_deleted_active_segment_is_written_again() {
    let home = Home::new();
    let mut daemon = home.start(&["storage.sync=never"]);
    send_numbered(&home.socket("stream.sock"), "a", 0..100);
    home.wait_persisted(100);
    with_extension(&home, "active").iter().for_each(|path| fs::remove_file(path).expect("a segment"));
    // It is noticed with the next batch; then the syncer brings the others back.
    send_numbered(&home.socket("stream.sock"), "a", 100..200);
    home.wait_persisted(200);
    home.ctl_ok(&["sync"]);
    assert!(home.cat().lines().eq(numbered("a", 0..200)), "{}", home.cat());
    // And with the next sync, if no batch comes.
    with_extension(&home, "active").iter().for_each(|path| fs::remove_file(path).expect("a segment"));
    send_numbered(&home.socket("stream.sock"), "a", 200..300);
    home.wait_persisted(300);
    with_extension(&home, "active").iter().for_each(|path| fs::remove_file(path).expect("a segment"));
    home.ctl_ok(&["sync"]);
    let text = home.cat();
    let last: Vec<_> = text.lines().rev().take(100).collect();
    assert!(last.into_iter().rev().eq(numbered("a", 200..300)), "{text}");
    assert!(daemon.is_alive());
    daemon.stop();
}

#[test]
fn a_sealed_segment_that_cannot_be_read_costs_its_own_events_and_nothing_else() {
    let home = Home::new();
    let mut daemon = home.start(&["storage.sync=50ms"]);
    for part in 0..3 {
        send_numbered(&home.socket("stream.sock"), "a", part * 10..part * 10 + 10);
        home.wait_persisted(part * 10 + 10);
        home.ctl_ok(&["rotate"]);
    }
    let sealed = wait_for("three sealed segments", || {
        let sealed = with_extension(&home, "segment");
        (sealed.len() == 3).then_some(sealed)
    });
    fs::remove_file(&sealed[1]).expect("a segment");
    fs::create_dir(&sealed[1]).expect("a folder in its place");
    let output = home.ctl(&["cat", "-o", "cat"]);
    assert_eq!(output.status.code(), Some(3), "a reader is told");
    let lines = String::from_utf8(output.stdout).expect("text");
    assert!(lines.lines().eq(numbered("a", 0..10).iter().chain(&numbered("a", 20..30))), "{lines}");
    send_numbered(&home.socket("stream.sock"), "a", 30..40);
    home.wait_persisted(40);
    assert!(daemon.is_alive());
    daemon.stop();
    // The next start does not stumble over it either.
    let daemon = home.start(&[]);
    assert!(home.cat().lines().eq(numbered("a", 0..10).iter().chain(&numbered("a", 20..40))));
    drop(daemon);
    if nix::unistd::geteuid().is_root() && has("setpriv") {
        fs::set_permissions(&sealed[0], fs::Permissions::from_mode(0o000)).expect("a segment");
        fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).expect("a folder");
        fs::set_permissions(home.segments(), fs::Permissions::from_mode(0o755)).expect("a folder");
        for path in with_extension(&home, "segment").iter().skip(2) {
            let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o644));
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", env!("CARGO_BIN_EXE_dbufctl")]);
        let output = command.arg("--directory").arg(home.segments()).args(["cat", "-o", "cat"]).output().expect("runs");
        let (text, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.code() == Some(3) && words.contains("ermission"), "{words}");
        assert!(text.lines().eq(numbered("a", 20..40)), "{text}");
    }
}
