//! The memory of the double buffer: taken over from the previous process, or made.
//!
//! Enters: what systemd's store kept, and the sizes that are wanted. Leaves: the buffer, and buffers of other sizes that
//! are to be persisted first. Main thread, at start. What can fail: there is no memory.
//!
//! Under systemd the buffer lies in a memfd that the store keeps, so that what was published in it outlives `kill -9`. A
//! next process goes on with the same memory; where other sizes are configured, or the memory cannot be read, it makes new
//! memory, under the other of two names, and lets go of the old one when all of it is in a file.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::pipeline::buffer::{BuildError, DoubleBuffer, InheritedBuffer, Options, Reader};
use crate::pipeline::drain::Old;
use crate::sync::Arc;
use crate::sys::fdstore::FdStore;

/// The names, in the store, of the memory.
pub(super) const NAMES: [&str; 2] = ["halves", "halves-2"];

/// The buffer, and what has to be persisted before anything of it.
pub(super) struct BufferMemory {
    pub(super) buffer: DoubleBuffer,
    pub(super) reader: Reader,
    pub(super) old: Vec<Old>,
    /// The buffer of the previous process, as it left it, and the last generation in which it may have published.
    pub(super) previous: Option<(DoubleBuffer, u64)>,
}

/// Goes on with what is `left`, each with its name, or makes what `options` say.
pub(super) fn take_over(
    store: Option<&Arc<FdStore>>,
    left: Vec<(OwnedFd, String)>,
    options: &Options,
) -> Result<BufferMemory, BuildError> {
    let Some(store) = store else {
        let (buffer, reader) = DoubleBuffer::new(options)?;
        return Ok(BufferMemory { buffer, reader, old: Vec::new(), previous: None });
    };
    let mut found: Vec<(String, InheritedBuffer)> = Vec::new();
    for (memory, name) in left {
        match DoubleBuffer::of_predecessor(&memory, options.writers_max) {
            Ok(heritage) => found.push((name, heritage)),
            Err(error) => {
                tracing::error!(%error, "what the process before had in memory and not in a file is lost");
                store.remove(&name);
            }
        }
    }
    // The newest is the one that was in use; another is there only if its reader died while it persisted it.
    found.sort_by_key(|(_, heritage)| heritage.buffer.generation());
    let cut_copies: usize = found.iter().map(|(_, heritage)| heritage.cut_copies).sum();
    if cut_copies > 0 {
        tracing::warn!(cut_copies, "the process before died while it copied events into the buffer");
    }
    let previous = found.last().map(|(_, heritage)| (heritage.buffer.clone(), heritage.last_generation));
    let wanted = (options.capacity_bytes, options.chunk_bytes);
    let current = found.pop_if(|(_, heritage)| heritage.buffer.sizes() == wanted);
    let generation = found.last().map_or(1, |(_, heritage)| heritage.buffer.generation() + 2);
    let name = NAMES.into_iter().find(|name| found.iter().all(|(used, _)| used != name)).unwrap_or(NAMES[0]);
    let old = found.into_iter().map(|(name, heritage)| {
        let store = Arc::clone(store);
        Old { reader: heritage.reader, done: Box::new(move || store.remove(&name)) }
    });
    let old = old.collect();
    let (buffer, reader) = match current {
        Some((_, heritage)) => (heritage.buffer, heritage.reader),
        None => make(store, name, generation, options)?,
    };
    Ok(BufferMemory { buffer, reader, old, previous })
}

fn make(store: &FdStore, name: &str, generation: u64, options: &Options) -> Result<(DoubleBuffer, Reader), BuildError> {
    let memory = memfd_create("dbufd-halves", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let memory = memory.map_err(std::io::Error::from)?;
    let made = DoubleBuffer::in_memory(options, generation, &memory)?;
    if !store.put(name, memory.as_fd()) {
        tracing::warn!("systemd takes no descriptors; what is in memory will not outlive this process");
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::notify::Notifier;
    use std::os::unix::net::UnixDatagram;

    const OPTIONS: Options = Options { capacity_bytes: 4 * 64, chunk_bytes: 64, writers_max: 2 };

    /// A store whose notes go nowhere, and what tests put there themselves.
    fn store() -> (tempfile::TempDir, UnixDatagram, Arc<FdStore>) {
        let dir = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(dir.path().join("n")).unwrap();
        let notifier = Notifier::to(dir.path().join("n").to_str().unwrap().as_bytes()).unwrap();
        (dir, manager, Arc::new(FdStore::start(notifier).unwrap()))
    }

    fn note(manager: &UnixDatagram) -> String {
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

    fn first(reader: &mut Reader) -> String {
        let batch = reader.inherited().expect("something is left");
        String::from_utf8(batch.runs().flat_map(|run| run.chunks().collect::<Vec<_>>().concat()).collect()).unwrap()
    }

    #[test]
    fn memory_of_the_same_sizes_is_gone_on_with() {
        let (_dir, _manager, store) = store();
        let left = vec![(left(&OPTIONS, 5, b"left"), NAMES[0].to_owned())];
        let mut halves = take_over(Some(&store), left, &OPTIONS).unwrap();
        assert_eq!((first(&mut halves.reader), halves.old.len(), halves.buffer.generation()), ("left".into(), 0, 6));
    }

    #[test]
    fn memory_of_other_sizes_is_persisted_first_and_then_let_go_of() {
        let (_dir, manager, store) = store();
        let small = Options { capacity_bytes: 2 * 64, ..OPTIONS };
        let left = vec![(left(&small, 5, b"left"), NAMES[0].to_owned())];
        let mut halves = take_over(Some(&store), left, &OPTIONS).unwrap();
        assert_eq!(note(&manager), "FDSTORE=1 FDNAME=halves-2 FDPOLL=0");
        assert_eq!((halves.old.len(), halves.buffer.generation()), (1, 7), "generations go on");
        let mut old = halves.old.pop().unwrap();
        assert_eq!(first(&mut old.reader), "left");
        (old.done)();
        assert_eq!(note(&manager), "FDSTOREREMOVE=1 FDNAME=halves");
    }

    #[test]
    fn a_process_that_died_while_it_changed_sizes_has_left_two() {
        let (_dir, manager, store) = store();
        let small = Options { capacity_bytes: 2 * 64, ..OPTIONS };
        let left =
            vec![(left(&OPTIONS, 7, b"new"), NAMES[1].to_owned()), (left(&small, 5, b"old"), NAMES[0].to_owned())];
        let mut halves = take_over(Some(&store), left, &OPTIONS).unwrap();
        assert_eq!((first(&mut halves.old[0].reader), first(&mut halves.reader)), ("old".into(), "new".into()));
        (halves.old.remove(0).done)();
        assert_eq!(note(&manager), "FDSTOREREMOVE=1 FDNAME=halves");
    }

    #[test]
    fn memory_that_cannot_be_read_is_replaced() {
        let (_dir, manager, store) = store();
        let left = vec![(tempfile::tempfile().unwrap().into(), NAMES[0].to_owned())];
        let halves = take_over(Some(&store), left, &OPTIONS).unwrap();
        assert!(halves.old.is_empty());
        assert_eq!(note(&manager), "FDSTOREREMOVE=1 FDNAME=halves");
        assert_eq!(note(&manager), "FDSTORE=1 FDNAME=halves FDPOLL=0");
    }
}
