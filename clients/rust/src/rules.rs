//! Checks the rules that an event has to keep before it is sent (`docs/PROTOCOL.md`, 3.5).
//!
//! Input: an event. Output: the rule that it breaks. Any thread. Failures: none.

use crate::wire::{self, Event};

/// Says which rule such an event with so large a payload breaks; None if it keeps all of them. The largest payload is
/// the daemon's to say, and is not looked at.
pub(crate) fn broken(event: &Event<'_>, payload_bytes: usize) -> Option<&'static str> {
    if payload_bytes == 0 {
        Some("the payload is empty")
    } else if event.tag.len() > wire::TAG_BYTES_MAX {
        Some("the tag is longer than 64 bytes")
    } else if event.pri > wire::PRI_MAX {
        Some("pri is above 191")
    } else if event.fields.len() > wire::FIELDS_BYTES_MAX {
        Some("the fields are longer than 16 KiB")
    } else {
        None
    }
}
