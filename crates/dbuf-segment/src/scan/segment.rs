//! Reads one segment, batch by batch.
//!
//! Input: a file. Output: whole batches, and descriptions of damage. Thread: any; one batch in memory at a time.
//! Failure: the disk, with an error. Damage is not an error: it is found, measured and stepped over.

use std::error::Error;
use std::fmt;
use std::io;

use crate::file::{ReadAt, read_full};
use crate::footer::{Footer, Trailer};
use crate::format::{
    BATCH_FIXED_BYTES, BATCH_MAGIC, BatchHeader, Broken, FOOTER_FIXED_BYTES, FOOTER_MAGIC, RUN_BYTES, SEGMENT_BYTES,
    SegmentHeader, TRAILER_BYTES, checksum,
};
use crate::record::ALIGN;
use dbuf_sync::Arc;

/// Bytes of a batch's header that are read at first: enough for 16 runs.
const HEAD_READ_BYTES: usize = BatchHeader::bytes_for(16);
/// Bytes that are searched at a time for the next whole batch after damage.
const WINDOW_BYTES: usize = 256 << 10;
const _: () = assert!(WINDOW_BYTES.is_multiple_of(ALIGN) && RUN_BYTES.is_multiple_of(ALIGN));
const _: () = assert!(BATCH_FIXED_BYTES.is_multiple_of(ALIGN) && BATCH_FIXED_BYTES < WINDOW_BYTES);

/// Bytes of a segment that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The offset of the first of them.
    pub offset: u64,
    /// Their number.
    pub bytes: u64,
    /// What is wrong with them.
    pub what: String,
    /// Number of events in them, if known.
    pub events: Option<u64>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at offset {}: {}", self.bytes, self.offset, self.what)?;
        match self.events {
            Some(events) => write!(f, " ({events} events)"),
            None => Ok(()),
        }
    }
}

/// A batch in memory. Its buffers are reused for the next batch.
#[derive(Debug, Default)]
pub struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// Its records: the runs, one after the other.
    pub content: Vec<u8>,
    head: Vec<u8>,
}

/// What is at an offset of a segment.
#[derive(Debug)]
pub enum Step {
    /// A whole batch. The next offset is its [`BatchHeader::end`].
    Batch,
    /// Damage with something whole after it, at `next`.
    Damage {
        /// The damage. If the header was whole, it is in the batch.
        damage: Damage,
        /// The offset at which to continue.
        next: u64,
        /// The range of sequences that the damaged batch held, if its header was whole.
        sequences: Option<(u64, u64)>,
    },
    /// No batch is here or later. There may be nothing, a batch that is being written, a torn batch, or a damaged
    /// footer.
    End {
        /// Number of bytes from here to the end.
        torn_bytes: u64,
    },
}

/// Why a file cannot be read at all.
#[derive(Debug)]
pub enum OpenError {
    /// The disk failed.
    Disk(io::Error),
    /// Header and footer are damaged, or of a newer version.
    Broken(Broken),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(error) => error.fmt(f),
            Self::Broken(broken) => broken.fmt(f),
        }
    }
}

impl Error for OpenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Disk(error) => Some(error),
            Self::Broken(broken) => Some(broken),
        }
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<Broken> for OpenError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// A segment, open for reading.
pub struct Segment {
    file: Arc<dyn ReadAt>,
    /// Its header, or what is wrong with it.
    pub header: Result<SegmentHeader, Broken>,
    /// Its footer, or why none counts.
    pub footer: Result<Footer, Broken>,
    /// The stream that it belongs to.
    pub stream_id: u128,
    /// The size of the file in bytes when it was last checked.
    pub file_bytes: u64,
}

impl Segment {
    /// Opens a segment. `stream_id` is that of its neighbours, for a file that has lost both header and footer.
    ///
    /// # Errors
    /// [`OpenError`] if the disk fails, if the file needs a newer version, or if no stream is known.
    pub fn open(file: Arc<dyn ReadAt>, stream_id: Option<u128>) -> Result<Self, OpenError> {
        let file_bytes = file.bytes()?;
        let mut head = [0; SEGMENT_BYTES];
        let read = read_full(&*file, &mut head, 0)?;
        let header = SegmentHeader::decode(&head[..read]);
        if let Err(unknown @ Broken::Unknown(_)) = header {
            return Err(unknown.into());
        }
        let whole_id = header.as_ref().ok().map(|header| header.stream_id);
        let footer = read_footer(&*file, file_bytes, whole_id)?;
        let known = match (&header, &footer) {
            (Ok(header), _) => Some(header.stream_id),
            (Err(_), Ok(footer)) => Some(footer.stream_id),
            (Err(_), Err(_)) => stream_id,
        };
        match (known, &header) {
            (Some(stream_id), _) => Ok(Self { file, header, footer, stream_id, file_bytes }),
            (None, Err(broken)) => Err((*broken).into()),
            (None, Ok(_)) => unreachable!("a header names its stream"),
        }
    }

    /// The offset of the first batch.
    pub const FIRST: u64 = SEGMENT_BYTES as u64;

    /// Checks the size of the file again, and reads its footer if it has one now.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn refresh(&mut self) -> io::Result<()> {
        let file_bytes = self.file.bytes()?;
        if file_bytes != self.file_bytes {
            self.file_bytes = file_bytes;
            self.footer = read_footer(&*self.file, file_bytes, Some(self.stream_id))?;
        }
        Ok(())
    }

    /// The offset at which batches end at the latest.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.footer.as_ref().map_or(self.file_bytes, |footer| footer.offset)
    }

    /// Reads what is at `at`. If `wants` accepts the header of a batch, its records are read and their checksum is
    /// verified.
    ///
    /// # Errors
    /// Those of the disk. The caller may continue after the batch.
    pub fn step(&self, at: u64, batch: &mut Batch, wants: &dyn Fn(&BatchHeader) -> bool) -> io::Result<Step> {
        let limit = self.limit();
        if at >= limit {
            return Ok(Step::End { torn_bytes: 0 });
        }
        let broken = match self.read_header(at, batch) {
            Err(e) => return Err(e),
            Ok(Ok(())) if batch.header.end() > limit => Broken::Damaged("a batch is truncated"),
            Ok(Ok(())) => {
                let content = wants(&batch.header);
                let Some(what) = self.read_content(batch, content)? else { return Ok(Step::Batch) };
                return self.after_damaged_content(at, limit, &batch.header, what);
            }
            Ok(Err(unknown @ Broken::Unknown(_))) if batch.header.end() <= limit => {
                return self.after_damaged_content(at, limit, &batch.header, unknown.to_string());
            }
            Ok(Err(broken)) => broken,
        };
        let next = match self.find_batch(at + ALIGN as u64, limit)? {
            Some(next) => next,
            None if self.footer.is_ok() => limit,
            None => return Ok(Step::End { torn_bytes: limit - at }),
        };
        let damage = Damage { offset: at, bytes: next - at, what: broken.to_string(), events: None };
        Ok(Step::Damage { damage, next, sequences: None })
    }

    /// Whether the bytes at `at` start like a footer. Then a tail that is not a batch has cost no events.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn is_footer(&self, at: u64) -> io::Result<bool> {
        let mut start = [0; FOOTER_MAGIC.len()];
        Ok(read_full(&*self.file, &mut start, at)? == start.len() && start == FOOTER_MAGIC)
    }

    /// Whether it has a batch of a newer version.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn needs_newer(&self) -> io::Result<bool> {
        let (mut batch, mut at) = (Batch::default(), Self::FIRST);
        loop {
            if at < self.limit() && matches!(self.read_header(at, &mut batch)?, Err(Broken::Unknown(_))) {
                return Ok(true);
            }
            match self.step(at, &mut batch, &|_| false)? {
                Step::Batch => at = batch.header.end(),
                Step::Damage { next, .. } => at = next,
                Step::End { .. } => return Ok(false),
            }
        }
    }

    fn read_header(&self, at: u64, batch: &mut Batch) -> io::Result<Result<(), Broken>> {
        batch.head.resize(HEAD_READ_BYTES, 0);
        let read = read_full(&*self.file, &mut batch.head, at)?;
        batch.head.truncate(read);
        if let Some(claimed) = BatchHeader::claimed_bytes(&batch.head)
            && claimed > read
            && read == HEAD_READ_BYTES
        {
            batch.head.resize(claimed, 0);
            let more = read_full(&*self.file, &mut batch.head[read..], at + read as u64)?;
            batch.head.truncate(read + more);
        }
        Ok(batch.header.decode_from(self.stream_id, at, &batch.head))
    }

    /// Reads the records if they are wanted. Returns what is wrong with them.
    fn read_content(&self, batch: &mut Batch, content: bool) -> io::Result<Option<String>> {
        batch.content.clear();
        if !content {
            return Ok(None);
        }
        // The header's checksum was right and the batch ends within the file, so the size is true.
        let bytes = usize::try_from(batch.header.content_bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        batch.content.resize(bytes, 0);
        let from = batch.header.offset + u64::from(batch.header.header_bytes);
        let read = read_full(&*self.file, &mut batch.content, from)?;
        if read < bytes {
            return Ok(Some("a batch is truncated".into()));
        }
        let right = checksum(&batch.content) == batch.header.content_crc;
        Ok((!right).then(|| "the checksum of a batch's records is wrong".into()))
    }

    /// The batch's header is whole, so its end is known. In a file without a footer the batch counts as damage only if
    /// another batch or a footer follows, and as an unfinished end otherwise.
    fn after_damaged_content(&self, at: u64, limit: u64, header: &BatchHeader, what: String) -> io::Result<Step> {
        let next = header.end();
        if self.footer.is_err() && self.find_batch(next, limit)?.is_none() && !self.is_footer(next)? {
            return Ok(Step::End { torn_bytes: limit - at });
        }
        let damage = Damage { offset: at, bytes: next - at, what, events: Some(u64::from(header.events)) };
        Ok(Step::Damage { damage, next, sequences: Some((header.first_sequence, header.next_sequence())) })
    }

    /// The next offset from `at` on with a whole batch header. Reads each byte once, and more only where a batch may
    /// start.
    fn find_batch(&self, mut at: u64, limit: u64) -> io::Result<Option<u64>> {
        let mut window = Vec::new();
        let mut batch = Batch::default();
        while at < limit {
            window.resize(WINDOW_BYTES.min(usize::try_from(limit - at).unwrap_or(WINDOW_BYTES)), 0);
            let read = read_full(&*self.file, &mut window, at)?;
            // The places at which a header fits into the window. The next window begins with the others.
            let places = (read + ALIGN).saturating_sub(BATCH_FIXED_BYTES) / ALIGN;
            for place in (0..places * ALIGN).step_by(ALIGN) {
                let here = at + place as u64;
                // One of a newer version counts: it is whole.
                if window[place..].starts_with(&BATCH_MAGIC)
                    && BatchHeader::may_start(&window[place..][..BATCH_FIXED_BYTES], here, limit)
                    && !matches!(self.read_header(here, &mut batch)?, Err(Broken::Damaged(_)))
                {
                    return Ok(Some(here));
                }
            }
            if read < window.len() || places == 0 {
                break;
            }
            at += (places * ALIGN) as u64;
        }
        Ok(None)
    }

    /// Rebuilds the footer from the batches: from their headers alone, or, with `content`, with every byte verified.
    /// Reports damage to `report`. Returns the footer and the number of bytes after the last whole batch.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn rebuild(&self, content: bool, report: &mut dyn FnMut(Damage)) -> io::Result<(Footer, u64)> {
        let first = self.header.as_ref().map_or(0, |header| header.first_sequence);
        let mut footer = Footer::new(self.stream_id, first);
        if !content {
            footer.without_sources();
        }
        let mut batch = Batch::default();
        let mut at = Self::FIRST;
        loop {
            match self.step(at, &mut batch, &|_| content)? {
                Step::Batch => {
                    if footer.batches == 0 && self.header.is_err() {
                        footer.first_sequence = batch.header.first_sequence;
                    }
                    footer.add(&batch.header);
                    for run in batch.runs() {
                        footer.add_run(run);
                    }
                    at = batch.header.end();
                }
                Step::Damage { damage, next, .. } => {
                    report(damage);
                    at = next;
                }
                Step::End { torn_bytes } => return Ok((footer, torn_bytes)),
            }
        }
    }
}

impl Batch {
    /// The bytes of each run, if the content was read.
    pub fn runs(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.content[..];
        self.header.runs.iter().map_while(move |row| {
            let (run, tail) = rest.split_at_checked(usize::try_from(row.bytes).ok()?)?;
            rest = tail;
            Some(run)
        })
    }
}

/// Reads the footer at the end of a file, which must be one of this stream, if the stream is known. Its checksum alone
/// proves nothing: the file may end with bytes that a sender chose.
fn read_footer(file: &dyn ReadAt, file_bytes: u64, stream_id: Option<u128>) -> io::Result<Result<Footer, Broken>> {
    let least = (SEGMENT_BYTES + FOOTER_FIXED_BYTES + TRAILER_BYTES) as u64;
    if file_bytes < least {
        return Ok(Err(Broken::Damaged("the file does not end with a footer")));
    }
    let mut end = [0; TRAILER_BYTES];
    let read = read_full(file, &mut end, file_bytes - TRAILER_BYTES as u64)?;
    let trailer = match Trailer::decode(&end[..read], file_bytes) {
        Ok(trailer) => trailer,
        Err(broken) => return Ok(Err(broken)),
    };
    let mut bytes = vec![0; trailer.footer_bytes as usize];
    let read = read_full(file, &mut bytes, trailer.footer_offset)?;
    let footer = Footer::decode(&trailer, &bytes[..read]);
    Ok(match footer {
        Ok(footer) if stream_id.is_some_and(|stream_id| footer.stream_id != stream_id) => {
            Err(Broken::Damaged("the footer belongs to another stream of segments"))
        }
        footer => footer,
    })
}
