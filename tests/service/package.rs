//! The packages' life on a machine: installed, upgraded under load, removed.
//!
//! They are built from the test's own programs by `packaging/build`. Where its tools are missing, one line says so and
//! the tests are skipped. An rpm is tried with rpm(8) alone, on whatever the machine is, so without its dependencies.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::load::Load;
use crate::machine::{Machine, succeed};
use crate::support::wait_for;

/// Senders that an upgrade meets.
const CONNECTIONS: usize = 32;
/// Events that arrive before an upgrade begins, so that all senders are at work.
const EVENTS_BEFORE: u64 = 500;

/// What the machine's distribution enables: the first file in order of name counts.
const PRESETS: &str = "/etc/systemd/system-preset/00-test.preset";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Deb,
    Rpm,
}

/// Machines of the kinds of which packages can be built and installed here.
fn machines() -> Vec<(Kind, Machine)> {
    let mut machines = Vec::new();
    for (kind, tools) in [(Kind::Deb, ["cargo-deb", "apt-get"]), (Kind::Rpm, ["cargo-generate-rpm", "rpm"])] {
        let missing = tools.iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
        if let Some(tool) = missing {
            say_once(&format!("skipped: the {kind:?} package's life, for {tool} is not installed"));
            continue;
        }
        let Some(machine) = Machine::boot_bare(&[]) else { return Vec::new() };
        // What a container's image may have, so that no package starts anything; and man-db's look at every page of the
        // machine after each package, which takes longer than all the rest.
        machine.run(&["rm", "-f", "/usr/sbin/policy-rc.d", "/var/lib/man-db/auto-update"]);
        machine.write(PRESETS, "enable dbufd*\n");
        machines.push((kind, machine));
    }
    machines
}

/// Past the harness, which keeps what a test that passes prints.
fn say_once(what: &str) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.iter().any(|before| before == what) {
        let _ = writeln!(std::io::stderr(), "{what}");
        said.push(what.to_owned());
    }
}

/// A package of this version, built once from the programs that this test was built with.
fn package(kind: Kind, version: &str) -> PathBuf {
    static BUILT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let packages = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    let package = packages.join(format!("{kind:?}-{version}"));
    if !built.contains(&package) {
        // Apart from what another run of the tests may be building, until it is whole.
        fs::create_dir_all(&packages).expect("a folder");
        let own = tempfile::tempdir_in(&packages).expect("a folder");
        let (target, profile) = build_of_the_test();
        let mut build = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/build"));
        build.args([if kind == Kind::Deb { "deb" } else { "rpm" }, "--no-build", "--profile", profile]);
        build.args(["--version", version, "--output"]).arg(own.path()).env("CARGO_TARGET_DIR", target);
        let path = succeed("packaging/build", &build.output().expect("bash runs"));
        fs::rename(path.trim(), &package).expect("it is where the script says");
        built.push(package.clone());
    }
    package
}

/// rpm(8), told that it does not have to know the machine's other packages.
fn rpm() -> Vec<&'static str> {
    let debian: &[&str] = if Path::new("/etc/debian_version").exists() { &["--force-debian"] } else { &[] };
    [&["rpm", "--nodeps"], debian].concat()
}

/// Where cargo has built the programs that this test uses, and with which profile.
fn build_of_the_test() -> (&'static Path, &'static str) {
    let folder = Path::new(env!("CARGO_BIN_EXE_dbufd")).parent().expect("a folder");
    let profile = folder.file_name().and_then(|name| name.to_str()).expect("a name");
    (folder.parent().expect("a folder"), if profile == "debug" { "dev" } else { profile })
}

impl Machine {
    /// Installs or upgrades to this version.
    fn install_package(&self, kind: Kind, version: &str) -> String {
        let name = if kind == Kind::Deb { "/tmp/dbufd.deb" } else { "/tmp/dbufd.rpm" };
        fs::copy(package(kind, version), self.path(name)).expect("a copy");
        match kind {
            Kind::Deb => self.run(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "install", name]),
            Kind::Rpm => self.run(&[&rpm(), &["--upgrade", name][..]].concat()),
        }
    }

    /// Removes it; a deb's configuration stays unless this is a purge.
    fn remove_package(&self, kind: Kind, purge: bool) -> String {
        let verb = if purge { "purge" } else { "remove" };
        match kind {
            Kind::Deb => self.run(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", verb, "dbufd"]),
            Kind::Rpm => self.run(&[&rpm(), &["--erase", "dbufd"][..]].concat()),
        }
    }

    /// What `systemctl VERB` says of the service and of both sockets.
    fn units(&self, verb: &str) -> Vec<String> {
        let output = self.exec(&["systemctl", verb, "dbufd.service", "dbufd.socket", "dbufd-control.socket"]);
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// What `systemctl VERB` says of the timer of the metrics.
    fn metrics(&self, verb: &str) -> String {
        let output = self.exec(&["systemctl", verb, "dbufd-metrics.timer"]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn shell(&self, script: &str) -> String {
        self.run(&["bash", "-c", script])
    }

    /// Paths with dbufd in their names, below all that a package could write to.
    fn traces(&self) -> Vec<String> {
        let script =
            "find /etc /usr /lib /run /var /opt -name '*dbufd*' -o -name '*dbufctl*' -o -name 'dbuf-*' -o -name dbuf.h";
        // The caches belong to man-db, the lists to apt, and the logs to systemd, which names units that are gone. On a
        // developer's machine /var/tmp may have files of that name.
        let foreign = ["/var/cache/", "/run/dbufd-box", "/run/log/", "/var/tmp/"];
        let foreign = |path: &&str| foreign.iter().any(|at| path.starts_with(at));
        self.shell(script).lines().filter(|path| !foreign(path)).map(str::to_owned).collect()
    }
}

#[test]
fn a_package_installs_offline_starts_and_is_complete() {
    for (kind, machine) in machines() {
        machine.install_package(kind, "1.0.0");
        assert_eq!(machine.units("is-active"), ["active"; 3], "{kind:?}");
        assert_eq!(machine.units("is-enabled"), ["enabled"; 3], "{kind:?}");
        assert_eq!(machine.metrics("is-enabled"), "disabled", "{kind:?}: the metrics are for those who want them");
        assert_eq!(machine.shell("stat -c '%U %a' /var/log/dbufd /run/dbufd"), "dbufd 750\ndbufd 755\n");
        let verify = if kind == Kind::Deb { "dpkg --verify dbufd" } else { "rpm --verify --nodeps dbufd" };
        assert_eq!(machine.shell(verify), "", "{kind:?}: what was packed is there as it was packed");

        machine.run(&["logger", "-u", "/run/dbufd/dgram.sock", "-t", "greeter", "hello from the package"]);
        let event = machine.wait_for_event("hello from the package");
        assert_eq!(event["SYSLOG_IDENTIFIER"], "greeter");
        machine.wait_for_stats("it is counted", |stats| stats["events"]["persisted"] == 1);
        machine.run(&["systemctl", "reload", "dbufd"]);
        the_manual_is_found(&machine);
        bash_completes(&machine);
        a_program_in_c_sends(&machine);
    }
}

/// It includes the header by its name alone, and finds the daemon by itself.
fn a_program_in_c_sends(machine: &Machine) {
    if !machine.exec(&["sh", "-c", "command -v cc"]).status.success() {
        say_once("skipped: the header of the package, for there is no C compiler");
        return;
    }
    let source = "#include <dbuf.h>
        int main(void) {
            dbuf_producer *p;
            return dbuf_open(&p, NULL) != 0 || dbuf_printf(p, DBUF_INFO, \"hello in %s\", \"C\") != 0
                || dbuf_close(p) != 0;
        }";
    machine.write("/var/tmp/hello.c", source);
    machine.shell("cc -o /var/tmp/hello /var/tmp/hello.c -pthread && /var/tmp/hello");
    assert_eq!(machine.wait_for_event("hello in C")["_TRANSPORT"], "ring");
}

fn the_manual_is_found(machine: &Machine) {
    if !machine.exec(&["sh", "-c", "command -v man"]).status.success() {
        say_once("skipped: the manual of the package, for man-db is not installed");
        return;
    }
    for page in ["dbufd", "dbufctl", "dbufctl-cat", "dbufd.toml", "dbuf-format"] {
        let text = machine.shell(&format!("man {page} | cat"));
        assert!(text.contains("NAME") && text.contains(page), "{page}: {text}");
    }
}

/// A bash as a person has it: bash-completion finds the file by the command's name.
fn bash_completes(machine: &Machine) {
    let completion = "/usr/share/bash-completion/bash_completion";
    if !machine.path(completion).exists() {
        say_once("skipped: completions, for bash-completion is not installed");
        return;
    }
    for (line, expected) in [("dbufctl se", "segments send"), ("dbufd --check", "--check-config")] {
        let program = line.split(' ').next().expect("a word");
        let offered = machine.shell(&format!(
            "source {completion}; _completion_loader {program}; COMP_WORDS=({line}); COMP_CWORD=1
             COMP_LINE='{line}' COMP_POINT=${{#COMP_LINE}}
             function=$(complete -p {program}); function=${{function#*-F }}; function=${{function%% *}}
             $function {program} \"${{COMP_WORDS[1]}}\" {program} 2>/dev/null; echo \"${{COMPREPLY[*]}}\""
        ));
        assert_eq!(offered.trim(), expected, "{line}");
    }
}

#[test]
fn an_upgrade_under_load_breaks_no_connection_and_loses_no_line() {
    for (kind, machine) in machines() {
        machine.install_package(kind, "1.0.0");
        package(kind, "1.0.1");
        let sockets = machine.run(&["systemctl", "show", "-P", "InvocationID", "dbufd.socket", "dbufd-control.socket"]);
        let before = machine.property("MainPID");
        let load = Load::start(&machine, CONNECTIONS);
        machine
            .wait_for_stats("senders are at work", |stats| stats["events"]["persisted"].as_u64() > Some(EVENTS_BEFORE));

        machine.install_package(kind, "1.0.1");
        assert_eq!(machine.units("is-active"), ["active"; 3], "{kind:?}");
        assert_ne!(machine.property("MainPID"), before, "{kind:?}: it was restarted");
        let after = machine.run(&["systemctl", "show", "-P", "InvocationID", "dbufd.socket", "dbufd-control.socket"]);
        assert_eq!(after, sockets, "{kind:?}: the sockets were not");

        machine.wait_for_stats("senders go on", |stats| {
            load.is_broken() || stats["events"]["persisted"].as_u64() > Some(EVENTS_BEFORE)
        });
        load.stop().is_there(&machine);
    }
}

#[test]
fn purging_leaves_nothing_but_the_segments_and_names_them() {
    for (kind, machine) in machines() {
        let before = machine.traces();
        machine.install_package(kind, "1.0.0");
        machine.run(&["dbufctl", "send", "--sync", "to be kept"]);
        // What dbufd-metrics.timer wrote: the node exporter would export it for ever.
        let metrics = "/var/lib/prometheus/node-exporter/dbufd.prom";
        machine.shell(&format!("mkdir -p /var/lib/prometheus/node-exporter && touch {metrics}"));
        let said = machine.remove_package(kind, true);
        assert!(!machine.path(metrics).exists(), "{kind:?}");
        machine.shell("rm -d /var/lib/prometheus/node-exporter /var/lib/prometheus");
        assert!(said.contains("kept /var/log/dbufd (segments: 1, size: "), "{kind:?}: {said}");
        assert!(said.contains("rm -r /var/log/dbufd"), "{kind:?}: how to remove them is not said: {said}");
        let left = machine.shell("ls -A /var/log/dbufd");
        assert_eq!(left, "00000000000000000001.segment\n", "{kind:?}");
        let mut traces = machine.traces();
        traces.retain(|path| !before.contains(path) && path != "/var/log/dbufd");
        assert!(traces.is_empty(), "{kind:?}: {traces:?}");
        let units = machine.shell("systemctl list-units --all --no-legend 'dbufd*'");
        assert_eq!(units, "", "{kind:?}: systemd knows of none");
        machine.run(&["id", "dbufd"]);

        // With no segments the directory goes, too.
        machine.run(&["rm", "-r", "/var/log/dbufd"]);
        machine.install_package(kind, "1.0.0");
        machine.run(&["systemctl", "stop", "dbufd.service", "dbufd.socket", "dbufd-control.socket"]);
        machine.shell("rm /var/log/dbufd/0*");
        let said = machine.remove_package(kind, true);
        assert!(!said.contains("kept"), "{kind:?}: {said}");
        assert!(!machine.path("/var/log/dbufd").exists(), "{kind:?}");
    }
}

#[test]
fn changed_configuration_survives_an_upgrade_and_a_removal() {
    for (kind, machine) in machines() {
        machine.install_package(kind, "1.0.0");
        machine.write("/etc/dbufd/dbufd.toml", "[ingest]\nmax_event = \"32KiB\"\n");
        machine.write("/etc/dbufd/dbufd.toml.d/own.toml", "[log]\nlevel = \"debug\"\n");
        machine.install_package(kind, "1.0.1");
        let config = machine.run(&["dbufctl", "config"]);
        assert!(config.contains("max_event = \"32KiB\"") && config.contains("level = \"debug\""), "{kind:?}: {config}");
        machine.remove_package(kind, false);
        let saved = if kind == Kind::Deb { "dbufd.toml" } else { "dbufd.toml.rpmsave" };
        let text = fs::read_to_string(machine.path("/etc/dbufd").join(saved)).expect("it was kept");
        assert!(text.contains("32KiB"), "{kind:?}");
        assert!(machine.path("/etc/dbufd/dbufd.toml.d/own.toml").exists(), "{kind:?}: what a person wrote stays");
    }
}

#[test]
fn a_removal_stops_and_disables_and_what_a_person_disabled_stays_so() {
    for (kind, machine) in machines() {
        machine.install_package(kind, "1.0.0");
        machine.run(&["systemctl", "enable", "--now", "dbufd-metrics.timer"]);
        machine.install_package(kind, "1.0.1");
        assert_eq!(machine.metrics("is-enabled"), "enabled", "{kind:?}: what a person enabled stays so");
        machine.remove_package(kind, false);
        assert_eq!(machine.units("is-active"), ["inactive"; 3], "{kind:?}");
        assert_eq!(machine.metrics("is-active"), "inactive", "{kind:?}");
        assert_eq!(machine.shell("find /etc/systemd -name 'dbufd*'"), "", "{kind:?}: no link hangs in the air");
        machine.install_package(kind, "1.0.0");
        assert_eq!(machine.units("is-active"), ["active"; 3], "{kind:?}: installed again, it runs again");

        machine.run(&["systemctl", "disable", "--now", "dbufd.service", "dbufd.socket", "dbufd-control.socket"]);
        machine.install_package(kind, "1.0.1");
        assert_eq!(machine.units("is-active"), ["inactive"; 3], "{kind:?}: an upgrade starts nothing");
        assert_eq!(machine.units("is-enabled"), ["disabled"; 3], "{kind:?}");
    }
}

#[test]
fn a_machine_that_lets_nothing_start_gets_the_files_and_the_user() {
    for (kind, machine) in machines() {
        if kind == Kind::Deb {
            machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n");
            machine.run(&["chmod", "755", "/usr/sbin/policy-rc.d"]);
        } else {
            machine.write(PRESETS, "disable *\n");
        }
        machine.install_package(kind, "1.0.0");
        assert_eq!(machine.units("is-active"), ["inactive"; 3], "{kind:?}");
        machine.run(&["id", "dbufd"]);
        machine.run(&["dbufd", "--check-config"]);
    }
}

#[test]
fn installing_from_source_over_a_running_service_restarts_it() {
    let (target, profile) = build_of_the_test();
    // Wherever they are on this machine: its /tmp, for one, is not that of the box.
    let target = format!("{}:/mnt/target", target.display());
    let binds = ["--bind-ro", concat!(env!("CARGO_MANIFEST_DIR"), ":/mnt/project"), "--bind-ro", &target];
    let Some(machine) = Machine::boot_bare(&binds) else { return };
    let install = format!("CARGO_TARGET_DIR=/mnt/target /mnt/project/packaging/install.sh --profile {profile}");
    let said = machine.shell(&install);
    assert!(said.contains("systemctl enable --now dbufd"), "what to do next is not said: {said}");
    machine.run(&["systemctl", "enable", "--now", "dbufd"]);
    machine.run(&["logger", "-u", "/run/dbufd/dgram.sock", "one"]);
    machine.wait_for_event("one");
    let before = machine.property("MainPID");
    machine.shell(&install);
    assert_ne!(machine.property("MainPID"), before, "it was restarted");
    wait_for("active", || (machine.units("is-active") == ["active"; 3]).then_some(()));

    let said = machine.shell("/mnt/project/packaging/uninstall.sh");
    assert!(said.contains("kept: /var/log/dbufd (segments: 1,"), "{said}");
    assert_eq!(machine.units("is-active"), ["inactive"; 3]);
    assert_eq!(machine.traces(), ["/var/log/dbufd"]);
}
