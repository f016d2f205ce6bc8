//! Tests how a start handles what it finds: torn ends, damage, files of a later version, and files that make no sense.

use dbuf_segment::footer::Footer;

use super::*;

const SHORT_LINES: u64 = 400;

/// This many lines of a byte each.
fn short_lines(generation: u64) -> TestBatch {
    let mut batch = TestBatch::new(generation);
    batch.run("a", &[]).lines(generation * 10, &"x\n".repeat(SHORT_LINES as usize));
    batch
}

#[test]
fn a_segment_of_a_later_version_is_refused_with_the_reason_and_left_alone() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    append(&mut store, &short_lines(1)).unwrap();
    drop(store);
    let path = bench.names()[0].in_directory(bench.path());
    let mut bytes = fs::read(&path).unwrap();
    bytes[format::segment::incompat.at] = 0x80;
    let crc = format::checksum(&bytes[..format::segment::header_crc.at]);
    bytes[format::segment::header_crc.at..][..4].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let (mut store, recovery) = bench.open();
    assert!(recovery.notes[0].contains("newer version"), "{recovery:?}");
    assert!(recovery.next_sequence > SHORT_LINES, "beyond what the file can hold: {}", recovery.next_sequence);
    append(&mut store, &batch(2)).unwrap();
    store.close().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let all = read(bench.path());
    assert!(all.len() == 4 && all[0].starts_with("damage") && all[0].contains("newer version"), "{all:?}");
}

#[test]
fn a_batch_of_a_later_version_is_not_cut_off_by_recovery() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    append(&mut store, &batch(1)).unwrap();
    append(&mut store, &short_lines(2)).unwrap();
    drop(store);
    let path = bench.names()[0].in_directory(bench.path());
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).rposition(|bytes| bytes == format::BATCH_MAGIC).unwrap();
    let header = {
        let mut header = format::BatchHeader::default();
        let stream_id = format::SegmentHeader::decode(&bytes).unwrap().stream_id;
        header.decode_from(stream_id, at as u64, &bytes[at..]).unwrap();
        let mut again = Vec::new();
        header.encode_with(stream_id, 0x80, &mut again);
        again
    };
    bytes[at..][..header.len()].copy_from_slice(&header);
    fs::write(&path, &bytes).unwrap();
    let (store, recovery) = bench.open();
    assert!(recovery.notes[0].contains("newer version"), "{recovery:?}");
    assert!(recovery.next_sequence > SHORT_LINES, "beyond what the file can hold: {}", recovery.next_sequence);
    store.close().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "nothing of it is touched");
}

#[test]
fn a_torn_end_is_cut_at_the_last_whole_batch_wherever_it_is_torn() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    for generation in 1..=2 {
        append(&mut store, &batch(generation)).unwrap();
    }
    let path = bench.names()[0].in_directory(bench.path());
    let two = fs::read(&path).unwrap();
    append(&mut store, &batch(3)).unwrap();
    drop(store);
    let three = fs::read(&path).unwrap();
    for cut in two.len()..three.len() {
        for zeros in [0, 4096] {
            let mut torn = three[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            reset(&bench, &path, &torn);
            let (mut store, recovery) = bench.open();
            let torn_bytes = (torn.len() - two.len()) as u64;
            assert_eq!((recovery.torn_bytes, recovery.next_sequence), (torn_bytes, 7), "cut at {cut}");
            assert_eq!(read(bench.path()), expected(2));
            append(&mut store, &batch(3)).unwrap();
            store.close().unwrap();
            assert_eq!(read(bench.path()), expected(3));
            assert_whole(bench.path());
        }
    }
}

#[test]
fn a_segment_whose_footer_finds_no_room_at_a_start_is_torn_and_whole() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    for generation in 1..=2 {
        append(&mut store, &batch(generation)).unwrap();
    }
    drop(store);
    {
        // A part of the footer finds room, as the rest of the last block does on a real disk.
        let mut faults = bench.disk.faults();
        (faults.short_bytes, faults.fail_write) = (Some(64), Some((faults.writes + 2, Errno::ENOSPC)));
    }
    let (mut store, recovery) = bench.open();
    bench.disk.faults().short_bytes = None;
    assert_eq!((recovery.next_sequence, recovery.damaged_ranges), (7, 0));
    assert!(recovery.notes.iter().any(|note| note.contains("footer cannot be written")), "{:?}", recovery.notes);
    assert_eq!(read(bench.path()), expected(2));
    append(&mut store, &batch(3)).unwrap();
    store.close().unwrap();
    let (mut store, recovery) = bench.open();
    assert_eq!((recovery.next_sequence, recovery.torn_bytes), (10, 0));
    append(&mut store, &batch(4)).unwrap();
    store.close().unwrap();
    assert_eq!(read(bench.path()), expected(4));
    let states: Vec<State> = bench.names().iter().map(|name| name.state).collect();
    assert_eq!(states, [State::Torn, State::Sealed, State::Sealed]);
    assert_whole(bench.path());
}

/// The directory holds one active segment with these bytes.
fn reset(bench: &Bench, path: &Path, bytes: &[u8]) {
    for name in bench.names() {
        fs::remove_file(name.in_directory(bench.path())).unwrap();
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_middle_is_kept_counted_and_skipped() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    for generation in 1..=3 {
        append(&mut store, &batch(generation)).unwrap();
    }
    drop(store);
    let path = bench.names()[0].in_directory(bench.path());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    reset(&bench, &path, &bytes);
    let (_store, recovery) = bench.open();
    assert_eq!((recovery.damaged_ranges, recovery.torn_bytes, recovery.next_sequence), (1, 0, 10));
    let all = read(bench.path());
    assert!(all.len() == 7 && all[3].starts_with("damage"), "{all:?}");
}

#[test]
fn files_that_make_no_sense_stop_nothing() {
    let bench = Bench::new(SyncPolicy::Never);
    let (mut store, _) = bench.open();
    append(&mut store, &batch(1)).unwrap();
    drop(store);
    let write = |name: &str, bytes: &[u8]| fs::write(bench.path().join(name), bytes).unwrap();
    write("00000000000000000050.active", b"");
    write("00000000000000000060.active", &[7; 5000]);
    write("00000000000000000070.segment", b"short");
    write("00000000000000000080.torn", &[0; 300]);
    write("00000000000000000004.repair", b"half");
    write("notes.txt", b"mine");
    fs::create_dir(bench.path().join("00000000000000000090.segment")).unwrap();
    let (mut store, recovery) = bench.open();
    assert!(recovery.next_sequence >= 80, "{recovery:?}");
    assert!(!recovery.notes.is_empty());
    append(&mut store, &batch(1)).unwrap();
    store.close().unwrap();
    assert!(bench.path().join("notes.txt").exists() && !bench.path().join("00000000000000000004.repair").exists());
    let all = read(bench.path());
    assert!(all[..3] == expected(1) && all.last().unwrap().ends_with("odd"), "{all:?}");
}

/// Two batches in an active segment, and the path of that segment.
fn two_batches(bench: &Bench) -> std::path::PathBuf {
    let (mut store, _) = bench.open();
    for generation in 1..=2 {
        append(&mut store, &batch(generation)).unwrap();
    }
    drop(store);
    bench.names()[0].in_directory(bench.path())
}

/// A footer that would end a file of these bytes, and that claims a sequence which no batch has reached.
fn forged(bytes: &[u8], stream_id: u128) -> Vec<u8> {
    let mut footer = Footer::new(stream_id, 1);
    (footer.offset, footer.next_sequence, footer.batches) = (bytes.len() as u64, (1 << 62) + 5, 2);
    footer.encode()
}

#[test]
fn a_footer_that_an_active_segment_happens_to_end_with_is_cut_as_a_torn_end() {
    let bench = Bench::new(SyncPolicy::Never);
    let path = two_batches(&bench);
    let whole = fs::read(&path).unwrap();
    let own = format::SegmentHeader::decode(&whole).unwrap().stream_id;
    for stream_id in [own, own ^ 1] {
        for header_is_damaged in [false, true] {
            let mut bytes = whole.clone();
            if header_is_damaged {
                bytes[40] ^= 1;
            }
            bytes.extend(forged(&bytes, stream_id));
            reset(&bench, &path, &bytes);
            if header_is_damaged {
                // The neighbour says which stream it is.
                let neighbour = [&whole[..format::SEGMENT_BYTES], &Footer::new(own, 1).encode()].concat();
                fs::write(Name::new(1, State::Sealed).in_directory(bench.path()), neighbour).unwrap();
            }
            let (mut store, recovery) = bench.open();
            assert_eq!(recovery.next_sequence, 7, "{recovery:?}, {header_is_damaged}");
            assert_eq!(read(bench.path()).iter().filter(|item| !item.starts_with("damage")).count(), 6);
            append(&mut store, &batch(3)).unwrap();
            store.close().unwrap();
            assert!(read(bench.path()).ends_with(&expected(3)[6..]), "what comes later can be read");
        }
    }
}

#[test]
fn an_active_segment_that_has_its_footer_gets_the_same_one_and_costs_nothing() {
    let bench = Bench::new(SyncPolicy::Never);
    let path = two_batches(&bench);
    let (store, _) = bench.open();
    store.close().unwrap();
    let sealed = fs::read(bench.names()[0].in_directory(bench.path())).unwrap();
    reset(&bench, &path, &sealed);
    let (store, recovery) = bench.open();
    assert_eq!((recovery.torn_bytes, recovery.damaged_ranges, recovery.events), (0, 0, 6));
    store.close().unwrap();
    assert_eq!(fs::read(bench.names()[0].in_directory(bench.path())).unwrap(), sealed);
}

#[test]
fn the_footer_of_a_sealed_segment_moves_the_sequence_no_further_than_its_bytes_can() {
    let bench = Bench::new(SyncPolicy::Never);
    let path = two_batches(&bench);
    let mut bytes = fs::read(&path).unwrap();
    let own = format::SegmentHeader::decode(&bytes).unwrap().stream_id;
    bytes.extend(forged(&bytes, own));
    let sealed = Name { state: State::Sealed, ..Name::of_path(&path).unwrap() };
    reset(&bench, &sealed.in_directory(bench.path()), &bytes);
    let (store, recovery) = bench.open();
    assert!((7..=7 + bytes.len() as u64).contains(&recovery.next_sequence), "{recovery:?}");
    store.close().unwrap();
}
