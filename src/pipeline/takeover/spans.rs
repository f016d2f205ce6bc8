//! Remembers in which generations the latest events of a session or a ring were published.
//!
//! Input: the last event that is published, with its generation, and the last event whose fate its sender knows.
//! Output: for the next process, the events of which their sender does not know yet whether they are durable, each
//! with its generations, so that a loss is reported before an acknowledgement passes it. The writer of the session or
//! ring. Nothing here can fail.
//!
//! ```text
//! word 0        where the list begins and how many spans it has: first << 32 | count
//!      1        which of two copies of what the sender knows counts
//!      2..8     the copies, 3 words each, as in [`Known`]
//!      8..      spans, 4 words each: first and last generation, first and last event
//! ```
//!
//! The newest span is not in the list: it is the note's own (last event and its generation, see [`super::note`]). A
//! span moves into the list when a publish in another generation follows. A list that is full merges its two oldest
//! spans: these are in a file by then, or were given up, since the buffer holds three generations at most. Which of
//! them were given up needs no place here: once their sender was told so (`Known::losses`), only what is lost in a file
//! counts for them, which the lost generations tell apart. If a failed sync loses one of a merged span, all of it is
//! reported.
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 | a span that no one counts yet | the newest span covers its events |
//! | 2 | the count | nothing |
//! | 3 | of a merge: the second span begins where the first does | both cover the same; [`PendingSpans::all`] cuts it |
//! | 4 | of a merge: the list without its first span | nothing |
//! | 5 | the copy of what the sender knows that does not count | nothing |
//! | 6 | which copy counts | [`PendingSpans::all`] leaves out what is known |
//! | 7 | the list without the spans that are known | nothing |
//!
//! A ring's program is told after step 7, and the next process begins with telling it again: nothing is told that is
//! not noted, and no loss is counted twice. A client of frames is told before step 5, since a reply that was noted and
//! not sent would be missing. If the process dies in between, the client is told the same again.
//!
//! The steps follow each other by the edge `note`, whose table stands in [`super::note`].

use super::note::NOTE;
use dbuf_sync::atomic::AtomicU64;

/// Spans in the list: those that may still be in the buffer, and one for all that is in a file.
const SPANS: usize = 4;
const SPAN_WORDS: usize = 4;
const LIST: usize = 0;
const COPY: usize = 1;
const COPIES_AT: usize = 2;
const KNOWN_WORDS: usize = 3;
const SPANS_AT: usize = COPIES_AT + 2 * KNOWN_WORDS;

/// Words that the spans of a session or ring take.
pub const WORDS: usize = SPANS_AT + SPANS * SPAN_WORDS;

/// Events that follow each other, and the generations in which they were published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First and last generation.
    pub generations: (u64, u64),
    /// First and last event, by the sender's own count.
    pub sequences: (u64, u64),
}

impl Span {
    /// Both as one.
    #[must_use]
    pub fn with(self, next: Self) -> Self {
        Self { generations: (self.generations.0, next.generations.1), sequences: (self.sequences.0, next.sequences.1) }
    }

    /// Its events up to `last`, and those after it.
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
    /// The last event of those whose fate it knows: durable, or lost.
    pub fate: u64,
    /// The last event of those that it knows to be in a file, or lost before they were.
    pub losses: u64,
    /// How many are lost, where a sender is told a number.
    pub lost: u64,
}

/// The list in these words.
#[derive(Clone, Copy, Debug)]
pub struct PendingSpans<'a>(&'a [AtomicU64]);

impl<'a> PendingSpans<'a> {
    /// The list in these words.
    ///
    /// # Panics
    /// If they are not [`WORDS`].
    #[inline]
    #[must_use]
    pub fn new(memory: &'a [AtomicU64]) -> Self {
        assert_eq!(memory.len(), WORDS, "a list of spans");
        Self(memory)
    }

    /// Nothing is pending, and nothing is known.
    pub fn clear(&self) {
        self.store(LIST, 0);
        self.set_known(Known::default());
    }

    /// Before the first publish in `generation`: the events up to `last`, the latest in `last_generation`, go into the
    /// list, if that is another generation. Costs two loads if it is not.
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
        let before = newest.max(self.known().fate);
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

    /// The sender knows this now, and what it knew before.
    pub fn note_known(&self, known: Known) {
        let before = self.known();
        let known = Known {
            fate: known.fate.max(before.fate),
            losses: known.losses.max(before.losses),
            lost: known.lost.max(before.lost),
        };
        if known == before {
            return;
        }
        self.set_known(known);
        let (mut first, mut count) = self.list();
        while count > 0 && self.span(first).sequences.1 <= known.fate {
            (first, count) = (first + 1, count - 1);
        }
        self.set_list(first, count);
    }

    /// What the sender knows.
    #[must_use]
    pub fn known(&self) -> Known {
        let at = COPIES_AT + self.load(COPY) as usize % 2 * KNOWN_WORDS;
        let [fate, losses, lost] = std::array::from_fn(|word| self.load(at + word));
        Known { fate, losses, lost }
    }

    fn set_known(&self, Known { fate, losses, lost }: Known) {
        let copy = 1 - self.load(COPY) % 2;
        let at = COPIES_AT + copy as usize * KNOWN_WORDS;
        [fate, losses, lost].into_iter().enumerate().for_each(|(word, value)| self.store(at + word, value));
        self.store(COPY, copy);
    }

    /// What is pending, oldest first, if the latest event is `last`, of `last_generation`.
    #[must_use]
    pub fn all(&self, last: u64, last_generation: u64) -> Vec<Span> {
        let (first, count) = self.list();
        let newest = Span { generations: (last_generation, last_generation), sequences: (1, last) };
        let mut known = self.known().fate;
        let mut all = Vec::with_capacity(count + 1);
        for span in (0..count).map(|at| self.span(first + at)).chain([newest]) {
            let end = span.sequences.1.min(last);
            // First the end: there is a sequence after `known` only if it is below another.
            if known < end && span.sequences.0 <= end {
                all.push(Span { sequences: (span.sequences.0.max(known + 1), end), ..span });
                known = end;
            }
        }
        all
    }

    fn list(&self) -> (usize, usize) {
        let list = self.load(LIST);
        // What another process left may be anything, and is no reason to end.
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
        // edge `note`, acquiring: what was stored before this is there. In the process that wrote it Relaxed would do.
        self.0[at].load(NOTE.acquire())
    }

    fn store(&self, at: usize, value: u64) {
        // edge `note`, releasing: each step of the table comes after the one before it.
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
        Known { fate, losses: fate, lost: 0 }
    }

    /// Publishes one event in each of these generations, in order. Gives what is pending then.
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
            list.note_known(Known { fate: n, losses: 2 * n, lost: 3 * n });
            // A copy is written in the order of its words, and then it counts.
            let changed: Vec<usize> = (COPIES_AT..SPANS_AT).chain([COPY]).collect();
            for done in 0..=changed.len() {
                let is_done = |at: &usize| changed[..done].contains(at);
                let word = |at| if is_done(&at) { complete[at].load(Relaxed) } else { before[at] };
                let torn: Vec<AtomicU64> = (0..WORDS).map(|at| AtomicU64::new(word(at))).collect();
                let of = if done == changed.len() { n } else { n - 1 };
                assert_eq!(PendingSpans::new(&torn).known(), Known { fate: of, losses: 2 * of, lost: 3 * of });
            }
        }
    }

    #[test]
    fn after_a_death_at_any_store_each_event_is_still_in_one_span_with_its_generation() {
        // Replays all stores of ten publishes up to each store: `before` holds the words before the operation, `after`
        // those behind it; the stores of an operation go in the order of the table.
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
                // A merge writes over the span that it makes room in only when the list has left it.
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
