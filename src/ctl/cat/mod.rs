//! Prints events of a directory or of files as text: `dbufctl cat` and `dbufctl tail`.
//!
//! Input: filters and a format. Output: events on standard output, one line about damage and loss on standard error.
//! Failures: listing the files and writing the output. What is wrong in the files is a finding, not a failure.
//!
//! To show the last N events, the files are read backward until N are found, and then forward from there. So memory
//! does not grow with N, and losses and damage between the events appear in their place.

mod args;
mod follow;
mod show;

use std::fs::File;
use std::ops::ControlFlow;
use std::process::ExitCode;

use jiff::Zoned;

use super::context::Context;
use super::directory::open;
use super::output::Output;
use super::print::Printer;
use super::select::Selection;
use crate::pipeline::record::Source;
use crate::pipeline::store::scan::segment::Segment;
use crate::pipeline::store::scan::{self, Directory, Item, Joiner, StoredEvent};
use crate::sync::Arc;
pub(super) use args::{CatArgs, TailArgs};
use show::Show;

/// How many existing events `--follow` shows if no number is given.
const FOLLOW_LINES: u64 = 10;

/// Runs `cat`, or `tail` as a form of it.
///
/// # Errors
/// The filters make no sense, the files cannot be listed, or the output cannot be written.
pub(super) fn run(args: &CatArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let now = Zoned::now();
    let mut selection = Selection::new(&args.selection, &now)?;
    let mut directory = open(&args.files, &context.directory)?;
    narrow(&mut directory, &selection)?;
    let output = Output::stdout()?;
    let printer = Printer::new(args.format.format, output.is_terminal(), context.color, now.time_zone().clone());

    let by_itself = (args.follow && !selection.has_beginning()).then_some(FOLLOW_LINES);
    let lines = args.lines.or(by_itself);
    if let Some(lines) = lines.filter(|_| !args.reverse) {
        let last = Last::find(&directory, &selection, lines);
        selection.first_sequence = selection.first_sequence.max(last.first);
        selection.losses_behind = selection.losses_behind.max(last.first);
        let mut show = Show::new(&selection, printer, output);
        if args.follow {
            return follow::run(&context.directory, last.read_from, show);
        }
        show.left = lines;
        return forward(&directory, last.read_from, show);
    }

    let read_from = selection.first_sequence.saturating_sub(1);
    let mut show = Show::new(&selection, printer, output);
    if args.follow {
        follow::run(&context.directory, read_from, show)
    } else if args.reverse {
        show.left = lines.unwrap_or(u64::MAX);
        backward(&directory, read_from, show)
    } else {
        forward(&directory, read_from, show)
    }
}

fn forward(directory: &Directory, read_from: u64, mut show: Show<'_>) -> anyhow::Result<ExitCode> {
    let selection = show.selection();
    let source = |source: &Source<'_>| selection.wants_source(source);
    let _ = scan::forward(directory, &selection.wanted(read_from, &source), |item| show.forward(&item));
    show.finish()
}

fn backward(directory: &Directory, read_from: u64, mut show: Show<'_>) -> anyhow::Result<ExitCode> {
    let selection = show.selection();
    let source = |source: &Source<'_>| selection.wants_source(source);
    show.backward_begins();
    let whole = scan::backward(directory, &selection.wanted(read_from, &source), |item| show.backward(&item));
    if whole.is_continue() {
        show.backward_ends();
    }
    show.finish()
}

/// Where the last few events begin.
struct Last {
    /// The sequence of the first of them.
    first: u64,
    /// The sequence to read from, so that its first piece is read too.
    read_from: u64,
}

impl Last {
    /// Reads backward for the last `count` events that are wanted.
    fn find(directory: &Directory, selection: &Selection, count: u64) -> Self {
        let source = |source: &Source<'_>| selection.wants_source(source);
        let mut joiner = Joiner::default();
        let mut left = count;
        // The newest event, if nothing is found.
        let (mut newest, mut oldest) = (None, None);
        let mut first = None;
        let mut other = false;
        let mut look = |event: &StoredEvent<'_>, payload: &[u8]| {
            let Some(sequence) = event.sequence else { return ControlFlow::Continue(()) };
            if left > 0 && selection.wants_event(event, payload) {
                left -= 1;
                first = Some(sequence);
            }
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let read_from = selection.first_sequence.saturating_sub(1);
        let ended = scan::backward(directory, &selection.wanted(read_from, &source), |item| match item {
            Item::Event(event) => {
                newest = newest.or(event.sequence);
                oldest = event.sequence.or(oldest);
                joiner.backward(&event, &mut |joined| look(&joined.event, joined.payload))
            }
            Item::Loss { time_ns, source, .. } => {
                other |= selection.wants_loss(time_ns, &source);
                ControlFlow::Continue(())
            }
            Item::Damage { .. } | Item::Gap { .. } => {
                other = true;
                ControlFlow::Continue(())
            }
        });
        if ended.is_continue() {
            let _ = joiner.finish(&mut |joined| look(&joined.event, joined.payload));
        }
        match first {
            // Found as many as were asked for.
            Some(first) if left == 0 => Self { first, read_from: oldest.unwrap_or(first).saturating_sub(1) },
            // There are fewer, and also losses or damage to show: show everything.
            _ if count > 0 && other => Self { first: 0, read_from },
            Some(first) => Self { first, read_from: oldest.unwrap_or(first).saturating_sub(1) },
            None => {
                let end = newest.map_or(0, |newest: u64| newest + 1);
                Self { first: end, read_from: end.saturating_sub(1) }
            }
        }
    }
}

/// Leaves out files of other boots, and refuses a cursor of another directory. This reads the header of each file, so
/// it is done only on request.
fn narrow(directory: &mut Directory, selection: &Selection) -> anyhow::Result<()> {
    if selection.boot.is_none() && selection.stream.is_none() {
        return Ok(());
    }
    let (mut streams, mut right) = (0, 0);
    directory.files.retain(|file| {
        let segment = File::open(&file.path).ok().and_then(|file| Segment::open(Arc::new(file), None).ok());
        // A file that cannot be opened stays: reading it will report what is wrong.
        let Some(segment) = segment else { return true };
        streams += 1;
        right += u64::from(selection.stream.is_none_or(|stream| stream == segment.stream_id));
        let boot = segment.header.as_ref().ok().map(|header| header.boot_id);
        selection.boot.is_none() || boot.is_none() || selection.boot == boot
    });
    if streams > 0 && right == 0 {
        anyhow::bail!("--cursor: it names an event of another directory; use --directory, or --since instead");
    }
    Ok(())
}
