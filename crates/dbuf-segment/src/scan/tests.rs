//! Tests listing a directory whose files are renamed meanwhile, and reading bytes that imitate batches and footers. The
//! daemon's tests read back what the store writes.

use dbuf_sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::segment::{Batch, Step};
use super::*;
use crate::file::ReadAt;
use crate::footer::Footer;
use crate::format::{BATCH_HEADER_BYTES_MAX, BATCH_MAGIC, Broken, SegmentHeader};

#[test]
fn a_listing_has_every_file_that_was_there_although_files_are_renamed_meanwhile() {
    let [one, two, three, four] = [1, 2, 3, 4].map(|sequence| Name::new(sequence, State::Sealed));
    let active = |name: Name| Name { state: State::Active, ..name };
    let settled = |lists: [&[Name]; 4]| {
        let mut lists = lists.into_iter();
        settled(|| Ok(lists.next().expect("no more than four").to_vec())).unwrap()
    };
    let quiet = [one, active(two)];
    assert_eq!(settled([&quiet; 4]), quiet);
    assert_eq!(settled([&[]; 4]), []);
    // Renamed in the third listing, it is in the fourth; and the other way round.
    assert_eq!(settled([&quiet, &quiet, &[one, active(three)], &[one, two, active(three)]]), [one, two]);
    assert_eq!(settled([&quiet, &quiet, &quiet, &[one, active(three)]]), quiet);
    // Missing in the first two listings, each time for another reason: it came, and was renamed.
    let without_two = [one, active(three)];
    assert_eq!(
        settled([&without_two, &without_two, &[one, two, three, four], &[one, two, three, four]]),
        [one, two, three]
    );
    // Retention removed it, and it does not come back.
    assert_eq!(settled([&[one, two], &[one, two], &[one, two], &[two]]), [two]);
}

const STREAM_ID: u128 = 7;

/// A segment without a batch.
fn empty_segment() -> Vec<u8> {
    SegmentHeader { stream_id: STREAM_ID, boot_id: 0, created_ns: 0, first_sequence: 1 }.encode().to_vec()
}

/// Memory that counts the bytes that are read of it.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl ReadAt for Counted {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.0.read_at(to, offset)?;
        self.1.fetch_add(read, Relaxed);
        Ok(read)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }
}

#[test]
fn bytes_that_imitate_batches_at_a_torn_end_are_read_once() {
    let mut bytes = empty_segment();
    // At each multiple of 8 bytes, they look like a header of the greatest length.
    let mut imitation = BATCH_MAGIC.to_vec();
    imitation.extend((BATCH_HEADER_BYTES_MAX as u32).to_le_bytes());
    assert_eq!(BatchHeader::claimed_bytes(&imitation.repeat(100)), Some(BATCH_HEADER_BYTES_MAX));
    bytes.extend(imitation.repeat(64 << 10));
    let (all, read) = (bytes.len(), Arc::new(AtomicUsize::new(0)));
    let segment = Segment::open(Arc::new(Counted(bytes, Arc::clone(&read))), None).unwrap();
    let (footer, torn_bytes) = segment.rebuild(true, &mut |_| ()).unwrap();
    assert_eq!((footer.batches, torn_bytes as usize), (0, all - SEGMENT_BYTES));
    // Once, and a little more for headers and windows that overlap.
    let read = read.load(Relaxed);
    assert!(read < all * 3 / 2, "{read} bytes of {all}");
}

#[test]
fn the_next_batch_is_found_wherever_it_lies_in_what_is_searched() {
    let window_bytes = 256 << 10;
    for shift in (0..256).step_by(8) {
        for runs in [0, 40] {
            let mut bytes = empty_segment();
            bytes.resize(SEGMENT_BYTES + window_bytes - 128 + shift, 0xff);
            let at = bytes.len() as u64;
            let runs = vec![crate::format::RunRow { writer: 0, events: 0, bytes: 0 }; runs];
            let mut head = Vec::new();
            BatchHeader { first_sequence: 1, offset: at, runs, ..BatchHeader::default() }.encode(STREAM_ID, &mut head);
            bytes.extend(head);
            let segment = Segment::open(Arc::new(bytes), None).unwrap();
            match segment.step(Segment::FIRST, &mut Batch::default(), &|_| true).unwrap() {
                Step::Damage { next, .. } => assert_eq!(next, at),
                other => panic!("{other:?} at {at}"),
            }
        }
    }
}

/// Memory that grows, as a file that is followed.
struct Growing(dbuf_sync::Mutex<Vec<u8>>);

impl ReadAt for Growing {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.lock().unwrap().read_at(to, offset)
    }

    fn bytes(&self) -> io::Result<u64> {
        self.0.lock().unwrap().bytes()
    }
}

#[test]
fn a_footer_of_another_stream_does_not_count() {
    let footer_of = |stream_id| Footer::new(stream_id, 1).encode();
    for (stream_id, counts) in [(STREAM_ID, true), (STREAM_ID + 1, false)] {
        let bytes = [empty_segment(), footer_of(stream_id)].concat();
        let segment = Segment::open(Arc::new(bytes.clone()), None).unwrap();
        assert_eq!((segment.footer.is_ok(), segment.stream_id), (counts, STREAM_ID));
        let file = Arc::new(Growing(dbuf_sync::Mutex::new(empty_segment())));
        let mut followed = Segment::open(Arc::clone(&file) as Arc<dyn ReadAt>, None).unwrap();
        *file.0.lock().unwrap() = bytes;
        followed.refresh().unwrap();
        assert_eq!(followed.footer.is_ok(), counts, "of a file that has grown");
        assert!(counts || matches!(followed.footer, Err(Broken::Damaged(_))));
    }
}
