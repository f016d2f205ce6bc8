//! Shows the progress of a run on standard error, if that is a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::stats::format::count;

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
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let per_sec = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = out.write_str(&rate(state.per_sec()));
        };
        bar.set_style(style.with_key("per_sec", per_sec));
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

/// Without indicatif's four digits after the point, which are noise.
fn rate(per_second: f64) -> String {
    format!("{}/s", count(per_second.round()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_whole_number() {
        assert_eq!([rate(134_562.226_2), rate(0.6)], ["134,562/s", "1/s"]);
    }
}
