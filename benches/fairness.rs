//! One well-behaved client, and another user who attacks with eight processes: does the client notice?
//!
//! `cargo bench --bench fairness [-- [--attack NAME] [--seconds N] [--durable] [--set KEY=VALUE]...]`, as root, because
//! it changes users. Each attack gets a daemon of its own, with these settings, and lasts 5 seconds. The client is an
//! ordinary user, too. It sends 1,000 events a second as frames and has each acknowledged, when it is in a file or,
//! with `--durable`, when it is durable. Its latency is the time from the moment that an event was due until its
//! acknowledgement, to the millisecond.
//!
//! Prints a table, and ends with 1 if a promise is broken: see [`Row::broken`]. Writes only into a temporary folder of
//! its own, below `BENCH_DIR` if that is set. The daemon, the client and the attackers each have a session, so that the
//! kernel (`sched_autogroup_enabled`) divides the processor among these three.

#[path = "../tests/support/attack/mod.rs"]
mod attack;
#[path = "../tests/support/framed.rs"]
mod framed;
mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use attack::{ATTACKER, ATTACKS, Attack, Kind, Process};
use serde_json::Value;
use support::usage::{cpu_seconds, peak_bytes};

/// The user of the client.
const CLIENT: u32 = 65533;
const NAME: &str = "fairness";
/// What is promised to the client.
const P99_MS_MAX: f64 = 50.0;
/// The longest that root may wait for an answer of the daemon.
const CONTROL_MAX: Duration = Duration::from_secs(5);
/// Between two looks of root.
const CONTROL_EVERY: Duration = Duration::from_millis(500);
/// The longest that anything may take after an attack.
const TIMEOUT_SECONDS: &str = "60";

struct Arguments {
    attack: Option<String>,
    time: Duration,
    kind: Kind,
    settings: Vec<String>,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut this = Self { attack: None, time: Duration::from_secs(5), kind: Kind::Persisted, settings: Vec::new() };
        let mut all = std::env::args().skip(1);
        while let Some(argument) = all.next() {
            match argument.as_str() {
                "--bench" => {}
                "--durable" => this.kind = Kind::Durable,
                "--attack" => this.attack = Some(all.next().ok_or("--attack needs a name")?),
                "--seconds" => {
                    let seconds = all.next().and_then(|n| n.parse().ok()).filter(|n| *n > 0.0 && *n < 3600.0);
                    this.time = Duration::from_secs_f64(seconds.ok_or("--seconds needs a number")?);
                }
                "--set" => this.settings.push(all.next().ok_or("--set needs a key and its value")?),
                other => return Err(format!("unknown argument {other}; see the head of benches/fairness.rs")),
            }
        }
        match &this.attack {
            Some(name) if attack::named(name).is_none() => {
                let names: Vec<&str> = ATTACKS.iter().map(|attack| attack.name).collect();
                Err(format!("no attack is called {name}; there are: {}", names.join(", ")))
            }
            _ => Ok(this),
        }
    }
}

fn main() -> ExitCode {
    if attack::role() {
        return ExitCode::SUCCESS;
    }
    let arguments = match Arguments::parse() {
        Ok(arguments) if nix::unistd::geteuid().is_root() => arguments,
        Ok(_) => {
            eprintln!("the attackers are another user: run this as root");
            return ExitCode::from(2);
        }
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let Arguments { time, kind, settings, .. } = &arguments;
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    println!(
        "{} attackers for {} s each; the client's events are {}",
        attack::PROCESSES,
        time.as_secs_f64(),
        kind.name()
    );
    println!("{HEAD}");
    let is_wanted = |attack: &&Attack| arguments.attack.as_deref().is_none_or(|name| name == attack.name);
    let mut broken = 0;
    for attack in ATTACKS.iter().filter(is_wanted) {
        let row = measure(attack, *time, *kind, &settings);
        row.print();
        broken += row.broken().len();
    }
    ExitCode::from(u8::from(broken > 0))
}

const HEAD: &str =
    "attack         p50 ms   p99 ms   max ms    events   lost  row   refused  root ms   CPU %  RSS MiB       acts";

/// What an attack did.
struct Row {
    attack: &'static Attack,
    /// What the client says.
    client: Value,
    /// Its events that are not in the files, or are there twice or out of order.
    lost: u64,
    /// Whether the account has a row for the client, with all its events.
    has_row: bool,
    does_account_add_up: bool,
    /// What the attacking user was refused.
    refused: u64,
    /// The longest that root waited for an answer.
    control: Duration,
    /// Of one core.
    cpu_percent: f64,
    rss_mib: u64,
    /// How often the attackers did what they do.
    acts: String,
}

impl Row {
    /// The promises that do not hold.
    fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut promise = |holds: bool, what: String| broken.extend((!holds).then_some(what));
        let (p99, wrong) = (self.figure("p99_ms"), &self.client["wrong"]);
        promise(wrong.is_null(), format!("the client fails: {wrong}"));
        promise(p99 < P99_MS_MAX, format!("99 % of the client's events take up to {p99} ms, not {P99_MS_MAX} ms"));
        promise(self.lost == 0, format!("{} of the client's events are missing, twice or out of order", self.lost));
        promise(self.has_row, "the account has no row with all events of the client".to_owned());
        promise(self.does_account_add_up, "the account does not add up".to_owned());
        promise(self.control < CONTROL_MAX, format!("root waits {:.1} s for an answer", self.control.as_secs_f64()));
        broken
    }

    fn figure(&self, name: &str) -> f64 {
        self.client[name].as_f64().unwrap_or(f64::INFINITY)
    }

    fn print(&self) {
        let Self { attack, lost, refused, cpu_percent, rss_mib, acts, .. } = self;
        let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(|name| self.figure(name));
        let (row, control) = (if self.has_row { "kept" } else { "gone" }, self.control.as_secs_f64() * 1000.0);
        print!("{:<12} {p50:>8.1} {p99:>8.1} {max:>8.1} {:>9} {lost:>6} ", attack.name, self.client["sent"]);
        println!("{row:>5} {refused:>9} {control:>8.0} {cpu_percent:>7.0} {rss_mib:>8} {acts:>10}  {}", attack.what);
        for what in self.broken() {
            println!("  BROKEN: {what}");
        }
        let _ = std::io::stdout().flush();
    }
}

fn measure(attack: &'static Attack, time: Duration, kind: Kind, settings: &[&str]) -> Row {
    let folder = tempfile::Builder::new()
        .prefix("dbufd-bench-")
        .tempdir_in(std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into))
        .expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("other users reach the sockets");
    let mut daemon = support::start(folder.path(), settings);
    let runtime = folder.path().join("run");
    // The attacker is a member of the group that may use the control socket: it harms more than others can.
    let mut attacker = Process::start_as(ATTACKER, 0, "attacker", &runtime);
    let (cpu, begun) = (cpu_seconds(daemon.id()), Instant::now());
    let client = Process::start_as(CLIENT, CLIENT, &format!("sender {} {NAME}", kind.name()), &runtime);
    attacker.order(attack, time);
    let mut control = Duration::ZERO;
    while begun.elapsed() < time {
        let asked = Instant::now();
        ctl(folder.path(), &["ping"]);
        control = control.max(asked.elapsed());
        std::thread::sleep(CONTROL_EVERY);
    }
    let acts = attacker.answer();
    let client = client.stop();
    let cpu_percent = (cpu_seconds(daemon.id()) - cpu) / begun.elapsed().as_secs_f64() * 100.0;
    drop(attacker);
    ctl(folder.path(), &["sync"]);
    let sent = client["sent"].as_u64().unwrap_or(0);
    let (account, stats) = (json(folder.path(), "account"), json(folder.path(), "stats"));
    let row = Row {
        attack,
        lost: lost(folder.path(), sent),
        has_row: has_row(&account, sent),
        does_account_add_up: account["ok"] == true,
        refused: refused(&stats),
        client,
        control,
        cpu_percent,
        rss_mib: peak_bytes(daemon.id()) >> 20,
        acts,
    };
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the daemon is there");
    assert!(daemon.wait().expect("it ends").success(), "the daemon fails after the attack {}", attack.name);
    row
}

fn ctl(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args([TIMEOUT_SECONDS, env!("CARGO_BIN_EXE_dbufctl")]);
    command.arg("--runtime").arg(folder.join("run")).arg("--directory").arg(folder.join("segments"));
    command.args(arguments).stdin(Stdio::null()).output().expect("dbufctl runs")
}

/// What a command prints; null if it fails.
fn json(folder: &Path, command: &str) -> Value {
    serde_json::from_slice(&ctl(folder, &[command, "--json"]).stdout).unwrap_or_default()
}

/// How many of the client's events are missing, twice or out of order.
fn lost(folder: &Path, sent: u64) -> u64 {
    let output = ctl(folder, &["cat", "--uid", &CLIENT.to_string(), "-o", "cat"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers = text.lines().map(|line| attack::parse(line).map_or(0, |(_, number, _)| number));
    let (mut next, mut wrong) = (1, 0);
    for number in numbers {
        wrong += number.abs_diff(next);
        next = number + 1;
    }
    wrong + (sent + 1).abs_diff(next)
}

fn has_row(account: &Value, sent: u64) -> bool {
    let is_it = |row: &Value| row["uid"] == CLIENT && row["tag"] == NAME && row["stored"] == sent;
    account["producers"].as_array().is_some_and(|rows| rows.iter().any(is_it))
}

fn refused(stats: &Value) -> u64 {
    let rows = stats["limits"]["refused"].as_array().map_or(&[][..], Vec::as_slice);
    rows.iter().filter(|row| row["uid"] == ATTACKER).filter_map(|row| row["count"].as_u64()).sum()
}
