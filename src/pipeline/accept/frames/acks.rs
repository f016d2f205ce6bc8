//! Decides which acknowledgements a session is due.
//!
//! Input: the events that the session published in each generation, SYNCs, and how far the reader is. Output: the
//! acknowledgements that are due, and the sequences that were lost. Thread: the connection's writer. Nothing can fail.
//!
//! An acknowledgement is cumulative, so only the latest counts: a client that reads slowly gets fewer, not later ones.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use dbuf_wire::frames::Level;

use crate::pipeline::progress::want;
use crate::pipeline::takeover::spans::Span;

/// Spans of events at most that wait separately to become durable. Beyond this number the oldest are merged: they are
/// acknowledged when the last of them is durable, and named together if one of them was lost.
pub const SPANS_MAX: usize = 1024;

/// Spans at most that are remembered of a closed session. Beyond this number the oldest are merged.
const PENDING_SPANS_MAX: usize = 16;

fn generations(span: &Span) -> RangeInclusive<u64> {
    span.generations.0..=span.generations.1
}

/// The acknowledgements of one session.
#[derive(Debug)]
pub(crate) struct Acks {
    level: Level,
    /// Published, and not known to be persisted or lost: one span for each generation, usually two or three.
    in_buffer: VecDeque<Span>,
    /// Persisted, and not known to be durable or lost. For all of these, only a loss in a file is news. So what an
    /// earlier process lost and reported may be among them.
    in_file: VecDeque<Span>,
    /// The oldest and the newest sequence that a SYNC waits for.
    syncs: Option<(u64, u64)>,
    /// What the last acknowledgements said; None if there was none and one is due.
    reported_persisted: Option<u64>,
    reported_durable: Option<u64>,
    due_persisted: Option<u64>,
    due_durable: Option<u64>,
}

impl Acks {
    /// Creates the state of a new session.
    pub(crate) fn new(level: Level) -> Self {
        Self {
            level,
            in_buffer: VecDeque::new(),
            in_file: VecDeque::new(),
            syncs: None,
            reported_persisted: Some(0),
            reported_durable: Some(0),
            due_persisted: None,
            due_durable: None,
        }
    }

    /// Creates the state of a session that was open before. Its client is told how far it has come, whether or not that
    /// changes. Up to event `losses` it knows which events came to a file.
    pub(crate) fn resumed(level: Level, pending: impl IntoIterator<Item = Span>, losses: u64) -> Self {
        let mut acks = Self::new(level);
        for span in pending {
            let (reported, pending) = span.split_after(losses);
            acks.in_file.extend(reported);
            acks.in_buffer.extend(pending);
        }
        acks.reported_persisted = None;
        acks.reported_durable = None;
        acks
    }

    /// Events with these sequences are published in `generation`.
    pub(crate) fn published(&mut self, generation: u64, sequences: (u64, u64)) {
        let span = Span { generations: (generation, generation), sequences };
        match self.in_buffer.back_mut() {
            Some(back) if back.generations.1 == generation => *back = back.with(span),
            _ => self.in_buffer.push_back(span),
        }
        merge_oldest(&mut self.in_buffer);
    }

    /// A SYNC waits until everything up to `sequence` is durable.
    pub(crate) fn sync(&mut self, sequence: u64) {
        let oldest = self.syncs.map_or(sequence, |(oldest, _)| oldest);
        self.syncs = Some((oldest, sequence));
    }

    /// Updates the reader's progress. `last` is the highest sequence that was accepted or refused, and all up to it are
    /// published. `lost` gets each lost span before an acknowledgement passes it.
    pub(crate) fn progress(
        &mut self,
        (persisted_before, durable_before): (u64, u64),
        last: u64,
        was_lost: impl Fn(RangeInclusive<u64>, bool) -> bool,
        mut lost: impl FnMut(Span),
    ) {
        // The two are read one after the other, and durable implies persisted.
        let persisted_before = persisted_before.max(durable_before);
        while let Some(span) = pop_before(&mut self.in_buffer, persisted_before) {
            if was_lost(generations(&span), false) {
                lost(span);
            } else {
                self.in_file.push_back(span);
                merge_oldest(&mut self.in_file);
            }
        }
        while let Some(span) = pop_before(&mut self.in_file, durable_before) {
            // A sync that failed loses what was persisted.
            if was_lost(generations(&span), true) {
                lost(span);
            }
        }
        self.decide(last);
    }

    fn decide(&mut self, last: u64) {
        let (persisted, durable) = self.reached(last);
        if self.level == Level::Persisted && self.reported_persisted != Some(persisted) {
            self.due_persisted = Some(persisted);
        }
        let mut owed = self.level == Level::Durable && self.reported_durable != Some(durable);
        if let Some((oldest, newest)) = self.syncs
            && oldest <= durable
        {
            self.syncs = (newest > durable).then_some((newest, newest));
            owed = true;
        }
        if owed {
            self.due_durable = Some(durable);
        }
    }

    /// The sequences up to which everything is persisted, and durable, or was reported as lost. `last` as above.
    pub(crate) fn reached(&self, last: u64) -> (u64, u64) {
        let persisted = self.in_buffer.front().map_or(last, |span| span.sequences.0 - 1);
        let durable = self.in_file.front().map_or(persisted, |span| span.sequences.0 - 1);
        (persisted, durable)
    }

    /// Whether anything is not known to be persisted, and whether anything is persisted and not known to be durable.
    pub(crate) fn pending_kinds(&self) -> (bool, bool) {
        (!self.in_buffer.is_empty(), !self.in_file.is_empty())
    }

    /// Takes the acknowledgements that are due, to be sent by the caller.
    pub(crate) fn take_due(&mut self) -> impl Iterator<Item = (Level, u64)> + use<> {
        let persisted = self.due_persisted.take();
        let durable = self.due_durable.take();
        self.reported_persisted = persisted.or(self.reported_persisted);
        self.reported_durable = durable.or(self.reported_durable);
        let persisted = persisted.map(|sequence| (Level::Persisted, sequence));
        persisted.into_iter().chain(durable.map(|sequence| (Level::Durable, sequence)))
    }

    /// The progress that could make an acknowledgement due, as bits of [`want`].
    pub(crate) fn wants(&self) -> u32 {
        let in_buffer = !self.in_buffer.is_empty();
        let anything = in_buffer || !self.in_file.is_empty();
        let persisted = self.level == Level::Persisted && in_buffer;
        let durable = anything && (self.level == Level::Durable || self.syncs.is_some());
        (if persisted { want::PERSISTED } else { 0 }) | (if durable { want::DURABLE } else { 0 })
    }

    /// What is not known to be durable, oldest first, in a bounded number of spans.
    pub(crate) fn pending(&self) -> Vec<Span> {
        let mut all: VecDeque<Span> = self.in_file.iter().chain(&self.in_buffer).copied().collect();
        while all.len() > PENDING_SPANS_MAX {
            merge_two_oldest(&mut all);
        }
        all.into()
    }
}

fn pop_before(spans: &mut VecDeque<Span>, generation: u64) -> Option<Span> {
    spans.front().is_some_and(|span| span.generations.1 < generation).then(|| spans.pop_front())?
}

/// Keeps `spans` bounded by merging the oldest, not the newest. A newest span that keeps growing would never be passed
/// by progress while events keep coming, and a SYNC inside it would wait forever.
fn merge_oldest(spans: &mut VecDeque<Span>) {
    if spans.len() > SPANS_MAX {
        merge_two_oldest(spans);
    }
}

fn merge_two_oldest(spans: &mut VecDeque<Span>) {
    if let Some(oldest) = spans.pop_front()
        && let Some(second) = spans.front_mut()
    {
        *second = oldest.with(*second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(acks: &mut Acks) -> Vec<(Level, u64)> {
        acks.take_due().collect()
    }

    fn step(acks: &mut Acks, persisted: u64, durable: u64, last: u64, bad: &[u64]) -> Vec<(u64, u64)> {
        let mut lost = Vec::new();
        let was_lost = |range: RangeInclusive<u64>, _| bad.iter().any(|generation| range.contains(generation));
        acks.progress((persisted, durable), last, was_lost, |span| lost.push(span.sequences));
        lost
    }

    #[test]
    fn each_level_is_told_what_it_asked_for_and_nothing_else() {
        for (level, after_persist, after_sync) in [
            (Level::None, vec![], vec![]),
            (Level::Persisted, vec![(Level::Persisted, 3)], vec![]),
            (Level::Durable, vec![], vec![(Level::Durable, 3)]),
        ] {
            let mut acks = Acks::new(level);
            acks.published(5, (1, 3));
            step(&mut acks, 5, 5, 3, &[]);
            assert_eq!(due(&mut acks), [], "nothing before its generation is passed");
            step(&mut acks, 6, 5, 3, &[]);
            assert_eq!(due(&mut acks), after_persist);
            step(&mut acks, 6, 6, 3, &[]);
            assert_eq!(due(&mut acks), after_sync);
            step(&mut acks, 9, 9, 3, &[]);
            assert_eq!((due(&mut acks), acks.wants()), (vec![], 0), "reported once");
        }
    }

    #[test]
    fn a_sync_is_answered_when_all_before_it_is_durable_even_without_a_level() {
        let mut acks = Acks::new(Level::None);
        acks.published(1, (1, 2));
        acks.sync(2);
        acks.published(2, (3, 4));
        assert_eq!(acks.wants(), want::DURABLE);
        step(&mut acks, 3, 1, 4, &[]);
        assert_eq!(due(&mut acks), []);
        step(&mut acks, 3, 2, 4, &[]);
        assert_eq!(due(&mut acks), [(Level::Durable, 2)]);
        assert_eq!(acks.wants(), 0);
    }

    #[test]
    fn a_sync_with_nothing_before_it_is_answered_at_once() {
        let mut acks = Acks::new(Level::Durable);
        acks.sync(0);
        step(&mut acks, 1, 1, 0, &[]);
        assert_eq!(due(&mut acks), [(Level::Durable, 0)]);
    }

    #[test]
    fn syncs_that_never_cease_do_not_put_off_the_answer_to_the_first() {
        let mut acks = Acks::new(Level::None);
        for n in 1..=20 {
            acks.published(n, (n, n));
            acks.sync(n);
            step(&mut acks, n, n, n, &[]);
            let reported = if n == 1 { vec![] } else { vec![(Level::Durable, n - 1)] };
            assert_eq!(due(&mut acks), reported);
        }
    }

    #[test]
    fn a_loss_is_named_before_the_acknowledgement_passes_it_and_once() {
        let mut acks = Acks::new(Level::Persisted);
        acks.published(1, (1, 4));
        acks.published(2, (5, 9));
        acks.sync(9);
        assert_eq!(step(&mut acks, 3, 1, 9, &[1]), [(1, 4)]);
        assert_eq!(due(&mut acks), [(Level::Persisted, 9)]);
        assert_eq!(step(&mut acks, 3, 3, 9, &[1]), []);
        assert_eq!(due(&mut acks), [(Level::Durable, 9)]);
    }

    #[test]
    fn what_a_failed_sync_loses_is_named_although_it_was_persisted() {
        let mut acks = Acks::new(Level::Durable);
        acks.published(1, (1, 4));
        assert_eq!(step(&mut acks, 2, 1, 4, &[]), []);
        assert_eq!(step(&mut acks, 2, 2, 4, &[1]), [(1, 4)]);
        assert_eq!(due(&mut acks), [(Level::Durable, 4)]);
    }

    #[test]
    fn refused_events_do_not_hold_up_an_acknowledgement() {
        let mut acks = Acks::new(Level::Persisted);
        acks.published(1, (1, 1));
        step(&mut acks, 2, 1, 3, &[]);
        assert_eq!(due(&mut acks), [(Level::Persisted, 3)], "2 and 3 were refused");
    }

    #[test]
    fn while_nothing_is_durable_the_spans_stay_bounded_and_say_the_truth() {
        let mut acks = Acks::new(Level::Durable);
        let total = 3 * SPANS_MAX as u64;
        for n in 1..=total {
            acks.published(n, (n, n));
            step(&mut acks, n + 1, 0, n, &[]);
            assert!(acks.in_file.len() <= SPANS_MAX && acks.in_buffer.is_empty());
        }
        let merged = acks.in_file[0].generations.1;
        step(&mut acks, total + 1, merged, total, &[]);
        assert_eq!(due(&mut acks), [], "not before the last of the merged");
        step(&mut acks, total + 1, merged + 1, total, &[]);
        assert_eq!(due(&mut acks), [(Level::Durable, merged)]);
        step(&mut acks, total + 1, total + 1, total, &[]);
        assert_eq!(due(&mut acks), [(Level::Durable, total)]);
    }

    #[test]
    fn spans_that_merge_over_a_loss_that_was_told_are_not_lost_with_it() {
        let mut acks = Acks::new(Level::Durable);
        let given_up = |range: RangeInclusive<u64>, in_file: bool| !in_file && range.contains(&2);
        let mut told = Vec::new();
        for n in 1..=SPANS_MAX as u64 + 3 {
            acks.published(n, (n, n));
            acks.progress((n + 1, 0), n, given_up, |span| told.push(span.sequences));
        }
        assert_eq!((told, acks.in_file[0].sequences), (vec![(2, 2)], (1, 4)));
        acks.progress((1 << 40, 1 << 40), SPANS_MAX as u64 + 3, given_up, |span| panic!("{span:?}"));
    }

    #[test]
    fn a_resumed_session_is_told_where_it_stands() {
        let mut before = Acks::new(Level::Durable);
        before.published(1, (1, 4));
        before.published(2, (5, 9));
        step(&mut before, 2, 1, 9, &[]);
        let pending = before.pending();
        let span = |generation, sequences| Span { generations: (generation, generation), sequences };
        assert_eq!(pending, [span(1, (1, 4)), span(2, (5, 9))]);
        let mut after = Acks::resumed(Level::Durable, pending, 4);
        step(&mut after, 2, 1, 9, &[]);
        assert_eq!(due(&mut after), [(Level::Durable, 0)]);
        step(&mut after, 3, 2, 9, &[]);
        assert_eq!(due(&mut after), [(Level::Durable, 4)], "each span by its own generation");
        step(&mut after, 3, 3, 9, &[]);
        assert_eq!(due(&mut after), [(Level::Durable, 9)]);
        let mut idle = Acks::resumed(Level::Persisted, [], 0);
        step(&mut idle, 3, 3, 9, &[]);
        assert_eq!(due(&mut idle), [(Level::Persisted, 9)], "all that it sent before is persisted");
    }
}
