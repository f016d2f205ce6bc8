//! One user attacks the service, for any length of time, next to senders of other users.
//!
//! In a systemd of the test's own, with the units as a package installs them, `nobody` attacks with eight processes:
//! each attack of `tests/support/attack` in turn. Meanwhile four other users send a thousand events a second each, as
//! frames, lines, datagrams and through a ring. After each attack the files are compared with what the four have sent.
//!
//! ```sh
//! cargo test --test attack                                                      # each attack once, for a moment
//! DBUF_ATTACK_MINUTES=10 cargo test --release --test attack -- --nocapture      # at length, with bounds on times
//! DBUF_ATTACKS=idle,tags                                                        # only these
//! ```
//!
//! The short run shares the machine with other tests, so only the long one has bounds on the time of the four senders
//! and of systemd.

#[path = "../support/attack/mod.rs"]
mod attack;
mod check;
#[path = "../support/framed.rs"]
mod framed;
#[path = "../service/machine.rs"]
#[allow(dead_code, reason = "the tests of the service use the rest")]
mod machine;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/usage.rs"]
mod usage;

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use attack::{ATTACKER, ATTACKS, Attack, HARNESS, Kind, Process};
use check::Check;
use machine::Machine;
use support::wait_for;
use usage::{cpu_seconds, peak_bytes};

/// How long an attack lasts in a short run, and in a long one.
const ATTACK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// What the daemon may have in memory at any time: its halves, and a quarter of the rings' memory.
const RSS_BYTES_MAX: u64 = 256 << 20;
/// Of a core, what systemd may use in a long run. A single attack can have a burst.
const INIT_PERCENT_MAX: f64 = 5.0;
/// As installed, but retention leaves what is compared after each attack.
const CONFIGURATION: &str = "[storage]\nretain_bytes = \"3GiB\"\nmin_free = \"none\"\n";
/// In the machine: what goes in and out of the units that this test starts.
const PIPES: &str = "/run/attack";

/// A sender: by what it sends, and as which user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pub(crate) name: &'static str,
    kind: Kind,
    pub(crate) uid: u32,
}

static SENDERS: [Sender; 4] = [
    Sender { name: "by-frames", kind: Kind::Persisted, uid: 60011 },
    Sender { name: "by-lines", kind: Kind::Lines, uid: 60012 },
    Sender { name: "by-datagrams", kind: Kind::Datagrams, uid: 60013 },
    Sender { name: "by-ring", kind: Kind::Ring, uid: 60014 },
];

/// A process of an attack, or of a sender. Does nothing where it is run as a test.
#[test]
fn a_process_of_an_attack() {
    attack::role();
}

/// Starts a unit that runs this program as a user, in a role. It ends with its standard input.
fn start(machine: &Machine, name: &str, uid: u32, role: &str) -> Process {
    let program = format!("/usr/bin/{name}");
    let (orders, answers) = (format!("{PIPES}/{name}.orders"), format!("{PIPES}/{name}.answers"));
    machine.run(&["ln", "-s", "/usr/bin/attack-test", &program]);
    machine.run(&["mkfifo", &orders]);
    // For reading as well, so that this does not wait for the unit.
    let orders_file = File::options().read(true).write(true).open(machine.path(&orders)).expect("a pipe");
    let uid = uid.to_string();
    let mut options = vec![format!("--property=StandardInput=file:{orders}")];
    options.push(format!("--property=StandardOutput=file:{answers}"));
    for (variable, value) in attack::environment(role, Path::new("/run/dbufd")) {
        options.push(format!("--setenv={variable}={value}"));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let group = ["--property=SupplementaryGroups=dbufd"];
    // The attacker may use the control socket, so that it can do more harm than others.
    let group = if uid == ATTACKER.to_string() { &group[..] } else { &[] };
    let unit = ["systemd-run", "--quiet", "--unit", name, "--uid", &uid];
    machine.run(&[&unit[..], group, &options, &[&program], &HARNESS].concat());
    let (answers, mut taken) = (machine.path(&answers), 0);
    Process::of(orders_file, move || {
        taken += 1;
        wait_for("an answer", || {
            let text = fs::read_to_string(&answers).unwrap_or_default();
            // The last line may not be whole yet.
            text.split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .nth(taken - 1)
                .map(|line| line.trim().to_owned())
        })
    })
}

fn boot() -> Option<Machine> {
    let program = std::env::current_exe().expect("this program");
    let bind = format!("{}:/usr/bin/attack-test", program.display());
    let machine = Machine::boot_with(&["--bind-ro", &bind])?;
    for Sender { name, uid, .. } in SENDERS {
        machine.write(&format!("/etc/sysusers.d/{name}.conf"), &format!("u {name} {uid}\n"));
        machine.run(&["systemd-sysusers", &format!("{name}.conf")]);
    }
    machine.write("/etc/dbufd/dbufd.toml.d/attack.toml", CONFIGURATION);
    machine.run(&["mkdir", PIPES]);
    machine.run(&["systemctl", "start", "dbufd"]);
    Some(machine)
}

/// One attack. Gives how often it did what it does, and how much of a core systemd used meanwhile.
fn play(machine: &Machine, attacker: &mut Process, attack: &Attack, time: Duration) -> (String, f64) {
    let (cpu, begun) = (cpu_seconds(machine.pid), Instant::now());
    attacker.order(attack, time);
    let acts = attacker.answer();
    (acts, (cpu_seconds(machine.pid) - cpu) / begun.elapsed().as_secs_f64() * 100.0)
}

#[test]
fn attacks_of_one_user_lose_delay_and_rename_nothing_of_other_users() {
    let Some(machine) = boot() else { return };
    let minutes: Option<f64> = std::env::var("DBUF_ATTACK_MINUTES").ok().map(|text| text.parse().expect("minutes"));
    let wanted = std::env::var("DBUF_ATTACKS").unwrap_or_default();
    let is_wanted = |attack: &&Attack| wanted.is_empty() || wanted.split(',').any(|name| name == attack.name);
    let time = if minutes.is_some() { ATTACK.1 } else { ATTACK.0 };
    let end = Instant::now() + Duration::from_secs_f64(minutes.unwrap_or(0.0) * 60.0);
    let daemon = machine.property("MainPID");
    let pid = machine.pid_outside(&daemon);
    let roles = SENDERS.map(|sender| start(&machine, sender.name, sender.uid, &sender.role()));
    let mut attacker = start(&machine, "attacker", ATTACKER, "attacker");
    let mut check = Check::new(&SENDERS, minutes.is_some());
    println!(
        "attack, its acts, systemd in % of a core, and of each sender 99 % and 100 % in ms from sending to storing"
    );
    let (init_cpu, begun) = (cpu_seconds(machine.pid), Instant::now());
    loop {
        for attack in ATTACKS.iter().filter(is_wanted) {
            let (acts, init) = play(&machine, &mut attacker, attack, time);
            let times = check.attack(&machine, attack.name);
            println!("{:<12} {acts:>10} {init:>5.1}{times}", attack.name);
        }
        if Instant::now() >= end {
            break;
        }
    }
    let init = (cpu_seconds(machine.pid) - init_cpu) / begun.elapsed().as_secs_f64() * 100.0;
    println!("systemd used {init:.1} % of a core");
    if minutes.is_some() && init > INIT_PERCENT_MAX {
        check.wrong.push(format!("systemd used {init:.1} % of a core"));
    }
    let reports = roles.map(Process::stop);
    drop(attacker);
    check.finish(&machine, &reports);
    if (machine.property("MainPID"), machine.property("NRestarts")) != (daemon, "0".to_owned()) {
        check.wrong.push("the daemon was started again".to_owned());
    }
    let peak = peak_bytes(pid);
    println!("the daemon had at most {} MiB in memory", peak >> 20);
    if peak > RSS_BYTES_MAX {
        check.wrong.push(format!("the daemon had {} MiB in memory", peak >> 20));
    }
    assert!(check.wrong.is_empty(), "{}", check.wrong.join("\n"));
}

impl Sender {
    fn role(&self) -> String {
        format!("sender {} {}", self.kind.name(), self.name)
    }
}
