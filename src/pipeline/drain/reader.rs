//! Runs the reader's loop: wait, swap, summarise, write, report.
//!
//! Input, output, thread and failure are those of [`super`]. The thread sleeps in three places only: in the buffer's
//! `wait`, which every publish and every command ends; in `wait_for_disk`, which a command or the timeout ends; and in
//! the buffer's `swap`, for a writer that still copies into the half that is to be opened.

use std::time::{Duration, Instant};

use super::batch_summary::{BatchSummary, Sizes, records};
use super::handle::{DrainStopped, Measured, Old, ReaderCommand, Reply, Settings};
use super::losses::{Losses, READER_RUN};
use super::standing_queue::StandingQueue;
use super::syncs::Syncs;
use crate::options::WhenFull;
use crate::pipeline::account::{ReaderRecorder, Tally};
use crate::pipeline::buffer;
use crate::pipeline::counters::Counters;
use crate::pipeline::progress::Progress;
use crate::pipeline::pulse::{Activity, Pulse};
use crate::pipeline::record::{Cause, Kind, SourceCount};
use crate::pipeline::store::format::BatchHeader;
use crate::pipeline::store::{BatchView, RunView, Store, WriteError};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Arc, Mutex, lock, mpsc};
use crate::sys::clock;

/// How long to wait before the next try when the disk refuses. Short enough to notice its recovery at once, long enough
/// that the tries cost nothing.
const RETRY: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });

/// The thread's state.
pub(super) struct ReaderThread {
    pub(super) buffer: buffer::Reader,
    pub(super) old: Vec<Old>,
    pub(super) has_previous: bool,
    /// The newest batch in the files when this process started.
    pub(super) newest: Option<BatchHeader>,
    pub(super) persister: Persister,
}

/// What the thread shares with others.
pub(super) struct Shared {
    pub(super) syncs: Arc<Syncs>,
    pub(super) measured: Arc<Mutex<Measured>>,
    pub(super) pulse: Arc<Pulse>,
    pub(super) counters: Arc<Counters>,
    pub(super) progress: Arc<Progress>,
}

/// Everything except the buffer, so that it can take a batch that borrows from the buffer.
pub(super) struct Persister {
    store: Store,
    inbox: mpsc::Receiver<ReaderCommand>,
    settings: Settings,
    /// Whether the buffer outlives this process. Then what the disk has not taken at the end is left for the next
    /// process.
    outlives: bool,
    shared: Shared,
    queue: StandingQueue,
    sizes: Sizes,
    recorder: ReaderRecorder,
    losses: Losses,
    /// The disk has not taken a batch by the end, and the batch stays in memory.
    is_left: bool,
    /// Events that this process has persisted.
    persisted_events: u64,
    /// One more than the latest generation that was appended to a file.
    appended_before: u64,
    /// What the previous process left is stored, and durable as far as possible.
    is_past_inherited: bool,
    /// Answered after the next swap, which covers what was published before these requests.
    rotates: Vec<Reply>,
    syncs_asked: Vec<Reply>,
    /// When to give up on the disk, once the daemon stops.
    stop_by: Option<Instant>,
}

impl ReaderThread {
    pub(super) fn run(mut self) -> DrainStopped {
        let (persister, newest) = (&mut self.persister, self.newest.as_ref());
        persister.shared.pulse.begin();
        for Old { mut reader, done } in self.old {
            persister.persist_inherited(&mut reader, newest);
            drop(reader);
            if persister.is_left {
                return self.persister.end();
            }
            done();
        }
        persister.persist_inherited(&mut self.buffer, newest);
        if persister.is_left {
            return self.persister.end();
        }
        if self.has_previous {
            persister.make_inherited_durable(self.buffer.generation());
        }
        persister.is_past_inherited = true;
        while persister.stop_by.is_none() {
            persister.shared.pulse.beat(Activity::Parked);
            let deadline = persister.store.next_deadline();
            // While there is a queue, every user has waited long enough.
            let linger = if persister.queue.is_limited() { Duration::ZERO } else { persister.settings.linger };
            self.buffer.wait(linger, deadline);
            persister.shared.pulse.beat(Activity::Running);
            persister.take_commands();
            // Taken before the swap, so that the swap covers what was published before the request (invariant 4).
            let sync_asked = persister.shared.progress.take_ask();
            if !self.buffer.front_is_empty() {
                persister.swap(&mut self.buffer);
            }
            persister.rotate_if_due();
            persister.answer(sync_asked);
        }
        // The writers have ended, so the swaps bring everything that they have published, and nothing comes later.
        while !persister.is_left && !self.buffer.front_is_empty() {
            persister.swap(&mut self.buffer);
        }
        if !persister.is_left {
            persister.answer(0);
        }
        self.persister.end()
    }
}

impl Persister {
    pub(super) fn new(
        store: Store,
        inbox: mpsc::Receiver<ReaderCommand>,
        settings: Settings,
        outlives: bool,
        queue: StandingQueue,
        shared: Shared,
    ) -> Self {
        let recorder = shared.counters.account.reader_recorder();
        Self {
            store,
            inbox,
            settings,
            outlives,
            shared,
            queue,
            sizes: Sizes::default(),
            losses: Losses::from_previous(&recorder),
            recorder,
            is_left: false,
            persisted_events: 0,
            appended_before: 0,
            is_past_inherited: false,
            rotates: Vec::new(),
            syncs_asked: Vec::new(),
            stop_by: None,
        }
    }

    fn take_commands(&mut self) {
        while let Ok(command) = self.inbox.try_recv() {
            self.take(command);
        }
    }

    fn take(&mut self, command: ReaderCommand) {
        match command {
            ReaderCommand::Rotate(reply) => self.rotates.push(reply),
            ReaderCommand::Sync(reply) => self.syncs_asked.push(reply),
            ReaderCommand::Reconfigure(settings) => {
                self.store.reconfigure(&settings.storage);
                self.settings = *settings;
            }
            ReaderCommand::Stop { timeout } => self.stop_by = Some(Instant::now() + timeout),
        }
    }

    /// Answers the requests: everything that was published before them is in the file.
    fn answer(&mut self, sync_asked: u32) {
        for reply in std::mem::take(&mut self.rotates) {
            self.shared.pulse.beat(Activity::Disk);
            let done = self.store.rotate();
            self.shared.pulse.beat(Activity::Running);
            reply(done.map_err(|e| format!("cannot rotate: {e}")));
        }
        let askers = sync_asked as usize + self.syncs_asked.len();
        if askers == 0 {
            return;
        }
        for reply in std::mem::take(&mut self.syncs_asked) {
            self.shared.syncs.wait(self.appended_before, reply);
        }
        if self.shared.progress.durable_before() < self.appended_before {
            self.store.request_sync(self.appended_before, askers);
        }
    }

    /// Answers requests to rotate while the disk refuses a batch that was published before them. They could only wait.
    fn refuse_rotates(&mut self, refusal: &WriteError) {
        for reply in std::mem::take(&mut self.rotates) {
            reply(Err(format!("cannot rotate: {refusal}")));
        }
    }

    fn rotate_if_due(&mut self) {
        if self.store.next_deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            self.shared.pulse.beat(Activity::Disk);
            self.store.rotate_if_due();
            self.shared.pulse.beat(Activity::Running);
        }
    }

    /// Swaps, and persists the batch.
    fn swap(&mut self, buffer: &mut buffer::Reader) {
        let batch = buffer.swap();
        let generation = batch.generation();
        self.queue.swapped(generation + 1, Instant::now());
        self.shared.progress.set_highest_generation(generation + 1);
        let summary = self.summary(&batch);
        self.persist(&summary);
        self.queue.stored(generation + 1, batch.bytes(), Instant::now());
        if !self.is_left {
            buffer.done_with(generation);
        }
    }

    /// Persists what the previous process left, unless that process has persisted it already (invariant 3).
    fn persist_inherited(&mut self, buffer: &mut buffer::Reader, newest: Option<&BatchHeader>) {
        while let Some(batch) = buffer.inherited() {
            let generation = batch.generation();
            // The generation after it is in front now, or was.
            self.shared.progress.set_highest_generation(generation + 1);
            let summary = self.summary(&batch);
            if newest.is_some_and(|newest| summary.is_in(newest)) {
                self.recorder.settle_persisted(generation, self.store.next_sequence());
            } else if self.recorder.settle_given_up(generation) {
                // The previous process may have died before it noted the loss for acknowledgements.
                self.shared.progress.note_lost(generation);
            } else {
                tracing::info!(
                    events = summary.events,
                    "persisting the events that the previous process left in memory"
                );
                self.recorder.set_inherited(true);
                self.persist(&summary);
                self.recorder.set_inherited(false);
            }
            if self.is_left {
                return;
            }
            buffer.done_with(generation);
        }
    }

    /// Makes durable what previous processes wrote, so that clients learn what became of their events.
    fn make_inherited_durable(&mut self, first_generation: u64) {
        self.shared.progress.set_persisted(first_generation);
        self.shared.pulse.beat(Activity::Disk);
        match self.store.sync_previous() {
            Ok(()) => {
                // Events that this process has persisted are counted when a sync of its own has covered them.
                let persisted = self.shared.counters.account.totals().persisted_events;
                self.shared.counters.durable_events.fetch_add(persisted.saturating_sub(self.persisted_events), Relaxed);
            }
            // A later sync says nothing about them. Clients that wait for them are told that they may be lost.
            Err(error) => {
                tracing::error!("events that the previous process wrote may not be durable: {error}");
                let first = self.shared.progress.durable_before();
                self.shared.progress.note_lost_in_file(&(first..=first_generation - 1));
            }
        }
        self.shared.progress.set_durable(first_generation);
        self.shared.pulse.beat(Activity::Running);
    }

    fn summary<'b>(&mut self, batch: &'b buffer::Batch<'_>) -> BatchSummary<'b> {
        let mut sizes = std::mem::take(&mut self.sizes);
        let summary = BatchSummary::take(batch, self.settings.measure.then_some(&mut sizes));
        self.sizes = sizes;
        summary
    }

    /// Writes a batch. If the disk refuses, gives the batch up where the policy says so, and otherwise waits for the
    /// disk.
    fn persist(&mut self, summary: &BatchSummary<'_>) {
        let generation = summary.generation;
        if summary.broken_bytes > 0 {
            tracing::error!(
                bytes = summary.broken_bytes,
                "a record in memory cannot be read, and its events count as one lost event; this is a bug in dbufd or \
                 broken memory"
            );
            self.shared.progress.note_lost(generation);
        }
        if summary.is_empty() {
            self.recorder.begin(generation);
            self.recorder.prepare(None, &broken(summary));
            self.recorder.given_up();
        } else {
            while let Err(refusal) = self.append(summary) {
                if self.leaves() {
                    tracing::warn!(
                        events = summary.events,
                        "events left in memory for the next start, because the disk refused them: {refusal}"
                    );
                    self.is_left = true;
                    return;
                }
                if let Some(cause) = self.give_up_cause(&refusal) {
                    self.give_up(summary, cause, &refusal);
                    break;
                }
                self.wait_for_disk();
                self.refuse_rotates(&refusal);
            }
        }
        self.shared.progress.set_persisted(generation + 1);
        if self.appended_before <= generation && self.is_past_inherited {
            // The batch is in no file. If nothing else waits for a sync, nothing else would report the generation as
            // done.
            if let Some(durable_before) = self.store.passed(generation) {
                self.shared.progress.set_durable(durable_before);
                self.shared.syncs.answer(durable_before);
            }
        }
    }

    fn append(&mut self, summary: &BatchSummary<'_>) -> Result<(), WriteError> {
        self.shared.pulse.beat(Activity::Disk);
        let withdrawn = self.recorder.withdrawn();
        self.prepare(summary, withdrawn);
        let report = self.losses.run(withdrawn, clock::now_ns());
        let reporting = !report.is_empty();
        let report_slices = [report];
        let mut runs: Vec<RunView<'_>> = summary
            .runs
            .iter()
            .map(|run| RunView { writer: run.writer, events: run.events, slices: &run.slices })
            .collect();
        let mut sources: Vec<_> = summary.runs.iter().flat_map(|run| run.sources.all()).copied().collect();
        if reporting {
            let of_report = records(report).map(|(record, _)| record).filter(|record| record.kind == Kind::Source);
            sources.extend(of_report.map(SourceCount::new));
            runs.push(RunView { writer: READER_RUN, events: 0, slices: &report_slices });
        }
        let view = BatchView {
            generation: summary.generation,
            events: u32::try_from(summary.events).expect("a half of under 4 GiB holds fewer than 2^32 events"),
            payload_bytes: summary.payload_bytes,
            time_min_ns: summary.time_min_ns,
            time_max_ns: summary.time_max_ns,
            content_crc: crc32c::crc32c_append(summary.content_crc, report),
            incompat: summary.incompat,
            runs: &runs,
            sources: &sources,
        };
        let done = self.store.append(&view);
        self.shared.pulse.beat(Activity::Running);
        let appended = done?;
        if reporting {
            self.losses.reported();
        }
        self.persisted_events += summary.events;
        self.recorder.persisted(self.store.next_sequence(), appended.written_bytes);
        self.appended_before = summary.generation + 1;
        self.measure();
        Ok(())
    }

    /// Prepares the account of a batch, which counts once the batch is in a file.
    fn prepare(&mut self, summary: &BatchSummary<'_>, withdrawn: u64) {
        self.recorder.begin(summary.generation);
        summary.shares(&mut |source, events, bytes| {
            self.recorder.prepare(source, &Tally { events, bytes, ..Tally::default() });
        });
        self.recorder.prepare(None, &Tally { withdrawn, ..broken(summary) });
        self.recorder.prepare_pending_losses(&[]);
    }

    /// Adds the batch that was just written to the histograms.
    fn measure(&mut self) {
        if !self.settings.measure {
            return;
        }
        let now = clock::now_ns();
        let mut measured = lock(&self.shared.measured);
        for &(time, n) in &self.sizes.times {
            // A clock that was set back would give a negative latency.
            measured.persist_us.record(now.saturating_sub(time) / 1000, n);
        }
        measured.event_size.add(&self.sizes.sizes);
        self.sizes.sizes.clear();
    }

    fn is_late(&self) -> bool {
        self.stop_by.is_some_and(|by| Instant::now() >= by)
    }

    /// Whether a batch that the disk refused stays in memory.
    fn leaves(&self) -> bool {
        self.outlives && self.is_late() && self.settings.storage.when_full != WhenFull::Drop
    }

    /// Why a batch that the disk refused is lost; None if it is to be tried again.
    fn give_up_cause(&self, refusal: &WriteError) -> Option<Cause> {
        let late = self.is_late();
        let drop = self.settings.storage.when_full == WhenFull::Drop;
        match refusal {
            WriteError::Full(_) if drop || late => Some(Cause::Full),
            WriteError::Failed(_) if drop || late => Some(Cause::Disk),
            _ => None,
        }
    }

    fn give_up(&mut self, summary: &BatchSummary<'_>, cause: Cause, refusal: &WriteError) {
        let events = summary.events;
        self.losses.give_up(summary, cause, &mut self.recorder);
        self.sizes.sizes.clear();
        self.shared.progress.note_lost(summary.generation);
        tracing::warn!(events, cause = cause.name(), "events lost: {refusal}");
    }

    /// Waits before the next try; a command ends the wait.
    fn wait_for_disk(&mut self) {
        self.shared.pulse.beat(Activity::Disk);
        let until = match self.stop_by {
            Some(by) => RETRY.min(by.saturating_duration_since(Instant::now())),
            None => RETRY,
        };
        if let Ok(command) = self.inbox.recv_timeout(until) {
            self.take(command);
        }
    }

    /// Seals the last segment. Losses that the data does not report by now are in the daemon's own report only.
    fn end(self) -> DrainStopped {
        self.shared.pulse.beat(Activity::Disk);
        let error =
            self.store.close().err().map(|e| format!("cannot seal the last segment: {e}; the next start recovers it"));
        for reply in self.rotates.into_iter().chain(self.syncs_asked) {
            reply(Err("the daemon is stopping".into()));
        }
        DrainStopped { error }
    }
}

/// It is unknown how many events could not be read in memory, so they count as one.
fn broken(summary: &BatchSummary<'_>) -> Tally {
    let events = u64::from(summary.broken_bytes > 0);
    Tally { adopted_events: events, ..Tally::lost(Cause::Malformed, events, 0) }
}
