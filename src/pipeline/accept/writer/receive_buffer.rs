//! A writer's desk: what it is reading lies on it, with a note of how much of that is published. It outlives the process.
//!
//! Enters: what one read of a socket brought. Leaves: the same, for the writer; and for the next process, what the previous process
//! had read and not published when it died. The writer's thread. What can fail: there is no memory; and what the previous process
//! left may be of another version, and says nothing then.
//!
//! ```text
//! offset 0        words: magic, version, subject, read, piece, max_event, count, spot (2), count-if
//!        4096     headers of recvmmsg(2): how much was received
//!        8192     credentials of datagrams
//!        12288    what a stream brought, 256 KiB
//!        274432   what datagrams brought, 4 MiB; touched by the one writer that reads them
//! ```
//!
//! The next process reads the receive buffer as if the read had been its own: the same bytes, cut in the same way, give the same events,
//! pieces and losses, of which the first so many are published: the count. So it lays down the others, once. (Records are not what is counted,
//! for the next version may put the same lines into others.)
//!
//! | step | writes | if the process dies after it |
//! |---|---|---|
//! | 1 | nothing received; read, piece, max_event, a count of 0; subject | nothing was read |
//! | 2 | the kernel: bytes, and how many | all of it is laid down |
//! | 3 | count-if, spot | the next process looks at the spot (see `buffer::PublishPosition`) |
//! | 4 | the publish; then the count, no spot; and again from 3 | the rest is laid down |
//! | 5 | the bookmark, with this read's number | nothing: the bookmark includes the read |
//! | 6 | no subject | nothing |
//!
//! | edge | releasing site | acquiring site | what crosses | what breaks if weakened |
//! |---|---|---|---|---|
//! | `desk` | [`ReadProgress::begin`], [`ReadProgress::about_to`], [`ReadProgress::published`], [`ReadProgress::end`] | the next process, after this process is dead | each step is in memory before the next | the next process believes in a step whose predecessor never came: an event twice, or never |

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::pipeline::accept::limits::READ_BYTES;
use crate::pipeline::buffer::PublishPosition;
use crate::pipeline::record::MAX_EVENT_BYTES_MAX;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::sys::fdstore::FdStore;
use crate::sys::mapping::fix_size;
use crate::sys::recvmmsg::{CONTROL_BYTES, HEADER_BYTES, Headers};
use crate::sys::words::{Region, Words};

/// What a receive buffer's name in the store begins with; the writer's index follows.
const NAME_PREFIX: &str = "desk";
/// The most memory for datagrams that are received at a time.
pub(crate) const ARENA_BYTES: usize = 4 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"dbufdesk");
const VERSION: u64 = 1;

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const SUBJECT: usize = 2;
const READ: usize = 3;
const PIECE: usize = 4;
const MAX_EVENT: usize = 5;
const COUNT: usize = 6;
const SPOT: usize = 7;
const SPOT_PLACE: usize = 8;
const COUNT_IF: usize = 9;
const WORDS: usize = 16;
/// The receive buffer's index is in the upper bits of the numbers of its reads.
const READ_INDEX_SHIFT: u32 = 48;
const READ_COUNT_MASK: u64 = (1 << READ_INDEX_SHIFT) - 1;

const HEADERS_AT: usize = 4096;
const CONTROL_AT: usize = 8192;
const STREAM_AT: usize = 12288;
const ARENA_AT: usize = STREAM_AT + READ_BYTES;
const BUFFER_BYTES: usize = ARENA_AT + ARENA_BYTES;

const _: () = assert!(HEADERS_AT + HEADER_BYTES <= CONTROL_AT && CONTROL_AT + CONTROL_BYTES <= STREAM_AT);

const OF_STREAM: u64 = 1 << 32;
const OF_DATAGRAMS: u64 = 2 << 32;

/// Whose bytes lie in the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// Those of the connection that has this place.
    Stream(u32),
    /// Those of the datagram socket.
    Datagrams,
}

/// What the previous process was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) subject: Subject,
    /// The number of its read.
    pub(crate) read: u64,
    /// The piece id that came next when the read began.
    pub(crate) piece: u64,
    /// `ingest.max_event` at that time.
    pub(crate) max_event_bytes: usize,
    /// So much of it is published: events, pieces, and events that losses tell of.
    pub(crate) count: u64,
}

/// A receive buffer.
#[derive(Debug)]
pub struct ReceiveBuffer {
    pub(crate) read_progress: Arc<ReadProgress>,
    pub(crate) headers: Headers,
    pub(crate) stream: Region,
    /// Empty where the writer reads no datagrams.
    pub(crate) arena: Region,
    pub(crate) unfinished: Option<Unfinished>,
    /// Its name in the store; empty if it is not kept.
    name: String,
}

/// The notes of what is published; None where nothing outlives the process.
#[derive(Debug, Default)]
pub(crate) struct ReadProgress(Option<Words>);

/// The receive buffers of one writer: its own, and others that previous processes left unfinished, if they had more writers.
#[derive(Debug)]
pub struct ReceiveBuffers {
    pub(crate) own: ReceiveBuffer,
    pub(crate) others: Vec<ReceiveBuffer>,
}

/// Whether this is the name, in the store, of a receive buffer.
#[must_use]
pub fn is_name(name: &str) -> bool {
    index_of(name).is_some()
}

fn index_of(name: &str) -> Option<usize> {
    name.strip_prefix(NAME_PREFIX)?.parse().ok()
}

impl ReceiveBuffers {
    /// Receive buffers for so many writers, of which the first reads the datagrams. Where there is a store they are kept, and those
    /// that are `left` in it are gone on with. `was_published` says what became of a publish; see
    /// `DoubleBuffer::was_published`.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take_over(
        writers: usize,
        store: Option<&FdStore>,
        left: Vec<(OwnedFd, String)>,
        was_published: &dyn Fn(PublishPosition) -> bool,
    ) -> io::Result<Vec<Self>> {
        let Some(store) = store else {
            let own = (0..writers).map(|index| ReceiveBuffer::anonymous(index == 0));
            return own.map(|own| Ok(Self { own: own?, others: Vec::new() })).collect();
        };
        let mut own: Vec<Option<ReceiveBuffer>> = (0..writers).map(|_| None).collect();
        let mut others = Vec::new();
        for (memory, name) in left {
            let index = index_of(&name).unwrap_or(usize::MAX);
            match (ReceiveBuffer::from_previous(&memory, &name, index == 0, was_published), own.get_mut(index)) {
                (Some(receive_buffer), Some(place)) => *place = Some(receive_buffer),
                (Some(receive_buffer), None) if receive_buffer.unfinished.is_some() => others.push(receive_buffer),
                (None, _) | (Some(_), None) => store.remove(&name),
            }
        }
        let own = own.into_iter().enumerate().map(|(index, receive_buffer)| match receive_buffer {
            Some(receive_buffer) => Ok(receive_buffer),
            None => ReceiveBuffer::stored(store, index),
        });
        let own = own.map(|own| Ok(Self { own: own?, others: Vec::new() }));
        let mut all = own.collect::<io::Result<Vec<Self>>>()?;
        for (turn, receive_buffer) in others.into_iter().enumerate() {
            all[turn % writers].others.push(receive_buffer);
        }
        Ok(all)
    }

    /// The places of the connections whose bytes lie on them.
    pub fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let subjects = std::iter::once(&self.own)
            .chain(&self.others)
            .filter_map(|receive_buffer| Some(receive_buffer.unfinished?.subject));
        subjects.filter_map(|subject| match subject {
            Subject::Stream(place) => Some(place),
            Subject::Datagrams => None,
        })
    }

    /// Whether what lies in one of the receive buffers came from the connection at this place.
    pub(crate) fn concern(&self, place: Option<u32>) -> bool {
        let subject = place.map(Subject::Stream);
        std::iter::once(&self.own).chain(&self.others).any(|receive_buffer| {
            receive_buffer.unfinished.is_some_and(|unfinished| Some(unfinished.subject) == subject)
        })
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
            name: String::new(),
        })
    }

    /// A new one, which the store keeps.
    fn stored(store: &FdStore, index: usize) -> io::Result<Self> {
        let memory = memfd_create("dbufd-desk", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        fix_size(memory.as_fd(), BUFFER_BYTES)?;
        let name = format!("{NAME_PREFIX}{index}");
        let receive_buffer = Self::map(&memory, &name, index == 0)?;
        // No two reads of any desk have the same number, also if this one takes the place of one that was lost.
        let first_read = ((index as u64) << READ_INDEX_SHIFT) | (wall_clock_us() & READ_COUNT_MASK);
        receive_buffer.read_progress.set([(AT_MAGIC, MAGIC), (AT_VERSION, VERSION), (READ, first_read)]);
        store.remove(&name);
        if !store.put(&name, memory.as_fd()) {
            tracing::warn!("systemd takes no descriptors; what is being read will not outlive this process");
        }
        Ok(receive_buffer)
    }

    fn map(memory: &OwnedFd, name: &str, with_arena: bool) -> io::Result<Self> {
        let memory = memory.as_fd();
        let region = |offset, len| Region::of_memory(memory, offset, len);
        let headers = Headers::new(region(HEADERS_AT, HEADER_BYTES)?, region(CONTROL_AT, CONTROL_BYTES)?);
        Ok(Self {
            read_progress: Arc::new(ReadProgress(Some(Words::of_memory(memory, 0, WORDS)?))),
            headers,
            stream: region(STREAM_AT, READ_BYTES)?,
            arena: if with_arena { region(ARENA_AT, ARENA_BYTES)? } else { Region::anonymous(1)? },
            unfinished: None,
            name: name.to_owned(),
        })
    }

    /// What the previous process left; None if it is of another version.
    fn from_previous(
        memory: &OwnedFd,
        name: &str,
        with_arena: bool,
        was_published: &dyn Fn(PublishPosition) -> bool,
    ) -> Option<Self> {
        let words = Words::of_memory(memory.as_fd(), 0, WORDS).ok()?;
        let is_ours = ReadProgress(Some(words)).get([AT_MAGIC, AT_VERSION]) == [MAGIC, VERSION];
        let mut receive_buffer = is_ours.then(|| Self::map(memory, name, with_arena).ok())??;
        receive_buffer.unfinished = receive_buffer.read_progress.unfinished(was_published);
        if receive_buffer.headers.received(0).is_none() {
            // It died before the read.
            receive_buffer.unfinished = None;
            receive_buffer.read_progress.end();
        }
        Some(receive_buffer)
    }

    /// Has the store let go of it.
    pub(crate) fn let_go(self, store: &FdStore) {
        store.remove(&self.name);
    }
}

impl ReadProgress {
    fn set<const N: usize>(&self, values: [(usize, u64); N]) {
        let Some(words) = &self.0 else { return };
        for (at, value) in values {
            // edge `desk`, releasing: each value comes after the ones before it.
            words.all()[at].store(value, Ordering::Release);
        }
    }

    fn get<const N: usize>(&self, at: [usize; N]) -> [u64; N] {
        // edge `desk`, acquiring: the process that wrote them is dead, so all that it wrote is there; Relaxed would do.
        self.0.as_ref().map_or([0; N], |words| at.map(|at| words.all()[at].load(Ordering::Acquire)))
    }

    /// Something of `subject` is about to be read, and what was read before is done with. Returns the number of the read.
    pub(crate) fn begin(&self, subject: Subject, piece: u64, max_event_bytes: usize) -> u64 {
        let read = self.get([READ])[0] + 1;
        let subject = match subject {
            Subject::Stream(place) => OF_STREAM | u64::from(place),
            Subject::Datagrams => OF_DATAGRAMS,
        };
        self.set([
            (READ, read),
            (PIECE, piece),
            (MAX_EVENT, max_event_bytes as u64),
            (COUNT, 0),
            (SPOT, 0),
            (SUBJECT, subject),
        ]);
        read
    }

    /// So much of the read, from its start, is about to be published at `spot`.
    #[inline]
    pub(crate) fn about_to(&self, spot: PublishPosition, count: u64) {
        let [generation, place] = spot.to_words();
        self.set([(COUNT_IF, count), (SPOT_PLACE, place), (SPOT, generation)]);
    }

    /// They are.
    #[inline]
    pub(crate) fn published(&self, count: u64) {
        self.set([(COUNT, count), (SPOT, 0)]);
    }

    /// They are not, and come again.
    pub(crate) fn take_back(&self) {
        self.set([(SPOT, 0)]);
    }

    /// Whether the next process would lay down what is not published of the read.
    pub(crate) fn outlive(&self) -> bool {
        self.get([SUBJECT]) != [0]
    }

    /// What was read is done with.
    #[inline]
    pub(crate) fn end(&self) {
        self.set([(SUBJECT, 0)]);
    }

    fn unfinished(&self, was_published: &dyn Fn(PublishPosition) -> bool) -> Option<Unfinished> {
        let [subject, read, piece, max_event, count, spot, place, count_if] =
            self.get([SUBJECT, READ, PIECE, MAX_EVENT, COUNT, SPOT, SPOT_PLACE, COUNT_IF]);
        let published = PublishPosition::from_words([spot, place]).is_some_and(was_published);
        let count = if published { count.max(count_if) } else { count };
        // Decided once: when the buffer goes on, the spot means something else.
        self.published(count);
        let subject = match (subject & !u64::from(u32::MAX), subject as u32) {
            (OF_STREAM, place) => Subject::Stream(place),
            (OF_DATAGRAMS, _) => Subject::Datagrams,
            _ => return None,
        };
        let max_event_bytes =
            usize::try_from(max_event).ok().filter(|bytes| (1..=MAX_EVENT_BYTES_MAX).contains(bytes))?;
        Some(Unfinished { subject, read, piece, max_event_bytes, count })
    }
}

fn wall_clock_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64
}

#[cfg(test)]
mod tests;
