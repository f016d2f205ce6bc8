//! Prints the formats for people: `short` and its variants, the heads of `verbose`, and the line for lost events.

use super::{Cursor, EventView, LossView, Printer, priority, put_decimal, put_visible};
use crate::pipeline::record::Source;

const RESET: &[u8] = b"\x1b[0m";

/// journalctl's colors: red for errors and worse, yellow for warnings, bright for notices, grey for debugging.
fn color_of(priority: u8) -> &'static [u8] {
    match priority {
        0..=3 => b"\x1b[0;1;31m",
        4 => b"\x1b[0;1;38;5;185m",
        5 => b"\x1b[0;1;39m",
        7 => b"\x1b[0;38;5;245m",
        _ => b"",
    }
}

impl Printer {
    /// `Nov 23 05:13:16 tag[pid]: text`
    pub(super) fn short(&mut self, out: &mut Vec<u8>, event: &EventView<'_>) {
        let start = out.len();
        self.clock.put(out, event.record.time_ns);
        out.push(b' ');
        put_identity(out, &event.source);
        out.extend_from_slice(b": ");
        let columns = String::from_utf8_lossy(&out[start..]).chars().count();
        let color = if self.color { color_of(event.record.priority()) } else { b"" };
        out.extend_from_slice(color);
        // A line feed at the end would only add an empty line.
        let text = event.payload.strip_suffix(b"\n").unwrap_or(event.payload);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        self.indent.clear();
        self.indent.push(b'\n');
        self.indent.resize(1 + columns, b' ');
        put_visible(out, text, &self.indent);
        if !color.is_empty() {
            out.extend_from_slice(RESET);
        }
        out.push(b'\n');
    }

    /// `Mon 2026-11-23 05:13:16.123456789 UTC [cursor]`
    pub(super) fn verbose_head(&mut self, out: &mut Vec<u8>, time_ns: u64, cursor: Option<Cursor>) {
        self.clock.put(out, time_ns);
        if let Some(cursor) = cursor {
            out.extend_from_slice(format!(" [{cursor}]").as_bytes());
        }
        out.push(b'\n');
    }

    /// `-- Nov 23 05:13:16 3 events of tag[pid] lost (too_big) --`
    pub(super) fn loss_line(&mut self, out: &mut Vec<u8>, lost: &LossView<'_>) {
        if self.color {
            out.extend_from_slice(color_of(priority::WARNING));
        }
        out.extend_from_slice(b"-- ");
        self.clock.put(out, lost.time_ns);
        out.push(b' ');
        put_decimal(out, lost.loss.events);
        out.extend_from_slice(if lost.loss.events == 1 { b" event of " } else { b" events of " });
        put_identity(out, &lost.source);
        out.extend_from_slice(format!(" lost ({}) --", lost.loss.cause.name()).as_bytes());
        if self.color {
            out.extend_from_slice(RESET);
        }
        out.push(b'\n');
    }
}

/// `tag[pid]`. Without a tag the command's name is used, as in journalctl.
fn put_identity(out: &mut Vec<u8>, source: &Source<'_>) {
    let name = match (source.tag, source.comm) {
        (b"", b"") => b"unknown",
        (b"", comm) => comm,
        (tag, _) => tag,
    };
    put_visible(out, name, b"\\x0a");
    let pid = if source.pid != 0 { source.pid } else { source.claimed_pid };
    if pid != 0 {
        out.push(b'[');
        put_decimal(out, u64::from(pid));
        out.push(b']');
    }
}
