//! The end of programs and plug-ins that use `dbuf.h`: unloading, exit handlers, destructors. And where a program looks
//! for the daemon, also if it runs with another user's rights.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::*;
use crate::support::Home;

#[derive(Clone, Copy, Debug)]
enum Language {
    C,
    Cpp,
}

struct Plugin {
    folder: tempfile::TempDir,
    host: PathBuf,
    plugin: PathBuf,
}

impl Plugin {
    /// Builds the plug-in and its host with these checks of the compiler.
    fn new(language: Language, source: &str, checks: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let with = |flags: &[&'static str]| [flags, &["-O1", "-g", "-pthread"], checks].concat();
        let host = build(folder.path(), "gcc", &with(&["-std=gnu11"]), "host.c");
        let plugin = match language {
            Language::C => build(folder.path(), "gcc", &with(&["-std=c11", "-shared", "-fPIC"]), source),
            Language::Cpp => {
                build(folder.path(), "g++", &with(&["-x", "c++", "-std=c++17", "-shared", "-fPIC"]), source)
            }
        };
        Self { folder, host, plugin }
    }

    fn run(&self, socket: &Path, rounds: u32) -> Command {
        let mut command = Command::new(&self.host);
        command.arg(&self.plugin).arg(socket).arg(rounds.to_string()).stdin(Stdio::null());
        command
    }
}

#[test]
fn a_plug_in_may_be_unloaded_while_threads_that_used_it_live_on() {
    for language in [Language::C, Language::Cpp] {
        let plugin = Plugin::new(language, "plugin.c", &[]);
        let socket = plugin.folder.path().join("none.sock");
        let output = plugin.run(&socket, 5).output().expect("the host runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{language:?}: {}: {errors}", output.status);
        let counts = String::from_utf8_lossy(&output.stdout);
        let (before, after) = counts.trim().split_once(' ').expect("two counts");
        assert_eq!(before, after, "descriptors");
        // One line each from the thread's own producer and from the one that the plug-in has left open, in each round.
        let why = format!("cannot connect to {}: No such file or directory (is dbufd running?)", socket.display());
        let first = format!("dbuf: {why}; events wait in memory\n");
        let last = format!("dbuf: 1 event not delivered: {why}\n");
        assert_eq!(errors, format!("{first}{first}{last}{last}").repeat(5), "{language:?}");
    }
}

/// Objects of one process must not share functions: each has a state of its own.
#[test]
fn a_shared_object_exports_nothing_of_the_header() {
    for language in [Language::C, Language::Cpp] {
        // Without optimization, every function that is used has a copy that could be exported.
        let plugin = Plugin::new(language, "plugin.c", &["-O0"]);
        let output = Command::new("nm").args(["-D", "--defined-only"]).arg(&plugin.plugin).output().expect("nm runs");
        assert!(output.status.success(), "{output:?}");
        let symbols = String::from_utf8_lossy(&output.stdout);
        let names: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(names, ["say"], "{language:?}");
    }
}

#[test]
fn a_static_object_of_a_plug_in_may_close_its_producer_after_the_plug_in_is_unloaded() {
    let plugin = Plugin::new(Language::Cpp, "owner.cpp", &["-fsanitize=address"]);
    let socket = plugin.folder.path().join("none.sock");
    let output = plugin.run(&socket, 2).env("ASAN_OPTIONS", "detect_leaks=0").output().expect("the host runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    let why = format!("cannot connect to {}: No such file or directory (is dbufd running?)", socket.display());
    let lines = format!("dbuf: {why}; events wait in memory\ndbuf: 1 event not delivered: {why}\n");
    assert_eq!(errors, lines.repeat(2));
}

#[test]
fn what_a_plug_in_leaves_open_is_closed_when_it_is_unloaded() {
    let (fake, plugin) = (Fake::new(), Plugin::new(Language::C, "plugin.c", &[]));
    let mut command = plugin.run(&fake.path(), 1);
    let mut host = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the host runs");
    let mut rings = [fake.give_ring(), fake.give_ring()];
    // The plug-in is unloaded now, and its thread still runs.
    for ring in &mut rings {
        assert_eq!(ring.line.read(), Sent::End);
        let payloads: Vec<Vec<u8>> = ring.take_all().into_iter().map(|event| event.payload).collect();
        assert_eq!(payloads, [b"hello".to_vec()]);
    }
    assert_eq!(host.try_wait().expect("a child"), None);
    drop(host.stdin.take());
    assert!(host.wait().expect("it ends").success());
}

#[test]
fn every_destructor_and_exit_handler_may_log() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let ending = build(&home.path(""), "g++", &["-x", "c++", "-std=c++17", "-O1", "-pthread"], "ending.cpp");
    let output = Command::new(ending).arg("order").arg(home.socket("stream.sock")).output().expect("it runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    home.wait_persisted(5);
    daemon.stop();
    let cat = home.cat();
    let mut lines: Vec<&str> = cat.lines().collect();
    lines.sort_unstable();
    let wanted =
        ["exit handler", "main", "static destructor", "thread-local destructor", "thread-local destructor of main"];
    assert_eq!(lines, wanted);
}

#[test]
fn a_program_may_end_while_its_threads_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let checks = ["-x", "c++", "-std=c++17", "-O1", "-g", "-fsanitize=address", "-pthread"];
    let ending = build(folder.path(), "g++", &checks, "ending.cpp");
    for _ in 0..10 {
        let mut command = Command::new(&ending);
        command.env("ASAN_OPTIONS", "detect_leaks=0").arg("race").arg(folder.path().join("none.sock"));
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        assert!(errors.contains(" not delivered: cannot connect to "), "{errors}");
    }
}

#[test]
fn a_setuid_program_does_not_let_its_environment_choose_the_daemon() {
    let fake = Fake::new();
    let folder = fake.folder.path();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::set_permissions(fake.path(), fs::Permissions::from_mode(0o777)).expect("a mode");
    let program = build(folder, "gcc", &["-std=c11", "-O1", "-pthread"], "lookup.c");
    let run = || {
        let mut command = Command::new(&program);
        for name in ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"] {
            command.env(name, folder);
        }
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let listener = fake.listener.as_ref().expect("it listens");
        listener.set_nonblocking(true).expect("a mode");
        (output.stdout.starts_with(b"1"), listener.accept().is_ok())
    };
    assert_eq!(run(), (false, true), "an ordinary program");
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root can make a program of another user");
    }
    chown(&program, Some(65534), Some(65534)).expect("root may");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).expect("a mode");
    let (is_setuid, has_connected) = run();
    if !is_setuid {
        return eprintln!("skipped: {} is on a file system without setuid programs", folder.display());
    }
    assert!(!has_connected, "it has believed its environment");
}

#[test]
fn a_folder_for_temporary_files_is_searched_only_for_a_folder_that_is_private() {
    if Path::new("/run/dbufd/stream.sock").exists() {
        return eprintln!("skipped: this machine has a daemon, where all would connect");
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let program = build(folder.path(), "gcc", &["-std=c11", "-O1", "-pthread"], "lookup.c");
    let is_root = nix::unistd::geteuid().is_root();
    let uid = if is_root { 65534 } else { nix::unistd::geteuid().as_raw() };
    let own = folder.path().join(format!("dbufd-{uid}"));
    let sought = || {
        let mut command = Command::new(&program);
        command.env_remove("RUNTIME_DIRECTORY").env_remove("XDG_RUNTIME_DIR").env("TMPDIR", folder.path());
        if is_root {
            command.uid(uid).gid(uid);
        }
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        let why = text.trim_end().strip_prefix("0 cannot connect to ").expect("no daemon");
        PathBuf::from(why.strip_suffix(": No such file or directory (is dbufd running?)").expect("no socket"))
    };
    let machine = Path::new("/run/dbufd/stream.sock");
    // Another user could still make it.
    assert_eq!(sought(), machine);
    fs::create_dir(&own).expect("a folder");
    if is_root {
        assert_eq!(sought(), machine, "it is another user's");
        chown(&own, Some(uid), Some(uid)).expect("root may");
    }
    fs::set_permissions(&own, fs::Permissions::from_mode(0o770)).expect("a mode");
    assert_eq!(sought(), machine, "others may write there");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).expect("a mode");
    assert_eq!(sought(), own.join("stream.sock"));
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = build(folder.path(), "gcc", &["-std=c11", "-O1", "-pthread"], "lookup.c");
    let output = Command::new(program).env("RUNTIME_DIRECTORY", "/x".repeat(100)).output().expect("it runs");
    let why = "the path of the daemon's socket is too long";
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("0 {why}\n"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("dbuf: {why}; events wait in memory\n"));
}
