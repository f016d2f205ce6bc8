//! Turns what is read into text, so that tests can compare texts.
//!
//! Input: a directory. Output: one line for each item. Thread: any. Failures: panics, as in a test.

use std::ops::ControlFlow;
use std::path::Path;

use crate::scan::{self, Directory, Item, Wanted};

/// All items as text.
#[must_use]
pub fn read(path: &Path) -> Vec<String> {
    let directory = Directory::open(path).expect("the directory is there");
    forward(&directory, &Wanted::default())
}

/// The items that reading forward gives, as text.
#[must_use]
pub fn forward(directory: &Directory, wanted: &Wanted<'_>) -> Vec<String> {
    let mut read = Vec::new();
    let whole = scan::forward(directory, wanted, |item| {
        read.push(text(&item));
        ControlFlow::Continue(())
    });
    assert!(whole.is_continue());
    read
}

/// The items that reading backward gives, as text.
#[must_use]
pub fn backward(directory: &Directory, wanted: &Wanted<'_>) -> Vec<String> {
    let mut read = Vec::new();
    let whole = scan::backward(directory, wanted, |item| {
        read.push(text(&item));
        ControlFlow::Continue(())
    });
    assert!(whole.is_continue());
    read
}

/// An item as text: `5 app hello`.
#[must_use]
pub fn text(item: &Item<'_>) -> String {
    match item {
        Item::Event(event) => {
            let sequence = event.sequence.map_or("piece".into(), |sequence| sequence.to_string());
            let (tag, payload) = (String::from_utf8_lossy(event.source.tag), event.record.payload());
            format!("{sequence} {tag} {}", String::from_utf8_lossy(payload))
        }
        Item::Loss { loss, .. } => format!("lost {} {}", loss.events, loss.cause.name()),
        Item::Damage { damage, .. } => format!("damage {damage}"),
        Item::Gap { from, to } => format!("gap {from}..{to}"),
    }
}
