//! The daemon's user, the users who may read its segments, and whether it still sees who sends.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::machine::Machine;
use crate::support::{has, wait_for};

/// A user without a name, for whom nothing was prepared.
const SOMEBODY: &str = "60123";

#[test]
fn it_runs_as_a_user_of_its_own_without_any_capability() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["systemctl", "start", "dbufd"]);
    let status = machine.run(&["cat", &format!("/proc/{}/status", machine.property("MainPID"))]);
    let field = |name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {status}"));
        line.trim_start_matches(':').split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let ids = |option| vec![machine.run(&["id", option, "dbufd"]).trim().to_owned(); 4];
    assert_eq!(field("Uid"), ids("-u"));
    assert_eq!(field("Gid"), ids("-g"));
    assert_ne!(field("Uid")[0], "0");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), (vec!["1".to_owned()], vec!["2".to_owned()]));
}

#[test]
fn members_of_the_group_may_read_and_ask_and_nobody_else_may() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["systemctl", "start", "dbufd"]);
    machine.run(&["dbufctl", "send", "--sync", "for the group"]);
    let shown = machine.run(&["sh", "-c", "stat -c '%a %U %G %F' /var/log/dbufd /var/log/dbufd/*"]);
    let (directory, files) = shown.split_once('\n').expect("a directory and what is in it");
    assert_eq!(directory, "750 dbufd dbufd directory");
    assert!(files.lines().count() > 0, "there is a segment");
    assert!(files.lines().all(|file| file.starts_with("640 dbufd dbufd regular")), "{files}");

    let somebody = |groups: &str, command: &[&str]| {
        let user = ["setpriv", "--reuid", SOMEBODY, "--regid", SOMEBODY, groups];
        let output = machine.exec(&[&user[..], command].concat());
        (output.status.code(), [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let (code, [read, said]) = somebody("--groups=dbufd", &["dbufctl", "cat", "-o", "cat"]);
    assert_eq!((code, read.as_str()), (Some(0), "for the group\n"), "{said}");
    let (code, [stats, said]) = somebody("--groups=dbufd", &["dbufctl", "stats", "--json"]);
    assert!(code == Some(0) && stats.contains("\"persisted\""), "{said}");
    // The group may look, and no more.
    let (code, [_, said]) = somebody("--groups=dbufd", &["dbufctl", "reload"]);
    assert!(code == Some(1) && said.contains("not permitted"), "{said}");

    for command in [&["dbufctl", "cat"][..], &["dbufctl", "stats"]] {
        let (code, [shown, said]) = somebody("--clear-groups", command);
        assert!(code != Some(0) && shown.is_empty() && said.contains("ermi"), "{command:?}: {code:?} {shown}{said}");
    }
    let (code, [_, said]) = somebody("--clear-groups", &["dbufctl", "send", "--sync", "everybody may send"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn who_sends_is_seen_from_inside_the_sandbox() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["systemctl", "start", "dbufd"]);
    machine.run(&["mkfifo", "-m", "0666", "/run/typed"]);
    // Not the user `nobody`: a user namespace shows that name for every user that it hides.
    machine.write("/etc/sysusers.d/sender.conf", "u sender -\n");
    machine.run(&["systemd-sysusers", "sender.conf"]);
    let uid = machine.run(&["id", "-u", "sender"]);
    for (name, sender, transport) in
        [("frames", "dbufctl send", "frames"), ("datagrams", "logger -u /run/dbufd/dgram.sock", "syslog")]
    {
        let program = format!("/usr/local/bin/{name}");
        // It never sees the end, so it is there for as long as somebody may look at it.
        machine.write(&program, &format!("#!/bin/sh\nexec {sender} <>/run/typed\n"));
        std::fs::set_permissions(machine.path(&program), PermissionsExt::from_mode(0o755)).expect("a program");
        let unit = format!("{name}.service");
        machine.run(&["systemd-run", "--quiet", "--unit", &unit, "--uid", "sender", &program]);
        let text = format!("by {name}");
        machine.run(&["sh", "-c", &format!("echo '{text}' >/run/typed")]);
        let event = machine.wait_for_event(&text);
        assert_eq!(event["_PID"], machine.main_pid(&unit), "{event}");
        assert_eq!(event["_UID"], uid.trim(), "{event}");
        assert_eq!(event["_COMM"], sender.split(' ').next().expect("a program"), "{event}");
        assert_eq!(event["_SYSTEMD_UNIT"], unit.as_str(), "{event}");
        assert_eq!(event["_TRANSPORT"], transport, "{event}");
        machine.run(&["systemctl", "stop", &unit]);
    }
}

#[test]
fn a_sender_that_moves_to_another_unit_is_seen_there_after_a_second() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["systemctl", "start", "dbufd"]);
    machine.run(&["systemd-run", "--quiet", "--unit", "second.service", "sleep", "infinity"]);
    // systemd moves a process after it has made it.
    let members = wait_for("its group", || {
        let groups = machine.run(&["cat", &format!("/proc/{}/cgroup", machine.main_pid("second.service"))]);
        let group = groups.lines().find(|line| line.ends_with("/second.service"))?;
        // The hierarchy of systemd: version 2 ("0::"), or the one of version 1 that is named so.
        let (at, path) = match group.strip_prefix("0::") {
            Some(path) => ("", path),
            None => ("systemd", group.split_once(":name=systemd:")?.1),
        };
        Some(format!("/sys/fs/cgroup/{at}{path}/cgroup.procs"))
    });
    let senders = [
        ("frames", "dbufctl send"),
        ("datagrams", "logger -u /run/dbufd/dgram.sock"),
        ("lines", "nc -U /run/dbufd/stream.sock"),
    ];
    for (name, sender) in senders {
        if !has(sender.split(' ').next().expect("a program")) && name == "lines" {
            eprintln!("skipped for lines: nc is not installed");
            continue;
        }
        let (first, typed) = (format!("{name}.service"), format!("/run/{name}"));
        machine.run(&["mkfifo", &typed]);
        machine.run(&["systemd-run", "--quiet", "--unit", &first, "sh", "-c", &format!("exec {sender} <>{typed}")]);
        let says = |text: &str| {
            machine.run(&["sh", "-c", &format!("echo '{text}' >{typed}")]);
            machine.wait_for_event(text)["_SYSTEMD_UNIT"].as_str().map(str::to_owned)
        };
        assert_eq!(says(&format!("{name} before")), Some(first.clone()));
        machine.run(&["sh", "-c", &format!("echo {} >{members}", machine.main_pid(&first))]);
        // Names count as fresh for a second.
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(says(&format!("{name} after")), Some("second.service".to_owned()));
    }
}
