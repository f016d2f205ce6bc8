//! Tests the reader with a real buffer, a real store, and a disk that fails on order.

mod faults;

use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::options::{Storage, SyncPolicy, WhenFull};
use crate::pipeline::account::{Identity, Tally};
use crate::pipeline::buffer::{DoubleBuffer, Writer};
use crate::pipeline::progress::want;
use crate::pipeline::record::{Cause, Event, Piece, Source, encode_source};
use crate::pipeline::store::disk::{DiskFile, Found, ReadAt, RealDisk, Space};
use crate::pipeline::store::scan::{self, Directory, Item, Wanted};
use crate::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

/// Refuses to write with the error number `errno`, unless that is 0. Each write takes `write_ms`.
#[derive(Clone, Default)]
struct FailingDisk {
    errno: Arc<AtomicI32>,
    write_ms: Arc<AtomicU64>,
}

struct FailingFile {
    file: Arc<dyn DiskFile>,
    disk: FailingDisk,
}

impl FailingDisk {
    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FailingFile { file, disk: self.clone() })
    }
}

impl ReadAt for FailingFile {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(to, offset)
    }
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}

impl DiskFile for FailingFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(self.disk.write_ms.load(Relaxed)));
        match self.disk.errno.load(Relaxed) {
            0 => self.file.write_at(slices, offset),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.file.truncate(bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn has_name(&self) -> io::Result<bool> {
        self.file.has_name()
    }
    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.file.allocate(offset, bytes)
    }
    fn start_write_back(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.file.start_write_back(offset, bytes)
    }
}

impl Disk for FailingDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.make_directory(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<Found>> {
        RealDisk.list(directory)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.create(path).map(|file| self.wrap(file))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path).map(|file| self.wrap(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn sync_directory(&self, directory: &std::fs::File) -> io::Result<()> {
        RealDisk.sync_directory(directory)
    }
    fn space(&self, directory: &Path) -> io::Result<Space> {
        RealDisk.space(directory)
    }
}

struct Rig {
    folder: tempfile::TempDir,
    errno: Arc<AtomicI32>,
    counters: Arc<Counters>,
    progress: Arc<Progress>,
    front_budget: Arc<FrontBudget>,
    buffer: DoubleBuffer,
    writer: Writer,
    drain: Drain,
    settings: Settings,
}

impl Rig {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let disk = FailingDisk::default();
        let errno = Arc::clone(&disk.errno);
        Self { errno, ..Self::on(Arc::new(disk), change) }
    }

    fn on(disk: Arc<dyn Disk>, change: impl FnOnce(&mut Settings)) -> Self {
        Self::counting(disk, Arc::new(Counters::new(1).unwrap()), change)
    }

    fn counting(disk: Arc<dyn Disk>, counters: Arc<Counters>, change: impl FnOnce(&mut Settings)) -> Self {
        Self::going_on(disk, counters, Progress::new(1).unwrap(), 1, change)
    }

    /// As if earlier processes had come up to `generation`.
    fn going_on(
        disk: Arc<dyn Disk>,
        counters: Arc<Counters>,
        progress: Progress,
        generation: u64,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = Storage { directory: folder.path().join("segments"), ..Storage::default() };
        (storage.retain, storage.min_free, storage.sync) = (None, None, SyncPolicy::Never);
        let mut settings = Settings { storage, linger: Duration::ZERO, measure: true };
        change(&mut settings);
        let options = buffer::Options { capacity_bytes: 4096, chunk_bytes: 1024, writers_max: 2 };
        let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("test", flags).unwrap();
        let (buffer, reader) = DoubleBuffer::in_memory(&options, generation, &memory).unwrap();
        let (progress, front_budget) = (Arc::new(progress), Arc::<FrontBudget>::default());
        let options = DrainOptions {
            reader,
            waker: buffer.waker(),
            old: Vec::new(),
            has_previous: generation > 1,
            outlives: false,
            disk,
            counters: Arc::clone(&counters),
            progress: Arc::clone(&progress),
            front_budget: Arc::clone(&front_budget),
            settings: settings.clone(),
            cpu: None,
        };
        let (drain, _) = Drain::start(options).unwrap();
        let writer = buffer.writer().unwrap();
        Self { folder, errno: Arc::default(), counters, progress, front_budget, buffer, writer, drain, settings }
    }

    /// Publishes an event, after its source. Returns its generation.
    fn publish(&mut self, payload: &[u8]) -> u64 {
        self.publish_piece(payload, None)
    }

    fn publish_piece(&mut self, payload: &[u8], piece: Option<Piece>) -> u64 {
        let source = Source { pid: 7, tag: b"app", ..Source::default() };
        let event = Event { time_ns: 1_000, source: 1, pri: 6, payload, piece, ..Event::default() };
        loop {
            let mut claim = self.writer.claim(source.record_bytes() + event.record_bytes()).unwrap();
            let generation = claim.generation();
            encode_source(&mut claim, 1, 1_000, &source);
            event.encode(&mut claim);
            if claim.publish().is_ok() {
                return generation;
            }
        }
    }

    fn wait_persisted(&self, generation: u64) {
        while self.progress.persisted_before() <= generation {
            thread::yield_now();
        }
    }

    fn ask(&self, command: impl FnOnce(Reply) -> ReaderCommand) -> Result<(), String> {
        let (send, answer) = mpsc::channel();
        self.drain.handle().command(command(Box::new(move |result| send.send(result).unwrap())));
        answer.recv().unwrap()
    }

    /// Stops, and returns the payloads and losses in the files.
    fn finish(self) -> (Vec<String>, Vec<(String, u64)>, DrainStopped) {
        self.finish_on(|_| ())
    }

    /// As [`Rig::finish`], for a disk that must first export its files to the directory.
    fn finish_on(self, export: impl FnOnce(&Path)) -> (Vec<String>, Vec<(String, u64)>, DrainStopped) {
        drop(self.writer);
        let stopped = self.drain.stop(Duration::ZERO);
        export(&self.folder.path().join("segments"));
        let (mut events, mut losses) = (Vec::new(), Vec::new());
        let directory = Directory::open(&self.folder.path().join("segments")).unwrap();
        let _ = scan::forward(&directory, &Wanted::default(), |item| {
            match item {
                Item::Event(event) => events.push(String::from_utf8(event.record.payload().to_vec()).unwrap()),
                Item::Loss { loss, .. } => losses.push((loss.cause.name().to_string(), loss.events)),
                Item::Damage { damage, .. } => panic!("{damage}"),
                Item::Gap { from, to } => panic!("a gap from {from} to {to}"),
            }
            ControlFlow::Continue(())
        });
        (events, losses, stopped)
    }
}

#[test]
fn what_was_published_is_in_the_file_and_counted() {
    let mut rig = Rig::new(|_| ());
    for number in 0..100 {
        rig.publish(number.to_string().as_bytes());
    }
    let counters = Arc::clone(&rig.counters);
    let handle = rig.drain.handle();
    let (events, losses, stopped) = rig.finish();
    assert_eq!(events, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(losses.is_empty() && stopped.error.is_none());
    let totals = counters.account.totals();
    assert_eq!((totals.persisted_events, totals.persisted_bytes), (100, 10 + 2 * 90));
    let measured = handle.measured();
    assert_eq!((measured.event_size.count(), measured.event_size.max(), measured.persist_us.count()), (100, 2, 100));
}

#[test]
fn users_share_the_front_half_while_a_flood_keeps_both_halves_full_and_not_after_it() {
    let disk = FailingDisk::default();
    let write_ms = Arc::clone(&disk.write_ms);
    write_ms.store(50, Relaxed);
    let mut rig = Rig::on(Arc::new(disk), |_| ());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !rig.front_budget.is_set() {
        rig.publish(&[b'x'; 200]);
        assert!(Instant::now() < deadline, "no budget");
    }
    write_ms.store(0, Relaxed);
    while rig.front_budget.is_set() {
        let generation = rig.publish(b"x");
        rig.wait_persisted(generation);
        assert!(Instant::now() < deadline, "the budget stays");
    }
}

#[test]
fn a_disk_that_is_full_makes_writers_wait_and_loses_nothing() {
    let mut rig = Rig::new(|settings| settings.storage.when_full = WhenFull::Wait);
    rig.errno.store(nix::libc::ENOSPC, Relaxed);
    // More than both halves hold, so the writer must have waited for the disk to recover.
    let errno = Arc::clone(&rig.errno);
    let buffer = rig.buffer.clone();
    let healer = thread::spawn(move || {
        while buffer.stats().front_bytes < 3000 {
            thread::yield_now();
        }
        errno.store(0, Relaxed);
    });
    for number in 0..1000 {
        rig.publish(number.to_string().as_bytes());
    }
    healer.join().unwrap();
    let counters = Arc::clone(&rig.counters);
    let (events, losses, _) = rig.finish();
    assert_eq!(events, (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(losses.is_empty());
    assert_eq!(counters.account.totals().lost_total(), 0);
}

#[test]
fn the_policy_to_drop_counts_each_event_and_says_so_in_the_data() {
    for (errno, cause) in [(nix::libc::ENOSPC, Cause::Full), (nix::libc::EIO, Cause::Disk)] {
        let mut rig = Rig::new(|settings| settings.storage.when_full = WhenFull::Drop);
        let kept = rig.publish(b"kept");
        rig.wait_persisted(kept);
        rig.errno.store(errno, Relaxed);
        let mut lost = Vec::new();
        for _ in 0..3 {
            let generation = rig.publish(b"lost");
            rig.wait_persisted(generation);
            lost.push(generation);
        }
        rig.errno.store(0, Relaxed);
        let last = rig.publish(b"kept again");
        rig.wait_persisted(last);
        assert!(lost.iter().all(|generation| rig.progress.was_lost(*generation)));
        assert!(!rig.progress.was_lost_among(&(0..=last), true), "no file had them");
        assert!(!rig.progress.was_lost(kept) && !rig.progress.was_lost(last));
        let totals = rig.counters.account.totals();
        assert_eq!((totals.persisted_events, totals.lost[cause as usize], totals.lost_total()), (2, 3, 3));
        assert_eq!(rig.counters.account.busiest(1)[0].lost_total(), 3, "its producer is named");
        let (events, losses, _) = rig.finish();
        assert_eq!(events, ["kept", "kept again"]);
        assert_eq!(losses, [(cause.name().to_string(), 3)]);
    }
}

#[test]
fn a_disk_that_refuses_to_the_end_costs_counted_events_and_does_not_prevent_the_exit() {
    let mut rig = Rig::new(|settings| settings.storage.when_full = WhenFull::Wait);
    rig.errno.store(nix::libc::EIO, Relaxed);
    rig.publish(b"lost");
    let counters = Arc::clone(&rig.counters);
    drop(rig.writer);
    rig.drain.stop(Duration::ZERO);
    assert_eq!(counters.account.totals().lost[Cause::Disk as usize], 1);
}

/// One life of a reader over memory that outlives it.
fn life(
    memory: &std::os::fd::OwnedFd,
    disk: Arc<FailingDisk>,
    directory: &Path,
) -> (DoubleBuffer, Arc<Counters>, Arc<Progress>, Drain) {
    let options = buffer::Options { capacity_bytes: 4096, chunk_bytes: 1024, writers_max: 2 };
    let (buffer, reader, has_previous) = match DoubleBuffer::of_previous(memory, 2) {
        Ok(inherited) => (inherited.buffer, inherited.reader, true),
        Err(_) => {
            let (buffer, reader) = DoubleBuffer::in_memory(&options, 1, memory).unwrap();
            (buffer, reader, false)
        }
    };
    let mut storage = Storage { directory: directory.to_owned(), ..Storage::default() };
    (storage.retain, storage.min_free, storage.sync) = (None, None, SyncPolicy::Never);
    storage.when_full = WhenFull::Wait;
    let counters = Arc::new(Counters::new(1).unwrap());
    let progress = Arc::new(Progress::new(1).unwrap());
    let options = DrainOptions {
        reader,
        waker: buffer.waker(),
        old: Vec::new(),
        has_previous,
        outlives: true,
        disk,
        counters: Arc::clone(&counters),
        progress: Arc::clone(&progress),
        front_budget: Arc::default(),
        settings: Settings { storage, linger: Duration::ZERO, measure: true },
        cpu: None,
    };
    (buffer, counters, progress, Drain::start(options).unwrap().0)
}

#[test]
fn what_the_disk_refuses_to_the_end_stays_in_memory_for_the_next_process() {
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("test", flags).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let (buffer, counters, _, drain) = life(&memory, Arc::clone(&disk), folder.path());
    disk.errno.store(nix::libc::ENOSPC, Relaxed);
    let mut writer = buffer.writer().unwrap();
    for payload in [&b"one"[..], b"two"] {
        let event = Event { time_ns: 1_000, pri: 6, payload, ..Event::default() };
        // If a swap comes between, once more.
        while {
            let mut claim = writer.claim(event.record_bytes()).unwrap();
            event.encode(&mut claim);
            claim.publish().is_err()
        } {}
    }
    drain.stop(Duration::ZERO);
    assert_eq!(counters.account.totals().lost_total(), 0);
    drop((writer, buffer));
    // A start that meets the same disk leaves it there as well.
    let (buffer, counters, progress, drain) = life(&memory, Arc::clone(&disk), folder.path());
    drain.stop(Duration::ZERO);
    assert_eq!(progress.highest_generation(), buffer.generation(), "the next process learns how far this one came");
    drop(buffer);
    assert_eq!(counters.account.totals(), crate::pipeline::account::Totals::default());
    disk.errno.store(0, Relaxed);
    let (_buffer, counters, _, drain) = life(&memory, Arc::clone(&disk), folder.path());
    drain.stop(Duration::ZERO);
    assert_eq!((counters.account.totals().persisted_events, counters.account.totals().lost_total()), (2, 0));
}

#[test]
fn only_what_was_found_in_memory_is_adopted_also_where_batches_are_given_up() {
    let counters = Arc::new(Counters::new(1).unwrap());
    // The account was for other segments, so it has no count of what is inherited.
    counters.account.belongs_to(1, 1, 1);
    let disk = FailingDisk::default();
    let errno = Arc::clone(&disk.errno);
    let mut rig = Rig::counting(Arc::new(disk), counters, |settings| settings.storage.when_full = WhenFull::Drop);
    let mut recorder = rig.counters.account.recorder(0);
    let producer = rig.counters.account.producer(&Identity { pid: 7, tag: b"app"[..].into(), ..Identity::default() });
    errno.store(nix::libc::ENOSPC, Relaxed);
    let generation = rig.publish(b"lost");
    recorder.prepare(&producer, &Tally { events: 1, bytes: 4, ..Tally::default() });
    recorder.published();
    rig.wait_persisted(generation);
    let totals = rig.counters.account.totals();
    assert_eq!((totals.received_events, totals.lost_total()), (1, 1));
    rig.finish();
}

#[test]
fn a_sync_covers_what_was_published_before_it_was_asked_for() {
    let mut rig = Rig::new(|settings| settings.linger = Duration::from_secs(3600));
    let generation = rig.publish(b"waits for more, long");
    rig.ask(ReaderCommand::Sync).unwrap();
    assert!(rig.progress.durable_before() > generation);
    assert_eq!(rig.counters.durable_events.load(Relaxed), 1);
    rig.ask(ReaderCommand::Sync).unwrap();
    assert_eq!(rig.drain.handle().measured().sync_us.count(), 1, "nothing new needs no second sync");
    rig.finish();
}

#[test]
fn a_writer_that_asks_for_a_sync_is_rung_when_it_is_done() {
    let mut rig = Rig::new(|settings| settings.linger = Duration::from_secs(3600));
    let generation = rig.publish(b"asks");
    rig.progress.want(0, want::DURABLE);
    rig.progress.ask_sync();
    rig.buffer.waker().wake();
    let mut bell = [nix::poll::PollFd::new(rig.progress.bell(0), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut bell, nix::poll::PollTimeout::from(60_000u16)).unwrap(), 1);
    assert!(rig.progress.durable_before() > generation);
    rig.finish();
}

#[test]
fn a_rotation_leaves_what_was_published_before_it_in_the_old_segment() {
    let mut rig = Rig::new(|settings| settings.linger = Duration::from_secs(3600));
    rig.publish(b"old");
    rig.ask(ReaderCommand::Rotate).unwrap();
    rig.publish(b"new");
    let folder = rig.folder.path().join("segments");
    rig.ask(ReaderCommand::Sync).unwrap();
    let segments = std::fs::read_dir(&folder).unwrap().flatten();
    let segments =
        segments.filter(|e| [".segment", ".active"].iter().any(|s| e.file_name().to_string_lossy().ends_with(s)));
    assert_eq!(segments.count(), 2);
    assert_eq!(rig.finish().0, ["old", "new"]);
}

#[test]
fn settings_change_while_the_reader_waits_for_the_disk() {
    let mut rig = Rig::new(|settings| settings.storage.when_full = WhenFull::Wait);
    rig.errno.store(nix::libc::ENOSPC, Relaxed);
    let generation = rig.publish(b"stuck");
    let mut settings = rig.settings.clone();
    settings.storage.when_full = WhenFull::Drop;
    rig.drain.handle().command(ReaderCommand::Reconfigure(Box::new(settings)));
    rig.wait_persisted(generation);
    assert_eq!(rig.counters.account.totals().lost[Cause::Full as usize], 1);
    rig.errno.store(0, Relaxed);
    rig.finish();
}

#[test]
fn the_size_of_an_event_in_pieces_is_that_of_the_whole() {
    let mut rig = Rig::new(|_| ());
    for (payload, continued, continues) in [("ab", false, true), ("cd", true, true), ("e", true, false)] {
        rig.publish_piece(payload.as_bytes(), Some(Piece { id: 9, continued, continues }));
    }
    let (counters, handle) = (Arc::clone(&rig.counters), rig.drain.handle());
    rig.finish();
    let measured = handle.measured();
    assert_eq!((counters.account.totals().persisted_events, counters.account.totals().persisted_bytes), (1, 5));
    assert_eq!((measured.event_size.count(), measured.event_size.max()), (1, 5));
}
