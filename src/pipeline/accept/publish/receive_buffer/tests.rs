use std::io::Write;
use std::os::unix::net::UnixStream;

use super::*;
use crate::pipeline::accept::tests::manager::Manager;

const POSITION: [u64; 2] = [9, 3 << 32 | 64];
const SUBJECT_READ: Subject = Subject::Stream(7);

/// The receive buffer with this index that the next process finds.
fn inherit(manager: &mut Manager, index: u32, was_published: bool) -> Option<ReceiveBuffer> {
    let memory = manager.copy_of(&Name::ReceiveBuffer(index).to_string());
    let inherited = InheritedReceiveBuffer::new(index, memory);
    inherited.resolve(&|_| was_published);
    ReceiveBuffer::inherited(inherited.memory?, index)
}

/// What the next process finds in a receive buffer after a read and these `steps`.
fn found(steps: impl Fn(&ReadProgress), was_published: bool) -> Option<(Subject, u64)> {
    let mut manager = Manager::new();
    let mut receive_buffer = ReceiveBuffer::stored(&manager.store(), 0).unwrap();
    let (mut client, ours) = UnixStream::pair().unwrap();
    client.write_all(b"text").unwrap();
    let read_progress = Arc::clone(&receive_buffer.read_progress);
    receive_buffer
        .headers
        .receive_stream(&ours, &mut receive_buffer.stream, || _ = read_progress.begin(SUBJECT_READ, 5, 100))
        .unwrap();
    steps(&read_progress);
    drop((receive_buffer, read_progress));
    let receive_buffer = inherit(&mut manager, 0, was_published).unwrap();
    assert_eq!(&receive_buffer.stream[..receive_buffer.headers.received(0).unwrap()], b"text");
    let unfinished = receive_buffer.unfinished;
    unfinished.map(|unfinished| {
        assert_eq!((unfinished.piece, unfinished.max_event_bytes), (5, 100));
        (unfinished.subject, unfinished.count)
    })
}

#[test]
fn a_process_that_dies_at_any_step_leaves_how_many_events_are_published() {
    let position = PublishPosition::from_words(POSITION).unwrap();
    assert_eq!(found(|_| (), true), Some((SUBJECT_READ, 0)), "it was read");
    let noted = |read_progress: &ReadProgress| {
        read_progress.commit(2);
        read_progress.prepare(position, 5);
    };
    assert_eq!(found(noted, false), Some((SUBJECT_READ, 2)), "the publish never came");
    assert_eq!(found(noted, true), Some((SUBJECT_READ, 5)), "it came, and the note of it did not");
    let aborted = |read_progress: &ReadProgress| {
        noted(read_progress);
        read_progress.abort();
    };
    assert_eq!(found(aborted, true), Some((SUBJECT_READ, 2)), "it failed");
    assert_eq!(found(|read_progress| read_progress.commit(9), true), Some((SUBJECT_READ, 9)));
    assert_eq!(found(ReadProgress::end, true), None, "it is done");
}

#[test]
fn a_process_that_dies_before_the_read_leaves_nothing_unless_the_step_has_no_read() {
    for (subject, is_left) in [(SUBJECT_READ, false), (Subject::Carry(7), true), (Subject::LostLine(7), true)] {
        let mut manager = Manager::new();
        let mut receive_buffer = ReceiveBuffer::stored(&manager.store(), 1).unwrap();
        let (_client, ours) = UnixStream::pair().unwrap();
        let read_progress = Arc::clone(&receive_buffer.read_progress);
        let begin = || _ = read_progress.begin(subject, 5, 100);
        let read = receive_buffer.headers.receive_stream(&ours, &mut receive_buffer.stream, begin);
        assert!(read.is_err(), "nothing is there to be read");
        drop(receive_buffer);
        let unfinished = inherit(&mut manager, 1, true).unwrap().unfinished;
        assert_eq!(unfinished.map(|unfinished| unfinished.subject), is_left.then_some(subject));
    }
}

#[test]
fn receive_buffers_of_writers_that_no_longer_exist_are_finished_by_others_and_other_versions_are_replaced() {
    let mut manager = Manager::new();
    let store = manager.store();
    for index in [0, 1, 2, 3] {
        let mut receive_buffer = ReceiveBuffer::stored(&store, index).unwrap();
        let (mut client, ours) = UnixStream::pair().unwrap();
        client.write_all(b"text").unwrap();
        let read_progress = Arc::clone(&receive_buffer.read_progress);
        let begin = || _ = read_progress.begin(Subject::Stream(index), 5, 100);
        receive_buffer.headers.receive_stream(&ours, &mut receive_buffer.stream, begin).unwrap();
        if index == 2 {
            read_progress.end();
        }
    }
    let left = [3, 2, 1]
        .map(|index| InheritedReceiveBuffer::new(index, manager.copy_of(&Name::ReceiveBuffer(index).to_string())));
    let of_another_version = InheritedReceiveBuffer { index: 0, memory: None };
    let left = left.into_iter().chain([of_another_version]).collect();
    let receive_buffers = ReceiveBuffers::take_over(2, Some(&manager.store()), left).unwrap();
    let slots =
        |slot| receive_buffers.iter().map(|receive_buffers| receive_buffers.concern(Some(slot))).collect::<Vec<_>>();
    assert_eq!(slots(1), [false, true], "its own");
    assert_eq!(slots(3), [true, false], "the buffer of a writer that no longer exists");
    assert_eq!((slots(0), slots(2)), (vec![false; 2], vec![false; 2]), "of another version, and finished");
    manager.wait_for(&["desk0", "desk1", "desk3"]);
}

/// Whether the kernel keeps the memory at this address, as /proc/self/smaps says.
fn is_locked(address: usize) -> bool {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_here = false;
    for line in maps.lines() {
        let ends = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = ends.and_then(|(from, to)| Some((hexadecimal(from)?, hexadecimal(to)?)));
        match ends {
            Some((from, to)) => is_here = (from..to).contains(&address),
            None if is_here && line.starts_with("VmFlags:") => return line.split(' ').any(|flag| flag == "lo"),
            None => {}
        }
    }
    panic!("no mapping at {address:x}");
}

fn hexadecimal(number: &str) -> Option<usize> {
    usize::from_str_radix(number, 16).ok()
}

/// Whether this process may lock any amount of memory. With a limit, tests that run at the same time share it.
fn may_lock_memory() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).and_then(hexadecimal).unwrap();
    // CAP_IPC_LOCK.
    capabilities & 1 << 14 != 0
}

#[test]
fn what_datagrams_are_received_into_is_locked_in_memory_where_that_is_allowed() {
    let mut manager = Manager::new();
    let all = ReceiveBuffers::take_over(2, Some(&manager.store()), Vec::new()).unwrap();
    let own = &all[0].own;
    let address = |region: &Region| region.as_ptr() as usize;
    assert!(!is_locked(address(&own.stream)), "a stream keeps what cannot be copied");
    assert!(is_locked(address(&own.arena)) || !may_lock_memory());
    assert!(own.headers.lock().is_ok() || !may_lock_memory());
}
