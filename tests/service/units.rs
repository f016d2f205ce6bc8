//! The units themselves.

use std::io::Write;

use crate::machine::Machine;

const UNITS: [&str; 3] = ["dbufd.service", "dbufd.socket", "dbufd-control.socket"];
/// Of ten, which is a service without any sandbox.
const EXPOSURE_MAX: f64 = 1.0;

fn verify(machine: &Machine) {
    // The manual pages are a package's; what else is wrong is told on standard error, and not always by the exit code.
    let output = machine.exec(&[&["systemd-analyze", "verify", "--man=no"][..], &UNITS[..]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

fn works(machine: &Machine, text: &str) {
    machine.stream().write_all(format!("{text}\n").as_bytes()).expect("somebody listens");
    machine.wait_for_event(text);
}

#[test]
fn the_units_are_clean_and_a_service_that_works_is_exposed_to_little() {
    let Some(machine) = Machine::boot() else { return };
    verify(&machine);
    machine.run(&["systemctl", "enable", "--now", "dbufd"]);
    works(&machine, "behind the sandbox");
    let said = machine.run(&["systemd-analyze", "security", "--no-pager", "dbufd.service"]);
    let exposure = said.split("exposure level for dbufd.service:").nth(1).expect("a verdict");
    let exposure: f64 = exposure.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(exposure <= EXPOSURE_MAX, "{said}");
    for socket in &UNITS[1..] {
        assert_eq!(machine.run(&["systemctl", "is-enabled", socket]).trim(), "enabled", "{socket}");
    }
}

#[test]
fn the_drop_ins_are_clean_and_the_service_works_with_each() {
    let Some(machine) = Machine::boot() else { return };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/drop-ins");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).expect("a folder").flatten() {
        let name = file.file_name().into_string().expect("text");
        let at = format!("/etc/systemd/system/dbufd.service.d/{name}");
        machine.write(&at, &std::fs::read_to_string(file.path()).expect("a drop-in"));
        machine.run(&["systemctl", "daemon-reload"]);
        assert!(machine.property("DropInPaths").contains(&name), "systemd reads {name}");
        verify(&machine);
        machine.run(&["systemctl", "restart", "dbufd"]);
        works(&machine, &format!("with {name}"));
        machine.run(&["rm", &at]);
        seen += 1;
    }
    assert!(seen > 0, "there are drop-ins");
}
