//! The daemon as people and systemd handle it: configuration, reload, signals, notes, the control socket.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Home, events_of, has, wait_for};

fn dbufd(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dbufd"));
    command.args(arguments).env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).output().expect("dbufd runs")
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Starts a daemon that reads this file.
fn with_file(home: &Home, text: &str) -> (String, support::Daemon) {
    let file = home.path("dbufd.toml");
    fs::write(&file, text).expect("a file");
    let file = file.to_str().expect("text").to_owned();
    let daemon = home.start_adjusted(&[], &[], |command| {
        command.args(["--config", &file]);
    });
    (file, daemon)
}

fn ask(stream: &mut UnixStream, command: &str) -> Value {
    stream.write_all(format!("{{\"command\":\"{command}\"}}\n").as_bytes()).expect("the daemon reads");
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).expect("a reply");
    serde_json::from_str(&reply).expect("an object")
}

fn ask_once(home: &Home, command: &str) -> Value {
    ask(&mut UnixStream::connect(home.socket("control.sock")).expect("the daemon answers"), command)
}

#[test]
fn a_wrong_configuration_is_one_sentence_with_exit_code_2_and_nothing_is_made() {
    let home = Home::new();
    let file = home.path("wrong.toml");
    fs::write(&file, "[storage]\n\nsync = \"often\"\n").expect("a file");
    let [file, segments, run] = [file, home.segments(), home.path("run")].map(|p| p.to_str().unwrap().to_owned());
    for extra in [None, Some("--check-config"), Some("--print-config")] {
        let mut arguments = vec!["--config", &file, "--directory", &segments, "--runtime", &run];
        arguments.extend(extra);
        let output = dbufd(&arguments);
        let said = words(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let expected =
            format!("dbufd: {file}:3:8: storage.sync: \"often\" is not allowed; allowed: \"never\", \"batch\"");
        assert!(said.starts_with(&expected) && said.lines().count() == 1, "{said}");
    }
    assert!(!home.segments().exists() && !home.path("run").exists());
    let output = dbufd(&["--config", "/dev/null", "--set", "ingest.socket_group=no such group"]);
    assert_eq!(output.status.code(), Some(2), "{}", words(&output.stderr));
    assert!(words(&output.stderr).starts_with("dbufd: --set: ingest.socket_group: there is no group"));
    assert_eq!(dbufd(&["--no-such-flag"]).status.code(), Some(2));
}

#[test]
fn a_right_configuration_is_checked_and_printed_without_starting() {
    let home = Home::new();
    let segments = home.segments();
    let arguments = ["--config", "/dev/null", "--directory", segments.to_str().unwrap(), "--set", "storage.sync=batch"];
    let check = dbufd(&[&arguments[..], &["--check-config"]].concat());
    assert!(check.status.success(), "{}", words(&check.stderr));
    let print = dbufd(&[&arguments[..], &["--print-config"]].concat());
    let text = words(&print.stdout);
    assert!(print.status.success() && text.contains("sync = \"batch\"\n"), "{text}");
    assert!(text.contains(&format!("directory = \"{}\"", segments.display())), "{text}");
    assert!(!segments.exists());
    // What is printed can be given back.
    fs::write(home.path("again.toml"), &text).expect("a file");
    let again = dbufd(&["--config", home.path("again.toml").to_str().unwrap(), "--print-config"]);
    assert_eq!(words(&again.stdout), text);
}

#[test]
fn a_reload_takes_what_it_can_and_names_what_needs_a_restart() {
    let home = Home::new();
    let (file, mut daemon) = with_file(&home, "[storage]\nsync = \"1s\"\n");
    assert_eq!(home.stats()["storage"]["sync_policy"], "1s");
    fs::write(&file, "[storage]\nsync = \"5s\"\n[ingest]\nsocket_mode = \"0600\"\n[buffer]\ncapacity = \"4MiB\"\n")
        .unwrap();
    let reply = ask_once(&home, "reload");
    assert_eq!(
        reply,
        json!({
            "ok": true,
            "data": {"changed": ["ingest.socket_mode", "storage.sync"], "needs_restart": ["buffer.capacity"]}
        })
    );
    home.wait_for_stats("the new policy", |stats| stats["storage"]["sync_policy"] == "5s");
    let mode = |name| fs::metadata(home.socket(name)).expect("a socket").permissions().mode() & 0o777;
    assert_eq!((mode("stream.sock"), mode("dgram.sock"), mode("control.sock")), (0o600, 0o600, 0o660));
    let toml = ask_once(&home, "config")["data"]["toml"].as_str().expect("text").to_owned();
    assert!(toml.contains("sync = \"5s\"") && toml.contains("capacity = \"8MiB\""), "{toml}");

    fs::write(&file, "[storage]\nsnyc = \"9s\"\n").unwrap();
    let reply = ask_once(&home, "reload");
    let error = reply["error"].as_str().expect("an error");
    assert!(error.contains(":2:1: \"storage.snyc\" is not a key; the nearest is storage.sync"), "{error}");
    assert!(error.ends_with("the configuration stays as it was"), "{error}");
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for_notice("RELOADING=1");
    daemon.wait_for_notice("READY=1");
    wait_for("the reason in the log", || daemon.log().contains("snyc").then_some(()));
    assert_eq!(home.stats()["storage"]["sync_policy"], "5s");
}

#[test]
fn sigusr2_logs_a_report_and_sigterm_prints_the_last_and_removes_the_sockets() {
    let home = Home::new();
    let daemon = home.start(&["storage.sync=50ms"]);
    home.stream().write_all(b"one\ntwo\nthree\n").expect("the daemon reads");
    home.wait_persisted(3);
    daemon.signal(Signal::SIGUSR2);
    wait_for("the report in the log", || (events_of(&daemon.log())?[0] == 3).then_some(()));
    // One wish that arrives twice, as from timeout(1), is one wish.
    for signal in [Signal::SIGSTOP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGCONT] {
        daemon.signal(signal);
    }
    let report = daemon.wait_stopped();
    assert_eq!(events_of(&report), Some([3, 3, 3, 0]), "{report}");
    assert!(report.contains("min 3 B") && report.contains("max 5 B"), "{report}");
    assert_eq!(fs::read_dir(home.path("run")).expect("a folder").count(), 0);
}

#[test]
fn a_directory_whose_name_is_no_text_does_not_end_the_daemon() {
    let home = Home::new();
    let mut folder = home.segments().into_os_string();
    folder.push(std::ffi::OsStr::from_bytes(b"\xff"));
    let daemon = home.start_adjusted(&[], &[], |command| {
        command.arg("--directory").arg(&folder);
    });
    let mut stream = UnixStream::connect(home.socket("control.sock")).expect("the daemon answers");
    for command in ["ping", "config", "stats", "reload"] {
        assert_eq!(ask(&mut stream, command)["ok"], true, "{command}");
    }
    assert_eq!(events_of(&daemon.stop()), Some([0; 4]));
}

#[test]
fn the_control_socket_answers_several_requests_and_keeps_its_head() {
    let home = Home::new();
    let daemon = home.start(&[]);
    let mut stream = UnixStream::connect(home.socket("control.sock")).expect("the daemon answers");
    let ping = ask(&mut stream, "ping");
    assert_eq!(ping["data"]["pid"], daemon.pid());
    assert_eq!(ping["data"]["runtime"], home.path("run").to_str().unwrap());
    assert_eq!(ping["data"]["directory"], home.segments().to_str().unwrap());
    assert_eq!(ask(&mut stream, "dance")["ok"], false);
    assert_eq!(ask(&mut stream, "sync"), json!({"ok": true, "data": null}));
    assert_eq!(ask(&mut stream, "rotate"), json!({"ok": true, "data": null}));
    let stats = ask(&mut stream, "stats");
    let names: Vec<&String> = stats["data"].as_object().expect("an object").keys().collect();
    assert_eq!(
        names,
        [
            "version",
            "uptime_seconds",
            "counting_seconds",
            "events",
            "bytes",
            "buffer",
            "event_size",
            "latency_us",
            "connections",
            "limits",
            "writers",
            "producers",
            "producer_groups",
            "rings",
            "storage",
            "cpu_seconds",
            "rss_bytes"
        ]
    );
    assert_eq!(stats["data"]["events"]["lost"].as_object().expect("an object").len(), 6);
}

#[test]
fn systemd_hears_of_the_start_the_state_and_the_stop_and_the_watchdog_is_fed_while_idle() {
    let home = Home::new();
    let mut daemon = home.start_adjusted(&[], &[], |command| {
        command.env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
    });
    for _ in 0..3 {
        daemon.wait_for_notice("WATCHDOG=1");
    }
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_notice("STOPPING=1");
}

#[test]
fn sockets_that_systemd_passes_are_served_and_left_in_place() {
    if !has("systemd-socket-activate") {
        eprintln!("skipped: systemd-socket-activate is not installed");
        return;
    }
    let home = Home::new();
    let path = home.path("passed.sock");
    let mut activate = Command::new("systemd-socket-activate")
        .arg("-l")
        .arg(&path)
        .arg(env!("CARGO_BIN_EXE_dbufd"))
        .args(["--config", "/dev/null", "--directory"])
        .arg(home.segments())
        .arg("--runtime")
        .arg(home.path("run"))
        .env_remove("NOTIFY_SOCKET")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut stream = wait_for("the socket", || UnixStream::connect(&path).ok());
    stream.write_all(b"passed on\n").expect("the daemon reads");
    wait_for("the event", || {
        // The socket is there a moment before it listens.
        let mut control = UnixStream::connect(home.socket("control.sock")).ok()?;
        (ask(&mut control, "stats")["data"]["events"]["persisted"] == 1).then_some(())
    });
    assert!(!home.socket("stream.sock").exists() && home.socket("dgram.sock").exists());
    let pid = ask_once(&home, "ping")["data"]["pid"].as_i64().expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), Signal::SIGTERM).expect("it is there");
    assert!(activate.wait().expect("it became dbufd").success());
    assert!(path.exists(), "it belongs to systemd");
}

#[test]
fn at_a_terminal_it_says_where_it_listens_and_how_to_send_and_look() {
    if !has("script") {
        eprintln!("skipped: script(1) is not installed");
        return;
    }
    let home = Home::new();
    let [segments, run] = [home.segments(), home.path("run")].map(|p| p.to_str().unwrap().to_owned());
    let program = env!("CARGO_BIN_EXE_dbufd");
    let command = format!("exec {program} --config /dev/null --directory {segments} --runtime {run}");
    let mut script = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script starts");
    let mut output = BufReader::new(script.stdout.take().expect("its output"));
    let mut text = String::new();
    while !text.contains("Ctrl-C") {
        assert!(output.read_line(&mut text).expect("text") > 0, "it ended: {text}");
    }
    assert!(text.contains(&format!("logger -u {run}/dgram.sock hello")), "{text}");
    assert!(text.contains(&format!("--runtime {run} tail")), "{text}");
    // Ctrl-C, as a terminal sends it.
    script.stdin.as_ref().expect("its input").write_all(b"\x03").expect("script reads");
    let rest: Vec<String> = output.lines().map_while(Result::ok).collect();
    assert_eq!(events_of(&rest.join("\n")), Some([0; 4]), "{rest:?}");
    assert!(script.wait().expect("it ends").success());
}

#[test]
fn a_dead_daemons_sockets_are_taken_over_and_those_of_a_living_process_are_not() {
    let home = Home::new();
    home.start(&[]).kill();
    assert!(home.socket("stream.sock").exists(), "kill -9 leaves the file");
    drop(home.start(&[]));
    fs::remove_file(home.socket("dgram.sock")).expect("a file");
    let _other = UnixDatagram::bind(home.socket("dgram.sock")).expect("a socket");
    let [segments, run] = [home.segments(), home.path("run")].map(|p| p.to_str().unwrap().to_owned());
    let output = dbufd(&["--config", "/dev/null", "--directory", &segments, "--runtime", &run]);
    assert_eq!(output.status.code(), Some(1));
    assert!(words(&output.stderr).contains("dgram.sock"), "{}", words(&output.stderr));
}

#[test]
fn a_second_signal_ends_a_stop_that_waits_for_a_full_disk() {
    if !nix::unistd::geteuid().is_root() || !has("unshare") {
        eprintln!("skipped: a small file system needs root and unshare(1)");
        return;
    }
    let home = Home::new();
    fs::create_dir_all(home.segments()).expect("a folder");
    let script = format!("mount -t tmpfs -o size=2m tmpfs {} && exec \"$0\" \"$@\"", home.segments().display());
    let settings =
        ["storage.when_full=wait", "storage.segment_size=64KiB", "storage.retain_bytes=none", "storage.min_free=none"];
    let mut daemon = home.start_wrapped(&["unshare", "-m", "sh", "-c", &script], &settings);
    let path = home.socket("stream.sock");
    let sender = std::thread::spawn(move || support::send_numbered(&path, "a", 0..1_000_000));
    wait_for("a full disk", || (ask_once(&home, "stats")["data"]["storage"]["state"] == "full").then_some(()));
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_notice("STOPPING=1");
    assert!(daemon.is_alive(), "it waits for the disk");
    let code = daemon.end_with(Signal::SIGTERM);
    assert_eq!(code, Some(1));
    sender.join().expect("the sender ends");
}
