//! Runs writers on real sockets in a temporary directory with the real buffer. A small thread takes the reader's part:
//! it decodes what comes and reports it as durable.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::geteuid;

use crate::pipeline::accept::connection::stored::{InheritedConnection, StoredConnections};
use crate::pipeline::accept::frames::Sessions;
use crate::pipeline::accept::publish::receive_buffer::ReceiveBuffers;
use crate::pipeline::accept::ring::registry::Rings;
use crate::pipeline::accept::tests::manager::Manager;
use crate::pipeline::accept::{Accept, AcceptOptions, Listener, ListenerKind, Stopped};
use crate::pipeline::account::{Identity, Totals};
use crate::pipeline::buffer::{Batch, DoubleBuffer, Options, Reader, Waker};
use crate::pipeline::counters::Counters;
use crate::pipeline::progress::Progress;
use crate::pipeline::pulse::Activity;
use crate::pipeline::record::{Kind, Loss, Record};
use crate::pipeline::shares::{Resource, Shares, throttle};
use crate::sys::fdstore::FdStore;

/// A test that waits longer than this has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// An event as it came out of the buffer, its pieces joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) writer: u8,
    pub(crate) source: Identity,
    pub(crate) pri: u8,
    pub(crate) time_ns: u64,
    pub(crate) source_time_ns: Option<u64>,
    pub(crate) producer_sequence: Option<u64>,
    pub(crate) fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) pieces: usize,
    pub(crate) payload: Vec<u8>,
}

impl Got {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// Everything that came out of the buffer.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) events: Vec<Got>,
    pub(crate) losses: Vec<(Identity, Loss)>,
    pub(crate) pieces: HashMap<u64, Got>,
}

impl Seen {
    pub(crate) fn texts(&self) -> Vec<String> {
        self.events.iter().map(Got::text).collect()
    }

    fn take(&mut self, batch: &Batch<'_>, keep: fn(&[u8]) -> bool) {
        for run in batch.runs() {
            let mut sources = HashMap::new();
            for mut bytes in run.chunks() {
                while !bytes.is_empty() {
                    let (record, taken) = Record::decode(bytes).expect("what a writer publishes is whole");
                    bytes = &bytes[taken..];
                    match record.kind {
                        Kind::Source => {
                            let source = Identity::of(&record.as_source().unwrap());
                            assert!(sources.insert(record.source, source).is_none(), "a source is introduced once");
                        }
                        Kind::Loss => {
                            self.losses.push((sources[&record.source].clone(), record.as_loss().unwrap()));
                        }
                        Kind::Event => {
                            for record in record.singles().filter(|record| keep(record.payload())) {
                                // Invariant 2 of records: the source came before, in this run.
                                let source = sources[&record.source].clone();
                                self.event(run.writer(), source, &record);
                            }
                        }
                    }
                }
            }
        }
    }

    fn event(&mut self, writer: u8, source: Identity, record: &Record<'_>) {
        let mut got = Got {
            writer,
            source,
            pri: record.pri,
            time_ns: record.time_ns,
            source_time_ns: record.source_time_ns(),
            producer_sequence: record.producer_sequence(),
            fields: record.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            pieces: 1,
            payload: record.payload().to_vec(),
        };
        if let Some(piece) = record.piece() {
            match self.pieces.remove(&piece.id) {
                Some(mut first) => {
                    assert!(piece.continued && first.pri == got.pri && first.source == got.source);
                    first.pieces += 1;
                    first.payload.append(&mut got.payload);
                    got = first;
                }
                None => assert!(!piece.continued, "the first piece of an event continues none"),
            }
            if piece.continues {
                self.pieces.insert(piece.id, got);
                return;
            }
        }
        self.events.push(got);
    }
}

#[derive(Debug, Default)]
struct Drained {
    seen: Mutex<Seen>,
    changed: Condvar,
    /// The reader leaves the buffer alone while this is set.
    is_paused: Mutex<bool>,
    resumed: Condvar,
    is_over: AtomicBool,
}

/// How to build a rig.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) writers: usize,
    pub(crate) max_event_bytes: usize,
    pub(crate) capacity_bytes: usize,
    pub(crate) chunk_bytes: usize,
    /// Which payloads to keep for inspection. The others are only counted.
    pub(crate) keep: fn(&[u8]) -> bool,
    /// Bytes of clients that have sent them and left before the writers run, one entry for each client.
    pub(crate) early: Vec<Vec<u8>>,
    /// Rings outlive a life under a service manager.
    pub(crate) keeps_rings: bool,
    /// The reader leaves the buffer alone until [`Rig::pause`] lets it continue.
    pub(crate) begins_paused: bool,
    /// The reader reports its progress.
    pub(crate) reports_progress: bool,
    /// The first generation of the buffer.
    pub(crate) generation_first: u64,
    /// Connections of all users.
    pub(crate) connections_max: u64,
    /// Limits of each user, also of root.
    pub(crate) limits: throttle::UserLimits,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            writers: 2,
            max_event_bytes: 4096,
            capacity_bytes: 1 << 20,
            chunk_bytes: 64 << 10,
            keep: |_| true,
            early: Vec::new(),
            keeps_rings: false,
            begins_paused: false,
            reports_progress: true,
            generation_first: 1,
            connections_max: 4096,
            limits: throttle::UserLimits::default(),
        }
    }
}

pub(crate) struct Rig {
    directory: tempfile::TempDir,
    pub(crate) accept: Option<Accept>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) shares: Arc<Shares>,
    drained: Arc<Drained>,
    waker: Waker,
    reader: Option<JoinHandle<Reader>>,
}

impl Rig {
    pub(crate) fn new(plan: &Plan) -> Self {
        let receive_buffers = ReceiveBuffers::take_over(plan.writers, None, Vec::new()).unwrap();
        Self::start(plan, None, Seen::default(), receive_buffers, None, None)
    }

    /// One life under a service manager, after the life that saw `before`.
    pub(crate) fn under(manager: &mut Manager, plan: &Plan, before: Seen) -> Self {
        let receive_buffers = ReceiveBuffers::take_over(plan.writers, None, Vec::new()).unwrap();
        Self::with_receive_buffers(manager, plan, before, receive_buffers)
    }

    /// The same with given receive buffers.
    pub(crate) fn with_receive_buffers(
        manager: &mut Manager,
        plan: &Plan,
        before: Seen,
        receive_buffers: Vec<ReceiveBuffers>,
    ) -> Self {
        let next_process =
            manager.next_process_with(16, receive_buffers.iter().flat_map(ReceiveBuffers::slots).collect());
        let rings = plan
            .keeps_rings
            .then(|| Rings::stored(Shares::even(1 << 20), &manager.store(), 16, manager.left_rings()).unwrap());
        Self::start(plan, Some(next_process), before, receive_buffers, Some(manager.store()), rings)
    }

    fn start(
        plan: &Plan,
        stored: Option<(Arc<StoredConnections>, Vec<InheritedConnection>)>,
        before: Seen,
        receive_buffers: Vec<ReceiveBuffers>,
        store: Option<Arc<FdStore>>,
        rings: Option<Arc<Rings>>,
    ) -> Self {
        let (stored, inherited) = stored.unzip();
        let rings = rings.unwrap_or_else(|| Rings::new(Shares::even(1 << 20)));
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("stream.sock")).unwrap();
        let datagram = UnixDatagram::bind(directory.path().join("dgram.sock")).unwrap();
        for said in &plan.early {
            UnixStream::connect(directory.path().join("stream.sock")).unwrap().write_all(said).unwrap();
        }
        let options =
            Options { capacity_bytes: plan.capacity_bytes, chunk_bytes: plan.chunk_bytes, writers_max: plan.writers };
        let memory = memfd_create("dbufd-test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let (buffer, reader) = DoubleBuffer::in_memory(&options, plan.generation_first, &memory).unwrap();
        let counters = Arc::new(Counters::new(plan.writers).unwrap());
        let progress = Arc::new(Progress::new(plan.writers).unwrap());
        let is_paused = Mutex::new(plan.begins_paused);
        let drained = Drained { seen: Mutex::new(before), is_paused, ..Drained::default() };
        let (drained, waker) = (Arc::new(drained), buffer.waker());
        let shares = Shares::new([plan.connections_max; Resource::ALL.len()], geteuid().as_raw());
        shares.throttle().limit_everyone();
        shares.throttle().set(plan.limits);
        let accept = Accept::start(AcceptOptions {
            listeners: vec![
                Listener { kind: ListenerKind::Stream, socket: OwnedFd::from(listener), is_passed: false },
                Listener { kind: ListenerKind::Datagram, socket: OwnedFd::from(datagram), is_passed: false },
            ],
            buffer,
            counters: Arc::clone(&counters),
            progress: Arc::clone(&progress),
            cpus: vec![None; plan.writers],
            max_event_bytes: plan.max_event_bytes,
            stored,
            inherited: inherited.unwrap_or_default(),
            shares: Arc::clone(&shares),
            sessions: Sessions::new(Shares::even(4096)),
            rings,
            receive_buffers,
            store,
        })
        .unwrap();
        let thread = {
            let (drained, keep) = (Arc::clone(&drained), plan.keep);
            let reports = plan.reports_progress;
            std::thread::spawn(move || drain(reader, &drained, reports.then_some(&*progress), keep))
        };
        Self { directory, accept: Some(accept), counters, shares, drained, waker, reader: Some(thread) }
    }

    pub(crate) fn path(&self, socket: &str) -> PathBuf {
        self.directory.path().join(socket)
    }

    /// Open connections, as `stats` has them.
    pub(crate) fn open_connections(&self) -> u64 {
        self.counters.writers.iter().map(|writer| writer.0.connections.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("stream.sock")).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    /// Sends all of `bytes` on a new connection and ends it.
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.connect().write_all(bytes).unwrap();
    }

    pub(crate) fn datagrams(&self) -> UnixDatagram {
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(self.path("dgram.sock")).unwrap();
        socket
    }

    /// Waits until `enough` is true of what has come, and returns it.
    pub(crate) fn wait_for<T>(&self, what: &str, mut enough: impl FnMut(&Seen) -> Option<T>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        let mut seen = self.drained.seen.lock().unwrap();
        loop {
            if let Some(found) = enough(&seen) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}; {} events came", seen.events.len());
            seen = self.drained.changed.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Looks at what has come.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.drained.seen.lock().unwrap())
    }

    pub(crate) fn wait_for_events(&self, count: usize) -> Vec<Got> {
        self.wait_for("events", |seen| (seen.events.len() >= count).then(|| seen.events.clone()))
    }

    pub(crate) fn wait_for_loss(&self) -> (Identity, Loss) {
        self.wait_for("a loss record", |seen| seen.losses.first().cloned())
    }

    /// Waits until `enough` is true of the counters.
    pub(crate) fn wait_until(&self, what: &str, mut enough: impl FnMut(&Counters) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !enough(&self.counters) {
            assert!(Instant::now() < deadline, "waited in vain until {what}");
            std::thread::yield_now();
        }
    }

    /// Until the only writer waits for room and gets none: one that gets room is in another round at the second look.
    pub(crate) fn wait_until_the_writer_waits_for_room(&self) {
        let pulse = self.accept.as_ref().unwrap().pulses().remove(0);
        self.wait_until("the writer waits for room", |_| {
            let before = pulse.look();
            std::thread::sleep(Duration::from_millis(20));
            before.activity == Activity::WaitsForRoom && before == pulse.look()
        });
    }

    /// The account, once it counts this many received events. A writer counts right after its publish, which can be
    /// seen earlier.
    pub(crate) fn totals_of(&self, received: u64) -> Totals {
        self.wait_until("all is counted", |counters| counters.account.totals().received_events >= received);
        self.counters.account.totals()
    }

    /// Keeps the reader from swapping, or lets it continue.
    pub(crate) fn pause(&self, pause: bool) {
        *self.drained.is_paused.lock().unwrap() = pause;
        self.drained.resumed.notify_all();
    }

    /// Ends the writers, then the reader. Returns everything that came.
    pub(crate) fn stop(self) -> Seen {
        self.stop_within(TIMEOUT)
    }

    /// The same; clients that wait longer than this get no answer.
    pub(crate) fn stop_within(mut self, timeout: Duration) -> Seen {
        let stopped = self.accept.take().unwrap().stop(timeout);
        assert_eq!(stopped, Stopped { writers_left: 0 });
        self.end_reader();
        std::mem::take(&mut *self.drained.seen.lock().unwrap())
    }

    pub(crate) fn end_reader(&mut self) {
        self.pause(false);
        self.drained.is_over.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(reader) = self.reader.take() {
            drop(reader.join().unwrap());
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Some(accept) = self.accept.take() {
            assert_eq!(accept.stop(TIMEOUT), Stopped { writers_left: 0 });
        }
        self.end_reader();
    }
}

fn drain(mut reader: Reader, drained: &Drained, progress: Option<&Progress>, keep: fn(&[u8]) -> bool) -> Reader {
    loop {
        let is_over = drained.is_over.load(Ordering::Acquire);
        if !is_over {
            reader.wait(Duration::ZERO, None);
        }
        let paused = drained.is_paused.lock().unwrap();
        drop(drained.resumed.wait_while(paused, |paused| *paused).unwrap());
        let batch = reader.swap();
        let (generation, is_empty) = (batch.generation(), batch.is_empty());
        drained.seen.lock().unwrap().take(&batch, keep);
        drained.changed.notify_all();
        if let Some(progress) = progress {
            progress.take_ask();
            progress.set_persisted(generation + 1);
            progress.set_durable(generation + 1);
        }
        if is_over && is_empty {
            return reader;
        }
    }
}
