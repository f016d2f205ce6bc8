//! Prints events and losses as text: one [`Printer`] for all formats.
//!
//! Input: borrowed views of what a segment holds. Output: bytes appended to one reused buffer. Nothing can fail.
//!
//! Clients choose what payloads, tags and fields contain. A terminal never gets a control byte of them, in any format.
//! A pipe gets the bytes unchanged from `cat`, `raw`, `json` and `export` (in JSON's own escapes), while the formats
//! for people make control bytes visible there, too.

pub(crate) mod clock;
mod fields;
mod format;
mod lines;
mod view;

use super::select::{Cursor, priority};
use crate::escape::{put_decimal, put_json, put_visible};
use clock::{Clock, Style};
pub(crate) use format::{Format, FormatArgs};
use jiff::tz::TimeZone;
pub(crate) use view::{EventView, LossView};

/// Passes all names under which an event is printed to `take`, each with its values.
pub(crate) fn names(event: &EventView<'_>, take: &mut dyn FnMut(&str, &[&[u8]])) {
    fields::Names::default().event(event, take);
}

/// Prints events in one format.
#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
    /// Whether standard output is a terminal, which obeys control bytes.
    terminal: bool,
    color: bool,
    clock: Clock,
    /// A line feed and the spaces under the prefix, for all lines of a payload after the first.
    indent: Vec<u8>,
    names: fields::Names,
}

impl Printer {
    pub(crate) fn new(format: Format, terminal: bool, color: bool, zone: TimeZone) -> Self {
        let style = match format {
            Format::ShortIso => Style::Iso,
            Format::ShortPrecise => Style::Precise,
            Format::Verbose => Style::Full,
            _ => Style::Short,
        };
        let clock = Clock::new(zone, style);
        Self { format, terminal, color, clock, indent: Vec::new(), names: fields::Names::default() }
    }

    /// Appends one event.
    pub(crate) fn event(&mut self, out: &mut Vec<u8>, event: &EventView<'_>) {
        match self.format {
            Format::Cat => {
                self.bare(out, event.payload);
                out.push(b'\n');
            }
            Format::Raw => self.bare(out, event.payload),
            Format::Short | Format::ShortIso | Format::ShortPrecise => self.short(out, event),
            Format::Json => {
                out.push(b'{');
                self.names.event(event, &mut |name, values| json_member(out, name, values));
                close_object(out);
            }
            Format::Verbose => {
                self.verbose_head(out, event.record.time_ns, Some(event.cursor));
                self.names.event(event, &mut |name, values| verbose_field(out, name, values));
            }
            Format::Export => {
                let terminal = self.terminal;
                self.names.event(event, &mut |name, values| export_field(out, name, values, terminal));
                out.push(b'\n');
            }
        }
    }

    /// Appends a loss. `cat` and `raw` show payloads, and a loss has none.
    pub(crate) fn loss(&mut self, out: &mut Vec<u8>, lost: &LossView<'_>) {
        match self.format {
            Format::Cat | Format::Raw => {}
            Format::Short | Format::ShortIso | Format::ShortPrecise | Format::Verbose => self.loss_line(out, lost),
            Format::Json => {
                out.push(b'{');
                self.names.loss(lost, &mut |name, values| json_member(out, name, values));
                close_object(out);
            }
            Format::Export => {
                let terminal = self.terminal;
                self.names.loss(lost, &mut |name, values| export_field(out, name, values, terminal));
                out.push(b'\n');
            }
        }
    }

    fn bare(&self, out: &mut Vec<u8>, payload: &[u8]) {
        if self.terminal { put_visible(out, payload, b"\n") } else { out.extend_from_slice(payload) }
    }
}

fn json_member(out: &mut Vec<u8>, name: &str, values: &[&[u8]]) {
    // Names are fixed, or consist of capitals, digits and underscores: nothing to escape.
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    if let [value] = values {
        put_json(out, value);
    } else {
        out.push(b'[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            put_json(out, value);
        }
        out.push(b']');
    }
    out.push(b',');
}

/// Ends an object whose last member has left a comma.
fn close_object(out: &mut Vec<u8>) {
    out.pop();
    out.extend_from_slice(b"}\n");
}

fn verbose_field(out: &mut Vec<u8>, name: &str, values: &[&[u8]]) {
    for value in values {
        out.extend_from_slice(b"    ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        put_visible(out, value, b"\n        ");
        out.push(b'\n');
    }
}

/// Writes `NAME=value` if the value is text without control characters; otherwise the name, the length as 64 bits
/// little-endian, and the value.
///
/// systemd-journal-remote warns about each unknown double underscore. So the full time gets a name that it stores, and
/// the sequence is in the cursor.
fn export_field(out: &mut Vec<u8>, name: &str, values: &[&[u8]], terminal: bool) {
    let name = match name {
        "__SEQNUM" => return,
        "__TIME_NS" => "DBUF_TIME_NS",
        name => name,
    };
    for value in values {
        out.extend_from_slice(name.as_bytes());
        if terminal {
            out.push(b'=');
            put_visible(out, value, b"\\x0a");
        } else if is_export_text(value) {
            out.push(b'=');
            out.extend_from_slice(value);
        } else {
            out.push(b'\n');
            out.extend_from_slice(&(value.len() as u64).to_le_bytes());
            out.extend_from_slice(value);
        }
        out.push(b'\n');
    }
}

fn is_export_text(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte >= b' ' || byte == b'\t') && std::str::from_utf8(value).is_ok()
}

#[cfg(test)]
mod tests;
