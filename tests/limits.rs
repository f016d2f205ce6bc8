//! Limits of users and of the process, most of them with a daemon of root and programs of another user. Only root can
//! start those: run by anybody else, these tests say that they are skipped.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use support::{Home, has, wait_until};

/// The number of `nobody`, and of its group.
const NOBODY: u32 = 65_534;
const ANOTHER: u32 = 65_533;

/// A home whose sockets other users reach; None if this user cannot start their programs.
fn open_home() -> Option<Home> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start programs of another user");
        return None;
    }
    if let Some(program) = ["logger", "nc", "prlimit"].into_iter().find(|program| !has(program)) {
        eprintln!("skipped: {program} is not installed");
        return None;
    }
    let home = Home::new();
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(home.path("").parent().expect("a folder"), open).expect("its own folder");
    Some(home)
}

fn nobody(home: &Home, command: &str) -> Child {
    shell_of(home, NOBODY, command)
}

/// Starts a shell command of a user, with the sockets as `$stream` and `$dgram`.
fn shell_of(home: &Home, uid: u32, command: &str) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).env("stream", home.socket("stream.sock")).env("dgram", home.socket("dgram.sock"));
    shell.stdin(Stdio::null()).uid(uid).gid(uid).process_group(0);
    shell.spawn().expect("a shell")
}

fn end(mut child: Child) {
    let group = nix::unistd::Pid::from_raw(child.id() as i32);
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    child.wait().expect("it has ended");
}

/// How often this user was refused this.
fn refused(stats: &Value, resource: &str) -> u64 {
    let rows = stats["limits"]["refused"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["resource"] == resource && row["uid"] == NOBODY);
    row.map_or(0, |row| row["count"].as_u64().expect("a number"))
}

fn of_user(stats: &Value, uid: u32, field: &str) -> u64 {
    let rows = stats["producers"].as_array().expect("a list").iter().filter(|row| row["uid"] == uid);
    rows.map(|row| row[field].as_u64().expect("a number")).sum()
}

#[test]
fn a_user_above_its_rate_waits_and_loses_datagrams_and_root_does_not() {
    let Some(home) = open_home() else { return };
    let daemon = home.start(&["limits.events_per_second=100"]);
    let flood = nobody(&home, "seq 1000000 | nc -NU \"$stream\"");
    let stats = home.wait_for_stats("the flood waits", |stats| refused(stats, "rate") > 0);
    assert_eq!(of_user(&stats, NOBODY, "lost"), 0, "a stream waits");
    home.stream().write_all(b"from root\n").expect("the daemon reads");
    home.wait_for_stats("root's line is stored", |stats| of_user(stats, 0, "stored") == 1);
    // One may pass when the flood's debt has just been paid.
    let datagrams = nobody(&home, "while :; do logger -u \"$dgram\" -t limited datagram; sleep 0.02; done");
    let lost = |stats: &Value| stats["events"]["lost"]["limited"].as_u64().expect("a number");
    home.wait_for_stats("datagrams are lost", |stats| lost(stats) >= 5);
    [flood, datagrams].into_iter().for_each(end);
    home.ctl_ok(&["sync"]);
    let stats = home.stats();
    let lost = lost(&stats);
    assert_eq!(of_user(&stats, NOBODY, "lost"), lost);
    let loss = home.json().into_iter().find(|event| event["DBUF_CAUSE"] == "limited").expect("a record of the loss");
    assert_eq!((&loss["_UID"], &loss["_TRANSPORT"]), (&json!("65534"), &json!("dgram")), "{loss}");
    let metrics = home.ctl_ok(&["stats", "--prometheus"]);
    assert!(metrics.contains("dbufd_limit_refused_total{resource=\"rate\",uid=\"65534\"} "), "{metrics}");
    daemon.stop();
    let checked = home.ctl(&["verify"]);
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(
        said.contains("files are whole") && said.contains(&format!("{lost} events never reached a file")),
        "{said}"
    );
}

#[test]
fn a_flood_of_one_user_pushes_no_event_of_another_out_of_the_segments() {
    let Some(home) = open_home() else { return };
    let daemon = home.start(&["storage.retain_bytes=4MiB", "storage.segment_size=64KiB", "storage.keep_at_least=1h"]);
    home.stream().write_all(b"the event of another user\n").expect("the daemon reads");
    home.wait_persisted(1);
    let flood = nobody(&home, "seq 10000000 | nc -NU \"$stream\"");
    let stats = home.wait_for_stats("the flood waits", |stats| refused(stats, "window_bytes") > 0);
    let resources = stats["limits"]["resources"].as_array().expect("a list");
    let window = resources.iter().find(|row| row["name"] == "window_bytes").expect("the window");
    let [capacity, held] = ["capacity", "held"].map(|field| window[field].as_u64().expect("a number"));
    assert!(capacity > 3 << 20 && (capacity / 4..capacity / 2).contains(&held), "{window}");
    assert_eq!(window["busiest_uid"], NOBODY);
    // Root is not limited, and another user would find the rest.
    home.stream().write_all(b"one more\n").expect("the daemon reads");
    wait_until("root's line is stored", || home.cat().contains("one more"));
    assert!(home.cat().contains("the event of another user"), "it is still there");
    end(flood);
    daemon.stop();
    home.ctl_ok(&["verify"]);
}

#[test]
fn no_line_is_lost_for_want_of_descriptors() {
    if !has("prlimit") {
        eprintln!("skipped: prlimit is not installed");
        return;
    }
    let home = Home::new();
    let daemon = home.start_wrapped(&["prlimit", "--nofile=64:64"], &[]);
    let clients: Vec<UnixStream> = (0..150)
        .map(|number| {
            let mut client = home.stream();
            writeln!(client, "line {number}").expect("its queue has room");
            client
        })
        .collect();
    home.wait_persisted(1);
    drop(clients);
    let stats = home.wait_persisted(150);
    assert_eq!((&stats["connections"]["refused"], &stats["events"]["lost_total"]), (&json!(0), &json!(0)));
    daemon.stop();
    home.ctl_ok(&["verify"]);
}

#[test]
fn a_user_with_many_connections_is_refused_more_and_another_user_is_served() {
    let Some(home) = open_home() else { return };
    let daemon = home.start_wrapped(&["prlimit", "--nofile=256:256"], &[]);
    // Each of them holds its connection until its input ends.
    let holder = "for n in $(seq 60); do sleep 600 | nc -U \"$stream\" & done; wait";
    let flood = nobody(&home, holder);
    let stats = home.wait_for_stats("it is refused", |stats| refused(stats, "connections") > 0);
    let resources = stats["limits"]["resources"].as_array().expect("a list");
    let connections = resources.iter().find(|row| row["name"] == "connections").expect("the connections");
    let [capacity, held] = ["capacity", "held"].map(|field| connections[field].as_u64().expect("a number"));
    assert!(held <= capacity / 4 + 1, "{connections}");
    let another = shell_of(&home, ANOTHER, "echo 'from another user' | nc -NU \"$stream\"");
    wait_until("another user's line is stored", || home.cat().contains("from another user"));
    [flood, another].into_iter().for_each(end);
    daemon.stop();
}
