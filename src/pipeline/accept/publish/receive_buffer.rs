//! Holds the bytes that a writer is reading and notes how much of them is published, in memory that outlives the
//! process.
//!
//! Input: the bytes of one read of a socket. Output: the same bytes, for the writer; and for the next process, the part
//! that was read and not published. Thread: the writer. Failure: there is no memory.
//!
//! ```text
//! offset 32       words: subject, read, piece, max_event, and a note of one number: the count (`takeover::note`)
//!        4096     headers of recvmmsg(2): how much was received
//!        8192     senders: credentials, and room for a pidfd, which belongs to the process that received it
//!        12288    what a stream brought, 256 KiB
//!        274432   what datagrams brought, 4 MiB; touched by the one writer that reads them
//! ```
//!
//! The next process parses the bytes as if it had read them itself. The same bytes with the same bounds give the same
//! events, pieces and losses. The count says how many of them, from the first on, are published; the next process
//! publishes the rest. The count is not of records, because the next version may put the same lines into other records.
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 | nothing received; read, piece, max_event, a count of 0; subject | nothing was read |
//! | 2 | the kernel: bytes, and how many | all of it is published |
//! | 3 | a note of each publish, as in `takeover::note` | the rest is published |
//! | 4 | the connection's read position, with this read's number | nothing: the position includes the read |
//! | 5 | no subject | nothing |
//!
//! The headers and the memory for datagrams are locked where the process may lock memory: see `sys::recvmmsg`. The
//! memory for streams is not, because a stream keeps the bytes that the kernel cannot copy.
//!
//! Two subjects are not reads. *Carry*: the part of a line that a connection carries is published as a piece, to free
//! its memory. *Lost line*: a line whose beginning can no longer be known is counted as lost. Both take the same steps,
//! except step 2. The next process repeats them and skips what the count says is published.

use std::io;
use std::os::fd::OwnedFd;

use crate::pipeline::accept::limits::READ_BYTES;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::MAX_EVENT_BYTES_MAX;
use crate::pipeline::takeover::memory::{HEAD_WORDS, Layout, PersistentMemory};
use crate::pipeline::takeover::names::Name;
use crate::pipeline::takeover::note::{self, NOTE, PublishNote};
use crate::sync::Arc;
use crate::sync::atomic::AtomicU64;
use crate::sys::clock;
use crate::sys::fdstore::FdStore;
use crate::sys::recvmmsg::{CONTROL_BYTES, HEADER_BYTES, Headers};
use crate::sys::words::Region;

/// Bytes of memory for the datagrams of one read.
pub(crate) const ARENA_BYTES: usize = 4 << 20;

const SUBJECT: usize = 0;
const READ: usize = 1;
const PIECE: usize = 2;
const MAX_EVENT: usize = 3;
const NOTE_AT: usize = 4;
const WORDS: usize = NOTE_AT + note::words(1);
/// The buffer's index is in the upper bits of the numbers of its reads.
const READ_INDEX_SHIFT: u32 = 48;
const READ_COUNT_MASK: u64 = (1 << READ_INDEX_SHIFT) - 1;

const HEADERS_AT: usize = 4096;
const CONTROL_AT: usize = 8192;
const STREAM_AT: usize = 12288;
const ARENA_AT: usize = STREAM_AT + READ_BYTES;

const _: () = assert!((HEAD_WORDS + WORDS) * size_of::<u64>() <= HEADERS_AT);
const _: () = assert!(HEADERS_AT + HEADER_BYTES <= CONTROL_AT && CONTROL_AT + CONTROL_BYTES <= STREAM_AT);

const LAYOUT: Layout = Layout {
    label: "dbufd-receive",
    magic: *b"dbufdesk",
    version: 3,
    extent: 0,
    words: WORDS,
    bytes: ARENA_AT + ARENA_BYTES,
};

const OF_STREAM: u64 = 1 << 32;
const OF_DATAGRAMS: u64 = 2 << 32;
const OF_CARRY: u64 = 3 << 32;
const OF_LOST_LINE: u64 = 4 << 32;

/// What is being published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A read of the connection in this slot.
    Stream(u32),
    /// A read of the datagram socket.
    Datagrams,
    /// The carry of the connection in this slot, as a piece.
    Carry(u32),
    /// The loss of a line of the connection in this slot.
    LostLine(u32),
}

impl Subject {
    fn to_word(self) -> u64 {
        match self {
            Self::Stream(slot) => OF_STREAM | u64::from(slot),
            Self::Datagrams => OF_DATAGRAMS,
            Self::Carry(slot) => OF_CARRY | u64::from(slot),
            Self::LostLine(slot) => OF_LOST_LINE | u64::from(slot),
        }
    }

    fn of_word(word: u64) -> Option<Self> {
        let slot = word as u32;
        match word & !u64::from(u32::MAX) {
            OF_STREAM => Some(Self::Stream(slot)),
            OF_DATAGRAMS => Some(Self::Datagrams),
            OF_CARRY => Some(Self::Carry(slot)),
            OF_LOST_LINE => Some(Self::LostLine(slot)),
            _ => None,
        }
    }

    /// The slot of its connection.
    fn slot(self) -> Option<u32> {
        match self {
            Self::Stream(slot) | Self::Carry(slot) | Self::LostLine(slot) => Some(slot),
            Self::Datagrams => None,
        }
    }

    fn is_read(self) -> bool {
        matches!(self, Self::Stream(_) | Self::Datagrams)
    }
}

/// What the previous process was doing when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) subject: Subject,
    /// The number of its read.
    pub(crate) read: u64,
    /// The piece id that came next when the read began.
    pub(crate) piece: u64,
    /// `ingest.max_event` at that time, in bytes.
    pub(crate) max_event_bytes: usize,
    /// How many are published: events, pieces, and the events that loss records report.
    pub(crate) count: u64,
}

/// The receive buffer of one writer.
#[derive(Debug)]
pub struct ReceiveBuffer {
    pub(crate) read_progress: Arc<ReadProgress>,
    pub(crate) headers: Headers,
    pub(crate) stream: Region,
    /// Empty if the writer reads no datagrams.
    pub(crate) arena: Region,
    pub(crate) unfinished: Option<Unfinished>,
    /// Its name in the store; None if it is not stored.
    name: Option<Name>,
}

/// The note of what is published; None where no memory outlives the process.
#[derive(Debug, Default)]
pub(crate) struct ReadProgress(Option<PersistentMemory>);

/// The receive buffers of one writer: its own, and unfinished ones of the previous process, if that had more writers.
#[derive(Debug)]
pub struct ReceiveBuffers {
    pub(crate) own: ReceiveBuffer,
    pub(crate) others: Vec<ReceiveBuffer>,
}

/// A receive buffer that the previous process left.
#[derive(Debug)]
pub struct InheritedReceiveBuffer {
    index: u32,
    /// None if it has another version.
    memory: Option<PersistentMemory>,
}

impl InheritedReceiveBuffer {
    /// Opens the memory that the writer with this index used.
    #[must_use]
    pub fn new(index: u32, memory: OwnedFd) -> Self {
        Self { index, memory: PersistentMemory::inherit(memory, &LAYOUT) }
    }

    /// Resolves the note that the previous process left.
    pub fn resolve(&self, was_published: &dyn Fn(PublishPosition) -> bool) {
        if let Some(memory) = &self.memory {
            note_of(memory).resolve(was_published, |_| ());
        }
    }
}

impl ReceiveBuffers {
    /// Creates receive buffers for `writers` writers, of which the first reads the datagrams. With a store, the buffers
    /// are stored, and this process continues with those in `left`.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn take_over(
        writers: usize,
        store: Option<&FdStore>,
        left: Vec<InheritedReceiveBuffer>,
    ) -> io::Result<Vec<Self>> {
        let Some(store) = store else {
            let own = (0..writers).map(|index| ReceiveBuffer::anonymous(index == 0));
            return own.map(|own| Ok(Self { own: own?, others: Vec::new() })).collect();
        };
        let mut own: Vec<Option<ReceiveBuffer>> = (0..writers).map(|_| None).collect();
        let mut others = Vec::new();
        for InheritedReceiveBuffer { index, memory } in left {
            let buffer = memory.and_then(|memory| ReceiveBuffer::inherited(memory, index));
            match (buffer, own.get_mut(index as usize)) {
                (Some(buffer), Some(place)) => *place = Some(buffer),
                (Some(buffer), None) if buffer.unfinished.is_some() => others.push(buffer),
                // It is replaced below.
                (None, Some(_)) => {}
                (_, None) => store.remove(&Name::ReceiveBuffer(index).to_string()),
            }
        }
        let own = own.into_iter().zip(0..).map(|(buffer, index)| match buffer {
            Some(buffer) => Ok(buffer),
            None => ReceiveBuffer::stored(store, index),
        });
        let own = own.map(|own| Ok(Self { own: own?, others: Vec::new() }));
        let mut all = own.collect::<io::Result<Vec<Self>>>()?;
        for (turn, buffer) in others.into_iter().enumerate() {
            all[turn % writers].others.push(buffer);
        }
        if let Some(error) = all.iter().find_map(|buffers| buffers.own.lock().err()) {
            tracing::info!(
                %error,
                "receive buffers are not locked in memory: a kill while they are swapped out may lose a datagram; \
                 raise LimitMEMLOCK= to 8M"
            );
        }
        Ok(all)
    }

    fn all(&self) -> impl Iterator<Item = &ReceiveBuffer> {
        std::iter::once(&self.own).chain(&self.others)
    }

    /// The slots of the connections with something unfinished.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.all().filter_map(|buffer| buffer.unfinished?.subject.slot())
    }

    /// Whether something of the connection in this slot is unfinished.
    pub(crate) fn concern(&self, slot: Option<u32>) -> bool {
        slot.is_some_and(|slot| self.slots().any(|unfinished| unfinished == slot))
    }
}

impl ReceiveBuffer {
    fn anonymous(with_arena: bool) -> io::Result<Self> {
        Ok(Self {
            read_progress: Arc::default(),
            headers: Headers::anonymous()?,
            stream: Region::anonymous(READ_BYTES)?,
            arena: Region::anonymous(if with_arena { ARENA_BYTES } else { 1 })?,
            unfinished: None,
            name: None,
        })
    }

    /// Creates a buffer that the store keeps.
    fn stored(store: &FdStore, index: u32) -> io::Result<Self> {
        let memory = PersistentMemory::create(&LAYOUT)?;
        let name = Name::ReceiveBuffer(index);
        memory.keep(store, &name.to_string());
        let buffer = Self::map(memory, index)?;
        // No two reads of any buffer have the same number, even if this buffer replaces one that was lost.
        let first_read = (u64::from(index) << READ_INDEX_SHIFT) | ((clock::now_ns() / 1000) & READ_COUNT_MASK);
        buffer.read_progress.set([(READ, first_read)]);
        Ok(buffer)
    }

    fn map(memory: PersistentMemory, index: u32) -> io::Result<Self> {
        let region = |offset, len| memory.region(offset, len);
        let headers = Headers::new(region(HEADERS_AT, HEADER_BYTES)?, region(CONTROL_AT, CONTROL_BYTES)?);
        let stream = region(STREAM_AT, READ_BYTES)?;
        let arena = if index == 0 { region(ARENA_AT, ARENA_BYTES)? } else { Region::anonymous(1)? };
        let read_progress = Arc::new(ReadProgress(Some(memory)));
        Ok(Self { read_progress, headers, stream, arena, unfinished: None, name: Some(Name::ReceiveBuffer(index)) })
    }

    /// Locks in memory what the kernel receives datagrams into.
    fn lock(&self) -> io::Result<()> {
        self.headers.lock()?;
        if self.reads_datagrams() { self.arena.lock() } else { Ok(()) }
    }

    /// Whether there is memory for datagrams.
    fn reads_datagrams(&self) -> bool {
        self.arena.len() == ARENA_BYTES
    }

    /// Opens a buffer of the previous process, whose note is resolved. None if it cannot be mapped.
    fn inherited(memory: PersistentMemory, index: u32) -> Option<Self> {
        let mut buffer = Self::map(memory, index).ok()?;
        buffer.unfinished = buffer.read_progress.unfinished();
        let died_before_the_read = buffer.headers.received(0).is_none();
        if buffer.unfinished.is_some_and(|unfinished| unfinished.subject.is_read()) && died_before_the_read {
            buffer.unfinished = None;
            buffer.read_progress.end();
        }
        Some(buffer)
    }

    /// Drops what the buffer holds of the connection in this slot, because the connection ends. Must be called before
    /// another connection can get the slot, or it would get these bytes.
    pub(crate) fn leave_out(&mut self, slot: u32) {
        if self.unfinished.is_some_and(|unfinished| unfinished.subject.slot() == Some(slot)) {
            self.unfinished = None;
            self.read_progress.end();
        }
    }

    /// Removes the buffer from the store.
    pub(crate) fn let_go(self, store: &FdStore) {
        if let Some(name) = self.name {
            store.remove(&name.to_string());
        }
    }
}

fn note_of(memory: &PersistentMemory) -> PublishNote<'_, 1> {
    PublishNote::new(&memory.words()[NOTE_AT..WORDS])
}

impl ReadProgress {
    fn word(memory: &PersistentMemory, at: usize) -> &AtomicU64 {
        &memory.words()[at]
    }

    fn set<const N: usize>(&self, values: [(usize, u64); N]) {
        let Some(memory) = &self.0 else { return };
        for (at, value) in values {
            // edge `note`, releasing: each value becomes visible after the ones before it.
            Self::word(memory, at).store(value, NOTE.release());
        }
    }

    fn get<const N: usize>(&self, at: [usize; N]) -> [u64; N] {
        // edge `note`, acquiring: the process that wrote them is dead, so all its writes are visible; Relaxed would do.
        self.0.as_ref().map_or([0; N], |memory| at.map(|at| Self::word(memory, at).load(NOTE.acquire())))
    }

    /// Begins a read or a publish for `subject`, after the previous one is done. Returns the number of the read.
    pub(crate) fn begin(&self, subject: Subject, piece: u64, max_event_bytes: usize) -> u64 {
        let Some(memory) = &self.0 else { return 0 };
        let read = self.get([READ])[0] + 1;
        self.set([(READ, read), (PIECE, piece), (MAX_EVENT, max_event_bytes as u64)]);
        note_of(memory).commit([0]);
        self.set([(SUBJECT, subject.to_word())]);
        read
    }

    /// Notes that the first `count` of the read, as far as they are not yet published, are about to be published at
    /// `position`.
    #[inline]
    pub(crate) fn prepare(&self, position: PublishPosition, count: u64) {
        if let Some(memory) = &self.0 {
            note_of(memory).prepare(position, [count]);
        }
    }

    /// Notes that they are published.
    #[inline]
    pub(crate) fn commit(&self, count: u64) {
        if let Some(memory) = &self.0 {
            note_of(memory).commit([count]);
        }
    }

    /// Notes that they are not published and come again.
    pub(crate) fn abort(&self) {
        if let Some(memory) = &self.0 {
            note_of(memory).abort();
        }
    }

    /// Whether the next process would publish the rest of the read.
    pub(crate) fn outlive(&self) -> bool {
        self.get([SUBJECT]) != [0]
    }

    /// Ends the read or the publish: nothing is unfinished any more.
    #[inline]
    pub(crate) fn end(&self) {
        self.set([(SUBJECT, 0)]);
    }

    fn unfinished(&self) -> Option<Unfinished> {
        let [count] = note_of(self.0.as_ref()?).values();
        let [subject, read, piece, max_event] = self.get([SUBJECT, READ, PIECE, MAX_EVENT]);
        let subject = Subject::of_word(subject)?;
        let max_event_bytes =
            usize::try_from(max_event).ok().filter(|bytes| (1..=MAX_EVENT_BYTES_MAX).contains(bytes))?;
        Some(Unfinished { subject, read, piece, max_event_bytes, count })
    }
}

#[cfg(test)]
mod tests;
