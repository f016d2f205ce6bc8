//! The store when the process has no descriptor left. A process of its own, since the limit is the process's.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dbuf_segment::testing::read;
use dbufd::config::Config;
use dbufd::options::{Storage, SyncPolicy};
use dbufd::pipeline::record::{Event, PerSource, Record, Source, encode_source};
use dbufd::pipeline::store::{Appended, BatchView, RealDisk, RunView, Store, StoreOptions, WriteError};

type Durable = Arc<(Mutex<u64>, Condvar)>;

fn open(directory: &Path, sync: SyncPolicy) -> (Store, Durable) {
    let defaults = Config::default().storage;
    let storage = Storage { directory: directory.to_path_buf(), retain: None, min_free: None, sync, ..defaults };
    let durable = Durable::default();
    let told = Arc::clone(&durable);
    let on_durable = Box::new(move |now: dbufd::pipeline::store::Durable| {
        *told.0.lock().unwrap() = now.before_generation;
        told.1.notify_all();
    });
    let on_broken = Box::new(|from| assert_eq!(from, None, "it broke"));
    let options = StoreOptions { storage, on_durable, on_broken, on_delete: Box::new(|_| ()) };
    (Store::open(options, Arc::new(RealDisk)).unwrap().0, durable)
}

/// Appends a batch of one event.
fn append(store: &mut Store, generation: u64) -> Result<Appended, WriteError> {
    let (mut run, time_ns) = (Vec::new(), generation);
    encode_source(&mut run, 0, time_ns, &Source { pid: 7, tag: b"app", ..Source::default() });
    let introduction = run.clone();
    let mut sources = PerSource::default();
    sources.introduce(Record::decode(&introduction).unwrap().0);
    let text = format!("event {generation}");
    Event { time_ns, pri: 6, payload: text.as_bytes(), ..Event::default() }.encode(&mut run);
    sources.add(0, 1, text.len() as u64);
    let slices = [&run[..]];
    store.append(&BatchView {
        generation,
        events: 1,
        payload_bytes: text.len() as u64,
        time_min_ns: time_ns,
        time_max_ns: time_ns,
        content_crc: crc32c::crc32c(&run),
        incompat: 0,
        runs: &[RunView { writer: 0, events: 1, slices: &slices }],
        sources: sources.all(),
    })
}

/// Takes all descriptors that the process may have.
fn take_all() -> Vec<File> {
    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(File::open("/dev/null").is_err() && !taken.is_empty());
    taken
}

#[test]
fn a_process_without_descriptors_takes_no_segment_for_broken_and_makes_its_events_durable() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    for sync in [SyncPolicy::Batch, SyncPolicy::Interval(Duration::from_millis(1)), SyncPolicy::Never] {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, durable) = open(directory.path(), sync);
        let taken = take_all();
        for generation in 1..=2 {
            append(&mut store, generation).unwrap();
            store.request_sync(generation + 1, 1);
            drop(durable.1.wait_while(durable.0.lock().unwrap(), |before| *before <= generation).unwrap());
            // The next segment gets the descriptor of this one, as soon as the syncer has sealed it.
            store.rotate().unwrap();
        }
        drop(taken);
        store.close().unwrap();
        assert_eq!(read(directory.path()), ["1 app event 1", "2 app event 2"], "{sync:?}");
        let torn = fs::read_dir(directory.path()).unwrap().flatten();
        assert_eq!(torn.filter(|file| file.path().extension().is_some_and(|end| end != "segment")).count(), 0);
    }
}
