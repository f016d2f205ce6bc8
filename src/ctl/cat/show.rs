//! Prints what is wanted of what is read.
//!
//! Input: items in the order of reading. Output: text of those that are wanted, and a record of what is wrong.
//! Failures: writing the output, which ends the reading.

use std::ops::ControlFlow;
use std::process::ExitCode;

use super::super::findings::Findings;
use super::super::output::Output;
use super::super::print::{EventView, LossView, Printer};
use super::super::select::{Cursor, Selection};
use crate::pipeline::store::scan::{Item, Joined, Joiner};

/// Takes what is read, and shows what is wanted of it.
pub(super) struct Show<'s> {
    joiner: Joiner,
    sink: Sink<'s>,
    /// How many events may still be shown.
    pub(super) left: u64,
}

struct Sink<'s> {
    selection: &'s Selection,
    printer: Printer,
    output: Output,
    findings: Findings,
    /// Whether the reading has reached the start of the selection. Losses before it are not shown.
    begun: bool,
    error: Option<anyhow::Error>,
}

impl<'s> Show<'s> {
    pub(super) fn new(selection: &'s Selection, printer: Printer, output: Output) -> Self {
        let begun = selection.losses_behind == 0;
        let sink = Sink { selection, printer, output, findings: Findings::default(), begun, error: None };
        Self { joiner: Joiner::default(), sink, left: u64::MAX }
    }

    pub(super) fn selection(&self) -> &'s Selection {
        self.sink.selection
    }

    /// Takes the next item of a reading forward.
    #[inline]
    pub(super) fn forward(&mut self, item: &Item<'_>) -> ControlFlow<()> {
        let Self { joiner, sink, left } = self;
        match item {
            Item::Event(event) => {
                if let Some(sequence) = event.sequence {
                    sink.begun |= sequence >= sink.selection.losses_behind;
                }
                joiner.forward(event, &mut |joined| sink.event(&joined, left))
            }
            other => sink.other(other),
        }
    }

    /// Takes the next item of a reading backward.
    pub(super) fn backward(&mut self, item: &Item<'_>) -> ControlFlow<()> {
        let Self { joiner, sink, left } = self;
        match item {
            Item::Event(event) => {
                let behind = sink.selection.losses_behind;
                sink.begun = behind == 0 || event.sequence.map_or(sink.begun, |sequence| sequence > behind);
                joiner.backward(event, &mut |joined| sink.event(&joined, left))?;
                // Reading forward continues to the next wanted event, for losses after the last one. Reading backward
                // would continue through all history.
                if *left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }
            other => sink.other(other),
        }
    }

    /// Starts reading backward, at the newest event.
    pub(super) fn backward_begins(&mut self) {
        self.sink.begun = true;
    }

    /// Ends reading backward, at the oldest event.
    pub(super) fn backward_ends(&mut self) {
        let Self { joiner, sink, left } = self;
        let _ = joiner.finish(&mut |joined| sink.event(&joined, left));
    }

    /// Writes what is held back.
    pub(super) fn write_now(&mut self) -> anyhow::Result<()> {
        match self.sink.error.take() {
            Some(error) => Err(error),
            None => self.sink.output.write_now(),
        }
    }

    /// Writes the rest, prints what was wrong, and returns the exit code.
    pub(super) fn finish(mut self) -> anyhow::Result<ExitCode> {
        self.write_now()?;
        Ok(self.sink.findings.conclude())
    }
}

impl Sink<'_> {
    #[inline]
    fn event(&mut self, joined: &Joined<'_>, left: &mut u64) -> ControlFlow<()> {
        let event = &joined.event;
        let Some(sequence) = event.sequence else { return ControlFlow::Continue(()) };
        if !self.selection.wants_event(event, joined.payload) {
            return ControlFlow::Continue(());
        }
        if *left == 0 {
            return ControlFlow::Break(());
        }
        *left -= 1;
        let view = EventView {
            cursor: Cursor { stream: event.stream_id, sequence },
            boot: event.boot_id,
            record: event.record,
            payload: joined.payload,
            source: event.source,
        };
        self.printer.event(&mut self.output.buffer, &view);
        self.write_if_large()
    }

    fn other(&mut self, item: &Item<'_>) -> ControlFlow<()> {
        match item {
            Item::Event(_) => {}
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
        self.write_if_large()
    }

    #[inline]
    fn write_if_large(&mut self) -> ControlFlow<()> {
        match self.output.write_if_large() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}
