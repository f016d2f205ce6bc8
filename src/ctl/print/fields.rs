//! Names what an event holds, as pairs of name and value with journalctl's names: what `json`, `verbose` and `export`
//! print.
//!
//! The kernel vouches for names that begin with an underscore. A client's own fields may have any name, so an unusual
//! name, or one that this file uses itself, is shown as `FIELD_...`. A client cannot forge a `_PID` that way.

use std::io::Write as _;

use super::view::{EventView, LossView};
use crate::pipeline::record::{Loss, Source, Transport};

/// Takes a name and all its values, usually one.
pub(super) type Take<'t> = dyn FnMut(&str, &[&[u8]]) + 't;

/// Names that a client's field cannot take.
const OWN_NAMES: [&str; 5] = ["MESSAGE", "PRIORITY", "SOURCE_REALTIME_TIMESTAMP", "SYSLOG_IDENTIFIER", "SYSLOG_PID"];
/// Prefixes of names that a client's field cannot take.
const OWN_PREFIXES: [&str; 3] = ["_", "DBUF_", "FIELD_"];

/// Makes names and values. Reuses its buffers from one event to the next.
#[derive(Debug, Default)]
pub(super) struct Names {
    scratch: Vec<u8>,
    stream: Id,
    boot: Id,
}

/// An id in hexadecimal, cached: it rarely changes, and 128 bits are slow to print.
#[derive(Debug, Default)]
struct Id {
    id: u128,
    digits: String,
}

impl Id {
    fn digits(&mut self, id: u128) -> &[u8] {
        if self.id != id || self.digits.is_empty() {
            (self.id, self.digits) = (id, format!("{id:032x}"));
        }
        self.digits.as_bytes()
    }
}

impl Names {
    /// Passes everything that is known of an event to `take`, the payload last.
    pub(super) fn event(&mut self, event: &EventView<'_>, take: &mut Take<'_>) {
        let record = &event.record;
        self.scratch.clear();
        self.scratch.extend_from_slice(b"s=");
        self.scratch.extend_from_slice(self.stream.digits(event.cursor.stream));
        self.scratch.extend_from_slice(b";n=");
        crate::escape::put_hexadecimal(&mut self.scratch, event.cursor.sequence);
        take("__CURSOR", &[&self.scratch]);
        self.number(take, "__SEQNUM", event.cursor.sequence);
        self.number(take, "__REALTIME_TIMESTAMP", record.time_ns / 1000);
        self.number(take, "__TIME_NS", record.time_ns);
        take("_BOOT_ID", &[self.boot.digits(event.boot)]);
        self.number(take, "PRIORITY", u64::from(record.priority()));
        // The facility 0 is the kernel's. In files of older versions it is a sender's claim.
        if event.source.transport == Transport::Syslog && record.facility() != 0 {
            self.number(take, "SYSLOG_FACILITY", u64::from(record.facility()));
        }
        self.identity(take, &event.source);
        if let Some(time) = record.source_time_ns() {
            self.number(take, "SOURCE_REALTIME_TIMESTAMP", time / 1000);
        }
        if let Some(sequence) = record.producer_sequence() {
            self.number(take, "DBUF_PRODUCER_SEQUENCE", sequence);
        }
        client_fields(record.fields(), event.source.transport, take);
        take("MESSAGE", &[event.payload]);
    }

    /// Passes everything that is known of lost events to `take`. There is no `MESSAGE` and no `__SEQNUM`, so that
    /// programs do not count it as an event.
    pub(super) fn loss(&mut self, lost: &LossView<'_>, take: &mut Take<'_>) {
        let Loss { cause, events, bytes, first_ns, last_ns } = lost.loss;
        self.number(take, "__REALTIME_TIMESTAMP", lost.time_ns / 1000);
        self.number(take, "__TIME_NS", lost.time_ns);
        self.number(take, "DBUF_LOST", events);
        take("DBUF_CAUSE", &[cause.name().as_bytes()]);
        self.number(take, "DBUF_LOST_BYTES", bytes);
        self.number(take, "DBUF_LOST_FIRST_NS", first_ns);
        self.number(take, "DBUF_LOST_LAST_NS", last_ns);
        self.identity(take, &lost.source);
    }

    fn identity(&mut self, take: &mut Take<'_>, source: &Source<'_>) {
        if !source.tag.is_empty() {
            take("SYSLOG_IDENTIFIER", &[source.tag]);
        }
        if source.claimed_pid != 0 {
            self.number(take, "SYSLOG_PID", u64::from(source.claimed_pid));
        }
        if source.pid != 0 {
            self.number(take, "_PID", u64::from(source.pid));
        }
        if let Some((uid, gid)) = source.user() {
            self.number(take, "_UID", u64::from(uid));
            self.number(take, "_GID", u64::from(gid));
        }
        if !source.comm.is_empty() {
            take("_COMM", &[source.comm]);
        }
        if !source.unit.is_empty() {
            take("_SYSTEMD_UNIT", &[source.unit]);
        }
        take("_TRANSPORT", &[source.transport.name().as_bytes()]);
        if source.session != 0 {
            self.text(take, "DBUF_SESSION", format_args!("{:032x}", source.session));
        }
    }

    fn number(&mut self, take: &mut Take<'_>, name: &str, number: u64) {
        self.scratch.clear();
        crate::escape::put_decimal(&mut self.scratch, number);
        take(name, &[&self.scratch]);
    }

    fn text(&mut self, take: &mut Take<'_>, name: &str, text: std::fmt::Arguments<'_>) {
        self.scratch.clear();
        self.scratch.write_fmt(text).expect("a vector takes all that is written");
        take(name, &[&self.scratch]);
    }
}

/// The client's fields, with all values of one name together: journalctl shows them as an array.
fn client_fields<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>, transport: Transport, take: &mut Take<'_>) {
    let shown = |(name, value)| (shown_name(name, value, transport), value);
    let mut named: Vec<(String, &[u8])> = fields.map(shown).collect();
    // Stable: values of one name keep their order.
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for group in named.chunk_by(|a, b| a.0 == b.0) {
        let values: Vec<&[u8]> = group.iter().map(|(_, value)| *value).collect();
        take(&group[0].0, &values);
    }
}

fn shown_name(name: &[u8], value: &[u8], transport: Transport) -> String {
    let plain: String = name
        .iter()
        .map(|byte| byte.to_ascii_uppercase())
        .map(|byte| if byte.is_ascii_uppercase() || byte.is_ascii_digit() { char::from(byte) } else { '_' })
        .collect();
    let taken = plain.as_bytes() != name
        || plain.starts_with(|first: char| first.is_ascii_digit())
        || OWN_PREFIXES.iter().any(|prefix| plain.starts_with(prefix))
        || OWN_NAMES.contains(&plain.as_str())
        || (plain == "SYSLOG_FACILITY" && (transport == Transport::Syslog || !is_facility(value)));
    if taken { format!("FIELD_{plain}") } else { plain }
}

/// Whether a client may claim this facility: 1 to 23, because 0 is the kernel's.
fn is_facility(value: &[u8]) -> bool {
    let number = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|text| text.parse().ok()).is_some_and(|number: u8| (1..=23).contains(&number))
}
