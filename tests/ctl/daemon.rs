//! dbufctl when something answers on the control socket, and when nothing does.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::fixture::*;

/// Takes this away from everybody but its owner and, where a test may do so, a group; returns that group's name.
fn close(path: &Path, group_bits: u32) -> Option<String> {
    let group = is_root().then(|| nix::unistd::Group::from_gid(1.into()).unwrap().unwrap().name);
    chown(path, None, group.as_ref().map(|_| 1)).unwrap();
    let mode = if group.is_some() { 0o600 | group_bits } else { 0 };
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    group
}

/// What an error says of who may use this.
fn who_may(path: &Path, group: Option<&str>) -> String {
    let status = std::fs::metadata(path).unwrap();
    let owner = nix::unistd::User::from_uid(status.uid().into()).unwrap().unwrap().name;
    let mode = status.mode() & 0o777;
    match group {
        Some(group) => format!(
            "permission denied (owner {owner}, group {group}, mode {mode:04o}); you must be root or in the group \
             {group} (sudo usermod -aG {group} $USER, then log in again)"
        ),
        None => format!("mode {mode:04o}); you must be root"),
    }
}

#[test]
fn a_user_who_may_not_ask_is_told_which_group_may_and_not_to_start_a_daemon() {
    let fixture = Fixture::new();
    serve(&fixture.runtime(), |_| r#"{"ok":true,"data":null}"#.into());
    let socket = fixture.runtime().join("control.sock");
    let group = close(&socket, 0o060);
    let said = fixture.run_without_privileges("ping").failed(1);
    assert!(said.contains(&who_may(&socket, group.as_deref())) && !said.contains("start dbufd"), "{said}");
}

#[test]
fn a_user_who_may_not_send_is_told_which_group_may_and_where_that_is_set() {
    let fixture = Fixture::new();
    let socket = fixture.runtime().join("stream.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let group = close(&socket, 0o060);
    let said = fixture.run_without_privileges("send hello").failed(1);
    assert!(said.contains(&who_may(&socket, group.as_deref())) && !said.contains("start dbufd"), "{said}");
    assert!(said.contains("SocketMode= in dbufd.socket") && said.contains("ingest.socket_mode"), "{said}");
}

#[test]
fn a_user_who_may_not_read_the_segments_is_told_which_group_may() {
    let mut fixture = Fixture::new();
    fixture.texts("app", 0, &["hello"]).close();
    let group = close(&fixture.directory(), 0o050);
    for command in ["cat", "segments", "verify", "account"] {
        let said = fixture.run_without_privileges(command).failed(1);
        assert!(said.contains(&who_may(&fixture.directory(), group.as_deref())), "{said}");
        assert!(!said.contains("os error"), "{said}");
    }
    std::fs::set_permissions(fixture.directory(), PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn without_a_daemon_commands_that_need_one_end_with_exit_code_4() {
    let fixture = Fixture::new();
    for command in ["stats", "rotate", "sync", "reload", "ping", "config"] {
        assert!(fixture.run(command).failed(4).contains("start dbufd"), "{command}");
    }
}

#[test]
fn a_refusal_is_passed_on_with_exit_code_1() {
    let fixture = Fixture::new();
    serve(&fixture.runtime(), |_| r#"{"ok":false,"error":"the disk is gone"}"#.into());
    for command in ["stats", "rotate", "sync", "reload", "ping", "config"] {
        assert!(fixture.run(command).failed(1).contains("the disk is gone"), "{command}");
    }
}

#[test]
fn simple_commands_say_what_the_daemon_says_and_no_more() {
    let fixture = Fixture::new();
    serve(&fixture.runtime(), |command| match command {
        "ping" => r#"{"ok":true,"data":{"pid":7,"version":"0.1.0"}}"#.into(),
        "config" => r#"{"ok":true,"data":{"toml":"[buffer]\ncapacity = \"8MiB\"\n"}}"#.into(),
        _ => r#"{"ok":true,"data":null}"#.into(),
    });
    assert_eq!(fixture.run("ping").fine(), "pid: 7\nversion: 0.1.0\n");
    assert_eq!(fixture.run("config").fine(), "[buffer]\ncapacity = \"8MiB\"\n");
    for command in ["rotate", "sync", "reload"] {
        assert_eq!(fixture.run(command).fine(), "", "{command}");
    }
}

#[test]
fn the_defaults_are_shown_without_a_daemon() {
    let text = Fixture::new().run("config --defaults").fine();
    assert!(text.contains("[buffer]") && text.contains("8MiB"), "{text}");
}

#[test]
fn statistics_come_as_they_are_or_for_prometheus_or_for_people() {
    let fixture = Fixture::new();
    let data = r#"{"version":"0.1.0","events":{"received":12345,"lost":{"full":2}},"rss_bytes":4096}"#;
    serve(&fixture.runtime(), move |_| format!(r#"{{"ok":true,"data":{data}}}"#));
    assert_eq!(fixture.run("stats --json").fine(), format!("{data}\n"));
    assert!(fixture.run("stats --prometheus").fine().contains("\ndbufd_events_received_total 12345\n"));
    assert!(fixture.run("stats").fine().contains("12,345"));
}

#[test]
fn statistics_go_to_a_file_that_is_replaced_only_by_whole_ones() {
    let fixture = Fixture::new();
    let file = fixture.directory().join("dbufd.prom");
    let into = format!("--output {}", file.display());
    std::fs::create_dir_all(fixture.directory()).unwrap();
    assert!(fixture.run(&format!("stats --prometheus {into}")).failed(4).contains("no daemon"));
    assert!(!file.exists(), "no daemon, no figures");
    serve(&fixture.runtime(), |_| r#"{"ok":true,"data":{"producers":[{"tag":"a","pid":7,"events":1}]}}"#.into());
    assert_eq!(fixture.run(&format!("stats --prometheus {into}")).fine(), "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, fixture.run("stats --prometheus").fine());
    assert!(text.starts_with("# HELP dbufd_") && text.ends_with('\n') && !text.contains("pid="), "{text}");
    assert!(fixture.run("stats --prometheus --with-pid").fine().contains("pid=\"7\""));
    assert!(fixture.run("stats --with-pid").failed(2).contains("--prometheus"));
    // A table in a file has no colors, also where the terminal has.
    fixture.run(&format!("--color always stats {into}")).fine();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("dbufd ") && !text.contains('\x1b'), "{text}");
}

#[test]
fn figures_of_another_version_are_shown_as_far_as_they_are_known_and_are_an_error_where_their_type_changed() {
    let fixture = Fixture::new();
    let newer = r#"{"version":"9.0.0","novel":[1],"events":{"received":12345,"lost":{"novel":2},"novel":{}}}"#;
    serve(&fixture.runtime(), move |_| format!(r#"{{"ok":true,"data":{newer}}}"#));
    assert_eq!(fixture.run("stats --json").fine(), format!("{newer}\n"));
    assert!(fixture.run("stats").fine().contains("2 novel"));

    let fixture = Fixture::new();
    let changed = r#"{"version":"9.0.0","rss_bytes":"4 KiB"}"#;
    serve(&fixture.runtime(), move |_| format!(r#"{{"ok":true,"data":{changed}}}"#));
    assert_eq!(fixture.run("stats --json").fine(), format!("{changed}\n"));
    for command in ["stats", "stats --prometheus"] {
        let error = fixture.run(command).failed(1);
        assert!(
            error.contains("does not understand the figures of dbufd 9.0.0") && error.contains("--json"),
            "{error}"
        );
    }
}

#[test]
fn the_directory_that_the_daemon_names_is_the_one_that_is_read() {
    let mut fixture = Fixture::new();
    fixture.texts("app", 0, &["hello"]);
    let directory = fixture.directory();
    serve(&fixture.runtime(), move |_| {
        serde_json::json!({ "ok": true, "data": { "directory": directory } }).to_string()
    });
    let output = command(&fixture.runtime(), "cat -o raw").arg("--runtime").arg(fixture.runtime()).output().unwrap();
    assert_eq!(Ran::of(output).fine(), "hello");
}

#[test]
fn help_has_an_example_for_every_command() {
    let fixture = Fixture::new();
    for command in ["cat", "tail", "segments", "verify", "stats", "rotate", "sync", "reload", "ping", "config"] {
        let help = fixture.run(&format!("{command} --help")).fine();
        assert!(help.contains("Example") && help.contains(&format!("dbufctl {command}")), "{command}: {help}");
    }
    assert!(fixture.run("--version").fine().starts_with("dbufctl 0."));
}
