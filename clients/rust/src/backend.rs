//! Puts an event together for the backends of `tracing` and `log`, in memory of the thread, and sends it.
//!
//! Input: a text and named values. Output: an event with fields. Any thread, each with its own memory. Failures: values
//! for which there is no room, which are left out and named; an event that cannot be sent, which is counted.

use std::cell::RefCell;
use std::fmt::{Display, Write};

use crate::SendError;
use crate::local::Handles;
use crate::wire::{Event, FIELD_NAME_BYTES_MAX, FIELDS_BYTES_MAX, put_field};

/// The field that names those for which there was no room, and the bytes that are kept free for it.
const LEFT_OUT: &str = "FIELDS_LEFT_OUT";
const LEFT_OUT_BYTES_MAX: usize = 200;
const LEFT_OUT_FIELD_BYTES: usize = 5 + LEFT_OUT.len() + LEFT_OUT_BYTES_MAX;
/// Memory beyond this is not kept for the next event.
const KEPT_BYTES_MAX: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Where an event is put together.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) text: String,
    pub(crate) fields: Vec<u8>,
    value: String,
    left_out: String,
}

impl Scratch {
    const fn new() -> Self {
        Self { text: String::new(), fields: Vec::new(), value: String::new(), left_out: String::new() }
    }

    /// Takes this thread's. A value that sends events while it is formatted gets another one.
    pub(crate) fn take() -> Self {
        SCRATCH
            .try_with(|scratch| scratch.try_borrow_mut().map(|mut it| std::mem::take(&mut *it)))
            .map_or_else(|_| Self::default(), |taken| taken.unwrap_or_default())
    }

    /// Gives it back.
    pub(crate) fn give(mut self) {
        if self.text.capacity() + self.value.capacity() > KEPT_BYTES_MAX {
            return;
        }
        self.text.clear();
        self.fields.clear();
        self.left_out.clear();
        let _ = SCRATCH.try_with(|scratch| scratch.try_borrow_mut().map(|mut it| *it = self));
    }

    /// Adds a field. If there is no room for its value, it is left out, and [`Scratch::finish`] names it.
    pub(crate) fn put(&mut self, prefix: &str, name: &str, value: impl Display) {
        self.value.clear();
        // If formatting fails, what came before the failure is the value.
        let _ = write!(self.value, "{value}");
        let mut bytes = [0; FIELD_NAME_BYTES_MAX];
        let name = field_name(prefix, name, &mut bytes);
        let value = std::mem::take(&mut self.value);
        self.put_bytes(name, value.as_bytes());
        self.value = value;
    }

    /// As [`Scratch::put`], under a name that is right already.
    pub(crate) fn put_bytes(&mut self, name: &[u8], value: &[u8]) {
        let bytes = 5 + name.len() + value.len();
        let has_room = self.fields.len() + bytes + LEFT_OUT_FIELD_BYTES <= FIELDS_BYTES_MAX;
        if !(has_room && put_field(&mut self.fields, name, value)) {
            let name = String::from_utf8_lossy(name);
            if self.left_out.len() + 1 + name.len() <= LEFT_OUT_BYTES_MAX {
                self.left_out.extend([if self.left_out.is_empty() { "" } else { " " }, &name]);
            }
        }
    }

    /// These fields without those whose names are among `others`.
    #[cfg(feature = "tracing")]
    pub(crate) fn without(fields: &[u8], others: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(fields.len());
        for (name, value) in crate::wire::fields(fields) {
            if crate::wire::fields(others).all(|(other, _)| other != name) {
                put_field(&mut kept, name, value);
            }
        }
        kept
    }

    /// Names what was left out, as many as there is room for.
    pub(crate) fn finish(&mut self) {
        if !self.left_out.is_empty() {
            put_field(&mut self.fields, LEFT_OUT.as_bytes(), self.left_out.as_bytes());
        }
    }
}

/// The name in capital letters, digits and underscores, beginning with a letter, cut to [`FIELD_NAME_BYTES_MAX`].
fn field_name<'a>(prefix: &str, name: &str, into: &'a mut [u8; FIELD_NAME_BYTES_MAX]) -> &'a [u8] {
    let name = name.strip_prefix("r#").unwrap_or(name);
    let letters = prefix.bytes().chain(name.bytes()).map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => byte.to_ascii_uppercase(),
        _ => b'_',
    });
    let mut length = 0;
    for letter in letters.skip_while(|letter| !letter.is_ascii_uppercase()).take(FIELD_NAME_BYTES_MAX) {
        into[length] = letter;
        length += 1;
    }
    if length == 0 { b"FIELD" } else { &into[..length] }
}

/// Sends an event of this thread. One that is too large is cut, and says so.
pub(crate) fn deliver(handles: &Handles, event: &Event<'_>) {
    let sent = match handles.send(event) {
        Err(SendError::TooBig { bytes, bytes_max }) => {
            // Room for the words, and for a character that would be cut in the middle.
            const WORDS_BYTES: usize = 40;
            let kept = event.payload.len().saturating_sub(bytes - bytes_max + WORDS_BYTES);
            let text = String::from_utf8_lossy(&event.payload[..kept]);
            let text = format!("{} [{} bytes cut]", text.trim_end_matches('\u{FFFD}'), event.payload.len() - kept);
            handles.send(&Event { payload: text.as_bytes(), ..*event })
        }
        sent => sent,
    };
    match sent {
        // The producer counts those.
        Ok(()) | Err(SendError::Full) => {}
        Err(_) => handles.miss(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_what_names_of_fields_should_be() {
        let name = |prefix: &str, name: &str| {
            String::from_utf8(field_name(prefix, name, &mut [0; FIELD_NAME_BYTES_MAX]).to_vec()).unwrap()
        };
        assert_eq!(name("", "http.status-code"), "HTTP_STATUS_CODE");
        assert_eq!(name("", "r#type"), "TYPE");
        assert_eq!(name("", "_2nd"), "ND");
        assert_eq!(
            (name("", ""), name("", "__"), name("", "\u{e4}")),
            ("FIELD".into(), "FIELD".into(), "FIELD".into())
        );
        assert_eq!(name("app_", "2nd"), "APP_2ND");
        assert_eq!(name("", &"x".repeat(100)), "X".repeat(64));
    }
}
