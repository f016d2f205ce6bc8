//! Compares what was sent with what is in the files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use crate::payload::{self, SHORT};
use crate::senders::Sent;

/// Of each thing that is wrong, at most this many are named.
const NAMED_MAX: usize = 5;

/// Figures of one kind of producer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) sent: u64,
    pub(crate) refused: u64,
    pub(crate) stored: u64,
    pub(crate) missing: u64,
    /// Of connections that are gone as a whole.
    pub(crate) unaccepted: u64,
    pub(crate) twice: u64,
    pub(crate) late: u64,
    pub(crate) bytes: u64,
}

/// What was found in one epoch.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) kinds: BTreeMap<String, Figures>,
    /// Events that no producer sent like this.
    pub(crate) altered: u64,
    /// Short connections of which nothing is there. A daemon that dies after it has accepted one, and before it has
    /// read from it or systemd has it, takes it along; that is known, and happens once for a death and writer at most.
    pub(crate) unaccepted: u64,
    /// Lost events by cause and transport.
    pub(crate) lost: BTreeMap<(String, String), u64>,
    pub(crate) wrong: Vec<String>,
}

/// What is expected of one producer, and how much has been seen.
struct Expected {
    next: u64,
    end: u64,
    missing: BTreeSet<u64>,
}

impl Found {
    /// Reads what `dbufctl cat -o cat` prints, and compares.
    pub(crate) fn events(&mut self, sent: &[Sent], output: impl Read) {
        let mut expected: HashMap<&str, Expected> = HashMap::new();
        for Sent { name, numbers, too_big } in sent {
            let kind = self.kinds.entry(payload::kind(name).to_owned()).or_default();
            kind.sent += numbers.end - numbers.start + too_big;
            kind.refused += too_big;
            let missing = BTreeSet::new();
            expected.insert(name, Expected { next: numbers.start, end: numbers.end, missing });
        }
        let mut reader = BufReader::with_capacity(1 << 20, output);
        let (mut line, mut made) = (Vec::new(), Vec::new());
        while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            self.event(&line, &mut expected, &mut made);
            line.clear();
        }
        for (name, expected) in expected {
            let missing: Vec<u64> = expected.missing.into_iter().chain(expected.next..expected.end).collect();
            if payload::kind(name) == SHORT && missing.len() as u64 == expected.end {
                self.kind(name).unaccepted += expected.end;
                self.unaccepted += 1;
            } else if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
                self.kind(name).missing += missing.len() as u64;
                self.wrong.push(format!("{name}: {} missing, from {first} to {last}", missing.len()));
            }
        }
    }

    fn kind(&mut self, name: &str) -> &mut Figures {
        self.kinds.entry(payload::kind(name).to_owned()).or_default()
    }

    fn event(&mut self, line: &[u8], expected: &mut HashMap<&str, Expected>, made: &mut Vec<u8>) {
        let whose = payload::parse(line).and_then(|(name, number)| Some((name, number, expected.get_mut(name)?)));
        let Some((name, number, expected)) = whose.filter(|(name, number, _)| {
            made.clear();
            payload::put(made, name, *number);
            made == line
        }) else {
            self.altered += 1;
            let shown = String::from_utf8_lossy(&line[..line.len().min(60)]);
            return self.say(format!("altered, or nobody's: {shown:?}, {} bytes", line.len()));
        };
        let kind = self.kind(name);
        if (expected.next..expected.end).contains(&number) {
            kind.stored += 1;
            kind.bytes += line.len() as u64;
            expected.missing.extend(expected.next..number);
            expected.next = number + 1;
        } else if expected.missing.remove(&number) {
            kind.stored += 1;
            kind.late += 1;
            self.say(format!("{name}: {number} comes late"));
        } else {
            kind.twice += 1;
            self.say(format!("{name}: {number} is there twice, or was not sent"));
        }
    }

    fn say(&mut self, what: String) {
        if self.wrong.len() < NAMED_MAX {
            self.wrong.push(what);
        }
    }

    /// Takes what `dbufctl cat -o json` says of losses, and compares with what had to be refused.
    pub(crate) fn losses(&mut self, sent: &[Sent], json: &str) {
        for line in json.lines() {
            let loss: Value = serde_json::from_str(line).expect("an object a line");
            let text = |name: &str| loss[name].as_str().unwrap_or_default().to_owned();
            let events: u64 = text("DBUF_LOST").parse().unwrap_or(0);
            *self.lost.entry((text("DBUF_CAUSE"), text("_TRANSPORT"))).or_default() += events;
        }
        let mut due: BTreeMap<(String, String), u64> = BTreeMap::new();
        for Sent { name, too_big, .. } in sent.iter().filter(|sent| sent.too_big > 0) {
            let transport = if payload::kind(name) == "refused" { "dgram" } else { "frames" };
            *due.entry(("too_big".to_owned(), transport.to_owned())).or_default() += too_big;
        }
        if self.lost != due {
            self.wrong.push(format!("lost, by the records of losses: {:?}; refused were: {due:?}", self.lost));
        }
    }

    /// Events that must be in the files.
    pub(crate) fn due(sent: &[Sent]) -> u64 {
        sent.iter().map(|sent| sent.numbers.end - sent.numbers.start).sum()
    }
}

#[test]
fn what_is_missing_twice_late_or_altered_is_told() {
    let sent = [Sent { name: "lines1".to_owned(), numbers: 3..9, too_big: 2 }];
    let lines: Vec<Vec<u8>> = [3, 5, 4, 5, 7].into_iter().map(|number| payload::text("lines1", number)).collect();
    let mut output = lines.join(&b'\n');
    output.extend_from_slice(b"\nlines1 6 cut\nother 1 x.\n");
    let mut found = Found::default();
    found.events(&sent, output.as_slice());
    let kind = found.kinds["lines"];
    assert_eq!((kind.sent, kind.refused, kind.stored, kind.missing, kind.twice, kind.late), (8, 2, 4, 2, 1, 1));
    assert_eq!((found.altered, found.wrong.len()), (2, 5));
    found.losses(&sent, "{\"DBUF_LOST\":\"1\",\"DBUF_CAUSE\":\"too_big\",\"_TRANSPORT\":\"frames\"}\n");
    assert_eq!(found.wrong.len(), 6);
}
