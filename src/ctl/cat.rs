//! `dbufctl cat` and `dbufctl tail`: events of a directory or of files, as text.
//!
//! Enters: filters and a format. Leaves: events on standard output, one line about damage and loss on standard error.
//! What can fail: listing the files and writing the output; what is wrong in the files is a finding, not a failure.
//!
//! The last N events are found by reading backward until there are N, and then read forward from there: so memory stays
//! flat whatever N is, and what stands between them (losses, damage) is shown in its place.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Zoned;

use super::args::{CatArgs, TailArgs};
use super::context::Context;
use super::findings::Findings;
use super::output::Output;
use super::print::{EventView, LossView, Printer};
use super::select::{Cursor, Selection};
use crate::pipeline::record::Source;
use crate::pipeline::store::scan::segment::Segment;
use crate::pipeline::store::scan::{self, Directory, Event, Item, Wanted};
use crate::sync::Arc;

impl From<TailArgs> for CatArgs {
    fn from(tail: TailArgs) -> Self {
        let TailArgs { lines, follow: _, selection, format } = tail;
        Self { lines: Some(lines), follow: true, reverse: false, selection, format, files: Vec::new() }
    }
}

/// Runs `cat`, or `tail` as a kind of it.
///
/// # Errors
/// When the filters make no sense, the files cannot be listed or the output cannot be written.
pub(super) fn run(args: &CatArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let now = Zoned::now();
    let selection = Selection::new(&args.selection, &now)?;
    let mut directory = open(&args.files, &context.directory)?;
    narrow(&mut directory, &selection)?;
    let output = Output::stdout()?;
    let printer = Printer::new(args.format.format, output.is_terminal(), context.color, now.time_zone().clone());
    let mut show = Show::new(&selection, printer, output);
    let source = |source: &Source<'_>| selection.wants_source(source);
    let wanted = Wanted {
        from_sequence: selection.first_sequence,
        from_ns: *selection.time_ns.start(),
        until_ns: Some(*selection.time_ns.end()),
        source: Some(&source),
    };
    scan::forward(&directory, &wanted, |item| show.item(&item));
    show.finish()
}

/// The segments of `files`, or of `directory` if there are none.
pub(super) fn open(files: &[PathBuf], directory: &Path) -> anyhow::Result<Directory> {
    let opened = match files {
        [] => Directory::open(directory).map_err(|error| (directory, error)),
        [only] if only.is_dir() => Directory::open(only).map_err(|error| (only.as_path(), error)),
        files => match files.iter().find_map(|file| Some((file, file.metadata().err()?))) {
            Some((file, error)) => Err((file.as_path(), error)),
            None => Directory::of_files(files).map_err(|error| (files[0].as_path(), error)),
        },
    };
    opened.map_err(|(path, error)| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "say where the segments are with --directory DIR",
            io::ErrorKind::PermissionDenied => "ask as root, or as a user who may read it",
            _ => "see whether the disk is well",
        };
        anyhow::anyhow!("{}: {error}; {advice}", path.display())
    })
}

/// Leaves out files of other boots, and refuses a cursor that belongs elsewhere. Costs a look at the head of each file,
/// so only when it was asked for.
fn narrow(directory: &mut Directory, selection: &Selection) -> anyhow::Result<()> {
    if selection.boot.is_none() && selection.stream.is_none() {
        return Ok(());
    }
    let (mut streams, mut right) = (0, 0);
    directory.files.retain(|file| {
        let segment = File::open(&file.path).ok().and_then(|file| Segment::open(Arc::new(file), None).ok());
        // What cannot be opened stays: reading it will say what is wrong with it.
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

/// Takes what is read, and shows what is wanted of it.
struct Show<'s> {
    selection: &'s Selection,
    printer: Printer,
    output: Output,
    findings: Findings,
    /// Whether the reading has come to where the selection begins: what was lost before that is not asked for.
    begun: bool,
    error: Option<anyhow::Error>,
}

impl<'s> Show<'s> {
    fn new(selection: &'s Selection, printer: Printer, output: Output) -> Self {
        let begun = selection.first_sequence == 0;
        Self { selection, printer, output, findings: Findings::default(), begun, error: None }
    }

    fn item(&mut self, item: &Item<'_>) -> ControlFlow<()> {
        match item {
            Item::Event(event) => self.event(event),
            Item::Loss { loss, time_ns, source } => {
                if self.begun && self.selection.wants_loss(*time_ns, source) {
                    self.findings.loss(loss);
                    let view = LossView { time_ns: *time_ns, loss: *loss, source: *source };
                    self.printer.loss(&mut self.output.buffer, &view);
                }
            }
            Item::Damage { path, damage } => self.findings.damage(path, damage),
            Item::Gap { from, to } => self.findings.gap(*from, *to),
        }
        match self.output.write_if_large() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    #[inline]
    fn event(&mut self, event: &Event<'_>) {
        let Some(sequence) = event.sequence else { return };
        self.begun |= sequence + 1 >= self.selection.first_sequence;
        let payload = event.record.payload();
        if self.selection.boot.is_some_and(|boot| boot != event.boot_id) {
            return;
        }
        if self.selection.wants(sequence, &event.record, &event.source, payload) {
            let view = EventView {
                cursor: Cursor { stream: event.stream_id, sequence },
                boot: event.boot_id,
                record: event.record,
                payload,
                source: event.source,
            };
            self.printer.event(&mut self.output.buffer, &view);
        }
    }

    fn finish(mut self) -> anyhow::Result<ExitCode> {
        match self.error {
            Some(error) => Err(error),
            None => {
                self.output.write_now()?;
                Ok(self.findings.conclude())
            }
        }
    }
}
