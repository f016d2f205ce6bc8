//! dbufctl when something answers on the control socket, and when nothing does.

use super::fixture::*;

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
