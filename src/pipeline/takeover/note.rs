//! Records what a publish will change, so that the next process knows whether it came.
//!
//! Input: the position of a publish, and the numbers that hold once it has come. Output: for the next process, the
//! numbers that hold. Thread: the thread that publishes writes; the next process reads. Nothing here can fail.
//!
//! A number that follows a publish, such as "N events of this read are published", cannot change at the same instant as
//! the publish itself. A process that dies in between would leave an old number, and the same events would be published
//! again. So the thread first notes the position of the publish and the numbers to come. The next process looks at that
//! position: the buffer's own word says whether the publish came.
//!
//! ```text
//! word 0        generation of the position; 0 while there is no note
//!      1        place of the position
//!      2..      the numbers, if the publish comes
//!      2 + N..  the numbers
//! ```
//!
//! This is the only protocol by which anything follows a publish across the death of a process. The table gives its
//! steps; "published" means what the next process finds at the position.
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 [`PublishNote::prepare`] | numbers to come, place, generation | it was not published: the numbers stay |
//! | 2 the publish | the buffer's word | it was published: the numbers to come hold |
//! | 3 [`PublishNote::commit`] | the numbers | the same |
//! | 4 [`PublishNote::commit`] | no generation | the numbers hold |
//! | 3' [`PublishNote::abort`] | no generation, if the publish failed | the numbers stay |
//! | 5 [`PublishNote::resolve`] | steps 3 and 4, in the next process | the one after it decides the same |
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `note` | [`PublishNote::prepare`], [`PublishNote::commit`], [`PublishNote::abort`] | [`PublishNote::resolve`], in the next process | each step is in memory before the next | the next process sees numbers whose publish never came: their events are lost |

use dbuf_sync::Edge;
use dbuf_sync::atomic::AtomicU64;
use dbuf_sync::atomic::Ordering::Relaxed;

use dbuf_buffer::PublishPosition;

/// The edge of this protocol. Other stores that follow the same rule use it too.
pub const NOTE: Edge = Edge::new("note");

const GENERATION: usize = 0;
const PLACE: usize = 1;
const VALUES_TO_COME: usize = 2;

/// Words that a note of `values` numbers takes.
#[must_use]
pub const fn words(values: usize) -> usize {
    2 + 2 * values
}

/// `N` numbers that follow publishes.
#[derive(Clone, Copy, Debug)]
pub struct PublishNote<'a, const N: usize>(&'a [AtomicU64]);

/// The result of [`PublishNote::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved<const N: usize> {
    /// The numbers that hold.
    pub values: [u64; N],
    /// They hold because a publish came and its commit did not.
    pub by_publish: bool,
}

impl<'a, const N: usize> PublishNote<'a, N> {
    /// The note in these words.
    ///
    /// # Panics
    /// If there are not [`words`]`(N)` of them.
    #[inline]
    #[must_use]
    pub fn new(memory: &'a [AtomicU64]) -> Self {
        assert_eq!(memory.len(), words(N), "a note of {N} numbers");
        Self(memory)
    }

    /// Notes that `values` will hold once the publish at `position` has come.
    #[inline]
    pub fn prepare(&self, position: PublishPosition, values: [u64; N]) {
        let [generation, place] = position.to_words();
        for (word, value) in self.0[VALUES_TO_COME..].iter().zip(values) {
            // Relaxed: the store of the generation releases it. Without a generation it means nothing.
            word.store(value, Relaxed);
        }
        // Relaxed: as above.
        self.0[PLACE].store(place, Relaxed);
        // edge `note`, releasing: a note that is visible is visible as a whole. The publish comes later, by a
        // compare-exchange that releases (edge `publish`). Relaxed could show a generation with old numbers.
        self.0[GENERATION].store(generation, NOTE.release());
    }

    /// Makes `values` hold: the noted publish has come, or nothing was noted.
    #[inline]
    pub fn commit(&self, values: [u64; N]) {
        for (word, value) in self.0[VALUES_TO_COME + N..].iter().zip(values) {
            // edge `note`, releasing: visible only after the publish. Relaxed could show the number without its events.
            word.store(value, NOTE.release());
        }
        self.abort();
    }

    /// Withdraws the note, because its publish will not come. Must be called before another claim can get its place.
    #[inline]
    pub fn abort(&self) {
        // edge `note`, releasing: the numbers are visible before the end of the note. Relaxed could end the note of a
        // publish that came while its numbers are still missing.
        self.0[GENERATION].store(0, NOTE.release());
    }

    /// The numbers that hold, for the thread that writes them.
    #[inline]
    #[must_use]
    pub fn values(&self) -> [u64; N] {
        // Relaxed: this thread wrote them, or they were resolved before any thread began.
        std::array::from_fn(|at| self.0[VALUES_TO_COME + N + at].load(Relaxed))
    }

    /// The numbers of the latest note, whether or not its publish came.
    #[must_use]
    pub fn prepared(&self) -> [u64; N] {
        // Relaxed: as above.
        std::array::from_fn(|at| self.0[VALUES_TO_COME + at].load(Relaxed))
    }

    /// Decides for the previous process which numbers hold. `follow` does everything else that must follow a publish
    /// that came. A later process may call it again if this one dies before this returns.
    pub fn resolve(
        &self,
        was_published: &dyn Fn(PublishPosition) -> bool,
        follow: impl FnOnce(&[u64; N]),
    ) -> Resolved<N> {
        // edge `note`, acquiring: a note that is visible is visible as a whole, and its end only with the numbers
        // before it. All stores of a dead process are visible, so this orders nothing on this machine. Relaxed would be
        // right only if no compiler or processor moved a load.
        let get = |at: usize| self.0[at].load(NOTE.acquire());
        let (generation, place) = (get(GENERATION), get(PLACE));
        let by_publish = PublishPosition::from_words([generation, place]).is_some_and(was_published);
        let from = if by_publish { VALUES_TO_COME } else { VALUES_TO_COME + N };
        let values = std::array::from_fn(|at| get(from + at));
        if by_publish {
            follow(&values);
        }
        self.commit(values);
        Resolved { values, by_publish }
    }
}

#[cfg(all(test, not(dbuf_loom)))]
mod tests {
    use super::*;

    const POSITION: [u64; 2] = [9, 3 << 32 | 64];

    fn position() -> PublishPosition {
        PublishPosition::from_words(POSITION).unwrap()
    }

    fn store(words: &[AtomicU64], at: usize, value: u64) {
        words[at].store(value, Relaxed);
    }

    #[test]
    fn after_a_death_at_any_step_the_numbers_agree_with_the_publish() {
        // Every store of the protocol, in order, with numbers [1, 10] before and [2, 20] after. A death after each.
        let stores = [(2, 2), (3, 20), (1, POSITION[1]), (0, POSITION[0]), (4, 2), (5, 20), (0, 0)];
        let published_from = 4;
        for deaths in 0..=stores.len() {
            for came in [false, true] {
                // The publish lies between the fourth and the fifth store.
                let may_be = if came { deaths >= published_from } else { deaths <= published_from };
                if !may_be {
                    continue;
                }
                let memory: Vec<AtomicU64> = [0, 0, 0, 0, 1, 10].map(AtomicU64::new).into();
                stores[..deaths].iter().for_each(|&(at, value)| store(&memory, at, value));
                let note = PublishNote::<2>::new(&memory);
                let asked = |at: PublishPosition| {
                    assert_eq!(at.to_words(), POSITION);
                    came
                };
                let right = if came { [2, 20] } else { [1, 10] };
                assert_eq!(note.resolve(&asked, |_| ()).values, right, "{deaths} stores, published: {came}");
                let again = note.resolve(&|_| panic!("it is decided"), |_| panic!("it was followed"));
                assert_eq!(again, Resolved { values: right, by_publish: false });
            }
        }
    }

    #[test]
    fn a_second_death_at_any_step_of_the_resolution_decides_the_same() {
        for followed in [false, true] {
            // What `resolve` stores if the publish came; the process dies after each store.
            for deaths in 0..=3 {
                let memory: Vec<AtomicU64> = [0, 0, 0, 0, 1, 10].map(AtomicU64::new).into();
                let note = PublishNote::<2>::new(&memory);
                note.prepare(position(), [2, 20]);
                [(4, 2), (5, 20), (0, 0)][..deaths].iter().for_each(|&(at, value)| store(&memory, at, value));
                let mut calls = u32::from(followed);
                let resolved = note.resolve(&|_| true, |_| calls += 1);
                assert_eq!(resolved.values, [2, 20]);
                assert!(calls >= 1 || deaths == 3, "what follows is done before the note ends");
            }
        }
    }

    #[test]
    fn an_aborted_note_changes_nothing_and_the_next_one_counts() {
        let memory: Vec<AtomicU64> = [0, 0, 0, 0, 1, 10].map(AtomicU64::new).into();
        let note = PublishNote::<2>::new(&memory);
        note.prepare(position(), [2, 20]);
        note.abort();
        assert_eq!(note.values(), [1, 10]);
        note.prepare(position(), [3, 30]);
        assert_eq!(note.resolve(&|_| true, |_| ()).values, [3, 30]);
    }
}

#[cfg(all(test, dbuf_loom))]
mod models {
    use dbuf_sync::atomic::Ordering::{Acquire, Release};
    use dbuf_sync::{Arc, thread};

    use super::*;

    const POSITION: [u64; 2] = [9, 3 << 32 | 64];

    /// A note, and the word of the chunk that it names: 0, or 1 once the publish came.
    fn process(memory: &[AtomicU64], chunk: &AtomicU64) {
        let note = PublishNote::<1>::new(memory);
        note.prepare(PublishPosition::from_words(POSITION).unwrap(), [7]);
        chunk.store(1, Release);
        note.commit([7]);
    }

    /// A process may die at any moment, and the next one then sees what was in memory. Here a thread looks at any
    /// moment, in the same order as the next process: the note, then the chunk.
    #[test]
    fn numbers_that_hold_have_been_published() {
        dbuf_sync::model(|| {
            let memory: Arc<Vec<AtomicU64>> = Arc::new((0..4).map(|_| AtomicU64::new(0)).collect());
            let chunk = Arc::new(AtomicU64::new(0));
            let (its_memory, its_chunk) = (Arc::clone(&memory), Arc::clone(&chunk));
            let thread = thread::spawn(move || process(&its_memory, &its_chunk));
            let value = memory[3].load(NOTE.acquire());
            if value == 7 {
                assert_eq!(chunk.load(Acquire), 1, "a number without its publish");
            }
            let generation = memory[GENERATION].load(NOTE.acquire());
            if generation == POSITION[0] {
                assert_eq!((memory[PLACE].load(Relaxed), memory[VALUES_TO_COME].load(Relaxed)), (POSITION[1], 7));
            }
            thread.join().unwrap();
        });
    }

    /// The other order: what is published is noted, or its number holds.
    #[test]
    fn what_is_published_is_noted_or_its_number_holds() {
        dbuf_sync::model(|| {
            let memory: Arc<Vec<AtomicU64>> = Arc::new((0..4).map(|_| AtomicU64::new(0)).collect());
            let chunk = Arc::new(AtomicU64::new(0));
            let (its_memory, its_chunk) = (Arc::clone(&memory), Arc::clone(&chunk));
            let thread = thread::spawn(move || process(&its_memory, &its_chunk));
            if chunk.load(Acquire) == 1 {
                let generation = memory[GENERATION].load(NOTE.acquire());
                assert!(generation == POSITION[0] || memory[3].load(NOTE.acquire()) == 7, "a publish without a note");
            }
            thread.join().unwrap();
        });
    }
}
