//! Compares what the well-behaved senders sent with what is in the files.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::Sender;
use crate::attack;
use crate::machine::Machine;
use crate::support::{TIMEOUT, wait_within};

/// An event that was stored this long after it was sent is late.
const LATE: Duration = Duration::from_secs(10);
/// In a long run, 99 % of the events of each sender are stored, and acknowledged, within this time.
const P99_MS_MAX: f64 = 50.0;

/// What is known of one sender's events.
struct Seen {
    sender: &'static Sender,
    next: u64,
    /// When the last one was sent, in nanoseconds since 1970.
    sent_ns: u64,
    /// During this attack, from sending to storing, in microseconds.
    late_us: Vec<u64>,
    /// What was wrong during this attack: how often, and the first time.
    wrong: BTreeMap<&'static str, (u64, String)>,
}

/// The comparison, which goes on over all attacks.
pub(crate) struct Check {
    seen: Vec<Seen>,
    /// The sequence up to which all was compared.
    after: u64,
    /// Whether there are bounds on times.
    is_long: bool,
    pub(crate) wrong: Vec<String>,
}

impl Check {
    pub(crate) fn new(senders: &'static [Sender], is_long: bool) -> Self {
        let fresh = |sender| Seen { sender, next: 1, sent_ns: 0, late_us: Vec::new(), wrong: BTreeMap::new() };
        Self { seen: senders.iter().map(fresh).collect(), after: 0, is_long, wrong: Vec::new() }
    }

    /// Waits until of each sender something is stored that it sent after an attack, and compares all up to there. Gives
    /// the times of each sender for a table.
    pub(crate) fn attack(&mut self, machine: &Machine, attack: &str) -> String {
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64;
        let recovered = wait_within(TIMEOUT, || {
            self.compare(machine);
            self.seen.iter().all(|seen| seen.sent_ns > now_ns).then_some(())
        });
        if recovered.is_none() {
            self.wrong.push(format!("{attack}: {TIMEOUT:?} later not all senders have an event stored"));
        }
        let mut times = String::new();
        for Seen { sender: Sender { name, .. }, late_us, wrong, .. } in &mut self.seen {
            let [p99, max] = [0.99, 1.0].map(|share| percentile_ms(late_us, share));
            times.push_str(&format!("  {name} {p99:.1} {max:.1}"));
            if self.is_long && p99 > P99_MS_MAX {
                self.wrong.push(format!("{attack}: {name}: 99 % are stored within {p99:.1} ms"));
            }
            let of_attack = std::mem::take(wrong).into_iter();
            self.wrong.extend(of_attack.map(|(kind, (times, first))| {
                format!("{attack}: {name}: {times} events are {kind}; the first: {first}")
            }));
            late_us.clear();
        }
        times
    }

    /// Takes in what was stored since the last time.
    fn compare(&mut self, machine: &Machine) {
        let after = self.after.to_string();
        let uids: Vec<String> = self.seen.iter().map(|seen| format!("--uid={}", seen.sender.uid)).collect();
        let mut command = vec!["dbufctl", "cat", "-o", "json", "--after", &after];
        command.extend(uids.iter().map(String::as_str));
        let output = machine.exec(&command);
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            self.event(&serde_json::from_str(line).expect("an object a line"));
        }
        if !matches!(output.status.code(), Some(0 | 3)) {
            self.wrong.push(format!("cat: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }

    fn event(&mut self, event: &Value) {
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        self.after = text("__SEQNUM").parse().unwrap_or(self.after);
        let whose = attack::parse(text("MESSAGE")).and_then(|(name, number, sent_ns)| {
            Some((self.seen.iter_mut().find(|seen| seen.sender.name == name)?, number, sent_ns))
        });
        let Some((seen, number, sent_ns)) = whose else {
            return self.wrong.push(format!("no sender's, or a loss of one: {event}"));
        };
        let Sender { name, uid, .. } = *seen.sender;
        let mut say = |is_wrong: bool, kind, what: &dyn Fn() -> String| {
            if is_wrong {
                seen.wrong.entry(kind).or_insert_with(|| (0, what())).0 += 1;
            }
        };
        let next = seen.next;
        say(number != next, "missing, twice or out of order", &|| format!("{number} comes where {next} was due"));
        let names = (text("_UID"), text("_COMM"), text("_SYSTEMD_UNIT"));
        let (uid, unit) = (uid.to_string(), format!("{name}.service"));
        say(names != (&uid, name, &unit), "under a wrong name", &|| format!("{number} has {names:?}"));
        let stored_ns: u64 = text("__TIME_NS").parse().expect("a time");
        let late_us = stored_ns.saturating_sub(sent_ns) / 1000;
        say(Duration::from_micros(late_us) > LATE, "late", &|| format!("{number} by {late_us} us"));
        seen.late_us.push(late_us);
        (seen.next, seen.sent_ns) = (number + 1, sent_ns);
    }

    /// Compares with what the senders report, with the account, and with every byte.
    pub(crate) fn finish(&mut self, machine: &Machine, reports: &[Value]) {
        machine.run(&["dbufctl", "sync"]);
        self.compare(machine);
        let json = |command: &str| -> Value {
            serde_json::from_slice(&machine.exec(&["dbufctl", command, "--json"]).stdout).unwrap_or_default()
        };
        let (account, verified) = (json("account"), json("verify"));
        if account["ok"] != true || account["daemon"] != true {
            self.wrong.push(format!("the account does not add up: {}", account["findings"]));
        }
        if verified["ok"] != true {
            let (damaged, gaps) = (&verified["damaged_places"], &verified["gaps"]);
            self.wrong.push(format!("verify: {damaged} damaged places, gaps {gaps}"));
        }
        for (Seen { sender: Sender { name, uid, .. }, next, .. }, report) in self.seen.iter().zip(reports) {
            let stored = next - 1;
            if report["sent"] != stored || !report["wrong"].is_null() {
                self.wrong.push(format!("{name}: {stored} events are there, and its report is {report}"));
            }
            let figures = ["sent", "stored", "lost_total"].map(|figure| sum(&account, *uid, figure));
            if figures != [stored, stored, 0] {
                self.wrong.push(format!("{name}: by the account sent, stored and lost are {figures:?} of {stored}"));
            }
            if self.is_long && report["p99_ms"].as_f64().is_none_or(|p99| p99 > P99_MS_MAX) {
                self.wrong.push(format!("{name}: its report is {report}"));
            }
        }
    }
}

/// A figure of the account's rows that are this user's.
fn sum(account: &Value, uid: u32, figure: &str) -> u64 {
    let rows = account["producers"].as_array().map_or(&[][..], Vec::as_slice);
    rows.iter().filter(|row| row["uid"] == uid).filter_map(|row| row[figure].as_u64()).sum()
}

fn percentile_ms(late_us: &mut [u64], share: f64) -> f64 {
    late_us.sort_unstable();
    let at = (late_us.len() as f64 * share) as usize;
    late_us.get(at.min(late_us.len().saturating_sub(1))).map_or(0.0, |us| *us as f64 / 1000.0)
}
