//! The account outlives the daemon: what was lost before a death is recorded after it.

use std::io::Write;

use serde_json::Value;

use crate::machine::Machine;
use crate::support::wait_for;

const DISK: &str = "/var/log/dbufd";

fn send(machine: &Machine, lines: std::ops::Range<u64>) {
    let text: String = lines.map(|number| format!("line {number} {:60}\n", "")).collect();
    machine.stream().write_all(text.as_bytes()).expect("the daemon reads");
}

fn count(stats: &Value, name: &str) -> u64 {
    stats["events"][name].as_u64().expect("a count")
}

fn settled(machine: &Machine, events: u64) -> Value {
    machine.wait_for_stats("all to be accounted for", |stats| {
        count(stats, "received") == events && count(stats, "persisted") + count(stats, "lost_total") == events
    })
}

#[test]
fn losses_that_the_disk_had_no_room_to_record_are_recorded_after_a_kill_and_counted_once() {
    let Some(machine) = Machine::boot_with_disk(DISK) else { return };
    machine.write(
        "/etc/dbufd/dbufd.toml.d/full.toml",
        "[storage]\nwhen_full = \"drop\"\nsegment_size = \"64KiB\"\nretain_bytes = \"none\"\nmin_free = \"none\"\n",
    );
    machine.run(&["systemctl", "start", "dbufd"]);
    send(&machine, 0..100);
    settled(&machine, 100);
    // It ends when there is no room left.
    machine.exec(&["dd", "if=/dev/zero", &format!("of={DISK}/ballast"), "bs=64k"]);
    send(&machine, 100..5100);
    let before = settled(&machine, 5100);
    assert!(count(&before, "lost_total") > 0, "{before}");
    let restarts = machine.property("NRestarts");
    machine.run(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "dbufd"]);
    wait_for("the next life", || (machine.property("NRestarts") != restarts).then_some(()));
    machine.wait_for_property("ActiveState", "active");
    let after = settled(&machine, 5100);
    assert_eq!(after["events"]["lost"], before["events"]["lost"]);
    machine.run(&["rm", &format!("{DISK}/ballast")]);
    send(&machine, 5100..5200);
    settled(&machine, 5200);
    let output = machine.exec(&["dbufctl", "account", "--json"]);
    assert_eq!(output.status.code(), Some(3), "there are losses");
    let account: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&account["ok"], account["sent"].as_u64()), (&true.into(), Some(5200)), "{account}");
    assert_eq!(account["lost"], after["events"]["lost"], "{account}");
    let rows = account["producers"].as_array().expect("rows");
    assert!(rows.iter().all(|row| row["transport"] == "lines"), "each is named: {account}");
    let told = rows.iter().flat_map(|row| row["losses_in_files"].as_array().expect("losses"));
    assert_eq!(
        told.map(|loss| loss["events"].as_u64().unwrap()).sum::<u64>(),
        count(&after, "lost_total"),
        "{account}"
    );
}
