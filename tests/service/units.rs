//! The units themselves.

use std::io::Write;

use crate::machine::Machine;
use crate::support::wait_for;

const UNITS: [&str; 5] =
    ["dbufd.service", "dbufd.socket", "dbufd-control.socket", "dbufd-metrics.service", "dbufd-metrics.timer"];
/// The directory of the node exporter, as its package makes it.
const NODE_EXPORTER: &str = "/var/lib/prometheus/node-exporter";
/// Of ten, which is a service without any sandbox.
const EXPOSURE_MAX: f64 = 1.0;
/// The same for the metrics: they are written as root, though without its capabilities.
const METRICS_EXPOSURE_MAX: f64 = 1.5;

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
    assert_little_exposure(&machine, "dbufd.service", EXPOSURE_MAX);
    for socket in &UNITS[1..3] {
        assert_eq!(machine.run(&["systemctl", "is-enabled", socket]).trim(), "enabled", "{socket}");
    }
}

fn assert_little_exposure(machine: &Machine, unit: &str, most: f64) {
    let said = machine.run(&["systemd-analyze", "security", "--no-pager", unit]);
    let exposure = said.split(&format!("exposure level for {unit}:")).nth(1).expect("a verdict");
    let exposure: f64 = exposure.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(exposure <= most, "{said}");
}

#[test]
fn the_metrics_are_written_whole_while_the_daemon_runs_and_never_start_it() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["mkdir", "-p", NODE_EXPORTER]);
    machine.run(&["systemctl", "enable", "--now", "dbufd"]);
    let enabled = machine.exec(&["systemctl", "is-enabled", "dbufd-metrics.timer"]);
    assert_eq!(String::from_utf8_lossy(&enabled.stdout).trim(), "disabled", "an installation enables it for nobody");
    machine.run(&["systemctl", "enable", "--now", "dbufd-metrics.timer"]);
    let file = format!("{NODE_EXPORTER}/dbufd.prom");
    // The timer's, not that of a run by this test.
    wait_for("metrics", || machine.path(&file).exists().then_some(()));
    let text = machine.run(&["cat", &file]);
    assert!(text.contains("\ndbufd_storage_state{state=\"ok\"} 1\n") && text.ends_with('\n'), "{text}");
    assert_eq!(machine.run(&["stat", "-c", "%U %G %a", &file]).trim(), "root root 644", "the node exporter reads it");
    assert_eq!(machine.run(&["ls", NODE_EXPORTER]).trim(), "dbufd.prom", "nothing else is left there");
    assert_little_exposure(&machine, "dbufd-metrics.service", METRICS_EXPOSURE_MAX);

    // The control socket still listens, and a request would start the daemon.
    machine.run(&["systemctl", "stop", "dbufd"]);
    let state = |unit: &str| machine.run(&["systemctl", "show", "-P", "ActiveState", unit]).trim().to_owned();
    assert_eq!(state("dbufd-metrics.timer"), "inactive", "the timer stops with the daemon");
    assert!(!machine.exec(&["systemctl", "start", "dbufd-metrics.service"]).status.success());
    assert_eq!((state("dbufd.service"), state("dbufd-control.socket")), ("inactive".into(), "active".into()));
    machine.run(&["systemctl", "start", "dbufd"]);
    assert_eq!(state("dbufd-metrics.timer"), "active", "and starts with it");
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
