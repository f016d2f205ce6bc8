//! A small disk for the segments, which a test can fill: a tmpfs in a mount namespace that ends with its holder.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate};
use serde_json::Value;

use crate::manager::Manager;
use crate::support::has;

/// The namespace's holder; ends with this.
pub(crate) struct Disk {
    holder: Child,
    /// The directory of segments, as this process reaches it.
    at: PathBuf,
}

impl Disk {
    /// Gives a manager's daemons a disk of this size. None, with a line that says why, where the machine does not
    /// allow it.
    pub(crate) fn of(manager: &mut Manager, size: &str) -> Option<Self> {
        let tools = ["unshare", "nsenter", "mount"];
        if !nix::unistd::geteuid().is_root() || !tools.into_iter().all(has) {
            eprintln!("skipped: a disk of its own needs root and {}", tools.join(", "));
            return None;
        }
        let segments = manager.home.segments();
        std::fs::create_dir_all(&segments).expect("a folder");
        let script =
            format!("mount -t tmpfs -o size={size} tmpfs '{}' && echo mounted && read end", segments.display());
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare runs");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("its output")).read_line(&mut line).expect("text");
        if line.trim() != "mounted" {
            eprintln!("skipped: a tmpfs cannot be mounted here");
            let _ = holder.kill();
            let _ = holder.wait();
            return None;
        }
        let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
        let at = root.join(segments.strip_prefix("/").expect("an absolute path"));
        manager.wrapper = vec!["nsenter".into(), format!("--mount=/proc/{}/ns/mnt", holder.id()), "--".into()];
        Some(Self { holder, at })
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) {
        let file = File::create(self.at.join("filler")).expect("a file");
        let mut at = 0;
        for block in [64 << 20, 1 << 20, 64 << 10, 4 << 10] {
            while fallocate(&file, FallocateFlags::empty(), at, block).is_ok() {
                at += block;
            }
        }
    }

    /// Gives the room back.
    pub(crate) fn heal(&self) {
        std::fs::remove_file(self.at.join("filler")).expect("the filler");
    }

    /// The directory of segments, as this process reaches it.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Every event that is stored.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbufctl"));
        let output = command.arg("--directory").arg(&self.at).args(["cat", "-o", "json"]).output().expect("it runs");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
