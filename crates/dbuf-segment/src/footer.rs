//! Encodes and decodes the footer of a segment, with which a reader skips the segment or finds a position in it.
//!
//! Input: batches, one after the other, as they are written or walked; or bytes. Output: bytes; or a [`Footer`].
//! Thread: any. Failure: decoding, with [`Broken`]; then the footer is rebuilt from the batches (format, invariant 3).

use std::collections::HashMap;

use super::format::{
    BatchHeader, Broken, COMPAT_COUNTS, COUNT_ROW_BYTES, COUNTS_BYTES, FOOTER_BYTES_MAX, FOOTER_FIXED_BYTES,
    FOOTER_MAGIC, INCOMPAT_KNOWN, INDEX_ROW_BYTES, SEGMENT_BYTES, TRAILER_BYTES, TRAILER_MAGIC, VERSION, checksum,
    count_row, counts, footer, index_row, trailer,
};
use super::format::{get, get_u32, get_u128, has, put, put_bytes};
use crate::record::{Kind, PerSource, Record, Source, SourceCount, encode_source};

/// A row of the index covers batches of at least this many bytes together, so that the index stays small.
pub const INDEX_BYTES_MIN: u64 = 64 << 10;
/// Sources that a footer names at most. If there are more, it says that its list is not complete.
pub const SOURCES_MAX: usize = 256;

/// Bit of the flags: the list of sources is complete.
const SOURCES_COMPLETE: u64 = 1;

/// A row of the index: some consecutive batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// The offset of the first of them, in bytes.
    pub offset: u64,
    /// The sequence of their first event.
    pub first_sequence: u64,
    /// The smallest acceptance time in them, in nanoseconds of the wall clock.
    pub time_min_ns: u64,
    /// The largest acceptance time in them, in nanoseconds of the wall clock.
    pub time_max_ns: u64,
}

/// What one source has in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Events.
    pub events: u64,
    /// Payload bytes.
    pub payload_bytes: u64,
}

impl Count {
    fn add(&mut self, events: u64, payload_bytes: u64) {
        // Wrapping, because a file may say anything, and that is no reason to panic.
        self.events = self.events.wrapping_add(events);
        self.payload_bytes = self.payload_bytes.wrapping_add(payload_bytes);
    }
}

/// A summary of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The stream that the segment belongs to.
    pub stream_id: u128,
    /// The offset at which the batches end, in bytes.
    pub offset: u64,
    /// The sequence of its first event.
    pub first_sequence: u64,
    /// The sequence after its last event.
    pub next_sequence: u64,
    /// Events in it. If they are fewer than the range of sequences, some were lost.
    pub events: u64,
    /// Bytes of payload in it.
    pub payload_bytes: u64,
    /// Batches in it.
    pub batches: u64,
    /// The smallest acceptance time, in nanoseconds of the wall clock; `u64::MAX` while there is no event.
    pub time_min_ns: u64,
    /// The largest acceptance time, in nanoseconds of the wall clock.
    pub time_max_ns: u64,
    /// Whether [`Footer::sources`] is complete.
    pub sources_complete: bool,
    /// The index of batches.
    pub index: Vec<IndexRow>,
    /// Records of the sources, as in a run.
    sources: Vec<u8>,
    /// What each of these sources has in the segment. A footer of an earlier version does not say it.
    counts: Vec<Count>,
    has_counts: bool,
    /// The index of each source, by the content of its record.
    known: HashMap<Box<[u8]>, usize>,
    row_bytes: u64,
}

impl Footer {
    /// Creates the footer of a segment without batches.
    #[must_use]
    pub fn new(stream_id: u128, first_sequence: u64) -> Self {
        Self {
            stream_id,
            offset: SEGMENT_BYTES as u64,
            first_sequence,
            next_sequence: first_sequence,
            events: 0,
            payload_bytes: 0,
            batches: 0,
            time_min_ns: u64::MAX,
            time_max_ns: 0,
            sources_complete: true,
            index: Vec::new(),
            sources: Vec::new(),
            counts: Vec::new(),
            has_counts: true,
            known: HashMap::new(),
            row_bytes: INDEX_BYTES_MIN,
        }
    }

    /// Adds the batch that `header` describes.
    pub fn add(&mut self, header: &BatchHeader) {
        self.offset = header.end();
        self.batches += 1;
        self.next_sequence = header.next_sequence();
        self.events += u64::from(header.events);
        self.payload_bytes += header.payload_bytes;
        self.time_min_ns = self.time_min_ns.min(header.time_min_ns);
        self.time_max_ns = self.time_max_ns.max(header.time_max_ns);
        match self.index.last_mut() {
            Some(row) if self.row_bytes < INDEX_BYTES_MIN => {
                row.time_min_ns = row.time_min_ns.min(header.time_min_ns);
                row.time_max_ns = row.time_max_ns.max(header.time_max_ns);
            }
            _ => {
                self.row_bytes = 0;
                self.index.push(IndexRow {
                    offset: header.offset,
                    first_sequence: header.first_sequence,
                    time_min_ns: header.time_min_ns,
                    time_max_ns: header.time_max_ns,
                });
            }
        }
        self.row_bytes += header.content_bytes;
    }

    /// Says that the sources are not known, because the records are not read.
    pub(crate) fn without_sources(&mut self) {
        (self.sources_complete, self.has_counts) = (false, false);
    }

    /// Adds the sources of a run that was read back, and what each of them has in it.
    pub fn add_run(&mut self, mut run: &[u8]) {
        let mut sources = PerSource::default();
        while let Ok((record, bytes)) = Record::decode(run) {
            match record.kind {
                Kind::Source => sources.introduce(record),
                Kind::Event => {
                    let events = record.event_count();
                    let newlines = if record.is_lines() { events } else { 0 };
                    sources.add(record.source, events as u64, (record.payload().len() - newlines) as u64);
                }
                Kind::Loss => {}
            }
            run = &run[bytes..];
        }
        sources.all().iter().for_each(|count| self.add_source(count));
    }

    /// Adds a source, and what it has in a batch.
    pub fn add_source(&mut self, count: &SourceCount<'_>) {
        // The head differs from run to run; the source's identity does not.
        let identity = count.source.payload();
        let index = match self.known.get(identity) {
            Some(index) => *index,
            None => {
                let Ok(source) = count.source.as_source() else { return };
                if self.counts.len() == SOURCES_MAX {
                    self.sources_complete = false;
                    return;
                }
                let index = self.counts.len();
                self.known.insert(identity.into(), index);
                encode_source(&mut self.sources, index as u32, count.source.time_ns, &source);
                self.counts.push(Count::default());
                index
            }
        };
        self.counts[index].add(count.events, count.bytes);
    }

    /// The sources in the segment; complete if [`Footer::sources_complete`].
    pub fn sources(&self) -> impl Iterator<Item = Source<'_>> {
        self.records().filter_map(|record| record.as_source().ok())
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = &self.sources[..];
        std::iter::from_fn(move || {
            let (record, bytes) = Record::decode(rest).ok()?;
            rest = &rest[bytes..];
            Some(record)
        })
    }

    /// The source records, each with what the source has in the segment, and what is left for sources that are not
    /// named. None if the footer does not say it.
    #[must_use]
    pub fn counts(&self) -> Option<(impl Iterator<Item = (Record<'_>, Count)>, Count)> {
        let named = self.counts.iter().fold(Count::default(), |mut sum, count| {
            sum.add(count.events, count.payload_bytes);
            sum
        });
        let others = Count {
            events: self.events.saturating_sub(named.events),
            payload_bytes: self.payload_bytes.saturating_sub(named.payload_bytes),
        };
        self.has_counts.then(|| (self.records().zip(self.counts.iter().copied()), others))
    }

    /// The bytes of the footer and the trailer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(self.has_counts)
    }

    fn encode_with(&self, has_counts: bool) -> Vec<u8> {
        let mut bytes = vec![0; FOOTER_FIXED_BYTES];
        put_bytes(&mut bytes, footer::magic, &FOOTER_MAGIC);
        put(&mut bytes, footer::version, u64::from(VERSION));
        put(&mut bytes, footer::flags, if self.sources_complete { SOURCES_COMPLETE } else { 0 });
        put(&mut bytes, footer::compat, if has_counts { u64::from(COMPAT_COUNTS) } else { 0 });
        put(&mut bytes, footer::offset, self.offset);
        put_bytes(&mut bytes, footer::stream_id, &self.stream_id.to_le_bytes());
        put(&mut bytes, footer::first_sequence, self.first_sequence);
        put(&mut bytes, footer::next_sequence, self.next_sequence);
        put(&mut bytes, footer::events, self.events);
        put(&mut bytes, footer::payload_bytes, self.payload_bytes);
        put(&mut bytes, footer::batches, self.batches);
        put(&mut bytes, footer::time_min_ns, self.time_min_ns);
        put(&mut bytes, footer::time_max_ns, self.time_max_ns);
        put(&mut bytes, footer::index_rows, self.index.len() as u64);
        put(&mut bytes, footer::sources, self.counts.len() as u64);
        for row in &self.index {
            let mut to = [0; INDEX_ROW_BYTES];
            put(&mut to, index_row::offset, row.offset);
            put(&mut to, index_row::first_sequence, row.first_sequence);
            put(&mut to, index_row::time_min_ns, row.time_min_ns);
            put(&mut to, index_row::time_max_ns, row.time_max_ns);
            bytes.extend_from_slice(&to);
        }
        bytes.extend_from_slice(&self.sources);
        if has_counts {
            let mut head = [0; COUNTS_BYTES];
            put(&mut head, counts::rows, self.counts.len() as u64);
            bytes.extend_from_slice(&head);
            for count in &self.counts {
                let mut to = [0; COUNT_ROW_BYTES];
                put(&mut to, count_row::events, count.events);
                put(&mut to, count_row::payload_bytes, count.payload_bytes);
                bytes.extend_from_slice(&to);
            }
        }
        let trailer =
            Trailer { footer_offset: self.offset, footer_bytes: bytes.len() as u32, footer_crc: checksum(&bytes) };
        bytes.extend_from_slice(&trailer.encode());
        bytes
    }

    /// Decodes the footer that `trailer` points to.
    ///
    /// # Errors
    /// [`Broken`] if the bytes are not the footer that was written.
    pub fn decode(trailer: &Trailer, bytes: &[u8]) -> Result<Self, Broken> {
        if bytes.len() < FOOTER_FIXED_BYTES || checksum(bytes) != trailer.footer_crc {
            return Err(Broken::Damaged("the checksum of the footer is wrong"));
        }
        if !has(bytes, footer::magic, &FOOTER_MAGIC) || get(bytes, footer::offset) != trailer.footer_offset {
            return Err(Broken::Damaged("the footer is not at the offset that it was written to"));
        }
        let incompat = get_u32(bytes, footer::incompat);
        if get(bytes, footer::version) != u64::from(VERSION) || incompat & !INCOMPAT_KNOWN != 0 {
            return Err(Broken::Unknown("a footer"));
        }
        let rows = get(bytes, footer::index_rows) as usize;
        let rest = &bytes[FOOTER_FIXED_BYTES..];
        let (index, rest) = rest
            .split_at_checked(rows.saturating_mul(INDEX_ROW_BYTES))
            .ok_or(Broken::Damaged("the index is longer than the footer"))?;
        let index: Vec<_> = index.chunks_exact(INDEX_ROW_BYTES).map(decode_row).collect();
        let is_within = |row: &IndexRow| (SEGMENT_BYTES as u64..trailer.footer_offset).contains(&row.offset);
        if !index.iter().all(is_within) || !index.is_sorted_by(|a, b| a.offset < b.offset) {
            return Err(Broken::Damaged("the index does not lie in the segment"));
        }
        let (sources, rest) = split_sources(rest, get_u32(bytes, footer::sources))?;
        let has_counts = get_u32(bytes, footer::compat) & COMPAT_COUNTS != 0;
        let rows = get_u32(bytes, footer::sources) as usize;
        // What follows belongs to features that this code does not know.
        let counts = if has_counts { decode_counts(rest, rows)? } else { vec![Count::default(); rows] };
        // Each event takes at least a byte of the file. So the numbers of a real file stay far from an overflow.
        let all = Count { events: get(bytes, footer::events), payload_bytes: get(bytes, footer::payload_bytes) };
        let is_possible = |count: &Count| count.events.max(count.payload_bytes) <= trailer.footer_offset;
        if !counts.iter().chain([&all]).all(is_possible) {
            return Err(Broken::Damaged("the footer counts more than the segment can hold"));
        }
        Ok(Self {
            offset: trailer.footer_offset,
            next_sequence: get(bytes, footer::next_sequence),
            events: all.events,
            payload_bytes: all.payload_bytes,
            batches: get(bytes, footer::batches),
            time_min_ns: get(bytes, footer::time_min_ns),
            time_max_ns: get(bytes, footer::time_max_ns),
            sources_complete: get(bytes, footer::flags) & SOURCES_COMPLETE != 0,
            index,
            sources: sources.to_vec(),
            counts,
            has_counts,
            ..Self::new(get_u128(bytes, footer::stream_id), get(bytes, footer::first_sequence))
        })
    }

    /// Whether the other footer describes the same batches. Counts are compared if both have them.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        let has_counts = self.has_counts && other.has_counts;
        self.encode_with(has_counts) == other.encode_with(has_counts)
    }
}

/// Splits the records of `rows` sources from what follows them.
fn split_sources(bytes: &[u8], rows: u32) -> Result<(&[u8], &[u8]), Broken> {
    let mut at = 0;
    for _ in 0..rows {
        match Record::decode(&bytes[at..]) {
            Ok((record, length)) if record.kind == Kind::Source => at += length,
            _ => return Err(Broken::Damaged("the footer does not have as many sources as it says")),
        }
    }
    Ok(bytes.split_at(at))
}

fn decode_counts(bytes: &[u8], sources: usize) -> Result<Vec<Count>, Broken> {
    let damaged = Broken::Damaged("the footer does not have a count for each source");
    let (head, rows) = bytes.split_at_checked(COUNTS_BYTES).ok_or(damaged)?;
    let rows = rows.get(..sources * COUNT_ROW_BYTES).ok_or(damaged)?;
    if get_u32(head, counts::rows) as usize != sources {
        return Err(damaged);
    }
    let count =
        |row: &[u8]| Count { events: get(row, count_row::events), payload_bytes: get(row, count_row::payload_bytes) };
    Ok(rows.chunks_exact(COUNT_ROW_BYTES).map(count).collect())
}

fn decode_row(row: &[u8]) -> IndexRow {
    IndexRow {
        offset: get(row, index_row::offset),
        first_sequence: get(row, index_row::first_sequence),
        time_min_ns: get(row, index_row::time_min_ns),
        time_max_ns: get(row, index_row::time_max_ns),
    }
}

/// The last bytes of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The offset of the footer, in bytes.
    pub footer_offset: u64,
    /// The size of the footer in bytes, without the trailer.
    pub footer_bytes: u32,
    /// The footer's CRC-32C.
    pub footer_crc: u32,
}

impl Trailer {
    pub(crate) fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        put(&mut bytes, trailer::footer_offset, self.footer_offset);
        put(&mut bytes, trailer::footer_bytes, u64::from(self.footer_bytes));
        put(&mut bytes, trailer::footer_crc, u64::from(self.footer_crc));
        let crc = checksum(&bytes[..trailer::trailer_crc.at]);
        put(&mut bytes, trailer::trailer_crc, u64::from(crc));
        put_bytes(&mut bytes, trailer::magic, &TRAILER_MAGIC);
        bytes
    }

    /// Decodes the last bytes of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// [`Broken`] if they are not the trailer of a file of that length.
    pub fn decode(bytes: &[u8], file_bytes: u64) -> Result<Self, Broken> {
        if bytes.len() != TRAILER_BYTES || !has(bytes, trailer::magic, &TRAILER_MAGIC) {
            return Err(Broken::Damaged("the file does not end with a footer"));
        }
        if checksum(&bytes[..trailer::trailer_crc.at]) != get_u32(bytes, trailer::trailer_crc) {
            return Err(Broken::Damaged("the checksum of the trailer is wrong"));
        }
        let trailer = Self {
            footer_offset: get(bytes, trailer::footer_offset),
            footer_bytes: get_u32(bytes, trailer::footer_bytes),
            footer_crc: get_u32(bytes, trailer::footer_crc),
        };
        let end = trailer.footer_offset.checked_add(u64::from(trailer.footer_bytes) + TRAILER_BYTES as u64);
        if end != Some(file_bytes) || trailer.footer_bytes as usize > FOOTER_BYTES_MAX {
            return Err(Broken::Damaged("the trailer belongs to a file of another length"));
        }
        Ok(trailer)
    }
}
