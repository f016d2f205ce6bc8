//! Prints the events of a directory of segments, with this crate alone.
//!
//! `cargo run -p dbuf-segment --example read_directory -- DIRECTORY`

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use dbuf_segment::scan::{Directory, Item, Wanted, forward};

fn main() -> io::Result<ExitCode> {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: read_directory DIRECTORY");
        return Ok(ExitCode::from(2));
    };
    let directory = Directory::open(Path::new(&path))?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut failed = None;
    let _ = forward(&directory, &Wanted::default(), |item| match print(&mut out, &item) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    });
    match failed {
        // The reader of a pipe that has seen enough is no failure.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        Some(_) => Ok(ExitCode::SUCCESS),
        None => out.flush().map(|()| ExitCode::SUCCESS),
    }
}

/// One line for each event, loss, gap and damage. A payload is bytes: a terminal gets no control byte.
fn print(out: &mut impl Write, item: &Item<'_>) -> io::Result<()> {
    match item {
        Item::Event(event) => {
            let sequence = event.sequence.map_or_else(|| "-".to_owned(), |sequence| sequence.to_string());
            let (tag, payload) = (event.source.tag.escape_ascii(), event.record.payload().escape_ascii());
            writeln!(out, "{sequence} {} {tag}[{}] {payload}", event.record.time_ns, event.source.pid)
        }
        Item::Loss { loss, .. } => writeln!(out, "- {} events lost: {}", loss.events, loss.cause.name()),
        Item::Gap { from, to } => writeln!(out, "- events {from} to {to} are in no file"),
        Item::Damage { path, damage } => writeln!(out, "- {}: {damage}", path.display()),
    }
}
