//! Changing the configuration of a service: reload, a wrong file, and its mending.

use std::io::Write;
use std::time::Instant;

use crate::load::Load;
use crate::machine::Machine;
use crate::support::wait_for;

const FILE: &str = "/etc/dbufd/dbufd.toml";
const WRONG: &str = "[storage]\nsync = \"often\"\n";
/// What a wrong file is answered with: where, and which key.
const REASON: &str = "/etc/dbufd/dbufd.toml:2:8: storage.sync: \"often\" is not allowed";

fn wait_for_reason_in_status(machine: &Machine) {
    wait_for("the reason in the status", || {
        let shown = machine.exec(&["systemctl", "status", "--no-pager", "--full", "dbufd"]);
        String::from_utf8_lossy(&shown.stdout).contains(REASON).then_some(())
    });
}

#[test]
fn a_reload_takes_effect_while_senders_send_and_nothing_is_lost() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["systemctl", "start", "dbufd"]);
    let pid = machine.property("MainPID");
    let load = Load::start(&machine, 4);
    let event = "x".repeat(2000);
    for (sync, max_event, code) in [("5s", "1KiB", 1), ("2s", "2KiB", 0), ("batch", "1KiB", 1), ("1s", "64KiB", 0)] {
        machine.write(FILE, &format!("[storage]\nsync = \"{sync}\"\n[ingest]\nmax_event = \"{max_event}\"\n"));
        machine.run(&["systemctl", "reload", "dbufd"]);
        machine.wait_for_stats("the new policy", |stats| stats["storage"]["sync_policy"] == sync);
        // Clients are told when they connect.
        let sent = machine.exec(&["dbufctl", "send", &event]);
        assert_eq!(sent.status.code(), Some(code), "{max_event}: {}", String::from_utf8_lossy(&sent.stderr));
    }
    load.stop().is_there(&machine);
    assert_eq!(machine.property("MainPID"), pid, "it is the same daemon");
}

#[test]
fn a_reload_with_a_wrong_file_fails_with_its_reason_and_changes_nothing() {
    let Some(machine) = Machine::boot() else { return };
    machine.write(FILE, "[storage]\nsync = \"2s\"\n");
    machine.run(&["systemctl", "start", "dbufd"]);
    let before = machine.run(&["dbufctl", "config"]);
    let load = Load::start(&machine, 4);
    machine.write(FILE, WRONG);
    let failed = machine.exec(&["systemctl", "reload", "dbufd"]);
    assert!(!failed.status.success(), "{failed:?}");
    wait_for_reason_in_status(&machine);
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.run(&["dbufctl", "config"]), before);
    machine.write(FILE, "[storage]\nsync = \"3s\"\n");
    machine.run(&["systemctl", "reload", "dbufd"]);
    machine.wait_for_stats("the mended file", |stats| stats["storage"]["sync_policy"] == "3s");
    load.stop().is_there(&machine);
    assert_eq!(machine.property("NRestarts"), "0");
}

#[test]
fn a_start_with_a_wrong_file_fails_with_its_reason_and_heals_when_the_file_is_mended() {
    let Some(machine) = Machine::boot() else { return };
    machine.write(FILE, WRONG);
    let begun = Instant::now();
    let failed = machine.exec(&["systemctl", "start", "dbufd"]);
    assert!(!failed.status.success(), "{failed:?}");
    wait_for_reason_in_status(&machine);
    machine.stream().write_all(b"sent meanwhile\n").expect("systemd listens");
    let restarts = wait_for("restarts", || machine.property("NRestarts").parse::<u64>().ok().filter(|&n| n >= 2));
    // A start that fails takes a second, so that it costs the machine next to nothing.
    assert!(restarts <= begun.elapsed().as_secs() + 1, "{restarts} restarts in {:?}", begun.elapsed());
    let journal = machine.run(&["journalctl", "-u", "dbufd", "--no-pager"]);
    assert!(journal.contains("status=2/INVALIDARGUMENT"), "{journal}");
    machine.write(FILE, "[storage]\nsync = \"2s\"\n");
    machine.wait_for_property("ActiveState", "active");
    machine.wait_for_event("sent meanwhile");

    machine.write(FILE, WRONG);
    let failed = machine.exec(&["systemctl", "restart", "dbufd"]);
    assert!(!failed.status.success(), "{failed:?}");
    wait_for_reason_in_status(&machine);
    machine.write(FILE, "");
    machine.wait_for_property("ActiveState", "active");
    machine.wait_for_stats("the default", |stats| stats["storage"]["sync_policy"] == "1s");
}
