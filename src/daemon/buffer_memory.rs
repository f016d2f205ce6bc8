//! Finds the memory of the double buffer that the previous process left, and creates new memory if needed.
//!
//! Input: the memory in systemd's store, and the configured sizes. Output: the buffer, and buffers of other sizes,
//! which have to be persisted first. Main thread, at the start. Failures: no memory is left.
//!
//! Under systemd the buffer is in a memfd that the store holds, so that published events survive `kill -9`. The next
//! process continues with the same memory. If other sizes are configured, or the memory cannot be read, it creates new
//! memory under an unused name, and removes the old memory from the store once all of it is in a file. If the disk is
//! full that can take hours, during which the sizes may change again, so there may be any number of old memories.
//!
//! First everything is found ([`InheritedBuffers::find`]), then the notes of all publishes are resolved
//! ([`InheritedBuffers::was_published`]), and only then is memory created ([`InheritedBuffers::into_memory`]).
//! Otherwise notes would be looked up in memory that is new and empty, and every publish would seem not to have come.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::pipeline::buffer::{BuildError, DoubleBuffer, InheritedBuffer, Options, PublishPosition, Reader};
use crate::pipeline::drain::Old;
use crate::pipeline::takeover::names::Name;
use crate::sync::Arc;
use crate::sys::fdstore::FdStore;

/// The buffer, and the old buffers that have to be persisted before it.
pub(super) struct BufferMemory {
    pub(super) buffer: DoubleBuffer,
    pub(super) reader: Reader,
    pub(super) old: Vec<Old>,
}

/// The buffers that the previous process left, oldest first.
#[derive(Debug, Default)]
pub(super) struct InheritedBuffers {
    found: Vec<(Name, InheritedBuffer)>,
    /// All names that were in use, those of unreadable memory included.
    names: Vec<Name>,
    /// Some memory cannot be read: its events are lost.
    is_unreadable: bool,
}

impl InheritedBuffers {
    /// Maps and checks the memories that are `left`. Creates nothing.
    pub(super) fn find(store: &FdStore, left: Vec<(Name, OwnedFd)>, writers_max: usize) -> Self {
        let mut this = Self { names: left.iter().map(|(name, _)| *name).collect(), ..Self::default() };
        for (name, memory) in left {
            match DoubleBuffer::of_previous(&memory, writers_max) {
                Ok(buffer) => this.found.push((name, buffer)),
                Err(error) => {
                    tracing::error!(%error, "memory of the previous process is unreadable; events only in it are lost");
                    this.is_unreadable = true;
                    let_go(store, name, &this.names);
                }
            }
        }
        // The newest was in use. Older ones are there until they are persisted.
        this.found.sort_by_key(|(_, inherited)| inherited.buffer.generation());
        let cut_copies: usize = this.found.iter().map(|(_, inherited)| inherited.cut_copies).sum();
        if cut_copies > 0 {
            tracing::warn!(cut_copies, "the previous process died while it copied events into the buffer");
        }
        this
    }

    /// The number of descriptors that they take in the store.
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Whether the publish at `position` took place. Each buffer knows only its own generations, and the generations of
    /// the buffers follow each other: the oldest buffer that has reached the position's generation is asked.
    pub(super) fn was_published(&self, position: PublishPosition) -> bool {
        let asked = self.found.iter().find(|(_, inherited)| inherited.buffer.generation() >= position.generation());
        asked.is_some_and(|(_, inherited)| inherited.buffer.was_published(position))
    }

    fn newest_generation(&self) -> u64 {
        self.found.last().map_or(0, |(_, inherited)| inherited.buffer.generation())
    }

    /// The generations that may have been only in memory that is gone, if processes had reached `highest` and all below
    /// `durable_before` is durable. Memory is gone if it cannot be read, or if no manager had it when its process died.
    pub(super) fn lost_generations(&self, highest: u64, durable_before: u64) -> Range<u64> {
        let newest = self.newest_generation();
        // A buffer holds two generations: in front, and being persisted. It may have reached one more than was noted.
        let end = if highest > newest { highest + 2 } else { newest };
        let first = match self.is_unreadable && !self.is_empty() {
            // There are others, and the unreadable memory does not say where in between it belongs.
            true => 0,
            false => (newest + 1).max(highest.saturating_sub(1)),
        };
        first.max(durable_before)..end
    }

    /// The buffer to continue with: that of the previous process if it has the sizes in `options` and has reached
    /// `highest`, else a new one, whose generations begin above that.
    pub(super) fn into_memory(
        mut self,
        store: &Arc<FdStore>,
        options: &Options,
        highest: u64,
    ) -> Result<BufferMemory, BuildError> {
        let wanted = (options.capacity_bytes, options.chunk_bytes);
        let goes_on = |buffer: &DoubleBuffer| buffer.sizes() == wanted && buffer.generation() >= highest;
        let current = self.found.pop_if(|(_, inherited)| goes_on(&inherited.buffer));
        let before = self.newest_generation();
        let old = self.found.into_iter().map(|(name, inherited)| {
            let (store, names) = (Arc::clone(store), self.names.clone());
            Old { reader: inherited.reader, done: Box::new(move || let_go(&store, name, &names)) }
        });
        let old = old.collect();
        let (buffer, reader) = match current {
            Some((_, inherited)) => (inherited.buffer, inherited.reader),
            None => {
                // One generation between two memories belongs to neither.
                let generation = if before.max(highest) == 0 { 1 } else { before.max(highest) + 2 };
                make(store, Name::fresh(Name::Halves, &self.names), generation, options)?
            }
        };
        Ok(BufferMemory { buffer, reader, old })
    }
}

/// Removes a memory from the store, unless the store holds another one under the same name: it would remove both. Only
/// an earlier version gave a name twice. Memory that was persisted and stays is found empty by the next process.
fn let_go(store: &FdStore, name: Name, names: &[Name]) {
    if names.iter().filter(|other| **other == name).count() == 1 {
        store.remove(&name.to_string());
    }
}

fn make(store: &FdStore, name: Name, generation: u64, options: &Options) -> Result<(DoubleBuffer, Reader), BuildError> {
    let memory = memfd_create("dbufd-halves", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let memory = memory.map_err(std::io::Error::from)?;
    let made = DoubleBuffer::in_memory(options, generation, &memory)?;
    if let Err(error) = store.put(&name.to_string(), memory.as_fd()) {
        tracing::warn!(%error, "the buffer is not stored; events in it will not survive this process");
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::notify::Notifier;
    use std::os::unix::net::UnixDatagram;

    const OPTIONS: Options = Options { capacity_bytes: 4 * 64, chunk_bytes: 64, writers_max: 2 };

    fn sized(chunks: usize) -> Options {
        Options { capacity_bytes: chunks * 64, ..OPTIONS }
    }

    /// A store whose notifications the test reads.
    fn store(inherited: &[Name]) -> (tempfile::TempDir, UnixDatagram, Arc<FdStore>) {
        let dir = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(dir.path().join("n")).unwrap();
        let notifier = Notifier::to(dir.path().join("n").to_str().unwrap().as_bytes()).unwrap();
        let names: Vec<String> = inherited.iter().map(Name::to_string).collect();
        (dir, manager, Arc::new(FdStore::start(notifier, names.iter().map(String::as_str)).unwrap()))
    }

    fn notification(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..count]).replace('\n', " ")
    }

    /// Memory in which a process has published, and died.
    fn left(options: &Options, generation: u64, text: &[u8]) -> OwnedFd {
        let memory = memfd_create("dbufd-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let (buffer, reader) = DoubleBuffer::in_memory(options, generation, &memory).unwrap();
        let mut writer = buffer.writer().unwrap();
        writer.append(text).unwrap();
        // Dropped readers close their buffer; a process that dies does not.
        Box::leak(Box::new(reader));
        memory
    }

    fn take_over(store: &Arc<FdStore>, left: Vec<(Name, OwnedFd)>, options: &Options) -> BufferMemory {
        InheritedBuffers::find(store, left, options.writers_max).into_memory(store, options, 0).unwrap()
    }

    fn first(reader: &mut Reader) -> String {
        let batch = reader.inherited().expect("something is left");
        String::from_utf8(batch.runs().flat_map(|run| run.chunks().collect::<Vec<_>>().concat()).collect()).unwrap()
    }

    #[test]
    fn memory_of_the_same_sizes_is_used_again() {
        let (_dir, _manager, store) = store(&[Name::Halves(1)]);
        let left = vec![(Name::Halves(1), left(&OPTIONS, 5, b"left"))];
        let mut memory = take_over(&store, left, &OPTIONS);
        assert_eq!((first(&mut memory.reader), memory.old.len(), memory.buffer.generation()), ("left".into(), 0, 6));
    }

    #[test]
    fn memory_of_other_sizes_is_persisted_first_and_then_let_go() {
        let (_dir, manager, store) = store(&[Name::Halves(1)]);
        let left = vec![(Name::Halves(1), left(&sized(2), 5, b"left"))];
        let mut memory = take_over(&store, left, &OPTIONS);
        assert_eq!(notification(&manager), "FDSTORE=1 FDNAME=halves-2 FDPOLL=0");
        assert_eq!((memory.old.len(), memory.buffer.generation()), (1, 7), "generations go on");
        let mut old = memory.old.pop().unwrap();
        assert_eq!(first(&mut old.reader), "left");
        (old.done)();
        assert_eq!(notification(&manager), "FDSTOREREMOVE=1 FDNAME=halves");
    }

    #[test]
    fn the_third_size_in_a_row_gets_a_name_of_its_own_and_none_is_let_go_before_it_is_persisted() {
        let names = [Name::Halves(1), Name::Halves(2)];
        let (_dir, manager, store) = store(&names);
        let left = vec![(names[1], left(&sized(6), 7, b"second")), (names[0], left(&sized(2), 5, b"first"))];
        let mut memory = take_over(&store, left, &OPTIONS);
        assert_eq!(notification(&manager), "FDSTORE=1 FDNAME=halves-3 FDPOLL=0");
        for (text, name) in [("first", "halves"), ("second", "halves-2")] {
            let mut old = memory.old.remove(0);
            assert_eq!(first(&mut old.reader), text);
            (old.done)();
            assert_eq!(notification(&manager), format!("FDSTOREREMOVE=1 FDNAME={name}"));
        }
    }

    #[test]
    fn of_two_memories_of_one_name_the_newer_stays_when_the_older_is_persisted() {
        let (_dir, manager, store) = store(&[Name::Halves(1)]);
        let (older, newer) = (left(&sized(2), 5, b"older"), left(&OPTIONS, 7, b"newer"));
        let twice =
            || vec![(Name::Halves(1), older.try_clone().unwrap()), (Name::Halves(1), newer.try_clone().unwrap())];
        let mut memory = take_over(&store, twice(), &OPTIONS);
        let mut old = memory.old.pop().unwrap();
        assert_eq!(first(&mut old.reader), "older");
        old.reader.done_with(5);
        (old.done)();
        manager.set_nonblocking(true).unwrap();
        assert!(manager.recv(&mut [0; 256]).is_err(), "the store would let go of both");
        // The next process finds the older one again, and nothing in it.
        Box::leak(Box::new(memory.reader));
        drop(old.reader);
        let mut memory = take_over(&store, twice(), &OPTIONS);
        assert!(memory.old.pop().unwrap().reader.inherited().is_none());
        assert_eq!(first(&mut memory.reader), "newer");
    }

    #[test]
    fn a_note_is_resolved_by_the_memory_that_it_speaks_of() {
        let (_dir, _manager, store) = store(&[]);
        let memory = memfd_create("dbufd-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let (buffer, reader) = DoubleBuffer::in_memory(&sized(2), 5, &memory).unwrap();
        Box::leak(Box::new(reader));
        let mut writer = buffer.writer().unwrap();
        let claim = writer.claim(8).unwrap();
        // The first process died after this note and before its publish; the second after it had made its own memory.
        let position = claim.publish_position();
        drop(claim);
        let newer = left(&OPTIONS, 7, b"of the second process");
        let found = vec![(Name::Halves(2), newer), (Name::Halves(1), memory)];
        let buffers = InheritedBuffers::find(&store, found, 2);
        assert!(!buffers.was_published(position), "the newer memory has never seen that generation");
    }

    #[test]
    fn what_only_memory_that_is_gone_can_have_held_is_lost() {
        let (_dir, _manager, store) = store(&[]);
        let find = |generations: &[u64], unreadable: usize| {
            let readable = generations.iter().map(|generation| left(&OPTIONS, *generation, b"left"));
            let unreadable = (0..unreadable).map(|_| tempfile::tempfile().unwrap().into());
            let all = readable.chain(unreadable).zip(1..).map(|(memory, number)| (Name::Halves(number), memory));
            InheritedBuffers::find(&store, all.collect(), 2)
        };
        // Nothing is gone, be it noted how far it has come or not.
        assert!([0, 4, 5].into_iter().all(|highest| find(&[3, 5], 0).lost_generations(highest, 2).is_empty()));
        assert!(find(&[], 0).lost_generations(0, 0).is_empty());
        // No manager had the newest, or any.
        assert_eq!(find(&[5], 0).lost_generations(7, 4), 6..9);
        assert_eq!(find(&[5], 0).lost_generations(40, 4), 39..42);
        assert_eq!(find(&[], 0).lost_generations(40, 40), 40..42);
        // What cannot be read was the only one, or the newest, or one of several.
        assert_eq!(find(&[], 1).lost_generations(40, 4), 39..42);
        assert_eq!(find(&[5], 1).lost_generations(7, 4), 4..9);
        assert_eq!(find(&[5, 7], 1).lost_generations(7, 2), 2..7);
    }

    #[test]
    fn memory_that_a_later_one_had_followed_is_persisted_and_not_resumed() {
        let (_dir, _manager, store) = store(&[Name::Halves(1)]);
        let buffers = InheritedBuffers::find(&store, vec![(Name::Halves(1), left(&OPTIONS, 5, b"left"))], 2);
        let mut memory = buffers.into_memory(&store, &OPTIONS, 7).unwrap();
        assert_eq!((memory.old.len(), memory.buffer.generation()), (1, 9), "no generation is given out twice");
        assert_eq!(first(&mut memory.old[0].reader), "left");
    }

    #[test]
    fn memory_that_cannot_be_read_is_replaced_under_another_name() {
        let (_dir, manager, store) = store(&[Name::Halves(1)]);
        let left = vec![(Name::Halves(1), tempfile::tempfile().unwrap().into())];
        let buffers = InheritedBuffers::find(&store, left, 2);
        assert!(buffers.is_unreadable && buffers.is_empty());
        let memory = buffers.into_memory(&store, &OPTIONS, 40).unwrap();
        assert_eq!((memory.old.len(), memory.buffer.generation()), (0, 42));
        assert_eq!(notification(&manager), "FDSTOREREMOVE=1 FDNAME=halves");
        assert_eq!(notification(&manager), "FDSTORE=1 FDNAME=halves-2 FDPOLL=0");
    }
}
