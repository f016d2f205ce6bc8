//! The daemon's own log, which is journald's.

use std::io::Write;

use serde_json::Value;

use crate::machine::Machine;
use crate::support::wait_for;

/// What dbufd itself told the journal, without what systemd said of it.
fn told(machine: &Machine) -> Vec<Value> {
    let text = machine.run(&["journalctl", "-u", "dbufd", "-o", "json", "--no-pager", "_COMM=dbufd"]);
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

fn wait_for_told(machine: &Machine, beginning: &str) -> Value {
    wait_for(beginning, || {
        told(machine).into_iter().find(|told| told["MESSAGE"].as_str().is_some_and(|text| text.starts_with(beginning)))
    })
}

#[test]
fn its_own_log_is_in_the_journal_with_fields_and_not_among_its_events() {
    let Some(machine) = Machine::boot() else { return };
    machine.write("/etc/dbufd/dbufd.toml", "[log]\nlevel = \"trace\"\n");
    machine.run(&["systemctl", "start", "dbufd"]);
    let start = wait_for_told(&machine, "dbufd ");
    assert_eq!(start["DBUFD_RUNTIME"], "/run/dbufd", "{start}");
    assert_eq!(start["DBUFD_DIRECTORY"], "/var/log/dbufd", "{start}");
    let text = start["MESSAGE"].as_str().expect("text");
    assert!(text.ends_with(" runs: sockets in /run/dbufd, segments in /var/log/dbufd"), "{text}");
    assert_eq!((&start["PRIORITY"], &start["SYSLOG_IDENTIFIER"]), (&"6".into(), &"dbufd".into()), "{start}");
    assert_eq!(start["_TRANSPORT"], "journal", "as a field, and not as a line that it printed: {start}");

    machine.write("/etc/dbufd/dbufd.toml", "[log]\nlevel = \"loud\"\n");
    assert!(!machine.exec(&["systemctl", "reload", "dbufd"]).status.success());
    let refused = wait_for_told(&machine, "the configuration stays as it was");
    assert_eq!(refused["PRIORITY"], "3", "{refused}");

    machine.stream().write_all(b"the only event\n").expect("it listens");
    machine.wait_for_event("the only event");
    machine.run(&["systemctl", "stop", "dbufd"]);
    wait_for_told(&machine, "stopped");
    let events = machine.events();
    assert_eq!(events.len(), 1, "{events:?}");
}
