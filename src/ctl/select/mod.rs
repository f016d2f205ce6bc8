//! Selects events: the filters of `cat` and `tail`.
//!
//! Input: what was typed, then borrowed records. Output: yes or no, and the ranges of time and sequence outside which
//! nothing has to be read. Failures: what was typed.

mod args;
pub(crate) mod cursor;
pub(crate) mod priority;
pub(crate) mod when;

pub(crate) use args::SelectionArgs;
pub(crate) use cursor::Cursor;

use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;

use jiff::Zoned;
use regex::bytes::{Regex, RegexBuilder};

use super::failure::Failure;
use super::print::{self, EventView};
use super::values::{Boot, parse_id};
use crate::pipeline::record::{Record, Source};
use crate::pipeline::store::scan::{StoredEvent, Wanted};

/// The suffixes of systemd's unit types; a name without one is a service.
const UNIT_TYPES: [&str; 11] = [
    ".service",
    ".socket",
    ".timer",
    ".scope",
    ".slice",
    ".mount",
    ".automount",
    ".path",
    ".target",
    ".swap",
    ".device",
];

/// The pieces of an over-long line come before its end, so reading begins this much before the first wanted event.
const PIECES_NS: u64 = 1_000_000_000;

/// Which events are wanted.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    /// Acceptance times, both ends included.
    pub(crate) time_ns: RangeInclusive<u64>,
    /// The lowest sequence.
    pub(crate) first_sequence: u64,
    /// Losses before this event are not shown; they have no sequence of their own. 0: all are shown.
    pub(crate) losses_behind: u64,
    /// The stream that a cursor named.
    pub(crate) stream: Option<u128>,
    /// The boot.
    pub(crate) boot: Option<u128>,
    priority: Option<RangeInclusive<u8>>,
    senders: Senders,
    grep: Option<Regex>,
    /// Names, and the values of which an event must have one.
    fields: Vec<(String, Vec<Vec<u8>>)>,
}

/// Filters on the sender. Each list is empty if it does not matter.
#[derive(Clone, Debug, Default)]
struct Senders {
    tags: Vec<Vec<u8>>,
    units: Vec<Unit>,
    pids: Vec<u32>,
    uids: Vec<u32>,
}

#[derive(Clone, Debug)]
enum Unit {
    Name(Vec<u8>),
    Pattern(Regex),
}

impl Selection {
    /// Parses what was typed at the time `now`.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what cannot be parsed.
    pub(crate) fn new(args: &SelectionArgs, now: &Zoned) -> Result<Self, Failure> {
        let time = |text: &Option<String>, name: &str| {
            let parsed = text.as_deref().map(|text| when::parse(text, now)).transpose();
            parsed.map_err(|error| Failure::Usage(format!("{name}: {error}")))
        };
        let since = time(&args.since, "--since")?.unwrap_or(0);
        // Journal times have microseconds: a time copied from one includes the whole microsecond.
        let until = time(&args.until, "--until")?.map_or(u64::MAX, |ns| if ns % 1000 == 0 { ns + 999 } else { ns });
        if since > until {
            return Err(Failure::Usage(
                "--since: it is later than --until, so nothing can match; swap them".to_owned(),
            ));
        }
        let after = args.after.map_or(0, |sequence| sequence.saturating_add(1));
        let cursor = args.cursor.map_or(0, |cursor| cursor.sequence);
        let boot = match args.boot {
            None => None,
            Some(Boot::Id(id)) => Some(id),
            Some(Boot::Current) => Some(current_boot()?),
        };
        Ok(Self {
            time_ns: since..=until,
            first_sequence: after.max(cursor),
            losses_behind: args.after.unwrap_or(0).max(cursor),
            stream: args.cursor.map(|cursor| cursor.stream),
            boot,
            priority: args.priority.clone(),
            senders: Senders {
                tags: args.tag.iter().map(|tag| tag.as_bytes().to_vec()).collect(),
                units: args.unit.iter().map(|text| unit(text)).collect::<Result<_, _>>()?,
                pids: args.pid.clone(),
                uids: args.uid.clone(),
            },
            grep: args.grep.as_deref().map(grep).transpose()?,
            fields: by_name(&args.fields),
        })
    }

    /// Whether the filters name a start: then `--follow` shows everything from there, and not only the last events.
    pub(crate) fn has_beginning(&self) -> bool {
        *self.time_ns.start() > 0 || self.first_sequence > 0
    }

    /// Whether an event with this payload, its pieces joined, is wanted.
    #[inline]
    pub(crate) fn wants_event(&self, event: &StoredEvent<'_>, payload: &[u8]) -> bool {
        event.sequence.is_some_and(|sequence| self.wants(sequence, &event.record, &event.source, payload))
            && self.boot.is_none_or(|boot| boot == event.boot_id)
            && (self.fields.is_empty() || self.finds_fields(event, payload))
    }

    /// Whether it has each requested field, under the names that are printed.
    fn finds_fields(&self, event: &StoredEvent<'_>, payload: &[u8]) -> bool {
        let cursor = Cursor { stream: event.stream_id, sequence: event.sequence.unwrap_or(0) };
        let (boot, record, source) = (event.boot_id, event.record, event.source);
        let mut found = vec![false; self.fields.len()];
        print::names(&EventView { cursor, boot, record, payload, source }, &mut |name, values| {
            for ((wanted, any), found) in self.fields.iter().zip(&mut found) {
                *found |= wanted == name && any.iter().any(|one| values.contains(&one.as_slice()));
            }
        });
        found.into_iter().all(|found| found)
    }

    /// The cheapest tests come first, the text last.
    #[inline]
    fn wants(&self, sequence: u64, record: &Record<'_>, source: &Source<'_>, payload: &[u8]) -> bool {
        self.time_ns.contains(&record.time_ns)
            && sequence >= self.first_sequence
            && self.priority.as_ref().is_none_or(|range| range.contains(&record.priority()))
            && self.senders.includes(source)
            && self.grep.as_ref().is_none_or(|regex| regex.is_match(payload))
    }

    /// What has to be read at all: from the sequence `read_from` on, of the senders that `source` accepts.
    pub(crate) fn wanted<'w>(&self, read_from: u64, source: &'w dyn Fn(&Source<'_>) -> bool) -> Wanted<'w> {
        Wanted {
            from_sequence: read_from,
            from_ns: self.time_ns.start().saturating_sub(PIECES_NS),
            until_ns: Some(*self.time_ns.end()),
            source: Some(source),
        }
    }

    /// Whether a sender is wanted.
    pub(crate) fn wants_source(&self, source: &Source<'_>) -> bool {
        self.senders.includes(source)
    }

    /// Whether a loss is wanted: yes if one of the lost events might have been. Their text and priority are unknown.
    pub(crate) fn wants_loss(&self, time_ns: u64, source: &Source<'_>) -> bool {
        self.time_ns.contains(&time_ns) && self.senders.includes(source)
    }
}

impl Senders {
    #[inline]
    fn includes(&self, source: &Source<'_>) -> bool {
        (self.tags.is_empty() || self.tags.iter().any(|tag| tag == source.tag))
            && (self.units.is_empty() || self.units.iter().any(|unit| unit.is(source.unit)))
            && (self.pids.is_empty() || self.pids.contains(&source.pid))
            && (self.uids.is_empty() || source.user().is_some_and(|(uid, _)| self.uids.contains(&uid)))
    }
}

impl Unit {
    fn is(&self, name: &[u8]) -> bool {
        match self {
            Self::Name(wanted) => wanted == name,
            Self::Pattern(pattern) => pattern.is_match(name),
        }
    }
}

fn unit(text: &str) -> Result<Unit, Failure> {
    let name = if UNIT_TYPES.iter().any(|suffix| text.ends_with(suffix)) {
        text.to_owned()
    } else {
        format!("{text}.service")
    };
    if !name.contains(['*', '?']) {
        return Ok(Unit::Name(name.into_bytes()));
    }
    let pattern = regex::escape(&name).replace("\\*", ".*").replace("\\?", ".");
    let built = RegexBuilder::new(&format!("^{pattern}$")).unicode(false).dot_matches_new_line(true).build();
    built.map(Unit::Pattern).map_err(|error| Failure::Usage(format!("--unit: '{text}': {}", first_line(&error))))
}

/// The requested values of each name.
fn by_name(fields: &[(String, Vec<u8>)]) -> Vec<(String, Vec<Vec<u8>>)> {
    let mut by_name: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    for (name, value) in fields {
        match by_name.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value.clone()),
            None => by_name.push((name.clone(), vec![value.clone()])),
        }
    }
    by_name
}

/// As in journalctl, a pattern without a capital letter ignores case.
fn grep(pattern: &str) -> Result<Regex, Failure> {
    let built = RegexBuilder::new(pattern).case_insensitive(!pattern.chars().any(char::is_uppercase)).build();
    built.map_err(|error| {
        let shown = pattern.escape_default();
        Failure::Usage(format!("--grep: '{shown}' is not a regular expression: {}", first_line(&error)))
    })
}

/// The regex crate spreads its errors over several lines; the last says what is wrong.
fn first_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn current_boot() -> Result<u128, Failure> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH).ok();
    let why = || Failure::Usage(format!("--boot: {PATH} cannot be read; name the boot with --boot=ID"));
    text.as_deref().and_then(parse_id).ok_or_else(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::record::{Event, Transport, USER_UNKNOWN};

    fn selection(args: &SelectionArgs) -> Selection {
        let now: Zoned = "2026-11-23T12:00:00+00:00[UTC]".parse().unwrap();
        Selection::new(args, &now).unwrap()
    }

    fn wants(args: &SelectionArgs, event: &Event<'_>, source: &Source<'_>) -> bool {
        let mut bytes = Vec::new();
        event.encode(&mut bytes);
        let (record, _) = Record::decode(&bytes).unwrap();
        selection(args).wants(5, &record, source, record.payload())
    }

    fn args() -> SelectionArgs {
        SelectionArgs::default()
    }

    #[test]
    fn every_filter_lets_through_what_it_names_and_nothing_else() {
        let source = Source { pid: 7, uid: 1000, tag: b"app", unit: b"app.service", ..Source::default() };
        let event = Event { time_ns: 60_000_000_123, pri: 4, payload: b"Disk Full", ..Event::default() };
        for (args, expected) in [
            (args(), true),
            (SelectionArgs { since: Some("@60".into()), ..args() }, true),
            (SelectionArgs { since: Some("@61".into()), ..args() }, false),
            (SelectionArgs { until: Some("@60".into()), ..args() }, true),
            (SelectionArgs { until: Some("@59".into()), ..args() }, false),
            (SelectionArgs { after: Some(4), ..args() }, true),
            (SelectionArgs { after: Some(5), ..args() }, false),
            (SelectionArgs { cursor: Some(Cursor { stream: 1, sequence: 5 }), ..args() }, true),
            (SelectionArgs { cursor: Some(Cursor { stream: 1, sequence: 6 }), ..args() }, false),
            (SelectionArgs { priority: Some(0..=4), ..args() }, true),
            (SelectionArgs { priority: Some(5..=7), ..args() }, false),
            (SelectionArgs { tag: vec!["x".into(), "app".into()], ..args() }, true),
            (SelectionArgs { tag: vec!["x".into()], ..args() }, false),
            (SelectionArgs { unit: vec!["app".into()], ..args() }, true),
            (SelectionArgs { unit: vec!["a*".into()], ..args() }, true),
            (SelectionArgs { unit: vec!["a?".into()], ..args() }, false),
            (SelectionArgs { unit: vec!["app.socket".into()], ..args() }, false),
            (SelectionArgs { pid: vec![7], uid: vec![1000], ..args() }, true),
            (SelectionArgs { pid: vec![8], ..args() }, false),
            (SelectionArgs { uid: vec![0], ..args() }, false),
            (SelectionArgs { grep: Some("disk f.ll".into()), ..args() }, true),
            (SelectionArgs { grep: Some("Disk".into()), ..args() }, true),
            (SelectionArgs { grep: Some("DISK".into()), ..args() }, false),
            (SelectionArgs { tag: vec!["app".into()], pid: vec![8], ..args() }, false),
        ] {
            assert_eq!(wants(&args, &event, &source), expected, "{args:?}");
        }
    }

    #[test]
    fn an_unknown_sender_is_not_root() {
        let event = Event { payload: b"x", ..Event::default() };
        for source in [
            Source { uid: USER_UNKNOWN, ..Source::default() },
            Source { transport: Transport::Internal, ..Source::default() },
        ] {
            assert!(!wants(&SelectionArgs { uid: vec![0], ..args() }, &event, &source), "{source:?}");
        }
    }

    #[test]
    fn a_sender_of_another_pid_namespace_is_found_by_its_user() {
        let event = Event { payload: b"x", ..Event::default() };
        for uid in [0, 1000] {
            let source = Source { pid: 0, uid, ..Source::default() };
            assert!(wants(&SelectionArgs { uid: vec![uid], ..args() }, &event, &source), "{uid}");
            assert!(!wants(&SelectionArgs { uid: vec![uid + 1], ..args() }, &event, &source), "{uid}");
        }
    }

    #[test]
    fn a_loss_is_wanted_where_one_of_the_lost_events_might_have_been() {
        let source = Source { tag: b"app", ..Source::default() };
        let wanted = selection(&SelectionArgs { tag: vec!["app".into()], grep: Some("x".into()), ..args() });
        assert!(wanted.wants_loss(1, &source));
        assert!(!wanted.wants_loss(1, &Source::default()));
    }

    #[test]
    fn what_cannot_be_understood_is_named_in_one_line() {
        let now: Zoned = "2026-11-23T12:00:00+00:00[UTC]".parse().unwrap();
        for (wrong, name) in [
            (SelectionArgs { since: Some("soon".into()), ..args() }, "--since"),
            (SelectionArgs { until: Some("25:00".into()), ..args() }, "--until"),
            (SelectionArgs { grep: Some("(".into()), ..args() }, "--grep"),
            (SelectionArgs { since: Some("now".into()), until: Some("-1min".into()), ..args() }, "--since"),
        ] {
            let error = Selection::new(&wrong, &now).unwrap_err().to_string();
            assert!(error.starts_with(name) && !error.contains('\n'), "{error}");
        }
    }
}
