//! Shows the progress of a run on standard error, if that is a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on the terminal, or nothing.
pub(super) struct Shown(ProgressBar);

impl Shown {
    /// For a number of events, or for a run that ends after a time.
    pub(super) fn new(events: Option<u64>) -> Self {
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(events, target);
        let template = match events {
            Some(_) => "{elapsed:>4} [{bar:40}] {human_pos}/{human_len} events, {per_sec}, {eta} left",
            None => "{elapsed:>4} {spinner} {human_pos} events, {per_sec}",
        };
        // A test would find a template that indicatif rejects. The plain bar is good enough here.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    /// Shows how many events are sent.
    pub(super) fn show(&self, events: u64) {
        self.0.set_position(events);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
