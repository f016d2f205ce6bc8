//! Remembers in which generations the latest events of a session or a ring were published.
//!
//! Input: the last published event with its generation, and what the sender knows. Output: for the next process, the
//! events that the sender does not know to be durable, each with its generations, so that a loss is reported before an
//! acknowledgement passes it. Thread: the writer of the session or ring. Nothing here can fail.
//!
//! ```text
//! word 0        where the list begins and how many spans it has: first << 32 | count
//!      1        which of two copies of what the sender knows counts
//!      2..8     the copies, 3 words each, as in [`Known`]
//!      8..      spans, 4 words each: first and last generation, first and last event
//! ```
//!
//! The newest span is not in the list: the note itself holds it (last event and its generation, see [`super::note`]).
//! It moves into the list when a publish in another generation follows. So five generations are told apart: a buffer
//! holds two at most, and an older one that is still being persisted adds its own. A full list merges its two oldest
//! spans, whose events are in a file by then, or were given up. The merged span does not say which. That is enough:
//! once the sender was told which were given up (`Known::losses_known_to`), only losses in a file are news, and
//! `progress::lost_generations` tells these apart. If a failed sync loses a part of a merged span, the whole span is
//! reported.
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 | a span behind the end of the list | the newest span covers its events |
//! | 2 | the count | nothing |
//! | 3 | of a merge: the second span begins where the first does | both cover the same; [`PendingSpans::all`] cuts it |
//! | 4 | of a merge: the list without its first span | nothing |
//! | 5 | the copy of what the sender knows that does not count | nothing |
//! | 6 | which copy counts | [`PendingSpans::all`] leaves out what is known |
//! | 7 | the list without the spans that are known | nothing |
//!
//! A ring's program is told after step 7, and the next process begins by telling it again. So nothing is told that is
//! not noted, and no loss is counted twice. A client of frames is told before step 5, because a reply that was noted
//! and not sent would be missing. If the process dies in between, the client is told the same again.
//!
//! The steps follow each other by the edge `note`, whose table is in [`super::note`].

use super::note::NOTE;
use dbuf_sync::atomic::AtomicU64;

/// Spans in the list: those that may still be in the buffer, and one for everything that is in a file.
const SPANS: usize = 4;
const SPAN_WORDS: usize = 4;
const LIST: usize = 0;
const COPY: usize = 1;
const COPIES_AT: usize = 2;
const KNOWN_WORDS: usize = 3;
const SPANS_AT: usize = COPIES_AT + 2 * KNOWN_WORDS;

/// Words for the spans of one session or ring.
pub const WORDS: usize = SPANS_AT + SPANS * SPAN_WORDS;

/// Consecutive events, and the generations in which they were published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First and last generation.
    pub generations: (u64, u64),
    /// First and last event, by the sender's own count.
    pub sequences: (u64, u64),
}

impl Span {
    /// Joins two neighbouring spans.
    #[must_use]
    pub fn with(self, next: Self) -> Self {
        Self { generations: (self.generations.0, next.generations.1), sequences: (self.sequences.0, next.sequences.1) }
    }

    /// Splits it into the events up to `last` and the events after it.
    #[must_use]
    pub fn split_after(self, last: u64) -> (Option<Self>, Option<Self>) {
        let (first, end) = self.sequences;
        let until = (first <= last).then(|| Self { sequences: (first, end.min(last)), ..self });
        let after = (end > last).then(|| Self { sequences: (first.max(last + 1), end), ..self });
        (until, after)
    }
}

/// What a sender knows of its events, or will be told before anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Up to this event the sender knows what became of each: durable, or lost.
    pub fate_known_to: u64,
    /// Up to this event the sender knows which are in a file and which were lost before they were.
    pub losses_known_to: u64,
    /// Number of lost events, for a sender that is told a number.
    pub lost_count: u64,
}

/// The list of spans in these words.
#[derive(Clone, Copy, Debug)]
pub struct PendingSpans<'a>(&'a [AtomicU64]);

impl<'a> PendingSpans<'a> {
    /// The list in these words.
    ///
    /// # Panics
    /// If there are not [`WORDS`] of them.
    #[inline]
    #[must_use]
    pub fn new(memory: &'a [AtomicU64]) -> Self {
        assert_eq!(memory.len(), WORDS, "a list of spans");
        Self(memory)
    }

    /// Empties the list: nothing is pending, and nothing is known.
    pub fn clear(&self) {
        self.store(LIST, 0);
        self.set_known(Known::default());
    }

    /// Must be called before the first publish in `generation`. If the events up to `last` were published in another
    /// generation, `last_generation`, they go into the list. Otherwise it costs two loads.
    #[inline]
    pub fn before_publish(&self, generation: u64, last: u64, last_generation: u64) {
        if generation != last_generation && last != 0 {
            self.push(last, last_generation);
        }
    }

    #[cold]
    fn push(&self, last: u64, generation: u64) {
        let (mut first, mut count) = self.list();
        let newest = count.checked_sub(1).map_or(0, |at| self.span(first + at).sequences.1);
        let before = newest.max(self.known().fate_known_to);
        if before >= last {
            return;
        }
        if count == SPANS {
            let (oldest, second) = (self.span(first), self.span(first + 1));
            self.set_span(first + 1, oldest.with(second));
            (first, count) = (first + 1, count - 1);
            self.set_list(first, count);
        }
        self.set_span(first + count, Span { generations: (generation, generation), sequences: (before + 1, last) });
        self.set_list(first, count + 1);
    }

    /// Notes what the sender knows now, in addition to what it knew.
    pub fn note_known(&self, known: Known) {
        let before = self.known();
        let known = Known {
            fate_known_to: known.fate_known_to.max(before.fate_known_to),
            losses_known_to: known.losses_known_to.max(before.losses_known_to),
            lost_count: known.lost_count.max(before.lost_count),
        };
        if known == before {
            return;
        }
        self.set_known(known);
        let (mut first, mut count) = self.list();
        while count > 0 && self.span(first).sequences.1 <= known.fate_known_to {
            (first, count) = (first + 1, count - 1);
        }
        self.set_list(first, count);
    }

    /// What the sender knows.
    #[must_use]
    pub fn known(&self) -> Known {
        let at = COPIES_AT + self.load(COPY) as usize % 2 * KNOWN_WORDS;
        let [fate_known_to, losses_known_to, lost_count] = std::array::from_fn(|word| self.load(at + word));
        Known { fate_known_to, losses_known_to, lost_count }
    }

    fn set_known(&self, Known { fate_known_to, losses_known_to, lost_count }: Known) {
        let copy = 1 - self.load(COPY) % 2;
        let at = COPIES_AT + copy as usize * KNOWN_WORDS;
        [fate_known_to, losses_known_to, lost_count]
            .into_iter()
            .enumerate()
            .for_each(|(word, value)| self.store(at + word, value));
        self.store(COPY, copy);
    }

    /// The pending spans, oldest first, if the latest event is `last`, published in `last_generation`.
    #[must_use]
    pub fn all(&self, last: u64, last_generation: u64) -> Vec<Span> {
        let (first, count) = self.list();
        let newest = Span { generations: (last_generation, last_generation), sequences: (1, last) };
        let mut known = self.known().fate_known_to;
        let mut all = Vec::with_capacity(count + 1);
        for span in (0..count).map(|at| self.span(first + at)).chain([newest]) {
            let end = span.sequences.1.min(last);
            // Checks the end first: there is a sequence after `known` only if it is below another.
            if known < end && span.sequences.0 <= end {
                all.push(Span { sequences: (span.sequences.0.max(known + 1), end), ..span });
                known = end;
            }
        }
        all
    }

    fn list(&self) -> (usize, usize) {
        let list = self.load(LIST);
        // Another process's memory may hold any value, and that is no reason to panic.
        ((list >> 32) as usize % SPANS, (list as u32 as usize).min(SPANS))
    }

    fn set_list(&self, first: usize, count: usize) {
        self.store(LIST, ((first % SPANS) as u64) << 32 | count as u64);
    }

    fn span(&self, at: usize) -> Span {
        let at = SPANS_AT + at % SPANS * SPAN_WORDS;
        let [first_generation, last_generation, first, last] = std::array::from_fn(|word| self.load(at + word));
        Span { generations: (first_generation, last_generation), sequences: (first, last) }
    }

    fn set_span(&self, at: usize, span: Span) {
        let at = SPANS_AT + at % SPANS * SPAN_WORDS;
        let words = [span.generations.0, span.generations.1, span.sequences.0, span.sequences.1];
        words.into_iter().enumerate().for_each(|(word, value)| self.store(at + word, value));
    }

    fn load(&self, at: usize) -> u64 {
        // edge `note`, acquiring: what was stored before this is visible. In the process that wrote it Relaxed would
        // do.
        self.0[at].load(NOTE.acquire())
    }

    fn store(&self, at: usize, value: u64) {
        // edge `note`, releasing: each step of the table becomes visible after the one before it.
        self.0[at].store(value, NOTE.release());
    }
}

#[cfg(all(test, not(dbuf_loom)))]
mod tests {
    use dbuf_sync::atomic::Ordering::Relaxed;

    use super::*;

    fn memory() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn span(generations: (u64, u64), sequences: (u64, u64)) -> Span {
        Span { generations, sequences }
    }

    fn fate(fate: u64) -> Known {
        Known { fate_known_to: fate, losses_known_to: fate, lost_count: 0 }
    }

    /// Publishes one event in each of these generations, in order. Returns the last event and its generation.
    fn publish(list: &PendingSpans<'_>, generations: impl IntoIterator<Item = u64>) -> (u64, u64) {
        let (mut last, mut last_generation) = (0, 0);
        for generation in generations {
            list.before_publish(generation, last, last_generation);
            (last, last_generation) = (last + 1, generation);
        }
        (last, last_generation)
    }

    #[test]
    fn each_event_is_in_one_span_and_in_its_own_generation_while_it_may_be_in_the_buffer() {
        for events in 1..40 {
            let memory = memory();
            let list = PendingSpans::new(&memory);
            let (last, generation) = publish(&list, (1..=events).map(|event| 10 + event));
            let all = list.all(last, generation);
            let covered: Vec<u64> = all.iter().flat_map(|span| span.sequences.0..=span.sequences.1).collect();
            assert_eq!(covered, (1..=events).collect::<Vec<_>>());
            for newest in all.iter().rev().take(4) {
                let is_exact = newest.generations == (10 + newest.sequences.0, 10 + newest.sequences.1);
                assert!(is_exact, "{events} events: {newest:?}");
            }
        }
    }

    #[test]
    fn events_of_one_generation_are_one_span_and_what_is_known_is_left_out() {
        let memory = memory();
        let list = PendingSpans::new(&memory);
        let (last, generation) = publish(&list, [5, 5, 5, 6, 6, 8]);
        let all = [span((5, 5), (1, 3)), span((6, 6), (4, 5)), span((8, 8), (6, 6))];
        assert_eq!(list.all(last, generation), all);
        list.note_known(fate(4));
        assert_eq!(list.all(last, generation), [span((6, 6), (5, 5)), all[2]]);
        list.note_known(fate(2));
        assert_eq!(list.all(last, generation).len(), 2, "what is known stays known");
        list.note_known(fate(6));
        assert_eq!(list.all(last, generation), []);
        list.before_publish(9, last, generation);
        assert_eq!(list.all(7, 9), [span((9, 9), (7, 7))]);
    }

    #[test]
    fn a_span_is_split_where_its_sender_was_told_half_of_it() {
        let whole = span((1, 3), (4, 9));
        let halves = (Some(span((1, 3), (4, 6))), Some(span((1, 3), (7, 9))));
        let expected = [(0, (None, Some(whole))), (3, (None, Some(whole))), (6, halves), (9, (Some(whole), None))];
        for (last, parts) in expected.into_iter().chain([(u64::MAX, (Some(whole), None))]) {
            assert_eq!(whole.split_after(last), parts, "{last}");
        }
    }

    #[test]
    fn the_highest_sequence_that_there_is_leaves_nothing_pending_once_it_is_known() {
        let memory = memory();
        let list = PendingSpans::new(&memory);
        list.note_known(fate(u64::MAX));
        assert_eq!(list.all(u64::MAX, 5), []);
        list.before_publish(6, u64::MAX, 5);
        assert_eq!(list.all(u64::MAX, 6), []);
    }

    #[test]
    fn after_a_death_at_any_store_what_a_sender_knows_is_whole() {
        let complete = memory();
        let list = PendingSpans::new(&complete);
        for n in 1..=5_u64 {
            let before: Vec<u64> = complete.iter().map(|word| word.load(Relaxed)).collect();
            list.note_known(Known { fate_known_to: n, losses_known_to: 2 * n, lost_count: 3 * n });
            // A copy is written in the order of its words, and only then it counts.
            let changed: Vec<usize> = (COPIES_AT..SPANS_AT).chain([COPY]).collect();
            for done in 0..=changed.len() {
                let is_done = |at: &usize| changed[..done].contains(at);
                let word = |at| if is_done(&at) { complete[at].load(Relaxed) } else { before[at] };
                let torn: Vec<AtomicU64> = (0..WORDS).map(|at| AtomicU64::new(word(at))).collect();
                let of = if done == changed.len() { n } else { n - 1 };
                assert_eq!(
                    PendingSpans::new(&torn).known(),
                    Known { fate_known_to: of, losses_known_to: 2 * of, lost_count: 3 * of }
                );
            }
        }
    }

    #[test]
    fn after_a_death_at_any_store_each_event_is_still_in_one_span_with_its_generation() {
        // Replays all stores of ten publishes up to each store. `before` holds the words before the operation, `after`
        // those after it. The stores of an operation follow the order of the table.
        let complete = memory();
        let list = PendingSpans::new(&complete);
        let (mut last, mut last_generation) = (0, 0);
        for generation in 1..=10_u64 {
            let before: Vec<u64> = complete.iter().map(|word| word.load(Relaxed)).collect();
            list.before_publish(generation, last, last_generation);
            let after: Vec<u64> = complete.iter().map(|word| word.load(Relaxed)).collect();
            for died_before_list in [true, false] {
                let torn: Vec<AtomicU64> = (0..WORDS)
                    .map(|at| AtomicU64::new(if at == LIST && died_before_list { before[at] } else { after[at] }))
                    .collect();
                // A merge overwrites the span that it frees only after the list has left it.
                let is_merge = before[LIST] as u32 as usize == SPANS;
                if is_merge && died_before_list {
                    continue;
                }
                let all = PendingSpans::new(&torn).all(last, last_generation);
                let covered: Vec<u64> = all.iter().flat_map(|span| span.sequences.0..=span.sequences.1).collect();
                assert_eq!(covered, (1..=last).collect::<Vec<_>>(), "before generation {generation}");
            }
            (last, last_generation) = (last + 1, generation);
        }
    }
}
