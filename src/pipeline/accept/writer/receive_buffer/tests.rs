use std::io::Write;
use std::os::unix::net::UnixStream;

use super::*;
use crate::pipeline::accept::connection::stored::testing::Manager;

const SPOT: [u64; 2] = [9, 3 << 32 | 64];
const SUBJECT_READ: Subject = Subject::Stream(7);

/// What the next process finds of a receive buffer on which something was read, after `steps`.
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
    let memory = manager.copy_of("desk0");
    let receive_buffer = ReceiveBuffer::from_previous(&memory, "desk0", true, &|_| was_published).unwrap();
    assert_eq!(&receive_buffer.stream[..receive_buffer.headers.received(0).unwrap()], b"text");
    let unfinished = receive_buffer.unfinished;
    // It dies at once: the next must not ask again, for the buffer has gone on.
    drop(receive_buffer);
    let again = ReceiveBuffer::from_previous(&memory, "desk0", true, &|_| panic!("asked again")).unwrap();
    assert_eq!(again.unfinished, unfinished);
    unfinished.map(|unfinished| {
        assert_eq!((unfinished.piece, unfinished.max_event_bytes), (5, 100));
        (unfinished.subject, unfinished.count)
    })
}

#[test]
fn a_process_that_dies_at_any_step_leaves_how_many_records_are_published() {
    let spot = PublishPosition::from_words(SPOT).unwrap();
    assert_eq!(found(|_| (), true), Some((SUBJECT_READ, 0)), "it was read");
    let noted = |read_progress: &ReadProgress| {
        read_progress.published(2);
        read_progress.about_to(spot, 5);
    };
    assert_eq!(found(noted, false), Some((SUBJECT_READ, 2)), "the publish never came");
    assert_eq!(found(noted, true), Some((SUBJECT_READ, 5)), "it came, and the note of it did not");
    let taken_back = |read_progress: &ReadProgress| {
        noted(read_progress);
        read_progress.take_back();
    };
    assert_eq!(found(taken_back, true), Some((SUBJECT_READ, 2)), "it failed");
    assert_eq!(found(|read_progress| read_progress.published(9), true), Some((SUBJECT_READ, 9)));
    assert_eq!(found(ReadProgress::end, true), None, "it is done with");
}

#[test]
fn a_process_that_dies_before_the_read_leaves_nothing() {
    let mut manager = Manager::new();
    let mut receive_buffer = ReceiveBuffer::stored(&manager.store(), 1).unwrap();
    let (_client, ours) = UnixStream::pair().unwrap();
    let read_progress = Arc::clone(&receive_buffer.read_progress);
    let begin = || _ = read_progress.begin(SUBJECT_READ, 5, 100);
    assert!(
        receive_buffer.headers.receive_stream(&ours, &mut receive_buffer.stream, begin).is_err(),
        "nothing is there to be read"
    );
    drop(receive_buffer);
    let receive_buffer = ReceiveBuffer::from_previous(&manager.copy_of("desk1"), "desk1", false, &|_| true).unwrap();
    assert_eq!(receive_buffer.unfinished, None);
}

#[test]
fn desks_of_writers_that_there_are_no_more_are_finished_by_others_and_those_of_another_version_replaced() {
    let mut manager = Manager::new();
    let store = manager.store();
    for index in [0, 1, 2, 3] {
        let mut receive_buffer = ReceiveBuffer::stored(&store, index).unwrap();
        let (mut client, ours) = UnixStream::pair().unwrap();
        client.write_all(b"text").unwrap();
        let read_progress = Arc::clone(&receive_buffer.read_progress);
        let begin = || _ = read_progress.begin(Subject::Stream(index as u32), 5, 100);
        receive_buffer.headers.receive_stream(&ours, &mut receive_buffer.stream, begin).unwrap();
        match index {
            0 => read_progress.set([(AT_VERSION, 2)]),
            2 => read_progress.end(),
            _ => {}
        }
    }
    let left = ["desk3", "desk2", "desk1", "desk0"].map(|name| (manager.copy_of(name), name.to_owned()));
    let receive_buffers = ReceiveBuffers::take_over(2, Some(&store), left.into(), &|_| false).unwrap();
    let places =
        |place| receive_buffers.iter().map(|receive_buffers| receive_buffers.concern(Some(place))).collect::<Vec<_>>();
    assert_eq!(places(1), [false, true], "its own");
    assert_eq!(places(3), [true, false], "that of a writer that is no more");
    assert_eq!((places(0), places(2)), (vec![false; 2], vec![false; 2]), "unreadable, and finished");
    assert_eq!(
        manager.names(),
        ["desk0", "desk1", "desk3"],
        "what is finished is let go of, what is unreadable replaced"
    );
}
