//! What a soak has done, and what became of what was sent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::check::Figures;
use crate::disturb::Counts;

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.refused += other.refused;
        self.stored += other.stored;
        self.missing += other.missing;
        self.unaccepted += other.unaccepted;
        self.twice += other.twice;
        self.late += other.late;
        self.bytes += other.bytes;
    }
}

pub(crate) fn table(
    lasted: Duration,
    epochs: u64,
    counts: &Counts,
    kinds: &BTreeMap<String, Figures>,
    lost: &BTreeMap<String, u64>,
    (altered, unaccepted): (u64, u64),
) -> String {
    let mut text = format!(
        "{:.1} minutes, {epochs} epochs: {} kills, {} restarts, {} reloads, {} wrong ones, {} rotations, {} syncs, \
         {} full disks, {} freezes\n",
        lasted.as_secs_f64() / 60.0,
        counts.kills,
        counts.restarts,
        counts.reloads,
        counts.wrong_reloads,
        counts.rotations,
        counts.syncs,
        counts.full_disks,
        counts.freezes
    );
    let mut all = Figures::default();
    kinds.values().for_each(|figures| all.add(figures));
    let _ = writeln!(
        text,
        "{:<14} {:>12} {:>12} {:>9} {:>9} {:>7} {:>7} {:>10}",
        "", "sent", "stored", "refused", "missing", "twice", "late", "MB stored"
    );
    for (kind, figures) in kinds.iter().map(|(kind, figures)| (kind.as_str(), figures)).chain([("all", &all)]) {
        let Figures { sent, refused, stored, missing, twice, late, bytes, .. } = figures;
        let megabytes = bytes / 1_000_000;
        let _ = writeln!(
            text,
            "{kind:<14} {sent:>12} {stored:>12} {refused:>9} {missing:>9} {twice:>7} {late:>7} {megabytes:>10}"
        );
    }
    let causes: Vec<String> = lost.iter().map(|(cause, events)| format!("{events} {cause}")).collect();
    let causes = if causes.is_empty() { "none".to_owned() } else { causes.join(", ") };
    let _ = writeln!(text, "altered: {altered}; lost, by the records in the data: {causes}");
    let events = all.unaccepted;
    let _ = writeln!(
        text,
        "gone between acceptance and first read, at a kill: {unaccepted} short connections, {events} events"
    );
    let _ = writeln!(
        text,
        "slowest recovery to READY: {} ms; peak resident memory: {:.1} MB",
        counts.slowest_recovery.as_millis(),
        counts.peak_rss_bytes as f64 / 1e6
    );
    text
}
