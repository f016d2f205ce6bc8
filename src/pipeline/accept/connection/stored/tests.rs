use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::*;
use crate::pipeline::accept::connection::read_position::{OpenLine, Until};
use crate::pipeline::accept::tests::manager::Manager;
use crate::pipeline::record::Transport;
use crate::sys::fdstore::NotKept;

fn identity(pid: u32) -> Identity {
    Identity { pid, uid: 7, gid: 8, comm: (*b"cat").into(), unit: (*b"a.service").into(), ..Identity::default() }
}

fn open_line(until: Until) -> OpenLine {
    let tag = (*b"app[").into();
    OpenLine { id: 1 << 50, until, pri: 11, transport: Transport::Syslog, claimed_pid: 9, tag }
}

fn found(read_positions: &ReadPositions, index: u32) -> (Identity, InheritedPosition, u64) {
    let FoundPosition { peer, position, read, .. } = read_positions.read(index);
    (peer, position, read)
}

fn pair() -> (UnixStream, OwnedFd) {
    let (client, ours) = UnixStream::pair().unwrap();
    (client, ours.into())
}

#[test]
fn the_position_of_each_connection_is_found_again() {
    let read_positions = ReadPositions::new().unwrap();
    let positions: [(ReadPosition<'_>, InheritedPosition); 5] = [
        (ReadPosition::Undecided { carry: b"" }, InheritedPosition::LineStart),
        (ReadPosition::Undecided { carry: b"\x89d" }, InheritedPosition::Undecided { carry: b"\x89d".to_vec() }),
        (
            ReadPosition::Text { open_line: None, carry: b"half a li" },
            InheritedPosition::Text { open_line: None, carry: b"half a li".into() },
        ),
        (
            ReadPosition::Text { open_line: Some(&open_line(Until::Newline)), carry: b"" },
            InheritedPosition::Text { open_line: Some(open_line(Until::Newline)), carry: Vec::new() },
        ),
        (
            ReadPosition::Text { open_line: Some(&open_line(Until::Octets(77))), carry: &[b'x'; 70_000] },
            InheritedPosition::Text { open_line: Some(open_line(Until::Octets(77))), carry: vec![b'x'; 70_000] },
        ),
    ];
    for (index, (position, expected)) in (0..).zip(&positions) {
        read_positions.begin(index, 0, &identity(index)).unwrap();
        assert_eq!(
            found(&read_positions, index),
            (identity(index), InheritedPosition::LineStart, 0),
            "nothing has been read"
        );
        read_positions.write(index, &ReadPosition::Text { open_line: None, carry: b"older" }, 7, 1, 0).unwrap();
        read_positions.write(index, position, 8, 2, 0).unwrap();
        assert_eq!(found(&read_positions, index), (identity(index), expected.clone(), 8));
    }
}

#[test]
fn an_interrupted_write_of_a_position_leaves_the_one_before() {
    let read_positions = ReadPositions::new().unwrap();
    let memory = || std::fs::File::from(read_positions.memory().try_clone_to_owned().unwrap());
    let flip = |at: u64| {
        let mut byte = [0];
        memory().read_exact_at(&mut byte, at).unwrap();
        memory().write_all_at(&[byte[0] ^ 4], at).unwrap();
    };
    let before = ReadPosition::Text { open_line: None, carry: b"before" };
    let after = ReadPosition::Text { open_line: Some(&open_line(Until::Newline)), carry: b"half" };
    // Turns are written to the two halves of a place.
    let [of_even, of_odd] = [4096 + 1024, 4096 + 1024 + (1 << 20) + (64 << 10)];
    for byte in 0..116 {
        read_positions.begin(0, 0, &identity(1)).unwrap();
        read_positions.write(0, &after, 6, 1, 0).unwrap();
        flip(of_odd + byte);
        assert_eq!(
            read_positions.read(0).position,
            InheritedPosition::LineStart,
            "the first of all was cut at byte {byte}"
        );
        read_positions.write(0, &before, 7, 1, 0).unwrap();
        read_positions.write(0, &after, 8, 2, 0).unwrap();
        flip(of_even + byte);
        assert_eq!(
            found(&read_positions, 0).1,
            InheritedPosition::Text { open_line: None, carry: b"before".to_vec() },
            "byte {byte}"
        );
        assert_eq!(found(&read_positions, 0).2, 7);
        flip(of_odd + 64);
        assert!(
            matches!(read_positions.read(0).position, InheritedPosition::Lost | InheritedPosition::LostHandshake),
            "both are damaged"
        );
    }
}

#[test]
fn memory_of_another_version_is_refused() {
    let read_positions = ReadPositions::new().unwrap();
    let copy = || read_positions.memory().try_clone_to_owned().unwrap();
    assert!(ReadPositions::open(copy()).is_some());
    std::fs::File::from(copy()).write_all_at(&[9], 8).unwrap();
    assert!(ReadPositions::open(copy()).is_none());
    assert!(ReadPositions::open(tempfile::tempfile().unwrap().into()).is_none());
}

#[test]
fn memory_that_a_long_line_took_is_given_back() {
    let read_positions = ReadPositions::new().unwrap();
    let taken = || {
        std::fs::File::from(read_positions.memory().try_clone_to_owned().unwrap()).metadata().unwrap().blocks() * 512
    };
    read_positions.begin(3, 0, &identity(3)).unwrap();
    let before = taken();
    let mut pages = 1;
    for turn in 1..=2 {
        let long = ReadPosition::Text { open_line: None, carry: &vec![b'x'; 900_000] };
        pages = read_positions.write(3, &long, 1, turn, pages).unwrap();
    }
    assert!(taken() > before + 1_600_000);
    read_positions.write(3, &ReadPosition::Text { open_line: None, carry: b"y" }, 1, 3, pages).unwrap();
    assert!(taken() <= before + 4096, "{} and {before}", taken());
    read_positions.clear(3).unwrap();
    assert!(taken() < before);
}

#[test]
fn the_next_process_gets_the_same_connections_and_what_their_peers_sent_meanwhile() {
    let mut manager = Manager::new();
    let (store, none) = manager.next_process(10);
    assert!(none.is_empty());
    let (mut first, ours) = pair();
    let mut stored = store.keep(0, ours, &identity(1));
    assert!(stored.note_position(&ReadPosition::Text { open_line: None, carry: b"half" }, 3));
    let (mut second, ours) = pair();
    let other = store.keep(0, ours, &identity(2));
    assert_eq!((manager.names().join(" "), store.stored()), ("bookmarks c0 c1".to_owned(), 2));
    // It dies. What is sent now is in the kernel, and stays there although the sender leaves.
    drop((stored, other, store));
    first.write_all(b" a line").unwrap();
    second.write_all(b"bye").unwrap();
    drop(second);
    let (store, inherited) = manager.next_process(10);
    let positions: Vec<_> = inherited.iter().map(|one| (one.identity.pid, one.position.clone())).collect();
    let half = InheritedPosition::Text { open_line: None, carry: b"half".to_vec() };
    assert_eq!(positions, [(1, half), (2, InheritedPosition::LineStart)]);
    for (one, sent) in inherited.into_iter().zip([&b" a line"[..], b"bye"]) {
        let mut read = vec![0; sent.len()];
        UnixStream::from(one.stored.socket.try_clone().unwrap()).read_exact(&mut read).unwrap();
        assert_eq!(read, sent);
        one.stored.close();
    }
    assert_eq!((manager.names().join(" "), store.stored()), ("bookmarks".to_owned(), 0));
    assert_eq!(first.read(&mut [0]).unwrap(), 0, "its peer sees the end although systemd had it, too");
}

#[test]
fn a_slot_is_reused_only_after_systemd_has_removed_its_name_however_busy_systemd_is() {
    let mut manager = Manager::new();
    let (store, _) = manager.next_process(3);
    // More than the manager's queue holds while it does not read.
    for round in 0..400 {
        let (_client, ours) = pair();
        store.keep(0, ours, &identity(round)).close();
    }
    let (client, ours) = pair();
    let last = store.keep(0, ours, &identity(9));
    assert!(last.is_stored());
    // The manager itself asserts that no name is given away twice.
    while store.store.waiting() > 0 {
        manager.read_notes();
    }
    let name = Name::Connection(last.slot().unwrap()).to_string();
    manager.wait_for(&["bookmarks", &name]);
    assert_eq!(manager.next_process(3).1[0].identity, identity(9));
    drop(client);
}

#[test]
fn only_open_connections_that_systemd_holds_count_as_kept() {
    let mut manager = Manager::new();
    let (store, _) = manager.next_process(10);
    let (_one, ours) = pair();
    let open = store.keep(0, ours, &identity(1));
    let (_two, ours) = pair();
    let noted = store.note(0, ours, &identity(2));
    assert!(noted.is_noted());
    assert_eq!(store.stored(), 1, "a connection that is only noted ends with the process");
    // More than the manager's queue holds while it does not read, so that removals wait and slots stay taken.
    for round in 0..400 {
        let (_client, ours) = pair();
        store.keep(0, ours, &identity(round)).close();
    }
    assert!(store.store.waiting() > 0);
    assert_eq!(store.stored(), 1, "a closed connection is not open, although its slot waits for systemd");
    drop((open, noted));
}

#[test]
fn a_connection_beyond_the_room_is_served_and_counted_and_ends_with_its_process() {
    let mut manager = Manager::new();
    let (store, _) = manager.next_process(2);
    let (_one, ours) = pair();
    let stored = store.keep(0, ours, &identity(1));
    let (mut two, ours) = pair();
    let not = store.keep(0, ours, &identity(2));
    assert_eq!((stored.is_stored(), not.is_stored(), store.unkept()), (true, false, 1));
    assert_eq!(manager.names(), ["bookmarks", "c0"]);
    drop(not);
    assert_eq!(two.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_user_who_has_its_share_of_the_store_is_served_without_and_others_are_stored() {
    let mut manager = Manager::new();
    let (store, _) = manager.next_process(17);
    let keep = |uid: u32| {
        let (client, ours) = pair();
        (client, store.keep(0, ours, &Identity { uid, ..identity(1) }))
    };
    let greedy: Vec<_> = (0..8).map(|_| keep(1000)).collect();
    let are_stored: Vec<bool> = greedy.iter().map(|(_, stored)| stored.is_stored()).collect();
    assert_eq!(are_stored, [true, true, true, true, false, false, false, false], "a quarter of 16");
    let others = [keep(1001), keep(0)];
    assert!(others.iter().all(|(_, stored)| stored.is_stored()));
    let unkept = store.unkept();
    greedy.into_iter().for_each(|(_, stored)| stored.close());
    while store.store.waiting() > 0 {
        manager.read_notes();
    }
    manager.wait_for(&["bookmarks", "c4", "c5"]);
    let (_client, again) = keep(1000);
    assert!(again.is_stored() && (unkept, store.unkept()) == (4, 4));
}

#[test]
fn the_slot_of_a_connection_that_became_a_rings_is_freed_once_although_a_receive_buffer_names_it() {
    let mut manager = Manager::new();
    {
        let (connections, _) = manager.next_process(10);
        let stored = connections.keep(0, pair().1, &identity(1));
        connections.store.put(&Name::RingLine(0).to_string(), stored.socket.as_fd()).unwrap();
        assert_eq!(manager.names(), ["bookmarks", "c0", "ring0-line"]);
    }
    let (connections, mut inherited) = manager.next_process_with(10, vec![0]);
    assert_eq!(inherited[0].stored.slot(), Some(0), "the owner of the bytes is known");
    assert_eq!(manager.names(), ["bookmarks", "c0", "ring0-line"], "it is not removed before its bytes are published");
    inherited.remove(0).stored.close();
    manager.wait_for(&["bookmarks", "ring0-line"]);
    let kept = [2, 3].map(|pid| connections.keep(0, pair().1, &identity(pid)));
    assert_eq!(kept.map(|stored| stored.slot()), [Some(0), Some(1)]);
}

#[test]
fn a_user_who_connects_and_leaves_in_a_loop_costs_systemd_no_more_than_its_share_of_its_time() {
    let mut manager = Manager::new();
    let (store, _) = manager.next_process(1000);
    let mut one = |uid: u32| {
        let (_client, ours) = pair();
        let stored = store.keep(0, ours, &Identity { uid, ..identity(1) });
        manager.read_notes();
        let is_stored = stored.is_stored();
        stored.close();
        is_stored
    };
    let begin = Instant::now();
    let stored = (0..20_000).filter(|_| one(1000)).count();
    // An eighth of a second of systemd's time, and 4 % of the time that the test takes, at 150 us each.
    let most = (125_000 + begin.elapsed().as_micros() * 4 / 100) / 150 + 1;
    assert!((800..=most as usize).contains(&stored), "{stored} of 20,000, and {most} are allowed");
    assert!(one(1001) && (0..5000).all(|_| one(0)), "nobody else is limited by that");
    let status = store.shares.status().into_iter().find(|status| status.name == "systemd_time").unwrap();
    assert_eq!(status.refused, [(1000, 20_000 - stored as u64)]);
    assert_eq!(store.unkept(), 20_000 - stored as u64);
}

#[test]
fn a_connection_that_found_no_room_is_stored_later_also_within_a_line() {
    let mut manager = Manager::new();
    let (mut client, ours) = pair();
    let half = ReadPosition::Text { open_line: None, carry: b"half" };
    let who = Identity { uid: 1000, ..identity(3) };
    {
        let (store, _) = manager.next_process(5);
        let (_one, other) = pair();
        let first = store.keep(0, other, &Identity { uid: 1000, ..identity(2) });
        let mut second = store.keep(0, ours, &who);
        assert!(first.is_stored() && !second.is_stored() && second.is_unkept(), "a quarter of 4");
        assert_eq!(store.keep_later(&mut second, who.uid, &who, &half), Retry::Later);
        first.close();
        assert_eq!(store.keep_later(&mut second, who.uid, &who, &half), Retry::Done);
        assert_eq!((second.is_stored(), second.is_unkept(), store.stored()), (true, false, 1));
        let refused = |resource: Resource| store.shares.status()[resource as usize].refused.clone();
        assert_eq!((store.unkept(), refused(Resource::StoredConnections)), (1, vec![(1000, 1)]), "it is counted once");
        assert_eq!(store.keep_later(&mut second, who.uid, &who, &half), Retry::Done, "it is not stored twice");
    }
    client.write_all(b" a line").unwrap();
    let (_, mut inherited) = manager.next_process(5);
    let found = inherited.remove(0);
    assert_eq!((found.identity, found.read), (who, 0));
    assert_eq!(found.position, InheritedPosition::Text { open_line: None, carry: b"half".to_vec() });
    let mut read = [0; 7];
    UnixStream::from(found.stored.socket.try_clone().unwrap()).read_exact(&mut read).unwrap();
    assert_eq!(&read, b" a line");
}

#[test]
fn a_connection_that_has_turned_out_to_speak_frames_is_not_stored_later() {
    let mut manager = Manager::new();
    let (store, _) = manager.next_process(1);
    let (_client, ours) = pair();
    let mut stored = store.keep(0, ours, &identity(1));
    assert!(stored.is_unkept());
    stored.let_go();
    assert_eq!(
        store.keep_later(&mut stored, identity(1).uid, &identity(1), &ReadPosition::Undecided { carry: b"" }),
        Retry::Done
    );
    assert!(!stored.is_stored() && !stored.is_unkept());
}

#[test]
fn the_warning_says_why_a_connection_is_not_stored_and_what_helps() {
    let resource = Resource::StoredConnections;
    let said = [
        (WhyUnkept::Refused(Refusal::NoneLeft(resource)), "has no connections in systemd's store left; raise FileDesc"),
        (WhyUnkept::Refused(Refusal::Share { resource, share: 7 }), "may have 7 connections in systemd's store"),
        (WhyUnkept::Refused(Refusal::UsedUp(Resource::SystemdTime)), "used up its time of systemd"),
        (WhyUnkept::NoMemory(io::ErrorKind::OutOfMemory.into()), "no memory for its read position"),
        (WhyUnkept::NotKept(NotKept::InUse), "its name is still in use"),
    ];
    for (reason, (why, part)) in said.iter().enumerate() {
        assert!(why.to_string().contains(part) && why.reason() == reason, "{why}");
        let is_room = why.to_string().contains("FileDescriptorStoreMax=");
        assert_eq!(is_room, reason < 2, "only more room helps against too little room: {why}");
    }
}
