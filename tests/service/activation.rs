//! Sockets that systemd holds: what is sent while no daemon runs.

use std::io::Write;

use crate::machine::Machine;

/// Fewer than wait in a socket until systemd, which does not read them, has started the daemon.
const DATAGRAMS: usize = 100;

#[test]
fn a_line_and_a_datagram_that_come_before_the_first_start_begin_it_and_arrive() {
    for stream in [true, false] {
        let Some(machine) = Machine::boot() else { return };
        machine.run(&["systemctl", "start", "dbufd.socket"]);
        assert_eq!(machine.property("ActiveState"), "inactive", "nothing has been sent");
        if stream {
            // Connected, written and gone before there is anybody to accept it.
            machine.stream().write_all(b"<5>the first event\n").expect("systemd listens");
        } else {
            machine.run(&["logger", "-p", "user.notice", "-u", "/run/dbufd/dgram.sock", "the first event"]);
        }
        machine.wait_for_property("ActiveState", "active");
        let event = machine.wait_for_event("the first event");
        assert_eq!(event["PRIORITY"], "5", "{event}");
        // The kernel attached the sender of a datagram although no daemon was there to ask for it.
        assert!(stream || event["_UID"] == "0", "{event}");
    }
}

#[test]
fn what_is_sent_while_the_service_is_stopped_arrives_when_it_is_up() {
    let Some(machine) = Machine::boot() else { return };
    machine.run(&["systemctl", "start", "dbufd"]);
    machine.run(&["systemctl", "stop", "dbufd.service"]);
    // The first byte begins the next start, which then takes its time.
    let waits = "[Service]\nExecStartPre=/bin/sh -c 'until test -e /run/go; do sleep 0.05; done'\n";
    machine.write("/etc/systemd/system/dbufd.service.d/wait.conf", waits);
    machine.run(&["systemctl", "daemon-reload"]);
    assert_eq!(machine.property("ActiveState"), "inactive");
    let mut lines = machine.stream();
    let datagrams = machine.datagrams();
    for number in 0..DATAGRAMS {
        lines.write_all(format!("line {number}\n").as_bytes()).expect("the kernel takes it");
        datagrams.send(format!("datagram {number}").as_bytes()).expect("the kernel takes it");
    }
    drop((lines, datagrams));
    machine.wait_for_property("ActiveState", "activating");
    assert_eq!(machine.property("MainPID"), "0", "there is no daemon yet");
    machine.write("/run/go", "");
    machine.wait_for_property("ActiveState", "active");
    let stats = machine.wait_for_stats("all of them", |stats| stats["events"]["persisted"] == 2 * DATAGRAMS);
    assert_eq!(stats["events"]["lost_total"], 0, "{stats}");
    let events = machine.events();
    for kind in ["line", "datagram"] {
        let of_kind: Vec<_> =
            events.iter().filter_map(|e| e["MESSAGE"].as_str()).filter(|text| text.starts_with(kind)).collect();
        let wanted: Vec<_> = (0..DATAGRAMS).map(|number| format!("{kind} {number}")).collect();
        assert_eq!(of_kind, wanted);
    }
}
