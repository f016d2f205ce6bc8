//! Collects what was wrong in the data that was read, for one line at the end and for the exit code.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::failure::{DAMAGE_EXIT, print_error};
use crate::pipeline::account::sum;
use crate::pipeline::record::{Cause, Loss};
use crate::pipeline::store::scan::Damage;
use crate::stats::format::plural;

/// Damage, gaps and losses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    damaged_places: u64,
    damaged_bytes: u64,
    first_damage: String,
    missing_events: u64,
    first_missing: u64,
    lost_events: [u64; Cause::COUNT],
}

impl Findings {
    pub(crate) fn damage(&mut self, path: &Path, damage: &Damage) {
        if self.damaged_places == 0 {
            self.first_damage = format!("{}: {damage}", path.display());
        }
        self.damaged_places += 1;
        self.damaged_bytes += damage.bytes;
    }

    /// Sequences that are in no file, both ends included.
    pub(crate) fn gap(&mut self, from: u64, to: u64) {
        if self.missing_events == 0 {
            self.first_missing = from;
        }
        self.missing_events += to.saturating_sub(from) + 1;
    }

    pub(crate) fn loss(&mut self, loss: &Loss) {
        let lost = &mut self.lost_events[loss.cause as usize];
        *lost = lost.saturating_add(loss.events);
    }

    /// Prints what was found, if anything, and returns the exit code for it.
    pub(crate) fn conclude(&self) -> ExitCode {
        match self.sentence() {
            None => ExitCode::SUCCESS,
            Some(sentence) => {
                print_error(&sentence);
                ExitCode::from(DAMAGE_EXIT)
            }
        }
    }

    pub(crate) fn sentence(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.damaged_places > 0 {
            parts.push(format!(
                "damaged: {} {}, {} bytes, first {}; run 'dbufctl verify'",
                self.damaged_places,
                plural(self.damaged_places, "place"),
                self.damaged_bytes,
                self.first_damage
            ));
        }
        if self.missing_events > 0 {
            parts.push(format!(
                "missing: {} {} from sequence {} on, in no file; run 'dbufctl verify'",
                self.missing_events,
                plural(self.missing_events, "event"),
                self.first_missing
            ));
        }
        let total = sum(self.lost_events);
        if total > 0 {
            let mut causes = String::new();
            for (cause, count) in Cause::ALL.iter().zip(self.lost_events).filter(|(_, count)| *count > 0) {
                let separator = if causes.is_empty() { "" } else { ", " };
                let _ = write!(causes, "{separator}{count} {}", cause.name());
            }
            let events = plural(total, "event");
            parts.push(format!("{total} {events} ({causes}) never reached a file; 'dbufctl cat' shows when and whose"));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_wrong_is_not_worth_a_word() {
        assert_eq!(Findings::default().sentence(), None);
    }

    #[test]
    fn all_that_is_wrong_stands_in_one_line_with_what_to_do() {
        let mut findings = Findings::default();
        let damage = Damage { offset: 128, bytes: 64, what: "checksum".into(), events: Some(2) };
        findings.damage(Path::new("/a"), &damage);
        findings.damage(Path::new("/b"), &damage);
        findings.gap(7, 7);
        findings.loss(&Loss { cause: Cause::TooBig, events: 3, bytes: 0, first_ns: 0, last_ns: 0 });
        findings.loss(&Loss { cause: Cause::Disk, events: 1, bytes: 0, first_ns: 0, last_ns: 0 });
        let sentence = findings.sentence().unwrap();
        for has in [
            "2 places, 128 bytes, first /a: ",
            "1 event from sequence 7",
            "4 events (3 too_big, 1 disk)",
            "dbufctl verify",
        ] {
            assert!(sentence.contains(has), "{has}: {sentence}");
        }
        assert!(!sentence.contains('\n'));
    }
}
