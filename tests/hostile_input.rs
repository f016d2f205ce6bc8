//! Bad input and broken environments for the real daemon: each gets a clear error or a counted, named loss. The daemon
//! never exits, hangs or grows because of it, and other clients never notice.

mod support;

use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use dbuf_wire::frames as wire;
use dbufd::sys::socket_options::refuse_descriptors;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use support::{Daemon, Home, TIMEOUT, has, send_numbered, wait_for};

const QUICK: &[&str] = &["storage.sync=50ms"];
const MAGIC: &[u8] = &wire::MAGIC;

/// A neighbour that must not notice: it sends a line and sees it arrive.
fn others_never_notice(home: &Home, daemon: &mut Daemon, name: &str) {
    let before = home.stats()["events"]["persisted"].as_u64().expect("a count");
    home.stream().write_all(format!("{name} is well\n").as_bytes()).expect("the daemon reads");
    home.wait_persisted(before + 1);
    assert!(home.cat().contains(&format!("{name} is well")));
    assert!(daemon.is_alive());
}

fn lost(home: &Home, cause: &str, events: u64) {
    let what = format!("{events} lost as {cause}");
    let stats = home.wait_for_stats(&what, |s| s["events"]["lost"][cause].as_u64() == Some(events));
    let sum = stats["events"]["persisted"].as_u64().expect("a count")
        + stats["events"]["lost_total"].as_u64().expect("a count");
    assert_eq!(stats["events"]["received"], sum, "received = persisted + lost");
    let pid = u64::from(std::process::id());
    let own = pid.to_string();
    let producers = stats["producers"].as_array().expect("an array");
    assert!(
        producers.iter().any(|p| p["pid"] == pid && p["lost"].as_u64() > Some(0)),
        "its producer is named: {producers:?}"
    );
    wait_for("the loss record in the data", || {
        home.json().iter().any(|o| o["DBUF_CAUSE"] == cause && o["_PID"] == own.as_str()).then_some(())
    });
    assert_eq!(home.ctl(&["cat"]).status.code(), Some(3), "a reader is told by the exit code");
}

#[test]
fn garbage_is_kept_as_text_and_hurts_nobody() {
    let home = Home::new();
    let mut daemon = home.start(QUICK);
    let mut garbage = Vec::new();
    let mut state = 1u32;
    for _ in 0..200_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        garbage.push((state >> 24) as u8);
    }
    garbage[0] = 0;
    garbage.push(b'\n');
    home.stream().write_all(&garbage).expect("the daemon reads");
    let lines = garbage.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count() as u64;
    home.wait_persisted(lines);
    // A datagram and a frame keep even what ends a line, to the last byte.
    let binary = [&garbage[..1000], b"\r\n\0\n"].concat();
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to(&binary, home.socket("dgram.sock")).expect("sent");
    home.wait_persisted(lines + 1);
    home.stream().write_all(&[MAGIC, &hello(), &event_frame(1, &binary)].concat()).expect("the daemon reads");
    home.wait_persisted(lines + 2);
    let raw = home.ctl(&["cat", "-o", "raw"]).stdout;
    let payload: Vec<u8> = garbage.iter().copied().filter(|b| *b != b'\n').collect();
    let payload = [payload, binary.clone(), binary].concat();
    assert!(raw == payload, "the bytes are unchanged: {} and {} bytes", raw.len(), payload.len());
    others_never_notice(&home, &mut daemon, "a neighbour");
}

#[test]
fn a_frame_that_lies_about_its_length_is_refused_without_memory() {
    let home = Home::new();
    let mut daemon = home.start(QUICK);
    let resident = daemon.resident_bytes();
    let mut stream = home.stream();
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&hello());
    let mut lying = event_frame(1, b"x");
    lying[0..4].copy_from_slice(&(2u32 << 30).to_le_bytes());
    bytes.extend_from_slice(&lying);
    stream.write_all(&bytes).expect("the daemon reads");
    stream.shutdown(Shutdown::Write).expect("a socket");
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    assert!(!reply.is_empty(), "it was told");
    wait_for("the refusal to be counted", || (home.stats()["events"]["lost_total"].as_u64() > Some(0)).then_some(()));
    assert!(daemon.resident_bytes() < resident + (16 << 20));
    others_never_notice(&home, &mut daemon, "a neighbour");
}

#[test]
fn a_sender_that_attaches_a_descriptor_is_refused_before_a_writer_could_block_on_its_close() {
    let home = Home::new();
    let mut daemon = home.start(QUICK);
    let (stream, datagrams) = (home.stream(), UnixDatagram::unbound().expect("a socket"));
    datagrams.connect(home.socket("dgram.sock")).expect("the daemon listens");
    // Linux has the option since 6.16.
    let is_new = refuse_descriptors(UnixDatagram::unbound().expect("a socket")).is_ok();
    for socket in [stream.as_raw_fd(), datagrams.as_raw_fd()] {
        let attached = [std::io::stdin().as_raw_fd()];
        let control = [ControlMessage::ScmRights(&attached)];
        let sent = sendmsg::<()>(socket, &[IoSlice::new(b"x\n")], &control, MsgFlags::empty(), None);
        assert_eq!(sent.err(), is_new.then_some(Errno::EPERM));
    }
    others_never_notice(&home, &mut daemon, "a neighbour");
}

#[test]
fn a_sender_outside_the_daemons_pid_namespace_is_found_by_its_user() {
    if !nix::unistd::geteuid().is_root() || !has("unshare") {
        return eprintln!("skipped: a pid namespace needs root and unshare(1)");
    }
    let home = Home::new();
    let _daemon = home.start_wrapped(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"], QUICK);
    home.stream().write_all(b"a line\n").expect("the daemon reads");
    let datagrams = UnixDatagram::unbound().expect("a socket");
    datagrams.send_to(b"a datagram", home.socket("dgram.sock")).expect("sent");
    home.wait_persisted(2);
    for event in home.json() {
        assert_eq!((event.get("_PID"), &event["_UID"], &event["_GID"]), (None, &"0".into(), &"0".into()), "{event}");
        assert_eq!((event.get("_COMM"), event.get("_SYSTEMD_UNIT")), (None, None), "{event}");
    }
    assert_eq!(home.ctl_ok(&["cat", "-o", "cat", "--uid", "0"]).lines().count(), 2);
    assert_eq!(home.ctl_ok(&["cat", "-o", "cat", "--uid", "1"]), "");
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::Hello { name: b"badly", ..wire::Hello::default() }.encode(&mut bytes);
    bytes
}

fn event_frame(sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::Event { sequence, pri: 6, tag: b"badly", payload, ..wire::Event::default() }.encode(&mut bytes);
    bytes
}

#[test]
fn a_client_that_dies_in_mid_frame_is_counted_as_abandoned() {
    let home = Home::new();
    let mut daemon = home.start(QUICK);
    let mut stream = home.stream();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&hello());
    bytes.extend_from_slice(&event_frame(1, b"whole"));
    let half = event_frame(2, &[b'x'; 1000]);
    bytes.extend_from_slice(&half[..half.len() / 2]);
    stream.write_all(&bytes).expect("the daemon reads");
    drop(stream);
    home.wait_persisted(1);
    lost(&home, "abandoned", 1);
    assert_eq!(home.json().iter().filter(|o| o["MESSAGE"] == "whole").count(), 1);
    others_never_notice(&home, &mut daemon, "a neighbour");
}

#[test]
fn a_frame_that_is_too_large_is_refused_and_the_next_is_taken() {
    let home = Home::new();
    let mut daemon = home.start(&["ingest.max_event=4KiB", "storage.sync=50ms"]);
    let mut stream = home.stream();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&hello());
    bytes.extend_from_slice(&event_frame(1, &[b'x'; 5000]));
    bytes.extend_from_slice(&event_frame(2, b"fits"));
    stream.write_all(&bytes).expect("the daemon reads");
    home.wait_persisted(1);
    lost(&home, "too_big", 1);
    assert_eq!(home.json().iter().filter(|o| o["MESSAGE"] == "fits").count(), 1);
    others_never_notice(&home, &mut daemon, "a neighbour");
}

#[test]
fn a_datagram_that_is_too_large_is_counted_and_named() {
    let home = Home::new();
    let mut daemon = home.start(&["ingest.max_event=4KiB", "storage.sync=50ms"]);
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to(&[b'x'; 5000], home.socket("dgram.sock")).expect("sent");
    socket.send_to(b"fits", home.socket("dgram.sock")).expect("sent");
    home.wait_persisted(1);
    lost(&home, "too_big", 1);
    others_never_notice(&home, &mut daemon, "a neighbour");
}

#[test]
fn a_line_of_many_megabytes_is_one_event_and_memory_stays_flat() {
    let home = Home::new();
    let mut daemon = home.start(QUICK);
    home.stream().write_all(b"warm\n").expect("the daemon reads");
    home.wait_persisted(1);
    let mut stream = home.stream();
    let block = vec![b'x'; 1 << 20];
    const MEBIBYTES: usize = 40;
    stream.write_all(&block).expect("the daemon reads");
    let resident = daemon.resident_bytes();
    for _ in 1..MEBIBYTES {
        stream.write_all(&block).expect("the daemon reads");
    }
    stream.write_all(b"\n").expect("the daemon reads");
    home.wait_persisted(2);
    assert!(daemon.resident_bytes() < resident + (8 << 20), "from {resident} to {}", daemon.resident_bytes());
    let text = home.cat();
    let longest = text.lines().map(str::len).max();
    assert_eq!((longest, text.lines().count()), (Some(MEBIBYTES << 20), 2));
    others_never_notice(&home, &mut daemon, "a neighbour");
}

#[test]
fn a_silent_client_and_one_that_never_reads_hurt_nobody() {
    let home = Home::new();
    let mut daemon = home.start(QUICK);
    let silent: Vec<UnixStream> = (0..50).map(|_| home.stream()).collect();
    let mut deaf = home.stream();
    deaf.set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut bytes = MAGIC.to_vec();
    wire::Hello { name: b"deaf", ack: wire::Level::Persisted, ..wire::Hello::default() }.encode(&mut bytes);
    let resident = daemon.resident_bytes();
    let mut cut_off = false;
    for sequence in 0..100_000u64 {
        // Each of these asks for a reply of its own.
        bytes.extend_from_slice(&event_frame(sequence + 1, b""));
        if bytes.len() > 1 << 16 {
            cut_off = deaf.write_all(&bytes).is_err();
            if cut_off {
                break;
            }
            bytes.clear();
        }
    }
    assert!(cut_off, "replies that nobody reads are not kept for ever");
    others_never_notice(&home, &mut daemon, "a neighbour");
    assert!(daemon.resident_bytes() < resident + (16 << 20));
    drop((silent, deaf));
}

#[test]
fn thousands_of_connections_come_and_go() {
    const CONNECTIONS: usize = 5000;
    let home = Home::new();
    let mut daemon = home.start(QUICK);
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("a limit");
    let possible = CONNECTIONS.min(usize::try_from(hard).unwrap_or(usize::MAX) - 200);
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard).expect("a limit");
    let mut open: Vec<UnixStream> = (0..possible).map(|_| home.stream()).collect();
    for (number, stream) in open.iter_mut().enumerate() {
        stream.write_all(format!("from {number}\n").as_bytes()).expect("the daemon reads");
    }
    home.wait_persisted(possible as u64);
    let resident = daemon.resident_bytes();
    drop(open);
    home.wait_for_stats("all connections to be gone", |s| {
        s["writers"].as_array().is_some_and(|w| w.iter().all(|w| w["connections"] == 0))
    });
    for _ in 0..possible {
        drop(home.stream());
    }
    others_never_notice(&home, &mut daemon, "a neighbour");
    assert!(daemon.resident_bytes() < resident + (4 << 20));
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("a process").count();
    assert!(descriptors < 100, "{descriptors} descriptors are left open");
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, soft, hard);
}

#[test]
fn an_empty_line_is_no_event_and_a_last_line_needs_no_newline() {
    let home = Home::new();
    let daemon = home.start(QUICK);
    home.stream().write_all(b"\n\nfirst\n\nlast").expect("the daemon reads");
    home.wait_persisted(2);
    assert_eq!(home.cat(), "first\nlast\n");
    drop(daemon);
}

#[test]
fn a_directory_that_cannot_be_used_is_refused_at_the_start_with_the_reason() {
    let home = Home::new();
    std::fs::write(home.path("segments"), b"a file where a directory should be").expect("a file");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_dbufd"))
        .arg("--directory")
        .arg(home.segments())
        .arg("--runtime")
        .arg(home.path("run"))
        .args(["--config", "/dev/null"])
        .output()
        .expect("dbufd runs");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && words.contains("segments"), "{words}");
}

#[test]
fn a_segment_that_vanishes_is_a_gap_that_is_reported_and_the_daemon_goes_on() {
    let home = Home::new();
    let mut daemon = home.start(QUICK);
    for part in 0..3 {
        send_numbered(&home.socket("stream.sock"), "a", part * 10..part * 10 + 10);
        home.wait_persisted(part * 10 + 10);
        home.ctl_ok(&["rotate"]);
    }
    let mut sealed: Vec<_> =
        std::fs::read_dir(home.segments()).expect("segments").flatten().map(|e| e.path()).collect();
    sealed.retain(|p| p.extension().is_some_and(|e| e == "segment" || e == "active"));
    sealed.sort();
    std::fs::remove_file(&sealed[1]).expect("a segment");
    let output = home.ctl(&["verify"]);
    let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && words.contains("11"), "{words}");
    others_never_notice(&home, &mut daemon, "a neighbour");
}

#[test]
fn a_deleted_active_segment_does_not_stop_the_daemon() {
    let home = Home::new();
    let mut daemon = home.start(QUICK);
    send_numbered(&home.socket("stream.sock"), "a", 0..10);
    home.wait_persisted(10);
    for entry in std::fs::read_dir(home.segments()).expect("segments").flatten() {
        if entry.path().extension().is_some_and(|e| e == "active") {
            std::fs::remove_file(entry.path()).expect("a segment");
        }
    }
    home.ctl_ok(&["rotate"]);
    others_never_notice(&home, &mut daemon, "a neighbour");
    daemon.stop();
}

/// The directory of segments as the daemon on a small disk sees it.
fn inside(home: &Home, daemon: &Daemon) -> String {
    format!("/proc/{}/root{}", daemon.pid(), home.segments().display())
}

/// What `dbufctl cat` prints of such a directory.
fn cat_inside(home: &Home, daemon: &Daemon, format: &str) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dbufctl"));
    command.arg("--runtime").arg(home.path("run")).arg("--directory").arg(inside(home, daemon));
    let output = command.args(["cat", "-o", format]).output().expect("dbufctl runs");
    String::from_utf8(output.stdout).expect("text")
}

/// What lines begin with that are to fill a small disk.
const WIDE: &str = "a_line_that_takes_some_room";

/// Runs the daemon over a file system of a few megabytes of its own, where root is at hand to mount one.
fn on_a_small_disk(home: &Home, settings: &[&str]) -> Option<Daemon> {
    let root = nix::unistd::geteuid().is_root() && has("unshare");
    if !root {
        eprintln!("skipped: a small file system needs root and unshare(1)");
        return None;
    }
    std::fs::create_dir_all(home.segments()).expect("a folder");
    // tmpfs has no private options that matter here; the mount is seen through the daemon's /proc/PID/root.
    let script = format!("mount -t tmpfs -o size=6m tmpfs {0} && exec \"$0\" \"$@\"", home.segments().display());
    Some(home.start_wrapped(&["unshare", "-m", "sh", "-c", &script], settings))
}

#[test]
fn a_full_disk_makes_producers_wait_and_heals_by_itself() {
    let home = Home::new();
    let settings = [
        "storage.when_full=wait",
        "buffer.capacity=512KiB",
        "storage.segment_size=1MiB",
        "storage.retain_bytes=none",
        "storage.min_free=none",
    ];
    let Some(mut daemon) = on_a_small_disk(&home, &settings) else { return };
    let ballast = format!("{}/ballast", inside(&home, &daemon));
    std::fs::write(&ballast, vec![1; 4 << 20]).expect("room for ballast");
    let path = home.socket("stream.sock");
    let sender = std::thread::spawn(move || send_numbered(&path, WIDE, 0..150_000));
    home.wait_for_stats("the disk to be full", |s| s["storage"]["state"].as_str() == Some("full"));
    assert_eq!(home.stats()["events"]["lost_total"], 0);
    assert!(daemon.is_alive());
    std::fs::remove_file(&ballast).expect("the ballast");
    sender.join().expect("the sender goes on");
    let stats = home.wait_persisted(150_000);
    assert_eq!((&stats["events"]["lost_total"], &stats["storage"]["state"]), (&0.into(), &"ok".into()));
}

#[test]
fn a_full_disk_with_the_policy_to_drop_counts_each_event() {
    let home = Home::new();
    let settings = [
        "storage.when_full=drop",
        "buffer.capacity=512KiB",
        "storage.segment_size=1MiB",
        "storage.retain_bytes=none",
        "storage.min_free=none",
    ];
    let Some(mut daemon) = on_a_small_disk(&home, &settings) else { return };
    let ballast = format!("{}/ballast", inside(&home, &daemon));
    std::fs::write(&ballast, vec![1; 4 << 20]).expect("room for ballast");
    send_numbered(&home.socket("stream.sock"), WIDE, 0..400_000);
    let stats = home.wait_for_stats("each event to be accounted for", |s| {
        let count = |name: &str| s["events"][name].as_u64().unwrap_or_default();
        count("received") == 400_000 && count("persisted") + count("lost_total") == 400_000
    });
    let lost = stats["events"]["lost"]["full"].as_u64();
    assert!(lost > Some(0), "{}", stats["events"]);
    // As soon as there is room, the data says it too.
    std::fs::remove_file(&ballast).expect("the ballast");
    home.stream().write_all(b"room again\n").expect("the daemon reads");
    home.wait_persisted(stats["events"]["persisted"].as_u64().expect("a count") + 1);
    let told = cat_inside(&home, &daemon, "json");
    let told = told.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an object"));
    let told = told.filter(|o| o["DBUF_CAUSE"] == "full");
    let told = told.map(|o| o["DBUF_LOST"].as_str().and_then(|n| n.parse::<u64>().ok()).expect("a count"));
    assert_eq!(Some(told.sum()), lost);
    assert!(daemon.is_alive());
    let report = daemon.stop();
    assert!(report.lines().any(|line| line.starts_with("lost ") && line.contains(" full")), "{report}");
}

#[test]
fn a_full_disk_with_the_policy_to_delete_keeps_the_newest() {
    let home = Home::new();
    let settings =
        ["buffer.capacity=512KiB", "storage.segment_size=1MiB", "storage.retain_bytes=none", "storage.min_free=none"];
    let Some(mut daemon) = on_a_small_disk(&home, &settings) else { return };
    send_numbered(&home.socket("stream.sock"), WIDE, 0..400_000);
    let stats = home.wait_persisted(400_000);
    assert_eq!(stats["events"]["lost_total"], 0);
    assert!(daemon.is_alive());
    let kept = cat_inside(&home, &daemon, "cat");
    let first = 400_000 - kept.lines().count();
    assert!(first > 0 && first < 400_000, "the oldest went: {first}");
    assert!(kept.lines().zip(first..).all(|(line, number)| line == format!("{WIDE} {number}")), "the newest are there");
}

#[test]
fn a_directory_turned_read_only_is_a_state_and_heals() {
    let home = Home::new();
    if nix::unistd::geteuid().is_root() {
        // Root writes where it likes; what the disk refuses is tried with the small file system above.
        eprintln!("skipped: root may write to a read-only directory");
        return;
    }
    let mut daemon = home.start(&["storage.segment_size=64KiB"]);
    let allow =
        |mode| std::fs::set_permissions(home.segments(), std::fs::Permissions::from_mode(mode)).expect("a folder");
    allow(0o500);
    let path = home.socket("stream.sock");
    let sender = std::thread::spawn(move || send_numbered(&path, "a", 0..50_000));
    home.wait_for_stats("the state to show", |s| s["storage"]["state"].as_str() != Some("ok"));
    allow(0o700);
    sender.join().expect("the sender goes on");
    home.wait_persisted(50_000);
    assert!(daemon.is_alive());
}
