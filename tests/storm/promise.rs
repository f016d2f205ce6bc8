//! What a client was promised, and what the files say of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::event;

/// Of each thing that is wrong, at most this many are named.
const NAMED_MAX: usize = 4;

/// What one sender has sent: numbers from 1 to `sent`, each to be there once and in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promise {
    pub(crate) sender: String,
    /// The way on which all of its events came.
    pub(crate) transport: &'static str,
    pub(crate) sent: u64,
    /// The documented gap: the daemon had accepted the connection, and died before the manager had it. Of these
    /// numbers the last ones may be missing.
    pub(crate) may_miss: Option<RangeInclusive<u64>>,
    /// The same gap with a ring: its client sends again what the daemon had not said that it took.
    pub(crate) may_repeat: Option<RangeInclusive<u64>>,
    /// A connection whose client left at once, and cannot know whether the manager ever had it.
    pub(crate) left: Option<String>,
    /// The line that was being written when such a connection broke. The end of a connection ends its last line, too.
    pub(crate) half: Option<Vec<u8>>,
}

impl Promise {
    /// What a client that left at once was promised: all, if the manager had its connection.
    pub(crate) fn settle(&mut self, has_taken: impl Fn(&str) -> bool) {
        if self.left.take_if(|connection| has_taken(connection)).is_none() && self.left.is_some() {
            self.may_miss = Some(1..=self.sent);
        }
    }
}

/// Where clients put what they know when they are done, and what goes wrong at once.
#[derive(Clone, Default)]
pub(crate) struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    promises: Vec<Promise>,
    wrong: Wrong,
    /// Connections, answers and the like, for the report.
    figures: BTreeMap<&'static str, u64>,
}

/// What is wrong, by kind.
#[derive(Debug, Default)]
pub(crate) struct Wrong(BTreeMap<&'static str, (u64, Vec<String>)>);

impl Wrong {
    pub(crate) fn say(&mut self, kind: &'static str, what: String) {
        let (count, named) = self.0.entry(kind).or_default();
        *count += 1;
        if named.len() < NAMED_MAX {
            named.push(what);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (kind, (count, named)) in &self.0 {
            writeln!(f, "  {kind}: {count}")?;
            named.iter().try_for_each(|what| writeln!(f, "    {what}"))?;
        }
        Ok(())
    }
}

impl Book {
    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn promise(&self, promise: Promise) {
        self.pages().promises.push(promise);
    }

    pub(crate) fn wrong(&self, kind: &'static str, what: String) {
        self.pages().wrong.say(kind, what);
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.pages().figures.entry(what).or_default() += 1;
    }

    /// Everything, when all clients are done.
    pub(crate) fn take(&self) -> (Vec<Promise>, Wrong, BTreeMap<&'static str, u64>) {
        let mut pages = self.pages();
        let Pages { promises, wrong, figures } = &mut *pages;
        (std::mem::take(promises), std::mem::take(wrong), std::mem::take(figures))
    }
}

/// What has been seen of one sender.
struct Seen<'a> {
    promise: &'a Promise,
    next: u64,
    missing: HashSet<u64>,
    /// The sequence of the first event in the files, and of the latest.
    first: String,
    last: String,
}

/// What the files hold.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) stored: u64,
    /// Events that the gap took, by what it was.
    pub(crate) gap: u64,
    pub(crate) repeated: u64,
    /// Connections whose clients had left, and of which something is missing.
    pub(crate) cut_off: u64,
    halves: u64,
}

impl Found {
    /// Compares what `dbufctl cat -o json` prints with what was promised.
    pub(crate) fn compare(promises: &[Promise], output: impl Read, wrong: &mut Wrong) -> Self {
        let mut found = Self::default();
        let mut seen: HashMap<&str, Seen<'_>> = HashMap::with_capacity(promises.len());
        for promise in promises {
            let fresh = Seen { promise, next: 1, missing: HashSet::new(), first: String::new(), last: String::new() };
            assert!(seen.insert(&promise.sender, fresh).is_none(), "two senders are called {}", promise.sender);
        }
        let mut halves: Vec<&[u8]> = promises.iter().filter_map(|promise| promise.half.as_deref()).collect();
        let mut reader = BufReader::with_capacity(1 << 20, output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            let event: Value = serde_json::from_slice(&line).expect("an object a line");
            line.clear();
            if event.get("DBUF_LOST").is_some() {
                wrong.say("a record of a loss", event.to_string());
                continue;
            }
            found.event(&event, &mut seen, &mut halves, wrong);
        }
        for (sender, seen) in seen {
            found.rest(sender, seen, wrong);
        }
        found
    }

    fn event<'a>(
        &mut self,
        event: &Value,
        seen: &mut HashMap<&str, Seen<'a>>,
        halves: &mut Vec<&'a [u8]>,
        wrong: &mut Wrong,
    ) {
        let payload = payload_of(event);
        let whose = event::parse(&payload).and_then(|(sender, number)| Some((number, seen.get_mut(sender)?)));
        let Some((number, seen)) = whose else {
            // A half line of a connection that broke is an event, as the last line of any connection is.
            if let Some(at) = halves.iter().position(|half| half.starts_with(&payload)) {
                halves.swap_remove(at);
                self.halves += 1;
                return;
            }
            let shown = String::from_utf8_lossy(&payload[..payload.len().min(100)]).into_owned();
            return wrong
                .say("nobody has sent this", format!("{shown:?}, {} bytes: {}", payload.len(), without(event)));
        };
        self.stored += 1;
        if event["_TRANSPORT"] != seen.promise.transport {
            let what = format!("{} {number} came as {}", seen.promise.sender, event["_TRANSPORT"]);
            wrong.say("mistaken for something else", what);
        }
        let sender = &seen.promise.sender;
        let sequence = event["__SEQNUM"].as_str().unwrap_or_default();
        if seen.first.is_empty() {
            sequence.clone_into(&mut seen.first);
        }
        let before = std::mem::replace(&mut seen.last, sequence.to_owned());
        if number >= seen.next {
            seen.missing.extend(seen.next..number);
            seen.next = number + 1;
        } else if seen.missing.remove(&number) {
            wrong.say("out of order", format!("{sender} {number}"));
        } else if seen.promise.may_repeat.as_ref().is_some_and(|may| may.contains(&number)) {
            self.repeated += 1;
        } else {
            let Seen { first, next, .. } = seen;
            let what = format!("{sender} {number} at {sequence}; its first is at {first}, the one before at {before}");
            wrong.say("twice", format!("{what}; next would be {next}"));
        }
    }

    /// What is missing in the end.
    fn rest(&mut self, sender: &str, seen: Seen<'_>, wrong: &mut Wrong) {
        let Seen { promise, next, missing, .. } = seen;
        let mut missing: Vec<u64> = missing.into_iter().chain(next..=promise.sent).collect();
        missing.sort_unstable();
        if let Some(may) = &promise.may_miss {
            // The last ones of it, without a hole.
            let before = missing.len();
            let mut last = *may.end();
            while missing.last().is_some_and(|number| *number == last && may.contains(number)) {
                missing.pop();
                last = last.saturating_sub(1);
            }
            self.gap += (before - missing.len()) as u64;
            self.cut_off += u64::from(promise.left.is_some() && before > missing.len());
        }
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            let what = format!("{sender}: {} of {}, from {first} to {last}", missing.len(), promise.sent);
            wrong.say("missing", what);
        }
    }
}

/// The event without its text.
fn without(event: &Value) -> String {
    let mut event = event.clone();
    if let Some(fields) = event.as_object_mut() {
        fields.remove("MESSAGE");
    }
    event.to_string()
}

fn payload_of(event: &Value) -> Vec<u8> {
    match &event["MESSAGE"] {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Array(bytes) => bytes.iter().filter_map(|byte| byte.as_u64().map(|byte| byte as u8)).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn what_is_missing_twice_out_of_order_or_nobodys_is_told() {
    let object = |sender: &str, number: u64, transport: &str| {
        let text = String::from_utf8(event::text(sender, number, 20)).unwrap();
        serde_json::json!({ "MESSAGE": text, "_TRANSPORT": transport }).to_string()
    };
    let mut events: Vec<String> = [1, 4, 3, 4].map(|number| object("long0.0", number, "lines")).into();
    events.push(object("framed0", 1, "lines"));
    events.push(object("gap0", 1, "lines"));
    events.push(serde_json::json!({ "MESSAGE": "long0.0 4 half", "_TRANSPORT": "lines" }).to_string());
    let promise =
        |sender: &str, transport, sent| Promise { sender: sender.into(), transport, sent, ..Promise::default() };
    let promises = [
        promise("long0.0", "lines", 5),
        promise("framed0", "frames", 1),
        Promise { may_miss: Some(1..=3), ..promise("gap0", "lines", 3) },
        Promise { may_miss: Some(1..=3), left: Some(String::new()), ..promise("short0", "lines", 3) },
    ];
    let mut wrong = Wrong::default();
    let found = Found::compare(&promises, events.join("\n").as_bytes(), &mut wrong);
    let counts: Vec<_> = wrong.0.iter().map(|(kind, (count, _))| (*kind, *count)).collect();
    let kinds = ["missing", "mistaken for something else", "nobody has sent this", "out of order", "twice"];
    assert_eq!(counts, kinds.map(|kind| (kind, 1)), "{wrong}");
    assert_eq!((found.stored, found.gap, found.cut_off, found.repeated), (6, 5, 1, 0));
    assert!(wrong.to_string().contains("long0.0: 2 of 5, from 2 to 5"), "{wrong}");
}
